"""Who makes and who reads each tensor of an ONNX graph, its element type, and what its integers stand for."""

from __future__ import annotations

from collections.abc import Iterator

from edgekit.formats.onnx_model import Const, Graph, Node
from edgekit.formats.onnx_proto import DATA_TYPES, Reader
from edgekit.formats.onnx_rules import RULES
from edgekit.tensors import QuantParams

QUANTIZE = frozenset({"QuantizeLinear", "com.microsoft:QuantizeLinear"})
DEQUANTIZE = frozenset({"DequantizeLinear", "com.microsoft:DequantizeLinear"})

_BOOLEAN = frozenset({
    "And", "Equal", "Greater", "GreaterOrEqual", "IsInf", "IsNaN", "Less", "LessOrEqual", "Not", "Or", "Xor",
})  # fmt: skip
_INDEX = frozenset({"ArgMax", "ArgMin", "NonMaxSuppression", "NonZero", "Shape", "Size"})
_TYPED_BY_SECOND = frozenset({"CastLike", "Where"})
_KEEPS = frozenset({
    "Flatten", "Identity", "MaxPool", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze",
})  # fmt: skip
"""Ops whose output stands for real numbers as their input does."""

_KEEPS_DEPTH = 8
_READERS = 64
"""How many readers of an input are asked; a hostile file lists one input, read by all nodes, over and over."""

_BINARY = frozenset({"QLinearAdd", "QLinearMul", "QLinearConv", "QLinearMatMul"})
_UNARY = frozenset({
    "QLinearAveragePool", "QLinearGlobalAveragePool", "QLinearLeakyRelu", "QLinearReduceMean", "QLinearSigmoid",
    "QLinearSoftmax",
})  # fmt: skip

_SETTINGS = {
    "Clip": {1, 2}, "ConvInteger": {2, 3}, "DequantizeLinear": {1, 2}, "DynamicQuantizeMatMul": {2, 3},
    "MatMulInteger": {2, 3}, "MatMulIntegerToFloat": {2, 3, 4, 5}, "MatMulNBits": {2, 3}, "Pad": {2},
    "QuantizeLinear": {1, 2}, "Resize": {1, 2}, "Upsample": {1},
    **dict.fromkeys(_BINARY, frozenset({1, 2, 4, 5, 6, 7})), **dict.fromkeys(_UNARY, frozenset({1, 2, 3, 4})),
}  # fmt: skip
"""Inputs that set up an op rather than being the model's numbers."""

_INDICES = frozenset({"int64", "uint64", "uint32", "bool", "string"})


def walk(graph: Graph) -> Iterator[Graph]:
    """The graph and all graphs inside its nodes."""
    yield graph
    for node in graph.nodes:
        for inner in node.graphs:
            yield from walk(inner)


class Uses:
    """Readers and makers of tensors, by name, over a graph and those inside it."""

    def __init__(self, graph: Graph) -> None:
        self.readers: dict[str, list[tuple[Node, int]]] = {}
        self.maker: dict[str, Node] = {}
        self.constants: dict[str, Const] = {}
        for part in walk(graph):
            self.constants.update(part.constants)
            for node in part.nodes:
                for position, name in enumerate(node.inputs):
                    if name:
                        self.readers.setdefault(name, []).append((node, position))
                self.maker.update((name, node) for name in node.outputs if name)
                if node.tensor is not None and node.op == "Constant" and node.outputs:
                    self.constants[node.outputs[0]] = node.tensor

    def stored(self, name: str) -> str:
        """The tensor that `name` was dequantized or cast from; else `name`."""
        maker = self.maker.get(name)
        return maker.input(0) if maker is not None and (maker.kind in DEQUANTIZE or maker.op == "Cast") else name

    def is_parameter(self, name: str, const: Const) -> bool:
        """Whether a constant carries numbers of the model: see `ModelFacts.parameters`."""
        if const.dtype in _INDICES:
            return False
        readers = [(node, at) for node, at in self.readers.get(name, ()) if at not in _SETTINGS.get(node.op, ())]
        if const.dtype == "int32":
            return any(node.kind in DEQUANTIZE or node.op.startswith("Q") for node, _ in readers)
        return bool(readers)


