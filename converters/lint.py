"""A look at the data before any work: what would make a conversion fail late, or pass and be wrong.

Streaming, one pass: the extremes and moments of each input, a digest of each sample, the labels.
It holds a few arrays of the size of each input.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from edgekit.converters.stages import Array
from edgekit.data import Dataset
from edgekit.feeding import Preprocess
from edgekit.runtimes.base import absent
from edgekit.tensors import TensorSpec

FEW = 20
"""Fewer calibration samples than this rarely reach the ranges that real inputs reach."""

RATIO = 8.0
"""Scales of two data sets of one model that differ by more are no coincidence: 255 is the usual factor."""

SHIFT = 10.0
"""The squared distance of the feature-wise means over what two draws from one population have. 1 is expected; up to 8
was seen in 60 splits each of eight data sets (most on wine's 13 unscaled columns), 20 with the first hundred of CIFAR
sorted by class. After Dempster's two-sample test (1958), which needs no inverse of the covariance."""

SHARE = 0.05
"""With many samples the smallest shift is certain; one below this share of the summed variances does no harm."""

SPREAD = 0.35
"""A calibration set whose per-sample means spread by less than this share of the evaluation's is too much alike."""

BEYOND = 0.25
"""Share of the range of prepared pictures or waves by which arrays may leave it: margins that differ, not scales."""

WITHIN = 1 / 64
"""Arrays that fill less of that range were prepared otherwise: 1 of 255, or 2, is the usual share."""

USUAL = 3.0
"""Deviations by which the mean of a prepared column may be off zero, and that of a raw one off [preprocess]'s mean."""

_LEVELS = {"int8": 255, "int16": 65535}
"""Steps of a range, by the element type of activations."""

STEPS = 2.0
"""Of the 255 between the ends of an input: a feature that spans less than that comes out of int8 as a constant."""

LOST = 0.25
"""Share of the features that vary which may be lost like that without a word."""

CLASSES = 0.5
"""Share of the evaluation's classes that calibration must hold."""


_REPAIR = (
    "Drop or repair such samples. Trees and imputers that take NaN as a missing value do so in fp32, fp16 and dynamic."
)


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or looks it."""

    severity: Literal["error", "warning"]
    code: str
    message: str
    fix: str


@dataclass(frozen=True)
class Report:
    """All findings, and what was seen on the way: input name -> (low, high) over both data sets."""

    findings: tuple[Finding, ...]
    ranges: dict[str, tuple[float, float]]


@dataclass
class _Seen:
    """Statistics of one input over one data set."""

    low: float = np.inf
    high: float = -np.inf
    count: int = 0
    squares: float = 0.0
    broken: int = -1
    means: list[float] = field(default_factory=list)
    totals: Array = field(default_factory=lambda: np.zeros(1))
    least: Array = field(default_factory=lambda: np.full(1, np.inf))
    most: Array = field(default_factory=lambda: np.full(1, -np.inf))

    def filled(self, real: Array, missing: Array) -> Array:
        """Samples [n, k] with the mean of the feature, as far as it is known, for what is missing (bool [n, k])."""
        known = np.where(missing, 0.0, real).sum(axis=0) + self.totals
        count = (~missing).sum(axis=0) + self.samples
        return np.where(missing, known / np.maximum(count, 1), real)

    @property
    def mean(self) -> float:
        return float(self.totals.sum()) / max(1, self.count)

    @property
    def deviation(self) -> float:
        return float(np.sqrt(max(0.0, self.squares / max(1, self.count) - self.mean**2)))

    @property
    def samples(self) -> int:
        return len(self.means)

    @property
    def center(self) -> Array:
        """Mean of each feature."""
        return self.totals / max(1, self.samples)

    @property
    def scatter(self) -> float:
        """Summed squared distance of the samples from their center."""
        return max(0.0, self.squares - self.samples * float((self.center**2).sum()))

    @property
    def magnitude(self) -> float:
        return max(abs(self.low), abs(self.high))


@dataclass
class _Survey:
    """Statistics of one data set."""

    inputs: dict[str, _Seen]
    digests: set[bytes]
    samples: int


def lint(
    calibration: Dataset | None,
    evaluation: Dataset | None,
    inputs: tuple[TensorSpec, ...],
    activations: str = "int8",
) -> Report:
    """Look at both data sets; either may be missing. `activations`: element type that calibration is for."""
    findings: list[Finding] = []
    surveys: dict[str, _Survey] = {}
    for name, data in (("calibration", calibration), ("evaluation", evaluation)):
        if data is not None:
            surveys[name] = _survey(data, inputs)
            findings += [*_alone(name, surveys[name]), *_left_out(name, data)]
            findings += _otherwise(name, data.ref.preprocess, surveys[name], inputs)
            findings += _as_they_are(name, data, surveys[name])
    if evaluation is not None:
        for doubt, fix in evaluation.doubts:
            findings.append(Finding("warning", "data-labels", f"evaluation data: {doubt}", fix))
    if calibration is not None:
        findings += [*_enough(calibration), *_scales(surveys["calibration"], activations)]
    if calibration is not None and evaluation is not None:
        findings += _labels(calibration, evaluation)
        findings += _together(surveys["calibration"], surveys["evaluation"])
    return Report(tuple(findings), _ranges(surveys))


def _survey(data: Dataset, inputs: tuple[TensorSpec, ...]) -> _Survey:
    survey = _Survey({spec.name: _Seen() for spec in inputs}, set(), 0)
    specs = {spec.name: spec for spec in inputs}
    for batch in data.batches(16):
        size = len(next(iter(batch.feeds.values())))
        digests: list[Any] = [hashlib.blake2b(digest_size=16) for _ in range(size)]
        for name, array in batch.feeds.items():
            seen = survey.inputs[name]
            flat = array.reshape(size, -1)
            for digest, row in zip(digests, flat, strict=True):
                digest.update(row.tobytes())
            real = flat.astype(np.float64)
            missing = absent(array, specs[name]).reshape(size, -1) if array.dtype.kind == "f" else None
            if missing is not None and missing.any():
                real = seen.filled(real, missing)
            sane = np.isfinite(real).all(axis=1)
            if not sane.all() and seen.broken < 0:
                seen.broken = survey.samples + int(np.flatnonzero(~sane)[0])
            real = real[sane]
            if real.size:
                seen.low, seen.high = min(seen.low, float(real.min())), max(seen.high, float(real.max()))
                seen.count += real.size
                seen.totals = seen.totals + real.sum(axis=0)
                seen.least = np.minimum(seen.least, real.min(axis=0))
                seen.most = np.maximum(seen.most, real.max(axis=0))
                seen.squares += float((real**2).sum())
                seen.means += real.mean(axis=1).tolist()
        survey.digests.update(digest.digest() for digest in digests)
        survey.samples += size
    return survey


def _alone(name: str, survey: _Survey) -> list[Finding]:
    findings = []
    # One that never changes beside others that do is mostly meant: a mask that masks nothing, a rate.
    varies = any(seen.low < seen.high for seen in survey.inputs.values())
    for tensor, seen in survey.inputs.items():
        if seen.broken >= 0:
            message = f"{name} sample {seen.broken} of {tensor} holds NaN or infinity."
            findings.append(Finding("error", "data-nan", message, _REPAIR))
        elif seen.low == seen.high and survey.samples > 1 and seen.count > survey.samples:
            message = f"every value of {tensor} in the {name} data is {seen.low:g}."
            severity: Literal["error", "warning"] = "warning" if varies else "error"
            findings.append(Finding(severity, "data-constant", message, "Check how the data was written."))
    if survey.samples > 1 and len(survey.digests) == 1:
        message = f"all {survey.samples} {name} samples are equal."
        findings.append(Finding("error", "data-equal", message, "Give different samples."))
    elif survey.samples >= 8 and len(survey.digests) < 0.9 * survey.samples:
        message = f"only {len(survey.digests)} of {survey.samples} {name} samples are different."
        findings.append(Finding("warning", "data-duplicates", message, "Drop the duplicates: they teach nothing."))
    return findings


def _otherwise(name: str, how: Preprocess, survey: _Survey, inputs: tuple[TensorSpec, ...]) -> list[Finding]:
    """Arrays go in as they are; files, and whatever the device is given, are prepared first. Both must agree."""
    if how.kind == "table":
        return _raw_rows(name, how, survey, inputs[0])
    reach = _reach(how)
    if reach is None:
        return []
    low, high = reach
    findings = []
    for spec in inputs:
        seen, room = survey.inputs[spec.name], BEYOND * (high - low)
        if not spec.dtype.startswith("float") or not seen.count:
            continue
        beyond = seen.low < low - room or seen.high > high + room
        if beyond or 0 < seen.high - seen.low < WITHIN * (high - low):
            what = "a picture" if how.kind == "image" else "a sound"
            message = (
                f"{spec.name} holds [{seen.low:.4g}, {seen.high:.4g}] in the {name} data; {what} that is prepared as "
                f"[preprocess] says holds [{low:.4g}, {high:.4g}]."
            )
            fix = "Store prepared values, as the model was trained with, or give the files; or correct [preprocess]."
            findings.append(Finding("error", "data-scale", message, fix))
    return findings


def _raw_rows(name: str, how: Preprocess, survey: _Survey, spec: TensorSpec) -> list[Finding]:
    """Arrays of rows that nobody prepared: a column lies where [preprocess] has it before, not about zero."""
    seen = survey.inputs[spec.name]
    if not seen.samples or any(len(given) not in (1, seen.totals.size) for given in (how.mean, how.std)):
        return []
    found = seen.totals / seen.samples
    usual, spread = np.array(how.mean) / how.scale, np.abs(np.array(how.std) / how.scale)
    raw = (np.abs(found - usual) <= USUAL * spread) & (np.abs(usual) > USUAL * (spread + 1))
    if not raw.any():
        return []
    at = int(np.flatnonzero(raw)[0])
    message = (
        f"value {at} of {spec.name} is {found[at]:.4g} on average in the {name} data, and [preprocess] takes that off."
    )
    fix = "Store prepared values, as the model was trained with, or give rows as .csv with their columns' names."
    return [Finding("error", "data-scale", message, fix)]


def _as_they_are(name: str, data: Dataset, survey: _Survey) -> list[Finding]:
    """Files that nobody said how to prepare: few models take bytes, or any rate, and the others answer nonsense."""
    kind, spec = data.raw_files, data.inputs[0]
    seen = survey.inputs[spec.name]
    if kind is None or not spec.dtype.startswith("float") or spec.quant is not None:
        return []
    if kind == "sounds":
        message = f"the sounds of the {name} data are fed at the rates of their files: nothing says the model's."
        fix = 'Say kind = "waveform" under [preprocess] in --metadata, and its rate under [preprocess.audio].'
        return [Finding("warning", "data-unprepared", message, fix)]
    if seen.high <= 1.0:
        return []
    message = f"the pictures of the {name} data are fed as they are, {seen.low:g} to {seen.high:g}: nothing says more."
    fix = (
        "If the model was trained on numbers of another size (divided by 255, normalized), say so by scale, mean and "
        'std under [preprocess] in --metadata; if not, kind = "image" there ends this warning.'
    )
    return [Finding("warning", "data-unprepared", message, fix)]


def _reach(how: Preprocess) -> tuple[float, float] | None:
    """Least and largest value of a picture, or of a plain wave, once it is prepared; None of what has no ends."""
    if how.kind == "image":
        raw = np.array([0.0, 255.0])
    elif how.kind == "waveform" and (how.audio is None or how.audio.features == "wave"):
        raw = np.array([-1.0, 1.0])
    else:
        return None
    made = (raw[:, None] * how.scale - np.array(how.mean)) / np.array(how.std)
    return float(made.min()), float(made.max())


def _left_out(name: str, data: Dataset) -> list[Finding]:
    if not data.left_out:
        return []
    message = f"the last {data.left_out} {name} samples are left out: the model takes {data.step} at once."
    return [Finding("warning", "data-batch", message, "Export the model with a free batch, or give a multiple of it.")]


def _enough(calibration: Dataset) -> list[Finding]:
    if len(calibration) >= FEW:
        return []
    message = f"{len(calibration)} calibration samples are few."
    return [Finding("warning", "data-few", message, "100 to 500 representative samples are usual.")]


def _scales(calibration: _Survey, activations: str) -> list[Finding]:
    """Features of one input whose sizes no single scale serves."""
    if activations not in _LEVELS:
        return []
    findings = []
    for tensor, seen in calibration.inputs.items():
        spans = seen.most - seen.least
        varying = int((spans > 0).sum())
        step = (max(seen.high, 0.0) - min(seen.low, 0.0)) / _LEVELS[activations]
        lost = int(((spans > 0) & (spans < STEPS * step)).sum())
        if varying > 1 and lost > LOST * varying:
            message = (
                f"{lost} of the {varying} features of {tensor} span less than {STEPS:g} steps of {activations}, whose "
                f"one scale reaches from {seen.low:.4g} to {seen.high:.4g}: {activations} takes them for constants."
            )
            fix = (
                "Normalize before the model and not in it, or use --precision dynamic, which keeps floats at the "
                "input, or mixed, which lifts the normalization."
            )
            findings.append(Finding("warning", "data-scales", message, fix))
    return findings


def _labels(calibration: Dataset, evaluation: Dataset) -> list[Finding]:
    """The trap of a file sorted by class, of which only the head was taken."""
    if calibration.labels is None or evaluation.labels is None or evaluation.labels.ndim != 1:
        return []
    held, wanted = set(calibration.labels.tolist()), set(evaluation.labels.tolist())
    possible = min(len(wanted), len(calibration))
    if len(wanted) < 2 or len(wanted) > 0.5 * len(evaluation) or len(held & wanted) >= CLASSES * possible:
        return []
    message = f"the calibration data holds {len(held & wanted)} of the {len(wanted)} classes of the evaluation data."
    return [Finding("warning", "data-classes", message, "Shuffle before you split: files are often sorted by class.")]


def _together(calibration: _Survey, evaluation: _Survey) -> list[Finding]:
    findings: list[Finding] = []
    for tensor, ours in calibration.inputs.items():
        theirs = evaluation.inputs[tensor]
        if not ours.count or not theirs.count:
            continue
        ratio = _ratio(ours, theirs)
        span = f"[{ours.low:.4g}, {ours.high:.4g}] in calibration, [{theirs.low:.4g}, {theirs.high:.4g}] in evaluation"
        if ratio > RATIO or ratio < 1 / RATIO:
            kind = "un-normalized" if ratio > 1 else "normalized twice"
            message = f"{tensor} looks {kind} in the calibration data: {span}."
            fix = "Prepare both alike, exactly as in training."
            findings.append(Finding("error", "data-scale", message, fix))
        elif (times := _shift(ours, theirs)) > SHIFT:
            message = (
                f"the calibration samples of {tensor} differ from the evaluation's {times:.0f} times as much as chance "
                f"explains: mean {ours.mean:.4g} and {theirs.mean:.4g}, {span}."
            )
            fix = "Prepare both alike, and shuffle before you split: files are often sorted by class."
            findings.append(Finding("warning", "data-shift", message, fix))
        elif _alike(ours, theirs):
            message = f"the calibration samples of {tensor} are far more alike than the evaluation's."
            fix = "Draw them from all classes: shuffle before you split."
            findings.append(Finding("warning", "data-alike", message, fix))
    common = len(calibration.digests & evaluation.digests)
    if common > 0.5 * len(evaluation.digests):
        message = f"{common} of {len(evaluation.digests)} evaluation samples were calibrated on as well."
        fix = "Keep some apart: figures on known samples flatter."
        findings.append(Finding("warning", "data-overlap", message, fix))
    return findings


def _ratio(ours: _Seen, theirs: _Seen) -> float:
    """Of the scales: of the spreads where both have one, else of the magnitudes."""
    if ours.deviation > 0 and theirs.deviation > 0:
        return ours.deviation / theirs.deviation
    return ours.magnitude / theirs.magnitude if theirs.magnitude and ours.magnitude else 1.0


def _shift(ours: _Seen, theirs: _Seen) -> float:
    """How often the squared distance of the centers holds what chance gives it; 0 for one that does no harm."""
    if ours.totals.shape != theirs.totals.shape:
        return 0.0
    distance = float(((ours.center - theirs.center) ** 2).sum())
    trace = (ours.scatter + theirs.scatter) / (ours.samples + theirs.samples)
    if distance <= SHARE * trace:
        return 0.0
    return distance / (trace * (1 / ours.samples + 1 / theirs.samples)) if trace else np.inf


def _alike(ours: _Seen, theirs: _Seen) -> bool:
    if len(ours.means) < FEW or len(theirs.means) < FEW:
        return False
    return float(np.std(ours.means)) < SPREAD * float(np.std(theirs.means))


def _ranges(surveys: dict[str, _Survey]) -> dict[str, tuple[float, float]]:
    ranges: dict[str, tuple[float, float]] = {}
    for survey in surveys.values():
        for name, seen in survey.inputs.items():
            if seen.count:
                low, high = ranges.get(name, (np.inf, -np.inf))
                ranges[name] = (min(low, seen.low), max(high, seen.high))
    return ranges
