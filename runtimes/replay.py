"""Replay the self-test where the artifact runs; `edgekit.converters.record` made it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgekit.errors import ArtifactError
from edgekit.runtimes.base import Array, Feeds
from edgekit.runtimes.model import Model
from edgekit.selftest import Vector, restore, store, thin
from edgekit.tensors import TensorSpec


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
        given = model.run(test.feeds(vector, model.inputs), raw=True)
        for spec in model.outputs:
            found = thin(given[spec.name])
            off_steps, off = difference(_expected(vector, spec, found.size), found)
            steps, relative = max(steps, off_steps), max(relative, off)
            if spec.dtype.startswith("float"):
                bad, said = not off <= test.tolerance.relative, f"{off:.2g} relative"
            else:
                bad, said = off_steps > test.tolerance.steps, f"{off_steps} steps"
            if bad:
                failures.append(f"vector {number}, output {spec.name}: off by {said}")
    return Replay(not failures, len(test.vectors), steps, relative, tuple(failures))


def answers(model: Model, feeds: Feeds) -> dict[str, str]:
    """Raw answers as the self-test stores them."""
    return {name: store(thin(array)) for name, array in model.run(feeds, raw=True).items()}


def difference(expected: Array, found: Array) -> tuple[int, float]:
    """(steps, relative) between two answers of one dtype: the one that does not apply to it is 0."""
    if expected.dtype.kind == "f":
        return 0, _relative(expected, found)
    return int(np.abs(expected.astype(np.int64) - found.astype(np.int64)).max(initial=0)), 0.0


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


def _relative(expected: Array, found: Array) -> float:
    """Infinity when only one side is finite somewhere."""
    same = (expected == found) | (np.isnan(expected) & np.isnan(found))
    with np.errstate(invalid="ignore", over="ignore"):
        off = np.where(same, 0.0, np.abs(expected.astype(np.float64) - found))
    if not np.isfinite(off).all():
        return float("inf")
    scale = float(np.abs(expected).max(initial=0.0, where=np.isfinite(expected)))
    return float(off.max(initial=0.0)) / (scale or 1.0)
