"""Making a draft smaller without changing what it computes.

Factors and offsets go into the weights before them, activations and padding into the operators that can have them
inside, reshapes of reshapes become one, and what nobody reads goes away.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgekit.converters.onnx_to_tflite import absorbing, joining, permuting, picking, sinking, splitting, striding
from edgekit.converters.onnx_to_tflite.convolutions import SAME, VALID, same_pads
from edgekit.converters.onnx_to_tflite.draft import Array, Draft, Op, Tensor, kernels

_CHANNEL = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 0, "CONV_3D": 4, "TRANSPOSE_CONV": 0}
"""Operator -> axis of its weights that is the output's last."""

_FUSES = frozenset({
    "CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "ADD", "SUB", "MUL", "DIV", "AVERAGE_POOL_2D", "MAX_POOL_2D",
    "CONV_3D",
})  # fmt: skip
_REDUCTIONS = frozenset({"MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD"})
_ACTIVATIONS = {"RELU": 1, "RELU_N1_TO_1": 2, "RELU6": 3}


class _View:
    """Who makes and who reads each tensor, of a draft that does not change meanwhile."""

    def __init__(self, draft: Draft) -> None:
        self.draft = draft
        self.makers = draft.producers()
        self.readers = draft.readers()

    def only(self, tensor: Tensor) -> Op | None:
        """The operator that alone reads a tensor which is no output."""
        readers = self.readers.get(tensor, [])
        if len(readers) != 1 or tensor in self.draft.outputs or readers[0].inputs.count(tensor) != 1:
            return None
        return readers[0]

    def private(self, tensor: Tensor | None) -> Op | None:
        """What makes a tensor that a single operator reads."""
        if tensor is None or tensor not in self.makers or self.only(tensor) is None:
            return None
        return self.makers[tensor]


def tidy(draft: Draft, *, floats: bool = False) -> None:
    """Do all of it, until nothing more changes; of numbers that stay real ones, see `absorbing` and `joining`, too."""
    _drop_dead(draft)
    rules: tuple[Callable[[_View, Op], bool], ...] = (
        _reshapes, _kept, _transposes, _sinking, _rows, _splitting, _affine, _hard_swish, _activation, _padding,
        _channels, _features, _strided, _picked,
    )  # fmt: skip
    changed = True
    while changed:
        changed = False
        for rule in rules:
            view = _View(draft)
            for op in list(draft.ops):
                if rule(view, op):
                    changed = True
                    _drop_dead(draft)
                    view = _View(draft)
    if floats:
        absorbing.absorb(draft)
        joining.join(draft)


def _drop_dead(draft: Draft) -> None:
    wanted = set(draft.outputs)
    kept = []
    for op in reversed(draft.ops):
        if any(made in wanted for made in op.outputs):
            kept.append(op)
            wanted.update(part for part in op.inputs if part is not None)
    draft.ops[:] = reversed(kept)


def _become(view: _View, op: Op, source: Tensor) -> bool:
    """Let readers of an operator's output read `source` instead."""
    made = op.output
    source.range = made.range or source.range
    if made in view.draft.outputs:
        maker = view.makers.get(source)
        if maker is None or source in view.draft.outputs or source.quant is not made.quant:
            return False
        # The output keeps its tensor, and the operator before it makes that.
        maker.outputs[maker.outputs.index(source)] = made
        made.range = source.range
        for reader in view.readers.get(source, []):
            reader.inputs[:] = [made if part is source else part for part in reader.inputs]
        view.draft.ops.remove(op)
        return True
    for reader in view.readers.get(made, []):
        reader.inputs[:] = [source if part is made else part for part in reader.inputs]
    view.draft.ops.remove(op)
    return True


def _fuse(view: _View, op: Op, maker: Op, source: Tensor) -> bool:
    """`_become` for an operator that `maker` does from now on: what is made until there is what `op` made."""
    made = op.output
    if not _become(view, op, source):
        return False
    for tensor in {source, maker.output} - {made}:
        tensor.name = made.name
    return True


