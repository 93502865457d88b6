"""A tensor inside the model is described and watched when asked: it shows what no statistic of the input does."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest

import edgekit
from edgekit import cli
from edgekit.errors import UsageError
from edgekit.monitor.inner import SKETCH, Inner
from edgekit.monitor.rows import Rows
from edgekit.monitor.watch import reference_of
from edgekit.reading import Interpret
from edgekit.tensors import QuantParams, TensorSpec

STEPS = 256
ABOUT = ("embedding-shift", "embedding-spread", "embedding-relation", "input-relation", "unfamiliar")


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    """An ONNX file that finds fast rises in a wave, and answers nothing of it."""
    import onnx
    from onnx import helper, numpy_helper

    weights = {
        "w": np.array([[[-1.0, 1.0]], [[-0.5, 1.0]], [[1.0, -1.0]]], np.float32),
        "b": np.array([-0.03, 0.0, -0.03], np.float32),
        "nothing": np.zeros((3, 1), np.float32),
    }
    nodes = [
        helper.make_node("Unsqueeze", ["wave", "one"], ["row"]),
        helper.make_node("Conv", ["row", "w", "b"], ["rises"], name="rise"),
        helper.make_node("Relu", ["rises"], ["fast"]),
        helper.make_node("ReduceMean", ["fast"], ["found"], axes=[2], keepdims=0),
        helper.make_node("MatMul", ["found", "nothing"], ["answer"]),
    ]
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("wave", 1, ["N", STEPS])],
        [helper.make_tensor_value_info("answer", 1, ["N", 1])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()]
        + [numpy_helper.from_array(np.array([1]), "one")],
    )  # fmt: skip
    path = tmp_path_factory.mktemp("inner") / "rises.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


def waves(number, seed):
    """Ramps that rise slowly and fall at once."""
    dice = np.random.default_rng(seed)
    phase = dice.random((number, 1)) + np.arange(STEPS) / dice.uniform(15, 40, (number, 1))
    return ((phase % 1 - 0.5) * dice.uniform(0.8, 1.2, (number, 1)) + dice.normal(size=(number, STEPS)) * 0.02).astype(
        np.float32
    )


@pytest.mark.parametrize("to", ["tflite", "onnx"])
def test_what_only_the_model_notices_is_an_alarm_in_words(detector, to):
    options = {"to": to, "evaluation": waves(400, 1)}
    plain = edgekit.load(edgekit.convert(detector, **options))
    inside = edgekit.load(edgekit.convert(detector, embedding="found", **options))
    backwards = np.ascontiguousarray(waves(320, 2)[:, ::-1])
    blind, monitor = plain.monitor(), inside.monitor()
    for wave in np.concatenate([waves(640, 3), backwards]):
        plain.run(wave[None])
        inside.run(wave[None])
    assert blind.alarms == ()  # played backwards, a sound has the same loudness and the same tones
    assert {alarm.kind for alarm in monitor.alarms} <= set(ABOUT), [alarm.message for alarm in monitor.alarms]
    told = next(alarm for alarm in monitor.alarms if alarm.kind == "embedding-shift")
    assert told.message.startswith("What the model makes of its inputs has moved: embedding found: ")
    assert 600 <= told.since <= told.raised < 800
    plain.close()
    inside.close()


@pytest.mark.parametrize("to", ["tflite", "onnx"])
def test_it_is_one_more_output_that_an_answer_does_not_show(detector, to):
    artifact = edgekit.convert(detector, to=to, evaluation=waves(60, 1), embedding="fast", task="other")
    assert [spec.name for spec in artifact.manifest.outputs] == ["answer", "fast"]
    assert artifact.manifest.interpret.embedding == "fast"
    assert artifact.manifest.provenance.options["embedding"] == "fast"
    with edgekit.load(artifact) as model:
        wave = waves(3, 2)
        made = model.run({"wave": wave})
        assert set(model.predict(wave[0]).to_dict()) == {"answer"}
        model.monitor()
        assert set(model.predict(wave[0]).to_dict()) == {"answer"}
    assert made["fast"].reshape(3, -1).shape[1] == 3 * (STEPS - 1)


@pytest.mark.parametrize("to", ["tflite", "onnx"])
def test_a_real_model_in_int8_answers_as_it_does_without(shared, to):
    raw = gzip.decompress((shared / "data/mnist_t10k/t10k-images-idx3-ubyte.gz").read_bytes())
    x = np.frombuffer(raw, np.uint8, offset=16).reshape(-1, 1, 28, 28)[:900].astype(np.float32)
    options = {
        "to": to, "precision": "int8", "calibration": x[:100], "evaluation": x[100:500], "task": "classification",
        "repairs": "none", "observer": "minmax",
    }  # fmt: skip
    source = shared / "models/mnist_cnn_onnx/mnist.onnx"
    # A convolution: what is shown of it is what its kernel gives, a Relu included.
    called = {"tflite": "ReLU114_Output_0", "onnx": "Convolution110*"}[to]
    plain, inside = edgekit.convert(source, **options), edgekit.convert(source, embedding=called, **options)
    reference = reference_of(inside)
    (name,) = {spec.name for spec in inside.manifest.outputs} - {spec.name for spec in plain.manifest.outputs}
    assert len(inside.reference) < 64 * 1024
    assert [(g.role, len(g.names)) for g in reference.header.groups if g.source == name] == [("embedding", 17)]
    with edgekit.load(plain) as one, edgekit.load(inside) as other:
        answers = other.run(x[:32])
        assert answers[name].min() == 0
        np.testing.assert_array_equal(one.run(x[:32])[one.outputs[0].name], answers[one.outputs[0].name])
        monitor = other.monitor()
        for digit in x[500:]:
            other.predict(digit)
        assert monitor.alarms == ()
        assert (monitor.samples, monitor.passed_over) == (400, 0)
        for digit in x[100:250]:
            other.predict(digit.swapaxes(1, 2))
    assert {"embedding-shift", "embedding-relation"} & {alarm.kind for alarm in monitor.alarms}


def test_a_server_does_not_show_it(detector):
    from edgekit.serve.answering import Desk, Request, begun_at
    from edgekit.serve.settings import Bounds
    from edgekit.serve.wire import Opening

    artifact = edgekit.convert(detector, to="onnx", evaluation=waves(60, 1), embedding="fast", task="other")
    x = waves(1, 2)
    with edgekit.load(artifact, threads=1) as model:
        (name,) = (spec.name for spec in model.inputs)
        desk = Desk(model, Opening("model.onnx", "waves", "1", 1, None, 30.0, Bounds()))
        assert [one["name"] for one in desk.about()["outputs"]] == [model.interpret.output or model.outputs[0].name]
        tensor = {"name": name, "shape": [1, *x.shape[1:]], "datatype": "FP32", "data": x.reshape(-1).tolist()}
        bodies = [{"inputs": [tensor]}, {"inputs": [tensor], "outputs": [{"name": "fast"}]}]
        asked = [
            Request(n, begun_at() + 60, "infer", 0, -1, json.dumps(body).encode()) for n, body in enumerate(bodies)
        ]
        answers = dict(desk.answers(asked))
        assert (answers[0].status, answers[1].status) == (200, 400)
        told = json.loads(answers[0].body)["outputs"]
        assert [one["name"] for one in told] == [one["name"] for one in desk.about()["outputs"]]
        assert "fast" in model.run({name: x}), "whoever calls the engine sees it"


def test_an_unknown_layer_lists_close_names_before_any_work(detector, tmp_path, capsys):
    np.save(tmp_path / "waves.npy", waves(60, 1))
    out = tmp_path / "made.onnx"
    command = ["convert", str(detector), "-o", str(out), "--eval", str(tmp_path / "waves.npy"), "--embedding"]
    assert cli.run([*command, "fond", "--json"]) == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["code"] == "embedding-unknown"
    assert "found" in error["message"]
    assert not out.exists()
    assert cli.run([*command, "answer", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "embedding-unfit"


def test_without_a_reference_there_is_nothing_to_watch_a_layer_by(detector):
    with pytest.raises(UsageError) as caught:
        edgekit.convert(detector, to="onnx", embedding="found", reference=False)
    assert caught.value.code == "option-value"


@pytest.mark.parametrize("shape", [(None, 300), (None, 5, 7, 40), (None, 12, 6)])
def test_a_sketch_is_of_fixed_size_and_of_each_sample_by_itself(shape):
    made = Inner(TensorSpec("e", shape, "float32", "NHWC" if len(shape) == 4 else None))
    x = np.random.default_rng(1).normal(size=(9, *shape[1:])).astype(np.float32)
    whole = made.rows(*made.views(x))
    assert whole.shape == (9, min(shape[-1], SKETCH) + 1)
    parts = np.concatenate([made.rows(*made.views(x[at : at + 2])) for at in range(0, 9, 2)])
    np.testing.assert_array_equal(parts, whole)


def test_a_sketch_keeps_lengths_on_the_average_and_is_the_same_in_either_layout():
    spec = TensorSpec("e", (None, 4, 4, 96), "float32", "NHWC")
    x = np.random.default_rng(1).normal(size=(400, 4, 4, 96)).astype(np.float32)
    rows = Inner(spec).rows(*Inner(spec).views(x))
    first = Inner(TensorSpec("e", (None, 96, 4, 4), "float32", "NCHW"))
    turned = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    np.testing.assert_allclose(first.rows(*first.views(turned)), rows, atol=1e-5)
    # Four channels a sum, each of variance 1/16, over the root of four.
    np.testing.assert_allclose(rows[:, :-1].var(axis=0).mean(), 1 / 16, rtol=0.1)


def test_integers_are_told_as_reals():
    spec = TensorSpec("e", (None, 4), "int8", quant=QuantParams((0.5,), (3,)))
    made = Inner(spec)
    np.testing.assert_array_equal(made.rows(np.array([[[3, 5, 1, 3]]], np.int8))[0, :4], [0, 1, -1, 0])


def test_there_is_room_for_it_beside_the_largest_row():
    specs = TensorSpec("x", (None, 64), "float32"), TensorSpec("y", (None, 2), "float32")
    inner = TensorSpec("inner", (None, 500), "float32")
    rows = Rows(specs[:1], (specs[1], inner), edgekit.manifest.Preprocess(), Interpret(embedding="inner"))
    assert rows.left_out == []
    assert len(rows.inputs) == 64 + SKETCH + 1


def test_a_layer_that_was_fused_away_is_not_mistaken_for_what_was_made_beside_it(detector):
    """The lowering turned the wave for the convolution `rises`, in a tensor that has its name in it."""
    with pytest.raises(UsageError) as caught:
        edgekit.convert(detector, to="tflite", evaluation=waves(60, 1), embedding="rises")
    assert caught.value.code == "embedding-unknown"


@pytest.mark.parametrize("to", ["onnx", "tflite"])
def test_a_layer_goes_by_the_name_that_its_pytorch_module_has(to):
    torch = pytest.importorskip("torch")
    nn = torch.nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Conv1d(1, 6, 9, 4), nn.BatchNorm1d(6), nn.ReLU())
            self.head = nn.Linear(6, 2)

        def forward(self, wave):
            return self.head(self.body(wave).mean(-1))

    torch.manual_seed(0)
    x = waves(60, 1)[:, None]
    for name in ("body", "body.2"):
        made = edgekit.convert(Net().eval(), to=to, evaluation=x, shapes={"wave": (None, 1, STEPS)}, embedding=name)
        assert any(column.role == "embedding" for column in reference_of(made).columns), name
        with edgekit.load(made) as model:
            (inner,) = {*model.run({"wave": x})} - {made.manifest.interpret.output or model.outputs[0].name}
            assert model.run({"wave": x})[inner].min() >= 0, "what leaves the ReLU"
    with pytest.raises(UsageError) as caught:
        edgekit.convert(Net().eval(), to=to, evaluation=x, shapes={"wave": (None, 1, STEPS)}, embedding="boby")
    assert caught.value.code == "embedding-unknown"
