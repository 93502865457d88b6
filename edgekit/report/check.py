"""The page of `edgekit check`."""

from __future__ import annotations

from typing import Any

from edgekit.gate.explain import own_name
from edgekit.report import plots
from edgekit.report.page import cards, figure, head, notes, plot, section, table, text

_SHOWN = 16
_TENSORS = 40
_MIB = 2**20
_PARTS = 0.01
_COUNTED = ("MiB", "ms")


def sections(document: dict[str, Any]) -> tuple[str, list[str]]:
    """Title and sections."""
    name = str(document["file"]).rpartition("/")[2]
    device, fits = document["device"], bool(document["fits"])
    title = f"{name} on {device}"
    broken = [limit["resource"] for limit in document["limits"] if not limit["ok"]]
    verdict = "It fits." if fits else "It does not fit."
    words = f"Over the limit: {', '.join(broken)}." if broken else "Every limit holds."
    time = document["latency_ms"]
    key = [
        ("memory, peak", figure(document, "memory_mb.estimate", 4, "MiB")),
        ("memory until open", figure(document, "memory_mb.load", 4, "MiB")),
        ("latency", figure(document, "latency_ms.estimate", 3, "ms")),
        ("at least (80 %)", figure(document, "latency_ms.low", 3, "ms")),
        ("at most (80 %)", figure(document, "latency_ms.high", 3, "ms")),
    ]
    parts = [
        head(title, verdict, text(words), good=fits),
        cards(key),
        f"<p>{text('Latency: ' + time['basis'])}.</p>",
        notes(document["advice"]),
        _limits(document),
        *_choices(document),
    ]
    if explained := document.get("explain"):
        parts += [*_ops(explained), *_memory(explained), *_timeline(explained)]
    return title, parts


def _limits(document: dict[str, Any]) -> str:
    counted = [m for m in document["limits"] if m["unit"] in _COUNTED and m["required"] > 0]
    rows = [
        (m["resource"], m["required"], m["available"], m["unit"], "yes" if m["ok"] else "NO")
        for m in document["limits"]
    ]
    said = [f"{m['resource']}: {m['why']} [{m['source']}]" for m in document["limits"]]
    parts = [table(("resource", "required", "available", "unit", "holds"), rows), notes(said)]
    if counted:
        shares = [100 * limit["required"] / limit["available"] for limit in counted]
        colors = [plots.GOOD if limit["ok"] else plots.BAD for limit in counted]

        def paint(axes: Any) -> None:
            names = [plots.short(limit["resource"]) for limit in counted]
            plots.bars(names, shares, "% of what the board has", colors)(axes)
            axes.set_xscale("log")
            axes.axvline(100, color=plots.BAD, linewidth=1.2)

        nearest = max(range(len(counted)), key=lambda i: shares[i])
        caption = (
            f"Nearest to its limit: {counted[nearest]['resource']}, {shares[nearest]:.3g} % of what the board has."
        )
        parts.insert(0, plot(caption, plots.draw("limits", 0.8 + 0.3 * len(counted), paint, caption)))
    return section("Limits", *parts)


def _choices(document: dict[str, Any]) -> list[str]:
    found = document.get("choices")
    if not found:
        return []
    labels = [f"{c['precision']}, {c['engine']}, {c['threads']} thread{'s' * (c['threads'] > 1)}" for c in found]
    best = found[0]
    caption = (
        f"Fastest there: {labels[0]}, about {best['latency_ms']:.3g} ms, {best['gain']:.3g} times as fast as asked."
    )
    drawing = plots.bars([plots.short(label) for label in labels], [c["latency_ms"] for c in found], "ms, predicted")
    return [section("Other settings", plot(caption, plots.draw("choices", 0.7 + 0.26 * len(found), drawing, caption)))]


