"""Memory from the file alone: both arenas against the engines' own, estimates against real processes."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from memory_engines import engine, script

from edgekit import artifact
from edgekit.device_profiles import all_profiles
from edgekit.device_profiles.software import MACHINES
from edgekit.formats import arena, read_facts, ties
from edgekit.formats.graph import GraphFacts, Node, Tensor
from edgekit.memory import delegate, footprint, onnx, predict, tflite, xnnpack
from edgekit.memory.timeline import timeline

ROOT = Path(__file__).resolve().parents[2]
MIB = 2**20
TFLITE = [
    "ic_resnet8/resnet8_fp32", "ic_resnet8/resnet8_int8", "kws_dscnn/kws_fp32", "kws_dscnn/kws_int8",
    "vww_mobilenet/vww_96_int8", "mnist_conv_tflite/conv_fc_mnist", "mnist_lstm_tflite/lstm_fp32",
    "mnist_lstm_tflite/lstm_int8", "imagenet_mobilenet_tflite/mobilenet_v1_0.25_128_quant",
]  # fmt: skip


# -- TFLite's arena


@pytest.mark.parametrize(("plain", "threads"), [(False, 1), (True, 1), (True, 2)], ids=["xnnpack", "plain", "plain2"])
@pytest.mark.parametrize("name", TFLITE)
def test_the_arena_is_the_interpreter_s_to_the_byte(shared: Path, name: str, plain: bool, threads: int):
    engine("ai-edge-litert")
    found = script("memory").arena(shared / "models" / f"{name}.tflite", threads, plain=plain)
    assert found["exact"]
    assert found["planned"] == found["interpreter"]
    assert found["misplaced"] == 0
    assert found["parts"][0] == found["parts"][1]


@pytest.mark.parametrize("seed", range(12))
def test_parts_with_several_results_of_one_size(make_tflite, tmp_path, seed: int):
    """XNNPACK's first part gives out tensors of one size, whose order only the C++ library knows."""
    engine("ai-edge-litert")
    rng = random.Random(seed)
    tensors = [{"name": "x", "shape": (1, 4, 4, 8), "dtype": "FLOAT32"}]
    ops, alive = [], [0]
    for step in range(rng.randrange(12, 40)):
        tensors.append({"name": f"t{step}", "shape": (1, 4, 4, 8), "dtype": "FLOAT32"})
        kind = rng.choice(["RELU", "LOGISTIC", "FLOOR", "SIGN", "SIGN"])  # SIGN is not XNNPACK's
        ops.append((kind, (rng.choice(alive[-6:]),), (len(tensors) - 1,), None))
        alive.append(len(tensors) - 1)
    path = tmp_path / "many.tflite"
    path.write_bytes(make_tflite(tensors, ops, (0,), (alive[-1],)))
    found = script("memory").arena(path, 1, plain=False)
    assert (found["planned"], found["misplaced"]) == (found["interpreter"], 0)
    assert found["parts"][0] == found["parts"][1]


def test_the_order_of_an_unordered_set():
    assert ties.set_order([0, 72, 78, 80]) == [80, 72, 78, 0]  # as libstdc++ lists it
    assert ties.set_order([5, 5, 5]) == [5]
    assert sorted(ties.set_order(range(500))) == list(range(500))
    assert ties.set_order(range(5000)) == list(range(5000))


@pytest.mark.parametrize("seed", range(20))
def test_introsort_sorts(seed: int):
    rng = random.Random(seed)
    items = [(rng.randrange(8), n) for n in range(rng.randrange(200))]
    mine = list(items)
    ties.introsort(mine, lambda one, two: one[0] < two[0])
    assert sorted(mine) == sorted(items)
    assert [key for key, _ in mine] == sorted(key for key, _ in items)
    whole = list(items)
    ties.introsort(whole, lambda one, two: one < two)
    assert whole == sorted(items)
    few = items[:16]
    ties.introsort(few, lambda one, two: one[0] < two[0])
    assert few == sorted(items[:16], key=lambda item: item[0])  # up to 16 it is stable


# -- onnxruntime's arena

ARENA = """
import sys
import numpy as np
import onnxruntime
onnxruntime.set_default_logger_severity(1)
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
print("BEGIN", file=sys.stderr, flush=True)
for _ in range(3):
    session.run(None, {i.name: np.zeros(i.shape, np.float32) for i in session.get_inputs()})
"""


