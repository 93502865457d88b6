"""The fitted factors and what is known of core types: `device_profiles/_latency.toml`, read once."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources

from edgekit.codec import decode
from edgekit.predict.prices import Core


@dataclass(frozen=True)
class Spread:
    """Truth over prediction: the quantiles between which 80 % lie, as found on figures that were left out of a fit."""

    low: float
    high: float

    def grown(self, factor: float) -> Spread:
        """With both logarithms so many times as long."""
        return Spread(self.low**factor, self.high**factor)


@dataclass(frozen=True)
class Board:
    """Published figures of a processor.

    Attributes:
        figures: How many.
        core: Of its fastest cores.
        fp32, int8: Interval of its own, where there are figures enough.
    """

    figures: int
    core: str
    fp32: Spread | None = None
    int8: Spread | None = None

    def spread(self, precision: str) -> Spread | None:
        """Of floats ("fp32") or integers ("int8")."""
        return self.fp32 if precision == "fp32" else self.int8


@dataclass(frozen=True)
class About:
    """Where the factors come from.

    Attributes:
        figures: How many they were fitted from.
        sources: Of those figures.
        fitted: The command.
    """

    figures: int
    sources: tuple[str, ...]
    fitted: str


@dataclass(frozen=True)
class Parameters:
    """All of the file.

    Attributes:
        about: Provenance.
        cores: By name.
        aliases: Processor as profiles name it -> the one that figures name.
        boards: Processor -> its figures.
        releases: Library and precision -> the release that a prediction is for.
        factors: By name; see `edgekit.predict.prices`.
        spread: Basis ("board", "core", "analogy", "engine") and precision -> interval.
        mixes: Precision, kind of network -> unit -> its share of the time, of the networks with figures.
        widening: Precision -> how an interval grows with the distance from those; see `edgekit.predict.likeness`.
    """

    about: About
    cores: Mapping[str, Core]
    aliases: Mapping[str, str]
    boards: Mapping[str, Board]
    releases: Mapping[str, str]
    factors: Mapping[str, float]
    spread: Mapping[str, Mapping[str, Spread]]
    mixes: Mapping[str, Mapping[str, Mapping[str, float]]]
    widening: Mapping[str, float]


@functools.cache
def parameters() -> Parameters:
    """The shipped ones."""
    text = resources.files("edgekit.device_profiles").joinpath("_latency.toml").read_text(encoding="utf-8")
    return decode(Parameters, tomllib.loads(text), strict=True)
