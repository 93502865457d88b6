"""What arrives on a connection: from bytes to requests, by httptools (llhttp), with a bound on all that a client can
make grow.

Requests are refused as soon as their headers tell, without their bodies being kept. A request whose head is known
(`heads`) passes the parser by. What a callback of the parser refuses it raises as `Refused`, which ends the parsing; no
other exception leaves a callback.
"""

from __future__ import annotations

import os
import socket
from types import ModuleType
from typing import TYPE_CHECKING, Protocol

from edgekit.errors import FeedError, LimitError
from edgekit.serve.door import Door
from edgekit.serve.heads import LONGEST, Heads
from edgekit.serve.messages import Reply, Request, refusal
from edgekit.serve.routes import Route

if TYPE_CHECKING:
    import httptools

_DROPPED = 1 << 18
"""Bytes of a refused body that are read to keep its connection; behind a longer one it is closed."""
_LARGE = 1 << 14
"""Bytes: on a connection that sent a larger body the next head is read alone, so that the kernel can put the body where
it belongs, or nowhere.
"""
_OVER = Reply(400)
"""To what is sent behind a last request: never given."""


class Refused(Exception):  # noqa: N818 - carries a reply, is no error
    """What arrives goes no further; the reply is the connection's last."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.status)
        self.reply = reply


class Receiver(Protocol):
    """Whose arrivals they are: `http.Connection` has the meaning of each."""

    client: str
    state: str

    @property
    def free(self) -> bool: ...
    @property
    def active(self) -> bool: ...
    def wait(self, state: str, seconds: float) -> None: ...
    def hold(self, size: int) -> None: ...
    def go_on(self) -> None: ...
    def whole(self, request: Request) -> None: ...
    def answered(self, request: Request, reply: Reply) -> None: ...


class Arrival:
    """Of one connection.

    Args:
        receiver: Whose.
        door: Whom it asks.
        parsers: The module httptools.
        descriptor: Of its socket, where what is read there are the bytes themselves; None with TLS.

    Attributes:
        request: What is arriving; None between two, and before the first line of one is there.
    """

    __slots__ = ("_brief", "_chunks", "_descriptor", "_door", "_fresh", "_head", "_heads", "_missing", "_named",
                 "_parser", "_parsers", "_raw", "_receiver", "request")  # fmt: skip

    def __init__(self, receiver: Receiver, door: Door, parsers: ModuleType, descriptor: int | None) -> None:
        self._receiver, self._door, self._parsers, self._descriptor = receiver, door, parsers, descriptor
        self._parser: httptools.HttpRequestParser | None = parsers.HttpRequestParser(self)
        self._heads: Heads = door.heads(local=receiver.client == "local")
        self.request: Request | None = None
        self._brief = False
        self._head = self._raw = self._chunks = self._named = self._missing = 0
        self._fresh = b""

    @property
    def begun(self) -> bool:
        """Something of a request is there."""
        return self._head > 0 or self.request is not None

    def end(self) -> None:
        """Nothing more is read."""
        self._parser = self._descriptor = None

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
        request = self.request = Request(receiver.answered, head.client or receiver.client, door.now())
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
            receiver.wait("body", door.bounds.body_seconds)
            self._rest()
        return end + here

    def _more(self, size: int) -> None:
        """So much more of the body of such a request is there."""
        request = self._asked
        if request.refusal is None:
            self._receiver.hold(size)
        self._missing -= size
        if not self._missing:
            self._whole(request)

    def _rest(self) -> None:
        """Take what the kernel has of it already."""
        request, descriptor = self._asked, self._descriptor
        if descriptor is None:
            return
        try:
            if request.refusal is None:
                size = os.readv(descriptor, [memoryview(request.body)[-self._missing :]])
            else:
                size = _discarded(descriptor, self._door.buffer[: self._missing])
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            return  # the loop will see it
        self._more(size)

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
        except self._parsers.HttpParserUpgrade:
            self._parser = None  # asked for another protocol: the answer is in this one, and the last
        except self._parsers.HttpParserCallbackError as error:
            stopped = error.__context__
            if not isinstance(stopped, Refused):
                raise
            raise stopped from None
        except self._parsers.HttpParserError as error:
            raise Refused(refusal(FeedError("http-malformed", f"this is no HTTP: {error}"))) from None

    def on_message_begin(self) -> None:
        if self._receiver.state == "closing":
            raise Refused(_OVER)
        self.request = Request(self._receiver.answered, self._receiver.client, self._door.now())
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
        request.alive = parser.should_keep_alive() and not parser.should_upgrade()
        self._head = 0
        self._raw = 0
        if not receiver.active:
            receiver.wait("body", door.bounds.body_seconds)
        headers = request.headers
        length = int(headers.get(b"content-length") or 0)
        if length > door.bounds.body:
            raise Refused(refusal(self._too_long()))
        request.refusal = door.admit(request)
        self._check_refused(request, length)
        if b"expect" in headers and request.refusal is None:
            if headers[b"expect"].lower() != b"100-continue":
                raise Refused(refusal(FeedError("http-expect", "the only expectation that is met is 100-continue")))
            receiver.go_on()
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
            self._receiver.hold(len(body))
            request.body += body
            return
        self._chunks += 1
        self._raw += len(body)
        if self._raw > 2 * _DROPPED:
            raise Refused(request.refusal)

    def on_message_complete(self) -> None:
        self._head = self._raw = 0
        self._whole(self._asked)

    # -- Both ways ---------------------------------------------------------------------------------------------

    @property
    def _asked(self) -> Request:
        assert self.request is not None  # noqa: S101 - the parser begins a message before anything else
        return self.request

    def _whole(self, request: Request) -> None:
        self.request = None
        self._receiver.whole(request)

    def _check_refused(self, request: Request, length: int) -> None:
        """Whether its body is worth reading for the sake of the connection."""
        if request.refusal is not None and (request.refusal.close or length > _DROPPED):
            raise Refused(request.refusal)

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
