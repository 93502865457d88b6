"""The page of `edgekit profile`."""

from __future__ import annotations

from typing import Any

from edgekit.report import plots
from edgekit.report.page import cards, figure, head, notes, plot, section, table, text

_SHOWN = 20


def sections(document: dict[str, Any]) -> tuple[str, list[str]]:
    """Title and sections."""
    name = str(document["file"]).rpartition("/")[2]
    title = f"{name}: time per op on {document['target']}"
    verdict = "Valid profile." if document["valid"] else "Not a valid profile."
    share = f"The {len(document['ops'])} ops add up to {100 * document['coverage']:.1f} % of an inference."
    parts = [
        head(title, verdict, text(f"{share} {document['engine']}."), good=bool(document["valid"])),
        notes(document.get("notes", ())),
        cards(
            [
                ("an inference", figure(document, "wall_ms", 4, "ms")),
                ("sum of the ops", figure(document, "ops_ms", 4, "ms")),
                ("runs", figure(document, "runs")),
                ("times as long while profiled", figure(document, "overhead", 3)),
            ]
        ),
        _ops(document),
        _types(document),
        *_intensity(document),
        _table(document),
    ]
    return title, parts


def _ops(document: dict[str, Any]) -> str:
    worst = sorted(document["ops"], key=lambda op: -op["ms"])[:_SHOWN]
    if not worst:
        return ""
    colors = [plots.ONE if op["delegate"] != "builtin" else plots.TWO for op in worst]
    labels = [f"{op['index']} {plots.short(op['type'], 20)}  {plots.short(op['name'], 22)}" for op in worst]
    share = 100 * sum(op["share"] for op in worst[:5])
    caption = (
        f"The five slowest ops take {share:.0f} % of the time; the slowest is {worst[0]['type']} ({worst[0]['name']})."
    )
    drawing = plots.bars(labels, [1000 * op["ms"] for op in worst], "microseconds", colors)
    return section("Slowest ops", plot(caption, plots.draw("ops", 0.7 + 0.24 * len(worst), drawing, caption)))


def _types(document: dict[str, Any]) -> str:
    found = document["types"][:12]
    caption = f"{found[0]['name']} takes {100 * found[0]['share']:.0f} % of the time."
    drawing = plots.bars(
        [f"{plots.short(g['name'], 28)} ({g['count']})" for g in found], [1000 * g["ms"] for g in found], "microseconds"
    )
    rows = [(g["name"], g["count"], 1000 * g["ms"], 100 * g["share"]) for g in document["delegates"]]
    return section(
        "By type, and by kernels",
        plot(caption, plots.draw("types", 0.7 + 0.26 * len(found), drawing, caption)),
        table(("kernels", "ops", "us", "%"), rows),
    )


def _intensity(document: dict[str, Any]) -> list[str]:
    known = [op for op in document["ops"] if op.get("intensity") and op["ms"] > 0]
    if len(known) < 2:
        return []

    def paint(axes: Any) -> None:
        rates = [op["macs"] / op["ms"] / 1e6 for op in known]
        axes.scatter([op["intensity"] for op in known], rates, color=plots.ONE, alpha=0.8, s=24)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.grid(visible=True, axis="y")
        axes.set_xlabel("multiply-accumulates a byte")
        axes.set_ylabel("billion multiply-accumulates / s")

    best = max(op["macs"] / op["ms"] / 1e6 for op in known)
    caption = (
        f"The best op reaches {best:.3g} billion multiply-accumulates a second; those far below it wait for memory."
    )
    return [section("Arithmetic intensity", plot(caption, plots.draw("intensity", 3.0, paint, caption)))]


def _table(document: dict[str, Any]) -> str:
    rows = [
        (
            op["index"],
            op["type"],
            op["name"],
            op["delegate"],
            1000 * op["ms"],
            100 * op["share"],
            op.get("macs"),
            op.get("bytes"),
        )
        for op in document["ops"]
    ]
    return section("All ops", table(("#", "type", "name", "by", "us", "%", "MACs", "bytes"), rows))
