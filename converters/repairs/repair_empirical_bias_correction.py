"""Empirical bias correction: what the integer kernels shift on average is measured in the engine, and taken back.

Kernels shift their answers for more reasons than rounded weights: they round what they sum, multiply and average, look
sigmoids up in tables, and cut what a range does not hold; means over a picture keep such shifts while all else in them
averages out. So the quantized graph answers calibration samples beside the float one, and each layer's bias takes back
by what the mean of its channels differs, layer by layer in the graph's order, each measured with those before it
corrected (Nagel et al. 2019, arXiv:1906.04721, section 4.2; what is new to their integers is measured here, not what
follows from rounded weights alone).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgekit.converters.calibration.bends import bends
from edgekit.converters.calibration.taps import tap
from edgekit.converters.debugging import pairing
from edgekit.converters.debugging.nets import Array, Net, Op
from edgekit.converters.debugging.readers import OnnxNet, TFLiteNet
from edgekit.converters.repairs.repair import Change, EngineCase, Kind
from edgekit.converters.repairs.samples import Samples, look
from edgekit.converters.repairs.view import Layer, View, add_bias, layers
from edgekit.converters.stages import Graph

TITLE = "what the integer kernels shift on average, measured in the engine, is taken back by the biases"
KIND: Kind = "engine"
ORDER = 10

_BIAS = {
    "CONV_2D": 2, "DEPTHWISE_CONV_2D": 2, "FULLY_CONNECTED": 2, "TRANSPOSE_CONV": 3,
    "Conv": 2, "ConvTranspose": 2, "Gemm": 2,
}  # fmt: skip
"""Which input of an integer layer is its bias."""
_BEHIND = 2
"""Ops between a layer and what is stored of it: an activation, its parts."""
_FEWEST = 8
"""Samples; with fewer nothing is measured."""
_WORK = 1e11
"""Multiply-accumulates of all runs together: some seconds. Large models are measured on fewer samples."""
_HELD = 64 << 20
"""Bytes of activations from which runs go on, see `_starts`."""
_PASSING = 0.1
"""Share of values that a Relu passes, at least: what it stops, no bias can shift."""

Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class _Site:
    """A layer in both graphs.

    Attributes:
        layer: Of the float graph.
        reference: The float tensor to compare with: what the layer makes, or the activation behind it.
        shown: The quantized graph's tensor of the same values. op: Its layer.
        bias: The int32 constant of the quantized graph.
        scale: Of the bias's integers, a channel each.
    """

    layer: Layer
    reference: str
    shown: str
    op: Op
    bias: str
    scale: Doubles


def apply(case: EngineCase, opened: View) -> Change:
    """Correct all layers that both graphs have.

    Those without a bias get one; where the file would hold one empty bias for several layers, these are left.
    """
    known = [layer for layer in layers(opened) if layer.biased and layer.name not in case.lifted]
    for layer in known:
        if opened.bias(layer) is None:
            opened.set_bias(layer, np.zeros(len(opened.kernel(layer)), np.float32))
    biased = case.written(case.graph, opened)
    quantized = case.quantized(biased)
    net = _net(quantized)
    found = _sites(known, net, _net(case.reference))
    samples = case.samples.first(_count(case, net, found))
    if len(samples) < _FEWEST or not found:
        return Change()
    means = _means(case.reference, samples, found, case.threads, _ends(case, net, found))
    feeds = _feeds(net, biased, map(biased.turn, samples))
    shifts: dict[str, Doubles] = {}
    for site, differences in _differences(net, found, feeds, means, case.threads):
        shift = _surely(differences) / means[site.reference].passing
        stored = net.stored(site.bias)
        assert stored is not None  # noqa: S101 - it was when the site was found
        steps = np.rint(shift / site.scale).reshape(stored[1].shape)
        net.put(site.bias, (stored[1] - steps).astype(np.int32))
        shifts[site.layer.name] = shift
    largest = 0.0
    for site in found:
        shift = shifts[site.layer.name]
        add_bias(opened, site.layer, -shift)
        size = np.sqrt(np.square(means[site.reference].each).mean())
        largest = max(largest, float(np.abs(shift).max() / max(size, 1e-12)))
    detail = f"biases of {len(found)} layers, by up to {100 * largest:.2g} % of the layer's mean answer"
    return Change(len(found), detail)


# -- Which layers --------------------------------------------------------------------------------------------------


def _net(graph: Graph) -> Net:
    kind = {"tflite": TFLiteNet, "onnx": OnnxNet}[graph.format]
    return kind(Path(graph.path).read_bytes())


def _sites(known: list[Layer], net: Net, reference: Net) -> list[_Site]:
    """In the order of the quantized graph."""
    ends = zip((*net.inputs, *net.outputs), (*reference.inputs, *reference.outputs), strict=True)
    paired = {match.reference: mine for mine, match in pairing.pair(net, reference, dict(ends)).items()}
    found = [site for layer in known if (site := _site(layer, net, reference, paired)) is not None]
    return sorted(found, key=lambda site: site.op.number)


def _site(layer: Layer, net: Net, reference: Net, paired: Mapping[str, str]) -> _Site | None:
    for name in _onward(reference, layer.name):
        mine = paired.get(name)
        if mine is None or (net.tensors[net.seen(mine)].quant is None and net.readers.get(mine)):
            continue  # looking at what a kernel never stores would keep the engine from using that kernel
        op = _layer_before(net, mine)
        if op is None or len(op.inputs) <= _BIAS[op.kind]:
            return None
        bias = op.inputs[_BIAS[op.kind]]
        stored = net.stored(bias)
        if stored is None or stored[0].quant is None or stored[0].dtype != "int32" or _shared(net, stored[0].name):
            return None
        scale = np.asarray(stored[0].quant.scale, np.float64)
        return _Site(layer, name, net.seen(mine), op, stored[0].name, np.broadcast_to(scale, stored[1].size))
    return None


def _onward(net: Net, name: str) -> Iterator[str]:
    """A tensor, and what one op after the other makes of it alone."""
    for _ in range(_BEHIND + 1):
        yield name
        readers = net.readers.get(name, ())
        if len(readers) != 1 or len(readers[0].outputs) != 1 or name in net.outputs:
            return
        name = readers[0].outputs[0]


def _layer_before(net: Net, name: str) -> Op | None:
    for _ in range(_BEHIND + 1):
        op = net.producer.get(net.origin(name))
        if op is None or op.kind in _BIAS:
            return op
        name = op.inputs[0]
    return None


def _shared(net: Net, bias: str) -> bool:
    readers = net.readers.get(bias, ())
    widened = [op.outputs[0] for op in readers if op.kind == "DequantizeLinear"]
    return len(readers) != 1 or any(len(net.readers.get(name, ())) != 1 for name in widened)


# -- The float graph -----------------------------------------------------------------------------------------------


@dataclass
class _Means:
    """Of one float tensor.

    Attributes:
        each: Mean of each channel of each sample, [samples, channels].
        passing: Share of a channel's values that a Relu and the range let pass; one where there is neither.
    """

    each: Doubles
    passing: Doubles


def _ends(case: EngineCase, net: Net, found: list[_Site]) -> dict[str, tuple[float, float]]:
    """Of ranges that end where nobody tells values beyond apart (`calibration.bends`), by float tensor."""
    bent = bends(tap(case.reference, case.threads).steps())
    reach = {site.reference: net.tensors[site.shown].representable for site in found if site.reference in bent}
    return {name: ends for name, ends in reach.items() if ends is not None}


def _means(
    graph: Graph, samples: Samples, found: list[_Site], threads: int, ends: Mapping[str, tuple[float, float]]
) -> dict[str, _Means]:
    axes = {site.reference: site.layer.made_axis for site in found}
    sums: dict[str, list[Doubles]] = {name: [] for name in axes}
    above: dict[str, list[Doubles]] = {name: [] for name in axes}
    inside: dict[str, list[Doubles]] = {name: [] for name in axes}
    least = dict.fromkeys(axes, np.inf)

    def show(number: int, name: str, values: Array) -> None:
        del number  # they come in order
        low, high = ends.get(name, (-np.inf, np.inf))
        sums[name].append(_by_channel(values.clip(low, high), axes[name]))
        above[name].append(_by_channel(values > 0, axes[name]))
        inside[name].append(_by_channel((values >= low) & (values <= high), axes[name]))
        least[name] = min(least[name], float(values.min()))

    look(graph, samples, list(axes), show, threads)
    found_means = {}
    for name, each in sums.items():
        passing = np.mean(above[name] if least[name] == 0.0 else inside[name], axis=0)
        found_means[name] = _Means(np.array(each), np.maximum(passing, _PASSING))
    return found_means


def _by_channel(values: Array, axis: int) -> Doubles:
    rest = tuple(at for at in range(values.ndim) if at != axis % values.ndim)
    return np.asarray(values.mean(axis=rest, dtype=np.float64))


# -- The quantized graph -------------------------------------------------------------------------------------------


def _differences(
    net: Net, found: list[_Site], feeds: list[dict[str, Array]], means: Mapping[str, _Means], threads: int
) -> Iterator[tuple[_Site, Doubles]]:
    """By what each layer's means differ, [samples, channels]; the caller corrects it before the next is measured.

    Runs go on from the last tensor that all that is left depends on alone, whose values are held.
    """
    held = feeds
    starts = _starts(net)
    for site, after in zip(found, [*found[1:], None], strict=True):
        answers = _run(net, held, [site.shown], threads)
        each = [_by_channel(net.tensors[site.shown].reals(one[site.shown]), site.layer.made_axis) for one in answers]
        yield site, np.array(each) - means[site.reference].each
        passed = [name for at, name in starts if site.op.number <= at and after is not None and at < after.op.number]
        if passed:
            further = _run(net, held, [passed[-1]], threads)
            if sum(array.nbytes for one in further for array in one.values()) <= _HELD:
                held = further


def _run(net: Net, feeds: list[dict[str, Array]], outputs: list[str], threads: int) -> list[dict[str, Array]]:
    needed = net.needed(list(feeds[0]), outputs)
    with net.open(needed, outputs, threads) as runner:
        return [runner.run({name: feed[name] for name in needed}) for feed in feeds]


def _starts(net: Net) -> list[tuple[int, str]]:
    """Integer tensors that all ops behind them depend on alone: the op after which each is all there is."""
    last = {name: op.number for op in net.ops for name in op.inputs}
    last |= dict.fromkeys(net.outputs, len(net.ops))
    alive = set(net.inputs)
    found = []
    for op in net.ops:
        alive |= {name for name in op.outputs if name in last and name not in net.constants}
        alive = {name for name in alive if last.get(name, -1) > op.number}
        if len(alive) == 1:
            (name,) = alive
            if net.tensors[name].quant is not None and name not in net.outputs:
                found.append((op.number, name))
    return found


def _feeds(net: Net, graph: Graph, arrays: Iterable[dict[str, Array]]) -> list[dict[str, Array]]:
    inside = dict(zip((spec.name for spec in graph.inputs), net.place(graph.inputs, "inputs"), strict=True))
    return [
        {inside[name]: net.tensors[inside[name]].integers(np.ascontiguousarray(array)) for name, array in one.items()}
        for one in arrays
    ]


def _count(case: EngineCase, net: Net, found: list[_Site]) -> int:
    """Samples that are worth their time."""
    places = [at for at, _ in _starts(net)]
    reached = [0, *places]
    work = 0.0
    for site in found:
        work += site.op.number - max(at for at in reached if at <= site.op.number or at == 0)
    share = 2 * (work + len(net.ops)) / max(1, len(net.ops))
    return int(min(len(case.samples), _WORK / max(1.0, share * case.macs)))


def _surely(differences: Doubles) -> Doubles:
    """The mean, [channels], less as far as it may be the choice of the samples.

    As James and Stein shrink it: by the share that the squared standard error has in its square.
    """
    mean = differences.mean(axis=0)
    variance = differences.var(axis=0, ddof=1) / len(differences)
    return np.asarray(mean * np.clip(1 - variance / np.maximum(np.square(mean), 1e-300), 0.0, 1.0))
