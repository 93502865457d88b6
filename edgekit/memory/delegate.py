"""Which ops LiteRT's default delegate, XNNPACK, takes: `taken(graph)`.

Source: LiteRT, tflite/delegates/xnnpack/xnnpack_delegate.cc (the checks of its Visit...Node functions,
PrepareOpsToDelegate), and some five hundred models of one op each: ai-edge-litert 2.3.0 was asked what it left alone.
"""

from __future__ import annotations

import math
import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from edgekit.formats.graph import GraphFacts, Key, Node, Tensor
from edgekit.memory.footprint import data

INTEGERS = frozenset({"int8", "uint8"})
_RANK = 6
"""XNN_MAX_TENSOR_DIMS."""
_FUSED = range(4)
"""Activations that become part of an op: none, ReLU, ReLU between -1 and 1, ReLU6."""
_STATIC = {
    "MEAN": (1,), "SUM": (1,), "REDUCE_MAX": (1,), "REDUCE_MIN": (1,), "PAD": (1,), "TRANSPOSE": (1,), "SLICE": (1, 2),
    "RESIZE_BILINEAR": (1,), "TRANSPOSE_CONV": (0, 1), "CONV_2D": (1, 2), "DEPTHWISE_CONV_2D": (1, 2),
    "FULLY_CONNECTED": (1, 2), "RESHAPE": (1,), "PRELU": (1,), "SPLIT": (0,),
}  # fmt: skip
"""Inputs that must be constants."""


@dataclass(frozen=True)
class _Op:
    """An op with its tensors; None for one that is absent."""

    node: Node
    reads: tuple[Tensor | None, ...]
    writes: tuple[Tensor | None, ...]

    def ratio(self, at: int) -> float | None:
        """Scale of an input over that of the output; None unless both have one."""
        source, target = self.reads[at] if at < len(self.reads) else None, self.writes[0]
        if source is None or target is None or not source.scale or not target.scale:
            return None
        return source.scale / target.scale

    def option(self, name: str, default: int = 0) -> int:
        return self.node.attributes.get(name, default)


_RECENT: deque[tuple[GraphFacts, list[bool]]] = deque(maxlen=4)


def taken(graph: GraphFacts) -> list[bool]:
    """For each op whether XNNPACK runs it; of the last few graphs, for memory and time ask the same."""
    for seen, found in tuple(_RECENT):
        if seen is graph:
            return found
    found = _taken(graph)
    _RECENT.append((graph, found))
    return found


def _taken(graph: GraphFacts) -> list[bool]:
    expanded = {key for node in graph.nodes if expands(node, graph) for key in node.outputs if key is not None}
    mine = [_takes(node, graph, expanded) for node in graph.nodes]
    # Constants that are expanded stay with the interpreter when an op of its own reads them.
    read = {key for node, inside in zip(graph.nodes, mine, strict=True) if not inside for key in node.inputs}
    return [
        inside and not (expands(node, graph) and read & set(node.outputs))
        for node, inside in zip(graph.nodes, mine, strict=True)
    ]


def expands(node: Node, graph: GraphFacts) -> bool:
    """Whether an op turns a constant that is stored smaller into floats, once."""
    source = graph.tensors.get(node.inputs[0]) if node.inputs and node.inputs[0] is not None else None
    return node.kind in ("DEQUANTIZE", "DENSIFY") and source is not None and source.constant


def _takes(node: Node, graph: GraphFacts, expanded: set[Key]) -> bool:
    op = _Op(node, _tensors(node.inputs, graph), _tensors(node.outputs, graph))
    if not op.writes or op.writes[0] is None:
        return False
    if expands(node, graph):
        return True
    table, dtype = data()["xnnpack"], op.writes[0].dtype
    known = table["float"] if dtype == "float32" else table["integer"] if dtype in INTEGERS else ()
    if node.kind not in known or (dtype == "uint8" and node.kind in table["not_unsigned"]):
        return False
    if any(t is not None and len(t.shape or ()) > _RANK for t in (*op.reads, *op.writes)):
        return False
    if any(not _fixed(node, op, at, expanded) for at in _STATIC.get(node.kind, ())):
        return False
    rule = _RULES.get(node.kind)
    return op.option("activation") in _FUSED and (rule is None or rule(op))


def _fixed(node: Node, op: _Op, at: int, expanded: set[Key]) -> bool:
    """A constant, or expanded from one; an input that is absent does not matter."""
    tensor = op.reads[at] if at < len(op.reads) else None
    return tensor is None or tensor.constant or node.inputs[at] in expanded


def _tensors(keys: tuple[Key | None, ...], graph: GraphFacts) -> tuple[Tensor | None, ...]:
    return tuple(None if key is None else graph.tensors.get(key) for key in keys)


