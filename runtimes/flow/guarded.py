"""The engine in a child process: it dies or hangs alone, and the next call finds a new one.

    edgekit.load("model.tflite", watchdog=1.5)

Tensors lie in memory that both processes map; two pipes carry what is where, some tens of bytes a call. The protocol is
private to this module and `guarded_child`: a length, then JSON. The child is a fresh interpreter, not a fork: engines
start threads, and forks lose them.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import mmap
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
import weakref
from typing import IO, Any

import numpy as np

from edgekit import errors
from edgekit.artifact import Artifact
from edgekit.codec import decode
from edgekit.errors import EdgeKitError, EngineError, FeedError
from edgekit.runtimes import bounds
from edgekit.runtimes.base import Array, Feeds, closed
from edgekit.tensors import TensorSpec

START_SECONDS = 60.0
"""A child opens its model within this time: importing an engine takes a Pi Zero several seconds."""

_ALIGNED = 64
_LONGEST_WAIT = 2**31 - 1
"""Milliseconds that `poll` takes."""


class Child:
    """One process and what connects it; made anew after each failure."""

    def __init__(self, artifact: Artifact, threads: int | None, engine: str, seconds: float) -> None:
        self.map: mmap.mmap | None = None
        about = {"bytes": len(artifact.data), "threads": threads, "engine": engine, "seconds": seconds,
                 "path": str(artifact.path) if artifact.path else None}  # fmt: skip
        with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:  # both ends, where one thing fails
            try:
                self.file = ours.enter_context(_memory())
                allocate(self.file.fileno(), len(artifact.data))
                self.file.write(artifact.data)
                self.file.flush()
                to_child, self._send = _pipe(theirs, ours)
                self._receive, from_child = _pipe(ours, theirs)
                passed = (to_child, from_child, self.file.fileno())
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "edgekit.runtimes.flow.guarded_child", *map(str, passed)],
                    stdin=subprocess.DEVNULL, stderr=_stderr(), pass_fds=passed, start_new_session=True,
                    env={**os.environ, "ORT_DISABLE_TELEMETRY": "1"},
                )  # fmt: skip
            except OSError as error:
                said = f"no process can be started for the engine: {error.strerror or error}"
                raise EngineError("engine-unstarted", said) from error
            ours.pop_all()
        self.send(about)

    def send(self, message: dict[str, Any]) -> None:
        """A child that is gone is noticed by the next `receive`."""
        with contextlib.suppress(BrokenPipeError):
            send(self._send, message)

    def receive(self, seconds: float) -> dict[str, Any] | None:
        """The next message, None when none came in time.

        Raises:
            EOFError: The child is gone.
        """
        return receive(self._receive, seconds)

    def grow(self, size: int) -> mmap.mmap:
        """The shared memory, of at least so many bytes.

        Raises:
            EngineError: `engine-memory`.
        """
        self.map = grown(self.map, self.file.fileno(), size)
        return self.map

    def end(self) -> str:
        """Kill it if it lives; how it ended, for messages."""
        self._process.kill()
        code = self._process.wait()
        return signal.Signals(-code).name if code < 0 else f"exit status {code}"

    def ended(self) -> str:
        """How it ended by itself."""
        try:
            code = self._process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            return self.end()
        return signal.Signals(-code).name if code < 0 else f"exit status {code}"

    def close(self) -> None:
        """Safe to call twice."""
        if self.file.closed:
            return
        self.end()
        if self.map is not None:
            self.map.close()
        self.file.close()
        os.close(self._send)
        os.close(self._receive)


class GuardedSession:
    """A `Session` whose engine runs in a child. Not concurrent: the model locks it.

    Args:
        artifact: What to open, there.
        threads: Of the engine.
        engine: Its name.
        seconds: How long one call may take.

    Raises:
        UsageError: `option-value`. FeedError: `feed-dtype`: the model takes or gives strings. EngineError: what the
        engine says of the model; `engine-died`, `engine-hung`, `engine-memory`, `engine-unstarted`.
    """

    concurrent = False

    def __init__(self, artifact: Artifact, threads: int | None, engine: str, seconds: float) -> None:
        seconds = bounds.seconds("watchdog", seconds)
        self._opening = (artifact, threads, engine, seconds)
        self._seconds = seconds
        self._name = artifact.path or "the model"
        self._child: Child | None = None
        self._ready = False
        self._asked = False
        self._closed = False
        self.restarts = 0
        self._finalizer: weakref.finalize[Any, Any] | None = None
        self._start()
        try:
            hello = self._hello()
            self.inputs, self.outputs = (
                tuple(decode(TensorSpec, item) for item in hello[side]) for side in ("inputs", "outputs")
            )
            for spec in (*self.inputs, *self.outputs):
                _numbers(spec.name, spec.dtype != "string")
        except EdgeKitError:
            self.close()
            raise
        self.batches: bool = hello["batches"]

    @property
    def pid(self) -> int | None:
        """The child's; None after `close`."""
        return None if self._child is None else self._child._process.pid  # noqa: SLF001 - one class in two parts

    def run(self, feeds: Feeds) -> dict[str, Array]:
        if self._closed:
            raise closed()
        if self._child is not None and self._asked:
            # An exception of the app (Ctrl-C, a signal's timeout) left the wait: that answer is not to this question,
            # and the child may read its feed yet.
            self._restart(self._child)
        if self._child is None:
            self._start()
        if not self._ready:
            self._hello()
        child = self._child
        if child is None:
            raise closed()
        places, size = _laid_out(feeds)
        shared = child.grow(size)
        for (name, dtype, shape, offset), array in zip(places, feeds.values(), strict=True):
            del name
            np.ndarray(shape, dtype, shared, offset)[...] = array
        self._asked = True
        child.send({"feeds": places, "size": size})
        answer = self._await(child, self._seconds)
        if "error" in answer:
            raise errors.from_dict(answer["error"])
        shared = child.grow(answer["size"])
        # Copies: the memory is the next call's.
        return {
            name: np.ndarray(shape, dtype, shared, offset).copy() for name, dtype, shape, offset in answer["answers"]
        }

    def close(self) -> None:
        self._closed = True
        child, self._child = self._child, None
        if child is not None:
            child.close()

    def _start(self) -> None:
        self._ready = self._asked = False
        self._child = Child(*self._opening)
        self._finalizer = weakref.finalize(self, self._child.close)

    def _hello(self) -> dict[str, Any]:
        """Wait until the child has opened the model."""
        child = self._child
        if child is None:
            raise closed()
        answer = self._await(child, START_SECONDS)
        if "error" in answer:
            self._end(child)
            raise errors.from_dict(answer["error"])
        self._ready = True
        return answer

    def _await(self, child: Child, seconds: float) -> dict[str, Any]:
        self._asked = True
        try:
            answer = child.receive(seconds)
        except (EOFError, ValueError, OSError) as error:
            how = child.ended()
            self._restart(child)
            raise EngineError(
                "engine-died", f"the engine died while running {self._name}: {how}", cause=f"its process ended by {how}"
            ) from error
        if answer is None:
            child.end()
            self._restart(child)
            raise EngineError("engine-hung", f"{self._name} gave no answer in {seconds:g} s; its engine was ended")
        self._asked = False
        return answer

    def _restart(self, child: Child) -> None:
        """At once, so that the next call waits less; where that cannot be now, by the next call."""
        self._end(child)
        self.restarts += 1
        with contextlib.suppress(EngineError):
            self._start()

    def _end(self, child: Child) -> None:
        self._child = None
        child.close()
        if self._finalizer is not None:
            self._finalizer.detach()


