"""The page of `edgekit tune`."""

from __future__ import annotations

from typing import Any

from edgekit.report import plots
from edgekit.report.page import cards, figure, head, notes, plot, section, table, text


def sections(document: dict[str, Any]) -> tuple[str, list[str]]:
    """Title and sections."""
    chosen = document["chosen"]
    name = str(document["source"]["path"]).rpartition("/")[2]
    title = f"{name} on {document['device'] or document['target']}"
    words = f"{chosen['recipe']} on {chosen['engine']} has the least {document['goal']} within the limits."
    counts = document["evaluations"]
    key = [
        (f"loss, {chosen['unit']}", figure(document, "chosen.loss", 3)),
        (f"latency, {chosen['basis']}", figure(document, "chosen.latency_ms", 3, "ms")),
        ("size", figure(document, "chosen.bytes", unit="bytes")),
        ("memory", figure(document, "chosen.memory_mb", 3, "MB")),
        ("threads", figure(document, "chosen.threads")),
    ]
    spent = (
        f"{counts['conversions']} conversions and {counts['measurements']} measurements, {counts['remembered']} "
        f"remembered; trying everything would take {counts['of_everything']}."
    )
    state = "Complete." if document["complete"] else "The budget ended first: the front may lack points."
    return title, [
        head(title, "Chosen.", text(words), good=True),
        cards(key),
        section("Loss and latency", _scatter(document, "latency_ms", "latency, ms")),
        section("Loss and size", _scatter(document, "bytes", "size, kB", 1e-3)),
        section("The front", _table(document["front"])),
        section("All trials", _table(document["trials"])),
        *([section("Without an artifact", _failed(document["failed"]))] if document["failed"] else []),
        section("Evaluations", notes([spent, state])),
    ]


def _scatter(document: dict[str, Any], axis: str, unit: str, scale: float = 1.0) -> str:
    chosen, front = document["chosen"], document["front"]
    rest = [trial for trial in document["trials"] if trial not in front]
    best = [trial for trial in front if not _same(trial, chosen)]

    def paint(axes: Any) -> None:
        groups = (
            (rest, plots.SOFT, "others", 22),
            (best, plots.ONE, "front", 45),
            ([chosen], plots.GOOD, "chosen", 80),
        )
        for trials, color, name, size in groups:
            if trials:
                axes.scatter(
                    [t[axis] * scale for t in trials], [t["loss"] for t in trials], s=size, color=color, label=name
                )
        axes.set_xscale("log")
        for side in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
            side(lambda value, _: f"{value:g}")
        axes.set_xlabel(unit)
        axes.set_ylabel(f"loss, {chosen['unit']}")
        axes.grid(visible=True, axis="y")
        axes.margins(0.08)
        axes.legend(loc="upper right")

    caption = f"Every trial: {unit} against the loss; lower left is better."
    return plot(caption, plots.draw(axis, 3.4, paint, caption))


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(one[key] == other[key] for key in ("sha256", "engine", "threads"))


def _table(trials: list[dict[str, Any]]) -> str:
    columns = ("recipe", "engine", "threads", "loss", "latency, ms", "basis", "bytes", "memory, MB")
    keys = ("recipe", "engine", "threads", "loss", "latency_ms", "basis", "bytes", "memory_mb")
    return table(columns, [[trial[key] for key in keys] for trial in trials])


def _failed(failed: list[dict[str, Any]]) -> str:
    return table(("recipe", "code", "why"), [(one["recipe"], one["code"], one["message"]) for one in failed])
