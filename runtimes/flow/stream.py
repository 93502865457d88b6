"""Answers to a stream of frames, as fresh as the machine allows.

    for seen in edgekit.Stream(model, camera, deadline=0.2):
        print(seen.answer, seen.age)

A thread takes frames from the source as fast as they come; the loop that asks for answers gets the freshest. A frame
that became too old while it waited is not worth the engine's time, and is skipped.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

from edgekit.errors import UsageError
from edgekit.runtimes import bounds
from edgekit.runtimes.flow.queue import Aging, Policy

if TYPE_CHECKING:
    from edgekit.runtimes.flow.metrics import Metrics


_LAST = 1.0
"""Seconds that an app waits at its end for the frames that its streams wait for."""


@dataclass(frozen=True)
class Seen:
    """A frame and its answer.

    Attributes:
        frame: As the source gave it.
        answer: Of the model.
        number: Of the frame, counted from 0 over all that the source gave.
        waited: Seconds from its coming to the begin of the work on it.
        age: Seconds from its coming to its answer.
    """

    frame: Any
    answer: Any
    number: int
    waited: float
    age: float


@dataclass(frozen=True)
class Tally:
    """What became of the frames so far: answered, too old, dropped from the queue, and alike (left out by `gate`)."""

    answered: int
    stale: int
    dropped: int
    alike: int


class Stream:
    """Iterate over it once; `close` or the end of the loop ends the thread after the frame that it waits for, and a
    generator that gives frames with it: what it does at its `finally` (release the camera) is done then, also where
    the app ends meanwhile, unless the frame takes more than a second to come.

    Args:
        model: Anything with `predict`: a `Model`, a `Cascade`; or a function of a frame.
        frames: The source; what it raises is raised to who asks for answers.
        deadline: Seconds after which a waiting frame is stale; None: never.
        policy: What happens when frames come faster than answers: "drop-oldest", "drop-newest", or "block", which
            makes the source wait (files, not cameras).
        queue: How many frames may wait.
        every: Seconds from one answer to the next at least; between them the processor sleeps.
        gate: Tells of each frame whether it is worth an answer, such as `Motion`.
        colors: Of frames that are arrays, as `Model.predict` has it.
        metrics: Counts frames and measures their age.

    Raises:
        UsageError: `option-value`.
    """

    def __init__(
        self,
        model: Any,
        frames: Iterable[Any],
        *,
        deadline: float | None = None,
        policy: Policy = "drop-oldest",
        queue: int = 1,
        every: float = 0.0,
        gate: Callable[[Any], bool] | None = None,
        colors: str | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        if policy not in get_args(Policy):
            raise UsageError("option-value", f"policy is {policy!r}; known: {', '.join(get_args(Policy))}")
        queue, every = bounds.whole("queue", queue), bounds.seconds("every", every, least=0.0)
        if deadline is not None:
            deadline = bounds.seconds("deadline", deadline)
        self._predict: Callable[[Any], Any] = getattr(model, "predict", model)
        if colors is not None:
            if self._predict is model:
                raise UsageError("option-value", f"colors is {colors!r}; a function gets frames as they are")
            self._predict = functools.partial(self._predict, colors=colors)
        self._frames = frames
        self._deadline, self._every, self._gate, self._metrics = deadline, every, gate, metrics
        self._queue: Aging[tuple[int, Any]] = Aging(queue, policy)
        self._failure: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._answered = self._stale = self._dropped = self._alike = 0

    @property
    def tally(self) -> Tally:
        return Tally(self._answered, self._stale, self._dropped, self._alike)

    def __iter__(self) -> Iterator[Seen]:
        if self._thread is not None:
            raise UsageError("stream-used", "a stream is iterated over once: make another")
        self._thread = threading.Thread(target=self._read, name="edgekit-stream", daemon=True)
        _OPEN[self._thread] = self
        self._thread.start()
        return self._answers()

    def close(self) -> None:
        """Take no more frames. May be called twice, and by another thread."""
        self._queue.clear()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _answers(self) -> Iterator[Seen]:
        due = 0.0
        try:
            while (taken := self._queue.take()) is not None:
                (number, frame), came = taken
                begun = time.monotonic()
                if self._deadline is not None and begun - came > self._deadline:
                    self._stale += 1
                    self._count("stale")
                    continue
                if self._gate is not None and not self._gate(frame):
                    self._alike += 1
                    self._count("alike")
                    continue
                answer = self._predict(frame)
                done = time.monotonic()
                self._answered += 1
                self._count("answered")
                if self._metrics is not None:
                    self._metrics.observe("frame_age_seconds", done - came)
                yield Seen(frame, answer, number, begun - came, done - came)
                due = max(due + self._every, time.monotonic()) if self._every else 0.0
                time.sleep(max(due - time.monotonic(), 0.0))
        finally:
            self.close()
        if self._failure is not None:
            raise self._failure

    def _read(self) -> None:
        """In a thread of its own: the source into the queue."""
        try:
            source = iter(self._frames)
            with contextlib.closing(source) if isinstance(source, Generator) else contextlib.nullcontext():
                self._take(source)
        except BaseException as error:  # noqa: BLE001 - whatever the source raises is raised where answers are asked for
            self._failure = error
        finally:
            self._queue.close()
            _OPEN.pop(threading.current_thread(), None)

    def _take(self, source: Iterator[Any]) -> None:
        for number, frame in enumerate(source):
            dropped = self._queue.put((number, frame))
            if self._queue.over:
                return
            if dropped is not None:
                self._dropped += 1
                self._count("dropped")

    def _count(self, what: str) -> None:
        if self._metrics is not None:
            self._metrics.count("frames", what)


_OPEN: dict[threading.Thread, Stream] = {}
"""By the thread that reads for them, as long as it does."""


def _end() -> None:
    """When the app ends: a thread that is cut off in a source never comes to its `finally`."""
    open_ = tuple(_OPEN.items())
    for _, stream in open_:
        stream.close()
    ends = time.monotonic() + _LAST
    for thread, _ in open_:
        thread.join(max(ends - time.monotonic(), 0.0))


atexit.register(_end)
os.register_at_fork(after_in_child=_OPEN.clear)
