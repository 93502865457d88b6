"""Mixed precision: which few layers to lift out of int8 so that the answers are good enough.

    probe each layer > rank > find the shortest prefix that passes > leave out what is not needed

A probe quantizes one layer and leaves the rest in float, in the real engine, on a few samples: what noise that layer
alone brings to the outputs. The ranking by noise is a guess; whether lifting a set of layers is enough is judged by the
verification that judges every artifact. The shortest prefix of the ranking is found by doubling and halving, and then
single layers are tried without, least noisy first. So the number of verifications grows with the logarithm of the
layers, and is forecast.
"""

from __future__ import annotations

import math
from collections.abc import Container, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgekit import sample_axis
from edgekit.converters.rules import Layer, assign
from edgekit.converters.stages import Feeds, Graph, QuantizeOptions, Ranges
from edgekit.data_ref import DataRef
from edgekit.errors import ConversionError
from edgekit.rules import LayerPrecision, Rule, maker_of
from edgekit.tensors import TensorSpec

SAMPLES = 32
"""For a probe: noise power of a layer over thousands of values; more samples hardly move the ranking."""
PRUNING = 8
"""Verifications that the last step may take."""

_MOVES = frozenset({
    "RESHAPE", "TRANSPOSE", "SQUEEZE", "EXPAND_DIMS", "SLICE", "STRIDED_SLICE", "SPLIT", "SPLIT_V", "UNPACK", "GATHER",
    "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Split", "Gather", "Identity", "Dropout",
})  # fmt: skip
"""Layers that compute nothing: they go with those around them."""
_FOLLOWERS = frozenset({"Relu", "Clip", "BatchNormalization"})
"""ONNX nodes that end up in the node before them."""


@dataclass(frozen=True)
class ProbeRequest:
    """Noise of each layer.

    Attributes:
        graph: Float. ranges: Of its tensors.
        options: As for the whole.
        data: To run on. inputs: As the source has them.
        path: For a temporary file.
    """

    graph: Graph
    ranges: Ranges
    options: QuantizeOptions
    data: DataRef
    inputs: tuple[TensorSpec, ...]
    path: str


@dataclass(frozen=True)
class Noise:
    """What probing found.

    Attributes:
        layers: By the first tensor that each makes: noise over signal at the outputs, summed.
        known: All layers of the graph.
    """

    layers: dict[str, float]
    known: tuple[Layer, ...] = ()


def layers(graph: Graph) -> list[Layer]:
    """The operators of a graph, as rules see them."""
    if graph.format == "tflite":
        from edgekit.converters.tflite_graphs import graph as tflite_graph
        from edgekit.converters.tflite_graphs import plan as tflite_plan
        from edgekit.converters.tflite_graphs import rewrites as tflite_rewrites

        model = tflite_graph.read(Path(graph.path).read_bytes())
        tflite_rewrites.give_unique_names(model)
        return tflite_plan.layers(model)
    from edgekit.converters.onnx_graphs import graph as onnx_graph
    from edgekit.converters.onnx_graphs import lifts as onnx_lifts

    return onnx_lifts.layers(onnx_graph.read(graph.path))


def candidates(known: Sequence[Layer], ranges: Ranges, rules: Sequence[Rule] = ()) -> list[Layer]:
    """Layers that compute on floats that were observed, each with what will be folded into it.

    Those that rules already take to another precision are left out.
    """
    lifted = {tensor for tensor, at in assign(known, rules).items() if rules[at].precision != "int8"}
    return [
        layer
        for layer in known
        if layer.made and layer.made[0] in ranges.tensors and layer.kind not in _MOVES | _FOLLOWERS
        if layer.made[0] not in lifted
    ]


def probe(request: ProbeRequest) -> Generator[dict[str, Any], None, Noise]:
    """Quantize each layer alone and look at the outputs; a layer that cannot be quantized so has no noise."""
    import itertools

    from edgekit.converters import quantizers
    from edgekit.data import open_data
    from edgekit.precision import precisions

    graph, quantize = request.graph, quantizers.get(request.graph.format).quantize
    batches = open_data(replace(request.data, samples=SAMPLES), request.inputs).batches(SAMPLES)
    data = (
        sample_axis.taken(batch.feeds, request.inputs, graph.inputs) for batch in itertools.islice(batches, SAMPLES)
    )
    feeds = [graph.turn(one) for some in data for one in some]
    expected = _answers(graph, feeds)
    found: dict[str, float] = {}
    options = replace(request.options, interface="float", allow_float_ops=True)
    known = layers(graph)
    chosen = candidates(known, request.ranges, request.options.rules)
    for number, layer in enumerate(chosen):
        rules = (Rule("float"), *(maker_of(tensor, "int8") for tensor in layer.made))
        try:
            made = quantize(
                graph, request.ranges, precisions.get("int8"), replace(options, rules=rules), Path(request.path)
            )
            found[layer.made[0]] = _noise(expected, _answers(made, feeds))
        except ConversionError:
            found[layer.made[0]] = 0.0
        yield {"done": number + 1, "total": len(chosen)}
    return Noise(found, tuple(known))


