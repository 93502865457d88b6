"""Why a layer is noisy: tests on its figures, each a function, in order of weight. Words and remedies are data.

A threshold stands beside its reason. `reasons.toml` has the sentence and the options of each code.
"""

from __future__ import annotations

import math
import statistics
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from importlib import resources
from typing import Any

from edgekit.converters.debugging.figures import Figures, Histogram
from edgekit.converters.debugging.reach import Reach
from edgekit.converters.debugging.results import Layer, Reason, Weights

Facts = dict[str, str]
Test = Callable[[Layer, Sequence[Layer]], "Facts | None"]

MIXED = 8.0
"""Ranges that differ this much leave the smaller one 5 of 8 bits."""
OUTLIER = 10.0
"""A channel that reaches ten times the median one costs all others more than 3 of 8 bits."""
_FEWEST_CHANNELS = 4
_CLIPPED = 0.5
"""Share of the squared error: most of it."""
_BIAS = 0.5
"""Of what int32 holds; sums are added to it."""
_SATURATED = 0.01
"""Of the weights, beyond the one a channel that its scale is made for."""
TINY = 1e-6
"""Real units; scales of a 256th of it meet weights' scales in products near the smallest that kernels multiply by."""
_UNUSED = 8.0
"""A range so many times the data's wastes 3 bits."""
_SHIFT = 0.7
"""A mean error of 0.7 of its root mean square: half of the squared error is a constant."""
_BROKEN_DB = 10.0
"""Less than the noise of 2 bits: no rounding of a sound layer makes it."""
_INHERITED_DB = 6.0
"""Cumulative below its own by one bit: three quarters of the error come from upstream."""
_GIVEN_BACK_DB = 3.0
"""Half of the noise that right inputs give is gone with the artifact's own: that is what its bias was made for."""
_MINOR = 0.1
_EXPLAINED = 2.0
"""Isolated noise within twice that of uniform rounding, scale^2 / 12 (Widrow and Kollar 2008, "Quantization Noise")."""
_DEAD = 0.25

_JOINS = frozenset({"CONCATENATION", "Concat", "PACK"})
_SQUASHES = frozenset({"SOFTMAX", "LOGISTIC", "LOG_SOFTMAX", "TANH", "Softmax", "Sigmoid", "LogSoftmax", "Tanh"})


@cache
def catalogue() -> dict[str, dict[str, Any]]:
    """Code -> its sentence and options."""
    return tomllib.loads(
        resources.files("edgekit.converters.debugging").joinpath("reasons.toml").read_text(encoding="utf-8")
    )


def outliers(peaks: Sequence[float]) -> list[int]:
    """Channels that reach many times what the median one does, dead ones aside."""
    alive = [peak for peak in peaks if peak > 0]
    if len(alive) < _FEWEST_CHANNELS:
        return []
    bound = OUTLIER * statistics.median(alive)
    return [channel for channel, peak in enumerate(peaks) if peak >= bound]


def ranked(layers: Sequence[Layer]) -> list[Layer]:
    """Worst first: by what the layer alone does to the outputs; where that is not known or equal, by its own noise."""

    def badness(layer: Layer) -> tuple[float, float, float]:
        isolated = _own(layer)
        return (
            -(layer.contribution or 0.0),
            math.inf if isolated.sqnr_db is None else isolated.sqnr_db,
            math.inf if layer.cumulative.sqnr_db is None else layer.cumulative.sqnr_db,
        )

    return sorted(layers, key=badness)


def explained(layer: Layer, layers: Sequence[Layer], used: Sequence[str] = (), reach: Reach | None = None) -> Layer:
    """The layer with its reasons.

    Args:
        layer: To be explained.
        layers: All of them, for what comes from upstream.
        used: Options of the conversion, which are not recommended again.
        reach: What the repairs can do here; None: anything.
    """
    found = []
    for code, test in _TESTS.items():
        facts = test(layer, layers)
        if facts is not None:
            entry = catalogue()[code]
            useless = {*used, *(() if reach is None else reach.in_vain(layer)), *_in_vain(code, layer, layers)}
            options = tuple(option for option in entry["options"] if option not in useless)
            found.append(Reason(code, entry["text"].format(**facts), options))
            if code in _FINAL:
                break
    return replace(layer, reasons=tuple(found))


def with_histogram(layer: Layer, histogram: Histogram | None) -> Layer:
    return layer if histogram is None else replace(layer, histogram=histogram)


def _exact(layer: Layer, _: Sequence[Layer]) -> Facts | None:
    isolated = layer.isolated or layer.cumulative
    return {} if isolated.sqnr_db is None and layer.cumulative.sqnr_db is None else None


