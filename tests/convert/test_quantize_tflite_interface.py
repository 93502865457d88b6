"""Inputs and outputs of quantized TFLite graphs: order, names, element types, and outputs that serve elsewhere too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from quantized_tflite import INTEGER, Net, Seen, classifier, convert, observe, run, samples, saved, scale, sqnr

from edgekit.converters.tflite_graphs import graph as files


def _pooled(net: Net, window: tuple[int, int], *, free: bool = False) -> int:
    x = net.input("x", (1, 8, 8, 3), free=(1, 2) if free else ())
    wide = net.conv3(x, 8, "wide")
    made = (1, 8 // window[0], 8 // window[1], 8)
    fields = {"filterHeight": window[0], "filterWidth": window[1], "strideH": window[0], "strideW": window[1]}
    return net.op("AVERAGE_POOL_2D", [wide], made, "pooled", "Pool2DOptions", {**fields, "padding": 1})


@pytest.mark.parametrize("precision", INTEGER)
def test_an_average_of_the_whole_map_has_a_scale_of_its_own(tmp_path, precision):
    """An average is several times smaller than the largest value: on the pooling's scale it would keep five bits."""
    net = Net()
    flat = net.op("SQUEEZE", [_pooled(net, (8, 8))], (1, 8), "flat", "SqueezeOptions", {"squeezeDims": [1, 2]})
    graph = saved(net.finish([net.dense(flat, 4, "dense")]), tmp_path)
    ranges = observe(graph, samples(graph), observer="minmax")
    made = convert(graph, tmp_path, precision, ranges=ranges)
    tensors = {
        files.name_of(tensor): tensor for tensor in files.read(Path(made.path).read_bytes()).subgraphs[0].tensors
    }
    seen = ranges.tensors["pooled"]
    assert seen.max < ranges.tensors["wide"].max / 2
    steps = 255 if precision == "int8" else 32767
    assert scale(tensors["pooled"]) == pytest.approx((seen.max - min(seen.min, 0)) / steps, rel=0.02)
    assert sqnr(graph, made) > 30


@pytest.mark.parametrize(("window", "free"), [((4, 4), False), ((8, 4), False), ((8, 8), True)])
def test_other_averages_stay_poolings(tmp_path, window, free):
    net = Net()
    graph = saved(net.finish([_pooled(net, window, free=free)]), tmp_path)
    model = files.read(Path(convert(graph, tmp_path).path).read_bytes())
    assert "AVERAGE_POOL_2D" in [files.op_name(model, op) for op in model.subgraphs[0].operators]


def test_the_interface_is_of_integers_or_of_floats(tmp_path):
    graph = saved(classifier(), tmp_path)
    whole = convert(graph, tmp_path)
    assert [spec.dtype for spec in (*whole.inputs, *whole.outputs)] == ["int8", "int8"]
    assert all(spec.quant is not None for spec in (*whole.inputs, *whole.outputs))
    assert [files.dtype_of(tensor) for tensor in Seen(whole).inputs] == ["int8"]
    raw = run(whole, {"image": np.zeros((1, 8, 8, 2), np.int8)}, raw=True)
    assert raw["probs"].dtype == np.int8
    expected = run(whole, samples(graph))
    floats = convert(graph, tmp_path, interface="float")
    assert [spec.dtype for spec in (*floats.inputs, *floats.outputs)] == ["float32", "float32"]
    assert all(spec.quant is None for spec in (*floats.inputs, *floats.outputs))
    seen = Seen(floats)
    assert seen.kinds["QUANTIZE"] == seen.kinds["DEQUANTIZE"] == 1
    assert floats.float_ops == ()
    np.testing.assert_allclose(run(floats, samples(graph))["probs"], expected["probs"], atol=1 / 256)


@pytest.mark.parametrize("precision", ["fp16", "dynamic", "int8", "int16x8"])
def test_names_signatures_and_a_free_batch_stay(tmp_path, precision):
    graph = saved(classifier(-1), tmp_path)
    made = convert(graph, tmp_path, precision)
    for before, after in zip((*graph.inputs, *graph.outputs), (*made.inputs, *made.outputs), strict=True):
        assert (before.name, before.shape) == (after.name, after.shape)
    seen = Seen(made)
    (signature,) = seen.model.signatureDefs
    assert signature.signatureKey == b"serve"
    (entry,) = signature.inputs
    assert (entry.name, int(entry.tensorIndex)) == (b"image", int(seen.main.inputs[0]))
    (entry,) = signature.outputs
    assert (entry.name, int(entry.tensorIndex)) == (b"probs", int(seen.main.outputs[0]))
    assert seen.inputs[0].name == b"image"
    feeds = samples(graph, 7)
    single = np.concatenate([run(made, {"image": feeds["image"][n : n + 1]})["probs"] for n in range(7)])
    np.testing.assert_allclose(run(made, feeds)["probs"], single, atol=1e-6 if precision == "fp16" else 0.01)


@pytest.mark.parametrize("precision", ["fp16", "dynamic", "int8", "int16x8"])
def test_the_same_bytes_every_time(tmp_path, precision):
    graph = saved(classifier(), tmp_path)
    first = Path(convert(graph, tmp_path, precision).path).read_bytes()
    assert Path(convert(graph, tmp_path, precision).path).read_bytes() == first


