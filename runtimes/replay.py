"""Record the self-test where the artifact is made, replay it where it runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from edgekit.errors import ArtifactError
from edgekit.runtimes.base import Array, Feeds, quantize
from edgekit.runtimes.model import Model
from edgekit.selftest import SelfTest, Vector, restore, store, thin
from edgekit.tensors import TensorSpec

SEEDED = 4


@dataclass(frozen=True)
class Replay:
    """What came out.

    Attributes:
        worst_steps: Largest difference of an integer output, in steps.
        worst_relative: Largest difference of a float output, relative to the largest stored magnitude of that output.
        failures: One line for each output outside the tolerance.
    """

    passed: bool
    vectors: int
    worst_steps: int
    worst_relative: float
    failures: tuple[str, ...]


def record(
    model: Model, ranges: dict[str, tuple[float, float]], samples: Feeds, *, budget_bytes: int, seed: int
) -> SelfTest:
    """Make the vectors: seeded inputs, and real samples while they add at most `budget_bytes`.

    Args:
        model: The finished model, of one thread.
        ranges: Input name -> range of real values.
        samples: A few real ones, by input name, [n, ...], real values.
        budget_bytes: For stored inputs, as they are encoded.
        seed: Of the generated inputs.
    """
    shapes = {
        spec.name: tuple(
            (1 if axis == 0 else int(samples[spec.name].shape[axis])) if size is None else size
            for axis, size in enumerate(spec.shape)
        )
        for spec in model.inputs
    }
    plan = SelfTest(seed, ranges, shapes, ())
    vectors = []
    for index in range(SEEDED):
        feeds = plan.feeds(Vector({}, index), model.inputs)
        vectors.append(Vector(_answers(model, feeds), index))
    left = budget_bytes
    for number in range(min(len(value) for value in samples.values())):
        feeds = {spec.name: _raw(samples[spec.name][number : number + 1], spec) for spec in model.inputs}
        if any(feeds[name].shape != shape for name, shape in shapes.items()):
            break
        stored = {name: store(array) for name, array in feeds.items()}
        left -= sum(map(len, stored.values()))
        if left < 0:
            break
        vectors.append(Vector(_answers(model, feeds), None, stored))
    return SelfTest(seed, ranges, shapes, tuple(vectors))


def replay(model: Model) -> Replay:
    """Run the artifact's vectors here and compare within its tolerance.

    Raises:
        ArtifactError: `selftest-missing`; `selftest-invalid`: it is not of this model.
    """
    test = model.artifact.selftest
    if test is None:
        raise ArtifactError("selftest-missing", f"{model.artifact.path or 'the model'} carries no self-test")
    steps, relative = 0, 0.0
    failures: list[str] = []
    for number, vector in enumerate(test.vectors):
        answers = model.run(test.feeds(vector, model.inputs), raw=True)
        for spec in model.outputs:
            found = thin(answers[spec.name])
            expected = _expected(vector, spec, found.size)
            if spec.dtype.startswith("float"):
                off = _relative(expected, found)
                relative = max(relative, off)
                bad, said = not off <= test.tolerance.relative, f"{off:.2g} relative"
            else:
                off_steps = int(np.abs(expected.astype(np.int64) - found.astype(np.int64)).max(initial=0))
                steps = max(steps, off_steps)
                bad, said = off_steps > test.tolerance.steps, f"{off_steps} steps"
            if bad:
                failures.append(f"vector {number}, output {spec.name}: off by {said}")
    return Replay(not failures, len(test.vectors), steps, relative, tuple(failures))


def _answers(model: Model, feeds: dict[str, Any]) -> dict[str, str]:
    return {name: store(thin(array)) for name, array in model.run(feeds, raw=True).items()}


def _expected(vector: Vector, spec: TensorSpec, size: int) -> Array:
    try:
        expected = restore(vector.outputs[spec.name], spec.dtype)
    except (KeyError, ValueError) as error:
        raise ArtifactError("selftest-invalid", f"the self-test has no answer of {spec.name}: {error}") from error
    if expected.size != size:
        raise ArtifactError(
            "selftest-invalid", f"the self-test stores {expected.size} values of {spec.name}, the model gives {size}"
        )
    return expected


def _raw(sample: Array, spec: TensorSpec) -> Array:
    return quantize(sample, spec) if spec.quant is not None else sample.astype(spec.dtype)


def _relative(expected: Array, found: Array) -> float:
    """Infinity when only one side is finite somewhere."""
    same = (expected == found) | (np.isnan(expected) & np.isnan(found))
    with np.errstate(invalid="ignore", over="ignore"):
        off = np.where(same, 0.0, np.abs(expected.astype(np.float64) - found))
    if not np.isfinite(off).all():
        return float("inf")
    scale = float(np.abs(expected).max(initial=0.0, where=np.isfinite(expected)))
    return float(off.max(initial=0.0)) / (scale or 1.0)
