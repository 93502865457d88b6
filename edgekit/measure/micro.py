"""How long tiny networks take through the real engines: the measuring job behind `edgekit devices probe`.

All networks of one group (engine, arithmetic, threads) are open at once and run in turns, a few milliseconds each, so
that a disturbance hits all of them alike; of each network's turns the quickest count.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TURN_SECONDS = 0.001
"""A turn lasts at least this long, and at least one run: short, so that some fit between two disturbances."""
LUCKY = 2
"""Of a network's turns the second quickest counts: the quickest may be a slip of the clock."""
LEAST_ROUNDS = 5
WARM = 2


@dataclass(frozen=True)
class Group:
    """Networks that are measured together.

    Attributes:
        engine: Which one runs them.
        threads: How many.
        paths: The files.
    """

    engine: str
    threads: int
    paths: tuple[str, ...]


@dataclass(frozen=True)
class MicroRequest:
    """Groups, and how long to spend on all of them together."""

    groups: tuple[Group, ...]
    seconds: float


@dataclass(frozen=True)
class Measured:
    """Nanoseconds a run of each network of a group, in its order; None where the engine refused one."""

    engine: str
    threads: int
    ns: tuple[float | None, ...]


@dataclass(frozen=True)
class MicroResult:
    """Of all groups, in order."""

    groups: tuple[Measured, ...]


def measure(request: MicroRequest) -> Generator[dict[str, Any], None, MicroResult]:
    """Run every group for its share of the time."""
    found = []
    for number, group in enumerate(request.groups, 1):
        yield {
            "stage": f"kernels: {group.engine}, {group.threads} thread{'s' if group.threads > 1 else ''}",
            "done": number,
            "total": len(request.groups),
        }
        found.append(Measured(group.engine, group.threads, times(group, request.seconds / len(request.groups))))
    return MicroResult(tuple(found))


def times(group: Group, seconds: float) -> tuple[float | None, ...]:
    """Nanoseconds a run of each network."""
    calls = [_opened(Path(path), group) for path in group.paths]
    turns = [_turn(call) if call is not None else 0 for call in calls]
    seen: list[list[float]] = [[] for _ in calls]
    # One thread's own processor time leaves out what others took; several threads are timed by the wall.
    clock = time.thread_time_ns if group.threads == 1 else time.perf_counter_ns
    end = time.monotonic() + seconds
    rounds = 0
    while rounds < LEAST_ROUNDS or time.monotonic() < end:
        rounds += 1
        for call, turn, taken in zip(calls, turns, seen, strict=True):
            if call is not None:
                call()  # what the others threw out of the caches comes back
                start = clock()
                for _ in range(turn):
                    call()
                taken.append((clock() - start) / turn)
    return tuple(sorted(taken)[LUCKY - 1] if taken else None for taken in seen)


def _opened(path: Path, group: Group) -> Callable[[], object] | None:
    """One inference with made-up input; None when this engine's version cannot run the network."""
    from edgekit.errors import EngineError
    from edgekit.measure.subject import open_subject

    try:
        return open_subject(path, threads=group.threads, engine=group.engine).call
    except EngineError:
        return None


def _turn(call: Callable[[], object]) -> int:
    """How many runs a turn has."""
    for _ in range(WARM):
        call()
    start = time.perf_counter()
    call()
    return max(1, min(1000, round(TURN_SECONDS / max(1e-7, time.perf_counter() - start))))
