"""Biases that take back what integer kernels shift on average: nearer answers, by the float graph before any repair."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from generators import result
from hypothesis import given
from hypothesis import strategies as st

from edgekit.converters import jobs
from edgekit.converters.calibrate import calibrate
from edgekit.converters.repairs import repair_empirical_bias_correction as repair
from edgekit.converters.repairs.repair import Change, EngineCase
from edgekit.converters.repairs.samples import Samples, look
from edgekit.converters.repairs.settle import settle
from edgekit.converters.repairs.view import layers, open_view
from edgekit.converters.repairs.workbench import Workbench
from edgekit.converters.sources import identify, lowering_for
from edgekit.converters.stages import CalibrationOptions, Graph, QuantizeOptions

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

NAMES = ("empirical-bias-correction",)
FORMATS = ("tflite", "onnx")


def pictures(count, seed):
    """Strokes on an even ground, whose rounding errors are alike on every pixel."""
    random = np.random.default_rng(seed)
    made = np.full((count, 3, 16, 16), 0.37, np.float32)
    for picture in made:
        for _ in range(3):
            row, width = random.integers(0, 14), random.integers(3, 12)
            picture[:, row : row + 2, :width] = random.uniform(0, 1, (3, 1, 1))
    return made


def network(*, biased=True, seed=3):
    """Depthwise and pointwise convolutions with SiLU, one Relu, a mean over the picture, a dense layer."""
    random = np.random.default_rng(seed)
    constants, nodes, x, channels = [], [], "x", 3

    def constant(*shape, size=None):
        values = random.normal(0, size or 1 / np.sqrt(np.prod(shape[1:])), shape)
        constants.append(onnx.numpy_helper.from_array(values.astype(np.float32), f"c{len(constants)}"))
        return constants[-1].name

    def add(kind, *inputs, **attributes):
        nodes.append(onnx.helper.make_node(kind, list(inputs), [f"t{len(nodes)}"], **attributes))
        return nodes[-1].output[0]

    def conv(x, out, each, kernel, **attributes):
        bias = [constant(out, size=0.2)] if biased else []
        return add("Conv", x, constant(out, each, kernel, kernel), *bias, pads=[kernel // 2] * 4, **attributes)

    for number, wide in enumerate((8, 12, 16)):
        x = conv(x, channels, 1, 3, group=channels)
        x = conv(x, wide, channels, 1)
        x = add("Relu", x) if number == 1 else add("Mul", x, add("Sigmoid", x))
        channels = wide
    x = add("Flatten", add("GlobalAveragePool", x))
    nodes.append(onnx.helper.make_node("Gemm", [x, constant(channels, 5, size=1), constant(5, size=0.1)], ["y"]))
    ends = [onnx.helper.make_tensor_value_info(n, 1, s) for n, s in (("x", ["N", 3, 16, 16]), ("y", ["N", 5]))]
    graph = onnx.helper.make_graph(nodes, "net", ends[:1], ends[1:], constants)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture(scope="module")
def lowered(tmp_path_factory):
    """Format and whether layers have biases -> the float graph."""
    folder = tmp_path_factory.mktemp("nets")

    @cache
    def get(kind, biased=True) -> Graph:
        path = folder / f"net{biased}.onnx"
        onnx.save(network(biased=biased), path)
        source = identify(path, signature=None, shapes={}, trusted=False, dtypes={}, model=None)
        jobs.load(source)
        return jobs.lower(jobs.LowerRequest(lowering_for(source.kind, kind), str(folder / f"{biased}.{kind}")))

    return get


def settled(graph, folder, reference=None):
    data = [{"x": pictures(60, seed=0)}]
    ranges = result(calibrate(reference or graph, map((reference or graph).turn, data), CalibrationOptions()))

    def quantize(of, path):
        return jobs.quantize(jobs.QuantizeRequest(of, ranges, "int8", QuantizeOptions(), str(path)))

    made = settle(
        graph, reference or graph, data, NAMES, Workbench(folder, "int8", QuantizeOptions()),
        ranges=ranges, threads=1,
    )  # fmt: skip
    return made, quantize


def answered(graph, data):
    from edgekit import artifact
    from edgekit.runtimes.model import Model

    opened = artifact.read(graph.path)
    with Model.from_artifact(opened, inputs=graph.inputs, outputs=graph.outputs, threads=1) as model:
        return model.run(graph.turn({"x": data}))["y"]


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("kind", FORMATS)
def test_shifts_of_integer_kernels_are_taken_back(lowered, tmp_path, kind, biased):
    graph, unseen = lowered(kind, biased), pictures(60, seed=1)
    made, quantize = settled(graph, tmp_path)
    (report,) = made.reports
    assert report.kept
    assert report.changed == 7 or not biased  # empty ones that the file holds once for several layers stay
    assert report.gain_db > 0
    wanted = answered(graph, unseen)
    before = answered(quantize(graph, tmp_path / f"before.{kind}"), unseen) - wanted
    after = answered(quantize(made.graph, tmp_path / f"after.{kind}"), unseen) - wanted
    assert np.square(after).sum() < 0.5 * np.square(before).sum()
    assert np.abs(after.mean(axis=0)).max() < 0.5 * np.abs(before.mean(axis=0)).max()


@pytest.mark.parametrize("kind", FORMATS)
def test_the_reference_is_the_graph_before_repairs_of_weights(lowered, tmp_path, kind):
    """Those change what the float graph answers; a correction towards that would put their shifts back."""
    graph, unseen = lowered(kind), pictures(60, seed=1)
    opened = open_view(graph)
    for layer in layers(opened):
        opened.set_bias(layer, opened.bias(layer) + 0.05)
    opened.write(tmp_path / f"shifted.{kind}")
    shifted = replace(graph, path=str(tmp_path / f"shifted.{kind}"))
    made, quantize = settled(shifted, tmp_path, reference=graph)
    wanted = answered(graph, unseen)
    after = answered(quantize(made.graph, tmp_path / f"after.{kind}"), unseen) - wanted
    assert np.abs(after.mean(axis=0)).max() < 0.2 * np.abs((answered(shifted, unseen) - wanted).mean(axis=0)).max()


def test_what_does_not_help_is_taken_back(lowered, tmp_path, monkeypatch):
    def worse(case, opened):
        for layer in layers(opened):
            opened.set_bias(layer, opened.bias(layer) + 0.5)
        return Change(7, "worse")

    monkeypatch.setattr(repair, "apply", worse)
    made, _ = settled(lowered("onnx"), tmp_path)
    (report,) = made.reports
    assert not report.kept
    assert report.gain_db < 0
    assert made.graph == lowered("onnx")


@pytest.mark.parametrize("kind", FORMATS)
def test_runs_go_on_where_all_that_follows_depends_on_one_tensor(lowered, tmp_path, kind):
    graph = lowered(kind)
    net = repair._net(settled(graph, tmp_path)[1](graph, tmp_path / f"q.{kind}"))
    starts = repair._starts(net)
    assert starts
    for _, name in starts:
        assert all(net.ends_at(output, {name}) for output in net.outputs if output != name)
        assert net.tensors[name].dtype in ("int8", "uint8")


def test_a_relu_passes_a_share_of_a_shift(lowered):
    graph = lowered("onnx")
    samples = Samples([{"x": pictures(20, seed=0)}], 20)
    relu = next(name for name in _names(graph) if name == "t6")
    seen = []
    look(graph, samples, [relu], lambda _number, _name, values: seen.append(values.copy()), 1)
    site = repair._Site(next(iter(layers(open_view(graph)))), relu, "", None, "", np.ones(1))
    (found,) = repair._means(graph, samples, [site], 1, {}).values()
    shares = (np.concatenate(seen) > 0).mean(axis=(0, 2, 3))
    np.testing.assert_allclose(found.passing, np.maximum(shares, 0.1))
    np.testing.assert_allclose(found.each.mean(axis=0), np.concatenate(seen).mean(axis=(0, 2, 3)), rtol=1e-5)


def _names(graph):
    return [name for node in onnx.load(Path(graph.path)).graph.node for name in node.output]


@given(st.lists(st.floats(-1e3, 1e3), min_size=8, max_size=8))
def test_a_shift_is_never_more_than_was_measured(values):
    differences = np.array(values).reshape(4, 2)
    sure, mean = repair._surely(differences), differences.mean(axis=0)
    assert (np.abs(sure) <= np.abs(mean)).all()
    assert (sure * mean >= 0).all()


def test_a_sure_shift_is_taken_whole_and_noise_hardly_at_all():
    noise = np.random.default_rng(0).normal(size=(200, 50))
    np.testing.assert_allclose(repair._surely(1.0 + 1e-6 * noise), 1.0, atol=1e-5)
    assert np.square(repair._surely(noise)).sum() < 0.4 * np.square(noise.mean(axis=0)).sum()


def masker():
    """A convolution whose scores mostly lie far below zero, and their sigmoid."""
    random = np.random.default_rng(6)
    kernel = random.normal(0, 1, (2, 3, 3, 3)).astype(np.float32)
    weights = [
        onnx.numpy_helper.from_array(12 * kernel, "w"),
        onnx.numpy_helper.from_array(np.float32([-30, -20]), "b"),
    ]
    nodes = [onnx.helper.make_node("Conv", ["x", "w", "b"], ["s"], pads=[1] * 4)]
    nodes += [onnx.helper.make_node("Sigmoid", ["s"], ["y"])]
    ends = [onnx.helper.make_tensor_value_info(n, 1, ["N", c, 16, 16]) for n, c in (("x", 3), ("y", 2))]
    graph = onnx.helper.make_graph(nodes, "masker", ends[:1], ends[1:], weights)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("kind", FORMATS)
def test_what_a_range_leaves_out_because_nobody_tells_it_apart_is_no_shift(tmp_path, kind):
    onnx.save(masker(), tmp_path / "net.onnx")
    source = identify(tmp_path / "net.onnx", signature=None, shapes={}, trusted=False, dtypes={}, model=None)
    jobs.load(source)
    graph = jobs.lower(jobs.LowerRequest(lowering_for(source.kind, kind), str(tmp_path / f"net.{kind}")))
    data = [{"x": pictures(60, seed=0)}]
    ranges = result(calibrate(graph, map(graph.turn, data), CalibrationOptions("auto")))
    bench = Workbench(tmp_path, "int8", QuantizeOptions())
    seen = Samples(data, 40)
    case = EngineCase(
        graph, seen, ranges, 8, quantized=lambda one: bench.quantized(one, ranges), written=bench.written,
        reference=graph, macs=1,
    )  # fmt: skip
    opened = open_view(graph)
    (layer,) = layers(opened)
    before = opened.bias(layer)
    change = repair.apply(case, opened)
    assert change.changed == 1
    assert np.abs(opened.bias(layer) - before).max() < 1
