"""How far a network is from those that prices were fitted to, by what its time goes into."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

FAMILIAR = 0.12
"""Networks of one kind, in different sizes, are about this far from each other: nearer ones count as known."""

MOST = 4.0
"""Networks with figures are not so far from each other that more could be judged."""


def distance(shares: Mapping[str, float], mixes: Iterable[Mapping[str, float]]) -> float:
    """Part of the time that goes into other units than it does in the nearest mix: 0 (the same) to 1.

    Args:
        shares: Unit -> share of the time; they add up to 1.
        mixes: The same of known kinds of networks; with none of them nothing is like it.
    """
    far = (sum(max(0.0, share - mix.get(unit, 0.0)) for unit, share in shares.items()) for mix in mixes)
    return min(far, default=1.0)


def factor(far: float, widening: float) -> float:
    """By how much an interval's logarithms grow at a distance."""
    return min(MOST, 1.0 + widening * max(0.0, far - FAMILIAR))
