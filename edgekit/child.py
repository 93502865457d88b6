"""A child process that does dangerous work under limits, and errors that say how it died.

Model files are programs: whoever parses or runs one may crash, hang, or eat all memory. Such work is a *job*: a
plain function in `edgekit.*` from one dataclass to another, called by path in a child. Both travel as JSON, never
pickled, because a child that read a hostile file is not to be trusted. A job may report progress by yielding:
it is then a generator of JSON-able events that returns its result.

The child's memory is bounded by RLIMIT_DATA (private memory; TensorFlow reserves far more address space than it
uses, so RLIMIT_AS would kill it), its time by the parent's deadline. It dies with its parent. What it prints goes
to a log file, whose end is quoted when it crashes.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import inspect
import json
import os
import queue
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import typing
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeVar, overload

from edgekit.codec import CodecError, decode, encode
from edgekit.errors import EdgeKitError, InternalError, WorkerError, from_dict, of_system

A = TypeVar("A")
R = TypeVar("R")
Steps = Callable[[A], Generator[Any, None, R]]
Progress = Callable[[dict[str, Any]], None]

_MESSAGE_LIMIT = 64 << 20
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Limits:
    """What a child may use.

    Attributes:
        seconds: Wall time of one job.
        memory_mb: Private memory of the process, in MiB; None for three quarters of this machine's.
    """

    seconds: float = 900.0
    memory_mb: int | None = None

    def __post_init__(self) -> None:
        if self.seconds <= 0:
            raise ValueError("a time limit must be positive")
        if self.memory_mb is not None and self.memory_mb < 64:
            raise ValueError("a memory limit below 64 MiB starts no Python")


class Link(Protocol):
    """A process somewhere and the two pipes to it; what crosses them is this module's business alone."""

    hello: dict[str, Any]
    """What the process must know of where it runs: `parent` (its number, or None far away), `heartbeat` (seconds)."""

    def write(self, data: bytes) -> None:
        """Send; a process that is gone is reported by the next read."""

    def read(self, seconds: float) -> bytes | None:
        """What came, b"" when its end was closed, None when nothing came in time."""

    def status(self) -> int | None:
        """Exit status, negative for a signal, as `subprocess` has it; None while it lives. Waits a little."""

    def said(self) -> str:
        """The end of what it printed."""

    def close(self) -> None:
        """End the process. Safe to call twice."""


class Spawned:
    """A process of this machine.

    Its temporary files lie beside the log and go with it: it ends by being killed, before any library cleans up.

    Args:
        log: File that receives what it prints.
        command: Starts Python there; the module and its arguments follow. None for this very interpreter.
        environment: Beside the parent's.
        early: Modules of ours or that we trust, which it imports before it is told anything.
    """

    def __init__(
        self,
        log: Path,
        command: Sequence[str] | None = None,
        environment: Mapping[str, str] | None = None,
        early: Sequence[str] = (),
    ) -> None:
        self._log = log
        self._temporary = tempfile.mkdtemp(prefix=f"{log.stem}-", dir=log.parent.absolute())
        # An emulator stands between: the process whose end is watched is not the one that looks for its parent.
        self.hello: dict[str, Any] = {"parent": os.getpid() if command is None else None}
        to_child, self._send = os.pipe()
        self._receive, from_child = os.pipe()
        python = [sys.executable, "-P"] if command is None else command
        with open(log, "ab") as output:
            self._process = subprocess.Popen(
                [*python, "-m", "edgekit.child", str(to_child), str(from_child), *early],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, pass_fds=(to_child, from_child),
                start_new_session=True, env={**_environment(), "TMPDIR": self._temporary, **(environment or {})},
            )  # fmt: skip
        os.close(to_child)
        os.close(from_child)

    def write(self, data: bytes) -> None:
        with contextlib.suppress(BrokenPipeError):
            while data:
                data = data[os.write(self._send, data) :]

    def read(self, seconds: float) -> bytes | None:
        waiting = select.poll()  # `select` itself takes no descriptor beyond 1023
        waiting.register(self._receive, select.POLLIN)
        if seconds <= 0 or not waiting.poll(min(seconds * 1000, 2**31 - 1)):
            return None
        return os.read(self._receive, 1 << 16)

    def status(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)
        return self._process.poll()

    def said(self) -> str:
        return tail(self._log)

    def close(self) -> None:
        if self._send < 0:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        shutil.rmtree(self._temporary, ignore_errors=True)
        os.close(self._send)
        os.close(self._receive)
        self._send = -1


