"""Intervals of the latency model that hold 80 % of what they were not found on.

Every figure's error is that of a fit without it. An interval begins as the quantiles of such errors (10 % below, 10 %
above). How far it has to be stretched is found by cross-conformal prediction (Vovk 2015, Cross-conformal predictors):
a group is left out, the interval is found on the others, and each error of the group is scored by where it lies in it
(1: at the end). The stretch is the score that 80 % of all errors, each in its turn, stay below.

Known processors: groups are networks; errors of known kinds of networks and of kinds that a fit knew nothing of count
alike. Unknown processors: groups are processors, each of which weighs the same in the quantiles, lest the one with the
most figures speak for all (Dunn, Wasserman and Ramdas 2023, Distribution-free prediction sets for two-layer
hierarchical models).
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgekit.predict.likeness import FAMILIAR, factor

HELD = 0.8
OWN = 30
"""Figures of one processor and precision from which an interval of its own follows."""
_FEW = 10
"""Of these, those that may be left while others are left out."""
PRECISIONS = ("fp32", "int8")
KNOWN = ("pairs", "networks")
"""Splits that leave the processor known."""

Ends = tuple[float, float]
"""Logarithms of truth over prediction."""


@dataclass(frozen=True)
class Errors:
    """Of all figures.

    Attributes:
        off: Split -> ln truth over prediction, [draws, figures].
        far: Split of known processors -> distance of each figure's network from the kinds that the fit knew.
        socs, cores, networks, precisions: Of each figure.
    """

    off: dict[str, Any]
    far: dict[str, Any]
    socs: Any
    cores: Any
    networks: Any
    precisions: Any


def spreads(found: Errors) -> dict[str, Any]:
    """By basis and precision; "boards": processors with figures enough for their own; "widening": growth with
    distance.
    """
    said: dict[str, Any] = {name: {} for name in ("board", "core", "analogy", "engine", "boards", "widening")}
    every = np.ones(len(found.socs), bool)
    for precision in PRECISIONS:
        of = found.precisions == precision
        scale = _stretch([scores for _, scores in _known(found, of)])
        said["widening"][precision] = round(_widening(found, of, every), 3)
        said["board"][precision] = _rounded(_quantiles(found.off["pairs"][:, of]), scale)
        for soc in sorted(set(found.socs[of])):
            if (own := of & (found.socs == soc)).sum() >= OWN:
                said["boards"].setdefault(soc, {})[precision] = _rounded(_quantiles(found.off["pairs"][:, own]), scale)
        for basis, some in (("core", of & _shared(found)), ("analogy", of)):
            scale = _stretch([scores for _, scores in _unknown(found, some)])
            said[basis][precision] = _rounded(_weighted(found, some), scale)
        low, high = said["analogy"][precision].values()
        said["engine"][precision] = {"low": round(low / 1.5, 3), "high": round(high * 1.5, 3)}
    return said


def covered(found: Errors) -> dict[str, dict[str, float]]:
    """Share of figures inside intervals that were found without them, their network or processor: split, precision."""
    held: dict[str, dict[str, float]] = {}
    for precision in PRECISIONS:
        of = found.precisions == precision
        for splits, groups in ((KNOWN, list(_known(found, of))), (("processors",), list(_unknown(found, of)))):
            for place, split in enumerate(splits):
                inside: list[bool] = []
                for number, (_, own) in enumerate(groups):
                    scale = _stretch([scores for other, (_, scores) in enumerate(groups) if other != number])
                    inside += list(own[place] <= scale)
                held.setdefault(split, {})[precision] = round(float(np.mean(inside)), 3)
    return held


def _known(found: Errors, of: Any) -> list[tuple[str, tuple[Any, Any]]]:
    """Network -> scores of its figures without it, as of a known kind and as of a new one."""
    groups = []
    for network in sorted(set(found.networks[of])):
        used = found.networks != network
        at = np.flatnonzero(of & ~used)
        wider, ends = _widening(found, of, used), _bases(found, of, used)
        near, new = (
            np.array(
                [
                    [
                        _beyond(e, ends[found.socs[i]]) / factor(found.far[split][i], wider)
                        for e, i in zip(row, at, strict=True)
                    ]
                    for row in found.off[split][:, at]
                ]
            )
            for split in KNOWN
        )
        groups.append((network, (near.ravel(), np.repeat(new.ravel(), len(near) // len(new)))))
    return groups


def _unknown(found: Errors, of: Any) -> list[tuple[str, tuple[Any]]]:
    """Processor -> scores of its figures in the interval of the others."""
    groups = []
    for soc in sorted(set(found.socs[of])):
        ends = _weighted(found, of & (found.socs != soc))
        own = found.off["processors"][0, of & (found.socs == soc)]
        groups.append((soc, (np.array([_beyond(error, ends) for error in own]),)))
    return groups


def _stretch(groups: list[tuple[Any, ...]]) -> float:
    return float(np.quantile(np.concatenate([part for scores in groups for part in scores]), HELD))


def _widening(found: Errors, of: Any, used: Any) -> float:
    """How fast intervals have to grow with distance to hold 80 % of the figures of kinds that were left out."""
    ends = _bases(found, of, used)
    needed = [
        (_beyond(found.off["networks"][0, at], ends[found.socs[at]]) - 1)
        / max(1e-9, found.far["networks"][at] - FAMILIAR)
        for at in np.flatnonzero(of & used)
    ]
    return max(0.0, float(np.quantile(needed, HELD)))


def _bases(found: Errors, of: Any, used: Any) -> dict[str, Ends]:
    """Interval of each processor, before it grows: its own, where it has figures enough."""
    every = _quantiles(found.off["pairs"][:, of & used])
    known = {}
    for soc in set(found.socs[of]):
        own = of & (found.socs == soc)
        enough = own.sum() >= OWN and (own & used).sum() >= _FEW
        known[soc] = _quantiles(found.off["pairs"][:, own & used]) if enough else every
    return known


def _shared(found: Errors) -> Any:
    """Figures of cores that several processors have."""
    per = Counter(dict(zip(found.socs, found.cores, strict=True)).values())
    return np.array([per[core] > 1 for core in found.cores])


def _weighted(found: Errors, of: Any) -> Ends:
    """Quantiles over processors that weigh the same, however many figures they have."""
    off, socs = found.off["processors"][0, of], found.socs[of]
    per = Counter(socs)
    order = np.argsort(off)
    share = np.cumsum([1 / per[socs[at]] for at in order]) / len(per)
    low, high = (float(off[order][min(np.searchsorted(share, q), len(order) - 1)]) for q in (0.1, 0.9))
    return low, high


def _quantiles(off: Any) -> Ends:
    low, high = np.quantile(off, (0.1, 0.9))
    return float(low), float(high)


def _beyond(error: float, ends: Ends) -> float:
    """Where an error lies: 1 at the end of the interval."""
    return float(error / (ends[1] if error > 0 else ends[0]))


def _rounded(ends: Ends, scale: float) -> dict[str, float]:
    return {"low": round(math.exp(scale * ends[0]), 3), "high": round(math.exp(scale * ends[1]), 3)}
