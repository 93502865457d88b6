"""A named model that an app keeps open while versions come and go.

    model = edgekit.watch("people-counter")
    outputs = model.run({"image": array})       # whichever version is active; none of the calls fails over a switch

A switch is noticed by the record's file, asked for at most four times a second. Calls that are under way finish on the
version they began with. While a version is on trial the one before stays open: what the new one cannot answer, the old
one does, and whoever supervises the trial is told.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from edgekit import artifact as artifacts
from edgekit.errors import EdgeKitError, FeedError
from edgekit.runtimes.model import Model
from edgekit.store.faults import tell
from edgekit.store.shelf import RECORD, Shelf

_EVERY = 0.25
"""Seconds between two looks at the record."""


class _Held:
    """One open version, closed when it was let go and nobody uses it any more."""

    def __init__(self, sha256: str, model: Model) -> None:
        self.sha256 = sha256
        self.model = model
        self.users = 1


class Watched:
    """The active version of a named model. Safe to share between threads; not usable in a forked child.

    Args:
        name: The model's.
        root: Folder of all models; None for this device's.
        threads, engine: As `edgekit.load`.

    Raises:
        MissingFileError: `model-unknown`. Others as `edgekit.load`.
    """

    def __init__(
        self, name: str, *, root: str | Path | None = None, threads: int | None = None, engine: str | None = None
    ) -> None:
        self._shelf = Shelf(name, root)
        self._threads, self._engine = threads, engine
        self._lock = threading.Lock()
        self._switching = threading.Lock()
        self._back: _Held | None = None
        self._broken = ""
        self._mark = self._marked()
        data, record = self._shelf.read_active()
        self._active = self._opened(str(record.active), data)
        self._asked = time.monotonic()

    @property
    def sha256(self) -> str:
        """Of the version that answers."""
        return self._active.sha256

    def run(self, feeds: Any, *, raw: bool = False) -> dict[str, Any]:
        """As `Model.run`, on the active version."""
        return self._answered(lambda model: model.run(feeds, raw=raw))  # type: ignore[no-any-return]

    def predict(self, thing: Any) -> Any:
        """As `Model.predict`, on the active version."""
        return self._answered(lambda model: model.predict(thing))

    def close(self) -> None:
        """Close what is open; calls that are under way finish first."""
        with self._lock:
            held = (self._active, self._back)
            self._back = None
        for one in held:
            if one is not None:
                self._let_go(one)

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _answered(self, ask: Callable[[Model], Any]) -> Any:
        self._follow()
        with self._using() as (held, back):
            if back is None:
                return ask(held.model)
            try:
                answer = ask(held.model)
            except FeedError:
                raise
            except EdgeKitError as error:
                tell(self._shelf, held.sha256, error.message)
                return ask(back.model)
            if fault := _not_finite(answer):
                tell(self._shelf, held.sha256, fault)
                return ask(back.model)
            return answer

    @contextmanager
    def _using(self) -> Iterator[tuple[_Held, _Held | None]]:
        with self._lock:
            held, back = self._active, self._back
            for one in (held, back):
                if one is not None:
                    one.users += 1
        try:
            yield held, back
        finally:
            for one in (held, back):
                if one is not None:
                    self._let_go(one)

    def _let_go(self, held: _Held) -> None:
        with self._lock:
            held.users -= 1
            last = held.users == 0
        if last:
            held.model.close()

    def _follow(self) -> None:
        """Switch if the record did; one thread does, the others go on with what they have."""
        if time.monotonic() - self._asked < _EVERY or not self._switching.acquire(blocking=False):
            return
        try:
            self._asked = time.monotonic()
            mark = self._marked()
            if mark != self._mark or self._back is not None:
                self._mark = mark
                self._switch()
        finally:
            self._switching.release()

    def _switch(self) -> None:
        record = self._shelf.settled()
        trial = record.trial is not None
        if record.active is None or record.active == self._broken:
            return
        if record.active == self._active.sha256:
            if not trial:
                self._exchange(self._active, None)
            return
        if self._back is not None and record.active == self._back.sha256:
            self._exchange(self._back, None)
            return
        try:
            data, seen = self._shelf.read_active()
            opened = self._opened(str(seen.active), data)
        except EdgeKitError as error:
            self._broken = record.active
            tell(self._shelf, record.active, error.message)
            return
        self._exchange(opened, self._active if trial else None)

    def _exchange(self, active: _Held, back: _Held | None) -> None:
        """Hold these two and no others."""
        with self._lock:
            gone = [one for one in (self._active, self._back) if one is not None and one not in (active, back)]
            self._active, self._back = active, back
        for one in gone:
            self._let_go(one)

    def _opened(self, sha256: str, data: bytes) -> _Held:
        opened = artifacts.from_bytes(data, path=self._shelf.path(sha256))
        return _Held(sha256, Model.from_artifact(opened, threads=self._threads, engine=self._engine))

    def _marked(self) -> tuple[int, int, int]:
        try:
            seen = os.stat(self._shelf.folder / RECORD)  # noqa: PTH116 - on the way of calls
        except OSError:
            return (0, 0, 0)
        return seen.st_ino, seen.st_mtime_ns, seen.st_size


def watch(
    name: str, *, root: str | Path | None = None, threads: int | None = None, engine: str | None = None
) -> Watched:
    """Open the active version of a named model, and follow what becomes active; see `Watched`."""
    return Watched(name, root=root, threads=threads, engine=engine)


def _not_finite(answer: Any) -> str:
    """Which output of raw answers holds NaN or infinity; "" for none, and for answers that were read already."""
    if not isinstance(answer, dict):
        return ""
    for name, array in answer.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            return f"output {name} is not finite"
    return ""
