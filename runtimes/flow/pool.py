"""Several sessions of one model behind one bounded queue.

    with edgekit.Pool("model.tflite", sessions=2, queue=8, policy="drop-oldest", deadline=0.2) as pool:
        future = pool.submit(frame)
        answer = future.result()

An engine that locks itself (LiteRT) answers one call at a time; a pool opens it several times. What cannot be answered
in time is told at once, so that the app can go on with what is fresh.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

from edgekit.artifact import Artifact
from edgekit.errors import EdgeKitError, EngineError, LimitError, UsageError
from edgekit.runtimes.flow.queue import Aging, Policy

if TYPE_CHECKING:
    from edgekit.runtimes.flow.metrics import Metrics
    from edgekit.runtimes.model import Model


class _Request(NamedTuple):
    thing: Any
    future: Future[Any]
    deadline: float | None


class Pool:
    """Worker threads, each with a session of its own.

    Args:
        source: Path or artifact; or a function without arguments that opens a `Model`.
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

    Raises:
        UsageError: `option-value`; and what `edgekit.load` raises.
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
    ) -> None:
        if min(sessions, queue, batch) < 1 or policy not in get_args(Policy):
            known = ", ".join(get_args(Policy))
            raise UsageError(
                "option-value",
                f"sessions {sessions}, queue {queue}, batch {batch} are at least 1; policy {policy!r} of {known}",
            )
        self._deadline, self._batch, self._wait, self._metrics = deadline, batch, wait, metrics
        self._how: dict[str, Any] = {} if colors is None else {"colors": colors}
        self._queue: Aging[_Request] = Aging(queue, policy)
        self._models = _opened(source, sessions, threads)
        self._threads = [
            threading.Thread(target=self._work, args=(model,), name=f"edgekit-pool-{number}", daemon=True)
            for number, model in enumerate(self._models)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, thing: Any, *, deadline: float | None = None) -> Future[Any]:
        """Ask for what `Model.predict` answers.

        Args:
            thing: See `Model.predict`.
            deadline: Of this request, in seconds from now; None for the pool's.

        Returns:
            A future with the answer, or an error of `Model.predict`, or LimitError: `request-dropped`, `request-late`.

        Raises:
            EngineError: `model-closed`.
        """
        if self._queue.over or not self._threads:
            raise EngineError("model-closed", "the pool was closed")
        seconds = self._deadline if deadline is None else deadline
        request = _Request(thing, Future(), None if seconds is None else time.monotonic() + seconds)
        dropped = self._queue.put(request, seconds)
        if dropped is not None:
            self._count("dropped")
            _fail(dropped.future, LimitError("request-dropped", "the queue is full, and others are fresher"))
        return request.future

    def predict(self, thing: Any, *, deadline: float | None = None) -> Any:
        """`submit`, and wait for the answer."""
        return self.submit(thing, deadline=deadline).result()

    def close(self) -> None:
        """Answer what waits, then give the memory back. May be called twice."""
        self._queue.close()
        for thread in self._threads:
            thread.join()
        self._threads = []
        for request in self._queue.clear():
            _fail(request.future, EngineError("model-closed", "the pool was closed"))
        for model in self._models:
            model.close()

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
    except Exception as error:  # noqa: BLE001 - whatever a thing does when it is prepared belongs to who asked
        if len(requests) == 1:
            requests[0].future.set_exception(error)
            return
        for request in requests:
            _answer(model, [request], how)
        return
    for request, answer in zip(requests, answers, strict=True):
        request.future.set_result(answer)


def _fail(future: Future[Any], error: EdgeKitError) -> None:
    if future.running() or future.set_running_or_notify_cancel():
        future.set_exception(error)


def _opened(source: Any, sessions: int, threads: int | None) -> list[Model]:
    """All or none."""
    from edgekit import artifact as artifacts
    from edgekit.runtimes.model import load

    if not callable(source):
        read = source if isinstance(source, Artifact) else artifacts.read(source)

        def source() -> Model:
            return load(read, threads=threads)

    models: list[Model] = []
    try:
        for _ in range(sessions):
            models.append(source())
    except EdgeKitError:
        for model in models:
            model.close()
        raise
    return models
