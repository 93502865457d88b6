"""From a thing to its answer: prepare, run, read. What the manifest says is looked up once a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgekit.runtimes.base import Array
from edgekit.runtimes.interpret import interpret
from edgekit.runtimes.preprocess import Prepared, Preparer
from edgekit.runtimes.straight import Straight

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

    def __call__(self, thing: Any, colors: str | None) -> Any:
        return interpret(self.run(self._preparer(thing, colors)), self._how)

    def run(self, prepared: Prepared) -> dict[str, Array]:
        """Outputs in real values."""
        if not prepared.ready:
            return self._model.run(prepared.feeds)
        self._model.check_usable()
        answers = self._ready(prepared.feeds)
        return self._model.restore(self._model.run(prepared.feeds, raw=True)) if answers is None else answers
