"""Bodies of requests that offer another protocol: the parser of heads leaves them to that.

curl (`--http2`) and Java's client offer HTTP/2 with whatever they send first, and go on in HTTP/1.1 where nobody takes
it up (RFC 9110, section 7.8).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import httptools


def has_body(headers: Mapping[bytes, bytes]) -> bool:
    """Whether something follows this head."""
    return b"transfer-encoding" in headers or headers.get(b"content-length", b"").strip(b"0") != b""


def body_parser(parsers: ModuleType, headers: Mapping[bytes, bytes], listener: Any) -> httptools.HttpRequestParser:
    """A parser that is behind this head, of a connection's last request, and tells its listener of the body alone.

    Args:
        parsers: The module httptools.
        headers: By name in lower case.
        listener: Has `on_chunk_header`, `on_body` and `on_message_complete`.
    """
    told = SimpleNamespace(
        on_chunk_header=listener.on_chunk_header,
        on_body=listener.on_body,
        on_message_complete=listener.on_message_complete,
    )
    chunked = b"transfer-encoding" in headers
    framing = b"transfer-encoding: chunked" if chunked else b"content-length: " + headers[b"content-length"]
    made: httptools.HttpRequestParser = parsers.HttpRequestParser(told)
    made.feed_data(b"POST / HTTP/1.1\r\nconnection: close\r\n" + framing + b"\r\n\r\n")
    return made
