"""A served model: its queue, what becomes of each request, and how its work is counted.

Requests are handed to whichever version is active at that moment (see `versions`).
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import deque
from collections.abc import Callable

from edgekit.errors import EdgeKitError, EngineError, LimitError, MissingFileError
from edgekit.runtimes.flow.metrics import Metrics
from edgekit.serve.asking import Asking
from edgekit.serve.crew import Crew, Took, Worker
from edgekit.serve.jobs import Job, Queue
from edgekit.serve.messages import Reply, Request, refusal
from edgekit.serve.settings import Bounds, Serving
from edgekit.serve.sources import Source
from edgekit.serve.versions import Versions
from edgekit.serve.wire import Told

_FAST = 0.002
"""Seconds: shorter work is handed over several requests at a time, and ahead, so that workers do not wait."""
_FAR = 0.01
"""So many of them at most: what was handed over can be passed by nothing more urgent."""
_WORTH, _ONE_MORE = 0.05, 0.05
"""But one request is always handed over ahead where a worker would wait for longer than this part of its work, as it
does for large bodies; unless that work takes so many seconds.
"""
_FADES = 0.1
"""Seconds after which half of a lag is forgotten."""
_BINARY = b"application/octet-stream"
_ERRORS = 20
_STANDS = 0.1
"""Seconds for which all who come to a full queue are told the same."""


class Lane:
    """One model.

    Args:
        source: Where its versions come from.
        serving: How it is served.
        threads: Of each engine.
        bounds: See there.
        pump: Called when there may be something to hand over.
        soon: Called where that may wait until all that came together was looked at.

    Attributes:
        name: Of its own; of the newest version of a model, the model's.
        model: As clients call it.
        versions: Who answers.
        virtual: Seconds of cores it had, by its weight: the scheduler serves the least first.
        mean: Seconds a request takes a worker, of late; 0 before the first.
        lag: Seconds from when a worker answers to when the server sees it, and that the next request takes to reach it,
            at most of late: long when many are refused, or bodies are large.
        errors: The last ones: when (Unix time), code and what was said.
    """

    def __init__(
        self, source: Source, serving: Serving, *, threads: int, bounds: Bounds, pump: Callable[[], None],
        soon: Callable[[], None],
    ) -> None:  # fmt: skip
        self.serving, self.threads = serving, threads
        self.name, self.model = source.label, source.name
        self.queue = Queue(serving.queue)
        self.versions = Versions(source, serving, threads=threads, bounds=bounds, tell=self._told, lose=self._lost,
                                 note=self._note, pump=pump)  # fmt: skip
        self.metrics = Metrics(self.name)
        self.virtual = 0.0
        self.mean = 0.0
        self.lag = self._lagged = 0.0
        self.errors: deque[tuple[float, str, str]] = deque(maxlen=_ERRORS)
        self._pump, self._soon = pump, soon
        self._number = 0
        self._turned_away: tuple[float, Reply] = (0.0, Reply(429))
        self._loop = asyncio.get_running_loop()

    # -- Its state ---------------------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """Something waits or runs."""
        return len(self.queue) > 0 or any(crew.busy for crew in self.versions.crews)

    @property
    def running(self) -> int:
        """Requests that workers have."""
        return sum(worker.jobs for crew in self.versions.crews for worker in crew.workers)

    @property
    def restarts(self) -> int:
        return sum(crew.restarts for crew in self.versions.crews)

    @property
    def _bridge(self) -> float:
        """Seconds of work that a worker should have, so that it does not wait for the server."""
        return min(max(_FAST, 2 * self.lag), _FAR)

    def expected(self) -> float:
        """Seconds until a request that comes now is answered, if this model had the cores alone."""
        active = self.versions.active
        workers = max(sum(worker.ready for worker in active.workers), 1) if active else 1
        before = len(self.queue) + self.queue.promised(self._loop.time())
        return (before + self.running / 2 + 1) * self.mean / workers

    # -- Requests ----------------------------------------------------------------------------------------------

    def admit(self, asking: Asking) -> Reply | None:
        """Before a body is taken: None where the request may come."""
        active = self.versions.active
        if active is None or not (active.ready or active.about):
            if self.versions.broken is not None:
                return refusal(EngineError("model-broken", f"{self.name} cannot be opened here"), retry=60.0)
            return refusal(LimitError("model-starting", f"{self.name} is not ready yet"), retry=1.0)
        if asking.version is not None and asking.version != active.version:
            return refusal(unknown_version(self, asking.version))
        if not self.queue.room(asking.priority, self._loop.time()):
            return self._full()
        return None

    def hopeless(self, request: Request, asking: Asking, share: float) -> Reply | None:
        """Why it need not wait: its deadline passed, or will have before it is answered. See `submit`."""
        now, deadline = self._loop.time(), request.arrived + asking.seconds
        if now >= deadline:
            self.metrics.count("requests", "deadline-passed")
            return refusal(LimitError("deadline-passed", "its deadline passed before it was queued"))
        expected = self.expected() / share
        if len(self.queue) and now + expected > deadline:
            self.metrics.count("requests", "deadline-hopeless")
            error = LimitError("deadline-hopeless", "the queue is longer than its deadline allows")
            return refusal(error, retry=expected)
        return None

    def submit(self, request: Request, asking: Asking, share: float) -> Reply | None:
        """Queue it; why not, where it is refused at once.

        Args:
            request: Whole.
            asking: What it asks.
            share: Of the cores, that this model has while others work.
        """
        refused = self.hopeless(request, asking, share)
        if refused is not None:
            return refused
        now, deadline = self._loop.time(), request.arrived + asking.seconds
        self._number = (self._number + 1) & 0xFFFFFFFF
        job = Job(self._number, request, asking, deadline=deadline, arrived=now)
        dropped = self.queue.put(job)
        if dropped is job:
            return self._full()
        if dropped is not None:
            self._settle(dropped, self._full())
        job.timer = self._loop.call_at(deadline, self._late, job)
        request.gone = lambda: self._gone(job)
        if self.idle_worker(ahead=False):
            self._pump()
        else:
            self._soon()
        return None

    def hand(self, worker: Worker, now: float) -> None:
        """Give a worker what is next."""
        jobs = self._next(worker, now)
        if jobs:
            worker.hand(jobs)

    def _next(self, worker: Worker, now: float) -> list[Job]:
        crew = self.versions.active
        most = self.serving.batch
        if crew is not None and not crew.batches:
            # One after the other in any case: several at once only where the way costs more than the work.
            most = 1
        if self.mean:
            most = max(most, int(self._bridge / self.mean) - worker.jobs)
        found = []
        for job in self.queue.take(most, now):
            wanted = job.asking.version
            if wanted is not None and crew is not None and wanted != crew.version:
                self._refuse_job(job, unknown_version(self, wanted))
            elif now >= job.deadline:
                self._late(job)
            else:
                found.append(job)
        return found

    def waits(self, now: float) -> float:
        """Seconds that what waits may still wait for company; 0 when it should go."""
        first = self.queue.first()
        active = self.versions.active
        if first is None or not self.serving.wait_ms or active is None or not active.batches:
            return 0.0
        if len(self.queue) >= self.serving.batch:
            return 0.0
        return max(first.arrived + self.serving.wait_ms / 1000 - now, 0.0)

    def idle_worker(self, *, ahead: bool) -> Worker | None:
        """Who can be handed work: somebody free, or with `ahead` somebody fast who would be done too soon."""
        crew = self.versions.active
        if crew is None:
            return None
        best: Worker | None = None
        for worker in crew.workers:
            if worker.ready and not worker.batches:
                return worker
            if ahead and worker.ready and self._ahead(worker.jobs):
                best = worker
        return best

    def _ahead(self, jobs: int) -> bool:
        """Whether a worker that has so many should have one more."""
        if 0 < self.mean * (jobs + 1) < self._bridge:
            return True
        return jobs == 1 and self.mean * _WORTH < self.lag and self.mean < _ONE_MORE

    # -- What workers say --------------------------------------------------------------------------------------

    def _told(self, crew: Crew, job: Job, told: Told, took: Took | None) -> None:
        """An answer."""
        now = self._loop.time()
        lag = now - told.at
        if took is not None and took.size == 1:
            lag += max(took.seconds - told.parse - told.run - told.write, 0.0)
        self.lag = max(lag, self.lag * 0.5 ** ((now - self._lagged) / _FADES))
        self._lagged = now
        if took is not None:
            each = took.seconds / took.size
            self.mean = each if not self.mean else 0.9 * self.mean + 0.1 * each
            self.virtual += took.seconds * self.threads / self.serving.weight
        if told.status >= 500 and self.versions.on_trial(crew) and not job.done:
            self.versions.fault(crew, f"it answered with status {told.status}")
            self._answer_by_back(job)
        elif not job.done:
            headers = b"inference-header-content-length: %d\r\n" % told.json if told.json else b""
            kind = _BINARY if told.json else b"application/json"
            self._settle(job, Reply(told.status, told.body, kind, headers))
            self._observe(job, told, now)  # behind the answer: nobody waits for it
        if took is not None:
            self._pump()

    def _lost(self, crew: Crew, left: list[list[Job]], error: EngineError) -> None:
        """A worker died: those it was at work on are tried once more alone, or answered by the version before."""
        if left:
            self._note(error.code, error.message)
        on_trial = self.versions.on_trial(crew)
        if left and on_trial:
            self.versions.fault(crew, error.message)
        for place, batch in enumerate(left):
            open_jobs = [job for job in batch if not job.done]
            if on_trial:
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
        for crew in self.versions.crews:
            for worker in crew.workers:
                for job in [job for batch in worker.batches for job in batch.jobs.values() if not job.done]:
                    self._refuse_job(job, error)

    # -- Ends of requests --------------------------------------------------------------------------------------

    def _answer_by_back(self, job: Job) -> None:
        back = self.versions.back
        worker = next((w for w in back.workers if w.ready), None) if back else None
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
        now = self._loop.time()
        until, reply = self._turned_away
        if now >= until:
            error = LimitError("queue-full", f"{self.name} has all the work it can queue")
            reply = refusal(error, retry=self.expected())
            self._turned_away = now + _STANDS, reply
        return reply

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


def unknown_version(lane: Lane, wanted: str) -> MissingFileError:
    """It is not served."""
    return MissingFileError("version-unknown", f"{lane.model} is not served in version {wanted}")
