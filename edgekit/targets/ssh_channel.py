"""One process on the board, read and written like a pipe; see `ssh_wire`."""

from __future__ import annotations

import contextlib
import json
import queue
import signal
import threading
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Protocol, TypeVar

from edgekit.child import tail
from edgekit.errors import TargetError

ANSWER = 60
"""Seconds for an answer that needs no long work."""

_STDERR = 1
_LIMIT = 1 << 20

T = TypeVar("T")


class Link(Protocol):
    """What a channel needs of the connection that it is part of."""

    name: str

    def call(self, work: Coroutine[Any, Any, T], seconds: float) -> T:
        """Do something in the connection's thread."""
        ...

    def check(self) -> None:
        """Raise what cut the connection, if it is cut."""
        ...


class Channel:
    """One process on the board, with its standard input, output and errors; asyncssh calls the methods of a session.

    Args:
        wire: The connection.
        log: File that receives what it prints on standard error.
    """

    def __init__(self, wire: Link, log: Path) -> None:
        self._wire = wire
        self.log = log
        self._chan: Any = None
        self._chunks: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._rest = b""
        self._ended = False
        self._exit: int | None = None
        self.closed = threading.Event()
        self._writable = threading.Event()
        self._writable.set()
        self.beating = False

    # What asyncssh calls, in its thread.

    def connection_made(self, chan: Any) -> None:
        self._chan = chan

    def session_started(self) -> None:
        pass

    def data_received(self, data: bytes, datatype: int | None) -> None:
        if datatype == _STDERR:
            with open(self.log, "ab") as file:
                file.write(data)
        else:
            self._chunks.put(data)

    def eof_received(self) -> bool:
        self._chunks.put(b"")
        return True  # the exit status is still to come

    def exit_status_received(self, status: int) -> None:
        # A shell that stands between reports a signal so.
        self._exit = 128 - status if status > 128 else status

    def exit_signal_received(self, name: str, core: bool, message: str, lang: str) -> None:
        del core, message, lang
        self._exit = -int(getattr(signal, f"SIG{name}", signal.SIGKILL))

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, error: Exception | None) -> None:
        del error
        self.beating = False
        self._chunks.put(b"")
        self._writable.set()
        self.closed.set()

    # What the rest of the program calls.

    def write(self, data: bytes) -> None:
        """Send; waits while the board does not take it.

        Raises:
            TargetError: The link is cut, or stalled for ANSWER seconds.
        """
        if not self._writable.wait(ANSWER):
            raise TargetError("target-hung", f"{self._wire.name} has taken no bytes for {ANSWER:g} s")
        self._wire.call(self._write(data), ANSWER)

    async def _write(self, data: bytes) -> None:
        if not self._chan.is_closing():
            with contextlib.suppress(BrokenPipeError):  # the next read tells what happened
                self._chan.write(data)

    def read(self, seconds: float) -> bytes | None:
        """What came, b"" at the end, None when nothing came in time.

        Raises:
            TargetError: `target-link-lost`.
        """
        if self._rest:
            found, self._rest = self._rest, b""
            return found
        if self._ended:
            return b""
        try:
            chunk = self._chunks.get(timeout=max(seconds, 0.0))
        except queue.Empty:
            return None
        if not chunk:
            self._ended = True
            self._wire.check()
        return chunk

    def pending(self) -> bool:
        """Whether something can be read at once."""
        return bool(self._rest) or not self._chunks.empty()

    def line(self, seconds: float) -> bytes | None:
        """The next line; None when the process ended before it."""
        deadline = time.monotonic() + seconds
        while b"\n" not in self._rest:
            so_far, self._rest = self._rest, b""
            chunk = self.read(deadline - time.monotonic())
            if chunk is None:
                raise TargetError("target-hung", f"{self._wire.name} has not answered for {seconds:g} s")
            if not chunk:
                return None
            self._rest = so_far + chunk
            if len(self._rest) > _LIMIT:
                raise TargetError("target-nonsense", f"{self._wire.name} answers without end")
        found, self._rest = self._rest.split(b"\n", 1)
        return found

    def message(self, seconds: float) -> dict[str, Any]:
        """The next answer.

        Raises:
            TargetError: `target-hung`, `target-link-lost`, `target-board-died`, `target-nonsense`.
        """
        line = self.line(seconds)
        if line is None:
            raise self.died()
        try:
            found = json.loads(line)
        except ValueError as error:
            raise TargetError("target-nonsense", f"{self._wire.name} answers nonsense: {line[:80]!r}") from error
        if not isinstance(found, dict):
            raise TargetError("target-nonsense", f"{self._wire.name} answers nonsense: {line[:80]!r}")
        return found

    def died(self) -> TargetError:
        """Our process on the board ended by itself."""
        status = self.status()
        how = "ended" if status is None else f"ended by signal {-status}" if status < 0 else f"exited with {status}"
        said = tail(self.log)
        return TargetError(
            "target-board-died",
            f"EdgeKit's process on {self._wire.name} {how}",
            cause=f"Its last words: {said}" if said else None,
            status=status,
        )

    def status(self) -> int | None:
        """How it ended; None while it lives. Waits a little."""
        self.closed.wait(5)
        return self._exit

    def end_input(self) -> None:
        """Close its standard input."""
        with contextlib.suppress(TargetError):
            self._wire.call(self._eof(), ANSWER)

    async def _eof(self) -> None:
        self.beating = False
        if not self._chan.is_closing():
            self._chan.write_eof()

    def beat(self) -> None:
        """An empty line, in the loop's thread."""
        if self.beating and not self._chan.is_closing():
            self._chan.write(b"\n")
