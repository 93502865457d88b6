"""Several sessions of one model behind one bounded queue.

    with edgekit.Pool("model.tflite", sessions=2, queue=8, policy="drop-oldest", deadline=0.2) as pool:
        future = pool.submit(frame)
        answer = future.result()

An engine that locks itself (LiteRT) answers one call at a time; a pool opens it several times. What cannot be answered
in time is told at once, so that the app can go on with what is fresh.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

from edgekit.artifact import Artifact
from edgekit.errors import EdgeKitError, EngineError, LimitError, UsageError
from edgekit.runtimes import bounds
from edgekit.runtimes.base import forked
from edgekit.runtimes.flow.queue import Aging, Policy

if TYPE_CHECKING:
    from edgekit.monitor.monitor import Monitor
    from edgekit.monitor.watch import Taker, Watch
    from edgekit.runtimes.flow.metrics import Metrics
    from edgekit.runtimes.model import Model


class _Request(NamedTuple):
    thing: Any
    future: Future[Any]
    deadline: float | None


class Pool:
    """Worker threads, each with a session of its own.

    Args:
        source: Path, name of a deployed model, or artifact; or a function without arguments that opens a `Model`.
        sessions: How many.
        queue: How many requests may wait.
        policy: What happens to one too many: "block" makes `submit` wait, "drop-oldest" gives up the oldest and
            answers the newest first, "drop-newest" turns the new one away.
        deadline: Seconds in which the work on a request must begin; later it is not done. None: however late.
        batch: Answer up to so many waiting requests by one call.
        wait: Seconds to wait for a batch to fill.
        threads: Of each session's engine.
        colors: Of pictures that are arrays, as `Model.predict` has it.
        metrics: Counts requests, drops and waits.
        monitor: Folder of a monitor that watches all sessions; None: they are not watched.
        capture: Is offered every call, with the monitor's verdict where there is one.
        cycle: Of the monitor; see `Model.monitor`.

    Raises:
        UsageError: `option-value`; and what `edgekit.load` and `Model.monitor` raise.
    """

    def __init__(
        self,
        source: str | Path | Artifact | Callable[[], Model],
        *,
        sessions: int = 2,
        queue: int = 16,
        policy: Policy = "block",
        deadline: float | None = None,
        batch: int = 1,
        wait: float = 0.0,
        threads: int | None = 1,
        colors: str | None = None,
        metrics: Metrics | None = None,
        monitor: str | Path | None = None,
        capture: Taker | None = None,
        cycle: int = 0,
    ) -> None:
        if policy not in get_args(Policy):
            raise UsageError("option-value", f"policy is {policy!r}; known: {', '.join(get_args(Policy))}")
        sessions = bounds.whole("sessions", sessions, most=bounds.MOST_THREADS)
        queue, self._batch = bounds.whole("queue", queue), bounds.whole("batch", batch)
        self._deadline = None if deadline is None else bounds.seconds("deadline", deadline)
        self._wait = bounds.seconds("wait", wait, least=0.0)
        self._metrics, self._pid, self._closed = metrics, os.getpid(), False
        self._how: dict[str, Any] = {} if colors is None else {"colors": colors}
        self._queue: Aging[_Request] = Aging(queue, policy)
        models = _opened(source, sessions, threads)
        self._watch = _watched(models, monitor, capture, cycle)
        self._threads = [
            threading.Thread(target=self._work, args=(model,), name=f"edgekit-pool-{number}", daemon=True)
            for number, model in enumerate(models)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, thing: Any, *, deadline: float | None = None) -> Future[Any]:
        """Ask for what `Model.predict` answers.

        Args:
            thing: See `Model.predict`.
            deadline: Of this request, in seconds from now; None for the pool's. One that has passed is answered so.

        Returns:
            A future with the answer, or an error of `Model.predict`, or LimitError: `request-dropped`, `request-late`.

        Raises:
            EngineError: `model-closed`, `model-forked`. UsageError: `option-value`.
        """
        if self._pid != os.getpid():
            raise forked(self._pid)
        if self._closed:
            raise EngineError("model-closed", "the pool was closed")
        seconds = self._deadline
        if deadline is not None:
            seconds = bounds.seconds("deadline", deadline, least=-bounds.MOST_SECONDS)
        request = _Request(thing, Future(), None if seconds is None else time.monotonic() + seconds)
        dropped = self._queue.put(request, seconds)
        if dropped is not None:
            self._count("dropped")
            _fail(dropped.future, LimitError("request-dropped", "the queue is full, and others are fresher"))
        return request.future

    def predict(self, thing: Any, *, deadline: float | None = None) -> Any:
        """`submit`, and wait for the answer."""
        return self.submit(thing, deadline=deadline).result()

    @property
    def monitor(self) -> Monitor | None:
        """The one of all sessions; None without."""
        return None if self._watch is None else self._watch.monitor

    def close(self) -> None:
        """Answer what waits, then give the memory back; by a future's callback without waiting. May be called twice."""
        if self._pid != os.getpid():
            return  # threads and engines are the parent's
        self._closed = True
        self._queue.close()
        if threading.current_thread() not in self._threads:
            for thread in self._threads:
                thread.join()

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        """How many requests wait."""
        return len(self._queue)

    def _work(self, model: Model) -> None:
        while (first := self._queue.take()) is not None:
            requests = self._fresh([first, *self._more()])
            if requests:
                _answer(model, requests, self._how)
        model.close()

    def _more(self) -> list[tuple[_Request, float]]:
        """What else can go into the same call."""
        found: list[tuple[_Request, float]] = []
        ends = time.monotonic() + self._wait
        while len(found) + 1 < self._batch:
            taken = self._queue.take(max(ends - time.monotonic(), 0.0))
            if taken is None:
                break
            found.append(taken)
        return found

    def _fresh(self, taken: list[tuple[_Request, float]]) -> list[_Request]:
        """Those that are not too late; nor given up by who asked."""
        now = time.monotonic()
        fresh = []
        for request, came in taken:
            if self._metrics is not None:
                self._metrics.observe("wait_seconds", now - came)
            if request.deadline is not None and now > request.deadline:
                self._count("late")
                _fail(request.future, LimitError("request-late", f"it waited {now - came:.3f} s, past its deadline"))
            elif request.future.set_running_or_notify_cancel():
                self._count("answered")
                fresh.append(request)
        return fresh

    def _count(self, what: str) -> None:
        if self._metrics is not None:
            self._metrics.count("requests", what)