def _reshapes(view: _View, op: Op) -> bool:
    if op.kind != "RESHAPE" or op.inputs[0] is None:
        return False
    before = view.makers.get(op.inputs[0])
    if op.inputs[0].shape == op.output.shape:
        same = op.output in view.draft.outputs and (before is None or op.inputs[0] in view.draft.inputs)
        return not same and op.inputs[0].data is None and _become(view, op, op.inputs[0])
    if before is not None and before.kind == "RESHAPE":
        op.inputs[0] = before.inputs[0]
        return True
    return False


def _kept(view: _View, op: Op) -> bool:
    """Axes that a reduction keeps and a reshape drops."""
    maker = view.private(op.inputs[0]) if op.kind == "RESHAPE" else None
    if maker is None or maker.kind not in _REDUCTIONS or not maker.options.get("keepDims"):
        return False
    source, axes = maker.inputs
    if source is None or axes is None or axes.data is None:
        return False
    gone = {int(axis) % source.rank for axis in axes.data.reshape(-1)}
    if op.output.shape != tuple(size for axis, size in enumerate(source.shape) if axis not in gone):
        return False
    maker.options["keepDims"] = False
    op.output.range = op.output.range or maker.output.range
    maker.outputs[0] = op.output
    view.draft.ops.remove(op)
    return True


def _transposes(view: _View, op: Op) -> bool:
    if op.kind != "TRANSPOSE" or op.inputs[0] is None:
        return False
    before = view.makers.get(op.inputs[0])
    if before is None or before.kind != "TRANSPOSE":
        return False
    first, second = _values(before.inputs[1]), _values(op.inputs[1])
    both = [int(first[axis]) for axis in second]
    source = before.inputs[0]
    if source is not None and both == list(range(len(both))):
        return source not in view.draft.inputs and _become(view, op, source)
    op.inputs[0], op.inputs[1] = source, view.draft.ints(both)
    return True


def _sinking(view: _View, op: Op) -> bool:
    """See `sinking`; only towards a transposition that comes later."""
    if op.kind == "TRANSPOSE" or not op.inputs:
        return False
    first = view.private(op.inputs[0])
    after = view.only(op.output)
    if first is not None and after is not None and first.kind == after.kind == "RESHAPE":
        return op.kind != "RESHAPE" and sinking.below_number(view.draft, first, op)
    before = next((maker for maker in map(view.private, op.inputs) if maker and maker.kind == "TRANSPOSE"), None)
    if before is None or not _meets(view, op):
        return False
    if op.kind == "RESHAPE":
        return sinking.below_reshape(view.draft, before, op)
    return sinking.below_number(view.draft, before, op)


def _rows(view: _View, op: Op) -> bool:
    """Rows that are only joined for a fully connected operator and cut again behind it: it takes them as they are."""
    before = view.makers.get(op.inputs[0]) if op.kind == "FULLY_CONNECTED" and op.inputs[0] is not None else None
    if before is None or before.kind != "RESHAPE" or before.inputs[0] is None or op.output in view.draft.outputs:
        return False
    source, readers = before.inputs[0], view.readers.get(op.output, [])
    if source.shape[-1:] != before.output.shape[-1:] or any(reader.kind != "RESHAPE" for reader in readers):
        return False
    if source.rank > kernels()[op.kind].rank:
        return False
    made, shape = op.output, (*source.shape[:-1], op.output.shape[-1])
    op.outputs[0] = Tensor(made.name, shape, made.dtype, quant=made.quant, range=made.range)
    op.inputs[0] = source
    op.options["keepNumDims"] = source.rank != 2
    for reader in readers:
        reader.inputs[0] = op.output
    return True


def _splitting(view: _View, op: Op) -> bool:
    """See `splitting`."""
    return op.kind == "FULLY_CONNECTED" and splitting.split(view.draft, view.readers, op)


def _meets(view: _View, op: Op) -> bool:
    """Whether a transposition comes next, behind nothing but what one can sink through."""
    after = view.only(op.output)
    while after is not None and after.kind in ("RESHAPE", "MUL", "ADD", "SUB", "DIV"):
        after = view.only(after.output)
    return after is not None and after.kind == "TRANSPOSE"


