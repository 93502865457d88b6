"""Samples that matter, kept on the board: off until an app makes a `Capture`, bounded in bytes, rate and age.

    with edgekit.load("people-counter") as model, edgekit.Capture("people-counter", model) as capture:
        model.monitor("/var/lib/app/monitor", capture=capture)    # every run and predict is offered from now on

`offer` costs some microseconds where nothing is drawn: what a monitor says of samples is asked for many at once (see
`edgekit.monitor.offers`). What is drawn is held in memory until its window of time ends, because only then its
probability is known; then it is redacted, encrypted if there is a key, and written, also where nothing more is
offered. The end of the app ends the window. A kill takes the one that is open; a power cut also what was not yet
flushed (`Plan.sync`). Nothing of a capture stops an app: a full disk, or a redaction that fails, is counted in
`status` and the sample is not kept.
"""

from __future__ import annotations

import atexit
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from edgekit.codec import encode
from edgekit.errors import EdgeKitError
from edgekit.feeding import Preprocess
from edgekit.monitor import forks
from edgekit.monitor.ages import Clock
from edgekit.monitor.alarm import Alarm, Verdict
from edgekit.monitor.digest import digest
from edgekit.monitor.offers import Arrays, Offers, Waiting
from edgekit.monitor.plan import Plan
from edgekit.monitor.records import Record, Sample, pack
from edgekit.monitor.ring import Ring
from edgekit.monitor.strata import Drawn
from edgekit.monitor.sums import Sums
from edgekit.store import places
from edgekit.store.record import CLOCK_SET

if TYPE_CHECKING:
    from edgekit.monitor.redact import Redaction
    from edgekit.monitor.sealing import Seal
    from edgekit.runtimes.model import Model

_STATUS = 8192
_LATE = 1.0
"""Seconds after its end that a window is ended by itself, where no call did."""
_LABELS = 2048
_PLAIN = encode(Preprocess())


class Watching(Protocol):
    """A monitor, as far as its state goes into the capture."""

    def status(self) -> dict[str, Any]: ...


