"""Alarms as values."""

from __future__ import annotations

import json

import pytest

from edgekit.monitor import words
from edgekit.monitor.alarm import Alarm
from edgekit.monitor.book import KEPT, Book, Finding, Key


def test_an_alarm_as_json():
    alarm = Alarm("stuck", "input x: pressure", 12.0, 100, "x: pressure stands still", "samples", 112, 86400.0)
    assert json.loads(json.dumps(alarm.to_dict())) == {
        "kind": "stuck", "where": "input x: pressure", "amount": 12.0, "unit": "samples", "since": 100, "raised": 112,
        "time": "1970-01-02T00:00:00+00:00", "message": "x: pressure stands still",
    }  # fmt: skip


def test_an_alarm_begins_before_it_is_raised():
    with pytest.raises(ValueError, match="cannot have begun with sample 5"):
        Alarm("stuck", "input x", 1.0, 5, "x", raised=4)


@pytest.mark.parametrize(
    ("amount", "now", "told"),
    [
        (2.5, 12.5, "x is 2.50 sigma higher (10 before, 12.5 now)"),
        (8.0, 18.0, "x is more than 7 sigma higher (10 before, at least 18 now)"),
        (-8.0, 2.0, "x is more than 7 sigma lower (10 before, at most 2 now)"),
    ],
)
def test_what_is_cut_at_eight_deviations_is_told_as_a_bound(amount, now, told):
    """Numbers a hundred deviations away were said to be 8.00."""
    move = words.Move("x", "middle", amount, 10.0, now, "sigma")
    assert told in words.moved("input-shift", [move], 5)


def test_a_residual_that_spreads_is_no_number_that_varies():
    """Of a number whose relation to others broke it was said that it varies more, which it did not."""
    move = words.Move("x: tax", "spread", 2.0, 0.0, 0.0, "sigma")
    assert "x: tax follows the others less closely" in words.moved("input-relation", [move], 5)
    assert "x: tax follows the others more closely" in words.moved("embedding-relation", [move._replace(amount=-1)], 5)
    assert "x: tax varies more" in words.moved("input-spread", [move], 5)


def test_a_book_of_ended_alarms_does_not_grow_for_ever():
    book = Book(lambda: 1e9)
    for number in range(3 * KEPT):
        book.enter(Finding("stuck", "x", "input x", 1.0, "samples", number, "it stands still"), number)
        book.end(Key("stuck", "x"), number + 1)
    assert [one["ended"] for one in book.ended] == list(range(2 * KEPT + 1, 3 * KEPT + 1))
    assert book.standing == ()
