"""How much of a new version travels when a share of its bytes changed: JSON lines.

    python benchmarks/deploy_delta.py [FILE...]

By default the `.tflite` and `.onnx` files below ../shared/models. `random`: that share of all bytes is another,
anywhere, which is the hardest case; `steps`: that share of the bytes is up to eight steps higher or lower, as when int8
weights are trained on; `layer`: one stretch of that length is another, as when the last layers are trained on.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np

from edgekit.deploy import delta

SHARE = 0.05
SHARED = Path(__file__).resolve().parents[2] / "shared" / "models"


def changed(old: np.ndarray, how: str) -> np.ndarray:
    """The same with SHARE of the bytes changed."""
    dice = np.random.default_rng(0)
    new = old.copy()
    if how == "layer":
        length = int(SHARE * old.size)
        begin = int(dice.integers(0, old.size - length))
        new[begin : begin + length] = dice.integers(0, 256, length, np.uint8)
        return new
    places = dice.random(old.size) < SHARE
    count = int(places.sum())
    if how == "random":
        new[places] += dice.integers(1, 256, count, np.uint8)
    else:
        new[places] += (dice.integers(1, 9, count) * dice.choice([-1, 1], count)).astype(np.uint8)
    return new


def main(paths: list[Path]) -> None:
    """A line a file and kind of change."""
    for path in paths:
        old = np.fromfile(path, np.uint8)
        for how in ("random", "steps", "layer"):
            new = changed(old, how)
            begun = time.perf_counter()
            made = delta.make(old.tobytes(), new.tobytes())
            seconds = time.perf_counter() - begun
            row = {"file": path.name, "bytes": old.size, "changed": how, "share": round(float((old != new).mean()), 4),
                   "sent_percent": round(100 * len(made) / old.size, 2), "seconds": round(seconds, 3)}  # fmt: skip
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    given = [Path(word) for word in sys.argv[1:]]
    main(given or sorted(path for path in SHARED.rglob("*") if path.suffix in (".tflite", ".onnx")))