def _within(low: float, high: float, *, product: bool = False) -> Callable[[_Op], bool]:
    """Scales of integers near enough to each other; `product`: the inputs' together against the output's."""

    def rule(op: _Op) -> bool:
        first, second = op.ratio(0), op.ratio(1)
        if first is None or second is None:
            return True
        if product:
            assert op.reads[1] is not None and op.reads[1].scale  # noqa: S101, PT018 - it has a ratio
            return low <= first * op.reads[1].scale < high
        return low <= first < high and low <= second < high

    return rule


def _equal(op: _Op) -> bool:
    """The same scale and zero point on both sides."""
    source, target = op.reads[0], op.writes[0]
    if source is None or target is None or target.dtype not in INTEGERS:
        return True
    return source.scale == target.scale and source.zero == target.zero


def _quantize(op: _Op) -> bool:
    source, target = op.reads[0], op.writes[0]
    if source is None or target is None or source.dtype == "float32":
        return source is not None
    ratio = op.ratio(0)
    return source.dtype == target.dtype and ratio is not None and 1 / 256 <= ratio <= 128


def _dequantize(op: _Op) -> bool:
    return op.reads[0] is not None and op.reads[0].dtype in INTEGERS


def _leaky(op: _Op) -> bool:
    alpha = struct.unpack("<f", struct.pack("<I", op.option("alpha_bits")))[0]
    if not alpha or not math.isfinite(alpha):
        return False
    positive = op.ratio(0)
    if positive is None:
        return True
    negative = positive * alpha
    return 1 / 256 <= positive <= 128 and -127.99609375 <= negative <= 128 and abs(negative) >= 1 / 256


def _concatenation(op: _Op) -> bool:
    target = op.writes[0]
    same = target is None or target.dtype != "uint8" or all(
        t is None or (t.scale == target.scale and t.zero == target.zero) for t in op.reads
    )  # fmt: skip
    return 2 <= len(op.reads) <= 5 and same


def _product(op: _Op) -> bool:
    """Integers on both sides only if the second operand is symmetric."""
    left, right = op.reads[0], op.reads[1] if len(op.reads) > 1 else None
    return left is not None and right is not None and (left.dtype == "float32" or right.zero == 0)


def _slice(op: _Op) -> bool:
    return op.option("least") > 0  # -1: all the rest


def _strided(op: _Op) -> bool:
    """All axes are named, and no steps."""
    source, ends = op.reads[0], op.reads[1] if len(op.reads) > 1 else None
    if source is None or source.shape is None or ends is None or ends.shape != (len(source.shape),):
        return False
    masks = op.option("ellipsis") or op.option("new_axis") or op.option("shrink_axis")
    return not masks and (op.option("least"), op.option("most")) == (1, 1)


def _window(op: _Op) -> bool:
    window = op.option("window_h", 1), op.option("window_w", 1)
    stride = op.option("stride_h", 1), op.option("stride_w", 1)
    return all(s <= w for s, w in zip(stride, window, strict=True)) and (window != (1, 1) or stride == (1, 1))


def _depthwise(op: _Op) -> bool:
    """With a bias, and weights of the activations' type."""
    source, weights = op.reads[0], op.reads[1] if len(op.reads) > 1 else None
    if source is None or weights is None or len(op.reads) < 3 or op.reads[2] is None:
        return False
    return weights.dtype == source.dtype or (source.dtype == "uint8" and weights.dtype in INTEGERS)


_NEAR = _within(1 / 1024, 256)
_RULES: dict[str, Callable[[_Op], bool]] = {
    "ADD": _NEAR,
    "SUB": _NEAR,
    "MUL": _within(1 / 65536, 256, product=True),
    "RESHAPE": _equal,
    "QUANTIZE": _quantize,
    "DEQUANTIZE": _dequantize,
    "LEAKY_RELU": _leaky,
    "CONCATENATION": _concatenation,
    "BATCH_MATMUL": _product,
    "SLICE": _slice,
    "STRIDED_SLICE": _strided,
    "MAX_POOL_2D": _window,
    "AVERAGE_POOL_2D": _window,
    "DEPTHWISE_CONV_2D": _depthwise,
    "SPLIT": lambda op: 2 <= len(op.writes) <= 4,
    # 1.0 as it is stored
    "SOFTMAX": lambda op: op.option("beta_bits") == 0x3F800000,
    "PAD": lambda op: len(op.reads) > 1 and op.reads[1] is not None and op.reads[1].dtype == "int32",
    "DEPTH_TO_SPACE": lambda op: op.option("block") > 1,
    "SPACE_TO_DEPTH": lambda op: op.option("block") > 1,
}
