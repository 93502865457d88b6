"""Multiply-accumulates of ONNX's ops, and where their weights stand.

Taps that fall on padding are counted, and additions of biases are not, as is usual for published figures.
Operands: https://onnx.ai/onnx/operators and onnxruntime's docs/ContribOperators.md.
"""

from __future__ import annotations

import math

from edgekit.formats.onnx_model import Node
from edgekit.formats.onnx_shapes import Shapes, UnknownError

WEIGHTED = {
    "Conv": (0, 1), "ConvTranspose": (0, 1), "Gemm": (0, 1), "MatMul": (0, 1), "LSTM": (0, 1), "GRU": (0, 1),
    "RNN": (0, 1), "ConvInteger": (0, 1), "MatMulInteger": (0, 1), "QLinearConv": (0, 3), "QLinearMatMul": (0, 3),
    "com.microsoft:FusedConv": (0, 1), "com.microsoft:FusedGemm": (0, 1), "com.microsoft:FusedMatMul": (0, 1),
    "com.microsoft:QGemm": (0, 3), "com.microsoft:DynamicQuantizeMatMul": (0, 1), "com.microsoft:MatMulNBits": (0, 1),
    "com.microsoft:MatMulIntegerToFloat": (0, 1), "com.microsoft:DynamicQuantizeLSTM": (0, 1),
    "ai.onnx.ml:LinearClassifier": (0, 0), "ai.onnx.ml:LinearRegressor": (0, 0),
}  # fmt: skip
"""Ops that multiply by weights -> positions of data and weights (the latter in attributes for ai.onnx.ml)."""

_UNKNOWN = frozenset({
    "Attention", "DFT", "DeformConv", "Einsum", "Loop", "If", "Scan", "STFT", "SequenceMap", "MelWeightMatrix",
    "ai.onnx.ml:SVMClassifier", "ai.onnx.ml:SVMRegressor",
})  # fmt: skip
"""Ops of the standard domains that multiply by an amount that is not derived here."""

_CONTRIB_WITHOUT = frozenset({
    "BiasGelu", "BiasSoftmax", "DequantizeLinear", "FastGelu", "Gelu", "LayerNormalization", "NhwcMaxPool",
    "QLinearAdd", "QLinearAveragePool", "QLinearConcat", "QLinearGlobalAveragePool", "QLinearLeakyRelu", "QLinearMul",
    "QLinearReduceMean", "QLinearSigmoid", "QLinearSoftmax", "QLinearWhere", "QuantizeLinear", "QuickGelu",
    "SimplifiedLayerNormalization", "SkipLayerNormalization", "SkipSimplifiedLayerNormalization",
})  # fmt: skip
"""Of onnxruntime's own ops, those known to multiply nothing by weights."""


def count(node: Node, at: Shapes) -> int | None:
    """Multiply-accumulates of one node; 0 for ops that do not multiply by weights, None when it cannot be known."""
    kind = node.kind
    if kind not in WEIGHTED:
        standard = node.domain in ("", "ai.onnx", "ai.onnx.ml")
        harmless = standard or (node.domain == "com.microsoft" and node.op in _CONTRIB_WITHOUT)
        return 0 if harmless and kind not in _UNKNOWN else None
    try:
        return _weighted(node, at)
    except UnknownError:
        return None


def _weighted(node: Node, at: Shapes) -> int:
    data = at.shape(node.input(0))
    if node.domain == "ai.onnx.ml":  # coefficients for every feature and class, in attributes
        return math.prod(data[:-1]) * node.counts.get("coefficients", 0)
    weights = at.shape(node.input(WEIGHTED[node.kind][1]))
    if node.op in ("LSTM", "GRU", "RNN", "DynamicQuantizeLSTM"):
        # data [steps, batch, in] or [batch, steps, in]; W, R and the peepholes P hold all gates of all directions
        peepholes = math.prod(at.shape(node.input(7))) if node.op.endswith("LSTM") and node.input(7) else 0
        return math.prod(at.shape(node.input(0), 3)[:2]) * (
            math.prod(weights) + math.prod(at.shape(node.input(2))) + peepholes
        )
    if node.op == "ConvTranspose":  # weights [in, out / groups, ...]
        return math.prod(data) * math.prod(weights[1:])
    output = at.shape(node.outputs[0] if node.outputs else "")
    if node.op.endswith(("Conv", "ConvInteger")):  # weights [out, in / groups, ...]
        return math.prod(output) * math.prod(weights[1:])
    inner = data[-2 if node.ints.get("transA") and len(data) > 1 else -1] if data else 1
    return math.prod(output) * inner