def output_types(node: Node, types: dict[str, str], constants: dict[str, Const]) -> list[str]:
    """Element types of a node's outputs; "" where not known."""

    def of(index: int) -> str:
        name = node.input(index)
        return constants[name].dtype if name in constants else types.get(name, "")

    if node.op == "Constant":
        return [node.tensor.dtype if node.tensor else ""]
    if node.op == "Cast" or "output_dtype" in node.ints:
        number = node.ints.get("to", node.ints.get("output_dtype", 0))
        return [DATA_TYPES[number][0] if 0 <= number < len(DATA_TYPES) else ""]
    if node.kind in QUANTIZE:
        return [of(2) or "uint8"]
    if node.kind in DEQUANTIZE:
        return [of(1)]
    if node.op == "DynamicQuantizeLinear":
        return ["uint8", "float32", "uint8"]
    if node.op in _BOOLEAN:
        return ["bool"]
    if node.op in _INDEX:
        return ["int64"]
    if node.op in ("ConvInteger", "MatMulInteger"):
        return ["int32"]
    if node.op in _BINARY:
        return [of(7) or of(0)]
    if node.op in ("DynamicQuantizeMatMul", "MatMulIntegerToFloat"):
        return ["float32"]
    if node.op in ("MaxPool", "TopK"):
        return [of(0), "int64"]
    if node.op == "Dropout":
        return [of(0), "bool"]
    if node.op == "ConstantOfShape":
        return [node.tensor.dtype if node.tensor else "float32"]
    return [of(1 if node.op in _TYPED_BY_SECOND else 0) if node.kind in RULES else ""] * len(node.outputs)


def quant_of_input(name: str, uses: Uses, reader: Reader, depth: int = 0) -> QuantParams | None:
    """How an integer input maps to reals, by the first op that says so."""
    for node, position in uses.readers.get(name, ())[:_READERS]:
        if node.kind in DEQUANTIZE and position == 0:
            return _params(node, 1, uses, reader)
        if node.op in _BINARY and position in (0, 3):
            return _params(node, position + 1, uses, reader)
        if node.op in _UNARY and position == 0:
            return _params(node, 1, uses, reader)
        if node.op in _KEEPS and position == 0 and node.outputs and depth < _KEEPS_DEPTH:
            return quant_of_input(node.outputs[0], uses, reader, depth + 1)
    return None


def quant_of_output(name: str, uses: Uses, reader: Reader, depth: int = 0) -> QuantParams | None:
    """How an integer output maps to reals, by the op that makes it."""
    node = uses.maker.get(name)
    if node is None:
        return None
    if node.kind in QUANTIZE:
        return _params(node, 1, uses, reader)
    if node.op in _BINARY:
        return _params(node, 6, uses, reader)
    if node.op in _UNARY:
        return _params(node, 3, uses, reader)
    if node.op in _KEEPS and depth < _KEEPS_DEPTH:
        return quant_of_output(node.input(0), uses, reader, depth + 1)
    return None


def _params(node: Node, position: int, uses: Uses, reader: Reader) -> QuantParams | None:
    """Scale and zero point at two inputs; None when they are computed in the graph."""
    scale, point = uses.constants.get(node.input(position)), uses.constants.get(node.input(position + 1))
    if scale is None or (node.input(position + 1) and point is None):
        return None
    scales = tuple(reader.values(scale))
    points = tuple(int(value) for value in reader.values(point)) if point else (0,) * len(scales)
    if not scales or len(points) != len(scales):
        return None
    return QuantParams(scales, points, node.ints.get("axis", 1) if len(scales) > 1 else None)
