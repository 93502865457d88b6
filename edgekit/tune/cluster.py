"""The evaluations of a search on a Dask cluster: conversions on any worker, measurements where the board is.

    dask scheduler
    dask worker tcp://desk:8786                                       # any machine with the same EdgeKit and files
    dask worker tcp://desk:8786 --resources "edgekit-board=1"         # the one that measures, one at a time
    edgekit tune model.h5 --scheduler tcp://desk:8786 ...

Dask repeats what a lost worker was doing elsewhere; what was finished has come back here and is kept. Source and data
are read by the workers under the paths that they have here; artifacts travel.

A machine gets no more conversions at once than it has cores: each keeps a core busy, and every worker that joins in
starts processes of its own first, which takes as long as two trials of a small network. Further workers of a machine
wait for one that is lost. They are told what those at work found out of the source, and go on with the next trial
without loading it.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit import files
from edgekit.errors import EngineMissingError, TargetError, UsageError
from edgekit.tune import cache as caches
from edgekit.tune import evaluate
from edgekit.tune.cache import Cache
from edgekit.tune.evaluate import Converted, Order, Place
from edgekit.tune.execute import Work, label
from edgekit.tune.search import Convert, Job
from edgekit.tune.trial import Cost, Refused, Setting

BOARD = "edgekit-board"
"""Name of the resource of workers that may measure."""
_CONNECT = "20s"

Progress = Callable[[dict[str, Any]], None]


class Cluster:
    """An executor, see `edgekit.tune.execute`."""

    def __init__(self, address: str, work: Work, cache: Cache, progress: Progress) -> None:
        """Connect.

        Raises:
            EngineMissingError: `dask-missing`.
            TargetError: `cluster-unreachable`; `cluster-no-worker`: nobody is there, or nobody who may measure.
        """
        try:
            from distributed import Client
        except ImportError as error:
            raise EngineMissingError(
                "dask-missing", "searching on a cluster needs Dask, which is not installed"
            ) from error
        self._work, self._cache, self._progress = work, cache, progress
        self._cores: dict[str, int] = {}
        self._told: dict[str, set[Hashable]] = {}
        self._telling: list[Any] = []
        try:
            self._client = Client(address, timeout=_CONNECT, set_as_default=False)
        except (OSError, ValueError) as error:
            raise TargetError("cluster-unreachable", f"no Dask scheduler answers at {address}: {error}") from error
        self._check_workers(address)

    def _check_workers(self, address: str) -> None:
        workers = self._client.scheduler_info(n_workers=-1)["workers"]
        if not workers:
            self.close()
            raise TargetError("cluster-no-worker", f"the scheduler at {address} has no workers")
        measures = self._work.place.target is not None
        if measures and not any(worker.get("resources", {}).get(BOARD) for worker in workers.values()):
            self.close()
            raise TargetError("cluster-no-worker", f"no worker at {address} may measure: none has the resource {BOARD}")

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[int, Converted | Cost | Refused]]:
        """See `Executor`."""
        from distributed import as_completed
        from distributed.scheduler import KilledWorker

        done = as_completed(loop=self._client.loop)
        futures: dict[Any, int] = {}
        waiting = deque(range(len(jobs)))

        def send() -> None:
            at_once, workers = self._room()
            converting = sum(isinstance(jobs[number], Convert) for number in futures.values())
            for number in list(waiting):
                converts = isinstance(jobs[number], Convert)
                if converts and converting >= at_once:
                    continue
                converting += converts
                waiting.remove(number)
                future = self._submit(jobs[number], workers)
                futures[future] = number
                done.add(future)

        self._progress({"stage": f"{len(jobs)} jobs on the cluster", "done": 0, "total": len(jobs)})
        try:
            send()
            for count, future in enumerate(done, 1):
                number = futures.pop(future)
                try:
                    said: Said | Cost | Refused = future.result()
                except KilledWorker as error:
                    message = f"every worker that tried it was lost: {label(jobs[number])}"
                    raise TargetError("cluster-worker-lost", message) from error
                send()
                self._progress({"stage": label(jobs[number]), "done": count, "total": len(jobs)})
                if isinstance(said, Said):
                    self._spread(said)
                yield number, said.converted if isinstance(said, Said) else said
        finally:
            self._client.cancel(list(futures))

    def _spread(self, said: Said) -> None:
        """What a worker knows, those that wait are told, each thing once; nobody waits for that."""
        self._told.setdefault(said.worker, set()).update(said.known)
        there = self._client.scheduler_info(n_workers=-1)["workers"]
        working = set(room(there, self._cores)[1])
        lacks = {one: set(said.known) - self._told.get(one, set()) for one in there if one not in working}
        wanted = set().union(*lacks.values())
        if not wanted or said.worker not in there:
            return
        told = self._client.run(evaluate.tell, wanted, workers=[said.worker], on_error="ignore").get(said.worker)
        if told is None:
            return
        for one, keys in lacks.items():
            self._telling.append(self._client.submit(evaluate.learn, told, workers=[one], pure=False))
            self._told.setdefault(one, set()).update(keys)

    def _room(self) -> tuple[int, list[str]]:
        there = self._client.scheduler_info(n_workers=-1)["workers"]
        new = [address for address in there if address not in self._cores]
        if new:
            self._cores |= self._client.run(os.cpu_count, workers=new, on_error="ignore")
        return room(there, self._cores)

    def _submit(self, job: Job, workers: list[str]) -> Any:
        if isinstance(job, Convert):
            return self._client.submit(
                _convert, self._work.order(job), caches.tools(), pure=False, key=None, workers=workers,
                allow_other_workers=True,
            )  # fmt: skip
        data = self._cache.artifact(job.made.sha256).read_bytes()
        where = None if self._work.place.target is None else {BOARD: 1}
        return self._client.submit(
            _measure, data, job.format, job.setting, self._work.place, caches.tools(), pure=False, resources=where
        )

    def close(self) -> None:
        from distributed.comm import CommClosedError

        with contextlib.suppress(OSError, TimeoutError, CommClosedError):  # workers that are gone have nothing to end
            self._client.run(evaluate.rest, on_error="ignore")
        self._client.close()


def room(workers: Mapping[str, Mapping[str, Any]], cores: Mapping[str, int | None]) -> tuple[int, list[str]]:
    """How many conversions to do at once, and by whom: of each machine, the first workers that fill its cores.

    Args:
        workers: By address: `host`, `nthreads`.
        cores: Of a worker's machine, by address.
    """
    total = 0
    taken = []
    left: dict[str, int] = {}
    for address, worker in workers.items():
        machine = worker.get("host", address)
        threads = min(left.setdefault(machine, cores.get(address) or 1), worker["nthreads"])
        left[machine] -= threads
        if threads:
            taken.append(address)
        total += threads
    return max(1, total), taken


@dataclass(frozen=True)
class Said:
    """What a worker answers.

    Attributes:
        known: What it could tell others of, see `Waiting`.
    """

    converted: Converted
    worker: str
    known: tuple[Hashable, ...]


def _convert(order: Order, tools: dict[str, str]) -> Said:
    from distributed import get_worker

    _check_tools(tools)
    return Said(evaluate.convert(order), get_worker().address, evaluate.known())


def _measure(data: bytes, format: str, setting: Setting, place: Place, tools: dict[str, str]) -> Cost | Refused:
    _check_tools(tools)
    with files.scratch() as folder:
        path = Path(folder) / f"model.{format}"
        path.write_bytes(data)
        return evaluate.measure(path, setting, place)


def _check_tools(wanted: dict[str, str]) -> None:
    """Results are kept by the versions that made them: a worker with others would spoil the cache."""
    there = caches.tools()
    other = sorted(name for name in {*wanted, *there} if wanted.get(name) != there.get(name))
    if other:
        said = ", ".join(f"{name} {there.get(name, 'missing')} instead of {wanted.get(name, 'none')}" for name in other)
        raise UsageError("cluster-versions", f"a worker has {said}")
