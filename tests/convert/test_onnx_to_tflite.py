"""ONNX to TFLite: ONNX' own tests of its operators, random graphs, layouts, batches, and what is refused and how."""

from __future__ import annotations

import collections
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

onnx = pytest.importorskip("onnx", reason="comes with the convert extra")
ort = pytest.importorskip("onnxruntime", reason="comes with the onnx extra")
pytest.importorskip("ai_edge_litert.interpreter", reason="comes with the tflite extra")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import onnx_node_tests  # noqa: E402
from onnx_node_tests import answers_of, lowered  # noqa: E402

import edgekit  # noqa: E402
from edgekit import errors  # noqa: E402
from edgekit.converters import load_onnx, lower_onnx_tflite  # noqa: E402
from edgekit.converters.onnx_to_tflite.draft import kernels  # noqa: E402
from edgekit.converters.stages import Source  # noqa: E402
from edgekit.converters.tflite_graphs import graph as tflite_graph  # noqa: E402

FLOAT = TensorProto.FLOAT

# -- ONNX' own tests --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def verdicts():
    return list(onnx_node_tests.verdicts())


def test_no_node_test_converts_to_a_wrong_answer(verdicts):
    assert [verdict for verdict in verdicts if verdict.result == "wrong"] == []
    assert len(verdicts) > 1800
    assert sum(verdict.result == "passed" for verdict in verdicts) >= 1350


def test_most_tests_of_promised_operators_pass(verdicts):
    some = onnx_node_tests.counts(verdicts)["named operators, element types of TFLite"]
    assert some["tests"] > 1200
    assert some["passed"] >= 0.88 * some["tests"]


def test_what_is_refused_is_refused_with_a_reason(verdicts):
    for verdict in verdicts:
        assert verdict.why or verdict.result == "passed", verdict.name


# -- Random graphs ----------------------------------------------------------------------------------------------

_UNARY = ("Relu", "Sigmoid", "Tanh", "Neg", "Abs", "Exp", "Erf", "HardSwish", "LeakyRelu", "Elu", "Softsign", "Floor")
_BINARY = ("Add", "Sub", "Mul", "Max", "Min")


