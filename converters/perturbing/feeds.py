"""Spoils what a model is fed: one input, or several, each by itself and those of a kind together.

Inputs that are rows of a table count as one table, whose columns they are: a model of a data frame has one a column.
Of several pictures, or sounds, one may be spoilt (a lens is dirty), or all in the same way (night falls).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgekit.converters.perturbing import GROUPS, Span, Spoiler
from edgekit.converters.stages import Array, Feeds

_LEVELS = 2
"""Strengths of a way, at least."""


@dataclass(frozen=True)
class Part:
    """What is spoilt as one.

    Attributes:
        inputs: Names; of several, each [n], [n, 1] or [n, k] is columns of a table.
        shape: As `Spoiler` takes it.
    """

    inputs: tuple[str, ...]
    shape: str

    def of(self, feeds: Mapping[str, Array]) -> Array:
        """[n, ...] float32."""
        if self.shape == "table":
            columns = [np.asarray(feeds[name], np.float32).reshape(len(feeds[name]), -1) for name in self.inputs]
            return columns[0] if len(columns) == 1 else np.concatenate(columns, axis=1)
        return np.asarray(feeds[self.inputs[0]], np.float32)

    def put(self, made: Array, feeds: Mapping[str, Array]) -> Feeds:
        """Such an array as the inputs that it is made of, in the sizes of `feeds`."""
        if self.shape != "table":
            return {self.inputs[0]: made}
        found, at = {}, 0
        for name in self.inputs:
            shape = (len(made), *feeds[name].shape[1:])
            width = feeds[name][:1].size
            found[name] = np.ascontiguousarray(made[:, at : at + width]).reshape(shape)
            at += width
        return found


def parts(shapes: Mapping[str, str | None]) -> tuple[Part, ...]:
    """Of inputs by name, each with the shape that `Spoiler` takes it for, or None for what cannot be spoilt."""
    columns = tuple(name for name, shape in shapes.items() if shape == "table")
    others = [Part((name,), shape) for name, shape in shapes.items() if shape not in (None, "table")]
    return (*([Part(columns, "table")] if columns else []), *others)


@dataclass(frozen=True)
class _Way:
    """A kind of drift, of all parts of one shape at once or of one of them, which takes turns with the strength.

    Attributes:
        parts: Places of the parts. kind: Number of it in their spoilers.
        together: All of them.
    """

    parts: tuple[int, ...]
    kind: int
    together: bool

    def places(self, level: int) -> tuple[int, ...]:
        """Parts that are spoilt at this strength."""
        return self.parts if self.together else (self.parts[(self.kind + level) % len(self.parts)],)


class FeedSpoiler:
    """Spoils feeds.

    Args:
        made: The parts, at least one.
        spans: Of each.

    Attributes:
        levels: Strengths of each way.
    """

    def __init__(self, made: Sequence[Part], spans: Sequence[Span]) -> None:
        self._parts = tuple(made)
        self._spoilers = [Spoiler(part.shape, span) for part, span in zip(made, spans, strict=True)]
        self._ways: list[_Way] = []
        for shape in dict.fromkeys(part.shape for part in made):
            alike = tuple(place for place, part in enumerate(made) if part.shape == shape)
            for kind in range(len(self._spoilers[alike[0]].kinds)):
                self._ways += [_Way(alike, kind, together) for together in ((True, False) if alike[1:] else (False,))]
        self.levels = max(_LEVELS, round(GROUPS / len(self._ways)))

    @property
    def groups(self) -> int:
        """Ways times strengths."""
        return len(self._ways) * self.levels

    def named(self, group: int) -> tuple[str, str, int]:
        """Name, family and strength of a group. Alike kinds of different inputs are of one family."""
        number, level = divmod(group, self.levels)
        way = self._ways[number]
        kind = self._spoilers[way.parts[0]].kinds[way.kind]
        if len(self._parts) == 1:
            return kind.name, kind.family, level
        which = f"all of {self._parts[way.parts[0]].shape}" if way.together else self._parts[way.parts[0]].shape
        return f"{kind.name}, {which}", kind.family, level

    def spoil(self, feeds: Mapping[str, Array], group: int, first: int) -> Feeds:
        """Copies of samples; inputs that are in no part stay as they are.

        Args:
            feeds: Arrays [n, ...] by name.
            group: Which way and strength.
            first: Place of the first sample; with the group it decides all draws.
        """
        number, level = divmod(group, self.levels)
        way = self._ways[number]
        found = dict(feeds)
        for place in way.places(level):
            # The same draws for all parts: they are turned, darkened, moved alike.
            dice = np.random.default_rng([number, level, first])
            part = self._parts[place]
            made = self._spoilers[place].spoil(part.of(feeds), way.kind, level, dice, self.levels)
            found.update(part.put(made, feeds))
        return found
