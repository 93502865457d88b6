"""Calibration through the real engines: every float tensor, its true values, bounded memory, typed refusals."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgekit.converters import calibrate as module
from edgekit.converters.calibrate import calibrate
from edgekit.converters.calibration import observers
from edgekit.converters.calibration.taps import TFLiteSession
from edgekit.converters.stages import CalibrationOptions, Graph, Range
from edgekit.converters.steps import Step, peak
from edgekit.converters.tflite_graphs.builder import Builder
from edgekit.errors import ConversionError, DataError, EngineError, SourceError, UsageError
from edgekit.tensors import TensorSpec

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "calibration_memory.py"


def drain(steps):
    events = []
    while True:
        try:
            events.append(next(steps))
        except StopIteration as end:
            return end.value, events


def observe(graph, *batches, **options):
    options.setdefault("observer", "minmax")
    return drain(calibrate(graph, iter(batches), CalibrationOptions(**options)))[0]


def spec(name, shape, dtype="float32", tensor=None):
    return TensorSpec(name, tuple(None if size == -1 else size for size in shape), dtype, tensor=tensor)


WEIGHTS = np.random.default_rng(3).standard_normal((8, 6)).astype(np.float32)
BIAS = np.linspace(-1, 1, 8, dtype=np.float32)
SAMPLES = np.random.default_rng(4).standard_normal((40, 6)).astype(np.float32)


def expected(samples=SAMPLES):
    """Each float tensor of the small network below, by numpy."""
    samples = samples.astype(np.float64)
    hidden = samples @ WEIGHTS.T.astype(np.float64) + BIAS
    positive = np.maximum(hidden, 0)
    bent = np.tanh(positive)
    return {"x": samples, "hidden": hidden, "positive": positive, "bent": bent}


def tflite_net(folder, batch=1, signature=None):
    graph = Builder()
    x = graph.input("x", (batch, 6))
    parts = [x, graph.constant("w", WEIGHTS), graph.constant("b", BIAS)]
    size = 8
    hidden = graph.op("FULLY_CONNECTED", parts, (batch, size), "hidden", "FullyConnectedOptions")
    positive = graph.op("RELU", [hidden], (batch, size), "positive")
    bent = graph.op("TANH", [positive], (batch, size), "bent")
    axis = graph.constant("axis", np.array(1, np.int32))
    best = graph.op("ARG_MAX", [bent, axis], (batch,), "best", "ArgMaxOptions", {"outputType": 2}, dtype="int32")
    path = folder / "net.tflite"
    path.write_bytes(graph.finish([bent, best], signature=signature))
    return Graph("tflite", str(path), (spec("x", (batch, 6)),), (spec("bent", (batch, 8)),))


def test_rows_whose_number_is_free_are_as_many_as_are_fed():
    """One row is what stands in the file for a free number, and twelve is what a shape behind it demands."""
    graph = Builder()
    x = graph.input("x", (1, 3), free=(0,))
    shape = graph.constant("shape", np.array([-1, 12, 3], np.int32))
    turned = graph.op("RESHAPE", [x, shape], (1, 12, 3), "turned", "ReshapeOptions", {"newShape": [-1, 12, 3]})
    data = graph.finish([turned])
    shown = []
    session = TFLiteSession(data, {"x": x}, {"turned": turned}, 1, stateful=False)
    session.run({"x": np.ones((24, 3), np.float32)}, lambda name, values: shown.append((name, values.shape)))
    assert shown == [("turned", (2, 12, 3))]


def onnx_net(folder, batch=1):
    from onnx import TensorProto, helper, numpy_helper, save

    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["hidden"], transB=1),
        helper.make_node("Relu", ["hidden"], ["positive"]),
        helper.make_node("Tanh", ["positive"], ["bent"]),
        helper.make_node("Constant", [], ["unused"], value=numpy_helper.from_array(BIAS)),
        helper.make_node("ArgMax", ["bent"], ["best"], axis=1, keepdims=0),
    ]
    size = "n" if batch == -1 else batch
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [size, 6])],
        [
            helper.make_tensor_value_info("bent", TensorProto.FLOAT, [size, 8]),
            helper.make_tensor_value_info("best", TensorProto.INT64, [size]),
        ],
        [numpy_helper.from_array(WEIGHTS, "w"), numpy_helper.from_array(BIAS, "b")],
    )
    path = folder / "net.onnx"
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return Graph("onnx", str(path), (spec("x", (batch, 6)),), (spec("bent", (batch, 8)),))


NETS = pytest.mark.parametrize("net", [tflite_net, onnx_net], ids=["tflite", "onnx"])


@NETS
@pytest.mark.parametrize("batch", [1, -1, 4])
def test_every_float_tensor_is_observed(tmp_path, net, batch):
    found = observe(net(tmp_path, batch), {"x": SAMPLES[:15]}, {"x": SAMPLES[15:]})
    assert (found.observer, found.samples) == ("minmax", 40)
    truth = expected()
    assert set(found.tensors) == set(truth)
    for name, values in truth.items():
        assert found.tensors[name].min == pytest.approx(values.min(), rel=1e-5, abs=1e-6)
        assert found.tensors[name].max == pytest.approx(values.max(), rel=1e-5, abs=1e-6)


@NETS
def test_percentile_cuts_the_tails_but_never_the_answers(tmp_path, net):
    """`bent` is the output, `positive` what it squashes."""
    found = observe(net(tmp_path), {"x": SAMPLES}, observer="percentile", percentile=90.0)
    for name, values in expected().items():
        if name in {"positive", "bent"}:
            assert found.tensors[name].max == pytest.approx(values.max(), rel=1e-5)
            continue
        ordered = np.sort(values.ravel())
        cut = int(0.05 * ordered.size)
        assert found.tensors[name].min == pytest.approx(ordered[cut], rel=0.01, abs=1e-6)
        assert found.tensors[name].max == pytest.approx(ordered[-1 - cut], rel=0.01, abs=1e-6)


@NETS
@pytest.mark.parametrize("observer", ["minmax", "percentile"])
def test_several_passes_give_what_one_gives(tmp_path, net, observer, monkeypatch):
    graph = net(tmp_path)
    once = observe(graph, {"x": SAMPLES}, observer=observer)
    monkeypatch.setattr(module, "_plan", lambda *_: ([["hidden"], ["positive", "bent"]], 7))
    result, events = drain(calibrate(graph, iter([{"x": SAMPLES}]), CalibrationOptions(observer)))
    assert result == once
    assert [event["samples"] for event in events] == [7, 14, 21, 28, 35, 40]


def test_groups_fit_under_the_bound(tmp_path, monkeypatch):
    sizes = {f"t{number}": 10 << 20 for number in range(40)}

    class Fake:
        def sizes(self, feed):
            return sizes

        def working_set(self, sizes):
            return 20 << 20

    graph = tflite_net(tmp_path)
    monkeypatch.setattr(module, "_resident", lambda: 60 << 20)
    groups, block = module._plan(Fake(), {"x": np.zeros(1 << 18, np.float32)}, CalibrationOptions(), graph)
    room = (256 - 60 - 40) << 20
    assert [name for group in groups for name in group] == list(sizes)
    assert len(groups) > 1
    assert all(sum(sizes[name] for name in group) + (20 << 20) + (block << 20) <= room for group in groups)
    assert module._plan(Fake(), {}, CalibrationOptions(memory_mb=1024), graph)[0] == [list(sizes)]


def test_the_working_set_counts_what_lives_at_once():
    steps = [Step("ADD", read, made) for read, made in (("x", "a"), ("a", "b"), ("ab", "c"), ("c", "d"))]
    assert peak(steps, {"a": 1, "b": 10, "c": 100, "d": 1000}) == 1100


def test_inner_values_match_kernels_without_delegates(tmp_path):
    """The fast kernels may take over any part of a graph; what they leave visible must still be true."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    random = np.random.default_rng(5)
    net = Builder()
    x = net.input("x", (1, 12, 12, 3))
    first = net.conv(x, random.standard_normal((6, 3, 3, 3)).astype(np.float32), np.zeros(6, np.float32), "first")
    second = net.conv(first, random.standard_normal((6, 3, 3, 6)).astype(np.float32), np.ones(6, np.float32), "second")
    total = net.op("ADD", [first, second], (1, 12, 12, 6), "total", "AddOptions")
    path = tmp_path / "conv.tflite"
    path.write_bytes(net.finish([total]))
    samples = random.standard_normal((5, 12, 12, 3)).astype(np.float32)
    graph = Graph("tflite", str(path), (spec("x", (1, 12, 12, 3)),), (spec("total", (1, 12, 12, 6)),))
    found = observe(graph, {"x": samples})
    plain = Interpreter(
        model_path=str(path),
        experimental_preserve_all_tensors=True,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    plain.allocate_tensors()
    truth: dict[str, list[np.ndarray]] = {"first": [], "second": [], "total": []}
    for sample in samples:
        plain.set_tensor(0, sample[None])
        plain.invoke()
        for detail in plain.get_tensor_details():
            if detail["name"] in truth:
                truth[detail["name"]].append(plain.get_tensor(detail["index"]).copy())
    for name, values in truth.items():
        assert found.tensors[name].min == pytest.approx(float(np.min(values)), rel=1e-4, abs=1e-4)
        assert found.tensors[name].max == pytest.approx(float(np.max(values)), rel=1e-4, abs=1e-4)


def branches(folder):
    """Moves and Relus in chains, of an input, of a convolution and of an answer; a normalization that folds."""
    from onnx import TensorProto, helper, numpy_helper, save

    random = np.random.default_rng(8)
    weights = random.normal(size=(4, 2, 3, 3)).astype(np.float32)
    parts = [random.uniform(0.5, 1.5, 4).astype(np.float32) for _ in range(4)]
    constants = {"w": weights, **dict(zip("abcd", parts, strict=True)), "flat": np.array([1, -1], np.int64)}
    nodes = [
        helper.make_node("Transpose", ["x"], ["turned"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["turned", "w"], ["conv"], pads=[1] * 4),
        helper.make_node("BatchNormalization", ["conv", *"abcd"], ["normal"]),
        helper.make_node("Relu", ["normal"], ["positive"]),
        helper.make_node("Reshape", ["positive", "flat"], ["flattened"]),
        helper.make_node("Relu", ["normal"], ["inner"]),
        helper.make_node("Neg", ["inner"], ["negative"]),
        helper.make_node("Relu", ["negative"], ["other"]),
        helper.make_node("Reshape", ["other", "flat"], ["answer"]),
    ]
    graph = helper.make_graph(
        nodes,
        "branches",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 6, 6, 2])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("answer", "flattened")],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    path = folder / "branches.onnx"
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return Graph("onnx", str(path), (spec("x", (1, 6, 6, 2)),), (spec("answer", (1, 144)), spec("flattened", (1, 144))))


