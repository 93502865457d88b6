"""Alarms as values."""

from __future__ import annotations

import json

import pytest

from edgekit.monitor.alarm import Alarm


def test_an_alarm_as_json():
    alarm = Alarm("stuck", "input x: pressure", 12.0, 100, "x: pressure stands still", "samples", 112, 86400.0)
    assert json.loads(json.dumps(alarm.to_dict())) == {
        "kind": "stuck", "where": "input x: pressure", "amount": 12.0, "unit": "samples", "since": 100, "raised": 112,
        "time": "1970-01-02T00:00:00+00:00", "message": "x: pressure stands still",
    }  # fmt: skip


def test_an_alarm_begins_before_it_is_raised():
    with pytest.raises(ValueError, match="cannot have begun with sample 5"):
        Alarm("stuck", "input x", 1.0, 5, "x", raised=4)
