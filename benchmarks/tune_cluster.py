"""Time of 16 trials on a Dask cluster of four workers on this machine, one of them killed at work, against one worker.

    python benchmarks/tune_cluster.py [MODEL DATA]

Both start with an empty cache and workers that have imported nothing. Data is an .npz for both calibration and
evaluation; by default a network of the digits of scikit-learn is trained.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path

from edgekit import files
from edgekit.options import Options
from edgekit.tune import execute, space
from edgekit.tune.cache import Cache
from edgekit.tune.cluster import Cluster
from edgekit.tune.evaluate import Place
from edgekit.tune.execute import Evaluator
from edgekit.tune.search import Convert
from edgekit.tune.trial import Made

TRIALS = 16


def spawn(stack: ExitStack, log: Path, *arguments: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-m", *arguments], stdout=log.open("wb"), stderr=subprocess.STDOUT)
    stack.callback(lambda: (process.kill(), process.wait()))
    return process


def _converts(worker: int) -> bool:
    """Whether it has child processes."""
    return any(path.read_text().strip() for path in Path(f"/proc/{worker}/task").glob("*/children"))


def search(model: Path, data: Path, folder: Path, workers: int, *, kill: bool) -> dict[str, object]:
    folder.mkdir()
    said, cache = folder / "scheduler.json", folder / "cache"
    with ExitStack() as stack:
        common = ["--no-dashboard", "--scheduler-file", str(said)]
        spawn(stack, folder / "s.log", "distributed.cli.dask_scheduler", "--port", "0", "--host", "127.0.0.1", *common)
        while not said.exists() or not said.stat().st_size:
            time.sleep(0.05)
        each = [
            "distributed.cli.dask_worker",
            "--nthreads",
            "1",
            "--no-nanny",
            "--local-directory",
            str(folder),
            *common,
        ]
        logs = [folder / f"w{number}.log" for number in range(workers)]
        found = [spawn(stack, log, *each) for log in logs]
        while not all(b"Registered to" in log.read_bytes() for log in logs):
            time.sleep(0.05)
        address = json.loads(said.read_text())["address"]
        options = Options(
            device="raspberry-pi-4b", max_drop=5.0, calibration=data, evaluation=data, task="classification"
        )
        work = execute.work(model, files.sha256(model), options, Place(None, options.device))
        kept = Cache(cache)
        tried = space.build(("onnx", "tflite"), calibrated=True, threads=(1,)).recipes
        jobs = [Convert(recipe) for recipe in tried if recipe.precision in ("int8", "int16x8")][:TRIALS]
        started = time.perf_counter()
        cluster = Cluster(address, work, kept, lambda _: None)
        stack.callback(cluster.close)
        evaluator = Evaluator(work, kept, cluster, lambda _, wanted: wanted)
        if kill:

            def shoot() -> None:
                while len(list(cache.glob("*.json"))) < 3:
                    time.sleep(0.02)
                next(one for one in found if _converts(one.pid)).send_signal(signal.SIGKILL)

            threading.Thread(target=shoot, daemon=True).start()
        results = evaluator.answer(jobs)
        seconds = time.perf_counter() - started
    made = sum(isinstance(result, Made) for result in results or ())
    return {
        "workers": workers,
        "killed": int(kill),
        "seconds": round(seconds, 1),
        "trials": len(jobs),
        "artifacts": made,
    }


def digits(folder: Path) -> tuple[Path, Path]:
    """A small network of convolutions, trained for a second."""
    import numpy as np
    import torch
    from sklearn.datasets import load_digits

    found = load_digits()
    order = np.random.default_rng(0).permutation(len(found.target))
    x, y = (found.images[order, None] / 16).astype(np.float32), found.target[order]
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 16, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(16, 32, 3, padding=1), torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(32, 10),
    )  # fmt: skip
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(150):
        pick = torch.randint(len(x), (128,))
        loss = torch.nn.functional.cross_entropy(net(torch.from_numpy(x)[pick]), torch.from_numpy(y)[pick])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    net.eval()
    torch.onnx.export(
        net, (torch.from_numpy(x[:2]),), folder / "net.onnx", input_names=["image"], output_names=["scores"],
        dynamic_shapes=({0: torch.export.Dim("N")},), dynamo=True, external_data=False,
    )  # fmt: skip
    np.savez(folder / "data.npz", image=x[:600], y=y[:600])
    return folder / "net.onnx", folder / "data.npz"


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, data = (Path(sys.argv[1]), Path(sys.argv[2])) if len(sys.argv) == 3 else digits(folder)
        one = search(model, data, folder / "one", 1, kill=False)
        print(json.dumps(one), flush=True)
        four = search(model, data, folder / "four", 4, kill=True)
        print(json.dumps(four), flush=True)
        print(json.dumps({"ratio": round(float(str(four["seconds"])) / float(str(one["seconds"])), 2), "asked": 0.6}))


if __name__ == "__main__":
    main()
