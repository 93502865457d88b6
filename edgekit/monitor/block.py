"""The block of samples that is open: a call only copies what is looked at, and numbers are made of several at once.

Nothing is later for it. Sensors that stand still are looked for as soon as a run can be long enough (`Runs.slack`),
distributions every `BLOCK` samples in any case, and the verdict on a single sample is worked out when somebody asks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from edgekit.monitor.alarm import Alarm, Verdict
from edgekit.monitor.columns import Array
from edgekit.monitor.reference import CLIP, Reference, weighed
from edgekit.monitor.rightness import Rightness
from edgekit.monitor.rows import Rows, confidence
from edgekit.monitor.scan import BLOCK

WAIT = 8
"""Samples that are read together at most, where more would leave the nearest cache."""

_CACHE = 32 << 10
"""Bytes of it."""


LACKING = 1.0
"""Score, at least, of a sample that lacks a number which none of the reference lacked."""


class Told:
    """Scores of a block's samples: how far they lie, how unsure their answers are, the chance that these are wrong; all
    [BLOCK].
    """

    __slots__ = ("doubt", "far", "unsure")

    def __init__(self) -> None:
        self.far, self.unsure, self.doubt = np.zeros(BLOCK), np.zeros(BLOCK), np.zeros(BLOCK)


Span = tuple[Told, int, int]
"""Some samples of a block: [first, last)."""


def largest(scores: Array, first: int, last: int) -> float:
    """Of a block's scores, those of a span."""
    return float(scores.item(first) if last == first + 1 else scores[first:last].max())


class Later(Verdict):
    """A verdict that is worked out when it is asked for.

    Args:
        ask: Samples to their largest score and uncertainty.
        doubted: Samples to their largest doubt.
        spans: Of the call.
        alarms: That it raised.
    """

    _ask: Callable[[list[Span]], tuple[float, float]]
    _doubted: Callable[[list[Span]], float | None]
    _spans: list[Span]

    def __init__(
        self,
        ask: Callable[[list[Span]], tuple[float, float]],
        doubted: Callable[[list[Span]], float | None],
        spans: list[Span],
        alarms: list[Alarm],
    ) -> None:
        own = self.__dict__  # what is frozen
        own["_ask"], own["_doubted"], own["_spans"], own["alarms"] = ask, doubted, spans, tuple(alarms)

    def __getattr__(self, name: str) -> float | None:
        if name == "doubt":
            doubt = self.__dict__["doubt"] = self._doubted(self._spans)
            return doubt
        if name not in ("ood_score", "uncertainty"):
            raise AttributeError(name)
        score, uncertainty = self._ask(self._spans)
        self.__dict__.update(ood_score=score, uncertainty=uncertainty)
        return score if name == "ood_score" else uncertainty

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        return Verdict, (self.ood_score, self.uncertainty, self.alarms, self.doubt)


_SURE = 1e-6
"""Below which one minus a probability is mostly rounding."""


def _unsure(best: Array, scores: Array) -> Array:
    """[n]: one minus the top class's probability `best` [n], of `scores` [n, classes]; of a model that is nearly always
    sure what the others add up to, or all of its answers were as sure as each other.
    """
    found = 1.0 - best
    if np.count_nonzero(found < _SURE):
        sure = np.flatnonzero(found < _SURE)
        others = scores[sure]
        others[np.arange(sure.size), others.argmax(axis=1)] = 0.0
        found[sure] = others.sum(axis=1)
    return np.asarray(found)


