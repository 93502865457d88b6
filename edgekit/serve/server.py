"""The server: it listens, admits, and stops without losing what it accepted.

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
from collections import Counter
from collections.abc import Callable
from types import ModuleType

from edgekit.errors import EdgeKitError, EngineMissingError, LimitError, UsageError
from edgekit.runtimes.flow.metrics import Metrics
from edgekit.runtimes.flow.systemd import notify
from edgekit.serve.access import Access
from edgekit.serve.asking import asking
from edgekit.serve.http import Connection
from edgekit.serve.lane import Asking, Lane
from edgekit.serve.messages import Reply, Request, refusal
from edgekit.serve.pages import Pages
from edgekit.serve.routes import Route, Routes
from edgekit.serve.schedule import Scheduler
from edgekit.serve.settings import Settings
from edgekit.serve.sources import Source

_SWEEP = 0.25
_BACKLOG = 512
_READ = 1 << 17
"""Bytes that are read at once."""
_LINGER = 0.5
"""Seconds in which clients with an open connection that was idle may still send when the server stops."""
_FREE_REFUSALS = 50.0
_PACE = 0.025
"""So many refusals a second are given at once; more are held back so many seconds each, so that clients which ask again
at once do not take the cores from those that are answered.
"""
_EVICTED = ("closing", "idle", "head")
"""States whose connections make room for new ones, the first first."""
_DESCRIPTORS = 64
"""Kept for files, workers and the loop itself."""


class Server:
    """See the module header.

    Args:
        settings: What it is told.
        sources: The models.

    Attributes:
        bounds: As far as this system allows them.
        stopping: It was told to end.
        lanes: Model name -> model.
        http: The parser's module.
        buffer: What is read from any connection goes here.
        traffic: Counts connections and refusals that belong to no model.

    Raises:
        EngineMissingError: `serve-missing`: the extra is not installed.
        UsageError: `serve-exposed`, `serve-key`, `serve-tls`, `serve-model`: settings for a model that is not there.
    """

    def __init__(self, settings: Settings, sources: list[Source]) -> None:
        self.settings = settings
        self.bounds = settings.bounds
        self.access = Access(settings)
        self.stopping = False
        self.ready = False
        self.traffic = Metrics("")
        self.addresses: list[str] = []
        unknown = sorted(set(settings.models) - {source.name for source in sources})
        if unknown:
            raise UsageError("serve-model", f"there are settings for {', '.join(unknown)}, which is not served")
        self.http = _httptools()
        self.buffer = memoryview(bytearray(_READ))
        self._loop = asyncio.get_running_loop()
        self._scheduler = Scheduler(settings.slots)
        self.lanes = {source.name: self._lane(source) for source in sources}
        self._scheduler.lanes = list(self.lanes.values())
        self._pages = Pages(self)
        self._routes = Routes(self._pages.paths(), self.lanes)
        self._connections: set[Connection] = set()
        self._clients: Counter[str] = Counter()
        self._held = 0
        self._refusals, self._refilled = _FREE_REFUSALS, 0.0
        self._listeners: list[asyncio.Server] = []
        self._stop = asyncio.Event()
        self._limit = _allowed_connections(settings.bounds.connections)

    def _lane(self, source: Source) -> Lane:
        serving = self.settings.of(source.name)
        threads = serving.threads or max(self.settings.slots // serving.workers, 1)
        return Lane(source, serving, threads=threads, bounds=self.bounds, pump=self._scheduler.pump)

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
                self.ready = True
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
            for connection in list(self._connections):
                connection.abort()
            await asyncio.gather(*(lane.close() for lane in self.lanes.values()))
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
            await lane.begin()
        while not self._stop.is_set():
            for lane in self.lanes.values():
                if lane.broken is not None:
                    raise lane.broken
            if all(lane.ready for lane in self.lanes.values()):
                return
            await asyncio.sleep(0.01)

    async def _listen(self) -> None:
        settings = self.settings
        try:
            if settings.host is not None:
                listener = await self._loop.create_server(
                    lambda: Connection(self), settings.host, settings.port, backlog=_BACKLOG, ssl=self.access.tls,
                    ssl_handshake_timeout=self.bounds.head_seconds if self.access.tls else None,
                )  # fmt: skip
                self._listeners.append(listener)
                port = listener.sockets[0].getsockname()[1]
                host = f"[{settings.host}]" if ":" in settings.host else settings.host
                self.addresses.append(f"{'https' if self.access.tls else 'http'}://{host}:{port}")
            if settings.socket is not None:
                _check_unused(settings.socket)
                self._listeners.append(
                    await self._loop.create_unix_server(lambda: Connection(self), settings.socket, backlog=_BACKLOG)
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
        self.stopping = True
        for _ in range(3):
            await asyncio.sleep(0)  # a turn of the loop accepts what the kernel has queued
        for listener in self._listeners:
            listener.close()
        begun = self._loop.time()
        while self._connections and self._loop.time() < begun + self.bounds.drain_seconds:
            if self._loop.time() > begun + _LINGER:
                for connection in list(self._connections):
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
            for connection in [one for one in self._connections if now > one.until]:
                connection.expire()
            for lane in self.lanes.values():
                lane.sweep(now)

    # -- What connections ask ----------------------------------------------------------------------------------

    def now(self) -> float:
        """The loop's clock, which is the system's monotonic one."""
        return self._loop.time()

    def joined(self, connection: Connection) -> bool:
        """A client connected; whether there is room, if need be by ending who is idle or slow."""
        if len(self._connections) >= self._limit:
            waiting = [one for one in self._connections if one.state in _EVICTED]
            if waiting:
                gone = min(waiting, key=lambda one: (_EVICTED.index(one.state), one.since))
                self._connections.discard(gone)  # its end is told in another turn of the loop
                gone.abort()
                self.traffic.count("connections", "evicted")
        self._connections.add(connection)
        self.traffic.count("connections", "accepted")
        return len(self._connections) <= self._limit

    def left(self, connection: Connection) -> None:
        self._connections.discard(connection)

    def hold(self, size: int) -> bool:
        """Account for bytes of bodies; whether there is room for them."""
        if size > 0 and self._held + size > self.bounds.buffered:
            return False
        self._held += size
        return True

    def admit(self, request: Request) -> Reply | None:
        """After its headers: None where the body may come, else the answer."""
        try:
            self.access.check(request)
            route = self._routes.find(request.method, request.path)
            if route.lane is None or route.verb in ("about", "ready"):
                request.route = route
                return None
            asked = asking(request, route.lane, route.verb, route.version)
        except EdgeKitError as error:
            return _with_headers(error)
        refused = route.lane.admit(asked.priority)
        if refused is not None:
            return refused
        if self._clients[request.client] >= self.bounds.client_requests:
            return refusal(LimitError("client-busy", "too many requests of this client are under way"), retry=1.0)
        self._clients[request.client] += 1
        request.counted = True
        request.route = asked
        return None

    def handle(self, request: Request) -> None:
        """A request is whole."""
        route = request.route
        if isinstance(route, Asking):
            refused = route.lane.submit(request, route, self._scheduler.share(route.lane))
            if refused is not None:
                self.refused(request, refused)
        elif isinstance(route, Route):
            request.answer(route.page() if route.page else self._pages.model(route))

    def finished(self, request: Request) -> None:
        """It is answered, or its client is gone."""
        if request.counted:
            request.counted = False
            self._clients[request.client] -= 1
            if not self._clients[request.client]:
                del self._clients[request.client]

    def refused(self, request: Request, reply: Reply) -> None:
        """Give a refusal: at once, or in a while when there are many."""
        self.counted(reply)
        now = self._loop.time()
        self._refusals = min(self._refusals + (now - self._refilled) * _FREE_REFUSALS, _FREE_REFUSALS)
        self._refilled = now
        if reply.status in (429, 503) and self._refusals < 1:
            self._loop.call_later(_PACE, request.answer, reply)
            return
        self._refusals = max(self._refusals - 1, 0.0)
        request.answer(reply)

    def counted(self, reply: Reply) -> None:
        """A refusal that no model counts."""
        self.traffic.count("refusals", str(reply.status))

    @property
    def load(self) -> dict[str, int]:
        """What is held now."""
        return {"connections": len(self._connections), "body_bytes": self._held, "clients": len(self._clients)}


def _httptools() -> ModuleType:
    try:
        import httptools
        import orjson
    except ModuleNotFoundError as error:
        from edgekit.parts import install

        raise EngineMissingError("serve-missing", f"serving needs {error.name}", next_step=install("serve")) from error
    del orjson  # the workers'
    return httptools


def _with_headers(error: EdgeKitError) -> Reply:
    headers = b""
    if error.code == "http-method":
        headers = b"allow: %s\r\n" % str(error.details["allow"]).encode()
    elif error.code == "api-key-wrong":
        headers = b"www-authenticate: Bearer\r\n"
    return refusal(error, headers=headers)


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
