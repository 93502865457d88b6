"""Outputs that join parts of very different size, such as boxes in pixels and scores up to one, keep a scale a part.

An integer concatenation has one scale: boxes up to 640 leave steps of 2.5, and every score up to one becomes zero.
The parts stay integers with scales of their own, and only the joining, and what moves values behind it, is done in
floats: a copy. The output is then a float one, as the source's is.
"""

from __future__ import annotations

import re

from edgekit.converters.repairs.repair import Case, Change, Kind
from edgekit.converters.repairs.view import Op, View
from edgekit.converters.stages import Range
from edgekit.rules import Rule

TITLE = "outputs that join parts of very different size are joined in floats, each part with its own scale"
KIND: Kind = "plan"
ORDER = 10

APART = 8.0
"""Ratio of two parts' ranges from which one scale costs the smaller 3 of its 8 bits."""


def apply(case: Case, opened: View) -> Change:
    """Find the concatenations at outputs; the graph stays as it is."""
    readers: dict[str, list[Op]] = {}
    for op in opened.ops:
        for name in op.inputs:
            readers.setdefault(name, []).append(op)
    chosen: list[Op] = []
    for op in opened.ops:
        behind = _moves_to_output(op, readers, opened.outputs)
        if op.kind == "concat" and behind is not None and _apart(op, case.ranges.tensors):
            chosen += [one for one in (op, *behind) if one not in chosen]
    if not chosen:
        return Change()
    # Joinings of joinings are one: what lies between two that stay in floats must not be rounded in between.
    rules = tuple(Rule("float", f"re:^{re.escape(op.outputs[0])}$", op.title) for op in chosen)
    joined = [op.outputs[0].split(";", 1)[0] for op in chosen if op.kind == "concat"]
    return Change(len(joined), f"joined in floats, its parts keep their own scales: {', '.join(joined)}", rules)


def _moves_to_output(op: Op, readers: dict[str, list[Op]], outputs: frozenset[str]) -> list[Op] | None:
    """What moves values between an operator and outputs; None when anything else reads them."""
    found: list[Op] = []
    for name in op.outputs:
        if name not in outputs and not readers.get(name):
            return None
        for reader in readers.get(name, []):
            behind = _moves_to_output(reader, readers, outputs) if reader.moves else None
            if behind is None:
                return None
            found += [reader, *behind]
    return found


def _apart(op: Op, ranges: dict[str, Range]) -> bool:
    spans = [_span(ranges[name]) for name in op.inputs if name in ranges]
    real = [span for span in spans if span > 0]
    return len(real) > 1 and max(real) >= APART * min(real)


def _span(seen: Range) -> float:
    return max(seen.max, 0.0) - min(seen.min, 0.0)