@pytest.mark.parametrize("channels", [(16, 32), (32, 16), (64, 16)])
def test_the_arena_is_onnxruntime_s(tmp_path: Path, channels: tuple[int, int]):
    engine("onnxruntime")
    from onnx import TensorProto, helper, numpy_helper

    nodes, weights, before = [], [], 8
    for number, count in enumerate((*channels, 8)):
        weights.append(numpy_helper.from_array(np.zeros((count, before, 3, 3), np.float32), f"w{number}"))
        nodes.append(helper.make_node("Conv", [f"t{number}", f"w{number}"], [f"c{number}"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{number}"], [f"t{number + 1}"]))
        before = count
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 8, 96, 96]) for name in ("t0", "t3")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    path = tmp_path / "chain.onnx"
    path.write_bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    )
    done = subprocess.run([sys.executable, "-c", ARENA, path], capture_output=True, text=True, check=True)
    theirs = sum(map(int, re.findall(r"Extended allocation by (\d+) bytes", done.stderr.split("BEGIN")[1])))
    found = onnx.running(read_facts(artifact.read(path)).graphs[0], footprint.machine("x86_64"))
    assert found is not None
    assert found.touched <= found.reserved
    assert found.reserved == theirs


def test_the_arena_grows_by_powers_of_two_and_reuses_what_is_free():
    mine = onnx.Arena()
    first = mine.take(3 * MIB)
    assert mine.reserved == 4 * MIB
    assert mine.regions == [[[0, 4 * MIB, 1]]]  # less than half would be left: it is not cut
    second, third = mine.take(MIB), mine.take(2 * MIB)
    assert (second, third, mine.reserved) == ((1, 0), (1, MIB), 8 * MIB)  # as large as the last
    mine.give(second)
    mine.give(third)
    assert mine.regions[1] == [[0, 4 * MIB, 0]]
    mine.give(first)
    assert mine.take(4 * MIB) == (0, 0)
    mine.take(5 * MIB)
    assert mine.reserved == 16 * MIB
    assert mine.touched == [4 * MIB, 3 * MIB, 5 * MIB]


# -- processes


@pytest.fixture(scope="module")
def modules(tmp_path_factory):
    """The engines, on the disk and not in memory."""
    return script("memory").libraries(tmp_path_factory.mktemp("modules"))


@pytest.mark.parametrize(
    "file",
    ["ic_resnet8/resnet8_int8.tflite", "imagenet_mobilenet_tflite/mobilenet_v1_0.5_160_quant.tflite",
     "face_ultraface_onnx/version-RFB-320.onnx", "mnist_cnn_onnx/mnist.onnx"],
)  # fmt: skip
def test_the_estimate_is_near_a_real_process(shared: Path, modules: Path, file: str):
    engine("ai-edge-litert", "onnxruntime")
    if not Path("/proc/self/status").exists():
        pytest.skip("needs /proc")
    import platform

    if platform.machine() not in ("x86_64", "aarch64"):
        pytest.skip("no figures of this machine")
    path = shared / "models" / file
    name = "litert" if path.suffix == ".tflite" else "onnxruntime"
    said = predict(read_facts(artifact.read(path)), engine=name, machine=platform.machine(), threads=1)
    opened, ran = script("memory").measured(path, 1, modules)
    assert said.peak_mib == pytest.approx(ran, rel=0.1, abs=2)
    assert said.load_mib == pytest.approx(opened, rel=0.1, abs=2)


@pytest.mark.parametrize(("precision", "published"), [("fp32", (66.1133, 66.957)), ("int8", (35.75, 36.5156))])
def test_a_published_detector(tmp_path: Path, precision: str, published: tuple[float, float]):
    """github:NobuoTsukamoto/benchmarks@422e0a0: EfficientDet-Lite0 on Raspberry Pi 4B and N100, MiB of the process."""
    pytest.importorskip("ai_edge_litert")
    path = tmp_path / "detector.tflite"
    path.write_bytes(script("memory_published").detector("efficientdet_lite0", integer=precision == "int8"))
    facts = read_facts(artifact.read(path))
    for machine, peak in zip(("aarch64", "x86_64"), published, strict=True):
        said = predict(facts, engine="litert", machine=machine, threads=1, python=False)
        assert peak <= said.peak_mib <= 1.05 * peak