class Grower:
    """A random graph, node by node, with the shape of each value known."""

    def __init__(self, draw):
        self.draw = draw
        self.nodes, self.constants = [], []
        self.values: list[tuple[str, tuple[int, ...]]] = []

    def constant(self, array) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def weights(self, *shape) -> str:
        seed = self.draw(st.integers(0, 99))
        return self.constant((np.random.default_rng(seed).normal(size=shape) * 0.3).astype(np.float32))

    def add(self, kind, inputs, shape, **attributes):
        name = f"v{len(self.values)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        self.values.append((name, tuple(int(size) for size in shape)))

    def step(self):
        name, shape = self.draw(st.sampled_from(self.values[-4:]))
        choices = [
            self.unary,
            self.binary,
            self.transpose,
            self.reshape,
            self.reduce,
            self.slice,
            self.softmax,
            self.pad,
        ]
        if len(shape) == 4:
            choices += [self.conv, self.pool, self.norm, self.conv, self.upsample]
        if len(shape) >= 2:
            choices += [self.matmul, self.concat, self.gather]
        self.draw(st.sampled_from(choices))(name, shape)

    def unary(self, name, shape):
        self.add(self.draw(st.sampled_from(_UNARY)), [name], shape)

    def binary(self, name, shape):
        same = [other for other, sizes in self.values if sizes == shape]
        thin = tuple(self.draw(st.sampled_from((1, size))) for size in shape)
        other = self.draw(st.sampled_from([*same, None]))
        self.add(self.draw(st.sampled_from(_BINARY)), [name, other or self.weights(*thin)], shape)

    def transpose(self, name, shape):
        order = self.draw(st.permutations(range(len(shape))))
        self.add("Transpose", [name], [shape[axis] for axis in order], perm=order)

    def reshape(self, name, shape):
        cut = self.draw(st.integers(1, max(1, len(shape) - 1)))
        sizes = [int(np.prod(shape[:cut])), int(np.prod(shape[cut:]))]
        if self.draw(st.booleans()) and len(shape) > 2:
            sizes = [shape[0], int(np.prod(shape[1:-1])), shape[-1]]
        self.add("Reshape", [name, self.constant(np.array(sizes, np.int64))], sizes)

    def reduce(self, name, shape):
        axes = sorted(self.draw(st.sets(st.integers(0, len(shape) - 1), min_size=1)))
        kind = self.draw(st.sampled_from(("ReduceMean", "ReduceSum", "ReduceMax", "ReduceL2")))
        if len(axes) == len(shape):
            axes = axes[1:] or axes
        keep = self.draw(st.booleans()) or len(axes) == len(shape)
        sizes = [1 if axis in axes else size for axis, size in enumerate(shape) if keep or axis not in axes]
        self.add(kind, [name, self.constant(np.array(axes, np.int64))], sizes, keepdims=int(keep))

    def slice(self, name, shape):
        axis = self.draw(st.integers(0, len(shape) - 1))
        step = self.draw(st.sampled_from((1, 1, 2, -1)))
        count = len(range(shape[axis])[::step])
        ends = {1: shape[axis], 2: shape[axis], -1: -shape[axis] - 1}[step]
        start = {1: 0, 2: 0, -1: shape[axis] - 1}[step]
        if step == 1 and shape[axis] > 1:
            start, count = 1, shape[axis] - 1
        sizes = [count if a == axis else size for a, size in enumerate(shape)]
        parts = [self.constant(np.array([number], np.int64)) for number in (start, ends, axis, step)]
        self.add("Slice", [name, *parts], sizes)

    def softmax(self, name, shape):
        self.add("Softmax", [name], shape, axis=self.draw(st.integers(-len(shape), len(shape) - 1)))

    def pad(self, name, shape):
        pads = [self.draw(st.integers(0, 2)) for _ in range(2 * len(shape))]
        sizes = [size + pads[a] + pads[a + len(shape)] for a, size in enumerate(shape)]
        if int(np.prod(sizes)) < 5000 and len(shape) <= 5:
            self.add("Pad", [name, self.constant(np.array(pads, np.int64))], sizes)

    def conv(self, name, shape):
        n, c, h, w = shape
        kernel = self.draw(st.integers(1, min(3, h, w)))
        group = self.draw(st.sampled_from((1, c)))
        outputs = group * self.draw(st.integers(1, 3))
        stride, pad = self.draw(st.integers(1, 2)), self.draw(st.integers(0, 1))
        sizes = [(size + 2 * pad - kernel) // stride + 1 for size in (h, w)]
        weights = self.weights(outputs, c // group, kernel, kernel)
        self.add("Conv", [name, weights, self.weights(outputs)], (n, outputs, *sizes), group=group,
                 strides=[stride] * 2, pads=[pad] * 4, kernel_shape=[kernel] * 2)  # fmt: skip

    def pool(self, name, shape):
        n, c, h, w = shape
        kernel = self.draw(st.integers(1, min(3, h, w)))
        kind = self.draw(st.sampled_from(("MaxPool", "AveragePool")))
        pad = self.draw(st.integers(0, kernel // 2))
        sizes = [(size + 2 * pad - kernel) // 2 + 1 for size in (h, w)]
        self.add(kind, [name], (n, c, *sizes), kernel_shape=[kernel] * 2, strides=[2, 2], pads=[pad] * 4)

    def norm(self, name, shape):
        parts = [self.weights(shape[1]) for _ in range(3)]
        spread = self.constant(np.full(shape[1], 0.7, np.float32))
        self.add("BatchNormalization", [name, *parts, spread], shape)

    def upsample(self, name, shape):
        if int(np.prod(shape)) < 1000:
            scales = self.constant(np.array([1, 1, 2, 2], np.float32))
            mode = self.draw(st.sampled_from(("nearest", "linear")))
            self.add("Resize", [name, "", scales], (*shape[:2], shape[2] * 2, shape[3] * 2), mode=mode)

    def matmul(self, name, shape):
        out = self.draw(st.integers(1, 5))
        self.add("MatMul", [name, self.weights(shape[-1], out)], (*shape[:-1], out))

    def concat(self, name, shape):
        axis = self.draw(st.integers(0, len(shape) - 1))
        same = [other for other, sizes in self.values if sizes == shape]
        other = self.draw(st.sampled_from(same))
        sizes = [size * 2 if a == axis else size for a, size in enumerate(shape)]
        if int(np.prod(sizes)) < 5000:
            self.add("Concat", [name, other], sizes, axis=axis)

    def gather(self, name, shape):
        axis = self.draw(st.integers(0, len(shape) - 1))
        picked = self.draw(st.lists(st.integers(-shape[axis], shape[axis] - 1), min_size=1, max_size=4))
        sizes = [len(picked) if a == axis else size for a, size in enumerate(shape)]
        self.add("Gather", [name, self.constant(np.array(picked, np.int64))], sizes, axis=axis)


@st.composite
def graphs(draw):
    grower = Grower(draw)
    shape = draw(st.sampled_from(((1, 3, 8, 8), (2, 4, 6, 5), (2, 5, 6), (3, 8))))
    grower.values.append(("x", shape))
    for _ in range(draw(st.integers(2, 9))):
        grower.step()
    made, sizes = grower.values[-1]
    graph = helper.make_graph(
        grower.nodes or [helper.make_node("Identity", ["x"], ["y"])], "g",
        [helper.make_tensor_value_info("x", FLOAT, shape)], [helper.make_tensor_value_info(made, FLOAT, sizes)],
        grower.constants,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), shape


def compare_random(made):
    """A random graph gives onnxruntime's answer, or is refused."""
    model, shape = made
    if model.graph.output[0].name == "x":
        return
    x = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    want = ort.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]
    draft, data = lowered(model, [shape])
    assert isinstance(data, bytes), data
    got = answers_of(draft, data, [x])[0]
    scale = max(float(np.abs(want[np.isfinite(want)]).max(initial=1e-3)), 1e-3)
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4 * scale)


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(made=graphs())
def test_random_graphs_answer_as_onnxruntime_does(made):
    compare_random(made)


# -- The whole route --------------------------------------------------------------------------------------------


def model_of(nodes, inputs, outputs, constants=(), opset=18):
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in dict(constants).items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def loaded(model, folder: Path):
    path = folder / "m.onnx"
    path.write_bytes(model.SerializeToString())
    return load_onnx.load(Source(str(path), "onnx", "", path.stat().st_size))


def kinds(data) -> collections.Counter[str]:
    model = tflite_graph.read(bytes(data))
    return collections.Counter(tflite_graph.op_name(model, op) for op in tflite_graph.operators(model))


def lenet(batch):
    dice = np.random.default_rng(0)

    def weights(*shape):
        return (dice.normal(size=shape) * 0.2).astype(np.float32)

    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["a", "s", "b", "m", "v"], ["n"]),
        helper.make_node("Relu", ["n"], ["r"]),
        helper.make_node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["p", "w2"], ["c"]),
        helper.make_node("HardSwish", ["c"], ["h"]),
        helper.make_node("Flatten", ["h"], ["f"]),
        helper.make_node("Gemm", ["f", "w3"], ["y"], transB=1),
    ]
    constants = {
        "w1": weights(6, 3, 3, 3), "w2": weights(8, 6, 3, 3), "w3": weights(5, 32), "s": weights(6), "b": weights(6),
        "m": weights(6), "v": np.abs(weights(6)) + 0.5,
    }  # fmt: skip
    return model_of(nodes, {"x": (batch, 3, 8, 8)}, {"y": (batch, 5)}, constants)


