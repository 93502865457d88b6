"""Label Studio (https://labelstud.io): a task a sample, what the model answered as its prediction, and the form.

Pictures and sounds are served from the dataset folder (local file serving: LOCAL_FILES_SERVING_ENABLED=true and
LOCAL_FILES_DOCUMENT_ROOT set to the dataset); rows travel inside their tasks. What is exported afterwards, `edgekit
collect --labels` reads.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from numpy.typing import NDArray

from edgekit.collect import dataset
from edgekit.collect.dataset import Entry, Found, Manifest

TASKS, FORM = "label-studio.json", "label-studio.xml"
_FIELDS = {"images": ("image", "Image"), "sounds": ("audio", "Audio"), "table": ("row", "Table")}


def texts(manifest: Manifest, samples: Mapping[str, Found], names: tuple[str, ...]) -> dict[str, str]:
    """File name -> text; nothing for arrays, which people cannot read."""
    if manifest.form not in _FIELDS:
        return {}
    others = {*manifest.classes, *(e.answer for e in manifest.samples if e.answer is not None)} - set(names)
    choices = (*names, *sorted(others))
    shown = [
        entry
        for entry in manifest.samples
        if entry.files or (manifest.form == "table" and samples[entry.id].row is not None)
    ]
    tasks = [_task(entry, samples[entry.id], manifest) for entry in shown]
    return {TASKS: "[\n" + ",\n".join(map(json.dumps, tasks)) + "\n]\n", FORM: _form(manifest, choices)}


def _task(entry: Entry, found: Found, manifest: Manifest) -> dict[str, Any]:
    field, _ = _FIELDS[manifest.form]
    shown: Any = f"/data/local-files/?d={quote(entry.files[0])}" if entry.files else _row(found.row, manifest)
    data = {field: shown, "sample": entry.id, "strata": ", ".join(entry.strata), "boards": ", ".join(entry.boards)}
    task: dict[str, Any] = {"data": data}
    if entry.answer is not None:
        sure = {} if entry.score is None else {"score": entry.score}
        result = [_result(field, entry.answer)]
        task["predictions"] = [{"model_version": entry.version[:12], **sure, "result": result}]
    if entry.label is not None:
        task["annotations"] = [{"result": [_result(field, entry.label)]}]
    return task


def _result(field: str, label: str) -> dict[str, Any]:
    return {"from_name": "label", "to_name": field, "type": "choices", "value": {"choices": [label]}}


def _row(array: NDArray[Any] | None, manifest: Manifest) -> dict[str, float | None]:
    assert array is not None  # noqa: S101 - only rows are shown
    pairs = zip(dataset.names(manifest.about, array.size), array.tolist(), strict=True)
    return {name: float(value) if math.isfinite(value) else None for name, value in pairs}


def _form(manifest: Manifest, choices: tuple[str, ...]) -> str:
    field, tag = _FIELDS[manifest.form]
    offered = "\n".join(f"    <Choice value={quoteattr(name)}/>" for name in choices)
    return (
        f'<View>\n  <{tag} name="{field}" value="${field}"/>\n'
        f'  <Choices name="label" toName="{field}" choice="single" showInline="true">\n{offered}\n  </Choices>\n'
        "</View>\n"
    )
