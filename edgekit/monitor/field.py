"""Watching and capturing a named model in the field, whichever of its versions is active."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.errors import ArtifactError, EdgeKitError
from edgekit.monitor.alarm import Verdict
from edgekit.monitor.capture import Capture
from edgekit.monitor.plan import Plan
from edgekit.monitor.watch import Watch

if TYPE_CHECKING:
    from edgekit.monitor.monitor import Monitor
    from edgekit.runtimes.model import Model

Maker = Callable[["Model"], Capture]
"""Makes the capture of a model, with a redaction, a key, a shadow of the app's own."""


class Field:
    """One monitor a version, one capture for all of them.

    Args:
        name: What the model is called on the device.
        folder: Of the monitor's state; None: in memory alone.
        capture: What is kept, or who makes the capture; None: nothing is kept.
        demanded: A first version without a reference is refused; it was asked to be watched.
        cycle: Of the monitor; see `Model.monitor`.

    Attributes:
        monitor: Of the version that answers; None for one that has no reference.
        capture: The capture; None without.
    """

    def __init__(
        self, name: str, folder: str | Path | None, capture: Plan | Maker | None, *, demanded: bool, cycle: int = 0
    ) -> None:
        self._name, self._folder, self._asked, self._demanded = name, folder, capture, demanded
        self._cycle = cycle
        self._model: Model | None = None
        self.monitor: Monitor | None = None
        self.capture: Capture | None = None

    def begin(self, model: Model) -> None:
        """From now on this version answers. Later ones without a reference are not watched, only captured.

        Raises:
            ArtifactError: `reference-missing`, `reference-invalid`: of the first version.
            Others: As `Capture` and `Model.monitor`.
        """
        first, self._model = self._model is None, model
        if self.capture is not None:
            self.capture.model = model
        elif self._asked is not None:
            own = self._asked
            self.capture = Capture(self._name, model, own) if isinstance(own, Plan) else own(model)
            self.capture.watched_by(self)
        taker = None if self.capture is None else _Taker(self, model)
        try:
            self.monitor = model.monitor(self._folder, capture=taker, cycle=self._cycle)
        except EdgeKitError as error:
            if first and (self._demanded or not isinstance(error, ArtifactError)):
                raise  # later an app must go on
            self.monitor = None
            if taker is not None:
                model.watch = Watch(None, model.inputs, model.outputs, taker)

    def status(self) -> dict[str, Any]:
        """The monitor's, for the records of the capture."""
        return {} if self.monitor is None else self.monitor.status()

    def offered(self, model: Model, inputs: Mapping[str, Any], outputs: Mapping[str, Any], verdict: Any) -> None:
        """A call was answered; those that a version before still finishes are not kept."""
        if model is self._model and self.capture is not None:
            self.capture.offer(inputs, outputs, verdict)

    def close(self) -> None:
        """Write what is held."""
        if self.capture is not None:
            self.capture.close()


class _Taker:
    """Who is offered the calls of one version."""

    def __init__(self, field: Field, model: Model) -> None:
        self._field, self._model = field, model

    def offer(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any], verdict: Verdict | None) -> None:
        self._field.offered(self._model, inputs, outputs, verdict)
