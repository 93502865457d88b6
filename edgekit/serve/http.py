"""A connection: HTTP/1.1 by httptools (llhttp), with a bound on everything that a client can make grow or wait.

Every state has an end: `until` is the time at which the server's sweep asks `expire`. Requests are refused as soon as
their headers tell, without their bodies being kept. A request whose head is known (`heads`) passes the parser by. What
a callback of the parser refuses it raises as `_Refused`, which ends the parsing; no other exception leaves a callback.
"""

from __future__ import annotations

import asyncio
import math
import os
import socket
from collections import deque
from types import ModuleType
from typing import TYPE_CHECKING, cast

from edgekit.errors import FeedError, LimitError
from edgekit.serve.door import Door
from edgekit.serve.heads import LONGEST
from edgekit.serve.messages import Reply, Request, refusal
from edgekit.serve.routes import Route

if TYPE_CHECKING:
    import httptools

_LINGER = 2.0
"""Seconds in which a client may go on sending before it reads its last answer: hanging up at once would take that away
from it (RFC 9112, section 9.6).
"""
_DROPPED = 1 << 18
"""Bytes of a refused body that are read to keep its connection; behind a longer one it is closed."""
_LARGE = 1 << 14
"""Bytes: on a connection that sent a larger body the next head is read alone, so that the kernel can put the body where
it belongs, or nowhere.
"""


_OVER = Reply(400)
"""To what is sent behind a last request: never given."""


class _Refused(Exception):  # noqa: N818 - carries a reply, is no error
    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.status)
        self.reply = reply


