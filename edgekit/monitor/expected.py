"""What of a reference the faults of data are held against: where numbers lie, how often they are missing or beyond."""

from __future__ import annotations

import numpy as np

from edgekit.monitor.alarm import Kind
from edgekit.monitor.columns import Array
from edgekit.monitor.faults import Often, at_most
from edgekit.monitor.features import CLIPPED
from edgekit.monitor.reference import ENDS, KNOWN, Header, Reference

NEVER = 1 - 1e-4
"""Share of the samples in which a number was missing, as it is kept, of one that nobody had."""

_ROUNDING = 2.0**-10
"""Of an edge in half precision, and of numbers in single."""

_BEYOND = 1.05
"""Times the width of all that was seen, from its ends on, is beyond anything seen; ends are kept roughly."""


def absent(header: Header) -> Array:
    """[inputs]: how often each number was missing."""
    return np.zeros(header.inputs) if header.absent is None else np.array(header.absent)


def chances(samples: int, absent: Array) -> Array:
    """[2 inputs]: how often each number may well lie beyond the ends that are kept, whose outermost are left out, and
    how often it may be missing. Of one that is kept as if nobody had it, some had.
    """
    beyond = np.where(absent < NEVER, 2 * (ENDS - 1), KNOWN - 1)
    return np.concatenate([at_most(beyond, samples), at_most(absent * samples, samples)])


def often(about: Reference) -> Often:
    """Where each number of the inputs is most often. What lies near the bin's edge counts as in it: edges are kept in
    half precision.
    """
    number, columns = about.header.inputs, np.arange(about.header.inputs)
    mass = about.mass[:number]
    fullest = mass.argmax(axis=1) if number else columns
    edges = np.full((number, mass.shape[1] + 1), np.inf)
    edges[:, 0], edges[:, 1:-1] = -np.inf, about.inner[:number].astype(np.float64)
    low, high = (edges[columns, fullest + by] for by in (0, 1))
    rest = mass.copy()
    rest[columns, fullest] = 0.0
    other = rest.max(axis=1, initial=0)
    size = about.sizes[:number]
    other = np.minimum(1.0, other + 3 * np.sqrt(other / size) + 1 / size)
    low, high = low - _ROUNDING * (1 + np.abs(low)), high + _ROUNDING * (1 + np.abs(high))
    mean, deviation = about.mean[:number], about.deviation[:number]
    return Often(mean + deviation * low, mean + deviation * high, other)


def bounds(about: Reference) -> tuple[Array, Array, list[Kind]]:
    """Numbers of the inputs below or above which is nothing that was seen; and what it is if they are passed."""
    number = about.header.inputs
    low, high = np.full(number, -np.inf), np.full(number, np.inf)
    kinds: list[Kind] = []
    for place, column in enumerate(about.columns[:number]):
        mean, deviation = about.mean[place], about.deviation[place]
        least, most = about.reach[place].astype(np.float64)
        kind: Kind = "out-of-range"
        if least == most:
            low[place], high[place] = mean - deviation, mean + deviation
            kind = "clipped" if column.name == CLIPPED else "constant"
        else:
            span = most - least
            low[place] = mean + (least - _BEYOND * span) * deviation
            high[place] = mean + (most + _BEYOND * span) * deviation
            if (column.noun, column.name) in (("picture", "contrast"), ("band", "loudness")):
                # A twentieth of the contrast that nearly all have; it is a logarithm.
                low[place] = mean + least * deviation - np.log(20)
                high[place], kind = np.inf, "blank"  # of too much the scan tells
        kinds.append(kind)
    return low, high, kinds
