"""Float conversion to TFLite beside onnx2tf and litert-torch: wall time, bytes, TRANSPOSE ops, latency.

    make peers                                      # installs both, each in an environment of its own, and runs this
    python benchmarks/tflite_peers.py [ENVIRONMENTS] [MODEL.onnx ...] [NETWORK=WEIGHTS ...]
                                      [--only MODEL,...] [--rows ROWS.jsonl] [--keep FOLDER] [--write]
    python benchmarks/tflite_peers.py --again --rows ROWS.jsonl --keep FOLDER [--write]     # latencies alone

Sources are the networks of tests/convert/torch_nets.py (weights files for litert-torch and EdgeKit, ONNX files for
onnx2tf and EdgeKit), ONNX files that are named, and weights of one of those networks. All have a batch of one, as
litert-torch makes it. onnx2tf has images turned by the caller, and a row of ours, too; latencies are compared with the
best of those that take the same. Times are those of whole commands, ours with its
verification, and of compiled modules, as pip leaves those of all tools when it installs them; bytes of ours are given
with and without manifest and self-test. onnx2tf works on a copy, since it writes
into the file that it reads. Latencies are taken in one process on LiteRT with one thread, the artifacts in turn, and
are the median over rounds of each round's median. One JSON line an artifact; --write puts the table into
docs/benchmarks.md. With --rows they are kept in a file as well, and the table is that of all in there, so that models
can be measured in several runs (`make peers ONLY=yolo,vit`). --again takes the latencies of all artifacts that were
kept anew, in one run of a minute, for which the machine should be idle.
"""

from __future__ import annotations

import argparse
import collections
import compileall
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pages

ROOT = Path(__file__).resolve().parents[1]
NETS = ROOT / "tests" / "convert"

_LITERT_TORCH = """
import json, sys; sys.path.insert(0, sys.argv[1])
import litert_torch, torch, torch_nets
net = getattr(torch_nets, sys.argv[2])(); net.load_state_dict(torch.load(sys.argv[3], weights_only=True))
sample = tuple(torch.zeros(shape, dtype=getattr(torch, dtype)) for shape, dtype in json.loads(sys.argv[5]))
litert_torch.convert(net.eval(), sample).export(sys.argv[4])
"""
_ROUNDS, _RUNS = 15, 40
_LIMIT = 300


@dataclass(frozen=True)
class Row:
    """One artifact of one tool.

    Attributes:
        model, source: What was converted, and from what: "torch" or "onnx".
        tool: Who did it.
        seconds: Of the whole command.
        bytes: Of the artifact; 0 where there is none.
        model_bytes: Without manifest and self-test, which only ours has.
        transposes, ops: Operators of the artifact.
        microseconds: Median latency, interleaved with the others of the same model; None where it does not run.
        failed: Last line of what the tool said, where it gave no file.
        takes: Sizes of its inputs.
        file: Its name in the folder of artifacts.
    """

    model: str
    source: str
    tool: str
    seconds: float
    bytes: int = 0
    model_bytes: int = 0
    transposes: int = 0
    ops: int = 0
    microseconds: float | None = None
    failed: str = ""
    takes: str = ""
    file: str = ""


def main(arguments: list[str]) -> None:
    """See the module's header."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="*")
    parser.add_argument("--only", default="")
    parser.add_argument("--rows", type=Path)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_intermixed_args(arguments)
    if asked.again:
        rows = _again(asked.rows, asked.keep)
        if asked.write:
            pages.put("float", page(rows))
        return
    only = set(filter(None, asked.only.split(",")))
    weights = dict(argument.split("=", 1) for argument in asked.sources if "=" in argument)
    paths = [Path(argument).resolve() for argument in asked.sources if "=" not in argument]
    folder = next((path for path in paths if path.is_dir()), ROOT / "build" / "peers")
    files = [path for path in paths if path.is_file()]
    if not folder.is_dir():
        print(json.dumps({"skipped": f"the other tools are not in {folder.name}; see `make peers`"}))
        return
    for package in ("edgekit", "converters", "runtimes", "device_profiles"):
        compileall.compile_dir(ROOT / package, quiet=1)
    rows: list[Row] = []
    sys.path.insert(0, str(NETS))
    import torch
    import torch_nets

    with tempfile.TemporaryDirectory() as held:
        scratch = held if asked.keep is None else asked.keep.resolve()
        Path(scratch).mkdir(parents=True, exist_ok=True)
        for name, (factory, inputs) in _wanted(torch_nets.NETS, only):
            rows += _torch(Net(name, factory().state_dict(), inputs), folder, Path(scratch))
        for name, path in _wanted(weights, only):
            weighed = torch.load(path, weights_only=True, map_location="cpu")["state_dict"]
            state = {key.removeprefix("module."): value for key, value in weighed.items()}
            rows += _torch(Net(name, state, torch_nets.NETS["resnet"][1]), folder, Path(scratch))
        for name, path in _wanted({path.stem: path for path in files}, only):
            rows += _measured([*_from_onnx(name, path, folder, Path(scratch))])
    if asked.rows is not None:
        rows = _kept(asked.rows, rows)
    if asked.write:
        pages.put("float", page(rows))


def _wanted(models: dict[str, Any], only: set[str]) -> list[tuple[str, Any]]:
    return [(name, model) for name, model in models.items() if not only or name in only]


def _kept(path: Path, rows: list[Row]) -> list[Row]:
    """Rows of earlier runs, those of the same models replaced, and these."""
    fresh = {row.model for row in rows}
    old = [Row(**json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []
    every = [*(row for row in old if row.model not in fresh), *rows]
    path.write_text("".join(json.dumps(asdict(row)) + "\n" for row in every))
    return every


@dataclass(frozen=True)
class Net:
    """A network of torch_nets: its factory's name, its weights, what it takes."""

    name: str
    state: Any
    inputs: Any

    def about(self, batch: str) -> list[str]:
        """Options of our command."""
        return ["--model", f"torch_nets:{self.name}", *(
            part
            for key, (shape, kind) in self.inputs.items()
            for part in ("--input", f"{key}={','.join(str(size or batch) for size in shape)}:{kind}")
        )]  # fmt: skip


