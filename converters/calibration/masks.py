"""Masks of attention: numbers far below all scores, which a softmax makes nothing of.

Exporters write them as minus infinity, the least float32 or -1e4, selected or added before the softmax, as a constant
or computed from an input. As part of a range such a number leaves one step of 8 or 16 bits to all true scores, and some
kernels abort on its scale. So what only a softmax reads is seen from `BOTTOM` on, and its range ends `_FAR` below the
least score: integers saturate there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from edgekit.converters.stages import Range
from edgekit.converters.steps import Step

BOTTOM = -1e5
"""No score lies below; minus infinity is seen as this."""

_FAR = 16.0
"""Softmax gives exp(-16) = 1e-7 of the largest score to one this far below, less than a step of 16 bits."""

_ROUND_ZERO = -1.0
"""A mask leaves some scores as they are: its largest value is about zero."""

_SOFTMAX = ("Softmax", "SOFTMAX")
_ADDING = ("Add", "ADD")
_SCALING = ("Mul", "MUL")
_SURE = 4
"""So many times beyond the end of a range, a quarter of a mask still masks."""
_CHOOSING = ("Where", "SELECT", "SELECT_V2")
_MOVING = frozenset({
    "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Identity", "Expand", "Tile", "Slice", "Gather",
    "RESHAPE", "SQUEEZE", "EXPAND_DIMS", "TRANSPOSE", "BROADCAST_TO", "TILE", "SLICE", "STRIDED_SLICE", "GATHER",
})  # fmt: skip


def nearest(kind: str, made: Range, other: Range | None) -> float:
    """The least number that a constant operand can be without changing what integers show of the result.

    Args:
        kind: Of the operator, in either format.
        made: Range of its result.
        other: Of its other operand, where one is no constant.
    """
    if kind in _CHOOSING:
        return made.min
    if other is not None and kind in _ADDING:
        return made.min - other.max
    if other is not None and kind in _SCALING and made.min < 0 <= other.min < other.max:
        return _SURE * made.min / other.max
    return -math.inf


@dataclass(frozen=True)
class _Masked:
    """Where scores and a mask come together.

    Attributes:
        added: The mask is added; else selected.
        made: The result, and what it is moved to on its way to the softmax.
        parts: Each operand: it, and what it was moved from, the origin last.
    """

    added: bool
    made: tuple[str, ...]
    parts: tuple[tuple[str, ...], ...]


class Masks:
    """What is known of the masks of a graph.

    Attributes:
        seen_from_bottom: Tensors that may hold minus infinity.
    """

    def __init__(self, steps: Sequence[Step], outputs: Iterable[str]) -> None:
        self._makers = {name: step for step in steps for name in step.made}
        self._readers: dict[str, list[Step]] = {}
        for step in steps:
            for name in dict.fromkeys(step.read):
                self._readers.setdefault(name, []).append(step)
        self._outputs = frozenset(outputs)
        found = (self._behind(step.read[0]) for step in steps if step.kind in _SOFTMAX)
        self._places = [place for place in found if place is not None]
        self.seen_from_bottom = frozenset(
            name for place in self._places for names in (place.made, *place.parts) for name in names
        )

    def tamed(self, ranges: Mapping[str, Range]) -> dict[str, Range]:
        """The ranges of masks and masked scores, their low ends near the scores; the others as they are."""
        lows: dict[str, float] = {}
        masks: dict[str, float] = {}
        for place in self._places:
            known = [(ranges[part[0]], part) for part in place.parts if part[0] in ranges]
            known.sort(key=lambda pair: pair[0].min)
            if not known:
                continue
            scores = known[-1][0]  # the mask may be a constant
            lowest = -(scores.span + _FAR) if place.added else min(scores.min, 0.0) - _FAR
            for seen, mask in known[:-1]:
                if seen.min < lowest and (seen.max >= _ROUND_ZERO or not place.added):
                    masks.update({name: min(masks.get(name, 0.0), lowest) for name in mask})
            if len(known) == 1 or known[0][1][0] in masks:
                lows.update(dict.fromkeys(place.made, min(scores.min, 0.0) - _FAR))  # the sum saturates there
        lows |= {name: low for name, low in masks.items() if self._only_masks(name, frozenset(masks))}
        return {
            name: Range(low, max(seen.max, low)) if (low := lows.get(name, seen.min)) > seen.min else seen
            for name, seen in ranges.items()
        }

    def _behind(self, name: str) -> _Masked | None:
        """What makes a softmax's input, where masks come in."""
        made = [name]
        while self._alone(made[-1]) and (step := self._makers.get(made[-1])) is not None:
            if step.kind in _MOVING:
                made.append(step.read[0])
                continue
            if step.kind in _ADDING or step.kind in _CHOOSING:
                operands = step.read if step.kind in _ADDING else step.read[1:]
                return _Masked(step.kind in _ADDING, tuple(made), tuple(map(self._origins, operands)))
            break
        return None

    def _origins(self, name: str) -> tuple[str, ...]:
        found = [name]
        while (step := self._makers.get(found[-1])) is not None and step.kind in _MOVING:
            found.append(step.read[0])
        return tuple(found)

    def _alone(self, name: str) -> bool:
        return len(self._readers.get(name, ())) == 1 and name not in self._outputs

    def _only_masks(self, name: str, masks: frozenset[str]) -> bool:
        """Whether nothing but such a sum or selection reads a mask, over moves."""
        if name in self._outputs:
            return False
        ends = {place.made[-1] for place in self._places}
        return all(
            step.made[0] in ends or (step.kind in _MOVING and step.made[0] in masks)
            for step in self._readers.get(name, ())
        )
