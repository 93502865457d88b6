"""The self-test's vectors: inputs whose answers do not depend on how a kernel rounds.

Kernels of one engine round differently on other CPUs, and not all CPUs have the same kernels (32-bit Arm wheels come
without XNNPACK). In a deep quantized model one step more in the first layer may turn an uncertain answer around, so a
vector that is taken blindly tells rounding apart, not right from wrong. Therefore inputs are drawn until their answers
stay the same when the input is shaken by the arithmetic's own step, and when the engine's plain kernels compute them.
Where a model has too few of these, the tolerance is what was seen, and says so in the artifact.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgekit.artifact import Artifact
from edgekit.errors import EngineError
from edgekit.runtimes import engine_litert, engine_onnxruntime
from edgekit.runtimes.base import Array, Backend, Feeds, quantize
from edgekit.runtimes.model import Model
from edgekit.runtimes.replay import answers, difference
from edgekit.selftest import SelfTest, Tolerance, Vector, noise, restore, store
from edgekit.tensors import INTEGER_RANGE, TensorSpec

SEEDED = 4
_SHAKES = 4
_REACH = 2
"""Steps that inputs are shaken by: in a deep model each layer's rounding adds to the first one's."""

_CANDIDATES = (8, 48)
_WORK = 3e10
"""Multiply-accumulates that choosing vectors may cost: seconds at the desk."""

_CALM = 0.5
"""Part of the tolerance that answers may move by while they are looked for: other kernels move them, too."""

_MARGIN = 2.0
"""Kernels that were not tried here may differ by this much more than those that were."""

_UNSTABLE = 1e9
"""The move of an answer that has another size."""

_PLAIN: dict[str, Backend] = {"tflite": engine_litert.PLAIN, "onnx": engine_onnxruntime.PLAIN}


@dataclass(frozen=True)
class Arithmetic:
    """What a graph computes with.

    Attributes:
        step: Of its numbers, relative to the range of a tensor.
        tolerance: What right kernels may differ by in the end.
    """

    step: float
    tolerance: Tolerance


EIGHT_BITS = Arithmetic(1 / 255, Tolerance(steps=1, relative=1 / 64))
SIXTEEN_BITS = Arithmetic(1 / 65535, Tolerance(steps=32, relative=1 / 2048))
FLOATS = Arithmetic(2.0**-23, Tolerance(steps=1, relative=1e-5))


def record(
    model: Model,
    ranges: dict[str, tuple[float, float]],
    samples: Sequence[Feeds],
    *,
    arithmetic: Arithmetic,
    macs: int | None,
    budget_bytes: int,
    seed: int,
) -> SelfTest:
    """Make the vectors: seeded inputs, and real samples while they add at most `budget_bytes`.

    Args:
        model: The finished model, of one thread.
        ranges: Input name -> range of real values.
        samples: A few real ones, real values by input name; several in one where there is a batch.
        arithmetic: Of the graph.
        macs: Multiply-accumulates of one run; None when unknown.
        budget_bytes: For stored inputs, as they are encoded.
        seed: Of the generated inputs.
    """
    shapes = {
        spec.name: tuple(
            (1 if axis == 0 else int(samples[0][spec.name].shape[axis])) if size is None else size
            for axis, size in enumerate(spec.shape)
        )
        for spec in model.inputs
    }
    plan = SelfTest(seed, ranges, shapes, (), arithmetic.tolerance)
    with _Shaker(model, arithmetic, ranges, seed) as shaker:
        found: list[tuple[float, Vector]] = []
        for index in range(_count(macs)):
            spread, given = shaker.spread(plan.feeds(Vector({}, index), model.inputs))
            found.append((spread, Vector(given, index)))
            if sum(spread <= _CALM for spread, _ in found) == SEEDED:
                break
        found = sorted(found, key=lambda pair: max(_CALM, pair[0]))[:SEEDED]
        # What has another size when shaken is kept only where there is nothing else, and tells nothing of rounding.
        found = [pair for pair in found if pair[0] < _UNSTABLE] or found[:1]
        worst = max((spread for spread, _ in found if spread < _UNSTABLE), default=0.0)
        vectors = [vector for _, vector in sorted(found, key=lambda pair: pair[1].index or 0)]
        left = budget_bytes
        for feeds in _stored(model, samples, shapes):
            stored = {name: store(array) for name, array in feeds.items()}
            left -= sum(map(len, stored.values()))
            if left < 0:
                break
            spread, given = shaker.spread(feeds)
            if spread <= max(1.0, worst):
                vectors.append(Vector(given, None, stored))
    return SelfTest(seed, ranges, shapes, tuple(vectors), _tolerance(arithmetic.tolerance, worst))


def _tolerance(floor: Tolerance, worst: float) -> Tolerance:
    if worst <= 1:
        return floor
    return Tolerance(int(np.ceil(floor.steps * worst * _MARGIN)), min(1.0, floor.relative * worst * _MARGIN))


def _count(macs: int | None) -> int:
    """Candidates: as many as the work allows; a number of the graph and not of the clock, for the same bytes."""
    least, most = _CANDIDATES
    return int(min(most, max(least, _WORK / ((_SHAKES + 2) * max(macs or 1, 1)))))


class _Shaker:
    """Tells how far an answer moves, in units of the tolerance."""

    def __init__(self, model: Model, arithmetic: Arithmetic, ranges: dict[str, tuple[float, float]], seed: int) -> None:
        self._model = model
        self._arithmetic = arithmetic
        self._ranges = ranges
        self._seed = seed
        self._plain = _plain(model)

    def spread(self, feeds: Feeds) -> tuple[float, dict[str, str]]:
        """The largest move over shaken inputs and plain kernels, and the answers as they are stored."""
        given = answers(self._model, feeds)
        moves = [self._move(given, self._model, shaken) for shaken in self._shaken(feeds)]
        if self._plain is not None:
            moves.append(self._move(given, self._plain, feeds))
        return max(moves), given

    def _move(self, given: dict[str, str], model: Model, feeds: Feeds) -> float:
        moved = answers(model, feeds)
        worst = 0.0
        for spec in self._model.outputs:
            expected, found = restore(given[spec.name], spec.dtype), restore(moved[spec.name], spec.dtype)
            if expected.size != found.size:  # something else was selected
                return _UNSTABLE
            steps, relative = difference(expected, found)
            floor = self._arithmetic.tolerance
            worst = max(worst, relative / floor.relative if spec.dtype.startswith("float") else steps / floor.steps)
        return worst

    def _shaken(self, feeds: Feeds) -> Iterator[dict[str, Array]]:
        for shake in range(_SHAKES):
            yield {
                spec.name: self._shake(feeds[spec.name], spec, shake * 64 + position)
                for position, spec in enumerate(self._model.inputs)
            }

    def _shake(self, values: Array, spec: TensorSpec, stream: int) -> Array:
        """Up to `_REACH` steps more or less, evenly; numbers that are no measurements (ids, flags) stay."""
        measured = spec.dtype.startswith("float") or (spec.quant is not None and spec.dtype in INTEGER_RANGE)
        if not measured:
            return values
        bits = noise(values.size, ~self._seed & (1 << 64) - 1, stream).reshape(values.shape)
        by = _REACH * ((bits >> np.uint64(40)).astype(np.float64) / float(1 << 23) - 1.0)
        if spec.dtype.startswith("float"):
            low, high = self._ranges[spec.name]
            size = self._arithmetic.step * (max(abs(low), abs(high)) if self._arithmetic is FLOATS else high - low)
            return (values + by * size).astype(values.dtype)
        least, most = INTEGER_RANGE[spec.dtype]
        return np.clip(values.astype(np.int64) + np.rint(by).astype(np.int64), least, most).astype(values.dtype)

    def __enter__(self) -> _Shaker:
        return self

    def __exit__(self, *_: object) -> None:
        if self._plain is not None:
            self._plain.close()


def _plain(model: Model) -> Model | None:
    """The model by the engine's plain kernels; None where they cannot run it."""
    artifact: Artifact = model.artifact
    try:
        session = _PLAIN[artifact.format].open(artifact, 1)
    except EngineError:
        return None
    return Model(artifact, session, model.inputs, model.outputs, engine=model.engine, threads=1)


def _stored(model: Model, samples: Sequence[Feeds], shapes: dict[str, tuple[int, ...]]) -> Iterator[dict[str, Any]]:
    for given in samples:
        for sample in _apart(given, shapes):
            feeds = {spec.name: _raw(sample[spec.name], spec) for spec in model.inputs}
            if any(feeds[name].shape != shape for name, shape in shapes.items()):
                return
            yield feeds


def _apart(samples: Feeds, shapes: dict[str, tuple[int, ...]]) -> Iterator[Feeds]:
    """What is one sample as it is, or each of several."""
    if all(samples[name].shape == shape for name, shape in shapes.items()):
        yield samples
        return
    for number in range(min(len(value) for value in samples.values())):
        yield {name: value[number : number + 1] for name, value in samples.items()}


def _raw(sample: Array, spec: TensorSpec) -> Array:
    return quantize(sample, spec) if spec.quant is not None else sample.astype(spec.dtype)
