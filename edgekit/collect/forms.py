"""What training and labelling tools read: class folders of PNG and WAV files, tables, arrays, Label Studio's tasks.

    labelled/images/cat/ID.png      Keras's image_dataset_from_directory, torchvision's ImageFolder
    unlabelled/images/unknown/...   the same for what nobody has labelled yet
    labelled/table.csv, .parquet    features and a column `label`: pandas, polars, edgekit (.csv)
    labelled/data.npz               x (or an array an input), y, weight, id: numpy, scikit-learn, edgekit

Everything is made anew from the segments each time; a picture or a sound that is there already is left alone.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from edgekit import files
from edgekit.codec import decode
from edgekit.collect import dataset, parquet, studio
from edgekit.collect.dataset import Board, Content, Entry, Found, Manifest
from edgekit.collect.pictures import is_picture, pixels, png, wav
from edgekit.data_objects import ArrayWriter
from edgekit.errors import UsageError
from edgekit.feeding import Preprocess

_FEATURES = 4096
"""Columns that a table may have."""
_RATE = 16000
_REFUSED = frozenset('/\\:*?"<>|%')
_LONGEST = 200
"""Bytes of a folder's name; file systems take 255."""
UNKNOWN = "unknown"
"""The folder of what nobody has labelled."""


def write(
    folder: Path, found: Content, labels: Mapping[str, str], targets: Mapping[str, str], known: Manifest | None
) -> Manifest:
    """Write all forms, and the manifest last.

    Args:
        folder: The dataset.
        found: Its samples.
        labels: Sample id -> label.
        targets: Store -> what the user calls its board.
        known: The manifest of before.

    Returns:
        The manifest.

    Raises:
        UsageError: `output-unwritable`.
    """
    how = decode(Preprocess, found.about.get("preprocess", {}))
    names = tuple(found.about.get("labels", ()))
    form = _form(found.samples.values(), how)
    entries = {key: _entry(one, names, labels.get(key)) for key, one in found.samples.items()}
    if form in ("images", "sounds"):
        entries = {key: _filed(folder, form, found.samples[key], entry, how) for key, entry in entries.items()}
        _sweep(folder, form, entries.values())
    ragged = 0
    for part in ("labelled", "unlabelled"):
        chosen = [entry for entry in entries.values() if (entry.label is not None) == (part == "labelled")]
        ragged += _arrays(folder / part / "data.npz", [found.samples[entry.id] for entry in chosen], chosen, names)
        if form == "table":
            _table(folder / part, [found.samples[entry.id] for entry in chosen], chosen, found.about)
    given = {entry.label for entry in entries.values() if entry.label is not None}
    manifest = Manifest(
        found.name, form, tuple([name for name in names if name in given] + sorted(given - set(names))), found.about,
        tuple(_boards(found, targets, known)), tuple(found.segments), tuple(entries.values()), ragged, found.damaged,
    )  # fmt: skip
    lines = "".join(json.dumps(line, sort_keys=True) + "\n" for line in found.status)
    _put(folder / dataset.STATUS, lines.encode())
    for name, text in studio.texts(manifest, found.samples, names).items():
        _put(folder / name, text.encode())
    dataset.write(folder, manifest)
    return manifest


def _form(samples: Iterable[Found], how: Preprocess) -> str:
    """What the first sample can be written as; several inputs are arrays."""
    first = next(iter(samples), None)
    if first is None or len(first.inputs) != 1:
        return "arrays"
    (array,) = first.inputs.values()
    if is_picture(array, how):
        return "images"
    heard = how.kind == "waveform" and (how.audio is None or how.audio.features == "wave" or array.size > _FEATURES)
    if heard and array.size == max(array.shape, default=0):
        return "sounds"
    return "table" if array.ndim == 1 and 0 < array.size <= _FEATURES else "arrays"


def _entry(found: Found, names: tuple[str, ...], label: str | None) -> Entry:
    _, first = found.seen[0]

    def named(value: float | None) -> str | None:
        if value is None:
            return None
        return names[int(value)] if 0 <= value < len(names) and value == int(value) else f"{value:g}"

    return Entry(
        found.id, len(found.seen), sum(sample.weight for _, sample in found.seen),
        tuple(dict.fromkeys(store for store, _ in found.seen)),
        tuple(dict.fromkeys(name for _, sample in found.seen for name in sample.taken)),
        first.version, label, first.at, first.ood, first.uncertainty, named(first.answer), first.score,
        named(first.shadow),
    )  # fmt: skip


def _boards(found: Content, targets: Mapping[str, str], known: Manifest | None) -> Iterable[Board]:
    """Each store, called as it was called when it was last collected from."""
    before = {board.store: board.target for board in known.boards} if known else {}
    for store, host in found.hosts.items():
        seen = [sample for one in found.samples.values() for where, sample in one.seen if where == store]
        times = [sample.at for sample in seen if sample.at is not None]
        target = targets.get(store) or before.get(store, "")
        yield Board(store, target, host, len(seen), min(times, default=None), max(times, default=None))


# -- Pictures and sounds ---------------------------------------------------------------------------------------


