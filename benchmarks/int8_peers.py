"""int8 by EdgeKit and by other tools: same float model, same calibration samples, same evaluation, in one run.

    make int8-peers              # installs NNCF and onnx2tf, each in an environment of its own, and runs this
    python benchmarks/int8_peers.py [ENVIRONMENTS] [--model NAME] [--tool NAME] [--write]
    python benchmarks/int8_peers.py --files FOLDER [--only make|measure] ...

Models and data are those of `models.py`, the hard set of the tests among them. The reference is the float model; signal
to noise is over all outputs, as real values. Top-1 and agreement count where there are labels. Latency is the median
of interleaved rounds on one thread, as a multiple of EdgeKit's float file of the same format. One JSON line a file;
--write puts the table into docs/benchmarks.md. Making takes long and minds no other work, measuring is short and does:
--files keeps what was made and measured, so that both can be done apart, --only one of them.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import models
import numpy as np
import pages

ROOT = Path(__file__).resolve().parents[1]
HERE = Path(__file__).resolve().parent
MODELS = (
    *(case.name for case in (*models.HARD, *models.FURTHER)),
    "ic_resnet8", "kws_dscnn", "vww_mobilenet", "cifar_resnet20", "mnist_cnn_onnx", "mnist_conv_tflite", "ultraface",
)  # fmt: skip
TOOLS = {
    # tool: the format of its file, what it starts from, its environment
    "tensorflow": ("tflite", "source", None),
    "ai_edge_quantizer": ("tflite", "tflite", None),
    "onnx2tf": ("tflite", "onnx", "onnx2tf"),
    "onnxruntime_minmax": ("onnx", "onnx", None),
    "onnxruntime_entropy": ("onnx", "onnx", None),
    "onnxruntime_percentile": ("onnx", "onnx", None),
    "nncf": ("onnx", "onnx", "nncf"),
}
_EVALUATED = 1000
_LIMIT = 600


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("environments", nargs="?", type=Path, default=ROOT / "build" / "peers")
    parser.add_argument("--model", action="append")
    parser.add_argument("--tool", action="append")
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--files", type=Path)
    parser.add_argument("--only", choices=["make", "measure"])
    parser.add_argument("--write", action="store_true")
    chosen = parser.parse_args()
    if not models.SHARED.is_dir():
        print(json.dumps({"skipped": "the trained models and data are not beside the checkout"}))
        return
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        for name in chosen.model or MODELS:
            known = (*models.CASES, *models.HARD, *models.FURTHER, *models.UNSEEN, *models.FRESH)
            case = next(case for case in known if case.name == name)
            folder = (chosen.files or Path(temporary)).resolve() / name
            folder.mkdir(parents=True, exist_ok=True)
            made = _kept(folder / "made.json")
            if chosen.only != "measure":
                made |= _files(case, folder, chosen.environments.resolve(), chosen.tool or list(TOOLS), made)
                (folder / "made.json").write_text(json.dumps(made, default=lambda path: {"path": str(path)}))
            measured = folder / "rows.json"
            if chosen.only != "make":
                measured.write_text(json.dumps(_measured(case, made, chosen.runs)))
            rows += json.loads(measured.read_text()) if measured.exists() else []
    if chosen.write:
        pages.put("int8", _table(rows))


def _kept(path: Path) -> dict[str, Path | str]:
    found = json.loads(path.read_text()) if path.exists() else {}
    return {name: one if isinstance(one, str) else Path(one["path"]) for name, one in found.items()}


def _files(
    case: Any, folder: Path, environments: Path, tools: list[str], kept: dict[str, Path | str]
) -> dict[str, Path | str]:
    """What each tool made: its file, or the last line of what it said; EdgeKit's own only where missing."""
    options = models.split(case, folder)
    source = models.file(case, folder)
    made: dict[str, Path | str] = {}
    for precision in ("fp32", "int8"):
        for format in ("tflite", "onnx"):
            path = folder / f"{precision}.{format}"
            name = f"edgekit {'float' if precision == 'fp32' else 'int8'} {format}"
            if isinstance(kept.get(name), Path) and path.exists():
                continue
            data = [] if precision == "fp32" else options
            command = [sys.executable, "-m", "edgekit", "convert", source, "-o", path, "--precision", precision]
            made[name] = _run([*command, *data, *case.options], path, {"PYTHONPATH": models.NETS})
    samples = folder / "samples.npy"
    np.save(samples, np.load(folder / f"{case.name}_calibration.npz")["x"].astype(np.float32))
    for tool in tools:
        format, start, environment = TOOLS[tool]
        taken = source if start == "source" else _copied(folder / f"fp32.{start}", tool)
        python = environments / environment / "bin" / "python" if environment else Path(sys.executable)
        if start == "source" and source.suffix not in (".h5", ".keras", ""):
            made[tool] = "no route"
        elif not python.exists():
            made[tool] = "not installed"
        else:
            path = folder / f"{tool}.{format}"
            made[tool] = _run([python, HERE / "int8_peers_tools.py", tool, taken, samples, path], path, {})
    return made


