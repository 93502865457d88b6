"""From samples and their answers to a reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from edgekit.errors import DataError
from edgekit.feeding import Preprocess
from edgekit.monitor import bins, fitting, packing, partial
from edgekit.monitor.columns import Array
from edgekit.monitor.reference import (
    ENDS,
    KNOWN,
    LIMIT,
    VERSION,
    Header,
    Reference,
    distances,
    grouped,
    inverse,
    watched,
)
from edgekit.monitor.rows import Rows, confidence
from edgekit.reading import Interpret
from edgekit.tensors import TensorSpec

LEAST = 20
"""Samples without which there is no reference."""

MOST = 60_000
"""Samples that are looked at; counts are 16-bit numbers."""

PROVEN = 100
"""Evaluation samples from which on they alone describe the outputs: on what it was trained with, a model is surer."""

JUDGED = 50
"""Labelled evaluation samples without which the accuracy is not estimated."""

_SIZES = ((bins.BINS, 1), (16, 1), (8, 1), (8, 2), (8, 4))
"""Bins of a column, and strengths of a drift that are one anchor of the accuracy: the finest that there is room for."""

_BITS, _ROUGHLY = 9, 6
"""Bits of significance that means and deviations have, and what only bounds something."""

_ALIKE = 8
"""Samples a different number, from which on equal samples are no copies."""

_ROUNDS = 3
"""Until the kept mean of a filled column is what it is filled with: the first already is, but for the rounding."""

_FOLDS = 5
_EACH = 3
"""Samples an input column that relations need: below, an inverse of their correlations is mostly noise."""


class Drift(NamedTuple):
    """What labelled samples were given.

    Attributes:
        kind: Of drift. family: Of kinds that are alike.
        level: How strong it is, from 0 on.
    """

    kind: str
    family: str
    level: int


class Builder:
    """Takes samples with their answers, batch by batch; memory grows by a few hundred bytes a sample.

    Args:
        inputs, outputs: Of the model.
        preprocess, interpret: Of its manifest.
    """

    def __init__(
        self,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        preprocess: Preprocess | None = None,
        interpret: Interpret | None = None,
    ) -> None:
        how = interpret or Interpret()
        self.rows = Rows(inputs, outputs, preprocess or Preprocess(), how)
        self._labels = how.labels
        self._places: dict[bytes, int] = {}
        self._counts: list[list[int]] = []  # how often each came, proven and not
        self._again: list[tuple[int, Array, Array, bool]] = []
        self._inputs: list[Array] = []
        self._outputs: list[Array] = []
        self._scores: list[Array] = []
        self._proven: list[bool] = []
        self._clean: list[fitting.Judged] = []
        self._spoilt: dict[Drift, list[fitting.Judged]] = {}

    @property
    def samples(self) -> int:
        """That count: different ones, or of categories, of which many are alike by nature, all."""
        return len(self._inputs) + (len(self._again) if self._alike else 0)

    def add(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array], *, proven: bool = True) -> None:
        """A batch: arrays [n, ...] by name. Samples that both data sets hold count once.

        Args:
            inputs: As the model takes them.
            outputs: As it gives them.
            proven: The model was not trained on these.
        """
        rows, scores = self.rows.read(inputs, outputs)
        own = len(self.rows.inputs)
        for sample, row in enumerate(rows):
            mark = row[:own].tobytes()
            place = self._places.get(mark)
            if place is not None:
                counts = self._counts[place]
                counts[not proven] += 1
                if counts[not proven] <= counts[proven]:
                    continue  # the other set's
            if len(self._inputs) + len(self._again) == MOST:
                continue
            if place is not None:
                self._again.append((place, row[own:], scores[sample], proven))
                continue
            self._places[mark] = len(self._inputs)
            self._counts.append([int(proven), int(not proven)])
            self._inputs.append(row[:own])
            self._outputs.append(row[own:])
            self._proven.append(proven)
            if self.rows.classes:
                self._scores.append(scores[sample])

    def judge(
        self,
        inputs: Mapping[str, Array],
        outputs: Mapping[str, Array],
        labels: Array,
        drift: Drift | None = None,
        places: Array | None = None,
    ) -> None:
        """A batch whose right answers are known, for the estimate of the accuracy; it counts for nothing else.

        Args:
            inputs: Arrays [n, ...] by name.
            outputs: The answers.
            labels: Class indices [n].
            drift: What these samples were given; None for none.
            places: [n]: of which of those that were given nothing each is a copy, counted as they come; makes the
                estimate of few copies as good as that of many.
        """
        rows, scores = self.rows.read(inputs, outputs)
        right = scores.argmax(axis=1) == labels
        family = "" if drift is None else drift.family
        one = fitting.Judged(rows[:, : len(self.rows.inputs)].copy(), scores, right, family, places)
        (self._clean if drift is None else self._spoilt.setdefault(drift, [])).append(one)

    def finish(self, room: int = LIMIT) -> Reference:
        """The reference.

        Args:
            room: Bytes that it should take at most: it has fewer bins where it would take more, but at least 8.

        Raises:
            DataError: `reference-samples`: too few different samples.
        """
        if self.samples < LEAST:
            raise DataError("reference-samples", f"{self.samples} different samples tell no distribution")
        again = self._again if self._alike else []
        at = [*range(len(self._inputs)), *(place for place, *_ in again)]
        outputs = [*self._outputs, *(row for _, row, _, _ in again)]
        proved = np.array([*self._proven, *(proven for *_, proven in again)])
        table = _known(np.stack(self._inputs)[at])
        gaps = np.isnan(table)
        usual = np.array([_usual(column) for column in table.T])
        table = _filled(table, gaps)
        mean, deviation = moments(table)
        z = (table - mean) / deviation
        relations = z.shape[1] > 1 and len(z) >= _EACH * z.shape[1]
        # Where they are not watched, none are kept: those of few samples would say much of each.
        steps = partial.partials(_correlation(z) if relations else np.eye(z.shape[1]), len(z))
        correlation = partial.correlations(steps, z.shape[1], len(z))
        shrink = shrinkage(correlation, len(z))
        towards = shrink if relations else 1.0
        residuals, whole = _crossed(z, towards, inverse(correlation, towards))
        evaluated = int(proved.sum()) >= PROVEN
        proven = proved if evaluated else np.ones(len(z), bool)
        parts = [table, np.stack(outputs)[proven]]
        frequencies = np.zeros(self.rows.classes)
        if relations:
            parts.append(residuals)
        if z.shape[1]:
            parts.append(whole[:, None])
        if self.rows.classes:
            scores = np.stack([*self._scores, *(scores for _, _, scores, _ in again)])[proven]
            parts.append(confidence(scores))
            frequencies += np.bincount(scores.argmax(axis=1), minlength=self.rows.classes)
        columns = [column for part in parts for column in part.T]
        header = Header(
            version=VERSION,
            groups=grouped((*self.rows.inputs, *self.rows.outputs)),
            samples=len(z),
            proven=int(proven.sum()),
            evaluated=evaluated,
            bins=1,
            classes=self.rows.classes,
            relations=relations,
            shrink=shrink,
            unfamiliar=_landmarks(whole),
            labels=self._labels,
            absent=tuple(np.round(gaps.mean(axis=0), 4).tolist()) if gaps.any() else None,
            distinct=not self._alike,
        )
        reach = np.array([_reach(column) for column in z.T])
        judged = sum(len(part.right) for part in self._clean) >= JUDGED
        anchors = 0  # bytes that they take, one by one
        for limit, together in _SIZES:
            made = _described(columns, header, steps, reach, usual, frequencies, limit)
            bare = len(made.to_bytes())
            # So many of them together take no less than their part: what cannot fit is not fitted.
            if bare + anchors // together > room and (limit, together) != _SIZES[-1]:
                continue
            if judged:
                made = fitting.fit(made, _together(self._clean), self._by_drift(together))
            if (size := len(made.to_bytes())) <= room:
                break
            anchors = max(anchors, size - bare)
        return made

    @property
    def _alike(self) -> bool:
        """Whether samples that came again count: of categories. Of numbers of which many differ, no two samples are
        alike by chance, and what came again is a copy.
        """
        if not self._again:
            return False
        different = max((np.unique(column).size for column in np.stack(self._inputs).T), default=0)
        return bool(different * _ALIKE <= len(self._inputs) + len(self._again))

    def _by_drift(self, levels: int) -> list[fitting.Judged]:
        """Copies of each kind, so many levels of it together; in an order that does not depend on how they came."""
        found: dict[tuple[str, int], list[fitting.Judged]] = {}
        for drift in sorted(self._spoilt):
            found.setdefault((drift.kind, drift.level // levels), []).extend(self._spoilt[drift])
        return [_together(parts) for parts in found.values()]


def _described(
    columns: list[Array],
    header: Header,
    steps: Array,
    reach: Array,
    usual: Array,
    frequencies: Array,
    limit: int,
) -> Reference:
    """At most `limit` bins of every column."""
    stats = [moments(column[:, None]) for column in columns]
    mean, deviation = (np.array([float(pair[place][0]) for pair in stats]) for place in (0, 1))
    scaled = [(c[np.isfinite(c)] - m) / d for c, m, d in zip(columns, mean, deviation, strict=True)]
    cuts = [bins.edges(column, limit) for column in scaled]
    number = max((cut.size for cut in cuts), default=0) + 1
    inner = np.full((len(columns), number - 1), np.inf, np.float16)
    counts = np.zeros((len(columns), number), np.uint16)
    for place, (column, cut) in enumerate(zip(scaled, cuts, strict=True)):
        inner[place, : cut.size] = cut
        at = bins.index(column[:, None], inner[place][None])[:, 0]
        # To a hundredth at worst, which is far less than their own chance.
        counts[place] = packing.trimmed(np.bincount(at, minlength=number), _ROUGHLY)
    header = replace(header, bins=number)
    assert len(watched(header)) == len(columns)  # noqa: S101  the arrays follow the header
    return Reference(header, mean, deviation, inner, counts, frequencies.astype(np.uint32), steps, reach, usual)


def _together(parts: Sequence[fitting.Judged]) -> fitting.Judged:
    """Batches of one kind as one."""
    rows, scores, right = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("rows", "scores", "right")
    )
    known = [part.places for part in parts if part.places is not None]
    places = np.concatenate(known) if len(known) == len(parts) else None
    return fitting.Judged(rows, scores, right, parts[0].family, places)


def _known(table: Array) -> Array:
    """Numbers [n, k]; what is missing in nearly all samples is in all: means of the others would be those samples'."""
    few = np.isfinite(table).sum(axis=0) < min(KNOWN, len(table))
    return np.where(few, np.nan, table) if few.any() else table