def _answers(graph: Graph, feeds: Sequence[Feeds]) -> list[Feeds]:
    from edgekit import artifact
    from edgekit.runtimes.model import Model

    with Model.from_artifact(artifact.read(graph.path), inputs=graph.inputs, outputs=graph.outputs, threads=1) as model:
        return [dict(model.run(feed)) for feed in feeds]


def _noise(expected: Sequence[Feeds], answers: Sequence[Feeds]) -> float:
    import numpy as np

    whole = 0.0
    for name in expected[0]:
        s = np.concatenate([batch[name].reshape(-1) for batch in expected]).astype(np.float64)
        a = np.concatenate([batch[name].reshape(-1) for batch in answers]).astype(np.float64)
        signal = float(((s - s.mean()) ** 2).sum()) or float((s**2).sum()) or 1.0
        noise = float(((s - a) ** 2).sum())
        whole += noise / signal if math.isfinite(noise) else math.inf
    return whole


def ranked(noise: Noise) -> list[str]:
    """Layers, the noisiest first; of equal ones in the graph's order."""
    return sorted(noise.layers, key=lambda name: -noise.layers[name])


def rules(known: Sequence[Layer], lifted: Sequence[str], to: LayerPrecision) -> tuple[Rule, ...]:
    """Rules that lift layers, and the moves between them.

    Args:
        known: All layers.
        lifted: By the first tensor that each makes.
        to: Their precision.
    """
    readers: dict[str, list[Layer]] = {}
    for layer in known:
        for tensor in layer.read:
            readers.setdefault(tensor, []).append(layer)
    inside = set(lifted)
    for layer in known:
        if layer.kind in _FOLLOWERS and any(tensor in inside for tensor in layer.read):
            inside.update(layer.made)
    moves = [layer for layer in known if layer.kind in _MOVES and layer.made and layer.made[0] not in inside]
    inside.update(tensor for layer in moves for tensor in layer.made)
    while outer := [layer for layer in moves if not _between(layer, inside, readers)]:
        moves = [layer for layer in moves if layer not in outer]
        inside.difference_update(tensor for layer in outer for tensor in layer.made)
    return tuple(maker_of(layer.made[0], to) for layer in known if layer.made and layer.made[0] in inside)


def _between(move: Layer, inside: Container[str], readers: Mapping[str, Sequence[Layer]]) -> bool:
    """Whether a move comes from what is lifted, and goes to nothing else."""
    after = [reader for tensor in move.made for reader in readers.get(tensor, ())]
    return any(tensor in inside for tensor in move.read) and all(
        reader.made and reader.made[0] in inside for reader in after
    )


def forecast(count: int) -> int:
    """Verifications that a search over so many layers takes at most."""
    return 2 * math.ceil(math.log2(count + 1)) + PRUNING


def search(
    order: Sequence[str], *, whole_first: bool = False
) -> Generator[tuple[str, ...], bool, tuple[str, ...] | None]:
    """Find a small set of layers to lift.

    Args:
        order: The noisiest first; none at all is known not to be enough.
        whole_first: Ask for all of them before any: where another way was not enough, that may well not be either.

    Yields:
        Sets to lift; sent whether they pass.

    Returns:
        The set; None when even all are not enough.
    """
    if whole_first and not (yield tuple(order)):
        return None
    low, high = 0, 1
    while not ((whole_first and high >= len(order)) or (yield tuple(order[:high]))):
        if high >= len(order):
            return None
        low, high = high, min(2 * high, len(order))
    while high - low > 1:
        middle = (low + high) // 2
        if (yield tuple(order[:middle])):
            high = middle
        else:
            low = middle
    chosen = tuple(order[:high])
    # The last one is needed: without it the prefix did not pass.
    for layer in chosen[-2::-1][:PRUNING]:
        fewer = tuple(name for name in chosen if name != layer)
        if (yield fewer):
            chosen = fewer
    return chosen
