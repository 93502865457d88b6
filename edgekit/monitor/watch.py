"""Between a model and its monitor: what goes through `run` and `predict` is observed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from edgekit.artifact import Artifact
from edgekit.errors import ArtifactError
from edgekit.feeding import Preprocess
from edgekit.monitor.alarm import Verdict
from edgekit.monitor.columns import Array
from edgekit.monitor.monitor import RATE, Monitor
from edgekit.monitor.reference import Reference
from edgekit.reading import Interpret
from edgekit.tensors import TensorSpec


class Taker(Protocol):
    """Whoever is offered the calls with their verdicts: a capture."""

    def offer(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any], verdict: Verdict | None) -> object: ...


def reference_of(artifact: Artifact) -> Reference:
    """The one inside an artifact.

    Raises:
        ArtifactError: `reference-missing`, `reference-invalid`.
    """
    content = artifact.reference
    if content is None:
        raise ArtifactError("reference-missing", f"{artifact.path or 'the artifact'} says nothing of its data")
    return Reference.from_bytes(content)


def opened(
    artifact: Artifact,
    folder: str | Path | None,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    preprocess: Preprocess,
    interpret: Interpret,
    rate: float | None,
    cycle: int,
) -> Monitor:
    """A monitor of an artifact; of one that was watched before, it goes on from its last snapshot."""
    rate = RATE if rate is None else rate
    known = reference_of(artifact)
    return Monitor(known, inputs, outputs, preprocess, interpret, folder=folder, rate=rate, cycle=cycle)


class Watch:
    """Hands the calls of a model to its monitor, where it has one, and to whoever takes samples.

    Attributes:
        monitor: It.
        verdict: Of the last call; None without a monitor.
    """

    def __init__(
        self, monitor: Monitor | None, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], taker: Taker | None
    ) -> None:
        self.monitor = monitor
        self.verdict: Verdict | None = None
        self._inputs = tuple(inputs)
        self._usual = tuple(
            (spec, len(spec.shape), None if None in spec.shape[1:] else spec.shape[1:]) for spec in inputs
        )
        self._answers = len(outputs)
        self._taker = taker

    def run(self, feeds: Any, answers: Mapping[str, Array], seconds: float, *, raw: bool) -> None:
        """A call has been answered. One that did not fetch all outputs cannot be judged, and is only counted."""
        if len(answers) < self._answers:
            if self.monitor is not None:
                self.monitor.pass_over()
            return
        if not isinstance(feeds, Mapping):
            feeds = {self._inputs[0].name: feeds}
        fed = {}
        for spec, rank, shape in self._usual:
            array = feeds[spec.name]
            plain = type(array) is np.ndarray and array.ndim == rank and array.shape[1:] == shape
            fed[spec.name] = array if plain else _fed(array, spec, raw=raw)
        verdict = None if self.monitor is None else self.monitor.observe(fed, answers, seconds=seconds)
        self.verdict = verdict
        if self._taker is not None:
            self._taker.offer(fed, answers, verdict)

    def close(self) -> None:
        """The model is closed: what its monitor knows is written."""
        if self.monitor is not None:
            self.monitor.close()


def _fed(array: Any, spec: TensorSpec, *, raw: bool) -> Array:
    """The array as the model took it: with its batch axis, its axes in the model's order."""
    if type(array) is np.ndarray:
        given, wanted = array.shape, spec.shape
        if len(given) == len(wanted) and all(a == b or b is None for a, b in zip(given[1:], wanted[1:], strict=True)):
            return array
    from edgekit.runtimes.base import as_dtype
    from edgekit.runtimes.pieces import shaped

    return shaped(as_dtype(array, spec, raw=raw), spec)