def _ops(explained: dict[str, Any]) -> list[str]:
    worst = sorted(explained["ops"], key=lambda op: -op["ms"])[:_SHOWN]
    if not worst:
        return []
    colors = [
        plots.TWO if op["limit"] == "memory" else plots.SOFT if op["limit"] == "overhead" else plots.ONE for op in worst
    ]
    labels = [f"{plots.short(op['kind'], 20)}  {plots.short(own_name(op['name']), 24)}" for op in worst]
    unit, times = ("ms", 1) if worst[0]["ms"] >= 1 else ("microseconds", 1000)
    share = 100 * sum(op["share"] for op in worst[:5])
    caption = f"The five longest of {len(explained['ops'])} kernels take {share:.0f} % of the predicted time."
    drawing = plots.bars(labels, [times * op["ms"] for op in worst], f"{unit}, predicted", colors)
    legend = "<p>Blue: bound by arithmetic. Orange: by memory. Gray: by the call itself.</p>"
    return [section("Time", plot(caption, plots.draw("ops", 0.7 + 0.26 * len(worst), drawing, caption)), legend)]


def _memory(explained: dict[str, Any]) -> list[str]:
    parts = sorted((part for part in explained["memory"] if part["mib"] >= _PARTS), key=lambda part: -part["mib"])
    if not parts:
        return []
    total = sum(part["mib"] for part in explained["memory"])
    caption = f"{total:.1f} MiB in all; the largest part is {parts[0]['why']}."
    sums: dict[str, float] = {}
    for part in parts:
        sums[part["what"]] = sums.get(part["what"], 0.0) + part["mib"]
    drawing = plots.bars(list(sums), list(sums.values()), "MiB")
    rows = [(part["why"], part["mib"], part["when"]) for part in parts]
    return [
        section(
            "Memory",
            plot(caption, plots.draw("memory", 0.7 + 0.26 * len(sums), drawing, caption)),
            table(("", "MiB", "from"), rows),
        )
    ]


def _timeline(explained: dict[str, Any]) -> list[str]:
    line = explained["timeline"]
    if line is None:
        return [section("Activations", "<p>Not known: some sizes are free.</p>")]
    moments, peak = line["moments"], line["peak"]
    values = [moment["bytes"] / _MIB for moment in moments]
    most = moments[peak]
    where = f"op {peak} of {len(moments)}, {most['kind']} ({plots.short(own_name(most['name']), 60)})"
    caption = f"{values[peak]:.3g} MiB are alive at {where}."

    def alive(axes: Any) -> None:
        axes.fill_between(range(len(values)), values, step="mid", color=plots.ONE, alpha=0.35, linewidth=0)
        axes.step(range(len(values)), values, where="mid", color=plots.ONE, linewidth=1.2)
        axes.axvline(peak, color=plots.BAD, linewidth=1.2)
        axes.annotate("peak", (peak, values[peak]), (4, -4), textcoords="offset points", color=plots.BAD, va="top")
        axes.grid(visible=True, axis="y")
        axes.set_ylim(bottom=0)
        axes.set_xlabel("op")
        axes.set_ylabel("MiB alive")

    tensors = line["tensors"][:_TENSORS]

    def places(axes: Any) -> None:
        for span in tensors:
            here = span["first"] <= peak <= span["last"]
            axes.broken_barh(
                [(span["first"] - 0.5, span["last"] - span["first"] + 1)],
                (span["offset"] / _MIB, span["bytes"] / _MIB),
                facecolor=plots.BAD if here else plots.ONE, edgecolor=plots.LINE, linewidth=0.6, alpha=0.75,
            )  # fmt: skip
        axes.axvline(peak, color=plots.BAD, linewidth=1.2)
        axes.set_xlim(-0.5, len(moments) - 0.5)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("op")
        axes.set_ylabel("MiB from the arena's start")

    said = f"Where the {len(tensors)} largest tensors lie and for how long; red: alive at the peak."
    rows = [
        (own_name(span["name"]), span["bytes"] / _MIB, f"{span['first']} to {span['last']}")
        for span in line["tensors"] if span["first"] <= peak <= span["last"]
    ][:_SHOWN]  # fmt: skip
    return [
        section(
            "Activations",
            plot(caption, plots.draw("alive", 2.6, alive, caption)),
            plot(said, plots.draw("places", 3.2, places, said)),
            table(("alive at the peak", "MiB", "during ops"), rows),
        )
    ]
