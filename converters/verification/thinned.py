"""A few thousand values of an output, source beside artifact, drawn evenly from all: for pictures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgekit.runtimes.base import Array

LIMIT = 2000


@dataclass(frozen=True)
class Outputs:
    """Values of the output that was judged, element by element; at most `LIMIT` of them."""

    name: str
    source: tuple[float, ...]
    artifact: tuple[float, ...]


class Thinner:
    """Takes all values, keeps every n-th, and doubles n whenever there are too many."""

    def __init__(self) -> None:
        self._step = 1
        self._skip = 0
        self._kept: list[tuple[float, float]] = []

    def add(self, source: Array, artifact: Array) -> None:
        """The next values, of one shape."""
        pairs = np.stack([source.astype(np.float64).reshape(-1), artifact.astype(np.float64).reshape(-1)], axis=1)
        chosen = pairs[self._skip :: self._step]
        self._skip = (self._skip - len(pairs)) % self._step
        self._kept += [(float(one), float(other)) for one, other in chosen[np.isfinite(chosen).all(axis=1)]]
        while len(self._kept) > LIMIT:
            self._kept = self._kept[::2]
            self._step *= 2
            self._skip = self._skip % self._step

    def finish(self, name: str) -> Outputs:
        """What was kept, to seven digits."""
        rounded = [(float(f"{one:.7g}"), float(f"{other:.7g}")) for one, other in self._kept]
        return Outputs(name, tuple(one for one, _ in rounded), tuple(other for _, other in rounded))
