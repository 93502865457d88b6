"""`tune` on a real Dask cluster of several processes: a killed worker loses one trial, nothing is repeated."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from residual_nets import images, saved

from edgekit.tune.cluster import BOARD

pytest.importorskip("distributed", reason="comes with the dask extra")
pytest.importorskip("ai_edge_quantizer", reason="comes with the convert extra")


@contextmanager
def started(*arguments: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as file:
        process = subprocess.Popen([sys.executable, "-m", *arguments], stdout=file, stderr=file)
        try:
            yield process
        finally:
            process.kill()
            process.wait()


@contextmanager
def cluster(folder: Path, workers: int) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """A scheduler and workers, of which the last may measure."""
    said = folder / "scheduler.json"
    with ExitStack() as stack:
        options = ["--port", "0", "--no-dashboard", "--host", "127.0.0.1", "--scheduler-file", str(said)]
        stack.enter_context(started("distributed.cli.dask_scheduler", *options, log=folder / "scheduler.log"))
        until(lambda: said.exists() and said.stat().st_size > 0)
        found = []
        for number in range(workers):
            more = ["--resources", f"{BOARD}=1"] if number == workers - 1 else []
            log = folder / f"worker{number}.log"
            arguments = ["--nthreads", "1", "--no-nanny", "--no-dashboard", "--local-directory", str(folder)]
            arguments += ["--scheduler-file", str(said), *more]
            found.append(stack.enter_context(started("distributed.cli.dask_worker", *arguments, log=log)))
            until(lambda log=log: b"Registered to" in log.read_bytes())
        yield json.loads(said.read_text())["address"], found


def until(holds: Any) -> None:
    while not holds():
        time.sleep(0.02)


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("tune")
    graph = saved("onnx", folder, spread=1.0)
    np.savez(folder / "data.npz", image=images(graph, 60)["image"])
    data = str(folder / "data.npz")
    tried = ["--formats", "onnx", "--precisions", "fp32,fp16,int8", "--observers", "minmax", "--threads", "1"]
    return [
        "tune",
        graph.path,
        "--eval",
        data,
        "--calibration",
        data,
        "--max-drop",
        "5",
        "--seconds",
        "0.1",
        *tried,
        "--json",
    ]


def command(job: list[str], *more: str) -> list[str]:
    return [sys.executable, "-m", "edgekit", *job, *more]


def test_a_killed_worker_loses_one_trial_and_nothing_is_repeated(job, tmp_path):
    cache = tmp_path / "cache"
    with cluster(tmp_path, workers=3) as (address, workers):
        arguments = command(job, "--target", "local", "--scheduler", address, "--cache", str(cache))
        search = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        # Conversions are under way on all workers as soon as one is finished.
        until(lambda: list(cache.glob("*.json")) or search.poll() is not None)
        workers[0].send_signal(signal.SIGKILL)
        out, err = search.communicate()
        assert search.returncode == 0, (out + err).decode()
        document = json.loads(out)
        assert document["complete"]
        assert {trial["precision"] for trial in document["trials"]} >= {"fp32", "fp16", "int8"}
        assert all(trial["basis"] == "measured" for trial in document["trials"])
        # Another search, of another goal, finds everything done.
        again = subprocess.run([*arguments, "--goal", "size"], capture_output=True, check=True)
        counts = json.loads(again.stdout)["evaluations"]
        assert (counts["conversions"], counts["measurements"]) == (0, 0)
    # Without a cluster the artifacts are the same, from the same cache.
    alone = subprocess.run(command(job, "--target", "local", "--cache", str(cache)), capture_output=True, check=True)
    local = json.loads(alone.stdout)
    assert local["evaluations"]["conversions"] == 0
    assert local["front"] == document["front"]


def test_what_the_cluster_lacks_is_said_at_once(job, tmp_path):
    def failed(*more: str) -> dict[str, Any]:
        done = subprocess.run(command(job, *more, "--cache", str(tmp_path / "cache")), capture_output=True)
        assert done.returncode == 8
        error: dict[str, Any] = json.loads(done.stdout)["error"]
        return error

    with cluster(tmp_path, workers=0) as (address, _):
        assert failed("--device", "raspberry-pi-4b", "--scheduler", address)["code"] == "cluster-no-worker"


def test_versions_must_agree(monkeypatch):
    from edgekit.errors import UsageError
    from edgekit.tune import cache, cluster

    cluster._check_tools(cache.tools())
    with pytest.raises(UsageError, match=r"numpy .* instead of 0\.1") as error:
        cluster._check_tools({**cache.tools(), "numpy": "0.1"})
    assert error.value.code == "cluster-versions"
    assert os.environ.get("EDGEKIT_DEBUG") is None or error.value.message


def test_a_machine_converts_on_as_many_workers_as_it_has_cores():
    from edgekit.tune.cluster import room

    one = {"host": "desk", "nthreads": 1}
    desk = {f"desk:{number}": one for number in range(4)}
    cores = {**dict.fromkeys(desk, 2), "lab:1": 8, "lab:2": 8}
    assert room(desk, cores) == (2, ["desk:0", "desk:1"])
    # The first is lost: one that waited takes its place.
    del desk["desk:0"]
    assert room(desk, cores) == (2, ["desk:1", "desk:2"])
    lab = {"lab:1": {"host": "lab", "nthreads": 6}, "lab:2": {"host": "lab", "nthreads": 6}}
    assert room({**desk, **lab}, cores) == (10, ["desk:1", "desk:2", "lab:1", "lab:2"])
    # Nobody is left, or knows: one at a time.
    assert room({}, {}) == (1, [])
    assert room({"far:1": {"host": "far", "nthreads": 4}}, {}) == (1, ["far:1"])
