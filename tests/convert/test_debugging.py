"""`edgekit debug`: culprits are ranked first and named by their source's names, in both formats; lies are found."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from generators import result
from onnx import TensorProto, helper, numpy_helper

from edgekit import artifact as artifacts
from edgekit import cli, debugging
from edgekit.converters import load_onnx, lower_onnx_onnx, lower_onnx_tflite, quantize_onnx, quantize_tflite
from edgekit.converters.calibrate import calibrate
from edgekit.converters.debugging import naming
from edgekit.converters.debugging.examine import examine
from edgekit.converters.debugging.pictures import ExamineRequest
from edgekit.converters.debugging.results import Examination
from edgekit.converters.sources import identify
from edgekit.converters.stages import CalibrationOptions, Graph, QuantizeOptions, Ranges, Source
from edgekit.converters.tflite_graphs import graph as files
from edgekit.data_ref import DataRef
from edgekit.errors import UsageError
from edgekit.precision import precisions

pytest.importorskip("ai_edge_litert", reason="comes with the tflite extra")
pytest.importorskip("ai_edge_quantizer", reason="comes with the convert extra")
pytest.importorskip("onnxruntime", reason="comes with the onnx extra")

FORMATS = ("tflite", "onnx")
BOTH = pytest.mark.parametrize("format", FORMATS)
LOWERINGS: dict[str, Any] = {"tflite": lower_onnx_tflite, "onnx": lower_onnx_onnx}
QUANTIZERS: dict[str, Any] = {"tflite": quantize_tflite, "onnx": quantize_onnx}


# -- Nets, and what the pipeline does with them ------------------------------------------------------------------------


class Net:
    """An ONNX graph in the making; weights are seeded."""

    def __init__(self) -> None:
        self.random = np.random.default_rng(3)
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}

    def conv(self, x: str, name: str, out: int, inside: int, kernel: int = 3, *, relu: bool = True) -> str:
        weight = self.random.normal(size=(out, inside, kernel, kernel)) / np.sqrt(inside * kernel * kernel / 2)
        self.constants[f"{name}.weight"] = weight.astype(np.float32)
        self.constants[f"{name}.bias"] = (self.random.normal(size=out) / 10).astype(np.float32)
        pads = [kernel // 2] * 4
        made = self.node("Conv", [x, f"{name}.weight", f"{name}.bias"], name, pads=pads)
        return self.node("Relu", [made], f"{name}_act") if relu else made

    def node(self, op: str, inputs: list[str], name: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [f"{name}_out"], name, **attributes))
        return f"{name}_out"

    def finish(self, *outputs: str, size: int = 12) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes, "net",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, size, size])],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
            [numpy_helper.from_array(value, name) for name, value in self.constants.items()],
        )  # fmt: skip
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        return onnx.shape_inference.infer_shapes(model)


def chain(*, culprit: str | None = None, channel: int = 2, factor: float = 100.0) -> onnx.ModelProto:
    """Five convolutions, a branch among them; one channel of one layer scaled up, and down again by its reader."""
    net = Net()
    x = net.conv("image", "stem", 16, 3)
    x = net.conv(x, "first", 16, 16)
    y = net.conv(x, "second", 16, 16)
    y = net.conv(y, "third", 16, 16, relu=False)
    z = net.node("Add", [x, y], "join")
    z = net.conv(z, "last", 16, 16)
    pooled = net.node("GlobalAveragePool", [z], "pool")
    flat = net.node("Flatten", [pooled], "flat")
    net.constants["head.weight"] = net.random.normal(size=(16, 6)).astype(np.float32)
    out = net.node("MatMul", [flat, "head.weight"], "head")
    if culprit is not None:
        reader = {"stem": "first", "second": "third"}[culprit]
        for part in ("weight", "bias"):
            net.constants[f"{culprit}.{part}"][channel] *= factor
        net.constants[f"{reader}.weight"][:, channel] /= factor
    return net.finish(out)


def detector() -> onnx.ModelProto:
    """Boxes of 0..640 and scores of 0..1, joined to rows of one output."""
    net = Net()
    x = net.conv("image", "stem", 8, 3)
    boxes = net.conv(x, "boxes", 4, 8, 1, relu=False)
    scores = net.conv(x, "scores", 6, 8, 1, relu=False)
    net.constants["wide"] = np.float32([640])
    boxes = net.node("Mul", [net.node("Sigmoid", [boxes], "squash_boxes"), "wide"], "scale")
    scores = net.node("Sigmoid", [scores], "squash_scores")
    return net.finish(net.node("Concat", [boxes, scores], "join", axis=1))


def images(count: int = 24, size: int = 12) -> np.ndarray:
    return np.random.default_rng(11).normal(size=(count, 3, size, size)).astype(np.float32)


class Made:
    """A source, its float graph and an artifact, made in this process."""

    def __init__(self, model: onnx.ModelProto, format: str, folder: Path, precision: str = "int8") -> None:
        path = folder / "source.onnx"
        onnx.save(model, path)
        self.source = load_onnx.load(Source(str(path), "onnx", "", path.stat().st_size))
        self.folder = folder
        self.data = folder / "data.npz"
        np.savez(self.data, x=images())
        self.lowered: Graph = LOWERINGS[format].lower(self.source, folder / f"float.{format}")
        self.own = folder / "own.onnx"
        self.own.write_bytes(self.source.handle.SerializeToString())
        known = precisions.get(precision)
        self.artifact = self.lowered
        if precision != "fp32":
            ranges = self._ranges() if known.calibrated else None
            options = QuantizeOptions("float", allow_float_ops=False)
            target = folder / f"made.{format}"
            self.artifact = QUANTIZERS[format].quantize(self.lowered, ranges, known, options, target)

    def _ranges(self, observer: str = CalibrationOptions().observer) -> Ranges:
        found: Ranges = result(calibrate(self.lowered, [{"image": images()}], CalibrationOptions(observer)))
        return found

    def examined(self, *, floats: bool = False, **changes: Any) -> Examination:
        own = Graph("onnx", str(self.own), self.source.facts.inputs, self.source.facts.outputs)
        request = ExamineRequest(
            path=self.artifact.path,
            format=self.artifact.format,
            inputs=self.artifact.inputs,
            outputs=self.artifact.outputs,
            reference=own if floats else self.lowered,
            entrance=self.source.facts.inputs,
            lowered=self.lowered,
            data=DataRef(str(self.data), samples=8, needs_label=False),
            answers=None,
            names=naming.collect(self.source),
            floats=floats,
        )
        found: Examination = result(examine(replace(request, **changes)))
        return found


# -- Quantized artifacts -----------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("culprit", ["stem", "second"])
def test_a_layer_given_a_hundredfold_range_ranks_first(culprit, format, tmp_path):
    plain = Made(chain(), format, tmp_path).examined()
    assert "outlier-channel" not in {reason.code for layer in plain.layers for reason in layer.reasons}

    found = Made(chain(culprit=culprit), format, tmp_path).examined()
    worst = found.layers[0]
    assert worst.source_layer == culprit
    assert worst.reasons[0].code == "outlier-channel"
    assert "channel 2" in worst.reasons[0].text
    assert worst.contribution > 0.5
    assert found.unpaired == ()


def rows(*, culprit: str, factor: float = 100.0) -> onnx.ModelProto:
    """Dense layers on rows of twelve, as in a transformer: channels lie last, in both formats. One is scaled up where
    `wide` makes it, before a Relu, or where `value` does, before a sum over the rows that softmax weighs.
    """
    net, random = Net(), np.random.default_rng(5)
    net.constants["rows"] = np.array([-1, 12, 36])

    def dense(x: str, name: str, inside: int, out: int) -> str:
        net.constants[f"{name}.weight"] = (random.normal(size=(inside, out)) / np.sqrt(inside)).astype(np.float32)
        net.constants[f"{name}.bias"] = (random.normal(size=out) / 10).astype(np.float32)
        return net.node("Add", [net.node("MatMul", [x, f"{name}.weight"], name), f"{name}.bias"], f"{name}_sum")

    x = dense(net.node("Reshape", ["image", "rows"], "cut"), "stem", 36, 24)
    y = dense(net.node("Relu", [dense(x, "wide", 24, 32)], "wide_act"), "narrow", 32, 24)
    scores = net.node("MatMul", [x, net.node("Transpose", [y], "turn", perm=[0, 2, 1])], "scores")
    mixed = net.node("MatMul", [net.node("Softmax", [scores], "weigh", axis=-1), dense(y, "value", 24, 24)], "mix")
    out = net.node("ReduceMean", [dense(mixed, "head", 24, 6)], "mean", axes=[1], keepdims=0)
    for part in ("weight", "bias"):
        net.constants[f"{culprit}.{part}"][..., 7] *= factor
    net.constants[{"wide": "narrow.weight", "value": "head.weight"}[culprit]][7] /= factor
    return net.finish(out)


@BOTH
@pytest.mark.parametrize("culprit", ["wide", "value"])
def test_channels_of_rows_lie_last_and_what_cannot_help_is_not_advised(culprit, format, tmp_path):
    found = Made(rows(culprit=culprit), format, tmp_path).examined()
    worst = found.layers[0]
    assert worst.source_layer.removesuffix("_sum") == culprit
    assert (worst.reasons[0].code, worst.spread.peaks.index(max(worst.spread.peaks))) == ("outlier-channel", 7)
    # A channel is scaled through a Relu; not through the sum that softmax weighs.
    advised = [option for option in worst.reasons[0].options if "--repair" in option]
    assert advised == (["--repair equalize"] if culprit == "wide" else [])
    codes = {layer.source_layer: [reason.code for reason in layer.reasons] for layer in found.layers}
    assert not any("kernel" in known or "weights-saturated" in known for known in codes.values())


@BOTH
def test_an_output_that_mixes_ranges_is_named_as_such(format, tmp_path):
    found = Made(detector(), format, tmp_path).examined()
    worst = next(layer for layer in found.layers if layer.source_layer == "join")
    assert worst.reasons[0].code in ("mixed-concat", "mixed-output")
    assert worst.reasons[0].options[0] == "--repair split-outputs"


@BOTH
@pytest.mark.parametrize("precision", ["int8", "int16x8", "dynamic", "fp16"])
def test_every_precision_is_compared_whole(precision, format, tmp_path):
    model = chain()
    made = Made(model, format, tmp_path, precision)
    found = made.examined()
    assert found.unpaired == ()
    names = {layer.source_layer for layer in found.layers}
    assert {"stem", "first", "second", "third", "last", "head"} <= names
    shares = [layer.contribution for layer in found.layers if layer.contribution is not None]
    assert sum(shares) == pytest.approx(1.0)
    assert shares == sorted(shares, reverse=True)
    least = {"int8": 20, "int16x8": 30, "dynamic": 20, "fp16": 50}[precision]
    for layer in found.layers:
        assert layer.cumulative.sqnr_db is None or layer.cumulative.sqnr_db > least, layer.name
        assert layer.isolated is None or layer.isolated.sqnr_db is None or layer.isolated.sqnr_db > least, layer.name


@BOTH
def test_figures_are_those_of_the_tensors_themselves(format, tmp_path):
    """The output's cumulative figures, computed again from the whole model's answers."""
    from edgekit import artifact
    from edgekit.runtimes.model import Model

    made = Made(chain(), format, tmp_path)
    layer = next(layer for layer in made.examined().layers if layer.is_output)
    from edgekit.data import draw

    feeds = {"image": images()[draw(24, 8, 0)]}
    answers = {}
    for graph in (made.artifact, made.lowered):
        with Model.from_artifact(artifact.read(graph.path), inputs=graph.inputs, outputs=graph.outputs) as model:
            answers[graph.path] = next(iter(model.run(feeds).values())).astype(np.float64)
    noisy, plain = answers.values()
    error = noisy - plain
    assert layer.cumulative.sqnr_db == pytest.approx(10 * np.log10((plain**2).sum() / (error**2).sum()), abs=0.01)
    assert layer.cumulative.max_abs_error == pytest.approx(np.abs(error).max(), rel=1e-4)
    cosine = (noisy * plain).sum() / np.sqrt((noisy**2).sum() * (plain**2).sum())
    assert layer.cumulative.cosine == pytest.approx(cosine, abs=1e-6)
    assert (layer.spread.low, layer.spread.high) == pytest.approx((plain.min(), plain.max()), rel=1e-5)


@BOTH
def test_a_range_that_calibration_cut_is_named(format, tmp_path):
    made = Made(chain(), format, tmp_path)
    cut = made._ranges()
    name = next(layer for layer in made.examined().layers if layer.source_layer == "second").reference
    narrow = {**cut.tensors, name: replace(cut.tensors[name], max=cut.tensors[name].max / 8)}
    made.artifact = QUANTIZERS[format].quantize(
        made.lowered, replace(cut, tensors=narrow), precisions.get("int8"), QuantizeOptions("float"), tmp_path / "cut"
    )
    worst = made.examined().layers[0]
    assert worst.source_layer == "second"
    assert worst.reasons[0].code == "clipped"
    assert worst.spread.saturation > 0.01


@BOTH
def test_scores_that_a_sigmoid_tells_nothing_apart_of_are_right(format, tmp_path):
    net = Net()
    x = net.conv(net.conv("image", "stem", 16, 3), "scores", 4, 16, relu=False)
    net.constants["scores.weight"] *= 8
    net.constants["scores.bias"] -= 20
    made = Made(net.finish(net.node("Sigmoid", [x], "mask")), format, tmp_path)
    made.artifact = QUANTIZERS[format].quantize(
        made.lowered, made._ranges("auto"), precisions.get("int8"), QuantizeOptions("float"), tmp_path / "auto"
    )
    scores = next(layer for layer in made.examined().layers if layer.source_layer == "scores")
    assert scores.representable[0] > -20
    assert scores.isolated.sqnr_db > 35
    assert not {reason.code for reason in scores.reasons} & {"clipped", "kernel"}


@BOTH
def test_a_foreign_file_whose_tensors_have_other_names_is_paired(format, tmp_path):
    """Without names, structure and values are left; the interface goes by its places."""
    made = Made(chain(culprit="second"), format, tmp_path)
    path = tmp_path / f"foreign.{format}"
    path.write_bytes(_anonymous(format, Path(made.artifact.path).read_bytes()))
    found = made.examined(path=str(path), inputs=(), outputs=())
    assert found.unpaired == ()
    assert found.layers[0].source_layer == "second"
    assert {layer.paired_by for layer in found.layers} & {"structure", "values"}


def _anonymous(format: str, data: bytes) -> bytes:
    if format == "tflite":
        model = files.read(data)
        for number, tensor in enumerate(model.subgraphs[0].tensors):
            tensor.name = f"t{number}".encode()
        model.signatureDefs = None
        return files.dump(model)
    proto = onnx.load_from_string(data)
    names: dict[str, str] = {"": ""}
    for node in proto.graph.node:
        for side in (node.input, node.output):
            side[:] = [names.setdefault(name, f"t{len(names)}") for name in side]
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.initializer):
        value.name = names[value.name]
    return proto.SerializeToString()


# -- Float artifacts ---------------------------------------------------------------------------------------------------


def everything() -> onnx.ModelProto:
    """One of many ops, each on a path to the output."""
    net = Net()
    x = net.conv("image", "conv", 8, 3)
    x = net.node("MaxPool", [x], "pool", kernel_shape=[2, 2], strides=[2, 2])
    y = net.node("Sigmoid", [x], "gate")
    x = net.node("Mul", [x, y], "product")
    net.constants["slope"] = np.float32([0.3])
    z = net.node("Tanh", [net.conv(x, "side", 8, 8, relu=False)], "bend")
    x = net.node("Concat", [x, z], "join", axis=1)
    net.constants["depth.weight"] = net.random.normal(size=(16, 1, 3, 3)).astype(np.float32)
    x = net.node("Conv", [x, "depth.weight"], "depth", pads=[1, 1, 1, 1], group=16)
    x = net.node("AveragePool", [x], "mean", kernel_shape=[2, 2], strides=[2, 2])
    x = net.node("Flatten", [x], "flat")
    net.constants["dense.weight"] = net.random.normal(size=(16 * 9, 5)).astype(np.float32)
    x = net.node("MatMul", [x, "dense.weight"], "dense")
    return net.finish(net.node("Softmax", [x], "probs", axis=1))


@BOTH
def test_a_right_lowering_diverges_nowhere(format, tmp_path):
    for model in (everything(), chain(), detector()):
        found = Made(model, format, tmp_path, "fp32").examined(floats=True)
        assert found.divergence is None
        assert found.diverging == ()
        assert len(found.layers) >= 7


def recurrent(hidden: int = 6) -> onnx.ModelProto:
    """Twelve steps of an LSTM, of which the last is read."""
    net, random = Net(), np.random.default_rng(0)
    net.constants["rows"], net.constants["last"] = np.array([-1, 12, 36]), np.array(-1)
    x = net.node("Transpose", [net.node("Reshape", ["image", "rows"], "cut")], "turn", perm=[1, 0, 2])
    for name, width in (("w", 36), ("r", hidden)):
        net.constants[name] = (random.normal(size=(1, 4 * hidden, width)) / np.sqrt(width)).astype(np.float32)
    x = net.node("LSTM", [x, "w", "r"], "layer", hidden_size=hidden)
    x = net.node("Gather", [x, "last"], "pick", axis=0)
    net.constants["one"] = np.array([0])
    x = net.node("Squeeze", [x, "one"], "drop")
    net.constants["head.weight"] = random.normal(size=(hidden, 3)).astype(np.float32)
    return net.finish(net.node("MatMul", [x, "head.weight"], "head"))


def test_what_is_alike_in_floats_is_not_taken_for_the_same(tmp_path):
    """Gates and states of the steps before are alike the last one, and are something else."""
    for hidden in (1, 2, 6):
        found = Made(recurrent(hidden), "tflite", tmp_path, "fp32").examined(floats=True)
        assert found.divergence is None
        assert found.diverging == ()


WRONG: dict[str, tuple[str, str]] = {
    # Operator that is planted in the place of another -> the source's node that it stands for.
    "MAX_POOL_2D>AVERAGE_POOL_2D": ("pool_out", "pool"),
    "LOGISTIC>TANH": ("gate_out", "gate"),
    "MUL>ADD": ("product_out", "product"),
    "TANH>LOGISTIC": ("bend_out", "bend"),
    "AVERAGE_POOL_2D>MAX_POOL_2D": ("mean_out", "mean"),
    "SOFTMAX>LOG_SOFTMAX": ("probs_out", "probs"),
}


@pytest.mark.parametrize("planted", WRONG)
def test_a_wrong_operator_is_found_by_the_name_of_its_node(planted, tmp_path):
    made = Made(everything(), "tflite", tmp_path, "fp32")
    output, node = WRONG[planted]
    right, wrong = planted.split(">")
    Path(made.artifact.path).write_bytes(_exchanged(Path(made.artifact.path).read_bytes(), output, right, wrong))
    found = made.examined(floats=True)
    assert found.divergence is not None
    assert found.divergence.source_layer == node
    assert found.divergence.relative_error > 1e-3
    assert found.divergence.reference.shape == found.divergence.artifact.shape
    assert found.divergence.expected != found.divergence.found


@pytest.mark.parametrize("name", ["conv", "side", "depth", "dense"])
def test_wrong_weights_are_found_by_the_name_of_their_node(name, tmp_path):
    made = Made(everything(), "tflite", tmp_path, "fp32")

    def spoil(model: Any) -> None:
        (tensor,) = (t for t in model.subgraphs[0].tensors if files.name_of(t).startswith(f"{name}_out/weights"))
        values = files.constant(model, tensor).copy()
        values.reshape(-1)[values.size // 2] += 1
        files.set_constant(model, tensor, values)

    Path(made.artifact.path).write_bytes(_edited(Path(made.artifact.path).read_bytes(), spoil))
    found = made.examined(floats=True)
    assert found.divergence is not None
    assert found.divergence.source_layer == name
    assert found.diverging[0] == found.divergence.layer


def test_a_wrong_rule_of_the_lowering_is_found(monkeypatch, tmp_path):
    """The bug stands in the lowering, so that the float graph that is lowered again has it too."""
    from edgekit.converters.onnx_to_tflite.draft import Draft

    emit = Draft.emit

    def lying(self: Draft, kind: str, *args: Any, **options: Any) -> Any:
        return emit(self, "LOGISTIC" if kind == "TANH" else kind, *args, **options)

    monkeypatch.setattr(Draft, "emit", lying)
    found = Made(everything(), "tflite", tmp_path, "fp32").examined(floats=True)
    assert found.divergence is not None
    assert (found.divergence.source_layer, found.divergence.op) == ("bend", "LOGISTIC")


def test_not_a_number_is_a_divergence(tmp_path):
    made = Made(everything(), "tflite", tmp_path, "fp32")

    def spoil(model: Any) -> None:
        (tensor,) = (t for t in model.subgraphs[0].tensors if files.name_of(t).startswith("side_out/bias"))
        files.set_constant(model, tensor, np.full_like(files.constant(model, tensor), np.nan))

    Path(made.artifact.path).write_bytes(_edited(Path(made.artifact.path).read_bytes(), spoil))
    found = made.examined(floats=True)
    assert found.divergence is not None
    assert found.divergence.source_layer == "side"
    assert found.divergence.artifact.not_finite > 0


def _edited(data: bytes, edit: Callable[[Any], None]) -> bytes:
    model = files.read(data)
    edit(model)
    return files.dump(model)


def _exchanged(data: bytes, output: str, right: str, wrong: str) -> bytes:
    def edit(model: Any) -> None:
        schema, main = files.schema(), model.subgraphs[0]
        for op in main.operators:
            name = files.name_of(main.tensors[int(op.outputs[0])])
            if files.op_name(model, op) == right and name == output:
                op.opcodeIndex = files.use_op_code(model, getattr(schema.BuiltinOperator, wrong), 1)
                if wrong == "ADD":
                    op.builtinOptionsType, op.builtinOptions = schema.BuiltinOptions.AddOptions, schema.AddOptionsT()
                if wrong == "LOG_SOFTMAX":
                    op.builtinOptionsType, op.builtinOptions = 0, None
                return
        raise AssertionError((output, right))

    return _edited(data, edit)


# -- The command -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def converted(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("converted")
    onnx.save(chain(culprit="second", factor=25), folder / "net.onnx")
    np.savez(folder / "data.npz", image=images())
    for name, repair in (("net", ["--repair", "none"]), ("repaired", ["--repair", "equalize"])):
        command = ["convert", str(folder / "net.onnx"), "-o", str(folder / f"{name}.tflite"), "--precision", "int8"]
        assert cli.run([*command, "--calibration", str(folder / "data.npz"), *repair]) == 0
    return folder


def test_channels_that_a_repair_scaled_are_compared_as_they_are(converted, capfd):
    command = ["debug", str(converted / "repaired.tflite"), "--against", str(converted / "net.onnx"), "--json"]
    assert cli.run([*command, "--data", str(converted / "data.npz"), "--samples", "12"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert any("repairs scaled channels" in note for note in found["notes"])
    for layer in found["layers"]:
        assert layer["sqnr_db"] is None or layer["sqnr_db"] > 15, layer["name"]
        assert "kernel" not in [reason["code"] for reason in layer["reasons"]]
        assert "--repair equalize" not in [option for reason in layer["reasons"] for option in reason["options"]]


def debug(converted: Path, *more: str) -> int:
    command = ["debug", str(converted / "net.tflite"), "--against", str(converted / "net.onnx")]
    return cli.run([*command, "--data", str(converted / "data.npz"), "--samples", "6", *more])


def test_the_command_prints_one_document(converted, capfd, tmp_path):
    pytest.importorskip("matplotlib", reason="comes with the report extra")
    page = tmp_path / "page.html"
    assert debug(converted, "--json", "--report", str(page)) == 0
    found = json.loads(capfd.readouterr().out)
    worst = found["layers"][0]
    assert worst["source_layer"] == "second"
    assert {"name", "sqnr_db", "isolated_sqnr_db", "cosine", "kl", "max_abs_error", "saturation", "range", "scale",
            "zero_point", "contribution", "reason", "remedy"} <= set(worst)  # fmt: skip
    assert found["samples"] == 6
    assert found["divergence"] is None
    assert found["outputs"][0]["lowered_sqnr_db"] is None or found["outputs"][0]["lowered_sqnr_db"] > 100
    assert "second" in page.read_text()


def test_the_command_speaks_to_people(converted, capfd):
    assert debug(converted, "--top", "3") == 0
    said = capfd.readouterr().out
    assert "1. second: channel 2 of 16 reaches" in said
    assert "Try --" in said
    assert debug(converted, "--layer", "thi*") == 0
    assert "worst 1 of" in capfd.readouterr().out
    assert debug(converted, "--layer", "nobody", "--json") == 2
    assert json.loads(capfd.readouterr().out)["error"]["code"] == "debug-layer-unknown"


def test_another_source_is_refused(converted, capfd, tmp_path):
    net = Net()
    one, two = (net.conv("image", name, 4, 3, relu=False) for name in "ab")
    onnx.save(net.finish(one, two), tmp_path / "other.onnx")
    command = ["debug", str(converted / "net.tflite"), "--against", str(tmp_path / "other.onnx"), "--json"]
    assert cli.run([*command, "--data", str(converted / "data.npz")]) == 2
    assert json.loads(capfd.readouterr().out)["error"]["code"] == "debug-interface"


def test_what_the_manifest_says_of_a_network_s_code_binds_no_other_source(converted, tmp_path):
    made = artifacts.read(converted / "net.tflite")
    options = {**made.manifest.provenance.options, "model": "nets:small", "signature": "serve"}
    about = replace(made.manifest, provenance=replace(made.manifest.provenance, framework="torch", options=options))
    ours = artifacts.assemble("tflite", made.model, about, made.selftest)

    def debug(**said: Any) -> debugging.Debugged:
        how = debugging.DebugOptions(samples=4, **said)
        return debugging.debug(ours, converted / "net.onnx", converted / "data.npz", how)

    assert debug().source.model is None
    with pytest.raises(UsageError, match="--model nets:mine has no use"):
        debug(model="nets:mine")
    weights = tmp_path / "net.pt"
    weights.write_bytes(b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.")
    assert debugging._as_recorded(identify(weights), ours).model == "nets:small"
    assert debugging._as_recorded(identify(weights, model="nets:mine"), ours).model == "nets:mine"
