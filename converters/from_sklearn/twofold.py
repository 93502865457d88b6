"""Double precision for engines without it: a number is the sum of two float32 numbers, the second below the first's
last digit.

Sums and products of float32 numbers are exact as such pairs (Dekker, "A floating-point technique for extending the
available precision", 1971; Knuth, TAOCP 2, 4.2.2), so that each step here rounds at some 2**-47 and not at 2**-24. Long
sums are taken in digits whose sums are exact in whatever order an engine adds (Rump, Ogita, Oishi, "Accurate
floating-point summation", 2008). All of it is elementwise float32, in which engines have no freedom.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from edgekit.converters.from_sklearn.draft import INT32, Draft
from edgekit.converters.stages import Array

_SPLIT = 4097.0
"""2**12 + 1: Dekker's factor that cuts 24 bits in two."""
_NEXT_POWER = 2.0**23 + 1
"""Rump's factor: |q - (1 - 2**-24) q| with q = 2**23 p + p is the power of two from |p| on."""
_STEPS, _LOWEST = 64, -104.0
"""exp(x) = 2**(n / 64) * exp(r) with |r| < 0.0055; below -104 it is 0 in float32."""


@dataclass(frozen=True)
class Pair:
    """A number in two parts, `high` being the sum of both as float32 rounds it; `low` None for zero.

    Attributes:
        high, low: Tensors of one shape.
        values: Of a constant, in float64.
    """

    high: str
    low: str | None = None
    values: Array | None = None


