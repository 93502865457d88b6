"""From a thing to its answer: prepare, run, read. What the manifest says is looked up once a model."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.errors import FeedError
from edgekit.runtimes.base import Array, dequantize
from edgekit.runtimes.interpret import reader
from edgekit.runtimes.preparation.pictures import geometry
from edgekit.runtimes.preprocess import Prepared, Preparer
from edgekit.runtimes.straight import Straight
from edgekit.tensors import TensorSpec, sampled, unbatched

if TYPE_CHECKING:
    from edgekit.runtimes.flow.metrics import Metrics
    from edgekit.runtimes.model import Model


class Predictor:
    """The steps of `Model.predict`, made once: what prepares, the way through the engine to the outputs that are read,
    and what reads them.

    Args:
        model: Whose.
        real, ready: The ways for exact feeds, of real values and of the tensors' own.
        general: The way for any feeds, raw or not.
        whole: The engine takes any number of samples at once.
    """

    def __init__(
        self, model: Model, real: Straight, ready: Straight, general: Callable[..., dict[str, Array]], *, whole: bool
    ) -> None:
        self._model = model
        self._real, self._ready, self._general = real, ready, general
        samples = sampled(model.inputs, model.outputs)
        self._preparer = Preparer(samples, model.preprocess, whole=samples is not model.inputs)
        self._quick, self._exact = self._preparer.quick, self._preparer.exact
        self._how = model.interpret
        self._reader = reader(self._how, picture_size(samples), unbatched(model.inputs, model.outputs))
        self._shown = self._how.task == "other" or (self._how.task == "detection" and self._how.detection is None)
        about = self._how.anomaly
        self._given = self._how.task == "anomaly" and about is not None and about.score != "output"
        self._whole = whole and all(spec.shape and spec.shape[0] is None for spec in model.inputs)

    def __call__(self, thing: Any, colors: str | None) -> Any:
        if self._model.metrics is not None:
            return self._counted(self._model.metrics, thing, colors)
        quick = self._quick
        if quick is None or (prepared := quick(thing, colors)) is None:
            prepared = self._preparer.general(thing, colors)
            return self._read(self._answers(prepared.feeds, prepared.ready), prepared)
        feeds, ready, placement, lent = prepared
        given = self._input(prepared) if self._given else None
        answer = self._reader(self._answers(feeds, ready), 0, placement, given)
        if lent is not None:
            self._preparer.take_back(prepared)
        return answer

    def _counted(self, metrics: Metrics, thing: Any, colors: str | None) -> Any:
        """The same; the run has a time of its own, in that of the whole, and counts its own errors."""
        begun = time.perf_counter()
        with metrics.errors():
            prepared = self._preparer(thing, colors)
        outputs = self.run(prepared)
        with metrics.errors():
            answer = self._read(outputs, prepared)
        self._preparer.take_back(prepared)
        metrics.observe("predict_seconds", time.perf_counter() - begun)
        return answer

    def seen(self, thing: Any, colors: str | None = None) -> tuple[Any, dict[str, Array]]:
        """The answer, and the outputs in real values that it was read from."""
        prepared = self._preparer(thing, colors)
        outputs = self.run(prepared)
        return self._read(outputs, prepared), outputs

    def batch(self, things: list[Any], colors: str | None) -> list[Any]:
        """Answers in the order of the things."""
        prepared = [self._preparer(thing, colors) for thing in things]
        answers = self._answered(prepared)
        for one in prepared:
            self._preparer.take_back(one)
        return answers

    def _answered(self, prepared: list[Prepared]) -> list[Any]:
        """By one call of the engine where they go together."""
        together = _together(prepared, self._model.inputs) if len(prepared) > 1 and self._whole else None
        if together is None:
            return [self._read(self.run(one), one) for one in prepared]
        outputs = self.run(together)
        if any(array.shape[:1] != (len(prepared),) for array in outputs.values()):
            self._whole = False  # an output is not one a sample: never again, for monitors see each call
            return [self._read(self.run(one), one) for one in prepared]
        one_by_one = ({name: array[n : n + 1] for name, array in outputs.items()} for n in range(len(prepared)))
        return [self._read(each, one) for each, one in zip(one_by_one, prepared, strict=True)]

    def _read(self, outputs: Mapping[str, Array], prepared: Prepared) -> Any:
        self._check_single(outputs, prepared)
        given = self._input(prepared) if self._given else None
        return self._reader(outputs, 0, prepared.placement, given)

    def _check_single(self, outputs: Mapping[str, Array], prepared: Prepared) -> None:
        """One answer is read, and those to further samples would be lost without a word. Where the outputs are not as
        many as the samples, the first axis counts something else (points, words); what is shown as it is loses nothing.

        Raises:
            FeedError: `feed-shape`.
        """
        if prepared.ready or self._shown:
            return
        for spec in self._model.inputs:
            shape = np.shape(prepared.feeds[spec.name])
            number = shape[0] if len(shape) == len(spec.shape) and shape and spec.shape[0] in (None, 1) else 1
            if number > 1 and any(array.shape[:1] == (number,) for array in outputs.values()):
                raise FeedError(
                    "feed-shape", f"predict answers one sample, and {spec.name} holds {number}",
                    next_step="Pass several to predict_batch, as a list. A sound of several channels is [n, channels].",
                )  # fmt: skip

    def _input(self, prepared: Prepared) -> Array | None:
        """In real values, for reconstructions."""
        (spec, *others) = self._model.inputs
        array = prepared.feeds.get(spec.name)
        if others or array is None:
            return None
        return dequantize(array, spec) if prepared.ready else np.asarray(array)

    def run(self, prepared: Prepared) -> dict[str, Array]:
        """Outputs in real values: those that are read, at least."""
        metrics = self._model.metrics
        if metrics is None:
            return self._answers(prepared.feeds, prepared.ready)
        with metrics.timed("run_seconds"):
            return self._answers(prepared.feeds, prepared.ready)

    def _answers(self, feeds: dict[str, Any], ready: bool) -> dict[str, Array]:
        model = self._model
        model.check_usable()
        if model.watch is not None:  # who wants to see all outputs, not only those that are read
            seen = model.watched(feeds, raw=ready)
            return model.restore(seen) if ready else seen
        if ready and self._exact:
            return self._ready.exact(feeds)
        answers = (self._ready if ready else self._real)(feeds) if type(feeds) is dict else None
        if answers is not None:
            return answers
        answers = self._general(feeds, ready)
        return model.restore(answers) if ready else answers


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
