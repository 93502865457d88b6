"""A deployed model taught what it met: your function trains, and its model replaces the old one, or nothing does.

    divide > train (yours) > convert > judge beside the old artifact > write > deploy, on trial

Both data sets are divided first: your function sees one part, and the other judges. The new artifact must hold what
the old one does on the old data (nothing is forgotten) and on the new data, each within `max_drop` points. The file
appears, and a board hears of it, only then. What a monitor will hold the stream against is what the boards meet now:
the new data, thinned by its weights, so that what was captured more often counts no more than it should.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit import artifact as artifacts
from edgekit import files, pipeline
from edgekit.artifact import Artifact
from edgekit.codec import encode
from edgekit.conversion import Conversion
from edgekit.data_ref import DataRef
from edgekit.deploy import fleet
from edgekit.errors import ArtifactError, DataError, UsageError, VerificationError
from edgekit.monitor.build import LEAST as ENOUGH
from edgekit.options import Options
from edgekit.store import reading
from edgekit.targets import agent, tasks
from edgekit.teaching import Labelled, divided, given

if TYPE_CHECKING:
    from edgekit.child import Progress
    from edgekit.manifest import Manifest

LEAST = 20
"""Samples that judge: with fewer, one of them is more than the points that are allowed."""
_KEPT = (
    "precision", "interface", "allow_float_ops", "lift", "rules", "repairs", "layout", "exact_labels", "observer",
    "percentile", "calibration_samples", "seed", "shapes", "dtypes", "model", "embedding",
)  # fmt: skip
"""Options of the old conversion that the new one has as well, unless others are given."""

Train = Callable[[Any, Labelled, Labelled], Any]


@dataclass(frozen=True)
class Judged:
    """Both artifacts on data that neither the retraining nor the calibration saw.

    Attributes:
        data: Which of the two sets.
        metric: Its name, as `edgekit.metrics` has it; larger is better.
        samples: How many judged.
        before, after: The old artifact's, and the new one's.
    """

    data: str
    metric: str
    samples: int
    before: float
    after: float

    @property
    def drop(self) -> float:
        """Points that were lost; negative where some were won."""
        return self.before - self.after


@dataclass(frozen=True)
class Retrained:
    """What came of it.

    Attributes:
        artifact: The new one.
        judged: On the old data, and on the new.
        conversion: How it was made.
        deployed: An outcome a target.
    """

    artifact: Artifact
    judged: tuple[Judged, ...]
    conversion: Conversion
    deployed: tuple[fleet.Outcome, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        judged = [{**encode(one), "drop": one.drop} for one in self.judged]
        return {"judged": judged, "deployed": encode(self.deployed), **self.conversion.to_dict()}


def retrain(
    train: Train,
    model: Any,
    artifact: str | Path | Artifact,
    old_data: Any,
    new_data: Any,
    *,
    old_test: Any = None,
    new_test: Any = None,
    holdout: float = 0.3,
    max_drop: float = 1.0,
    output: str | Path | None = None,
    deploy: fleet.Deployment | None = None,
    targets: Sequence[str] = ("local",),
    seed: int = 0,
    progress: Progress | None = None,
    **options: Any,
) -> Retrained:
    """Train on, convert, and replace the old model if the new one is no worse.

    Args:
        train: From (old model, old data, new data) to a new model, of any kind that `edgekit.convert` takes; both data
            are `edgekit.teaching.Labelled`.
        model: The old model, handed to `train` as it is.
        artifact: What is deployed now: its file, or the name of a model in this machine's store.
        old_data: What the old model was trained with: a path as `--eval` takes it, or arrays (x, y).
        new_data: What the boards met: the same, or a dataset that `edgekit collect` made (its labelled part).
        old_test: Old data that only judges; None to keep a part of `old_data` back. Give the old model's own test data,
            if you have it: on what it was trained with, a model is better than it is.
        new_test: New data that only judges; None to keep a part of `new_data` back.
        holdout: The part that is kept back.
        max_drop: Points of the metric that may be lost on either set.
        output: Where the new artifact goes; None to keep it in memory.
        deploy: How it is deployed (its path is filled in); None not to.
        targets: Where; with several, the first is the canary.
        seed: Of the division.
        progress: Told what goes on.
        **options: Of `edgekit.convert`; by default those of the old conversion.

    Raises:
        DataError: `labels-missing`; `retrain-few`: too little is left to judge. As `edgekit.convert` else.
        ArtifactError: `retrain-foreign`: EdgeKit did not make the old artifact.
        UsageError: `option-value`; `retrain-folded`; `retrain-nothing`: `train` returned None.
        VerificationError: `retrain-forgot`: worse on the old data; `retrain-worse`: worse on the new. Nothing is
            written then. `deploy-rolled-back`: the trial failed; the old version is active.
        EdgeKitError: As `edgekit.convert` and `edgekit deploy`.

    Example:
        done = edgekit.retrain(fit, "digits.keras", "digits.tflite", "train.npz", "dataset/", old_test="test.npz",
                               output="digits-2.tflite", deploy=Deployment(Path(), "digits", seconds=30),
                               targets=["ssh://pi@kitchen"])
    """
    if not 0 < holdout < 1 or not max_drop >= 0:
        raise UsageError("option-value", f"a part of {holdout} kept back, {max_drop} points: neither can be")
    old = _opened(artifact)
    about = _about(old)
    old_train, old_judge = _divided(old_data, old_test, about, holdout, seed)
    new_train, new_judge = _divided(new_data, new_test, about, holdout, seed)
    for name, part in (("old", old_judge), ("new", new_judge)):
        if len(part) < LEAST:
            raise DataError("retrain-few", f"{len(part)} samples of the {name} data would judge; at least {LEAST}")
    if progress is not None:
        progress({"stage": "train"})
    made = train(model, old_train, new_train)
    if made is None:
        raise UsageError("retrain-nothing", "the function that trains returned None; it returns the new model")
    conversion = pipeline.run(
        made,
        _options(old, about, old_train.joined(new_train), old_judge.joined(new_judge), max_drop, options),
        progress,
        watched=_met(new_train, new_judge, seed),
    )
    judged = _judged(old, conversion.artifact, {"old": old_judge, "new": new_judge}, progress)
    for one in judged:
        _enforce(one, max_drop)
    fresh = conversion.artifact
    fresh = fresh if output is None else fresh.write(Path(output))
    conversion = replace(conversion, artifact=fresh, warnings=(*conversion.warnings, *_renamed(about, fresh)))
    return Retrained(fresh, judged, conversion, _deployed(fresh, deploy, targets, progress))


def _opened(artifact: str | Path | Artifact) -> Artifact:
    if isinstance(artifact, Artifact):
        return artifact
    if reading.names_a_model(artifact):
        return reading.read(str(artifact))
    return artifacts.read(Path(artifact))


def _about(old: Artifact) -> Manifest:
    if old.manifest is None:
        raise ArtifactError("retrain-foreign", f"{old.path or 'the old artifact'} has no manifest to convert after")
    return old.manifest


def _divided(data: Any, test: Any, about: Manifest, holdout: float, seed: int) -> tuple[Labelled, Labelled]:
    whole = given(data, about)
    return (whole, given(test, about)) if test is not None else divided(whole, holdout, seed)


def _options(
    old: Artifact, about: Manifest, trained: Labelled, judging: Labelled, max_drop: float, options: dict[str, Any]
) -> Options:
    """As the old artifact was made, but for what is said otherwise."""
    recorded = {name: value for name, value in about.provenance.options.items() if name in _KEPT and value is not None}
    if about.provenance.options.get("fold_preprocess") and "metadata" not in options:
        raise UsageError(
            "retrain-folded", "the preparation is part of the old artifact's graph: say it with `metadata`"
        )
    if "shapes" in recorded:
        recorded["shapes"] = {name: tuple(shape) for name, shape in recorded["shapes"].items()}
    for name in ("rules", "repairs"):
        if name in recorded:
            recorded[name] = tuple(recorded[name])
    if recorded.get("repairs") in (("auto",), ("none",)):
        (recorded["repairs"],) = recorded["repairs"]
    said = {"preprocess": encode(about.preprocess), "interpret": encode(about.interpret)}
    known = {**recorded, "to": old.format, "metadata": said, "max_drop": max_drop,
             "calibration": trained.arrays(labels=False), "evaluation": judging.arrays()}  # fmt: skip
    unknown = sorted(set(options) - set(Options.__dataclass_fields__))
    if unknown:
        raise UsageError("option-unknown", f"retrain() takes no {', '.join(unknown)}")
    return Options(**{**known, **options})


def _judged(old: Artifact, new: Artifact, sets: dict[str, Labelled], progress: Progress | None) -> tuple[Judged, ...]:
    found = []
    with files.scratch() as folder:
        paths = [folder / f"{name}.{one.format}" for name, one in (("before", old), ("after", new))]
        for path, one in zip(paths, (old, new), strict=True):
            path.write_bytes(one.data)
        for name, samples in sets.items():
            data = DataRef(str(samples.save(folder / f"{name}.npz")))
            before, after = (tasks.evaluate(agent.Opening(str(path)), data, progress=progress) for path in paths)
            metric = before.metric
            found.append(Judged(name, metric.name, before.samples, metric.value, after.metric.value))
    return tuple(found)


def _met(trained: Labelled, judged: Labelled, seed: int) -> tuple[Any, Any] | None:
    """What a monitor will go by: the new data as the stream is; None where that is too little, and all of the
    conversion's data have to do.
    """
    judged, trained = judged.thinned(seed), trained.thinned(seed)
    if len(judged) + len(trained) < ENOUGH:
        return None
    return judged.arrays() if len(judged) else None, trained.arrays(labels=False) if len(trained) else None


def _renamed(about: Manifest, fresh: Artifact) -> list[str]:
    """What apps that feed and read by name must know."""
    assert fresh.manifest is not None  # noqa: S101 - it was just converted
    found = []
    for what in ("inputs", "outputs"):
        before, after = ([spec.name for spec in getattr(one, what)] for one in (about, fresh.manifest))
        if before != after:
            names = f"{', '.join(after)}, and were {', '.join(before)}"
            found.append(f"the {what} are called {names}: apps that name them must follow")
    return found


def _enforce(judged: Judged, max_drop: float) -> None:
    """Raise where more was lost than may be; a metric that is no number proves nothing."""
    if judged.drop <= max_drop:
        return
    what = "forgot" if judged.data == "old" else "is worse"
    raise VerificationError(
        "retrain-forgot" if judged.data == "old" else "retrain-worse",
        f"the new model {what}: {judged.metric} {judged.after:.2f} in place of {judged.before:.2f} on {judged.samples} "
        f"samples of the {judged.data} data, and {max_drop:g} points may be lost",
        **{**encode(judged), "drop": judged.drop},
    )


def _deployed(
    fresh: Artifact, asked: fleet.Deployment | None, targets: Sequence[str], progress: Progress | None
) -> tuple[fleet.Outcome, ...]:
    if asked is None:
        return ()
    with files.scratch() as folder:
        path = fresh.path
        if path is None:
            path = folder / f"model.{fresh.format}"
            path.write_bytes(fresh.data)
        asked = replace(asked, path=path)
        if len(targets) > 1:
            return fleet.deploy_many(asked, targets)
        (target,) = targets
        return (fleet.Outcome(target, fleet.deploy(asked, target, progress)),)