def test_a_convolution_net_is_turned_once_and_everything_folds(tmp_path):
    artifact = edgekit.convert(lenet("N"), to="tflite")
    assert kinds(artifact.data) == {
        "TRANSPOSE": 1, "CONV_2D": 2, "MAX_POOL_2D": 1, "HARD_SWISH": 1, "RESHAPE": 1, "FULLY_CONNECTED": 1,
    }  # fmt: skip
    assert artifact.manifest.inputs[0].shape == (None, 3, 8, 8)
    assert artifact.manifest.proof.sqnr_db > 110
    with edgekit.load(artifact) as model:
        for batch in (1, 4):
            assert model.run({"x": np.zeros((batch, 3, 8, 8), np.float32)})["y"].shape == (batch, 5)


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool", "LpPool"])
@pytest.mark.parametrize("size", [6, 7])
def test_with_ceil_mode_no_window_begins_in_the_border_at_the_end(op, size, tmp_path):
    """onnx infers one more, and onnxruntime and PyTorch leave it out."""
    window = {"kernel_shape": [2, 2], "strides": [3, 3], "pads": [0, 1, 1, 0], "ceil_mode": 1}
    nodes = [helper.make_node(op, ["x"], ["p"], **window), helper.make_node("Flatten", ["p"], ["y"])]
    model = model_of(nodes, {"x": ("N", 1, size, size)}, {"y": ("N", "m")}, {}, opset=22)
    artifact = edgekit.convert(model, to="tflite")
    x = np.random.default_rng(0).normal(size=(3, 1, size, size)).astype(np.float32)
    (expected,) = ort.InferenceSession(model.SerializeToString()).run(None, {"x": x})
    with edgekit.load(artifact) as opened:
        np.testing.assert_allclose(opened.run({"x": x})["y"], expected, rtol=1e-5)


