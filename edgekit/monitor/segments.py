"""A segment: a file of records that is only ever appended to, and of which any beginning can be trusted.

    magic | frame of the header (JSON) | frame of record 0 | frame of record 1 | ...
    frame = length (4 bytes) | digest (16 bytes) | payload

The digest (BLAKE2b, RFC 7693) is keyed by the segment's own random number and covers the place of the record, so that
neither a torn write nor what other files left in the blocks of a disk passes as a record. Reading ends at the first
frame that does not fit: what comes behind it was on its way when the power went. Where the next one fits again, a disk
has changed what was written: that record alone is lost, and is told.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edgekit.codec import CodecError, decode, encode
from edgekit.errors import ArtifactError

if TYPE_CHECKING:
    from edgekit.monitor.sealing import Seal

MAGIC = b"edgekit capture 1\n"
_FRAME = struct.Struct("<I16s")
SCHEMA = 1
_STORE, _SALT = re.compile(r"[0-9a-f]{16}\Z"), re.compile(r"[0-9a-f]{32}\Z")


@dataclass(frozen=True)
class Header:
    """What a segment says of itself.

    Attributes:
        store: Random hexadecimal digits of the folder it belongs to: tells boards apart whatever they are called.
        number: Counts up in that folder.
        salt: Random hexadecimal digits of this file.
        name: What the model is called on the device.
        host: The device's own name.
        key: Id of the key that opens its records; None for plain ones.
        created: Seconds since 1970; None where the clock was not set.
        about: What readers must know of the model: `preprocess`, and `labels` unless they are many.
    """

    store: str
    number: int
    salt: str
    name: str
    host: str
    key: str | None = None
    created: float | None = None
    about: dict[str, Any] = field(default_factory=dict)
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        # A desk names files after these, and a board's files may be anybody's.
        if not _STORE.match(self.store) or not _SALT.match(self.salt) or not 0 <= self.number < 10**12:
            raise ValueError("no EdgeKit numbers a segment like this")

    def start(self) -> bytes:
        """The bytes that a segment begins with."""
        content = json.dumps(encode(self), sort_keys=True).encode()
        return MAGIC + _FRAME.pack(len(content), _digest(b"", -1, content)) + content

    def frame(self, place: int, payload: bytes, seal: Seal | None) -> bytes:
        """The bytes of record number `place`."""
        content = payload if seal is None else seal.close(payload, self._bound(place))
        return _FRAME.pack(len(content), _digest(bytes.fromhex(self.salt), place, content)) + content

    def open(self, place: int, content: bytes, seal: Seal | None) -> bytes:
        """A record's payload, from what its frame holds.

        Raises:
            ArtifactError: `capture-key`: it is encrypted, and this is not its key.
        """
        if self.key is None:
            return content
        if seal is None or seal.id != self.key:
            which = "no key was given" if seal is None else f"not the key {seal.id}"
            raise ArtifactError("capture-key", f"captures of {self.host} were made with the key {self.key}; {which}")
        return seal.open(content, self._bound(place))

    def _bound(self, place: int) -> bytes:
        return f"{self.store} {self.number} {self.salt} {place}".encode()


@dataclass(frozen=True)
class Scanned:
    """What of a file can be trusted.

    Attributes:
        header: None when not even that was written.
        frames: Beginning and end of the content of each record, in their order.
        end: Bytes up to the end of the last.
        broken: Places of records that are not as they were written.
    """

    header: Header | None
    frames: tuple[tuple[int, int], ...]
    end: int
    broken: frozenset[int] = frozenset()


def scan(data: bytes) -> Scanned:
    """Look at a segment's bytes.

    Raises:
        ArtifactError: `capture-newer`: a later EdgeKit wrote it.
    """
    if not data.startswith(MAGIC):
        return Scanned(None, (), 0)
    found = _framed(data, len(MAGIC), b"", -1)
    header = None if found is None else _header(data[found[0] : found[1]])
    if header is None or found is None:
        return Scanned(None, (), 0)
    frames: list[tuple[int, int]] = []
    broken: set[int] = set()
    end, salt = found[1], bytes.fromhex(header.salt)
    while True:
        found = _framed(data, end, salt, len(frames))
        if found is None:
            found = _extent(data, end)
            if found is None or _framed(data, found[1], salt, len(frames) + 1) is None:
                return Scanned(header, tuple(frames), end, frozenset(broken))
            broken.add(len(frames))
        frames.append(found)
        end = found[1]


def payloads(data: bytes, seal: Seal | None = None) -> list[bytes]:
    """The payloads of a segment's whole records, in order.

    Raises:
        ArtifactError: `capture-key`, `capture-newer`.
    """
    seen = scan(data)
    if seen.header is None:
        return []
    whole = ((place, frame) for place, frame in enumerate(seen.frames) if place not in seen.broken)
    return [seen.header.open(place, data[begin:end], seal) for place, (begin, end) in whole]


def _framed(data: bytes, at: int, salt: bytes, place: int) -> tuple[int, int] | None:
    """Where the content of a frame is; None if it is not whole."""
    found = _extent(data, at)
    if found is None:
        return None
    begin, end = found
    _, digest = _FRAME.unpack_from(data, at)
    return found if hmac.compare_digest(digest, _digest(salt, place, data[begin:end])) else None


def _extent(data: bytes, at: int) -> tuple[int, int] | None:
    """The same by what it says of its length."""
    begin = at + _FRAME.size
    if begin > len(data):
        return None
    length, _ = _FRAME.unpack_from(data, at)
    return (begin, begin + length) if begin + length <= len(data) else None


def _digest(salt: bytes, place: int, content: bytes) -> bytes:
    return hashlib.blake2b(place.to_bytes(8, "little", signed=True) + content, digest_size=16, key=salt).digest()


def _header(content: bytes) -> Header | None:
    try:
        document = json.loads(content)
        if isinstance(document, dict) and document.get("schema", SCHEMA) > SCHEMA:
            raise ArtifactError("capture-newer", "these captures were written by a newer EdgeKit")
        header = decode(Header, document)
    except (ValueError, TypeError, CodecError) as error:
        if isinstance(error, ArtifactError):
            raise
        return None
    return header
