"""The plan of an ONNX graph is what onnxruntime runs: its kernels beside those of the graph that onnxruntime saves."""

from __future__ import annotations

import dataclasses

import pytest

from edgekit.artifact import Artifact, field
from edgekit.device_profiles import load_profile
from edgekit.formats import read_facts
from edgekit.formats.facts import ModelFacts, Operand, OpFacts
from edgekit.micro import nets, onnx
from edgekit.predict import predict
from edgekit.predict.plan import kernels
from edgekit.predict.work import Chip, total
from edgekit.tensors import TensorSpec

NETS = {net.name: net for net in nets.nets()}
_NODE, _GRAPH = 1, 7


def tensor(*shape: int, dtype: str = "float32", constant: bool = False) -> Operand:
    return Operand(shape, dtype, constant)


def op(kind, inputs, outputs, reads, writes, macs=0, **more):
    return OpFacts(kind, outputs[0], None, tuple(inputs), tuple(outputs), macs, writes[0].dtype, tuple(reads),
                   tuple(writes), **more)  # fmt: skip


def stored(name: str, *shape: int, dtype: str = "int8") -> OpFacts:
    """Weights that are dequantized."""
    parts = tensor(*shape, dtype=dtype, constant=True), tensor(*shape, constant=True)
    return op("DequantizeLinear", [f"{name}.s"], [name], *([part] for part in parts))


def model(*ops: OpFacts, batch: int | None = 1) -> ModelFacts:
    spec = (TensorSpec("x", (batch, 8, 8, 16), "float32"),)
    return ModelFacts("onnx", spec, spec, ops, 4, 0, 0, 0, 1, 100, "fp32")


def kinds(*ops: OpFacts, batch: int | None = 1) -> list[str]:
    return [kernel.kind for kernel in kernels(model(*ops, batch=batch)).kernels]


def saved(data: bytes, path) -> int:
    """How many nodes onnxruntime is left with."""
    ort = pytest.importorskip("onnxruntime")
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    options.optimized_model_filepath = str(path)
    ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    graph = next(value for number, value in _fields(path.read_bytes()) if number == _GRAPH)
    return sum(number == _NODE for number, _ in _fields(graph))


