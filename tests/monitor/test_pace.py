"""Times and temperature, beside what they were at first."""

from __future__ import annotations

import numpy as np

from edgekit.monitor.pace import _LEARNED, CALLS, Pace


class Clock:
    """Seconds, moved by hand."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def timed(pace, times):
    return [found for number, seconds in enumerate(times) if (found := pace.add(float(seconds), number))]


def test_the_first_calls_warm_up_and_are_no_measure():
    pace = Pace(1e-7, Clock(), lambda: None)
    assert timed(pace, [0.5] * CALLS) == []
    assert timed(pace, [0.001] * CALLS * _LEARNED) == []
    assert pace.status()["seconds"]["usual"] == 0.001
    (found, *_) = timed(pace, [0.0014] * CALLS * 40)  # by the warm-up it would be fast
    assert found.kind == "latency"


def test_a_fifth_slower_is_no_news_and_a_third_is():
    dice = np.random.default_rng(0)
    for ratio, told in ((1.2, False), (1.4, True)):
        pace = Pace(1e-7, Clock(), lambda: None)
        times = 0.001 * dice.uniform(0.95, 1.05, CALLS * 120)
        times[CALLS * 40 :] *= ratio
        assert bool(timed(pace, times)) == told


def test_a_board_that_is_much_warmer_than_it_was_is_told_before_it_throttles():
    clock, heat = Clock(), 40.0
    pace = Pace(1e-7, clock, lambda: heat)
    found = []
    for degrees in [40.0] * 8 + [58.0] * 8 + [63.0] * 8:
        heat = degrees
        clock.now += 10
        found.append(pace.look(7))
    assert found[:16] == [None] * 16
    (told, *_) = [one for one in found[16:] if one]
    assert (told.kind, told.amount) == ("temperature", 23.0)
    assert not pace.calm["temperature"]
