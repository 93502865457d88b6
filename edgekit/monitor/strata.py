"""Which samples are kept, with probabilities that are known.

A stratum is a property of a sample: its answer is uncertain, it is unlike the training data, a second model
disagrees; every sample belongs to the stratum "random". In each window of time each stratum draws a fixed number of
its samples, evenly: that is the rate limit, and k of n is the probability. Each sample gets a random key a stratum,
and those with the k smallest are drawn (E. Cohen, H. Kaplan, "Summarizing data using bottom-k sketches", PODC 2007):
nearly all are let go by their keys alone, and to what they belong, which costs more, may be found out later, of many
together. Where a score decides what belongs, its bound is the upper share of the latest scores, fixed before a sample
is looked at, so that the draw depends on nothing but the past.

What is worth a label is what is answered wrongly. Where the reference had labels, it tells the chance of that better
than the model's own confidence, which is often as high where the model is lost; together, by how unsure the model is
to the half, they tell it best (of 256 drifts of labelled data, 77 % have three times as many errors in the stratum as
among all, 72 % by the confidence alone). How far a sample lies from the training
data tells little by itself, least of all where the whole stream has moved; that it lies far and its answer is in doubt,
much. Two models that disagree are told apart by how much surer the other one is.
"""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Generic, TypeVar

import numpy as np

from edgekit.errors import UsageError
from edgekit.monitor.answers import Answer
from edgekit.monitor.columns import Array
from edgekit.monitor.records import STRATA, Stratum

T = TypeVar("T")
Keys = list[float]
"""Of one sample, for each stratum that draws: even between 0 and 1."""

_TOGETHER = 64
"""Samples whose keys are thrown at once."""

_KEPT = 1024
"""Scores that tell what is high."""
_EVERY = 32
"""Scores between two computations of the bound."""
_ENOUGH = 64
"""Scores before anything counts as high."""
_SURER = 0.5
"""Of the latest disagreements over a class: those in which the second model is surer beside the first."""


@dataclass(frozen=True)
class Draw:
    """How a stratum draws.

    Attributes:
        each: Samples a window; 0 to leave the stratum out.
        share: Of all samples: those with the highest scores belong to it ("uncertain", "out-of-distribution").
        at: A bound on the score instead of a share.
    """

    each: int = 1
    share: float = 0.05
    at: float | None = None

    def __post_init__(self) -> None:
        if self.each < 0 or not 0 < self.share <= 1:
            raise UsageError("option-value", f"{self.each} samples of a share of {self.share} cannot be drawn")


class High:
    """Whether a score is high; the bound follows the latest scores.

    Args:
        draw: Says what is high.
        first: The bound as long as there are too few scores.
    """

    def __init__(self, draw: Draw, first: float = math.inf) -> None:
        self._draw = draw
        self._scores = np.zeros(_KEPT)
        self._count = 0
        self.bound = first if draw.at is None else draw.at

    def __call__(self, score: float | None) -> bool:
        """Look at the next score; NaN is higher than all."""
        if score is None:
            return False
        if math.isnan(score):
            return True
        high = score >= self.bound if self._draw.at is not None else score > self.bound
        if self._draw.at is None:
            self._scores[self._count % _KEPT] = score
            self._count += 1
            if self._count >= _ENOUGH and (self._count % _EVERY == 0 or self._count == _ENOUGH):
                self.bound = _quantile(self._scores[: self._count], 1 - self._draw.share)
        return high


def _quantile(values: Array, share: float) -> float:
    """Between the two values around it in proportion, as numpy's own, which takes ten times as long."""
    place = (len(values) - 1) * share
    below = int(place)
    above = min(below + 1, len(values) - 1)
    ordered = np.partition(values, (below, above))
    low, high = ordered.item(below), ordered.item(above)
    return float(low + (high - low) * (place - below))


class Belonging:
    """Which strata a sample belongs to.

    Args:
        draws: Of each stratum.
    """

    def __init__(self, draws: Mapping[Stratum, Draw]) -> None:
        self._draws = draws
        self._high = {stratum: High(draw) for stratum, draw in draws.items()}
        self._surer = High(Draw(share=_SURER), first=-math.inf)

    def bound(self, stratum: Stratum) -> float | None:
        """The score from which on a sample belongs to a stratum as things stand; None where no score decides, or too
        few were seen.
        """
        high = [self._high[stratum], *([self._surer] if stratum == "disagreeing" else [])]
        return None if stratum == "random" else next((one.bound for one in high if math.isfinite(one.bound)), None)

    def __call__(
        self,
        ood: float | None,
        uncertainty: float | None,
        answer: Answer,
        other: Answer | None,
        examined: float,
        doubt: float | None = None,
    ) -> dict[Stratum, float]:
        """Stratum -> the probability that it was found out that the sample belongs to it.

        Args:
            ood: The monitor's score; None where nobody knows, as `uncertainty`.
            uncertainty: From 0, sure, to 1.
            answer: The model's.
            other: The second model's, if it was asked.
            examined: The probability that it was.
            doubt: The monitor's, that the answer is wrong; None where nobody knows.
        """
        found: dict[Stratum, float] = {"random": 1.0}
        doubt = uncertainty if doubt is None or uncertainty is None else math.sqrt(max(uncertainty, 0.0)) * doubt
        if self._high["uncertain"](doubt if self._draws["uncertain"].at is None else uncertainty):
            found["uncertain"] = 1.0
        if self._high["out-of-distribution"](self._strange(ood, doubt, answer)):
            found["out-of-distribution"] = 1.0
        if other is not None and self._disagree(answer, other):
            found["disagreeing"] = examined
        return found

    def _strange(self, ood: float | None, doubt: float | None, answer: Answer) -> float | None:
        """The monitor's score where a bound on it was named; else, of classes, how far times how doubtful."""
        bound = self._draws["out-of-distribution"].at
        if ood is None or doubt is None or bound is not None or not answer.is_class:
            return ood
        return ood if math.isnan(ood) else math.sqrt(1 + max(ood, 0.0)) * doubt

    def _disagree(self, answer: Answer, other: Answer) -> bool:
        if answer.value is None or other.value is None:
            return False
        if not answer.is_class:
            return self._high["disagreeing"](abs(answer.value - other.value))
        if answer.value == other.value:
            return False
        return answer.score is None or other.score is None or self._surer(other.score - answer.score)


