"""From labelled answers, clean and spoilt, to the estimate of the accuracy (see `estimate`); at the desk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from edgekit.monitor import bins, packing
from edgekit.monitor.columns import Array
from edgekit.monitor.estimate import DEVIATE, LEANING, LEVEL, TERMS, Estimator, Kernel, curve_terms
from edgekit.monitor.reference import CLIP, Reference
from edgekit.monitor.rightness import LEAST, Signals
from edgekit.monitor.rows import confidence
from edgekit.monitor.streams import Streams, streams

AXES = 8
"""Axes along which a drift has its place."""

_MIXES = 12
"""Anchors without drift, of classes in other shares."""

_CLEAN = 0.25
"""Weight of the clean samples in the curve, in that of all spoilt ones: most streams are clean or nearly so."""

_STEPS = 63
"""Of axes and places to either side."""

_BITS, _ROUGHLY = 6, 3
"""Bits of significance of errors, and of their noise."""

_RIDGE = 1.0
_LEANING_RIDGE = 20.0
"""Of the classes' leans: as if some tens of answers had been as right as they seemed."""

_LEAST_SPREAD = 0.02
_GRID = tuple(product((0.02, 0.08), (0.03, 0.1, 0.2), (1.5, 3.0), (0.03, 0.1, 0.2), (0.6, 1.2)))
"""Kernels that are tried."""

_INSIDE = 0.95
"""Share of the anchors that the others leave less open than the edge of what was tried."""

_FEW = 16
"""Spoilt anchors without which there is nothing to choose a kernel by."""


@dataclass(frozen=True, eq=False)
class Judged:
    """Answers of one kind and strength of drift whose labels are known.

    Attributes:
        rows: Numbers of the inputs [n, inputs]. scores: Probabilities [n, classes]. right: [n].
        family: Of kinds that are alike; "" for clean ones.
        places: [n]: of which clean sample each is a copy; None where nobody knows.
    """

    rows: Array
    scores: Array
    right: Array
    family: str = ""
    places: Array | None = None


@dataclass(frozen=True, eq=False)
class _Anchor:
    """What is known of a stretch: its means, and by how much the mean chance is off."""

    streams: Array
    columns: Array
    extras: Array
    error: float
    noise: float
    family: str


def fit(reference: Reference, clean: Judged, spoilt: Sequence[Judged]) -> Reference:
    """The reference with an estimate fitted on these; deterministic.

    Args:
        reference: Without one.
        clean: Evaluation data as they are.
        spoilt: Copies of them, by kind and strength; may be none, and then the interval under drift is a wide guess.
    """
    made = streams(reference)
    signals = Signals(reference, made)
    clean = replace(clean, places=np.arange(len(clean.right)))
    about, leans = _curve(reference, signals, clean, spoilt)
    anchors = _anchors(reference, made, signals, about, leans * about.lean, clean, spoilt)
    general, moves = signals.read(
        *(np.stack([getattr(anchor, part) for anchor in anchors]) for part in ("streams", "columns", "extras"))
    )
    middle, spread = general[0], np.maximum(general.std(axis=0), _LEAST_SPREAD)
    axes = _axes(moves)
    axes_step = max(float(np.abs(axes).max(initial=0)), 1e-9) / _STEPS
    whole = np.rint(axes / axes_step)
    places = np.concatenate([(general - middle) / spread, moves @ (whole * axes_step).T], axis=1)
    step = max(float(np.abs(places).max(initial=0)), 1e-9) / _STEPS
    kept: dict[str, Array] = {
        "axes": whole.astype(np.int8),
        "places": np.rint(places / step).astype(np.int8),
        "errors": packing.trimmed(np.array([anchor.error for anchor in anchors]), _BITS).astype(np.float16),
        "noise": packing.trimmed(np.array([anchor.noise for anchor in anchors]), _ROUGHLY).astype(np.float16),
        **({"leans": leans} if about.leans else {}),
    }
    families = np.array([anchor.family for anchor in anchors])
    stored = kept["places"].astype(np.float64) * step
    errors, noise = kept["errors"].astype(np.float64), kept["noise"].astype(np.float64)
    few = len(spoilt) < _FEW
    chosen = (Kernel(), DEVIATE, DEVIATE, 1.0) if few else _chosen(stored, errors, noise, families)
    kernel, near, factor, edge = chosen
    found = replace(
        about, kernel=kernel, near=_rounded(near), factor=_rounded(factor), edge=_rounded(edge),
        middle=_all(middle), spread=_all(spread),
        steps=(axes_step, step), anchors=len(anchors), axes=len(axes), size=moves.shape[1],
    )  # fmt: skip
    return replace(reference, header=replace(reference.header, estimator=found), anchors=kept)


