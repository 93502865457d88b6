"""Scalers before trees: folded into the thresholds, because that is exact and computing them is not.

A scaler rounds. Computed elsewhere, with a multiplication in place of a division, it rounds elsewhere, and an input at
a threshold goes the other way. But trees only compare, and a scaler's column rises with its input: so for each
threshold there is one float32 input up to which the estimator's own arithmetic, roundings included, comes out at most
as large. It is found by bisection over the float32 numbers, with the estimator's own scaler.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edgekit.converters.from_sklearn.trees import Forest, Tree
from edgekit.converters.stages import Array

_RISING = frozenset({
    "StandardScaler", "MinMaxScaler", "MaxAbsScaler", "RobustScaler", "SimpleImputer", "Binarizer", "PowerTransformer",
    "QuantileTransformer",
})  # fmt: skip
"""Each column of the answer rises with the same column of the input; an imputer's answers NaN with a constant."""
_CHOOSING = frozenset({
    "SelectKBest", "SelectPercentile", "SelectFpr", "SelectFdr", "SelectFwe", "SelectFromModel",
    "GenericUnivariateSelect", "VarianceThreshold", "RFE", "RFECV", "SequentialFeatureSelector",
})  # fmt: skip

_BITS = 33
"""Halvings of the 2**32 float32 numbers."""


@dataclass(frozen=True)
class Columns:
    """Columns of which each depends on one column of the input, and rises with it.

    Attributes:
        transform: [n, inputs] float32 -> [n, columns].
        sources: [columns] int: the input column of each.
    """

    transform: Callable[[Array], Array]
    sources: Array


def columns_of(steps: Sequence[Any], width: int) -> Columns | None:
    """What a chain of fitted transformers does, if it is no more than scaling and choosing columns.

    Args:
        steps: Transformers, or "passthrough".
        width: Columns of the input.
    """
    sources = np.arange(width)
    for step in steps:
        found = _sources(step, len(sources))
        if found is None:
            return None
        sources = sources[found]

    def transform(rows: Array) -> Array:
        for step in steps:
            if not isinstance(step, str):
                rows = np.asarray(step.transform(rows))
        return rows

    return Columns(transform, sources)


def fold(forest: Forest, columns: Columns, width: int) -> Forest:
    """The forest over the input itself: each threshold becomes the largest input that passes it.

    Args:
        forest: Over the columns, with the estimator's own thresholds.
        columns: What it looks at.
        width: Columns of the input.

    Returns:
        A forest that sends every row of finite float32 where the scaled row would go; NaN too, where the chain admits
        it.
    """
    inner = [~tree.leaves for tree in forest.trees]
    feature = np.concatenate([tree.feature[mask] for tree, mask in zip(forest.trees, inner, strict=True)])
    threshold = np.concatenate([tree.threshold[mask] for tree, mask in zip(forest.trees, inner, strict=True)])
    missing = np.concatenate([tree.missing_left[mask] for tree, mask in zip(forest.trees, inner, strict=True)])
    if len(feature):
        passes = _comparison(forest, columns, feature, threshold, width)
        limits, missing = _bisected(passes, len(feature)), _missing(forest, columns, feature, threshold, missing, width)
    else:
        limits = np.zeros(0, np.float32)
    trees: list[Tree] = []
    start = 0
    for tree, mask in zip(forest.trees, inner, strict=True):
        part = slice(start, start := start + int(mask.sum()))
        limit, tracks = np.zeros(len(mask), np.float32), np.zeros(len(mask), bool)
        limit[mask], tracks[mask] = limits[part], missing[part]
        trees.append(replace(tree, threshold=limit, missing_left=tracks).looking_at(columns.sources))
    return replace(forest, trees=tuple(trees), mode="BRANCH_LEQ")


def _sources(step: Any, width: int) -> Array | None:
    """Which columns a step answers with, in order; None where it does more than scaling and choosing."""
    if isinstance(step, str):
        return np.arange(width) if step == "passthrough" else None
    kind = type(step)
    if kind.__module__.partition(".")[0] != "sklearn":
        return None
    if kind.__name__ in _CHOOSING:
        return np.asarray(step.get_support(indices=True), np.int64)
    if kind.__name__ == "FunctionTransformer":
        return np.arange(width) if step.func is None else None
    if kind.__name__ == "ColumnTransformer":
        return _joined(step)
    if kind.__name__ == "Pipeline":
        inner = columns_of([part for _, part in step.steps], width)
        return None if inner is None else inner.sources
    if kind.__name__ not in _RISING or getattr(step, "method", "") == "box-cox":  # that refuses what is not positive
        return None
    if kind.__name__ == "SimpleImputer":
        return _imputed(step, width)
    return np.arange(width)


