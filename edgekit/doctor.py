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
from typing import TYPE_CHECKING, Literal

from edgekit import files, parts
from edgekit.child import Limits, Progress
from edgekit.errors import EdgeKitError, EngineError, TargetError

if TYPE_CHECKING:
    from edgekit.targets.base import Target

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


_LIMITS = Limits(seconds=180)  # an emulated board takes its time to start an engine


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
    """The whole report; `ready` when at least one engine runs. `modules` are looked for on this machine only."""

    ready: bool
    machine: str
    python: str
    bits: int
    engines: tuple[Finding, ...]
    modules: tuple[Finding, ...]
    target: str = "local"


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


@dataclass(frozen=True)
class Machine:
    """What runs the engines there; `architecture` is the kernel's word, `bits` the userland's."""

    architecture: str
    python: str
    bits: int


@dataclass(frozen=True)
class Question:
    """Nothing needs to be said."""


def look(question: Question) -> Machine:
    """A job: which machine this is."""
    del question
    return Machine(platform.machine(), platform.python_version(), 64 if sys.maxsize > 1 << 32 else 32)


def diagnose(target: str = "local", progress: Progress | None = None) -> Report:
    """Try everything; takes about a second an engine.

    Args:
        target: Where. The frameworks of the workstation are looked for on this machine only.
        progress: Told what goes on.

    Raises:
        TargetError: The target cannot be reached, or has no Python that could try anything.
    """
    from edgekit.targets import open_target

    with files.scratch() as folder, open_target(target, progress) as place:
        engines = try_engines(place, folder, progress)
        machine = place.perform(look, Question(), limits=_LIMITS)
    modules = _here() if target == "local" else ()
    return Report(
        ready=any(finding.status == "ok" for finding in engines),
        machine=machine.architecture,
        python=machine.python,
        bits=machine.bits,
        engines=tuple(engines),
        modules=modules,
        target=place.name,
    )


def try_engines(place: Target, folder: Path, progress: Progress | None = None) -> list[Finding]:
    """Each engine with the tiny model of its format; `folder` is ours to write to."""
    engines = []
    for engine in ("litert", "onnxruntime"):
        path = write_tiny(engine, folder)
        if progress is not None:
            progress({"stage": f"trying {engine}"})
        engines.append(_engine(place, engine, path))
    return engines


def _engine(place: Target, name: str, path: Path) -> Finding:
    try:
        tried = place.perform(try_engine, Trial(name, place.put(path)), limits=_LIMITS)
        return Finding(name, "ok", tried.version)
    except TargetError:
        raise
    except EdgeKitError as error:
        if error.code == "engine-missing":
            return Finding(name, "missing", error.message, error.next_step)
        cause = f". {error.cause}" if error.code == "engine-crashed" else ""
        return Finding(name, "broken", error.message + cause, error.next_step)


def _here() -> tuple[Finding, ...]:
    """What only this machine is asked: two wheels that write over each other, and frameworks where it is a desk."""
    found = [_module(name, extra) for name, extra in FRAMEWORKS.items()] if parts.has_desk() else []
    if (versions := parts.both()) is not None:
        said = f"{parts.SDK} {versions[0]} is installed as well; what one of them removes, the other loses"
        fix = f"pip uninstall {parts.SDK} {parts.RUNTIME}, then install the one that is wanted"
        found.append(Finding(parts.RUNTIME, "broken", said, fix))
    return tuple(found)


def _module(name: str, extra: str) -> Finding:
    if importlib.util.find_spec(name) is None:
        return Finding(name, "missing", "not installed", f'pip install "edgekit-sdk[{extra}]"')
    return Finding(name, "ok", "installed")


def write_tiny(engine: str, folder: Path) -> Path:
    """The tiny model of the format that an engine runs, as a file."""
    suffix, content = ("onnx", tiny_onnx()) if engine == "onnxruntime" else ("tflite", tiny_tflite())
    path = folder / f"tiny.{suffix}"
    path.write_bytes(content)
    return path


def tiny_onnx() -> bytes:
    """A ModelProto of one Relu, float32 [1,4] -> [1,4], written field by field (onnx.proto; opset 13, IR 7)."""
    from edgekit.artifact import field

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