def _torch(net: Net, folder: Path, scratch: Path) -> list[Row]:
    import torch

    name = net.name
    weights, graph = scratch / f"{name}.pth", scratch / f"{name}.onnx"
    torch.save(net.state, weights)
    _timed([_edgekit(), "convert", weights, "-o", graph, *net.about("1")])
    made = scratch / f"{name}.torch.tflite"
    found = [
        (Row(name, "torch", "edgekit", *_timed([_edgekit(), "convert", weights, "-o", made, *net.about("1")])), made)
    ]
    peer = folder / "litert-torch" / "bin" / "python"
    if peer.exists():
        made = scratch / f"{name}.litert.tflite"
        shapes = json.dumps([[[size or 1 for size in shape], kind] for shape, kind in net.inputs.values()])
        command = [peer, "-c", _LITERT_TORCH, NETS, name, weights, made, shapes]
        found.append((Row(name, "torch", "litert-torch", *_timed(command)), made))
    return _measured([*found, *_from_onnx(name, graph, folder, scratch)])


def _from_onnx(name: str, path: Path, folder: Path, scratch: Path) -> list[tuple[Row, Path]]:
    found = []
    for tool, layout in (("edgekit", "keep"), ("edgekit --layout nhwc", "nhwc")):
        made = scratch / f"{name}.{layout}.tflite"
        command = [_edgekit(), "convert", path, "-o", made, "--layout", layout]
        found.append((Row(name, "onnx", tool, *_timed(command)), made))
    peer = folder / "onnx2tf" / "bin" / "onnx2tf"
    if peer.exists():
        place = scratch / f"{name}.onnx2tf"
        copy = scratch / f"{name}.copy.onnx"
        copy.write_bytes(path.read_bytes())
        row = Row(name, "onnx", "onnx2tf", *_timed([peer, "-i", copy, "-o", place]))
        found.append((row, next(place.glob("*_float32.tflite"), place / "none")))
    return found


def _edgekit() -> Path:
    return Path(sys.executable).with_name("edgekit")


def _timed(command: list[Any]) -> tuple[float]:
    start = time.perf_counter()
    try:
        done = subprocess.run(
            [str(part) for part in command], capture_output=True, text=True, cwd=NETS, timeout=_LIMIT, check=False
        )
        said = "" if done.returncode == 0 else (done.stderr or done.stdout)
    except subprocess.TimeoutExpired:
        said = f"took more than {_LIMIT} s"
    if said:
        print(said.strip().splitlines()[-1][:300], file=sys.stderr)
    return (time.perf_counter() - start,)


def _measured(found: list[tuple[Row, Path]]) -> list[Row]:
    """Rows with what their artifacts are, printed."""
    from edgekit import artifact

    engines = {at: _opened(path) for at, (_, path) in enumerate(found) if path.exists()}
    times = _latencies({at: engine for at, engine in engines.items() if engine is not None})
    rows = []
    for at, (row, path) in enumerate(found):
        if not path.exists():
            made = Row(row.model, row.source, row.tool, round(row.seconds, 2), failed="no file")
        else:
            kinds, data = _kinds(path.read_bytes()), artifact.read(path)
            made = Row(
                row.model, row.source, row.tool, round(row.seconds, 2), len(data.data), len(data.model),
                kinds["TRANSPOSE"], sum(kinds.values()), times.get(at), "", _takes(engines.get(at)),
                str(path.relative_to(_folder(path))),
            )  # fmt: skip
        print(json.dumps(asdict(made)), flush=True)
        rows.append(made)
    return rows


