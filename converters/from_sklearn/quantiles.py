"""QuantileTransformer: the share of the training data below a number, between its quantiles on a straight line.

scikit-learn interpolates forward and backward and takes the mean of both, which differ where a value stands for several
quantiles: there the share jumps, and is the middle for that very number. So the share is a sum over the distinct
quantiles: a ramp to the next one, and half a jump below and half above each. Ramps are measured from the float32
number next to their quantile, from which numbers near it differ without rounding. The normal distribution needs the
share above as well, of which a sum near one has no digits left; what belongs to it is Wichura's AS 241 (1988), PPND7:
seven digits, which is what float32 holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from edgekit.converters.from_sklearn.draft import FLOAT, Draft
from edgekit.converters.from_sklearn.refusal import unsupported
from edgekit.converters.from_sklearn.trees import floor32
from edgekit.converters.stages import Array

_LARGEST = 1 << 20
"""Knots of all columns that are written out."""
_NEAREST = 1e-7
"""scikit-learn's BOUNDS_THRESHOLD: so near to an end is at it, for the normal distribution."""
_TINY = 1e-30
"""Width of a ramp whose inverse float32 still holds."""
_CENTRAL = ((3.3871327179e0, 5.0434271938e1, 1.5929113202e2, 5.9109374720e1),
            (1.0, 1.7895169469e1, 7.8757757664e1, 6.7187563600e1))  # fmt: skip
_TAIL = ((1.4234372777e0, 2.7568153900e0, 1.3067284816e0, 1.7023821103e-1), (1.0, 7.3700164250e-1, 1.2021132975e-1))
"""Coefficients of AS 241's PPND7, lowest power first, above and below the line: near the middle, and outside."""


@dataclass(frozen=True)
class _Knots:
    """Distinct quantiles of all columns, [columns, K]; columns with fewer repeat their last.

    Attributes:
        at: Where.
        width: To the next one; 1 where there is none.
        rise: Of the share up to the next one.
        jump: Of the share at it.
    """

    at: Array
    width: Array
    rise: Array
    jump: Array


def transform(model: Any, draft: Draft, x: str) -> str:
    """Write a fitted QuantileTransformer; a row [N, columns] stays one.

    Raises:
        SourceError: `sklearn-unsupported`: its tables are too large.
    """
    quantiles = np.asarray(model.quantiles_, np.float64)
    if quantiles.size > _LARGEST:
        raise unsupported(
            "QuantileTransformer",
            f"{quantiles.size} quantiles would be written out, and that is done for up to {_LARGEST}",
            "Train it with a smaller n_quantiles.",
        )
    knots, normal = _knots(quantiles, np.asarray(model.references_, np.float64)), model.output_distribution == "normal"
    below = _share(draft, x, knots, upwards=True)
    if normal:
        above = _share(draft, x, knots, upwards=False)
        share = draft.add("Where", draft.add("Greater", below, draft.constant(0.5)),
                          draft.add("Sub", draft.constant(1.0), above), below)  # fmt: skip
        # scikit-learn keeps the share as wide as the rows are.
        made = _normal(draft, share if draft.is_wide(x) else draft.narrow(share))
        made = _at_ends(draft, x, made, knots)
    else:
        made = below
    if not draft.is_wide(x):
        made = draft.narrow(made)
    return str(draft.add("Where", draft.add("IsNaN", x), x, made))


def _knots(quantiles: Array, references: Array) -> _Knots:
    columns = []
    for column in quantiles.T:
        at, first = np.unique(column, return_index=True)
        last = np.append(first[1:], len(column)) - 1
        rise = np.append(references[first[1:]] - references[last[:-1]], 0.0)
        columns.append((at, np.append(np.diff(at), 1.0), rise, references[last] - references[first]))
    count = max(len(at) for at, *_ in columns)
    fills = ("edge", "constant", "constant", "constant")
    padded = [
        np.stack([np.pad(column[part], (0, count - len(column[part])), fill) for column in columns])  # type: ignore[call-overload]
        for part, fill in enumerate(fills)
    ]
    padded[1] = np.where(padded[1] == 0, 1.0, np.maximum(padded[1], _TINY))
    return _Knots(*padded)