class Child:
    """One child process; jobs run in it one after the other and share its module state.

    Args:
        link: The process: a log file for one of this machine and interpreter.
        limits: Bounds for each job (time) and the process (memory).
        preload: Modules it imports at once, while the parent does something else.
        doing: What the child is for, in messages: "the conversion".
    """

    def __init__(
        self, link: Link | Path, limits: Limits, *, preload: Sequence[str] = (), doing: str = "the work"
    ) -> None:
        self._link: Link = Spawned(link) if isinstance(link, Path) else link
        self._limits = limits
        self._doing = doing
        self._pending: str | None = None
        self._buffer = b""
        self._write({**self._link.hello, "memory_mb": limits.memory_mb, "preload": list(preload)})

    @overload
    def call(self, job: Steps[A, R], args: A, *, stage: str, progress: Progress | None = None) -> R: ...
    @overload
    def call(self, job: Callable[[A], R], args: A, *, stage: str, progress: Progress | None = None) -> R: ...
    def call(self, job: Callable[[A], Any], args: A, *, stage: str, progress: Progress | None = None) -> Any:
        """Run `job(args)` there and wait for its result.

        Raises:
            EdgeKitError: What the job raised.
            WorkerError: `worker-crashed`, `worker-timeout`, `worker-memory`; names the stage.
        """
        self.submit(job, args, stage=stage)
        return self.result(job, progress=progress)

    def submit(self, job: Callable[[A], Any], args: A, *, stage: str) -> None:
        """Start `job(args)`; `result` must be called before the next one."""
        if self._pending is not None:
            raise InternalError("child-busy", f"{stage}: the child is still busy with {self._pending}")
        self._pending = stage
        self._write({"job": f"{job.__module__}:{job.__qualname__}", "args": encode(args)})

    @overload
    def result(self, job: Steps[A, R], *, progress: Progress | None = None) -> R: ...
    @overload
    def result(self, job: Callable[[A], R], *, progress: Progress | None = None) -> R: ...
    def result(self, job: Callable[[A], Any], *, progress: Progress | None = None) -> Any:
        """Wait for the job that was submitted; see `call`."""
        stage = self._pending or "?"
        deadline = time.monotonic() + self._limits.seconds
        try:
            while True:
                message = self._read(stage, deadline)
                if "event" in message:
                    if progress:
                        progress(message["event"])
                elif "error" in message:
                    raise from_dict(message["error"])
                else:
                    return decode(_result_type(job), message.get("result"))
        except CodecError as error:
            raise self._died(stage, "worker-crashed", f"it answered nonsense ({error})") from error
        finally:
            self._pending = None

    @property
    def busy(self) -> bool:
        """A job was submitted whose result nobody has taken yet."""
        return self._pending is not None

    def close(self) -> None:
        """Kill the child if it still lives. Safe to call twice."""
        self._link.close()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write(self, message: dict[str, Any]) -> None:
        self._link.write(json.dumps(message, allow_nan=True).encode() + b"\n")

    def _read(self, stage: str, deadline: float) -> dict[str, Any]:
        while b"\n" not in self._buffer:
            chunk = self._link.read(deadline - time.monotonic())
            if chunk is None:
                raise self._died(stage, "worker-timeout", f"it took longer than {self._limits.seconds:g} s")
            if not chunk:
                raise self._dead(stage)
            self._buffer += chunk
            if len(self._buffer) > _MESSAGE_LIMIT:
                raise self._died(stage, "worker-crashed", "it answered without end")
        line, self._buffer = self._buffer.split(b"\n", 1)
        try:
            message = json.loads(line)
        except ValueError as error:
            raise self._died(stage, "worker-crashed", f"it answered nonsense ({error})") from error
        if not isinstance(message, dict):
            raise self._died(stage, "worker-crashed", "it answered nonsense")
        return message

    def _dead(self, stage: str) -> WorkerError:
        """The child closed its end: find out how it ended."""
        status = self._link.status()
        if status is None:
            how = "it stopped answering"
        elif status < 0:
            name = signal.Signals(-status).name
            how = f"it was ended by {name}" + (f" ({_SIGNALS[name]})" if name in _SIGNALS else "")
        else:
            how = f"it exited with status {status}"
        said = self._link.said()
        out_of_memory = any(word in said for word in _MEMORY_WORDS) or status == -signal.SIGKILL
        return self._died(stage, "worker-memory" if out_of_memory else "worker-crashed", how)

    def _died(self, stage: str, code: str, how: str) -> WorkerError:
        said = self._link.said()
        self.close()
        return WorkerError(
            code,
            f"{stage}: {self._doing} died: {how}",
            cause=f"{how[0].upper()}{how[1:]}." + (f" Its last words: {said}" if said else ""),
            stage=stage,
            how=how,
        )


_SIGNALS = {
    "SIGSEGV": "invalid memory access",
    "SIGABRT": "abort",
    "SIGILL": "illegal instruction: this build of a library does not fit this CPU",
    "SIGFPE": "arithmetic fault",
    "SIGBUS": "bus error",
    "SIGKILL": "killed, most likely because memory ran out",
}
_MEMORY_WORDS = (
    *("bad_alloc", "MemoryError", "out of memory", "Cannot allocate memory", "Failed to allocate"),
    "Memory allocation still failed",  # OpenBLAS
)


