"""Child processes that wait for the next conversion of the same source, and what every conversion of it works out.

A search converts one source a dozen times: a third of the processor time of a small model's conversion is imports, and
a fifth of what is left is the same each time, the source's facts, its float graphs and its own answers. Those are kept,
by all that decides them, and the source is loaded again only where something else is asked of it. Neither a process nor
what it said ever serves two sources: whoever parsed one is not trusted with another.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit import files
from edgekit.child import Child
from edgekit.errors import WorkerError

MOST = 16
"""Conversions that one process serves: libraries never return all of their memory."""


@dataclass(frozen=True)
class Call:
    """Whether anybody is there, and the answer."""


def answer(call: Call) -> Call:
    """The job that a waiting child must do before it is handed out."""
    return call


class Waiting:
    """Idle children, by what they are for, and what is known of their source. Several threads may ask."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stack = ExitStack()
        self._folder: Path | None = None
        self._source: str | None = None
        self._idle: dict[Hashable, list[Child]] = {}
        self._served: dict[Child, int] = {}
        self._known: dict[Hashable, Any] = {}
        self._names = 0

    def serve(self, source: str) -> None:
        """From now on for this source, by its digest; those that saw another one end."""
        with self._lock:
            other, self._source = source != self._source, source
        if other:
            self._end()

    def take(self, key: Hashable, make: Callable[[Path], Child]) -> Child:
        """A child that is idle and answers, or a new one.

        Args:
            key: All that `make` depends on.
            make: Starts one, whose log file is given.
        """
        while (child := self._any(key)) is not None:
            try:
                child.call(answer, Call(), stage="wake")
            except WorkerError:  # it died meanwhile, and is closed
                self._served.pop(child, None)
                continue
            return child
        return make(self.place(".log"))

    def place(self, suffix: str = "") -> Path:
        """A name for a file or folder that lasts as long as this."""
        with self._lock:
            if self._folder is None:
                self._folder = self._stack.enter_context(files.scratch())
            self._names += 1
            return self._folder / f"{self._names}{suffix}"

    def recall(self, key: Hashable) -> Any:
        """What an earlier conversion of the source kept; None where none did."""
        with self._lock:
            return self._known.get(key)

    def keep(self, key: Hashable, value: Any, source: str) -> None:
        """For the next conversions of `source`; files that it names lie at a `place`."""
        with self._lock:
            if source == self._source:
                self._known[key] = value

    def _any(self, key: Hashable) -> Child | None:
        with self._lock:
            idle = self._idle.get(key)
            return idle.pop() if idle else None

    def give(self, key: Hashable, child: Child, source: str | None) -> None:
        """Take a child back after a conversion of `source`; one that failed (None) or is worn is closed instead."""
        with self._lock:
            served = self._served.pop(child, 0) + 1
            kept = source is not None and source == self._source and served < MOST and not child.busy
            if kept:
                self._served[child] = served
                self._idle.setdefault(key, []).append(child)
        if not kept:
            child.close()

    def _end(self) -> None:
        with self._lock:
            ending = [child for idle in self._idle.values() for child in idle]
            self._idle.clear()
            self._known.clear()
            for child in ending:
                self._served.pop(child, None)
        for child in ending:
            child.close()

    def close(self) -> None:
        """End all that wait."""
        self._end()
        with self._lock:
            self._folder = self._source = None
            self._stack.close()
