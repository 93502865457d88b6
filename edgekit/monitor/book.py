"""The alarms that stand, and those that were."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from edgekit.codec import decode, encode
from edgekit.monitor.alarm import Alarm, Kind

KEPT = 64
"""Ended alarms that are still told of."""


class Finding(NamedTuple):
    """Something that a detector is sure of; fields as an `Alarm`'s. `source` is the tensor: it has one alarm a kind."""

    kind: Kind
    source: str
    where: str
    amount: float
    unit: str
    since: int
    message: str


class Book:
    """One alarm at most stands for each kind and tensor.

    Args:
        clock: Seconds since 1970.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._standing: dict[tuple[str, str], Alarm] = {}
        self.ended: list[dict[str, Any]] = []

    @property
    def standing(self) -> tuple[Alarm, ...]:
        return tuple(self._standing.values())

    @property
    def keys(self) -> list[tuple[str, str]]:
        return list(self._standing)

    def enter(self, found: Finding, sample: int) -> Alarm | None:
        """A new alarm, noticed at this sample; None if it stands already."""
        key = (found.kind, found.source)
        if key in self._standing:
            return None
        now = self._clock()
        since = min(max(0, found.since), sample)
        alarm = Alarm(found.kind, found.where, found.amount, since, found.message, found.unit, sample, now)
        self._standing[key] = alarm
        return alarm

    def stands(self, kind: str, source: str) -> bool:
        return (kind, source) in self._standing

    def age(self, key: tuple[str, str], sample: int) -> int:
        """Samples since it was noticed."""
        return sample - self._standing[key].raised

    def end(self, key: tuple[str, str], sample: int) -> None:
        """It has gone quiet."""
        alarm = self._standing.pop(key)
        self.ended = [*self.ended, {**alarm.to_dict(), "ended": sample}][-KEPT:]

    def state(self) -> dict[str, Any]:
        """As JSON values."""
        standing = [{"source": source, "alarm": encode(alarm)} for (_, source), alarm in self._standing.items()]
        return {"standing": standing, "ended": self.ended}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        alarms = [(item["source"], decode(Alarm, item["alarm"])) for item in state["standing"]]
        self._standing = {(alarm.kind, source): alarm for source, alarm in alarms}
        self.ended = list(state["ended"])
