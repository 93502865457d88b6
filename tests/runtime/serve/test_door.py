"""Refusals: some at once, many one after the other, none held back for long."""

from __future__ import annotations

import heapq

import pytest

from edgekit.serve import door
from edgekit.serve.door import Door
from edgekit.serve.messages import Reply, Request


class Timer:
    def __init__(self, call):
        self.call = call

    def cancel(self):
        self.call = None


class Clock:
    """In place of the loop: time goes on from timer to timer."""

    def __init__(self):
        self.now, self._timers, self._count = 100.0, [], 0

    def time(self):
        return self.now

    def call_at(self, when, call):
        self._count += 1
        timer = Timer(call)
        heapq.heappush(self._timers, (when, self._count, timer))
        return timer

    def run(self):
        while self._timers:
            when, _, timer = heapq.heappop(self._timers)
            if timer.call is not None:
                self.now = max(self.now, when)
                timer.call()


class Nobody:
    def __getattr__(self, name):
        return lambda *args: None


@pytest.fixture
def entrance(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(door.asyncio, "get_running_loop", lambda: clock)
    return Door(Nobody(), Nobody(), {}, Nobody(), 10), clock


def refused(entrance, clock, count, reply):
    """When each of so many that come at once gets its answer, in seconds from now."""
    begun, given = clock.now, []
    for number in range(count):
        request = Request(lambda request, answer: given.append((request.path, clock.now - begun)), "a", clock.now)
        request.path = number
        entrance.refuse(request, reply)
    clock.run()
    assert [number for number, _ in given] == list(range(count))
    return [seconds for _, seconds in given]


def test_a_few_are_turned_away_at_once(entrance):
    assert refused(*entrance, 40, Reply(429)) == [0.0] * 40


def test_many_are_turned_away_one_after_the_other_and_soon(entrance):
    free = int(door._FREE_REFUSALS)
    seconds = refused(*entrance, free + 1000, Reply(429))
    assert seconds[:free] == [0.0] * free
    held = seconds[free:]
    assert held == sorted(held)
    assert held[-1] <= door._PACE + 1e-9
    assert held[0] >= door._LEAST - 1e-9
    evenly = [second for second in held if second < door._PACE - door._TOGETHER]
    together = max(evenly.count(second) for second in evenly)
    assert together <= door._TOGETHER / door._GAP + 2  # never all of them, who would come again all together


def test_few_that_are_held_back_are_told_sooner_than_many(entrance):
    free = int(door._FREE_REFUSALS)
    held = refused(*entrance, free + 20, Reply(429))[free:]
    assert all(door._LEAST - 1e-9 <= second <= door._LEAST + 20 * door._GAP + door._TOGETHER for second in held)


def test_a_body_that_came_late_was_wait_enough(entrance):
    entered, clock = entrance
    refused(entered, clock, int(door._FREE_REFUSALS), Reply(429))
    given = []
    for late in (0.0, 0.01, 1.0):
        request = Request(lambda request, answer: given.append(clock.now - request.arrived), "a", clock.now - late)
        entered.refuse(request, Reply(429))
    assert given == [1.0]
    clock.run()
    assert all(door._LEAST - 1e-9 <= seconds <= door._PACE + door._TOGETHER for seconds in given[1:])


def test_a_large_body_read_for_nothing_is_told_later(entrance):
    entered, clock = entrance
    refused(entered, clock, int(door._FREE_REFUSALS), Reply(429))
    given = []
    for size in (0, 200_000, 100_000_000):
        request = Request(lambda request, answer: given.append(clock.now - request.arrived), "a", clock.now)
        request.dropped = size
        entered.refuse(request, Reply(429))
    clock.run()
    wanted = [door._LEAST, door._LEAST + 200_000 * door._COST, door._LEAST + door._DEAR]
    assert given == pytest.approx(wanted, abs=door._TOGETHER)


def test_what_is_wrong_with_a_request_is_told_at_once(entrance):
    assert refused(*entrance, 300, Reply(400)) == [0.0] * 300


def test_an_answer_that_goes_wrong_stops_no_other(entrance):
    entered, clock = entrance
    refused(entered, clock, int(door._FREE_REFUSALS), Reply(429))
    given = []

    def answer(request, reply):
        given.append(request.path)
        if request.path == 1:
            raise OSError("the client is gone")

    for number in range(4):
        request = Request(answer, "a", clock.now)
        request.path = number
        entered.refuse(request, Reply(429))
    with pytest.raises(OSError, match="gone"):  # the loop would log it
        clock.run()
    clock.run()
    assert given == [0, 1, 2, 3]
