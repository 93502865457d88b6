"""Predicted against measured memory of a process that opens and runs a model, and the TFLite arena to the byte.

    python benchmarks/memory.py FILE... [--threads 1]

For each `.tflite` and `.onnx`: the highest resident memory of a fresh process that imports the engine, opens the file
by `edgekit.load` and runs it three times, beside what `edgekit.memory` says (within 10 % or 2 MB is asked for). For
`.tflite` also every tensor's place, by the interpreter's own pointers, beside the plan, with and without XNNPACK.
Prints a JSON line a file, and what it comes to.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from edgekit import artifact
from edgekit.formats import read_facts
from edgekit.memory import predict
from edgekit.memory.tflite import arena_of

RUN = """
import json, sys
import numpy as np
import edgekit
def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) / 1024
with edgekit.load(sys.argv[1], threads=int(sys.argv[2]) or None) as model:
    opened = peak()
    feeds = {spec.name: np.ones([size or 1 for size in spec.shape], spec.dtype) for spec in model.inputs}
    for _ in range(3):
        model.run(feeds, raw=True)
    print(json.dumps([opened, peak()]))
"""


def measured(path: Path, threads: int, modules: Path | None = None) -> tuple[float, float]:
    """MiB until it is open, and at the end; `modules`: where `libraries` copied the engines to."""
    command = [sys.executable, "-c", RUN, str(path), str(threads)]
    environment = {**os.environ, **({"PYTHONPATH": str(modules)} if modules else {})}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    opened, ran = json.loads(done.stdout.splitlines()[-1])
    return opened, ran


def libraries(folder: Path) -> Path:
    """Copies of numpy and the engines as they are on a board after a start: on the disk, and not in memory.

    What an installation has just written lies in memory in large pieces, and counts for a process by the piece: 11 MiB
    more for onnxruntime's libraries than when they were read from the disk, 8 for LiteRT's.
    """
    for name in ("numpy", "numpy.libs", "onnxruntime", "ai_edge_litert"):
        found = [Path(place) / name for place in sys.path if (Path(place) / name).is_dir()]
        if found:
            shutil.copytree(found[0], folder / name)
    for file in (file for file in folder.rglob("*") if file.is_file()):
        with open(file, "rb") as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return folder


def places(path: Path, threads: int, *, plain: bool) -> tuple[dict[int, tuple[int, int]], int]:
    """Tensor -> (address, bytes) in the interpreter's memory, and how many parts it gave to XNNPACK."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    kernels = {"experimental_op_resolver_type": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES} if plain else {}
    data = path.read_bytes()
    interpreter = Interpreter(model_content=data, num_threads=threads, **kernels)
    interpreter.allocate_tensors()
    start = np.frombuffer(data, np.uint8).__array_interface__["data"][0]
    found = {}
    for detail in interpreter.get_tensor_details():
        try:
            view = interpreter.tensor(detail["index"])()
        except ValueError:  # it has no place
            continue
        address = view.__array_interface__["data"][0]  # of a single number it is a copy's
        if view.nbytes and detail["shape"].size and not start <= address < start + len(data):
            found[detail["index"]] = (address, view.nbytes)
    return found, sum(op["op_name"] == "DELEGATE" for op in interpreter._get_ops_details())  # noqa: SLF001


def arena(path: Path, threads: int, *, plain: bool) -> dict[str, Any]:
    """The arena's bytes as planned and as the interpreter has it; its start is the lowest tensor's."""
    graph = read_facts(artifact.read(path)).graphs[0]
    plan = arena_of(graph, delegate=not plain, threads=threads)
    there, parts = places(path, threads, plain=plain)
    if plan.layout is None:
        return {"planned": None}
    mine = {key: place for key, place in plan.layout.places.items() if key in there}
    if not mine:
        return {"planned": None}
    start = min(there[key][0] for key in mine)
    theirs = max(there[key][0] + there[key][1] for key in mine) - start
    return {
        "planned": max(place.offset + place.bytes for place in mine.values()), "interpreter": theirs,
        "misplaced": sum(there[key][0] - start != place.offset for key, place in mine.items()),
        "parts": [sum(part.delegated for part in plan.parts), parts], "exact": plan.exact,
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--threads", type=int, default=1, help="0 for the engine's own choice")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        return report(given.files, given.threads, libraries(Path(folder)))


def report(files: list[Path], threads: int, modules: Path) -> int:
    """A line a file; 1 when one does not hold."""
    within = exact = plans = 0
    errors = []
    for path in files:
        facts = read_facts(artifact.read(path))
        engine = "litert" if facts.format == "tflite" else "onnxruntime"
        said = predict(facts, engine=engine, machine=platform.machine(), threads=threads or None)
        opened, ran = measured(path, threads, modules)
        off = said.peak_mib - ran
        holds = abs(off) <= max(2.0, 0.1 * ran)
        within += holds
        errors.append(abs(off) / ran)
        row: dict[str, Any] = {
            "file": path.name, "predicted": said.peak_mib, "measured": round(ran, 2), "error": round(off / ran, 4),
            "predicted_open": said.load_mib, "measured_open": round(opened, 2), "holds": holds,
            "lower_bound": said.lower_bound,
        }  # fmt: skip
        if facts.format == "tflite":
            row["arena"] = arena(path, threads or 1, plain=False)
            row["arena_plain"] = arena(path, threads or 1, plain=True)
            for one in (row["arena"], row["arena_plain"]):
                if one.get("exact"):
                    plans += 1
                    exact += one["planned"] == one["interpreter"]
        print(json.dumps(row), flush=True)
    summary = {
        "files": len(files), "within": within, "mean_error": round(sum(errors) / len(errors), 4),
        "worst": round(max(errors), 4), "arenas": plans, "arenas_exact": exact,
    }  # fmt: skip
    print(json.dumps(summary))
    return 0 if within == len(files) and exact == plans else 1


if __name__ == "__main__":
    raise SystemExit(main())
