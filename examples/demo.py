"""The whole job on real data in a minute: train, convert to int8 for a Raspberry Pi 4B, verify, measure, run.

The data is scikit-learn's bundled set of 1,797 handwritten digits (8x8 pixels), the model a small Keras CNN. Every step
after training is the command that you would type; it is printed before it runs.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

FOLDER = Path("demo")
COMMANDS = (
    (
        "convert demo/digits.keras -o demo/digits.tflite --precision int8 --device raspberry-pi-4b"
        " --calibration demo/calibration.npz --eval demo/evaluation.npz --labels demo/labels.txt"
    ),
    "check demo/digits.tflite --device raspberry-pi-4b",
    "verify demo/digits.tflite",
    "bench demo/digits.tflite --threads 1 --seconds 1",
    "run demo/digits.tflite demo/sample.npy",
)


def main() -> int:
    """Run the demo in the folder `demo`."""
    if sys.argv[1:] == ["train"]:
        train()
        return 0
    if not (FOLDER / "digits.keras").exists():
        print("training a small CNN on scikit-learn's digits ...", flush=True)
        # In a process of its own, because TensorFlow's greetings cannot be silenced from inside.
        done = subprocess.run([sys.executable, __file__, "train"], stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            print(done.stderr, file=sys.stderr)
            return done.returncode
    for command in COMMANDS:
        print(f"\n$ edgekit {command}", flush=True)
        done = subprocess.run([sys.executable, "-m", "edgekit", *shlex.split(command)], check=False)
        if done.returncode:
            return done.returncode
    print(f"\nThe sample is a handwritten {(FOLDER / 'sample.txt').read_text()}.")
    return 0


def train() -> None:
    """Train the CNN and write it, its data splits and one sample into the folder."""
    import keras
    import numpy as np
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    keras.utils.set_random_seed(0)
    x, y = load_digits(return_X_y=True)
    images = (x / 16).astype(np.float32).reshape(-1, 8, 8, 1)
    x_train, x_test, y_train, y_test = train_test_split(images, y, test_size=0.3, random_state=0, stratify=y)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1), name="image"),
            keras.layers.Conv2D(16, 3, padding="same", activation="relu"),
            keras.layers.Conv2D(32, 3, padding="same", strides=2, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dense(10, activation="softmax", name="digit"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x_train, y_train, epochs=15, batch_size=32, verbose=0)
    loss, accuracy = model.evaluate(x_test, y_test, verbose=0)
    print(f"test accuracy of the float model: {100 * accuracy:.2f} % (loss {loss:.3f})", flush=True)
    FOLDER.mkdir(exist_ok=True)
    np.savez(FOLDER / "calibration.npz", x=x_train[:200], y=y_train[:200])
    np.savez(FOLDER / "evaluation.npz", x=x_test, y=y_test)
    np.save(FOLDER / "sample.npy", x_test[:1])
    (FOLDER / "sample.txt").write_text(str(y_test[0]))
    (FOLDER / "labels.txt").write_text("\n".join(map(str, range(10))) + "\n")
    model.save(FOLDER / "digits.keras")  # last: its presence says that all the rest is there


if __name__ == "__main__":
    sys.exit(main())
