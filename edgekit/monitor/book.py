"""The alarms that stand, and those that were."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from edgekit.codec import decode, encode
from edgekit.monitor.alarm import Alarm, Kind

KEPT = 64
"""Ended alarms that are still told of."""


SETTLED = 512
"""Samples after which a drift has shown in all numbers that it moves: what moves later is another one."""


class Finding(NamedTuple):
    """Something that a detector is sure of; fields as an `Alarm`'s. `source` is the tensor, `places` are the columns
    that it is about; none: it is about all of the tensor.
    """

    kind: Kind
    source: str
    where: str
    amount: float
    unit: str
    since: int
    message: str
    places: tuple[int, ...] = ()


class Key(NamedTuple):
    """What an alarm is about; fields as a `Finding`'s."""

    kind: str
    source: str
    places: tuple[int, ...] = ()

    def about(self, place: int) -> bool:
        """Whether it is about a column of its tensor."""
        return not self.places or place in self.places


class Book:
    """One alarm stands for each kind and tensor, and another one for columns that moved when that had settled.

    Args:
        clock: Seconds since 1970.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._standing: dict[Key, Alarm] = {}
        self.ended: list[dict[str, Any]] = []

    @property
    def standing(self) -> tuple[Alarm, ...]:
        return tuple(self._standing.values())

    @property
    def keys(self) -> list[Key]:
        return list(self._standing)

    def enter(self, found: Finding, sample: int) -> Alarm | None:
        """A new alarm, noticed at this sample; None if it stands already."""
        key = Key(found.kind, found.source, found.places)
        if not self.untold(key, sample):
            return None
        now = self._clock()
        since = min(max(0, found.since), sample)
        alarm = Alarm(found.kind, found.where, found.amount, since, found.message, found.unit, sample, now)
        self._standing[key] = alarm
        return alarm

    def untold(self, key: Key, sample: int) -> bool:
        """Whether something of this would be news: nothing of its kind and tensor stands, or what does has settled and
        is about other columns.
        """
        mine = [other for other in self._standing if other[:2] == key[:2]]
        return not mine or (
            any(not any(other.about(place) for other in mine) for place in key.places)
            and all(self.age(other, sample) >= SETTLED for other in mine)
        )

    def stands(self, kind: str, source: str, place: int | None = None) -> bool:
        """Whether an alarm does: about this column, or any."""
        return any(key[:2] == (kind, source) and (place is None or key.about(place)) for key in self._standing)

    def age(self, key: Key, sample: int) -> int:
        """Samples since it was noticed."""
        return sample - self._standing[key].raised

    def end(self, key: Key, sample: int) -> None:
        """It has gone quiet."""
        alarm = self._standing.pop(key)
        self.ended = [*self.ended, {**alarm.to_dict(), "ended": sample}][-KEPT:]

    def state(self) -> dict[str, Any]:
        """As JSON values."""
        standing = [
            {"source": key.source, "places": list(key.places), "alarm": encode(alarm)}
            for key, alarm in self._standing.items()
        ]
        return {"standing": standing, "ended": self.ended}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        self._standing = {}
        for item in state["standing"]:
            alarm = decode(Alarm, item["alarm"])
            self._standing[Key(alarm.kind, item["source"], tuple(item.get("places", ())))] = alarm
        self.ended = list(state["ended"])
