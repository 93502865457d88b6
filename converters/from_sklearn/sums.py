"""Graphs of forests: sums of leaves in digits, put together, and read as the estimator reads them.

The two digits of a sum (`trees.digits`) are exact in float32. Their combination is rounded once, which cannot
change its sign, so that a decision by sign is exact. A decision among several sums compares digits: first the higher
ones, after carrying, then the lower.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from edgekit.converters.from_sklearn import trees
from edgekit.converters.from_sklearn.draft import INT64, Draft
from edgekit.converters.from_sklearn.trees import Digits, Forest

Reading = Literal[
    "value",  # output = link(sum / divisor)
    "vote",  # probabilities = sums / divisor, label = the first of the largest sums
    "sign",  # one sum: probabilities = (1 - p, p) with p = sigmoid(sum * factor); label by its sign
    "scores",  # probabilities = softmax(sums * factor), label = the first of the largest sums
    "depth",  # isolation: score = level - 2 ** (-sum / divisor), label 1 from `level` on, else -1
]


@dataclass(frozen=True)
class Head:
    """How the sums of a forest become outputs.

    Attributes:
        reading: See `Reading`.
        divisor, factor: See there.
        link: Of a value.
        zero: Label of a sum of exactly zero, for "sign".
        level: Of "depth".
        flat: A single value is [N], not [N, 1].
    """

    reading: Reading
    divisor: float = 1.0
    factor: float = 1.0
    link: Literal["identity", "exp", "sigmoid"] = "identity"
    zero: Literal[0, 1] = 0
    level: float = 0.0
    flat: bool = True


def build(forest: Forest, head: Head, draft: Draft, source: str) -> dict[str, str]:
    """Add a forest to a graph.

    Args:
        forest: With float32 thresholds.
        head: How its sums are read.
        draft: Gets the nodes.
        source: Name of the tensor [N, columns] float32 that the trees look at.

    Returns:
        Public output name -> tensor: `output` [N] or [N, sums]; or `probabilities` [N, classes] and `label` [N] int64;
        or `score` [N] and `label`.
    """
    written = trees.digits(forest)
    sums = draft.add("TreeEnsembleRegressor", source, **trees.attributes(forest, written))
    parts = _parts(sums, forest, written, draft)
    if head.reading == "value":
        value = _scaled(_total(parts, written, draft), 1 / head.divisor, draft, divide=head.divisor)
        if head.link != "identity":
            value = draft.add("Exp" if head.link == "exp" else "Sigmoid", value)
        return {"output": _flat(value, draft) if forest.sums == 1 and head.flat else value}
    if head.reading == "vote":
        chances = _scaled(_total(parts, written, draft), 1 / head.divisor, draft, divide=head.divisor)
        return {"probabilities": chances, "label": _first_largest(parts, written, draft, rounding=len(forest.trees))}
    if head.reading == "scores":
        scores = _scaled(_total(parts, written, draft), head.factor, draft)
        label = _first_largest(parts, written, draft, rounding=0)
        return {"probabilities": draft.add("Softmax", scores, axis=1), "label": label}
    if head.reading == "sign":
        total = _total(parts, written, draft)
        chance = draft.add("Sigmoid", _scaled(total, head.factor, draft))
        other = draft.add("Sub", draft.constant(1.0), chance)
        kind = "GreaterOrEqual" if head.zero else "Greater"
        label = draft.add("Cast", draft.add(kind, _flat(total, draft), draft.constant(0.0)), to=INT64)
        return {"probabilities": draft.add("Concat", other, chance, axis=1), "label": label}
    return _isolated(parts, written, head, draft)


def _parts(sums: str, forest: Forest, written: Digits, draft: Draft) -> list[str]:
    """The digits of the sums, each [N, sums], with those of the base."""
    count = len(written.units)
    if count == 1:
        parts = [sums]
    else:
        sizes = draft.constant([forest.sums] * count, np.int64)
        parts = list(draft.add("Split", sums, sizes, outputs=count, axis=1))
    return [
        draft.add("Add", part, draft.constant(base[None, :])) if base.any() else part
        for part, base in zip(parts, written.base, strict=True)
    ]


def _total(parts: list[str], written: Digits, draft: Draft) -> str:
    """The sums, rounded once."""
    scaled = [_scaled(part, unit, draft) for part, unit in zip(parts, written.units, strict=True)]
    return scaled[0] if len(scaled) == 1 else draft.add("Add", *scaled)


def _first_largest(parts: list[str], written: Digits, draft: Draft, *, rounding: int) -> str:
    """Index of the largest sum, of equal ones the first.

    Args:
        parts: Digits of the sums.
        written: Their units.
        draft: Gets the nodes.
        rounding: Sums that differ by fewer than so many lower units count as equal: fractions such as thirds are not
            exact in the estimator's float64 either, and there too such sums mostly come out equal.
    """
    high = parts[0]
    if len(parts) > 1:
        low = parts[1]
        step = written.units[0] / written.units[1]
        if rounding:
            grain = 2.0 ** min(np.log2(step) - 1, np.ceil(np.log2(rounding)) + 4)
            low = _scaled(low, 1 / grain, draft)
            low = draft.add("Floor", draft.add("Add", low, draft.constant(0.5)))
            step /= grain
        carry = draft.add("Floor", _scaled(low, 1 / step, draft))
        low = draft.add("Sub", low, _scaled(carry, step, draft))
        high = draft.add("Add", high, carry)
        best = draft.add("ReduceMax", high, axes=[1], keepdims=1)
        high = draft.add("Where", draft.add("Equal", high, best), low, draft.constant(-1.0))
    return str(draft.add("ArgMax", high, axis=1, keepdims=0))


def _isolated(parts: list[str], written: Digits, head: Head, draft: Draft) -> dict[str, str]:
    """Depths: an inlier is at least as deep as the limit; the training samples at the limit itself are."""
    limit = -head.divisor * float(np.log2(-head.level))
    shifted = [
        draft.add("Sub", part, draft.constant(digit))
        for part, digit in zip(parts, written.of(limit * (1 - 1e-10)), strict=True)
    ]
    inside = draft.add("GreaterOrEqual", _flat(_total(shifted, written, draft), draft), draft.constant(0.0))
    label = draft.add("Where", inside, draft.constant(1, np.int64), draft.constant(-1, np.int64))
    power = draft.add("Exp", _scaled(_total(parts, written, draft), -float(np.log(2)) / head.divisor, draft))
    score = draft.add("Sub", draft.constant(-head.level), power)
    return {"label": label, "score": _flat(score, draft)}


def _scaled(name: str, factor: float, draft: Draft, divide: float | None = None) -> str:
    """A tensor times a factor, or divided where that is what rounds once."""
    if divide is not None and divide != 1:
        return str(draft.add("Div", name, draft.constant(divide)))
    return name if factor == 1 else str(draft.add("Mul", name, draft.constant(factor)))


def _flat(name: str, draft: Draft) -> str:
    """[N, 1] as [N]."""
    return str(draft.add("Reshape", name, draft.constant([-1], np.int64)))