@pytest.mark.parametrize("observer", ["minmax", "percentile", "mse", "moving-average"])
def test_tensors_that_others_tell_get_what_watching_them_gives(tmp_path, observer, monkeypatch):
    graph = branches(tmp_path)
    samples = np.random.default_rng(9).normal(size=(20, 6, 6, 2)).astype(np.float32) ** 3
    shown = []
    monkeypatch.setattr("edgekit.converters.calibration.taps.OnnxTap.open", _spied(shown), raising=True)
    told = observe(graph, {"x": samples}, observer=observer, percentile=99.0)
    monkeypatch.setattr(module, "origins", lambda *_, **__: {})
    watched = observe(graph, {"x": samples}, observer=observer, percentile=99.0)
    assert told == watched
    few, many = shown[1], shown[-1]
    assert set(many) - set(few) >= {"turned", "flattened", "answer"}
    assert ("inner" in few) == (observer == "moving-average")


def _spied(shown):
    from edgekit.converters.calibration.taps import OnnxTap

    original = OnnxTap.open

    def opened(self, names, **more):
        shown.append(list(names))
        return original(self, names, **more)

    return opened


def test_public_names_come_from_the_graph(tmp_path):
    graph = replace(onnx_net(tmp_path), inputs=(spec("image", (1, 6), tensor="x"),))
    assert observe(graph, {"image": SAMPLES}).samples == 40


