"""The model under measurement: opened, fed with its self-test's inputs, and called in one way everywhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from edgekit.measure.environment import thread_count

if TYPE_CHECKING:
    from edgekit.artifact import Artifact
    from edgekit.runtimes.base import Session
    from edgekit.runtimes.model import Model

Clock = Callable[[], int]
"""Nanoseconds of a clock that never goes back."""
Call = Callable[[], object]
"""One inference, inputs in, outputs out."""


@dataclass(frozen=True)
class Subject:
    """An opened model, ready to be called.

    Attributes:
        model: It.
        feeds: Raw inputs of one sample.
        load_ms, first_ms: How long loading and the first inference took.
        threads: That run the model, the caller's included: counted, because an engine that chooses does not say.
        wrap: Put around each inference.
    """

    model: Model
    feeds: dict[str, Any]
    load_ms: float
    first_ms: float
    threads: int
    wrap: Callable[[Call], Call] | None = None

    @property
    def call(self) -> Call:
        """One inference of one sample."""
        run, feeds = self._session.run, self._ready
        return self._wrapped(lambda: run(feeds))

    @property
    def engine(self) -> str:
        return f"{self.model.engine} {self.model.engine_version}"

    @property
    def batches(self) -> bool:
        """Whether the engine answers several samples in one call."""
        free = all(spec.shape and spec.shape[0] is None for spec in self.model.inputs)
        return bool(self._session.batches and self.model.inputs and free)

    def batch(self, samples: int) -> Call:
        """One query of several samples: in one call of the engine where it takes them, else one after the other."""
        one = self.call
        if samples == 1:
            return one
        if self.batches:
            import numpy as np

            run = self._session.run
            feeds = {name: np.concatenate([array] * samples) for name, array in self._ready.items()}
            return self._wrapped(lambda: run(feeds))

        def several() -> None:
            for _ in range(samples):
                one()

        return several

    def _wrapped(self, call: Call) -> Call:
        return call if self.wrap is None else self.wrap(call)

    @property
    def _session(self) -> Session:
        # The engine itself, so that figures compare with those of other tools; what `Model.run` adds is measured apart.
        session = self.model._session  # noqa: SLF001 - nobody else needs it
        assert session is not None  # noqa: S101 - open for as long as the subject is
        return session

    @property
    def _ready(self) -> dict[str, Any]:
        keys = self.model._keys  # noqa: SLF001 - as above
        return {key: self.feeds[spec.name] for key, spec in zip(keys, self.model.inputs, strict=True)}

    def close(self) -> None:
        self.model.close()

    def __enter__(self) -> Subject:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def open_subject(
    source: Path | Artifact,
    *,
    engine: str | None = None,
    threads: int | None = None,
    verify: bool = True,
    wrap: Callable[[Call], Call] | None = None,
    clock: Clock = time.perf_counter_ns,
) -> Subject:
    """Load an artifact and run it once.

    Raises:
        EdgeKitError: As `edgekit.load` and `Model.run`.
    """
    from edgekit.runtimes.model import load

    before = thread_count()
    start = clock()
    model = load(source, threads=threads, engine=engine, verify=verify)
    loaded = clock()
    try:
        feeds = feeds_of(model)
        first = clock()
        model.run(feeds, raw=True)
        done = clock()
    except BaseException:
        model.close()
        raise
    after = thread_count()
    counted = threads or 0 if before is None or after is None else max(1, 1 + after - before)
    return Subject(model, feeds, (loaded - start) / 1e6, (done - first) / 1e6, counted, wrap)


def feeds_of(model: Model) -> dict[str, Any]:
    """Raw inputs of one sample: the self-test's where there is one, else seeded values over each input's range."""
    from edgekit.selftest import generate
    from edgekit.tensors import INTEGER_RANGE

    tested = model.artifact.selftest
    if tested is not None:
        stored: dict[str, Any] = tested.feeds(tested.vectors[0], model.inputs)
        return stored
    feeds = {}
    for stream, spec in enumerate(model.inputs):
        low, high = (0.0, 1.0)
        if spec.quant is not None and spec.dtype in INTEGER_RANGE:
            scale, zero = spec.quant.scale[0], spec.quant.zero_point[0]
            low, high = (scale * (edge - zero) for edge in INTEGER_RANGE[spec.dtype])
        shape = tuple(1 if size is None else size for size in spec.shape)
        feeds[spec.name] = generate(spec, shape, (low, high), seed=0, stream=stream)
    return feeds
