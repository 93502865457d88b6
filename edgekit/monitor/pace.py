"""How long calls take and how hot the board is, beside what it was like when the monitor began.

A conversion does not know the board; so the first calls are the reference, and a median of 32 calls is one number:
single calls are slow for reasons of their own.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from edgekit.monitor.book import Finding
from edgekit.monitor.faults import Events

CALLS = 32
_LEARNED = 16
_SLOWER = 1.3
"""From this ratio on it is told."""

_EVERY = 10.0
"""Seconds between two looks at the thermometer."""

_HOT = 80.0
"""Degrees Celsius from which a Raspberry Pi throttles (https://www.raspberrypi.com/documentation/computers/processors.html)."""

_WARMER = 20.0
_LOOKS = 6


def thermometer() -> float | None:
    """The hottest zone that the kernel knows, in degrees Celsius; None where it knows none."""
    found = []
    for zone in Path("/sys/class/thermal").glob("thermal_zone*/temp"):
        try:
            found.append(int(zone.read_text()) / 1000)
        except (OSError, ValueError):
            continue  # a zone whose sensor is switched off
    return max(found, default=None)


class Pace:
    """Watches times and temperature.

    Args:
        rate: False alarms a call.
        clock: Seconds that only go forward.
        degrees: The thermometer.
    """

    def __init__(
        self,
        rate: float,
        clock: Callable[[], float] = time.monotonic,
        degrees: Callable[[], float | None] = thermometer,
    ) -> None:
        self._clock, self._degrees = clock, degrees
        self._calls: list[float] = []
        self._learned: list[float] = []
        self._blocks = -1  # the first block warms up
        self._events = Events(np.array([1 / (_LEARNED + 2)]), min(0.1, rate * CALLS))
        self._now = 0.0
        self._quiet = 0
        self._looked = -_EVERY
        self._heat: list[float] = []
        self._usual_heat: float | None = None

    def add(self, seconds: float, sample: int) -> Finding | None:
        """One call; a finding when calls have become slow."""
        self._calls.append(seconds)
        if len(self._calls) < CALLS:
            return None
        self._now = median(self._calls)
        self._calls.clear()
        self._blocks += 1
        if self._blocks == 0:
            return None
        if len(self._learned) < _LEARNED:
            self._learned.append(self._now)
            return None
        slow = self._now > self._limit
        self._quiet = 0 if slow else self._quiet + 1
        if not slow:
            return None
        self._events.hit(np.array([True]), self._blocks)
        faults = self._events.faults(self._blocks)
        if not faults:
            return None
        usual = median(self._learned)
        since = max(0, sample - (self._blocks - faults[0].since + 1) * CALLS)
        ratio = self._now / usual
        text = (
            f"Calls take {self._now * 1e3:.3g} ms, {ratio:.2f} times the {usual * 1e3:.3g} ms that they took at first."
        )
        return Finding("latency", "", "calls", ratio, "ratio", since, f"{text} Since about sample {since}.")

    def look(self, sample: int) -> Finding | None:
        """At the thermometer, if it is time; a finding when it is hot, or much warmer than it was."""
        now = self._clock()
        if now - self._looked < _EVERY:
            return None
        self._looked = now
        degrees = self._degrees()
        if degrees is None:
            return None
        self._heat = [*self._heat, degrees][-_LOOKS:]
        if len(self._heat) < _LOOKS:
            return None
        least = min(self._heat)
        if self._usual_heat is None:
            self._usual_heat = median(self._heat)
        if least < _HOT and least < self._usual_heat + _WARMER:
            return None
        text = f"The board has {degrees:.0f} degrees Celsius for a minute, {self._usual_heat:.0f} at first."
        return Finding("temperature", "", "board", degrees - self._usual_heat, "degrees", sample, text)

    @property
    def calm(self) -> dict[str, bool]:
        """Whether times and temperature are as they were."""
        heat = self._usual_heat is None or not self._heat or self._heat[-1] < min(_HOT, self._usual_heat + _WARMER) - 5
        return {"latency": self._quiet >= _LEARNED, "temperature": heat}

    @property
    def _limit(self) -> float:
        return max(_SLOWER * median(self._learned), 1.1 * max(self._learned))

    def status(self) -> dict[str, Any]:
        """As JSON values: seconds, degrees; None where they are not known yet."""
        return {
            "seconds": {"usual": median(self._learned) if self._learned else None, "now": self._now or None},
            "degrees": {"usual": self._usual_heat, "now": self._heat[-1] if self._heat else None},
        }

    def state(self) -> dict[str, Any]:
        """What must be kept; a board that restarts is neither new nor warm."""
        return {"learned": self._learned, "usual_heat": self._usual_heat}

    def restore(self, state: dict[str, Any]) -> None:
        self._learned = [float(value) for value in state["learned"]][:_LEARNED]
        self._usual_heat = None if state["usual_heat"] is None else float(state["usual_heat"])
