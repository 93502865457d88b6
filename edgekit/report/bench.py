"""The page of `edgekit bench`."""

from __future__ import annotations

from typing import Any

from edgekit.report import plots
from edgekit.report.page import cards, figure, head, notes, number, plot, section, table, text

_PERCENTILES = ("p50", "p90", "p95", "p99")


def sections(document: dict[str, Any]) -> tuple[str, list[str]]:
    """Title and sections; `series`, when it is there, is drawn."""
    about = document.get("artifact") or {}
    name = str(about.get("path") or "artifact").rpartition("/")[2]
    title = f"{name}: latency on {document['target']}"
    threads = f"{document['threads']} thread{'s' if document['threads'] != 1 else ''}"
    verdict = "Valid measurement." if document["valid"] else "Not a valid measurement."
    words = f"{document['runs']} runs on {document['engine']}, {threads}."
    parts = [
        head(title, verdict, text(words), good=bool(document["valid"])),
        notes(document.get("notes", ())),
        cards(
            [
                ("median", figure(document, "latency_ms.p50", 3, "ms")),
                ("90 % within", figure(document, "latency_ms.p90", 3, "ms")),
                ("99 % within", figure(document, "latency_ms.p99", 3, "ms")),
                ("load", figure(document, "load_ms", 3, "ms")),
                ("first inference", figure(document, "first_ms", 3, "ms")),
                ("peak memory", figure(document, "rss_mb", 3, "MB")),
            ]
        ),
    ]
    blocks = document.get("series") or []
    if blocks:
        parts += [_distribution(document, blocks), _time_line(document, blocks)]
    parts += [_percentiles(document), *_scenario(document), _environment(document)]
    return title, parts


def _distribution(document: dict[str, Any], blocks: list[dict[str, Any]]) -> str:
    times = sorted(time for block in blocks for time in block["times_ms"])
    latency = document["latency_ms"]
    top = max(latency["p99"] * 1.25, latency["p50"] * 1.5)

    def paint(axes: Any) -> None:
        plots.histogram(axes, [min(time, top) for time in times], plots.ONE)
        for index, (key, color) in enumerate((("p50", plots.INK), ("p90", plots.TWO), ("p99", plots.BAD))):
            axes.axvline(latency[key], color=color, linewidth=1.2)
            axes.annotate(
                f" {key} {latency[key]:.3g}", (latency[key], 0.97 - 0.09 * index), xycoords=("data", "axes fraction"),
                color=color, va="top",
            )  # fmt: skip
        axes.set_xlabel(f"ms an inference (beyond {top:.3g} ms counted at the edge)")
        axes.set_ylabel("runs")

    caption = (
        f"Half of the inferences take at most {number(latency['p50'])} ms, 99 % at most {number(latency['p99'])} ms; "
        f"the slowest took {number(latency['max'])} ms."
    )
    return section("Distribution", plot(caption, plots.draw("distribution", 2.9, paint, caption)))


def _time_line(document: dict[str, Any], blocks: list[dict[str, Any]]) -> str:
    at = [block["at_s"] for block in blocks]
    medians = [block["p50_ms"] for block in blocks]

    def paint(axes: Any) -> None:
        for block, start in zip(blocks, at, strict=True):
            some = block["times_ms"][:40]
            axes.plot([start] * len(some), some, ".", color=plots.ONE, alpha=0.25, markersize=3)
        axes.plot(at, medians, color=plots.TWO, linewidth=1.6, label="median of a block")
        axes.set_ylim(0, max(document["latency_ms"]["p99"] * 1.2, max(medians) * 1.2))
        axes.set_xlabel("seconds since the start")
        axes.set_ylabel("ms")
        axes.legend(loc="upper right", labelcolor=plots.INK)

    change = max(medians) / min(medians) if min(medians) else 1.0
    caption = f"Over the run the medians of its {len(blocks)} blocks differ by a factor of up to {change:.2f}."
    return section("Time line", plot(caption, plots.draw("timeline", 2.7, paint, caption)))


def _percentiles(document: dict[str, Any]) -> str:
    bounds = document.get("intervals_ms", {})
    rows = []
    for key in ("min", *_PERCENTILES, "max", "mean"):
        if key in document["latency_ms"]:
            known = bounds.get(key) or {}
            low, high = (number(known.get(edge)) if known.get(edge) is not None else "-" for edge in ("low", "high"))
            rows.append((key, figure(document, f"latency_ms.{key}", 5), f"{low} to {high}" if known else "-"))
    return section("Milliseconds", table(("", "ms", "95 % interval"), rows))


def _scenario(document: dict[str, Any]) -> list[str]:
    found = document.get("scenario")
    if not found:
        return []
    metric = found["metric"]
    rows = [(metric["name"], figure(document, "scenario.metric.value", 5), metric["unit"])]
    rows += [
        (name.replace("_", " "), figure(document, f"scenario.{name}", 5), "")
        for name in ("queries", "samples_per_query", "rate_qps", "latency_bound_ms", "late")
        if found.get(name) is not None
    ]
    return [section(f"Scenario: {found['name']}", table(("", "", ""), rows))]


def _environment(document: dict[str, Any]) -> str:
    seen = document["environment"]
    rows = [
        (name.replace("_", " "), ", ".join(map(str, value)) if isinstance(value, list) else value)
        for name, value in seen.items()
        if value is not None and not isinstance(value, dict) and name != "timeline"
    ]
    flags = (seen.get("throttle") or {}).get("after") or {}
    told = [name.replace("_", " ") for name, value in flags.items() if value is True]
    rows.append(
        ("throttled", ", ".join(told) or ("no" if flags.get("source") else "unknown: the machine does not tell"))
    )
    return section("Environment", table(("", ""), rows))
