"""Labels: who says what a sample is. Kept beside the samples, by their content, so that collecting again keeps them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekit import files
from edgekit.collect.dataset import LABELS
from edgekit.errors import DataError, MissingFileError


def read_labels(path: Path) -> dict[str, str]:
    """Sample id -> label, from a file.

    Args:
        path: A CSV with the columns `id` and `label`, a JSON table {id: label}, or what Label Studio exports (JSON or
            JSON-MIN) of tasks that `collect` wrote. An empty label takes one back.

    Raises:
        MissingFileError: `file-missing`. DataError: `labels-invalid`.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise MissingFileError("file-missing", f"{path} cannot be read: {error}") from error
    try:
        found = _table(text) if path.suffix.lower() == ".csv" else _document(json.loads(text))
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise DataError("labels-invalid", f"{path} gives no labels: {error}") from error
    return {str(key): str(value).strip() for key, value in found.items()}


def merged(folder: Path, labels: Path | Mapping[str, str] | None) -> dict[str, str]:
    """All labels of a dataset, with these; kept in its folder.

    Raises:
        As `read_labels`.
    """
    known = read_labels(folder / LABELS) if (folder / LABELS).exists() else {}
    if labels is None:
        return known
    new = read_labels(labels) if isinstance(labels, Path) else {key: str(value) for key, value in labels.items()}
    whole = {key: value for key, value in {**known, **new}.items() if value}
    files.replace(folder / LABELS, json.dumps(whole, indent=0, sort_keys=True).encode() + b"\n")
    return whole


def _table(text: str) -> dict[str, str]:
    rows = csv.DictReader(io.StringIO(text))
    missing = {"id", "label"} - set(rows.fieldnames or ())
    if missing:
        raise ValueError(f"it has no column {' and '.join(sorted(missing))}")
    return {row["id"]: row["label"] for row in rows}


def _document(document: Any) -> dict[str, str]:
    if isinstance(document, dict):
        return {str(key): str(value) for key, value in document.items()}
    if not isinstance(document, list):
        raise TypeError("it is neither a table nor a list of tasks")
    found = {}
    for task in document:
        choice = _choice(task)
        if choice is not None:
            found[str(task.get("data", task)["sample"])] = choice
    return found


def _choice(task: Mapping[str, Any]) -> str | None:
    """What the last annotator chose; None for a task that nobody did."""
    if "annotations" not in task:  # JSON-MIN
        value = task.get("label")
        return None if value is None else str(value)
    for annotation in reversed([one for one in task["annotations"] if not one.get("was_cancelled")]):
        for result in annotation.get("result", ()):
            value = result["value"]
            if value.get("choices"):
                return str(value["choices"][0])
            if "number" in value:
                return str(value["number"])
    return None