def send(descriptor: int, message: dict[str, Any]) -> None:
    """A length of four bytes, then JSON."""
    data = json.dumps(message).encode()
    data = len(data).to_bytes(4, "little") + data
    while data:
        data = data[os.write(descriptor, data) :]


def receive(descriptor: int, seconds: float | None) -> dict[str, Any] | None:
    """The next message; None when it is not whole in time, nor there when time is over: whoever waits may have been
    stopped meanwhile.

    Raises:
        EOFError: The other end is closed.
    """
    ends = None if seconds is None else time.monotonic() + seconds
    data = b""
    size = 4
    while len(data) < size:
        left = None if ends is None else ends - time.monotonic()
        if left is not None and not (_readable(descriptor, max(left, 0.0)) or _readable(descriptor, 0.0)):
            return None
        part = os.read(descriptor, size - len(data))
        if not part:
            raise EOFError
        data += part
        if size == 4 and len(data) == 4:
            size = 4 + int.from_bytes(data, "little")
    message: dict[str, Any] = json.loads(data[4:])
    return message


def _readable(descriptor: int, seconds: float) -> bool:
    waiting = select.poll()  # `select` itself takes no descriptor beyond 1023
    waiting.register(descriptor, select.POLLIN)
    return bool(waiting.poll(min(seconds * 1000, _LONGEST_WAIT)))


