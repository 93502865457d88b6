"""How far one output of an artifact lies from the source's: sums over batches, and what they say."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from edgekit.converters.stages import Array

SILENT_DB = -300.0
"""SQNR of an artifact that errs where the source is exactly zero (minus infinity, which JSON lacks)."""


@dataclass
class OutputErrors:
    """Sums over all samples of one output, from which the figures of a proof are computed in one pass.

    Attributes:
        count: Values compared: those that are finite on both sides.
        total, signal, noise, product, answer: Sums of the source's values, their squares, the squared errors, the
            products of both sides and the squares of the artifact's values.
        worst: The largest absolute error.
        low, high: Range of the source's values.
        broken: Values that are NaN or infinite in the artifact only.
        lost: Values that are NaN in the source only.
        nan: Values that are NaN in the source.
    """

    count: int = 0
    total: float = 0.0
    signal: float = 0.0
    noise: float = 0.0
    product: float = 0.0
    answer: float = 0.0
    worst: float = 0.0
    low: float = math.inf
    high: float = -math.inf
    broken: int = 0
    lost: int = 0
    nan: int = 0

    def add(self, reference: Array, found: Array) -> None:
        s, a = reference.astype(np.float64).reshape(-1), found.astype(np.float64).reshape(-1)
        # Where the source itself is not finite there is nothing to compare; the artifact must be finite elsewhere.
        sane = np.isfinite(s)
        self.broken += int((sane & ~np.isfinite(a)).sum())
        self.nan += int(np.isnan(s).sum())
        self.lost += int((np.isnan(s) & ~np.isnan(a)).sum())
        sane &= np.isfinite(a)
        s, a = s[sane], a[sane]
        if not s.size:
            return
        self.count += s.size
        self.total += float(s.sum())
        self.signal += float(s @ s)
        self.noise += float((s - a) @ (s - a))
        self.product += float(s @ a)
        self.answer += float(a @ a)
        self.worst = max(self.worst, float(np.abs(s - a).max()))
        self.low, self.high = min(self.low, float(s.min())), max(self.high, float(s.max()))

    @property
    def span(self) -> float:
        """Range of the source's values; of a constant output its magnitude."""
        if self.high < self.low:
            return 0.0
        return (self.high - self.low) or max(abs(self.high), abs(self.low))

    @property
    def relative(self) -> float:
        if self.worst == 0:
            return 0.0
        return self.worst / self.span if self.span else math.inf

    @property
    def sqnr(self) -> float:
        if self.noise == 0:
            return math.inf
        return 10 * math.log10(self.signal / self.noise) if self.signal else SILENT_DB

    @property
    def drowned(self) -> bool:
        """It errs by more than the source's values vary around their mean: a constant would do as well."""
        return self.noise > 0 and self.noise >= self.signal - self.total**2 / self.count

    @property
    def cosine(self) -> float:
        if self.signal == 0 or self.answer == 0:
            return 1.0 if self.signal == self.answer else 0.0
        return self.product / math.sqrt(self.signal * self.answer)


def unfinite(outputs: Mapping[str, OutputErrors], where: str, *, gaps: bool) -> Iterator[tuple[str, str]]:
    """What is wrong with values that are no numbers, and what to do about it; `gaps`: inputs had missing values."""
    if not where and any(s.nan for s in outputs.values()) and not any(s.count for s in outputs.values()):
        message = "the source answers NaN to every sample: there is nothing to compare its artifact with"
        yield message, "Look for NaN among the weights of the source."
    for name, seen in outputs.items():
        if seen.broken:
            message = f"{seen.broken} values of {name} are NaN or infinite{where} where the source's are not"
            yield (
                message,
                (
                    "Look for ops that overflow or divide by zero there (exp, divisions, roots). "
                    "float16 ends at 65,504: if it is --precision fp16, try fp32."
                ),
            )
        elif seen.lost and gaps:
            message = f"{seen.lost} values of {name} are NaN in the source{where} and are not here"
            yield message, "Fill in missing values before the model."


def senseless(outputs: Mapping[str, OutputErrors]) -> list[str]:
    """For the user: the source itself answers NaN, now and then."""
    return [
        f"the source itself answers NaN in {seen.nan} values of {name}: is a weight NaN, or does it divide by zero?"
        for name, seen in outputs.items() if seen.nan and seen.count
    ]  # fmt: skip


def span(values: Array) -> float:
    """Of the finite ones."""
    sane = values[np.isfinite(values)]
    return float(np.ptp(sane.astype(np.float64))) if sane.size else 0.0


def apart(one: Array, other: Array) -> float:
    """Largest difference, where both are finite; infinite where one of them is."""
    one, other = np.atleast_1d(one, other)
    sane = np.isfinite(one)
    if (sane != np.isfinite(other)).any():
        return math.inf
    return float(np.abs(one[sane].astype(np.float64) - other[sane]).max(initial=0.0))
