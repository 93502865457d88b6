"""Predictions of a probed profile against what artifacts take on this machine.

    edgekit devices probe -o here.toml
    python benchmarks/predict_artifacts.py FOLDER
    python benchmarks/predict_here.py here.toml FOLDER [--seconds 20]      # of each engine and number of threads

Times are the quickest turns of many short ones, all artifacts in turn, one thread by its own processor time (as the
probe measures): what the machine can do, whatever else it does. Prints a line an artifact and the summary.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from predict_artifacts import FOLDER, build

from edgekit import artifact
from edgekit.device_profiles import load_profile
from edgekit.formats import read_facts
from edgekit.measure.micro import Group, times
from edgekit.predict import predict
from edgekit.targets import boards

ENGINES = {".tflite": "litert", ".onnx": "onnxruntime"}
THREADS = (1, 2)


def ranks(values: list[float]) -> Any:
    return np.argsort(np.argsort(values))


def summary(measured: list[float], predicted: list[float]) -> dict[str, Any]:
    off = np.abs(np.log(np.array(predicted) / np.array(measured)))
    return {
        "n": len(measured),
        "median_error": round(float(np.median(np.expm1(off))), 3),
        "within_1.25": round(float((off <= np.log(1.25)).mean()), 3),
        "within_1.5": round(float((off <= np.log(1.5)).mean()), 3),
        "rank_correlation": round(float(np.corrcoef(ranks(measured), ranks(predicted))[0, 1]), 4),
    }


def _probed(folder: Path) -> Path:
    path = folder / "here.toml"
    path.write_text(boards.probe().profile, encoding="utf-8")
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("profile", nargs="?", help="probed anew without one")
    parser.add_argument("folder", type=Path, nargs="?", default=FOLDER)
    parser.add_argument("--seconds", type=float, default=20.0)
    wanted = parser.parse_args()
    if not wanted.folder.is_dir():
        build(wanted.folder)
    profile = load_profile(wanted.profile or _probed(wanted.folder))
    pairs: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for suffix, engine in ENGINES.items():
        paths = sorted(wanted.folder.glob(f"*{suffix}"))
        for threads in THREADS:
            seen = times(Group(engine, threads, tuple(map(str, paths))), wanted.seconds)
            for path, ns in zip(paths, seen, strict=True):
                found = predict(read_facts(artifact.read(path)), profile, engine=engine, threads=threads)
                told = found.latency["estimate"]
                if ns is None or told is None:
                    continue
                pairs.setdefault((engine, threads), []).append((ns / 1e6, told))
                line = {"artifact": path.name, "threads": threads, "measured_ms": round(ns / 1e6, 4),
                "predicted_ms": told,
                        "ratio": round(told / ns * 1e6, 3)}  # fmt: skip
                print(json.dumps(line), flush=True)
    for (engine, threads), some in pairs.items():
        print(json.dumps({"engine": engine, "threads": threads, **summary(*map(list, zip(*some, strict=True)))}))
    every = [pair for some in pairs.values() for pair in some]
    print(json.dumps({"all": True, **summary(*map(list, zip(*every, strict=True)))}))


if __name__ == "__main__":
    main()