def test_signature_names_lead_to_tensors(tmp_path):
    graph = tflite_net(tmp_path, signature="serve")
    assert set(observe(graph, {"x": SAMPLES}).tensors) == set(expected())


def test_inputs_without_a_batch_axis_and_of_integers(tmp_path):
    graph = Builder()
    x, rows = graph.input("x", (5, 6)), graph.input("rows", (2,), "int32")
    taken = graph.op("GATHER", [x, rows], (2, 6), "taken", "GatherOptions")
    path = tmp_path / "gather.tflite"
    path.write_bytes(graph.finish([taken]))
    made = Graph("tflite", str(path), (spec("x", (5, 6)), spec("rows", (2,), "int32")), (spec("taken", (2, 6)),))
    samples = np.arange(90, dtype=np.float32).reshape(3, 5, 6)
    found = observe(made, {"x": samples, "rows": np.array([[0, 1], [0, 0], [1, 0]], np.int64)})
    assert found.tensors == {"x": Range(0.0, 89.0), "taken": Range(0.0, 71.0)}


@pytest.mark.parametrize("format", ["tflite", "onnx"])
def test_nan_and_infinity_are_errors_that_name_the_tensor(tmp_path, format):
    path = tmp_path / f"log.{format}"
    if format == "tflite":
        graph = Builder()
        x = graph.input("x", (1, 3))
        path.write_bytes(graph.finish([graph.op("LOG", [x], (1, 3), "logarithm")]))
    else:
        from onnx import TensorProto, helper, save

        ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3]) for name in ("x", "logarithm")]
        made = helper.make_graph([helper.make_node("Log", ["x"], ["logarithm"])], "log", ends[:1], ends[1:])
        save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    graph = Graph(format, str(path), (spec("x", (1, 3)),), (spec("logarithm", (1, 3)),))
    good = np.ones((4, 3), np.float32)
    for bad, word in ((0.0, "infinity"), (-1.0, "NaN")):
        samples = good.copy()
        samples[2, 1] = bad
        with pytest.raises(ConversionError, match=f"logarithm holds {word} at sample 3") as caught:
            observe(graph, {"x": samples})
        assert caught.value.code == "activation-not-finite"
    samples = good.copy()
    samples[1, 1] = np.nan
    with pytest.raises(ConversionError, match="tensor x holds NaN at sample 2"):
        observe(graph, {"x": samples})


