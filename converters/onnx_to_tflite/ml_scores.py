"""What the models of ai.onnx.ml do after their sums: post transforms, labels."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgekit.converters.onnx_to_tflite import steps
from edgekit.converters.onnx_to_tflite.activations import Maths
from edgekit.converters.onnx_to_tflite.draft import Array, Tensor
from edgekit.converters.onnx_to_tflite.lowering import Lowering
from edgekit.converters.onnx_to_tflite.nodes import Node, Value
from edgekit.converters.onnx_to_tflite.reductions import reduce
from edgekit.converters.onnx_to_tflite.refusal import Refused


def rows(low: Lowering, value: Value) -> Tensor:
    """An input [N, columns] or [columns] as [N, columns] float32, with a note where it was wider."""
    if value.rank not in (1, 2):
        raise Refused(f"its input has {value.rank} axes, and not one or two")
    if value.dtype == "float64":
        low.notes["rows of float64 are compared and added in float32"] = None
    x = steps.cast(low.draft, low.get(value), "float32")
    return steps.reshape(low.draft, x, (1, value.size)) if value.rank == 1 else x


def answer(low: Lowering, value: Value | None, tensor: Tensor, dtype: str) -> None:
    """Give an output; ONNX does not infer the sizes of these."""
    if value is None:
        return
    value.shape, value.dtype = tensor.shape, dtype
    low.put(value, steps.cast(low.draft, tensor, steps.carrier(dtype)))


def transformed(low: Lowering, scores: Tensor, transform: str) -> Tensor:
    """Scores [N, classes] after a post transform.

    Raises:
        Refused: PROBIT.
    """
    draft, do = low.draft, Maths(low)
    if transform == "NONE":
        return scores
    if transform == "LOGISTIC":
        return do("LOGISTIC", scores)
    if transform == "SOFTMAX":
        return draft.emit("SOFTMAX", [scores], scores.shape, beta=1.0)
    if transform == "SOFTMAX_ZERO":
        largest = reduce(low, "REDUCE_MAX", scores, [1])
        nothing = do.test("LESS_EQUAL", do("ABS", scores), 1e-7)
        powers = do("EXP", do("SUB", scores, largest))
        kept = do.pick(nothing, do("MUL", scores, do("EXP", do("NEG", largest))), powers)
        total = reduce(low, "SUM", kept, [1])
        empty = do.test("EQUAL", total, 0.0)
        return do.pick(empty, 0.5, do("DIV", kept, do.pick(empty, 1.0, total)))
    raise Refused(f"its post transform {transform} has no operators in TFLite")


def of_two(low: Lowering, total: Tensor, transform: str, *, probable: bool) -> Tensor:
    """Scores [N, 2] of two classes that one sum [N, 1] decides between, as engines give them.

    Args:
        low: The lowering.
        total: The second class' score.
        transform: Only LOGISTIC is applied.
        probable: It counts as a probability: the first class has the rest.
    """
    do = Maths(low)
    if transform == "LOGISTIC":
        return do("LOGISTIC", joined(low, do("NEG", total), total))
    if transform == "PROBIT":
        raise Refused("its post transform PROBIT has no operators in TFLite")
    return joined(low, do("SUB", 1.0, total) if probable else do("NEG", total), total)


def labels_of(node: Node, *names: str) -> Array:
    """The classes' numbers.

    Raises:
        Refused: They are texts.
    """
    for name in names:
        found = node.attribute(name)
        if found:
            return np.asarray(found, np.int64)
    if node.attribute("classlabels_strings"):
        raise Refused(
            "its labels are texts, and TFLite has tensors of numbers only",
            "Train it on numbers 0, 1, 2, ... and keep the names beside the model",
        )
    raise Refused("it has no labels")


def first_largest(low: Lowering, scores: Tensor) -> Tensor:
    """[N] int32: which class has the largest score, of equal ones the first."""
    place = low.draft.scalar(1, "int32")
    return low.draft.emit("ARG_MAX", [scores, place], [scores.shape[0]], "int32", outputType=2)


def label(low: Lowering, node: Node, place: Tensor, labels: Array) -> None:
    """Give the label of a class as the first output."""
    draft, value = low.draft, node.outputs[0]
    if np.array_equal(labels, np.arange(len(labels))):
        answer(low, value, place, "int64")
        return
    table: Any = draft.constant(labels)
    answer(low, value, draft.emit("GATHER", [table, place], place.shape, axis=0, batchDims=0), "int64")


def column(low: Lowering, tensor: Tensor, at: int) -> Tensor:
    """[N, 1]: one column; where the batch may be free."""
    return low.draft.emit("GATHER", [tensor, low.draft.ints([at])], [tensor.shape[0], 1], axis=1, batchDims=0)


def joined(low: Lowering, *columns: Tensor) -> Tensor:
    """Columns beside each other."""
    shape = [columns[0].shape[0], sum(part.shape[1] for part in columns)]
    return low.draft.emit("CONCATENATION", list(columns), shape, axis=1, fusedActivationFunction=0)