# -- The curve --------------------------------------------------------------------------------------------------------


def _curve(reference: Reference, signals: Signals, clean: Judged, spoilt: Sequence[Judged]) -> tuple[Estimator, Array]:
    """The curve, and each class's lean in its steps [classes] int8; zeros where there are too many classes."""
    parts = [clean, *spoilt]
    sources = _deviations(reference, clean.rows)
    far = [_far(signals, _deviations(reference, part.rows), sources, part) for part in parts]
    terms = np.concatenate([curve_terms(confidence(part.scores), one) for part, one in zip(parts, far, strict=True)])
    right = np.concatenate([part.right for part in parts]).astype(np.float64)
    weight = np.ones(len(right))
    own = len(clean.right)
    weight[:own] = max(1.0, _CLEAN * (len(right) - own) / own)
    center, scale = terms.mean(axis=0), np.maximum(terms.std(axis=0), 1e-3)
    table = np.concatenate([np.ones((len(terms), 1)), (terms - center) / scale], axis=1)
    ridge = np.r_[1e-3, np.full(terms.shape[1], _RIDGE)]
    classes = clean.scores.shape[1]
    if leaning := 2 < classes <= LEANING:
        answered = np.concatenate([part.scores.argmax(axis=1) for part in parts])
        table = np.concatenate([table, answered[:, None] == np.arange(classes)], axis=1)
        ridge = np.r_[ridge, np.full(classes, _LEANING_RIDGE)]
    weights = _logistic(table, right, weight / weight.mean(), ridge)
    own_leans = weights[1 + TERMS :] if leaning else np.zeros(classes)
    step = _rounded(max(float(np.abs(own_leans).max()), 1e-6) / _STEPS)
    about = Estimator(
        center=_all(center), scale=_all(scale), weights=_all(weights[: 1 + TERMS]),
        accuracy=_rounded(float(clean.right.mean())), samples=own, kernel=Kernel(), factor=DEVIATE,
        middle=(0.0,) * 7, spread=(1.0,) * 7, steps=(1.0, 1.0), anchors=1, axes=0, size=0,
        leans=classes if leaning else 0, lean=step if leaning else 0.0,
    )  # fmt: skip
    return about, np.rint(own_leans / step).astype(np.int8)


def _logistic(table: Array, right: Array, weight: Array, ridge: Array) -> Array:
    """Weights of a logistic regression, drawn towards 0 by `ridge`, by Newton's steps."""
    weights = np.zeros(table.shape[1])
    for _ in range(30):
        chance = 1 / (1 + np.exp(-np.clip(table @ weights, -30, 30)))
        slope = table.T @ (weight * (right - chance)) - ridge * weights
        bend = (table * (weight * chance * (1 - chance))[:, None]).T @ table + np.diag(ridge)
        step = np.linalg.solve(bend, slope)
        size = float(np.abs(step).max())
        weights = weights + step * min(1.0, 2.0 / max(size, 1e-12))
        if size < 1e-8:
            break
    return np.asarray(weights)


# -- The anchors ------------------------------------------------------------------------------------------------------


def _anchors(
    reference: Reference,
    made: Streams,
    signals: Signals,
    about: Estimator,
    leans: Array,
    clean: Judged,
    spoilt: Sequence[Judged],
) -> list[_Anchor]:
    dice = np.random.default_rng(0)
    sources = _deviations(reference, clean.rows)
    whole = _told(reference, made, signals, about, leans, clean, sources)
    beside = _table(whole, clean.right)
    found = [_anchor(whole, clean.right, "")]
    for part in spoilt:
        told = _told(reference, made, signals, about, leans, part, sources)
        found.append(_lucky(_anchor(told, part.right, part.family, beside, part.places), whole, dice))
    answers = clean.scores.argmax(axis=1)
    for _ in range(_MIXES):
        chance = dice.dirichlet(np.full(clean.scores.shape[1], 0.5))[answers]
        if chance.sum() > 0:
            drawn = dice.choice(len(answers), len(answers), p=chance / chance.sum())
            found.append(_anchor(tuple(part[drawn] for part in whole), clean.right[drawn], "classes"))
    return found


