"""Heads of requests that were read before: the same bytes mean the same, so they are not parsed again.

Clients send the same request line and headers again and again, those that are refused most of all. Only heads that
nobody can read in two ways are kept: plain lines with their ends, no coding of the transfer, no expectation. (The same
bytes behind another request mean the same only where the connection stays; who keeps them sees to that.)
"""

from __future__ import annotations

import re
from typing import NamedTuple

from edgekit.serve.routes import Route

LONGEST = 2048
"""Bytes of a head that is kept."""
_MOST = 256
_PLAIN = re.compile(rb"(?:GET|HEAD|POST) [!-~]+ HTTP/1\.1\r\n(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t -~]*\r\n)+\r\n")
_TWOFOLD = (b"transfer-encoding", b"expect", b"upgrade")


class Head(NamedTuple):
    """What a head says.

    Attributes:
        length: Of the body.
        client: The key that it shows; empty for none.
        route: Where it leads.
    """

    method: bytes
    headers: dict[bytes, bytes]
    length: int
    client: str
    route: Route


class Heads:
    """The last ones."""

    def __init__(self) -> None:
        self._known: dict[bytes, Head] = {}

    def find(self, raw: bytes) -> Head | None:
        """What these bytes, up to the empty line that ends them, were found to say."""
        return self._known.get(raw)

    def keep(self, raw: bytes, method: bytes, headers: dict[bytes, bytes], client: str, route: Route) -> None:
        """Remember what the parser found, if these bytes can be read in no other way."""
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or any(name in headers for name in _TWOFOLD) or not _PLAIN.fullmatch(raw):
            return
        if len(self._known) >= _MOST:
            del self._known[next(iter(self._known))]
        self._known[raw] = Head(method, headers, int(length), client, route)
