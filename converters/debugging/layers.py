"""The layers of an artifact: what each is paired with, what it reads, and which weights it holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from edgekit.converters.debugging.figures import Comparison
from edgekit.converters.debugging.naming import WEIGHTED
from edgekit.converters.debugging.nets import CONVERSIONS, Array, Net, Op, Tensor
from edgekit.converters.debugging.pairing import Order, Pairing, comparable, cosine, layers, orders
from edgekit.converters.debugging.results import Weights
from edgekit.tensors import INTEGER_RANGE

_TOLD = {"LOGISTIC": 6.0, "Sigmoid": 6.0, "TANH": 3.0, "Tanh": 3.0}
"""Where they come within half a step of 8 bits of their ends, or a little before: ranges may end there, see
`calibration.bends`."""
_FIRST = frozenset({"Conv", "ConvTranspose", "ConvInteger", "BatchNormalization", "InstanceNormalization"})
"""What has its channels behind the batch, in ONNX."""
_LAST = frozenset({
    "MatMul", "Gemm", "MatMulInteger", "DynamicQuantizeMatMul", "LayerNormalization", "SimplifiedLayerNormalization",
    "RMSNormalization", "LSTM", "GRU", "RNN",
})  # fmt: skip
"""What has them at the end."""
_TURNING = frozenset({"Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze"})
_IMAGE = 4


@dataclass
class Watched:
    """A layer while it is watched.

    Attributes:
        op: Of the artifact; None for an input of the model.
        origin: Its tensor in the artifact.
        seen: The tensor that shows its values: the integers, where there are some.
        reference: Its counterpart.
        how: What paired them.
        reads: Tensors to feed so that it runs alone -> the origin whose values they take; None: it cannot.
        order: How the reference's axes lie in the artifact, once a sample has told.
        factors: By which a repair scaled each channel, see `rescaling`; float32 that broadcasts.
        ends: Of a range that ends where the sigmoid that reads it tells nothing apart: values beyond are right.
        cumulative, isolated: The counts.
        own: Isolated, less what the float graph itself makes of the layer's rounded inputs; in real numbers.
        measured: Whether its error was carried on to the outputs.
        blames: Origin of something it reads -> share of its own error that is there because of an outlier channel.
        output_noise: Output of the float graph -> squared error there when only this layer is quantized.
    """

    op: Op | None
    origin: str
    seen: str
    reference: str
    how: str
    reads: dict[str, str] | None
    cumulative: Comparison
    isolated: Comparison
    own: Comparison
    order: Order | None = None
    factors: Array | None = None
    ends: tuple[float, float] | None = None
    output_noise: dict[str, float] = field(default_factory=dict)
    measured: bool = False
    blames: dict[str, float] = field(default_factory=dict)

    def aligned(self, array: Array) -> Array:
        """The reference's values with the artifact's axes and scales of channels."""
        turned = array if self.order is None else array.transpose(self.order)
        scaled = turned if self.factors is None else turned * self.factors
        return scaled if self.ends is None else scaled.clip(*self.ends)

    def lies(self, expected: Array, real: Array) -> bool:
        """Find out how the reference's axes lie in the artifact: as the values agree best; False if in no way."""
        ways = orders(real.shape, expected.shape)
        if ways:
            self.order = max(ways, key=lambda way: cosine(real, expected.transpose(way))) if ways[1:] else ways[0]
        return bool(ways)

    def restored(self, array: Array) -> Array:
        """The artifact's values as the reference has them."""
        plain = array if self.factors is None else array / self.factors
        return plain if self.order is None else plain.transpose(np.argsort(self.order))


def watched(artifact: Net, found: Pairing) -> list[Watched]:
    """All layers that have a counterpart, in the graph's order; inputs first where they are quantized."""
    made: list[Watched] = []
    for name in artifact.inputs:
        seen = artifact.seen(name)
        if name in found and artifact.tensors[seen].quant is not None:
            made.append(_watch(artifact, None, name, found, {}))
    for op in layers(artifact):
        for name in op.outputs:
            if name in found:
                made.append(_watch(artifact, op, name, found, boundary(artifact, artifact.seen(name), found)))
    return made


def boundary(net: Net, target: str, found: Pairing) -> dict[str, str] | None:
    """What to feed so that only the op (or the few) before `target` run.

    Returns:
        Tensor -> origin whose float values it takes; None where the walk back ends at something that has none.
    """
    own, ends, waiting, done = net.origin(target), dict[str, str](), [target], set[str]()
    while waiting:
        name = waiting.pop()
        op = net.producer.get(name)
        if op is None:
            return None
        for read in op.inputs:
            if not read or read in net.constants or read in done:
                continue
            if read not in net.producer and read not in net.inputs:
                continue  # a variable of the op's own, which starts at zero
            done.add(read)
            origin = net.origin(read)
            if origin != own and origin in found:
                ends[net.fed(read)] = origin
            else:
                waiting.append(read)
    return ends or None


