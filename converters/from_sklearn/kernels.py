"""Predictors that compare a row with stored rows: support vector machines and nearest neighbours.

Distances are sums of squared differences, as the estimators have them. Of many stored rows they are
|x|^2 - 2 x s + |s|^2, which takes a fraction of the memory, around a point in the midst of the rows, because away from
zero the difference loses digits; where the rows are whole numbers that point is one too, so that equal distances stay
equal.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edgekit.converters.from_sklearn.draft import FLOAT, INT64, Draft
from edgekit.converters.from_sklearn.refusal import unsupported
from edgekit.converters.stages import Array

_DIRECT_LIMIT = 1 << 17
"""Numbers of stored rows up to which all differences are laid out: 512 KiB for each sample."""
_STORED_LIMIT = 1 << 24
"""Numbers of stored rows: 64 MiB; a board would spend seconds on each answer."""


def squared_distances(draft: Draft, x: str, rows: Any) -> str:
    """[N, rows], at least 0."""
    rows = np.asarray(rows, np.float64)
    if rows.size <= _DIRECT_LIMIT:
        apart = draft.add("Sub", draft.add("Unsqueeze", x, draft.constant([1], np.int64)), draft.constant(rows[None]))
        squares = draft.add("Mul", apart, apart)
        return str(draft.add("ReduceSum", squares, draft.constant([2], np.int64), keepdims=0))
    midst = rows.mean(axis=0)
    if (rows == np.rint(rows)).all():
        midst = np.rint(midst)
    midst = midst.astype(np.float32).astype(np.float64)
    around = rows - midst
    x = draft.add("Sub", x, draft.constant(midst))
    own = draft.add("ReduceSum", draft.add("Mul", x, x), draft.constant([1], np.int64), keepdims=1)
    product = draft.add("MatMul", x, draft.constant(-2 * around.T))
    squares = draft.add("Add", draft.add("Add", product, draft.constant((around**2).sum(axis=1))), own)
    return str(draft.add("Relu", squares))


# -- Support vector machines --------------------------------------------------------------------------------------


def _kernel(model: Any, draft: Draft, x: str) -> str:
    """Kernel values [N, support vectors]."""
    rows = np.asarray(model.support_vectors_, np.float64)
    _check_size(model, rows)
    gamma, shift = float(model._gamma), float(model.coef0)  # noqa: SLF001
    if model.kernel == "rbf":
        return str(draft.add("Exp", draft.add("Mul", squared_distances(draft, x, rows), draft.constant(-gamma))))
    if model.kernel not in ("linear", "poly", "sigmoid"):
        raise unsupported(type(model).__name__, f"its kernel {model.kernel!r} is none of linear, poly, rbf, sigmoid")
    product = draft.add("MatMul", x, draft.constant(rows.T * (1.0 if model.kernel == "linear" else gamma)))
    if model.kernel == "linear":
        return str(product)
    product = draft.add("Add", product, draft.constant(shift))
    if model.kernel == "sigmoid":
        return str(draft.add("Tanh", product))
    power = product
    for _ in range(int(model.degree) - 1):
        power = draft.add("Mul", power, product)
    return str(power if model.degree else draft.add("Exp", draft.add("Mul", product, draft.constant(0.0))))


def _duel(model: Any, draft: Draft, x: str) -> str:
    """Decisions [N, pairs] between classes i < j: above zero for i."""
    values = _kernel(model, draft, x)
    duals = np.asarray(model._dual_coef_.todense() if hasattr(model._dual_coef_, "todense") else model._dual_coef_)
    ends = np.cumsum(model.n_support_)
    of = [slice(end - count, end) for end, count in zip(ends, model.n_support_, strict=True)]
    pairs = _pairs(len(of))
    weights = np.zeros((duals.shape[1], len(pairs)))
    for at, (one, other) in enumerate(pairs):
        weights[of[one], at] = duals[other - 1, of[one]]
        weights[of[other], at] = duals[one, of[other]]
    return str(draft.add("Add", _summed(draft, values, weights), draft.constant(model._intercept_)))


def _support_classifier(model: Any, draft: Draft, x: str) -> dict[str, str]:
    """The class that wins most duels; scores are those of `decision_function`, with a column a class or a duel.

    What `probability=True` adds is left out: its answers are where an iteration happens to stop, 0.005 off or so, and
    may name another class than the label.
    """
    count = len(model.classes_)
    duel = _duel(model, draft, draft.wide(x))
    if count == 2:
        score = draft.add("Neg", duel)
        flat = draft.add("Reshape", score, draft.constant([-1], np.int64))
        label = draft.add("Cast", draft.add("GreaterOrEqual", flat, draft.constant(0.0)), to=INT64)
        return {"scores": draft.add("Concat", duel, score, axis=1), "label": label}
    pairs = _pairs(count)
    first, second = np.zeros((len(pairs), count)), np.zeros((len(pairs), count))
    for at, (one, other) in enumerate(pairs):
        first[at, one], second[at, other] = 1, 1
    won = draft.add("Cast", draft.add("Greater", duel, draft.constant(0.0)), to=FLOAT)
    lost = draft.add("Sub", draft.constant(1.0), won)
    votes = draft.add(
        "Add", draft.add("MatMul", won, draft.constant(first)), draft.add("MatMul", lost, draft.constant(second))
    )
    total = draft.add("MatMul", duel, draft.constant(first - second))
    bound = draft.add("Add", draft.add("Abs", total), draft.constant(1.0))
    scores = draft.add("Add", votes, draft.add("Div", total, draft.add("Mul", bound, draft.constant(3.0))))
    decided = scores if model.break_ties else votes
    label = draft.add("ArgMax", decided, axis=1, keepdims=0)
    return {"scores": duel if model.decision_function_shape == "ovo" else scores, "label": label}


def _support_regressor(model: Any, draft: Draft, x: str) -> dict[str, str]:
    return {"output": draft.add("Reshape", _support_sum(model, draft, x), draft.constant([-1], np.int64))}


def _support_outliers(model: Any, draft: Draft, x: str) -> dict[str, str]:
    score = draft.add("Reshape", _support_sum(model, draft, draft.wide(x)), draft.constant([-1], np.int64))
    inside = draft.add("Greater", score, draft.constant(0.0))
    label = draft.add("Where", inside, draft.constant(1, np.int64), draft.constant(-1, np.int64))
    return {"label": label, "score": score}


def _support_sum(model: Any, draft: Draft, x: str) -> str:
    product = _summed(draft, _kernel(model, draft, x), np.asarray(model._dual_coef_).T)
    return str(draft.add("Add", product, draft.constant(model._intercept_)))


def _summed(draft: Draft, values: str, weights: Array) -> str:
    """Sums of values times weights, [N, sums].

    They are written as reductions, which add in parts: the terms are large and cancel, and added one after the other,
    as in a product of matrices, they leave ten times the error.
    """
    if weights.size > _DIRECT_LIMIT:
        return str(draft.add("MatMul", values, draft.constant(weights)))
    wide = draft.add("Unsqueeze", values, draft.constant([1], np.int64))
    terms = draft.add("Mul", wide, draft.constant(weights.T[None]))
    return str(draft.add("ReduceSum", terms, draft.constant([2], np.int64), keepdims=0))


# -- Nearest neighbours -------------------------------------------------------------------------------------------


def _nearest(model: Any, draft: Draft, x: str) -> tuple[str, str | None]:
    """Indices [N, k] of the nearest stored rows, and how much each counts [N, k]; None where all count alike."""
    if model.effective_metric_ not in ("euclidean", "sqeuclidean"):
        raise unsupported(type(model).__name__, f"its metric is {model.effective_metric_!r}", "Use metric='euclidean'.")
    if model.weights not in ("uniform", "distance"):
        raise unsupported(type(model).__name__, "its weights are a Python function", "Use 'uniform' or 'distance'.")
    rows = model._fit_X  # noqa: SLF001
    rows = np.asarray(rows.todense() if hasattr(rows, "todense") else rows)
    _check_size(model, rows)
    squares = squared_distances(draft, x, rows)
    count = draft.constant([model.n_neighbors], np.int64)
    near, index = draft.add("TopK", squares, count, outputs=2, axis=1, largest=0, sorted=1)
    if model.weights == "uniform":
        return index, None
    # A row that is stored counts alone.
    there = draft.add("Cast", draft.add("Equal", near, draft.constant(0.0)), to=FLOAT)
    any_there = draft.add("Greater", draft.add("ReduceMax", there, axes=[1], keepdims=1), draft.constant(0.0))
    away = draft.add("Max", near, draft.constant(np.finfo(np.float32).tiny))
    counted = draft.add("Div", draft.constant(1.0), draft.add("Sqrt", away))
    return index, draft.add("Where", any_there, there, counted)


def _average(model: Any, draft: Draft, index: str, counted: str | None, values: Array) -> str:
    """Weighted mean of the stored values [rows, outputs] over the neighbours, [N, outputs]."""
    found = draft.add("Gather", draft.constant(values), index, axis=0)
    if counted is None:
        total = draft.add("ReduceSum", found, draft.constant([1], np.int64), keepdims=0)
        return str(draft.add("Div", total, draft.constant(model.n_neighbors)))
    heavy = draft.add("Mul", found, draft.add("Unsqueeze", counted, draft.constant([2], np.int64)))
    total = draft.add("ReduceSum", heavy, draft.constant([1], np.int64), keepdims=0)
    return str(draft.add("Div", total, draft.add("ReduceSum", counted, draft.constant([1], np.int64), keepdims=1)))


def _neighbours_classifier(model: Any, draft: Draft, x: str) -> dict[str, str]:
    if model.outputs_2d_:
        raise unsupported(type(model).__name__, "it answers several classifications at once", "Train one for each.")
    index, counted = _nearest(model, draft, draft.wide(x))
    votes = np.eye(len(model.classes_))[np.asarray(model._y)]  # noqa: SLF001
    chances = _average(model, draft, index, counted, votes)
    return {"probabilities": chances, "label": draft.add("ArgMax", chances, axis=1, keepdims=0)}


def _neighbours_regressor(model: Any, draft: Draft, x: str) -> dict[str, str]:
    index, counted = _nearest(model, draft, x)
    values = np.asarray(model._y, np.float64)  # noqa: SLF001
    mean = _average(model, draft, index, counted, values.reshape(len(values), -1))
    return {"output": draft.add("Reshape", mean, draft.constant([-1], np.int64)) if values.ndim == 1 else mean}


def _pairs(count: int) -> list[tuple[int, int]]:
    return [(one, other) for one in range(count) for other in range(one + 1, count)]


def _check_size(model: Any, rows: Array) -> None:
    if rows.size > _STORED_LIMIT:
        raise unsupported(
            type(model).__name__,
            f"it compares each sample with {len(rows)} stored rows of {rows.shape[1]} numbers",
            "Train on fewer rows, or take an estimator that does not store them.",
        )


WRITERS = {
    "SVC": _support_classifier, "NuSVC": _support_classifier, "SVR": _support_regressor, "NuSVR": _support_regressor,
    "OneClassSVM": _support_outliers, "KNeighborsClassifier": _neighbours_classifier,
    "KNeighborsRegressor": _neighbours_regressor,
}  # fmt: skip
