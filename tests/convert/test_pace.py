"""Whether int8 is slower than float: only a clear difference is told, and what to choose instead."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgekit.converters import pace
from edgekit.converters.stages import Graph
from edgekit.converters.tflite_graphs.builder import Builder
from edgekit.data_ref import DataRef
from edgekit.tensors import QuantParams, TensorSpec


def pairs(factor: float, count: int = 60, noise: float = 0.0, seed: int = 0) -> list[tuple[int, int]]:
    random = np.random.default_rng(seed)
    first = 50_000 * (1 + noise * random.exponential(size=count))
    second = 50_000 * factor * (1 + noise * random.exponential(size=count))
    return [(int(a), int(b)) for a, b in zip(first, second, strict=True)]


@pytest.mark.parametrize(
    ("given", "slower"),
    [
        (pairs(1.4), True),
        (pairs(1.4, noise=0.1), True),
        (pairs(1.0), False),
        (pairs(0.5), False),
        (pairs(1.02), False),
        (pairs(1.4, count=11), False),
        ([], False),
    ],
)
def test_only_a_clear_difference_is_told(given, slower):
    assert pace.judge(given, "engine").slower is slower


@pytest.mark.parametrize(
    ("before", "after", "told"), [(50_000, 20_000, False), (2_000, 5_000, False), (90_000, 130_000, True)]
)
def test_integers_that_are_larger_than_floats_are_told(before, after, told, tmp_path):
    graphs = [Graph("tflite", str(tmp_path / name), (), ()) for name in ("float", "int")]
    for graph, size in zip(graphs, (before, after), strict=True):
        (tmp_path / graph.path).write_bytes(bytes(size))
    said = pace.heavier(graphs[0], replace(graphs[1], precision="int8"))
    assert bool(said) == told
    assert all("int8 is larger than float here, 130.0 and 90.0 kB" in one for one in said)


def test_equal_graphs_on_a_busy_machine_are_not_slower():
    assert not any(pace.judge(pairs(1.0, noise=0.5, seed=seed), "engine").slower for seed in range(300))


class Cold:
    """A network of a few microseconds, whose first run after another one's takes longer."""

    def __init__(self, first: int, others: int) -> None:
        self.now, self.runs, self._times = 0, 0, (first, others)

    def run(self) -> None:
        self.now += self._times[min(self.runs, 1)]
        self.runs += 1


def test_a_first_run_with_cold_caches_does_not_count():
    cold = Cold(19_000, 4_000)
    assert pace.quickest(cold.run, lambda: cold.now) == 4_000
    slow = Cold(50_000_000, 50_000_000)
    assert pace.quickest(slow.run, lambda: slow.now) == 50_000_000
    assert slow.runs == 1


def test_the_advice_names_figures_and_the_better_choice():
    found = pace.judge(pairs(1.4), "onnxruntime 1.32.0")
    (said,) = pace.advice(found, Graph("onnx", "x.onnx", (), (), "int8"))
    assert "70 and 50 us" in said
    assert "onnxruntime 1.32.0" in said
    assert ".tflite" in said
    (said,) = pace.advice(found, Graph("tflite", "x.tflite", (), (), "int8"))
    assert ".tflite" not in said
    assert "fp16" in said
    assert "dynamic" not in said
    (said,) = pace.advice(replace(found, dense=True), Graph("tflite", "x.tflite", (), (), "int8"))
    assert "--precision dynamic" in said
    assert pace.advice(pace.judge(pairs(0.7), "engine"), Graph("onnx", "x.onnx", (), (), "int8")) == ()


def test_convolutions_of_one_channel_are_named(tmp_path):
    onnx = pytest.importorskip("onnx")
    constant = onnx.numpy_helper.from_array
    nodes = [
        onnx.helper.make_node("Conv", ["x", "a"], ["first;more"]),
        onnx.helper.make_node("Conv", ["first;more", "b"], ["deep"], group=4),
        onnx.helper.make_node("Conv", ["deep", "c"], ["y"]),
    ]
    kernels = {"a": (4, 1, 3, 3), "b": (4, 1, 3, 3), "c": (2, 4, 1, 1)}
    graph = onnx.helper.make_graph(
        nodes, "net", [onnx.helper.make_tensor_value_info("x", 1, [1, 1, 8, 8])],
        [onnx.helper.make_tensor_value_info("y", 1, None)],
        [constant(np.ones(size, np.float32), name) for name, size in kernels.items()],
    )  # fmt: skip
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)]), tmp_path / "net.onnx")
    made = Graph("onnx", str(tmp_path / "net.onnx"), (), (), "int8")
    assert pace.shallow(made) == ("first;more",)
    (said,) = pace.advice(pace.Pace(50, 70, True, "engine", ("first;more",)), made)
    assert "--rules (first)" in said


@pytest.mark.parametrize("format", ["tflite", "onnx"])
def test_both_graphs_run_in_the_real_engine(tiny_files, tmp_path, format):
    shape = {"tflite": (None, 8, 8, 2), "onnx": (None, 2, 8, 8)}[format]
    image = TensorSpec("image", shape, "float32")
    graph = Graph(format, str(tiny_files[format]), (image,), (TensorSpec("probs", (None, 5), "float32"),))
    np.savez(tmp_path / "data.npz", x=np.ones((2, *shape[1:]), np.float32))
    data = DataRef(str(tmp_path / "data.npz"), needs_label=False)
    found = pace.pace(pace.PaceRequest(graph, graph, data, (image,), str(tmp_path)))
    assert found.engine.startswith({"tflite": "litert", "onnx": "onnxruntime"}[format])
    assert found.before_us == found.after_us == 0 or 0.2 < found.after_us / found.before_us < 5


def test_work_in_dense_layers_is_seen(tmp_path):
    graph = Builder()
    x = graph.input("x", (1, 8))
    weights = graph.constant("w", np.eye(8, dtype=np.float32))
    data = graph.finish([graph.op("FULLY_CONNECTED", [x, weights], (1, 8), "f", "FullyConnectedOptions")])
    (tmp_path / "m.tflite").write_bytes(data)
    assert pace._dense(Graph("tflite", str(tmp_path / "m.tflite"), (), (), "int8"))


def test_convolutions_are_no_dense_layers(tiny_files):
    assert not pace._dense(Graph("tflite", str(tiny_files["tflite"]), (), (), "int8"))


def test_the_engine_alone_is_measured():
    """Rounding real values to integers in numpy took longer than a small network, and made int8 look slower."""
    seen: list[object] = []

    class Session:
        def run(self, feeds):
            seen.append(feeds["tensor"])

    class Open:
        inputs = (TensorSpec("x", (None, 2), "int8", quant=QuantParams((0.5,), (3,))),)
        _session, _keys = Session(), ("tensor",)

    pace._call(Open(), {"x": np.array([[1.0, -2.0]], np.float32)})()
    np.testing.assert_array_equal(seen[0], np.array([[5, -1]], np.int8))
    assert seen[0].dtype == np.int8
