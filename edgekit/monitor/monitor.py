"""The monitor: each call's samples beside the reference, in fixed memory, from any thread.

    monitor = model.monitor("/var/lib/app/monitor")      # every run and predict is observed from now on
    monitor.status()["alarms"]

A call only copies what is looked at. Whether a sensor stands still is found out in time, how far a sample lies from the
reference and how unsure its answer is when somebody asks, and distributions are looked at every 32 samples, all columns
together, which is what makes it cheap (see `edgekit.monitor.block`).
"""

from __future__ import annotations

import atexit
import hashlib
import time
import weakref
from _thread import allocate_lock
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.errors import ArtifactError, UsageError
from edgekit.feeding import Preprocess
from edgekit.monitor import forks, state
from edgekit.monitor.alarm import Alarm, Verdict
from edgekit.monitor.block import WAIT, Block, Later, Span, largest
from edgekit.monitor.book import Book, Finding, Key
from edgekit.monitor.columns import Array
from edgekit.monitor.detect import SHARES, Detectors
from edgekit.monitor.estimate import LEVEL, NARROW, labels_for
from edgekit.monitor.pace import Pace, thermometer
from edgekit.monitor.reference import Reference
from edgekit.monitor.rows import Rows, samples_of
from edgekit.monitor.scan import BLOCK, LONGEST, ROUNDS
from edgekit.reading import Interpret
from edgekit.tensors import TensorSpec

RATE = 1e-6
"""False alarms a sample, of all detectors together: one in a million."""

UNTRIED = (
    "The stream has drifted like no copy of the evaluation data that was tried: trust the interval, not the estimate."
)
WIDE = "The accuracy cannot be told to a few points here: trust the interval, not the estimate."
LABEL = "Capture and label about {} samples of the random stratum to know it to 3 points."
CLASSLESS = "Only of models that answer one class a sample can the accuracy be estimated without labels."
UNPROVEN = (
    "The artifact was made without 50 labelled evaluation samples: convert it with --eval and labels, and its monitor "
    "estimates the accuracy."
)
SCALES = (32, 256, 2048, 16_384, 131_072)
"""Samples over which the status tells mean shifts and the accuracy."""


