"""Tensors that only an activation function reads, and where that function is flat.

What such a function hardly tells apart needs no steps of its own: HardSwish answers zero to all below -3, SiLU and GELU
nearly zero to all below -6, a sigmoid the same to 6 and to 12. A range that reaches there spends its 256 numbers on
what nobody reads. So an end of a range where the function is flat is cut to where the squared error of the
*function's* answers is least; an end where it is steep stays as the observer left it.

Where the function's answers are the model's own, what is rare in them counts as much as the rest, so that an end is cut
only as far as half a step of those answers tells nothing apart: most pixels of a mask, and most boxes of a detector,
lie far below zero, and the few others need the numbers. (An autoencoder of digits, whose scores reach -58: 31.7 dB, and
33.9 cut.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from edgekit.converters.calibration.clipping import CUTS, Counted, Grid
from edgekit.converters.stages import Range
from edgekit.converters.steps import Step

Floats = NDArray[np.float64]
Function = Callable[[Floats], Floats]

_FLAT = 0.25
"""Of the steepest slope inside the range: an end that is less steep may be cut."""

_FINE = 4097
"""Places at which a function is looked at."""

_NEAR = 1e-3
"""Half the distance over which a slope is measured, as a share of the range."""

_erf = np.vectorize(math.erf, otypes=[np.float64])


def sigmoid(x: Floats) -> Floats:
    return np.asarray(0.5 * (1 + np.tanh(x / 2)))


def _hard_sigmoid(x: Floats, alpha: float, beta: float) -> Floats:
    return np.clip(alpha * x + beta, 0.0, 1.0)


def _gated(x: Floats, gate: Function) -> Floats:
    return np.asarray(x * gate(x))


def _elu(x: Floats, alpha: float) -> Floats:
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0.0)))


def _gate(step: Step) -> Function | None:
    """Functions that also stand before a product with their own operand."""
    if step.kind in ("Sigmoid", "LOGISTIC"):
        return sigmoid
    if step.kind == "HardSigmoid":
        numbers = dict(step.numbers)
        return partial(_hard_sigmoid, alpha=numbers.get("alpha", 0.2), beta=numbers.get("beta", 0.5))
    return None


def _function(step: Step) -> Function | None:
    """What an operator makes of its first operand, where that is an activation function."""
    if step.kind in ("HardSwish", "HARD_SWISH"):
        return partial(_gated, gate=partial(_hard_sigmoid, alpha=1 / 6, beta=0.5))
    if step.kind in ("Gelu", "GELU"):  # its approximation differs by less than a step
        return lambda x: x * 0.5 * (1 + _erf(x / math.sqrt(2)))
    if step.kind in ("Tanh", "TANH"):
        return np.tanh
    if step.kind == "Erf":
        return _erf
    if step.kind in ("Elu", "ELU"):
        return partial(_elu, alpha=dict(step.numbers).get("alpha", 1.0))
    return _gate(step)


def bends(steps: Sequence[Step]) -> dict[str, Function]:
    """What becomes of the tensors that are read by one activation function alone, by name.

    A gate and the product of its answer with its operand (SiLU, HardSwish as it is mostly exported) count as one.
    """
    readers: dict[str, list[Step]] = {}
    for step in steps:
        for name in dict.fromkeys(step.read):
            readers.setdefault(name, []).append(step)
    found: dict[str, Function] = {}
    for name, reading in readers.items():
        first = reading[0] if _function(reading[0]) is not None else reading[-1]
        others = [step for step in reading if step is not first]
        if first.read[0] != name:
            continue
        function = _function(first)
        if function is not None and not others:
            found[name] = function
        gate = _gate(first)
        if gate is not None and len(others) == 1 and _multiplies(others[0], name, first.made[0]):
            found[name] = partial(_gated, gate=gate)
    return found


def _multiplies(step: Step, one: str, other: str) -> bool:
    return step.kind in ("Mul", "MUL") and set(step.read) == {one, other}


def told_apart(function: Function, found: Range, steps: int) -> Range:
    """The part of a range in which a rising function's answers are farther than half a step from those at its ends."""
    places = np.linspace(found.min, found.max, _FINE)
    answers = function(places)
    half = 0.5 * (answers[-1] - answers[0]) / steps
    within = places[(answers >= answers[0] + half) & (answers <= answers[-1] - half)]
    return Range(float(within[0]), float(within[-1])) if within.size else found


def cut(found: Range, seen: Counted, grid: Grid, function: Function, *, least: Range | None = None) -> Range:
    """A range without what the function does not tell apart.

    Args:
        found: The observer's range.
        seen: The tensor's values.
        grid: The numbers that it can be.
        function: What alone reads it.
        least: What the range must hold.
    """
    if not found.max > found.min:
        return found
    ends = np.array([found.min, found.max])
    inside = np.sort(np.clip(seen.middles, *ends))
    counts = seen.counts[np.argsort(seen.middles, kind="stable")].astype(np.float64)
    near = _NEAR * (found.max - found.min)
    slopes, at_ends = (np.abs(function(x + near) - function(x - near)) / (2 * near) for x in (inside, ends))
    flat = at_ends <= _FLAT * max(float(slopes.max(initial=0.0)), float(at_ends.max()))
    lows = found.min * CUTS if flat[0] and found.min < 0 else ends[:1]
    highs = found.max * CUTS if flat[1] and found.max > 0 else ends[1:]
    lows, highs = lows[lows < found.max], highs[highs > found.min]
    if least is not None:
        lows, highs = lows[lows <= max(least.min, found.min)], highs[highs >= min(least.max, found.max)]
    answers = function(inside)
    below = np.array([_clipped(answers, counts, inside < low, function(np.array([low]))) for low in lows])
    above = np.array([_clipped(answers, counts, inside > high, function(np.array([high]))) for high in highs])
    squares = np.concatenate([[0.0], np.cumsum(counts * np.square(slopes))])
    first, last = np.searchsorted(inside, lows, side="left"), np.searchsorted(inside, highs, side="right")
    steps = _span(lows[:, None], highs[None, :], grid) / grid.steps
    rounded = np.maximum(squares[last][None, :] - squares[first][:, None], 0.0) * np.square(steps) / 12
    row, column = np.unravel_index(int(np.argmin(below[:, None] + above[None, :] + rounded)), rounded.shape)
    return Range(float(lows[row]), float(highs[column]))


def _clipped(answers: Floats, counts: Floats, outside: NDArray[np.bool_], end: Floats) -> float:
    return float((counts[outside] * np.square(answers[outside] - end)).sum())


def _span(low: Floats, high: Floats, grid: Grid) -> Floats:
    low, high = np.minimum(low, 0.0), np.maximum(high, 0.0)
    return 2 * np.maximum(-low, high) if grid.symmetric else high - low