def _folder(path: Path) -> Path:
    """Where all artifacts are; some tools make a folder of their own in it."""
    return path.parent.parent if path.parent.suffix == ".onnx2tf" else path.parent


def _takes(engine: Any | None) -> str:
    details = [] if engine is None else engine.get_input_details()
    return " ".join("x".join(map(str, detail["shape"])) for detail in details)


def _again(path: Path, folder: Path) -> list[Row]:
    """Rows of earlier runs, the latencies measured anew."""
    rows = [Row(**json.loads(line)) for line in path.read_text().splitlines()]
    done: list[Row] = []
    for model in dict.fromkeys(row.model for row in rows):
        some = [row for row in rows if row.model == model]
        engines = {at: _opened(folder / row.file) for at, row in enumerate(some) if row.file}
        times = _latencies({at: engine for at, engine in engines.items() if engine is not None})
        done += [replace(row, microseconds=times.get(at)) for at, row in enumerate(some)]
    path.write_text("".join(json.dumps(asdict(row)) + "\n" for row in done))
    return done


def _kinds(data: bytes) -> collections.Counter[str]:
    from edgekit.converters.tflite_graphs import graph as tflite_graph

    model = tflite_graph.read(data)
    return collections.Counter(tflite_graph.op_name(model, op) for op in tflite_graph.operators(model))


def _opened(path: Path) -> Any | None:
    from ai_edge_litert.interpreter import Interpreter

    engine = Interpreter(model_path=str(path), num_threads=1)
    dice = np.random.default_rng(0)
    try:
        engine.allocate_tensors()
        for detail in engine.get_input_details():
            whole = np.issubdtype(detail["dtype"], np.integer)
            values = dice.integers(0, 3, detail["shape"]) if whole else dice.normal(size=detail["shape"])
            engine.set_tensor(detail["index"], values.astype(detail["dtype"]))
        engine.invoke()
    except (RuntimeError, ValueError) as error:
        print(f"{path.name} does not run: {str(error).splitlines()[0]}", file=sys.stderr)
        return None
    return engine


def _latencies(engines: dict[int, Any]) -> dict[int, float]:
    """Microseconds of one inference of each engine."""
    rounds: dict[int, list[float]] = collections.defaultdict(list)
    for _ in range(_ROUNDS):
        for at, engine in engines.items():
            times = []
            for _ in range(_RUNS):
                start = time.perf_counter()
                engine.invoke()
                times.append(time.perf_counter() - start)
            rounds[at].append(float(np.median(times)) * 1e6)
    return {at: round(float(np.median(found)), 2) for at, found in rounds.items()}


def page(rows: list[Row]) -> str:
    """The section of docs/benchmarks.md."""
    said = (
        "Float conversion to TFLite, batch of one: seconds of the whole command (ours verifies the artifact, too),\n"
        "bytes with and without our manifest and self-test, TRANSPOSE operators of all, and microseconds of an\n"
        "inference on one thread, interleaved within a model. The last column is our time beside that\n"
        "of the best other tool whose file takes the same: litert-torch turns images itself, as we do unless asked\n"
        "for `--layout nhwc`, onnx2tf leaves that to the caller."
    )
    lines = ["## Float to TFLite", "", "Generated by `make peers`.", "", said, ""]
    lines += ["| model | from | tool | s | bytes | model alone | TRANSPOSE | us | beside |"]
    lines += ["| --- | --- | --- | --: | --: | --: | --: | --: | --: |"]
    for row in rows:
        size = f"{row.bytes} | {row.model_bytes} | {row.transposes} of {row.ops} | {row.microseconds or 'does not run'}"
        about = f"{row.model} | {row.source} | {row.tool} | {row.seconds}"
        lines.append(f"| {about} | {size if row.bytes else 'no file | | | '} | {_beside(row, rows)} |")
    return "\n".join(lines) + "\n"


def _beside(row: Row, rows: list[Row]) -> str:
    others = [
        other.microseconds
        for other in rows
        if other.model == row.model and not other.tool.startswith("edgekit") and other.microseconds
        and other.takes == row.takes
    ]  # fmt: skip
    if not row.tool.startswith("edgekit") or not others or not row.microseconds:
        return ""
    return f"{row.microseconds / min(others):.2f}"


if __name__ == "__main__":
    main(sys.argv[1:])
