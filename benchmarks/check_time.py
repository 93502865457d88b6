"""How long `edgekit check` takes beside loading the same file: whole processes, and inside one.

    python benchmarks/check_time.py FILE... [--rounds 7]

Loading: a process that imports the engine and opens the file (`edgekit.load`). Checking: `edgekit check FILE --device
raspberry-pi-4b --json`. Both are run in turns, and the medians compared. Prints a JSON line a file and the worst ratio.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import edgekit
from edgekit import cli

LOAD = "import sys, edgekit\nedgekit.load(sys.argv[1], threads=1)"
CHECK = "import sys\nfrom edgekit.cli import run\nrun(['check', sys.argv[1], '--device', 'raspberry-pi-4b', '--json'])"


def seconds(code: str, path: Path, cache: str) -> float:
    """Of a process; its modules are compiled, as an installed package's are."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", code, str(path)], check=True, capture_output=True,
        env={**environment, "PYTHONPYCACHEPREFIX": cache},
    )  # fmt: skip
    return time.perf_counter() - began


def inside(path: Path) -> tuple[float, float]:
    """Opening and checking in this process, everything imported."""
    began = time.perf_counter()
    edgekit.load(path, threads=1).close()
    opened = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        cli.run(["check", str(path), "--device", "raspberry-pi-4b", "--json"])
    return opened - began, time.perf_counter() - opened


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    worst = 0.0
    for path in given.files:
        with tempfile.TemporaryDirectory() as cache:
            whole = [(seconds(LOAD, path, cache), seconds(CHECK, path, cache)) for _ in range(given.rounds + 1)][1:]
        within = [inside(path) for _ in range(given.rounds + 1)][1:]
        load, check = (statistics.median(column) for column in zip(*whole, strict=True))
        opening, checking = (statistics.median(column) for column in zip(*within, strict=True))
        worst = max(worst, check / load)
        row = {"file": path.name, "load_s": load, "check_s": check, "ratio": check / load,
               "inside_load_ms": 1000 * opening, "inside_check_ms": 1000 * checking}  # fmt: skip
        print(json.dumps({key: round(v, 4) if isinstance(v, float) else v for key, v in row.items()}), flush=True)
    print(json.dumps({"worst_ratio": round(worst, 3)}))
    return 0 if worst <= 1.5 else 1


if __name__ == "__main__":
    raise SystemExit(main())