@dataclass
class _Drawing(Generic[T]):
    """What a stratum draws.

    Attributes:
        each: So many, those of the smallest keys.
        seen: Samples that belong to it, so far.
        held: Key, number, sample and all its strata of those that are drawn as things stand; the smallest key first.
        limit: Keys from here on are not drawn any more.
    """

    each: int
    seen: int = 0
    held: list[tuple[float, int, T, Mapping[Stratum, float]]] = field(default_factory=list)
    limit: float = 1.0

    def draw(self, key: float, number: int, item: T, examined: Mapping[Stratum, float]) -> None:
        insort(self.held, (key, number, item, examined), key=itemgetter(0))
        del self.held[self.each :]
        if len(self.held) == self.each:
            self.limit = self.held[-1][0]


@dataclass(frozen=True)
class Drawn(Generic[T]):
    """A sample that a window keeps.

    Attributes:
        taken: The strata that drew it.
        chances: Stratum that it belongs to -> the probability that this one drew it, given what was found out of it.
        probability: That any did.
    """

    item: T
    taken: tuple[Stratum, ...]
    chances: dict[str, float]
    probability: float


class Window(Generic[T]):
    """The draws of one window.

    Args:
        each: Samples that each stratum draws.
        dice: Decides.
    """

    def __init__(self, each: Mapping[Stratum, int], dice: np.random.Generator) -> None:
        self._dice = dice
        self._drawings: dict[Stratum, _Drawing[T]] = {name: _Drawing(each[name]) for name in STRATA if each.get(name)}
        self._seen = 0
        self._keys: list[Keys] = []

    @property
    def seen(self) -> dict[str, int]:
        """Stratum -> samples that belong to it, so far."""
        return {name: drawing.seen for name, drawing in self._drawings.items()}

    def keys(self) -> Keys:
        """For the next sample."""
        if not self._keys:
            self._keys = self._dice.random((_TOGETHER, len(self._drawings))).tolist()
        return self._keys.pop()

    def possible(self, keys: Keys, never: Stratum | None = None) -> bool:
        """Whether a sample may still be drawn, whatever it belongs to; `never` it does not."""
        for key, (name, drawing) in zip(keys, self._drawings.items(), strict=True):
            if key < drawing.limit and name != never:
                return True
        return False

    def wants(self, keys: Keys, examined: Mapping[Stratum, float]) -> list[tuple[Stratum, float]]:
        """Which strata draw the next sample, and its key for each; counts it.

        Args:
            keys: Its own.
            examined: Stratum that it belongs to -> the probability that this was found out at all.
        """
        self._seen += 1
        wanted = []
        for key, (name, drawing) in zip(keys, self._drawings.items(), strict=True):
            if name in examined:
                drawing.seen += 1
                if key < drawing.limit:
                    wanted.append((name, key))
        return wanted

    def keep(self, item: T, examined: Mapping[Stratum, float], wanted: list[tuple[Stratum, float]]) -> None:
        """Draw the sample that `wants` has just counted."""
        for name, key in wanted:
            self._drawings[name].draw(key, self._seen, item, examined)

    def close(self) -> list[Drawn[T]]:
        """All samples of the window, each once, in the order in which they came."""
        found: dict[int, tuple[T, Mapping[Stratum, float]]] = {}
        taken: dict[int, list[Stratum]] = {}
        for name, drawing in self._drawings.items():
            for _, number, item, examined in drawing.held:
                found[number] = item, examined
                taken.setdefault(number, []).append(name)
        drawn = []
        for number, (item, examined) in sorted(found.items(), key=itemgetter(0)):
            chances = self._chances(examined)
            missed = math.prod(1 - chance for chance in chances.values())
            drawn.append(Drawn(item, tuple(taken[number]), chances, min(1.0, 1 - missed)))
        return drawn

    def _chances(self, examined: Mapping[Stratum, float]) -> dict[str, float]:
        """Given what was found out of a sample. One that others may draw as well would else stand for those of its
        kind that were not examined twice, since these come by the others and nobody knows that they are of its kind.
        """
        shares = {name: share for name, share in examined.items() if name in self._drawings}
        alone = all(share < 1 for share in shares.values())
        return {
            str(name): (share if alone else 1.0) * min(1.0, self._drawings[name].each / self._drawings[name].seen)
            for name, share in shares.items()
        }