def _told(
    reference: Reference,
    made: Streams,
    signals: Signals,
    about: Estimator,
    leans: Array,
    part: Judged,
    sources: Array,
) -> tuple[Array, ...]:
    """Scores of the streams [n, s], numbers in deviations [n, k] and extras [n, EXTRAS], as the monitor makes them.
    Columns of outputs and relations, which the estimate does not look at, have their means.
    """
    number = reference.header.inputs
    z = np.zeros((len(part.rows), len(reference.mean)))
    z[:, :number] = _deviations(reference, part.rows)
    sure = confidence(part.scores)
    z[:, -3:] = (sure - reference.mean[-3:]) / reference.deviation[-3:]
    index = bins.index(z, reference.inner)
    answered = part.scores.argmax(axis=1)
    heaps = made.heaps[answered]
    every = np.concatenate([index, heaps[:, None]], axis=1)
    scores = made.tables[np.arange(len(made.kinds)), every[:, made.column]]
    far = _far(signals, z[:, :number], sources, part)
    return scores, np.clip(z, -CLIP, CLIP), signals.each(far, sure, leans[answered], about)


def _far(signals: Signals, z: Array, sources: Array, part: Judged) -> Array:
    """Distances of a part's samples z [n, inputs]; of copies of clean samples, whose numbers `sources` has, from a
    reference without these.
    """
    return signals.far(z) if part.places is None else signals.apart(z, sources[part.places])


def _lucky(anchor: _Anchor, clean: tuple[Array, ...], dice: np.random.Generator) -> _Anchor:
    """The anchor, moved by the luck that as many other samples would have had beside the clean ones, of which `_told`
    gave these: a stretch in the field is of others, and anchors that are all of the same samples lie where it cannot
    come. What luck moves it by, the process then learns to think little of. The chance, which the error is of, stays.

    Source: B. Efron, "Bootstrap methods", Annals of Statistics 7 (1979).
    """
    drawn = dice.integers(0, len(clean[0]), len(clean[0]))
    streams, columns = (part[drawn].mean(axis=0) - part.mean(axis=0) for part in clean[:2])
    return replace(anchor, streams=anchor.streams + streams, columns=anchor.columns + columns)


def _deviations(reference: Reference, rows: Array) -> Array:
    """Numbers of the inputs [n, inputs] in deviations; what is missing is the mean."""
    number = reference.header.inputs
    z = (rows - reference.mean[:number]) / reference.deviation[:number]
    return np.where(np.isnan(z), 0.0, z)


def _table(told: tuple[Array, ...], right: Array) -> Array:
    """[n, s + k + EXTRAS + 1]: what `_told` gives, and by how much the chance is off."""
    return np.concatenate([*told, (right - told[2][:, 0])[:, None]], axis=1)


def _anchor(
    told: tuple[Array, ...],
    right: Array,
    family: str,
    clean: Array | None = None,
    places: Array | None = None,
) -> _Anchor:
    """One stretch, of what `_told` gives and which answers [n] were right.

    Args:
        told: Of its samples.
        right: [n].
        family: Of its kind.
        clean: `_table` of all clean samples.
        places: Of which of these the stretch's are copies: what is known of all of them tells what chance it was to
            have drawn these (control variates, W. Cochran, "Sampling Techniques", 1977, chapter 7).
    """
    table = _table(told, right)
    means = table.mean(axis=0)
    apart = table - means
    if clean is not None and places is not None:
        own = clean[places]
        middle = own.mean(axis=0)
        own = own - middle
        power = np.square(own).sum(axis=0)
        slope = (apart * own).sum(axis=0) / np.where(power > 0, power, np.inf)
        slope = np.clip(slope, 0.0, 1.0)
        means = means + slope * (clean.mean(axis=0) - middle)
        apart = apart - slope * own
    noise = max(float(np.square(apart[:, -1]).mean()), LEAST) / len(right)
    width = told[0].shape[1], told[1].shape[1]
    streams, columns, extras = np.split(means[:-1], np.cumsum(width))
    return _Anchor(streams, columns, extras, float(means[-1]), noise, family)


