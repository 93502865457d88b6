"""A connection: what arrives on it (`arrival`) is answered in order, and every state has an end: `until` is the time at
which the server's sweep asks `expire`.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from types import ModuleType
from typing import cast

from edgekit.errors import FeedError, LimitError
from edgekit.serve.arrival import Arrival, Refused
from edgekit.serve.door import Door
from edgekit.serve.messages import Reply, Request, refusal
from edgekit.serve.room import is_slow

_FULL = "bodies of other requests fill the memory"
_LINGER = 2.0
"""Seconds in which a client may go on sending before it reads its last answer: hanging up at once would take that away
from it (RFC 9112, section 9.6).
"""
_LARGE = 1 << 14
"""Bytes of a body: who sent less of it takes nothing from others, however slow."""
_PARTING = 0.1
"""Seconds behind its request in which a client says that it says no more, but waits for the answer, as tools do that
pipe a file through a socket. One that ends its side later has given up: it looks the same, and nobody would read.
"""


class Connection(asyncio.BufferedProtocol):
    """One client's connection.

    Args:
        door: Whom it asks.
        parsers: The module httptools.

    Attributes:
        until: When it has waited too long for what it waits for, by the loop's clock.
        since: Since when it waits for that; "busy", since when the last request was whole.
        state: "idle" between requests, "head" and "body" while one arrives, "busy" while it is answered, "closing".
    """

    __slots__ = ("_active", "_arrival", "_door", "_dropped", "_ended", "_held", "_parsers", "_paused", "_reading",
                 "_transport", "_waiting", "client", "since", "state", "until")  # fmt: skip

    def __init__(self, door: Door, parsers: ModuleType) -> None:
        self._door = door
        self._parsers = parsers
        self._transport: asyncio.Transport | None = None
        self._active: Request | None = None
        self._waiting: deque[Request] = deque()
        self._paused = self._ended = False
        self._reading = True
        self._held = self._dropped = 0
        self.client = ""
        self.state = "head"
        self.since = self.until = 0.0
        self._arrival: Arrival

    # -- The transport -----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        plain = transport.get_extra_info("sslcontext") is None
        peer = transport.get_extra_info("peername")
        self.client = str(peer[0]) if isinstance(peer, tuple) else "local"
        self._arrival = Arrival(self, self._door, self._parsers, transport.get_extra_info("socket") if plain else None)
        self.wait("head", self._door.bounds.head_seconds)
        if not self._door.joined(self):
            self._end(refusal(LimitError("server-full", "too many connections"), retry=1.0))

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self.state = "closing"
        self._door.left(self)
        self._release(self._held)
        for request in (self._active, *self._waiting, self._arrival.request):
            if request is not None and not request.done:
                request.done = True
                if request.gone is not None:
                    request.gone()
                self._door.finished(request)
        self._active = self._arrival.request = self._transport = None
        self._arrival.end()
        self._waiting.clear()

    def get_buffer(self, sizehint: int) -> memoryview:
        del sizehint
        return self._arrival.buffer()

    def buffer_updated(self, nbytes: int) -> None:
        if self.state == "closing":
            self._dropped += nbytes + self._arrival.dropped()
            if self._dropped > self._door.bounds.body:
                self.abort()
            return
        try:
            self._arrival.take(nbytes)
        except Refused as stopped:
            self.stop(stopped.reply, stopped.request)
        self._door.between()

    def eof_received(self) -> bool:
        """The client says no more; whether it is to get its answers (TLS ends both ways at once)."""
        last = self._waiting[-1] if self._waiting else self._active
        late = self._door.now() > self.since + _PARTING
        if last is None or late or self.state == "closing" or self._transport is None:
            return False
        if not self._transport.can_write_eof():
            return False
        self._ended = True
        last.alive = False
        return True

    def pause_writing(self) -> None:
        """The client does not take its answers: it is not asked for more, nor given more."""
        self._paused = True
        self._set_reading()
        self.wait(self.state, self._door.bounds.write_seconds)

    def resume_writing(self) -> None:
        self._paused = False
        self._set_reading()
        if self.state == "closing":
            return
        if self._active is None:
            self._follow()
        else:
            self.until = math.inf

    def expire(self) -> None:
        """It waited too long."""
        if self._paused or self.state in ("idle", "closing") or not self._arrival.begun:
            self.abort()
        elif self._arrival.waits:
            self.stop(refusal(LimitError("server-full", _FULL), retry=1.0))
        else:
            self.stop(refusal(FeedError("http-slow", "the request did not arrive in time")))

    def slow(self, now: float) -> bool:
        """It keeps others waiting by a large body that does not come."""
        large = self.state == "body" and self._held > _LARGE and not self._arrival.waits
        return large and is_slow(now - self.since, self._held)

    def abort(self) -> None:
        """End it now, whatever waits for the client."""
        self.state = "closing"
        if self._transport is not None:
            self._transport.abort()

    def drain(self) -> None:
        """The server stops: end it when nothing is under way."""
        if self.state == "idle" and self._transport is not None and not self._paused:
            self.state = "closing"
            self._transport.close()

    # -- What arrives ------------------------------------------------------------------------------------------

    @property
    def free(self) -> bool:
        """Nothing is under way."""
        return self._active is None and not self._waiting

    @property
    def active(self) -> bool:
        """A request is being answered."""
        return self._active is not None

    def wait(self, state: str, seconds: float) -> None:
        """In this state for so long at most."""
        self.state = state
        self.since = self._door.now()
        self.until = self.since + seconds

    def read(self, *, on: bool) -> None:
        """Whether the client may send more."""
        self._reading = on
        self._set_reading()

    def _set_reading(self) -> None:
        if self._transport is None:
            return
        if self._reading and not self._paused:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    def go_on(self) -> None:
        """Tell a client to send the body that it keeps back, unless other answers come first."""
        if self._transport is not None and self._active is None:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def whole(self, request: Request) -> None:
        """All of it is there.

        Raises:
            Refused: Too many are.
        """
        self.since = self._door.now()
        if self.free and not self._paused:
            self._begin(request)
            return
        # Those that wait are before it, also between two turns.
        if len(self._waiting) >= self._door.bounds.pipelined:
            self._waiting.clear()
            raise Refused(refusal(LimitError("http-pipelined", "too many requests sent ahead"), retry=1.0))
        self._waiting.append(request)

    def hold(self, size: int) -> None:
        """So many bytes of a body are kept, or no longer.

        Raises:
            Refused: There is no room for them.
        """
        if not self._door.room.hold(size):
            raise Refused(refusal(LimitError("server-full", _FULL), retry=1.0))
        self._held += size

    def promised(self, size: int) -> None:
        """So many will be; there is room."""
        self._held += size

    def _release(self, size: int) -> None:
        self.hold(-min(size, self._held))

    # -- Answering ---------------------------------------------------------------------------------------------

    def _begin(self, request: Request) -> None:
        self._active = request
        self.state = "busy"
        self.until = math.inf
        if request.refusal is not None:
            self._door.refuse(request, request.refusal)
        else:
            self._door.handle(request)

    def answered(self, request: Request, reply: Reply) -> None:
        """The reply of the request that is active; of one that was given up nothing happens."""
        if request.done:
            return
        request.done = True
        self._door.finished(request)
        self._release(len(request.body))
        request.body = bytearray()
        transport = self._transport
        if request is not self._active or transport is None or self.state == "closing":
            return
        self._active = None
        alive = request.alive and not reply.close and not self._door.stopping
        transport.write(reply.rendered(alive=alive, head=request.method == b"HEAD"))
        if not alive:
            self._hang_up(transport)
        elif not self._paused:
            self._follow()

    def _follow(self) -> None:
        """What comes behind an answer."""
        if self._waiting:
            # In a turn of its own: replies that are given at once would nest.
            asyncio.get_running_loop().call_soon(self._next)
        elif (arriving := self._arrival.request) is not None:
            self.wait("body" if arriving.method else "head", self._door.bounds.body_seconds)
        else:
            self.wait("idle", self._door.bounds.idle_seconds)

    def _next(self) -> None:
        if self._active is None and self._waiting and self.state != "closing":
            self._begin(self._waiting.popleft())

    def stop(self, reply: Reply, request: Request | None = None) -> None:
        """Refuse what is arriving, behind what is being answered, and end the connection.

        Args:
            reply: The answer.
            request: It, if its head is known: such a refusal may be held back, and nothing is read meanwhile.
        """
        if self.state == "closing":
            return
        self._release(self._arrival.end())
        if request is None and self.free:
            self._end(reply)
            return
        # Answers to what came before are first; the refusal is the connection's last word.
        last = request or Request(self.answered, self.client, self._door.now())
        last.alive = False
        last.refusal = reply
        if request is not None:
            self.read(on=False)
            self.since = self._door.now()
        if self.free:
            self._begin(last)
        else:
            self._waiting.append(last)

    def _end(self, reply: Reply) -> None:
        transport = self._transport
        if transport is None:
            return
        self._door.counted(reply)
        transport.write(reply.rendered(alive=False))
        self._hang_up(transport)

    def _hang_up(self, transport: asyncio.Transport) -> None:
        """Say no more; go when the client goes, or soon."""
        self.state = "closing"
        self.since = self._door.now()
        self.until = self.since + self._door.bounds.write_seconds
        unread = not self._reading
        self.read(on=True)
        if not transport.can_write_eof() and unread:
            self.until = self.since + _LINGER  # a close would take the answer from a client that still sends
        elif self._ended or not transport.can_write_eof():  # TLS
            transport.close()
        else:
            try:
                transport.write_eof()
            except OSError:  # its client is gone
                transport.abort()
            if not self._paused:
                self.until = self.since + _LINGER