class Capture:
    """Keeps samples of one model on this device. Safe to share between threads; one process a folder.

    Args:
        name: What the model is called on the device; names the folder.
        model: The model that answers; may be exchanged later (`capture.model = other`).
        plan: What is kept.
        root: Folder of all captures; None for this device's: EDGEKIT_CAPTURES, or beside the models.
        redact: Takes out of a sample what must not leave the board; see `edgekit.monitor.redact`.
        key: File of a key, or a seal, with which records are encrypted; None for the key in EDGEKIT_CAPTURE_KEY, if
            there is one.
        shadow: A second model that is asked for a share of the samples; closed by who opened it.
        monitor: A digest of its `status()` goes along, for the drift report; the one whose verdicts are offered
            (`model.monitor(capture=...)`) unless another is named.
        seed: Of the draws; None for a fresh one.
        clock: Of this device.

    Raises:
        UsageError: `model-name`, `option-value`, `key-invalid`. EngineMissingError: `seal-missing`.
        TargetError: `capture-busy`: another process captures for this name; `capture-unwritable`.
    """

    def __init__(
        self,
        name: str,
        model: Model,
        plan: Plan | None = None,
        *,
        root: str | Path | None = None,
        redact: Redaction | None = None,
        key: str | Path | Seal | None = None,
        shadow: Model | None = None,
        monitor: Watching | None = None,
        seed: int | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.plan = plan or Plan()
        self.folder = places.captures(root) / places.checked(name)
        self._model = model
        self._redact = redact
        self._own = self._monitor = monitor
        self._clock = clock or Clock()
        self._lock = threading.Lock()
        self._ring = Ring(self.folder, name, self.plan.bounds, _seal(key), _about(model), self._clock)
        self._ends = self._clock.steady() + self.plan.window
        self._told = self._clock.steady()
        self._alarms: dict[tuple[str, str], Alarm] = {}
        self._counts: Counter[str] = Counter()
        self._offers = Offers(self.plan, np.random.default_rng(seed), shadow, self._counts, partial(_now, self._clock))
        self._timer: threading.Timer | None = None
        self._failure: str | None = None
        self._quiet = False
        """Whether it is closed, or that of the process which this one was forked from."""
        forks.told(self)
        atexit.register(_weakly(self.close))  # an app that ends without a word

    @property
    def model(self) -> Model:
        """The model that answers."""
        return self._model

    @model.setter
    def model(self, model: Model) -> None:
        with self._lock:
            if model.artifact.sha256 != self._model.artifact.sha256 and not self._quiet:
                self._end()
                self._tell()
                self._guarded(lambda: self._ring.describe(_about(model)))
            self._model = model

    def offer(
        self,
        inputs: Arrays,
        outputs: Arrays,
        verdict: Verdict | None = None,
        *,
        keep: Arrays | None = None,
        shadow: Arrays | None = None,
    ) -> None:
        """Look at an answered batch; each sample of it may be kept.

        Args:
            inputs: What the model was fed, [n, ...] by name.
            outputs: What it answered, [n, ...] by name, in real values.
            verdict: What a monitor says of it; of a batch it tells the strangest sample, so feed singly what matters.
                Without one a class vector's uncertainty is 1 less its highest score, and nothing is out of
                distribution.
            keep: Arrays [n, ...] to keep in place of the inputs: the photo rather than the tensor made of it.
            shadow: What a second model answered, where the app asked it itself.
        """
        with self._lock:
            if self._quiet:
                return
            self._turn()
            for alarm in () if verdict is None else verdict.alarms:
                self._alarms[alarm.kind, alarm.where] = alarm
            self._offers.add(self._model, inputs, outputs, verdict, keep=keep, shadow=shadow)

    def watched_by(self, monitor: Watching) -> None:
        """The monitor whose verdicts are offered from now on; one that was named when the capture was made stays."""
        with self._lock:
            if self._own is None:
                self._monitor = monitor

    def flush(self) -> None:
        """End the window now, and bring all of it onto the disk."""
        with self._lock:
            if not self._quiet:
                self._end()
                self._tell()
                self._guarded(lambda: self._ring.sync(now=True))

    def status(self) -> dict[str, Any]:
        """Counts since it was opened: samples seen, kept, and not kept and why; bytes of the folder; the last failure
        of the app's own redaction; `strata`: how each draws as things stand, see `edgekit.monitor.offers.Offers.told`.
        """
        with self._lock:
            failed = {} if self._failure is None else {"failure": self._failure}
            counts = dict(sorted(self._counts.items()))
            place = {"bytes": self._ring.used, "folder": str(self.folder)}
            return {**counts, **failed, **place, "strata": self._offers.told()}

    def close(self) -> None:
        """Write what is held, and let others capture. May be called twice."""
        with self._lock:
            if self._quiet:
                return
            self._end()
            self._tell()
            self._quiet = True
            self._guarded(self._ring.close)

    def __enter__(self) -> Capture:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def forked(self) -> None:
        """In a new process: its parent captures, whose descriptors would keep the folder busy when it is gone."""
        self._lock = threading.Lock()
        if not self._quiet:
            self._quiet, self._timer = True, None
            self._counts["forked"] = 1
            self._ring.abandon()

    # -- Windows -----------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        """See whether a window is over, or it is time to tell how things stand."""
        now = self._clock.steady()
        if now >= self._ends:
            self._end()
        if now - self._told >= self.plan.status:
            self._tell()
        if self._timer is None:
            self._timer = threading.Timer(max(self._ends - now, 0.0) + _LATE, _weakly(self._idle))
            self._timer.daemon = True
            self._timer.start()

    def _idle(self) -> None:
        """Nothing was offered for a while: what is held is written, and brought onto the disk."""
        with self._lock:
            self._timer = None
            if not self._quiet:
                self._turn()
                self._guarded(lambda: self._ring.sync(now=True))

    def _end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._ends = self._clock.steady() + self.plan.window
        for one in self._offers.close():
            self._write(one)
        self._guarded(self._ring.expire)
        self._guarded(self._ring.sync)

    def _write(self, drawn: Drawn[Waiting]) -> None:
        waiting = drawn.item
        sample = Sample(
            waiting.version, waiting.number, drawn.taken, drawn.chances, drawn.probability, at=waiting.at,
            **waiting.scores,
        )  # fmt: skip
        try:
            inputs = waiting.inputs if self._redact is None else self._redact(waiting.inputs)
            if inputs is not None and not isinstance(inputs, Mapping):
                raise TypeError("no arrays by name")
        except Exception as error:  # noqa: BLE001 - code of the app's: what it cannot redact is not kept, and the app goes on
            self._failed("redaction failed", error)
            return
        if inputs is None:
            self._counts["withheld"] += 1
            return
        try:
            payload = pack(Record("sample", sample, at=waiting.at), inputs, waiting.outputs)
        except ValueError as error:
            self._failed("not storable", error)
            return
        if self._append(payload):
            self._counts["kept"] += 1
            self._offers.sums.kept.update(drawn.taken)
            self._offers.kept.update(drawn.taken)

    def _failed(self, what: str, error: Exception) -> None:
        """Count it; the first of its kind is told. What the error says may hold what was to be redacted."""
        place = error.__traceback__
        while place is not None and place.tb_next is not None:
            place = place.tb_next
        where = "" if place is None else f" in {place.tb_frame.f_code.co_filename}, line {place.tb_lineno}"
        self._failure = f"{what}: {type(error).__name__}{where}"
        self._counts[what] += 1
        if self._counts[what] == 1:
            import logging

            logging.getLogger("edgekit").warning("captures into %s: %s; not kept", self.folder, self._failure)

    def _tell(self) -> None:
        """A record of how things stand, and one of each alarm that was raised since the last."""
        self._offers.decide()
        self._told, at = self._clock.steady(), _now(self._clock)
        for alarm in self._alarms.values():
            self._append(pack(Record("alarm", about={"alarm": encode(alarm)}, at=at)))
        sums, self._offers.sums, self._alarms = self._offers.sums, Sums(), {}
        if not sums.seen:
            return
        about = {"version": self._model.artifact.sha256, **sums.told(), "counts": dict(self._counts)}
        payload = pack(Record("status", about={**about, **self._watched()}, at=at))
        self._append(payload if len(payload) <= _STATUS else pack(Record("status", about=about, at=at)))

    def _watched(self) -> dict[str, Any]:
        told = {} if self._monitor is None else digest(self._monitor.status())
        return {"monitor": encode(told)} if told else {}

    def _append(self, payload: bytes) -> bool:
        written = self._guarded(lambda: self._ring.append(payload))
        if written is False:
            self._counts["no room"] += 1
        return bool(written)

    def _guarded(self, what: Any) -> Any:
        """Do something to the disk; what it refuses is counted, because an app must go on without its captures."""
        try:
            return what()
        except EdgeKitError as error:
            self._counts[f"failed: {error.message}"] += 1
            return None


def _now(clock: Clock) -> float | None:
    """Seconds since 1970; None of a clock that is not set."""
    now = clock.wall()
    return now if now >= CLOCK_SET else None


def _weakly(method: Callable[[], None]) -> Callable[[], None]:
    """Calls a method as long as its object is there."""
    known = weakref.WeakMethod(method)

    def call() -> None:
        found = known()
        if found is not None:
            found()

    return call


def _about(model: Model) -> dict[str, Any]:
    """What makes pictures, sounds and named rows of a model's input arrays again."""
    preprocess = {key: value for key, value in encode(model.preprocess).items() if value != _PLAIN.get(key)}
    texts = {"labels": list(model.interpret.labels)}
    if len(model.inputs) == 1 and model.inputs[0].columns is not None:
        texts["columns"] = list(model.inputs[0].columns)
    return {"preprocess": preprocess, **{name: text for name, text in texts.items() if len(str(text)) <= _LABELS}}


def _seal(key: str | Path | Seal | None) -> Seal | None:
    from edgekit.monitor import sealing

    return key if isinstance(key, sealing.Seal) else sealing.find(key)
