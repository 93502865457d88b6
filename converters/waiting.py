"""Child processes that wait for the next conversion of the same source, and what every conversion of it works out.

A search converts one source a dozen times: a third of the processor time of a small model's conversion is imports, and
a fifth of what is left is the same each time, the source's facts, its float graphs and its own answers. Those are kept,
by all that decides them, and the source is loaded again only where something else is asked of it; other processes of
the search are told (`Known`), which then need not load it at all. Neither a process nor what it said ever serves two
sources: whoever parsed one is not trusted with another.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Hashable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgekit import files
from edgekit.child import Child
from edgekit.converters.stages import Graph
from edgekit.converters.verification.answers import Answers
from edgekit.errors import WorkerError

MOST = 16
"""Conversions that one process serves: libraries never return all of their memory."""


LARGEST = 64 << 20
"""Bytes of one thing that is worth sending to another process; more is worked out there."""


@dataclass(frozen=True)
class Known:
    """What conversions of a source worked out, on its way to another process.

    Attributes:
        source: Its digest.
        values: By all that decides them.
        contents: Of the files that they name: key -> file name -> bytes.
    """

    source: str | None
    values: dict[Hashable, Any] = field(default_factory=dict)
    contents: dict[Hashable, dict[str, bytes]] = field(default_factory=dict)


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

    @property
    def known(self) -> tuple[Hashable, ...]:
        """By which `recall` has something."""
        with self._lock:
            return tuple(self._known)

    def tell(self, keys: Collection[Hashable]) -> Known:
        """What is known under some keys, but for what is too large to send."""
        with self._lock:
            source, values = self._source, {key: value for key, value in self._known.items() if key in keys}
        contents = {}
        for key, value in list(values.items()):
            with suppress(FileNotFoundError):  # the search ended meanwhile
                paths = _files(value)
                if sum(path.stat().st_size for path in paths) <= LARGEST:
                    contents[key] = {path.name: path.read_bytes() for path in paths}
        return Known(source, {key: value for key, value in values.items() if key in contents}, contents)

    def learn(self, told: Known) -> None:
        """Know what another process worked out; what it says of another source than this one's is left."""
        if told.source is None:
            return
        self.serve(told.source)
        for key, value in told.values.items():
            if self.recall(key) is None:
                folder = self.place()
                folder.mkdir()
                for name, content in told.contents[key].items():
                    (folder / name).write_bytes(content)
                self.keep(key, _moved(value, folder), told.source)

    def idle(self, key: Hashable) -> bool:
        """Whether a child of this kind waits."""
        with self._lock:
            return bool(self._idle.get(key))

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


def _files(value: Any) -> list[Path]:
    """Those that something known names."""
    if isinstance(value, Graph):
        return [Path(value.path)]
    return sorted(Path(value.folder).iterdir()) if isinstance(value, Answers) else []


def _moved(value: Any, folder: Path) -> Any:
    """The same with its files in a folder."""

    def there(path: str) -> str:
        return str(folder / Path(path).name)

    if isinstance(value, Graph):
        return replace(value, path=there(value.path))
    if isinstance(value, Answers):
        edges, nudged = (tuple(map(there, paths)) for paths in (value.edges, value.nudged))
        return replace(value, folder=str(folder), edges=edges, nudged=nudged)
    return value
