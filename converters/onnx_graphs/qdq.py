"""Static quantization of an ONNX graph by onnxruntime's QDQ quantizer, placed so that onnxruntime fuses it.

Which ops are quantized is one rule with three classes, each a set below:

- INTEGER ops have 8-bit kernels in onnxruntime's CPU provider. They and the moves between them are quantized.
- WRAPPED ops are element-wise, normalize or reduce, and have none. Their inputs and outputs are stored in 8 bits like
  any others, so that the file holds integers from end to end and another engine may compute them as such;
  onnxruntime computes them in float in between. They count as quantized; a note lists them.
- All others compute on floats that no grid of 256 values should touch (recurrent state, bodies of loops, foreign ops,
  comparisons): "op-not-quantizable", unless the user allows it; then they stay as they are and are listed too. But
  comparisons of the model's own inputs with constants (masks, signs of missing values) read no grid in the first place.

Activations are asymmetric *uint8*, not int8. Both hold the same values with the same error, and Arm has kernels for
both. On x86 onnxruntime fuses no convolution with int8 activations: it turns int8 into uint8 first and gives up on
every tensor with two readers, that is on every residual block (1.32, ResNet-8: 3 of 9 convolutions fused and 187 us
instead of 9 of 9 and 90 us; its float takes 137). Weights are symmetric int8, a scale an output channel.

The trap of u8 x s8 products: x86 without VNNI adds two of them in 16 bits, which saturate. Arm does not. Weights of 7
bits (`reduce_range`) avoid it at the cost of accuracy on every board, so they are for devices that need them
(`edgekit.saturation`).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from edgekit.converters.onnx_graphs import graph as onnx_graph
from edgekit.converters.onnx_graphs.graph import BYSTANDERS, FLOAT32, FLOATS, View, has_subgraph
from edgekit.converters.stages import Range
from edgekit.errors import ConversionError, some

INTEGER = frozenset({
    "Conv", "Gemm", "MatMul", "Add", "Mul", "AveragePool", "GlobalAveragePool", "MaxPool", "Concat", "Relu", "Clip",
    "LeakyRelu", "Sigmoid", "Softmax", "Resize", "Where", "ArgMax", "ReduceMax", "ReduceMin", "Pad",
})  # fmt: skip

WRAPPED = frozenset({
    "Abs", "Acos", "Asin", "Atan", "BatchNormalization", "Ceil", "Celu", "ConvTranspose", "Cos", "Div", "Elu", "Erf",
    "Exp", "Floor", "Gelu", "GlobalMaxPool", "GroupNormalization", "HardSigmoid", "HardSwish", "InstanceNormalization",
    "LRN", "LayerNormalization", "Log", "LogSoftmax", "LpNormalization", "LpPool", "Max", "Mean",
    "MeanVarianceNormalization", "Min", "Mish", "Neg", "PRelu", "Pow", "RMSNormalization", "Reciprocal", "ReduceL1",
    "ReduceL2", "ReduceMean", "ReduceSum", "ReduceSumSquare", "Round", "Selu", "Sign", "Sin", "Softplus", "Softsign",
    "Sqrt", "Sub", "Sum", "Swish", "Tan", "Tanh", "ThresholdedRelu",
})  # fmt: skip

_MOVED = (
    "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Gather", "GatherElements", "Split", "Expand",
    "Tile",
)  # fmt: skip
"""Moves that onnxruntime does on the integers."""


_COMPARED = frozenset({"Equal", "Greater", "GreaterOrEqual", "IsInf", "IsNaN", "Less", "LessOrEqual"})


def quantize(
    model: Any,
    ranges: Mapping[str, Range],
    *,
    activations: str,
    allow_float_ops: bool,
    observable: frozenset[str],
    lifted: Mapping[str, str] | None = None,
    weight_bits: int = 8,
) -> tuple[Any, list[str]]:
    """Insert QuantizeLinear and DequantizeLinear.

    Args:
        model: Optimized and rewritten (`onnx_graphs.graph.optimize`, `onnx_graphs.rewrite.rewrite`); changed in place.
        ranges: Of the float tensors that are not constants.
        activations: "uint8" or "int16".
        allow_float_ops: Leave what is not quantizable in float.
        observable: The tensors of the float file. Others came to be while it was optimized (onnxruntime spells some
            ops out: HardSwish becomes HardSigmoid and Mul); nobody could observe them, they stay in float.
        lifted: Tensors whose nodes rules take to another precision; those stay floats here.
        weight_bits: 8 or 7.

    Returns:
        The model, and what stayed in float because it is not quantizable: "LSTM (hidden)".

    Raises:
        ConversionError: `op-not-quantizable`, `range-missing`, `range-not-finite`, `quantizer-failed`.
    """
    unbounded = sorted(
        name for name, seen in ranges.items() if not (math.isfinite(seen.min) and math.isfinite(seen.max))
    )
    if unbounded:
        raise ConversionError("range-not-finite", f"calibration saw infinite values in {', '.join(unbounded[:5])}")
    for number, node in enumerate(model.graph.node):
        node.name = f"n{number}"
    onnx_graph.declare(model, ranges)
    view = View(model)
    kinds = {node.name: classify(node, view) for node in model.graph.node}
    kinds |= {node.name: "lifted" for node in model.graph.node if any(name in (lifted or {}) for name in node.output)}
    foreign = [describe(node) for node in model.graph.node if kinds[node.name] == "foreign"]
    if foreign and not allow_float_ops:
        raise ConversionError(
            "op-not-quantizable", f"{len(foreign)} ops cannot be quantized: {some(foreign, 8)}", ops=foreign
        )
    known = onnx_graph.propagate(model, ranges)
    _wrap_unobserved(model, view, kinds, known, observable)
    quantizer = _quantizer(model, known, kinds, activations, weight_bits)
    for name in _wrapped_tensors(model, view, kinds):
        if name in known:
            quantizer.quantize_activation_tensor(name)
    for node in model.graph.node:
        if node.op_type == "ConvTranspose" and kinds[node.name] == "wrapped" and node.input[1] in view.constants:
            quantizer.quantize_weight_tensor_per_channel(node.input[1], 1)
    with _quiet():
        try:
            quantizer.quantize_model()
        except (ValueError, TypeError, KeyError, IndexError) as error:
            message = f"onnxruntime's quantizer refused the graph: {error}"
            raise ConversionError("quantizer-failed", message) from error
    quantized = quantizer.model.model
    onnx_graph.sort(quantized)
    return quantized, foreign


def classify(node: Any, view: View) -> str:
    """Class of a node by the module header: "integer", "wrapped", "foreign"; or "idle": it computes no floats."""
    if has_subgraph(node) or node.domain:
        return "foreign"
    kinds = {view.type(name) for name in (*node.input, *node.output) if name} & FLOATS
    if not kinds or node.op_type in BYSTANDERS - INTEGER:
        return "idle"
    if kinds != {FLOAT32}:
        return "foreign"
    if all(_counted(name, view) for name in node.input if name) and all(_whole(name, view) for name in node.output):
        return "idle"
    if node.op_type in _COMPARED and all(_raw(name, view) for name in node.input if name):
        return "idle"
    if node.op_type in INTEGER and _safe(node, view):
        return "integer"
    return "wrapped" if node.op_type in WRAPPED else "foreign"


def _raw(name: str, view: View) -> bool:
    """Whether a tensor is a constant or the model's own input, perhaps moved for comparisons alone: nothing puts it on
    a grid, so that they decide as in the source, and what they answer is no float.
    """
    if name in view.constants or name in view.inputs:
        return True
    maker = view.producer.get(name)
    if maker is None or maker.op_type not in _MOVED:
        return False
    only = all(node.op_type in _COMPARED for node in view.consumers.get(name, ())) and name not in view.outputs
    return only and _raw(maker.input[0], view)


def _counted(name: str, view: View) -> bool:
    """Whether a tensor is a constant or holds integers, perhaps as floats: exporters compare indices that way."""
    maker = view.producer.get(name)
    if maker is not None and maker.op_type == "Cast":
        return _whole(maker.input[0], view)
    return name in view.constants or _whole(name, view)


def _whole(name: str, view: View) -> bool:
    """Whether a tensor is known to hold something else than floats."""
    return view.type(name) not in {0, *FLOATS}


def describe(node: Any) -> str:
    """A node for messages: "Exp (boxes)"."""
    return f"{node.op_type} ({next((name for name in node.output if name), node.name)})"


def _safe(node: Any, view: View) -> bool:
    """Whether constants of a node can be put on a grid: masks of minus infinity cannot."""
    values = (view.array(name) for name in node.input)
    return all(value is None or value.dtype.kind != "f" or bool(np.isfinite(value).all()) for value in values)


def _wrap_unobserved(
    model: Any, view: View, kinds: dict[str, str], known: Mapping[str, Range], observable: frozenset[str]
) -> None:
    """Make ops beside tensors that nobody could observe "wrapped"; refuse those that should have been observed."""
    missing = []
    for node in model.graph.node:
        if kinds[node.name] in ("integer", "wrapped"):
            real = [name for name in (*node.input, *node.output) if name and view.floating(name)]
            unknown = [name for name in real if name not in known and name not in view.constants]
            missing += [name for name in unknown if name in observable]
            kinds[node.name] = "wrapped" if unknown else kinds[node.name]
    if missing:
        raise ConversionError(
            "range-missing",
            f"{len(set(missing))} tensors were not observed, among them {missing[0]}",
            tensors=sorted(set(missing)),
        )


def _quantizer(
    model: Any, ranges: Mapping[str, Range], kinds: Mapping[str, str], activations: str, weight_bits: int
) -> Any:
    from onnxruntime.quantization import CalibrationMethod, QuantType
    from onnxruntime.quantization.calibrate import TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    # Says that types are inferred already; otherwise the quantizer does it again by way of a temporary file.
    model.metadata_props.add(key="onnx.infer", value="onnxruntime.quant")
    data = {name: (np.float32(seen.min), np.float32(seen.max)) for name, seen in ranges.items()}
    with _quiet():
        return QDQQuantizer(
            model,
            per_channel=True,
            reduce_range=weight_bits == 7,
            weight_qType=QuantType.QInt8,
            activation_qType={"uint8": QuantType.QUInt8, "int16": QuantType.QInt16}[activations],
            tensors_range=TensorsData(CalibrationMethod.MinMax, data),
            nodes_to_quantize=[],
            nodes_to_exclude=_excluded(model, kinds),
            op_types_to_quantize=sorted({*INTEGER, *_MOVED}),
            extra_options={
                "ActivationSymmetric": activations == "int16",
                "TensorQuantOverrides": _per_tensor(model),
            },
        )


def _excluded(model: Any, kinds: Mapping[str, str]) -> list[str]:
    """Nodes that the quantizer should leave to us: not integer, or a clipping that it would drop wrongly."""
    view = View(model)
    return [
        node.name
        for node in model.graph.node
        if (kinds[node.name] != "integer" and (node.op_type not in _MOVED or kinds[node.name] == "lifted"))
        or (node.op_type == "Clip" and not _saturates(node, view))
    ]


def _per_tensor(model: Any) -> dict[str, list[dict[str, Any]]]:
    """Weights that get one scale: MatMul takes one a column of the right matrix, not of stacks, not of the left."""
    view = View(model)
    return {
        name: [{}]
        for node in model.graph.node
        if node.op_type == "MatMul"
        for name in node.input
        if name in view.constants and (view.rank(name) != 2 or name == node.input[0])
    }


def _saturates(node: Any, view: View) -> bool:
    """Whether a Clip can be left to the integers' own limits, whose range always holds zero: Clip(1, 5) cannot."""
    low, high = ([*node.input[1:3], "", ""])[:2]
    if any(name and name not in view.constants for name in (low, high)):
        return False
    least, most = view.array(low), view.array(high)
    return (least is None or float(least) <= 0) and (most is None or float(most) >= 0)


