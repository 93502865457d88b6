"""A dataset folder: its manifest, its segments, and what they hold once repetitions are told apart."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from edgekit import files
from edgekit.codec import CodecError, decode, encode
from edgekit.collect import standing
from edgekit.errors import ArtifactError, UsageError
from edgekit.feeding import Preprocess
from edgekit.monitor.records import Read, Sample, unpack
from edgekit.monitor.sealing import Seal
from edgekit.monitor.segments import Header, scan

MANIFEST, LABELS, STATUS, LOCK, SEGMENTS = "manifest.json", "labels.json", "status.jsonl", ".lock", "segments"
SCHEMA = 1
LABEL = "label"
"""The column of a table that has the labels."""

_NAME = re.compile(r"([0-9a-f]{16})-(\d{8,12})\.segment\Z")


@dataclass(frozen=True)
class Board:
    """Where samples came from.

    Attributes:
        store: Tells boards apart, whatever they are called.
        target: As it was named when it was last collected from.
        host: What it calls itself.
        samples: That it captured, with repetitions.
        first, last: Times of its samples, seconds since 1970.
    """

    store: str
    target: str = ""
    host: str = ""
    samples: int = 0
    first: float | None = None
    last: float | None = None


@dataclass(frozen=True)
class Entry:
    """One sample.

    Attributes:
        id: SHA-256 of its inputs.
        count: How often it was captured.
        weight: So many samples of the boards it stands for: the sum over its captures.
        boards: Stores that captured it.
        strata: That drew it.
        label: What it is; None where nobody said.
        files: Below the dataset folder.
        answer, score: The class and its score; the first value alone where the answer is no class.
        exact: Its file gives the captured values back; else data.npz alone does.
    """

    id: str
    count: int
    weight: float
    boards: tuple[str, ...]
    strata: tuple[str, ...]
    version: str
    label: str | None = None
    at: float | None = None
    ood: float | None = None
    uncertainty: float | None = None
    answer: str | None = None
    score: float | None = None
    shadow: str | None = None
    files: tuple[str, ...] = ()
    exact: bool = True


@dataclass(frozen=True)
class Kept:
    """A segment that was fetched."""

    store: str
    number: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """The whole.

    Attributes:
        name: Of the model.
        form: What its samples are.
        classes: Labels that are given, sorted as the model has them.
        about: What the boards say of the model: `preprocess`, `labels`, `columns`.
        ragged: Samples that are left out of data.npz, because their shape is not that of the others.
        damaged: Records that could not be read.
    """

    name: str
    form: str = "arrays"
    classes: tuple[str, ...] = ()
    about: dict[str, Any] = field(default_factory=dict)
    boards: tuple[Board, ...] = ()
    segments: tuple[Kept, ...] = ()
    samples: tuple[Entry, ...] = ()
    ragged: int = 0
    damaged: int = 0
    schema: int = SCHEMA


@dataclass
class Found:
    """A sample, and all that was said of it wherever it was captured."""

    id: str
    inputs: dict[str, NDArray[Any]]
    outputs: dict[str, NDArray[Any]]
    seen: list[tuple[str, Sample]]

    @property
    def row(self) -> NDArray[Any] | None:
        """Its values where it is one row of them, None otherwise: an app may keep other things of some samples."""
        rows = list(self.inputs.values())
        return rows[0] if len(rows) == 1 and rows[0].ndim == 1 else None


@dataclass
class Content:
    """What the segments hold.

    Attributes:
        samples: Each once, in the order of their first capture.
        status: Lines of status.jsonl.
    """

    name: str = ""
    about: dict[str, Any] = field(default_factory=dict)
    hosts: dict[str, str] = field(default_factory=dict)
    samples: dict[str, Found] = field(default_factory=dict)
    status: list[dict[str, Any]] = field(default_factory=list)
    segments: list[Kept] = field(default_factory=list)
    damaged: int = 0


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One process changes a dataset at a time; the folder is made, or must be a dataset already.

    Raises:
        UsageError: `dataset-busy`, `dataset-other`: it holds something else; `output-unwritable`.
    """
    try:
        if folder.is_dir() and any(folder.iterdir()) and not (folder / SEGMENTS).is_dir():
            raise UsageError("dataset-other", f"{folder} holds something else than captures")
        (folder / SEGMENTS).mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise UsageError("output-unwritable", f"{folder} cannot be written: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        files.sweep(folder / SEGMENTS)
        yield
    except BlockingIOError as error:
        raise UsageError("dataset-busy", f"another process collects into {folder}") from error
    finally:
        os.close(lock)


def read(folder: Path) -> Manifest:
    """The manifest of a dataset.

    Raises:
        UsageError: `dataset-other`: there is none. ArtifactError: `dataset-damaged`.
    """
    try:
        return decode(Manifest, json.loads((folder / MANIFEST).read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise UsageError("dataset-other", f"{folder} is no dataset: it has no {MANIFEST}") from error
    except (OSError, ValueError, CodecError) as error:
        raise ArtifactError("dataset-damaged", f"{folder / MANIFEST} cannot be read: {error}") from error


def write(folder: Path, manifest: Manifest) -> None:
    """Put a manifest in place of the old one.

    Raises:
        UsageError: `output-unwritable`.
    """
    files.replace(folder / MANIFEST, _text(encode(manifest)).encode())


def _text(document: Mapping[str, Any]) -> str:
    """JSON with a line for each field, and for each item of those that are lists."""
    parts = []
    for name, value in document.items():
        text = json.dumps(value)
        if isinstance(value, list) and value:
            text = "[\n" + ",\n".join(f"  {json.dumps(item)}" for item in value) + "\n ]"
        parts.append(f' "{name}": {text}')
    return "{\n" + ",\n".join(parts) + "\n}\n"


def statuses(folder: Path) -> list[dict[str, Any]]:
    """Lines of status.jsonl.

    Raises:
        ArtifactError: `dataset-damaged`.
    """
    path = folder / STATUS
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    except (OSError, ValueError) as error:
        raise ArtifactError("dataset-damaged", f"{path} cannot be read: {error}") from error


def names(about: Mapping[str, Any], size: int) -> list[str]:
    """What the numbers of a captured row are called, as many as `size`.

    Captured values are finished ones: under the names of columns that are prepared they would be prepared once more.

    Args:
        about: As `Manifest.about`.
        size: How many the row has.
    """
    how = decode(Preprocess, about.get("preprocess", {}))
    table = how.table
    known = about.get("columns", ()) if table is None else table.columns if not table.categories else ()
    plain = how.identity and len(known) == size and LABEL not in known
    return list(known) if plain else [f"feature_{number}" for number in range(size)]


def path_of(folder: Path, header: Header) -> Path:
    """Where a segment is kept."""
    return folder / SEGMENTS / f"{header.store}-{header.number:08d}.segment"


def stored(folder: Path) -> list[Path]:
    """The segments that were fetched, each store's in order."""
    return sorted(path for path in (folder / SEGMENTS).iterdir() if _NAME.match(path.name))


def content(folder: Path, seals: Mapping[str, Seal], known: Manifest | None, name: str | None) -> Content:
    """Read all segments of a model.

    Args:
        folder: The dataset.
        seals: Open those that are encrypted, by their ids.
        known: Its manifest.
        name: The model; None where there are segments of one alone.

    Raises:
        UsageError: `collect-names`: there are segments of several models.
        ArtifactError: `capture-key`, `capture-newer`; `dataset-damaged`: a segment is no longer what was fetched.
    """
    found = Content()
    kept = {(segment.store, segment.number): segment for segment in known.segments} if known else {}
    for path in stored(folder):
        data = path.read_bytes()
        seen = scan(data)
        header = seen.header
        if header is None or seen.end != len(data) or not _begins(data, kept.get((header.store, header.number))):
            raise ArtifactError("dataset-damaged", f"{path} is not what was fetched", next_step=f"Remove {path}.")
        if name is None and header.name != (found.name or header.name):
            raise UsageError("collect-names", f"there are captures of {found.name} and {header.name}: name one")
        if name not in (None, header.name):  # fetched before anybody said which
            continue
        seal = _seal(header, seals)
        found.segments.append(Kept(header.store, header.number, len(data), hashlib.sha256(data).hexdigest()))
        found.hosts[header.store] = header.host
        found.name, found.about = header.name, {**found.about, **_about(path, header)}
        found.damaged += seen.lost
        for place, begin, end in seen.frames:
            try:
                _add(found, header, unpack(header.open(place, data[begin:end], seal)))
            except ArtifactError as error:
                if error.code != "capture-damaged":
                    raise
                found.damaged += 1
    return found


@dataclass(frozen=True)
class _About:
    """What is asked of what a segment says of its model."""

    preprocess: Preprocess = field(default_factory=Preprocess)
    labels: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()


def _about(path: Path, header: Header) -> dict[str, Any]:
    try:
        decode(_About, header.about)
    except CodecError as error:
        said = f"{path} says of its model what cannot be: {error}"
        raise ArtifactError("dataset-damaged", said, next_step=f"Remove {path}.") from error
    return header.about


def _seal(header: Header, seals: Mapping[str, Seal]) -> Seal | None:
    if header.key is None or header.key in seals:
        return seals.get(header.key or "")
    given = f"the keys given are {', '.join(seals)}" if seals else "no key was given"
    raise ArtifactError("capture-key", f"captures of {header.host} were made with the key {header.key}; {given}")


def _begins(data: bytes, kept: Kept | None) -> bool:
    """Whether a segment is what it was when the manifest was written, or that and more."""
    return kept is None or hashlib.sha256(data[: kept.bytes]).hexdigest() == kept.sha256


def _add(found: Content, header: Header, read: Read) -> None:
    sample = read.record.sample
    if sample is None:
        found.status.append(standing.line(header, read.record))
        return
    key = read.digest
    if key not in found.samples:
        found.samples[key] = Found(key, read.inputs, read.outputs, [])
    found.samples[key].seen.append((header.store, sample))