class Twofold:
    """Arithmetic of pairs, written into a draft."""

    def __init__(self, draft: Draft) -> None:
        self.draft = draft
        self._halves: dict[str, tuple[str, str]] = {}

    def constant(self, values: Array) -> Pair:
        """A float64 constant."""
        high, low = _parts(np.asarray(values, np.float64))
        return Pair(self._held(high), self._held(low) if low.any() else None, np.asarray(values, np.float64))

    def add(self, a: Pair, b: Pair) -> Pair:
        """Their sum."""
        total, error = self._two_sum(a.high, b.high)
        for low in (a.low, b.low):
            if low is not None:
                error = self._do("Add", error, low)
        return self._normal(total, error)

    def subtract(self, a: Pair, b: Pair) -> Pair:
        """Their difference."""
        return self.add(a, self.negative(b))

    def negative(self, a: Pair) -> Pair:
        """With the other sign."""
        if a.values is not None:
            return self.constant(-a.values)
        return Pair(self._do("Neg", a.high), None if a.low is None else self._do("Neg", a.low))

    def multiply(self, a: Pair, b: Pair) -> Pair:
        """Their product."""
        return self._normal(*self._product(a, b))

    def divide(self, a: Pair, b: Pair) -> Pair:
        """Their quotient."""
        if b.values is not None:
            return self.multiply(a, self.constant(1 / b.values))
        first = self._do("Div", a.high, b.high)
        rest = self.subtract(a, self.multiply(Pair(first), b))
        return self._normal(first, self._do("Div", rest.high, b.high))

    def root(self, a: Pair) -> Pair:
        """Its square root; of what is above zero."""
        first = self._do("Sqrt", a.high)
        rest = self.subtract(a, self.multiply(Pair(first), Pair(first)))
        return self._normal(first, self._do("Div", rest.high, self._do("Add", first, first)))

    def scaled(self, a: Pair, power: float) -> Pair:
        """Times a power of two."""
        factor = self._held(np.float32(power))
        return Pair(self._do("Mul", a.high, factor), None if a.low is None else self._do("Mul", a.low, factor))

    def dot(self, a: Pair, weights: Array) -> Pair:
        """Rows [N, n] times a constant matrix [n, m]."""
        wide = self.each(a, "Unsqueeze", self.draft.constant([1], np.int64))
        high, low = self._product(wide, self.constant(np.asarray(weights, np.float64).T[None]))
        return self._summed(high, low, 2, weights.shape[0])

    def total(self, a: Pair, axis: int, count: int, *, keep: bool = False) -> Pair:
        """The sum along an axis of so many."""
        found = self._summed(a.high, a.low, axis, count)
        return self.each(found, "Unsqueeze", self.draft.constant([axis], np.int64)) if keep else found

    def exponential(self, a: Pair) -> Pair:
        """Its exponential; 0 where float32 has no such small number, at most exp(88)."""
        steps = self._held(np.float32(_STEPS / np.log(2)))
        held = self._do("Clip", a.high, self._held(np.float32(_LOWEST)), self._held(np.float32(88.0)))
        whole = self._do("Floor", self._do("Add", self._do("Mul", held, steps), self._held(np.float32(0.5))))
        first, *parts = (
            self._do("Mul", whole, self._held(np.float32(part))) for part in _short_parts(np.log(2) / _STEPS)
        )
        inside = Pair(self._do("Sub", held, first), a.low)  # exact: both have the same leading digits
        for part in parts:
            inside = self.subtract(inside, Pair(part))
        grown = self._near_zero(inside)
        octave = self._do("Floor", self._do("Mul", whole, self._held(np.float32(1 / _STEPS))))
        step = self._do("Sub", whole, self._do("Mul", octave, self._held(np.float32(_STEPS))))
        table = self.constant(2.0 ** (np.arange(_STEPS) / _STEPS))
        at = self._index(step)
        base = self.each(Pair(table.high, table.low), "Gather", at)
        made = self.add(base, self.multiply(base, grown))
        octaves = np.arange(np.floor(_LOWEST / np.log(2)) - 1, 129)
        powers = self._held(np.where(octaves < -149, 0.0, 2.0 ** np.minimum(octaves, 127)))
        power = self._do("Gather", powers, self._index(self._do("Sub", octave, self._held(octaves[0]))))
        return self.each(made, "Mul", power)

    def each(self, a: Pair, kind: str, *inputs: str, **attributes: Any) -> Pair:
        """What only moves numbers, done to both parts."""
        low = None if a.low is None else self._do(kind, a.low, *inputs, **attributes)
        return Pair(self._do(kind, a.high, *inputs, **attributes), low)

    def joined(self, pairs: list[Pair], **attributes: Any) -> Pair:
        """Pairs beside each other."""
        lows = [pair.low or self._do("Sub", pair.high, pair.high) for pair in pairs]
        low = self._do("Concat", *lows, **attributes) if any(pair.low for pair in pairs) else None
        return Pair(self._do("Concat", *(pair.high for pair in pairs), **attributes), low)

    def lower(self, a: Pair) -> str:
        """The second part, also where it is zero."""
        return a.low or self._do("Mul", a.high, self._held(np.float32(0.0)))

    def _near_zero(self, r: Pair) -> Pair:
        """exp(r) - 1 for |r| < 0.0055: r + r^2 / 2 + r^3 / 6 + r^4 / 24 + r^5 / 120."""
        square = self.multiply(r, r)
        inner = self._do("Mul", r.high, self._held(np.float32(1 / 120)))
        inner = self._do("Mul", self._do("Add", inner, self._held(np.float32(1 / 24))), r.high)
        inner = self._do("Add", inner, self._held(np.float32(1 / 6)))
        rest = self._do("Mul", self._do("Mul", square.high, r.high), inner)
        return self.add(r, self.add(self.scaled(square, 0.5), Pair(rest)))

    def _product(self, a: Pair, b: Pair) -> tuple[str, str]:
        """The product of the high parts and all that is below it."""
        high = self._do("Mul", a.high, b.high)
        (a1, a2), (b1, b2) = self._cut(a), self._cut(b)
        error = self._do("Sub", self._do("Mul", a1, b1), high)
        for one, other in ((a1, b2), (a2, b1), (a2, b2)):
            error = self._do("Add", error, self._do("Mul", one, other))
        for high_part, low_part in ((a.high, b.low), (b.high, a.low)):
            if low_part is not None:
                error = self._do("Add", error, self._do("Mul", high_part, low_part))
        return high, error

    def _cut(self, a: Pair) -> tuple[str, str]:
        """The high part in two halves of its digits, whose products are exact."""
        if a.high not in self._halves:
            self._halves[a.high] = self._cut_tensor(a.high) if a.values is None else self._cut_values(a.values)
        return self._halves[a.high]

    def _cut_tensor(self, x: str) -> tuple[str, str]:
        stretched = self._do("Mul", x, self._held(np.float32(_SPLIT)))
        upper = self._do("Sub", stretched, self._do("Sub", stretched, x))
        return upper, self._do("Sub", x, upper)

    def _cut_values(self, values: Array) -> tuple[str, str]:
        high = values.astype(np.float32)
        stretched = high * np.float32(_SPLIT)
        upper = stretched - (stretched - high)
        return self._held(upper), self._held(high - upper)

    def _summed(self, high: str, low: str | None, axis: int, count: int) -> Pair:
        """Sums along an axis: two digits of the high parts, exactly, and what is left with the low ones."""
        if count == 1:
            at = self.draft.constant([axis], np.int64)
            return self._normal(self._do("Squeeze", high, at), self._do("Squeeze", low, at)) if low else \
                Pair(self._do("Squeeze", high, at))  # fmt: skip
        bits = int(np.ceil(np.log2(count))) + 1
        largest = self._do("ReduceMax", self._do("Abs", high), axes=[axis], keepdims=1)
        stretched = self._do("Mul", largest, self._held(np.float32(_NEXT_POWER)))
        below = self._do("Mul", stretched, self._held(np.float32(1 - 2.0**-24)))
        power = self._do("Sub", stretched, below)
        sums, rest = [], high
        for digit in range(2):
            grain = self._do("Mul", power, self._held(np.float32(2.0 ** (bits - digit * (24 - bits)))))
            part = self._do("Sub", self._do("Add", grain, rest), grain)
            rest = self._do("Sub", rest, part)
            sums.append(self._sum(part, axis))
        rest = self._sum(rest if low is None else self._do("Add", rest, low), axis)
        total, error = self._two_sum(*sums)
        return self._normal(total, self._do("Add", error, rest))

    def _sum(self, x: str, axis: int) -> str:
        return self._do("ReduceSum", x, self.draft.constant([axis], np.int64), keepdims=0)

    def _two_sum(self, a: str, b: str) -> tuple[str, str]:
        total = self._do("Add", a, b)
        second = self._do("Sub", total, a)
        first = self._do("Sub", total, second)
        return total, self._do("Add", self._do("Sub", a, first), self._do("Sub", b, second))

    def _normal(self, high: str, low: str) -> Pair:
        """The same sum, its parts apart again; `low` is the smaller."""
        total = self._do("Add", high, low)
        return Pair(total, self._do("Sub", low, self._do("Sub", total, high)))

    def _index(self, x: str) -> str:
        return self._do("Cast", x, to=INT32)

    def _held(self, values: Array | np.float32 | float) -> str:
        return str(self.draft.constant(np.asarray(values, np.float32), np.float32))

    def _do(self, kind: str, *inputs: str, **attributes: Any) -> str:
        return str(self.draft.add(kind, *inputs, **attributes))


def _parts(values: Array) -> tuple[Array, Array]:
    high = values.astype(np.float32)
    with np.errstate(invalid="ignore"):
        low = np.where(np.isfinite(high), values - high.astype(np.float64), 0).astype(np.float32)
    return high, low


def _short_parts(value: float) -> list[float]:
    """A number as a sum of float32 numbers: three of 10 bits, which times integers of 14 are exact, and the rest."""
    found = []
    for _ in range(3):
        grain = 2.0 ** (np.floor(np.log2(value)) - 9)
        found.append(float(np.floor(value / grain) * grain))
        value -= found[-1]
    return [*found, float(np.float32(value))]
