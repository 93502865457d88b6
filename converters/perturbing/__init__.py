"""Copies of samples as the field might spoil them: where labels are known, they tell how an estimate without labels is
to be read when data drift.

Numpy only, and the same for the same seed. Every kind is a few lines, because what matters is that there are many
kinds, each from hardly visible to hard, not that one of them is beautiful. Kinds that are alike belong to a family:
what an estimate is worth on a drift that nothing like it was fitted on is found by leaving whole families out.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgekit.converters.perturbing import pictures, series, tables
from edgekit.converters.perturbing.kinds import Kind, Span
from edgekit.converters.stages import Array

__all__ = ["GROUPS", "Kind", "Span", "Spoiler", "copies", "drawn"]

GROUPS = 96
"""Kinds times strengths, about: of fewer kinds there are more strengths, each with draws of its own (which columns of a
table, say)."""

SOURCES = 500
"""Samples that copies are made of, at most."""


class Spoiler:
    """Spoils samples of one shape.

    Args:
        shape: "picture" [n, h, w, c], "channels first" [n, c, h, w], "series" [n, time, ...] or "table" [n, k].
        span: Of the samples.

    Attributes:
        kinds: That it knows.
        levels: Strengths of each.
    """

    def __init__(self, shape: str, span: Span) -> None:
        self._first = shape == "channels first"
        self._table = shape == "table"
        self._span = span.single
        self.kinds = tables.KINDS if self._table else series.KINDS if shape == "series" else pictures.KINDS
        self.levels = round(GROUPS / len(self.kinds))

    def spoil(self, x: Array, kind: int, level: int, dice: np.random.Generator, levels: int | None = None) -> Array:
        """A copy of samples [n, ...] float32.

        Args:
            x: The samples.
            kind: Which of `kinds`.
            level: 0 (hardly visible) to `levels` - 1 (hard); each sample's own strength is around it.
            dice: Of all draws.
            levels: How many strengths there are; None for the attribute's number.
        """
        strength = (level + dice.random((len(x), *[1] * (x.ndim - 1)), np.float32)) / (levels or self.levels)
        source = np.ascontiguousarray(np.moveaxis(x, 1, 3)) if self._first else x
        made = self.kinds[kind].change(source, strength, self._span, dice)
        if not self._table:
            made = np.clip(made, self._span.low, self._span.high)
        return np.ascontiguousarray(np.moveaxis(made, 3, 1) if self._first else made, np.float32)


def drawn(samples: int, groups: int, copies: int) -> list[Array]:
    """Of which samples each group has copies, ascending; each sample is taken as often as any other.

    Args:
        samples: That there are.
        groups: Kinds times levels.
        copies: That may be made of all together.
    """
    sources = np.random.default_rng(0).permutation(samples)[:SOURCES]
    each = min(len(sources), max(1, copies // groups))
    places = np.arange(groups)[:, None] * each + np.arange(each)
    return [np.sort(sources[own % len(sources)]) for own in places]


def copies(x: Array, shape: str, most: int) -> Iterator[tuple[Kind, int, Array, Array]]:
    """All kinds and levels of drift of samples [n, ...] that are at hand: kind, level, which samples, their copies.

    Args:
        x: The samples, float32.
        shape: As `Spoiler` takes it.
        most: Copies of all kinds together.
    """
    spoiler = Spoiler(shape, Span.of(x, shape))
    for number, places in enumerate(drawn(len(x), len(spoiler.kinds) * spoiler.levels, most)):
        kind, level = divmod(number, spoiler.levels)
        dice = np.random.default_rng([kind, level])
        yield spoiler.kinds[kind], level, places, spoiler.spoil(x[places], kind, level, dice)
