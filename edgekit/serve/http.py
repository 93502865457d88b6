"""A connection: HTTP/1.1 by httptools (llhttp), with a bound on everything that a client can make grow or wait.

Every state has an end: `until` is the time at which the server's sweep asks `expire`. Requests are refused as soon as
their headers tell, without their bodies being kept. What a callback of the parser refuses it raises as `_Refused`,
which ends the parsing; no other exception leaves a callback.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from typing import TYPE_CHECKING, cast

from edgekit.errors import EdgeKitError, FeedError, LimitError
from edgekit.serve.messages import Reply, Request, refusal

if TYPE_CHECKING:
    import httptools

    from edgekit.serve.server import Server

_LINGER = 2.0
"""Seconds in which a client may go on sending before it reads its last answer: hanging up at once would take that away
from it (RFC 9112, section 9.6).
"""
_DROPPED = 1 << 18
"""Bytes of a refused body that are read to keep its connection; behind a longer one it is closed."""


_OVER = Reply(400)
"""To what is sent behind a last request: never given."""


class _Refused(Exception):  # noqa: N818 - carries a reply, is no error
    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.status)
        self.reply = reply


class Connection(asyncio.BufferedProtocol):
    """One client's connection.

    Attributes:
        until: When it has waited too long for what it waits for, by the loop's clock.
        since: Since when it waits for that.
        state: "idle" between requests, "head" and "body" while one arrives, "busy" while it is answered, "closing".
    """

    __slots__ = ("_active", "_chunks", "_head", "_held", "_named", "_parser", "_paused", "_raw", "_refused", "_request",
                 "_server", "_transport", "_waiting", "client", "since", "state", "until")  # fmt: skip

    def __init__(self, server: Server) -> None:
        self._server = server
        self._parser: httptools.HttpRequestParser | None = server.http.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._request: Request | None = None
        self._active: Request | None = None
        self._waiting: deque[Request] = deque()
        self._refused: Reply | None = None
        self._paused = False
        self._head = self._raw = self._chunks = self._held = self._named = 0
        self.client = ""
        self.state = "head"
        self.since = self.until = 0.0

    # -- The transport -----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        peer = transport.get_extra_info("peername")
        self.client = str(peer[0]) if isinstance(peer, tuple) else "local"
        self._wait("head", self._server.bounds.head_seconds)
        if not self._server.joined(self):
            self._end(refusal(LimitError("server-full", "too many connections"), retry=1.0))

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self.state = "closing"
        self._server.left(self)
        self._release(self._held)
        for request in (self._active, *self._waiting, self._request):
            if request is not None and not request.done:
                request.done = True
                if request.gone is not None:
                    request.gone()
                self._server.finished(request)
        self._active = self._request = self._parser = self._transport = None
        self._waiting.clear()

    def get_buffer(self, sizehint: int) -> memoryview:
        """One for all connections: what is in it is looked at before the loop reads again."""
        del sizehint
        return self._server.buffer

    def buffer_updated(self, nbytes: int) -> None:
        parser = self._parser
        if parser is None or self.state == "closing":
            return
        data = self._server.buffer[:nbytes]
        if self.state == "idle":
            self._wait("head", self._server.bounds.head_seconds)
        self._head += nbytes
        self._raw += nbytes
        try:
            parser.feed_data(data)
            if self._request is not None:
                self._check_raw()
        except self._server.http.HttpParserUpgrade:
            self._no_upgrade()
        except self._server.http.HttpParserCallbackError as error:
            stopped = error.__context__
            if not isinstance(stopped, _Refused):
                raise
            self._stop(stopped.reply)
        except _Refused as stopped:
            self._stop(stopped.reply)
        except self._server.http.HttpParserError as error:
            self._stop(refusal(FeedError("http-malformed", f"this is no HTTP: {error}")))

    def pause_writing(self) -> None:
        self._paused = True
        self._wait(self.state, self._server.bounds.write_seconds)

    def resume_writing(self) -> None:
        self._paused = False
        if self.state == "idle":
            self._wait("idle", self._server.bounds.idle_seconds)
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
        self._request = Request(self, self.client, self._server.now())
        self._refused = None
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
        if len(request.headers) > self._server.bounds.headers:
            raise _Refused(refusal(LimitError("http-head", f"more than {self._server.bounds.headers} headers")))
        self._name(len(name) + len(request.headers[key]))

    def on_headers_complete(self) -> None:
        request, parser = self._asked, self._parser
        assert parser is not None  # noqa: S101 - it is calling
        request.method = parser.get_method()
        request.alive = parser.should_keep_alive() and not parser.should_upgrade()
        self._head = 0
        self._raw = 0
        if self._active is None:
            self._wait("body", self._server.bounds.body_seconds)
        headers = request.headers
        length = headers.get(b"content-length", b"")
        if length and int(length) > self._server.bounds.body:
            raise _Refused(refusal(self._too_long()))
        try:
            self._refused = self._server.admit(request)
        except EdgeKitError as error:
            self._refused = refusal(error)
        if self._refused is not None and (self._refused.close or (length and int(length) > _DROPPED)):
            raise _Refused(self._refused)
        if b"expect" in headers and self._refused is None:
            if headers[b"expect"].lower() != b"100-continue":
                raise _Refused(refusal(FeedError("http-expect", "the only expectation that is met is 100-continue")))
            if self._transport is not None and self._active is None:
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_chunk_header(self) -> None:
        self._chunks += 1
        if self._chunks > self._server.bounds.chunks:
            raise _Refused(refusal(LimitError("http-chunks", f"more than {self._server.bounds.chunks} chunks")))

    def on_body(self, body: bytes) -> None:
        request = self._asked
        if self._refused is not None:
            self._held_back(len(body))
            return
        if len(request.body) + len(body) > self._server.bounds.body:
            raise _Refused(refusal(self._too_long()))
        if not self._server.hold(len(body)):
            raise _Refused(refusal(LimitError("server-full", "bodies of other requests fill the memory"), retry=1.0))
        self._held += len(body)
        request.body += body

    def on_message_complete(self) -> None:
        request = self._asked
        self._request = None
        self._head = self._raw = 0
        if self._refused is not None:
            request.route = self._refused
        if self._active is not None:
            if len(self._waiting) >= self._server.bounds.pipelined:
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
        if isinstance(request.route, Reply):
            self._server.refused(request, request.route)
        else:
            self._server.handle(request)

    def answered(self, request: Request, reply: Reply) -> None:
        """The reply of the request that is active; of one that was given up nothing happens."""
        if request.done:
            return
        request.done = True
        self._server.finished(request)
        self._release(len(request.body))
        request.body = bytearray()
        transport = self._transport
        if request is not self._active or transport is None or self.state == "closing":
            return
        self._active = None
        alive = request.alive and not reply.close and not self._server.stopping
        transport.write(reply.rendered(alive=alive, head=request.method == b"HEAD"))
        if not alive:
            self._hang_up(transport)
        elif self._waiting:
            # In a turn of its own: replies that are given at once would nest.
            asyncio.get_running_loop().call_soon(self._next)
        elif self._request is not None:
            self._wait("body" if self._request.method else "head", self._server.bounds.body_seconds)
        else:
            seconds = self._server.bounds.write_seconds if self._paused else self._server.bounds.idle_seconds
            self._wait("idle", seconds)

    def _next(self) -> None:
        if self._active is None and self._waiting and self.state != "closing":
            self._begin(self._waiting.popleft())

    def _stop(self, reply: Reply) -> None:
        """Refuse what is arriving, behind what is being answered, and end the connection."""
        if self.state == "closing":
            return
        if self._active is not None:
            # Its answer comes first; the refusal is the connection's last word.
            last = Request(self, self.client, self._server.now())
            last.alive = False
            last.route = reply
            self._waiting.append(last)
            self._parser = None
            return
        self._end(reply)

    def _end(self, reply: Reply) -> None:
        transport = self._transport
        if transport is None:
            return
        self._server.counted(reply)
        transport.write(reply.rendered(alive=False))
        self._hang_up(transport)

    def _hang_up(self, transport: asyncio.Transport) -> None:
        """Say no more; go when the client goes, or soon."""
        self.state = "closing"
        self.since = self._server.now()
        self.until = self.since + self._server.bounds.write_seconds
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
        self.since = self._server.now()
        self.until = self.since + seconds

    def _name(self, size: int) -> None:
        self._named += size
        if self._named > self._server.bounds.head:
            raise _Refused(refusal(LimitError("http-head", f"more than {self._server.bounds.head} bytes of headers")))

    def _check_raw(self) -> None:
        """A head or a body that grows without the parser telling of it: one endless header, chunk extensions."""
        request = self._asked
        bounds = self._server.bounds
        if not request.method:
            if self._head > 2 * bounds.head + (1 << 18):
                raise _Refused(refusal(LimitError("http-head", f"more than {bounds.head} bytes of headers")))
        elif self._raw > 2 * bounds.body + (1 << 18):
            raise _Refused(refusal(self._too_long()))

    def _too_long(self) -> LimitError:
        return LimitError("body-limit", f"the body has more than {self._server.bounds.body} bytes")

    def _held_back(self, size: int) -> None:
        self._chunks += 1
        self._raw += size
        if self._raw > 2 * _DROPPED and self._refused is not None:
            raise _Refused(self._refused)

    def _release(self, size: int) -> None:
        size = min(size, self._held)
        self._held -= size
        self._server.hold(-size)
