"""The first node of a float artifact that answers otherwise although what it reads is right.

Rounding adds up along a net, so that a late tensor beyond the tolerance proves nothing by itself. A node is named when
its tensor in the artifact is off *and* the node, run alone on the float graph's values, is off as well. In the graph's
order the first such node is where things go wrong; those behind it are followers.

Where the outputs are right all the same, and what reads the tensor would be wrong if it held what the float graph has,
then it holds something else under this name (a sum before its activation, say), and it is no divergence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from edgekit.converters.debugging.layers import Watched
from edgekit.converters.debugging.nets import Array
from edgekit.converters.debugging.results import Divergence, TensorStatistics


@dataclass(frozen=True)
class _Worst:
    """The worst value of a layer so far, and both tensors there."""

    error: float
    sample: int
    at: tuple[int, ...]
    expected: float
    found: float
    reference: TensorStatistics
    artifact: TensorStatistics


@dataclass
class Witness:
    """Keeps the worst sample of each layer, in the artifact and alone.

    Attributes:
        awake: Whether it looks at all.
    """

    awake: bool = False
    _seen: dict[str, _Worst] = field(default_factory=dict)
    _alone: dict[str, _Worst] = field(default_factory=dict)

    def look(self, layer: Watched, sample: int, expected: Array, found: Array) -> None:
        """A tensor as it is in the artifact."""
        if self.awake:
            _keep(self._seen, layer, sample, expected, found)

    def alone(self, layer: Watched, sample: int, expected: Array, found: Array) -> None:
        """A tensor as the layer alone makes it."""
        if self.awake:
            _keep(self._alone, layer, sample, expected, found)

    def worst(self, layer: Watched) -> _Worst | None:
        return self._alone.get(layer.origin) or self._seen.get(layer.origin)


@dataclass(frozen=True)
class Divergences:
    """All layers beyond the tolerance, in order, and the first of which it is the node's own doing."""

    all: tuple[str, ...]
    first: Divergence | None


def first(
    watched: Sequence[Watched], witness: Witness, tolerance: float, names: Mapping[str, str | None], outputs: set[str]
) -> Divergences:
    """Find it.

    Args:
        watched: Layers in the graph's order.
        witness: What they were like at worst.
        tolerance: Largest error as a share of a tensor's range.
        names: Layer's tensor -> what the source calls it.
        outputs: Tensors that the artifact gives.
    """
    off = [layer for layer in watched if not layer.cumulative.empty and layer.cumulative.relative > tolerance]
    spreading = _spreading(watched, {layer.origin for layer in off}, outputs)
    for layer in off:
        if layer.origin not in spreading and not _readers_are_right(layer, watched, tolerance):
            continue
        own = layer.cumulative if layer.isolated.empty else layer.isolated
        worst = witness.worst(layer)
        if own.relative > tolerance and worst is not None:
            found = Divergence(
                layer.origin, names.get(layer.origin), layer.op.kind if layer.op else "input", own.relative, tolerance,
                worst.sample, worst.at, worst.expected, worst.found, worst.reference, worst.artifact,
            )  # fmt: skip
            return Divergences(tuple(layer.origin for layer in off), found)
    return Divergences(tuple(layer.origin for layer in off), None)


def _spreading(watched: Sequence[Watched], wrong: set[str], outputs: set[str]) -> set[str]:
    """Wrong tensors from which wrong ones lead to an output that is wrong."""
    found: set[str] = set()
    for layer in reversed(watched):
        if layer.origin in wrong:
            # What cannot run alone may read anything before it.
            readers = (w for w in watched if w.reads is None or layer.origin in w.reads.values())
            if layer.origin in outputs or any(reader.origin in found for reader in readers):
                found.add(layer.origin)
    return found


def _readers_are_right(layer: Watched, watched: Sequence[Watched], tolerance: float) -> bool:
    """Whether what reads a tensor answers rightly when it is fed the float graph's: then the pairing is right too."""
    readers = [w for w in watched if layer.origin in (w.reads or {}).values()]
    return bool(readers) and all(not w.isolated.empty and w.isolated.relative <= tolerance for w in readers)


def _keep(held: dict[str, _Worst], layer: Watched, sample: int, expected: Array, found: Array) -> None:
    if not expected.size:
        return
    with np.errstate(invalid="ignore"):
        error = np.abs(found.astype(np.float64) - expected)
    same = (found == expected) | (np.isnan(found) & np.isnan(expected))
    error = np.where(same, 0.0, np.where(np.isnan(error), np.inf, error))
    place = int(error.argmax())
    worst = float(error.reshape(-1)[place])
    before = held.get(layer.origin)
    if before is not None and before.error >= worst:
        return
    at = tuple(int(index) for index in np.unravel_index(place, error.shape))
    held[layer.origin] = _Worst(
        worst, sample, at, float(expected[at]), float(found[at]),
        _statistics(layer.reference, expected), _statistics(layer.origin, found),
    )  # fmt: skip


def _statistics(name: str, values: Array) -> TensorStatistics:
    finite = values[np.isfinite(values)].astype(np.float64)
    low, high, mean, std = (
        (float(finite.min()), float(finite.max()), float(finite.mean()), float(finite.std()))
        if finite.size
        else (0.0, 0.0, 0.0, 0.0)
    )
    return TensorStatistics(
        name, tuple(values.shape), low, high, mean, std, float(np.mean(values == 0)), int(values.size - finite.size)
    )
