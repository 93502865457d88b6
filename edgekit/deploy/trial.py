"""One look at a version: opened in a process of its own, asked its self-test, timed.

The version under trial may crash, hang, run out of memory, answer NaN or other than it did where it was made, or be
slow. Each becomes a reason in words; what died is told by `edgekit.targets.base.Target`, which names the engine.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path

from edgekit.child import Limits
from edgekit.errors import ArtifactError, EdgeKitError
from edgekit.targets.local import Local

_SECONDS = 0.3
"""How long inferences are timed in one look."""
_RUNS = 200
QUIET_HANG = 5.0
"""Seconds that a look may take at least before it counts as hanging."""
_HANG = 20
"""... and as a multiple of what the version before took."""


@dataclass(frozen=True)
class LookRequest:
    """Which file, and how to open it."""

    path: str
    threads: int | None = None
    engine: str | None = None


@dataclass(frozen=True)
class Look:
    """What was seen.

    Attributes:
        fault: What is wrong with its answers, in words; "" when nothing is.
        median_ms: Of an inference on the self-test's inputs.
        seconds: The whole look, with opening.
    """

    fault: str
    median_ms: float
    seconds: float


def look(request: LookRequest) -> Look:
    """Open, replay the self-test, look for values that are no numbers, and time it."""
    import numpy as np

    from edgekit import artifact
    from edgekit.runtimes.model import Model
    from edgekit.runtimes.replay import replay

    started = time.perf_counter()
    opened = artifact.read(request.path)
    if opened.selftest is None:
        raise ArtifactError("selftest-missing", f"{request.path} carries no self-test: edgekit did not write it")
    with Model.from_artifact(opened, threads=request.threads, engine=request.engine) as model:
        seen = replay(model)
        feeds = opened.selftest.feeds(opened.selftest.vectors[0], model.inputs)
        answers = model.run(feeds, raw=True)
        faults = list(seen.failures)
        faults += [
            f"output {name} is not finite"
            for name, array in answers.items()
            if array.dtype.kind == "f" and not np.isfinite(array).all()
        ]
        times: list[float] = []
        until = time.perf_counter() + _SECONDS
        while not times or (time.perf_counter() < until and len(times) < _RUNS):
            before = time.perf_counter()
            model.run(feeds, raw=True)
            times.append(time.perf_counter() - before)
    return Look("; ".join(faults[:3]), statistics.median(times) * 1e3, time.perf_counter() - started)


@dataclass(frozen=True)
class Bounds:
    """What a version must hold.

    Attributes:
        max_ms: Median latency of an inference, in milliseconds; None for none.
        slower: How many times slower than the version before it may be; counts where there is one.
        patience: Seconds that one look may take.
    """

    max_ms: float | None = None
    slower: float = 3.0
    patience: float = 120.0

    def after(self, before: Look | None) -> Bounds:
        """The same, knowing how the version before does."""
        if before is None:
            return self
        relative = before.median_ms * self.slower
        most = relative if self.max_ms is None else min(self.max_ms, relative)
        return Bounds(most, self.slower, min(self.patience, max(QUIET_HANG, _HANG * before.seconds)))


def fault_of(path: Path, bounds: Bounds, request: LookRequest) -> str:
    """What is wrong with a version, in words; "" when it holds."""
    try:
        seen = _looked(path, request, bounds.patience)
        if not seen.fault and bounds.max_ms is not None and seen.median_ms > bounds.max_ms:
            seen = _looked(path, request, bounds.patience)  # once may have been the board's other work
    except EdgeKitError as error:
        return error.message
    if seen.fault:
        return f"other answers than where it was made: {seen.fault}"
    if bounds.max_ms is not None and seen.median_ms > bounds.max_ms:
        return f"slow: {seen.median_ms:.3g} ms an inference, {bounds.max_ms:.3g} ms are allowed"
    return ""


def seen_of(path: Path, request: LookRequest, patience: float) -> Look | None:
    """How a version does that is not on trial; None when it does not do at all."""
    try:
        return _looked(path, request, patience)
    except EdgeKitError:
        return None  # a broken predecessor is a reason to replace it, and no bound for its successor


def _looked(path: Path, request: LookRequest, patience: float) -> Look:
    with Local() as here:
        return here.perform(look, replace(request, path=str(path)), limits=Limits(patience))
