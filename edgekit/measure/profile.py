"""Where the time of an inference goes, op by op.

How it is found depends on the engine (`profile_tflite`, `profile_onnx`); what is found is the same. The times of the
ops are checked against the wall time of plain inferences, measured in turns with them: what does not add up is marked
invalid and says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

COVERAGE = 0.1
"""Ops and wall time may differ by this part of it."""

CALL = "(call)"
"""Type of the line that stands for what a call costs beside its ops."""


@dataclass(frozen=True)
class ProfileRequest:
    """Profile an artifact where this runs.

    Attributes:
        path: The file.
        pieces: TFLite: the zip of its ops as files of their own (`edgekit.converters.cut`).
        threads: None for the engine's choice.
        seconds: Measure about this long.
        verify: Compare the digest.
        facts: ONNX: (node, multiply-accumulates), as far as they are known.
    """

    path: str
    pieces: str | None = None
    threads: int | None = None
    seconds: float = 3.0
    verify: bool = True
    facts: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class OpTime:
    """One op.

    Attributes:
        index: Its place in the order of execution.
        name: The first output's (TFLite) or the node's (ONNX); what the engine made of several keeps one of theirs.
        type: "CONV_2D", "QLinearConv".
        delegate: "XNNPACK", "builtin" kernels, or the execution provider.
        ms: Time in one inference, in milliseconds: a median (TFLite), or the mean of the quicker quarter of the runs
            (ONNX, whose profiler tells whole microseconds).
        share: Of the sum of all ops.
        macs: Multiply-accumulates; None where unknown.
        bytes: Inputs, weights and outputs.
        intensity: Multiply-accumulates a byte.
    """

    index: int
    name: str
    type: str
    delegate: str
    ms: float
    share: float
    macs: int | None = None
    bytes: int | None = None
    intensity: float | None = None


@dataclass(frozen=True)
class Group:
    """Ops of one type, or of one delegate."""

    name: str
    count: int
    ms: float
    share: float


@dataclass(frozen=True)
class Profile:
    """What `edgekit profile` tells.

    Attributes:
        wall_ms: The same of plain inferences, measured in turns with the ops.
        ops_ms: Sum of the ops' times, the call's own included.
        coverage: The second over the first.
        ops: In order of execution.
        types, delegates: Sums, largest first.
        runs: How often each op was timed.
        overhead: Time of an inference while it is profiled over that of a plain one.
        valid: False when `notes` says why.
    """

    file: str
    engine: str
    threads: int | None
    target: str
    wall_ms: float
    ops_ms: float
    coverage: float
    ops: tuple[OpTime, ...]
    types: tuple[Group, ...]
    delegates: tuple[Group, ...]
    runs: int
    overhead: float
    environment: dict[str, Any]
    valid: bool
    notes: tuple[str, ...] = field(default=())


@dataclass(frozen=True)
class Timed:
    """An op before shares are known; `ms` may be anything from 0 on."""

    name: str
    type: str
    delegate: str
    ms: float
    macs: int | None = None
    bytes: int | None = None


def assemble(
    ops: Sequence[Timed], *, call_ms: float, wall_ms: float, overhead: float, runs: int, file: str, engine: str,
    threads: int | None, environment: dict[str, Any], notes: Iterable[str] = (),
) -> Profile:  # fmt: skip
    """Sums, shares and the verdict.

    Args:
        ops: In order of execution.
        call_ms: What a call costs beside them.
        wall_ms: A plain inference.
        overhead: As in `Profile`, and so are `runs`, `file`, `engine`, `threads` and `environment`.
        runs: See there.
        file: See there.
        engine: See there.
        threads: See there.
        environment: See there.
        notes: What makes it invalid so far.
    """
    total = sum(op.ms for op in ops) + call_ms
    lines = tuple(
        OpTime(number, op.name, op.type, op.delegate, op.ms, op.ms / total if total else 0.0, op.macs, op.bytes,
               op.macs / op.bytes if op.macs and op.bytes else None)
        for number, op in enumerate(ops)
    )  # fmt: skip
    coverage = total / wall_ms if wall_ms else 0.0
    said = list(notes)
    if abs(coverage - 1) > COVERAGE:
        said.append(f"the ops add up to {100 * coverage:.0f} % of the wall time: the machine was disturbed, try again")
    call = [Timed(CALL, CALL, CALL, call_ms)]
    return Profile(
        file=file, engine=engine, threads=threads, target="local", wall_ms=wall_ms, ops_ms=total, coverage=coverage,
        ops=lines, types=_groups([*ops, *call], total, "type"), delegates=_groups([*ops, *call], total, "delegate"),
        runs=runs, overhead=overhead, environment=environment, valid=not said, notes=tuple(said),
    )  # fmt: skip


def trace(found: Profile) -> dict[str, Any]:
    """One inference in the Chrome trace format (chrome://tracing, Perfetto): complete events, in microseconds.

    Format: "Trace Event Format", docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU.
    """
    events: list[dict[str, Any]] = [
        {"ph": "M", "pid": 1, "tid": 1, "name": "process_name", "args": {"name": f"{found.file} on {found.engine}"}}
    ]
    at = 0.0
    for op in found.ops:
        about = {"delegate": op.delegate, "macs": op.macs, "bytes": op.bytes, "name": op.name}
        event = {"ph": "X", "pid": 1, "tid": 1, "ts": round(at, 3), "dur": round(1000 * op.ms, 3), "name": op.type}
        events.append({**event, "cat": op.delegate, "args": {k: v for k, v in about.items() if v is not None}})
        at += 1000 * op.ms
    return {"traceEvents": events, "displayTimeUnit": "ns", "otherData": {"wall_ms": found.wall_ms}}


def _groups(ops: Sequence[Timed], total: float, what: str) -> tuple[Group, ...]:
    sums: dict[str, list[float]] = {}
    for op in ops:
        sums.setdefault(getattr(op, what), []).append(op.ms)
    found = (Group(name, len(times), sum(times), sum(times) / total if total else 0.0) for name, times in sums.items())
    return tuple(sorted(found, key=lambda group: -group.ms))
