"""One evaluation: a conversion or a measurement, as functions of plain values, so that any process can do them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Hashable
from dataclasses import dataclass, replace
from pathlib import Path

from edgekit import artifact as artifacts
from edgekit import files
from edgekit.codec import encode
from edgekit.conversion import Conversion
from edgekit.converters.waiting import Known, Waiting
from edgekit.device_profiles import load_profile
from edgekit.errors import (
    ConversionError,
    EngineError,
    LimitError,
    SourceError,
    UsageError,
    VerificationError,
    WorkerError,
)
from edgekit.formats import read_facts
from edgekit.formats.facts import ModelFacts
from edgekit.measure.sampling import BenchPlan
from edgekit.options import Options
from edgekit.pipeline import Progress, run
from edgekit.tune.trial import Cost, Made, Recipe, Refused, Setting

PERFECT_DB = 60.0
"""SQNR from which on outputs without classes count as the source's own: a thousandth of the signal."""

_waiting = Waiting()
"""Child processes of this one, between the conversions of a search."""

THREADS = 1
"""Of the engine in a conversion: a task of a Dask worker is one thread's work. And sums of floats in onnxruntime differ
in their last bits by the number of threads; with one number, artifacts are the same wherever they are made.
"""

_IMPOSSIBLE = (ConversionError, LimitError, EngineError)
"""Errors that say something of a recipe, and will say so again."""


@dataclass(frozen=True)
class Order:
    """A conversion to do.

    Attributes:
        source: Path of the model.
        sha256: Its digest; whoever has another file there refuses.
        recipe: How.
        options: All that the recipe does not say.
        described: With the reference of its data, where the options want one.
    """

    source: str
    sha256: str
    recipe: Recipe
    options: Options
    described: bool = False


@dataclass(frozen=True)
class Converted:
    """What came of it: the artifact's bytes with `Made`, or a failure."""

    result: Made | Refused
    data: bytes = b""


@dataclass(frozen=True)
class Place:
    """Where measurements are made.

    Attributes:
        target: "local", "ssh://..."; None to predict by the profile.
        device: Profile name or path.
        seconds: How long to measure.
    """

    target: str | None
    device: str | None
    seconds: float = 1.0


def convert(order: Order, progress: Progress | None = None) -> Converted:
    """Make one artifact, verified and gated like any other.

    Raises:
        SourceError: `source-changed`: there is another file than the search began with.
        EdgeKitError: What is wrong with the source, the data or the installation, and not with the recipe.
    """
    if files.sha256(Path(order.source)) != order.sha256:
        raise SourceError("source-changed", f"{order.source} is not the file that the search began with")
    _waiting.serve(order.sha256)
    try:
        done = run(order.source, _options(order), progress, _waiting)
    except VerificationError as error:
        return Converted(Refused(error.code, error.message, mendable=True))
    except _IMPOSSIBLE as error:
        if isinstance(error, ImportError):  # something is not installed: no fact of the recipe
            raise
        return Converted(Refused(error.code, error.message, passing=isinstance(error, WorkerError)))
    return Converted(_made(done), done.artifact.data)


def known() -> tuple[Hashable, ...]:
    """By which there is something that other processes of the search need not work out."""
    return _waiting.known


def tell(keys: Collection[Hashable]) -> Known:
    """What is known under keys."""
    return _waiting.tell(keys)


def learn(told: Known) -> None:
    """Know what another process worked out."""
    _waiting.learn(told)


def rest() -> None:
    """The search is over: nothing waits for another conversion."""
    _waiting.close()


def _options(order: Order) -> Options:
    recipe = order.recipe
    more = {name: value for name, value in recipe.variant.items() if value is not None}
    return replace(
        order.options, to=recipe.format, output=None, precision=recipe.precision, rules=recipe.rules or None,
        reference=order.options.reference and order.described, threads=THREADS,
        embedding=order.options.embedding if order.described else None, **more,
    )  # fmt: skip


