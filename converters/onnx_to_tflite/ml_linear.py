"""LinearClassifier and LinearRegressor, SVMClassifier and SVMRegressor."""

from __future__ import annotations

from itertools import combinations

import numpy as np

from edgekit.converters.onnx_to_tflite import ml_scores, steps
from edgekit.converters.onnx_to_tflite.activations import Maths
from edgekit.converters.onnx_to_tflite.draft import Array, Tensor
from edgekit.converters.onnx_to_tflite.linears import dense
from edgekit.converters.onnx_to_tflite.lowering import Lowering
from edgekit.converters.onnx_to_tflite.ml_chances import coupled
from edgekit.converters.onnx_to_tflite.nodes import Node
from edgekit.converters.onnx_to_tflite.reductions import reduce
from edgekit.converters.onnx_to_tflite.refusal import Refused
from edgekit.converters.onnx_to_tflite.registry import lowers

_ML = "ai.onnx.ml"


def _numbers(node: Node, name: str) -> Array:
    return np.asarray(node.attribute(name, ()), np.float32)


@lowers("LinearRegressor", domain=_ML)
def _linear_regressor(low: Lowering, node: Node) -> None:
    x, targets = ml_scores.rows(low, node.value()), int(node.attribute("targets", 1))
    made = dense(low, x, _numbers(node, "coefficients").reshape(targets, -1), _offsets(node, "intercepts", targets))
    made = ml_scores.transformed(low, made, node.attribute("post_transform", "NONE"))
    ml_scores.answer(low, node.output, made, "float32")


@lowers("LinearClassifier", domain=_ML)
def _linear_classifier(low: Lowering, node: Node) -> None:
    x = ml_scores.rows(low, node.value())
    weights = _numbers(node, "coefficients").reshape(-1, x.shape[1])
    transform = node.attribute("post_transform", "NONE")
    count = len(weights)
    named = node.attribute("classlabels_ints") or node.attribute("classlabels_strings")
    labels = ml_scores.labels_of(node, "classlabels_ints") if named or count > 1 else np.arange(2)
    sums = dense(low, x, weights, _offsets(node, "intercepts", count))
    if count > 1:
        if len(labels) != count:
            raise Refused(f"it has {len(labels)} labels for {count} classes")
        ml_scores.label(low, node, ml_scores.first_largest(low, sums), labels)
        ml_scores.answer(low, node.has_output(1), ml_scores.transformed(low, sums, transform), "float32")
        return
    # One sum decides between two classes.
    if len(labels) != 2:
        raise Refused(f"it has {len(labels)} labels for two classes")
    chosen = steps.cast(low.draft, Maths(low).test("GREATER", sums, 0.0), "int32")
    ml_scores.label(low, node, steps.reshape(low.draft, chosen, [chosen.shape[0]]), labels)
    scores = ml_scores.of_two(low, sums, transform, probable=True) if named else sums
    ml_scores.answer(low, node.has_output(1), scores, "float32")


def _offsets(node: Node, name: str, count: int) -> Array | None:
    given = _numbers(node, name)
    if not given.size:
        return None
    if given.size not in (1, count):
        raise Refused(f"it has {given.size} {name} for {count} sums")
    return np.ascontiguousarray(np.broadcast_to(given, (count,)))


def _kernel(low: Lowering, node: Node, x: Tensor, vectors: Array) -> Tensor:
    """How near each row of x [N, columns] is to each of the vectors: [N, vectors]."""
    kind, draft, do = node.attribute("kernel_type", "LINEAR"), low.draft, Maths(low)
    gamma, offset, degree = (*(float(item) for item in node.attribute("kernel_params", ())), 0.0, 0.0, 0.0)[:3]
    if kind == "RBF":
        # As differences: the difference of squares would lose the digits of near ones.
        rows = steps.reshape(draft, x, [x.shape[0], 1, x.shape[1]])
        apart = steps.binary(draft, "SQUARED_DIFFERENCE", rows, draft.constant(vectors[None]))
        return do("EXP", do("MUL", reduce(low, "SUM", apart, [2], keep=False), -gamma))
    near = dense(low, x, vectors)
    if kind == "LINEAR":
        return near
    near = do("ADD", do("MUL", near, gamma), offset)
    if kind == "SIGMOID":
        return do("TANH", near)
    if kind != "POLY":
        raise Refused(f"ONNX does not know its kernel {kind}")
    return do("POW", near, degree)


