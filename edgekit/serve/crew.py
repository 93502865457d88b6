"""The workers of one version of a model, from the server's side: started, watched, and started again when they die."""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from typing import Any, NamedTuple, TypeAlias

from edgekit import errors
from edgekit.codec import encode
from edgekit.errors import EdgeKitError, EngineError
from edgekit.serve.jobs import Job
from edgekit.serve.wire import ANSWER, DRIFT, FRAME, TELL, Opening, Told

_PARTS = 256
"""Pieces that one call of the system is given; it takes 1024."""
_PIPE = 1 << 22
"""Bytes that should lie between the server and a worker, so that it has the next ones; the system allows less."""
_READ = 1 << 16
"""Bytes that are read from one at once."""
_GONE_SECONDS = 1.0
"""A process whose socket closed has ended by then, or is ended."""
_BACKOFF = (0.0, 0.2, 1.0, 5.0)
"""Seconds before a worker that died without an answer since it started is started again."""


class Batch(NamedTuple):
    """What a worker was handed at once: those it has not answered, and how many there were."""

    jobs: dict[int, Job]
    size: int


class Took(NamedTuple):
    """How long a worker was at a batch, and of how many requests."""

    seconds: float
    size: int


Tell: TypeAlias = "Callable[[Crew, Job, Told, Took | None], None]"
Lose: TypeAlias = "Callable[[Crew, list[list[Job]], EngineError], None]"


