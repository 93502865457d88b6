"""Words in an endless sound: scores smoothed over windows, a word heard once and not again for a while.

Smoothing: Chen, Parada, Heigold, Small-footprint keyword spotting using deep neural networks, ICASSP 2014.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from edgekit.reading import Interpret, WakeReading
from edgekit.runtimes.base import Array
from edgekit.runtimes.interpretation.classes import LABEL_THRESHOLD, check_greatest, probabilities
from edgekit.runtimes.interpretation.results import WakeWord, name


def window(sample: Array, how: Interpret) -> WakeWord:
    """One window by itself, of scores [C].

    Raises:
        UsageError: `output-unreadable`: the greatest is no finite number.
    """
    check_greatest(flat := sample.reshape(-1))
    scores = probabilities(flat, how).tolist()
    words = (how.wake.words if how.wake else ()) or [name(index, how.labels) for index in range(len(scores))]
    named: dict[str, float] = {}
    for index, score in enumerate(scores):
        label = name(index, how.labels)
        named[label] = max(score, named.get(label, score))  # several classes may be one word
    return _best({word: named[word] for word in words if word in named}, how, quiet=False)


class Spotter:
    """Windows that follow each other. Keep one a sound, and show it every window's answer.

    Args:
        how: The manifest's.
    """

    def __init__(self, how: Interpret) -> None:
        self._how = how
        self._about = how.wake or WakeReading()
        self._windows: deque[Mapping[str, float]] = deque(maxlen=self._about.smoothing)
        self._heard_at: float | None = None

    def __call__(self, answer: WakeWord, at: float) -> WakeWord:
        """The answer smoothed; `heard` once a word.

        Args:
            answer: Of one window.
            at: Seconds, by any clock that goes on; of windows in a file, where they begin.
        """
        self._windows.append(answer.scores)
        means = {
            word: sum(scores.get(word, 0.0) for scores in self._windows) / self._about.smoothing
            for word in answer.scores
        }
        quiet = self._heard_at is not None and at - self._heard_at < self._about.refractory
        said = _best(means, self._how, quiet=quiet)
        if said.heard:
            self._heard_at = at
            self._windows.clear()  # the end of a word is not the begin of the next
        return said


def _best(scores: dict[str, float], how: Interpret, *, quiet: bool) -> WakeWord:
    least = LABEL_THRESHOLD if how.threshold is None else how.threshold
    word = max(scores, key=lambda one: scores[one], default=None)
    score = scores[word] if word is not None else 0.0
    there = word is not None and score >= least
    return WakeWord(word if there else None, score, there and not quiet, scores)
