"""Faces in pictures or before a camera.

    python examples/face_detection.py build/examples/face_detection.tflite photo.jpg
    python examples/face_detection.py build/examples/face_detection.tflite camera

The engine runs in a child process: if it ever dies or hangs, this goes on. The board sleeps between two looks.
"""

from __future__ import annotations

import sys

from devices import frames

import edgekit


def main(artifact: str, source: str) -> None:
    """A line a face, in pixels of the picture."""
    live = source.startswith("camera")
    policy = "drop-oldest" if live else "block"
    with edgekit.load(artifact, watchdog=10) as model:
        model.warm_up()
        for seen in edgekit.Stream(model, frames(source), policy=policy, every=0.5 if live else 0.0):
            print(f"picture {seen.number}: {len(seen.answer)} faces")
            for face in seen.answer:
                left, top, right, bottom = (round(value) for value in face.box)
                print(f"  {100 * face.score:.0f} % at {left},{top} to {right},{bottom}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