class Worker:
    """One process.

    Attributes:
        batches: What it was handed and has not answered in full, in order; it works at the first.
        jobs: How many requests that are.
        until: When the first is overdue, by the loop's clock.
        ready: It said hello, and was not asked to leave.
        drift: What its monitor noticed last; empty without one.
        seat: Its number among the crew's workers; whoever is started in its place has it again.
    """

    def __init__(self, crew: Crew, seat: int) -> None:
        self._crew = crew
        self.seat = seat
        self._data = bytearray()
        self._buffer = bytearray(_READ)
        self._link: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._hung = False
        self._blocked = False
        self._burial: asyncio.Task[None] | None = None
        self._out: deque[memoryview] = deque()
        self.batches: list[Batch] = []
        self.jobs = 0
        self._begun = 0.0
        self.until = math.inf
        self.ready = False
        self.answered = 0
        self.drift: dict[str, Any] = {}

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def start(self, opening: Opening) -> None:
        """Spawn it; it says hello when it is ready."""
        mine, its = socket.socketpair()
        with its:
            self._process = subprocess.Popen(  # a fork of some milliseconds, at starts alone
                [sys.executable, "-P", "-m", "edgekit.serve.worker", str(its.fileno())],
                stdin=subprocess.DEVNULL, pass_fds=(its.fileno(),), start_new_session=True,
                env={**os.environ, "ORT_DISABLE_TELEMETRY": "1"},
            )  # fmt: skip
        mine.setblocking(False)
        mine.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _PIPE)
        self._link = mine
        loop = asyncio.get_running_loop()
        self.until = loop.time() + self._crew.start_seconds
        loop.add_reader(mine, self._read)
        if opening.kept is not None:
            opening = replace(opening, kept=f"{opening.kept}/{self.seat}")
        if self.seat:
            opening = replace(opening, captures=None)  # a folder of captures is one process's
        about = json.dumps(encode(opening)).encode()
        self._send(FRAME.pack(0, len(about)) + about)

    def hand(self, jobs: list[Job]) -> None:
        """Give it work."""
        if not self.batches:
            self._begun = asyncio.get_running_loop().time()
            self.until = self._begun + self._crew.watchdog
        self.jobs += len(jobs)
        self.batches.append(Batch({job.number: job for job in jobs}, len(jobs)))
        parts: list[bytes | bytearray] = [part for job in jobs for part in (job.head(), job.request.body)]
        self._out.append(memoryview(FRAME.pack(len(jobs), sum(map(len, parts)))))
        self._out += map(memoryview, parts)
        self._flush()

    def leave(self) -> None:
        """Hang up: it ends after what it was handed."""
        self.ready = False
        if not self.batches:
            self.close()

    def close(self) -> None:
        if self._link is not None:
            asyncio.get_running_loop().call_soon(self._hang_up)

    def serve(self) -> None:
        """Take what it says and give it what waits for it, also where the loop has not come to that yet."""
        self._flush()
        if self.batches:
            self._read()

    def overdue(self) -> None:
        """It hangs: end it; what follows is as if it had died."""
        self._hung = True
        self.until = math.inf
        if self._process is not None:
            self._process.kill()

    # -- The link ----------------------------------------------------------------------------------------------

    def _read(self) -> None:
        if self._link is None:
            return
        try:
            got = self._link.recv_into(self._buffer)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            got = 0
        if not got:
            self._hang_up()
            return
        self._data += memoryview(self._buffer)[:got]
        start = 0
        while len(self._data) - start >= TELL.size:
            kind, status, number, length, size, together, *times = TELL.unpack_from(self._data, start)
            end = start + TELL.size + size
            if len(self._data) < end:
                break
            body = bytes(memoryview(self._data)[start + TELL.size : end])
            start = end
            if kind == ANSWER:
                self._tell(Told(number, status, length, body, together, *times))
            elif kind == DRIFT:
                self.drift = json.loads(body)
            else:
                self._hello(json.loads(body))
        del self._data[:start]

    def _hang_up(self) -> None:
        """It ended, or shall."""
        link = self._link
        if link is None:
            return
        loop = asyncio.get_running_loop()
        loop.remove_reader(link)
        loop.remove_writer(link)
        link.close()
        self._link = None
        self._out.clear()
        self.until = math.inf
        self._burial = loop.create_task(self._bury())

    def _tell(self, told: Told) -> None:
        if not self.batches:
            return
        batch = self.batches[0]
        job = batch.jobs.pop(told.number, None)
        self.jobs -= job is not None
        self.answered += 1
        took = None
        now = asyncio.get_running_loop().time()
        self.until = now + self._crew.watchdog if batch.jobs or len(self.batches) > 1 else math.inf
        if not batch.jobs:
            took = Took(told.at - self._begun, batch.size)  # not when that is seen, which may be a while later
            del self.batches[0]
            self._begun = told.at
        if job is not None:
            self._crew.told(job, told, took)
        if not self.batches and not self.ready:
            self.close()

    def _hello(self, about: dict[str, Any]) -> None:
        self.until = math.inf
        if "error" in about:
            self._crew.refused(self, errors.from_dict(about["error"]))
            return
        self.ready = True
        self._crew.began(self, about)

    async def _bury(self) -> None:
        """Wait for the process, and tell how it ended."""
        process = self._process
        if process is None:
            return
        loop = asyncio.get_running_loop()
        until = loop.time() + _GONE_SECONDS
        while (code := process.poll()) is None and loop.time() < until:  # noqa: ASYNC110 - it ends, and nothing tells
            await asyncio.sleep(0.005)
        if code is None:
            process.kill()
            code = process.wait()
        how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        self._crew.lost(self, how, hung=self._hung)

    def _send(self, data: bytes | bytearray) -> None:
        self._out.append(memoryview(data))
        self._flush()

    def _flush(self) -> None:
        """As much as its socket takes; the rest when it takes more."""
        link, out = self._link, self._out
        if link is None:
            return
        try:
            while out:
                sent = link.sendmsg(list(islice(out, _PARTS)))
                while out and sent >= len(out[0]):
                    sent -= len(out.popleft())
                if sent:
                    out[0] = out[0][sent:]
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            out.clear()  # it died: what it leaves is told when its end is read
        if bool(out) != self._blocked:
            self._blocked = bool(out)
            loop = asyncio.get_running_loop()
            if self._blocked:
                loop.add_writer(link, self._flush)
            else:
                loop.remove_writer(link)


