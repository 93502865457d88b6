"""Where an estimator takes NaN for a missing value, found by asking it.

Its tags do not tell: a pipeline's follow its first step, and a forest takes NaN only if it was trained with some. So it
is given rows with gaps, and what it refuses it does not take.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from edgekit.converters.stages import Array, Feeds
from edgekit.errors import FeedError

_CLOSE = 1e-4
"""Of the range of an answer: what is asked of a float32 graph in all other rows, too."""

_ROWS = 32


def places(ask: Callable[[Feeds], Feeds], name: str, width: int, *, apart: bool) -> bool | tuple[int, ...] | None:
    """What `TensorSpec.missing` says.

    Args:
        ask: The estimator; raises FeedError for what it refuses.
        name: Of its input.
        width: Columns.
        apart: Some columns may be treated otherwise than others.
    """
    everywhere = range(width)
    if _taken(ask, name, width, everywhere):
        return True
    found = _some(ask, name, width, everywhere) if apart else ()
    return tuple(found) if found and _taken(ask, name, width, found) else None


def agree(ask: Callable[[Feeds], Feeds], graph: Callable[[Feeds], Feeds], feeds: Feeds) -> bool:
    """Whether a graph answers rows with gaps as its estimator does, NaN where that does."""
    known, found = ask(feeds), graph(feeds)
    # A label hangs on the last bit of what is beside it.
    names = [name for name in known if name != "label"] or list(known)
    return all(_same(np.asarray(known[name], np.float64), np.asarray(found[name], np.float64)) for name in names)


def rows(width: int, places: bool | tuple[int, ...]) -> Array:
    """Rows [n, width] float32, half of what may be missing is."""
    dice = np.random.default_rng(0)
    made = dice.standard_normal((_ROWS, width), np.float32)
    gone = dice.random(made.shape, np.float32) < 0.5
    if isinstance(places, tuple):
        gone &= np.isin(np.arange(width), places)
    made[gone] = np.nan
    return made


def _same(known: Array, found: Array) -> bool:
    found = found.reshape(known.shape)
    sane = np.isfinite(known)
    span = float(np.ptp(known[sane])) or float(np.abs(known[sane]).max(initial=0.0)) if sane.any() else 0.0
    close = np.abs(np.where(sane, known - found, 0.0)) <= _CLOSE * span
    return bool(close.all() and (np.isnan(found) == np.isnan(known)).all())


def _some(ask: Callable[[Feeds], Feeds], name: str, width: int, among: Sequence[int]) -> list[int]:
    """Those of some columns, not all of them, that are taken one by one."""
    if len(among) == 1:
        return []
    middle = len(among) // 2
    found: list[int] = []
    for part in (among[:middle], among[middle:]):
        found += part if _taken(ask, name, width, part) else _some(ask, name, width, part)
    return found


def _taken(ask: Callable[[Feeds], Feeds], name: str, width: int, columns: Sequence[int]) -> bool:
    gapped = np.zeros((2, width), np.float32)
    gapped[0, list(columns)] = np.nan
    try:
        ask({name: gapped})
    except FeedError as error:
        if error.code != "source-run":
            raise
        return False
    return True


def columns_differ(parts: Sequence[Any]) -> bool:
    """Whether an estimator of these parts may treat columns each in their own way."""
    return any(hasattr(part, "transformers_") or hasattr(part, "get_support") for part in parts)