def upsampler():
    """An image to an image."""
    weights = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Resize", ["c", "", "s"], ["r"], mode="linear"),
        helper.make_node("Tanh", ["r"], ["y"]),
    ]
    constants = {"w": weights, "s": np.array([1, 1, 2, 2], np.float32)}
    return model_of(nodes, {"x": ("N", 3, 8, 6)}, {"y": ("N", 4, 16, 12)}, constants)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("layout", ["keep", "nhwc", "nchw"])
def test_the_layout_of_images_is_the_users_choice(layout, precision):
    data = {"x": np.random.default_rng(1).normal(size=(30, 3, 8, 6)).astype(np.float32)}
    given = {"calibration": data} if precision == "int8" else {}
    artifact = edgekit.convert(upsampler(), to="tflite", layout=layout, precision=precision, interface="float", **given)
    last = layout == "nhwc"
    assert kinds(artifact.data)["TRANSPOSE"] == (0 if last else 2)
    manifest = artifact.manifest
    assert manifest.inputs[0].shape == ((None, 8, 6, 3) if last else (None, 3, 8, 6))
    assert manifest.outputs[0].shape == ((None, 16, 12, 4) if last else (None, 4, 16, 12))
    assert manifest.inputs[0].layout == ("NHWC" if last else "NCHW")
    assert manifest.provenance.options["layout"] == layout
    source = ort.InferenceSession(upsampler().SerializeToString()).run(None, data)[0]
    with edgekit.load(artifact) as model:
        answer = model.run({"x": data["x"].transpose(0, 2, 3, 1) if last else data["x"]})["y"]
        error = np.abs(answer - (source.transpose(0, 2, 3, 1) if last else source))
        assert error.mean() < (0.02 if given else 1e-6)
        np.testing.assert_array_equal(answer, model.run(data)["y"])  # either layout is understood


def test_other_routes_keep_their_layout(tiny_files):
    with pytest.raises(errors.UsageError) as refused:
        edgekit.convert(tiny_files["onnx"], to="onnx", layout="nhwc")
    assert refused.value.code == "layout-fixed"


def test_the_same_model_gives_the_same_bytes(tmp_path):
    source = loaded(lenet("N"), tmp_path)
    made = [lower_onnx_tflite.lower(source, tmp_path / f"{number}.tflite").path for number in (1, 2)]
    assert Path(made[0]).read_bytes() == Path(made[1]).read_bytes()


