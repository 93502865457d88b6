"""Which streams of scores are scanned, and what each of them means."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgekit.monitor import bins
from edgekit.monitor.alarm import Kind
from edgekit.monitor.columns import EMBEDDING, Array, Role
from edgekit.monitor.features import CLIPPED
from edgekit.monitor.reference import Reference

CLASSES = 32
"""Classes whose frequencies are watched one by one: the most frequent ones; the others are one."""

TOLERANCE = 0.3
"""Mean score below which no length of observation makes news: no field is the laboratory, and no reference exact."""

TOLERANCE_CLASS = 0.08
"""The same of a class's share."""

_MIDDLE: dict[Role, Kind] = {
    "input": "input-shift", "relation": "input-relation", "output": "output-shift", "confidence": "confidence-shift",
    "unfamiliar": "unfamiliar", "embedding": "embedding-shift",
}  # fmt: skip
_SPREAD: dict[Role, Kind] = {
    "input": "input-spread", "relation": "input-relation", "output": "output-shift", "embedding": "embedding-spread",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Streams:
    """All of a reference.

    Attributes:
        kinds: [s]: what an alarm of each would be.
        column: [s]: whose it is; the class is the column after the last.
        aspect: [s]: "middle", "spread" or "share" (of a class).
        tables, mass: [s, bins].
        sizes, floors: [s].
        heaps: [classes]: bin of each class.
        names: Of these bins.
    """

    kinds: tuple[Kind, ...]
    column: Array
    aspect: tuple[str, ...]
    tables: Array
    mass: Array
    sizes: Array
    floors: Array
    heaps: Array
    names: tuple[str, ...]


def streams(reference: Reference) -> Streams:
    """Means of all columns, spreads of inputs and outputs, shares of classes."""
    heaps, shares, names = _classes(reference)
    width = max(reference.header.bins, len(shares))
    kinds: list[Kind] = []
    column, aspect, tables, mass, sizes, floors = [], [], [], [], [], []
    for place, about in enumerate(reference.columns):
        share = reference.mass[place]
        middle = bins.scores(share)
        if about.role == "confidence" and not reference.header.evaluated:
            continue  # on what it was trained with, a model is surer than in the field
        cut = about.role == "input" and about.name == CLIPPED
        found = [("middle", middle, "clipped" if cut else _MIDDLE[about.role])]
        if about.role in _SPREAD:
            found.append(("spread", bins.standardized(np.square(middle), share), _SPREAD[about.role]))
        for what, table, kind in found:
            kinds.append("embedding-relation" if kind == "input-relation" and about.noun == EMBEDDING else kind)
            column.append(place)
            aspect.append(what)
            tables.append(np.pad(table, (0, width - table.size)))
            mass.append(np.pad(share, (0, width - share.size)))
            sizes.append(int(reference.sizes[place]))
            floors.append(TOLERANCE)
    for heap, share in enumerate(shares):
        deviation = float(np.sqrt(share * (1 - share)))
        kinds.append("class-shift")
        column.append(len(reference.columns))
        aspect.append("share")
        tables.append(np.pad((np.arange(len(shares)) == heap) - share, (0, width - len(shares))) / max(deviation, 1e-9))
        mass.append(np.pad(shares, (0, width - len(shares))))
        sizes.append(reference.header.proven)
        floors.append(TOLERANCE_CLASS / max(deviation, 1e-9))
    return Streams(
        tuple(kinds),
        np.array(column, np.intp),
        tuple(aspect),
        np.array(tables).reshape(len(kinds), width),
        np.array(mass).reshape(len(kinds), width),
        np.array(sizes, np.float64),
        np.array(floors),
        heaps,
        names,
    )


def _classes(reference: Reference) -> tuple[Array, Array, tuple[str, ...]]:
    """Heap of each class, share and name of each heap. A class that was never answered has half a sample's share."""
    number = reference.header.classes
    if not number:
        return np.zeros(0, np.intp), np.zeros(0), ()
    counts = reference.frequencies.astype(np.float64) + 0.5
    labels = [
        reference.header.labels[place] if place < len(reference.header.labels) else str(place)
        for place in range(number)
    ]
    if number <= CLASSES:
        return np.arange(number), counts / counts.sum(), tuple(labels)
    often = np.sort(np.argsort(-counts, kind="stable")[: CLASSES - 1])
    heaps = np.full(number, CLASSES - 1, np.intp)
    heaps[often] = np.arange(CLASSES - 1)
    sums = np.bincount(heaps, counts, minlength=CLASSES)
    return heaps, sums / sums.sum(), (*(labels[place] for place in often), "the other classes")
