"""An artifact: a plain `.tflite` or `.onnx` with its manifest and self-test inside.

Three members travel with the model: `edgekit.json` (the manifest), `edgekit.selftest.json` and `edgekit.sha256`, the
digest of model bytes and members together, so that one changed byte anywhere is noticed; and `edgekit.reference`, what
the data looked like (`edgekit.monitor.reference`), where there was data; in ONNX in base85, for metadata is text.
TFLite: members are an appended zip, as the TFLite metadata convention packs associated files.
ONNX: members are `metadata_props` of the ModelProto (field 14), appended behind the model's own fields.
Either way the model's own bytes come first and are untouched, and any other tool opens the file.

The zip is written and read here, not by `zipfile`: its fixed fields differ between Python versions, and a check
that holds for every byte needs one spelling. What is read back counts only if writing it again gives the same bytes.

Formats: https://www.tensorflow.org/lite/models/convert/metadata, APPNOTE.TXT of the zip format (section 4.3) and
onnx.proto (ModelProto.metadata_props = 14, StringStringEntryProto.key = 1, .value = 2).
"""

from __future__ import annotations

import dataclasses
import hashlib
import stat
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from edgekit import interface
from edgekit.errors import ArtifactError, MissingFileError

MANIFEST, SELFTEST, DIGEST = "edgekit.json", "edgekit.selftest.json", "edgekit.sha256"
REFERENCE = "edgekit.reference"
_MEMBERS = (MANIFEST, SELFTEST, DIGEST)
_ORDER = (MANIFEST, SELFTEST, REFERENCE, DIGEST)
_METADATA_PROPS = 14
FILE_LIMIT = (2 << 30) - 1
"""Both formats end here: offsets of a flatbuffer and lengths of a protobuf message are signed 32-bit numbers."""
_TOP_LEVEL_LIMIT = 100_000
"""Fields of a ModelProto: real ones have tens. Memory stays bounded on a hostile file."""
_LISTED_LIMIT = 10_000
"""Files in the zip behind a model: real ones have a few."""
_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_EPOCH = 0x21  # 1980-01-01, the first day that a zip can name

Format = Literal["tflite", "onnx"]

if TYPE_CHECKING:
    from edgekit.interface import Interface
    from edgekit.manifest import Manifest
    from edgekit.selftest import SelfTest


@dataclass(frozen=True)
class Artifact:
    """A model file in memory.

    Attributes:
        format: "tflite" or "onnx", by content.
        data: The whole file; every engine opens it as it is.
        model_bytes: Length of the model's own part, which comes first.
        members: Our members, by name; empty for a foreign file.
        path: Where it was read from; None for one in memory.
    """

    format: Format
    data: bytes = dataclasses.field(repr=False)
    model_bytes: int
    members: dict[str, bytes] = dataclasses.field(repr=False)
    path: Path | None = None

    @cached_property
    def manifest(self) -> Manifest | None:
        if MANIFEST not in self.members:
            return None
        from edgekit.manifest import parse

        return parse(self.members[MANIFEST])

    @cached_property
    def interface(self) -> Interface | None:
        """The part of the manifest that running takes; None for a foreign file."""
        return interface.parse(self.members[MANIFEST]) if MANIFEST in self.members else None

    @cached_property
    def selftest(self) -> SelfTest | None:
        from edgekit.selftest import parse  # not needed to run a model

        return parse(self.members[SELFTEST]) if SELFTEST in self.members else None

    @property
    def reference(self) -> bytes | None:
        """What the data of the conversion looked like; None where nothing was kept of it.

        Raises:
            ArtifactError: `reference-invalid`: it is no base85.
        """
        kept = self.members.get(REFERENCE)
        if kept is None or self.format == "tflite":
            return kept
        from base64 import b85decode  # not needed to run a model

        try:
            return b85decode(kept)
        except ValueError as error:
            raise ArtifactError("reference-invalid", f"the reference cannot be read: {error}") from error

    @property
    def model(self) -> bytes:
        """The model without our members."""
        return self.data[: self.model_bytes]

    @property
    def sha256(self) -> str:
        """Of the whole file."""
        return hashlib.sha256(self.data).hexdigest()

    def check_digest(self) -> None:
        """Compare content and recorded digest; a foreign file has none.

        Raises:
            ArtifactError: `artifact-damaged`.
        """
        if not self.members:
            return
        missing = [name for name in _MEMBERS if not self.members.get(name)]
        if missing:
            raise ArtifactError("artifact-damaged", f"{self.path or 'the artifact'} lacks {', '.join(missing)}")
        model = memoryview(self.data)[: self.model_bytes]
        whole = self.data[self.model_bytes :] == _tail(self.format, model, self.members)
        if not whole or self.members[DIGEST] != _digest(model, self.members):
            raise ArtifactError("artifact-damaged", f"{self.path or 'the artifact'} was changed after it was written")

    def write(self, path: str | Path) -> Artifact:
        """Write the file at once: whoever is interrupted leaves the old file or the new one."""
        path = Path(path)
        from edgekit import files

        files.replace(path, self.data)
        return replace(self, path=path)


