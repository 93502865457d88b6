"""`edgekit serve` on an emulated board: start, memory, and the answers that Triton's own client gets there.

    edgekit emulator setup raspberry-pi-4b
    python benchmarks/serve_board.py MODEL.tflite [--board raspberry-pi-4b]

needs Triton's client here (`make` installs it), and downloads the board's wheels of httptools and orjson. Answers are
compared with those of this machine's engine. Times mean nothing under emulation.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np

import edgekit
from edgekit.targets import emulator, systems

START = """
import json, sys
from edgekit.serve.settings import Settings, Serving
from edgekit.serve.start import start
serving = Serving(threads=1, deadline_ms=300_000, watchdog=300, start_seconds=600)
settings = Settings(port=0, cores=1, serving=serving)
start((sys.argv[1],), settings, announce=lambda about: print(json.dumps(about), flush=True))
"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("--board", default="raspberry-pi-4b")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, emulator.open_target(options.board) as board:
        modules(Path(folder))
        process = subprocess.Popen(
            [str(board.python), "-P", "-c", START, str(options.model.resolve())],
            env={**os.environ, "PYTHONPATH": folder}, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            about = json.loads(process.stdout.readline())
            sizes = {name: resident(pid) for name, pid in zip(("server", "worker"), family(process.pid), strict=False)}
            compare(options.model, about["addresses"][0], options.board, sizes)
        finally:
            process.send_signal(signal.SIGTERM)
            print(json.dumps({"what": "stopped", "exit": process.wait(60)}))


def modules(folder: Path) -> None:
    """EdgeKit's own, laid out as a wheel has them, and the board's wheels of what serving needs."""
    root = Path(__file__).resolve().parents[1]
    shutil.copytree(
        root / "edgekit", folder / "edgekit", ignore=lambda _, names: {"converters", "runtimes", "cli"} & set(names)
    )
    shutil.copytree(root / "runtimes", folder / "edgekit" / "runtimes")
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "--python-version",
         systems.PYTHON, "--platform", "manylinux_2_28_aarch64", "--platform", "manylinux2014_aarch64",
         "-d", str(folder), "httptools", "orjson"], check=True,
    )  # fmt: skip
    for wheel in folder.glob("*.whl"):
        with zipfile.ZipFile(wheel) as packed:
            packed.extractall(folder)


def compare(model: Path, address: str, board: str, sizes: dict[str, float]) -> None:
    from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput

    client = InferenceServerClient(address.partition("://")[2], connection_timeout=300, network_timeout=300)
    name = model.stem
    alive = client.is_server_live(), client.is_server_ready(), client.is_model_ready(name)
    about = client.get_model_metadata(name)
    rows, equal, largest = 20, 0, 0.0
    with edgekit.load(model, threads=1) as here:
        dice = np.random.default_rng(0)
        for row in range(rows):
            feeds, inputs = {}, []
            for given in about["inputs"]:
                shape = [1 if size < 0 else size for size in given["shape"]]
                feeds[given["name"]] = dice.random(shape, np.float32)
                asked = InferInput(given["name"], shape, given["datatype"])
                asked.set_data_from_numpy(feeds[given["name"]], binary_data=row % 2 == 0)
                inputs.append(asked)
            outputs = [InferRequestedOutput(o["name"], binary_data=row % 4 < 2) for o in about["outputs"]]
            found = client.infer(name, inputs, outputs=outputs)
            wanted = here.run(feeds)
            off = max(float(np.max(np.abs(found.as_numpy(output) - array))) for output, array in wanted.items())
            largest = max(largest, off)
            equal += off == 0
    client.close()
    print(json.dumps({
        "what": "emulated", "board": board, "model": name, "live_ready_model": alive, "versions": about["versions"],
        "answers": rows, "equal_to_here": equal, "largest_difference": largest, "rss_mib_with_qemu": sizes,
    }), flush=True)  # fmt: skip


def family(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *map(int, children)]


def resident(pid: int) -> float:
    return round(int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) / 1024, 1)


if __name__ == "__main__":
    main()