def _axes(moves: Array) -> Array:
    """[r, size]: directions in which the anchors lie apart most; places along them have a mean square of 1."""
    if not moves.size:
        return np.zeros((0, moves.shape[1]))
    _, sizes, directions = np.linalg.svd(moves, full_matrices=False)
    count = min(AXES, int((sizes > 1e-6 * max(float(sizes[0]), 1e-12)).sum()))
    # The sign of a direction is a library's choice; here the largest part is positive.
    axes = directions[:count]
    axes = axes * np.sign(axes[np.arange(count), np.abs(axes).argmax(axis=1)])[:, None]
    size = float(np.sqrt(np.square(moves @ axes.T).mean())) if count else 1.0
    return np.asarray(axes / max(size, 1e-9))


# -- The process ------------------------------------------------------------------------------------------------------


def _chosen(places: Array, errors: Array, noise: Array, families: Array) -> tuple[Kernel, float, float, float]:
    """The kernel under which anchors foretell each other best, what its deviations are to be multiplied by for drifts
    like those that were tried and for others, and which part of the variance is left open for the first.

    Each anchor is foretold by all others, as it is where the field's drift is like one that was tried; and each family
    by the other families, as it is where nothing like it was. Both count the same.
    """
    groups = [np.flatnonzero(families == family) for family in dict.fromkeys(families.tolist()) if family]
    best: tuple[float, Kernel, list[_Foretold]] | None = None
    for linear, general, reach, axes, span in _GRID:
        kernel = Kernel(linear, general, reach, axes, span)
        before = kernel(places, places)
        inverse = np.linalg.inv(before + np.diag(noise))
        weights = inverse @ errors
        alone = 1 / np.diag(inverse)
        parts = [_Foretold(weights * alone, alone, noise, np.diag(before))]
        for group in groups:
            covariance = np.linalg.inv(inverse[np.ix_(group, group)])
            variance = np.diag(covariance)
            parts.append(_Foretold(covariance @ weights[group], variance, noise[group], np.diag(before)[group]))
        likely = sum(part.likely for part in parts)
        if best is None or likely > best[0]:
            best = likely, kernel, parts
    assert best is not None  # noqa: S101  the grid is not empty
    _, chosen, (near, *apart) = best
    edge = float(np.quantile(near.open, _INSIDE))
    inside = max(DEVIATE, float(np.quantile(near.sizes, LEVEL)))
    return chosen, inside, max(inside, _hierarchical([part.sizes for part in apart])), edge


@dataclass(frozen=True, eq=False)
class _Foretold:
    """Anchors as others foretell them: by how much that is off, with which variance, `noise` among it, and with which
    one before anything is known; all [n].
    """

    missed: Array
    variance: Array
    noise: Array
    before: Array

    @property
    def likely(self) -> float:
        return -0.5 * float((np.log(self.variance) + np.square(self.missed) / self.variance).sum())

    @property
    def sizes(self) -> Array:
        return np.asarray(np.abs(self.missed) / np.sqrt(self.variance))

    @property
    def open(self) -> Array:
        """Part of the variance that the others leave open."""
        return np.asarray((self.variance - self.noise) / self.before)


def _hierarchical(groups: Sequence[Array]) -> float:
    """What holds a size of a group like none of these in nine of ten cases, each group counting the same and one more
    as without bound; the largest there is where there are too few groups for that.

    Source: R. Dunn, L. Wasserman, A. Ramdas, "Distribution-free prediction sets for two-layer hierarchical models",
    Journal of the American Statistical Association 118 (2023), section 3.2.
    """
    if not groups:
        return DEVIATE
    sizes = np.concatenate(groups)
    weights = np.concatenate([np.full(len(group), 1 / len(group)) for group in groups]) / (len(groups) + 1)
    order = np.argsort(sizes)
    place = int(np.searchsorted(np.cumsum(weights[order]), LEVEL))
    return float(sizes[order[min(place, len(order) - 1)]])


def _all(values: Array) -> tuple[float, ...]:
    return tuple(_rounded(value) for value in values.tolist())


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")
