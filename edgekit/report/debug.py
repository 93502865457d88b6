"""The page of `edgekit debug`."""

from __future__ import annotations

from typing import Any

from edgekit.report import plots
from edgekit.report.page import cards, figure, head, notes, number, plot, section, table, text

_SHOWN = 12
_DRAWN = 4
"""Of the worst layers: whose histograms and weights are drawn."""
_CEILING = 100.0
"""dB, from which on a tensor counts as exact: it is left out of the drawing, which would be all ceiling."""

Layer = dict[str, Any]


def sections(document: dict[str, Any]) -> tuple[str, list[str]]:
    """Title and sections; the layers stand worst first."""
    made, layers = document["artifact"], document["layers"]
    name = str(made["path"]).rpartition("/")[2]
    title = f"{name}: {made['precision']} {made['format']} beside its source"
    verdict, words, good = _verdict(document)
    parts = [
        head(title, verdict, text(words), good=good),
        cards(
            [
                ("layers compared", str(len(layers))),
                ("samples", figure(document, "samples")),
                ("precision", figure(document, "artifact.precision")),
                ("format", figure(document, "artifact.format")),
                ("source", figure(document, "source.framework")),
                *((f"SQNR of {o['name']}", f"{number(o['sqnr_db'])} dB") for o in document["outputs"][:4]),
            ]
        ),
        notes(document["notes"]),
        *_divergence(document),
        *_along(layers),
        *_shares(layers),
        *_reasons(layers),
        *_histograms(layers),
        *_weights(layers),
        _table(layers),
        *_unpaired(document),
    ]
    return title, parts


def _verdict(document: dict[str, Any]) -> tuple[str, str, bool]:
    first = document["divergence"]
    if first is not None:
        where = first["source_layer"] or first["layer"]
        return f"It diverges at {where}.", f"{first['op']}, {number(first['relative_error'])} of the range.", False
    if document["artifact"]["precision"] == "fp32":
        return "No divergence.", "Every node answers as the source's does, within the tolerance.", True
    worst = document["layers"][0] if document["layers"] else None
    words = f"{_called(worst)}: {worst['reason']}" if worst and worst["reason"] else ""
    return "Worst layer:", words, True


def _called(layer: Layer) -> str:
    return str(layer["source_layer"] or layer["name"])


def _divergence(document: dict[str, Any]) -> list[str]:
    first = document["divergence"]
    if first is None:
        return []
    keys = ("name", "min", "max", "mean", "std", "zeros", "not_finite")
    rows = [(side, *(first[side][key] for key in keys)) for side in ("reference", "artifact")]
    said = f"Sample {first['sample']}, at {first['at']}: {first['found']:.7g} instead of {first['expected']:.7g}."
    return [section("First divergence", f"<p>{text(said)}</p>", table(("", "tensor", *keys[1:]), rows))]