class Monitor:
    """Watches the samples of one model. Safe to share between threads.

    Args:
        reference: What they are held against.
        inputs, outputs, preprocess, interpret: Of the model, as the reference was made with.
        folder: Where the state is kept across restarts; made if it is not there. None: in memory alone.
        rate: False alarms a sample that are accepted, of all detectors together.
        cycle: Samples in which the stream goes through all of its states, as a camera does in a day: shifts are then
            told over two cycles and more, faults of the data at once. 0: any stretch has them all.
        clock: Seconds since 1970.
        ticks: Seconds that only go forward.
        degrees: The board's thermometer.

    Attributes:
        calls: That were observed or passed over. passed_over: That could not be judged.

    Raises:
        ArtifactError: `reference-mismatch`: the reference is that of another model.
        UsageError: `option-value`; `output-unwritable`: the folder cannot be made.
        TargetError: `monitor-busy`: another process watches with it.
    """

    def __init__(
        self,
        reference: Reference,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        preprocess: Preprocess | None = None,
        interpret: Interpret | None = None,
        *,
        folder: str | Path | None = None,
        rate: float = RATE,
        cycle: int = 0,
        clock: Callable[[], float] = time.time,
        ticks: Callable[[], float] = time.monotonic,
        degrees: Callable[[], float | None] = thermometer,
    ) -> None:
        if not 0 < rate <= 0.01:
            raise UsageError("option-value", f"the rate of false alarms is {rate}; it lies between 0 and 0.01")
        if not 0 <= cycle <= LONGEST // ROUNDS:
            raise UsageError(
                "option-value", f"a cycle of {cycle} samples cannot be watched",
                next_step=f"A cycle has at most {LONGEST // ROUNDS} samples: observe every tenth of them, or so.",
            )  # fmt: skip
        self.reference = reference
        self.rate, self.cycle = rate, cycle
        self._rows = Rows(inputs, outputs, preprocess or Preprocess(), interpret or Interpret())
        if (*self._rows.inputs, *self._rows.outputs) != reference.header.columns:
            raise ArtifactError(
                "reference-mismatch", "the reference describes other inputs or outputs than the model's"
            )
        self._lock = allocate_lock()
        forks.told(self)
        self.calls = 0
        self.passed_over = 0
        self._clocks = clock, ticks, degrees
        self._begin()
        self._keeper = None if folder is None else state.Keeper(Path(folder), ticks)
        self._resumed = "new"
        if self._keeper is not None:
            self._resume(self._keeper)
            atexit.register(_close, weakref.ref(self))  # an app that ends without a word
        self._kept = self.calls

    def forked(self) -> None:
        """In a new process, which watches for itself: a thread of its parent may have held the lock."""
        self._lock = allocate_lock()

    def _begin(self) -> None:
        """Know nothing yet."""
        clock, ticks, degrees = self._clocks
        self._detectors = Detectors(self.reference, self.rate, self.cycle)
        self._faults: list[tuple[Finding, int]] = []  # and after which sample that was seen
        self._book = Book(clock)
        self._pace = Pace(self.rate * SHARES["pace"], ticks, degrees)
        self._block = Block(self.reference, self._rows, self._seen)

    # -- Observing ------------------------------------------------------------------------------------------------

    def observe(
        self, inputs: Mapping[str, Array], outputs: Mapping[str, Array], *, seconds: float | None = None
    ) -> Verdict:
        """Take in one call.

        Args:
            inputs: Array by name, with a batch axis, as the model took them: reals, or its own integers.
            outputs: Its answer.
            seconds: How long it took; None if nobody knows.

        Returns:
            Of several samples, the strangest's score and the least sure one's uncertainty; alarms of all.

        Raises:
            KeyError: A tensor is missing.
        """
        alarms: list[Alarm] = []
        spans: list[Span] = []
        block = self._block
        with self._lock:
            self.calls += 1
            number, done = samples_of(inputs), 0
            while done < number:
                count = min(number - done, block.room)
                spans.append(block.put(inputs, outputs, done, count))
                done += count
                if block.filled >= block.due:
                    self._look(alarms)
            if seconds is not None:
                slow = self._pace.add(seconds, self.samples)
                if slow is not None:
                    self._enter(slow, alarms)
            if alarms and self._keeper is not None:
                self._keeper.offer(self._packed())
        return Later(self._judged, self._doubted, spans, alarms)

    def pass_over(self) -> None:
        """Count a call that cannot be judged."""
        with self._lock:
            self.calls += 1
            self.passed_over += 1

    @property
    def samples(self) -> int:
        """That were observed."""
        return self._detectors.samples + self._block.filled

    def _judged(self, spans: list[Span]) -> tuple[float, float]:
        """Largest score and uncertainty of samples."""
        with self._lock:
            if spans and spans[-1][0] is self._block.told:
                self._block.judge()
            far = max([largest(told.far, first, last) for told, first, last in spans], default=-np.inf)
            unsure = max([largest(told.unsure, first, last) for told, first, last in spans], default=-np.inf)
        return far, unsure

    def _doubted(self, spans: list[Span]) -> float | None:
        """Largest chance that an answer is wrong; None where no labels tell it."""
        if self._detectors.right is None or not spans:
            return None
        with self._lock:
            if spans[-1][0] is self._block.told:
                self._block.doubt(self._detectors.right)
        return max([largest(told.doubt, first, last) for told, first, last in spans])

    def _seen(self, own: Array, missing: Array | None, place: int) -> int:
        """Numbers of samples, the first at this place of the block; how many more may wait."""
        if missing is not None:
            for row in np.flatnonzero(missing.any(axis=1)).tolist():
                sample = self._detectors.samples + place + row
                if self._detectors.missing(missing[row], sample):
                    self._faults += [(found, sample) for found in self._detectors.happened(sample, self._book)]
            own = np.where(missing, np.nan, own)  # what is filled in is not what stands still
        runs, at = self._detectors.runs, 0
        moved = len(own) <= runs.slack or runs.moved(own)
        while at < len(own):
            part = own if moved else own[at : at + min(WAIT, runs.slack)]
            at += len(part)
            if runs.add(part):
                sample = self._detectors.samples + place + at - 1
                self._faults += [(found, sample) for found in self._detectors.standing_still(sample, self._book)]
        return 0 if self._faults else runs.slack

    def _look(self, alarms: list[Alarm]) -> None:
        """See whether something stands still or is missing, and where the block is full, at all else."""
        block = self._block
        block.look()
        for found, sample in self._faults:
            self._enter(found, alarms, sample)
        self._faults.clear()
        if block.filled == BLOCK:
            self._flush(alarms)

    def _flush(self, alarms: list[Alarm]) -> None:
        block = self._block
        block.judge()
        found = self._detectors.block(block.rows, block.scores, self._book)
        if self._detectors.chance is not None:
            block.told.doubt[:] = 1.0 - self._detectors.chance
        block.clear(self._detectors.runs.slack)
        for finding in found:
            self._enter(finding, alarms)
        hot = self._pace.look(self.samples)
        if hot is not None:
            self._enter(hot, alarms)
        for kind, calm in self._pace.calm.items():
            if calm and self._book.stands(kind, ""):
                self._book.end(Key(kind, ""), self.samples)
        if self._keeper is not None and self._keeper.due:
            self._keeper.offer(self._packed())

    def _enter(self, found: Finding, alarms: list[Alarm], sample: int | None = None) -> None:
        """`sample`: the one that told; None: the last."""
        alarm = self._book.enter(found, max(0, self.samples - 1) if sample is None else sample)
        if alarm is not None:
            alarms.append(alarm)

    # -- Telling --------------------------------------------------------------------------------------------------

    @property
    def alarms(self) -> tuple[Alarm, ...]:
        """Those that stand."""
        with self._lock:
            return self._book.standing

    def accuracy(self, samples: int = 2048) -> dict[str, Any] | None:
        """Estimated share of right answers, 0..1, among the last `samples` (one of `SCALES`), with an interval that is
        to hold the truth in nine of ten cases; None before there were as many, and for references without labels.

        `answered` is False where the middle of that interval is no answer: it is wider than 7 points, or the stream
        has drifted like nothing that was tried. `note` then says which, and how many labels would tell. Why there is
        no estimate at all says `status()["unestimated"]`.

        Raises:
            UsageError: `option-value`: it is none of `SCALES`.
        """
        if samples not in SCALES:
            raise UsageError("option-value", f"accuracy is told over {', '.join(map(str, SCALES))} samples")
        with self._lock:
            return self._accuracy(samples)

    def _accuracy(self, samples: int) -> dict[str, Any] | None:
        estimator = self.reference.header.estimator
        found = self._detectors.rightness(samples)
        if estimator is None or found is None:
            return None
        figures = {"estimate": found.estimate, "low": found.low, "high": found.high, "reference": estimator.accuracy}
        told: dict[str, Any] = {name: round(value, 4) for name, value in figures.items()}
        narrow = found.high - found.low <= 2 * NARROW
        note = UNTRIED if not found.tried else None if narrow else WIDE
        if note is not None:
            note = f"{note} {LABEL.format(labels_for(found.low, found.high))}"
        return {**told, "level": LEVEL, "answered": note is None, "note": note}

    def _unestimated(self) -> str | None:
        """Why the accuracy is never estimated; None where it is, once there are samples enough."""
        header = self.reference.header
        return None if header.estimator is not None else UNPROVEN if header.classes else CLASSLESS

    def status(self) -> dict[str, Any]:
        """All of it, as JSON values."""
        with self._lock:
            header = self.reference.header
            scales = {}
            for samples in SCALES:
                shifts = self._detectors.shifts(samples)
                if shifts is not None:
                    scales[str(samples)] = {
                        "shifts": {name: round(value, 4) for name, value in shifts.items()},
                        "accuracy": self._accuracy(samples),
                    }
            return {
                "samples": self.samples,
                "calls": self.calls,
                "passed_over": self.passed_over,
                "rate": self.rate,
                "reference": {"samples": header.samples, "proven": header.proven, "evaluated": header.evaluated},
                "alarms": [alarm.to_dict() for alarm in self._book.standing],
                "ended": list(self._book.ended),
                "scales": scales,
                "unestimated": self._unestimated(),
                "distances": self._detectors.distances(),
                "pace": self._pace.status(),
                "left_out": list(self._rows.left_out),
                "state": None if self._keeper is None else {"found": self._resumed, "failed": self._keeper.failed},
            }

    # -- Across restarts ------------------------------------------------------------------------------------------

    def snapshot(self) -> None:
        """Write the state now; by itself it is written every ten minutes and at alarms, at most 1 MB an hour.

        Raises:
            UsageError: `option-value`: the monitor has no folder; `output-unwritable`.
        """
        if self._keeper is None:
            raise UsageError("option-value", "this monitor keeps nothing: it was made without a folder")
        with self._lock:
            self._keeper.write(self._packed())

    def close(self) -> None:
        """Write the state, as far as the budget of writes allows; a model that is closed does this for its monitor. May
        be called twice.
        """
        keeper = self._keeper
        if keeper is not None:
            with self._lock:
                if self.calls != self._kept and keeper.offer(self._packed()):
                    self._kept = self.calls

    def _packed(self) -> bytes:
        keeper = self._keeper
        about = {
            "reference": _digest(self.reference),
            "spent": None if keeper is None else keeper.spent,
            "calls": self.calls,
            "passed_over": self.passed_over,
            "book": self._book.state(),
            "pace": self._pace.state(),
        }
        block = self._block
        block.judge()
        arrays = self._detectors.state()
        open_rows = {"rows": block.rows[: block.filled], "scores": block.scores[: block.filled]}
        return state.pack(about, {**arrays, **open_rows})

    def _resume(self, keeper: state.Keeper) -> None:
        """Go on from the last snapshot, if it is of this reference."""
        content = keeper.read()
        if content is None:
            return
        try:
            about, arrays = state.unpack(content)
            if about.get("spent"):
                keeper.resume(about["spent"], len(content))
            if about["reference"] != _digest(self.reference):
                self._resumed = "of another reference"
                return
            rows, scores = arrays.pop("rows"), arrays.pop("scores")
            self._detectors.restore(arrays)
            self._book.restore(about["book"])
            self._pace.restore(about["pace"])
            self._block.restore(rows, scores, self._detectors.runs.slack)
            self.calls, self.passed_over = int(about["calls"]), int(about["passed_over"])
        except (ValueError, KeyError, TypeError, IndexError) as error:
            self._resumed = f"unreadable: {error}"
            self._begin()  # what was read before it could not be
            return
        self._resumed = "resumed"


def _close(known: weakref.ref[Monitor]) -> None:
    monitor = known()
    if monitor is not None:
        monitor.close()


def _digest(reference: Reference) -> str:
    return hashlib.sha256(reference.to_bytes()).hexdigest()
