"""Transformers of scikit-learn's, each in a few standard operators.

What a transformer does to float32 rows is written here in the same order of operations, so that scalers round as their
own do. Where an estimator goes on in float64 the answers differ by what float32 holds, no more; formulas that lose
digits in float32 are written otherwise (`_grown`).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from edgekit.converters.from_sklearn import quantiles
from edgekit.converters.from_sklearn.draft import FLOAT, Draft
from edgekit.converters.from_sklearn.refusal import unsupported
from edgekit.converters.from_sklearn.trees import floor32
from edgekit.converters.stages import Array

Writer = Callable[[Any, Draft, str], str]
"""(fitted transformer, graph, name of [N, columns] float32) -> name of what it answers."""


def _in_place(kind: str, x: str, value: Any, draft: Draft) -> str:
    """What numpy's `x -= value` makes: computed as wide as the wider of both is, and kept as wide as `x` is."""
    made = draft.add(kind, draft.like(x, value), draft.constant(value))
    return str(made if draft.is_wide(x) else draft.narrow(made))


def _standard(model: Any, draft: Draft, x: str) -> str:
    width = np.float32 if not draft.is_wide(x) and _rounds_first(model) else np.float64
    if model.with_mean:
        x = _in_place("Sub", x, np.asarray(model.mean_, width), draft)
    return _in_place("Div", x, np.asarray(model.scale_, width), draft) if model.with_std else x


def _rounds_first(model: Any) -> bool:
    """Whether this version's scaler rounds its mean and scale to the type of the rows, before it computes."""
    mean = np.asarray(model.mean_ if model.with_mean else 0, np.float64)
    scale = np.asarray(model.scale_ if model.with_std else 1, np.float64)
    steps = np.linspace(-3, 3, 101)[:, None]
    rows = np.broadcast_to(mean + steps * scale, (len(steps), model.n_features_in_)).astype(np.float32)
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it was fitted with names of columns
        known = (rows - mean.astype(np.float32)) / scale.astype(np.float32)
        return np.array_equal(known, model.transform(rows.copy()), equal_nan=True)


def _robust(model: Any, draft: Draft, x: str) -> str:
    if model.with_centering:
        x = _in_place("Sub", x, model.center_, draft)
    return _in_place("Div", x, model.scale_, draft) if model.with_scaling else x


def _min_max(model: Any, draft: Draft, x: str) -> str:
    x = _in_place("Add", _in_place("Mul", x, model.scale_, draft), model.min_, draft)
    if model.clip:
        low, high = model.feature_range
        x = draft.add("Clip", x, draft.constant(low), draft.constant(high))
    return x


def _max_abs(model: Any, draft: Draft, x: str) -> str:
    return _in_place("Div", x, model.scale_, draft)


def _normalizer(model: Any, draft: Draft, x: str) -> str:
    if model.norm == "l2":
        size = draft.add("ReduceL2", x, axes=[1], keepdims=1)
    elif model.norm == "l1":
        size = draft.add("ReduceL1", x, axes=[1], keepdims=1)
    else:
        size = draft.add("ReduceMax", draft.add("Abs", x), axes=[1], keepdims=1)
    nothing = draft.add("Equal", size, draft.constant(0.0))
    return str(draft.add("Div", x, draft.add("Where", nothing, draft.constant(1.0), size)))


def _binarizer(model: Any, draft: Draft, x: str) -> str:
    # x > t in float64 just when x > floor32(t).
    limit = model.threshold if draft.is_wide(x) else floor32(model.threshold)
    return str(draft.add("Cast", draft.add("Greater", x, draft.constant(limit)), to=FLOAT))


def _chosen(model: Any, draft: Draft, x: str) -> str:
    return columns(np.asarray(model.get_support(indices=True)), draft, x)


def columns(chosen: Array, draft: Draft, x: str) -> str:
    """Some columns of a tensor."""
    return str(draft.add("Gather", x, draft.constant(chosen, np.int64), axis=1))


def _imputer(model: Any, draft: Draft, x: str) -> str:
    values = np.asarray(model.statistics_)
    if values.dtype.kind not in "fiu" or model.indicator_ is not None:
        raise unsupported(
            "SimpleImputer", "it answers text, or columns that say what was missing", "Train it with add_indicator off."
        )
    values = values.astype(np.float64)
    kept = np.flatnonzero(~np.isnan(values))
    if len(kept) < len(values):
        x, values = columns(kept, draft, x), values[kept]
    if isinstance(model.missing_values, float) and np.isnan(model.missing_values):
        missing = draft.add("IsNaN", x)
    else:
        missing = draft.add("Equal", x, draft.constant(model.missing_values))
    return str(draft.add("Where", missing, draft.constant(values[None, :]), x))