def read(path: str | Path, *, verify: bool = True) -> Artifact:
    """Read a model file, ours or foreign.

    Args:
        path: `.tflite` or `.onnx`; the content decides.
        verify: Compare the digest; a foreign file has none.

    Raises:
        MissingFileError: `file-missing`.
        ArtifactError: `artifact-unknown`: neither format; `artifact-damaged`; `file-unreadable`: no permission, an
            I/O error, or larger than either format can be.
    """
    path = Path(path)
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):
            raise MissingFileError("file-missing", f"{path} is not a file")
        if about.st_size > FILE_LIMIT:
            raise ArtifactError("file-unreadable", f"{path} has {about.st_size} bytes; a model ends at {FILE_LIMIT}")
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        if isinstance(error, MissingFileError):
            raise
        raise MissingFileError("file-missing", f"there is no file {path}") from error
    except OSError as error:
        raise ArtifactError("file-unreadable", f"{path} cannot be read: {error.strerror or error}") from error
    return from_bytes(data, path=path, verify=verify)


def from_bytes(data: bytes, *, path: Path | None = None, verify: bool = True) -> Artifact:
    """Like `read`, for a file in memory."""
    format = format_of(data)
    if format is None:
        if missing := lacking(islice(scan(data), _TOP_LEVEL_LIMIT), len(data)):
            raise ArtifactError(
                "artifact-damaged", f"{path or 'this'} is an ONNX model that was cut off: {missing} bytes are missing"
            )
        raise ArtifactError("artifact-unknown", f"{path or 'this'} is neither a TFLite nor an ONNX model")
    try:
        size, members = _split(format, data)
    except ValueError as error:
        raise ArtifactError("artifact-damaged", f"{path or 'this'} is torn: {error}") from error
    artifact = Artifact(format, data, size, members, path)
    if verify:
        artifact.check_digest()
    return artifact


def assemble(
    format: Format, model: bytes, about: Manifest, selftest: SelfTest, reference: bytes | None = None
) -> Artifact:
    """Put manifest, self-test and reference into `model`; equal arguments give equal bytes.

    Members that `model` brings along from an earlier conversion are taken off first.
    """
    from base64 import b85encode

    model = model[: _split(format, model)[0]]
    members = {MANIFEST: about.to_json().encode(), SELFTEST: selftest.to_json().encode()}
    if reference is not None:
        members[REFERENCE] = reference if format == "tflite" else b85encode(reference)
    members[DIGEST] = _digest(model, members)
    return Artifact(format, model + _tail(format, model, members), len(model), members)


