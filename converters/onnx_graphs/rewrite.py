"""Rewritings of a float ONNX graph into ops that have 8-bit kernels in onnxruntime. The function stays the same.

Each is exact up to float rounding and keeps the names of observed tensors:

- ReduceMean over all of H and W becomes GlobalAveragePool (and Flatten), and so does AveragePool over all of them: the
  quantizer gives AveragePool its input's scale, though an average of a whole map is several times smaller;
- subtracting or dividing by a constant becomes adding or multiplying;
- a BatchNorm that could not be folded (it follows an Add) becomes a 1x1 depthwise Conv, whose one weight a channel is
  exact in int8 with a scale a channel;
- a PRelu with one slope becomes LeakyRelu;
- whether a Softmax is no number (as PyTorch asks where a mask leaves nothing) is not asked: no integer is;
- a Gemm's bias of shape [1, N] becomes [N]: onnxruntime's per-channel quantizer fails on any other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.converters.calibration.masks import nearest
from edgekit.converters.onnx_graphs import graph as onnx_graph
from edgekit.converters.onnx_graphs.graph import View, attribute

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from edgekit.converters.stages import Range

    Rewriting = Callable[["_Editor", Any], bool]


class _Editor:
    """A graph being rewritten: new constants and nodes get names that are not taken."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.view = View(model)
        self.nodes: list[Any] = []
        self._taken = set(self.view.constants) | set(self.view.producer) | self.view.inputs

    def name(self, base: str) -> str:
        """A free tensor name."""
        name = base
        number = 1
        while name in self._taken:
            name, number = f"{base}_{number}", number + 1
        self._taken.add(name)
        return name

    def constant(self, base: str, value: NDArray[Any]) -> str:
        """Add a constant; its name."""
        tensor = onnx_graph.constant(self.name(base), value)
        self.model.graph.initializer.append(tensor)
        return str(tensor.name)

    def add(self, op: str, inputs: list[str], outputs: list[str], **attributes: Any) -> None:
        """Add a node of the standard domain after those so far."""
        from onnx import helper

        self.nodes.append(helper.make_node(op, inputs, outputs, **attributes))


def near_constants(model: Any, ranges: Mapping[str, Range]) -> None:
    """Bring constants that lie far below what integers show of a result near to it, in place: masks of attention."""
    edit = _Editor(model)
    for node in model.graph.node:
        if node.op_type not in ("Where", "Add", "Mul") or node.domain or node.output[0] not in ranges:
            continue
        operands = range(len(node.input))[-2:]
        for at, beside in (operands, operands[::-1]):
            values = edit.view.array(node.input[at])
            if values is None or values.dtype != np.float32 or not values.size:
                continue
            least = nearest(node.op_type, ranges[node.output[0]], ranges.get(node.input[beside]))
            if float(values.min()) < least:
                node.input[at] = edit.constant(f"{node.output[0]}_near", np.maximum(values, np.float32(least)))


def rewrite(model: Any) -> Any:
    """Apply all rewritings of the module header; the model is changed in place and returned with types inferred."""
    editor = _Editor(model)
    for node in list(model.graph.node):
        rule = _RULES.get(node.op_type) if not node.domain else None
        if rule is None or not rule(editor, node):
            editor.nodes.append(node)
    onnx_graph.set_nodes(model, editor.nodes)
    return onnx_graph.infer_types(model)


def _reduce_mean(edit: _Editor, node: Any) -> bool:
    axes = edit.view.array(node.input[1]) if len(node.input) > 1 else attribute(node, "axes")
    rank = edit.view.rank(node.input[0])
    if axes is None or rank != 4 or sorted(int(axis) % rank for axis in axes) != [2, 3]:
        return False
    if attribute(node, "keepdims", 1):
        edit.add("GlobalAveragePool", [node.input[0]], [node.output[0]])
    else:
        pooled = edit.name(f"{node.output[0]}_pooled")
        edit.add("GlobalAveragePool", [node.input[0]], [pooled])
        edit.add("Flatten", [pooled], [node.output[0]], axis=1)
    return True


def _whole_pool(edit: _Editor, node: Any) -> bool:
    spatial = edit.view.sizes(node.input[0])[2:]
    padded = any(attribute(node, "pads", ())) or attribute(node, "auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID")
    wide = any(step > 1 for step in attribute(node, "dilations", ()))
    if not spatial or padded or wide or list(spatial) != list(attribute(node, "kernel_shape")):
        return False
    edit.add("GlobalAveragePool", [node.input[0]], [node.output[0]])
    return True


