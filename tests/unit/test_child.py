"""The child process: results, progress, and a typed error for every way to die."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from edgekit import child as child_module
from edgekit.child import Child, Limits
from edgekit.codec import encode
from edgekit.errors import DataError, InternalError, SourceError, UsageError, WorkerError

# Jobs must be importable as edgekit.*: the child refuses anything else. This module is loaded into that name space.
JOBS = textwrap.dedent("""
    from __future__ import annotations
    import ctypes, os, signal, tempfile, time
    from collections.abc import Generator
    from dataclasses import dataclass
    from typing import Any
    from edgekit.errors import DataError

    @dataclass(frozen=True)
    class Ask:
        value: int = 0
        text: str = ""

    def double(ask: Ask) -> Ask:
        return Ask(2 * ask.value, ask.text)

    def count(ask: Ask) -> Generator[dict[str, Any], None, Ask]:
        for done in range(ask.value):
            yield {"done": done}
        return Ask(ask.value)

    def refuse(ask: Ask) -> Ask:
        raise DataError("data-lint", "no", next_step="look", sample=ask.value)

    def bug(ask: Ask) -> Ask:
        raise KeyError("oops")

    def segfault(ask: Ask) -> Ask:
        ctypes.string_at(0)
        return ask

    def abort(ask: Ask) -> Ask:
        os.write(2, b"terminate called: something broke\\n")
        os.abort()

    def hang(ask: Ask) -> Ask:
        while True:
            time.sleep(1)

    def eat(ask: Ask) -> Ask:
        hoard = []
        while True:
            hoard.append(bytearray(16 << 20))

    def leave(ask: Ask) -> Ask:
        os._exit(3)

    def babble(ask: Ask) -> Ask:
        return ask

    def pid(ask: Ask) -> Ask:
        return Ask(os.getpid())

    def litter(ask: Ask) -> Ask:
        return Ask(text=tempfile.mkstemp()[1])

    def denied(ask: Ask) -> Ask:
        raise PermissionError(ask.value, "Permission denied", ask.text or None)