def format_of(data: bytes) -> Format | None:
    """Which format `data` (a whole file) is in, by its content; None for neither."""
    if data[4:8] == b"TFL3":
        return "tflite"
    try:
        seen = {number for number, _, _, _ in fields(data)}
    except ValueError:
        return None
    # ModelProto: ir_version = 1, graph = 7, opset_import = 8; a file of a few random fields has not all of them.
    return "onnx" if {1, 7} <= seen and max(seen) <= 30 else None


def fields(
    data: bytes, start: int = 0, end: int | None = None, *, limit: int = _TOP_LEVEL_LIMIT
) -> list[tuple[int, int, int, int]]:
    """Fields of one protobuf message without looking inside: (number, wire type, begin, end of its payload).

    For a varint the payload is the varint itself. Source: https://protobuf.dev/programming-guides/encoding.

    Args:
        data: Holds the message.
        start: Where the message begins.
        end: Where it ends; None for the end of `data`.
        limit: More fields than this are refused, so that two-byte fields cannot fill the memory.

    Raises:
        ValueError: Not a protobuf message, or over the limit.
    """
    found: list[tuple[int, int, int, int]] = []
    for field in scan(data, start, end):
        if len(found) == limit:
            raise ValueError(f"more than {limit} fields in one message")
        found.append(field)
    return found


class TornError(ValueError):
    """A field runs past the end of its message.

    Attributes:
        end: Where the field would end.
        number: Which one.
    """

    def __init__(self, number: int, end: int) -> None:
        super().__init__(f"field {number} ends at byte {end}, behind the end")
        self.number, self.end = number, end


def lacking(walk: Iterable[tuple[int, int, int, int]], size: int) -> int:
    """How many bytes a ModelProto of `size` lacks, at least, that was cut off inside its graph; 0 for anything else.

    Args:
        walk: Its top-level fields.
        size: Bytes there are.
    """
    seen: list[int] = []
    try:
        for number, _, _, _ in walk:
            seen.append(number)
    except TornError as error:
        plausible = seen[:1] == [1] and max(seen) <= 30 and error.number == 7  # as in `format_of`
        return error.end - size if plausible else 0
    except ValueError:
        return 0
    return 0


def scan(data: bytes, start: int = 0, end: int | None = None) -> Iterator[tuple[int, int, int, int]]:
    """Like `fields`, one at a time."""
    end = len(data) if end is None else end
    at = start
    while at < end:
        tag, at = varint(data, at, end)
        number, wire = tag >> 3, tag & 7
        begin = at
        if wire == 0:
            _, at = varint(data, at, end)
        elif wire == 1:
            at += 8
        elif wire == 2:
            size, begin = varint(data, at, end)
            at = begin + size
        elif wire == 5:
            at += 4
        else:
            raise ValueError(f"wire type {wire} at byte {begin}")
        if number == 0:
            raise ValueError(f"field 0 at byte {begin}")
        if at > end:
            raise TornError(number, at)
        yield number, wire, begin, at


def varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """A base-128 varint at `at`: (value, position behind it)."""
    value = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return value, at
        shift += 7
    raise ValueError(f"no varint at byte {at}")


def _digest(model: bytes | memoryview, members: dict[str, bytes]) -> bytes:
    whole = hashlib.sha256()
    for part in (model, *(members[name] for name in _ORDER if name in members and name != DIGEST)):
        whole.update(len(part).to_bytes(8, "little"))
        whole.update(part)
    return whole.hexdigest().encode()


def _split(format: Format, data: bytes) -> tuple[int, dict[str, bytes]]:
    """Length of the model's own part, and our members; a torn tail of ours gives one empty member.

    Of a file cut within the model's own part nothing of ours is left to tell: the format's reader notices it.
    """
    size, members = (_split_tflite if format == "tflite" else _split_onnx)(data)
    if not members and any(data.find(name.encode()) >= 0 for name in _ORDER):
        return len(data), {MANIFEST: b""}
    return size, members


def _tail(format: Format, model: bytes | memoryview, members: dict[str, bytes]) -> bytes:
    """What stands behind the model's own bytes."""
    ordered = {name: members[name] for name in _ORDER if name in members}
    return _zip(model, ordered) if format == "tflite" else _metadata(ordered)


