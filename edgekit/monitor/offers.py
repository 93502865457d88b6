"""Samples that were offered to a capture, until it is known which of them are drawn.

A monitor judges many samples at once at a tenth of what they cost one by one. So nothing is decided of a sample when it
is offered, but that by its keys it may be drawn; then it is copied. To which strata all of them belong is found out of
`_TOGETHER` at a time, in the order in which they came, and before a window ends. Large samples that may be drawn are
decided on at once: their copies are not to pile up.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import EdgeKitError
from edgekit.monitor.alarm import Verdict
from edgekit.monitor.answers import Answer, Answers
from edgekit.monitor.plan import Plan
from edgekit.monitor.records import STRATA, Stratum
from edgekit.monitor.strata import Belonging, Drawn, Keys, Window
from edgekit.monitor.sums import Mean, Sums
from edgekit.runtimes.base import dequantize
from edgekit.tensors import TensorSpec

if TYPE_CHECKING:
    from edgekit.runtimes.model import Model

Arrays = Mapping[str, NDArray[Any]]
_OUTPUTS = 4096
"""Bytes up to which a sample's outputs are kept beside it."""
_TOGETHER = 32
"""Samples of which it is decided together whether they are drawn: as many as a monitor looks at together."""
_LARGE = 128 << 10
"""Bytes from which on no copy of a sample waits for that."""


class _Batch(NamedTuple):
    """An answered batch: so many rows, outputs in real values, and what the second model answered, if it was asked."""

    rows: int
    inputs: Arrays
    outputs: Arrays
    keep: Arrays | None
    shadow: Arrays | None


@dataclass
class Waiting:
    """A copy of a sample that may be drawn, until its window ends; scores are those of one that was."""

    number: int
    inputs: dict[str, NDArray[Any]]
    outputs: dict[str, NDArray[Any]]
    version: str
    at: float | None
    scores: dict[str, float | None] = field(default_factory=dict)


@dataclass
class _Offered:
    """A sample of which it is not decided yet whether it is drawn.

    Attributes:
        examined: The probability that the second model was asked.
        keys: Of the window.
        copy: Gives a copy of it; None of one that cannot be drawn.
    """

    verdict: Verdict | None
    answer: Answer
    other: Answer | None
    examined: float
    keys: Keys
    copy: Callable[[], Waiting] | None = None


