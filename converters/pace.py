"""Whether the quantized graph is slower than the float one: then it is said, with what to do instead.

Integers are not always faster: small networks, and graphs whose operators the engine cannot fuse, spend more on
rounding than they save. Both graphs answer one sample in turn, on one thread, for a fraction of a second; other work on
the machine disturbs both alike. A turn is the quickest of its runs: a network of a few microseconds has to fetch its
code and weights again after the other one ran, which says nothing of a board that runs it alone. Only a clear
difference is told.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from edgekit import sample_axis
from edgekit.converters.jobs import opened
from edgekit.converters.stages import Feeds, Graph
from edgekit.data_ref import DataRef
from edgekit.measure.subject import Call, Clock, Subject
from edgekit.runtimes.base import quantize
from edgekit.runtimes.model import Model
from edgekit.tensors import TensorSpec

_PAIRS = 60
_LEAST = 12
"""Pairs; with fewer, nothing is told."""

_SECONDS = 0.6
_WARM = 3
_TURN = 1_000_000
"""ns that a turn lasts at least."""

_SHARE = 0.8
"""Of the pairs must be slower: by chance that happens once in 10,000 sets of 60, once in 50 of 12."""

_FACTOR = 1.05
"""Of the medians; less is not worth a word."""

_MORE = 0.05
_BYTES = 4096
"""By which share, and by how much at least, a file must be larger to be worth a word."""


@dataclass(frozen=True)
class PaceRequest:
    """Compare the speed of two graphs of the same model on one sample."""

    before: Graph
    after: Graph
    data: DataRef
    inputs: tuple[TensorSpec, ...]
    scratch: str


@dataclass(frozen=True)
class Pace:
    """Microseconds a run of each graph, medians, and whether the second is clearly slower.

    Attributes:
        shallow: What convolutions of a single channel make, see `shallow`.
        dense: Most of the work are dense layers.
    """

    before_us: float
    after_us: float
    slower: bool
    engine: str
    shallow: tuple[str, ...] = ()
    dense: bool = False


def pace(request: PaceRequest) -> Pace:
    """Run both graphs in turn."""
    from edgekit.data import open_data

    data = open_data(request.data, request.inputs, Path(request.scratch))
    batch = next(iter(data.batches(1))).feeds
    feeds = next(sample_axis.taken(batch, request.inputs, request.before.inputs))
    pairs: list[tuple[int, int]] = []
    with opened(request.before, 1) as before, opened(request.after, 1) as after:
        first, second = _call(before, request.before.turn(feeds)), _call(after, request.after.turn(feeds))
        until = time.monotonic() + _SECONDS
        for number in range(_WARM + _PAIRS):
            pair = quickest(first), quickest(second)
            if number >= _WARM:
                pairs.append(pair)
            if time.monotonic() > until:
                break
        engine = f"{after.engine} {after.engine_version}"
    found = judge(pairs, engine)
    if not found.slower:
        return found
    return replace(found, shallow=shallow(request.before), dense=_dense(request.before))


def _call(model: Model, feeds: Feeds) -> Call:
    """As `edgekit bench` measures it: what the engine takes, without the caller's rounding to integers."""
    ready = {spec.name: quantize(feeds[spec.name], spec) if spec.quant else feeds[spec.name] for spec in model.inputs}
    return Subject(model, ready, 0.0, 0.0, 1).call


def quickest(call: Call, clock: Clock = time.perf_counter_ns) -> int:
    """Nanoseconds of the quickest run of a turn."""
    marks = [clock()]
    while marks[-1] < marks[0] + _TURN:
        call()
        marks.append(clock())
    return min(after - before for before, after in pairwise(marks))


def shallow(graph: Graph) -> tuple[str, ...]:
    """What the convolutions of an ONNX graph that read one channel make.

    onnxruntime gathers patches for its int8 convolution, which costs more than so small a product: with 5 x 5 patches
    of 28 x 28 pixels the first layer takes 22 us, and 5 in floats (1.32, x86 with VNNI).
    """
    if graph.format != "onnx":
        return ()
    from edgekit.converters.onnx_graphs import graph as onnx_graph

    model = onnx_graph.read(graph.path)
    view = onnx_graph.View(model)
    sizes = {node.output[0]: view.sizes(node.input[1]) or () for node in model.graph.node if node.op_type == "Conv"}
    groups = {node.output[0]: onnx_graph.attribute(node, "group", 1) for node in model.graph.node}
    return tuple(name for name, size in sizes.items() if len(size) > 1 and size[1] == 1 and groups[name] == 1)


def _dense(graph: Graph) -> bool:
    """Whether most of the work are dense layers.

    Between those of a transformer stand operators that LiteRT computes slowly in integers (LayerNorm's parts, GELU).
    Two encoder layers of width 64 on 32 tokens take 95 us in float, 143 in int8, 66 in dynamic; four of width 192 on
    64 tokens 2854 in float and 1102 in dynamic (2.3, x86 with VNNI, one thread).
    """
    from edgekit import artifact
    from edgekit.formats import read_facts

    ops = read_facts(artifact.read(graph.path, verify=False)).ops
    dense = sum(op.macs or 0 for op in ops if op.kind == "FULLY_CONNECTED")
    return dense > 0.5 * sum(op.macs or 0 for op in ops)


def judge(pairs: Sequence[tuple[int, int]], engine: str) -> Pace:
    """What pairs of times, in ns, say."""
    if len(pairs) < _LEAST:
        return Pace(0.0, 0.0, slower=False, engine=engine)
    before, after = (statistics.median(times) for times in zip(*pairs, strict=True))
    lost = sum(second > first for first, second in pairs)
    slower = lost >= _SHARE * len(pairs) and after >= _FACTOR * before
    return Pace(before / 1000, after / 1000, slower, engine)


def heavier(before: Graph, after: Graph) -> tuple[str, ...]:
    """For the user, where the quantized graph is clearly larger than the float one."""
    sizes = [Path(graph.path).stat().st_size for graph in (before, after)]
    if sizes[1] < sizes[0] + max(_BYTES, _MORE * sizes[0]):
        return ()
    figures = f"{sizes[1] / 1000:.1f} and {sizes[0] / 1000:.1f} kB"
    said = (
        f"{after.precision} is larger than float here, {figures}: it has few weights to make smaller, and the "
        "scales of its many operators take more; --precision fp32 loses nothing"
    )
    return (said,)


def advice(found: Pace, after: Graph) -> tuple[str, ...]:
    """For the user, where the quantized graph is slower."""
    if not found.slower:
        return ()
    other = "--precision fp16 keeps float's speed at half the size"
    if after.format == "tflite" and found.dense:
        other = f"--precision dynamic is usually fastest for dense layers such as a transformer's, {other}"
    if after.format == "onnx":
        other = f"a .tflite file in {after.precision} is usually faster, {other}"
    figures = f"{found.after_us:.0f} and {found.before_us:.0f} us ({found.engine}, one thread)"
    if found.shallow:
        names = ", ".join(name.partition(";")[0] for name in found.shallow)
        other = f"convolutions of one channel cost most of it and may stay in float by --rules ({names}); or {other}"
    return (f"{after.precision} is slower than float here, {figures}: {other}; `edgekit bench` measures on the board",)