def _subtract(edit: _Editor, node: Any) -> bool:
    value = edit.view.array(node.input[1])
    if value is None or value.dtype != np.float32 or node.input[0] in edit.view.constants:
        return False
    edit.add("Add", [node.input[0], edit.constant(f"{node.input[1]}_negated", -value)], [node.output[0]])
    return True


def _divide(edit: _Editor, node: Any) -> bool:
    value = edit.view.array(node.input[1])
    if value is None or value.dtype != np.float32 or node.input[0] in edit.view.constants:
        return False
    with np.errstate(all="ignore"):
        inverse = np.float32(1) / value
    if not np.isfinite(inverse).all():
        return False
    edit.add("Mul", [node.input[0], edit.constant(f"{node.input[1]}_inverse", inverse)], [node.output[0]])
    return True


def _normalize(edit: _Editor, node: Any) -> bool:
    parts = [edit.view.array(name) for name in node.input[1:5]]
    rank = edit.view.rank(node.input[0])
    outputs = [name for name in node.output if name]
    if rank not in (3, 4, 5) or len(outputs) != 1 or attribute(node, "training_mode", 0):
        return False
    if any(part is None or part.dtype != np.float32 for part in parts):
        return False
    scale, bias, mean, variance = (part.astype(np.float64) for part in parts if part is not None)
    factor = scale / np.sqrt(variance + attribute(node, "epsilon", 1e-5))
    weight = factor.astype(np.float32).reshape(-1, 1, *[1] * (rank - 2))
    names = [
        edit.constant(f"{node.output[0]}_factor", weight),
        edit.constant(f"{node.output[0]}_offset", (bias - mean * factor).astype(np.float32)),
    ]
    edit.add("Conv", [node.input[0], *names], [node.output[0]], group=len(factor), kernel_shape=[1] * (rank - 2))
    return True


def _prelu(edit: _Editor, node: Any) -> bool:
    slope = edit.view.array(node.input[1])
    if slope is None or slope.dtype != np.float32 or not slope.size or np.ptp(slope) != 0:
        return False
    edit.add("LeakyRelu", [node.input[0]], [node.output[0]], alpha=float(slope.flat[0]))
    return True


def _flatten_bias(edit: _Editor, node: Any) -> bool:
    bias = edit.view.array(node.input[2]) if len(node.input) == 3 and node.input[2] else None
    weight = edit.view.array(node.input[1])
    if bias is None or weight is None or bias.ndim == 1:
        return False
    columns = weight.shape[0 if attribute(node, "transB", 0) else 1]
    if bias.size not in (1, columns):
        return False
    flat = np.broadcast_to(bias.reshape(-1), (columns,))
    node.input[2] = edit.constant(f"{node.input[2]}_flat", np.array(flat))
    return False


def _drop_zero_pad(edit: _Editor, node: Any) -> bool:
    """A padding value of zero is the default; said explicitly, it would be quantized as a tensor of its own."""
    if len(node.input) > 2 and node.input[2]:
        value = edit.view.array(node.input[2])
        if value is not None and not value.any():
            node.input[2] = ""
    return False


def _never_nan(edit: _Editor, node: Any) -> bool:
    """Where(IsNaN(y), c, y) of y = Softmax(x)."""
    asked, y = edit.view.producer.get(node.input[0]), node.input[2]
    maker = edit.view.producer.get(y)
    if asked is None or asked.op_type != "IsNaN" or asked.input[0] != y or maker is None or maker.op_type != "Softmax":
        return False
    others = [reader for name in (y, asked.output[0]) for reader in edit.view.consumers.get(name, [])]
    if any(reader not in (asked, node) for reader in others) or {y, asked.output[0]} & edit.view.outputs:
        return False
    edit.nodes = [each for each in edit.nodes if each is not asked]
    maker.output[0] = node.output[0]
    return True


_RULES: dict[str, Rewriting] = {
    "Where": _never_nan,
    "ReduceMean": _reduce_mean,
    "AveragePool": _whole_pool,
    "Sub": _subtract,
    "Div": _divide,
    "BatchNormalization": _normalize,
    "PRelu": _prelu,
    "Gemm": _flatten_bias,
    "Pad": _drop_zero_pad,
}