def test_every_node_that_cannot_be_lowered_is_named(tmp_path):
    nodes = [
        helper.make_node("Det", ["x"], ["d"], name="first"),
        helper.make_node("Relu", ["d"], ["r"]),
        helper.make_node("Unique", ["x"], ["z"], name="second"),
        helper.make_node("Relu", ["z"], ["zf"]),
    ]
    model = model_of(nodes, {"x": (2, 3, 3)}, {"r": (2,), "zf": (None,)})
    with pytest.raises(errors.ConversionError) as refused:
        lower_onnx_tflite.lower(loaded(model, tmp_path), tmp_path / "m.tflite")
    assert refused.value.code == "op-unsupported-conversion"
    assert refused.value.details["nodes"] == ["first", "second"]
    assert not (tmp_path / "m.tflite").exists()


def test_a_graph_that_hangs_on_the_batch_is_fixed_and_says_so(tmp_path):
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Slice", ["s", "zero", "one"], ["n"]),
        helper.make_node("Cast", ["n"], ["f"], to=FLOAT),
        helper.make_node("Mul", ["x", "f"], ["y"]),
    ]
    constants = {"zero": np.array([0], np.int64), "one": np.array([1], np.int64)}
    graph = lower_onnx_tflite.lower(
        loaded(model_of(nodes, {"x": ("N", 3)}, {"y": ("N", 3)}, constants), tmp_path), tmp_path / "m.tflite"
    )
    assert graph.inputs[0].shape == (1, 3)
    assert "the batch is fixed to 1" in graph.notes[0]


def test_a_free_size_beside_the_batch_must_be_said(tmp_path):
    model = model_of([helper.make_node("Relu", ["x"], ["y"])], {"x": ("N", "L")}, {"y": ("N", "L")})
    with pytest.raises(errors.UsageError, match="more than its batch free") as refused:
        lower_onnx_tflite.lower(loaded(model, tmp_path), tmp_path / "m.tflite")
    assert "--input x=N,64" in str(refused.value.next_step)


def test_transpositions_of_attention_become_one(tmp_path):
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
        helper.make_node("Reshape", ["t", "s1"], ["r"]),
        helper.make_node("Mul", ["r", "half"], ["m"]),
        helper.make_node("Transpose", ["m"], ["u"], perm=[1, 0, 2]),
        helper.make_node("Reshape", ["u", "s2"], ["y"]),
    ]
    constants = {
        "s1": np.array([5, 4, 4], np.int64), "s2": np.array([2, 2, 5, 4], np.int64), "half": np.float32(0.5),
    }  # fmt: skip
    artifact = edgekit.convert(model_of(nodes, {"x": (2, 5, 8)}, {"y": (2, 2, 5, 4)}, constants), to="tflite")
    assert kinds(artifact.data)["TRANSPOSE"] == 1
    x = np.random.default_rng(0).normal(size=(2, 5, 8)).astype(np.float32)
    with edgekit.load(artifact) as model:
        want = x.transpose(1, 0, 2).reshape(5, 4, 4).transpose(1, 0, 2).reshape(2, 2, 5, 4) / 2
        np.testing.assert_array_equal(model.run({"x": x})["y"], want)


def test_a_constant_for_every_sample_needs_no_sizes_at_run_time(tmp_path):
    nodes = [
        helper.make_node("Shape", ["x"], ["n"], start=0, end=1),
        helper.make_node("Concat", ["n", "rest"], ["s"], axis=0),
        helper.make_node("Expand", ["token", "s"], ["e"]),
        helper.make_node("Concat", ["e", "x"], ["y"], axis=1),
    ]
    token = np.array([[[1.5, -2, np.pi, 0]]], np.float32)
    constants = {"rest": np.array([1, 4], np.int64), "token": token}
    artifact = edgekit.convert(model_of(nodes, {"x": ("N", 3, 4)}, {"y": ("N", 4, 4)}, constants), to="tflite")
    assert not {"SHAPE", "BROADCAST_TO"} & set(kinds(artifact.data))
    graph = lower_onnx_tflite.lower(
        loaded(model_of(nodes, {"x": ("N", 3, 4)}, {"y": ("N", 4, 4)}, constants), tmp_path), tmp_path / "m.tflite"
    )
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(model_path=graph.path, num_threads=1).get_signature_runner()
    for batch in (1, 5, 2):
        x = np.random.default_rng(batch).normal(size=(batch, 3, 4)).astype(np.float32) * 100
        np.testing.assert_array_equal(runner(x=x)["y"], np.concatenate([np.repeat(token, batch, 0), x], 1))


