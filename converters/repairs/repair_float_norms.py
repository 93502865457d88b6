"""Normalizations that compute their own statistics (layer, group, instance and RMS norms) do so in floats.

Variances square what 8 bits hold, and one over their root spans what no 256 even steps do: frames of silence beside
speech, flat patches beside edges differ a hundred times, and all others share the steps of the largest. (A transformer
over frames of sound, whose silent frames have roots of 0.003: 17.5 dB in integers throughout, 28.7 with its norms in
floats; a ConvNeXt 24.1 and 32.7.) What goes in and what comes out stays integers. onnxruntime computes its operator for
this in floats anyway; in TFLite files these are a handful of small operators, which take less time in floats than in
integers (LiteRT 2.3, x86: whole networks by 8 to 27 %).

A norm is found from its root: backwards to the means of squares, and to the mean that is subtracted before; onwards
through products and sums of nothing but its own tensors, what it normalizes, and constants.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from edgekit.converters.repairs.repair import Case, Change, Kind, some
from edgekit.converters.repairs.view import Op, View
from edgekit.rules import maker_of

TITLE = "normalizations compute their means, squares and roots in floats"
KIND: Kind = "plan"
ORDER = 20

_ROOTS = frozenset({"RSQRT", "SQRT"})
_MEANS = frozenset({"MEAN", "SUM", "REDUCEMEAN", "REDUCESUM", "REDUCESUMSQUARE"})
_SQUARES = frozenset({"MUL", "SQUARE", "POW", "SQUAREDDIFFERENCE"})
_NUMBERS = frozenset({"ADD", "SUB", "MUL", "DIV", "SQUARE", "POW", "MAX", "MAXIMUM", "CLIP", "RELU", "ABS", "NEG",
                      "RECIPROCAL"})  # fmt: skip
"""Between means and roots, and between these and the answer."""


def apply(case: Case, opened: View) -> Change:
    """Find the norms; the graph stays as it is."""
    if case.bits > 8:
        return Change()  # 16 bits hold them
    makers = {name: op for op in opened.ops for name in op.outputs}
    lifted: dict[str, Op] = {}
    roots = []
    for op in opened.ops:
        if _kind(op) in _ROOTS and op.outputs[0] not in lifted:
            norm = _before(op, makers)
            if norm is not None:
                roots.append(op)
                lifted |= _whole(norm, opened.ops)
    if not roots:
        return Change()
    names = some([root.outputs[0] for root in roots])
    detail = f"normalized in floats, whose squares and roots 8 bits cannot hold: {names}"
    return Change(len(roots), detail, tuple(maker_of(name, "float") for name in lifted))


@dataclass
class _Norm:
    """A root and what it is made of.

    Attributes:
        root: One over it, or by it, is normalized.
        made: Operators, by what they make.
        normalized: What means are taken of: tensors that the norm reads.
    """

    root: Op
    made: dict[str, Op]
    normalized: set[str] = field(default_factory=set)


def _before(root: Op, makers: Mapping[str, Op]) -> _Norm | None:
    """Back to the means; None where something else is under the root."""
    norm = _Norm(root, {root.outputs[0]: root})
    waiting = list(root.inputs)
    squares = False
    while waiting:
        name = waiting.pop()
        op = makers.get(name)
        if op is None or not (op.moves or _kind(op) in _NUMBERS | _MEANS):
            return None
        if name in norm.made:
            continue
        norm.made[name] = op
        if _kind(op) not in _MEANS:
            waiting += op.inputs
            continue
        square = makers.get(op.inputs[0])
        if _kind(op) == "REDUCESUMSQUARE":
            read: tuple[str, ...] = op.inputs
        elif square is not None and _is_square(square):
            norm.made[square.outputs[0]] = square
            read = square.inputs
        else:
            norm.normalized |= set(op.inputs)  # of the mean, whose own square is subtracted
            continue
        squares = True
        norm.normalized |= _centered(read, makers, norm)
    return norm if squares else None


def _is_square(op: Op) -> bool:
    kind = _kind(op)
    return kind in _SQUARES and (kind == "SQUAREDDIFFERENCE" or len(set(op.inputs)) == 1)


def _centered(read: Iterable[str], makers: Mapping[str, Op], norm: _Norm) -> set[str]:
    """What squares are taken of, and behind a subtracted mean, what that was taken of; the subtraction joins."""
    names = set(read)
    for name in tuple(names):
        op = makers.get(name)
        if op is not None and _kind(op) == "SUB" and (mean := _mean(op.inputs, makers)):
            norm.made |= {name: op, **mean}
            names |= set(op.inputs)
    if mean := _mean(names, makers):
        norm.made |= mean  # of a squared difference
    return names


def _mean(names: Iterable[str], makers: Mapping[str, Op]) -> dict[str, Op]:
    """The operators that make one of the tensors a mean of another; none where none is."""
    known = set(names)
    for name in known:
        found: dict[str, Op] = {}
        at, op = name, makers.get(name)
        while op is not None and (op.moves or _kind(op) in _MEANS) and len(op.inputs) == 1:
            found[at] = op
            at = op.inputs[0]
            if at in known and any(_kind(one) in _MEANS for one in found.values()):
                return found
            op = makers.get(at)
    return {}


def _whole(norm: _Norm, ops: Iterable[Op]) -> dict[str, Op]:
    """With what is made of the root and of what is normalized alone; not what only moves the answer, or leads away."""
    made, behind = dict(norm.made), {norm.root.outputs[0]}
    for op in ops:
        if not (op.moves or _kind(op) in _NUMBERS) or len(op.outputs) != 1 or op.outputs[0] in made or not op.inputs:
            continue
        read = set(op.inputs)
        if read <= made.keys() or (behind & read and read <= made.keys() | norm.normalized):
            made[op.outputs[0]] = op
            behind |= set(op.outputs) if behind & read else set()
    kept = norm.made.keys()
    while ends := [
        name
        for name, op in made.items()
        if name not in kept
        and (op.moves or name not in behind)
        and not any(name in other.inputs for other in made.values())
    ]:
        for name in ends:
            del made[name]
    return made


def _kind(op: Op) -> str:
    """The same for both formats."""
    return op.title.replace("_", "").upper()
