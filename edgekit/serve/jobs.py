"""Requests that wait for a worker: in a bounded queue, by priority, each with the time at which it is too late."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator

from edgekit.serve.asking import Asking
from edgekit.serve.messages import Request
from edgekit.serve.settings import PRIORITIES
from edgekit.serve.wire import ASK, KINDS


class Job:
    """One request to a model.

    Attributes:
        deadline: By the loop's clock, which is the monotonic one.
        asking: What its headers say.
        alone: It was with others when a worker died: is tried once more, by itself.
        handed: When a worker got it; 0 while it waits.
        done: Answered, refused, or its client is gone.
    """

    __slots__ = ("alone", "arrived", "asking", "deadline", "done", "handed", "number", "request", "timer")

    def __init__(self, number: int, request: Request, asking: Asking, *, deadline: float, arrived: float) -> None:
        self.number = number
        self.request = request
        self.asking = asking
        self.deadline = deadline
        self.arrived = arrived
        self.handed = 0.0
        self.alone = False
        self.done = False
        self.timer: asyncio.TimerHandle | None = None

    def head(self) -> bytes:
        """As the worker is told."""
        kind, coding, json, *_ = self.asking
        return ASK.pack(self.number, self.deadline, KINDS.index(kind), coding, json, len(self.request.body))


class Queue:
    """First in, first out within each priority.

    Args:
        size: How many may wait, of all priorities.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._lines: tuple[deque[Job], ...] = tuple(deque() for _ in PRIORITIES)
        self._count = 0
        self._promised: dict[object, float] = {}

    def __len__(self) -> int:
        return self._count

    def promise(self, who: object, until: float) -> None:
        """Keep a place for somebody who is on the way, until a time."""
        self._promised[who] = until

    def redeem(self, who: object) -> None:
        """Keep none for it any longer."""
        self._promised.pop(who, None)

    def promised(self, now: float) -> int:
        """How many places are kept."""
        return sum(until > now for until in self._promised.values()) if self._promised else 0

    def room(self, priority: int, now: float) -> bool:
        """Whether one of this priority may wait."""
        if self._count + self.promised(now) < self._size:
            return True
        return any(not job.done for line in self._lines[priority + 1 :] for job in line)

    def put(self, job: Job) -> Job | None:
        """Let it wait; what had to give way for it, and is done: itself, or the latest of a lower priority."""
        dropped = None
        if self._count >= self._size:
            dropped = self._lowest(job.asking.priority) or job
            dropped.done = True
            if dropped is job:
                return job
            self._count -= 1
        line = self._lines[job.asking.priority]
        if len(line) > 2 * self._size:  # most were given up, and nobody came to take them
            kept = [one for one in line if not one.done]
            line.clear()
            line.extend(kept)
        line.append(job)
        self._count += 1
        return dropped

    def back(self, jobs: list[Job]) -> None:
        """Before all others: a worker died over them."""
        for job in reversed(jobs):
            job.handed = 0.0
            self._lines[job.asking.priority].appendleft(job)
            self._count += 1

    def give_up(self, job: Job) -> None:
        """It waits no longer; its place is free at once."""
        if not job.done and not job.handed:
            self._count -= 1
        job.done = True

    def take(self, most: int, now: float) -> list[Job]:
        """The next ones, at most so many, which are handed over; one that must be alone comes alone."""
        found: list[Job] = []
        for line in self._lines:
            while line and len(found) < most:
                job = line[0]
                if job.done:
                    line.popleft()
                    continue
                if job.alone and found:
                    return found
                line.popleft()
                self._count -= 1
                job.handed = now
                found.append(job)
                if job.alone:
                    return found
        return found

    def first(self) -> Job | None:
        """Who is next."""
        return next((job for line in self._lines for job in line if not job.done), None)

    def clear(self, now: float) -> Iterator[Job]:
        """All that wait, taken out."""
        while found := self.take(self._count, now):
            yield from found

    def _lowest(self, above: int) -> Job | None:
        """The latest job of the lowest priority below `above`."""
        for line in reversed(self._lines[above + 1 :]):
            while line and line[-1].done:
                line.pop()
            if line:
                return line.pop()
        return None