def test_gelu_is_found_as_exporters_write_it(tmp_path):
    half, root = np.float32(0.5), np.float32(np.sqrt(2))
    ways = [
        [("Div", ["x", "root"], "a"), ("Erf", ["a"], "e"), ("Add", ["e", "one"], "p"), ("Mul", ["x", "p"], "q"),
         ("Mul", ["q", "half"], "y")],
        [("Div", ["x", "root"], "a"), ("Erf", ["a"], "e"), ("Add", ["e", "one"], "p"), ("Mul", ["x", "half"], "q"),
         ("Mul", ["q", "p"], "y")],
        [("Div", ["x", "root"], "a"), ("Erf", ["a"], "e"), ("Add", ["e", "one"], "p"), ("Mul", ["p", "half"], "q"),
         ("Mul", ["x", "q"], "y")],
    ]  # fmt: skip
    for steps in ways:
        nodes = [helper.make_node(kind, inputs, [output]) for kind, inputs, output in steps]
        constants = {"half": half, "root": root, "one": np.float32(1)}
        artifact = edgekit.convert(model_of(nodes, {"x": ("N", 7)}, {"y": ("N", 7)}, constants), to="tflite")
        assert kinds(artifact.data) == {"GELU": 1}


def test_kernels_are_spelled_as_the_schema_does():
    schema = tflite_graph.schema()
    for kind, kernel in kernels().items():
        assert hasattr(schema.BuiltinOperator, kind)
        assert kernel.options is None or hasattr(schema, f"{kernel.options}T")


@pytest.mark.shared
@pytest.mark.parametrize("name", ["mnist_cnn_onnx/mnist.onnx", "face_ultraface_onnx/version-RFB-320.onnx"])
def test_trained_models_keep_their_answers(name, shared):
    artifact = edgekit.convert(shared / "models" / name, to="tflite")
    assert artifact.manifest.proof.sqnr_db > 110
    assert kinds(artifact.data)["TRANSPOSE"] <= 1


@pytest.mark.shared
def test_a_saved_model_by_way_of_onnx_comes_back_without_a_transposition(shared):
    pytest.importorskip("tf2onnx", reason="comes with the tensorflow extra")
    source = shared / "models" / "kws_dscnn" / "saved_model"
    artifact = edgekit.convert(edgekit.convert(source, to="onnx").data, to="tflite")
    assert artifact.manifest.proof.relative_error < 1e-6
    assert not kinds(artifact.data)["TRANSPOSE"]


@pytest.mark.parametrize("before", ["Relu", "LeakyRelu", None])
def test_maxima_with_a_border_are_right_below_zero_and_in_int8(before):
    random = np.random.default_rng(0)
    weights = {
        "w": random.normal(size=(4, 3, 3, 3)).astype(np.float32),
        "v": random.normal(size=(5, 4, 2, 2)).astype(np.float32),
        "b": np.full(4, -9, np.float32) if before != "Relu" else np.zeros(4, np.float32),
    }
    made = "r" if before else "c"
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"]),
        *([helper.make_node(before, ["c"], ["r"])] if before else []),
        helper.make_node("MaxPool", [made], ["p"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["p", "v"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", FLOAT, ["N", 3, 12, 12])],
        [helper.make_tensor_value_info("y", FLOAT, ["N", 5, 4, 4])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    x = random.normal(size=(60, 3, 12, 12)).astype(np.float32)
    wanted = ort.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]
    for precision, least in (("fp32", 100), ("int8", 25)):
        with edgekit.load(edgekit.convert(model, to="tflite", precision=precision, calibration=x)) as opened:
            error = opened.run({"x": x})["y"] - wanted
        assert 10 * np.log10(((wanted - wanted.mean()) ** 2).sum() / (error**2).sum()) > least