""")


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    """A package part `edgekit.testing_jobs`, seen here and (by PYTHONPATH) in the child."""
    folder = tmp_path_factory.mktemp("jobs")
    (folder / "sitecustomize.py").write_text(
        textwrap.dedent(f"""
        import importlib.util, sys
        spec = importlib.util.spec_from_file_location("edgekit.testing_jobs", {str(folder / "testing_jobs.py")!r})
        module = importlib.util.module_from_spec(spec)
        sys.modules["edgekit.testing_jobs"] = module
        import edgekit
        spec.loader.exec_module(module)
        """)
    )
    (folder / "testing_jobs.py").write_text(JOBS)
    import importlib.util

    spec = importlib.util.spec_from_file_location("edgekit.testing_jobs", folder / "testing_jobs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["edgekit.testing_jobs"] = module
    spec.loader.exec_module(module)
    old = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(folder)
    yield module
    if old is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = old
    del sys.modules["edgekit.testing_jobs"]


@pytest.fixture
def worker(jobs, tmp_path):
    with Child(tmp_path / "log", Limits(seconds=30, memory_mb=512), doing="the test") as running:
        yield running


def test_result_and_errors_come_back_typed(jobs, worker):
    assert worker.call(jobs.double, jobs.Ask(21, "ä\n"), stage="s") == jobs.Ask(42, "ä\n")
    with pytest.raises(DataError) as caught:
        worker.call(jobs.refuse, jobs.Ask(7), stage="s")
    assert (caught.value.code, caught.value.next_step, caught.value.details) == ("data-lint", "look", {"sample": 7})
    with pytest.raises(InternalError, match="KeyError") as caught:
        worker.call(jobs.bug, jobs.Ask(), stage="s")
    assert 'raise KeyError("oops")' in caught.value.details["traceback"], "where the bug is, as --debug shows it"
    assert worker.call(jobs.double, jobs.Ask(1), stage="s").value == 2, "an error does not end the child"


def test_progress_arrives_in_order(jobs, worker):
    seen: list[int] = []
    assert worker.call(jobs.count, jobs.Ask(5), stage="s", progress=lambda e: seen.append(e["done"])).value == 5
    assert seen == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("job", "code", "word"),
    [
        ("segfault", "worker-crashed", "SIGSEGV"),
        ("abort", "worker-crashed", "something broke"),
        ("leave", "worker-crashed", "status 3"),
        ("eat", "worker-memory", "lower"),
    ],
)
def test_a_death_is_named(jobs, worker, job, code, word):
    with pytest.raises(WorkerError) as caught:
        worker.call(getattr(jobs, job), jobs.Ask(), stage="lower")
    error = caught.value
    assert error.code == code
    assert error.message.startswith("lower: the test died")
    assert word in error.message + error.cause
    assert error.details["stage"] == "lower"


def test_a_hang_ends_at_the_time_limit(jobs, tmp_path):
    with Child(tmp_path / "log", Limits(seconds=0.5)) as running, pytest.raises(WorkerError) as caught:
        running.call(jobs.hang, jobs.Ask(), stage="load")
    assert caught.value.code == "worker-timeout"


def test_closing_kills_and_may_be_repeated(jobs, tmp_path):
    running = Child(tmp_path / "log", Limits())
    pid = running.call(jobs.pid, jobs.Ask(), stage="s").value
    running.close()
    running.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_child_dies_with_its_parent(jobs, tmp_path):
    """The parent is killed while its child hangs: the child must be gone."""
    script = textwrap.dedent(f"""
        import sys
        from pathlib import Path
        from edgekit.child import Child, Limits
        import edgekit.testing_jobs as jobs
        running = Child(Path({str(tmp_path / "log")!r}), Limits())
        print(running.call(jobs.pid, jobs.Ask(), stage="s").value, flush=True)
        running.call(jobs.hang, jobs.Ask(), stage="s")
    """)
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 10
    while _alive(pid) and time.monotonic() < deadline:
        os.sched_yield()
    assert not _alive(pid)


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def test_what_a_child_leaves_in_its_temporary_folder_goes_with_it(jobs, tmp_path):
    with Child(tmp_path / "log", Limits(30)) as running:
        left = Path(running.call(jobs.litter, jobs.Ask(), stage="s").text)
        assert left.is_file()
        assert left.is_relative_to(tmp_path)
        with Child(tmp_path / "log", Limits(30)) as other:
            assert Path(other.call(jobs.litter, jobs.Ask(), stage="s").text).parent != left.parent
        assert left.is_file()
    assert os.listdir(tmp_path) == ["log"]


def test_what_the_system_refuses_a_child_is_no_bug_of_ours(jobs, worker):
    with pytest.raises(SourceError, match=r"/x/data\.npz cannot be reached: Permission denied") as caught:
        worker.call(jobs.denied, jobs.Ask(errno.EACCES, "/x/data.npz"), stage="s")
    assert caught.value.code == "file-unreadable"
    with pytest.raises(UsageError) as full:
        worker.call(jobs.denied, jobs.Ask(errno.ENOSPC, "/x/out"), stage="s")
    assert full.value.code == "output-unwritable"
    with pytest.raises(InternalError):
        worker.call(jobs.denied, jobs.Ask(errno.EACCES), stage="s")


class Full(io.RawIOBase):
    """A file on a full disk."""

    def writable(self):
        return True

    def write(self, data):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_told_though_the_log_lies_on_it(jobs, monkeypatch):
    request = {"job": f"{jobs.denied.__module__}:denied", "args": encode(jobs.Ask(errno.ENOSPC))}
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", io.TextIOWrapper(Full(), write_through=True))
        patch.setenv("TMPDIR", "/full")
        error = child_module._perform(request, print)["error"]
    assert error["code"] == "output-unwritable"
    assert "temporary folder /full cannot" in error["message"]
    assert "TMPDIR" in error["next_step"]


def test_only_our_own_functions_are_jobs(jobs, worker):
    worker._write({"job": "os:system", "args": "true"})
    worker._pending = "s"
    with pytest.raises(InternalError, match="os:system is no job"):
        worker.result(jobs.double)


def test_limits_refuse_nonsense():
    with pytest.raises(ValueError, match="positive"):
        Limits(seconds=0)
    with pytest.raises(ValueError, match="64 MiB"):
        Limits(memory_mb=1)
    assert child_module._memory_bytes(100) == 100 << 20
    assert child_module._memory_bytes(None) > 64 << 20
