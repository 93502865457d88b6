"""A served model: its queue, the crew that answers, and the exchange of one version for another.

Requests are handed to whichever version is active at that moment; a version that is left answers what it was handed
and then ends, so no request fails over an exchange, and the version that an answer names is the one that computed it.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from edgekit.errors import EdgeKitError, EngineError, LimitError, MissingFileError
from edgekit.runtimes.flow.metrics import Metrics
from edgekit.serve.crew import Crew, Took, Worker
from edgekit.serve.jobs import Job, Queue
from edgekit.serve.messages import Reply, Request, refusal
from edgekit.serve.settings import Bounds, Serving
from edgekit.serve.wire import Kind, Opening, Told

if TYPE_CHECKING:
    from edgekit.serve.sources import Seen, Source

_FAST = 0.002
"""Seconds: shorter work is handed over several requests at a time, and ahead, so that workers do not wait."""
_BINARY = b"application/octet-stream"
_ERRORS = 20


class Asking(NamedTuple):
    """What a request's line and headers ask of a model."""

    lane: Lane
    kind: Kind
    coding: int
    json: int
    deadline: float
    priority: int
    version: str | None


class Lane:
    """One model.

    Args:
        source: Where its versions come from.
        serving: How it is served.
        threads: Of each engine.
        bounds: See there.
        pump: Called when there may be something to hand over.

    Attributes:
        active: Who answers; None before the first version was looked at.
        back: The version before, while the active one is on trial.
        virtual: Seconds of cores it had, by its weight: the scheduler serves the least first.
        mean: Seconds a request takes a worker, of late; 0 before the first.
        lag: Seconds from when a worker answers to when the server sees it, of late: long when many are refused.
        errors: The last ones: when (Unix time), code and what was said.
    """

    def __init__(
        self, source: Source, serving: Serving, *, threads: int, bounds: Bounds, pump: Callable[[], None]
    ) -> None:
        self.source, self.serving, self.threads = source, serving, threads
        self.name = source.name
        self.queue = Queue(serving.queue)
        self.active: Crew | None = None
        self.back: Crew | None = None
        self.metrics = Metrics(self.name)
        self.virtual = 0.0
        self.mean = 0.0
        self.lag = 0.0
        self.errors: deque[tuple[float, str, str]] = deque(maxlen=_ERRORS)
        self._coming: Crew | None = None
        self._trial = False
        self._leaving: list[Crew] = []
        self._bad = ""
        self._bounds = bounds
        self._pump = pump
        self._number = 0
        self._looking = False
        self._loop = asyncio.get_running_loop()

    # -- Its state ---------------------------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        return self.active is not None and self.active.ready

    @property
    def broken(self) -> EdgeKitError | None:
        """Why it cannot be served; None where it is, or may still be."""
        return self.active.broken if self.active is not None else None

    @property
    def busy(self) -> bool:
        """Something waits or runs."""
        return len(self.queue) > 0 or any(crew.busy for crew in self.crews)

    @property
    def crews(self) -> list[Crew]:
        return [crew for crew in (self.active, self.back, self._coming, *self._leaving) if crew is not None]

    @property
    def _bridge(self) -> float:
        """Seconds of work that a worker should have, so that it does not wait for the server."""
        return max(_FAST, 2 * self.lag)

    @property
    def running(self) -> int:
        """Requests that workers have."""
        return sum(len(batch.jobs) for crew in self.crews for worker in crew.workers for batch in worker.batches)

    @property
    def drift(self) -> dict[str, Any]:
        """What the monitors of the active version noticed: `samples`, `passed_over`, `alarms`, `ended`; or nothing."""
        told = [worker.drift for worker in self.active.workers if worker.drift] if self.active is not None else []
        if not told:
            return {}
        counts = {name: sum(one[name] for one in told) for name in ("samples", "passed_over")}
        return counts | {name: [item for one in told for item in one[name]] for name in ("alarms", "ended")}

    @property
    def restarts(self) -> int:
        return sum(crew.restarts for crew in self.crews)

    def expected(self) -> float:
        """Seconds until a request that comes now is answered, if this model had the cores alone."""
        workers = max(sum(worker.ready for worker in self.active.workers), 1) if self.active else 1
        return (len(self.queue) + self.running / 2 + 1) * self.mean / workers

    # -- Requests ----------------------------------------------------------------------------------------------

    def admit(self, priority: int) -> Reply | None:
        """Before a body is taken: None where the request may come."""
        if self.active is None or not (self.active.ready or self.active.about):
            broken = self.broken
            if broken is not None:
                return refusal(EngineError("model-broken", f"{self.name} cannot be opened here"), retry=60.0)
            return refusal(LimitError("model-starting", f"{self.name} is not ready yet"), retry=1.0)
        if not self.queue.room(priority):
            return self._full()
        return None

    def submit(self, request: Request, asking: Asking, share: float) -> Reply | None:
        """Queue it; why not, where it is refused at once.

        Args:
            request: Whole.
            asking: What it asks.
            share: Of the cores, that this model has while others work.
        """
        now = self._loop.time()
        if now >= asking.deadline:
            self.metrics.count("requests", "deadline-passed")
            return refusal(LimitError("deadline-passed", "its deadline passed before it was queued"))
        if now + self.expected() / share > asking.deadline and len(self.queue):
            self.metrics.count("requests", "deadline-hopeless")
            error = LimitError("deadline-hopeless", "the queue is longer than its deadline allows")
            return refusal(error, retry=self.expected() / share)
        self._number = (self._number + 1) & 0xFFFFFFFF
        job = Job(
            self._number, request, kind=asking.kind, coding=asking.coding, json=asking.json, deadline=asking.deadline,
            priority=asking.priority, version=asking.version, arrived=now,
        )  # fmt: skip
        dropped = self.queue.put(job)
        if dropped is job:
            return self._full()
        if dropped is not None:
            self._settle(dropped, self._full())
        job.timer = self._loop.call_at(asking.deadline, self._late, job)
        request.gone = lambda: self._gone(job)
        self._pump()
        return None

    def hand(self, worker: Worker, now: float) -> None:
        """Give a worker what is next."""
        jobs = self._next(now)
        if jobs:
            worker.hand(jobs)

    def _next(self, now: float) -> list[Job]:
        crew = self.active
        most = self.serving.batch
        if crew is not None and not crew.batches:
            # One after the other in any case: several at once only where the way costs more than the work.
            most = 1
        if self.mean:
            most = max(most, int(self._bridge / self.mean))
        found = []
        for job in self.queue.take(most, now):
            if job.version is not None and crew is not None and job.version != crew.version:
                self._refuse_job(job, MissingFileError("version-unknown", f"{self.name} has no version {job.version}"))
            elif now >= job.deadline:
                self._late(job)
            else:
                found.append(job)
        return found

    def waits(self, now: float) -> float:
        """Seconds that what waits may still wait for company; 0 when it should go."""
        first = self.queue.first()
        if first is None or not self.serving.wait_ms or self.active is None or not self.active.batches:
            return 0.0
        if len(self.queue) >= self.serving.batch:
            return 0.0
        return max(first.arrived + self.serving.wait_ms / 1000 - now, 0.0)

    def idle_worker(self, *, ahead: bool) -> Worker | None:
        """Who can be handed work: somebody free, or with `ahead` somebody fast who has a batch already."""
        crew = self.active
        if crew is None:
            return None
        best: Worker | None = None
        for worker in crew.workers:
            if worker.ready and not worker.batches:
                return worker
            if ahead and worker.ready and len(worker.batches) == 1 and 0 < self.mean < self._bridge:
                best = worker
        return best

    # -- What workers say --------------------------------------------------------------------------------------

    def told(self, crew: Crew, job: Job, told: Told, took: Took | None) -> None:
        """An answer."""
        now = self._loop.time()
        self.lag += 0.05 * (now - told.at - self.lag)
        if took is not None:
            each = took.seconds / took.size
            self.mean = each if not self.mean else 0.9 * self.mean + 0.1 * each
            self.virtual += took.seconds * self.threads / self.serving.weight
        if crew is self.active and self.back is not None and told.status >= 500 and not job.done:
            self.source.tell(crew.opening.sha256 or "", f"it answered with status {told.status}")
            self._answer_by_back(job)
        elif not job.done:
            headers = b"inference-header-content-length: %d\r\n" % told.json if told.json else b""
            kind = _BINARY if told.json else b"application/json"
            self._observe(job, told, now)
            self._settle(job, Reply(told.status, told.body, kind, headers))
        if took is not None:
            self._pump()

    def lost(self, crew: Crew, left: list[list[Job]], error: EngineError) -> None:
        """A worker died: those it was at work on are tried once more alone, or answered by the version before."""
        if left:
            self._note(error.code, error.message)
        if left and crew is self.active and self.back is not None:
            self.source.tell(crew.opening.sha256 or "", error.message)
        for place, batch in enumerate(left):
            open_jobs = [job for job in batch if not job.done]
            if crew is self.active and self.back is not None:
                for job in open_jobs:
                    self._answer_by_back(job)
            elif place == 0 and len(batch) == 1:
                for job in open_jobs:
                    self._refuse_job(job, error)
            else:
                for job in open_jobs:
                    job.alone = job.alone or place == 0  # its first batch
                self.queue.back(open_jobs)
        self._pump()

    def refuse_all(self, error: EdgeKitError) -> None:
        """What still waits or runs when the server ends."""
        for job in self.queue.clear(self._loop.time()):
            self._refuse_job(job, error)
        for crew in self.crews:
            for worker in crew.workers:
                for job in [job for batch in worker.batches for job in batch.jobs.values() if not job.done]:
                    self._refuse_job(job, error)

    # -- Versions ----------------------------------------------------------------------------------------------

    async def begin(self) -> None:
        """Look at the source for the first time.

        Raises:
            EdgeKitError: What the source says.
        """
        seen = await asyncio.to_thread(self.source.look)
        self._trial = seen.trial
        self.active = self._crew(seen)
        self.active.start()

    def sweep(self, now: float) -> None:
        """Four times a second: end what hangs, let go of what is left, and follow the source."""
        for crew in self.crews:
            crew.sweep(now)
        self._leaving = [crew for crew in self._leaving if crew.workers]
        if not self._looking and self.active is not None and (self._trial or self.source.changed()):
            self._looking = True
            task = self._loop.create_task(self._follow())
            task.add_done_callback(self._followed)

    async def close(self) -> None:
        """End all workers."""
        for crew in self.crews:
            crew.leave()
            for worker in crew.workers:
                worker.close()
        while any(crew.workers for crew in self.crews):  # noqa: ASYNC110 - processes end, and nothing tells of it
            await asyncio.sleep(0.005)

    async def _follow(self) -> None:
        try:
            seen = await asyncio.to_thread(self.source.look)
        except EdgeKitError as error:
            self._note(error.code, error.message)
            return
        active = self.active
        if active is None:
            return
        if seen.sha256 == active.opening.sha256:
            self._drop_coming()
            self._trial = seen.trial
            if not seen.trial and self.back is not None:
                self._let_go(self.back)
                self.back = None
        elif self.back is not None and seen.sha256 == self.back.opening.sha256:
            self._drop_coming()
            self.active, self.back, self._trial = self.back, None, False
            self._let_go(active)
        elif seen.sha256 == self._bad or (self._coming and self._coming.opening.sha256 == seen.sha256):
            self._trial = seen.trial
        else:
            self._drop_coming()
            self._trial = seen.trial
            self._coming = self._crew(seen)
            self._coming.start()

    def _followed(self, task: asyncio.Task[None]) -> None:
        self._looking = False
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error

    def _changed(self, crew: Crew) -> None:
        """A crew became ready, or broke."""
        if crew is self._coming:
            if crew.broken is not None:
                self._coming = None
                self._bad = crew.opening.sha256 or ""
                self._note(crew.broken.code, crew.broken.message)
                self.source.tell(self._bad, crew.broken.message)
                self._let_go(crew)
            elif crew.ready:
                self._coming = None
                gone, self.active = self.active, crew
                if self.back is not None:
                    self._let_go(self.back)
                    self.back = None
                if gone is not None and self._trial:
                    self.back = gone
                elif gone is not None:
                    self._let_go(gone)
        self._pump()

    def _drop_coming(self) -> None:
        if self._coming is not None:
            self._let_go(self._coming)
            self._coming = None

    def _let_go(self, crew: Crew) -> None:
        self._leaving.append(crew)
        crew.leave()

    def _crew(self, seen: Seen) -> Crew:
        opening = Opening(seen.path, self.name, seen.version, self.threads, self.serving.engine, self.serving.watchdog,
                          self._bounds, seen.sha256, self.serving.batch, self.serving.monitor)  # fmt: skip
        return Crew(opening, size=self.serving.workers, start_seconds=self.serving.start_seconds,
                    watchdog=self.serving.watchdog, tell=self.told, lose=self.lost, change=self._changed)  # fmt: skip

    # -- Ends of requests --------------------------------------------------------------------------------------

    def _answer_by_back(self, job: Job) -> None:
        worker = next((w for w in self.back.workers if w.ready), None) if self.back else None
        if worker is None:
            self._refuse_job(job, EngineError("engine-died", f"{self.name} failed, and no version before it is ready"))
        else:
            worker.hand([job])

    def _settle(self, job: Job, reply: Reply) -> None:
        """Answer; its timer and its place go."""
        if job.timer is not None:
            job.timer.cancel()
            job.timer = None
        self.queue.give_up(job)
        job.request.gone = None
        job.request.answer(reply)

    def _gone(self, job: Job) -> None:
        """Its client went away."""
        if job.timer is not None:
            job.timer.cancel()
            job.timer = None
        self.metrics.count("requests", "abandoned")
        self.queue.give_up(job)

    def _late(self, job: Job) -> None:
        if not job.done:
            self._refuse_job(job, LimitError("deadline-passed", "its deadline passed"))

    def _refuse_job(self, job: Job, error: EdgeKitError) -> None:
        self.metrics.count("requests", error.code)
        self._settle(job, refusal(error))

    def _full(self) -> Reply:
        self.metrics.count("requests", "queue-full")
        return refusal(LimitError("queue-full", f"{self.name} has all the work it can queue"), retry=self.expected())

    def _observe(self, job: Job, told: Told, now: float) -> None:
        metrics = self.metrics
        metrics.count("requests", "answered" if told.status < 400 else f"status-{told.status}")
        metrics.observe("queue_seconds", job.handed - job.arrived)
        metrics.observe("request_seconds", now - job.request.arrived)
        if told.status < 400:
            metrics.observe("parse_seconds", told.parse)
            metrics.observe("run_seconds", told.run)
            metrics.observe("write_seconds", told.write)
            metrics.count("batched", str(told.together))
        elif told.status >= 500:
            self._note(f"status-{told.status}", told.body.decode("utf-8", "replace"))

    def _note(self, code: str, said: str) -> None:
        self.errors.append((time.time(), code, said[:300]))
        sys.stderr.write(f"{self.name}: {said[:300]}\n")
