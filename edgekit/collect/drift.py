"""Boards beside each other and over time: what a drift report shows, from collected datasets."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from edgekit.codec import encode
from edgekit.collect import dataset, standing
from edgekit.collect.dataset import Entry, Manifest
from edgekit.errors import UsageError
from edgekit.monitor.records import STRATA

_MOMENTS, _EACH, _FEWEST = 1200, 240, 24
"""Moments of all boards together, of one board at most, and at least: a page that a phone opens."""

_Z = 1.96
"""Of a normal distribution: 95 % lie within."""


def summary(folders: Sequence[Path]) -> dict[str, Any]:
    """The document of `edgekit drift report --json`.

    Args:
        folders: Datasets of one model that `edgekit collect` made.

    Returns:
        `boards` (each with a `series` over time, of at most 240 moments, its classes and alarms, what its monitor told
        last; those with alarms first), `alarms` (all, by time), `seen`, `samples` and `labelled` (how many), `strata`
        (kept, labelled, and the share of wrong answers), `accuracy` (estimated from labels and weights; None without
        labels).

    Raises:
        UsageError: `dataset-other`; `collect-names`: they are of different models. ArtifactError: `dataset-damaged`.
    """
    found = [(dataset.read(folder), dataset.statuses(folder)) for folder in folders]
    names = sorted({manifest.name for manifest, _ in found})
    if len(names) > 1:
        raise UsageError("collect-names", f"the datasets are of {', '.join(names)}: report on one model at a time")
    boards = {one["store"]: one for manifest, lines in found for one in _boards(manifest, lines)}
    most = min(_EACH, max(_FEWEST, _MOMENTS // max(1, len(boards))))
    boards = {
        store: {**board, "series": _coarse(board["series"], most)}
        for store, board in sorted(boards.items(), key=lambda one: _standing(one[1]), reverse=True)
    }
    entries = {entry.id: entry for manifest, _ in found for entry in manifest.samples}
    alarms = sorted((alarm for board in boards.values() for alarm in board["alarms"]), key=_moment)
    return {
        "name": names[0] if names else "",
        "datasets": [str(folder) for folder in folders],
        "boards": list(boards.values()),
        "alarms": alarms,
        "seen": sum(board["seen"] for board in boards.values()),
        "samples": len(entries),
        "labelled": sum(entry.label is not None for entry in entries.values()),
        "strata": _strata(entries.values()),
        "accuracy": _accuracy(entries.values()),
        "damaged": sum(manifest.damaged for manifest, _ in found),
    }


def _moment(alarm: dict[str, Any]) -> float:
    return alarm["at"] if alarm["at"] is not None else 0.0


def _standing(board: dict[str, Any]) -> tuple[int, int]:
    """How much is the matter with a board: alarms that stand, and that were."""
    return len((board["monitor"] or {}).get("alarms", ())), len(board["alarms"])


def _coarse(series: list[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """At most so many moments: several that follow each other become one, with the means of their samples."""
    if len(series) <= most:
        return series
    found = []
    for part in range(most):
        points = series[part * len(series) // most : (part + 1) * len(series) // most]
        classes = Counter[str]()
        for point in points:
            classes.update(point["classes"])
        means = {name: _mean(points, name) for name in ("ood", "uncertainty")}
        seen = sum(point["seen"] for point in points)
        found.append({**points[-1], "seen": seen, **means, "classes": dict(classes)})
    return found


def _mean(points: list[dict[str, Any]], name: str) -> float | None:
    """Of what is told of points, by their samples."""
    known = [(point[name], point["seen"]) for point in points if point[name] is not None]
    whole = sum(seen for _, seen in known)
    return sum(value * seen for value, seen in known) / whole if whole else None


def _boards(manifest: Manifest, lines: list[dict[str, Any]]) -> Iterable[dict[str, Any]]:
    for board in manifest.boards:
        own = [line for line in lines if line.get("store") == board.store]
        called = board.target or board.host or board.store
        series, classes, kept = [], Counter[str](), Counter[str]()
        done = 0
        for line in own:
            if line["kind"] != "status":
                continue
            done += int(line["seen"])
            classes.update(line.get("classes", {}))
            kept.update(line.get("kept", {}))
            series.append({"at": line["at"], "seen": int(line["seen"]), "until": done, "ood": line.get("ood"),
                           "uncertainty": line.get("uncertainty"), "classes": line.get("classes", {}),
                           "version": line.get("version", ""), "monitor": _told(line)})  # fmt: skip
        alarms = [{"board": called, "at": line["at"], **line["alarm"]} for line in own if line["kind"] == "alarm"]
        yield {
            "store": board.store, "called": called, "host": board.host, "seen": done, "kept": dict(kept),
            "captures": board.samples, "first": board.first, "last": board.last, "series": series,
            "versions": list(dict.fromkeys(point["version"] for point in series)), "classes": dict(classes),
            "alarms": alarms, "monitor": _last(series),
        }  # fmt: skip


def _told(line: dict[str, Any]) -> dict[str, Any] | None:
    """What the board's monitor told; what moved most comes first."""
    told = standing.watched(line)
    if told is None:
        return None
    moved = dict(sorted(told.moved.items(), key=lambda one: -abs(one[1])))
    nothing = {"accuracy": None, "unestimated": None}
    return {**nothing, **encode(told), "seconds": dict(told.seconds), "moved": moved}


def _last(series: list[dict[str, Any]]) -> dict[str, Any] | None:
    """What the board's monitor told last, and when; None where nothing watches."""
    told = [point for point in series if point["monitor"]]
    return {"at": told[-1]["at"], **told[-1]["monitor"]} if told else None


def _strata(entries: Iterable[Entry]) -> list[dict[str, Any]]:
    """By how they were drawn: how many, and how many of those that are labelled were answered wrongly."""
    whole = list(entries)
    rows = []
    for name in STRATA:
        drawn = [entry for entry in whole if name in entry.strata]
        judged = _judged(drawn)
        wrong = sum(entry.label != entry.answer for entry in judged)
        rows.append({"stratum": name, "samples": len(drawn), "labelled": len(judged),
                     "wrong": wrong / len(judged) if judged else None})  # fmt: skip
    return [row for row in rows if row["samples"]]


def _judged(entries: Iterable[Entry]) -> list[Entry]:
    """Those that are labelled and answered with a class: values are not right or wrong."""
    return [entry for entry in entries if entry.label is not None and None not in (entry.answer, entry.score)]


def _accuracy(entries: Iterable[Entry]) -> dict[str, Any] | None:
    """Share of right answers in the whole stream (Hajek's estimator), with Wilson's interval at the effective number.

    The weights undo that strange samples were captured more often (Kish 1965 for the effective number).
    """
    judged = _judged(entries)
    weights = [entry.weight for entry in judged]
    if not judged:
        return None
    share = sum(w for w, entry in zip(weights, judged, strict=True) if entry.label == entry.answer) / sum(weights)
    effective = sum(weights) ** 2 / sum(w * w for w in weights)
    middle = (share + _Z**2 / (2 * effective)) / (1 + _Z**2 / effective)
    half = _Z / (1 + _Z**2 / effective) * math.sqrt(share * (1 - share) / effective + _Z**2 / (4 * effective**2))
    return {"estimate": share, "low": max(0.0, middle - half), "high": min(1.0, middle + half),
            "labelled": len(judged), "effective": effective}  # fmt: skip
