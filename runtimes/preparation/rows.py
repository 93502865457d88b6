"""Rows of named values: in the model's order, what is missing filled, categories as numbers."""

from __future__ import annotations

import functools
import math
import operator
import struct
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from edgekit.errors import FeedError
from edgekit.feeding import MISSING_TEXTS, TRUTH_TEXTS, Preprocess, TableSteps
from edgekit.runtimes.base import Array
from edgekit.tensors import TensorSpec

_MOST = float(np.finfo(np.float32).max)


def row_plan(how: Preprocess) -> Callable[[Mapping[str, Any]], Array | None] | None:
    """From a row in which nothing is missing or strange straight to float32 [1, width], scale, mean and std applied; it
    answers None for others, which `row_array` fills or refuses. None where mean and std do not fit rows.
    """
    steps = how.table
    if steps is None or any(len(values) not in (1, steps.width) for values in (how.mean, how.std)):
        return None
    values = _encoder(steps) if steps.categories else _picker(steps.columns)
    pack = struct.Struct(f"{steps.width}f").pack  # rounds like numpy, and takes nothing that is no number
    mean, std, scale = np.asarray(how.mean, np.float32), np.asarray(how.std, np.float32), np.float32(how.scale)
    scaled, identity = how.scale != 1.0, how.identity
    isfinite, frombuffer = np.isfinite, np.frombuffer

    def straight(row: Mapping[str, Any]) -> Array | None:
        try:
            made: Array = frombuffer(pack(*values(row)), np.float32)
        except (KeyError, TypeError, OverflowError, struct.error):
            return None
        if not identity:
            if scaled:
                made = made * scale
            made = made - mean
            made /= std
        return None if 0 in isfinite(made).tobytes() else made[None]

    return straight


def _encoder(steps: TableSteps) -> Callable[[Mapping[str, Any]], list[Any]]:
    """The values of a row in order, categories as numbers.

    Raises:
        KeyError: A column or a category that is not there.
    """
    codes: list[tuple[str, dict[str, list[float]] | None]] = []
    for column in steps.columns:
        known = steps.categories.get(column)
        # What may mean that there is no value is left to `row_array`.
        texts = [text for text in known or () if text.strip() and text not in ("None", "nan")]
        code = None if known is None else {text: _category(text, column, known, steps) for text in texts}
        codes.append((column, code))

    def encoded(row: Mapping[str, Any]) -> list[Any]:
        made: list[Any] = []
        for column, code in codes:
            if code is None:
                made.append(row[column])
            else:
                made += code[str(row[column])]
        return made

    return encoded


def row_array(row: Mapping[str, Any], steps: TableSteps, spec: TensorSpec) -> Array:
    """float32 [width] of one row; NaN where a value is missing that the model does without.

    Raises:
        FeedError: `feed-missing`: a value is missing and nothing stands in for it; `feed-category`: a category is not
            known; `feed-dtype`: a value is no number.
    """
    made: list[float] = []
    for column in steps.columns:
        value, known = row.get(column), steps.categories.get(column)
        if _absent(value, number=known is None):
            if column in steps.missing:
                value = steps.missing[column]
            elif column not in steps.categories and spec.may_miss(len(made)):
                value = math.nan
            else:
                raise FeedError("feed-missing", f"the row has no value of {column}, and nothing stands in for it")
        made += [_number(value, column, spec)] if known is None else _category(value, column, known, steps)
    return np.asarray(made, np.float32)


@functools.lru_cache(maxsize=32)
def _picker(columns: tuple[str, ...]) -> Callable[[Mapping[str, Any]], tuple[Any, ...]]:
    """The values of these columns, in order."""
    if len(columns) == 1:
        return lambda row: (row[columns[0]],)
    return operator.itemgetter(*columns)


def _absent(value: Any, *, number: bool) -> bool:
    """None, NaN of whatever type, a blank text; for a number also a text that says so, as in tables at the desk."""
    if isinstance(value, str) and not number:
        return not value.strip()  # the others may be categories
    return str(value).strip().lower() in MISSING_TEXTS


def _number(value: Any, column: str, spec: TensorSpec) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        truth = TRUTH_TEXTS.get(str(value).strip().lower())
        if truth is not None:
            return truth
        raise FeedError("feed-dtype", f"{spec.name}: {column} is {value!r}, which is no number") from error
    except OverflowError:  # of an integer
        number = _MOST * 2
    if abs(number) > _MOST and not math.isinf(number):
        raise FeedError("feed-dtype", f"{spec.name}: {column} is {str(value)[:24]}, too large for float32")
    return number


def _category(value: Any, column: str, known: tuple[str, ...], steps: TableSteps) -> list[float]:
    text = str(value)
    if text not in known and steps.unknown == "refuse":
        raise FeedError("feed-category", f"{column} is {text!r}; known: {', '.join(known)}")
    if steps.encode == "index":
        return [float(known.index(text) if text in known else -1)]
    return [float(text == one) for one in known]
