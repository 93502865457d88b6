"""What scales and shifts the features of rows goes into the weights that take these rows.

A normalization ends with a factor and an offset for each feature. Where only fully connected operators read what it
makes, perhaps some of its rows, their weights do both: W (g x + b) = (W g) x + W b. Ranges of the rows and weights
become others by that, so it is not for graphs that are quantized: these are balanced by their own repairs.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from edgekit.converters.onnx_to_tflite.draft import Array, Draft, Op, Tensor

_CUTS = frozenset({"SLICE", "RESHAPE"})
"""What may stand between: each leaves the features of a row together."""


def absorb(draft: Draft) -> None:
    """Take in all that can be, in place; the last ones first, since each hides what is before it."""
    readers = draft.readers()
    for op in reversed(list(draft.ops)):
        if op.kind not in ("MUL", "ADD") or op.options.get("fusedActivationFunction"):
            continue
        for rows, part in (op.inputs, op.inputs[::-1]):
            values = _features(part, op.output)
            if rows is None or values is None or rows.data is not None or rows.shape != op.output.shape:
                continue
            takers = _takers(draft, readers, op.output)
            if takers is not None and all(_takes(readers, taker) for taker in takers):
                _taken(draft, op, rows, values, takers)
                readers = draft.readers()
            break


def _features(part: Tensor | None, made: Tensor) -> Array | None:
    """A number for each feature, which come last."""
    if part is None or part.data is None or made.rank < 2 or part.dtype != "float32" or part.quant is not None:
        return None
    width = made.shape[-1]
    whole = part.size == width and part.shape[-1:] == (width,)
    return part.data.reshape(-1).astype(np.float64) if whole and width > 1 else None


def _takers(draft: Draft, readers: dict[Tensor, list[Op]], tensor: Tensor) -> list[Op] | None:
    """The fully connected operators that read a tensor; None where anything else does."""
    found: list[Op] = []
    if tensor in draft.outputs or not readers.get(tensor):
        return None
    for op in readers[tensor]:
        if op.inputs.count(tensor) != 1 or op.inputs[0] is not tensor:
            return None
        if op.kind == "FULLY_CONNECTED":
            found.append(op)
        elif op.kind in _CUTS and op.output.shape[-1:] == tensor.shape[-1:]:
            behind = _takers(draft, readers, op.output)
            if behind is None:
                return None
            found += behind
        else:
            return None
    return found


def _takes(readers: dict[Tensor, list[Op]], op: Op) -> bool:
    """Whether its weights are its own, and real numbers."""
    weights, bias = op.inputs[1], op.inputs[2] if len(op.inputs) > 2 else None
    own = weights is not None and len(readers[weights]) == 1
    return own and all(p is None or (p.data is not None and p.quant is None and p.dtype == "float32")
                       for p in (weights, bias))  # fmt: skip


def _taken(draft: Draft, op: Op, rows: Tensor, values: Array, takers: Iterable[Op]) -> None:
    for taker in takers:
        weights = taker.inputs[1]
        if weights is None or weights.data is None:
            raise TypeError("weights are no constant")
        wide = weights.data.astype(np.float64)
        if op.kind == "MUL":
            taker.inputs[1] = draft.constant((wide * values).astype(np.float32), weights.name)
        else:
            bias = taker.inputs[2] if len(taker.inputs) > 2 else None
            offset = wide @ values + (0 if bias is None or bias.data is None else bias.data.astype(np.float64))
            taker.inputs[2:] = [draft.constant(offset.astype(np.float32))]
    for reader in draft.readers()[op.output]:
        reader.inputs[0] = rows
    draft.ops.remove(op)
