"""Every example on emulated boards, by the wheel for boards: what it says there beside what it says here.

    edgekit emulator setup raspberry-pi-4b raspberry-pi-zero-2w-32bit
    python examples/make.py build/examples
    python benchmarks/emulated_examples.py build/examples [--board NAME ...]

One JSON line an example and board. Of EdgeKit only `edgekit-runtime` is there; times mean nothing and are left out.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from edgekit.targets import emulator

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
BOARDS = ("raspberry-pi-4b", "raspberry-pi-zero-2w-32bit")
_TIMES = re.compile(r"[\d.]+ (?:ms|s|us)\b|edgekit_\S*seconds\S* \S+")


def apps(made: Path, folder: Path) -> dict[str, list[str]]:
    """Arguments of each: its artifact and what it looks at, as arrays, because boards decode no photos."""
    photo = Image.open(SHARED / "data/photos/face.jpg").convert("RGB")
    np.savez(folder / "faces.npz", x=np.asarray(photo)[None])
    things = {
        "breast_cancer": ["breast_cancer.csv"],
        "anomaly_detector": ["anomaly_strange.csv"],
        "recommender": ["recommender_catalog.npz", "recommender_liked.npz"],
        "keyword_spotting": ["keywords.wav"],
        "face_detection": [str(folder / "faces.npz")],
        "people_counter": [str(SHARED / "data/vww_mini_35.npz")],
    }
    return {name: [str(made / f"{name}.tflite"), *(str(made / one) for one in given)] for name, given in things.items()}


def modules(folder: Path) -> int:
    """The wheel for boards, unpacked; its size."""
    built = folder / "wheel"
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(built)]
    subprocess.run([*command, str(ROOT / "distributions/runtime")], check=True, capture_output=True)
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(folder / "site")
    return wheel.stat().st_size


def said(python: str, name: str, arguments: list[str], path: str | None) -> tuple[int, str]:
    environment = {**os.environ, **({"PYTHONPATH": path} if path else {})}
    command = [python, str(ROOT / "examples" / f"{name}.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    return done.returncode, done.stdout if done.returncode == 0 else done.stderr[-800:]


def judged(here: str, there: str) -> dict[str, Any]:
    """Lines that differ, times aside."""
    one, two = (_TIMES.sub("-", text).splitlines() for text in (here, there))
    different = [
        line for line in difflib.unified_diff(one, two, lineterm="", n=0) if line[:2] not in ("--", "++", "@@")
    ]
    return {"lines": len(one), "different": len(different) // 2, "first": different[:2]}


def main() -> None:
    """All of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("made", type=Path)
    parser.add_argument("--board", nargs="*", default=BOARDS)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        size = modules(folder)
        jobs = apps(chosen.made.resolve(), folder)
        expected = {name: said(sys.executable, name, arguments, None)[1] for name, arguments in jobs.items()}
        for board in chosen.board:
            with emulator.open_target(board) as place:
                for name, arguments in jobs.items():
                    code, text = said(str(place.python), name, arguments, str(folder / "site"))
                    seen = judged(expected[name], text) if code == 0 else {"failed": text}
                    print(json.dumps({"board": board, "example": name, "wheel_bytes": size, "exit": code, **seen}),
                          flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