class Offers:
    """See the module header.

    Args:
        plan: How the strata draw.
        dice: Decides.
        shadow: A second model that is asked for a share of the samples.
        counts: Of the capture.
        now: Seconds since 1970; None of a clock that is not set.

    Attributes:
        sums: Of the samples that were decided on.
        kept: Stratum -> samples that it drew and that were written, as the capture says.
    """

    def __init__(
        self, plan: Plan, dice: np.random.Generator, shadow: Model | None, counts: Counter[str],
        now: Callable[[], float | None],
    ) -> None:  # fmt: skip
        self._share, self._dice, self._shadow, self._counts, self._now = plan.shadow_share, dice, shadow, counts, now
        self._answers, self._others, self._belongs = Answers(), Answers(), Belonging(plan.draws)
        self._each = {stratum: draw.each for stratum, draw in plan.draws.items()}
        self._window: Window[Waiting] = Window(self._each, dice)
        self._offered: deque[_Offered] = deque()
        self.sums, self.kept = Sums(), Counter[str]()
        self._draws, self._doubts = plan.draws, {stratum: Mean() for stratum in STRATA}
        self._belonging: Counter[Stratum] = Counter()

    def add(
        self, model: Model, inputs: Arrays, outputs: Arrays, verdict: Verdict | None, *, keep: Arrays | None,
        shadow: Arrays | None,
    ) -> None:  # fmt: skip
        """Take in what a model answered, see `Capture.offer`."""
        rows, framed = self._answers.framed(model, outputs)
        if shadow is not None:
            shadow = self._others.framed(self._shadow or model, shadow)[1]
        batch = _Batch(rows, inputs, _real(framed, model.outputs), keep, shadow)
        for row in range(rows):
            answer = self._answers.read(model, batch.outputs, row)
            other, examined = self._other(model, batch, row)
            self._counts["seen"] += 1
            one = _Offered(verdict, answer, other, examined, self._window.keys())
            self._offered.append(one)
            large = False
            if self._window.possible(one.keys, never="disagreeing" if other is None else None):
                one.copy = partial(self._copied, model, batch, row)
                fed = (batch.keep or batch.inputs).values()
                large = sum(np.asarray(array).nbytes for array in fed) > _LARGE * batch.rows
                if not large:
                    one.copy = partial(_same, one.copy())
            if large or len(self._offered) >= _TOGETHER:
                self.decide()

    def decide(self) -> None:
        """Draw among all that were added."""
        while self._offered:
            one = self._offered.popleft()
            verdict, answer, other = one.verdict, one.answer, one.other
            ood = None if verdict is None else float(verdict.ood_score)
            uncertainty = answer.uncertainty if verdict is None else float(verdict.uncertainty)
            doubt = None if verdict is None else verdict.doubt
            belongs = self._belongs(ood, uncertainty, answer, other, one.examined, doubt)
            self.sums.add(belongs, ood, uncertainty, answer)
            for stratum in belongs:
                self._belonging[stratum] += 1
                self._doubts[stratum].add(doubt)
            wanted = self._window.wants(one.keys, belongs)
            if wanted and one.copy is not None:  # there is one of all that can be wanted
                waiting = one.copy()
                waiting.scores = {"ood": ood, "uncertainty": uncertainty, "answer": answer.value, "score": answer.score,
                                  "shadow": None if other is None else other.value}  # fmt: skip
                self._window.keep(waiting, belongs, wanted)

    def close(self) -> list[Drawn[Waiting]]:
        """End the window: what it drew, in the order in which it came."""
        self.decide()
        drawn, self._window = self._window.close(), Window(self._each, self._dice)
        return drawn

    def told(self) -> dict[str, Any]:
        """Stratum -> how it draws, and what it drew; `expected` of those whose reference had labels: the share of wrong
        answers that the monitor expects in it, how many times that of all this is, and how many it can be at most.
        """
        told: dict[str, Any] = {}
        common = self._doubts["random"].value
        for stratum, draw in self._draws.items():
            if not draw.each:
                continue
            told[stratum] = {"each": draw.each, "samples": self._belonging[stratum], "kept": self.kept[stratum]}
            if stratum != "random":
                told[stratum] |= {
                    "share": draw.share if draw.at is None else None,
                    "bound": self._belongs.bound(stratum),
                }
                wrong = self._doubts[stratum].value
                if wrong is not None and common:
                    told[stratum]["expected"] = {"wrong": wrong, "times": wrong / common, "most": 1 / common}
        return told

    def _copied(self, model: Model, batch: _Batch, row: int) -> Waiting:
        small = sum(array.nbytes for array in batch.outputs.values()) / batch.rows <= _OUTPUTS
        fed = batch.keep or _real(batch.inputs, model.inputs)
        return Waiting(
            self._counts["seen"], _row(fed, row, batch.rows), _row(batch.outputs, row, batch.rows) if small else {},
            model.artifact.sha256, self._now(),
        )  # fmt: skip

    def _other(self, model: Model, batch: _Batch, row: int) -> tuple[Answer | None, float]:
        """What the second model says, and the probability that it was asked."""
        if batch.shadow is not None:
            return self._others.read(self._shadow or model, batch.shadow, row), 1.0
        if self._shadow is None or not self._each["disagreeing"] or self._dice.random() >= self._share:
            return None, 1.0
        try:
            answers = self._shadow.run(_row(batch.inputs, row, batch.rows, keep_axis=True))
        except EdgeKitError:
            self._counts["shadow failed"] += 1
            return None, 1.0
        _, framed = self._others.framed(self._shadow, answers)
        return self._others.read(self._shadow, framed, 0), self._share


def _same(waiting: Waiting) -> Waiting:
    return waiting


def _row(arrays: Arrays, row: int, rows: int, *, keep_axis: bool = False) -> dict[str, NDArray[Any]]:
    """One sample's arrays, copied; those that have no batch axis of that length go as they are."""
    found = {}
    for name, value in arrays.items():
        array = np.asarray(value)
        batched = array.ndim > 0 and len(array) == rows
        found[name] = np.array(array[row : row + 1] if batched and keep_axis else array[row] if batched else array)
    return found


def _real(arrays: Arrays, specs: Sequence[TensorSpec]) -> Arrays:
    """Real values of what is given in a tensor's own integers."""
    own = {spec.name: spec for spec in specs if spec.quant is not None}
    if not own:
        return arrays
    return {
        name: dequantize(array, own[name]) if name in own and np.asarray(array).dtype == own[name].dtype else array
        for name, array in arrays.items()
    }
