"""How old segments are where the clock may be wrong: boards without one begin in the past, and are set at some time.

What this process wrote ages by the steady clock alone. What lay there before has only the date of its file; it is
compared with the time of day as it is believed: a clock that leaps, or at which all that lies there is too old or of
the future, is believed once it has gone on so for a while. A leap there and back costs nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from edgekit.store.record import CLOCK_SET

LEAP = 3600.0
"""Seconds by which a clock may be put right without a doubt."""
_DAY = 86400.0
_STEADY = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # goes on while a board sleeps


def uptime() -> float:
    """Seconds since the device started."""
    return time.clock_gettime(_STEADY)


class Clock(NamedTuple):
    """How late it is.

    Attributes:
        wall: Seconds since 1970, as far as the clock was ever set.
        steady: Seconds since some moment; never goes back.
    """

    wall: Callable[[], float] = time.time
    steady: Callable[[], float] = uptime


class Ages:
    """Ages of the segments of one folder.

    Args:
        clock: Of this device.
        retention: Seconds; what all is older than is doubted at first.
        dates: Number -> seconds since 1970 that its file tells.

    Attributes:
        of_this_boot: Segments that were written to since the device started, as far as its clock tells.
    """

    def __init__(self, clock: Clock, retention: float, dates: Mapping[int, float]) -> None:
        self._clock = clock
        self._hold = min(LEAP, retention / 16)
        self._opened = steady = clock.steady()
        booted = clock.wall() - steady
        self.of_this_boot = frozenset(number for number, date in dates.items() if booted <= date <= booted + steady)
        self._met = {number: date for number, date in dates.items() if date >= CLOCK_SET}
        self._own = dict.fromkeys(dates.keys() - self._met.keys(), steady)
        now, newest = clock.wall(), max(self._met.values(), default=None)
        likely = newest is None or now - retention < newest <= now + _DAY
        self._offset = now - steady if now >= CLOCK_SET and likely else None
        self._told = now - steady
        self._since = steady

    def of(self, number: int) -> float:
        """Seconds since a segment was last written to; of one without a date, since it was met."""
        steady = self._clock.steady()
        if number in self._own:
            return steady - self._own[number]
        waited = steady - self._opened
        return waited if self._offset is None else max(waited, steady + self._offset - self._met[number])

    def written(self, number: int) -> None:
        """A segment is written to now."""
        self._own[number] = self._clock.steady()

    def forget(self, number: int) -> None:
        """A segment is gone."""
        self._own.pop(number, None)
        self._met.pop(number, None)

    def dates(self) -> Iterator[tuple[int, float]]:
        """Follow the clock: number and date of the segments whose files are to tell another one now."""
        steady, now = self._clock.steady(), self._clock.wall()
        leapt = abs(now - steady - self._told) > LEAP
        if leapt:
            self._since = steady
        self._told = now - steady
        if now < CLOCK_SET:
            return
        known = self._offset is not None and abs(self._told - self._offset) <= LEAP
        if known or steady - self._since >= self._hold:
            self._offset = self._told
            for number, date in list(self._met.items()):
                if date > now + _DAY and number not in self._own:  # the clock was wrong when it was written
                    self._own[number] = self._opened
                    yield number, now - (steady - self._opened)
        if leapt:
            yield from ((number, now - (steady - at)) for number, at in self._own.items())