def _filled(table: Array, gaps: Array) -> Array:
    """Numbers [n, k] with the mean of its column for what is missing (bool [n, k]), as the device puts it: the mean
    as it is kept, of the numbers so filled.
    """
    if not gaps.any():
        return table
    for _ in range(_ROUNDS):
        table = np.where(gaps, moments(table)[0], table)
    return table


def moments(table: Array) -> tuple[Array, Array]:
    """Mean and deviation of each column [n, k], as they are kept: to a thousandth of the deviation. A column that never
    changes has deviation 1, or what floats resolve.
    """
    finite = _cut(np.where(np.isfinite(table), table, np.nan))
    known = np.isfinite(finite).any(axis=0)
    filled = np.where(known, finite, 0.0)
    mean = np.nanmean(filled, axis=0)
    deviation = np.nanstd(filled, axis=0)
    still = deviation <= 1e-9 * np.maximum(np.abs(mean), 1e-9)
    deviation = packing.trimmed(np.where(still, np.maximum(np.abs(mean) * 1e-3, 1e-6), deviation), _BITS)
    step = np.exp2(np.floor(np.log2(deviation)) - _BITS)
    return np.rint(mean / step) * step, deviation


def _cut(table: Array) -> Array:
    """Columns [n, k], NaN for what is not known, with the third number from either end in place of those beyond."""
    if not len(table):
        return table
    ordered = np.sort(table, axis=0)  # NaN last
    known = np.isfinite(ordered).sum(axis=0)
    places, columns = np.minimum(ENDS - 1, (known - 1).clip(0) // 2), np.arange(table.shape[1])
    low, high = ordered[places, columns], ordered[(known - 1).clip(0) - places, columns]
    return np.clip(table, low, high)


def _correlation(z: Array) -> Array:
    """Of numbers in deviations, those beyond eight of them cut."""
    clipped = np.clip(z, -8, 8)
    clipped = clipped - clipped.mean(axis=0)
    size = np.sqrt(np.square(clipped).mean(axis=0))
    size[size < 1e-6] = np.inf
    found = np.clip(clipped.T @ clipped / len(z) / np.outer(size, size), -1, 1)
    np.fill_diagonal(found, 1.0)
    return np.asarray(found)


def shrinkage(correlation: Array, samples: int) -> float:
    """How far sampled correlations are best drawn towards none: the sum of their variances over that of their squares.

    Source: J. Schaefer, K. Strimmer, "A shrinkage approach to large-scale covariance matrix estimation", Statistical
    Applications in Genetics and Molecular Biology 4 (2005). At least 0.002, for sensors that say the same.
    """
    off = correlation[~np.eye(len(correlation), dtype=bool)]
    power = float(np.square(off).sum())
    if power <= 0:
        return 1.0
    noise = float(np.square(1 - np.square(off)).sum()) / max(1, samples - 1)
    return float(min(1.0, max(0.002, noise / power)))


def _crossed(z: Array, shrink: float, kept: Array) -> tuple[Array, Array]:
    """Residuals and distances of samples by correlations of the others: of its own, a sample is never far.

    Of numbers that are nearly the sum of others hardly anything is left but the rounding of `kept`, the inverse that a
    device goes by: where it makes residuals wider than correlations of others do, they are taken by it.
    """
    residuals, whole = np.zeros_like(z), np.zeros(len(z))
    fold = np.arange(len(z)) % _FOLDS
    for number in range(_FOLDS):
        inside = fold == number
        precision = inverse(_correlation(z[~inside]), shrink)
        residuals[inside], whole[inside] = distances(z[inside], precision)
    own, _ = distances(z, kept)
    return np.where(own.std(axis=0) > residuals.std(axis=0), own, residuals), whole


def _landmarks(whole: Array) -> tuple[float, float]:
    """Median and last hundredth of distances."""
    if not whole.size:
        return 0.0, 1.0
    middle, far = np.quantile(whole, [0.5, 0.99])
    return float(middle), float(max(far, middle + 1e-6))


def _reach(column: Array) -> tuple[float, float]:
    """Of numbers in deviations: the third smallest and the third largest, roughly."""
    ordered = np.sort(column)
    low, high = packing.trimmed(np.array([ordered[ENDS - 1], ordered[-ENDS]]), _ROUGHLY).tolist()
    return float(np.float16(low)), float(np.float16(high))


def _usual(column: Array) -> float:
    """Share of the most frequent number, as large as it may well be: by three deviations of how many have another."""
    _, counts = np.unique(column[np.isfinite(column)], return_counts=True)
    total = int(counts.sum())
    others = total - int(counts.max(initial=0))
    share = 1 - max(0.0, others - 3 * others**0.5) / max(1, total)
    return float(packing.trimmed(np.array(share), _ROUGHLY))
