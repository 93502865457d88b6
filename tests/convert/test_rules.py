"""Mixed precision by rules, through the real engines: right layers, right answers at boundaries, errors that help."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from residual_nets import WIDTH, images, observe, saved, sqnr

import edgekit
from edgekit import artifact as artifacts
from edgekit import rules
from edgekit.converters import quantizers
from edgekit.converters import rules as matching
from edgekit.converters.onnx_graphs import lifts as onnx_lifts
from edgekit.converters.rules import Layer
from edgekit.converters.stages import Graph, QuantizeOptions
from edgekit.errors import MissingFileError, UsageError
from edgekit.options import Options
from edgekit.pipeline import run
from edgekit.precision import precisions
from edgekit.rules import Rule
from edgekit.runtimes.replay import replay

onnx = pytest.importorskip("onnx")
pytest.importorskip("ai_edge_quantizer", reason="comes with the convert extra")

FORMATS = ("tflite", "onnx")
LIFTS = ("int16x8", "fp16", "float")
LAYERS = ("stem", "b1/conv", "b2/conv", "b2/add", "head")


def lifted(graph: Graph, *said: Rule, precision: str = "int8", interface: Any = "float") -> Graph:
    options = QuantizeOptions(interface, rules=said)
    path = Path(graph.path).with_suffix(f".made.{graph.format}")
    made: Graph = quantizers.get(graph.format).quantize(graph, observe(graph), precisions.get(precision), options, path)
    return made


# -- Answers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", LIFTS)
@pytest.mark.parametrize("format", FORMATS)
def test_lifting_the_spoiled_layers_repairs_the_answers(format, precision, tmp_path):
    graph = saved(format, tmp_path)
    plain = sqnr(graph, lifted(graph))
    made = lifted(graph, Rule(precision, "b1/*"), Rule(precision, "b2/conv"))
    assert sqnr(graph, made) > plain + 8
    assert any("b1/conv" in one and one.endswith(f": {precision}") for one in made.lifted)
    assert not any("stem" in one or "head" in one for one in made.lifted)
    assert bool(made.float_ops) == (precision != "int16x8")


@pytest.mark.parametrize("format", FORMATS)
def test_all_in_float_is_the_source(format, tmp_path):
    graph = saved(format, tmp_path)
    assert sqnr(graph, lifted(graph, Rule("float"))) > 100
    assert sqnr(graph, lifted(graph, Rule("fp16"))) > 40


@pytest.mark.parametrize("format", FORMATS)
def test_all_in_another_width_is_that_precision(format, tmp_path):
    graph = saved(format, tmp_path)
    wide = sqnr(graph, lifted(graph, precision="int16x8"))
    assert abs(sqnr(graph, lifted(graph, Rule("int16x8"))) - wide) < 3
    assert abs(sqnr(graph, lifted(graph, Rule("int8"), precision="int16x8")) - sqnr(graph, lifted(graph))) < 3


@pytest.mark.parametrize("format", FORMATS)
@settings(max_examples=12, deadline=None)
@given(
    choice=st.lists(st.sampled_from(("int8", *LIFTS)), min_size=len(LAYERS), max_size=len(LAYERS)),
    base=st.sampled_from(("int8", "int16x8")),
    interface=st.sampled_from(("float", "int8")),
)
def test_any_mixture_runs_and_is_no_worse_than_int8(format, choice, base, interface, tmp_path_factory):
    graph = saved(format, tmp_path_factory.mktemp("mixture"), spread=1.0)
    said = [Rule(precision, layer) for layer, precision in zip(LAYERS, choice, strict=True)]
    interface = interface if base == "int8" else "float"
    made = lifted(graph, *said, precision=base, interface=interface)
    assert sqnr(graph, made) > sqnr(graph, lifted(graph, interface=interface)) - 4
    changed = [layer for layer, precision in zip(LAYERS, choice, strict=True) if precision != base]
    for layer in changed:
        assert any(layer in one for one in made.lifted), (layer, made.lifted)


def test_onnxruntime_leaves_the_weights_of_lifted_layers_alone(tmp_path):
    """It would quantize them again between integers, with one scale for all channels."""
    import onnxruntime

    graph = saved("onnx", tmp_path, spread=1.0)
    model = onnx.load(graph.path)
    weights = next(one for one in model.graph.initializer if one.name == "b1/conv/w")
    spread = onnx.numpy_helper.to_array(weights) * np.logspace(-4, 0, WIDTH, dtype=np.float32).reshape(-1, 1, 1, 1)
    weights.CopyFrom(onnx.numpy_helper.from_array(spread, "b1/conv/w"))
    onnx.save(model, graph.path)
    feeds = {"image": images(graph)["image"][:1]}
    for precision in LIFTS:
        made = lifted(graph, Rule(precision, "b1/*"))
        found = []
        for level in ("ORT_DISABLE_ALL", "ORT_ENABLE_ALL"):
            options = onnxruntime.SessionOptions()
            options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
            options.optimized_model_filepath = str(tmp_path / f"{level}.onnx")
            opened = onnxruntime.InferenceSession(made.path, options, providers=["CPUExecutionProvider"])
            found.append(opened.run(None, feeds)[0])
        fused = onnx.load(str(tmp_path / "ORT_ENABLE_ALL.onnx"))
        kinds = [node.op_type for node in fused.graph.node]
        assert kinds.count("QLinearConv") == 2, precision  # stem and b2/conv, not b1/conv
        assert np.abs(found[0] - found[1]).max() < 0.02


def test_same_rules_give_same_bytes(tmp_path):
    for format in FORMATS:
        graph = saved(format, tmp_path)
        said = (Rule("fp16", "b1/*"), Rule("int16x8", "b2/*"))
        first = Path(lifted(graph, *said).path).read_bytes()
        assert Path(lifted(graph, *said).path).read_bytes() == first


# -- Matching --------------------------------------------------------------------------------------------------------


def test_later_rules_win(tmp_path):
    made = lifted(saved("tflite", tmp_path), Rule("float"), Rule("int8", op="conv*"), Rule("int16x8", "re:^b2/c"))
    kinds = dict(one.rsplit(": ", 1) for one in made.lifted)
    assert kinds["CONV_2D (b2/conv)"] == "int16x8"
    assert kinds["ADD (b2/add)"] == "float"
    assert "CONV_2D (stem)" not in kinds


def test_names_of_other_layers_inside_fused_names_do_not_count():
    """TFLite's converter joins the names of what it fused, and of layers whose constants it shares."""
    first = "m/act/Relu;m/bn/Batch;m/conv/BiasAdd/ReadVariableOp/resource;m/conv_2/Conv2D;m/conv/Conv2D1"
    second = "m/bn_2/Batch;m/conv_2/BiasAdd;m/conv_2/Conv2D"
    fused = [Layer("CONV_2D", ("x",), (first,)), Layer("CONV_2D", ("y",), (second,))]
    assert matching.assign(fused, [Rule("float", "conv_2")]) == {second: 0}
    for scope in ("conv", "act", "bn", "m/conv", "re:act/Relu"):
        assert matching.assign(fused, [Rule("float", scope)]) == {first: 0}, scope
    assert set(matching.assign(fused, [Rule("float", "m")])) == {first, second}


