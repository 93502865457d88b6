"""A segment: a file of records that is only ever appended to, and of which all can be read that a disk gives back.

    magic | frame of the header (JSON) | frame of record 0 | frame of record 1 | ...
    frame of the header = length (4 bytes) | digest (16 bytes) | content
    frame of a record = mark (8 bytes) | place (4) | length (4) | digest (16) | content

The digest (BLAKE2b, RFC 7693) is keyed by the segment's own random number and covers the place of the record, so that
neither a torn write nor what other files left in the blocks of a disk passes as a record. The mark follows from that
number as well: where a frame does not fit, reading goes on at the next one that does, and the places between are lost,
and told. What comes behind the last that fits was on its way when the power went. Segments of schema 1 have frames
without mark and place; they are read until a length is not what was written.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from edgekit.codec import CodecError, decode, encode
from edgekit.errors import ArtifactError

if TYPE_CHECKING:
    from edgekit.monitor.sealing import Seal

MAGIC = b"edgekit capture 1\n"
_FRAME = struct.Struct("<I16s")
_MARKED = struct.Struct("<8sII16s")
SCHEMA = 2
_STORE, _SALT = re.compile(r"[0-9a-f]{16}\Z"), re.compile(r"[0-9a-f]{32}\Z")
_EFFORT = 16
"""Times the bytes of a segment that are digested at most in search of frames, whatever a forged one holds."""


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
        device: Digits that tell boards apart, also those with the same card; None where nothing tells.
        about: What readers must know of the model: `preprocess`, and `labels` unless they are many.
    """

    store: str
    number: int
    salt: str
    name: str
    host: str
    key: str | None = None
    created: float | None = None
    device: str | None = None
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
        salt = bytes.fromhex(self.salt)
        return _MARKED.pack(_mark(salt), place, len(content), _digest(salt, place, content)) + content

    def open(self, place: int, content: bytes, seal: Seal | None) -> bytes:
        """A record's payload, from what its frame holds.

        Raises:
            ArtifactError: `capture-key`: it is encrypted, and this is not its key; `capture-damaged`: it was changed.
        """
        if self.key is None:
            return content
        if seal is None or seal.id != self.key:
            which = "no key was given" if seal is None else f"not the key {seal.id}"
            raise ArtifactError("capture-key", f"captures of {self.host} were made with the key {self.key}; {which}")
        return seal.open(content, self._bound(place))

    def _bound(self, place: int) -> bytes:
        return f"{self.store} {self.number} {self.salt} {place}".encode()


class Frame(NamedTuple):
    """Where the content of a record is: which one it is, its first byte, and the one behind its last."""

    place: int
    begin: int
    end: int


@dataclass(frozen=True)
class Scanned:
    """What of a file can be trusted.

    Attributes:
        header: None when not even that was written.
        frames: Of the records that are as they were written, in their order.
        end: Bytes up to the end of the last.
    """

    header: Header | None
    frames: tuple[Frame, ...] = ()
    end: int = 0

    @property
    def places(self) -> int:
        """Records that were written up to the last that can be read."""
        return self.frames[-1].place + 1 if self.frames else 0

    @property
    def lost(self) -> int:
        """Records before that which are not as they were written."""
        return self.places - len(self.frames)


def scan(data: bytes) -> Scanned:
    """Look at a segment's bytes.

    Raises:
        ArtifactError: `capture-newer`: a later EdgeKit wrote it.
    """
    if not data.startswith(MAGIC):
        return Scanned(None)
    begin, end, digest = _extent(data, len(MAGIC)) or (0, 0, b"")
    whole = end > 0 and hmac.compare_digest(digest, _digest(b"", -1, data[begin:end]))
    header = _header(data[begin:end]) if whole else None
    if header is None:
        return Scanned(None)
    salt = bytes.fromhex(header.salt)
    frames = tuple((_marked if header.schema > 1 else _unmarked)(data, end, salt))
    return Scanned(header, frames, frames[-1].end if frames else end)


def payloads(data: bytes, seal: Seal | None = None) -> list[bytes]:
    """The payloads of a segment's whole records, in order.

    Raises:
        ArtifactError: `capture-key`, `capture-newer`.
    """
    seen = scan(data)
    if seen.header is None:
        return []
    return [seen.header.open(place, data[begin:end], seal) for place, begin, end in seen.frames]


def _marked(data: bytes, at: int, salt: bytes) -> Iterator[Frame]:
    mark, least, effort = _mark(salt), 0, _EFFORT * len(data)
    while (at := data.find(mark, at)) >= 0 and effort > 0:
        begin = at + _MARKED.size
        if begin > len(data):
            return
        _, place, length, digest = _MARKED.unpack_from(data, at)
        end = begin + length
        if place >= least and end <= len(data):
            if hmac.compare_digest(digest, _digest(salt, place, data[begin:end])):
                yield Frame(place, begin, end)
                at, least = end, place + 1
                continue
            effort -= length
        at += 1


def _unmarked(data: bytes, at: int, salt: bytes) -> Iterator[Frame]:
    """Frames of schema 1: one that does not fit is passed over where the next one does."""
    place, passed = 0, False
    while (found := _extent(data, at)) is not None:
        begin, end, digest = found
        whole = hmac.compare_digest(digest, _digest(salt, place, data[begin:end]))
        if whole:
            yield Frame(place, begin, end)
        elif passed:
            return
        passed, at, place = not whole, end, place + 1


def _extent(data: bytes, at: int) -> tuple[int, int, bytes] | None:
    """Where the content of a frame without a mark begins and ends, and its digest; None where it is cut."""
    begin = at + _FRAME.size
    if begin > len(data):
        return None
    length, digest = _FRAME.unpack_from(data, at)
    return (begin, begin + length, digest) if begin + length <= len(data) else None


def _mark(salt: bytes) -> bytes:
    return hashlib.blake2b(b"edgekit record", digest_size=8, key=salt).digest()


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
