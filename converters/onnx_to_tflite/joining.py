"""Fully connected operators that read the same rows and are turned alike become one.

Attention computes queries, keys and values from the same rows, and turns each so that heads come first. One operator
that multiplies by all their weights, one TRANSPOSE and a SPLIT along the heads make the same tensors with fewer steps.
It is the opposite of `splitting`, which comes first: there each part gets rid of what scales it and of its copies. The
parts share a tensor then, so this is not for graphs that are quantized by ranges: each part has its own there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgekit.converters.onnx_to_tflite.draft import Array, Draft, Op, Tensor

_HEADS = 4
"""Axes of what is turned: batch, rows, heads, features of a head."""


@dataclass(frozen=True)
class _Part:
    """One of them: FULLY_CONNECTED, RESHAPE, TRANSPOSE, and the product that takes it with its last axes swapped.

    Attributes:
        steps: These operators.
        order: Of the transposition, as all parts are to have it.
        product: BATCH_MATMUL whose second matrix it is, where that is to be turned while it is read.
    """

    steps: tuple[Op, Op, Op]
    order: tuple[int, ...]
    product: Op | None = None


def join(draft: Draft) -> None:
    """Join all that can be, in place."""
    for parts in _alike(draft, draft.readers()):
        _joined(draft, parts)


def _alike(draft: Draft, readers: dict[Tensor, list[Op]]) -> list[list[_Part]]:
    """Parts that read the same tensor, turn it alike and are equally large; only where they are several."""
    groups: dict[object, list[_Part]] = {}
    for op in draft.ops:
        part = _part(draft, readers, op)
        if part is not None:
            dense, reshape, _ = part.steps
            key = (dense.inputs[0], dense.inputs[2] is None, reshape.output.shape, part.order, _options(dense))
            groups.setdefault(key, []).append(part)
    return [parts for parts in groups.values() if len(parts) > 1]


def _options(op: Op) -> tuple[tuple[str, object], ...]:
    return tuple(sorted(op.options.items()))


def _part(draft: Draft, readers: dict[Tensor, list[Op]], dense: Op) -> _Part | None:
    if dense.kind != "FULLY_CONNECTED" or len(dense.inputs) < 3 or not _plain(dense.inputs[1]):
        return None
    if dense.inputs[2] is not None and not _plain(dense.inputs[2]):
        return None
    reshape = _next(draft, readers, dense, "RESHAPE")
    turned = _next(draft, readers, reshape, "TRANSPOSE")
    if reshape is None or turned is None or turned.inputs[1] is None or turned.inputs[1].data is None:
        return None
    sizes = reshape.output.shape
    if len(sizes) != _HEADS or sizes[2] * sizes[3] != dense.output.shape[-1]:
        return None
    order = tuple(int(axis) for axis in turned.inputs[1].data)
    if order == (0, 2, 1, 3):
        return _Part((dense, reshape, turned), order)
    product = _next(draft, readers, turned, "BATCH_MATMUL")
    if order == (0, 2, 3, 1) and product is not None and product.inputs[1] is turned.output:
        return _Part((dense, reshape, turned), (0, 2, 1, 3), product)
    return None


def _plain(part: Tensor | None) -> bool:
    return part is not None and part.data is not None and part.quant is None and part.dtype == "float32"


def _next(draft: Draft, readers: dict[Tensor, list[Op]], op: Op | None, kind: str) -> Op | None:
    """The operator of a kind that alone reads what another makes."""
    found = readers.get(op.output, []) if op is not None and op.output not in draft.outputs else []
    return found[0] if len(found) == 1 and found[0].kind == kind and found[0].inputs.count(op.output) == 1 else None  # type: ignore[union-attr]


def _joined(draft: Draft, parts: Sequence[_Part]) -> None:
    dense, reshape, _ = parts[0].steps
    count, sizes = len(parts), reshape.output.shape
    weights = draft.constant(np.concatenate([_data(part.steps[0].inputs[1]) for part in parts]))
    bias = None
    if dense.inputs[2] is not None:
        bias = draft.constant(np.concatenate([_data(part.steps[0].inputs[2]) for part in parts]))
    name = dense.output.name
    made = Tensor(f"{name}/joined", (*dense.output.shape[:-1], dense.output.shape[-1] * count), "float32")
    heads = Tensor(f"{name}/heads", (*sizes[:2], sizes[2] * count, sizes[3]), "float32")
    turned = Tensor(f"{name}/turned", (sizes[0], sizes[2] * count, sizes[1], sizes[3]), "float32")
    outputs = []
    for part in parts:
        _, _, transpose = part.steps
        held = transpose.output
        if part.product is not None:
            held = Tensor(held.name, (sizes[0], sizes[2], sizes[1], sizes[3]), "float32")
            part.product.inputs[1] = held
            part.product.options["adjY"] = not part.product.options.get("adjY", False)
        outputs.append(held)
    shape = draft.ints(heads.shape)
    added = [
        Op("FULLY_CONNECTED", [dense.inputs[0], weights, bias], [made], dict(dense.options), dense.origin),
        Op("RESHAPE", [made, shape], [heads], {"newShape": shape.data}, dense.origin),
        Op("TRANSPOSE", [heads, draft.ints((0, 2, 1, 3))], [turned], {}, dense.origin),
        Op("SPLIT", [draft.scalar(1, "int32"), turned], outputs, {"numSplits": count}, dense.origin),
    ]
    at = min(draft.ops.index(part.steps[0]) for part in parts)
    gone = {id(op) for part in parts for op in part.steps}
    before, behind = draft.ops[:at], draft.ops[at:]
    draft.ops[:] = [*before, *added, *(op for op in behind if id(op) not in gone)]


def _data(part: Tensor | None) -> Array:
    if part is None or part.data is None:
        raise TypeError("a constant is missing")
    return part.data