class Connection(asyncio.BufferedProtocol):
    """One client's connection.

    Args:
        door: Whom it asks.
        parsers: The module httptools.

    Attributes:
        until: When it has waited too long for what it waits for, by the loop's clock.
        since: Since when it waits for that.
        state: "idle" between requests, "head" and "body" while one arrives, "busy" while it is answered, "closing".
    """

    __slots__ = ("_active", "_brief", "_chunks", "_door", "_fresh", "_head", "_heads", "_held", "_missing", "_named",
                 "_parser", "_parsers", "_paused", "_raw", "_request", "_socket", "_transport", "_waiting", "client",
                 "since", "state", "until")  # fmt: skip

    def __init__(self, door: Door, parsers: ModuleType) -> None:
        self._door = door
        self._parsers = parsers
        self._parser: httptools.HttpRequestParser | None = parsers.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._request: Request | None = None
        self._active: Request | None = None
        self._waiting: deque[Request] = deque()
        self._paused = self._brief = False
        self._socket: int | None = None
        self._head = self._raw = self._chunks = self._held = self._named = self._missing = 0
        self._fresh = b""
        self._heads = door.heads(local=False)
        self.client = ""
        self.state = "head"
        self.since = self.until = 0.0

    # -- The transport -----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if transport.get_extra_info("sslcontext") is None:
            self._socket = transport.get_extra_info("socket").fileno()
        peer = transport.get_extra_info("peername")
        self.client = str(peer[0]) if isinstance(peer, tuple) else "local"
        self._heads = self._door.heads(local=self.client == "local")
        self._wait("head", self._door.bounds.head_seconds)
        if not self._door.joined(self):
            self._end(refusal(LimitError("server-full", "too many connections"), retry=1.0))

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self.state = "closing"
        self._door.left(self)
        self._release(self._held)
        for request in (self._active, *self._waiting, self._request):
            if request is not None and not request.done:
                request.done = True
                if request.gone is not None:
                    request.gone()
                self._door.finished(request)
        self._active = self._request = self._parser = self._transport = self._socket = None
        self._waiting.clear()

    def get_buffer(self, sizehint: int) -> memoryview:
        """One for all connections: what is in it is looked at before the loop reads again. A known body has its own."""
        del sizehint
        if self._missing and self._asked.refusal is None:
            return memoryview(self._asked.body)[-self._missing :]
        if self._brief and self._between:
            return self._door.buffer[:LONGEST]
        return self._door.buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self._parser is None or self.state == "closing":
            return
        start = 0
        try:
            if self._missing:
                start = min(self._missing, nbytes)
                self._more(start)
            elif self._between:
                start = self._recognized(nbytes)
            if start < nbytes:
                self._parse(start, nbytes)
        except _Refused as stopped:
            self._stop(stopped.reply)
        self._fresh = b""
        self._door.between()

    @property
    def _between(self) -> bool:
        """Nothing has begun, and nothing is under way."""
        return self._request is None and self._active is None and not self._waiting

    def _recognized(self, nbytes: int) -> int:
        """Take a request whose head is known from the buffer's start; how many bytes that were."""
        door = self._door
        end = door.raw.find(b"\r\n\r\n", 0, min(nbytes, LONGEST)) + 4
        if end < 4:
            return 0
        raw = bytes(door.buffer[:end])
        head = self._heads.find(raw)
        if head is None:
            self._fresh = raw
            return 0
        request = self._request = Request(self.answered, head.client or self.client, door.now())
        request.method, request.headers, request.route = head.method, head.headers, head.route
        request.refusal = door.enter(request, head.route)
        self._check_refused(request, head.length)
        self._brief = head.length > _LARGE
        self._missing = head.length
        here = min(head.length, nbytes - end)
        if request.refusal is None:
            request.body = bytearray(head.length)  # no memory before something is in it
            request.body[:here] = door.buffer[end : end + here]
        self._more(here)
        if self._missing:
            self._wait("body", door.bounds.body_seconds)
            self._rest()
        return end + here

    def _more(self, size: int) -> None:
        """So much more of the body of such a request is there."""
        request = self._asked
        if request.refusal is None:
            self._hold(size)
        self._missing -= size
        if not self._missing:
            self._whole(request)

    def _rest(self) -> None:
        """Take what the kernel has of it already."""
        request = self._asked
        if self._socket is None:
            return
        try:
            if request.refusal is None:
                size = os.readv(self._socket, [memoryview(request.body)[-self._missing :]])
            else:
                size = _discarded(self._socket, self._door.buffer[: self._missing])
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            return  # the loop will see it
        self._more(size)

    def _parse(self, start: int, nbytes: int) -> None:
        parser = self._parser
        if parser is None or self.state == "closing":
            return
        if self.state == "idle":
            self._wait("head", self._door.bounds.head_seconds)
        self._head += nbytes - start
        self._raw += nbytes - start
        try:
            parser.feed_data(self._door.buffer[start:nbytes])
            if self._request is not None:
                self._check_raw()
        except self._parsers.HttpParserUpgrade:
            self._no_upgrade()
        except self._parsers.HttpParserCallbackError as error:
            stopped = error.__context__
            if not isinstance(stopped, _Refused):
                raise
            raise stopped from None
        except self._parsers.HttpParserError as error:
            self._stop(refusal(FeedError("http-malformed", f"this is no HTTP: {error}")))

    def pause_writing(self) -> None:
        self._paused = True
        self._wait(self.state, self._door.bounds.write_seconds)

    def resume_writing(self) -> None:
        self._paused = False
        if self.state == "idle":
            self._wait("idle", self._door.bounds.idle_seconds)
        elif self.state == "busy":
            self.until = math.inf

    def expire(self) -> None:
        """It waited too long."""
        if self._paused or self.state in ("idle", "closing") or (self._head == 0 and self._request is None):
            self.abort()
        else:
            self._stop(refusal(FeedError("http-slow", "the request did not arrive in time")))

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

    # -- The parser --------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self.state == "closing":
            raise _Refused(_OVER)
        self._request = Request(self.answered, self.client, self._door.now())
        self._chunks = self._named = 0

    def on_url(self, url: bytes) -> None:
        request = self._asked
        request.path += url
        self._name(len(url))

    def on_header(self, name: bytes, value: bytes | None) -> None:
        request = self._asked
        if request.method:
            return  # a trailer
        key = name.lower()
        if key in request.headers:
            if key in (b"host", b"content-length", b"authorization", b"x-api-key"):
                raise _Refused(refusal(FeedError("http-header", f"two headers {key.decode('latin1')}")))
            value = request.headers[key] + b", " + (value or b"")
        request.headers[key] = value or b""
        if len(request.headers) > self._door.bounds.headers:
            raise _Refused(refusal(LimitError("http-head", f"more than {self._door.bounds.headers} headers")))
        self._name(len(name) + len(request.headers[key]))

    def on_headers_complete(self) -> None:
        request, parser, door = self._asked, self._parser, self._door
        assert parser is not None  # noqa: S101 - it is calling
        request.method = parser.get_method()
        request.alive = parser.should_keep_alive() and not parser.should_upgrade()
        self._head = 0
        self._raw = 0
        if self._active is None:
            self._wait("body", door.bounds.body_seconds)
        headers = request.headers
        length = int(headers.get(b"content-length") or 0)
        if length > door.bounds.body:
            raise _Refused(refusal(self._too_long()))
        request.refusal = door.admit(request)
        self._check_refused(request, length)
        if b"expect" in headers and request.refusal is None:
            if headers[b"expect"].lower() != b"100-continue":
                raise _Refused(refusal(FeedError("http-expect", "the only expectation that is met is 100-continue")))
            if self._transport is not None and self._active is None:
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if self._fresh and isinstance(request.route, Route) and request.alive:
            client = "" if request.client == self.client else request.client
            self._heads.keep(self._fresh, request.method, headers, client, request.route)
        self._fresh = b""

    def on_chunk_header(self) -> None:
        self._chunks += 1
        if self._chunks > self._door.bounds.chunks:
            raise _Refused(refusal(LimitError("http-chunks", f"more than {self._door.bounds.chunks} chunks")))

    def on_body(self, body: bytes) -> None:
        request = self._asked
        if request.refusal is None:
            if len(request.body) + len(body) > self._door.bounds.body:
                raise _Refused(refusal(self._too_long()))
            self._hold(len(body))
            request.body += body
            return
        self._chunks += 1
        self._raw += len(body)
        if self._raw > 2 * _DROPPED:
            raise _Refused(request.refusal)

    def on_message_complete(self) -> None:
        self._head = self._raw = 0
        self._whole(self._asked)

    def _whole(self, request: Request) -> None:
        """All of it is there."""
        self._request = None
        if self._active is not None or self._waiting:  # those that wait are before it, also between two turns
            if len(self._waiting) >= self._door.bounds.pipelined:
                self._waiting.clear()
                raise _Refused(refusal(LimitError("http-pipelined", "too many requests sent ahead"), retry=1.0))
            self._waiting.append(request)
            return
        self._begin(request)

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
        elif self._waiting:
            # In a turn of its own: replies that are given at once would nest.
            asyncio.get_running_loop().call_soon(self._next)
        elif self._request is not None:
            self._wait("body" if self._request.method else "head", self._door.bounds.body_seconds)
        else:
            seconds = self._door.bounds.write_seconds if self._paused else self._door.bounds.idle_seconds
            self._wait("idle", seconds)

    def _next(self) -> None:
        if self._active is None and self._waiting and self.state != "closing":
            self._begin(self._waiting.popleft())

    def _stop(self, reply: Reply) -> None:
        """Refuse what is arriving, behind what is being answered, and end the connection."""
        if self.state == "closing":
            return
        if self._active is not None or self._waiting:
            # Their answers come first; the refusal is the connection's last word.
            last = Request(self.answered, self.client, self._door.now())
            last.alive = False
            last.refusal = reply
            self._waiting.append(last)
            self._parser = None
            return
        self._end(reply)

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
        if not transport.can_write_eof():  # TLS
            transport.close()
        elif not self._paused:
            transport.write_eof()
            self.until = self.since + _LINGER
        else:
            transport.write_eof()

    def _no_upgrade(self) -> None:
        """Asked for another protocol: the answer is in this one, and the last."""
        self._parser = None

    # -- Bounds ------------------------------------------------------------------------------------------------

    @property
    def _asked(self) -> Request:
        assert self._request is not None  # noqa: S101 - the parser begins a message before anything else
        return self._request

    def _wait(self, state: str, seconds: float) -> None:
        self.state = state
        self.since = self._door.now()
        self.until = self.since + seconds

    def _name(self, size: int) -> None:
        self._named += size
        if self._named > self._door.bounds.head:
            raise _Refused(refusal(LimitError("http-head", f"more than {self._door.bounds.head} bytes of headers")))

    def _check_raw(self) -> None:
        """A head or a body that grows without the parser telling of it: one endless header, chunk extensions."""
        request = self._asked
        bounds = self._door.bounds
        if not request.method:
            if self._head > 2 * bounds.head + (1 << 18):
                raise _Refused(refusal(LimitError("http-head", f"more than {bounds.head} bytes of headers")))
        elif self._raw > 2 * bounds.body + (1 << 18):
            raise _Refused(refusal(self._too_long()))

    def _too_long(self) -> LimitError:
        return LimitError("body-limit", f"the body has more than {self._door.bounds.body} bytes")

    def _check_refused(self, request: Request, length: int) -> None:
        """Whether its body is worth reading for the sake of the connection."""
        if request.refusal is not None and (request.refusal.close or length > _DROPPED):
            raise _Refused(request.refusal)

    def _hold(self, size: int) -> None:
        if not self._door.hold(size):
            raise _Refused(refusal(LimitError("server-full", "bodies of other requests fill the memory"), retry=1.0))
        self._held += size

    def _release(self, size: int) -> None:
        size = min(size, self._held)
        self._held -= size
        self._door.hold(-size)


def _discarded(descriptor: int, view: memoryview) -> int:
    """Bytes that a socket had, at most as many as the view has, and has no more; only their number is told."""
    borrowed = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, descriptor)
    try:
        return borrowed.recv_into(view, 0, socket.MSG_TRUNC)
    finally:
        borrowed.detach()
