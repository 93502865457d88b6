"""Ensembles of trees: TreeEnsembleRegressor, TreeEnsembleClassifier, TreeEnsemble."""

from __future__ import annotations

import numpy as np

from edgekit.converters.onnx_to_tflite import ml_nodes, ml_scores, steps
from edgekit.converters.onnx_to_tflite.activations import Maths
from edgekit.converters.onnx_to_tflite.draft import Array, Tensor
from edgekit.converters.onnx_to_tflite.lowering import Lowering
from edgekit.converters.onnx_to_tflite.ml_descent import descend
from edgekit.converters.onnx_to_tflite.ml_nodes import Trees
from edgekit.converters.onnx_to_tflite.nodes import Node
from edgekit.converters.onnx_to_tflite.reductions import reduce
from edgekit.converters.onnx_to_tflite.refusal import Refused
from edgekit.converters.onnx_to_tflite.registry import lowers

_ML = "ai.onnx.ml"
_FILL = {"MIN": np.inf, "MAX": -np.inf}


def _aggregated(low: Lowering, x: Tensor, trees: Trees, how: str) -> Tensor:
    """What the leaves say together: [N, targets]."""
    do = Maths(low)
    place, source = descend(low, x, trees)
    value = trees.value[source]
    if how in _FILL:
        value = np.where(trees.given[source], value, np.float32(_FILL[how]))
    elif _whole(value, len(trees.roots)):
        value = value.astype(np.int32)
    said = _looked_up(low, place, value)
    if how not in _FILL:
        total = steps.cast(low.draft, reduce(low, "SUM", said, [1], keep=False), "float32")
        return total if how == "SUM" else do("DIV", total, float(len(trees.roots)))
    found = reduce(low, f"REDUCE_{how}", said, [1], keep=False)
    if trees.given[trees.mode == ml_nodes.LEAF].all():
        return found
    return do.pick(do.test("EQUAL", found, float(_FILL[how])), 0.0, found)


def _whole(value: Array, trees: int) -> bool:
    """Whether int32 holds all sums exactly; then no quantizer takes the leaves for weights that it may round."""
    return bool((value == np.rint(value)).all()) and float(np.abs(value).max()) * trees < 2**31


def _looked_up(low: Lowering, place: Tensor, value: Array) -> Tensor:
    """Value [places, targets] at the places [N, trees]: [N, trees, targets].

    Many leaves say the same: where it takes less room, each row is kept once, and looked up by its number.
    """
    draft, targets = low.draft, value.shape[1]
    distinct, number = np.unique(value, axis=0, return_inverse=True)
    if distinct.size + len(value) < value.size:
        table = draft.constant(number.reshape(-1).astype(np.int32), f"{draft.origin}/leaves")
        place = draft.emit("GATHER", [table, place], place.shape, axis=0, batchDims=0)
        value = distinct
    held = draft.constant(np.ascontiguousarray(value), f"{draft.origin}/values")
    return draft.emit("GATHER", [held, place], [*place.shape, targets], axis=0, batchDims=0)


@lowers("TreeEnsembleRegressor", domain=_ML)
def _regressor(low: Lowering, node: Node) -> None:
    targets = int(node.attribute("n_targets", 1))
    trees = ml_nodes.classic(node, "target", targets)
    made = _aggregated(low, ml_scores.rows(low, node.value()), trees, node.attribute("aggregate_function", "SUM"))
    base = ml_nodes.base_values(node)
    if base.size:
        made = Maths(low)("ADD", made, low.draft.constant(np.broadcast_to(base, (1, targets))))
    made = ml_scores.transformed(low, made, node.attribute("post_transform", "NONE"))
    ml_scores.answer(low, node.output, made, "float32")


@lowers("TreeEnsemble", domain=_ML)
def _ensemble(low: Lowering, node: Node) -> None:
    trees = ml_nodes.modern(node)
    how = ml_nodes.AGGREGATES[int(node.attribute("aggregate_function", 1))]
    made = _aggregated(low, ml_scores.rows(low, node.value()), trees, how)
    made = ml_scores.transformed(low, made, ml_nodes.TRANSFORMS[int(node.attribute("post_transform", 0))])
    ml_scores.answer(low, node.output, made, node.value().dtype)


@lowers("TreeEnsembleClassifier", domain=_ML)
def _classifier(low: Lowering, node: Node) -> None:
    labels = ml_scores.labels_of(node, "classlabels_int64s")
    trees = ml_nodes.classic(node, "class", len(labels))
    base = ml_nodes.base_values(node)
    if base.size and base.size != len(labels) and not (base.size == 1 and len(labels) == 2):
        raise Refused(f"it has {base.size} base values for {len(labels)} classes")
    sums = _aggregated(low, ml_scores.rows(low, node.value()), trees, "SUM")
    transform = node.attribute("post_transform", "NONE")
    if len(labels) > 2:
        if base.size:
            sums = Maths(low)("ADD", sums, low.draft.constant(base[None, :]))
        ml_scores.label(low, node, ml_scores.first_largest(low, sums), labels)
        ml_scores.answer(low, node.has_output(1), ml_scores.transformed(low, sums, transform), "float32")
        return
    if base.size == 2:
        raise Refused("it has two base values for two classes, whose meaning ONNX leaves open")
    _of_two(low, node, sums, trees, labels, base, transform)


def _of_two(low: Lowering, node: Node, sums: Tensor, trees: Trees, labels: Array, base: Array, transform: str) -> None:
    """Two classes or one, decided by a single sum.

    ONNX says little of these. As engines read it: the sum counts for the second class, though the leaves may name the
    first, and is a probability where no weight is negative. Where leaves name the second class, a base value is for
    the first.
    """
    do, named = Maths(low), [bool(column.any()) for column in trees.given.T]
    second = len(labels) == 2 and named[1]
    if base.size and (named[0] or not second):
        offset = np.zeros((1, len(labels)), np.float32)
        offset[0, 0] = base[0]
        sums = do("ADD", sums, low.draft.constant(offset))
    total = ml_scores.column(low, sums, 1 if second else 0)
    probable = bool((trees.value >= 0).all()) and sum(named) == 1 and len(labels) == 2
    chosen = steps.cast(low.draft, do.test("GREATER", total, 0.5 if probable else 0.0), "int32")
    place = steps.reshape(low.draft, chosen, [chosen.shape[0]])
    ml_scores.label(low, node, place, labels if len(labels) == 2 else np.array([0, 1]))
    if len(labels) == 1:
        scores = total
    elif second:
        scores = ml_scores.transformed(low, sums, transform)
    else:
        scores = ml_scores.of_two(low, total, transform, probable=probable)
    ml_scores.answer(low, node.has_output(1), scores, "float32")