def _filed(folder: Path, form: str, found: Found, entry: Entry, how: Preprocess) -> Entry:
    """Write a sample's file, unless it is there."""
    if len(found.inputs) != 1:
        return entry
    (array,) = found.inputs.values()
    if form == "images":
        if not is_picture(array, how):
            return entry
        picture = pixels(array, how)
        content, exact, suffix = png(picture), picture.exact, "png"
    else:
        rate = how.audio.rate if how.audio is not None and how.audio.rate else _RATE
        (content, exact), suffix = wav(array, rate), "wav"
    side = "unlabelled" if entry.label is None else "labelled"
    name = f"{side}/{form}/{_folder(entry.label)}/{found.id[:16]}.{suffix}"
    path = folder / name
    if not path.exists() or path.read_bytes() != content:
        # Made from the segments at any time: renamed, so that nobody reads half of it, and not flushed one by one.
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.part")
        temporary.write_bytes(content)
        temporary.replace(path)
    return replace(entry, files=(name,), exact=exact)


def _folder(label: str | None) -> str:
    """A label as the name of a folder: nothing in it leads elsewhere."""
    if label is None:
        return UNKNOWN
    plain = (one if one.isprintable() and one not in _REFUSED else quote(one, "", errors="replace") for one in label)
    name = "".join(plain)
    name = f"%2E{name[1:]}" if name.startswith(".") else name
    if len(name.encode()) <= _LONGEST:
        return name
    cut = name.encode()[: _LONGEST - 18].decode(errors="ignore")
    return f"{cut}--{hashlib.sha256(label.encode(errors='replace')).hexdigest()[:16]}"


def _sweep(folder: Path, form: str, entries: Iterable[Entry]) -> None:
    """Remove files of samples that were labelled otherwise before, and folders that are empty then."""
    wanted = {folder / name for entry in entries for name in entry.files}
    for part in ("labelled", "unlabelled"):
        top = folder / part / form
        for path in sorted(top.rglob("*"), reverse=True) if top.is_dir() else ():
            if path.is_file() and path not in wanted:
                path.unlink()
            elif path.is_dir() and not any(path.iterdir()):
                path.rmdir()


# -- Arrays and tables -----------------------------------------------------------------------------------------


def _arrays(path: Path, samples: list[Found], entries: list[Entry], names: tuple[str, ...]) -> int:
    """All arrays of one shape in one file; how many are of another."""
    if not samples:
        path.unlink(missing_ok=True)
        return 0
    like = _like(samples[0])
    same = [number for number, sample in enumerate(samples) if _like(sample) == like]
    columns = list(samples[0].inputs)
    called = ["x"] if len(columns) == 1 else columns
    labels = _labels([entries[number].label for number in same], names)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    try:
        with ArrayWriter(temporary, [*called, *(["y"] if labels is not None else []), "weight", "id"]) as writer:
            for place, number in enumerate(same):
                row = [np.asarray(samples[number].inputs[name]) for name in columns]
                row += [] if labels is None else [labels[place]]
                writer.add([*row, np.asarray(entries[number].weight), np.asarray(entries[number].id)])
        temporary.replace(path)
    except OSError as error:
        raise UsageError("output-unwritable", f"{path} cannot be written: {error.strerror}") from error
    return len(samples) - len(same)


def _like(found: Found) -> list[tuple[str, tuple[int, ...], str]]:
    return [(name, array.shape, str(array.dtype)) for name, array in found.inputs.items()]


def _labels(given: list[str | None], names: tuple[str, ...]) -> list[NDArray[Any]] | None:
    """Labels as a model is trained with them: indices of its classes, numbers, or else texts. None without any."""
    if None in given:
        return None
    texts = [text or "" for text in given]
    if names and set(texts) <= set(names):
        return [np.asarray(names.index(text), np.int64) for text in texts]
    try:
        values = [float(text) for text in texts]
    except ValueError:
        width = max(map(len, texts))
        return [np.asarray(text, f"U{width}") for text in texts]
    whole = all(value == int(value) for value in values if np.isfinite(value)) and all(map(np.isfinite, values))
    return [np.asarray(value, np.int64 if whole else np.float64) for value in values]


def _table(folder: Path, samples: list[Found], entries: list[Entry], about: Mapping[str, Any]) -> None:
    """Rows of features, and their labels where there are any; those of another length are left out."""
    paths = folder / "table.csv", folder / "table.parquet"
    pairs = [(one.row, entry) for one, entry in zip(samples, entries, strict=True) if one.row is not None]
    if not pairs:
        for path in paths:
            path.unlink(missing_ok=True)
        return
    first = pairs[0][0]
    names = dataset.names(about, first.size)
    labelled = entries[0].label is not None
    alike = [(array, entry.label or "") for array, entry in pairs if array.shape == first.shape]
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow([*names, *([dataset.LABEL] if labelled else [])])
    for array, label in alike:
        cells = ["" if value != value else repr(value) for value in array.tolist()]  # noqa: PLR0124 - NaN test
        rows.writerow([*cells, *([label] if labelled else [])])
    _put(paths[0], text.getvalue().encode())
    values = np.stack([array for array, _ in alike])
    values = values.astype(np.float32 if values.dtype in (np.float16, np.float32) else np.float64)
    labels = [[label for _, label in alike]] if labelled else []
    _put(paths[1], parquet.table([*names, *([dataset.LABEL] if labelled else [])], [*values.T, *labels]))


def _put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    files.replace(path, data)
