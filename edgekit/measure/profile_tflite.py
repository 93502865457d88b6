"""Profile of a TFLite model: each op as a model of its own, in the same engine, fed with what it gets in the whole.

LiteRT's Python interpreter tells no times of ops. So the file was cut at the desk (`edgekit.converters.cut`), and here
the pieces run in the model's own order, each fed just before it is timed, in turns with the whole model: caches are as
warm as they are in there. What a call costs is measured on nets of one number, is taken off each piece, and is counted
once. A piece also tells whether XNNPACK takes the op.
"""

from __future__ import annotations

import json
import time
import zipfile
from collections.abc import Generator
from dataclasses import dataclass
from statistics import median
from typing import Any

from edgekit.codec import decode
from edgekit.errors import EngineError
from edgekit.measure.profile import Profile, ProfileRequest, Timed, assemble

INDEX = "index.json"
LEAST_ROUNDS = 10


@dataclass(frozen=True)
class Piece:
    """One op of a model, as a file.

    Attributes:
        file: Its name in the zip.
        name, type: Of the op.
        inputs, outputs: Numbers of the whole model's tensors, in the order of the piece's.
        macs, bytes: See `OpTime`.
    """

    file: str
    name: str
    type: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    macs: int | None
    bytes: int


@dataclass(frozen=True)
class Index:
    """What is in the zip.

    Attributes:
        inputs: The whole model's, as numbers of tensors.
        empty: Nets of one number: by XNNPACK, and by a builtin kernel.
    """

    inputs: tuple[int, ...]
    pieces: tuple[Piece, ...]
    empty: tuple[str, str]


@dataclass
class _Runner:
    """An interpreter, and what it is fed before each run."""

    interpreter: Any
    feeds: list[tuple[int, Any]]
    delegated: bool

    def time(self) -> int:
        for place, values in self.feeds:
            self.interpreter.set_tensor(place, values)
        start = time.perf_counter_ns()
        self.interpreter.invoke()
        return time.perf_counter_ns() - start


def measure(request: ProfileRequest) -> Generator[dict[str, Any], None, Profile]:
    """Time the pieces; see the module header."""
    from edgekit.measure.environment import Watch
    from edgekit.runtimes.engine_litert import interpreter

    yield {"stage": "load"}
    with zipfile.ZipFile(request.pieces or "") as packed:
        index = decode(Index, json.loads(packed.read(INDEX)))
        files = {name: packed.read(name) for name in packed.namelist() if name != INDEX}

    def opened(data: bytes) -> Any:
        return interpreter(data, request.threads)

    whole, values, engine = _whole(request, index, opened)
    runners = _chain(index, files, values, opened)
    empty = [_runner(opened(files[name]), []) for name in index.empty]
    yield {"stage": "warm-up"}
    for runner in (whole, *runners, *empty):
        for _ in range(3):
            runner.time()
    watch = Watch()
    walls: list[int] = []
    times: list[list[int]] = [[] for _ in (*runners, *empty)]
    end = time.monotonic() + request.seconds
    while time.monotonic() < end or len(walls) < LEAST_ROUNDS:
        walls.append(whole.time())
        for found, runner in zip(times, (*runners, *empty), strict=True):
            found.append(runner.time())
        if len(walls) % 64 == 0:
            watch.look()
            yield {"stage": "measure"}
    seen, reasons = watch.finish()
    medians = [median(found) / 1e6 for found in times]
    by_xnnpack, by_builtin = medians[-2:]
    ops = [
        Timed(piece.name, piece.type, "XNNPACK" if runner.delegated else "builtin",
              max(0.0, ms - (by_xnnpack if runner.delegated else by_builtin)), piece.macs, piece.bytes)
        for piece, runner, ms in zip(index.pieces, runners, medians, strict=False)
    ]  # fmt: skip
    call = by_xnnpack if any(runner.delegated for runner in runners) else by_builtin
    wall = median(walls) / 1e6
    return assemble(
        ops, call_ms=call, wall_ms=wall, overhead=sum(medians[:-2]) / wall, runs=len(walls), file=request.path,
        engine=engine, threads=request.threads, environment=seen, notes=reasons,
    )  # fmt: skip


def _whole(request: ProfileRequest, index: Index, opened: Any) -> tuple[_Runner, dict[int, Any], str]:
    """The whole model, and the values of its inputs by tensor."""
    from pathlib import Path

    from edgekit import artifact
    from edgekit.measure.subject import feeds_of
    from edgekit.runtimes.model import load

    read = artifact.read(Path(request.path), verify=request.verify)
    with load(read, threads=request.threads) as model:
        feeds = list(feeds_of(model).values())  # in the order of the session, which is the interpreter's
        engine = f"{model.engine} {model.engine_version}"
    interpreter = opened(read.data)
    if len(interpreter.get_input_details()) != len(feeds):
        raise EngineError("profile-unsupported", "the model's inputs are not those of its main graph")
    return _runner(interpreter, feeds), dict(zip(index.inputs, feeds, strict=True)), engine


def _chain(index: Index, files: dict[str, bytes], values: dict[int, Any], opened: Any) -> list[_Runner]:
    """Each piece, fed with what the pieces before it answered."""
    runners = []
    for piece in index.pieces:
        try:
            interpreter = opened(files[piece.file])
            runner = _runner(interpreter, [values[number] for number in piece.inputs])
            runner.time()
            for detail, number in zip(interpreter.get_output_details(), piece.outputs, strict=True):
                values[number] = interpreter.get_tensor(detail["index"])
        except (ValueError, RuntimeError, KeyError) as error:
            raise EngineError(
                "profile-unsupported",
                f"{piece.type} ({piece.name}) does not run by itself: {' '.join(str(error).split())[:200]}",
            ) from error
        runners.append(runner)
    return runners


def _runner(interpreter: Any, values: list[Any]) -> _Runner:
    feeds = [(detail["index"], value) for detail, value in zip(interpreter.get_input_details(), values, strict=False)]
    delegated = any(op["op_name"] == "DELEGATE" for op in interpreter._get_ops_details())  # noqa: SLF001 - no other way
    return _Runner(interpreter, feeds, delegated)