def test_rules_survive_folding():
    """A Conv that a BatchNormalization was folded into makes the latter's tensor."""
    layers = [
        Layer("Conv", ("x", "w"), ("a",)),
        Layer("BatchNormalization", ("a",), ("b",)),
        Layer("Add", ("b", "x"), ("c",)),
    ]
    folded = [Layer("Conv", ("x", "w2"), ("b",)), Layer("Add", ("b", "x"), ("c",))]
    assert matching.settle(layers, folded, {"a": 0}) == {"b": 0}
    assert matching.settle(layers, folded, {"a": 0, "b": 1}) == {"b": 1}
    assert matching.settle(layers, folded, {"c": 0}) == {"c": 0}


@pytest.mark.parametrize("format", FORMATS)
def test_a_rule_for_no_layer_is_an_error_that_lists_close_names(format, tmp_path):
    graph = saved(format, tmp_path)
    with pytest.raises(UsageError, match="b1/conv") as error:
        lifted(graph, Rule("float", "b1/cnv"))
    assert error.value.code == "rule-unmatched"
    with pytest.raises(UsageError, match=r"operators there are (ADD|Add)"):
        lifted(graph, Rule("float", "*", "LSTM"))
    with pytest.raises(UsageError, match=r"operators there are (CONV_2D|Conv)"):
        lifted(graph, Rule("float", "b1/conv", "Softmax"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[[rule]]\nscope = "a"', "precision"),
        ('[[rule]]\nprecision = "int4"', "int4"),
        ('[[rule]]\nprecision = "float"\nscop = "a"', "scop"),
        ('[[rule]]\nprecision = "float"\nscope = "re:("', "regular expression"),
        ("[[rule]", "rules are invalid"),
    ],
)
def test_invalid_rules_name_the_field(text, says, tmp_path):
    path = tmp_path / "rules.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=says) as error:
        rules.read(path)
    assert error.value.code == "rules-invalid"


def test_rules_are_read_from_files_and_tables(tmp_path):
    said = (Rule("float", 'odd "name"\\\n\u2713'), Rule("int16x8", "b/*", "ADD"))
    path = tmp_path / "rules.toml"
    path.write_text(rules.write(said, "two\nlines"), encoding="utf-8")
    assert rules.read(path) == said
    assert rules.read([{"precision": "float"}, said[1]]) == (Rule("float"), said[1])
    assert rules.read(None) == ()
    with pytest.raises(MissingFileError):
        rules.read(tmp_path / "none.toml")


# -- The whole way ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", FORMATS)
def test_convert_records_rules_and_verify_replays(format, tmp_path):
    source = Path(saved(format, tmp_path).path)
    path = tmp_path / "rules.toml"
    path.write_text(rules.write([Rule("int16x8", "b1/*"), Rule("float", "b2/conv")]))
    out = tmp_path / f"out.{format}"
    data = tmp_path / "data.npz"
    np.savez(data, image=images(saved(format, tmp_path), 40)["image"])
    done = run(source, Options(output=out, precision="int8", calibration=data, rules=path, max_drop=5))
    manifest = artifacts.read(out).manifest
    assert manifest is not None
    assert manifest.provenance.options["rules"][0]["precision"] == "int16x8"
    assert [one.rsplit(": ", 1)[1] for one in manifest.lifted].count("float") == 1
    assert done.to_dict()["lifted"] == list(manifest.lifted)
    assert any("b2/conv" in one for one in manifest.float_ops)
    with edgekit.load(out) as model:
        assert replay(model).passed


def test_rules_need_a_static_precision(tmp_path):
    source = Path(saved("onnx", tmp_path).path)
    with pytest.raises(UsageError) as error:
        run(source, Options(to="onnx", precision="fp16", rules=({"precision": "float"},)))
    assert error.value.code == "rules-precision"


def test_a_relu_goes_with_its_convolution(tmp_path):
    graph = saved("onnx", tmp_path)
    model = onnx.load(graph.path)
    found = onnx_lifts.match(model, [Rule("float", "b1/conv")], "int8").settle(model)
    assert set(found) == {"b1/conv/sum", "b1/relu"}