@NETS
def test_data_that_does_not_fit_is_refused(tmp_path, net):
    graph = net(tmp_path)
    with pytest.raises(DataError, match="lacks the input x") as caught:
        observe(graph, {"y": SAMPLES})
    assert caught.value.code == "calibration-shape"
    with pytest.raises(DataError, match=r"shape \[7\], the graph takes \[1, 6\]") as caught:
        observe(graph, {"x": np.zeros((3, 7), np.float32)})
    assert caught.value.code == "calibration-shape"
    with pytest.raises(DataError) as caught:
        observe(graph)
    assert caught.value.code == "calibration-empty"
    with pytest.raises(UsageError, match="minmax, moving-average, mse, percentile"):
        observe(graph, {"x": SAMPLES}, observer="quantile")


def test_of_a_graph_without_real_numbers_inside_only_the_inputs_are_told(tmp_path):
    from onnx import TensorProto, helper, save

    shape = [1, 6]
    graph = helper.make_graph(
        [helper.make_node("ArgMax", ["x"], ["y"], axis=1)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.INT64, [1, 1])],
    )
    path = tmp_path / "net.onnx"
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    made = Graph("onnx", str(path), (spec("x", (1, 6)),), (spec("y", (1, 1), "int64"),))
    assert list(observe(made, {"x": SAMPLES}).tensors) == ["x"]


def test_graphs_that_no_engine_takes_are_refused(tmp_path):
    path = tmp_path / "broken.tflite"
    graph = Graph("tflite", str(path), (spec("x", (1, 6)),), ())
    path.write_bytes(b"\0\0\0\0nope" + bytes(60))
    with pytest.raises(SourceError) as unreadable:
        observe(graph, {"x": SAMPLES})
    assert unreadable.value.code == "tflite-unreadable"
    net = Builder()
    x = net.input("x", (1, 6))
    path.write_bytes(net.finish([net.op("RESHAPE", [x, net.constant("to", np.array([7], np.int32))], (7,), "y")]))
    with pytest.raises(EngineError) as refused:
        observe(graph, {"x": SAMPLES})
    assert refused.value.code == "calibration-engine"


def test_a_new_observer_is_one_class(tmp_path, monkeypatch):
    monkeypatch.setattr(observers, "_observers", dict(observers._observers))

    @observers.observer("first-value")
    class FirstValue:
        def __init__(self, options):
            self.value = None

        def update(self, values, low, high):
            self.value = float(values[0]) if self.value is None else self.value

        def merge(self, other):
            self.value = other.value if self.value is None else self.value

        def range(self):
            return Range(self.value, self.value)

    found = observe(tflite_net(tmp_path), {"x": SAMPLES}, observer="first-value")
    assert found.observer == "first-value"
    assert found.tensors["x"] == Range(float(SAMPLES[0, 0]), float(SAMPLES[0, 0]))


@pytest.mark.parametrize(("tensors", "what"), [(26, "52 MiB of activations"), (160, "320 MiB, more than the bound")])
def test_memory_stays_under_the_bound(tensors, what):
    """The whole process, Python and engine included, at most 10 % over 256 MiB; see the benchmark for more samples."""
    command = [sys.executable, str(BENCHMARK), "--samples", "6", "--tensors", str(tensors), "--observer", "percentile"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{what}: {done.stdout}{done.stderr}"


def test_recurrent_state_does_not_leak_between_samples(shared):
    path = shared / "models" / "mnist_lstm_tflite" / "lstm_fp32.tflite"
    name = "serving_default_fixed_input:0"
    graph = Graph("tflite", str(path), (spec(name, (1, 28, 28)),), ())
    samples = np.random.default_rng(6).random((6, 28, 28), np.float32)
    assert observe(graph, {name: samples}) == observe(graph, {name: samples[::-1]})
