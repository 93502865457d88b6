"""How old what lies there is, on boards whose clock is wrong, leaps, or was never set."""

from __future__ import annotations

import os
from dataclasses import dataclass

import pytest
from capture_case import QUOTA, numbered, records

from edgekit.monitor.ages import Clock
from edgekit.monitor.bounds import Bounds
from edgekit.monitor.ring import Ring, listed

DAY, YEAR, HOUR = 86400.0, 365 * 86400.0, 3600.0
TODAY = 1_795_000_000.0


@dataclass
class Board:
    """A clock that can be wrong, beside one that only goes on; and files that are dated by the first."""

    folder: object
    wall: float = TODAY
    steady: float = 50.0

    def opened(self, days=30.0):
        clock = Clock(lambda: self.wall, lambda: self.steady)
        self.ring = Ring(self.folder, "case", Bounds(QUOTA, days * DAY), clock=clock)
        return self.ring

    def write(self, number):
        before = {path: path.stat().st_size for _, path in listed(self.folder)}
        assert self.ring.append(numbered(number, 100))
        for _, path in listed(self.folder):
            if path.stat().st_size != before.get(path):
                os.utime(path, (self.wall, self.wall))

    def go(self, seconds):
        self.wall += seconds
        self.steady += seconds
        self.ring.expire()

    def restart(self, off=0.0, wall=None):
        """The power goes for so many seconds; the clock says what it is told, or is right."""
        self.ring.close()
        self.wall = self.wall + off + 20 if wall is None else wall
        self.steady = 15.0
        self.opened()


@pytest.fixture
def board(tmp_path):
    """One with a segment of yesterday, and one of now."""
    board = Board(tmp_path)
    board.opened()
    board.write(0)
    for _ in range(3):
        board.go(DAY)
    board.restart()
    board.write(1)
    assert len(listed(tmp_path)) == 2
    return board


@pytest.mark.parametrize("leap", [-10 * YEAR, -0.5 * YEAR, -2 * DAY, 2 * DAY, 0.5 * YEAR, 10 * YEAR])
@pytest.mark.parametrize("minutes", [1, 50])
def test_a_leap_there_and_back_costs_nothing(board, leap, minutes):
    board.wall += leap
    for _ in range(minutes):
        board.go(60)
    board.write(2)
    board.wall -= leap
    for _ in range(5 * 24):
        board.go(HOUR)
    assert records(board.folder) == [0, 1, 2]
    board.go(23 * DAY)  # and all of it goes in its time
    assert records(board.folder) == [1, 2]
    board.go(3 * DAY)
    assert records(board.folder) == []


def test_what_was_written_before_the_clock_was_set_right_stays(board):
    """No clock of its own: begins where it was switched off, two months later; then the network tells."""
    board.restart(off=0.0)
    board.write(2)
    board.go(60)
    board.wall += 60 * DAY
    board.go(60)
    assert records(board.folder) == [0, 1, 2]
    board.go(HOUR)  # believed: what is from before is too old indeed
    assert records(board.folder) == [2]
    board.restart(off=60.0)
    assert records(board.folder) == [2]
    board.go(29 * DAY)
    assert records(board.folder) == []


def test_an_unset_clock_that_is_set_dates_what_was_written_meanwhile(tmp_path):
    board = Board(tmp_path, wall=100.0)
    board.opened()
    board.write(0)
    board.go(HOUR)
    board.wall = TODAY
    board.go(60)
    board.restart(off=10 * DAY)
    assert records(tmp_path) == [0]
    board.go(17 * DAY)
    assert records(tmp_path) == [0]
    board.go(2 * DAY)
    assert records(tmp_path) == []


def test_a_clock_that_is_years_ahead_at_the_start_removes_nothing_at_once(board):
    board.restart(wall=TODAY + 10 * YEAR)
    board.go(60)
    board.wall = TODAY + 4 * DAY
    board.go(2 * HOUR)
    assert records(board.folder) == [0, 1]
    # ... and a board that lay in a cupboard keeps no more than it may, an hour later.
    board.restart(off=2 * YEAR)
    board.go(2 * HOUR)
    assert records(board.folder) == []


def test_what_a_wrong_clock_dated_into_the_future_goes_in_its_time(board):
    board.restart(wall=TODAY + 10 * YEAR)
    board.write(2)
    board.restart(wall=TODAY + 4 * DAY)
    board.go(2 * HOUR)
    assert records(board.folder) == [0, 1, 2]
    for days in (9, 9, 9):
        board.restart(off=60.0)
        board.go(days * DAY)
    assert records(board.folder) == [1, 2]
    board.restart(off=2 * DAY)
    board.go(2 * HOUR)
    assert records(board.folder) == []


def test_the_clock_of_this_machine_only_goes_on():
    clock = Clock()
    assert clock.steady() <= clock.steady()
    assert clock.wall() > TODAY - 10 * YEAR
