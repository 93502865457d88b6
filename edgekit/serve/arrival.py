"""What arrives on a connection: from bytes to requests, by httptools (llhttp), with a bound on all that a client can
make grow.

Requests are refused as soon as their headers tell, without their bodies being kept; large bodies are announced
(`room`), and read when they may come. A request whose head is known (`heads`) passes the parser by. What a callback of
the parser refuses it raises as `Refused`, which ends the parsing; no other exception leaves a callback.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from asyncio.trsock import TransportSocket
from types import ModuleType
from typing import TYPE_CHECKING, Protocol

from edgekit.errors import FeedError, LimitError
from edgekit.serve.door import Door
from edgekit.serve.framing import body_parser, has_body
from edgekit.serve.heads import LONGEST, Heads
from edgekit.serve.messages import Reply, Request, refusal
from edgekit.serve.routes import Route

if TYPE_CHECKING:
    import httptools

_DROPPED = 1 << 20
"""Bytes of a refused body that are read to keep its connection, as long as refusals are held back; a longer one is not
read, and behind one that is not there by then the connection is closed.
"""
_PATIENT = 0.03
"""Seconds until then."""
_ONCE = 1 << 20
"""Bytes of a body that are taken in one turn: on one machine what the sender's kernel has follows at once."""
_LARGE = 1 << 14
"""Bytes: on a connection that sent a larger body the next head is read alone, so that the kernel can put the body where
it belongs, or nowhere. And a body of which more is still to come is announced.
"""
_INFO = slice(52, 56)
"""`tcpi_last_data_recv` in Linux's `struct tcp_info`: milliseconds since the last bytes came."""
_OVER = Reply(400)
"""To what is sent behind a last request: never given."""


class Refused(Exception):  # noqa: N818 - carries a reply, is no error
    """What arrives goes no further; the reply is the connection's last.

    Attributes:
        request: To which it is the answer, where its head was there.
    """

    def __init__(self, reply: Reply, request: Request | None = None) -> None:
        super().__init__(reply.status)
        self.reply = reply
        self.request = request


class Receiver(Protocol):
    """Whose arrivals they are: `http.Connection` has the meaning of each."""

    client: str
    state: str
    since: float

    @property
    def free(self) -> bool: ...
    @property
    def active(self) -> bool: ...
    def wait(self, state: str, seconds: float) -> None: ...
    def read(self, *, on: bool) -> None: ...
    def hold(self, size: int) -> None: ...
    def promised(self, size: int) -> None: ...
    def stop(self, reply: Reply, request: Request | None = None) -> None: ...
    def go_on(self) -> None: ...
    def whole(self, request: Request) -> None: ...
    def answered(self, request: Request, reply: Reply) -> None: ...


