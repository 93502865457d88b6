"""Outputs that mix parts of very different size, such as boxes in pixels and scores up to one, keep a scale a part.

An integer tensor has one scale: boxes up to 640 leave steps of 2.5, and every score up to one becomes zero. It comes
in three forms.

Joined: a concatenation at an output. The parts stay integers with scales of their own, and only the joining, and what
moves values behind it, is done in floats: a copy.

Made by one layer: a head whose channels are boxes and scores. Its small channels are made larger by powers of two, so
that all span about the same, and the division by these, and what moves values behind it, is done in
floats. Weights have a scale a channel, so the layer loses nothing by it.

Made by arithmetic: channels that are alike until a constant a channel multiplies them, or is added. That, and what
moves values behind it, is done in floats.

Either way the output is then a float one, as the source's is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgekit.converters.repairs.repair import Case, Change, Kind, short
from edgekit.converters.repairs.scaling import Seen, observe
from edgekit.converters.repairs.view import Layer, Op, View
from edgekit.converters.stages import Range
from edgekit.rules import Rule

TITLE = "outputs that mix parts of very different size keep a scale for each part"
KIND: Kind = "plan"
ORDER = 10

Doubles = NDArray[np.float64]

APART = 8.0
"""Ratio of two parts' ranges from which one scale costs the smaller 3 of its 8 bits."""
_DEAD = 1e-6
"""Of the largest span: a channel that spans less says nothing."""
_FURTHEST = 2.0**20
_ARITHMETIC = frozenset({"Mul", "Div", "Add", "Sub", "MUL", "DIV", "ADD", "SUB"})
_SHAPES = frozenset({"Shape", "Size", "SHAPE"})
"""What reads no values."""
_ROWS = 3
"""Axes of rows of boxes: channels are the second or the last of them."""
_SUMMED = ("Gemm", "MatMul", "Add")
"""onnxruntime gives these at an output as floats, from the sums themselves: there is no scale to share."""


@dataclass(frozen=True)
class _Head:
    """A layer at an output: the last tensor before values are only moved, its channel axis, and what moves them.

    Attributes:
        constants: Added in between, an element a channel.
    """

    layer: Layer
    name: str
    axis: int
    constants: tuple[str, ...]
    behind: tuple[Op, ...]


class _Ends:
    """Which operators have nothing behind them, up to outputs, but what is done in floats.

    Attributes:
        readers: Name -> the operators that read it.
        late: Names of sums and products that are done in floats, as moves are.
    """

    def __init__(self, opened: View) -> None:
        self.readers: dict[str, list[Op]] = {}
        self.late: set[str] = set()
        self._outputs = opened.outputs
        for op in opened.ops:
            for name in op.inputs if op.title not in _SHAPES else ():
                self.readers.setdefault(name, []).append(op)

    def behind(self, op: Op) -> list[Op] | None:
        """What is between an operator and outputs; None when anything else reads its values."""
        found: list[Op] = []
        for name in op.outputs:
            if name not in self._outputs and not self.readers.get(name):
                return None
            for reader in self.readers.get(name, []):
                passed = reader.moves or reader.outputs[0] in self.late
                behind = self.behind(reader) if passed else None
                if behind is None:
                    return None
                found += [reader, *behind]
        return found


def splittable(opened: View) -> frozenset[str]:
    """Tensors that this can split where their parts differ: of joinings at outputs, of heads, and what moves these."""
    ends = _Ends(opened)
    ends.late |= {op.outputs[0] for op in _sums(opened, ends)}
    found = set(ends.late)
    for op in opened.ops:
        behind = ends.behind(op) if op.kind == "concat" or op.outputs[0] in ends.late else None
        if behind is not None:
            found |= {name for one in (op, *behind) for name in one.outputs}
    for head in _heads(opened, ends):
        found |= {head.name, head.layer.name, *(name for one in head.behind for name in one.outputs)}
    return frozenset(found)


def apply(case: Case, opened: View) -> Change:
    """Find all forms; the graph is changed for heads alone."""
    ends = _Ends(opened)
    sums = _spreading(case, opened, ends)
    chosen: list[Op] = []
    for op in opened.ops:
        behind = ends.behind(op)
        apart = op.outputs[0] in ends.late or (op.kind == "concat" and _apart(op, case.ranges.tensors))
        if apart and behind is not None:
            chosen += [one for one in (op, *behind) if one not in chosen]
    joined = [short(op.outputs[0]) for op in chosen if op.kind == "concat"]
    heads = [head for head in _heads(opened, ends) if head.layer.name not in case.lifted]
    spread = _spread(case, opened, heads)
    quotients = [_scale(opened, head, factors) for head, factors in spread]
    for head, _ in spread:
        chosen += [one for one in head.behind if one not in chosen]
    # Joinings of joinings are one: what lies between two that stay in floats must not be rounded in between.
    rules = (*quotients, *(Rule("float", f"re:^{re.escape(op.outputs[0])}$", op.title) for op in chosen))
    said = [f"joined in floats, its parts keep their own scales: {', '.join(joined)}"] if joined else []
    if sums:
        names = ", ".join(short(op.outputs[0]) for op in sums)
        said.append(f"its constants give channels ranges of their own, which is done in floats: {names}")
    if spread:
        names = ", ".join(short(head.name) for head, _ in spread)
        furthest = max(float(factors.max()) for _, factors in spread)
        said.append(f"its channels keep scales up to {furthest:g} times apart, given back in floats: {names}")
    return Change(len(joined) + len(sums) + len(spread), "; ".join(said), rules, rewrites=bool(spread))