def channel_axis(net: Net, name: str) -> int:
    """Where a tensor has its channels: always last in TFLite; in ONNX as the layer has them that made it.

    Where that is unknown, as behind a transposition: where pictures (four axes and more) have theirs, else last.
    """
    if net.format == "tflite":
        return -1
    op, at = net.producer.get(name), name
    while op is not None and op.kind not in _TURNING:
        if op.kind in _FIRST | _LAST:
            return 1 if op.kind in _FIRST else -1
        at = next((read for read in op.inputs if read and read not in net.constants), "")
        if not at or _rank(net, at) != _rank(net, name):
            break
        op = net.producer.get(at)
    rank = _rank(net, name)
    return 1 if rank is None or rank >= _IMAGE else -1


def _rank(net: Net, name: str) -> int | None:
    shape = net.tensors[net.origin(name)].shape
    return None if shape is None else len(shape)


def weights(net: Net, op: Op | None) -> Weights | None:
    """The constant matrix that an op multiplies by, where it is stored in integers."""
    if op is None or op.kind not in WEIGHTED:
        return None
    held = [found for name in op.inputs if name in net.constants and (found := net.stored(name)) is not None]
    matrices = [(t, v) for t, v in held if t.quant is not None and t.dtype in INTEGER_RANGE and v.ndim >= 2]
    if not matrices:
        return None
    tensor, values = max(matrices, key=lambda pair: pair[1].size)
    if tensor.quant is None or values.size == 0:
        return None
    axis = _weight_axis(op, tensor.quant.axis, values.ndim)
    rows = np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)
    real = np.abs(np.moveaxis(tensor.reals(values), axis, 0).reshape(rows.shape)).max(axis=1)
    top = INTEGER_RANGE[tensor.dtype][1]
    return Weights(
        name=tensor.name,
        dtype=tensor.dtype,
        scales=tensor.quant.scale,
        peaks=tuple(map(float, real)),
        saturation=max(0, int(np.sum(np.abs(values.astype(np.int32)) >= top)) - len(tensor.quant.scale)) / values.size,
        levels=min(len(np.unique(row)) for row in rows[:: max(1, len(rows) // 256)]),
        bias_peak=_bias_peak(held),
    )


def _weight_axis(op: Op, axis: int | None, rank: int) -> int:
    """Of output channels: the one with a scale each, else where the format has them."""
    if axis is not None:
        return axis % rank
    return rank - 1 if op.kind in ("MatMul", "DEPTHWISE_CONV_2D") else 0


def _bias_peak(held: Sequence[tuple[object, Array]]) -> float | None:
    biases = [values for _, values in held if values.dtype == np.int32 and values.ndim == 1 and values.size]
    return max((float(np.abs(v.astype(np.int64)).max()) / 2**31 for v in biases), default=None)


def _watch(net: Net, op: Op | None, name: str, found: Pairing, reads: dict[str, str] | None) -> Watched:
    seen = net.seen(name)
    tensor = net.tensors[seen]
    channels = channel_axis(net, name)
    return Watched(
        op, name, seen, found[name].reference, found[name].how, reads,
        Comparison(tensor, channels), Comparison(tensor, channels), Comparison(Tensor(seen, "float32"), channels),
        ends=_ends(net, name, tensor),
    )  # fmt: skip


def _ends(net: Net, name: str, tensor: Tensor) -> tuple[float, float] | None:
    reach, kinds = tensor.representable, {op.kind for op in _readers(net, name)}
    if reach is None or len(kinds) != 1 or kinds - _TOLD.keys() or net.origin(name) in map(net.origin, net.outputs):
        return None
    told = _TOLD[kinds.pop()]
    low, high = (end if abs(end) >= told else np.inf * np.sign(end) for end in reach)
    return (low, high) if np.isfinite([low, high]).any() and low < 0 < high else None


def _readers(net: Net, name: str) -> list[Op]:
    """What reads a tensor, looking through conversions."""
    found: list[Op] = []
    waiting = [name]
    while waiting:
        for op in net.readers.get(waiting.pop(), ()):
            waiting += op.outputs if op.kind in CONVERSIONS else ()
            found += [] if op.kind in CONVERSIONS else [op]
    return found


def unpaired(artifact: Net, found: Mapping[str, object]) -> tuple[str, ...]:
    """Layers without a counterpart: "ADD (name)"."""
    return tuple(
        f"{op.kind} ({name})"
        for op in layers(artifact)
        for name in op.outputs
        if comparable(artifact, name) and name not in found
    )
