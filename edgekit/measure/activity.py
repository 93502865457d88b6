"""What else happened on the machine meanwhile: CPU time of others, time spent waiting for a core, stolen time.

All from /proc and the control groups, as differences of two snapshots, so that a measurement costs two readings and
the load of ten minutes ago does not count. Fields: https://man7.org/linux/man-pages/man5/proc.5.html; schedstat:
https://docs.kernel.org/scheduler/sched-stats.html; control groups: https://docs.kernel.org/admin-guide/cgroup-v2.html.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from edgekit.measure.kernel import read

WAIT_LIMIT = 0.05
"""More of the time in which the process could have run than this was spent waiting for a core."""
STEAL_LIMIT = 0.02
"""More of all cores' time than this was taken by the hypervisor."""
OTHERS_LIMIT = 0.25
"""More of all cores' time than this was used by other processes."""


@dataclass(frozen=True)
class Snapshot:
    """Counters since some beginning; None where this kernel does not tell. Times in seconds."""

    busy: float | None = None
    steal: float | None = None
    own: float | None = None
    ran: float | None = None
    waited: float | None = None
    voluntary: int | None = None
    involuntary: int | None = None
    quota_stops: int | None = None


@dataclass(frozen=True)
class Activity:
    """Between two snapshots.

    Attributes:
        seconds: Wall time.
        own_cpu_s, others_cpu_s, steal_s: CPU time of this process, of all others, and taken by the hypervisor.
        waiting: Share of the process's runnable time that it spent waiting for a core.
        voluntary_switches, involuntary_switches: Context switches of this process's threads.
        quota_stops: How often the control group's quota stopped it.
    """

    seconds: float
    own_cpu_s: float | None = None
    others_cpu_s: float | None = None
    steal_s: float | None = None
    waiting: float | None = None
    voluntary_switches: int | None = None
    involuntary_switches: int | None = None
    quota_stops: int | None = None

    def reasons(self, cores: int) -> list[str]:
        """Why a latency measured meanwhile cannot be trusted."""
        found = []
        if self.waiting is not None and self.waiting > WAIT_LIMIT:
            found.append(f"it waited for a core {self.waiting:.0%} of the time: other processes wanted the same")
        if self.steal_s is not None and self.steal_s > STEAL_LIMIT * self.seconds * cores:
            found.append(f"the hypervisor took {self.steal_s:.2f} s of CPU time in {self.seconds:.1f} s")
        if self.others_cpu_s is not None and self.others_cpu_s > OTHERS_LIMIT * self.seconds * cores:
            found.append(
                f"other processes used {self.others_cpu_s:.2f} s of CPU time in {self.seconds:.1f} s on {cores} cores"
            )
        if self.quota_stops:
            found.append(f"the container's CPU quota stopped it {self.quota_stops} times")
        return found


def snapshot(root: Path = Path("/")) -> Snapshot:
    """The counters of now, from the /proc and /sys below `root`."""
    tick = os.sysconf("SC_CLK_TCK")
    busy, steal = _machine(root, tick)
    ran, waited = _scheduled(root)
    voluntary, involuntary = _switches(root)
    return Snapshot(busy, steal, _own(root, tick), ran, waited, voluntary, involuntary, _quota_stops(root))


def between(first: Snapshot, last: Snapshot, seconds: float) -> Activity:
    """What happened from one to the other."""
    own, busy = _difference(first.own, last.own), _difference(first.busy, last.busy)
    ran, waited = _difference(first.ran, last.ran), _difference(first.waited, last.waited)
    return Activity(
        seconds,
        own,
        None if own is None or busy is None else max(0.0, busy - own),
        _difference(first.steal, last.steal),
        waited / (ran + waited) if ran is not None and waited is not None and ran + waited > 0 else None,
        _count(first.voluntary, last.voluntary),
        _count(first.involuntary, last.involuntary),
        _count(first.quota_stops, last.quota_stops),
    )


def cpu_quota(root: Path = Path("/")) -> float | None:
    """CPUs that the container may use: the smallest quota from this process's group upwards; None for none known."""
    found = []
    for folder in _groups(root, "cpu"):
        quota, _, period = (read(folder / "cpu.max") or "").partition(" ")
        if not period:
            quota, period = read(folder / "cpu.cfs_quota_us") or "", read(folder / "cpu.cfs_period_us") or ""
        if quota.isdigit() and period.isdigit() and int(period):
            found.append(int(quota) / int(period))
    return min(found, default=None)


def affinity(root: Path = Path("/")) -> str | None:
    """The cores that this process may use, as the kernel writes them: "0-3"."""
    return dict(_status(root / "proc/self/status")).get("Cpus_allowed_list")


def _machine(root: Path, tick: int) -> tuple[float | None, float | None]:
    for line in (read(root / "proc/stat") or "").splitlines():
        name, *fields = line.split()
        if name == "cpu" and len(fields) >= 8 and all(field.isdigit() for field in fields):
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields[:8])
            return (user + nice + system + irq + softirq) / tick, steal / tick
    return None, None


def _own(root: Path, tick: int) -> float | None:
    # The name in brackets may hold anything; what follows its last bracket is numbers.
    fields = (read(root / "proc/self/stat") or "").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / tick if len(fields) > 12 else None


def _scheduled(root: Path) -> tuple[float | None, float | None]:
    """Seconds that all threads of this process ran, and that they waited on a run queue."""
    lines = [read(file) for file in root.glob("proc/self/task/*/schedstat")]
    pairs = [line.split()[:2] for line in lines if line and len(line.split()) >= 2]
    if not pairs:
        return None, None
    return sum(int(ran) for ran, _ in pairs) / 1e9, sum(int(waited) for _, waited in pairs) / 1e9


def _switches(root: Path) -> tuple[int | None, int | None]:
    found = [dict(_status(file)) for file in root.glob("proc/self/task/*/status")]
    counts = []
    for name in ("voluntary_ctxt_switches", "nonvoluntary_ctxt_switches"):
        told = [int(fields[name]) for fields in found if fields.get(name, "").isdigit()]
        counts.append(sum(told) if told else None)
    return counts[0], counts[1]


def _quota_stops(root: Path) -> int | None:
    for folder in _groups(root, "cpu"):
        for line in (read(folder / "cpu.stat") or "").splitlines():
            name, _, value = line.partition(" ")
            if name == "nr_throttled" and value.isdigit():
                return int(value)
    return None


def _groups(root: Path, controller: str) -> Iterable[Path]:
    """Folders of this process's control group and of those above it, for version 2 and version 1."""
    for line in (read(root / "proc/self/cgroup") or "").splitlines():
        _, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        if names == "":
            top = root / "sys/fs/cgroup"
        elif controller in names.split(","):
            named = (root / "sys/fs/cgroup" / name for name in (names, controller))
            top = next((folder for folder in named if folder.is_dir()), root / "sys/none")
        else:
            continue
        folder = top / path.strip("/")
        while True:
            yield folder
            if folder == top or top not in folder.parents:
                break
            folder = folder.parent


def _status(path: Path) -> Iterable[tuple[str, str]]:
    for line in (read(path) or "").splitlines():
        name, _, value = line.partition(":")
        yield name, value.strip()


def _difference(first: float | None, last: float | None) -> float | None:
    return None if first is None or last is None else max(0.0, round(last - first, 9))


def _count(first: int | None, last: int | None) -> int | None:
    return None if first is None or last is None else max(0, last - first)
