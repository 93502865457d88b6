"""Choosing among ranges by what they do to the answers.

No error of a single tensor tells which of its ranges is best for the network: what is clipped in one layer adds up in
the next, what is rounded averages out, and how much of either an answer minds is the network's own affair. So the float
graph is quantized once by each set of ranges, and a few calibration samples tell which set's answers are nearest to the
float graph's, in the real engine.

Answers are compared before they are squashed: the noise of a softmax depends on how decided the few samples happen to
be, and differs by more from sample to sample than the sets of ranges do. (DS-CNN: the best set of 100 calibration
samples by probabilities lost 1.8 dB on 400 others, by logits it was the best there, too.) Not so where a sigmoid
answers many values a sample, as of a picture: there is no lack of them, and most scores lie far below zero, where they
all mean the same. (An autoencoder of digits: repairs judged by its scores lost 0.3 dB of its answers.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.converters.calibrate import single_feeds
from edgekit.converters.calibration.bends import sigmoid
from edgekit.converters.calibration.taps import tap
from edgekit.converters.repairs.ends import by_layer, ends, shifts
from edgekit.converters.stages import Feeds, Graph, Range, Ranges

SAMPLES = 64
"""Enough: the figures of 64 and of 1,000 samples differed by 0.3 dB, those of sets by 1 to 3."""

_MARGIN = 0.3
"""dB by which another set must be better than the first one, besides being so for certain."""

TRIED, EVERY = 96, 3
"""For a trial: one in three of so many samples is kept from the ranges."""

_CERTAIN = 2.0
"""Standard errors of a difference, taken sample by sample, from which it is one."""

_LARGEST = 64 << 20
"""Bytes of a float graph."""

_MANY = 64
"""Values a sample from which they are compared as a sigmoid or tanh answers them."""

_PERFECT = 100.0
"""dB that stand for answers without any error."""


@dataclass(frozen=True)
class Trial:
    """What the ways are measured by: samples that their ranges do not know. On those that ranges were taken from,
    cutting closer looks better than it is, and room for more is a loss.

    Attributes:
        ways: As `Ranges.alternatives`, of other samples.
        feeds: The samples that these have not seen.
    """

    ways: Mapping[str, Mapping[str, Range]]
    feeds: Callable[[], Iterator[Feeds]]


Quantize = Callable[[Ranges, Path], Graph]
Answers = list[NDArray[np.float32]]


@dataclass(frozen=True)
class Choice:
    """Ranges with nothing left to choose, and what each way gave.

    Attributes:
        ranges: `observer` says which way it was: "auto: mse".
        decibels: Signal to noise of the answers, by way, without what their mean error is taken back by; empty where
            nothing was measured.
    """

    ranges: Ranges
    decibels: dict[str, float]


def choose(
    graph: Graph,
    ranges: Ranges,
    quantize: Quantize,
    feeds: Callable[[], Iterator[Feeds]],
    folder: Path,
    threads: int = 2,
    *,
    even: bool = False,
    trial: Trial | None = None,
) -> Generator[dict[str, Any], None, Choice]:
    """Decide among `ranges.alternatives`.

    Args:
        graph: The float graph.
        ranges: As `calibrate` left them.
        quantize: Makes the quantized graph, of float interface, at a path; called once a set.
        feeds: The samples from the start, by public names, with the graph's axes.
        folder: For the files in between.
        threads: Of the engine.
        even: Measure the mean error of the answers for the biases to take it back, see `repairs.ends`.
        trial: To measure the ways by; None to measure them on the samples that they come from.

    Yields:
        `{"comparing": way, "done": sets, "total": sets}`.

    Raises:
        EngineError: `calibration-engine`: the engine refused a graph.
        And what `quantize` raises.
    """
    ways = _distinct(ranges.alternatives) or {"": ranges.tensors}
    known = ends(graph) if even and not too_large(graph) else []
    if too_large(graph) or (len(ways) < 2 and not any(known)):
        way = next(iter(ways))
        return Choice(_taken(ranges, way, ways[way]), {})
    squashed = squashes(graph)
    asked, tried = (feeds, ways) if trial is None else (trial.feeds, {way: trial.ways[way] for way in ways})
    wanted = answers(graph, asked, threads)

    def answered(tensors: Mapping[str, Range], by: Callable[[], Iterator[Feeds]], **more: Any) -> list[Answers]:
        path = folder / f"choice.{graph.format}"
        try:
            made = quantize(Ranges(ranges.observer, ranges.samples, dict(tensors), **more), path)
            return answers(made, by, threads)
        finally:
            path.unlink(missing_ok=True)

    scores: dict[str, Score] = {}
    found: dict[str, list[Answers]] = {}
    for done, (way, tensors) in enumerate(tried.items() if len(ways) > 1 else ()):
        yield {"comparing": way, "done": done, "total": len(ways)}
        found[way] = answered(tensors, asked)
        scores[way] = score(wanted, found[way], shifts(wanted, found[way], known), squashed)
    way = _best(scores) if scores else next(iter(ways))
    taken = _taken(ranges, way, ways[way])
    decibels = {name: one.decibels for name, one in scores.items()}
    if not any(known):
        return Choice(taken, decibels)
    if trial is not None or not scores:
        wanted = answers(graph, feeds, threads)
        found[way] = answered(taken.tensors, feeds)
    shifted = by_layer(known, shifts(wanted, found[way], known))
    evened = answered(taken.tensors, feeds, shifts=shifted) if shifted else found[way]
    plain = score(wanted, found[way], squashed=squashed)
    if score(wanted, evened, squashed=squashed).decibels > plain.decibels:
        taken = replace(taken, shifts=shifted)
    return Choice(taken, decibels)


def _best(scores: Mapping[str, Score]) -> str:
    """The first way, unless another is better by a margin and surely so."""
    first, *others = scores
    best = max(others, key=lambda way: scores[way].decibels)
    better = scores[best].decibels > scores[first].decibels + _MARGIN and scores[best].surely_above(scores[first])
    return best if better else first


def too_large(graph: Graph) -> bool:
    """Whether quantizing it takes so long that the first way is taken unmeasured."""
    return Path(graph.path).stat().st_size > _LARGEST


def _taken(ranges: Ranges, way: str, tensors: Mapping[str, Range]) -> Ranges:
    named = f"{ranges.observer}: {way}" if way else ranges.observer
    return Ranges(named, ranges.samples, dict(tensors))


def _distinct(alternatives: Mapping[str, dict[str, Range]]) -> dict[str, dict[str, Range]]:
    """Without the sets that an earlier one equals."""
    found: dict[str, dict[str, Range]] = {}
    for way, tensors in alternatives.items():
        if tensors not in found.values():
            found[way] = tensors
    return found


def answers(graph: Graph, feeds: Callable[[], Iterator[Feeds]], threads: int) -> list[Answers]:
    """Each sample's answers before they are squashed, as real values, an array an output.

    Those of a sigmoid or tanh reach as far as 8 bits of its answers tell them apart: ranges may end there.
    """
    tapped = tap(graph, threads)
    scores = tapped.scores()
    session = tapped.open(list(dict.fromkeys(one.name for one in scores)), fused=True)
    found: list[Answers] = []
    seen: dict[str, NDArray[np.float32]] = {}

    def keep(name: str, values: NDArray[Any]) -> None:
        seen[name] = tapped.real(name, values)

    try:
        for _, feed in islice(single_feeds(graph, tapped, feeds()), SAMPLES):
            session.run(feed, keep)
            found.append([_reached(seen[one.name], one.function) for one in scores])
    finally:
        session.close()
    return found


def _reached(values: NDArray[np.float32], function: str | None) -> NDArray[np.float32]:
    return values if function is None else values.clip(-_ENDS[function], _ENDS[function])


def squashes(graph: Graph) -> list[str | None]:
    """By output: "sigmoid" or "tanh" where that makes it of what `answers` gives."""
    return [one.function for one in tap(graph, 1).scores()]


@dataclass(frozen=True)
class Score:
    """How near answers come.

    Attributes:
        decibels: Signal to noise over all samples, the mean over the outputs.
        noise: Of each sample, as a share of the signal of all, summed over the outputs: [samples].
    """

    decibels: float
    noise: NDArray[np.float64]

    def surely_above(self, other: Score) -> bool:
        """Whether this is the better one, and not by the choice of the samples.

        Both answered the same ones: what tells is the difference on each, and its standard error (of a ratio of sums,
        by the delta method).
        """
        mine, theirs = float(self.noise.sum()), float(other.noise.sum())
        if not mine or not theirs:
            return mine < theirs
        apart = other.noise / theirs - self.noise / mine
        return math.log(theirs / mine) > _CERTAIN * math.sqrt(float(np.square(apart).sum()))


def score(
    wanted: list[Answers],
    answered: list[Answers],
    lack: Sequence[NDArray[np.float64] | None] = (),
    squashed: Sequence[str | None] = (),
) -> Score:
    """Of answers from `answers`; outputs without any signal, or whose noise is not finite, do not count.

    Args:
        wanted: The float graph's.
        answered: The quantized graph's, of the same samples.
        lack: By output, what biases will add to its answers.
        squashed: By output, as `squashes` tells.
    """
    decibels, shares = [], np.zeros(len(wanted))
    if not wanted:
        return Score(-_PERFECT, shares)
    outputs = zip(zip(*wanted, strict=True), zip(*answered, strict=True), strict=True)
    for (mine, theirs), due, kind in zip_longest(outputs, lack, squashed):
        off = 0.0 if due is None else due
        seen = _FUNCTIONS[kind if mine[0].size >= _MANY else None]
        pairs = [(seen(a.astype(np.float64)), seen(b + off)) for a, b in zip(mine, theirs, strict=True)]
        signal = sum(float(np.square(a).sum()) for a, _ in pairs)
        noises = [float(np.square(a - b).sum()) for a, b in pairs]
        noise = sum(noises)
        if signal and math.isfinite(noise):
            decibels.append(min(_PERFECT, 10 * math.log10(signal / noise)) if noise else _PERFECT)
            shares += np.array(noises) / signal
    return Score(sum(decibels) / len(decibels) if decibels else -_PERFECT, shares)


_FUNCTIONS: dict[str | None, Callable[[Any], Any]] = {None: np.asarray, "sigmoid": sigmoid, "tanh": np.tanh}
_ENDS = {"sigmoid": 6.24, "tanh": 3.12}
"""Where they are half a step of 1/256 and 1/128 from their ends."""
