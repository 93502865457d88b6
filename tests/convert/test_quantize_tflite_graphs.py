"""Any TFLite graph of known operators, and real models, quantized throughout."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quantized_tflite import INTEGER, Net, convert, float_inside, observe, run, samples, saved, sqnr

from edgekit.converters.stages import Graph
from edgekit.errors import ConversionError


def _step(net: Net, kind: str, name: str, x: int, other: int) -> int:
    """One operator on images of [1, 4, 4, 8]."""
    if kind == "conv":
        return net.conv3(x, 8, name)
    if kind in ("ADD", "SUB"):
        return net.like(kind, x, name, other, options=f"{kind.title()}Options")
    if kind in ("MAXIMUM", "MINIMUM"):
        return net.like(kind, x, name, other)
    if kind == "SELECT_V2":
        asked = [x, net.constant(f"{name}/limit", np.float32([0.1]))]
        larger = net.op("GREATER", asked, net.shape(x), f"{name}/larger", dtype="bool")
        return net.op(kind, [larger, x, other], net.shape(x), name)
    if kind == "CONCATENATION":
        both = net.op(kind, [x, other], (1, 4, 4, 16), f"{name}/both", "ConcatenationOptions", {"axis": 3})
        limits = [net.ints(f"{name}/from", 0, 0, 0, 4), net.ints(f"{name}/size", 1, 4, 4, 8)]
        return net.op("SLICE", [both, *limits], net.shape(x), name, "SliceOptions")
    if kind == "MAX_POOL_2D":
        fields = {"padding": 0, "strideW": 1, "strideH": 1, "filterWidth": 2, "filterHeight": 2}
        return net.like(kind, x, name, options="Pool2DOptions", **fields)
    if kind == "TRANSPOSE":
        return net.op(kind, [x, net.ints(f"{name}/order", 0, 2, 1, 3)], net.shape(x), name, "TransposeOptions")
    if kind == "PRELU":
        return net.like(kind, x, name, net.constant(f"{name}/slope", np.full((1, 1, 8), 0.2, np.float32)))
    return net.like(kind, x, name)


_KINDS = (
    # No products: some of them in a row make ranges of which 8 bits keep nothing.
    *("conv", "ADD", "SUB", "MAXIMUM", "MINIMUM", "SELECT_V2", "CONCATENATION", "PRELU", "MAX_POOL_2D", "TRANSPOSE"),
    *("RELU", "RELU6", "TANH", "LOGISTIC", "ELU", "HARD_SWISH", "ABS", "NEG"),
)


@given(
    steps=st.lists(st.tuples(st.sampled_from(_KINDS), st.integers(0, 9), st.booleans()), min_size=2, max_size=7),
    precision=st.sampled_from(INTEGER),
    interface=st.sampled_from(["int8", "float"]),
)
@settings(max_examples=25, deadline=None)
def test_any_graph_of_known_operators_is_quantized_throughout(tmp_path_factory, steps, precision, interface):
    """Whatever reads whatever, and whatever of it is an output: no float inside, the engine takes it, answers hold."""
    folder = tmp_path_factory.mktemp("graphs")
    net = Net()
    made = [net.input("x", (1, 4, 4, 8))]
    outputs = []
    for number, (kind, other, shown) in enumerate(steps):
        made.append(_step(net, kind, f"t{number}", made[-1], made[other % len(made)]))
        outputs += [made[-1]] if shown or number == len(steps) - 1 else []
    graph = saved(net.finish(outputs, signature="serve"), folder)
    feeds = samples(graph, 8)
    options = {"interface": interface} if precision == "int8" else {}
    quantized = convert(graph, folder, precision, ranges=observe(graph, feeds), **options)
    assert quantized.float_ops == ()
    assert float_inside(quantized) == []
    expected, answer = run(graph, feeds), run(quantized, feeds)
    for name, values in expected.items():
        span = float(np.ptp(values)) or float(np.abs(values).max()) or 1.0
        assert np.abs(answer[name] - values).mean() <= span * (0.15 if precision == "int8" else 0.05), name


# -- Real models -------------------------------------------------------------------------------------------------------


def _digits(shared: Path, count: int) -> Any:
    with gzip.open(shared / "data" / "mnist_t10k" / "t10k-images-idx3-ubyte.gz") as file:
        pixels = np.frombuffer(file.read()[16:], np.uint8).reshape(-1, 28, 28)
    chosen = np.random.default_rng(0).permutation(len(pixels))[:count]
    return pixels[chosen].astype(np.float32) / 255


def _lowered(shared: Path, name: str, folder: Path) -> Graph:
    """The graph as the pipeline hands it to the quantizer."""
    from edgekit.converters import load_tflite, lower_tflite_tflite
    from edgekit.converters.sources import identify

    return lower_tflite_tflite.lower(load_tflite.load(identify(shared / "models" / name)), folder / "float.tflite")


@pytest.mark.parametrize(
    ("precision", "decibels", "kilobytes"),
    [("fp16", 50, 175), ("dynamic", 25, 100), ("int8", 20, 99), ("int16x8", 24, 101)],
)
def test_resnet(shared, tmp_path, precision, decibels, kilobytes):
    graph = _lowered(shared, "ic_resnet8/resnet8_fp32.tflite", tmp_path)
    with np.load(shared / "data" / "cifar10_jpeg_1000.npz") as stored:
        chosen = np.random.default_rng(0).permutation(len(stored["x"]))[:150]
        images = stored["x"][chosen].astype(np.float32)
    (name,) = (spec.name for spec in graph.inputs)
    kind = {"int8": {"observer": "percentile"}, "int16x8": {}}.get(precision)
    ranges = None if kind is None else observe(graph, {name: images[:100]}, **kind)
    made = convert(graph, tmp_path, precision, ranges=ranges)
    assert made.float_ops == ()
    assert sqnr(graph, made, {name: images[100:]}) > decibels
    assert Path(made.path).stat().st_size < kilobytes * 1024


def test_digits(shared, tmp_path):
    graph = _lowered(shared, "mnist_conv_tflite/conv_fc_mnist.tflite", tmp_path)
    (name,) = (spec.name for spec in graph.inputs)
    images = _digits(shared, 300)[..., None]
    made = convert(graph, tmp_path, ranges=observe(graph, {name: images[:100]}))
    feeds = {name: images[100:]}
    (expected,), (answer,) = run(graph, feeds).values(), run(made, feeds).values()
    assert (expected.argmax(axis=1) == answer.argmax(axis=1)).mean() > 0.98
    assert (
        Path(made.path).stat().st_size
        <= 1.05 * (shared / "models/mnist_conv_tflite/conv_fc_mnist_a8w8.tflite").stat().st_size
    )


def test_recurrent_layers_go_dynamic_and_are_refused_by_name_in_int8(shared, tmp_path):
    graph = _lowered(shared, "mnist_lstm_tflite/lstm_fp32.tflite", tmp_path)
    (name,) = (spec.name for spec in graph.inputs)
    feeds = {name: _digits(shared, 100)}
    for precision in INTEGER:
        with pytest.raises(ConversionError, match="UNIDIRECTIONAL_SEQUENCE_LSTM") as caught:
            convert(graph, tmp_path, precision, ranges=observe(graph, feeds))
        assert caught.value.code == "op-not-quantizable"
        assert "--precision dynamic" in (caught.value.next_step or "")
        assert not (tmp_path / f"{precision}.tflite").exists()
    made = convert(graph, tmp_path, "dynamic")
    assert made.float_ops == ()
    (expected,), (answer,) = run(graph, feeds).values(), run(made, feeds).values()
    assert (expected.argmax(axis=1) == answer.argmax(axis=1)).mean() >= 0.98
    assert Path(made.path).stat().st_size < 0.5 * Path(graph.path).stat().st_size
    left = convert(graph, tmp_path, allow_float_ops=True, ranges=observe(graph, feeds))
    assert any("UNIDIRECTIONAL_SEQUENCE_LSTM" in op for op in left.float_ops)
    (answer,) = run(left, feeds).values()
    assert (expected.argmax(axis=1) == answer.argmax(axis=1)).mean() >= 0.95
