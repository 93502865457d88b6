"""Profile of an ONNX model, by onnxruntime's own profiler, freed of what the profiler itself takes.

It writes a time for each node, rounded down to microseconds, and works between the two clock readings: it describes
each tensor, which takes microseconds too. What it takes is measured on chains of nodes that compute one number, with
few and with many inputs (it grows with their number), and taken off; what a plain call takes for each node, and for
itself, is measured on the same chains. Nodes inside loops are timed with their loop, whose time is what remains of the
wall.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from edgekit import files
from edgekit.errors import EngineError
from edgekit.measure.profile import Profile, ProfileRequest, Timed, assemble
from edgekit.runtimes.engine_onnxruntime import bare_session

_CHAIN = 32
_MANY = 9
_MOST_RUNS = 2000
_LEAST_RUNS = 20
_WARM = 5
_QUIET = 4
_SIZES = ((1, 1), (_CHAIN, 1), (1, _MANY), (_CHAIN, _MANY))
"""Chains: (nodes, inputs of each)."""
_LOOPS = ("Loop", "If", "Scan")
_MADE = re.compile(r"(_token_\d+|_nchwc|_quant|_dequant|/duplicated\d*)+$")
"""What the optimizer appends to a node's name."""

Events = list[dict[str, Any]]


@dataclass(frozen=True)
class _Model:
    data: bytes
    feeds: dict[str, Any]
    threads: int | None


@dataclass(frozen=True)
class _Costs:
    """Microseconds.

    Attributes:
        node, tensor: What the profiler takes for a node, and for each of its inputs and outputs beside.
        step: What a plain call takes for each node.
        call: What it takes for itself.
    """

    node: float
    tensor: float
    step: float
    call: float


@dataclass(frozen=True)
class _Seen:
    """One model, run plainly and with the profiler in turns: means of the quicker quarter, in microseconds."""

    wall: float
    profiled: float
    runs: int
    nodes: list[dict[str, Any]]


def measure(request: ProfileRequest) -> Generator[dict[str, Any], None, Profile]:
    """Time the nodes; see the module header."""
    import numpy as np

    from edgekit import artifact
    from edgekit.measure.environment import Watch
    from edgekit.measure.subject import feeds_of
    from edgekit.runtimes.model import load

    yield {"stage": "load"}
    read = artifact.read(Path(request.path), verify=request.verify)
    with load(read, threads=request.threads) as model:
        feeds = feeds_of(model)
        ready = {key: feeds[spec.name] for key, spec in zip(model._keys, model.inputs, strict=True)}  # noqa: SLF001
        engine = f"{model.engine} {model.engine_version}"
    yield {"stage": "measure"}
    watch = Watch()
    feed = {"x": np.ones((1, 1, 1, 1), np.float32)}
    chains = [_Model(chain(*size), feed, 1) for size in _SIZES]
    seen, *seen_chains = _run([_Model(read.data, ready, request.threads), *chains], request.seconds)
    costs = _costs(*seen_chains)
    environment, notes = watch.finish()
    ops = _times(seen, costs, dict(request.facts))
    looping = [number for number, op in enumerate(ops) if op.type in _LOOPS]
    if looping:
        rest = sum(op.ms for op in ops) - sum(ops[number].ms for number in looping)
        left = max(0.0, (seen.wall - costs.call) / 1000 - rest) / len(looping)
        ops = [Timed(o.name, o.type, o.delegate, left if n in looping else o.ms) for n, o in enumerate(ops)]
    return assemble(
        ops, call_ms=costs.call / 1000, wall_ms=seen.wall / 1000, overhead=seen.profiled / seen.wall, runs=seen.runs,
        file=request.path, engine=engine, threads=request.threads, environment=environment, notes=notes,
    )  # fmt: skip


def _run(models: list[_Model], seconds: float) -> list[_Seen]:
    """All of them plainly and with the profiler, in turns for so long, because a machine's speed changes meanwhile."""
    with files.scratch() as folder:
        pairs = [
            (bare_session(model.data, model.threads), bare_session(model.data, model.threads, profile=folder / str(n)))
            for n, model in enumerate(models)
        ]
        times: list[tuple[list[int], list[int]]] = [([], []) for _ in models]
        rounds = -_WARM
        end = time.monotonic() + seconds
        while rounds < _LEAST_RUNS or (time.monotonic() < end and rounds < _MOST_RUNS):
            for model, pair, found in zip(models, pairs, times, strict=True):
                for session, taken in zip(pair, found, strict=True):
                    start = time.perf_counter_ns()
                    session.run(None, model.feeds)
                    taken.append(time.perf_counter_ns() - start)
            rounds += 1
        return [
            _seen(json.loads(Path(profiled.end_profiling()).read_bytes()), plain[_WARM:], watched[_WARM:])
            for (_, profiled), (plain, watched) in zip(pairs, times, strict=True)
        ]