@pytest.mark.parametrize("interface", ["int8", "float"])
def test_several_inputs_and_outputs_keep_their_order(tmp_path, interface):
    """Outputs of other scales, one of them read again inside, one input that nothing reads."""
    net = Net()
    a, unused, b = net.input("a", (1, 12)), net.input("unused", (1, 3)), net.input("b", (1, 6))
    first, second = net.dense(a, 8, "first"), net.dense(b, 8, "second")
    both = net.like("ADD", first, "both", second, options="AddOptions")
    last = net.dense(both, 3, "last")
    graph = saved(net.finish([last, first, both], signature="serve"), tmp_path)
    assert unused == 1
    made = convert(graph, tmp_path, interface=interface)
    assert [spec.name for spec in made.inputs] == ["a", "unused", "b"]
    assert [spec.name for spec in made.outputs] == ["last", "first", "both"]
    assert made.float_ops == ()
    assert sqnr(graph, made) > 25


@pytest.mark.parametrize("interface", ["int8", "float"])
@pytest.mark.parametrize("kind", ["ABS", "MAX_POOL_2D", "CONCATENATION", "CONV_2D", "SIN"])
def test_an_output_that_is_read_again(tmp_path, kind, interface):
    """By an operator that is lifted, that shares its scale, that wants another scale, that quantizes, that cannot."""
    net = Net()
    x = net.input("x", (1, 6, 6, 4))
    inner = net.conv3(x, 4, "inner", relu=False)
    if kind == "MAX_POOL_2D":
        fields = {"padding": 0, "strideW": 1, "strideH": 1, "filterWidth": 2, "filterHeight": 2}
        last = net.like(kind, inner, "last", options="Pool2DOptions", **fields)
    elif kind == "CONCATENATION":
        wide = net.like("MUL", x, "wide", net.constant("k", np.float32([9])), options="MulOptions")
        last = net.op(kind, [inner, wide], (1, 6, 6, 8), "last", "ConcatenationOptions", {"axis": 3})
    else:
        last = net.conv3(inner, 4, "last") if kind == "CONV_2D" else net.like(kind, inner, "last")
    graph = saved(net.finish([last, inner], signature="serve"), tmp_path)
    made = convert(graph, tmp_path, interface=interface, allow_float_ops=kind == "SIN")
    seen = Seen(made)
    (signature,) = seen.model.signatureDefs
    places = {entry.name.decode(): int(entry.tensorIndex) for entry in signature.outputs}
    assert [places["last"], places["inner"]] == [int(index) for index in seen.main.outputs]
    assert made.outputs[1].dtype == {"int8": "int8", "float": "float32"}[interface]
    assert sqnr(graph, made) > 20


@pytest.mark.parametrize(("kind", "stays"), [("ABS", ()), ("SIN", ("SIN (first)", "SIN (second)"))])
def test_an_output_between_two_operators_that_the_quantizer_leaves(tmp_path, kind, stays):
    """It hands the integers of the output to the float operator behind."""
    net = Net()
    first = net.like(kind, net.dense(net.input("x", (1, 12)), 8, "hidden"), "first")
    graph = saved(net.finish([first, net.like(kind, first, "second")], signature="serve"), tmp_path)
    made = convert(graph, tmp_path, allow_float_ops=bool(stays))
    assert made.float_ops == stays
    assert sqnr(graph, made) > 25


def test_an_output_that_is_constant(tmp_path):
    """As folding leaves it: nothing computes it, and it stays what it was."""
    net = Net()
    y = net.dense(net.input("x", (1, 12)), 3, "y")
    fixed = net.constant("anchors", np.float32([[1, 2, 4]]))
    graph = saved(net.finish([y, fixed]), tmp_path)
    for precision in ("fp16", "dynamic", "int8", "int16x8"):
        made = convert(graph, tmp_path, precision)
        np.testing.assert_allclose(run(made, samples(graph, 1))["anchors"], [[1, 2, 4]], rtol=0.01)


def test_an_output_that_is_an_input(tmp_path):
    net = Net()
    x = net.input("x", (1, 12))
    graph = saved(net.finish([net.dense(x, 3, "y"), x]), tmp_path)
    for precision in ("fp16", "dynamic", "int8", "int16x8"):
        assert sqnr(graph, convert(graph, tmp_path, precision)) > 25
    assert sqnr(graph, convert(graph, tmp_path, interface="float")) > 25


def test_integer_inputs_and_index_outputs_stay(tmp_path):
    net = Net()
    rows = net.input("rows", (1, 4), "int32")
    table = net.constant("table", net.weights(4, 12))
    taken = net.op("GATHER", [table, rows], (1, 4, 12), "taken", "GatherOptions", {"axis": 0})
    mean = net.op("MEAN", [taken, net.ints("axis", 1)], (1, 12), "mean", "ReducerOptions")
    scores = net.dense(mean, 6, "scores")
    best = net.op(
        "ARG_MAX", [scores, net.ints("last", 1)], (1,), "best", "ArgMaxOptions", {"outputType": 2}, dtype="int32"
    )
    graph = saved(net.finish([best, scores]), tmp_path)
    made = convert(graph, tmp_path)
    assert [(spec.name, spec.dtype) for spec in (*made.inputs, *made.outputs)] == [
        ("rows", "int32"),
        ("best", "int32"),
        ("scores", "int8"),
    ]
    assert made.float_ops == ()
    feeds = samples(graph)
    answer = run(made, feeds)
    assert (answer["best"] == run(graph, feeds)["best"]).mean() > 0.9
    assert (answer["best"].reshape(-1) == answer["scores"].argmax(axis=1)).all()