def _strided(view: _View, op: Op) -> bool:
    """Steps along one axis after steps along another; see `striding`."""
    before = view.private(op.inputs[0]) if op.kind == "STRIDED_SLICE" else None
    return before is not None and before.kind == "STRIDED_SLICE" and striding.join(view.draft, before, op)


def _picked(view: _View, op: Op) -> bool:
    """See `picking`."""
    return op.kind == "SLICE" and picking.pick(view.draft, view.makers, op)


def _channels(view: _View, op: Op) -> bool:
    """Channels in another order, by weights before or behind; see `permuting`."""
    places, source = permuting.permutation(op), op.inputs[0]
    if places is None or source is None:
        return False
    maker, reader = view.private(source), view.only(op.output)
    if maker is not None and permuting.made_in_order(view.draft, maker, places):
        return _fuse(view, op, maker, source)
    if reader is None or reader.inputs[0] is not op.output or source in view.draft.inputs:
        return False
    return permuting.read_in_order(view.draft, reader, places) and _become(view, op, source)


def _features(view: _View, op: Op) -> bool:
    """Features as an image, its axes in another order: a fully connected operator makes them in that order."""
    if op.kind != "TRANSPOSE" or op.inputs[0] is None:
        return False
    before = view.private(op.inputs[0])
    maker = view.private(before.inputs[0]) if before is not None and before.kind == "RESHAPE" else None
    if before is None or maker is None or maker.kind != "FULLY_CONNECTED":
        return False
    order = [int(axis) for axis in _values(op.inputs[1])]
    places = permuting.turned_rows(maker.output, before.output, order)
    if places is None or not permuting.made_in_order(view.draft, maker, places):
        return False
    view.draft.ops[view.draft.ops.index(op)] = Op(
        "RESHAPE", [maker.output, view.draft.ints(op.output.shape)], op.outputs,
        {**before.options, "newShape": np.array(op.output.shape, np.int32)}, op.origin,
    )  # fmt: skip
    return True


def _values(tensor: Tensor | None) -> Array:
    if tensor is None or tensor.data is None:
        raise TypeError("a constant is missing")
    return tensor.data


def _weighted(view: _View, tensor: Tensor | None, *, number: bool) -> Op | None:
    """The weighted operator, without an activation, that alone makes this, perhaps under another shape.

    Any shape will do where all channels have the same number to take in.
    """
    maker = view.private(tensor)
    if maker is not None and maker.kind == "RESHAPE" and maker.inputs[0] is not None:
        if not number and maker.inputs[0].shape[-1:] != maker.output.shape[-1:]:
            return None
        maker = view.private(maker.inputs[0])
    if maker is None or maker.kind not in _CHANNEL or maker.options.get("fusedActivationFunction"):
        return None
    weights = maker.inputs[1]
    if weights is None or weights.data is None or weights.quant is not None or weights.dtype != "float32":
        return None
    return maker


def _affine(view: _View, op: Op) -> bool:
    """X * a, x / a, x + b, x - b behind weights, with a number or one a channel."""
    if op.kind not in ("MUL", "DIV", "ADD", "SUB") or op.options.get("fusedActivationFunction"):
        return False
    for at, other in ((0, 1), (1, 0)):
        part = op.inputs[other]
        maker = _weighted(view, op.inputs[at], number=part is not None and part.size == 1)
        if maker is None or part is None or part.data is None or (at and op.kind in ("DIV", "SUB")):
            continue
        channels = maker.output.shape[-1]
        shape = part.shape
        if part.size not in (1, channels) or (part.size > 1 and shape[-1] != channels):
            continue
        if op.inputs[at].shape != op.output.shape:  # type: ignore[union-attr]
            continue
        values = np.broadcast_to(part.data.reshape(-1).astype(np.float64), (channels,))
        _absorb(view.draft, maker, op.kind, values)
        return _fuse(view, op, maker, op.inputs[at])  # type: ignore[arg-type]
    return False


