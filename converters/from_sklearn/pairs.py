"""A graph in double precision as one of pairs of float32 numbers, for engines that have nothing wider (TFLite).

Only what decides about the label is computed in pairs (`twofold`); probabilities and scores are read off the
high parts, in float32. Where an operator on the way to the label has no rule here, or where pairs would take too long,
there is no such graph.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from edgekit.converters.from_sklearn.draft import DOUBLE, INT64, Draft
from edgekit.converters.from_sklearn.twofold import Pair, Twofold
from edgekit.converters.stages import Array

_WORK = 4_000_000
"""Elementwise steps for one row: some milliseconds on a workstation."""
_STEPS = {"MatMul": 15, "Exp": 80, "Sigmoid": 110, "Tanh": 120, "Softmax": 150, "Div": 45, "TopK": 10}
"""Steps an element, where they are not some 20."""
_MOST_NEIGHBOURS = 16
_FAR = np.float32(3e38)


def paired(draft: Draft, outputs: dict[str, str], model: Any) -> tuple[Draft, dict[str, str]] | None:
    """The graph whose label is decided in pairs, and its outputs; None where there is none.

    Args:
        draft: In double precision somewhere.
        outputs: Public name -> tensor.
        model: The draft as a ModelProto.
    """
    sizes = _sizes(model)
    needed = _ancestors(draft, outputs["label"]) if "label" in outputs else set()
    wide = [
        node
        for node in draft.nodes
        if set(node.output) & needed and _is_wide(draft, node) and node.output[0] not in draft.turns
    ]
    if not wide or any(node.op_type not in _RULES for node in wide):
        return None
    if sum(_work(node, sizes, draft) for node in wide) > _WORK:
        return None
    writer = _Writer(draft, sizes, needed)
    try:
        for node in draft.nodes:
            writer.visit(node)
    except _Unpaired:
        return None
    return writer.made, {name: writer.single(tensor) for name, tensor in outputs.items()}


class _Unpaired(Exception):  # noqa: N818 - no error: a way that is not taken
    """Something that has no pairs."""


class _Writer:
    """What was made of each tensor so far."""

    def __init__(self, draft: Draft, sizes: dict[str, tuple[int, ...]], needed: set[str]) -> None:
        self.draft, self.sizes, self.needed = draft, sizes, needed
        self.made = Draft(count=draft.count)
        self.made.constants.update({k: v for k, v in draft.constants.items() if not draft.is_wide(k)})
        self.made.kinds.update({k: v for k, v in draft.kinds.items() if v != DOUBLE})
        self.two = Twofold(self.made)
        self.pairs: dict[str, Pair] = {}
        self.names: dict[str, str] = {}

    def visit(self, node: Any) -> None:
        """Write what stands for a node."""
        if node.output[0] in self.draft.turns:
            source = node.input[0]
            if self.draft.is_wide(node.output[0]):
                self.pairs[node.output[0]] = Pair(self.single(source))
            else:
                self.names[node.output[0]] = self.single(source)
        elif _is_wide(self.draft, node) and set(node.output) & self.needed:
            _RULES[node.op_type](self, node)
        else:
            copy = type(node).FromString(node.SerializeToString())
            copy.input[:] = [self.single(name) for name in node.input]
            self.made.nodes.append(copy)
            for name in node.output:
                if self.draft.is_wide(name):
                    self.pairs[name] = Pair(name)

    def single(self, name: str) -> str:
        """A tensor as one that is no pair."""
        if name in self.draft.constants and self.draft.is_wide(name):
            return str(self.made.constant(self.draft.constants[name], np.float32))
        return self.pairs[name].high if name in self.pairs else self.names.get(name, name)

    def pair(self, name: str) -> Pair:
        """A tensor as a pair."""
        if name in self.draft.constants:
            return self.two.constant(self.draft.constants[name])
        return self.pairs.get(name) or Pair(self.single(name))

    def do(self, kind: str, *inputs: str, **attributes: Any) -> str:
        return str(self.made.add(kind, *inputs, **attributes))

    def number(self, value: Any) -> str:
        return str(self.made.constant(value, np.float32))

    def values(self, name: str) -> Array:
        """Of a constant."""
        if name not in self.draft.constants:
            raise _Unpaired(name)
        return self.draft.constants[name]

    def number_of(self, name: str, axis: int) -> int:
        """Size of an axis other than the batch."""
        return self.sizes[name][axis]


def _attributes(node: Any) -> dict[str, Any]:
    from onnx import helper

    return {item.name: helper.get_attribute_value(item) for item in node.attribute}


def _is_wide(draft: Draft, node: Any) -> bool:
    return any(draft.is_wide(name) for name in (*node.input, *node.output))


def _ancestors(draft: Draft, name: str) -> set[str]:
    """A tensor and all that it is made of."""
    found = {name}
    for node in reversed(draft.nodes):
        if found & set(node.output):
            found |= set(node.input)
    return found


def _sizes(model: Any) -> dict[str, tuple[int, ...]]:
    """Tensor -> its sizes, 1 for the batch."""
    from onnx import shape_inference

    known = shape_inference.infer_shapes(model, data_prop=True).graph
    sizes = {v.name: tuple(d.dim_value or 1 for d in v.type.tensor_type.shape.dim) for v in known.value_info}
    return sizes | {tensor.name: tuple(tensor.dims) for tensor in known.initializer}


def _work(node: Any, sizes: dict[str, tuple[int, ...]], draft: Draft) -> int:
    count = max(int(np.prod(sizes.get(name, (1,)))) for name in (*node.input, *node.output))
    if node.op_type == "MatMul" and node.input[1] in draft.constants:
        count = draft.constants[node.input[1]].size
    return count * _STEPS.get(node.op_type, 20)


# -- Rules ---------------------------------------------------------------------------------------------------------


def _binary(way: Callable[[Twofold, Pair, Pair], Pair]) -> Callable[[_Writer, Any], None]:
    def rule(writer: _Writer, node: Any) -> None:
        a, b = (writer.pair(name) for name in node.input)
        writer.pairs[node.output[0]] = way(writer.two, a, b)

    return rule


def _moved(writer: _Writer, node: Any) -> None:
    others = [writer.single(name) for name in node.input[1:]]
    writer.pairs[node.output[0]] = writer.two.each(
        writer.pair(node.input[0]), node.op_type, *others, **_attributes(node)
    )


def _negative(writer: _Writer, node: Any) -> None:
    writer.pairs[node.output[0]] = writer.two.negative(writer.pair(node.input[0]))


def _joined(writer: _Writer, node: Any) -> None:
    writer.pairs[node.output[0]] = writer.two.joined([writer.pair(name) for name in node.input], **_attributes(node))


def _product(writer: _Writer, node: Any) -> None:
    writer.pairs[node.output[0]] = writer.two.dot(writer.pair(node.input[0]), writer.values(node.input[1]))


def _sum(writer: _Writer, node: Any) -> None:
    (axis,) = (int(item) for item in writer.values(node.input[1]))
    count, keep = writer.number_of(node.input[0], axis), bool(_attributes(node).get("keepdims", 1))
    writer.pairs[node.output[0]] = writer.two.total(writer.pair(node.input[0]), axis, count, keep=keep)


def _added(writer: _Writer, node: Any) -> None:
    first, *rest = (writer.pair(name) for name in node.input)
    for other in rest:
        first = writer.two.add(first, other)
    writer.pairs[node.output[0]] = first


def _largest(writer: _Writer, node: Any) -> None:
    given = _attributes(node)
    x = writer.pair(node.input[0])
    lows, high = _lows_of_extreme(writer, x, int(given["axes"][0]), largest=True)
    writer.pairs[node.output[0]] = Pair(high, writer.do("ReduceMax", lows, **given))


def _lows_of_extreme(writer: _Writer, x: Pair, axis: int, *, largest: bool) -> tuple[str, str]:
    """The low parts where the high one is the largest (or smallest), elsewhere one farther away; and that high one."""
    high = writer.do("ReduceMax" if largest else "ReduceMin", x.high, axes=[axis], keepdims=1)
    far = writer.number(-_FAR if largest else _FAR)
    return writer.do("Where", writer.do("Equal", x.high, high), writer.two.lower(x), far), high


def _chosen(writer: _Writer, node: Any) -> None:
    """Index of the largest or smallest."""
    given, x = _attributes(node), writer.pair(node.input[0])
    lows, _ = _lows_of_extreme(writer, x, int(given["axis"]), largest=node.op_type == "ArgMax")
    writer.names[node.output[0]] = writer.do(node.op_type, lows, **given)


def _nearest(writer: _Writer, node: Any) -> None:
    """The smallest few, one after the other."""
    given, x = _attributes(node), writer.pair(node.input[0])
    count, axis = int(writer.values(node.input[1])[0]), int(given["axis"])
    if given.get("largest", 1) or axis != 1 or count > _MOST_NEIGHBOURS:
        raise _Unpaired(node.op_type)
    places = writer.made.constant(np.arange(writer.number_of(node.input[0], axis))[None], np.int64)
    found, indices = [], []
    for _ in range(count):
        lows, high = _lows_of_extreme(writer, x, axis, largest=False)
        index = writer.do("ArgMin", lows, axis=axis, keepdims=1)
        found.append(Pair(high, writer.do("ReduceMin", lows, axes=[axis], keepdims=1)))
        indices.append(index)
        taken = writer.do("Equal", places, index)
        x = Pair(writer.do("Where", taken, writer.number(_FAR), x.high), x.low)
    writer.pairs[node.output[0]] = writer.two.joined(found, axis=axis)
    writer.made.add("Concat", *indices, outputs=[node.output[1]], axis=axis)
    writer.made.kinds[node.output[1]] = INT64


def _compared(writer: _Writer, node: Any) -> None:
    a, b = (writer.pair(name) for name in node.input)
    apart = a if b.values is not None and not b.values.any() else writer.two.subtract(a, b)
    writer.names[node.output[0]] = writer.do(node.op_type, apart.high, writer.number(0.0))


def _either(writer: _Writer, node: Any) -> None:
    a, b = (writer.pair(name) for name in node.input[1:])
    writer.pairs[node.output[0]] = _selected(writer, writer.single(node.input[0]), a, b)


def _selected(writer: _Writer, condition: str, a: Pair, b: Pair) -> Pair:
    high = writer.do("Where", condition, a.high, b.high)
    if a.low is None and b.low is None:
        return Pair(high)
    zero = writer.number(0.0)
    return Pair(high, writer.do("Where", condition, a.low or zero, b.low or zero))


def _positive(writer: _Writer, node: Any) -> None:
    x = writer.pair(node.input[0])
    above = writer.do("Greater", x.high, writer.number(0.0))
    writer.pairs[node.output[0]] = _selected(writer, above, x, writer.two.constant(np.zeros(())))


def _larger(writer: _Writer, node: Any) -> None:
    a, b = (writer.pair(name) for name in node.input)
    above = writer.do("Greater", writer.two.subtract(a, b).high, writer.number(0.0))
    writer.pairs[node.output[0]] = _selected(writer, above, a, b)


def _root(writer: _Writer, node: Any) -> None:
    writer.pairs[node.output[0]] = writer.two.root(writer.pair(node.input[0]))


def _exponential(writer: _Writer, node: Any) -> None:
    writer.pairs[node.output[0]] = writer.two.exponential(writer.pair(node.input[0]))


def _sigmoid(writer: _Writer, node: Any) -> None:
    two, one = writer.two, writer.two.constant(np.ones(()))
    raised = two.exponential(two.negative(writer.pair(node.input[0])))
    writer.pairs[node.output[0]] = two.divide(one, two.add(raised, one))


def _tanh(writer: _Writer, node: Any) -> None:
    """1 - 2 / (exp(2 x) + 1)."""
    two, one = writer.two, writer.two.constant(np.ones(()))
    raised = two.exponential(two.scaled(writer.pair(node.input[0]), 2.0))
    part = two.divide(two.constant(np.full((), 2.0)), two.add(raised, one))
    writer.pairs[node.output[0]] = two.subtract(one, part)


def _softmax(writer: _Writer, node: Any) -> None:
    two, axis = writer.two, int(_attributes(node)["axis"])
    x = writer.pair(node.input[0])
    highest = Pair(writer.do("ReduceMax", x.high, axes=[axis], keepdims=1))
    raised = two.exponential(two.subtract(x, highest))
    total = two.total(raised, axis, writer.number_of(node.input[0], axis), keep=True)
    writer.pairs[node.output[0]] = two.divide(raised, total)


_RULES: dict[str, Callable[[_Writer, Any], None]] = {
    "Add": _binary(Twofold.add), "Sub": _binary(Twofold.subtract), "Mul": _binary(Twofold.multiply),
    "Div": _binary(Twofold.divide), "Neg": _negative, "Reshape": _moved, "Unsqueeze": _moved, "Gather": _moved,
    "Concat": _joined, "MatMul": _product, "ReduceSum": _sum, "Sum": _added, "ReduceMax": _largest,
    "ArgMax": _chosen, "ArgMin": _chosen, "TopK": _nearest, "Greater": _compared, "GreaterOrEqual": _compared,
    "Less": _compared, "Equal": _compared, "Where": _either, "Relu": _positive, "Exp": _exponential,
    "Sigmoid": _sigmoid, "Tanh": _tanh, "Max": _larger, "Sqrt": _root,
    "Softmax": _softmax,
}  # fmt: skip