class Crew:
    """All workers of one version.

    Args:
        opening: What each opens.
        size: How many.
        start_seconds, watchdog: See `Serving`.
        tell: Called with each answer: job, what was told, and with the last of a batch how long it took.
        lose: Called with what a dead worker leaves: batches in order, and the error for those it was at work on.
        change: Called when a worker is ready, or the crew broke.

    Attributes:
        about: What the first worker said of the model; empty before.
        broken: Why none can be started; None where all is well.
    """

    def __init__(
        self,
        opening: Opening,
        *,
        size: int,
        start_seconds: float,
        watchdog: float,
        tell: Tell,
        lose: Lose,
        change: Callable[[Crew], None],
    ) -> None:
        self.opening = opening
        self.start_seconds, self.watchdog = start_seconds, watchdog
        self.workers: list[Worker] = []
        self.about: dict[str, Any] = {}
        self.broken: EdgeKitError | None = None
        self.leaving = False
        self.restarts = 0
        self._size = size
        self._failures = 0
        self._tell, self._lose, self._change = tell, lose, change
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def version(self) -> str:
        return self.opening.version

    @property
    def ready(self) -> bool:
        """Somebody is there to answer."""
        return any(worker.ready for worker in self.workers)

    @property
    def busy(self) -> bool:
        return any(worker.batches for worker in self.workers)

    @property
    def batches(self) -> bool:
        return bool(self.about.get("batches"))

    def start(self) -> None:
        """Begin to start all workers."""
        for _ in range(self._size):
            self._spawn(0.0)

    def leave(self) -> None:
        """Answer what was handed over, then end."""
        self.leaving = True
        for task in self._tasks:
            task.cancel()
        for worker in list(self.workers):
            worker.leave()

    def sweep(self, now: float) -> None:
        """End those that hang."""
        for worker in self.workers:
            if now > worker.until:
                worker.overdue()

    def told(self, job: Job, told: Told, took: Took | None) -> None:
        self._failures = 0
        self._tell(self, job, told, took)

    def began(self, worker: Worker, about: dict[str, Any]) -> None:
        del worker
        self.about = self.about or about
        self.broken = None
        self._change(self)

    def refused(self, worker: Worker, error: EdgeKitError) -> None:
        """It cannot open its model: no other try would."""
        self.broken = error
        worker.close()

    def lost(self, worker: Worker, how: str, *, hung: bool) -> None:
        """It ended; what it leaves is told, and another is started."""
        self.workers.remove(worker)
        name = self.opening.name
        if hung:
            error = EngineError("engine-hung", f"{name} gave no answer in time; its worker was ended")
        else:
            error = EngineError("engine-died", f"the worker of {name} died: {how}", cause=f"it ended by {how}")
        left = [list(batch.jobs.values()) for batch in worker.batches]
        worker.batches, worker.jobs = [], 0
        if not self.leaving and self.broken is None:
            self.restarts += 1
            if worker.answered:
                self._failures = 0
            if not self.about and self._failures >= len(_BACKOFF) - 1:
                self.broken = error  # it never once came up
            else:
                self._spawn(_BACKOFF[min(self._failures, len(_BACKOFF) - 1)])
                self._failures += 1
        self._lose(self, left, error)
        self._change(self)

    def _spawn(self, seconds: float) -> None:
        worker = Worker(self, min(set(range(self._size)) - {other.seat for other in self.workers}))
        self.workers.append(worker)
        task = asyncio.get_running_loop().create_task(self._started(worker, seconds))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _started(self, worker: Worker, seconds: float) -> None:
        try:
            if seconds:
                await asyncio.sleep(seconds)
            worker.start(self.opening)
        except asyncio.CancelledError:
            self.workers.remove(worker)
