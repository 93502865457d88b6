"""Predicted latency: kernels are counted right, prices follow the board, intervals and basis are honest."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from edgekit.device_profiles import all_profiles, load_profile
from edgekit.formats.facts import ModelFacts, Operand, OpFacts
from edgekit.formats.graph import GraphFacts, Node, Tensor
from edgekit.predict import predict
from edgekit.predict.likeness import FAMILIAR, MOST, distance, factor
from edgekit.predict.parameters import Spread, parameters
from edgekit.predict.plan import kernels
from edgekit.predict.plan_onnx import fused
from edgekit.predict.prices import GROUPS
from edgekit.predict.work import UNITS, Chip, convolution, total, whole
from edgekit.tensors import TensorSpec


def tensor(*shape: int, dtype: str = "float32", constant: bool = False) -> Operand:
    return Operand(shape, dtype, constant)


def op(kind, inputs, outputs, reads, writes, macs=0, **more):
    return OpFacts(kind, outputs[0], None, tuple(inputs), tuple(outputs), macs, writes[0].dtype, tuple(reads),
                   tuple(writes), **more)  # fmt: skip


def model(*ops: OpFacts, format="tflite", macs=0) -> ModelFacts:
    spec = (TensorSpec("x", (1, 8, 8, 16), "float32"),)
    return ModelFacts(format, spec, spec, ops, 4, 0, 0, 0, macs, 100, "fp32")


def conv(side=8, inner=16, outer=32, window=3, dtype="float32"):
    weights = tensor(outer, window, window, inner, dtype=dtype, constant=True)
    macs = side * side * inner * outer * window**2
    return op("CONV_2D", ["x", "w"], ["y"], [tensor(1, side, side, inner, dtype=dtype), weights],
              [tensor(1, side, side, outer, dtype=dtype)], macs)  # fmt: skip


@pytest.mark.parametrize(
    ("window", "groups", "unit", "count"),
    [
        ((3, 3), 1, "conv", 64 * 9 * 16 * 32),
        ((1, 1), 1, "gemm", 64 * 16 * 32),
        ((3, 3), 16, "depthwise", 64 * 9 * 32),
    ],
)
def test_a_convolution_is_counted_by_what_it_is(window, groups, unit, count):
    made = convolution((1, 8, 8, 16), (1, 8, 8, 32), window, groups, 4, 4)
    units = made.units()
    assert units[unit] == count
    assert units["traffic"] == 4 * (64 * 16 + 64 * 32)
    assert len({"conv", "gemm", "depthwise", "gemv"} & units.keys()) == 1


def test_one_row_is_a_product_with_a_vector_and_idle_lanes_are_paid():
    made = convolution((1, 1, 1, 100), (1, 1, 1, 3), (1, 1), 1, 4, 4)
    assert made.units()["gemv"] == 100 * whole(3) == 800
    assert made.macs == 300


def test_few_rows_and_operands_that_are_packed_at_every_run_are_paid():
    few, many = convolution((1, 3, 3, 64), (1, 3, 3, 64), (1, 1), 1, 4, 4), convolution(
        (1, 6, 6, 64), (1, 6, 6, 64), (1, 1), 1, 4, 4)  # fmt: skip
    assert few.units()["idle"] == 3 * 64 * 64  # nine rows take the tiles of twelve
    assert many.units()["idle"] == 0
    sides = [tensor(1, 8, 16), tensor(1, 16, 32)]
    fixed, free = (
        op("BATCH_MATMUL", ["x", "w"], ["y"], [sides[0], dataclasses.replace(sides[1], constant=constant)],
           [tensor(1, 8, 32)], 8 * 16 * 32)
        for constant in (True, False)
    )  # fmt: skip
    assert "move" not in kernels(model(fixed)).kernels[0].units
    assert kernels(model(free)).kernels[0].units["move"] == 4 * 16 * 32


def test_wide_vectors_fill_tiles_of_convolutions():
    """XNNPACK with AVX-512: three by three, 40 channels took as long as 64, sixteen half as long as 32."""
    for outer, filled in ((16, 16), (24, 32), (40, 64), (64, 64)):
        narrow, wide = (kernels(model(conv(outer=outer)), Chip(wide=w)).kernels[0].units for w in (False, True))
        rows = 66 * 9 * 16  # 64 pixels in tiles of six
        assert wide["idle"] + wide["conv"] == rows * filled
        assert narrow["idle"] + narrow["conv"] == rows * whole(outer, 16)
    point = (kernels(model(conv(outer=40, window=1)), Chip(wide=w)).kernels[0].units["idle"] for w in (False, True))
    assert len({*point}) == 1  # products have tiles of their own


def test_weights_that_a_run_cannot_keep_near_count_as_farther():
    """A kernel's own size tells of what it reads twice; weights come back only in the next run."""
    layers = [convolution((1, 1, 1, 128), (1, 1, 1, 128), (1, 1), 1, 4, 4).kernel("", "", "fp32") for _ in range(8)]
    weights, near = 8 * 4 * 128 * 128, 2.0**18
    share = 1 - near / sum(layer.bytes for layer in layers)
    assert total(layers, 2.0**22, near)["mid"] == pytest.approx(share * weights)
    assert "mid" not in total(layers[:2], 2.0**22, near)  # those stay
    assert "mid" not in total(layers, 2.0**22)  # what is near was not measured