# -- what is known without an engine


def graph(*nodes: Node, **tensors: Tensor) -> GraphFacts:
    return GraphFacts(tensors, nodes, ("x",), ("y",))


def real(name: str, *shape: int, constant: bool = False, dtype: str = "float32") -> Tensor:
    return Tensor(name, shape, dtype, int(np.prod(shape)) * (4 if dtype == "float32" else 1), constant)


def test_every_board_has_figures_for_the_engines_that_it_can_have():
    for profile in all_profiles():
        for name, found in profile.engines.items():
            if found.version:
                assert footprint.process(name, footprint.machine(profile.os.machine))["import"] > 20
    for name in MACHINES:
        assert footprint.machine(name).pointer == MACHINES[name] // 8


def test_a_pointer_is_half_as_wide_on_32_bits():
    conv = Node("CONV_2D", "c", ("x", "w"), ("y",), {"stride_w": 1, "stride_h": 1})
    g = graph(conv, x=real("x", 1, 8, 8, 4), w=real("w", 16, 3, 3, 4, constant=True), y=real("y", 1, 8, 8, 16))
    wide, narrow = (xnnpack.indirection(conv, g, footprint.machine(name)) for name in ("aarch64", "armv7l"))
    assert (wide, narrow) == (8 * 9 * 64, 4 * 9 * 64)
    assert xnnpack.packed(conv, g, footprint.machine("aarch64")) == 16 * (36 * 4 + 4)


def test_depthwise_weights_are_packed_for_a_kernel_of_more_taps():
    conv = Node("DEPTHWISE_CONV_2D", "c", ("x", "w"), ("y",), {"stride_w": 2, "stride_h": 2})
    g = graph(conv, x=real("x", 1, 8, 8, 20), w=real("w", 1, 5, 5, 20, constant=True), y=real("y", 1, 4, 4, 20))
    assert xnnpack.packed(conv, g, footprint.machine("aarch64")) == 32 * (25 * 4 + 4)
    assert xnnpack.indirection(conv, g, footprint.machine("aarch64")) == 8 * 4 * (25 + 3 * 2 * 5)


def test_weights_that_are_computed_are_not_packed():
    conv = Node("CONV_2D", "c", ("x", "w"), ("y",))
    g = graph(conv, x=real("x", 1, 8, 8, 4), w=real("w", 16, 3, 3, 4), y=real("y", 1, 8, 8, 16))
    assert xnnpack.packed(conv, g, footprint.machine("x86_64")) == 0


def test_halves_are_expanded_before_they_are_packed():
    nodes = (Node("DEQUANTIZE", "d", ("h",), ("w",)), Node("ADD", "a", ("x", "w"), ("y",)))
    half = Tensor("h", (4,), "float16", 8, constant=True)
    g = graph(*nodes, x=real("x", 4), h=half, w=real("w", 4), y=real("y", 4))
    (part,) = xnnpack.parts(g)
    assert (part.delegated, xnnpack.unpacked(g, part), xnnpack.workspace(g, part)) == (True, 16, 0)


@pytest.mark.parametrize(("reads", "channels", "kept"), [(1, 4, 0), (2, 4, 1), (1, 6, 1)])
def test_a_padding_that_a_convolution_takes_in_has_no_place(reads: int, channels: int, kept: int):
    """Unless another op reads it too, or it adds channels."""
    tensors = {
        "x": Tensor("x", (1, 8, 8, 4), "float32", 1024),
        "p": Tensor("p", (1, 10, 10, channels), "float32", 400 * channels),
        "w": Tensor("w", (8, 3, 3, channels), "float32", 288 * channels, constant=True),
        "b": Tensor("b", (8,), "float32", 32, constant=True),
        "y": Tensor("y", (1, 8, 8, 8), "float32", 2048), "z": Tensor("z", (1, 8, 8, 8), "float32", 2048),
        "q": Tensor("q", (1, 10, 10, channels), "float32", 400 * channels),
    }  # fmt: skip
    nodes = [Node("PAD", "p", ("x",), ("p",)), Node("CONV_2D", "y", ("p", "w", "b"), ("y",)),
             Node("TANH", "z", ("y",), ("z",))]  # fmt: skip
    if reads > 1:
        nodes.append(Node("TANH", "q", ("p",), ("q",)))
    part = xnnpack.Part(True, tuple(nodes), ("x",), ("z", "q")[:reads])
    space = xnnpack.workspace(graph(*nodes, **tensors), part)
    assert space is not None
    assert (space >= 400 * channels + 2048) == bool(kept)


