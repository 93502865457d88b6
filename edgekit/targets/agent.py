"""What happens where the artifact runs: open it there, feed it, measure it. Needs numpy and one engine.

Each job is a function from one dataclass to another, run in a child process on the machine that is meant (see
`edgekit.child`), because an engine that meets a file it cannot stand takes its process with it.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekit import files, npz
from edgekit.data_ref import DataRef
from edgekit.errors import ArtifactError, DataError, VerificationError
from edgekit.measure.compare import ComparePlan, Comparison, Contender
from edgekit.measure.results import Bench
from edgekit.measure.sampling import BenchPlan
from edgekit.tensors import TensorSpec, sampled, unbatched

Event = dict[str, Any]


@dataclass(frozen=True)
class Opening:
    """Which artifact, and how to open it.

    Attributes:
        path: The file.
        engine: None for the format's own.
        threads: None for the engine's choice.
        verify: Compare the digest.
    """

    path: str
    engine: str | None = None
    threads: int | None = None
    verify: bool = True


@dataclass(frozen=True)
class RunRequest:
    """Answer some data.

    Attributes:
        samples: At most this many.
        output: File (.npz) for the raw outputs; None to return interpreted answers only.
    """

    opening: Opening
    data: DataRef
    samples: int
    output: str | None = None


@dataclass(frozen=True)
class RunResult:
    """Answers, one a sample, as `edgekit.runtimes.interpret` reads them; and the outputs' shapes."""

    answers: tuple[dict[str, Any], ...]
    outputs: tuple[TensorSpec, ...]
    engine: str
    seconds: float
    output: str | None = None


def run(request: RunRequest) -> RunResult:
    """Feed samples and read the answers."""
    import numpy as np

    from edgekit import sample_axis
    from edgekit.data import open_data
    from edgekit.runtimes.interpret import framed, interpret
    from edgekit.runtimes.prediction import picture_size

    with _open(request.opening) as model:
        inputs = sampled(model.inputs, model.outputs)
        ask = sample_axis.each(model.run, inputs, model.inputs)
        data = open_data(_prepared(request.data, model), inputs)
        size = picture_size(inputs)
        bare = unbatched(model.inputs, model.outputs) if inputs is model.inputs else frozenset()
        kept: dict[str, list[Any]] = {spec.name: [] for spec in model.outputs}
        answers: list[dict[str, Any]] = []
        seconds = 0.0
        for batch in data.batches(1):
            if len(answers) == request.samples:
                break
            started = time.perf_counter()
            outputs = framed(ask(batch.feeds), bare)
            seconds += time.perf_counter() - started
            for one in range(min(data.step, request.samples - len(answers))):  # a fixed batch holds several
                fed, made = (_sample(arrays, one, data.step) for arrays in (batch.feeds, outputs))
                given = next(iter(fed.values())) if len(fed) == 1 else None
                answers.append(interpret(made, model.interpret, size=size, given=given).to_dict())
                for name, value in made.items():
                    kept[name].append(value)
        if request.output is not None:
            whole = {name: np.concatenate(parts) for name, parts in kept.items()}
            files.replace(Path(request.output), npz.pack(whole))
        return RunResult(tuple(answers), model.outputs, model.engine, seconds, request.output)


def _sample(arrays: dict[str, Any], place: int, step: int) -> dict[str, Any]:
    """One of so many samples, with its batch axis."""
    if step == 1:
        return arrays
    return {name: array[place : place + 1] if len(array) == step else array for name, array in arrays.items()}


@dataclass(frozen=True)
class EvaluateRequest:
    """Measure accuracy on labelled data; `task` overrides what the manifest says."""

    opening: Opening
    data: DataRef
    task: str | None = None


@dataclass(frozen=True)
class NamedValue:
    """A figure with its name and unit: top1 and multi_label_f1 in percent, r2 in percent of variance."""

    name: str
    value: float


@dataclass(frozen=True)
class Evaluation:
    """The contract's fields of `evaluate`, and what is doubtful about them."""

    metric: NamedValue
    samples: int
    seconds: float
    engine: str
    warnings: tuple[str, ...] = ()