def test_transposed_convolutions_fill_whole_tiles():
    shape, weights = tensor(4, dtype="int32", constant=True), tensor(3, 2, 2, 8, constant=True)
    spread = op("TRANSPOSE_CONV", ["s", "w", "x"], ["y"], [shape, weights, tensor(1, 4, 4, 8)], [tensor(1, 8, 8, 3)], 1)
    units = kernels(model(spread)).kernels[0].units
    assert units["spread"] == 16 * 4 * 8 * 16  # three channels cost as sixteen
    assert units["places"] == 1.5 * 64 * 8


def test_convolutions_of_volumes_run_without_xnnpack():
    x, w, y = tensor(1, 4, 8, 8, 3), tensor(3, 3, 3, 3, 16, constant=True), tensor(1, 4, 8, 8, 16)
    graph = GraphFacts(
        {n: Tensor(str(n), t.shape, t.dtype, 4 * t.elements, t.constant) for n, t in enumerate((x, w, y))},
        (Node("CONV_3D", "y", (0, 1), (2,)),), (0,), (2,),
    )  # fmt: skip
    facts = model(op("CONV_3D", ["x", "w"], ["y"], [x, w], [y], 256 * 81 * 16))
    (found,) = kernels(dataclasses.replace(facts, graphs=(graph,))).kernels
    assert found.pieces == 1
    assert found.units["gemm"] == 2 * 256 * 81 * 16
    assert found.units["strips"] == 1.5 * 256 * 27
    assert "conv" not in found.units


def test_every_unit_has_a_group():
    assert set(GROUPS) == set(UNITS)
    unfitted = {unit for unit in UNITS if f"unit.{unit}" not in parameters().factors}
    # no published figure has them
    assert unfitted <= {"asking", "fed", "recurrent", "state", "step", "turn", "builtin"}


@pytest.mark.parametrize(
    ("after", "unit"), [((1, 4, 4, 16), "stride"), ((1, 4, 8, 16), "move"), ((1, 8, 8, 8), "move")]
)
def test_slices_with_steps_are_picked_one_by_one(after, unit):
    slice_ = op("STRIDED_SLICE", ["x"], ["y"], [tensor(1, 8, 8, 16)], [tensor(*after)])
    (found,) = kernels(model(slice_)).kernels
    assert unit in found.units
    assert not {"stride", "move"} - {unit} & found.units.keys()


def test_kernels_of_a_graph_sum_to_its_macs():
    facts = model(conv(), conv(side=4, window=1), macs=1)
    plan = kernels(facts)
    assert [k.macs for k in plan.kernels] == [o.macs for o in facts.ops]
    assert total(plan.kernels)["kernel"] == 2
    assert plan.unknown == ()