class Block:
    """See the module header.

    Args:
        reference: Of the model.
        rows: What is taken of its tensors.
        seen: Is given the inputs' numbers [n, inputs] of samples as they are made, which of them are missing (None:
            none), and the place of the first in the block; tells how many more may wait to be read.

    Attributes:
        rows: [BLOCK, columns] as the reference has them; those of `read` samples hold the features.
        scores: [BLOCK, classes]: probabilities.
        filled, read, judged, doubted: Samples that are there; whose features are; whose distance and probabilities
            are; the chance that whose answers are wrong is.
        due: How many there may be before the next look.
        told: Their scores.
    """

    def __init__(self, reference: Reference, rows: Rows, seen: Callable[[Array, Array | None, int], int]) -> None:
        header, columns = reference.header, len(reference.columns)
        number, read = header.inputs, len(header.columns)
        self._rows, self._seen = rows, seen
        self._own, self._features = slice(0, number), slice(0, read)
        self._residual = slice(read, read + number * header.relations)
        self._far = columns - 1 - 3 * bool(header.classes)
        self._inputs = number
        self._whole = np.full(number, True) if header.absent is None else np.array(header.absent) == 0
        self._lacking = np.zeros(BLOCK, bool)
        self._center, self._per = reference.mean[:number], 1 / reference.deviation[:number]
        self._precision = reference.precision
        self._units = 1 / np.sqrt(np.diag(self._precision))
        self.middle, far = header.unfamiliar
        self._reach = far - self.middle
        self._kinds: list[tuple[Any, tuple[int, ...]]] = []  # of what waits: dtype and shape of a sample's parts
        self._waiting: list[Array] = []
        self._store: list[tuple[Array, ...]] = []  # the same, tensor by tensor
        self._places = WAIT  # in them
        self._raw = np.zeros((BLOCK, 0))
        self.rows = np.zeros((BLOCK, columns))
        self.scores = np.zeros((BLOCK, header.classes))
        self.filled = self.read = self.judged = self.doubted = 0
        self.due = WAIT
        self.told = Told()

    @property
    def room(self) -> int:
        """Samples that may be put at once."""
        return min(BLOCK - self.filled, self._places - (self.filled - self.read))

    def put(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array], first: int, count: int) -> Span:
        """Take in samples [first, first + count) of a batch; there must be room for them.

        Raises:
            KeyError: A tensor is missing.
        """
        views = self._rows.views(inputs, outputs, first, count)
        begin, end = self.filled, self.filled + count
        if self._rows.classes:
            (raw,) = views.pop()
            if raw.dtype != self._raw.dtype or raw.shape[1] != self._raw.shape[1]:
                self.judge()
                self._raw = np.zeros((BLOCK, raw.shape[1]), raw.dtype)
            self._raw[begin:end] = raw
        parts = [part for parts in views for part in parts]
        kinds = [(part.dtype, part.shape[1:]) for part in parts]
        if kinds != self._kinds:  # samples of other sizes than those before
            self.look()
            whole = BLOCK * sum(part.nbytes for part in parts) <= _CACHE * count
            self._kinds, self._places = kinds, BLOCK if whole else max(WAIT, count)
            self._waiting = [np.zeros((self._places, *shape), dtype) for dtype, shape in kinds]
            stores = iter(self._waiting)
            self._store = [tuple(next(stores) for _ in parts) for parts in views]
        waiting = begin - self.read
        for store, part in zip(self._waiting, parts, strict=True):
            store[waiting : waiting + count] = part
        self.filled = end
        return self.told, begin, end

    def look(self) -> None:
        """Make the features of what was put. What is missing counts as the reference's mean."""
        begin, end = self.read, self.filled
        count = end - begin
        if not count:
            return
        table = self.rows[begin:end, self._features]
        with np.errstate(all="ignore"):  # what overflows is out of range, and told so
            self._rows.features([tuple(block[:count] for block in blocks) for blocks in self._store], table)
        own = table[:, self._own]
        missing = np.isnan(own)
        if not np.count_nonzero(missing):
            slack = self._seen(own, None, begin)
        else:
            self._lacking[begin:end] = (missing & self._whole).any(axis=1)
            np.copyto(own, self._center, where=missing)
            slack = self._seen(own, missing, begin)
        self.read = end
        self.due = min(BLOCK, end + min(WAIT, slack))

    def judge(self) -> None:
        """Work out distances and probabilities of what was put."""
        if self.read < self.filled:
            self.look()
        begin, end = self.judged, self.filled
        if begin == end:
            return
        rows, told = self.rows[begin:end], self.told
        if self._inputs:
            z = (rows[:, self._own] - self._center) * self._per
            weighted, far = weighed(z.clip(-CLIP, CLIP), self._precision)
            if self._residual.stop > self._residual.start:
                rows[:, self._residual] = weighted * self._units
            rows[:, self._far] = far
            told.far[begin:end] = (far - self.middle) / self._reach
            lacking = self._lacking[begin:end]
            if np.count_nonzero(lacking):
                told.far[begin:end][lacking] = np.maximum(told.far[begin:end][lacking], LACKING)
                lacking[:] = False
        else:
            told.far[begin:end] = -self.middle / self._reach
        if self._rows.classes:
            scores = self.scores[begin:end] = self._rows.probabilities(self._raw[begin:end])
            sure = rows[:, -3:] = confidence(scores)
            told.unsure[begin:end] = _unsure(sure[:, 0], scores)
        self.judged = end

    def doubt(self, right: Rightness) -> None:
        """Work out the chance that answers to what was put are wrong."""
        self.judge()
        begin, end = self.doubted, self.judged
        if begin < end:
            rows = self.rows[begin:end]
            z = (rows[:, self._own] - self._center) * self._per
            found = right.each(z, rows, self.scores[begin:end].argmax(axis=1))
            self.told.doubt[begin:end] = 1.0 - found[:, 0]
            self.doubted = end

    def clear(self, slack: int) -> None:
        """Begin the next one; `slack` as `seen` tells it."""
        self.due = min(WAIT, slack)
        self.filled = self.read = self.judged = self.doubted = 0
        self.told = Told()

    def restore(self, rows: Array, scores: Array, slack: int) -> None:
        """Go on with samples that a state held; `slack` as `seen` tells it."""
        self.doubted = 0
        self.filled = self.read = self.judged = count = min(len(rows), BLOCK - 1)
        self.rows[:count], self.scores[:count] = rows[:count], scores[:count]
        if count and self._rows.classes:
            self.rows[:count, -3:] = confidence(self.scores[:count])
        self.due = min(BLOCK, count + min(WAIT, slack))
