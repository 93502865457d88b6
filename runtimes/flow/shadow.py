"""Two versions' answers to the same question: do they agree?

Classifications agree when they name the same class, or when the old version hardly preferred its own; everything else
by the largest difference beside the range of the old version's values. Outputs whose sizes follow from the data (boxes
after a non-maximum suppression) agree only where the sizes do.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgekit.runtimes.base import Array

_CLASSES = ("classification", "wake-word")


def difference(new: Mapping[str, Array], old: Mapping[str, Array], *, task: str, tolerance: float) -> str:
    """What differs, in words; "" when two answers agree.

    Args:
        new: Outputs in real values, by name.
        old: The same of the version before.
        task: Of the manifest.
        tolerance: See `edgekit.store.Shadow`.
    """
    if new.keys() != old.keys():
        return f"it gives {', '.join(new)} in place of {', '.join(old)}"
    for name, was in old.items():
        now = new[name]
        if now.shape != was.shape:
            return f"{name} is {list(now.shape)} in place of {list(was.shape)}"
        if was.dtype.kind not in "fiub" or now.dtype.kind not in "fiub":
            if not np.array_equal(now, was):
                return f"{name} is another"
            continue
        if np.array_equal(now, was, equal_nan=True):
            continue
        rule = _classes if task in _CLASSES and was.ndim and was.shape[-1] > 1 else _values
        if why := rule(now.astype(np.float64), was.astype(np.float64), tolerance):
            return f"{name}: {why}"
    return ""


def _values(now: Array, was: Array, tolerance: float) -> str:
    off = float(np.abs(now - was).max(initial=0.0))
    scale = float(np.ptp(was)) if was.size > 1 else 0.0
    scale = scale or float(np.abs(was).max(initial=0.0)) or 1.0
    return "" if off <= tolerance * scale else f"off by {off / scale:.3g} of its range"


def _classes(now: Array, was: Array, tolerance: float) -> str:
    rows, before = now.reshape(-1, now.shape[-1]), was.reshape(-1, was.shape[-1])
    chosen, own = rows.argmax(axis=1), before.argmax(axis=1)
    each = np.arange(len(before))
    preferred = before[each, own] - before[each, chosen]
    decided = preferred > tolerance * np.ptp(before, axis=1)
    if not decided.any():
        return ""
    first = int(decided.argmax())
    return f"class {chosen[first]} in place of {own[first]}"
