"""How often somebody came into view, from pictures or a camera.

    python examples/people_counter.py build/examples/people_counter.tflite photos/
    python examples/people_counter.py build/examples/people_counter.tflite camera

Frames that show nothing new cost no inference, old frames are skipped, and under systemd the service is ready when its
model has proved itself (see docs/runtime.md).
"""

from __future__ import annotations

import sys

from devices import frames

import edgekit
from edgekit.runtimes.flow.motion import Motion
from edgekit.runtimes.flow.systemd import Service

PATIENCE = 3
"""Looks that must agree before somebody came or left."""


def main(artifact: str, source: str) -> None:
    """A line a look that changed something; the count at the end."""
    live = source.startswith("camera")
    service, came, looks, with_people, agreeing, there = Service(), 0, 0, 0, 0, False
    patience = PATIENCE if live else 1
    with edgekit.load(artifact) as model:
        service.ready(model)
        stream = edgekit.Stream(
            model, frames(source), policy="drop-oldest" if live else "block", deadline=0.5 if live else None,
            every=0.2 if live else 0.0, gate=Motion() if live else None,
        )  # fmt: skip
        for seen in stream:
            somebody = seen.answer.label == "somebody"
            looks, with_people = looks + 1, with_people + somebody
            agreeing = agreeing + 1 if somebody != there else 0
            if agreeing >= patience:
                there, agreeing = somebody, 0
                came += there
                print(f"picture {seen.number}: {'somebody came' if there else 'nobody is left'}", flush=True)
            service.beat()
    print(f"{with_people} of {looks} pictures show somebody; somebody came {came} times")


if __name__ == "__main__":
    main(*sys.argv[1:])
