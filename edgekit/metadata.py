"""How a model is fed and read, as its owner says it: `--metadata FILE.toml`, `--labels`, `--task`.

The file has two tables, both optional; their fields are those of `edgekit.manifest.Preprocess` and `Interpret`:

    [preprocess]
    kind = "image"
    scale = 0.00392156862745098   # 1/255

    [interpret]
    task = "classification"
    labels = ["no person", "person"]
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgekit.codec import CodecError, decode
from edgekit.errors import MissingFileError, UsageError
from edgekit.manifest import Interpret, Preprocess


@dataclass(frozen=True)
class Metadata:
    """What the owner said; `declared` tells whether the task was said at all."""

    preprocess: Preprocess = field(default_factory=Preprocess)
    interpret: Interpret = field(default_factory=Interpret)
    declared: bool = False


def read(
    metadata: str | Path | Mapping[str, Any] | None, labels: str | Path | tuple[str, ...] | None, task: str | None
) -> Metadata:
    """Put the three options together.

    Args:
        metadata: Path of the TOML file, or its tables.
        labels: Path of a text file with a class name a line, or the names; wins over the file's.
        task: Wins over the file's; labels alone mean classification.

    Raises:
        UsageError: `metadata-invalid`: names the field. MissingFileError: `file-missing`.
    """
    tables = metadata if isinstance(metadata, Mapping) else _tables(metadata)
    try:
        preprocess = decode(Preprocess, tables.get("preprocess", {}), strict=True, where="preprocess")
        table = dict(tables.get("interpret", {}))
        if labels is not None:
            table["labels"] = _labels(labels)
        if task is not None:
            table["task"] = task
        elif table.get("labels") and "task" not in table:
            table["task"] = "classification"
        interpret = decode(Interpret, table, strict=True, where="interpret")
        unknown = sorted(set(tables) - {"preprocess", "interpret"})
        if unknown:
            raise CodecError(f"unknown table {', '.join(unknown)}; known: preprocess, interpret")
    except CodecError as error:
        raise UsageError("metadata-invalid", f"the metadata is invalid: {error}") from error
    return Metadata(preprocess, interpret, declared="task" in table)


def complete(said: Metadata, *, class_names: tuple[str, ...]) -> Metadata:
    """Class names from the data stand in where the owner gave none."""
    if said.interpret.labels or not class_names:
        return said
    return replace(said, interpret=replace(said.interpret, labels=class_names))


def _tables(path: str | Path | None) -> Mapping[str, Any]:
    if path is None:
        return {}
    try:
        return tomllib.loads(_text(path))
    except tomllib.TOMLDecodeError as error:
        raise UsageError("metadata-invalid", f"{path} is no TOML: {error}") from error


def _labels(labels: str | Path | tuple[str, ...]) -> list[str]:
    if isinstance(labels, (str, Path)):
        return [line.strip() for line in _text(labels).splitlines() if line.strip()]
    return list(labels)


def _text(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise MissingFileError("file-missing", f"there is no file {path}") from error
    except (UnicodeDecodeError, IsADirectoryError) as error:
        raise UsageError("metadata-invalid", f"{path} is no text file") from error
