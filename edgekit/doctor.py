"""Is this machine ready? Each engine runs a tiny model in a child process, so that a crash there is an answer here.

The traps that cost people days have their own words: numpy 2 under tflite-runtime, an illegal instruction, no wheel
for this word size, a missing extra.
"""

from __future__ import annotations

import base64
import importlib.util
import platform
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgekit import files
from edgekit.child import Child, Limits
from edgekit.errors import EdgeKitError, EngineError, WorkerError

Status = Literal["ok", "missing", "broken"]

FRAMEWORKS = {
    "tensorflow": "tensorflow",
    "tf_keras": "tensorflow",
    "tf2onnx": "tensorflow",
    "onnx": "convert",
    "ai_edge_quantizer": "convert",
    "PIL": "convert",
}
"""Module -> the extra that brings it; looked for, not imported."""


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        name: An engine or a module.
        status: What came out.
        detail: Version, or what went wrong.
        fix: What to do when it is not ok.
    """

    name: str
    status: Status
    detail: str
    fix: str = ""


@dataclass(frozen=True)
class Report:
    """The whole report; `ready` when at least one engine runs."""

    ready: bool
    machine: str
    python: str
    bits: int
    engines: tuple[Finding, ...]
    modules: tuple[Finding, ...]


@dataclass(frozen=True)
class Trial:
    """Run the tiny model of one format through one engine."""

    engine: str
    path: str


@dataclass(frozen=True)
class Tried:
    """It ran; this is its version."""

    version: str


def try_engine(trial: Trial) -> Tried:
    """A job: open, run, compare with the answer known by hand (ReLU of -1, 0, 2, 5).

    Raises:
        EngineError: `engine-wrong`: it ran and answered wrongly.
    """
    import numpy as np

    from edgekit.runtimes.model import load

    with load(trial.path, threads=1, engine=trial.engine) as model:
        (name,) = (spec.name for spec in model.inputs)
        (answer,) = model.run({name: np.array([[-1, 0, 2, 5]], np.float32)}).values()
        if answer.tolist() != [[0, 0, 2, 5]]:
            raise EngineError("engine-wrong", f"{trial.engine} answers {answer.tolist()} where [[0, 0, 2, 5]] is right")
        return Tried(model.engine_version)


def diagnose() -> Report:
    """Try everything; takes about a second an engine."""
    models = {"litert": ("tflite", tiny_tflite()), "onnxruntime": ("onnx", tiny_onnx())}
    engines = []
    with files.scratch() as folder:
        for engine, (suffix, content) in models.items():
            path = folder / f"tiny.{suffix}"
            path.write_bytes(content)
            engines.append(_engine(engine, path, folder / f"{engine}.log"))
    modules = tuple(_module(name, extra) for name, extra in FRAMEWORKS.items())
    return Report(
        ready=any(finding.status == "ok" for finding in engines),
        machine=platform.machine(),
        python=platform.python_version(),
        bits=64 if sys.maxsize > 1 << 32 else 32,
        engines=tuple(engines),
        modules=modules,
    )


def _engine(name: str, path: Path, log: Path) -> Finding:
    with Child(log, Limits(seconds=60), doing=f"the engine {name}") as child:
        try:
            return Finding(name, "ok", child.call(try_engine, Trial(name, str(path)), stage="doctor").version)
        except WorkerError as error:
            return Finding(name, "broken", f"{error.message}. {error.cause}", error.next_step)
        except EdgeKitError as error:
            status: Status = "missing" if error.code == "engine-missing" else "broken"
            return Finding(name, status, error.message, error.next_step)


def _module(name: str, extra: str) -> Finding:
    if importlib.util.find_spec(name) is None:
        return Finding(name, "missing", "not installed", f'pip install "edgekit-sdk[{extra}]"')
    return Finding(name, "ok", "installed")


def tiny_onnx() -> bytes:
    """A ModelProto of one Relu, float32 [1,4] -> [1,4], written field by field (onnx.proto; opset 13, IR 7)."""

    def field(number: int, payload: bytes | int) -> bytes:
        if isinstance(payload, int):
            return bytes([number << 3, payload])
        return bytes([number << 3 | 2, len(payload)]) + payload

    def tensor(name: bytes) -> bytes:
        shape = b"".join(field(1, field(1, size)) for size in (1, 4))
        return field(1, name) + field(2, field(1, field(1, 1) + field(2, shape)))

    node = field(1, b"x") + field(2, b"y") + field(4, b"Relu")
    graph = field(1, node) + field(2, b"tiny") + field(11, tensor(b"x")) + field(12, tensor(b"y"))
    return field(1, 7) + field(7, graph) + field(8, field(1, b"") + field(2, 13))


def tiny_tflite() -> bytes:
    """A flatbuffer of one RELU, float32 [1,4] -> [1,4]."""
    return base64.b64decode(_TINY_TFLITE)


_TINY_TFLITE = (
    "GAAAAFRGTDMAAA4AFAAQAAwACAAAAAQADgAAABAAAAAcAAAA2AAAAAMAAAABAAAACAAAAAQABAAEAAAAAQAAABAAAAAMABQAEAAM"
    "AAgABAAMAAAAEAAAADwAAABAAAAARAAAAAEAAAAQAAAAAAAKAAwAAAAIAAQACgAAAAgAAAAMAAAAAQAAAAEAAAABAAAAAAAAAAEA"
    "AAABAAAAAQAAAAAAAAACAAAANAAAAAQAAADg////CAAAAAwAAAABAAAAeQAAAAIAAAABAAAABAAAAAwADAAIAAAAAAAEAAwAAAAI"
    "AAAADAAAAAEAAAB4AAAAAgAAAAEAAAAEAAAAAQAAABAAAAAMAAwACwAAAAAABAAMAAAAEwAAAAAAABM="
)