def _mixed_concat(layer: Layer, _: Sequence[Layer]) -> Facts | None:
    spans = [max(abs(low), abs(high)) for low, high in layer.inputs_range]
    if layer.op not in _JOINS or not _eight_bits(layer) or len(spans) < 2 or min(spans) <= 0:
        return None
    if max(spans) / min(spans) < MIXED:
        return None
    ranges = ", ".join(f"{_number(low)} to {_number(high)}" for low, high in layer.inputs_range)
    return {"ranges": ranges, "levels": _left(min(spans), max(spans))}


def _mixed_output(layer: Layer, _: Sequence[Layer]) -> Facts | None:
    peaks = [peak for peak in layer.spread.columns or layer.spread.peaks if peak > 0]
    if not layer.is_output or layer.op in _SQUASHES or not _eight_bits(layer) or len(peaks) < 2:
        return None
    if max(peaks) / min(peaks) < MIXED:
        return None
    return {"least": _number(min(peaks)), "most": _number(max(peaks)), "levels": _left(min(peaks), max(peaks))}


def _outlier_channel(layer: Layer, _: Sequence[Layer]) -> Facts | None:
    peaks = layer.spread.peaks
    if not _eight_bits(layer) or layer.op in _SQUASHES or not outliers(peaks):
        return None
    median = statistics.median(peak for peak in peaks if peak > 0)
    return {"channel": str(peaks.index(max(peaks))), "channels": str(len(peaks)), "peak": _number(max(peaks)),
            "median": _number(median)}  # fmt: skip


def _clipped(layer: Layer, _: Sequence[Layer]) -> Facts | None:
    if layer.representable is None or layer.spread.clipped < _CLIPPED:
        return None
    return {"representable": _range(layer.representable), "range": _range((layer.spread.low, layer.spread.high)),
            "saturation": _percent(layer.spread.saturation)}  # fmt: skip


def _bias_overflow(layer: Layer, _: Sequence[Layer]) -> Facts | None:
    peak = layer.weights.bias_peak if layer.weights else None
    return {"bias": _percent(peak)} if peak is not None and peak >= _BIAS else None


def _weights_share_scale(layer: Layer, _: Sequence[Layer]) -> Facts | None:
    found = layer.weights
    if found is None or len(found.scales) > 1 or not outliers(found.peaks):
        return None
    median = statistics.median(peak for peak in found.peaks if peak > 0)
    return {"channel": str(found.peaks.index(max(found.peaks))), "peak": _number(max(found.peaks)),
            "median": _number(median)}  # fmt: skip


def _weights_saturated(layer: Layer, _: Sequence[Layer]) -> Facts | None:
    found: Weights | None = layer.weights
    if found is None or found.saturation < _SATURATED or _explained(layer):
        return None
    return {"saturation": _percent(found.saturation)}


def _tiny_range(layer: Layer, _: Sequence[Layer]) -> Facts | None:
    span = layer.spread.high - layer.spread.low
    return {"span": _number(span)} if layer.scale is not None and 0 < span < TINY else None


def _few_levels(layer: Layer, _: Sequence[Layer]) -> Facts | None:
    if layer.representable is None or not _eight_bits(layer) or layer.op in _SQUASHES or layer.spread.levels is None:
        return None
    used = max(layer.spread.high, 0.0) - min(layer.spread.low, 0.0)
    if used <= 0 or layer.representable[1] - layer.representable[0] < _UNUSED * used:
        return None
    return {"representable": _range(layer.representable), "range": _range((layer.spread.low, layer.spread.high)),
            "levels": str(layer.spread.levels)}  # fmt: skip


def _taken_back(layer: Layer, _: Sequence[Layer]) -> Facts | None:
    """Only a layer that corrects those before it is nearer to the float graph on their answers than on right ones."""
    alone, all_in = layer.isolated.sqnr_db if layer.isolated else None, layer.cumulative.sqnr_db
    if layer.weights is None or alone is None or all_in is None or all_in < alone + _GIVEN_BACK_DB:
        return None
    return {"isolated": _decibels(alone), "cumulative": _decibels(all_in)}


def _one_sided(layer: Layer, _: Sequence[Layer]) -> Facts | None:
    found = _own(layer)
    return {"shift": _percent(abs(found.shift))} if abs(found.shift) >= _SHIFT else None


def _kernel(layer: Layer, _: Sequence[Layer]) -> Facts | None:
    decibels = _own(layer).sqnr_db if layer.isolated else None
    return {"own": _decibels(decibels)} if decibels is not None and decibels < _BROKEN_DB else None