def _share(draft: Draft, x: str, knots: _Knots, *, upwards: bool) -> str:
    """The share of the training data below x, or above it."""
    one = draft.constant([2], np.int64)
    lined = draft.add("Unsqueeze", x, one)
    beside = knots.at.astype(np.float32).astype(np.float64)
    ramp = draft.add("Mul", draft.add("Sub", draft.like(lined, knots.at), draft.constant(beside)),
                     draft.constant(1 / knots.width))  # fmt: skip
    start = (knots.at - beside) / knots.width
    way = (
        draft.add("Sub", ramp, draft.constant(start)) if upwards else draft.add("Sub", draft.constant(1 + start), ramp)
    )
    gone = draft.add("Clip", way, draft.constant(0.0), draft.constant(1.0))
    total = draft.add("ReduceSum", draft.add("Mul", gone, draft.constant(knots.rise)), one, keepdims=0)
    places = np.flatnonzero(knots.jump.any(axis=0))
    if not len(places):
        return str(total)
    at, half = knots.at[:, places], draft.constant(knots.jump[:, places] / 2)
    for passed in (_above(draft, lined, at), _above(draft, lined, np.nextafter(at, -np.inf))):
        counted = passed if upwards else draft.add("Sub", draft.constant(1.0), passed)
        total = draft.add("Add", total, draft.add("ReduceSum", draft.add("Mul", counted, half), one, keepdims=0))
    return str(total)


def _above(draft: Draft, x: str, limit: Array) -> str:
    """1 where x > limit, as double precision has it, else 0."""
    known = limit if draft.is_wide(x) else floor32(limit)
    return str(draft.add("Cast", draft.add("Greater", x, draft.constant(known)), to=FLOAT))


def _normal(draft: Draft, below: str) -> str:
    """The number below which this share of a standard normal distribution lies."""
    number = draft.constant
    above = draft.add("Sub", number(1.0), below)
    middle = draft.add("Sub", below, number(0.5))
    square = draft.add("Mul", middle, middle)
    near = draft.add("Mul", middle, _fraction(draft, draft.add("Sub", number(0.180625), square), _CENTRAL))
    least = draft.add("Max", draft.add("Min", below, above), number(1e-8))
    root = draft.add("Sqrt", draft.add("Neg", draft.add("Log", least)))
    tail = _fraction(draft, draft.add("Sub", root, number(1.6)), _TAIL)
    signed = draft.add("Where", draft.add("Less", middle, number(0.0)), draft.add("Neg", tail), tail)
    made = draft.add("Where", draft.add("Less", draft.add("Abs", middle), number(0.425)), near, signed)
    return str(draft.add("Clip", made, number(-_END), number(_END)))


_END = 5.19933758270274
"""The normal distribution's number for a share of 1e-7, from where on scikit-learn cuts."""


def _at_ends(draft: Draft, x: str, made: str, knots: _Knots) -> str:
    """What is within `_NEAREST` of the least or the greatest quantile is there."""
    low, high = knots.at[:, 0], knots.at[:, -1]
    within = draft.constant(_NEAREST)
    least = _above(draft, draft.add("Sub", x, within), np.nextafter(low, -np.inf))
    most = _above(draft, draft.add("Add", x, within), high)
    half = draft.constant(0.5)
    made = draft.add("Where", draft.add("Less", least, half), draft.constant(-_END), made)
    return str(draft.add("Where", draft.add("Greater", most, half), draft.constant(_END), made))


def _fraction(draft: Draft, x: str, powers: tuple[tuple[float, ...], tuple[float, ...]]) -> str:
    parts = []
    for coefficients in powers:
        total = draft.constant(coefficients[-1])
        for coefficient in reversed(coefficients[:-1]):
            total = draft.add("Add", draft.add("Mul", total, x), draft.constant(coefficient))
        parts.append(total)
    return str(draft.add("Div", *parts))