def _along(layers: list[Layer]) -> list[str]:
    ordered = sorted(layers, key=lambda layer: layer["number"])
    if len(ordered) < 2:
        return []
    lines = (("as it is", "sqnr_db", plots.TWO), ("alone", "isolated_sqnr_db", plots.ONE))

    def paint(axes: Any) -> None:
        for label, key, color in lines:
            known = [place for place, layer in enumerate(ordered) if key == "sqnr_db" or layer["isolated_cosine"]]
            places = [place for place in known if not _exact(ordered[place][key])]
            values = [max(-20.0, ordered[place][key]) for place in places]
            axes.plot(places, values, ".-", color=color, label=label, linewidth=1.3, markersize=5)
        step = max(1, len(ordered) // 14)
        marked = range(0, len(ordered), step)
        axes.set_xticks(list(marked), [plots.short(_called(ordered[i]), 22) for i in marked], rotation=40, ha="right")
        axes.set_ylabel("SQNR, dB")
        axes.grid(visible=True, axis="y")
        axes.legend(loc="best", labelcolor=plots.INK)

    if all(_exact(layer["sqnr_db"]) for layer in ordered):
        return []
    caption = (
        'Signal to noise from the first layer to the last: a step down of the line "as it is" is where accuracy goes; '
        'a dip of the line "alone" is the layer that does it. What is exact is left out.'
    )
    return [section("Along the network", plot(caption, plots.draw("along", 4.2, paint, caption)))]


def _exact(decibels: float | None) -> bool:
    return decibels is None or decibels >= _CEILING


def _shares(layers: list[Layer]) -> list[str]:
    worst = [layer for layer in layers if layer["contribution"]][:_SHOWN]
    if not worst:
        return []
    labels = [f"{plots.short(_called(layer), 26)} {plots.short(layer['op'], 18)}" for layer in worst]
    drawing = plots.bars(labels, [100 * layer["contribution"] for layer in worst], "% of the error at the outputs")
    caption = f"{_called(worst[0])} makes {100 * worst[0]['contribution']:.0f} % of the error that layers make alone."
    return [section("Who does it", plot(caption, plots.draw("shares", 0.7 + 0.26 * len(worst), drawing, caption)))]


def _reasons(layers: list[Layer]) -> list[str]:
    rows = [
        (_called(layer), layer["reasons"][0]["text"], ", ".join(layer["reasons"][0]["options"]) or "-")
        for layer in layers[:_SHOWN]
        if layer["reasons"]
    ]
    return [section("Why, and what to try", table(("layer", "reason", "options of convert"), rows))] if rows else []


def _histograms(layers: list[Layer]) -> list[str]:
    drawn = [layer for layer in layers if layer.get("histogram")][:_DRAWN]
    made = []
    for place, layer in enumerate(drawn):
        counts = layer["histogram"]

        def paint(axes: Any, counts: dict[str, Any] = counts) -> None:
            low, high = counts["low"], counts["high"]
            bins = len(counts["reference"])
            edges = [low + (high - low) * index / bins for index in range(bins + 1)]
            for label, key, color in (("float", "reference", plots.ONE), ("artifact", "artifact", plots.TWO)):
                axes.stairs(counts[key], edges, color=color, label=label, linewidth=1.3)
            axes.set_yscale("symlog")
            axes.set_xlabel("value")
            axes.set_ylabel("count")
            axes.legend(loc="upper right", labelcolor=plots.INK)

        caption = f"{_called(layer)}: values of the float graph and of the artifact (KL {number(layer['kl'], 3)} nats)."
        made.append(plot(caption, plots.draw(f"histogram{place}", 2.6, paint, caption)))
    return [section("Values of the worst layers", *made)] if made else []


def _weights(layers: list[Layer]) -> list[str]:
    drawn = [layer for layer in layers if layer.get("weights") and len(layer["weights"]["peaks"]) > 1][:_DRAWN]
    made = []
    for place, layer in enumerate(drawn):
        found = layer["weights"]

        def paint(axes: Any, peaks: list[float] = found["peaks"]) -> None:
            axes.bar(range(len(peaks)), peaks, color=plots.ONE, width=0.9)
            axes.set_xlabel("output channel")
            axes.set_ylabel("largest magnitude")

        scales = "one scale for all" if len(found["scales"]) == 1 else "a scale each"
        caption = f"{_called(layer)}: weights reach {number(max(found['peaks']), 3)}; its channels have {scales}."
        made.append(plot(caption, plots.draw(f"weights{place}", 2.2, paint, caption)))
    return [section("Weights by channel", *made)] if made else []


def _table(layers: list[Layer]) -> str:
    rows = [
        (
            _called(layer), layer["op"], layer["dtype"],
            None if layer["contribution"] is None else 100 * layer["contribution"],
            *(layer[key] for key in ("sqnr_db", "isolated_sqnr_db", "own_sqnr_db", "cosine", "kl", "max_abs_error")),
            100 * layer["saturation"], f"{number(layer['range'][0], 3)} to {number(layer['range'][1], 3)}",
            layer["scale"], layer["zero_point"],
        )
        for layer in layers
    ]  # fmt: skip
    columns = ("layer", "op", "type", "share, %", "as it is, dB", "alone, dB", "own, dB", "cosine", "KL", "max error",
               "saturated, %", "range", "scale", "zero point")  # fmt: skip
    return section("All layers, worst first", table(columns, rows))


def _unpaired(document: dict[str, Any]) -> list[str]:
    if not document["unpaired"]:
        return []
    return [section("Not compared", notes(document["unpaired"]))]