def _made(done: Conversion) -> Made:
    proof = done.verification.proof
    if proof.metric is not None:
        loss, unit = proof.metric.drop, f"{proof.metric.name} points"
        metric = {proof.metric.name: proof.metric.artifact, "source": proof.metric.source}
    elif proof.agreement is not None:
        loss, unit, metric = 100 * (1 - proof.agreement), "agreement points", {"agreement": 100 * proof.agreement}
    else:
        sqnr = PERFECT_DB if proof.sqnr_db is None else proof.sqnr_db
        loss, unit, metric = PERFECT_DB - sqnr, f"dB below {PERFECT_DB:g} dB", {"sqnr_db": sqnr}
    return Made(
        sha256=done.artifact.sha256,
        bytes=len(done.artifact.data),
        loss=round(max(0.0, loss), 4),
        unit=unit,
        work=work(read_facts(done.artifact)),
        metric=metric,
        lifted=done.graph.lifted,
    )


def work(facts: ModelFacts) -> str:
    """Digest of what decides an artifact's time: the format, the operators, their element types and sizes."""
    ops = [(op.kind, op.version, op.macs, op.dtype, len(op.inputs), len(op.outputs)) for op in facts.ops]
    text = json.dumps([facts.format, ops, facts.arena_bytes, facts.parameters, facts.precision])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def measure(path: Path, setting: Setting, place: Place, progress: Progress | None = None) -> Cost | Refused:
    """What an artifact takes in a setting: measured on the target, or predicted by the profile where there is none.

    Raises:
        UsageError: `target-untimed`; `latency-unpredicted`: nothing is known of the device's speed.
        TargetError: The target cannot be reached.
    """
    if place.target is None:
        return predicted(path, setting, place.device or "")
    from edgekit.targets import agent, tasks

    opening = agent.Opening(str(path), setting.engine, setting.threads)
    plan = BenchPlan(place.seconds, warmup_seconds=max(2.0, place.seconds))
    try:
        bench = tasks.bench(opening, plan, target=place.target, progress=progress)
    except EngineError as error:
        if isinstance(error, ImportError):
            raise
        return Refused(error.code, error.message, passing=True)
    if not bench.timed:
        raise UsageError("target-untimed", tasks.UNTIMED.format(bench.target))
    interval = bench.intervals_ms.get("p50")
    return Cost(
        latency_ms=bench.latency_ms.p50,
        memory_mb=bench.memory.peak_mb,
        basis="measured",
        low_ms=interval.low if interval else None,
        high_ms=interval.high if interval else None,
        notes=() if bench.valid else bench.notes,
    )


def predicted(path: Path, setting: Setting, device: str) -> Cost | Refused:
    """What the gate predicts for a device.

    Raises:
        UsageError: `latency-unpredicted`.
    """
    from edgekit import gate

    opened = artifacts.read(path)
    verdict = gate.check(
        read_facts(opened), opened.manifest, load_profile(device), threads=setting.threads, engine=setting.engine
    )
    if not verdict.fits:
        return Refused("device-limit", gate.limiting(verdict))
    latency, memory = verdict.latency_ms, verdict.memory_mb["estimate"]
    if latency["estimate"] is None or memory is None:
        what = f"{path.suffix[1:]} models on {device}"
        raise UsageError("latency-unpredicted", f"the speed of {what} cannot be predicted: {latency['basis']}")
    return Cost(latency["estimate"], memory, "predicted", latency["low"], latency["high"])


def machine(place: Place) -> dict[str, object]:
    """What besides the artifact and the setting decides a measurement, for the cache."""
    facts: dict[str, object] = {"target": place.target, "seconds": place.seconds}
    if place.target is None and place.device is not None:
        facts["profile"] = encode(load_profile(place.device))
    elif place.target == "local":
        from edgekit.measure.environment import environment, identity

        facts["machine"] = identity(environment())
    return facts