def _inherited(layer: Layer, layers: Sequence[Layer]) -> Facts | None:
    own, all_in = _own(layer).sqnr_db, layer.cumulative.sqnr_db
    if layer.isolated is None or all_in is None or (layer.contribution or 0.0) >= _MINOR:
        return None
    if own is not None and own - all_in < _INHERITED_DB:
        return None
    upstream = _worst_upstream(layer, layers)
    return {"own": _decibels(own), "upstream": upstream.source_layer or upstream.name} if upstream else None


def _activation_rounding(layer: Layer, _: Sequence[Layer]) -> Facts | None:
    return {"step": _number(layer.scale)} if layer.scale is not None and _explained(layer) else None


def _weight_rounding(layer: Layer, _: Sequence[Layer]) -> Facts | None:
    expected = _rounding_db(layer)
    own = _own(layer).sqnr_db
    if layer.weights is None or own is None or expected is None or layer.scale is None:
        return None
    return {"isolated": _decibels(own), "expected": _decibels(expected), "step": _number(layer.scale)}


def _stored_weights(layer: Layer, _: Sequence[Layer]) -> Facts | None:
    """Of layers whose values are floats."""
    if layer.weights is None or layer.scale is not None:
        return None
    return {"dtype": layer.weights.dtype, "own": _decibels(_own(layer).sqnr_db)}


def _dead_channels(layer: Layer, _: Sequence[Layer]) -> Facts | None:
    peaks = layer.spread.peaks
    dead = sum(peak == 0 for peak in peaks)
    if len(peaks) < _FEWEST_CHANNELS or dead < _DEAD * len(peaks):
        return None
    return {"dead": str(dead), "channels": str(len(peaks))}


_TESTS: dict[str, Test] = {
    "exact": _exact,
    "mixed-concat": _mixed_concat,
    "mixed-output": _mixed_output,
    "outlier-channel": _outlier_channel,
    "clipped": _clipped,
    "bias-overflow": _bias_overflow,
    "weights-share-scale": _weights_share_scale,
    "weights-saturated": _weights_saturated,
    "tiny-range": _tiny_range,
    "few-levels": _few_levels,
    "taken-back": _taken_back,
    "one-sided": _one_sided,
    "kernel": _kernel,
    "inherited": _inherited,
    "activation-rounding": _activation_rounding,
    "weight-rounding": _weight_rounding,
    "stored-weights": _stored_weights,
    "dead-channels": _dead_channels,
}
_FINAL = frozenset({"exact", "taken-back", "activation-rounding"})
"""After these nothing is left to explain."""


def _in_vain(code: str, layer: Layer, layers: Sequence[Layer]) -> set[str]:
    """Options that cannot help: no observer narrows what has the scale of its input, as after a pooling."""
    shared = any(other.name in layer.inputs and other.scale == layer.scale for other in layers)
    return {"--observer mse"} if code == "few-levels" and shared else set()


def _worst_upstream(layer: Layer, layers: Sequence[Layer]) -> Layer | None:
    """The ancestor that does most to the outputs."""
    known = {other.name: other for other in layers}
    found: dict[str, Layer] = {}
    waiting = list(layer.inputs)
    while waiting:
        name = waiting.pop()
        if name in known and name not in found:
            found[name] = known[name]
            waiting += known[name].inputs
    return max(found.values(), key=lambda other: other.contribution or 0.0, default=None)


def _own(layer: Layer) -> Figures:
    """The nearest that is known to the layer's own error."""
    return layer.own or layer.isolated or layer.cumulative


def _rounding_db(layer: Layer) -> float | None:
    """SQNR that rounding to this layer's steps alone would leave."""
    if layer.scale is None or layer.spread.rms == 0:
        return None
    return 10 * math.log10(layer.spread.rms**2 / (layer.scale**2 / 12))


def _eight_bits(layer: Layer) -> bool:
    return layer.scale is not None and layer.dtype in ("int8", "uint8")


def _explained(layer: Layer) -> bool:
    """Whether rounding to its steps makes up its own error."""
    expected, own = _rounding_db(layer), _own(layer).sqnr_db
    return expected is not None and own is not None and own >= expected - 10 * math.log10(_EXPLAINED)


def _left(small: float, large: float) -> str:
    return str(max(1, round(256 * small / large)))


def _number(value: float) -> str:
    return f"{value:.3g}"


def _range(ends: tuple[float, float]) -> str:
    return f"{ends[0]:.3g} to {ends[1]:.3g}"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _decibels(value: float | None) -> str:
    return "no error" if value is None else f"{value:.1f} dB"