def _sums(opened: View, ends: _Ends) -> list[Op]:
    """Arithmetic with constants at outputs, the last first; the bias of a layer is the layer's own."""
    made = {op.outputs[0] for op in opened.ops if op.layer is not None}
    found: list[Op] = []
    known = set(ends.late)
    for op in reversed(opened.ops):
        bias = op.kind == "shift" and op.inputs[0] in made
        if op.title in _ARITHMETIC and len(op.inputs) == 1 and not bias and ends.behind(op) is not None:
            found.append(op)
            ends.late.add(op.outputs[0])
    ends.late = known
    return found


def _spreading(case: Case, opened: View, ends: _Ends) -> list[Op]:
    """Of these, the ones that make channels of very different size; they are done in floats from now on."""
    found = _sums(opened, ends)
    ways = [{op.outputs[0]: _axes(op, opened)[-way] for op in found if len(_axes(op, opened)) >= way} for way in (1, 2)]
    apart = {
        name
        for axes in ways
        for name, seen in (observe(case, opened, axes) if axes else {}).items()
        if _factors(seen).max() >= APART
    }
    chosen = []
    for op in found:
        if op.outputs[0] in apart and ends.behind(op) is not None:
            ends.late.add(op.outputs[0])
            chosen.append(op)
    return chosen


def _axes(op: Op, opened: View) -> tuple[int, ...]:
    """Where its channels may lie."""
    rank = len(opened.shape(op.outputs[0]) or ())
    if op.axis >= 0:
        return (op.axis,)
    return tuple(range(1, rank)) if rank <= _ROWS else ()


def _apart(op: Op, ranges: dict[str, Range]) -> bool:
    spans = [ranges[name].span for name in op.inputs if name in ranges]
    real = [span for span in spans if span > 0]
    return len(real) > 1 and max(real) >= APART * min(real)


def _heads(opened: View, ends: _Ends) -> Iterator[_Head]:
    """Layers with nothing but sums, Relus and moves between them and outputs."""
    for op in opened.ops:
        layer = op.layer
        if layer is None or not layer.homogeneous:
            continue
        last: Op | None = op
        constants: list[str] = []
        while last is not None:
            behind = ends.behind(last)
            if behind is not None:
                if not behind and last.title in _SUMMED:
                    break
                yield _Head(layer, last.outputs[0], layer.made_axis, tuple(constants), tuple(behind))
                break
            last = _next(opened, last, ends.readers, layer.made_axis)
            constants += () if last is None else last.constants


def _next(opened: View, op: Op, readers: dict[str, list[Op]], axis: int) -> Op | None:
    """The only reader, where a channel made larger comes out of it larger by as much."""
    name = op.outputs[0]
    found = readers.get(name, [])
    if len(op.outputs) > 1 or len(found) != 1 or name in opened.outputs or len(found[0].outputs) > 1:
        return None
    after = found[0]
    alike = len(opened.shape(name) or ()) == len(opened.shape(after.outputs[0]) or ())
    shifted = after.kind == "shift" and after.axis == axis
    same = after.kind == "same" and not after.moves and len(after.inputs) == 1 and after.turn(axis) == axis
    return after if alike and (shifted or same) else None


def _spread(case: Case, opened: View, heads: Iterable[_Head]) -> list[tuple[_Head, Doubles]]:
    """Heads whose channels span very different ranges, and by what power of two each channel is made larger."""
    axes = {head.name: head.axis for head in heads}
    seen = observe(case, opened, axes) if axes else {}
    found = [(head, _factors(seen[head.name])) for head in heads if head.name in seen]
    return [(head, factors) for head, factors in found if factors.max() >= APART]


def _factors(seen: Seen) -> Doubles:
    span = seen.high - seen.low
    largest = float(span.max(initial=0.0))
    real = np.where(span > _DEAD * largest, span, largest)
    ratio = np.where(real > 0, largest / np.where(real > 0, real, 1), 1)
    return np.asarray(np.minimum(2.0 ** np.floor(np.log2(ratio)), _FURTHEST))


def _scale(opened: View, head: _Head, factors: Doubles) -> Rule:
    """Make the channels of a head larger, and give that back behind it; powers of two change no bit of the answers."""
    layer = head.layer
    kernel, bias = opened.kernel(layer), opened.bias(layer)
    opened.set_kernel(layer, (kernel * factors.reshape(-1, *[1] * (kernel.ndim - 1))).astype(np.float32))
    if bias is not None:
        opened.set_bias(layer, (bias * factors).astype(np.float32))
    for name in head.constants:
        opened.set_constant(name, (opened.constant(name) * factors).astype(np.float32))
    title = opened.divide(head.name, factors.astype(np.float32), head.axis)
    return Rule("float", f"re:^{re.escape(head.name)}$", title)
