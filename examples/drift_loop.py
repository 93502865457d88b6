"""A model's life in a minute: trained, deployed, watched, collected, retrained, redeployed.

    python examples/drift_loop.py build/drift                             # this machine is the board
    python examples/drift_loop.py build/drift emulator:raspberry-pi-4b    # Arm instructions, the board's own wheels

The data is scikit-learn's handwritten digits (8x8 pixels), written by 13 people. The model learns the hands of some;
then others write, at a slant, before a camera that rustles. The monitor notices, the capture keeps what matters,
somebody who knows labels it (here an oracle), and a model that learned from it replaces the old one, if it forgot
nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import edgekit
from edgekit import report
from edgekit.collect import collect, dataset, drift
from edgekit.deploy import fleet
from edgekit.monitor.records import digest
from edgekit.targets import open_target

NAME = "digits"
Arrays = tuple[Any, Any]


def main(folder: Path, target: str = "local") -> dict[str, Any]:
    """The whole loop; returns, and writes into `loop.json`, what happened."""
    folder.mkdir(parents=True, exist_ok=True)
    data = digits()
    tell("train and convert")
    model = fit(*data["train"])
    artifact = edgekit.convert(
        model, output=folder / "digits-1.tflite", calibration=data["train"][0], evaluation=data["test"],
        metadata={"interpret": {"task": "classification", "labels": [str(n) for n in range(10)]}},
    )  # fmt: skip

    with board(target, folder) as app:
        tell("deploy, and answer what the model was made for")
        asked = fleet.Deployment(folder / "digits-1.tflite", NAME, str(folder / "store"), seconds=1.0)
        fleet.deploy(asked, target)
        before = app("healthy", *data["usual"])

        tell("new writers, a slant, noise")
        after = app("drifted", *data["met"])

        tell("collect, and label what was captured")
        with edgekit.load(artifact) as opened:
            name = opened.inputs[0].name
        oracle = {digest({name: one}): str(label) for one, label in zip(*data["met"], strict=True)}
        captures = str(folder / "captures-drifted")
        collect([target], folder / "dataset", captures=captures)
        ids = [entry.id for entry in dataset.read(folder / "dataset").samples]
        collected = collect([], folder / "dataset", labels={key: oracle[key] for key in ids})
        summary = drift.summary([folder / "dataset"])
        report.write(summary, "drift", folder / "drift.html")

        tell("retrain, verify, deploy")
        done = edgekit.retrain(
            retrained, model, artifact, data["train"], folder / "dataset", old_test=data["test"], max_drop=3.0,
            output=folder / "digits-2.tflite", deploy=asked, targets=[target],
        )  # fmt: skip
        healed = app("healed", *data["later"])

    seen = {
        "target": target, "healthy": before, "drifted": after, "healed": healed,
        "collected": {"samples": collected.samples, "labelled": collected.labelled, "form": collected.form},
        "accuracy": summary["accuracy"], "strata": summary["strata"],
        "judged": [{"data": one.data, "before": one.before, "after": one.after} for one in done.judged],
        "version": done.deployed[0].installed.number if done.deployed[0].installed else None,
    }  # fmt: skip
    (folder / "loop.json").write_text(json.dumps(seen, indent=1) + "\n")
    for name in ("healthy", "drifted", "healed"):
        alarms = seen[name]["alarms"]
        print(f"{name}: {seen[name]['right']:.1f} % right, {len(alarms)} alarms{': ' + alarms[0] if alarms else ''}")
    print(f"the report: {folder / 'drift.html'}")
    return seen


def digits() -> dict[str, Arrays]:
    """The parts of the data, each (x float32 [n,64], y)."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    x = x.astype(np.float32)
    order = np.random.default_rng(0).permutation(1100)
    train, test, usual = order[:500], order[500:800], order[800:]
    others = np.random.default_rng(1).permutation(np.arange(1100, len(y)))  # their hands come last in the set
    met, later = others[:400], others[400:]
    return {
        "train": (x[train], y[train]), "test": (x[test], y[test]), "usual": (x[usual], y[usual]),
        "met": (slanted(x[met], 2), y[met]), "later": (slanted(x[later], 3), y[later]),
    }  # fmt: skip


def slanted(x: Any, seed: int, degrees: float = 20.0, noise: float = 1.5) -> Any:
    """Digits turned, and with noise on every pixel (of 0 to 16)."""
    from scipy.ndimage import rotate

    turned = np.stack([rotate(one.reshape(8, 8), degrees, reshape=False, order=1).reshape(64) for one in x])
    noisy = turned + np.random.default_rng(seed).normal(size=turned.shape) * noise
    return np.clip(noisy, 0, 16).astype(np.float32)


def fit(x: Any, y: Any) -> Any:
    """A small network."""
    from sklearn.neural_network import MLPClassifier

    return MLPClassifier((64,), alpha=1e-2, max_iter=600, random_state=0).fit(x, y)


def retrained(model: Any, old: Any, new: Any) -> Any:
    """What `edgekit.retrain` asks for: a model that knows both. The few new samples count as much as the many old."""
    del model  # scikit-learn begins anew; a Keras or PyTorch model would go on from it
    times = max(1, len(old) // (2 * len(new)))
    return fit(np.concatenate([old.x] + [new.x] * times), np.concatenate([old.y] + [new.y] * times))


@contextlib.contextmanager
def board(target: str, folder: Path) -> Iterator[Any]:
    """Runs the app on a stream there: (name, x, y) -> its alarms, and the share that it answered right."""
    with open_target(target) as place:
        python = getattr(place, "python", sys.executable)
        modules = getattr(place, "modules", None)
        environment = {**os.environ, **({"PYTHONPATH": str(modules)} if modules else {})}

        def app(name: str, x: Any, y: Any) -> dict[str, Any]:
            np.savez(folder / f"{name}.npz", x=x)
            words = [folder / "store", folder / f"captures-{name}", folder / f"{name}.npz"]
            command = [str(python), str(Path(__file__).with_name("drift_board.py")), *map(str, words)]
            done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
            said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
            right = float(100 * np.mean(np.asarray(said.pop("answers"), int) == y))
            return {**said, "right": right, "samples": len(y)}

        yield app


def tell(words: str) -> None:
    """What comes now."""
    print(f"... {words}", flush=True)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]), *sys.argv[2:])
