"""Rows of named values: in the model's order, what is missing filled, categories as numbers."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from edgekit.errors import FeedError
from edgekit.feeding import TableSteps
from edgekit.runtimes.base import Array
from edgekit.tensors import TensorSpec


def row_array(row: Mapping[str, Any], steps: TableSteps, spec: TensorSpec) -> Array:
    """float32 [width] of one row.

    Raises:
        FeedError: `feed-missing`: a value is missing and nothing stands in for it; `feed-category`: a category is not
            known; `feed-dtype`: a value is no number.
    """
    try:  # most rows hold a number a column
        plain = np.array(_picker(steps.columns)(row), np.float32) if not steps.categories else None
    except (KeyError, ValueError, TypeError):
        plain = None  # something is missing, or no number: said or filled below
    if plain is not None and plain.ndim == 1 and not np.isnan(plain).any():
        return plain
    made: list[float] = []
    for column in steps.columns:
        value = row.get(column)
        if _absent(value):
            if column not in steps.missing:
                raise FeedError("feed-missing", f"the row has no value of {column}, and nothing stands in for it")
            value = steps.missing[column]
        known = steps.categories.get(column)
        made += [_number(value, column, spec)] if known is None else _category(value, column, known, steps)
    return np.asarray(made, np.float32)


@functools.lru_cache(maxsize=32)
def _picker(columns: tuple[str, ...]) -> Callable[[Mapping[str, Any]], tuple[Any, ...]]:
    """The values of these columns, in order."""
    if len(columns) == 1:
        return lambda row: (row[columns[0]],)
    return operator.itemgetter(*columns)


def table_array(rows: Any, steps: TableSteps, spec: TensorSpec) -> Array:
    """float32 [n, width] of a list of rows."""
    return np.stack([row_array(row, steps, spec) for row in rows])


def _absent(value: Any) -> bool:
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, float) and math.isnan(value))


def _number(value: Any, column: str, spec: TensorSpec) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise FeedError("feed-dtype", f"{spec.name}: {column} is {value!r}, which is no number") from error


def _category(value: Any, column: str, known: tuple[str, ...], steps: TableSteps) -> list[float]:
    text = str(value)
    if text not in known and steps.unknown == "refuse":
        raise FeedError("feed-category", f"{column} is {text!r}; known: {', '.join(known)}")
    if steps.encode == "index":
        return [float(known.index(text) if text in known else -1)]
    return [float(text == one) for one in known]
