"""What happened to a stream since a capture last told how things stand."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from edgekit.monitor.answers import Answer

_CLASSES = 100
"""That are counted; of models with more, those that come first."""


@dataclass
class Mean:
    """Of scores that are known; None without any."""

    total: float = 0.0
    number: int = 0

    def add(self, score: float | None) -> None:
        if score is not None and math.isfinite(score):
            self.total += score
            self.number += 1

    @property
    def value(self) -> float | None:
        return self.total / self.number if self.number else None


@dataclass
class Sums:
    """Counts and means of the samples since.

    Attributes:
        seen: How many.
        ood, uncertainty: Of those of which somebody says it.
        strata, kept: Stratum -> samples that belonged to it, and that it drew.
        classes: Name -> how often it was answered.
    """

    seen: int = 0
    ood: Mean = field(default_factory=Mean)
    uncertainty: Mean = field(default_factory=Mean)
    strata: Counter[str] = field(default_factory=Counter)
    kept: Counter[str] = field(default_factory=Counter)
    classes: Counter[str] = field(default_factory=Counter)

    def add(self, belongs: Iterable[str], ood: float | None, uncertainty: float | None, answer: Answer) -> None:
        """One sample."""
        self.seen += 1
        for stratum in belongs:
            self.strata[stratum] += 1
        self.ood.add(ood)
        self.uncertainty.add(uncertainty)
        if answer.is_class and (len(self.classes) < _CLASSES or answer.label in self.classes):
            self.classes[answer.label] += 1

    def told(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "seen": self.seen, "ood": self.ood.value, "uncertainty": self.uncertainty.value,
            "strata": dict(self.strata), "kept": dict(self.kept), "classes": dict(self.classes),
        }  # fmt: skip
