"""A named model that an app keeps open while versions come and go.

    model = edgekit.watch("people-counter")
    outputs = model.run({"image": array})       # whichever version is active; none of the calls fails over a switch

A switch is noticed by the record's file, asked for at most four times a second. Calls that are under way finish on the
version they began with. While a version is on trial the one before stays open: what the new one cannot answer and the
old one can, the old one does, and whoever supervises the trial is told. With `deploy --shadow` a share of the calls is
asked of both, and whether they agree is told as well.

    model = edgekit.watch("people-counter", monitor="/var/lib/app/monitor", capture=Plan())

watches whichever version is active, and keeps samples of it (see `edgekit.monitor.field`).
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit import artifact as artifacts
from edgekit.errors import EdgeKitError
from edgekit.runtimes.flow.shadow import difference
from edgekit.runtimes.model import Model
from edgekit.runtimes.straight import fill
from edgekit.store import Record, Shadow, shadow
from edgekit.store.faults import tell
from edgekit.store.shelf import Shelf

if TYPE_CHECKING:
    from edgekit.monitor.capture import Capture
    from edgekit.monitor.field import Field, Maker
    from edgekit.monitor.monitor import Monitor
    from edgekit.monitor.plan import Plan
    from edgekit.runtimes.base import Array

_EVERY = 0.25
"""Seconds between two looks at the record."""


Outputs = dict[str, Any]


class _Held:
    """One open version, closed when it was let go and nobody uses it any more."""

    def __init__(self, sha256: str, model: Model) -> None:
        self.sha256 = sha256
        self.model = model
        self.users = 1


class _Comparing:
    """Which calls of this app are compared, in one trial."""

    def __init__(self, sha256: str, asked: Shadow) -> None:
        self.sha256 = sha256
        self.asked = asked
        self.wanted = True
        self._every = max(1, round(1 / asked.share))
        self._calls = itertools.count()

    def due(self) -> bool:
        """Whether this call is; the first one always."""
        return self.wanted and next(self._calls) % self._every == 0


@dataclass(frozen=True)
class _Question:
    """What an app asks of a model.

    Attributes:
        answer: The model's answer.
        seen: The answer, and the outputs in real values that it rests on. Nothing of the caller's is written.
        given: What becomes of an answer that was seen.
    """

    answer: Callable[[Model], Any]
    seen: Callable[[Model], tuple[Any, Outputs]]
    given: Callable[[Any], Any] = lambda answer: answer


class Watched:
    """The active version of a named model. Safe to share between threads; not usable in a forked child.

    Args:
        name: The model's.
        root: Folder of all models; None for this device's.
        threads, engine, watchdog: As `edgekit.load`. With a watchdog an engine that dies or hangs under a version on
            trial is a fault like others: the version before answers, and the trial is told.
        monitor: Folder of a monitor's state: every call of the active version is watched, as by `Model.monitor`.
        capture: What is kept of the calls, or a function from a model to a `Capture` (with a redaction, a key).
            Without a folder for the monitor, one in memory tells what is out of distribution.
        cycle: Of the monitor; see `Model.monitor`.

    Raises:
        MissingFileError: `model-unknown`. ArtifactError: `reference-missing`: it is to be watched, and the first
        version says nothing of its data. Others as `edgekit.load`, and as `Capture`.
    """

    def __init__(
        self,
        name: str,
        *,
        root: str | Path | None = None,
        threads: int | None = None,
        engine: str | None = None,
        watchdog: float | None = None,
        monitor: str | Path | None = None,
        capture: Plan | Maker | None = None,
        cycle: int = 0,
    ) -> None:
        self._field: Field | None = None
        self._closed = False
        self._shelf = Shelf(name, root)
        self._how: dict[str, Any] = {"threads": threads, "engine": engine, "watchdog": watchdog}
        self._lock = threading.Lock()
        self._switching = threading.Lock()
        self._back: _Held | None = None
        self._comparing: _Comparing | None = None
        self._broken: tuple[str, tuple[int, int, int]] | None = None
        self._mark = self._shelf.mark()
        self._active = self._begun()
        self._asked = time.monotonic()
        if monitor is not None or capture is not None:
            from edgekit.monitor.field import Field

            field = Field(name, monitor, capture, demanded=monitor is not None, cycle=cycle)
            try:
                field.begin(self._active.model)
            except BaseException:
                self.close()
                raise
            self._field = field

    @property
    def sha256(self) -> str:
        """Of the version that answers."""
        return self._active.sha256

    @property
    def monitor(self) -> Monitor | None:
        """Of the version that answers; None if nobody asked for one, or the version says nothing of its data."""
        return None if self._field is None else self._field.monitor

    @property
    def capture(self) -> Capture | None:
        """What keeps samples; None if nobody asked for it."""
        return None if self._field is None else self._field.capture

    def run(self, feeds: Any, *, raw: bool = False, out: Mapping[str, Array] | None = None) -> Outputs:
        """As `Model.run`, on the active version."""

        def seen(model: Model) -> tuple[Any, Outputs]:
            answers = model.run(feeds, raw=raw)
            return answers, model.restore(answers) if raw else answers

        def given(answers: Outputs) -> Outputs:
            return answers if out is None else fill(out, answers)

        question = _Question(lambda model: model.run(feeds, raw=raw, out=out), seen, given)
        return self._answered(question)  # type: ignore[no-any-return]

    def predict(self, thing: Any, *, colors: str | None = None) -> Any:
        """As `Model.predict`, on the active version."""
        return self._answered(
            _Question(
                lambda model: model.predict(thing, colors=colors), lambda model: model.predictor.seen(thing, colors)
            )
        )

    def predict_batch(self, things: Iterable[Any], *, colors: str | None = None) -> list[Any]:
        """As `Model.predict_batch`, on the active version. Of those that are asked of two versions, the first thing is
        compared.
        """
        things = list(things)
        if not things:
            return []

        def seen(model: Model) -> tuple[Any, Outputs]:
            answers = model.predict_batch(things, colors=colors)
            return answers, model.predictor.seen(things[0], colors)[1]

        question = _Question(lambda model: model.predict_batch(things, colors=colors), seen)
        return self._answered(question)  # type: ignore[no-any-return]

    async def apredict(self, thing: Any, *, colors: str | None = None) -> Any:
        """As `Model.apredict`, on the active version."""
        import asyncio

        return await asyncio.to_thread(self.predict, thing, colors=colors)

    @contextmanager
    def using(self) -> Iterator[Model]:
        """The active version itself, which stays open until the end of `with`, whatever is switched meanwhile."""
        self._follow()
        with self._using() as (held, _):
            yield held.model

    def close(self) -> None:
        """Close what is open, and follow no more; calls that are under way finish first. May be called twice."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            held = (self._active, self._back)
            self._back = None
        for one in held:
            if one is not None:
                self._let_go(one)
        if self._field is not None:
            self._field.close()

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _answered(self, question: _Question) -> Any:
        self._follow()
        with self._using() as (held, back):
            if back is None:
                return question.answer(held.model)
            comparing = self._comparing
            if comparing is None or comparing.sha256 != held.sha256 or not comparing.due():
                comparing = None
            try:
                answer, outputs = question.seen(held.model) if comparing else (question.answer(held.model), None)
            except EdgeKitError as error:
                answer = question.answer(back.model)  # what this one refuses as well is no fault of the new one
                tell(self._shelf, held.sha256, error.message)
                return answer
            if fault := _not_finite(answer if outputs is None else outputs):
                tell(self._shelf, held.sha256, fault)
                return question.answer(back.model)
            if comparing is None or outputs is None:
                return answer
            self._compare(comparing, outputs, back.model, question)
            return question.given(answer)

    def _compare(self, comparing: _Comparing, outputs: Outputs, back: Model, question: _Question) -> None:
        try:
            _, before = question.seen(back)
        except EdgeKitError:
            return  # the app has its answer, and the version before is not on trial
        why = difference(outputs, before, task=back.interpret.task, tolerance=comparing.asked.tolerance)
        comparing.wanted = shadow.note(self._shelf, comparing.sha256, why)

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
        if self._closed or time.monotonic() - self._asked < _EVERY or not self._switching.acquire(blocking=False):
            return
        try:
            self._asked = time.monotonic()
            mark = self._shelf.mark()
            if mark != self._mark or self._back is not None:
                self._mark = mark
                self._switch()
        finally:
            self._switching.release()

    def _switch(self) -> None:
        record = self._shelf.settled()
        if record.active is None or (record.active, self._mark) == self._broken:
            return
        if record.active == self._active.sha256:
            if record.trial is None:
                self._exchange(self._active, None, None)
            return
        if self._back is not None and record.active == self._back.sha256:
            self._exchange(self._back, None, None)
            return
        try:
            data, seen = self._shelf.read_active()
            opened = self._opened(str(seen.active), data)
        except EdgeKitError as error:
            self._broken = (record.active, self._mark)
            tell(self._shelf, record.active, error.message)
            return
        self._exchange(opened, self._active if seen.trial else None, seen)

    def _begun(self) -> _Held:
        """What answers at first; an app that starts during a trial can go back as well."""
        data, record = self._shelf.read_active()
        trial = record.trial
        back = self._before(record)
        try:
            active = self._opened(str(record.active), data)
        except EdgeKitError as error:
            if trial is None or back is None:
                raise
            self._broken = (trial.sha256, self._mark)
            tell(self._shelf, trial.sha256, error.message)
            return back
        self._back, self._comparing = back, _comparing(record) if back else None
        return active

    def _before(self, record: Record) -> _Held | None:
        """The version that a trial would return to, where it can be opened."""
        if record.trial is None or record.trial.back is None:
            return None
        back = record.trial.back
        try:
            return self._opened(back, self._shelf.path(back).read_bytes())
        except (OSError, EdgeKitError):
            return None  # it is not what is on trial: the app goes on without

    def _exchange(self, active: _Held, back: _Held | None, record: Record | None) -> None:
        """Hold these two and no others."""
        if self._field is not None and active is not self._active:
            self._field.begin(active.model)
        with self._lock:
            if self._closed:  # meanwhile: what was opened is not wanted any more
                gone = [active] if active is not self._active else []
            else:
                gone = [one for one in (self._active, self._back) if one is not None and one not in (active, back)]
                self._active, self._back = active, back
                self._comparing = _comparing(record) if record and back else None
        for one in gone:
            self._let_go(one)

    def _opened(self, sha256: str, data: bytes) -> _Held:
        opened = artifacts.from_bytes(data, path=self._shelf.path(sha256))
        return _Held(sha256, Model.from_artifact(opened, **self._how))


def watch(
    name: str,
    *,
    root: str | Path | None = None,
    threads: int | None = None,
    engine: str | None = None,
    watchdog: float | None = None,
    monitor: str | Path | None = None,
    capture: Plan | Maker | None = None,
    cycle: int = 0,
) -> Watched:
    """Open the active version of a named model, and follow what becomes active; see `Watched`."""
    return Watched(
        name,
        root=root,
        threads=threads,
        engine=engine,
        watchdog=watchdog,
        monitor=monitor,
        capture=capture,
        cycle=cycle,
    )


def _comparing(record: Record) -> _Comparing | None:
    trial = record.trial
    return _Comparing(trial.sha256, trial.shadow) if trial is not None and trial.shadow is not None else None


def _not_finite(answer: Any) -> str:
    """Which output of raw answers holds NaN or infinity; "" for none, and for answers that were read already."""
    if not isinstance(answer, dict):
        return ""
    for name, array in answer.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            return f"output {name} is not finite"
    return ""
