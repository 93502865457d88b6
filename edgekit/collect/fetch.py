"""Fetching: what a board has and the dataset has not, a few megabytes at a time, each piece checked and kept at once.

A link that is cut costs the piece that was on its way; the same command goes on with the next one. What is there is
told by content: the number of a segment in its store, and its length.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgekit import files
from edgekit.child import Progress
from edgekit.collect import dataset, forms
from edgekit.collect.labels import merged
from edgekit.errors import ArtifactError, EdgeKitError, MissingFileError, TargetError, UsageError
from edgekit.monitor import export, sealing
from edgekit.monitor.sealing import Seal
from edgekit.store.places import checked
from edgekit.targets import KINDS, open_target
from edgekit.targets.base import Target

_PIECE = 8 << 20
"""Bytes that are fetched at once."""


@dataclass(frozen=True)
class BoardOutcome:
    """What came of one board.

    Attributes:
        target: As the user names it.
        segments, bytes: That were fetched now.
        removed: Segments that were removed there.
        unreadable: Segments there whose very beginning is not what was written, so that nothing in them can be read.
        error: What went wrong, as `EdgeKitError.to_dict` has it; what had been fetched before stays.
    """

    target: str
    host: str = ""
    stores: tuple[str, ...] = ()
    segments: int = 0
    bytes: int = 0
    removed: int = 0
    unreadable: int = 0
    error: dict[str, Any] | None = None


@dataclass(frozen=True)
class Collected:
    """What a dataset holds after collecting.

    Attributes:
        samples: Different ones. added: That were not there before.
        repeated: Captures of samples that were captured before, here or elsewhere.
        labelled: Samples with a label.
        boards: One a target, in their order.
    """

    path: str
    name: str
    form: str
    samples: int
    added: int
    repeated: int
    labelled: int
    damaged: int
    boards: tuple[BoardOutcome, ...] = ()


@dataclass(frozen=True)
class _Wanted:
    output: Path
    name: str | None
    captures: str | None
    remove: bool
    names: set[str] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)


def collect(
    targets: Sequence[str],
    output: Path,
    *,
    name: str | None = None,
    captures: str | None = None,
    key: Path | Seal | Sequence[Path | Seal] | None = None,
    labels: Path | dict[str, str] | None = None,
    remove: bool = False,
    at_once: int = 4,
    told: Callable[[BoardOutcome], None] | None = None,
    progress: Progress | None = None,
) -> Collected:
    """Fetch what boards captured, and make a dataset of it.

    Args:
        targets: `local`, `ssh://...`, `emulator:...`, or a folder of captures on this machine. None to only label.
        output: The dataset folder; made, or gone on with.
        name: The model; needed where boards capture for several.
        captures: Folder of all captures on the boards; None for their own.
        key: Opens what is encrypted: a file, or a seal, or several of them where the boards' key was exchanged; None
            for the key in EDGEKIT_CAPTURE_KEY, if there is one.
        labels: What samples are: a file that `edgekit.collect.labels.read_labels` reads, or sample id -> label.
        remove: Remove from the boards what is safely here; what is still written to stays.
        at_once: Boards at a time.
        told: Called with each board's outcome as it comes; no failure of one board is raised.
        progress: Told what goes on.

    Raises:
        UsageError: `collect-names`, `dataset-busy`, `dataset-other`, `output-unwritable`, `key-invalid`.
        MissingFileError: `captures-none`. ArtifactError: `capture-key`, `dataset-damaged`.
        DataError: `labels-invalid`. EngineMissingError: `seal-missing`.
    """
    seals = _seals(key)
    wanted = _Wanted(output, None if name is None else checked(name), captures, remove)
    with dataset.locked(output):
        known = _known(output)
        if known is not None and name not in (None, known.name):
            raise UsageError("collect-names", f"{output} holds captures of {known.name}, not of {name}")
        outcomes = tuple(_fetched(targets, replace(wanted, name=name or (known.name if known else None)), at_once, told,
                                  progress))  # fmt: skip
        if progress is not None:
            progress({"stage": "writing the dataset"})
        if not dataset.stored(output):
            return _nothing(output, outcomes)
        found = dataset.content(output, seals, known, name or (known.name if known else None))
        if not found.segments:
            return _nothing(output, outcomes)
        made = forms.write(output, found, merged(output, labels), _called(outcomes), known)
    old = {entry.id for entry in known.samples} if known else set()
    return Collected(
        str(output), made.name, made.form, len(made.samples), sum(one.id not in old for one in made.samples),
        sum(one.count - 1 for one in made.samples), sum(one.label is not None for one in made.samples), made.damaged,
        outcomes,
    )  # fmt: skip


def _seals(key: Path | Seal | Sequence[Path | Seal] | None) -> dict[str, Seal]:
    keys = [key] if key is None or isinstance(key, (str, Path, Seal)) else key
    found = [one if isinstance(one, Seal) else sealing.find(one) for one in keys or (None,)]
    return {seal.id: seal for seal in found if seal is not None}


def _called(outcomes: Iterable[BoardOutcome]) -> dict[str, str]:
    return {store: outcome.target for outcome in outcomes for store in outcome.stores}


def _known(output: Path) -> dataset.Manifest | None:
    return dataset.read(output) if (output / dataset.MANIFEST).exists() else None


def _nothing(output: Path, outcomes: tuple[BoardOutcome, ...]) -> Collected:
    if not any(outcome.error for outcome in outcomes):
        where = ", ".join(outcome.target for outcome in outcomes) or str(output)
        raise MissingFileError("captures-none", f"nothing was captured on {where}")
    return Collected(str(output), "", "arrays", 0, 0, 0, 0, 0, outcomes)


def _fetched(
    targets: Sequence[str], wanted: _Wanted, at_once: int, told: Callable[[BoardOutcome], None] | None,
    progress: Progress | None,
) -> Iterable[BoardOutcome]:  # fmt: skip
    found: dict[str, BoardOutcome] = {}
    with ThreadPoolExecutor(max(1, at_once)) as pool:
        running = {pool.submit(_board, target, wanted, progress): target for target in dict.fromkeys(targets)}
        for future in as_completed(running):
            outcome = found[running[future]] = future.result()
            if told is not None:
                told(outcome)
    if len(wanted.names) > 1:
        raise UsageError("collect-names", f"there are captures of {', '.join(sorted(wanted.names))}: name one")
    return [found[target] for target in dict.fromkeys(targets)]


def _board(target: str, wanted: _Wanted, progress: Progress | None) -> BoardOutcome:
    outcome = BoardOutcome(target)
    folder = Path(target) if target.partition(":")[0] not in KINDS and Path(target).is_dir() else None
    captures = wanted.captures if folder is None else str(folder)
    others: list[str] = []
    try:
        with open_target("local" if folder else target, progress) as place:
            survey = place.perform(export.survey, export.SurveyRequest(captures, wanted.name))
            seen = survey.segments
            _one_name(seen, wanted)
            outcome = replace(
                outcome, host=seen[-1].header.host if seen else "",
                stores=tuple(dict.fromkeys(one.header.store for one in seen)), unreadable=len(survey.unreadable),
            )  # fmt: skip
            for pieces in _pieces([one for one in seen if not _here(one, wanted.output)]):
                _tell(progress, target, outcome, pieces)
                got = _get(place, pieces, wanted.output, others)
                outcome = replace(outcome, segments=outcome.segments + len(pieces), bytes=outcome.bytes + got)
            if others:
                raise ArtifactError(
                    "dataset-other-segment", f"{target} has another {', '.join(others)} than the one that is here",
                    next_step="Collect that board into a dataset of its own; `drift report` takes several.",
                )  # fmt: skip
            if wanted.remove:
                safe = tuple(
                    one.path for one in seen if not one.last and dataset.path_of(wanted.output, one.header).exists()
                )
                gone = place.perform(export.remove, export.RemoveRequest(safe)) if safe else export.Removed(0)
                outcome = replace(outcome, removed=gone.count)
    except EdgeKitError as error:
        return replace(outcome, error=error.to_dict())
    return outcome


def _one_name(seen: Iterable[export.Segment], wanted: _Wanted) -> None:
    """Before anything is fetched: all boards must mean the same model."""
    with wanted.lock:
        wanted.names.update(one.header.name for one in seen)
        if len(wanted.names) > 1:
            names = ", ".join(sorted(wanted.names))
            raise UsageError("collect-names", f"there are captures of {names}: name one")


def _here(segment: export.Segment, output: Path) -> bool:
    path = dataset.path_of(output, segment.header)
    return path.exists() and path.stat().st_size >= segment.size


def _pieces(segments: list[export.Segment]) -> Iterator[list[export.Segment]]:
    """Segments by pieces of a few megabytes, at least one each."""
    piece: list[export.Segment] = []
    for segment in segments:
        if piece and sum(one.size for one in piece) + segment.size > _PIECE:
            yield piece
            piece = []
        piece.append(segment)
    if piece:
        yield piece


def _get(place: Target, pieces: list[export.Segment], output: Path, others: list[str]) -> int:
    """Fetch some segments in one file, check them, and keep each under its own name; how many bytes.

    Those of which another one is here already go to `others`.
    """
    there = place.new("captures.bin")
    parts = place.perform(export.export, export.ExportRequest(tuple(one.path for one in pieces), there)).parts
    with files.scratch() as scratch:
        here = scratch / "captures.bin"
        place.get(there, here)
        data = here.read_bytes()
    at = 0
    for segment, part in zip(pieces, parts, strict=True):
        content, at = data[at : at + part.bytes], at + part.bytes
        if hashlib.sha256(content).hexdigest() != part.sha256:
            raise TargetError("target-digest", f"what came back from {place.name} is not what lies there")
        path = dataset.path_of(output, segment.header)
        if content and not _put(path, content):
            others.append(path.name)
    return at


def _put(path: Path, content: bytes) -> bool:
    """Keep a segment, in place of its own beginning alone; False where what is here is another one of that number."""
    old = path.read_bytes() if path.exists() else b""
    if len(content) > len(old) and content.startswith(old):
        files.replace(path, content)
    return content.startswith(old) or old.startswith(content)


def _tell(progress: Progress | None, target: str, outcome: BoardOutcome, pieces: list[export.Segment]) -> None:
    if progress is not None:
        size = (outcome.bytes + sum(one.size for one in pieces)) / 1e6
        progress({"stage": f"fetching from {target}: {size:.1f} MB"})
