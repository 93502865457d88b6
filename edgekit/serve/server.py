"""The server: it listens, opens the models, and stops without losing what it accepted.

Everything here runs on one event loop and nothing in it takes long: bodies are parsed and models are run elsewhere
(`worker`). A sweep four times a second ends what has waited too long.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import os
import resource
import signal
import socket
from collections.abc import Callable
from types import ModuleType

from edgekit.errors import EngineMissingError, LimitError, UsageError
from edgekit.runtimes.flow.systemd import notify
from edgekit.serve.access import Access
from edgekit.serve.door import Door
from edgekit.serve.http import Connection
from edgekit.serve.lane import Lane
from edgekit.serve.pages import Pages
from edgekit.serve.schedule import Scheduler
from edgekit.serve.settings import Settings
from edgekit.serve.sources import Source

_SWEEP = 0.25
_BACKLOG = 512
_LINGER = 0.5
"""Seconds in which clients with an open connection that was idle may still send when the server stops."""
_DESCRIPTORS = 64
"""Kept for files, workers and the loop itself."""


class Server:
    """See the module header.

    Args:
        settings: What it is told.
        sources: The models.

    Attributes:
        access: Who may ask.
        lanes: Name -> lane: a model, or an older version of one.
        addresses: Where it listens.

    Raises:
        EngineMissingError: `serve-missing`: the extra is not installed.
        UsageError: `serve-exposed`, `serve-key`, `serve-tls`, `serve-model`: settings for a model that is not there.
    """

    def __init__(self, settings: Settings, sources: list[Source]) -> None:
        self.settings = settings
        self.access = Access(settings)
        self.addresses: list[str] = []
        unknown = sorted(set(settings.models) - {source.name for source in sources})
        if unknown:
            raise UsageError("serve-model", f"there are settings for {', '.join(unknown)}, which is not served")
        self._parsers = _httptools()
        self._loop = asyncio.get_running_loop()
        scheduler = Scheduler(settings.slots)
        self.lanes = {source.label: self._lane(source, scheduler) for source in sources}
        scheduler.lanes = list(self.lanes.values())
        most = _allowed_connections(settings.bounds.connections)
        self._door = Door(self.access, settings.bounds, self.lanes, scheduler, most)
        pages = Pages(self._door)
        self._door.routes.pages = pages.paths()
        self._door.routes.model_page = pages.model
        self._listeners: list[asyncio.Server] = []
        self._stop = asyncio.Event()

    def _lane(self, source: Source, scheduler: Scheduler) -> Lane:
        serving = self.settings.of(source.name)
        threads = serving.threads or max(self.settings.slots // serving.workers, 1)
        return Lane(source, serving, threads=threads, bounds=self.settings.bounds, pump=scheduler.pump,
                    soon=scheduler.soon)  # fmt: skip

    # -- Its life ----------------------------------------------------------------------------------------------

    async def run(self, announce: Callable[[Server], None]) -> None:
        """Listen, open the models, answer until a signal comes, and end.

        Args:
            announce: Called when all models are ready.

        Raises:
            UsageError: `serve-listen`. And why a model cannot be opened.
        """
        await self._listen()
        sweeper = self._loop.create_task(self._sweeps())
        try:
            for number in (signal.SIGTERM, signal.SIGINT):
                self._loop.add_signal_handler(number, self.stop)
            await self._open()
            if not self._stop.is_set():
                self._door.ready = True
                gc.collect()
                gc.freeze()
                notify("READY=1")
                announce(self)
                await self._stop.wait()
            notify("STOPPING=1")
            await self._drain()
        finally:
            for listener in self._listeners:
                listener.close()
            for connection in list(self._door.guests):
                connection.abort()
            await asyncio.gather(*(lane.versions.close() for lane in self.lanes.values()))
            sweeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await sweeper
            for number in (signal.SIGTERM, signal.SIGINT):
                self._loop.remove_signal_handler(number)

    def stop(self) -> None:
        """End, when what was accepted is answered."""
        self._stop.set()

    async def _open(self) -> None:
        for lane in self.lanes.values():
            await lane.versions.begin()
        while not self._stop.is_set():
            for lane in self.lanes.values():
                if lane.versions.broken is not None:
                    raise lane.versions.broken
            if all(lane.versions.ready for lane in self.lanes.values()):
                return
            await asyncio.sleep(0.01)

    def _connection(self) -> Connection:
        return Connection(self._door, self._parsers)

    async def _listen(self) -> None:
        settings = self.settings
        try:
            if settings.host is not None:
                listener = await self._loop.create_server(
                    self._connection, settings.host, settings.port, backlog=_BACKLOG, ssl=self.access.tls,
                    ssl_handshake_timeout=self.settings.bounds.head_seconds if self.access.tls else None,
                )  # fmt: skip
                self._listeners.append(listener)
                port = listener.sockets[0].getsockname()[1]
                host = f"[{settings.host}]" if ":" in settings.host else settings.host
                self.addresses.append(f"{'https' if self.access.tls else 'http'}://{host}:{port}")
            if settings.socket is not None:
                _check_unused(settings.socket)
                self._listeners.append(
                    await self._loop.create_unix_server(self._connection, settings.socket, backlog=_BACKLOG)
                )
                os.chmod(settings.socket, 0o660)  # noqa: PTH101 - as async code is checked
                self.addresses.append(f"unix:{settings.socket}")
        except OSError as error:
            for listener in self._listeners:
                listener.close()
            where = settings.socket if settings.host is None else f"{settings.host}:{settings.port}"
            raise UsageError("serve-listen", f"cannot listen at {where}: {error.strerror or error}") from error
        if not self._listeners:
            raise UsageError("serve-listen", "there is neither an address nor a socket to listen at")

    async def _drain(self) -> None:
        """Take what waits to be accepted, answer everything, let idle clients go."""
        for _ in range(3):
            await asyncio.sleep(0)  # a turn of the loop accepts what the kernel has queued
        for listener in self._listeners:
            listener.close()
        # Not before: who is told that its connection ends comes again at once, into a queue that nobody accepts from.
        self._door.stopping = True
        begun = self._loop.time()
        while self._door.guests and self._loop.time() < begun + self.settings.bounds.drain_seconds:
            if self._loop.time() > begun + _LINGER:
                for connection in list(self._door.guests):
                    connection.drain()
            await asyncio.sleep(0.02)
        for lane in self.lanes.values():
            lane.refuse_all(LimitError("server-stopping", "the server stops"))
        await asyncio.sleep(0)
        if self.settings.socket is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.settings.socket)  # noqa: PTH108 - as async code is checked

    async def _sweeps(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP)
            now = self._loop.time()
            self._door.sweep(now)
            for lane in self.lanes.values():
                lane.versions.sweep(now)


def _httptools() -> ModuleType:
    try:
        import httptools
        import orjson
    except ModuleNotFoundError as error:
        from edgekit.parts import install

        raise EngineMissingError("serve-missing", f"serving needs {error.name}", next_step=install("serve")) from error
    del orjson  # the workers'
    return httptools


def _allowed_connections(wanted: int) -> int:
    """So many, as far as the system's limit of descriptors goes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted + _DESCRIPTORS:
        most = wanted + _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(wanted + _DESCRIPTORS, hard)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
            soft = most
    return max(min(wanted, soft - _DESCRIPTORS), 1)


def _check_unused(path: str) -> None:
    """Whether nobody answers there: a socket file that its server left is replaced."""
    if not os.path.exists(path):  # noqa: PTH110 - one question
        return
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE), path)
