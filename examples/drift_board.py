"""The app of `drift_loop.py` on the board: answers a stream of digits, watched, and keeps those that matter.

    python examples/drift_board.py STORE CAPTURES stream.npz

Needs numpy, one engine, and the model that was deployed as "digits" into STORE.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

import edgekit
from edgekit.monitor.capture import Plan
from edgekit.monitor.strata import Draw
from edgekit.store import reading

# An hour passes in a second here: all of the stream lies in one window, so that it draws more than a real one would.
PLAN = Plan(quota_mb=2, window=3600, status=0.05, random=Draw(80), uncertain=Draw(60, at=0.3), strange=Draw(60, at=1.0))


def main(store: str, captures: str, stream: str) -> None:
    """Answer the stream; one line of JSON says what happened."""
    with edgekit.load(reading.read("digits", store)) as model, np.load(stream) as given:
        capture = edgekit.Capture("digits", model, PLAN, root=captures, seed=0)
        monitor = model.monitor(Path(captures) / "monitor", capture=capture)
        told: list[str] = []
        answers = []
        for digit in given["x"]:
            answers.append(model.predict(digit).classes[0].label)
            told += [alarm.message for alarm in monitor.alarms if alarm.message not in told]
        capture.close()
        print(json.dumps({"answers": answers, "alarms": told, "capture": capture.status()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
