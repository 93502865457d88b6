"""The spine on small real models through real engines: what comes out, and that nothing comes out when it must not."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

import edgekit
from edgekit import artifact as artifacts
from edgekit import cli, errors
from edgekit.converters.worker import Workshop
from edgekit.data_ref import DataRef
from edgekit.inspect import inspect
from edgekit.options import Options
from edgekit.pipeline import run
from edgekit.targets import agent

FORMATS = ("tflite", "onnx")


@pytest.fixture(scope="module", params=FORMATS)
def case(request, tiny_files, tmp_path_factory):
    """A float classifier, and data whose labels are its own answers: the more decided half, luck rounds the others."""
    source = tiny_files[request.param]
    folder = tmp_path_factory.mktemp(f"case_{request.param}")
    spec = inspect(source).inputs[0]
    shape = tuple(size or 1 for size in spec.shape[1:])
    x = np.random.default_rng(0).normal(size=(320, *shape)).astype(np.float32)
    with edgekit.load(source) as model:
        scores = next(iter(model.run({spec.name: x}).values()))
    ordered = np.sort(scores, axis=1)
    kept = np.sort(np.argsort(ordered[:, -2] - ordered[:, -1], kind="stable")[:160])
    x, y = x[kept], scores[kept].argmax(axis=1)
    np.savez(folder / "calibration.npz", x=x[:64])
    np.savez(folder / "evaluation.npz", x=x[64:], y=y[64:])
    return {"format": request.param, "source": source, "folder": folder, "x": x, "y": y, "name": spec.name}


def options(case, **more) -> Options:
    folder = case["folder"]
    given = {"to": case["format"], "calibration": folder / "calibration.npz", "evaluation": folder / "evaluation.npz"}
    return Options(**{**given, **more})


@pytest.mark.parametrize("precision", ["fp32", "fp16", "dynamic", "int8", "int16x8"])
def test_every_precision_converts_verifies_and_runs(case, precision, tmp_path):
    target = tmp_path / f"model.{case['format']}"
    made = run(case["source"], options(case, precision=precision, output=target, max_drop=5.0, allow_float_ops=True))
    document = made.to_dict()
    assert document["artifact"]["precision"] == precision
    assert document["artifact"]["bytes"] == target.stat().st_size
    assert document["verification"]["samples"] == 96
    assert document["verification"]["metric"]["source"] == 100
    assert [stage["name"] for stage in document["stages"]][:3] == ["identify", "load", "survey"]
    opened = artifacts.read(target)
    assert opened.sha256 == document["artifact"]["sha256"]
    assert opened.manifest is not None
    assert opened.manifest.precision == precision
    assert opened.manifest.interpret.task == "classification"
    assert opened.selftest is not None
    assert len(opened.selftest.vectors) >= 4
    with edgekit.load(target) as model:
        answers = next(iter(model.run({case["name"]: case["x"][64:]}).values()))
    assert (answers.argmax(axis=1) == case["y"][64:]).mean() > 0.9


def test_equal_arguments_give_equal_bytes(case, tmp_path):
    made = [run(case["source"], options(case, precision="int8", max_drop=5.0)).artifact.data for _ in range(2)]
    assert made[0] == made[1]


def test_an_artifact_is_a_source_too(case, tmp_path):
    target = tmp_path / f"a.{case['format']}"
    run(case["source"], options(case, output=target))
    again = run(target, options(case))
    assert again.verification.proof.max_abs_error < 1e-6


def test_a_wrong_model_is_not_written(case, tmp_path):
    """Calibrated on a fifth of the range, everything saturates: no file, and a figure in the message."""
    np.savez(tmp_path / "small.npz", x=case["x"][:64] * 0.15)
    target = tmp_path / f"model.{case['format']}"
    wrong = options(case, precision="int8", calibration=tmp_path / "small.npz", max_drop=0.0, output=target)
    with pytest.raises(errors.VerificationError, match="drop of") as caught:
        run(case["source"], wrong)
    assert caught.value.code == "verify-accuracy"
    assert sorted(os.listdir(tmp_path)) == ["small.npz"]


def test_a_model_that_does_not_fit_is_not_written(case, tmp_path):
    target = tmp_path / f"model.{case['format']}"
    with pytest.raises(errors.LimitError) as caught:
        run(case["source"], options(case, device="raspberry-pi-zero-w", output=target))
    assert caught.value.code == "device-limit"
    assert os.listdir(tmp_path) == []
    made = run(case["source"], options(case, device="raspberry-pi-4b", output=target))
    document = made.to_dict()["device"]
    assert document["fits"] is True
    assert document["name"] == "raspberry-pi-4b"


def test_python_objects_are_sources_and_data(case):
    data = {"calibration": case["x"][:64], "evaluation": (case["x"][64:], case["y"][64:])}
    made = edgekit.convert(case["source"].read_bytes(), to=case["format"], precision="int8", max_drop=5.0, **data)
    assert made.manifest is not None
    with edgekit.load(made) as model:
        assert model.run({case["name"]: case["x"][:3]})


def test_calibration_is_asked_for(case):
    with pytest.raises(errors.DataError) as caught:
        run(case["source"], Options(to=case["format"], precision="int8"))
    assert caught.value.code == "calibration-missing"


def test_data_errors_come_before_any_work(case, tmp_path):
    broken = case["x"][:64].copy()
    broken[5] = np.nan
    np.savez(tmp_path / "nan.npz", x=broken)
    with pytest.raises(errors.DataError, match="sample 5") as caught:
        run(case["source"], options(case, precision="int8", calibration=tmp_path / "nan.npz"))
    assert caught.value.code == "data-lint"


def test_without_data_random_inputs_prove_parity(case):
    proof = run(case["source"], Options(to=case["format"])).verification.proof
    assert proof.data == "random"
    assert proof.relative_error < 1e-4


def test_preparation_of_arrays_is_refused_where_nobody_would_do_it(case):
    told = {"preprocess": {"scale": 0.5}}
    with pytest.raises(errors.UsageError, match="arrays are finished tensors") as caught:
        run(case["source"], Options(to=case["format"], metadata=told))
    assert caught.value.code == "metadata-invalid"


def test_an_artifact_that_is_converted_again_keeps_how_it_is_fed_and_read(case, tmp_path):
    with edgekit.load(case["source"]) as model:
        classes = next(iter(model.run({case["name"]: case["x"][:1]}).values())).size
    labels = tuple(f"kind {place}" for place in range(classes))
    told = {"preprocess": {"kind": "waveform", "scale": 0.5}, "interpret": {"task": "classification", "top_k": 2}}
    first = run(case["source"], Options(to=case["format"], output=tmp_path / "first", metadata=told, labels=labels))
    other = "tflite" if case["format"] == "onnx" else "onnx"
    again = run(tmp_path / "first", Options(to=other)).artifact.manifest
    assert again.preprocess == first.artifact.manifest.preprocess
    assert (again.interpret.labels, again.interpret.top_k) == (labels, 2)
    said = {"interpret": {"task": "embedding"}, "preprocess": {"kind": "array"}}
    anew = run(tmp_path / "first", Options(to=other, metadata=said)).artifact.manifest
    assert (anew.preprocess.scale, anew.interpret.task, anew.interpret.labels) == (1.0, "embedding", ())
    assert run(tmp_path / "first", Options(to=other, task="embedding")).artifact.manifest.interpret.top_k == 2


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_model_with_a_fixed_batch_converts_on_whole_batches(format, precision, tmp_path):
    onnx = pytest.importorskip("onnx")
    make, value, random = onnx.helper.make_node, onnx.helper.make_tensor_value_info, np.random.default_rng(0)
    nodes = [
        make("Conv", ["x", "w"], ["maps"], pads=[1] * 4),
        make("Relu", ["maps"], ["active"]),
        make("GlobalAveragePool", ["active"], ["means"]),
        make("Flatten", ["means"], ["flat"]),
        make("MatMul", ["flat", "p"], ["y"]),
    ]
    stored = [
        onnx.numpy_helper.from_array(random.normal(0, 0.3, shape).astype("f4"), name)
        for name, shape in {"w": (8, 3, 3, 3), "p": (8, 5)}.items()
    ]
    graph = onnx.helper.make_graph(nodes, "net", [value("x", 1, [6, 3, 8, 8])], [value("y", 1, [6, 5])], stored)
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8),
        tmp_path / "n.onnx",
    )
    samples = random.normal(size=(64, 3, 8, 8)).astype("f4")
    done = run(tmp_path / "n.onnx", Options(to=format, precision=precision, calibration=samples, evaluation=samples))
    assert done.verification.proof.samples == 60
    assert sum("the last 4" in warning for warning in done.warnings) == 2  # of each data set
    # Labelled samples are spoilt in any number for the reference, and asked for one by one.
    labelled = {"x": samples, "y": np.arange(64) % 5}
    run(tmp_path / "n.onnx", Options(to=format, output=tmp_path / "net", evaluation=labelled, max_drop=100.0))
    with edgekit.load(tmp_path / "net") as model:
        expected = model.run(samples[:6])["y"].argmax(axis=1)
    np.savez(tmp_path / "data.npz", x=samples)
    opening = agent.Opening(str(tmp_path / "net"))
    answers = agent.run(agent.RunRequest(opening, DataRef(str(tmp_path / "data.npz")), 5, str(tmp_path / "out.npz")))
    assert [one["classes"][0]["index"] for one in answers.answers] == expected[:5].tolist()
    assert len(np.load(tmp_path / "out.npz")["y"]) == 5
    # Without data as well: random samples and edge cases fill the batch.
    if precision == "fp32":
        assert run(tmp_path / "n.onnx", Options(to=format)).verification.passed


def test_impossible_requests_are_refused(case, tmp_path):
    with pytest.raises(errors.UsageError, match="known: dynamic"):
        run(case["source"], options(case, precision="int3"))
    with pytest.raises(errors.UsageError, match="no folder"):
        run(case["source"], Options(output=tmp_path / "nowhere" / f"m.{case['format']}"))
    with pytest.raises(errors.UsageError, match="no observer is called 'guess'"):
        run(case["source"], options(case, precision="int8", observer="guess"))
    with pytest.raises(errors.UsageError, match="convert\\(\\) takes no calib"):
        edgekit.convert(case["source"], to="onnx", calib="x")
    copy = tmp_path / f"m.{case['format']}"
    copy.write_bytes(case["source"].read_bytes())
    with pytest.raises(errors.UsageError, match="overwritten"):
        run(copy, Options(output=copy))


def test_the_commands_on_an_artifact(case, tmp_path, capsys):
    """convert, inspect, verify, run, evaluate, bench, check: one JSON document each, with the contract's fields."""

    def invoke(*args: object) -> dict[str, object]:
        assert cli.run([*map(str, args), "--json"]) == 0
        document = json.loads(capsys.readouterr().out)
        assert isinstance(document, dict)
        return document

    target = tmp_path / f"model.{case['format']}"
    data = case["folder"] / "evaluation.npz"
    made = invoke("convert", case["source"], "-o", target, "--eval", data)
    assert {"artifact", "source", "verification", "stages", "warnings"} <= set(made)
    seen = invoke("inspect", target)
    assert {"inputs", "outputs", "ops", "parameters", "macs", "bytes", "manifest"} <= set(seen)
    assert invoke("verify", target)["passed"] is True
    ran = invoke("run", target, data, "--samples", 2, "-o", tmp_path / "out.npz")
    assert len(ran["answers"]) == 2
    with np.load(tmp_path / "out.npz") as stored:
        assert len(stored[stored.files[0]]) == 2
    assert cli.run(["run", str(target), str(data), "-o", str(tmp_path / "nowhere" / "out.npz"), "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "output-unwritable"
    invoke("run", target, data, "-o", tmp_path / "out.bin")
    assert (tmp_path / "out.bin").stat().st_size
    scored = invoke("evaluate", target, data)
    assert scored["metric"] == {"name": "top1", "value": 100.0}
    assert scored["samples"] == 96
    timed = invoke("bench", target, "--seconds", 0, "--runs", 5)
    assert {"min", "p50", "p90", "p99", "max", "mean"} <= set(timed["latency_ms"])
    assert {"load_ms", "first_ms", "rss_mb", "runs", "threads", "engine", "target", "environment", "valid"} <= set(
        timed
    )
    checked = invoke("check", target, "--device", "raspberry-pi-4b")
    assert {"fits", "limits", "latency_ms", "memory_mb"} <= set(checked)
    assert cli.run(["check", str(target), "--device", "raspberry-pi-zero-w"]) == 6


def test_a_changed_byte_is_noticed_by_every_command(case, tmp_path, capsys):
    target = tmp_path / f"model.{case['format']}"
    run(case["source"], options(case, output=target))
    data = bytearray(target.read_bytes())
    data[len(data) // 3] ^= 1
    target.write_bytes(data)
    for command in (["verify"], ["bench"], ["inspect"], ["check", "--device", "raspberry-pi-4b"]):
        assert cli.run([command[0], str(target), *command[1:], "--json"]) == 3, command
        assert json.loads(capsys.readouterr().out)["error"]["code"] == "artifact-damaged"


def test_calibrating_on_one_class_is_told_without_any_label(case, tmp_path):
    folder = case["folder"]
    x, y = case["x"], case["y"]
    rare = min(set(y.tolist()), key=y.tolist().count)
    sample = x[y.tolist().index(rare)]
    np.savez(tmp_path / "head.npz", x=sample + np.random.default_rng(1).normal(0, 0.01, (32, *sample.shape)))
    np.savez(tmp_path / "all.npz", x=x[128:])
    given = {"precision": "int8", "evaluation": tmp_path / "all.npz", "max_drop": 100.0}
    # Told on the way out, or, where the ranges of one class break the others, as the first thing to mend.
    try:
        said = run(case["source"], Options(to=case["format"], calibration=tmp_path / "head.npz", **given)).warnings
    except errors.VerificationError as failed:
        said = (failed.next_step,)
    assert any(f"class {rare} of 5" in message for message in said)
    many = run(case["source"], Options(to=case["format"], calibration=folder / "calibration.npz", **given))
    assert not any("shuffle before" in warning for warning in many.warnings)


def test_labels_by_name_follow_the_model_s_order_through_evaluate(case, tmp_path, capsys):
    """Names that sort in another order than the classes: indices by the alphabet would be wrong."""
    names = ("zebra", "yak", "wolf", "vole", "ape")
    (tmp_path / "names.txt").write_text("\n".join(names))
    np.savez(tmp_path / "named.npz", x=case["x"][64:], y=np.array([names[i] for i in case["y"][64:]]))
    target = tmp_path / f"model.{case['format']}"
    arguments = [case["source"], "-o", target, "--eval", tmp_path / "named.npz", "--labels", tmp_path / "names.txt"]
    assert cli.run(["convert", *map(str, arguments), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["verification"]["metric"]["source"] == 100
    assert cli.run(["evaluate", str(target), str(tmp_path / "named.npz"), "--json"]) == 0
    evaluated = json.loads(capsys.readouterr().out)
    assert evaluated["metric"] == {"name": "top1", "value": 100.0}
    assert evaluated["warnings"] == []
    # A model without names, and nobody who says their order: it is guessed, and that is told.
    np.savez(tmp_path / "named.npz", x=case["x"], y=np.array([names[i % 5] for i in range(len(case["x"]))]))
    assert cli.run(["evaluate", str(case["source"]), str(tmp_path / "named.npz"), "--json"]) == 0
    (warning,) = json.loads(capsys.readouterr().out)["warnings"]
    assert "ape, vole, wolf, yak, zebra" in warning
    assert "--labels" in warning
    assert cli.run(["convert", *map(str, [*arguments[:-2], "--max-drop", "100"]), "--json"]) == 0
    assert any(warning in one for one in json.loads(capsys.readouterr().out)["warnings"])
    (tmp_path / "names.txt").write_text("\n".join(names[:4]))
    assert cli.run(["convert", *map(str, arguments), "--json"]) == 2
    assert "4 labels for an output of 5 classes" in json.loads(capsys.readouterr().out)["error"]["message"]


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("data", ["labels", "no labels", "no data"])
def test_a_lowering_that_spoils_the_weights_gives_exit_5_and_no_file(
    case, precision, data, tmp_path, monkeypatch, capsys
):
    def sabotaged(self, lowering, form, *rest):
        graph = lower(self, lowering, form, *rest)
        path = Path(graph.path)
        bias = np.random.default_rng(7)
        for size in ((6, 3, 3, 2), (5, 6 * 64), 6):
            bias.normal(size=size)
        good = (bias.normal(size=5).astype(np.float32) / 10).tobytes()
        assert good in path.read_bytes()
        path.write_bytes(path.read_bytes().replace(good, np.array([9, 0, 0, 0, 0], np.float32).tobytes()))
        return graph

    lower = Workshop.lower
    monkeypatch.setattr(Workshop, "lower", sabotaged)
    target = tmp_path / f"model.{case['format']}"
    given = ["--precision", precision]
    if precision == "int8" or data != "no data":
        given += ["--calibration", str(case["folder"] / "calibration.npz")]
    if data == "labels":
        given += ["--eval", str(case["folder"] / "evaluation.npz")]
    assert cli.run(["convert", str(case["source"]), "-o", str(target), *given, "--json"]) == 5
    assert json.loads(capsys.readouterr().out)["error"]["code"].startswith("verify-")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("first", [0.0, 9.0])
def test_samples_that_change_each_other_are_told(first, tmp_path):
    """As of detectors that look at each other, or sounds scaled by the loudest of a batch: axis 0 is no batch."""
    onnx = pytest.importorskip("onnx", reason="comes with the convert extra")
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 18]> g (float[N, 4] x) => (float[N, 4] y) '
        "{ axes = Constant <value_ints = [0]> () top = ReduceMax (x, axes) y = Sub (x, top) }"
    )
    onnx.save(model, tmp_path / "m.onnx")
    x = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    x[0] += first  # the loudest of all is answered as if it were alone
    np.savez(tmp_path / "d.npz", x=x)
    (said,) = (
        warning
        for warning in run(tmp_path / "m.onnx", Options(to="onnx", evaluation=tmp_path / "d.npz")).warnings
        if "alone" in warning
    )
    assert said.startswith("y answers a sample otherwise")
    assert "--input x=1,4" in said
