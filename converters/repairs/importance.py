"""How much each channel of a tensor counts for the answers, by its weights alone.

Noise of variance v in a channel comes out of a layer as v times the squares of the weights that read it. Carried back
from the answers through all layers, that says which channels may be noisy and which not, which their own size does
not. Where an operator is not understood, and at the answers, every unit of the signal counts alike.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from edgekit.converters.repairs.view import Layer, Op, View

Doubles = NDArray[np.float64]


def channel_axes(view: View) -> dict[str, int]:
    """The channel axis of each tensor that a layer makes or reads, carried over what keeps channels apart."""
    axes: dict[str, int] = {}
    for op in view.ops:
        if op.layer is not None:
            axes.setdefault(op.layer.source, op.layer.axis)
            axes.setdefault(op.layer.name, op.layer.made_axis)
        elif op.inputs and op.inputs[0] in axes:
            for name in op.outputs:
                after = _after(view, op, axes[op.inputs[0]], name)
                if after is not None:
                    axes.setdefault(name, after)
    return axes


def _after(view: View, op: Op, axis: int, name: str) -> int | None:
    if op.kind == "same":
        return op.turn(axis)
    if op.kind in ("shift", "scale", "concat"):
        return axis
    # Element-wise operators keep the shape; what else they do is not known.
    before, after = view.shape(op.inputs[0]), view.shape(name)
    return axis if before == after else None


def importances(view: View, power: Mapping[str, Doubles]) -> dict[str, Doubles]:
    """Importance of the channels of what each layer makes.

    Args:
        view: The graph.
        power: Mean square of each channel of each tensor that is read, by name.

    Returns:
        Layer name -> an element a channel; comparable within a graph.
    """
    found: dict[str, Doubles] = {}
    for name in view.outputs:
        _meet(found, name, power)
    for op in reversed(view.ops):
        if op.layer is not None:
            made = found.get(op.layer.name, np.ones(1))
            _add(found, op.layer.source, _through(view, op.layer, made))
        elif op.kind in ("same", "shift") and op.outputs[0] in found:
            for name in op.inputs:
                _add(found, name, found[op.outputs[0]])
        elif op.kind == "scale" and op.outputs[0] in found and op.title in ("Mul", "MUL"):
            factor = view.constant(op.constants[0]).astype(np.float64)
            _add(found, op.inputs[0], _fitted(found[op.outputs[0]], len(factor)) * np.square(factor))
        else:
            for name in op.inputs:
                _meet(found, name, power)
    return {
        op.layer.name: _fitted(found.get(op.layer.name, np.ones(1)), len(view.kernel(op.layer)))
        for op in view.ops
        if op.layer is not None
    }


def _through(view: View, layer: Layer, made: Doubles) -> Doubles:
    squares = np.square(view.kernel(layer).astype(np.float64))
    outs, ins = squares.shape[:2]
    weighted = squares.reshape(outs, ins, -1).sum(axis=2) * _fitted(made, outs)[:, None]
    return np.asarray(weighted.reshape(layer.groups, -1, ins).sum(axis=1).reshape(-1))


def _fitted(values: Doubles, channels: int) -> Doubles:
    """As they are where there is one a channel; what was flattened or joined in between counts on average."""
    return values if len(values) == channels else np.full(channels, values.mean())


def _meet(found: dict[str, Doubles], name: str, power: Mapping[str, Doubles]) -> None:
    """A tensor ends here as far as is known: noise counts beside its signal."""
    signal = float(power[name].sum()) if name in power else 0.0
    if signal > 0:
        _add(found, name, np.full(len(power[name]), 1 / signal))


def _add(found: dict[str, Doubles], name: str, more: Doubles) -> None:
    known = found.get(name)
    found[name] = more if known is None else known + _fitted(more, len(known))
