"""Exponentials that grow far beyond what goes in compute in floats, until something undoes them.

TFLite has no SELU and no softplus: TensorFlow's converter writes them as exponentials, in whose place another branch is
taken (SELU) or whose logarithm follows (softplus). exp(10) is 22,026: 256 even steps up to that leave nothing of the
values near one, which are all that matters. (A net of dense layers with both, on scikit-learn's breast cancer data: 4.9
dB and 70 % instead of 97 in integers throughout, 41.5 dB and 97 %.)

Such an exponential is lifted together with what follows, up to results as small as what went in.
"""

from __future__ import annotations

from collections.abc import Mapping

from edgekit.converters.repairs.repair import Case, Change, Kind, some
from edgekit.converters.repairs.view import Op, View
from edgekit.converters.stages import Range
from edgekit.rules import maker_of

TITLE = "exponentials far larger than what goes in compute in floats, with what undoes them"
KIND: Kind = "plan"
ORDER = 30

_WIDE = 32.0
"""From here on one step is an eighth and more, where values near one matter."""
_BY_VALUE = frozenset({"ADD", "SUB", "MUL", "DIV", "LOG", "SELECT", "SELECTV2", "WHERE", "POW", "SQRT", "TANH", "NEG",
                       "RECIPROCAL", "MIN", "MAX", "MINIMUM", "MAXIMUM", "SUM", "REDUCESUM"})  # fmt: skip


def apply(case: Case, opened: View) -> Change:
    """Find them; the graph stays as it is."""
    if case.bits > 8:
        return Change()  # 16 bits are left to the rules of the user
    readers: dict[str, list[Op]] = {}
    for op in opened.ops:
        for name in op.inputs:
            readers.setdefault(name, []).append(op)
    lifted: dict[str, None] = {}
    roots = []
    for op in opened.ops:
        if _kind(op) == "EXP" and _span(case.ranges.tensors, op.outputs[0]) > _WIDE:
            roots.append(op.outputs[0])
            lifted |= dict.fromkeys(_until_small(op, readers, case.ranges.tensors))
    if not roots:
        return Change()
    detail = f"exponentials in floats, whose values 8 bits cannot hold: {some(roots)}"
    return Change(len(roots), detail, tuple(maker_of(name, "float") for name in lifted))


def _until_small(root: Op, readers: Mapping[str, list[Op]], ranges: Mapping[str, Range]) -> list[str]:
    """What it makes, and what is made of that as long as it is larger than what went in."""
    enough = max(_span(ranges, root.inputs[0]), 1.0)
    found, waiting = [root.outputs[0]], [root.outputs[0]]
    while waiting:
        for op in readers.get(waiting.pop(), ()):
            made = op.outputs[0]
            if made in found or not (op.moves or _kind(op) in _BY_VALUE):
                continue
            found.append(made)
            waiting += [made] if _span(ranges, made) > enough else []
    return found


def _span(ranges: Mapping[str, Range], name: str) -> float:
    found = ranges.get(name)
    return 0.0 if found is None else found.span


def _kind(op: Op) -> str:
    """The same for both formats."""
    return op.title.replace("_", "").upper()