def test_an_op_without_shapes_is_named_and_the_bound_is_said():
    odd = dataclasses.replace(conv(), reads=(Operand(None, "float32"), None), writes=(Operand(None, "float32"),))
    assert kernels(model(odd)).unknown == ("y",)
    found = predict(model(odd), load_profile("raspberry-pi-4b"))
    assert any("lower bound: y" in note for note in found.notes)


def test_free_sizes_make_time_and_memory_lower_bounds():
    from edgekit.memory import predict as memory

    board = load_profile("raspberry-pi-4b")
    free = dataclasses.replace(model(conv(), macs=1), inputs=(TensorSpec("picture", (None, None, None, 3), "float32"),))
    batch = dataclasses.replace(free, inputs=(TensorSpec("picture", (None, 8, 8, 3), "float32"),))
    found = predict(free, board)
    assert found.notes == ("free sizes of the inputs are counted as 1, so that the time is a lower bound: picture",)
    assert found.latency["basis"].startswith("lower bound; fitted from")
    assert predict(batch, board).notes == ()
    known = [dataclasses.replace(facts, arena_bytes=100) for facts in (free, batch)]
    assert [memory(facts, engine="litert", machine="aarch64").lower_bound for facts in known] == [True, False]


def test_an_interval_grows_with_the_distance_from_known_networks():
    known = [{"conv": 0.5, "gemm": 0.5}, {"gemv": 1.0}]
    assert distance({"conv": 0.5, "gemm": 0.4, "map": 0.1}, known) == pytest.approx(0.1)
    assert distance({"norm": 1.0}, known) == 1.0
    assert factor(FAMILIAR, 5.0) == 1.0 < factor(0.3, 5.0) < factor(0.4, 5.0) < factor(1.0, 100.0) == MOST
    assert Spread(0.8, 1.25).grown(2.0) == Spread(pytest.approx(0.64), pytest.approx(1.5625))
    widths = []
    for kind in ("CONV_2D", "LOGISTIC"):  # networks of convolutions have figures, of logistics none
        only = dataclasses.replace(conv(side=64, window=1), kind=kind, reads=(tensor(1, 64, 64, 16), *conv().reads[1:]))
        figures = predict(model(only, macs=1), load_profile("raspberry-pi-4b"), threads=1).latency
        widths.append(figures["high"] / figures["low"])
    assert widths[1] > 1.1 * widths[0]


def test_onnxruntime_fuses_what_follows_a_convolution():
    x, y = tensor(1, 16, 8, 8), tensor(1, 32, 8, 8)
    w = tensor(32, 16, 3, 3, constant=True)
    ops = [
        op("Conv", ["x", "w"], ["a"], [x, w], [y], 1, groups=1),
        op("BatchNormalization", ["a", "s"], ["b"], [y, tensor(32, constant=True)], [y]),
        op("Relu", ["b"], ["c"], [y], [y]),
        op("Sigmoid", ["c"], ["d"], [y], [y]),
    ]
    assert [entry.kind for entry in fused(ops)] == ["Conv+BatchNormalization+Relu", "Sigmoid"]
    shared = [*ops[:1], op("Add", ["a", "a2"], ["z"], [y, y], [y]), *ops[1:]]
    assert next(entry.kind for entry in fused(shared)) == "Conv"  # its result is read twice


def test_quantized_groups_run_on_integers():
    x, q = tensor(1, 16, 8, 8), tensor(1, 16, 8, 8, dtype="int8")
    w = tensor(16, 16, 1, 1, constant=True)
    ops = [
        op("DequantizeLinear", ["s"], ["w"], [dataclasses.replace(w, dtype="int8")], [w]),
        op("QuantizeLinear", ["x"], ["q"], [x], [q]),
        op("DequantizeLinear", ["q"], ["d"], [q], [x]),
        op("Conv", ["d", "w"], ["y"], [x, w], [x], 1, groups=1),
        op("Relu", ["y"], ["r"], [x], [x]),
        op("QuantizeLinear", ["r"], ["z"], [x], [q]),
        op("DequantizeLinear", ["z"], ["out"], [q], [x]),
    ]
    plan = kernels(model(*ops, format="onnx"))
    assert [k.kind for k in plan.kernels] == ["QuantizeLinear", "Conv+Relu", "DequantizeLinear"]
    assert plan.kernels[1].precision == "int8"


