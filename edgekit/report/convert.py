"""The page of `edgekit convert`."""

from __future__ import annotations

from typing import Any

from edgekit.report import plots
from edgekit.report.page import cards, figure, head, notes, number, plot, section, table, text


def sections(document: dict[str, Any]) -> tuple[str, list[str]]:
    """Title and sections; `outputs` of both sides, when they are there, are drawn."""
    made, proof = document["artifact"], document["verification"]
    name = str(made["path"] or "artifact").rpartition("/")[2]
    title = f"{name}: {made['precision']} {made['format']}"
    words = f"Its answers are the source's on {proof['samples']} samples ({proof['data']} data)."
    key = [
        ("size", figure(document, "artifact.bytes", unit="bytes")),
        ("source", figure(document, "source.bytes", unit="bytes")),
    ]
    if proof.get("metric"):
        metric = proof["metric"]
        key += [(f"{metric['name']}, source", figure(document, "verification.metric.source", 4)),
                (f"{metric['name']}, artifact", figure(document, "verification.metric.artifact", 4))]  # fmt: skip
    if proof.get("agreement") is not None:
        key.append(("same top-1 (share)", figure(document, "verification.agreement", 4)))
    if proof.get("sqnr_db") is not None:
        key.append(("SQNR", figure(document, "verification.sqnr_db", 4, "dB")))
    parts = [
        head(title, "Verified.", text(words), good=True),
        cards(key),
        notes(document.get("warnings", ())),
        *_accuracy(document),
        *_outputs(document),
        *_device(document),
        *_float_ops(document),
        _stages(document),
        _facts(document),
    ]
    return title, parts


def _accuracy(document: dict[str, Any]) -> list[str]:
    metric = document["verification"].get("metric")
    if not metric:
        return []
    lost = metric["drop"]
    said = (
        f"{abs(lost):.2f} points {'below' if lost > 0 else 'above'} the source" if lost else "the same as the source's"
    )
    caption = f"{metric['name']} of the artifact is {metric['artifact']:.2f}, {said}."
    drawing = plots.bars(
        ["source", "artifact"], [metric["source"], metric["artifact"]], metric["name"], [plots.SOFT, plots.ONE]
    )
    rows = [(key, figure(document, f"verification.metric.{key}", 5)) for key in ("source", "artifact", "drop")]
    return [
        section(
            "Accuracy", plot(caption, plots.draw("accuracy", 1.3, drawing, caption)), table(("", metric["name"]), rows)
        )
    ]


def _outputs(document: dict[str, Any]) -> list[str]:
    pairs = document.get("outputs")
    if not pairs or not pairs["source"]:
        return []
    source, artifact = pairs["source"], pairs["artifact"]
    errors = [mine - theirs for mine, theirs in zip(artifact, source, strict=True)]
    low, high = min(*source, *artifact), max(*source, *artifact)

    def scatter(axes: Any) -> None:
        axes.plot([low, high], [low, high], color=plots.LINE, linewidth=1)
        axes.scatter(source, artifact, s=7, color=plots.ONE, alpha=0.45, linewidths=0)
        axes.grid(visible=True, axis="y")
        axes.set_xlabel(f"source: {plots.short(pairs['name'])}")
        axes.set_ylabel("artifact")

    def histogram(axes: Any) -> None:
        plots.histogram(axes, errors, plots.TWO)
        axes.set_xlabel("artifact minus source")
        axes.set_ylabel("values")

    within = sorted(abs(error) for error in errors)[int(0.99 * (len(errors) - 1))]
    caption = f"Of {len(source)} values of {pairs['name']}, taken evenly, 99 % differ by at most {number(within, 3)}."
    return [
        section(
            "Outputs against the source's",
            plot(caption, plots.draw("outputs", 4.2, scatter, caption)),
            plot("How far they are off.", plots.draw("errors", 2.2, histogram, "Histogram of the differences.")),
        )
    ]


def _device(document: dict[str, Any]) -> list[str]:
    found = document.get("device")
    if not found:
        return []
    limits = found["limits"]
    measured = [
        limit for limit in limits
        if all(isinstance(limit.get(key), (int, float)) and limit[key] > 0 for key in ("required", "available"))
    ]  # fmt: skip
    verdict = f"It fits {found['name']}." if found["fits"] else f"It does not fit {found['name']}."
    rows = [
        (m["resource"], m["required"], m["available"], m.get("unit", ""), "yes" if m["ok"] else "NO") for m in limits
    ]
    parts = [table(("resource", "required", "available", "unit", "holds"), rows)]
    if measured:
        shares = [100 * limit["required"] / limit["available"] for limit in measured]
        colors = [plots.GOOD if limit["ok"] else plots.BAD for limit in measured]

        def paint(axes: Any) -> None:
            plots.bars(
                [plots.short(limit["resource"]) for limit in measured], shares, "% of what the board has", colors
            )(axes)
            axes.set_xscale("log")
            axes.axvline(100, color=plots.BAD, linewidth=1.2)

        parts.insert(0, plot(verdict, plots.draw("device", 0.8 + 0.3 * len(measured), paint, verdict)))
    return [section(f"Device: {found['name']}", *parts)]


def _float_ops(document: dict[str, Any]) -> list[str]:
    said = {"Lifted to another precision": document.get("lifted"), "Left in float": document.get("float_ops")}
    return [section(title, notes(ops)) for title, ops in said.items() if ops]


def _stages(document: dict[str, Any]) -> str:
    stages = [stage for stage in document["stages"] if stage["seconds"] >= 0.01] or document["stages"]
    total = sum(stage["seconds"] for stage in document["stages"])
    caption = f"The conversion took {total:.1f} s."
    drawing = plots.bars([stage["name"] for stage in stages], [stage["seconds"] for stage in stages], "seconds")
    return section("Stages", plot(caption, plots.draw("stages", 0.7 + 0.26 * len(stages), drawing, caption)))


def _facts(document: dict[str, Any]) -> str:
    rows = [(f"artifact {key}", value) for key, value in document["artifact"].items()]
    rows += [(f"source {key}", value) for key, value in document["source"].items()]
    proof = document["verification"]
    shown = ("samples", "data", "max_abs_error", "sqnr_db", "agreement")
    rows += [
        (key.replace("_", " "), figure(document, f"verification.{key}", 6))
        for key in shown
        if proof.get(key) is not None
    ]
    return section("Facts", table(("", ""), rows))