def _laid_out(feeds: Feeds) -> tuple[list[tuple[str, str, list[int], int]], int]:
    """Name, dtype, shape and offset of each, and the end of all."""
    for name, array in feeds.items():
        _numbers(name, array.dtype.kind != "O")
    return laid_out(dict(feeds))


def _numbers(name: str, are: bool) -> None:
    if not are:
        raise FeedError(
            "feed-dtype", f"{name} holds strings, which do not cross to a watched engine",
            next_step="Load the model without a watchdog.",
        )  # fmt: skip


def laid_out(arrays: dict[str, Array], start: int = 0) -> tuple[list[tuple[str, str, list[int], int]], int]:
    """Where arrays go in the shared memory from `start` on."""
    places = []
    for name, array in arrays.items():
        start = -(-start // _ALIGNED) * _ALIGNED
        places.append((name, array.dtype.str, list(array.shape), start))
        start += array.nbytes
    return places, max(start, 1)


def grown(shared: mmap.mmap | None, memory: int, size: int) -> mmap.mmap:
    """A map of at least so many bytes; another one where it was smaller. The old one goes with the last array in it.

    Raises:
        EngineError: `engine-memory`.
    """
    if shared is not None and len(shared) >= size:
        return shared
    allocate(memory, size)
    try:
        return mmap.mmap(memory, 0)
    except OSError as error:
        raise _no_room(size, error) from error


def allocate(descriptor: int, size: int) -> None:
    """Make a file so long, all of it there: writing where only its length says so ends a process by SIGBUS.

    Raises:
        EngineError: `engine-memory`.
    """
    if os.fstat(descriptor).st_size >= size:
        return
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(descriptor, 0, size)
        else:
            os.ftruncate(descriptor, size)
    except OSError as error:
        raise _no_room(size, error) from error


def _no_room(size: int, error: OSError) -> EngineError:
    return EngineError(
        "engine-memory", f"there is no room for {size} bytes that the app shares with its engine", cause=str(error)
    )


def _pipe(take: contextlib.ExitStack, give: contextlib.ExitStack) -> tuple[int, int]:
    """Its ends, each closed by a stack."""
    ends = os.pipe()
    found = []
    for end, stack in zip(ends, (take, give), strict=True):
        found.append(_above(end))
        stack.callback(os.close, found[-1])
    return found[0], found[1]


def _above(descriptor: int) -> int:
    """The same above the standard streams: an app may have closed those, and in the child their numbers are theirs."""
    if descriptor > 2:
        return descriptor
    try:
        return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
    finally:
        os.close(descriptor)


def _stderr() -> int | None:
    """For the child: ours, where we have one."""
    try:
        os.fstat(2)
    except OSError:
        return subprocess.DEVNULL
    return None


def _memory() -> IO[bytes]:
    """A file without a name that lies in memory: of no mount where the system can, since a container's /dev/shm is
    small.
    """
    create = getattr(os, "memfd_create", None)
    if create is not None:
        with contextlib.suppress(OSError):  # a sandbox may forbid it
            return os.fdopen(_above(create("edgekit")), "w+b")
    folder = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108 - the file has no name there
    with tempfile.TemporaryFile(prefix="edgekit-", dir=folder) as file:
        return os.fdopen(fcntl.fcntl(file.fileno(), fcntl.F_DUPFD_CLOEXEC, 3), "w+b")