@pytest.mark.parametrize("profile", all_profiles(), ids=lambda profile: profile.name)
def test_every_board_has_a_prediction_with_an_interval_and_a_basis(profile):
    found = predict(model(conv(), macs=1), profile, threads=1)
    figures = found.latency
    if figures["estimate"] is None:
        assert "no engine" in figures["basis"]
        return
    assert 0 < figures["low"] < figures["estimate"] < figures["high"]
    assert figures["basis"].startswith(("fitted from", "extrapolated"))
    assert sum(entry.share for entry in found.ops) <= 1


def test_more_work_takes_longer_and_more_cores_less():
    board = load_profile("raspberry-pi-4b")
    big, small = model(conv(side=64)), model(conv(side=32))
    one = predict(big, board, threads=1).latency["estimate"]
    assert predict(small, board, threads=1).latency["estimate"] < one
    assert predict(big, board, threads=4).latency["estimate"] < one
    assert predict(big, load_profile("raspberry-pi-5"), threads=1).latency["estimate"] < one


def test_a_processor_without_figures_is_an_extrapolation_with_a_wider_interval():
    known, unknown = load_profile("raspberry-pi-4b"), load_profile("beaglebone-ai-64")
    first, second = (predict(model(conv(side=64)), board, threads=1) for board in (known, unknown))
    assert (first.basis, second.basis) == ("board", "core")
    assert "extrapolated by analogy" in second.latency["basis"]
    assert "Cortex-A72" in second.latency["basis"]
    width = [found.latency["high"] / found.latency["low"] for found in (first, second)]
    assert width[0] < width[1]


def test_onnxruntime_is_always_an_extrapolation():
    x, w = tensor(1, 16, 8, 8), tensor(16, 16, 1, 1, constant=True)
    facts = model(op("Conv", ["x", "w"], ["y"], [x, w], [x], 1, groups=1), format="onnx", macs=1)
    found = predict(facts, load_profile("raspberry-pi-5"))
    assert found.engine == "onnxruntime"
    assert "no usable published figures of onnxruntime" in found.latency["basis"]
    assert found.threads == 4  # its own choice; LiteRT takes one


def test_kernels_of_real_files_hold_all_their_work(shared: Path):
    from edgekit import artifact
    from edgekit.formats import read_facts

    folder = shared / "models"
    for file in [*folder.glob("*/*.tflite"), *folder.glob("*/*.onnx")]:
        facts = read_facts(artifact.read(file))
        plan = kernels(facts)
        assert plan.unknown == (), file
        assert sum(entry.macs for entry in plan.kernels) == facts.macs, file


@pytest.mark.parametrize("name", ["raspberry-pi-4b", "intel-n100"])
def test_the_time_of_a_run_is_that_of_its_kernels(name):
    """The sum is worked out over merged kernels, the kernels' own times when somebody asks: both say the same."""
    layers = [conv(side, 64, 96 + 8 * n) for n, side in enumerate((4, 8, 56, 112, 8))]
    mixed = [conv(dtype="int8"), *layers, conv(side=300, inner=8, outer=8), *layers]
    for threads in (1, 4):
        found = predict(model(*mixed), load_profile(name), threads=threads)
        assert sum(op.share for op in found.ops) <= 1
        run = found.latency["estimate"] - sum(op.ms for op in found.ops)
        alone = predict(model(), load_profile(name), threads=threads).latency["estimate"]
        assert run == pytest.approx(alone, rel=0.01, abs=1e-3 * found.latency["estimate"])