def _environment() -> dict[str, str]:
    """The parent's environment, with the frameworks told to be quiet, on the CPU, repeatable and not to phone home."""
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "", "TF_ENABLE_ONEDNN_OPTS": "0"}
    quiet["KERAS_BACKEND"] = "tensorflow"  # whatever the user trains with: Keras 3 reads it when it is imported
    quiet["ORT_DISABLE_TELEMETRY"] = "1"
    return {**os.environ, **quiet, "PYTHONHASHSEED": "0", "PYTHONUNBUFFERED": "1", "MALLOC_ARENA_MAX": "2"}


def tail(log: Path, size: int = 600) -> str:
    """The end of what a process printed, on one line."""
    with contextlib.suppress(FileNotFoundError):
        text = log.read_bytes()[-4 * size :].decode("utf-8", "replace")
        return " ".join(text.split())[-size:]
    return ""


def _result_type(job: Callable[..., Any]) -> Any:
    kind = typing.get_type_hints(job).get("return", Any)
    if typing.get_origin(kind) is Generator:
        return typing.get_args(kind)[2]
    return type(None) if kind is None else kind


# -- The child's side ------------------------------------------------------------------------------------------


def main(receive: int, send: int, early: Sequence[str] = ()) -> None:
    """Read jobs from `receive`, answer on `send`, until the parent closes its end; import `early` first."""
    if send == 1:  # over a link there is no other way back: what libraries print must not mix with answers
        send = os.dup(1)
        os.dup2(2, 1)
    _import(early)
    with os.fdopen(receive, "rb") as requests, os.fdopen(send, "wb", buffering=0) as answers:
        hello = json.loads(requests.readline() or b"null")
        if hello is None:
            return
        if hello["parent"] is not None:
            _die_with(int(hello["parent"]))
        lines = _watched(requests, int(hello["heartbeat"])) if hello.get("heartbeat") else requests
        resource.setrlimit(resource.RLIMIT_DATA, (_memory_bytes(hello["memory_mb"]),) * 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        _import(hello["preload"])

        def answer(message: dict[str, Any]) -> None:
            data = json.dumps(message).encode() + b"\n"
            while data:
                data = data[answers.write(data) or 0 :]

        for line in lines:
            answer(_perform(json.loads(line), answer))


def _import(modules: Sequence[str]) -> None:
    for module in modules:
        with contextlib.suppress(ImportError):  # the job that needs it says so better
            importlib.import_module(module)


def _watched(requests: BinaryIO, heartbeat: int) -> Iterator[bytes]:
    """The requests of a parent on another machine, which also sends empty lines; without them this process ends.

    The alarm's default action needs no interpreter, so that a hung engine ends as well.
    """
    lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()

    def watch() -> None:
        for line in iter(requests.readline, b""):
            signal.alarm(heartbeat)
            if line.strip():
                lines.put(line)
        os._exit(0)  # the link is closed: whatever runs here has nobody to answer

    signal.alarm(heartbeat)
    threading.Thread(target=watch, daemon=True).start()
    while (line := lines.get()) is not None:
        yield line


def _perform(request: dict[str, Any], answer: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    try:
        module, _, name = request["job"].partition(":")
        if module.split(".")[0] != "edgekit":
            raise InternalError("job-unknown", f"{request['job']} is no job")
        job = getattr(importlib.import_module(module), name)
        (parameter,) = inspect.signature(job).parameters
        outcome = job(decode(typing.get_type_hints(job)[parameter], request["args"]))
        if isinstance(outcome, Generator):
            outcome = _drain(outcome, answer)
        return {"result": encode(outcome)}
    except EdgeKitError as error:
        return {"error": error.to_dict()}
    except MemoryError:
        sys.stderr.write("MemoryError\n")
        os._exit(1)  # the heap is exhausted: nothing more can be relied on
    except OSError as error:
        with contextlib.suppress(OSError):  # the log lies on the same disk, which may be the one that is full
            traceback.print_exc()
            sys.stderr.flush()
        return {"error": of_system(error, os.environ.get("TMPDIR") or tempfile.gettempdir()).to_dict()}
    except Exception as error:  # noqa: BLE001 - the one seam where a bug of ours, or of a framework, becomes an error
        text = f"{type(error).__name__}: {error}"
        return {"error": InternalError("internal", text, traceback=traceback.format_exc()).to_dict()}


def _drain(steps: Generator[Any, None, Any], answer: Callable[[dict[str, Any]], None]) -> Any:
    while True:
        try:
            answer({"event": next(steps)})
        except StopIteration as end:
            return end.value


def _memory_bytes(limit_mb: int | None) -> int:
    if limit_mb is not None:
        return limit_mb << 20
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") * 3 // 4


def _die_with(parent: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the line above
        os._exit(1)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