class Arrival:
    """Of one connection.

    Args:
        receiver: Whose.
        door: Whom it asks.
        parsers: The module httptools.
        link: Its socket, where what is read there are the bytes themselves; None with TLS.

    Attributes:
        request: What is arriving; None between two, and before the first line of one is there.
        waits: Its body waits for room, unread.
    """

    __slots__ = ("_brief", "_chunks", "_descriptor", "_door", "_fresh", "_head", "_heads", "_kept", "_link", "_missing",
                 "_named", "_parser", "_parsers", "_promised", "_raw", "_receiver", "request", "waits")  # fmt: skip

    def __init__(self, receiver: Receiver, door: Door, parsers: ModuleType, link: TransportSocket | None) -> None:
        self._receiver, self._door, self._parsers = receiver, door, parsers
        self._descriptor = None if link is None else link.fileno()
        self._link = link if link is not None and link.family != socket.AF_UNIX else None
        self._parser: httptools.HttpRequestParser | None = parsers.HttpRequestParser(self)
        self._heads: Heads = door.heads(local=receiver.client == "local")
        self.request: Request | None = None
        self._brief, self.waits = True, False
        self._head = self._raw = self._chunks = self._named = self._missing = self._kept = self._promised = 0
        self._fresh = b""

    @property
    def begun(self) -> bool:
        """Something of a request is there."""
        return self._head > 0 or self.request is not None

    def end(self) -> int:
        """Nothing more is read; bytes that were held for what is then not answered."""
        self._parser = self._link = None
        request, kept = self.request, self._kept
        self.request, self._kept, self._missing, self.waits = None, 0, 0, False
        if request is not None:
            self._door.room.left(request)
        return kept

    def buffer(self) -> memoryview:
        """One for all connections: what is in it is looked at before the loop reads again. A known body has its own."""
        if self._missing and self._asked.refusal is None:
            return memoryview(self._asked.body)[-self._missing :]
        if self._brief and self._between:
            return self._door.buffer[:LONGEST]
        return self._door.buffer

    def take(self, nbytes: int) -> None:
        """So many bytes are there.

        Raises:
            Refused: They go no further.
        """
        if self._parser is None:
            return
        start = 0
        if self._missing:
            start = min(self._missing, nbytes)
            self._more(start)
            if self._missing:
                self._rest()
        elif self._between:
            start = self._recognized(nbytes)
        if start < nbytes:
            self._parse(start, nbytes)
        self._fresh = b""

    # -- Known heads -------------------------------------------------------------------------------------------

    @property
    def _between(self) -> bool:
        """Nothing has begun, and nothing is under way."""
        return self.request is None and self._receiver.free

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
        receiver = self._receiver
        request = self.request = Request(receiver.answered, head.client or receiver.client, self._came())
        request.method, request.headers, request.route = head.method, head.headers, head.route
        request.refusal = door.enter(request, head.route)
        self._brief = head.length > _LARGE
        self._missing = head.length
        here = min(head.length, nbytes - end)
        if head.length > here:
            receiver.wait("body", door.bounds.body_seconds)
        self._announce(request, head.length, head.length - here)
        if request.refusal is None:
            request.body = bytearray(here if self.waits else head.length)  # no memory before something is in it
            request.body[:here] = door.buffer[end : end + here]
        self._more(here)
        if self._missing and not self.waits:
            self._rest()
        self._hurry()
        return end + here

    def _more(self, size: int) -> None:
        """So much more of the body of such a request is there."""
        request = self._asked
        if request.refusal is None:
            self._keep(size)
        self._missing -= size
        if not self._missing:
            self._whole(request)

    def _rest(self) -> None:
        """Take what the kernel has of it already."""
        request, descriptor = self._asked, self._descriptor
        if descriptor is None:
            return
        size, taken = 1, 0
        while size and self._missing and taken < _ONCE:
            try:
                if request.refusal is None:
                    size = os.readv(descriptor, [memoryview(request.body)[-self._missing :]])
                else:
                    size = _discarded(descriptor, self._door.buffer[: self._missing])
            except OSError:  # there is nothing, or the loop will see what is wrong
                return
            taken += size
            self._more(size)

    def dropped(self) -> int:
        """Behind the end: bytes that the kernel had, and has no more."""
        size, taken = 1, 0
        while self._descriptor is not None and size and taken < _ONCE:
            try:
                size = _discarded(self._descriptor, self._door.buffer)
            except OSError:
                break
            taken += size
        return taken

    def _hurry(self) -> None:
        """A refused body that does not come is not waited for."""
        request = self.request
        if request is not None and request.refusal is not None:
            asyncio.get_running_loop().call_at(request.arrived + _PATIENT, self._not_whole, request)

    def _not_whole(self, request: Request) -> None:
        if self.request is request and request.refusal is not None:
            self._receiver.stop(request.refusal, request)

    # -- The parser --------------------------------------------------------------------------------------------

    def _parse(self, start: int, nbytes: int) -> None:
        parser = self._parser
        if parser is None or self._receiver.state == "closing":
            return
        if self._receiver.state == "idle":
            self._receiver.wait("head", self._door.bounds.head_seconds)
        self._head += nbytes - start
        self._raw += nbytes - start
        try:
            parser.feed_data(self._door.buffer[start:nbytes])
            if self.request is not None:
                self._check_raw()
        except self._parsers.HttpParserUpgrade as error:
            self._parser = None  # asked for another protocol: the answer is in this one, and the last
            start += error.args[0]
        except self._parsers.HttpParserCallbackError as error:
            stopped = error.__context__
            if not isinstance(stopped, Refused):
                raise
            raise stopped from None
        except self._parsers.HttpParserError as error:
            raise Refused(refusal(FeedError("http-malformed", f"this is no HTTP: {error}"))) from None
        if self._parser is None and self.request is not None:  # its body is behind that head
            self._parser = body_parser(self._parsers, self.request.headers, self)
            if start < nbytes:
                self._parse(start, nbytes)

    def on_message_begin(self) -> None:
        if self._receiver.state == "closing":
            raise Refused(_OVER)
        self.request = Request(self._receiver.answered, self._receiver.client, self._came())
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
                raise Refused(refusal(FeedError("http-header", f"two headers {key.decode('latin1')}")))
            value = request.headers[key] + b", " + (value or b"")
        request.headers[key] = value or b""
        if len(request.headers) > self._door.bounds.headers:
            raise Refused(refusal(LimitError("http-head", f"more than {self._door.bounds.headers} headers")))
        self._name(len(name) + len(request.headers[key]))

    def on_headers_complete(self) -> None:
        request, parser, door, receiver = self._asked, self._parser, self._door, self._receiver
        assert parser is not None  # noqa: S101 - it is calling
        request.method = parser.get_method()
        headers = request.headers
        # A client of HTTP/1.0 waits for the end where the answer does not say in its words that there is none.
        request.alive = (
            parser.should_keep_alive() and not parser.should_upgrade() and parser.get_http_version() != "1.0"
        )
        self._head = 0
        self._raw = 0
        if not receiver.active:
            receiver.wait("body", door.bounds.body_seconds)
        length = int(headers.get(b"content-length") or 0)
        if length > door.bounds.body:
            raise Refused(refusal(self._too_long()))
        if headers.get(b"transfer-encoding", b"chunked").lower() != b"chunked":
            raise Refused(refusal(FeedError("http-coding", "bodies are transferred whole or chunked, not coded")))
        request.refusal = door.admit(request)
        if b"expect" in headers and request.refusal is None and headers[b"expect"].lower() != b"100-continue":
            raise Refused(refusal(FeedError("http-expect", "the only expectation that is met is 100-continue")))
        self._announce(request, length, length)
        if b"expect" in headers and request.refusal is None and not self.waits:
            receiver.go_on()
        if length > _LARGE:
            self._hurry()
        if self._fresh and isinstance(request.route, Route) and request.alive:
            client = "" if request.client == receiver.client else request.client
            self._heads.keep(self._fresh, request.method, headers, client, request.route)
        self._fresh = b""

    def on_chunk_header(self) -> None:
        self._chunks += 1
        if self._chunks > self._door.bounds.chunks:
            raise Refused(refusal(LimitError("http-chunks", f"more than {self._door.bounds.chunks} chunks")))

    def on_body(self, body: bytes) -> None:
        request = self._asked
        if request.refusal is None:
            if len(request.body) + len(body) > self._door.bounds.body:
                raise Refused(refusal(self._too_long()))
            self._keep(len(body))
            request.body += body
            return
        self._chunks += 1
        self._raw += len(body)
        if self._raw > 2 * _DROPPED:
            raise Refused(request.refusal, request)

    def on_message_complete(self) -> None:
        self._head = self._raw = 0
        if self._parser is not None and self._parser.should_upgrade() and has_body(self._asked.headers):
            return  # it is behind the head
        self._whole(self._asked)

    # -- Both ways ---------------------------------------------------------------------------------------------

    @property
    def _asked(self) -> Request:
        assert self.request is not None  # noqa: S101 - the parser begins a message before anything else
        return self.request

    def _whole(self, request: Request) -> None:
        self.request = None
        self._kept = 0
        self._door.room.came(request)
        self._receiver.whole(request)

    def _came(self) -> float:
        """When the last bytes came, as far as the kernel tells: they may have waited there for the loop."""
        now = self._door.now()
        if self._link is None:
            return now
        try:
            told = self._link.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO.stop)
        except OSError:
            return now
        seconds = int.from_bytes(told[_INFO], sys.byteorder) / 1000
        return max(now - seconds, min(self._receiver.since, now))

    def _announce(self, request: Request, length: int, rest: int) -> None:
        """So much of its body is still to come: it may, it waits, or it is refused."""
        route = request.route
        if rest > _LARGE and request.refusal is None and isinstance(route, Route) and route.lane is not None:
            request.refusal = self._door.announce(request, length, self)
            if request.refusal is None and not self._promised:
                self.waits = True
                self._receiver.read(on=False)
        if request.refusal is None:
            return
        request.dropped = length
        # Whether its body is worth reading for the sake of the connection.
        if request.refusal.close or rest > _DROPPED or (rest and b"expect" in request.headers):
            raise Refused(request.refusal, request)

    def welcome(self, size: int) -> None:
        """There is room for its body, which has so many bytes."""
        request, early = self._asked, self._kept
        self._receiver.promised(size)
        if early:
            self._receiver.hold(-early)
        self._kept, self._promised = size, size - early
        if not self.waits:
            return
        self.waits = False
        if self._missing:
            body = bytearray(len(request.body) + self._missing)
            body[: len(request.body)] = request.body
            request.body = body
        if not self._receiver.active:
            self._receiver.wait("body", self._door.bounds.body_seconds)
        self._receiver.read(on=True)
        if b"expect" in request.headers and not request.body:
            self._receiver.go_on()

    def too_late(self, reply: Reply) -> None:
        """It cannot be answered in time."""
        self._receiver.stop(reply)

    def _keep(self, size: int) -> None:
        """So many bytes of a body came that is kept."""
        promised = min(size, self._promised)
        self._promised -= promised
        if size > promised:
            self._receiver.hold(size - promised)
            self._kept += size - promised

    def _name(self, size: int) -> None:
        self._named += size
        if self._named > self._door.bounds.head:
            raise Refused(refusal(LimitError("http-head", f"more than {self._door.bounds.head} bytes of headers")))

    def _check_raw(self) -> None:
        """A head or a body that grows without the parser telling of it: one endless header, chunk extensions."""
        request = self._asked
        bounds = self._door.bounds
        if not request.method:
            if self._head > 2 * bounds.head + (1 << 18):
                raise Refused(refusal(LimitError("http-head", f"more than {bounds.head} bytes of headers")))
        elif self._raw > 2 * bounds.body + (1 << 18):
            raise Refused(refusal(self._too_long()))

    def _too_long(self) -> LimitError:
        return LimitError("body-limit", f"the body has more than {self._door.bounds.body} bytes")


def _discarded(descriptor: int, view: memoryview) -> int:
    """Bytes that a socket had, at most as many as the view has, and has no more; only their number is told."""
    borrowed = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, descriptor)
    try:
        return borrowed.recv_into(view, 0, socket.MSG_TRUNC)
    finally:
        borrowed.detach()
