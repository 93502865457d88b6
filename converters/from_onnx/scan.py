"""ONNX files through the protobuf wire format, and the files beside them, with the standard library alone.

What a file is, and where its weights lie, must be known before a framework opens it. Only headers of fields are
read, never contents, so that gigabytes of weights cost nothing and a hostile file can make nothing large.

External data is opened here and nowhere else: component by component below the model's folder, without following any
link, and only as a regular file with a single name (a hard link may name any file of the same disk).

Field numbers: onnx.proto (ModelProto.ir_version = 1, .graph = 7; GraphProto.initializer = 5; TensorProto.external_data
= 13; StringStringEntryProto.key = 1, .value = 2). Wire format: https://protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

from edgekit.artifact import TornError, lacking, varint
from edgekit.errors import SourceError, UnsafeSourceError

_IR_VERSION, _GRAPH, _INITIALIZER, _EXTERNAL, _KEY, _VALUE = 1, 7, 5, 13, 1, 2
_LAST_FIELD = 30
"""Of a ModelProto: 26 today. Other protobufs of this shape (Core ML) have fields in the hundreds."""

_FIELDS_LIMIT = 200_000
"""Headers read at most; a model of 10,000 weights has about 100,000."""
_LOCATION_LIMIT = 4096
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

Field = tuple[int, int, int, int]
"""Number, wire type, begin and end of the payload (of the varint itself, for a varint)."""


class Wire:
    """A protobuf file, read header by header."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size = file.seek(0, os.SEEK_END)
        self._left = _FIELDS_LIMIT

    def fields(self, begin: int = 0, end: int | None = None) -> Iterator[Field]:
        """The fields of the message between two positions.

        Raises:
            TornError: A field runs past the end.
            ValueError: This is no protobuf, or it has more fields than any model.
        """
        at, end = begin, self.size if end is None else end
        while at < end:
            self._left -= 1
            if self._left < 0:
                raise ValueError(f"more than {_FIELDS_LIMIT} fields")
            self._file.seek(at)
            head = self._file.read(min(20, end - at))
            tag, used = varint(head, 0, len(head))
            number, wire = tag >> 3, tag & 7
            start = at + used
            if wire == _VARINT:
                stop = at + varint(head, used, len(head))[1]
            elif wire == _BYTES:
                length, used = varint(head, used, len(head))
                start = at + used
                stop = start + length
            elif wire in (_FIXED64, _FIXED32):
                stop = start + (8 if wire == _FIXED64 else 4)
            else:
                raise ValueError(f"wire type {wire} at byte {at}")
            if number == 0:
                raise ValueError(f"field 0 at byte {at}")
            if stop > end:
                raise TornError(number, stop)
            yield number, wire, start, stop
            at = stop

    def text(self, begin: int, end: int) -> str:
        """A short string."""
        self._file.seek(begin)
        return self._file.read(min(end - begin, _LOCATION_LIMIT)).decode("utf-8", "replace")


def is_model(path: Path) -> bool:
    """Whether the file is a whole ModelProto, by its top-level fields."""
    try:
        with open(path, "rb") as file:
            seen = {(number, wire) for number, wire, _, _ in Wire(file).fields()}
    except (OSError, ValueError):
        return False
    numbers = {number for number, _ in seen}
    return {(_IR_VERSION, _VARINT), (_GRAPH, _BYTES)} <= seen and max(numbers) <= _LAST_FIELD


def missing_bytes(path: Path) -> int:
    """How many bytes a ModelProto lacks that was cut off inside its graph; 0 when the file is something else."""
    try:
        with open(path, "rb") as file:
            wire = Wire(file)
            return lacking(wire.fields(), wire.size)
    except OSError:
        return 0


def external_files(path: Path) -> tuple[str, ...]:
    """Locations of the files that hold the graph's weights, each once, sorted; none for a file that is no model.

    Weights inside node attributes and loop bodies are not looked for; the loader finds them.
    """
    found: set[str] = set()
    try:
        with open(path, "rb") as file:
            wire = Wire(file)
            for number, kind, begin, end in wire.fields():
                if (number, kind) == (_GRAPH, _BYTES):
                    found.update(_locations(wire, begin, end))
    except (OSError, ValueError):
        return ()
    return tuple(sorted(found))


def digest(path: Path) -> tuple[str, int]:
    """SHA-256 and bytes of a model; with external data, over the file's digest and the name and digest of each.

    Raises:
        UnsafeSourceError, SourceError: As `open_external`.
    """
    with open(path, "rb") as file:
        own, size = hashlib.file_digest(file, "sha256"), file.tell()
    locations = external_files(path)
    if not locations:
        return own.hexdigest(), size
    whole = hashlib.sha256(own.digest())
    for location in locations:
        with open_external(path.parent, location) as beside:
            whole.update(location.encode() + b"\0" + hashlib.file_digest(beside, "sha256").digest())
            size += beside.tell()
    return whole.hexdigest(), size


def open_external(folder: Path, location: str) -> BufferedReader:
    """Open a file of external data.

    Args:
        folder: Of the model; the file must lie below it.
        location: As the model names it: a relative path with forward slashes.

    Raises:
        UnsafeSourceError: `source-unsafe-path`: it leaves the folder, or it is a link or no regular file.
        SourceError: `source-weights-missing`: there is no such file, or it cannot be read.
    """
    parts = location.split("/")
    if not location or "\0" in location or "\\" in location or parts[0] == "" or ".." in parts or ":" in parts[0]:
        raise UnsafeSourceError(
            "source-unsafe-path", f"weights lie at {location!r}, which is not inside the model's folder"
        )
    parts = [part for part in parts if part not in ("", ".")]
    if not parts:
        raise UnsafeSourceError("source-unsafe-path", f"weights lie at {location!r}, which is no file")
    here = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in parts[:-1]:
            inner = _open_at(here, part, os.O_DIRECTORY, location)
            os.close(here)
            here = inner
        handle = _open_at(here, parts[-1], os.O_NONBLOCK, location)  # a pipe would block
    finally:
        os.close(here)
    about = os.fstat(handle)
    if not stat.S_ISREG(about.st_mode) or about.st_nlink > 1:
        os.close(handle)
        what = "has several names (hard links)" if stat.S_ISREG(about.st_mode) else "is no regular file"
        raise UnsafeSourceError("source-unsafe-path", f"weights lie in {location}, which {what}")
    return os.fdopen(handle, "rb")


def _open_at(folder: int, name: str, flags: int, location: str) -> int:
    try:
        return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | flags, dir_fd=folder)
    except OSError as error:
        if _is_link(folder, name):
            raise UnsafeSourceError(
                "source-unsafe-path", f"weights lie in {location}, which is reached through a symbolic link"
            ) from error
        raise SourceError(
            "source-weights-missing",
            f"weights lie in {location} beside the model, which cannot be opened: {error.strerror}",
        ) from error


def _is_link(folder: int, name: str) -> bool:
    try:
        return stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except OSError:
        return False


def _locations(wire: Wire, begin: int, end: int) -> Iterator[str]:
    for number, kind, start, stop in wire.fields(begin, end):
        if (number, kind) != (_INITIALIZER, _BYTES):
            continue
        for inner, inner_kind, at, until in wire.fields(start, stop):
            if (inner, inner_kind) == (_EXTERNAL, _BYTES):
                entry = {n: wire.text(b, e) for n, k, b, e in wire.fields(at, until) if k == _BYTES}
                if entry.get(_KEY) == "location":
                    yield entry.get(_VALUE, "")