def _wrapped_tensors(model: Any, view: View, kinds: Mapping[str, str]) -> Iterator[str]:
    """Tensors to quantize besides those that the quantizer chooses.

    Inputs of the model, so that moves in front of the first op are done on integers; both sides of wrapped ops,
    except their constants (scales and offsets of a normalization stay in float, where they are used).
    """
    yield from (value.name for value in model.graph.input if _feeds_integers(value.name, view, kinds))
    for node in model.graph.node:
        clipped = kinds[node.name] == "integer" and node.op_type == "Clip" and not _saturates(node, view)
        if kinds[node.name] == "wrapped" or clipped:
            names = [node.input[0], *node.output] if clipped else [*node.input, *node.output]
            yield from (name for name in names if name and view.floating(name) and name not in view.constants)


def _feeds_integers(name: str, view: View, kinds: Mapping[str, str]) -> bool:
    """Whether a float tensor reaches, over moves, an op that will be quantized."""
    if not view.floating(name):
        return False
    return any(
        kinds[node.name] in ("integer", "wrapped")
        or (node.op_type in _MOVED and any(_feeds_integers(output, view, kinds) for output in node.output if output))
        for node in view.consumers.get(name, [])
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence hints of the quantizer: it logs to the root logger, which would set up a handler if there were none."""
    root = logging.getLogger()
    silent = logging.NullHandler()
    before = root.manager.disable
    root.addHandler(silent)
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
        root.removeHandler(silent)