def evaluate(request: EvaluateRequest) -> Generator[Event, None, Evaluation]:
    """Run all samples and compare with their labels."""
    from edgekit import metadata, sample_axis
    from edgekit.data import open_data
    from edgekit.metrics import accumulator

    with _open(request.opening) as model:
        inputs = sampled(model.inputs, model.outputs)
        ask = sample_axis.each(model.run, inputs, model.inputs)
        data = open_data(_prepared(request.data, model), inputs)
        if not data.labelled:
            raise DataError("labels-missing", f"{request.data.path} has no labels")
        data.require_classes()
        said = metadata.complete(
            metadata.Metadata(interpret=model.interpret),
            model.outputs,
            label=request.data.label,
            class_names=data.class_names,
            inputs=model.inputs,
        ).interpret
        metric = None
        output = said.output or model.outputs[0].name
        done = 0
        seconds = 0.0
        for batch in data.batches(16):
            started = time.perf_counter()
            answers = ask(batch.feeds)
            seconds += time.perf_counter() - started
            assert batch.labels is not None  # noqa: S101 - the data is labelled
            metric = metric or accumulator(request.task or said.task, data.labels, answers[output])
            metric.add(answers[output], batch.labels)
            done += len(batch.labels)
            yield {"done": done, "total": len(data)}
        assert metric is not None  # noqa: S101 - data is never empty
        doubts = tuple(f"{doubt} {fix}" for doubt, fix in data.doubts)
        return Evaluation(NamedValue(metric.name, metric.value), done, seconds, model.engine, doubts)


@dataclass(frozen=True)
class Replayed:
    """The self-test of an artifact, run on a target."""

    passed: bool
    vectors: int
    worst_steps: int
    worst_relative: float
    failures: tuple[str, ...]
    engine: str
    engine_version: str
    target: str = "local"


def verify(opening: Opening) -> Replayed:
    """Check the digest and replay the self-test vectors."""
    from edgekit.runtimes.replay import replay

    with _open(opening) as model:
        if model.artifact.selftest is None:
            raise ArtifactError("selftest-missing", f"{opening.path} carries no self-test: edgekit did not write it")
        seen = replay(model)
        return Replayed(
            seen.passed, seen.vectors, seen.worst_steps, seen.worst_relative, seen.failures,
            model.engine, model.engine_version,
        )  # fmt: skip


def enforce(replayed: Replayed, path: str) -> None:
    """Raise when the self-test failed."""
    if not replayed.passed:
        where = "here" if replayed.target == "local" else f"on {replayed.target}"
        raise VerificationError(
            "selftest-failed",
            f"{path} gives other answers {where} than where it was made: {'; '.join(replayed.failures[:3])}",
            engine=f"{replayed.engine} {replayed.engine_version}",
        )


@dataclass(frozen=True)
class BenchRequest:
    """Measure latency and memory."""

    opening: Opening
    plan: BenchPlan = field(default_factory=BenchPlan)


def bench(request: BenchRequest) -> Generator[Event, None, Bench]:
    """Load, warm up until steady, measure."""
    from edgekit.measure import latency

    opening = request.opening
    return (
        yield from latency.measure(
            Path(opening.path), request.plan, engine=opening.engine, threads=opening.threads, verify=opening.verify
        )
    )


@dataclass(frozen=True)
class CompareRequest:
    """Measure two artifacts side by side."""

    new: Opening
    baseline: Opening
    plan: ComparePlan = field(default_factory=ComparePlan)


def compare(request: CompareRequest) -> Generator[Event, None, Comparison]:
    """Run both in one process, in turns, until the answer is narrow enough."""
    from edgekit.measure.compare import interleaved

    return (yield from interleaved(contender(request.new), contender(request.baseline), request.plan))


def contender(opening: Opening) -> Contender:
    """An artifact as one side of a comparison: read and checked once, opened anew in every round."""
    from edgekit import artifact
    from edgekit.measure.subject import Call, open_subject

    read = artifact.read(Path(opening.path), verify=opening.verify)

    @contextmanager
    def opened() -> Iterator[Call]:
        with open_subject(read, engine=opening.engine, threads=opening.threads) as subject:
            yield subject.call

    return Contender(opening.path, opened)


def _open(opening: Opening) -> Any:
    from edgekit.runtimes.model import load

    return load(opening.path, threads=opening.threads, engine=opening.engine, verify=opening.verify)


def _prepared(data: DataRef, model: Any) -> DataRef:
    """The manifest says how raw files become arrays, and which class has which index."""
    from dataclasses import replace

    about = model.manifest
    return replace(data, preprocess=about.preprocess, classes=about.interpret.labels) if about else data