def _answer(model: Model, requests: list[_Request], how: dict[str, Any]) -> None:
    """One call for all; where that fails, one each, so that only those fail that must."""
    try:
        answers = model.predict_batch([request.thing for request in requests], **how)
        answered = list(zip(requests, answers, strict=True))
    except BaseException as error:  # noqa: BLE001 - whatever a thing does, SystemExit as well, belongs to who asked
        if len(requests) == 1:
            _settle(requests[0].future.set_exception, error)
            return
        for request in requests:
            _answer(model, [request], how)
        return
    for request, answer in answered:
        _settle(request.future.set_result, answer)


def _fail(future: Future[Any], error: EdgeKitError) -> None:
    if future.running() or future.set_running_or_notify_cancel():
        _settle(future.set_exception, error)


def _settle(tell: Callable[[Any], None], what: Any) -> None:
    """Resolve a future. Its callbacks run here: the future logs what they raise, but for what would end this thread."""
    with contextlib.suppress(SystemExit, KeyboardInterrupt, GeneratorExit):
        tell(what)


def _watched(models: list[Model], folder: str | Path | None, capture: Taker | None, cycle: int) -> Watch | None:
    """One watch for all: the sessions are of one model. Where that fails, they are closed."""
    if folder is None and capture is None:
        return None
    from edgekit.monitor.watch import Watch

    first = models[0]
    try:
        if folder is None:
            first.watch = Watch(None, first.inputs, first.outputs, capture)
        else:
            first.monitor(folder, capture=capture, cycle=cycle)
    except BaseException:
        _closed(models)
        raise
    for model in models[1:]:
        model.watch = first.watch
    return first.watch


def _opened(source: Any, sessions: int, threads: int | None) -> list[Model]:
    """All or none."""
    from edgekit.runtimes.model import load, read

    if not callable(source):
        found = source if isinstance(source, Artifact) else read(source)

        def source() -> Model:
            return load(found, threads=threads)

    models: list[Model] = []
    try:
        for _ in range(sessions):
            models.append(source())
    except BaseException:  # a function of the user's raises what it likes
        _closed(models)
        raise
    return models


def _closed(models: list[Model]) -> None:
    for model in models:
        model.close()
