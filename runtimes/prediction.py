"""From a thing to its answer: prepare, run, read. What the manifest says is looked up once a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.errors import FeedError
from edgekit.runtimes.base import Array, dequantize
from edgekit.runtimes.interpret import interpret
from edgekit.runtimes.model import timed
from edgekit.runtimes.preparation.pictures import geometry
from edgekit.runtimes.preprocess import Prepared, Preparer
from edgekit.runtimes.straight import Straight
from edgekit.tensors import TensorSpec

if TYPE_CHECKING:
    from edgekit.runtimes.model import Model


class Predictor:
    """The steps of `Model.predict`.

    Args:
        model: Whose.
        ready: Takes the tensors' own integers and gives real values.
        whole: The engine takes any number of samples at once.
    """

    def __init__(self, model: Model, ready: Straight, *, whole: bool) -> None:
        self._model = model
        self._preparer = Preparer(model.inputs, model.preprocess)
        self._how = model.interpret
        self._ready = ready
        self._size = picture_size(model.inputs)
        self._whole = whole and all(spec.shape and spec.shape[0] is None for spec in model.inputs)

    def __call__(self, thing: Any, colors: str | None) -> Any:
        metrics = self._model.metrics
        if metrics is None:
            prepared = self._preparer(thing, colors)
            return self._read(self.run(prepared), prepared)
        with timed(metrics, "predict_seconds"):
            prepared = self._preparer(thing, colors)
            return self._read(self.run(prepared), prepared)

    def seen(self, thing: Any) -> tuple[Any, dict[str, Array]]:
        """The answer, and the outputs in real values that it was read from."""
        prepared = self._preparer(thing, None)
        outputs = self.run(prepared)
        return self._read(outputs, prepared), outputs

    def batch(self, things: list[Any], colors: str | None) -> list[Any]:
        """Answers in the order of the things."""
        prepared = [self._preparer(thing, colors) for thing in things]
        together = _together(prepared, self._model.inputs) if len(prepared) > 1 and self._whole else None
        if together is None:
            return [self._read(self.run(one), one) for one in prepared]
        outputs = self.run(together)
        if any(array.shape[:1] != (len(things),) for array in outputs.values()):
            return [self._read(self.run(one), one) for one in prepared]  # an output that is not one a sample
        return [self._read(outputs, one, place) for place, one in enumerate(prepared)]

    def _read(self, outputs: dict[str, Array], prepared: Prepared, sample: int = 0) -> Any:
        given = self._given(prepared) if self._how.task == "anomaly" else None
        placement = prepared.placement
        return interpret(outputs, self._how, sample=sample, size=self._size, placement=placement, given=given)

    def _given(self, prepared: Prepared) -> Array | None:
        """The input in real values, for reconstructions."""
        (spec, *others) = self._model.inputs
        array = prepared.feeds.get(spec.name)
        if others or array is None:
            return None
        return dequantize(array, spec) if prepared.ready else np.asarray(array)

    def run(self, prepared: Prepared) -> dict[str, Array]:
        """Outputs in real values."""
        if not prepared.ready:
            return self._model.run(prepared.feeds)
        self._model.check_usable()
        answers = self._ready(prepared.feeds)
        return self._model.restore(self._model.run(prepared.feeds, raw=True)) if answers is None else answers


def zeros(inputs: tuple[TensorSpec, ...]) -> dict[str, Array]:
    """A feed of the tensors' own dtypes; free sizes are 1."""
    return {
        spec.name: np.full(shape, "", object) if spec.dtype == "string" else np.zeros(shape, spec.dtype)
        for spec in inputs
        for shape in [[size or 1 for size in spec.shape]]
    }


def _together(prepared: list[Prepared], inputs: tuple[TensorSpec, ...]) -> Prepared | None:
    """All feeds as one; None where they do not go together."""
    feeds: dict[str, Array] = {}
    for spec in inputs:
        arrays = [np.asarray(one.feeds.get(spec.name)) for one in prepared]
        rank = len(spec.shape)
        rows = [array[None] if array.ndim == rank - 1 else array for array in arrays]
        if any(row.ndim != rank or row.shape != rows[0].shape or row.shape[0] != 1 for row in rows):
            return None
        feeds[spec.name] = np.concatenate(rows)
    if any(one.ready != prepared[0].ready or len(one.feeds) != len(inputs) for one in prepared):
        return None
    return Prepared(feeds, prepared[0].ready)


def picture_size(inputs: tuple[TensorSpec, ...]) -> tuple[int, int] | None:
    """Height and width of an image input."""
    try:
        wanted = geometry(inputs[0])
    except (FeedError, IndexError):
        return None
    return wanted.height, wanted.width