def _imputed(step: Any, width: int) -> Array | None:
    whole = step.indicator_ is None and not step.keep_empty_features and isinstance(step.missing_values, float)
    if not whole or not np.isnan(step.missing_values):
        return None
    return np.flatnonzero(~np.isnan(np.asarray(step.statistics_, np.float64))) if width else None


def _joined(step: Any) -> Array | None:
    """Columns of a ColumnTransformer: those of its parts, beside each other."""
    found: list[Array] = []
    for name, part, _ in step.transformers_:
        if name not in step.output_indices_ or (isinstance(part, str) and part == "drop"):
            continue
        chosen = np.asarray(step._transformer_to_input_indices[name], np.int64)  # noqa: SLF001
        inner = _sources(part, len(chosen))
        if inner is None:
            return None
        place = step.output_indices_[name]
        if place.start != sum(map(len, found)) or place.stop - place.start != len(inner):
            return None
        found.append(chosen[inner])
    return np.concatenate(found) if found else None


def _comparison(
    forest: Forest, columns: Columns, feature: Array, threshold: Array, width: int
) -> Callable[[Array], Array]:
    """Whether each comparison passes, for one input each: [comparisons] float32 -> [comparisons] bool."""
    order = np.argsort(feature, kind="stable")
    used, starts, counts = np.unique(feature[order], return_index=True, return_counts=True)
    rows = np.arange(len(feature)) - np.repeat(starts, counts)
    at = np.repeat(columns.sources[used], counts)
    # Comparisons of one column lie below each other; those of different columns may share their rows.
    height = int(counts.max())
    shared = len(set(columns.sources[used].tolist())) == len(used)

    def passes(inputs: Array) -> Array:
        answer = np.zeros(len(feature), bool)
        for chosen in [slice(None)] if shared else [np.flatnonzero(feature[order] == column) for column in used]:
            grid = np.zeros((height, width), np.float32)
            grid[rows[chosen], at[chosen]] = inputs[order][chosen]
            with _unchecked():
                scaled = columns.transform(grid)
            value = scaled[rows[chosen], feature[order][chosen]].astype(forest.width)
            limit = threshold[order][chosen]
            answer[order[chosen]] = value <= limit if forest.mode == "BRANCH_LEQ" else value < limit
        return answer

    return passes


def _bisected(passes: Callable[[Array], Array], count: int) -> Array:
    """The largest float32 that passes, for each of `count` comparisons; minus infinity where none does."""
    largest = int(_rank(np.array([np.finfo(np.float32).max]))[0])
    low, high = np.full(count, -largest - 2), np.full(count, largest)  # one below the lowest: it passes by definition
    for _ in range(_BITS):
        middle = low + (high - low + 1) // 2
        good = passes(_number(np.maximum(middle, -largest - 1)))
        moving = low < high
        low, high = np.where(moving & good, middle, low), np.where(moving & ~good, middle - 1, high)
    limits = np.where(low < -largest - 1, np.float32(-np.inf), _number(np.maximum(low, -largest - 1)))
    return np.where(low == largest, np.float32(np.inf), limits).astype(np.float32)


def _missing(forest: Forest, columns: Columns, feature: Array, threshold: Array, missing: Array, width: int) -> Array:
    """Where NaN goes: where the chain's answer to it goes."""
    with _unchecked():
        scaled = columns.transform(np.full((1, width), np.nan, np.float32))[0].astype(forest.width)
    value = scaled[feature]
    passes = value <= threshold if forest.mode == "BRANCH_LEQ" else value < threshold
    return np.where(np.isnan(value), missing, passes)


def _rank(values: Array) -> Array:
    """float32 numbers as integers of the same order; -0 is one below 0."""
    bits = np.asarray(values, np.float32).view(np.int32).astype(np.int64)
    return np.where(bits >= 0, bits, -(bits & 0x7FFFFFFF) - 1)


def _number(ranks: Array) -> Array:
    """The float32 numbers of ranks."""
    bits = np.where(ranks >= 0, ranks, (-(ranks + 1)) | 0x80000000)
    return bits.astype(np.uint32).view(np.float32)


@contextlib.contextmanager
def _unchecked() -> Iterator[None]:
    """Scalers overflow at the ends of float32, which is no mistake here."""
    import warnings

    import sklearn

    with sklearn.config_context(assume_finite=True), np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