def _copied(file: Path, tool: str) -> Path:
    """For one tool alone: onnx2tf rewrites the file that it is given."""
    made = file.with_name(f"{file.stem}.{tool}{file.suffix}")
    shutil.copy(file, made)
    return made


def _run(command: list[Any], path: Path, environment: dict[str, str]) -> Path | str:
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3"}
    path.unlink(missing_ok=True)
    try:
        done = subprocess.run(
            [str(part) for part in command], capture_output=True, text=True, timeout=_LIMIT, check=False,
            env=os.environ | quiet | environment, cwd=path.parent,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"took more than {_LIMIT} s"
    if path.exists():
        return path
    return ((done.stderr or done.stdout).strip().splitlines() or ["failed"])[-1][:200]


def _measured(case: Any, made: dict[str, Path | str], runs: int) -> list[dict[str, Any]]:
    x, labels = models.arrays(case.data)
    order = np.random.default_rng(0).permutation(len(x))
    rest = order if case.whole_evaluation else order[case.calibration :][:_EVALUATED]
    x, labels = x[rest], None if labels is None else labels[rest]
    runners = {name: opened(path) for name, path in made.items() if isinstance(path, Path)}
    reference = _answers(runners["edgekit float onnx"], x, None)
    times = _latencies(runners, x, runs)
    rows = []
    right: dict[str, Any] = {}
    for name, path in made.items():
        row: dict[str, Any] = {"model": case.name, "tool": name}
        if not isinstance(path, Path):
            row["failed"] = path
        elif isinstance(runners[name], str):
            row["failed"] = runners[name]
        else:
            found = _answers(runners[name], x, reference)
            row |= _scores(reference, found, labels)
            if labels is not None:
                right[name] = found[0].argmax(-1) == labels
            row |= {"kb": round(path.stat().st_size / 1000, 1), "us": round(times[name], 1)}
            row["of_float"] = round(times[name] / times[f"edgekit float {path.suffix[1:]}"], 2)
        print(json.dumps(row), flush=True)
        rows.append(row)
    for ours, tool in itertools.product(("edgekit int8 tflite", "edgekit int8 onnx"), TOOLS):
        if ours in right and tool in right:
            print(json.dumps({"model": case.name, "file": ours, "beside": tool, **_paired(right[ours], right[tool])}))
    return rows


def _paired(ours: Any, theirs: Any) -> dict[str, Any]:
    """Samples that only one of two files has right, and how likely such a difference is by chance (McNemar, exact)."""
    won, lost = int((ours & ~theirs).sum()), int((~ours & theirs).sum())
    both = won + lost
    chance = 2 * sum(math.comb(both, fewer) for fewer in range(min(won, lost) + 1)) / 2**both
    return {"only_ours": won, "only_theirs": lost, "p": round(min(1.0, chance), 3)}


def opened(path: Path) -> Any:
    """A runner: (input shape, feed -> real-valued outputs, feed -> None without reading them); or why there is none."""
    try:
        return _tflite(path) if path.suffix == ".tflite" else _onnx(path)
    except Exception as error:  # noqa: BLE001 - whatever the engine says of a file that it cannot open
        return f"does not run: {str(error).splitlines()[0][:120]}"


def _tflite(path: Path) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    engine = Interpreter(str(path), num_threads=1)
    engine.allocate_tensors()
    (given,) = engine.get_input_details()
    results = engine.get_output_details()

    def feed(sample: Any) -> None:
        scale, zero = given["quantization"]
        kind = np.iinfo(given["dtype"]) if scale else None
        value = np.clip(np.round(sample / scale) + zero, kind.min, kind.max) if kind else sample
        engine.set_tensor(given["index"], value.astype(given["dtype"]))

    def run(sample: Any) -> list[Any]:
        feed(sample)
        engine.invoke()
        found = [(engine.get_tensor(detail["index"]), *detail["quantization"]) for detail in results]
        return [(value.astype(np.float32) - zero) * scale if scale else value for value, scale, zero in found]

    def call(sample: Any) -> Callable[[], Any]:
        feed(sample)
        return engine.invoke  # type: ignore[no-any-return]

    return tuple(given["shape"]), run, call


def _onnx(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    engine = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    given = engine.get_inputs()[0]

    def run(sample: Any) -> list[Any]:
        return list(engine.run(None, {given.name: sample}))

    def call(sample: Any) -> Callable[[], Any]:
        return lambda: engine.run(None, {given.name: sample})

    return tuple(size if isinstance(size, int) else 1 for size in given.shape), run, call


def _fitted(sample: Any, shape: tuple[int, ...]) -> Any:
    """A sample of NCHW for a file that has made it NHWC."""
    return sample if sample.shape == shape or sample.ndim != 4 else np.ascontiguousarray(sample.transpose(0, 2, 3, 1))


def _answers(runner: Any, x: Any, like: list[Any] | None) -> list[Any]:
    shape, run, _ = runner
    parts = zip(*(run(_fitted(sample[None], shape)) for sample in x), strict=True)
    found = [np.concatenate([part.reshape(1, -1) for part in output]) for output in parts]
    if like is None or len(found) < 2:
        return found
    # Some tools change the order of outputs: the sizes tell them apart.
    return [next(array for array in found if array.shape == wanted.shape) for wanted in like]


def _scores(reference: list[Any], found: list[Any], labels: Any) -> dict[str, Any]:
    signal = sum(float(np.square(array, dtype=np.float64).sum()) for array in reference)
    noise = sum(float(np.square(a.astype(np.float64) - b).sum()) for a, b in zip(reference, found, strict=True))
    row: dict[str, Any] = {"sqnr_db": round(10 * math.log10(signal / noise), 2) if noise else None}
    if labels is not None:
        top, wanted = found[0].argmax(-1), reference[0].argmax(-1)
        row["agreement"] = round(100 * float((top == wanted).mean()), 2)
        row["top1"] = round(100 * float((top == labels).mean()), 2)
    return row


def _latencies(runners: dict[str, Any], x: Any, runs: int) -> dict[str, float]:
    ready = {name: runner for name, runner in runners.items() if not isinstance(runner, str)}
    calls = {name: call(_fitted(x[:1], shape)) for name, (shape, _, call) in ready.items()}
    times: dict[str, list[int]] = {name: [] for name in calls}
    for turn in range(runs + 20):
        for name, call in calls.items():
            started = time.perf_counter_ns()
            call()
            if turn >= 20:
                times[name].append(time.perf_counter_ns() - started)
    return {name: statistics.median(seen) / 1000 for name, seen in times.items()}


def _table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "## int8",
        "",
        "Generated by `make int8-peers`: the same float model, calibration samples and evaluation, in one run. Signal",
        "to noise of the outputs in dB, agreement with float and top-1 in percent, and latency as a multiple of",
        "EdgeKit's float file of the same format (one thread, interleaved). EdgeKit's files hold 1 to 8 kB of what",
        "their data looked like, for the monitor (`--no-reference` leaves that out).",
        "",
        "| model | tool | SQNR dB | agreement | top-1 | kB | of float |",
        "| --- | --- | --: | --: | --: | --: | --: |",
    ]
    for row in rows:
        if "failed" in row:
            said = row["failed"] if row["failed"] in ("no route", "not installed", "not measured") else "fails"
            lines.append(f"| {row['model']} | {row['tool']} | {said} | | | | |")
            continue
        figures = (row["sqnr_db"], row.get("agreement"), row.get("top1"), row["kb"], row["of_float"])
        lines.append(f"| {row['model']} | {row['tool']} | {' | '.join('' if v is None else str(v) for v in figures)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
