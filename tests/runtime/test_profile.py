"""Where the time goes: ops add up, the heavy one is found, and what cannot be told apart is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

from edgekit import artifact, cli, profiling
from edgekit.converters.cut import cut
from edgekit.converters.tflite_graphs.builder import Builder
from edgekit.errors import ConversionError, EngineError, UsageError
from edgekit.measure import profile_onnx, profiler
from edgekit.measure.profile import CALL, ProfileRequest, Timed, assemble, trace
from edgekit.targets import agent
from edgekit.targets.local import Local

QUICK = {"seconds": 0.5}


@pytest.fixture(scope="module")
def lopsided(tmp_path_factory):
    """Three dense layers, the second by far the largest; as TFLite."""
    net = Builder()
    at = net.input("x", (1, 64))
    rng = np.random.default_rng(0)
    for name, size in (("small", 512), ("large", 1024), ("last", 16)):
        width = {"small": 64, "large": 512, "last": 1024}[name]
        weights = net.constant(f"{name}/w", rng.normal(size=(size, width)).astype(np.float32))
        bias = net.constant(f"{name}/b", np.zeros(size, np.float32))
        at = net.op("FULLY_CONNECTED", [at, weights, bias], (1, size), name, "FullyConnectedOptions")
    path = tmp_path_factory.mktemp("profile") / "lopsided.tflite"
    path.write_bytes(net.finish([at]))
    return path


@pytest.mark.parametrize("kind", ["fp32.tflite", "int8.tflite", "fp32.onnx", "int8.onnx"])
def test_every_op_is_timed(kind, artifacts):
    found = profiling.profile(agent.Opening(str(artifacts[kind]), threads=1), **QUICK)
    assert found.file == str(artifacts[kind])
    assert len(found.ops) >= 3
    assert all(op.ms >= 0 for op in found.ops)
    assert sum(op.share for op in found.ops) == pytest.approx(1 - next(g.share for g in found.types if g.name == CALL))
    assert sum(group.ms for group in found.types) == pytest.approx(found.ops_ms)
    assert sum(group.ms for group in found.delegates) == pytest.approx(found.ops_ms)
    # That they add up to within a tenth is what `valid` says; on a machine that does something else they may not.
    assert 0.5 < found.coverage < 2
    assert found.wall_ms > 0
    assert found.overhead > 0.5


def test_the_heavy_op_is_found(lopsided):
    found = profiling.profile(agent.Opening(str(lopsided), threads=1), **QUICK)
    assert [op.name for op in found.ops] == ["small", "large", "last"]
    heavy = max(found.ops, key=lambda op: op.ms)
    assert heavy.name == "large"
    assert heavy.share > 0.6
    assert heavy.macs == 512 * 1024
    assert heavy.bytes == 4 * (512 + 1024 * 512 + 1024 + 1024)
    assert heavy.intensity == pytest.approx(heavy.macs / heavy.bytes)
    assert {op.delegate for op in found.ops} == {"XNNPACK"}


def test_pieces_give_the_answers_of_the_whole(lopsided, tmp_path):
    """Cut and chained, the ops compute what the model computes."""
    import zipfile

    from edgekit.codec import decode
    from edgekit.measure.profile_tflite import INDEX, Index, _chain
    from edgekit.runtimes.engine_litert import interpreter

    read = artifact.read(lopsided)
    cut(read, tmp_path / "pieces.zip")
    with zipfile.ZipFile(tmp_path / "pieces.zip") as packed:
        index = decode(Index, json.loads(packed.read(INDEX)))
        files = {name: packed.read(name) for name in packed.namelist()}
    x = np.random.default_rng(1).normal(size=(1, 64)).astype(np.float32)
    values = {index.inputs[0]: x}
    _chain(index, files, values, lambda data: interpreter(data, 1))
    whole = interpreter(read.data, 1)
    whole.set_tensor(whole.get_input_details()[0]["index"], x)
    whole.invoke()
    np.testing.assert_allclose(
        values[index.pieces[-1].outputs[0]], whole.get_tensor(whole.get_output_details()[0]["index"]), rtol=1e-5
    )


def test_a_piece_that_does_not_run_is_refused(lopsided, tmp_path):
    from edgekit.measure.profile_tflite import Index, Piece, _chain

    def broken(_):
        raise ValueError("no kernel\nfor this")

    piece = Piece("0", "y", "CUSTOM", (), (), None, 0)
    with pytest.raises(EngineError, match=r"CUSTOM \(y\) does not run by itself: no kernel for this") as caught:
        _chain(Index((), (piece,), ("", "")), {"0": b""}, {}, broken)
    assert caught.value.code == "profile-unsupported"


# -- onnxruntime's profiler -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("length", "inputs"), [(1, 1), (5, 1), (3, 9)])
def test_the_chains_are_models(length, inputs):
    import onnx

    model = onnx.load_from_string(profile_onnx.chain(length, inputs))
    onnx.checker.check_model(model, full_check=True)
    assert len(model.graph.node) == length
    assert {len(node.input) for node in model.graph.node} == {inputs}


def node(name, ts, dur, index="0", kind="Conv", **about):
    given = {"op_name": kind, "node_index": index, "provider": "CPUExecutionProvider", **about}
    return {"cat": "Node", "name": f"{name}_kernel_time", "ts": ts, "dur": dur, "args": given}


def run_mark(ts, dur):
    return {"cat": "Session", "name": "model_run", "ts": ts, "dur": dur, "args": {}}


def test_nodes_inside_loops_count_with_their_loop():
    events = [
        run_mark(0, 100), node("loop", 10, 50, "0", "Loop"), node("inner", 12, 5, "7"), node("inner", 20, 5, "7"),
        node("after", 60, 10, "1"), run_mark(200, 100), node("loop", 210, 40, "0", "Loop"), node("after", 260, 12, "1"),
    ]  # fmt: skip
    first, second = profile_onnx._by_run(events)
    assert [n["name"] for n in first] == ["loop_kernel_time", "after_kernel_time"]
    assert [n["dur"] for n in second] == [40, 12]


def test_what_the_profiler_takes_is_taken_off():
    costs = profile_onnx._Costs(node=2.0, tensor=0.1, step=0.4, call=3.0)
    about = {"input_type_shape": [{}, {}], "output_type_shape": [{}], "activation_size": "100", "output_size": "28"}
    seen = profile_onnx._Seen(30.0, 60.0, 10, [{**node("conv_token_7", 0, 0, **about), "us": 12.3}])
    (op,) = profile_onnx._times(seen, costs, {"conv": 640})
    assert op.ms == pytest.approx((12.3 - 2.0 - 0.3 + 0.4) / 1000)
    assert (op.macs, op.bytes, op.delegate) == (640, 128, "CPU")


def test_a_mean_tells_less_than_a_microsecond():
    runs = [[node("a", 0, dur)] for dur in (1, 2, 1, 2)]
    (found,) = profile_onnx._mean(runs)
    assert found["us"] == pytest.approx(2.0), "1.5, and half for the rounding"


# -- Sums, traces, words ---------------------------------------------------------------------------------------

OPS = [Timed("a", "CONV_2D", "XNNPACK", 0.6, 600, 100), Timed("b", "CUSTOM", "builtin", 0.2)]


def assembled(**changes):
    given = {
        "call_ms": 0.1, "wall_ms": 0.92, "overhead": 1.2, "runs": 9, "file": "m.tflite", "engine": "litert 2",
        "threads": 1, "environment": {},
    }  # fmt: skip
    return assemble(OPS, **{**given, **changes})


def test_sums_and_shares():
    found = assembled()
    assert found.ops_ms == pytest.approx(0.9)
    assert [(group.name, group.count) for group in found.types] == [("CONV_2D", 1), ("CUSTOM", 1), (CALL, 1)]
    assert found.ops[0].share == pytest.approx(2 / 3)
    assert found.ops[0].intensity == 6
    assert found.ops[1].intensity is None
    assert found.valid


@pytest.mark.parametrize("wall", [0.5, 1.1])
def test_what_does_not_add_up_is_invalid(wall):
    found = assembled(wall_ms=wall)
    assert not found.valid
    assert f"{90 / wall:.0f} % of the wall time" in found.notes[0]


def test_a_trace_lays_the_ops_end_to_end():
    events = trace(assembled())["traceEvents"]
    spans = [event for event in events if event["ph"] == "X"]
    assert [(event["ts"], event["dur"]) for event in spans] == [(0.0, 600.0), (600.0, 200.0)]
    assert spans[0]["args"] == {"delegate": "XNNPACK", "macs": 600, "bytes": 100, "name": "a"}
    json.dumps(events)


def test_the_command(lopsided, tmp_path, capsys):
    files = tmp_path / "trace.json", tmp_path / "result.json"
    call = ["profile", str(lopsided), "--seconds", "0.3", "--trace", str(files[0]), "-o", str(files[1])]
    assert cli.run([*call, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown == json.loads(files[1].read_text())
    assert {"file", "engine", "wall_ms", "ops_ms", "coverage", "ops", "types", "delegates", "valid"} <= set(shown)
    assert len(json.loads(files[0].read_text())["traceEvents"]) == 4
    assert cli.run(call) == 0
    out = capsys.readouterr().out
    assert "FULLY_CONNECTED" in out
    assert "the ops add up to" in out


def test_refusals(lopsided, monkeypatch):
    with pytest.raises(UsageError) as caught:
        profiling.profile(agent.Opening(str(lopsided), engine="onnxruntime"))
    assert caught.value.code == "engine-format"
    monkeypatch.setattr(Local, "timed", False)
    with pytest.raises(UsageError) as caught:
        profiling.profile(agent.Opening(str(lopsided)))
    assert caught.value.code == "target-untimed"


def test_without_the_conversion_tools(lopsided, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "edgekit.converters.cut", None)
    with pytest.raises(ConversionError) as caught:
        profiling.profile(agent.Opening(str(lopsided)))
    assert caught.value.code == "profile-tools-missing"


def test_it_runs_in_this_process_too(artifacts):
    steps = profiler.profile(ProfileRequest(str(artifacts["fp32.onnx"]), threads=1, seconds=0.2))
    stages = []
    while True:
        try:
            stages.append(next(steps)["stage"])
        except StopIteration as end:
            assert end.value.runs >= 20
            break
    assert stages == ["load", "measure"]
