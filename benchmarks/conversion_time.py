"""Wall time of a whole int8 conversion, verification included, beside a bare script that only converts.

    python benchmarks/conversion_time.py [PAIRS]

The bare script imports TensorFlow, loads the model, and runs its converter with the same calibration samples. Both are
fresh processes, in turn, so that a slow moment of the machine hits both. Prints JSON.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

SHARED = Path(__file__).resolve().parents[2] / "shared"
BARE = """
import sys, numpy as np, tensorflow as tf
model = tf.keras.models.load_model(sys.argv[1], compile=False)
samples = np.load(sys.argv[2])["x"]
converter = tf.lite.TFLiteConverter.from_keras_model(model)
converter.optimizations = [tf.lite.Optimize.DEFAULT]
converter.representative_dataset = lambda: ([sample[None]] for sample in samples)
converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
converter.inference_input_type = converter.inference_output_type = tf.int8
open(sys.argv[3], "wb").write(converter.convert())
"""


def seconds(command: list[str]) -> float:
    """Wall time of one process that must succeed."""
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started


def main(pairs: int) -> None:
    """Interleaved pairs; the ratio is the median of the pairs' ratios."""
    model = SHARED / "models/ic_resnet8/resnet8.h5"
    if not model.exists():
        print(json.dumps({"skipped": "the trained models are not beside the checkout"}))
        return
    stored = np.load(SHARED / "data/cifar10_jpeg_1000.npz")
    order = np.random.default_rng(0).permutation(1000)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        x, y = stored["x"].astype(np.float32), stored["y"].astype(np.int64)
        np.savez(folder / "c.npz", x=x[order[:100]], y=y[order[:100]])
        np.savez(folder / "e.npz", x=x[order[100:]], y=y[order[100:]])
        bare = [sys.executable, "-c", BARE, str(model), str(folder / "c.npz"), str(folder / "bare.tflite")]
        ours = [sys.executable, "-m", "edgekit", "convert", str(model), "-o", str(folder / "ours.tflite")]
        ours += ["--precision", "int8", "--calibration", str(folder / "c.npz"), "--eval", str(folder / "e.npz")]
        seconds(ours)  # once, so that both find their files cached
        times = [(seconds(bare), seconds(ours)) for _ in range(pairs)]
    print(
        json.dumps(
            {
                "model": "ic_resnet8",
                "pairs": pairs,
                "bare_seconds": round(statistics.median(t[0] for t in times), 2),
                "edgekit_seconds": round(statistics.median(t[1] for t in times), 2),
                "ratio": round(statistics.median(t[1] / t[0] for t in times), 3),
                "asked": 1.5,
            }
        )
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