def _fields(data: bytes):
    """The fields of a protobuf message that have a length."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(data):
        key = varint()
        if key & 7 == 2:
            size = varint()
            yield key >> 3, data[at : at + size]
            at += size
        elif key & 7 == 0:
            varint()
        else:
            at += 8 if key & 7 == 1 else 4


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_as_many_kernels_as_onnxruntime_runs(tmp_path, precision):
    pytest.importorskip("onnxruntime")
    off = {}
    for net in (net for net in NETS.values() if onnx.writes(net)):
        data = onnx.model(net, precision)
        real = saved(data, tmp_path / "saved.onnx")
        planned = total(kernels(read_facts(Artifact("onnx", data, len(data), {}))).kernels)["kernel"]
        if abs(planned - real) > max(2, 0.15 * real):
            off[net.name] = planned, real
    assert off == {}


def test_what_follows_from_a_free_size_is_computed_at_every_run():
    x, sizes = tensor(1, 4, 8), tensor(3, dtype="int64", constant=True)
    ops = [
        op("Shape", ["x"], ["s"], [x], [sizes]),
        op("Slice", ["s", "from"], ["n"], [sizes, sizes], [tensor(1, dtype="int64", constant=True)]),
        op("Reshape", ["x", "n"], ["y"], [x, tensor(1, dtype="int64", constant=True)], [tensor(1, 32)]),
    ]
    assert kinds(*ops) == ["Reshape"]
    assert kinds(*ops, batch=None) == ["Shape", "Slice", "Reshape"]


def test_a_bias_of_rows_in_several_axes_is_added_apart_where_a_size_is_free():
    x, y = tensor(1, 4, 8), tensor(1, 4, 16)
    ops = [
        op("MatMul", ["x", "w"], ["m"], [x, tensor(8, 16, constant=True)], [y], 512),
        op("Add", ["m", "b"], ["a"], [y, tensor(16, constant=True)], [y]),
        op("Gelu", ["a"], ["y"], [y], [y]),
    ]
    assert kinds(*ops, batch=None) == ["MatMul", "com.microsoft:BiasGelu"]
    fixed = kernels(model(*ops)).kernels
    assert [kernel.kind for kernel in fixed] == ["MatMul+Add", "Gelu"]
    assert fixed[0].units["kernel"] == 3  # with the two that bring rows into a matrix, and back


def test_sums_of_integer_convolutions_stay_ops():
    x, q = tensor(1, 16, 8, 8), tensor(1, 16, 8, 8, dtype="uint8")
    w = tensor(16, 16, 1, 1, constant=True)
    ops = [
        stored("w", 16, 16, 1, 1),
        op("QuantizeLinear", ["x"], ["q"], [x], [q]),
        op("DequantizeLinear", ["q"], ["d"], [q], [x]),
        op("Conv", ["d", "w"], ["c"], [x, w], [x], 16384, groups=1),
        op("QuantizeLinear", ["c"], ["cq"], [x], [q]),
        op("DequantizeLinear", ["cq"], ["cd"], [q], [x]),
        op("Add", ["cd", "d"], ["s"], [x, x], [x]),
        op("QuantizeLinear", ["s"], ["sq"], [x], [q]),
        op("DequantizeLinear", ["sq"], ["y"], [q], [x]),
    ]
    assert kinds(*ops) == ["QuantizeLinear", "Conv", "Add", "DequantizeLinear"]


def test_signed_activations_that_several_ops_read_stay_in_float_on_x86():
    """onnxruntime 1.32 there: of fourteen such convolutions of a net that was quantized elsewhere, twelve."""
    x, q = tensor(1, 16, 8, 8), tensor(1, 16, 8, 8, dtype="int8")
    w, stored = tensor(16, 16, 1, 1, constant=True), tensor(16, 16, 1, 1, dtype="int8", constant=True)

    def convolution(source: str, target: str) -> list[OpFacts]:
        return [
            op("DequantizeLinear", [f"{target}.s"], [f"{target}.w"], [stored], [w]),
            op("Conv", [source, f"{target}.w"], [f"{target}.c"], [x, w], [x], 16384, groups=1),
            op("QuantizeLinear", [f"{target}.c"], [f"{target}.q"], [x], [q]),
            op("DequantizeLinear", [f"{target}.q"], [target], [q], [x]),
        ]

    head = [op("QuantizeLinear", ["x"], ["q"], [x], [q]), op("DequantizeLinear", ["q"], ["d"], [q], [x])]
    ops = [*head, *convolution("d", "a"), *convolution("a", "b"), *convolution("a", "c")]
    for signed, precisions in ((True, ["int8"] * 3), (False, ["fp32"] * 3)):
        planned = kernels(model(*ops), Chip(signed=signed)).kernels
        assert [entry.precision for entry in planned if entry.kind == "Conv"] == precisions
    chain = kernels(model(*head, *convolution("d", "a"), *convolution("a", "b")), Chip(signed=False)).kernels
    assert [entry.precision for entry in chain if entry.kind == "Conv"] == ["int8", "int8"]


def test_weights_that_a_float_op_reads_dequantized_are_dequantized_at_every_run():
    stored, w = tensor(8, 4, 2, 2, dtype="int8", constant=True), tensor(8, 4, 2, 2, constant=True)
    ops = [
        op("DequantizeLinear", ["s"], ["w"], [stored], [w]),
        op("ConvTranspose", ["x", "w"], ["y"], [tensor(1, 8, 4, 4), w], [tensor(1, 4, 8, 8)], 100, groups=1),
    ]
    assert kinds(*ops) == ["DequantizeLinear", "ConvTranspose"]


def test_integers_of_sixteen_bits_have_no_kernels():
    def found(dtype):
        x, q = tensor(1, 8, 4, 4), tensor(1, 8, 4, 4, dtype=dtype)
        ops = [
            stored("w", 8, 8, 1, 1),
            op("QuantizeLinear", ["x"], ["q"], [x], [q]),
            op("DequantizeLinear", ["q"], ["d"], [q], [x]),
            op("Conv", ["d", "w"], ["c"], [x, tensor(8, 8, 1, 1, constant=True)], [x], 1024, groups=1),
            op("QuantizeLinear", ["c"], ["r"], [x], [q]),
            op("DequantizeLinear", ["r"], ["y"], [q], [x]),
        ]
        return [(kernel.kind, kernel.precision) for kernel in kernels(model(*ops)).kernels if kernel.kind == "Conv"]

    assert found("uint8") == [("Conv", "int8")]
    assert found("uint16") == [("Conv", "fp32")]


def test_products_of_dynamic_integers_take_in_their_scales_and_bias():
    x, q, y = tensor(2, 8), tensor(2, 8, dtype="uint8"), tensor(2, 4)
    one, zero = tensor(), tensor(dtype="uint8")
    sums = tensor(2, 4, dtype="int32")
    ops = [
        op("DynamicQuantizeLinear", ["x"], ["q", "s", "z"], [x], [q, one, zero]),
        op("MatMulInteger", ["q", "w", "z"], ["m"], [q, tensor(8, 4, dtype="int8", constant=True), zero], [sums], 64),
        op("Cast", ["m"], ["f"], [sums], [y]),
        op("Mul", ["s", "ws"], ["t"], [one, tensor(constant=True)], [one]),
        op("Mul", ["f", "t"], ["p"], [y, one], [y]),
        op("Add", ["p", "b"], ["y"], [y, tensor(4, constant=True)], [y]),
    ]
    assert kinds(*ops) == ["DynamicQuantizeLinear", "MatMulInteger+Cast+Mul+Add"]


def conv(inner, outer, name, source, groups=1, side=8):
    return op("Conv", [source, f"w{name}"], [name],
              [tensor(1, inner, side, side), tensor(outer, inner // groups, 3, 3, constant=True)],
              [tensor(1, outer, side, side)], side * side * outer * inner // groups * 9, groups=groups)  # fmt: skip


def test_channels_are_brought_into_blocks_and_back_once():
    plan = kernels(model(conv(3, 24, "a", "x"), conv(24, 24, "b", "a", groups=24), conv(24, 20, "y", "b"))).kernels
    assert [kernel.units.get("block", 0) for kernel in plan] == [0, 0, 20 * 64]
    assert plan[2].units["idle"] == 64 * 9 * (32 * 32 - 24 * 24)  # whole blocks of both, beyond whole vectors
    odd = kernels(model(conv(18, 16, "y", "x"))).kernels  # eighteen channels enter no blocks
    assert "block" not in odd[0].units


def test_narrow_integer_convolutions_write_their_windows_out():
    def units(inner, outer):
        made = conv(inner, outer, "c", "d")
        x, q = made.reads[0], dataclasses.replace(made.reads[0], dtype="uint8")
        y, r = made.writes[0], dataclasses.replace(made.writes[0], dtype="uint8")
        ops = [
            stored(made.inputs[1], *made.reads[1].shape),
            op("QuantizeLinear", ["x"], ["q"], [x], [q]),
            op("DequantizeLinear", ["q"], ["d"], [q], [x]),
            made,
            op("QuantizeLinear", ["c"], ["r"], [y], [r]),
            op("DequantizeLinear", ["r"], ["y"], [r], [y]),
        ]
        return kernels(model(*ops)).kernels[1].units

    whole, narrow = units(16, 32), units(12, 20)
    assert {"conv", "taps"} <= whole.keys()
    assert not {"apart", "strips"} & whole.keys()
    assert narrow["strips"] == 64 * 9
    assert narrow["apart"] == 64 * 20
    assert "conv" not in narrow


def test_convolutions_whose_bias_is_no_integer_stay_in_float():
    """onnxruntime 1.32: all of a group's floats come from DequantizeLinear, or nothing is done with it."""
    x, q = tensor(1, 16, 8, 8), tensor(1, 16, 8, 8, dtype="uint8")
    w, b = tensor(16, 16, 3, 3, constant=True), tensor(16, constant=True)

    def found(*before: OpFacts) -> list[str]:
        plan = kernels(model(
            stored("w", 16, 16, 3, 3), *before, op("QuantizeLinear", ["x"], ["q"], [x], [q]),
            op("DequantizeLinear", ["q"], ["d"], [q], [x]),
            op("Conv", ["d", "w", "b"], ["c"], [x, w, b], [x], 147456, groups=1),
            op("QuantizeLinear", ["c"], ["r"], [x], [q]), op("DequantizeLinear", ["r"], ["y"], [q], [x]),
        ))  # fmt: skip
        return [kernel.precision for kernel in plan.kernels if kernel.kind == "Conv"]

    assert found() == ["fp32"]
    assert found(stored("b", 16, dtype="int32")) == ["int8"]
    assert found(stored("one", 16, dtype="int32"), op("Identity", ["one"], ["b"], [b], [b])) == ["int8"]