def _zip(model: bytes | memoryview, members: dict[str, bytes]) -> bytes:
    """A zip of stored files with fixed dates, whose offsets count from the start of the whole file.

    Nothing is compressed: deflate's output may differ between zlib builds. Files that the model's own metadata zip
    lists stay listed.
    """
    listed = _central_directory(model)
    entries = [model[begin:end] for _, begin, end, _ in listed]
    body = b""
    for name, content in members.items():
        raw, at = name.encode(), len(model) + len(body)
        common = (0, 0, 0, _EPOCH, zlib.crc32(content), len(content), len(content), len(raw), 0)
        body += _LOCAL.pack(b"PK\3\4", 20, *common) + raw + content
        entries.append(_CENTRAL.pack(b"PK\1\2", 20, 20, *common, 0, 0, 0, 0, at) + raw)
    directory = b"".join(entries)
    end = (0, 0, len(entries), len(entries), len(directory), len(model) + len(body), 0)
    return body + directory + _END.pack(b"PK\5\6", *end)


def _central_directory(data: bytes | memoryview) -> list[tuple[bytes, int, int, int]]:
    """Files of the zip that ends where `data` ends: (name, begin and end of the entry, offset of the local header).

    Empty when there is none, when it has a comment, or when its offsets do not count from the start of the file.
    """
    size = len(data)
    if size < _END.size:
        return []
    magic, _, _, _, count, length, start, comment = _END.unpack_from(data, size - _END.size)
    if magic != b"PK\5\6" or comment or count > _LISTED_LIMIT or start + length != size - _END.size:
        return []
    found, at = [], start
    for _ in range(count):
        if at + _CENTRAL.size > start + length:
            return []
        entry = _CENTRAL.unpack_from(data, at)
        end = at + _CENTRAL.size + sum(entry[10:13])
        if entry[0] != b"PK\1\2" or end > start + length:
            return []
        name = bytes(data[at + _CENTRAL.size : at + _CENTRAL.size + entry[10]])
        found.append((name, at, end, entry[16]))
        at = end
    return found if at == start + length else []


def _split_tflite(data: bytes) -> tuple[int, dict[str, bytes]]:
    """Length of the flatbuffer, and our members; a zip without them is the model's own."""
    size, members = len(data), {}
    for raw, begin, _, offset in _central_directory(data):
        name = raw.decode("utf-8", "replace")
        if name not in _ORDER or name in members or offset + _LOCAL.size > len(data):
            continue
        content = offset + _LOCAL.size + len(raw)
        members[name] = data[content : content + _CENTRAL.unpack_from(data, begin)[9]]
        size = min(size, offset)
    return size, members


def _metadata(members: dict[str, bytes]) -> bytes:
    out = b""
    for name, content in members.items():
        entry = field(1, name.encode()) + field(2, content)
        out += field(_METADATA_PROPS, entry)
    return out


def field(number: int, payload: bytes | int) -> bytes:
    """One protobuf field: of bytes, or a varint."""
    if isinstance(payload, int):
        return as_varint(number << 3) + as_varint(payload)
    return as_varint(number << 3 | 2) + as_varint(len(payload)) + payload


def as_varint(value: int) -> bytes:
    """A number as protobuf and Thrift write it: seven bits a byte, the lowest first."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _split_onnx(data: bytes) -> tuple[int, dict[str, bytes]]:
    """Length of the model's own fields, and our members."""
    size, members = len(data), {}
    for number, wire, begin, end in fields(data):
        if number != _METADATA_PROPS or wire != 2:
            continue
        entry = {n: data[b:e] for n, w, b, e in fields(data, begin, end, limit=8) if w == 2}
        name = entry.get(1, b"").decode("utf-8", "replace")
        if name in _ORDER:
            members[name] = entry.get(2, b"")
            size = min(size, begin - 1 - len(as_varint(end - begin)))
    return size, members
