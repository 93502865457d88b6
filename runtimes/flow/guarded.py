"""The engine in a child process: it dies or hangs alone, and the next call finds a new one.

    edgekit.load("model.tflite", watchdog=1.5)

Tensors lie in memory that both processes map; two pipes carry what is where, some tens of bytes a call. The protocol is
private to this module and `guarded_child`: a length, then JSON. The child is a fresh interpreter, not a fork: engines
start threads, and forks lose them.
"""

from __future__ import annotations

import contextlib
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
from typing import Any

import numpy as np

from edgekit import errors
from edgekit.artifact import Artifact
from edgekit.codec import decode
from edgekit.errors import EngineError, FeedError, UsageError
from edgekit.runtimes.base import Array, Feeds, closed
from edgekit.tensors import TensorSpec

START_SECONDS = 60.0
"""A child opens its model within this time: importing an engine takes a Pi Zero several seconds."""

_ALIGNED = 64


class Child:
    """One process and what connects it; made anew after each failure."""

    def __init__(self, artifact: Artifact, threads: int | None, engine: str, seconds: float) -> None:
        self.file = tempfile.TemporaryFile(prefix="edgekit-", dir=_memory())  # noqa: SIM115 - closed in `close`
        self.file.write(artifact.data)
        self.file.flush()
        to_child, self._send = os.pipe()
        self._receive, from_child = os.pipe()
        self.map: mmap.mmap | None = None
        about = {"bytes": len(artifact.data), "threads": threads, "engine": engine, "seconds": seconds,
                 "path": str(artifact.path) if artifact.path else None}  # fmt: skip
        passed = (to_child, from_child, self.file.fileno())
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "edgekit.runtimes.flow.guarded_child", *map(str, passed)],
                stdin=subprocess.DEVNULL, pass_fds=passed, start_new_session=True,
                env={**os.environ, "ORT_DISABLE_TELEMETRY": "1"},
            )  # fmt: skip
        finally:
            os.close(to_child)
            os.close(from_child)
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
        """The shared memory, of at least so many bytes."""
        if self.map is None or len(self.map) < size:
            if self.map is not None:
                self.map.close()
            if os.fstat(self.file.fileno()).st_size < size:
                os.ftruncate(self.file.fileno(), size)
            self.map = mmap.mmap(self.file.fileno(), 0)
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
        UsageError: `option-value`. EngineError: what the engine says of the model; `engine-died`, `engine-hung`.
    """

    concurrent = False

    def __init__(self, artifact: Artifact, threads: int | None, engine: str, seconds: float) -> None:
        if not seconds > 0:
            raise UsageError("option-value", f"watchdog is {seconds} s; it is positive")
        self._opening = (artifact, threads, engine, seconds)
        self._seconds = seconds
        self._name = artifact.path or "the model"
        self._child: Child | None = None
        self._ready = False
        self._closed = False
        self.restarts = 0
        self._finalizer: weakref.finalize[Any, Any] | None = None
        self._start()
        try:
            hello = self._hello()
        except EngineError:
            self.close()
            raise
        self.inputs, self.outputs = (
            tuple(decode(TensorSpec, item) for item in hello[side]) for side in ("inputs", "outputs")
        )
        self.batches: bool = hello["batches"]

    @property
    def pid(self) -> int | None:
        """The child's; None after `close`."""
        return None if self._child is None else self._child._process.pid  # noqa: SLF001 - one class in two parts

    def run(self, feeds: Feeds) -> dict[str, Array]:
        if self._closed:
            raise closed()
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
        self._ready = False
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
        return answer

    def _restart(self, child: Child) -> None:
        """At once, so that the next call waits less."""
        self._end(child)
        self.restarts += 1
        self._start()

    def _end(self, child: Child) -> None:
        child.close()
        self._child = None
        if self._finalizer is not None:
            self._finalizer.detach()


def send(descriptor: int, message: dict[str, Any]) -> None:
    """A length of four bytes, then JSON."""
    data = json.dumps(message).encode()
    data = len(data).to_bytes(4, "little") + data
    while data:
        data = data[os.write(descriptor, data) :]


def receive(descriptor: int, seconds: float | None) -> dict[str, Any] | None:
    """The next message; None when it is not whole in time.

    Raises:
        EOFError: The other end is closed.
    """
    ends = None if seconds is None else time.monotonic() + seconds
    data = b""
    size = 4
    while len(data) < size:
        left = None if ends is None else ends - time.monotonic()
        if left is not None and (left <= 0 or not select.select([descriptor], [], [], left)[0]):
            return None
        part = os.read(descriptor, size - len(data))
        if not part:
            raise EOFError
        data += part
        if size == 4 and len(data) == 4:
            size = 4 + int.from_bytes(data, "little")
    message: dict[str, Any] = json.loads(data[4:])
    return message


def _laid_out(feeds: Feeds) -> tuple[list[tuple[str, str, list[int], int]], int]:
    """Name, dtype, shape and offset of each, and the end of all."""
    return laid_out({name: array for name, array in feeds.items() if _plain(name, array)})


def _plain(name: str, array: Array) -> bool:
    if array.dtype.kind == "O":
        raise FeedError("feed-dtype", f"{name} holds strings, which do not cross to a watched engine")
    return True


def laid_out(arrays: dict[str, Array], start: int = 0) -> tuple[list[tuple[str, str, list[int], int]], int]:
    """Where arrays go in the shared memory from `start` on."""
    places = []
    for name, array in arrays.items():
        start = -(-start // _ALIGNED) * _ALIGNED
        places.append((name, array.dtype.str, list(array.shape), start))
        start += array.nbytes
    return places, max(start, 1)


def _memory() -> str | None:
    """A folder whose files lie in memory, where there is one."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108 - the file has no name there
