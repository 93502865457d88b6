"""What of a monitor's status goes along with a capture: enough for a report over boards, in a kilobyte or two."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LATELY = 2048
"""Samples over which a board tells how things stand; fewer while there are not as many."""

_NAMED = 8
"""Alarms, and numbers that moved most."""

_LONG = 300

_RIGHT = ("estimate", "low", "high", "answered")
"""Of the accuracy; boards of a version before do not know the last."""


def digest(status: Mapping[str, Any]) -> dict[str, Any]:
    """Of what `Monitor.status` gives; what another watcher of the app's says goes along as it is.

    Returns:
        `samples`, `passed_over`; `alarms` that stand (`kind`, `where`, `message`, `since`); `over`: samples that the
        rest is told over; `accuracy` (`estimate`, `low`, `high`, `answered`; None without labels); `unestimated`: why
        there is never one; `moved`: where -> mean shift in deviations, of what moved most; `seconds` a call, usual and
        now.
    """
    if "scales" not in status:
        return dict(status)
    scales = {int(samples): scale for samples, scale in status["scales"].items()}
    over = max((samples for samples in scales if samples <= LATELY), default=0)
    shifts = scales[over]["shifts"] if over else {}
    accuracy = scales[over]["accuracy"] if over else None
    most = sorted(shifts, key=lambda where: (-abs(shifts[where]), where))[:_NAMED]
    return {
        "samples": status["samples"],
        "passed_over": status["passed_over"],
        "alarms": [
            {"kind": alarm["kind"], "where": alarm["where"], "message": alarm["message"][:_LONG],
             "since": alarm["since"]} for alarm in status["alarms"][:_NAMED]
        ],
        "over": over,
        "accuracy": accuracy and {name: accuracy[name] for name in _RIGHT if name in accuracy},
        "unestimated": status.get("unestimated"),
        "moved": {where: round(shifts[where], 2) for where in most},
        "seconds": status["pace"]["seconds"],
    }  # fmt: skip
