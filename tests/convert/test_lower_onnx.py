"""ONNX to ONNX: every opset from 7 and every operator that changed keeps its answers; nothing private comes in."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_sources import BOOL, FLOAT, INT64, agrees, load, lowered, model_of

from edgekit import errors
from edgekit.converters import lower_onnx_onnx
from edgekit.converters.from_onnx import current

NEWEST = onnx.defs.onnx_opset_version()

WEIGHTS = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)
X = np.random.default_rng(2).normal(size=(5, 4)).astype(np.float32)


# -- Opsets ----------------------------------------------------------------------------------------------------


class Era:
    """One small network, spelled as the operators were in an opset, and its answers by numpy."""

    def __init__(self, opset: int) -> None:
        self.opset = opset
        self.constants: dict[str, np.ndarray] = {}
        self.nodes: list = []

    def add(self, kind: str, takes: list[str], gives: str | list[str], **attributes) -> None:
        outputs = [gives] if isinstance(gives, str) else gives
        self.nodes.append(helper.make_node(kind, takes, outputs, name=outputs[0], **attributes))

    def told(self, name: str, since: int, value, dtype=np.int64) -> tuple[list[str], dict]:
        """A parameter that was an attribute until it became an input: (inputs, attributes)."""
        if self.opset < since:
            return [], {name: value}
        key = f"{name}_{len(self.constants)}"
        self.constants[key] = np.array(value, dtype)
        return [key], {}

    def model(self):
        new = self.opset
        dice = np.random.default_rng(0)
        for name in ("scale", "bias", "mean"):
            self.constants[name] = dice.normal(size=3).astype(np.float32)
        self.constants["var"] = dice.uniform(0.5, 2, size=3).astype(np.float32)
        self.add("BatchNormalization", ["x", "scale", "bias", "mean", "var"], "normed", epsilon=1e-3)
        if new < 12:
            self.add("Dropout", ["normed"], ["kept", "mask"], ratio=0.4)
        else:
            self.constants["ratio"] = np.array(0.4, np.float32)
            self.add("Dropout", ["normed", "ratio"], ["kept", "mask"])
        self.enlarge()
        low, low_attribute = self.told("min", 11, -1.5, np.float32)
        high, high_attribute = self.told("max", 11, 1.25, np.float32)
        self.add("Clip", ["large", *low, *high], "clipped", **low_attribute, **high_attribute)
        pads, attributes = self.told("pads", 11, [0, 0, 1, 2, 0, 0, 0, 1])
        self.add("Pad", ["clipped", *pads], "padded", **attributes)
        self.cut()
        axes, attributes = self.told("axes", 13, [1])
        self.add("Unsqueeze", ["cut", *axes], "deep", **attributes)
        axes, attributes = self.told("axes", 13, [1])
        self.add("Squeeze", ["deep", *axes], "flat", **attributes)
        axes, attributes = self.told("axes", 13, [3])
        self.add("ReduceSum", ["flat", *axes], "summed", keepdims=0, **attributes)
        axes, attributes = self.told("axes", 18, [2])
        self.add("ReduceMean", ["flat", *axes], "mean_of", keepdims=0, **attributes)
        self.add("Concat", ["summed", "mean_of"], "both", axis=2)
        self.add("Softmax", ["both"], "y")
        self.add("ArgMax", ["both"], "best", axis=2, keepdims=0)
        self.add("Cast", ["best"], "index", to=FLOAT)
        return model_of(
            self.nodes,
            {"x": (FLOAT, ["N", 3, 4, 4])},
            {"y": (FLOAT, ["N", 3, 16]), "index": (FLOAT, ["N", 3])},
            self.constants,
            opset=new,
        )

    def enlarge(self) -> None:
        if self.opset < 9:
            return self.add("Upsample", ["kept"], "large", mode="nearest", scales=[1.0, 1.0, 2.0, 2.0])
        self.constants["scales"] = np.array([1, 1, 2, 2], np.float32)
        if self.opset < 10:
            return self.add("Upsample", ["kept", "scales"], "large", mode="nearest")
        if self.opset < 11:
            return self.add("Resize", ["kept", "scales"], "large", mode="nearest")
        modes = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        return self.add("Resize", ["kept", "", "scales"], "large", mode="nearest", **modes)

    def cut(self) -> None:
        if self.opset < 10:
            return self.add("Slice", ["padded"], "cut", axes=[2, 3], starts=[1, -9], ends=[8, 1000])
        for name, values in {"starts": [1, -9], "ends": [8, 1000], "axes_of_cut": [2, 3]}.items():
            self.constants[name] = np.array(values, np.int64)
        return self.add("Slice", ["padded", "starts", "ends", "axes_of_cut"], "cut")

    def by_numpy(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        scale, bias, mean, var = (self.constants[k][None, :, None, None] for k in ("scale", "bias", "mean", "var"))
        kept = (x - mean) / np.sqrt(var + 1e-3) * scale + bias
        clipped = np.clip(kept.repeat(2, 2).repeat(2, 3), -1.5, 1.25)
        cut = np.pad(clipped, [(0, 0), (0, 0), (1, 0), (2, 1)])[:, :, 1:8, -9:]
        both = np.concatenate([cut.sum(3), cut.mean(2)], 2)
        # Before opset 13 all axes from the first on are one; since, the last alone, by default.
        axes = (1, 2) if self.opset < 13 else (2,)
        grown = np.exp(both - both.max(axes, keepdims=True))
        return grown / grown.sum(axes, keepdims=True), both.argmax(2).astype(np.float32)


@pytest.mark.parametrize("opset", range(7, NEWEST + 1))
def test_every_opset_answers_as_numpy_does(opset, tmp_path):
    era = Era(opset)
    model = load(era.model(), tmp_path)
    x = np.random.default_rng(3).normal(size=(3, 3, 4, 4)).astype(np.float32)
    answers = agrees(model, tmp_path, {"x": x})
    for got, wanted in zip((answers["y"], answers["index"]), era.by_numpy(x), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)
    raised = f"opset {opset} was raised to 13"
    assert (raised in model.facts.notes) == (opset < 13)
    assert current.opset(lowered(model, tmp_path)["proto"]) == max(13, opset)


# -- Operators whose meaning changed, one by one ----------------------------------------------------------------


def one(kind, opset, *, shape=(2, 3, 4, 4), takes=("x",), gives=("y",), constants=None, dtypes=(), **attributes):
    nodes = [helper.make_node(kind, list(takes), list(gives), name="n", **attributes)]
    outputs = {name: (dict(dtypes).get(name, FLOAT), None) for name in gives}
    return model_of(nodes, {"x": (FLOAT, shape)}, outputs, constants, opset=opset)


AGED = {
    "upsample linear 7": one("Upsample", 7, mode="linear", scales=[1.0, 1.0, 2.0, 2.0]),
    "upsample linear 9": one(
        "Upsample", 9, takes=("x", "s"), constants={"s": np.float32([1, 1, 2, 3])}, mode="linear"
    ),
    "resize linear 10": one("Resize", 10, takes=("x", "s"), constants={"s": np.float32([1, 1, 2, 0.5])}, mode="linear"),
    "nearest shrinking 10": one("Resize", 10, takes=("x", "s"), constants={"s": np.float32([1, 1, 0.4, 0.6])}),
    "nearest growing 10": one("Resize", 10, takes=("x", "s"), constants={"s": np.float32([1, 1, 1.7, 2.5])}),
    "nearest 9": one("Upsample", 9, takes=("x", "s"), constants={"s": np.float32([1, 1, 1.7, 1])}),
    "resize tf half pixel 11": one(
        "Resize", 11, takes=("x", "", "s"), constants={"s": np.float32([1, 1, 2, 2])},
        coordinate_transformation_mode="tf_half_pixel_for_nn", nearest_mode="floor",
    ),
    "resize sizes 11": one(
        "Resize", 11, takes=("x", "roi", "s", "sizes"), mode="cubic",
        constants={"roi": np.float32([]), "s": np.float32([]), "sizes": np.int64([2, 3, 6, 5])},
    ),
    "softmax of the first axis 11": one("Softmax", 11, axis=0),
    "softmax of a negative axis 12": one("Softmax", 12, axis=-2),
    "log softmax 12": one("LogSoftmax", 12),
    "hardmax 11": one("Hardmax", 11, shape=(2, 3, 4)),
    "split 7": one("Split", 7, gives=("y", "z"), axis=1, split=[1, 2]),
    "equal split 11": one("Split", 11, gives=("y", "z"), axis=2),
    "top k 9": one("TopK", 9, gives=("y", "i"), dtypes={"i": INT64}, k=2, axis=1),
    "clip without a bound 10": one("Clip", 10, max=0.5),
    "constant pad 10": one("Pad", 10, pads=[0, 0, 1, 1, 0, 0, 0, 2], value=0.5),
    "reflect pad 7": one("Pad", 7, mode="reflect", pads=[0, 0, 1, 1, 0, 0, 1, 1]),
    "reduce 12": one("ReduceSum", 12, axes=[-1, 1], keepdims=1),
    "reduce all 11": one("ReduceSum", 11, keepdims=0),
    "squeeze without axes 12": one("Squeeze", 12, shape=(1, 3, 1)),
    "unsqueeze of two axes 11": one("Unsqueeze", 11, axes=[0, -1]),
    "slice without axes 9": one("Slice", 9, starts=[0, 1], ends=[2, -1]),
    "average pool 7": one("AveragePool", 7, kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    "batch norm 8": one(
        "BatchNormalization", 8, takes=("x", "a", "b", "c", "d"),
        constants={name: np.float32([0.5, 1, 2]) for name in "abcd"}, spatial=1,
    ),
    "reshape 7": one("Reshape", 7, takes=("x", "s"), constants={"s": np.int64([0, -1])}),
    "flatten 9": one("Flatten", 9, axis=2),
    "gather 9": one("Gather", 9, takes=("x", "i"), constants={"i": np.int64([1, 0])}, axis=1),
    "gemm 7": one("Gemm", 7, shape=(2, 4), takes=("x", "w", "b"), constants={"w": WEIGHTS, "b": np.float32([1, 2, 3])}),
    "one hot 9": model_of(
        [helper.make_node("OneHot", ["x", "depth", "values"], ["y"])], {"x": (INT64, [2, 3])}, {"y": (FLOAT, None)},
        {"depth": np.int64([4]), "values": np.float32([0, 1])}, opset=9,
    ),
    "cast to double and back 7": model_of(
        [helper.make_node("Cast", ["x"], ["d"], to=TensorProto.DOUBLE), helper.make_node("Cast", ["d"], ["y"], to=1)],
        {"x": (FLOAT, [2, 3])}, {"y": (FLOAT, None)}, opset=7,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", AGED)
def test_aged_operators_keep_their_meaning(name, tmp_path):
    model = load(AGED[name], tmp_path)
    spec = model.facts.inputs[0]
    dice = np.random.default_rng(5)
    x = dice.normal(size=spec.shape).astype(spec.dtype) if spec.dtype == "float32" else dice.integers(0, 4, spec.shape)
    agrees(model, tmp_path, {"x": x})
    assert "was raised to 13" in model.facts.notes[0]


def body(nodes, outputs, inputs=(), constants=()):
    return helper.make_graph(
        nodes,
        "body",
        [helper.make_tensor_value_info(name, *about) for name, about in inputs],
        [helper.make_tensor_value_info(name, *about) for name, about in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants],
    )


def branching(opset):
    """sum(x) > 0: unsqueeze, sum and squeeze by attributes, in a branch; else softmax as it was."""
    then = [
        helper.make_node("Unsqueeze", ["x"], ["deep"], axes=[0]),
        helper.make_node("ReduceSum", ["deep"], ["summed"], axes=[2], keepdims=1),
        helper.make_node("Squeeze", ["summed"], ["flat"], axes=[0]),
        helper.make_node("Mul", ["flat", "x"], ["a"]),
    ]
    other = [helper.make_node("Softmax", ["x"], ["b"], axis=0)]
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["total"], keepdims=0),
        helper.make_node("Cast", ["total"], ["whole"], to=INT64),
        helper.make_node("Cast", ["whole"], ["positive"], to=BOOL),
        helper.make_node(
            "If", ["positive"], ["y"],
            then_branch=body(then, [("a", (FLOAT, [2, 3]))]), else_branch=body(other, [("b", (FLOAT, [2, 3]))]),
        ),
    ]  # fmt: skip
    return model_of(nodes, {"x": (FLOAT, [2, 3])}, {"y": (FLOAT, [2, 3])}, opset=opset)


def looping(opset):
    """Three rounds of y = softmax(clip(y, 0, 1)) over all axes, spelled with attributes inside a loop."""
    nodes = [
        helper.make_node("Clip", ["state"], ["kept"], min=0.0, max=1.0)
        if opset < 11
        else helper.make_node("Clip", ["state", "low", "high"], ["kept"]),
        helper.make_node("Softmax", ["kept"], ["next"], axis=0),
        helper.make_node("Identity", ["go"], ["goes"]),
    ]
    inner = body(
        nodes,
        [("goes", (BOOL, [])), ("next", (FLOAT, [2, 3]))],
        [("round", (INT64, [])), ("go", (BOOL, [])), ("state", (FLOAT, [2, 3]))],
    )
    constants = {"rounds": np.int64(3), "on": np.bool_(True), "low": np.float32(0), "high": np.float32(1)}
    loop = helper.make_node("Loop", ["rounds", "on", "x"], ["y"], body=inner)
    return model_of([loop], {"x": (FLOAT, [2, 3])}, {"y": (FLOAT, [2, 3])}, constants, opset=opset)


def scanning(opset):
    """Running sums; opset 8 had a batch axis and an optional first input of lengths."""
    inner = body(
        [helper.make_node("Add", ["sum_in", "next"], ["sum_out"]), helper.make_node("Identity", ["sum_out"], ["scan"])],
        [("sum_out", (FLOAT, [2])), ("scan", (FLOAT, [2]))],
        [("sum_in", (FLOAT, [2])), ("next", (FLOAT, [2]))],
    )
    if opset == 8:
        shapes, takes, start = ([1, 3, 2], [1, 2]), ["", "start", "x"], np.zeros((1, 2), np.float32)
    else:
        shapes, takes, start = ([3, 2], [2]), ["start", "x"], np.zeros(2, np.float32)
    node = helper.make_node("Scan", takes, ["last", "y"], body=inner, num_scan_inputs=1)
    outputs = {"y": (FLOAT, shapes[0]), "last": (FLOAT, shapes[1])}
    return model_of([node], {"x": (FLOAT, shapes[0])}, outputs, {"start": start}, opset=opset)


BODIES = {"if": branching, "loop": looping}


@pytest.mark.parametrize("kind", BODIES)
@pytest.mark.parametrize("opset", [8, 10, 11, 12])
@pytest.mark.parametrize("sign", [1, 0])
def test_bodies_are_raised_like_their_graph(kind, opset, sign, tmp_path):
    model = load(BODIES[kind](opset), tmp_path)
    agrees(model, tmp_path, {"x": sign * np.float32([[1, 2, 3], [4, 5, 6]])})


@pytest.mark.parametrize("scales", [[1, 1, 1.5, 0.6], [1, 1, 0.6, 3]])
def test_what_cannot_be_raised_stays_in_its_opset(scales, tmp_path):
    model = load(one("Resize", 10, takes=("x", "s"), constants={"s": np.float32(scales)}), tmp_path)
    agrees(model, tmp_path, {"x": np.random.default_rng(0).normal(size=(2, 3, 4, 4)).astype(np.float32)})
    assert "opset 10 stays, since it cannot be raised to 13: a Resize rounds" in model.facts.notes[0]


@pytest.mark.parametrize("opset", [8, 9, 11])
def test_scans_of_any_age(opset, tmp_path):
    model = load(scanning(opset), tmp_path)
    x = np.arange(6, dtype=np.float32).reshape(model.facts.inputs[0].shape)
    answers = agrees(model, tmp_path, {"x": x})
    assert answers["y"].reshape(3, 2).tolist() == [[0, 1], [2, 4], [6, 9]]


# -- What the lowering does beside ------------------------------------------------------------------------------


def network():
    """Conv, BatchNormalization, Identity, a shape that is computed, an unused weight, texts."""
    dice = np.random.default_rng(0)
    constants = {name: dice.uniform(0.5, 1, 2).astype(np.float32) for name in "abcd"}
    constants |= {"w": dice.normal(size=(2, 3, 3, 3)).astype(np.float32), "unused": np.zeros(1000, np.float32)}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["made"], "conv", pads=[1, 1, 1, 1], doc_string="from model.py, line 7"),
        helper.make_node("BatchNormalization", ["made", *"abcd"], ["n"], "norm"),
        helper.make_node("Identity", ["n"], ["i"]),
        helper.make_node("Add", ["one", "two"], ["three"]),
        helper.make_node("Mul", ["i", "three"], ["y"], "gain"),
    ]
    constants |= {"one": np.float32([1]), "two": np.float32([2])}
    return model_of(
        nodes, {"x": (FLOAT, ["N", 3, 4, 4])}, {"y": (FLOAT, ["N", 2, 4, 4])}, constants,
        domains=[("com.microsoft", 1)], doc_string="secret",
    )  # fmt: skip


def test_what_does_no_work_goes_away(tmp_path):
    model = load(network(), tmp_path)
    x = np.random.default_rng(1).normal(size=(2, 3, 4, 4)).astype(np.float32)
    agrees(model, tmp_path, {"x": x})
    proto = lowered(model, tmp_path)["proto"]
    assert [node.op_type for node in proto.graph.node] == ["Conv", "Mul"]
    assert sum(tensor.raw_data.count(b"\0" * 4000) for tensor in proto.graph.initializer) == 0
    assert [entry.domain for entry in proto.opset_import] == [""]
    assert b"secret" not in proto.SerializeToString()
    assert b"model.py" not in proto.SerializeToString()


def test_equal_models_give_equal_bytes(tmp_path):
    made = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        lowered(load(network(), tmp_path / folder), tmp_path / folder)
        made.append((tmp_path / folder / "lowered.onnx").read_bytes())
    assert made[0] == made[1]


def test_the_source_is_left_alone(tmp_path):
    model = load(network(), tmp_path)
    before = (tmp_path / "m.onnx").read_bytes()
    handle = model.handle.SerializeToString()
    x = np.zeros((1, 3, 4, 4), np.float32)
    answers = model.run({"x": x})["y"]
    lowered(model, tmp_path)
    assert (tmp_path / "m.onnx").read_bytes() == before
    assert model.handle.SerializeToString() == handle
    np.testing.assert_array_equal(model.run({"x": x})["y"], answers)


def test_private_operators_are_noticed(tmp_path, monkeypatch):
    """Should a later onnxruntime's basic optimizations fuse into operators of its own."""
    model = load(network(), tmp_path)

    def fused(proto, scratch):
        del scratch
        made = onnx.ModelProto()
        made.CopyFrom(proto)
        made.graph.node[0].domain = "com.microsoft"
        return made

    monkeypatch.setattr(lower_onnx_onnx.onnx_graph, "optimize", fused)
    with pytest.raises(errors.ConversionError, match=r"com\.microsoft\.Conv") as caught:
        lower_onnx_onnx.lower(model, tmp_path / "l.onnx")
    assert caught.value.code == "onnx-left-standard"
