"""How long tiny networks take through the real engines: the measuring job behind `edgekit devices probe`.

Networks of one group (engine, arithmetic, threads) run in turns of some milliseconds, so that a disturbance hits all
of them alike; of each network's turns the quickest count. On one thread all are open at once. On several each is opened
for its turns alone: threads of an engine go on waiting in a loop for milliseconds after their work, and those of the
network before would take the cores.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TURN_SECONDS = 0.001
"""A turn lasts at least this long, and at least one run: short, so that some fit between two disturbances."""
LUCKY = 2
"""Of a network's turns the second quickest counts: the quickest may be a slip of the clock."""
LEAST_ROUNDS = 5
TURNS = 6
"""Of a network that was opened for them."""
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
    """Run every group for its share of the time; those of several threads in turns, so that a machine that is busy for
    some seconds spoils a round of each and not all rounds of one.
    """
    groups, each = request.groups, request.seconds / max(1, len(request.groups))
    found: dict[int, tuple[float | None, ...]] = {}
    shared = {number: _Apart(group) for number, group in enumerate(groups) if group.threads > 1}
    for number, group in enumerate(groups):
        if number not in shared:
            yield _said(f"{group.engine}, 1 thread", len(found) + 1, len(groups))
            found[number] = times(group, each)
    if shared:
        yield _said("several threads", len(found) + 1, len(groups))
    for _ in _rounds(each * len(shared)) if shared else ():
        for apart in shared.values():
            apart.round()
    found |= {number: _quickest(apart.seen) for number, apart in shared.items()}
    return MicroResult(tuple(Measured(g.engine, g.threads, found[number]) for number, g in enumerate(groups)))


def _said(what: str, done: int, total: int) -> dict[str, Any]:
    return {"stage": f"kernels: {what}", "done": done, "total": total}


def times(group: Group, seconds: float) -> tuple[float | None, ...]:
    """Nanoseconds a run of each network."""
    if group.threads == 1:
        return _quickest(_together(group, seconds))
    apart = _Apart(group)
    for _ in _rounds(seconds):
        apart.round()
    return _quickest(apart.seen)


def _quickest(seen: list[list[float]]) -> tuple[float | None, ...]:
    return tuple(sorted(taken)[LUCKY - 1] if taken else None for taken in seen)


def _together(group: Group, seconds: float) -> list[list[float]]:
    """All open; the thread's own processor time leaves out what others took."""
    calls = [_opened(Path(path), group) for path in group.paths]
    turns = [_turn(call) if call is not None else 0 for call in calls]
    seen: list[list[float]] = [[] for _ in calls]
    for _ in _rounds(seconds):
        for call, turn, taken in zip(calls, turns, seen, strict=True):
            if call is not None:
                call()  # what the others threw out of the caches comes back
                taken.append(_timed(call, turn, time.thread_time_ns))
    return seen


class _Apart:
    """Networks of a group, one open at a time, by the clock on the wall."""

    def __init__(self, group: Group) -> None:
        self._group = group
        self._refused: set[str] = set()
        self.seen: list[list[float]] = [[] for _ in group.paths]

    def round(self) -> None:
        """Some turns of each."""
        from edgekit.errors import EngineError
        from edgekit.measure.subject import open_subject

        for path, taken in zip(self._group.paths, self.seen, strict=True):
            if path in self._refused:
                continue
            try:
                with open_subject(Path(path), threads=self._group.threads, engine=self._group.engine) as subject:
                    turn = _turn(subject.call)
                    taken += [_timed(subject.call, turn, time.perf_counter_ns) for _ in range(TURNS)]
            except EngineError:
                self._refused.add(path)


def _rounds(seconds: float) -> Iterator[int]:
    """As many as there is time for, and a few in any case."""
    end, count = time.monotonic() + seconds, 0
    while count < LEAST_ROUNDS or time.monotonic() < end:
        count += 1
        yield count


def _timed(call: Callable[[], object], turn: int, clock: Callable[[], int]) -> float:
    start = clock()
    for _ in range(turn):
        call()
    return (clock() - start) / turn


def _opened(path: Path, group: Group) -> Callable[[], object] | None:
    """One inference with made-up input; None when this engine's version cannot run the network."""
    from edgekit.errors import EngineError
    from edgekit.measure.subject import open_subject

    try:
        return open_subject(path, threads=group.threads, engine=group.engine).call
    except EngineError:
        return None


def _turn(call: Callable[[], object]) -> int:
    """How many runs a turn has; warm afterwards."""
    start = time.perf_counter()
    runs = 0
    while runs < WARM or time.perf_counter() - start < TURN_SECONDS:
        call()
        runs += 1
    start = time.perf_counter()
    call()
    return max(1, min(1000, round(TURN_SECONDS / max(1e-7, time.perf_counter() - start))))
