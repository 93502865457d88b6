"""Gemm and MatMul: fully connected layers where the weights are constant, else batched products."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgekit.converters.onnx_to_tflite import steps
from edgekit.converters.onnx_to_tflite.draft import Array, Tensor, kernels
from edgekit.converters.onnx_to_tflite.lowering import Lowering
from edgekit.converters.onnx_to_tflite.nodes import Node, Value, identity
from edgekit.converters.onnx_to_tflite.refusal import Refused
from edgekit.converters.onnx_to_tflite.registry import lowers


def dense(low: Lowering, x: Tensor, weights: Array, bias: Array | None = None) -> Tensor:
    """X [..., in] times weights [out, in], transposed, plus bias [out]."""
    if x.rank > kernels()["FULLY_CONNECTED"].rank:
        rows = steps.reshape(low.draft, x, (x.size // x.shape[-1], x.shape[-1]))
        return steps.reshape(low.draft, dense(low, rows, weights, bias), (*x.shape[:-1], weights.shape[0]))
    made = low.draft.constant(np.ascontiguousarray(weights))
    offset = None if bias is None else low.draft.constant(np.ascontiguousarray(bias))
    shape = [*x.shape[:-1], weights.shape[0]]
    return low.draft.emit(
        "FULLY_CONNECTED", [x, made, offset], shape,
        fusedActivationFunction=0, weightsFormat=0, keepNumDims=x.rank != 2, asymmetricQuantizeInputs=False,
    )  # fmt: skip


def _flattened(low: Lowering, value: Value, weights: Array) -> tuple[Tensor, Array]:
    """A value [N, features] and weights [out, features], the features in the order in which they lie.

    What was flattened from channels first lies with its channels last: the weights are turned instead.
    """
    whole = value.flat
    if value.forms or whole is None or value.rank != 2 or whole.shape[0] != value.shape[0] or not whole.forms:
        return low.get(value), weights
    order = low.order([whole])
    if order[0] != 0:
        return low.get(value), weights
    turned = weights.reshape(-1, *whole.shape[1:]).transpose(0, *order[1:]).reshape(weights.shape)
    return steps.reshape(low.draft, low.get(whole, order), value.shape), turned


@lowers("Gemm")
def _gemm(low: Lowering, node: Node) -> None:
    a, b, c, output = node.value(0), node.value(1), node.maybe(2), node.output
    alpha, beta = float(node.attribute("alpha", 1.0)), float(node.attribute("beta", 1.0))
    turned_a, turned_b = bool(node.attribute("transA", 0)), bool(node.attribute("transB", 0))
    draft = low.draft
    if b.dtype not in ("float32", "float16", "float64"):
        raise Refused(f"TFLite does not multiply matrices of {b.dtype}")
    if b.data is not None and a.data is None:
        weights = (b.data if turned_b else b.data.T).astype(np.float32) * np.float32(alpha)
        bias = _bias(c, beta, output.shape[1])
        x, weights = (low.get(a, (1, 0)), weights) if turned_a else _flattened(low, a, weights)
        made = dense(low, x, weights, bias)
        if c is None or bias is not None:
            low.put(output, made)
            return
    else:
        made = multiply(low, low.get(a), low.get(b), turned_a, turned_b)
        made = made if alpha == 1 else steps.binary(draft, "MUL", made, draft.scalar(alpha, "float32"))
        if c is None:
            low.put(output, made)
            return
    offset = low.get(c)
    if beta != 1:
        offset = steps.binary(draft, "MUL", offset, draft.scalar(beta, "float32"))
    low.put(output, steps.binary(draft, "ADD", made, offset))


def _bias(c: Value | None, beta: float, width: int) -> Array | None:
    if c is None or c.data is None or c.size not in (1, width) or (c.rank == 2 and c.shape[0] != 1):
        return None
    return np.broadcast_to(c.data.reshape(-1).astype(np.float32) * np.float32(beta), (width,))


def multiply(low: Lowering, a: Tensor, b: Tensor, turned_a: bool = False, turned_b: bool = False) -> Tensor:
    """Matrix product of the last two axes, the others broadcast."""
    draft = low.draft
    rank = max(a.rank, b.rank)
    a, b = (steps.reshape(draft, t, (1,) * (rank - t.rank) + t.shape) for t in (a, b))
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    rows = a.shape[-1] if turned_a else a.shape[-2]
    columns = b.shape[-2] if turned_b else b.shape[-1]
    if rank > 4:
        whole = int(np.prod(batch))
        a, b = (
            steps.reshape(draft, steps.expand(draft, t, [*batch, *t.shape[-2:]]), [whole, *t.shape[-2:]])
            for t in (a, b)
        )
        made = multiply(low, a, b, turned_a, turned_b)
        return steps.reshape(draft, made, [*batch, rows, columns])
    return draft.emit("BATCH_MATMUL", [a, b], [*batch, rows, columns], adjX=turned_a, adjY=turned_b)


def _matrices(low: Lowering, value: Value, batch: Sequence[int]) -> tuple[Tensor, bool]:
    """A value with its batch axes in an order and the matrices as they lie; and whether these are transposed."""
    rank = value.rank
    straight, turned = (*batch, rank - 2, rank - 1), (*batch, rank - 1, rank - 2)
    if turned in value.forms and straight not in value.forms:
        return low.get(value, turned), True
    return low.get(value, straight), False


@lowers("MatMul")
def _matmul(low: Lowering, node: Node) -> None:
    a, b, output, draft = node.value(0), node.value(1), node.output, low.draft
    if steps.carrier(a.dtype) != "float32":
        raise Refused(f"TFLite does not multiply matrices of {a.dtype}")
    if b.data is not None and b.rank == 2 and a.data is None and a.rank >= 1:
        weights = b.data.T.astype(np.float32)
        if a.rank == 1:
            x = steps.reshape(draft, low.get(a), [1, a.size])
            low.put(output, steps.reshape(draft, dense(low, x, weights), output.shape))
            return
        if a.rank == 2:
            x, weights = _flattened(low, a, weights)
            low.put(output, dense(low, x, weights))
            return
        order = low.order([a])
        order = order if order[-1] == a.rank - 1 else (*(x for x in order if x != a.rank - 1), a.rank - 1)
        low.put(output, dense(low, low.get(a, order), weights), order)
        return
    if a.rank < 2 or b.rank < 2:
        left = steps.reshape(draft, low.get(a), (1, a.size)) if a.rank == 1 else low.get(a)
        right = steps.reshape(draft, low.get(b), (b.size, 1)) if b.rank == 1 else low.get(b)
        low.put(output, steps.reshape(draft, multiply(low, left, right), output.shape))
        return
    (x, turned_x), (y, turned_y) = (_matrices(low, v, identity(v.rank)[:-2]) for v in (a, b))
    low.put(output, multiply(low, x, y, turned_x, turned_y))