def test_a_cycle_of_ops_ends():
    nodes = (Node("RELU", "a", ("b",), ("a",)), Node("RELU", "b", ("a",), ("b",)))
    found = xnnpack.parts(graph(*nodes, x=real("x", 4), a=real("a", 4), b=real("b", 4), y=real("y", 4)))
    assert [(part.delegated, len(part.nodes)) for part in found] == [(False, 2)]


def test_thousands_of_ops_are_planned_in_time(monkeypatch):
    count = 5_000
    tensors = {"x": real("x", 4), "y": real("y", 4)} | {f"t{n}": real(f"t{n}", 4) for n in range(count)}
    nodes = [Node("RELU" if n % 2 else "SIGN", f"t{n}", (f"t{n - 1}" if n else "x",), (f"t{n}",)) for n in range(count)]
    g = GraphFacts(tensors, tuple(nodes), ("x",), ("y",))
    assert len(xnnpack.parts(g)) == count
    found = onnx.running(g, footprint.machine("aarch64"))
    assert found is not None, "a chain, however long, has a few tensors alive at a time"
    assert found.block == 64 + 16
    monkeypatch.setattr(arena, "_STEPS", 100_000)
    assert onnx.running(g, footprint.machine("aarch64")) is not None
    nodes.append(Node("SUM", "all", tuple(f"t{n}" for n in range(count)), ("y",)))
    g = GraphFacts(tensors, tuple(nodes), ("x",), ("y",))
    assert onnx.running(g, footprint.machine("aarch64")) is None  # all alive at once: too many to plan, which is said


def test_state_is_planned_where_a_range_to_forever_has_no_length(monkeypatch):
    # As on a 32-bit board, whose Python counts to 2^31: there the length of a range to 2^62 overflows.
    monkeypatch.setattr(arena, "_FOREVER", 1 << 70)
    found = arena.layout({"s": 64, "x": 64, "y": 64}, [arena.Step(("x", "s"), ("y",))], ["x"], ["y"], variables=["s"])
    assert found is not None
    assert (found.bytes, found.kept_bytes) == (192, 64)


