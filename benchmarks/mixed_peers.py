"""Layers that mixed precision lifts on the hard networks, beside those that NNCF's accuracy control reverts.

    python benchmarks/mixed_peers.py NNCF_PYTHON [NET ...]

NNCF_PYTHON is the interpreter of an environment with nncf, onnx and onnxruntime. Both get the same float model, the
same 100 calibration samples and the same evaluation data, and may lose half a point: of the labels, or of the float
detector's detections, where EdgeKit goes by its own verification and what it kept is counted behind. Where NNCF's
"quantized" is 0 it gave the float model back. Prints JSON lines.
"""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

NETS = str(Path(__file__).resolve().parents[1] / "tests" / "convert")
sys.path.insert(0, NETS)
MAX_DROP = 0.5
NNCF = """
import json, logging, io, sys, time
import nncf, numpy as np, onnx, onnxruntime
exec("from __future__ import annotations\\n" + sys.argv[5])
model, calibration, evaluation = onnx.load(sys.argv[1]), np.load(sys.argv[2])["x"], np.load(sys.argv[3])
x, name = evaluation["x"], model.graph.input[0].name
validations = 0
def answers(proto, items):
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return [session.run(None, {name: x[i][None]})[0] for i in items]
y = evaluation["y"] if "y" in evaluation else None
floats = answers(model, range(len(x))) if y is None else None
def right(proto, items):
    found = zip(items, answers(proto, items))
    share = lambda i, one: kept(floats[i], one) if (floats[i][..., 4] > 0.5).any() else 1.0
    return [float(one.argmax() == y[i]) if floats is None else share(i, one) for i, one in found]
def validate(proto, items):
    global validations
    validations += 1
    found = right(proto, list(items))
    return float(np.mean(found)), found
log = io.StringIO()
logging.getLogger("nncf").addHandler(logging.StreamHandler(log))
made = nncf.quantize_with_accuracy_control(
    model, nncf.Dataset(list(calibration), lambda one: {name: one[None]}), nncf.Dataset(list(range(len(x)))), validate,
    max_drop=float(sys.argv[4]) / 100, drop_type=nncf.DropType.ABSOLUTE, subset_size=len(calibration))
said = [line for line in log.getvalue().splitlines() if "were reverted" in line]
drop = 100 * (np.mean(right(model, range(len(x)))) - np.mean(right(made, range(len(x)))))
print(json.dumps({"lifted": int(said[-1].split(" out of ")[0]) if said else 0, "drop": round(float(drop), 2),
                  "verifications": validations,
                  "quantized": sum(node.op_type == "QuantizeLinear" for node in made.graph.node)}))
"""


def ours(folder: Path, name: str, format: str, task: list[str]) -> dict[str, object]:
    source, calibration, evaluation = paths(folder, name)
    command = [
        sys.executable, "-m", "edgekit", "convert", str(source), "-o", str(folder / f"{name}.mixed.{format}"), "--json",
        "--precision", "mixed", "--calibration", str(calibration), "--eval", str(evaluation),
        "--max-drop", str(MAX_DROP), *task, "--lift-cache", str(folder / "kept"),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    document = json.loads(done.stdout)
    if done.returncode:
        return {"error": document["error"]["message"]}
    # What repairs leave in floats (norms, as NNCF does) is not lifted by the search.
    said = next(warning for warning in document["warnings"] if warning.startswith("mixed:"))
    proof = document["verification"]
    drop = (
        proof["metric"]["drop"] if task else _lost(source, Path(document["artifact"]["path"]), np.load(evaluation)["x"])
    )
    lifted = re.match(r"mixed: (\d+) of \d+ layers lifted", said)
    return {"lifted": int(lifted[1]) if lifted else 0, "drop": round(drop, 2), "search": said}


def _lost(source: Path, made: Path, x: Any) -> float:
    """Percent of the float model's detections that an artifact loses; boxes without an area are kept by nobody."""
    import hard_nets
    import onnxruntime

    import edgekit

    floats = onnxruntime.InferenceSession(str(source), providers=["CPUExecutionProvider"])
    with edgekit.load(made) as model:
        pairs = [
            (floats.run(None, {floats.get_inputs()[0].name: one[None]})[0],
             next(iter(model.run({model.inputs[0].name: one[None]}).values())))
            for one in x
        ]  # fmt: skip
    lost = [
        hard_nets.kept(wanted, wanted) - hard_nets.kept(wanted, found)
        for wanted, found in pairs
        if (wanted[..., 4] > 0.5).any()
    ]
    return 100 * float(np.mean(lost))


def paths(folder: Path, name: str) -> tuple[Path, Path, Path]:
    return folder / f"{name}.onnx", folder / f"{name}.calibration.npz", folder / f"{name}.evaluation.npz"


def main() -> None:
    import hard_nets

    python, *wanted = sys.argv[1:]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for name in wanted or hard_nets.NETS:
            hard = hard_nets.make(name)
            source, calibration, evaluation = paths(folder, name)
            hard_nets.export(hard, source)
            np.savez(calibration, x=hard.calibration[:100])
            labels = {} if hard.labels is None else {"y": hard.labels}
            np.savez(evaluation, x=hard.evaluation, **labels)
            command = [python, "-c", NNCF, str(source), str(calibration), str(evaluation), str(MAX_DROP)]
            command.append(inspect.getsource(hard_nets.kept))
            peer = subprocess.run(command, capture_output=True, text=True, check=False)
            found = {"nncf": json.loads(peer.stdout.splitlines()[-1]) if not peer.returncode else peer.stderr[-300:]}
            for format in ("onnx", "tflite"):
                found[format] = ours(folder, name, format, ["--task", "classification"] if labels else [])
            print(json.dumps({"net": name, **found}), flush=True)


if __name__ == "__main__":
    main()