@lowers("SVMRegressor", domain=_ML)
def _svm_regressor(low: Lowering, node: Node) -> None:
    x, do = ml_scores.rows(low, node.value()), Maths(low)
    supports = int(node.attribute("n_supports", 0))
    if supports:
        x = _kernel(low, node, x, _numbers(node, "support_vectors").reshape(supports, -1))
    made = dense(low, x, _numbers(node, "coefficients").reshape(1, -1), _numbers(node, "rho")[:1])
    if node.attribute("one_class", 0):
        made = do.pick(do.test("GREATER", made, 0.0), 1.0, -1.0)
    made = ml_scores.transformed(low, made, node.attribute("post_transform", "NONE"))
    ml_scores.answer(low, node.output, made, "float32")


@lowers("SVMClassifier", domain=_ML)
def _svm_classifier(low: Lowering, node: Node) -> None:
    labels = ml_scores.labels_of(node, "classlabels_ints")
    if len(labels) < 2:
        raise Refused("it has one class only")
    counts = [int(count) for count in node.attribute("vectors_per_class", ())]
    transform = node.attribute("post_transform", "NONE")
    x = ml_scores.rows(low, node.value())
    if not sum(counts):
        _linear_svm(low, node, x, labels, transform)
        return
    weights, pairs = _pairs(node, counts)
    vectors = _numbers(node, "support_vectors").reshape(sum(counts), -1)
    sums = dense(low, _kernel(low, node, x, vectors), weights, _offsets(node, "rho", len(pairs)))
    ml_scores.label(low, node, _voted(low, sums, pairs, len(labels)), labels)
    if node.has_output(1) is None:
        return
    if node.attribute("prob_a"):
        scores = ml_scores.transformed(low, _probabilities(low, node, sums, pairs, len(labels)), transform)
    elif len(pairs) == 1:
        scores = ml_scores.of_two(low, sums, transform, probable=transform != "NONE")
    else:
        scores = ml_scores.transformed(low, sums, transform)
    ml_scores.answer(low, node.has_output(1), scores, "float32")


def _pairs(node: Node, counts: list[int]) -> tuple[Array, list[tuple[int, int]]]:
    """Weights [pairs, vectors] that tell each class from each other one, and these pairs."""
    starts = np.cumsum([0, *counts])
    given = _numbers(node, "coefficients").reshape(-1, starts[-1])
    pairs = list(combinations(range(len(counts)), 2))
    weights = np.zeros((len(pairs), starts[-1]), np.float32)
    for row, (i, j) in enumerate(pairs):
        weights[row, starts[i] : starts[i + 1]] = given[j - 1, starts[i] : starts[i + 1]]
        weights[row, starts[j] : starts[j + 1]] = given[i, starts[j] : starts[j + 1]]
    return weights, pairs


def _voted(low: Lowering, sums: Tensor, pairs: list[tuple[int, int]], classes: int) -> Tensor:
    """[N] int32: the class that wins most of its pairs, of equal ones the first."""
    won = steps.cast(low.draft, Maths(low).test("GREATER", sums, 0.0), "float32")
    counting, lost = np.zeros((classes, len(pairs)), np.float32), np.zeros(classes, np.float32)
    for column, (i, j) in enumerate(pairs):
        counting[i, column], counting[j, column] = 1, -1
        lost[j] += 1
    return ml_scores.first_largest(low, dense(low, won, counting, lost))


def _probabilities(low: Lowering, node: Node, sums: Tensor, pairs: list[tuple[int, int]], classes: int) -> Tensor:
    """[N, classes], by a logistic curve for each pair of classes."""
    do = Maths(low)
    slope, offset = (low.draft.constant(_numbers(node, name)[None, :]) for name in ("prob_a", "prob_b"))
    chance = do("LOGISTIC", do("NEG", do("ADD", do("MUL", sums, slope), offset)))
    chance = do("MINIMUM", do("MAXIMUM", chance, 1e-7), 1 - 1e-7)
    return coupled(low, chance, pairs, classes)


def _linear_svm(low: Lowering, node: Node, x: Tensor, labels: Array, transform: str) -> None:
    """One sum a class, without support vectors."""
    do, coefficients = Maths(low), _numbers(node, "coefficients")
    offset = np.full(len(labels), _numbers(node, "rho")[0], np.float32)
    sums = dense(low, x, coefficients.reshape(len(labels), -1), offset)
    place = ml_scores.first_largest(low, sums)
    if len(labels) == 2:
        # As onnxruntime has it: the second class wherever one of the two sums is large enough.
        largest = reduce(low, "REDUCE_MAX", sums, [1], keep=False)
        positive = bool((coefficients >= 0).all())
        enough = do.test("GREATER_EQUAL", largest, 0.5) if positive else do.test("GREATER", largest, 0.0)
        place = do.pick(enough, 1, place, "int32")
    ml_scores.label(low, node, place, labels)
    ml_scores.answer(low, node.has_output(1), ml_scores.transformed(low, sums, transform), "float32")
