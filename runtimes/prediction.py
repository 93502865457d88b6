"""From a thing to its answer: prepare, run, read. What the manifest says is looked up once a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.errors import FeedError
from edgekit.runtimes.base import Array, dequantize
from edgekit.runtimes.interpret import interpret
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
    """

    def __init__(self, model: Model, ready: Straight) -> None:
        self._model = model
        self._preparer = Preparer(model.inputs, model.preprocess)
        self._how = model.interpret
        self._ready = ready
        self._size = _size(model.inputs)

    def __call__(self, thing: Any, colors: str | None) -> Any:
        prepared = self._preparer(thing, colors)
        return self._read(self.run(prepared), prepared)

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


def _size(inputs: tuple[TensorSpec, ...]) -> tuple[int, int] | None:
    """Height and width of an image input."""
    try:
        wanted = geometry(inputs[0])
    except (FeedError, IndexError):
        return None
    return wanted.height, wanted.width
