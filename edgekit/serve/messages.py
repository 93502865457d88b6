"""What goes in and out of a connection: requests as they arrive, replies, and errors as clients see them.

An error on the wire is its message and its code, nothing else: `{"error": "...", "code": "queue-full"}`. Messages of
errors that may speak of files, engines or the system are replaced by the catalogue's title for their code.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from http import HTTPStatus
from typing import NamedTuple

from edgekit.errors import EdgeKitError, FeedError, explanations

STATUS = {
    # What a client sent is wrong.
    "http-malformed": 400, "http-host": 421, "http-origin": 403, "http-method": 405, "http-path": 404,
    "http-media": 415, "http-slow": 408, "http-header": 400, "http-expect": 417, "http-coding": 415,
    "api-key-wrong": 401,
    "model-unknown": 404, "version-unknown": 404,
    "body-json": 400, "body-field": 400, "body-tensor": 400, "body-binary": 400, "body-thing": 400,
    # It is over a bound.
    "http-head": 431, "http-chunks": 400, "http-pipelined": 429, "body-limit": 413, "body-ratio": 413,
    "body-depth": 400, "body-numbers": 413, "body-tensors": 400, "body-pixels": 413,
    # Not now.
    "queue-full": 429, "client-busy": 429, "deadline-hopeless": 429, "deadline-passed": 408,
    "server-full": 503, "server-stopping": 503, "model-starting": 503, "model-broken": 503,
    "engine-died": 503, "engine-hung": 503,
    "pillow-missing": 415,
}  # fmt: skip
"""Code -> status. Others follow from their class: what is wrong with a feed is the client's, the rest is ours."""

_OURS = {"http-", "body-", "api-", "queue-", "client-", "deadline-", "server-", "model-", "version-"}
_REASON = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}


class Reply(NamedTuple):
    """An answer.

    Attributes:
        headers: Lines with their ends, besides those that every answer has.
        close: End the connection behind it.
    """

    status: int
    body: bytes = b""
    type: bytes = b"application/json"
    headers: bytes = b""
    close: bool = False

    @property
    def later(self) -> bool:
        """It tells the client to come again."""
        return self.status in (429, 503)

    def rendered(self, *, alive: bool, head: bool = False) -> bytes:
        """On the wire.

        Args:
            alive: The connection stays.
            head: The request was HEAD: no body.
        """
        # Refusals are small, and come by the thousand.
        return (_kept if self.later else _rendered)(self, alive, head)


def _rendered(reply: Reply, alive: bool, head: bool) -> bytes:
    last = b"\r\n\r\n" if alive else b"\r\nconnection: close\r\n\r\n"
    parts = (_REASON[reply.status], b"content-type: ", reply.type, b"\r\n", reply.headers, b"content-length: ",
             b"%d" % len(reply.body), last, b"" if head else reply.body)  # fmt: skip
    return b"".join(parts)


_kept = lru_cache(64)(_rendered)


class Request:
    """One request; its body grows while it arrives.

    Attributes:
        client: Whose places it takes: an address or a key.
        route: Where it leads, a `Route`; None before its head was read, or where it leads nowhere.
        refusal: Its answer, where that stands before its body came.
        dropped: Bytes of its body that are then read for nothing.
        gone: Called when the client went away before its answer.
    """

    __slots__ = ("_deliver", "alive", "arrived", "body", "client", "counted", "done", "dropped", "gone", "headers",
                 "method", "path", "refusal", "route")  # fmt: skip

    def __init__(self, deliver: Callable[[Request, Reply], None], client: str, arrived: float) -> None:
        self._deliver = deliver
        self.client = client
        self.arrived = arrived
        self.method = b""
        self.path = b""
        self.headers: dict[bytes, bytes] = {}
        self.body = bytearray()
        self.alive = True
        self.route: object = None
        self.refusal: Reply | None = None
        self.done = False
        self.counted = False
        self.dropped = 0
        self.gone: Callable[[], None] | None = None

    def answer(self, reply: Reply) -> None:
        """Once; what comes later, or for a client that went away, is dropped."""
        self._deliver(self, reply)


def refusal(error: EdgeKitError, *, retry: float | None = None, close: bool = False, headers: bytes = b"") -> Reply:
    """An error as a reply.

    Args:
        error: It.
        retry: Seconds after which trying again makes sense.
        close: End the connection.
        headers: More of them.
    """
    if retry is not None:
        headers += b"retry-after: %d\r\n" % max(1, round(retry + 0.5))
    return Reply(status_of(error), document(error), headers=headers, close=close)


def status_of(error: EdgeKitError) -> int:
    found = STATUS.get(error.code)
    return found or (400 if isinstance(error, FeedError) else 500)


def document(error: EdgeKitError) -> bytes:
    """The JSON of an error; see the module header."""
    return json.dumps({"error": said(error), "code": error.code}).encode()


def said(error: EdgeKitError) -> str:
    """What may be told to a stranger."""
    if isinstance(error, FeedError) or error.code.partition("-")[0] + "-" in _OURS:
        return error.message
    entry = explanations().get(error.code)
    return entry.title if entry else "the server failed"


def as_json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