def _pca(model: Any, draft: Draft, x: str) -> str:
    weights = np.asarray(model.components_, np.float64).T
    if model.whiten:
        scale = np.sqrt(np.asarray(model.explained_variance_, np.float64))
        weights = weights / np.maximum(scale, np.finfo(np.float64).eps)
    x = draft.like(x, model.components_)
    return str(draft.add("MatMul", draft.add("Sub", x, draft.constant(model.mean_)), draft.constant(weights)))


def _ica(model: Any, draft: Draft, x: str) -> str:
    if model.whiten:
        x = draft.add("Sub", x, draft.constant(model.mean_))
    return _projected(model, draft, x)


def _projected(model: Any, draft: Draft, x: str) -> str:
    weights = model.components_
    weights = weights.toarray() if hasattr(weights, "toarray") else np.asarray(weights)
    return str(draft.add("MatMul", draft.like(x, weights), draft.constant(weights.T)))


def _polynomial(model: Any, draft: Draft, x: str) -> str:
    """Products of columns; a column of ones fills up those of a lower degree."""
    powers = np.asarray(model.powers_)
    degree, width = int(powers.sum(axis=1).max(initial=0)), powers.shape[1]
    factors = np.full((degree, len(powers)), width)
    for at, row in enumerate(powers):
        parts = np.repeat(np.arange(width), row)
        factors[: len(parts), at] = parts
    one = draft.add("Add", draft.add("Mul", columns(np.array([0]), draft, x), draft.constant(0.0)), draft.constant(1.0))
    padded = draft.add("Concat", x, one, axis=1)
    product = columns(factors[0] if degree else np.full(len(powers), width), draft, padded)
    for row in factors[1:]:
        product = draft.add("Mul", product, columns(row, draft, padded))
    return product


def _bins(model: Any, draft: Draft, x: str) -> str:
    """Which bin: how many inner edges are at most the input. In float64 x >= e just when not x <= (number below e)."""
    encoded = []
    for at, edges in enumerate(model.bin_edges_):
        inner = np.asarray(edges[1:-1], np.float64)
        below = floor32(np.nextafter(inner, -np.inf))
        column = draft.narrow(columns(np.array([at]), draft, x))
        passed = draft.add("Cast", draft.add("Greater", column, draft.constant(below[None, :])), to=FLOAT)
        count = (
            draft.add("ReduceSum", passed, draft.constant([1], np.int64), keepdims=1)
            if len(inner)
            else draft.add("Mul", column, draft.constant(0.0))
        )
        if model.encode == "ordinal":
            encoded.append(count)
        else:
            marks = np.arange(len(edges) - 1, dtype=np.float32)[None, :]
            encoded.append(draft.add("Cast", draft.add("Equal", count, draft.constant(marks)), to=FLOAT))
    return str(draft.add("Concat", *encoded, axis=1))


def _categories(model: Any) -> list[Array]:
    """The known categories of each column, as float32 numbers.

    Raises:
        SourceError: `sklearn-unsupported`: text, NaN, or numbers that float32 does not tell apart.
    """
    name = type(model).__name__
    found = []
    for at, known in enumerate(model.categories_):
        values = np.asarray(known)
        if values.dtype.kind not in "fiub":
            raise unsupported(
                name,
                f"its column {at} holds text ({', '.join(map(str, values[:3]))}, ...)",
                "Engines on boards take numbers: encode text as numbers before, and train on those.",
            )
        exact = values.astype(np.float32)
        if np.isnan(exact).any() or len(np.unique(exact)) < len(values):
            raise unsupported(name, f"the categories of its column {at} are not distinct as float32 numbers")
        found.append(exact)
    return found


def _one_hot(model: Any, draft: Draft, x: str) -> str:
    if getattr(model, "_infrequent_enabled", False) and any(i is not None for i in model._infrequent_indices):  # noqa: SLF001
        raise unsupported("OneHotEncoder", "it puts rare categories together", "Train it without min_frequency.")
    encoded = []
    for at, known in enumerate(_categories(model)):
        dropped = None if model.drop_idx_ is None else model.drop_idx_[at]
        kept = known if dropped is None else np.delete(known, int(dropped))
        column = columns(np.array([at]), draft, x)
        encoded.append(draft.add("Cast", draft.add("Equal", column, draft.constant(kept[None, :])), to=FLOAT))
    return str(draft.add("Concat", *encoded, axis=1))


