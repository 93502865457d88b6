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

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgekit.codec import CodecError, decode, encode
from edgekit.errors import DataError, MissingFileError, UsageError
from edgekit.manifest import Interpret, Preprocess, Task
from edgekit.tensors import TensorSpec, unbatched


@dataclass(frozen=True)
class Metadata:
    """What the owner said; `declared` tells whether the task was said at all."""

    preprocess: Preprocess = field(default_factory=Preprocess)
    interpret: Interpret = field(default_factory=Interpret)
    declared: bool = False


def carried(path: str | Path, outputs: tuple[TensorSpec, ...]) -> Metadata | None:
    """What an artifact of ours that is converted again says of itself; None of another file.

    Args:
        path: Of the source, a TFLite or ONNX file.
        outputs: The source's: a reading of others is left out.

    Raises:
        ArtifactError: `artifact-damaged`: it was changed after it was written.
    """
    from edgekit import artifact

    kept = artifact.read(path, verify=False)
    about = kept.manifest
    if about is None:
        return None
    kept.check_digest()
    how, names = about.interpret, {spec.name for spec in outputs}
    if how.output not in (None, *names):
        how = Interpret()
    return Metadata(about.preprocess, how)


def read(
    metadata: str | Path | Mapping[str, Any] | None,
    labels: str | Path | tuple[str, ...] | None,
    task: str | None,
    base: Metadata | None = None,
) -> Metadata:
    """Put the three options together.

    Args:
        metadata: Path of the TOML file, or its tables.
        labels: Path of a text file with a class name a line, or the names; wins over the file's.
        task: Wins over the file's; labels alone mean classification.
        base: Stands where none of them says anything: either table is taken whole, labels and task by themselves.

    Raises:
        UsageError: `metadata-invalid`: names the field. MissingFileError: `file-missing`.
    """
    tables = metadata if isinstance(metadata, Mapping) else _tables(metadata)
    try:
        base = base or Metadata()
        preprocess = base.preprocess
        if "preprocess" in tables:
            preprocess = decode(Preprocess, tables["preprocess"], strict=True, where="preprocess")
        table = dict(tables["interpret"]) if "interpret" in tables else _told(base.interpret)
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


def _told(how: Interpret) -> dict[str, Any]:
    """An artifact's own table; of a task that nobody knew it says nothing."""
    table: dict[str, Any] = encode(how)
    return {key: value for key, value in table.items() if (key, value) != ("task", "other")}


def check_inputs(how: Preprocess, inputs: tuple[TensorSpec, ...]) -> None:
    """What is said of the values must be something that `predict` does with them.

    Args:
        how: As the owner said it.
        inputs: The model's.

    Raises:
        UsageError: `metadata-invalid`: scale, mean or std of arrays, which pass as they are; another number of means
            or stds than the input has channels.
    """
    if how.kind == "array" and not how.identity:
        raise UsageError(
            "metadata-invalid",
            'scale, mean and std say nothing of kind = "array": arrays are finished tensors, and pass as they are',
            next_step='Say what is fed (kind = "image", "waveform", "table" or "text"), leave them out and prepare the '
            "arrays yourself, or put them into the graph with --fold-preprocess.",
        )
    if len(inputs) != 1:  # things become a single tensor
        return
    (spec,) = inputs
    counts = _channels(how, spec)
    for name, values in (("means", how.mean), ("stds", how.std)):
        if len(values) != 1 and counts and len(values) not in counts:
            raise UsageError(
                "metadata-invalid",
                f"[preprocess] has {len(values)} {name} for {spec.describe()}; it takes 1"
                + "".join(f" or {count}" for count in sorted(counts - {1})),
            )


def _channels(how: Preprocess, spec: TensorSpec) -> set[int]:
    """How many channels may have a mean of their own, in the source's layout or in the artifact's; empty where a free
    size leaves it open.
    """
    if how.table is not None:
        return {how.table.width}
    ends = (spec.shape[1], spec.shape[-1]) if len(spec.shape) == 4 else spec.shape[-1:]
    colors = {size for size in ends if size in (1, 3)} if how.kind == "image" else set()
    found = colors or ends
    return set() if None in found else {size for size in found if size is not None}


def complete(
    said: Metadata,
    outputs: tuple[TensorSpec, ...],
    *,
    label: str | None,
    class_names: tuple[str, ...] = (),
    answer: str | None = None,
    task: Task = "other",
    inputs: tuple[TensorSpec, ...] = (),
) -> Metadata:
    """What the model and the data say stands in where the owner said nothing, and must agree where he did.

    Args:
        said: By the owner.
        outputs: The model's.
        label: Name of the labels; a model with an output of that name is measured on it.
        class_names: Of the evaluation data's folders or text labels, or of the source.
        answer: The output that holds the answer, if the source knows.
        task: What that answer is, if the source knows; it stands for no other output.
        inputs: The model's; they tell which outputs have a batch axis.

    Raises:
        UsageError: `metadata-invalid`: an output that is not there, another number of labels than of classes.
        DataError: `data-labels`: the data does not hold all classes, so that their indices are unknown.
    """
    names = [spec.name for spec in outputs]
    how = said.interpret
    if how.output is None and label in names:
        how = replace(how, output=label)
    if how.output in (None, answer) and how.task == "other" and not said.declared:
        how = replace(how, task=task)
        said = replace(said, declared=task != "other")
    if how.output is None and answer is not None:
        how = replace(how, output=_scored(outputs, answer) if how.task == "anomaly" else answer)
    if how.output is not None and how.output not in names:
        raise UsageError("metadata-invalid", f"there is no output {how.output}; known: {', '.join(names)}")
    about = how.detection
    for name in (about.boxes, about.scores, about.classes, about.count) if about else ():
        if name is not None and name not in names:
            raise UsageError("metadata-invalid", f"there is no output {name}; known: {', '.join(names)}")
    classes = _classes(next(spec for spec in outputs if how.output in (None, spec.name)), unbatched(inputs, outputs))
    if how.labels and classes and len(how.labels) != classes and how.task in ("classification", "multi-label"):
        raise UsageError("metadata-invalid", f"{len(how.labels)} labels for an output of {classes} classes")
    if class_names and not how.labels:
        if classes and len(class_names) != classes:
            raise DataError(
                "data-labels",
                f"the evaluation data names {len(class_names)} classes, the model has {classes}",
                next_step="Name all classes in the model's order with --labels, or store class indices as numbers.",
            )
        how = replace(how, labels=class_names)
    return replace(said, interpret=how)


def _scored(outputs: tuple[TensorSpec, ...], answer: str) -> str:
    """Outlier detectors say 1 or -1 beside their score, and thresholds are on the score."""
    scores = [spec.name for spec in outputs if spec.dtype.startswith("float")]
    return answer if answer in scores or len(scores) != 1 else scores[0]


def _classes(spec: TensorSpec, bare: frozenset[str]) -> int | None:
    """How many classes an output can tell apart: two with a single score; None when the shape is free."""
    sizes = spec.shape if spec.name in bare else spec.shape[1:]
    if not spec.dtype.startswith("float") and spec.quant is None:
        return None
    return None if None in sizes else max(2, math.prod(size or 1 for size in sizes))


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
        return Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise MissingFileError("file-missing", f"there is no file {path}") from error
    except (UnicodeDecodeError, IsADirectoryError) as error:
        raise UsageError("metadata-invalid", f"{path} is no text file") from error