def test_convolutions_along_one_axis_or_three_write_their_windows_out():
    x, w = tensor(1, 16, 32), tensor(24, 16, 5, constant=True)
    flat = kernels(model(op("Conv", ["x", "w"], ["y"], [x, w], [tensor(1, 24, 32)], 24 * 80 * 32, groups=1)))
    assert flat.kernels[0].units["rows"] == 80 * 32
    assert flat.kernels[0].units["move"] == 2 * 4 * 80 * 32  # written, and packed
    assert not {"conv", "taps", "block"} & flat.kernels[0].units.keys()
    v, u = tensor(1, 16, 4, 8, 8), tensor(16, 16, 3, 3, 3, constant=True)
    deep = kernels(model(op("Conv", ["v", "u"], ["y"], [v, u], [v], 16 * 432 * 256, groups=1))).kernels[0].units
    assert deep["move"] == 2 * 2 * 4 * 432 * 256
    wise = tensor(16, 1, 5, constant=True)
    apart = kernels(model(op("Conv", ["x", "w"], ["y"], [x, wise], [x], 16 * 5 * 32, groups=16))).kernels[0].units
    assert "depthwise" not in apart
    assert apart["batch"] == pytest.approx(0.4 * 16)


@pytest.mark.parametrize(("version", "constant"), [(3, True), (8, False)])
def test_old_files_list_their_weights_as_inputs_and_mean_constants(version, constant):
    data = onnx.model(NETS["point-tiny"], "fp32")
    graph = next(value for number, value in _fields(data) if number == _GRAPH)
    weight = next(value for number, value in _fields(graph) if number == 5)
    name = next(value for number, value in _fields(weight) if number == 8)
    listed = graph + field(11, field(1, name) + field(2, field(1, field(1, 1))))
    made = field(1, version) + field(7, listed) + field(8, field(1, b"") + field(2, 13))
    facts = read_facts(Artifact("onnx", made, len(made), {}))
    operand = next(entry for op in facts.ops for known, entry in zip(op.inputs, op.reads, strict=True)
                   if known.encode() == name)  # fmt: skip
    assert operand is not None
    assert operand.constant is constant


@pytest.mark.parametrize("format", ["tflite", "onnx"])
def test_tiny_networks_multiply_and_add_different_tensors(format):
    from edgekit.micro import tflite

    writer = {"tflite": tflite, "onnx": onnx}[format]
    data = writer.model(NETS["scaling"], "int8")
    products = [op for op in read_facts(Artifact(format, data, len(data), {})).ops if op.kind.upper() == "MUL"]
    assert [len({*op.inputs}) for op in products] == [1, 2, 2, 2]


def test_the_time_of_a_forest_grows_with_its_trees():
    def facts(visits: int) -> ModelFacts:
        x, y = tensor(1, 20), tensor(1, 3)
        return model(op("ai.onnx.ml:TreeEnsembleRegressor", ["x"], ["y"], [x], [y], visits=visits))

    board = load_profile("raspberry-pi-4b")
    small, large = (predict(facts(visits), board).latency["estimate"] for visits in (90, 2600))
    assert large - small > 0.02  # 2,510 nodes, no faster than 8 ns each on a Cortex-A72
    assert kernels(facts(90)).kernels[0].units["stride"] == 4 * 90
