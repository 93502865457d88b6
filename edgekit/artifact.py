"""An artifact: a plain `.tflite` or `.onnx` with its manifest and self-test inside.

Three members travel with the model: `edgekit.json` (the manifest), `edgekit.selftest.json` and `edgekit.sha256`, the
digest of model bytes, manifest and self-test together, so that one changed byte anywhere is noticed.
TFLite: members are an appended zip, as the TFLite metadata convention packs associated files.
ONNX: members are `metadata_props` of the ModelProto (field 14), appended behind the model's own fields.
Either way the model's own bytes come first and are untouched, and any other tool opens the file.

Formats: https://www.tensorflow.org/lite/models/convert/metadata and onnx.proto (ModelProto.metadata_props = 14,
StringStringEntryProto.key = 1, .value = 2).
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

from edgekit import files, manifest
from edgekit.errors import ArtifactError, MissingFileError
from edgekit.manifest import Manifest
from edgekit.selftest import SelfTest
from edgekit.selftest import parse as parse_selftest

MANIFEST, SELFTEST, DIGEST = "edgekit.json", "edgekit.selftest.json", "edgekit.sha256"
_MEMBERS = (MANIFEST, SELFTEST, DIGEST)
_MEMBER_LIMIT = 64 << 20
_METADATA_PROPS = 14

Format = Literal["tflite", "onnx"]


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
    data: bytes
    model_bytes: int
    members: dict[str, bytes]
    path: Path | None = None

    @cached_property
    def manifest(self) -> Manifest | None:
        return manifest.parse(self.members[MANIFEST]) if MANIFEST in self.members else None

    @cached_property
    def selftest(self) -> SelfTest | None:
        return parse_selftest(self.members[SELFTEST]) if SELFTEST in self.members else None

    @property
    def model(self) -> bytes:
        """The model without our members."""
        return self.data[: self.model_bytes]

    @property
    def sha256(self) -> str:
        """Of the whole file."""
        return hashlib.sha256(self.data).hexdigest()

    def check_digest(self) -> None:
        """Compare content and recorded digest.

        Raises:
            ArtifactError: `artifact-damaged`.
        """
        if not self.members:
            return
        missing = [name for name in _MEMBERS if name not in self.members]
        found = _digest(self.model, self.members.get(MANIFEST, b""), self.members.get(SELFTEST, b""))
        if missing or self.members[DIGEST] != found:
            what = f"lacks {', '.join(missing)}" if missing else "was changed after it was written"
            raise ArtifactError("artifact-damaged", f"{self.path or 'the artifact'} {what}")

    def write(self, path: str | Path) -> Artifact:
        """Write the file at once: whoever is interrupted leaves the old file or the new one."""
        path = Path(path)
        files.replace(path, self.data)
        return replace(self, path=path)


def read(path: str | Path, *, verify: bool = True) -> Artifact:
    """Read a model file, ours or foreign.

    Args:
        path: `.tflite` or `.onnx`; the content decides.
        verify: Compare the digest; a foreign file has none.

    Raises:
        MissingFileError: `file-missing`.
        ArtifactError: `artifact-unknown`: neither format; `artifact-damaged`.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except (FileNotFoundError, IsADirectoryError) as error:
        raise MissingFileError("file-missing", f"there is no file {path}") from error
    return from_bytes(data, path=path, verify=verify)


def from_bytes(data: bytes, *, path: Path | None = None, verify: bool = True) -> Artifact:
    """Like `read`, for a file in memory."""
    format = format_of(data)
    if format is None:
        raise ArtifactError("artifact-unknown", f"{path or 'this'} is neither a TFLite nor an ONNX model")
    size, members = _split_tflite(data) if format == "tflite" else _split_onnx(data)
    artifact = Artifact(format, data, size, members, path)
    if verify:
        artifact.check_digest()
    return artifact


def assemble(format: Format, model: bytes, about: Manifest, selftest: SelfTest) -> Artifact:
    """Put manifest and self-test into `model`; equal arguments give equal bytes."""
    members = {MANIFEST: about.to_json().encode(), SELFTEST: selftest.to_json().encode()}
    members[DIGEST] = _digest(model, members[MANIFEST], members[SELFTEST])
    tail = _zip(members) if format == "tflite" else _metadata(members)
    return Artifact(format, model + tail, len(model), members)


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


def fields(data: bytes, start: int = 0, end: int | None = None) -> list[tuple[int, int, int, int]]:
    """Fields of one protobuf message without looking inside: (number, wire type, begin, end of its payload).

    For a varint the payload is the varint itself. Source: https://protobuf.dev/programming-guides/encoding.

    Raises:
        ValueError: Not a protobuf message.
    """
    end = len(data) if end is None else end
    found = []
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
        if number == 0 or at > end:
            raise ValueError(f"field {number} at byte {begin} runs past the end")
        found.append((number, wire, begin, at))
    return found


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


def _digest(model: bytes, about: bytes, selftest: bytes) -> bytes:
    whole = hashlib.sha256()
    for part in (model, about, selftest):
        whole.update(len(part).to_bytes(8, "little"))
        whole.update(part)
    return whole.hexdigest().encode()


def _zip(members: dict[str, bytes]) -> bytes:
    """A zip with fixed dates. Deflate's output may differ between zlib builds, so that nothing is compressed."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), content)
    return buffer.getvalue()


def _split_tflite(data: bytes) -> tuple[int, dict[str, bytes]]:
    """Length of the flatbuffer, and our members; a zip without them is the model's own."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            ours = [e for e in entries if e.filename in _MEMBERS]
            if not ours or any(e.file_size > _MEMBER_LIMIT for e in ours):
                return len(data), {}
            return min(e.header_offset for e in ours), {e.filename: archive.read(e) for e in ours}
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError):
        # No zip, or a torn one. A torn one of ours still holds our digest's name: say so instead of passing it.
        if DIGEST.encode() in data[-_MEMBER_LIMIT:]:
            return len(data), {MANIFEST: b""}
        return len(data), {}


def _metadata(members: dict[str, bytes]) -> bytes:
    out = b""
    for name, content in members.items():
        entry = _field(1, name.encode()) + _field(2, content)
        out += _field(_METADATA_PROPS, entry)
    return out


def _field(number: int, payload: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(payload)) + payload


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _split_onnx(data: bytes) -> tuple[int, dict[str, bytes]]:
    members = {}
    size = len(data)
    for number, wire, begin, end in fields(data):
        if number != _METADATA_PROPS or wire != 2:
            continue
        entry = {n: data[b:e] for n, w, b, e in fields(data, begin, end) if w == 2}
        name = entry.get(1, b"").decode("utf-8", "replace")
        if name in _MEMBERS:
            members[name] = entry.get(2, b"")
            size = min(size, begin - 1 - len(_varint(end - begin)))
    return size, members