def first_fit(tensors):
    """Offsets as the planner's own code finds them, looking at every tensor that is placed already."""
    placed, offsets = [], []
    for size, first, last in tensors:
        best, tightest, end = -1, arena._FOREVER, 0
        for at, taken, begin, until in sorted(placed):
            if until < first or begin > last:
                continue
            aligned = -(-end // 64) * 64
            if aligned + size <= at and at - aligned < tightest:
                best, tightest = aligned, at - end
            end = max(end, at + taken)
        offsets.append((best if best >= 0 else -(-end // 64) * 64) if size else 0)
        if size:
            placed.append((offsets[-1], size, first, last))
    return offsets


@given(
    st.lists(
        st.tuples(
            st.sampled_from((0, 1, 64, 100, 640, 1000, 4096)),
            st.integers(0, 5000),
            st.sampled_from((0, 1, 40, 3000, arena._FOREVER)),
        ),
        max_size=40,
    )
)
def test_tensors_are_placed_as_if_all_were_looked_at(drawn):
    tensors = [(size, first, first + more) for size, first, more in drawn]
    found = arena._place(tensors)
    assert found is not None
    assert found[1] == first_fit(tensors)


def test_sizes_that_only_a_run_tells_make_a_lower_bound(make_tflite):
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
    tensors = [{"name": "x", "shape": (1, 4), "dtype": "FLOAT32"}, {"name": "s", "shape": (2,), "dtype": "INT32"},
               {"name": "y", "shape": (1, 4), "dtype": "FLOAT32"}]  # fmt: skip
    facts = read_facts(
        artifact.from_bytes(make_tflite(tensors, [("RESHAPE", (0, 1), (2,), schema.ReshapeOptionsT())], (0, 1), (2,)))
    )
    assert tflite.late(facts.graphs[0])
    assert not tflite.arena_of(facts.graphs[0]).exact
    assert predict(facts, engine="litert", machine="aarch64").lower_bound


def test_a_shape_computed_from_shapes_is_planned_late_but_known():
    nodes = (
        Node("SHAPE", "s", ("x",), ("s",)),
        Node("PACK", "p", ("s", "c"), ("p",)),
        Node("RESHAPE", "r", ("x", "p"), ("y",)),
    )
    sizes = {"s": real("s", 2), "c": real("c", 1, constant=True), "p": real("p", 2)}
    g = tflite.without_sizes_of_tensors(graph(*nodes, x=real("x", 1, 4), y=real("y", 1, 4), **sizes))
    assert tflite.late(g)
    assert not tflite.open_ended(g)


def test_a_slice_of_all_the_rest_is_left_to_litert():
    for least, mine in ((-1, False), (1, True)):
        cut = Node("SLICE", "s", ("x", "b", "n"), ("y",), {"least": least, "most": 4})
        setting = {"b": real("b", 2, constant=True), "n": real("n", 2, constant=True)}
        g = graph(cut, x=real("x", 2, 4), y=real("y", 2, 4), **setting)
        assert (delegate.taken(g), tflite.late(g), tflite.open_ended(g)) == ([mine], False, False)


def test_external_weights_count_as_the_file():
    import dataclasses

    facts = read_facts(artifact.from_bytes(_tiny_onnx()))
    beside = dataclasses.replace(facts, weight_bytes=50 * MIB, external=("weights.bin",))
    gain = [predict(f, engine="onnxruntime", machine="aarch64").load_mib for f in (facts, beside)]
    assert gain[1] - gain[0] == pytest.approx(1.03 * 50, abs=0.1)


def _tiny_onnx() -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["y"])]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 8]) for name in "xy"]
    g = helper.make_graph(nodes, "g", ends[:1], ends[1:], [numpy_helper.from_array(np.eye(8, dtype=np.float32), "w")])
    return helper.make_model(g, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def test_the_parts_add_up():
    facts = read_facts(artifact.from_bytes(_tiny_onnx()))
    said = predict(facts, engine="onnxruntime", machine="x86_64")
    assert sum(part.mib for part in said.parts) == pytest.approx(said.run_mib, abs=0.01)
    assert said.load_mib <= said.run_mib == said.peak_mib
    assert not said.lower_bound


# -- the time line


def test_the_time_line_finds_the_peak(shared: Path):
    facts = read_facts(artifact.read(shared / "models" / "ic_resnet8" / "resnet8_fp32.tflite"))
    line = timeline(facts)
    assert line is not None
    assert len(line.moments) == len(facts.ops)
    assert line.planned == facts.arena_bytes
    at = line.alive(line.peak)
    assert sum(span.bytes for span in at) == line.moments[line.peak].bytes == max(m.bytes for m in line.moments)
    assert line.moments[line.peak].bytes <= line.planned
    assert [span.bytes for span in line.tensors] == sorted((span.bytes for span in line.tensors), reverse=True)


def test_no_time_line_without_sizes():
    unknown = GraphFacts(
        {"x": Tensor("x", None, "float32", None)}, (Node("Relu", "r", ("x",), ("x",)),), ("x",), ("x",)
    )
    from types import SimpleNamespace

    assert timeline(SimpleNamespace(format="onnx", graphs=(unknown,))) is None
    assert timeline(SimpleNamespace(format="onnx", graphs=())) is None


@pytest.mark.parametrize(("free", "exact"), [(False, True), (True, False)])
def test_a_slice_of_litert_s_own_of_free_sizes_is_planned_late(free: bool, exact: bool):
    cut = Node("SLICE", "s", ("x", "b", "n"), ("y",), {"least": -1, "most": 4})
    setting = {"b": real("b", 2, constant=True), "n": real("n", 2, constant=True)}
    g = graph(cut, x=replace(real("x", 1, 8), free=free), y=real("y", 1, 4), **setting)
    assert tflite.arena_of(g).exact == exact