def _absorb(draft: Draft, maker: Op, kind: str, values: Array) -> None:
    weights, place = maker.inputs[1], 3 if maker.kind == "TRANSPOSE_CONV" else 2
    while len(maker.inputs) <= place:
        maker.inputs.append(None)
    given = maker.inputs[place]
    if given is not None and given.data is None:
        # A bias that is computed stays what it is: the sum comes after it.
        raise TypeError("a bias is no constant")
    bias = np.zeros(len(values)) if given is None or given.data is None else given.data.astype(np.float64)
    if kind in ("MUL", "DIV"):
        factor = values if kind == "MUL" else 1 / values
        data = _values(weights).astype(np.float64)
        shape = [1] * data.ndim
        shape[_CHANNEL[maker.kind]] = -1
        maker.inputs[1] = draft.constant((data * factor.reshape(shape)).astype(np.float32))
        bias = bias * factor
    else:
        bias = bias + (values if kind == "ADD" else -values)
    maker.inputs[place] = draft.constant(bias.astype(np.float32))


def _activation(view: _View, op: Op) -> bool:
    code = _ACTIVATIONS.get(op.kind)
    if code is None or op.inputs[0] is None:
        return False
    maker = view.private(op.inputs[0])
    if maker is not None and maker.kind == "RESHAPE" and maker.inputs[0] is not None:
        maker = view.private(maker.inputs[0])
    if maker is None or maker.kind not in _FUSES or maker.options.get("fusedActivationFunction", 0):
        return False
    if maker.output.dtype != "float32":
        return False
    if _fuse(view, op, maker, op.inputs[0]):
        maker.options["fusedActivationFunction"] = code
        return True
    return False


def _number(tensor: Tensor | None) -> float | None:
    return (
        float(tensor.data.reshape(-1)[0])
        if tensor is not None and tensor.data is not None and tensor.size == 1
        else None
    )


def _with_number(op: Op | None, kind: str, number: float) -> Tensor | None:
    """The other input of an operator that combines something with this number."""
    if op is None or op.kind != kind or len(op.inputs) != 2:
        return None
    for at, other in ((0, 1), (1, 0)):
        found = _number(op.inputs[other])
        if found is not None and abs(found - number) < 1e-5:
            return op.inputs[at]
    return None


def _hard_swish(view: _View, op: Op) -> bool:
    """X * relu6(x + 3) / 6, its factor at either product."""
    if op.kind != "MUL" or op.options.get("fusedActivationFunction"):
        return False
    inner = _with_number(op, "MUL", 1 / 6)
    product = view.private(inner) if inner is not None else op
    if product is None or product.kind != "MUL":
        return False
    for x, gate in (product.inputs, product.inputs[::-1]):
        clipped = gate if inner is not None else _with_number(view.private(gate), "MUL", 1 / 6)
        held = view.private(clipped) if clipped is not None else None
        if x is None or held is None:
            continue
        if held.kind == "RELU6":
            summed = view.private(held.inputs[0])
        elif held.kind == "ADD" and held.options.get("fusedActivationFunction") == 3:
            summed = held
        else:
            continue
        if _with_number(summed, "ADD", 3.0) is x and x.shape == op.output.shape:
            op.kind, op.inputs, op.options = "HARD_SWISH", [x], {}
            return True
    return False


def _padding(view: _View, op: Op) -> bool:
    """Zeros around an image that a convolution would add itself."""
    if op.kind not in ("CONV_2D", "DEPTHWISE_CONV_2D") or op.options["padding"] != VALID:
        return False
    pad = view.makers.get(op.inputs[0]) if op.inputs[0] is not None else None
    weights = op.inputs[1]
    if pad is None or pad.kind != "PAD" or weights is None or pad.inputs[0] is None:
        return False
    amounts = _values(pad.inputs[1])
    kernel = weights.shape[1:3]
    dilations = (op.options["dilationHFactor"], op.options["dilationWFactor"])
    strides = (op.options["strideH"], op.options["strideW"])
    wanted = [
        same_pads(size, (k - 1) * d + 1, s)
        for size, k, d, s in zip(pad.inputs[0].shape[1:3], kernel, dilations, strides, strict=True)
    ]
    if [tuple(int(x) for x in pair) for pair in amounts] != [(0, 0), *wanted, (0, 0)]:
        return False
    op.inputs[0] = pad.inputs[0]
    op.options["padding"] = SAME
    return True
