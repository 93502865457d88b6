"""Layers that mixed precision lifts on the hard classifiers, beside those that NNCF's accuracy control reverts.

    python benchmarks/mixed_peers.py NNCF_PYTHON [NET ...]

NNCF_PYTHON is the interpreter of an environment with nncf, onnx and onnxruntime. Both get the same float model, the
same 100 calibration samples and the same labelled evaluation data, and may lose half a point. Prints JSON lines.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "convert"))
MAX_DROP = 0.5
NNCF = """
import json, logging, io, sys, time
import nncf, numpy as np, onnx, onnxruntime
model, calibration, evaluation = onnx.load(sys.argv[1]), np.load(sys.argv[2])["x"], np.load(sys.argv[3])
x, y, name = evaluation["x"], evaluation["y"], model.graph.input[0].name
validations = 0
def right(proto, items):
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return [float(session.run(None, {name: x[i][None]})[0].argmax() == y[i]) for i in items]
def validate(proto, items):
    global validations
    validations += 1
    found = right(proto, list(items))
    return float(np.mean(found)), found
log = io.StringIO()
logging.getLogger("nncf").addHandler(logging.StreamHandler(log))
made = nncf.quantize_with_accuracy_control(
    model, nncf.Dataset(list(calibration), lambda one: {name: one[None]}), nncf.Dataset(list(range(len(y)))), validate,
    max_drop=float(sys.argv[4]) / 100, drop_type=nncf.DropType.ABSOLUTE, subset_size=len(calibration))
said = [line for line in log.getvalue().splitlines() if "were reverted" in line]
drop = 100 * (np.mean(right(model, range(len(y)))) - np.mean(right(made, range(len(y)))))
print(json.dumps({"lifted": int(said[-1].split(" out of ")[0]) if said else 0, "drop": round(float(drop), 2),
                  "verifications": validations}))
"""


def ours(folder: Path, name: str, format: str) -> dict[str, object]:
    source, calibration, evaluation = paths(folder, name)
    command = [
        sys.executable, "-m", "edgekit", "convert", str(source), "-o", str(folder / f"{name}.mixed.{format}"), "--json",
        "--precision", "mixed", "--calibration", str(calibration), "--eval", str(evaluation),
        "--max-drop", str(MAX_DROP), "--task", "classification", "--lift-cache", str(folder / "kept"),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    document = json.loads(done.stdout)
    if done.returncode:
        return {"error": document["error"]["message"]}
    lifted = [one for one in document["lifted"] if not one.startswith(("Relu", "Clip"))]
    said = next(warning for warning in document["warnings"] if warning.startswith("mixed:"))
    return {"lifted": len(lifted), "drop": round(document["verification"]["metric"]["drop"], 2), "search": said}


def paths(folder: Path, name: str) -> tuple[Path, Path, Path]:
    return folder / f"{name}.onnx", folder / f"{name}.calibration.npz", folder / f"{name}.evaluation.npz"


def main() -> None:
    import hard_nets

    python, *wanted = sys.argv[1:]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for name in wanted or hard_nets.NETS:
            hard = hard_nets.make(name)
            if hard.labels is None:
                continue  # NNCF's control wants one number a sample
            source, calibration, evaluation = paths(folder, name)
            hard_nets.export(hard, source)
            np.savez(calibration, x=hard.calibration[:100])
            np.savez(evaluation, x=hard.evaluation, y=hard.labels)
            command = [python, "-c", NNCF, str(source), str(calibration), str(evaluation), str(MAX_DROP)]
            peer = subprocess.run(command, capture_output=True, text=True, check=False)
            found = {"nncf": json.loads(peer.stdout.splitlines()[-1]) if not peer.returncode else peer.stderr[-300:]}
            for format in ("onnx", "tflite"):
                found[format] = ours(folder, name, format)
            print(json.dumps({"net": name, **found}), flush=True)


if __name__ == "__main__":
    main()