def _ordinal(model: Any, draft: Draft, x: str) -> str:
    if getattr(model, "_infrequent_enabled", False) and any(i is not None for i in model._infrequent_indices):  # noqa: SLF001
        raise unsupported("OrdinalEncoder", "it puts rare categories together", "Train it without min_frequency.")
    unknown = float(model.unknown_value)
    encoded = []
    for at, known in enumerate(_categories(model)):
        column = columns(np.array([at]), draft, x)
        same = draft.add("Cast", draft.add("Equal", column, draft.constant(known[None, :])), to=FLOAT)
        numbers = draft.constant(np.arange(1, len(known) + 1)[:, None])
        place = draft.add("Sub", draft.add("MatMul", same, numbers), draft.constant(1.0))
        missed = draft.add("Less", place, draft.constant(0.0))
        encoded.append(draft.add("Where", missed, draft.constant(unknown), place))
    return str(draft.add("Concat", *encoded, axis=1))


def _power(model: Any, draft: Draft, x: str) -> str:
    """Yeo-Johnson and Box-Cox: logarithms, stretched by `_grown`."""
    powers, given = np.asarray(model.lambdas_, np.float64)[None, :], x
    if model.method == "box-cox":
        x = _grown(draft.add("Log", x), powers, draft)
    else:
        zero, one = draft.constant(0.0), draft.constant(1.0)
        up = _grown(draft.add("Log", draft.add("Add", draft.add("Max", x, zero), one)), powers, draft)
        down = draft.add("Log", draft.add("Sub", one, draft.add("Min", x, zero)))
        x = draft.add("Sub", up, _grown(down, 2 - powers, draft))
    made = _standard(model._scaler, draft, x) if model.standardize else x  # noqa: SLF001
    # Kernels of `Max`, `Tanh` and `Exp` answer some number to NaN.
    return str(draft.add("Where", draft.add("IsNaN", given), given, made))


def _grown(log: str, powers: Array, draft: Draft) -> str:
    """(exp(p * log) - 1) / p, and log itself for p = 0.

    Near zero the difference loses all digits; there it is 2 t / (1 - t) with t = tanh(p * log / 2).
    """
    safe = np.where(powers == 0, 1.0, powers)
    raised = draft.add("Mul", log, draft.constant(safe))
    half = draft.add("Tanh", draft.add("Mul", raised, draft.constant(0.5)))
    fine = draft.add("Div", draft.add("Add", half, half), draft.add("Sub", draft.constant(1.0), half))
    coarse = draft.add("Sub", draft.add("Exp", raised), draft.constant(1.0))
    near = draft.add("Less", draft.add("Abs", raised), draft.constant(1.0))
    grown = draft.add("Div", draft.add("Where", near, fine, coarse), draft.constant(safe))
    if not (powers == 0).any():
        return str(grown)
    return str(draft.add("Where", draft.constant(powers == 0, np.bool_), log, grown))


def _identity(model: Any, draft: Draft, x: str) -> str:
    del draft
    if model.func is not None:
        raise unsupported(
            "FunctionTransformer",
            f"its function {getattr(model.func, '__name__', model.func)!r} is Python code",
            "Apply the function to the data before it is fed, or use a transformer of scikit-learn's.",
        )
    return x


def _discriminants(model: Any, draft: Draft, x: str) -> str:
    if model.solver == "svd":
        x = draft.add("Sub", x, draft.constant(model.xbar_))
    weights = np.asarray(model.scalings_)[:, : model._max_components]  # noqa: SLF001
    x = draft.like(x, weights)
    return str(draft.add("MatMul", x, draft.constant(weights)))


CHOOSERS = (
    "SelectKBest", "SelectPercentile", "SelectFpr", "SelectFdr", "SelectFwe", "SelectFromModel",
    "GenericUnivariateSelect", "VarianceThreshold", "RFE", "RFECV", "SequentialFeatureSelector",
)  # fmt: skip

EXACT = frozenset({"OneHotEncoder", "OrdinalEncoder", "KBinsDiscretizer", "Binarizer", "SimpleImputer", *CHOOSERS})
"""What they answer, they answer to the last bit."""

TRANSFORMERS: dict[str, Writer] = {
    "StandardScaler": _standard, "RobustScaler": _robust, "MinMaxScaler": _min_max, "MaxAbsScaler": _max_abs,
    "Normalizer": _normalizer, "Binarizer": _binarizer, "SimpleImputer": _imputer, "PCA": _pca,
    "IncrementalPCA": _pca, "FastICA": _ica, "TruncatedSVD": _projected, "GaussianRandomProjection": _projected,
    "SparseRandomProjection": _projected, "NeighborhoodComponentsAnalysis": _projected,
    "PolynomialFeatures": _polynomial, "KBinsDiscretizer": _bins, "OneHotEncoder": _one_hot,
    "OrdinalEncoder": _ordinal, "PowerTransformer": _power, "FunctionTransformer": _identity,
    "LinearDiscriminantAnalysis": _discriminants, "QuantileTransformer": quantiles.transform,
    **dict.fromkeys(CHOOSERS, _chosen),
}  # fmt: skip
