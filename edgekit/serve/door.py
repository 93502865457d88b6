"""The door: who comes in, what is held for them, and how those are turned away who cannot.

Connections ask here whether a request may come, as soon as its head is there, and bring it when it is whole.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import Counter
from collections.abc import Mapping
from typing import Protocol

from edgekit.errors import EdgeKitError, LimitError
from edgekit.runtimes.flow.metrics import Metrics
from edgekit.serve.access import Access
from edgekit.serve.heads import Heads
from edgekit.serve.lane import Lane
from edgekit.serve.messages import Reply, Request, refusal
from edgekit.serve.room import Arriving, Room
from edgekit.serve.routes import Route, Routes
from edgekit.serve.schedule import Scheduler
from edgekit.serve.settings import Bounds

_READ = 1 << 17
"""Bytes that are read at once."""
_FREE_REFUSALS = 50.0
_GAP, _LEAST, _PACE = 0.000115, 0.024, 0.031
"""So many refusals a second are given at once; more one after the other, so many seconds apart, so many at least and at
most behind their heads: clients that ask again at once shall not take the cores from those that are answered, nor come
all together.
"""
_COST, _DEAR = 2e-8, 0.01
"""And so many seconds later for each byte of a body that was read for nothing, but so many at most: reading 50 kB costs
what a refusal costs otherwise, and is to come as much more seldom.
"""
_TOGETHER = 0.002
"""Seconds of them that are given at once."""
_TURN = 0.0005
"""Seconds after which workers are seen to in the midst of a turn of the loop."""
_EVICTED = ("closing", "idle", "head")
"""States whose connections make room for new ones, the first first."""


class Guest(Protocol):
    """A connection, as the door sees it; `http.Connection` has the meaning of each."""

    state: str
    since: float
    until: float

    def expire(self) -> None: ...
    def slow(self, now: float) -> bool: ...
    def abort(self) -> None: ...
    def drain(self) -> None: ...


class Door:
    """See the module header.

    Args:
        access: Who may ask.
        bounds: See there.
        lanes: Name -> lane.
        scheduler: Of their workers.
        connections: At once, as far as this system allows them.

    Attributes:
        stopping: The server was told to end.
        ready: All models were ready once.
        routes: All paths.
        raw, buffer: What is read from any connection goes here; the second looks into the first.
        traffic: Counts connections and refusals that belong to no model.
        guests: All connections.
        room: For bodies.
    """

    def __init__(
        self, access: Access, bounds: Bounds, lanes: Mapping[str, Lane], scheduler: Scheduler, connections: int
    ) -> None:
        self.access, self.bounds, self.lanes = access, bounds, lanes
        self.stopping = self.ready = False
        self.routes = Routes(lanes)
        self.raw = bytearray(_READ)
        self.buffer = memoryview(self.raw)
        self.traffic = Metrics("")
        self.guests: set[Guest] = set()
        self._scheduler = scheduler
        self._most = connections
        self._heads = {True: Heads(), False: Heads()}
        self._clients: Counter[str] = Counter()
        self.room = Room(bounds)
        self._refusals, self._refilled = _FREE_REFUSALS, 0.0
        self._later: list[tuple[float, int, Request, Reply]] = []
        self._numbered = 0
        self._timer: asyncio.TimerHandle | None = None
        self._served = self._given = 0.0
        self._loop = asyncio.get_running_loop()

    def now(self) -> float:
        """The loop's clock, which is the system's monotonic one."""
        return self._loop.time()

    @property
    def load(self) -> dict[str, int]:
        """What is held now."""
        return {"connections": len(self.guests), "body_bytes": self.room.held, "clients": len(self._clients)}

    # -- Connections -------------------------------------------------------------------------------------------

    def joined(self, guest: Guest) -> bool:
        """A client connected; whether there is room, if need be by ending who is idle or slow."""
        if len(self.guests) >= self._most:
            waiting = [one for one in self.guests if one.state in _EVICTED]
            if waiting:
                gone = min(waiting, key=lambda one: (_EVICTED.index(one.state), one.since))
                self.guests.discard(gone)  # its end is told in another turn of the loop
                gone.abort()
                self.traffic.count("connections", "evicted")
        self.guests.add(guest)
        self.traffic.count("connections", "accepted")
        return len(self.guests) <= self._most

    def left(self, guest: Guest) -> None:
        self.guests.discard(guest)

    def heads(self, *, local: bool) -> Heads:
        """Those that clients of a unix socket, who need not name this machine, may send; or those of the others."""
        return self._heads[local]

    def sweep(self, now: float) -> None:
        """End what has waited too long; where bodies wait for room, also what is slow to arrive."""
        wanted = self.room.wanted
        for guest in [one for one in self.guests if now > one.until or (wanted and one.slow(now))]:
            guest.expire()

    # -- Requests ----------------------------------------------------------------------------------------------

    def admit(self, request: Request) -> Reply | None:
        """After its headers: None where the body may come, else the answer."""
        if request.path[:7].lower() == b"http://":  # as to a proxy; then this is the host (RFC 9112, section 3.2.2)
            request.headers[b"host"], slash, path = request.path[7:].partition(b"/")
            request.path = slash + path
        try:
            request.client = self.access.check(request) or request.client
            request.route = self.routes.find(request.method, request.path, request.headers)
        except EdgeKitError as error:
            return _with_headers(error)
        return self.enter(request, request.route)

    def enter(self, request: Request, route: Route) -> Reply | None:
        """The same where its head was read before."""
        if route.lane is None or route.asking is None:
            return None
        refused = route.lane.admit(route.asking)
        if refused is not None:
            return refused
        return self._busy(request)

    def announce(self, request: Request, size: int, arriving: Arriving) -> Reply | None:
        """Its body, which has so many bytes, is on its way; why it need not come. See `Room.announce`."""
        route = request.route
        assert isinstance(route, Route)  # noqa: S101 - it was admitted
        if route.lane is None or route.asking is None:
            return None
        share = self._scheduler.share(route.lane)
        return self.room.announce(request, route.lane, route.asking, size, arriving, share)

    def handle(self, request: Request) -> None:
        """A request is whole."""
        route = request.route
        assert isinstance(route, Route)  # noqa: S101 - it was admitted
        if route.page is not None:
            request.answer(route.page())
        elif route.lane is not None and route.asking is not None:
            refused = self._busy(request)
            if refused is None:
                self._clients[request.client] += 1
                request.counted = True
                refused = route.lane.submit(request, route.asking, self._scheduler.share(route.lane))
            if refused is not None:
                self.refuse(request, refused)

    def _busy(self, request: Request) -> Reply | None:
        """Whether its client has too many under way. What still arrives does not count: slow ones would shut it out."""
        if self._clients[request.client] < self.bounds.client_requests:
            return None
        return refusal(LimitError("client-busy", "too many requests of this client are under way"), retry=1.0)

    def finished(self, request: Request) -> None:
        """It is answered, or its client is gone."""
        self.room.left(request)
        if request.counted:
            request.counted = False
            self._clients[request.client] -= 1
            if not self._clients[request.client]:
                del self._clients[request.client]

    def refuse(self, request: Request, reply: Reply) -> None:
        """Give a refusal: at once, or in a while when there are many."""
        self.counted(reply)
        now = self._loop.time()
        self._refusals = min(self._refusals + (now - self._refilled) * _FREE_REFUSALS, _FREE_REFUSALS)
        self._refilled = now
        if self._refusals >= 1 or not reply.later:
            self._refusals = max(self._refusals - 1, 0.0)
            request.answer(reply)
            return
        # From its head on: one whose body came later has waited for that.
        dear = min(_COST * request.dropped, _DEAR)
        due = min(max(self._given + _GAP, request.arrived + _LEAST + dear), request.arrived + _PACE + dear)
        if due <= now:
            request.answer(reply)
            return
        self._given = max(self._given, due - dear)
        self._numbered += 1
        heapq.heappush(self._later, (due, self._numbered, request, reply))
        if self._later[0][1] == self._numbered:  # it is the first now
            self._wake()

    def between(self) -> None:
        """After a connection was seen to: workers do not wait for a turn of the loop in which very many ask."""
        now = self._loop.time()
        if now - self._served >= _TURN:
            self._served = now
            self._scheduler.serve()

    def counted(self, reply: Reply) -> None:
        """A refusal that no model counts."""
        self.traffic.count("refusals", str(reply.status))

    def _turn_away(self) -> None:
        """Give those that were held back long enough."""
        until = self._loop.time() + _TOGETHER
        try:
            while self._later and self._later[0][0] <= until:
                _, _, request, reply = heapq.heappop(self._later)
                request.answer(reply)
                self.between()
        finally:  # one that goes wrong does not keep the others waiting for ever
            if self._later:
                self._wake()

    def _wake(self) -> None:
        """Come back when the first of them is due."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(self._later[0][0], self._turn_away)


def _with_headers(error: EdgeKitError) -> Reply:
    headers = b""
    if error.code == "http-method":
        headers = b"allow: %s\r\n" % str(error.details["allow"]).encode()
    elif error.code == "api-key-wrong":
        headers = b"www-authenticate: Bearer\r\n"
    return refusal(error, headers=headers)