def _seen(events: Events, plain: list[int], watched: list[int]) -> _Seen:
    runs = _by_run(events)[-len(watched) :]
    totals = [sum(node["dur"] for node in run) for run in runs]
    limit = sorted(totals)[len(totals) // _QUIET]
    quiet = [run for run, total in zip(runs, totals, strict=True) if total <= limit]
    return _Seen(_quiet(plain), _quiet(watched), len(watched), _mean(quiet))


def _quiet(times: list[int]) -> float:
    """Mean of the quicker quarter, in microseconds: what the nodes' times are, too."""
    some = sorted(times)[: len(times) // _QUIET + 1]
    return sum(some) / len(some) / 1e3


def _by_run(events: Events) -> list[Events]:
    """The outermost nodes of each run, in order; nodes of loops lie inside their loop's time."""
    nodes = [e for e in events if e.get("cat") == "Node" and e["name"].endswith("_kernel_time")]
    marks = sorted((e for e in events if e["name"] == "model_run"), key=lambda e: e["ts"])
    nodes.sort(key=lambda e: (e["ts"], -e["dur"]))
    runs: list[Events] = [[] for _ in marks]
    at, end = 0, -1
    for node in nodes:
        while at + 1 < len(marks) and node["ts"] >= marks[at + 1]["ts"]:
            at, end = at + 1, -1
        if node["ts"] >= end or not runs[at]:
            runs[at].append(node)
            end = node["ts"] + node["dur"]
    return runs


def _mean(runs: list[Events]) -> list[dict[str, Any]]:
    """Each node once, `us` its mean: times are whole microseconds, so that only a mean tells less than one.

    Half of one is added, because they are rounded down.
    """
    places: dict[tuple[str, str], dict[str, Any]] = {}
    for run in runs:
        for node in run:
            key = (node["name"], node["args"].get("node_index", ""))
            entry = places.setdefault(key, {**node, "total": 0})
            entry["total"] += node["dur"]
    return [{**entry, "us": entry["total"] / len(runs) + 0.5} for entry in places.values()]


def _times(seen: _Seen, costs: _Costs, macs: dict[str, int]) -> list[Timed]:
    found = []
    for node in seen.nodes:
        about = node["args"]
        tensors = len(about.get("input_type_shape", ())) + len(about.get("output_type_shape", ()))
        taken = max(0.0, node["us"] - costs.node - tensors * costs.tensor) + costs.step
        name = node["name"].removesuffix("_kernel_time")
        moved = sum(int(about.get(key) or 0) for key in ("activation_size", "parameter_size", "output_size"))
        provider = about["provider"].removesuffix("ExecutionProvider")
        known = macs.get(name, macs.get(_MADE.sub("", name)))
        found.append(Timed(name, about["op_name"], provider, taken / 1000, known, moved or None))
    return found


def _costs(one: _Seen, few: _Seen, wide: _Seen, many: _Seen) -> _Costs:
    """From the chains of `_SIZES`."""
    if len(few.nodes) != _CHAIN or len(many.nodes) != _CHAIN:
        raise EngineError("profile-unsupported", "this onnxruntime changes the chains that its profiler is measured on")
    short, long = (median(node["us"] for node in seen.nodes) for seen in (few, many))
    step, wide_step = ((n.wall - o.wall) / (_CHAIN - 1) for n, o in ((few, one), (many, wide)))
    # More inputs are also more to compute, as plain calls show.
    tensor = max(0.0, (long - short - (wide_step - step)) / (_MANY - 1))
    return _Costs(max(0.0, short - 2 * tensor), tensor, max(0.0, step), max(0.0, one.wall - step))


def chain(length: int, inputs: int) -> bytes:
    """A ModelProto: `length` nodes one after the other, each of one number in four axes and `inputs` inputs
    (opset 13, IR 7).
    """
    from edgekit.artifact import field

    def text(value: str) -> bytes:
        return value.encode()

    def value_info(name: str) -> bytes:
        return field(1, text(name)) + field(2, field(1, field(1, 1) + field(2, field(1, field(1, 1)) * 4)))

    names = ["x", *(f"y{number}" for number in range(length))]
    nodes = b""
    for number in range(length):
        read = [names[number], *(f"c{extra}" for extra in range(inputs - 1))]
        node = b"".join(field(1, text(name)) for name in read) + field(2, text(names[number + 1]))
        nodes += field(1, node + field(3, text(f"n{number}")) + field(4, text("Abs" if inputs == 1 else "Max")))
    constants = b"".join(
        field(5, field(1, 1) * 4 + field(2, 1) + field(8, text(f"c{extra}")) + field(9, b"\0\0\x80\x3f"))
        for extra in range(inputs - 1)
    )
    graph = nodes + field(2, text("chain")) + constants
    graph += field(11, value_info("x")) + field(12, value_info(names[-1]))
    return field(1, 7) + field(7, graph) + field(8, field(1, b"") + field(2, 13))
