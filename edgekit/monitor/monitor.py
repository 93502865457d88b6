"""The monitor: each call's samples beside the reference, in fixed memory, from any thread.

    monitor = model.monitor("/var/lib/app/monitor")      # every run and predict is observed from now on
    monitor.status()["alarms"]

What a single sample shows (how far it lies from the reference, how unsure its answer is, whether a sensor stands
still) is known at once; distributions are looked at every 32 samples, all columns together, which is what makes it
cheap.
"""

from __future__ import annotations

import time
from _thread import allocate_lock
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from edgekit.errors import ArtifactError, UsageError
from edgekit.feeding import Preprocess
from edgekit.monitor import bins, words
from edgekit.monitor.alarm import Alarm, Kind, Verdict
from edgekit.monitor.columns import Array
from edgekit.monitor.faults import Events, Fault, Runs
from edgekit.monitor.reference import Reference
from edgekit.monitor.rows import Rows, confidence
from edgekit.monitor.scan import BLOCK, Excess, Scan
from edgekit.monitor.streams import streams
from edgekit.reading import Interpret
from edgekit.tensors import TensorSpec

RATE = 1e-6
"""False alarms a sample, of all detectors together: one in a million."""

_SHARES = {"scan": 0.7, "runs": 0.05, "events": 0.05}
"""Parts of the rate that the detectors may spend."""

_CLIP = 8.0
_RECENT = 16 * BLOCK
"""Samples over which an alarm must have gone quiet to end."""

_QUIET = 0.6
"""It is quiet when everything is below this part of its threshold."""

_KEPT = 64
"""Ended alarms that the status still tells of."""


class Monitor:
    """Watches the samples of one model. Safe to share between threads.

    Args:
        reference: What they are held against.
        inputs, outputs, preprocess, interpret: Of the model, as the reference was made with.
        rate: False alarms a sample that are accepted, of all detectors together.
        clock: Seconds since 1970.

    Raises:
        ArtifactError: `reference-mismatch`: the reference is that of another model.
        UsageError: `option-value`.
    """

    def __init__(
        self,
        reference: Reference,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        preprocess: Preprocess | None = None,
        interpret: Interpret | None = None,
        *,
        rate: float = RATE,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if not 0 < rate <= 0.01:
            raise UsageError("option-value", f"the rate of false alarms is {rate}; it lies between 0 and 0.01")
        self.reference = reference
        self.rate = rate
        self._rows = Rows(inputs, outputs, preprocess or Preprocess(), interpret or Interpret())
        if (*self._rows.inputs, *self._rows.outputs) != reference.header.columns:
            raise ArtifactError(
                "reference-mismatch", "the reference describes other inputs or outputs than the model's"
            )
        self._clock = clock
        self._lock = allocate_lock()
        self.samples = 0
        self.calls = 0
        self.passed_over = 0
        self._alarms: dict[tuple[str, str], Alarm] = {}
        self._ended: list[dict[str, Any]] = []
        self._prepare()

    def _prepare(self) -> None:
        about, header = self.reference, self.reference.header
        number, columns = header.inputs, len(self.reference.columns)
        self._streams = streams(about)
        made = self._streams
        self._scan = Scan(
            made.tables, made.mass, made.sizes, made.floors, extras=columns, rate=self.rate * _SHARES["scan"]
        )
        self._rank = np.arange(len(made.kinds))
        self._mean, self._deviation = about.mean, about.deviation
        self._own = slice(0, number)
        self._theirs = slice(number, len(header.columns))
        self._residual = slice(len(header.columns), len(header.columns) + number * header.relations)
        self._sure = slice(columns - 3, columns)
        self._far = columns - 1 - 3 * bool(header.classes)
        self._center, self._per = about.mean[:number], 1 / about.deviation[:number]
        self._precision = about.precision
        self._units = 1 / np.sqrt(np.diag(self._precision))
        middle, far = header.unfamiliar
        self._middle, self._reach = middle, far - middle
        self._runs = Runs(about.ties, self.rate * _SHARES["runs"])
        self._low, self._high, self._event_kinds = _bounds(about)
        chance = np.full(2 * number, 1 / (header.samples + 2))
        self._events = Events(chance, self.rate * _SHARES["events"])
        self._block = np.zeros((BLOCK, columns))
        self._scores = np.zeros((BLOCK, header.classes))
        self._filled = 0

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
        del seconds
        with self._lock:
            self.calls += 1
            first = next(iter(inputs.values()))
            number = first.shape[0] if first.ndim else 1
            score = uncertainty = -np.inf
            alarms: list[Alarm] = []
            for sample in range(number):
                far, unsure = self._take(inputs, outputs, sample, alarms)
                score, uncertainty = max(score, far), max(uncertainty, unsure)
        return Verdict(float(score), float(uncertainty), tuple(alarms))

    def pass_over(self) -> None:
        """Count a call that cannot be judged."""
        with self._lock:
            self.calls += 1
            self.passed_over += 1

    def _take(
        self, inputs: Mapping[str, Array], outputs: Mapping[str, Array], sample: int, alarms: list[Alarm]
    ) -> tuple[float, float]:
        row = self._block[self._filled]
        self._rows.read_inputs(inputs, sample, row[self._own])
        if self._theirs.stop > self._theirs.start:
            self._rows.read_outputs(outputs, sample, row[self._theirs])
        uncertainty = 0.0
        if self._rows.classes:
            scores = self._scores[self._filled] = self._rows.scores(outputs, sample)
            uncertainty = 1.0 - float(scores.max())
        z = (row[self._own] - self._center) * self._per
        np.maximum(z, -_CLIP, out=z)
        np.minimum(z, _CLIP, out=z)
        weighted = z @ self._precision
        square = float(weighted @ z)
        if square != square:  # noqa: PLR0124  NaN: something is missing
            square = self._fill(row, z)
            weighted = z @ self._precision
        if self._residual.stop > self._residual.start:
            row[self._residual] = weighted * self._units
        far = max(square, 0.0) / max(1, z.size)
        far **= 0.5
        if z.size:
            row[self._far] = far
        if self._runs.add(row[self._own]):
            self._stuck(alarms)
        self.samples += 1
        self._filled += 1
        if self._filled == BLOCK:
            self._flush(alarms)
        return (far - self._middle) / self._reach, uncertainty

    def _fill(self, row: Array, z: Array) -> float:
        """A missing number counts as the reference's mean, and as an event."""
        missing = np.isnan(row[self._own])
        row[self._own][missing] = self._center[missing]
        z[missing] = 0.0
        self._events.hit(np.concatenate([np.zeros_like(missing), missing]), self.samples)
        return float(z @ self._precision @ z)

    # -- Every block ------------------------------------------------------------------------------------

    def _flush(self, alarms: list[Alarm]) -> None:
        self._filled = 0
        if self._rows.classes:
            self._block[:, self._sure] = confidence(self._scores)
        z = (self._block - self._mean) / self._deviation
        index = bins.index(z, self.reference.inner)
        if self._rows.classes:
            answered = self._streams.heaps[self._scores.argmax(axis=1)]
            index = np.concatenate([index, answered[:, None]], axis=1)
        scores = self._streams.tables[self._rank, index[:, self._streams.column]]
        self._scan.add(scores, np.minimum(np.maximum(z, -_CLIP), _CLIP))
        excess = self._scan.look()
        if excess.ratio.size and excess.ratio.max() > 1:
            self._moved(excess, alarms)
        self._happened(alarms)
        if self._scan.blocks % 8 == 0:
            self._runs.settle()
            self._end()

    def _moved(self, excess: Excess, alarms: list[Alarm]) -> None:
        """Alarms of the scan: one for each kind and tensor, which names what moved most."""
        made = self._streams
        groups: dict[tuple[Kind, str], list[int]] = {}
        for stream in np.flatnonzero(excess.ratio > 1).tolist():
            groups.setdefault((made.kinds[stream], self._source(stream)), []).append(stream)
        for (kind, source), found in groups.items():
            if (kind, source) in self._alarms:
                continue
            found.sort(key=lambda stream: -excess.ratio[stream])
            length = int(excess.length[found[0]])
            moves = [self._move(stream, int(excess.length[stream])) for stream in found]
            text = words.moved(kind, moves, self.samples - length)
            since, now = self.samples - length, self.samples - 1
            alarm = Alarm(kind, moves[0].where, moves[0].amount, since, text, moves[0].unit, now, self._clock())
            self._raise(alarm, (kind, source), alarms)

    def _source(self, stream: int) -> str:
        place = int(self._streams.column[stream])
        return self.reference.columns[place].source if place < len(self.reference.columns) else ""

    def _move(self, stream: int, length: int) -> words.Move:
        """What a stream did over its last `length` samples, in words' terms."""
        made = self._streams
        place = int(made.column[stream])
        means = self._scan.mean(length)
        score = float(means[stream])
        if made.aspect[stream] == "share":
            heap = int(np.flatnonzero(made.column[: stream + 1] == place).size) - 1
            share = float(made.mass[stream][heap])
            now = share + score * float(np.sqrt(share * (1 - share)))
            return words.Move(f"class {made.names[heap]}", "share", now - share, share, now, "share")
        column = self.reference.columns[place]
        mean, deviation = float(self._mean[place]), float(self._deviation[place])
        shift = float(means[len(made.kinds) + place])
        if made.aspect[stream] == "spread":
            return words.Move(column.where, "spread", score, mean, mean + shift * deviation, "sigma")
        amount = shift if shift * score > 0 else score
        return words.Move(column.where, "middle", amount, mean, mean + shift * deviation, "sigma")

    def _happened(self, alarms: list[Alarm]) -> None:
        """Events of the block, in its order."""
        own = self._block[:, self._own]
        bad = (own < self._low) | (own > self._high)
        if bad.any():
            nothing = np.zeros(bad.shape[1], bool)
            for place in np.flatnonzero(bad.any(axis=1)).tolist():
                self._events.hit(np.concatenate([bad[place], nothing]), self.samples - BLOCK + place)
        for fault in self._events.faults(self.samples - 1):
            number = self.reference.header.inputs
            kind: Kind = "missing" if fault.place >= number else self._event_kinds[fault.place]
            self._fault(kind, fault._replace(place=fault.place % number), alarms)

    def _stuck(self, alarms: list[Alarm]) -> None:
        faults = self._runs.faults(self.samples)
        by_source: dict[str, list[Fault]] = {}
        for fault in faults:
            by_source.setdefault(self.reference.columns[fault.place].source, []).append(fault)
        for found in by_source.values():
            self._fault("stuck", found[0], alarms, others=len(found) - 1)

    def _fault(self, kind: Kind, fault: Fault, alarms: list[Alarm], others: int = 0) -> None:
        column = self.reference.columns[fault.place]
        if (kind, column.source) in self._alarms:
            return
        text = words.fault(kind, column, fault, others, last=float(self._mean[fault.place]))
        alarm = Alarm(kind, column.where, fault.samples, fault.since, text, "samples", self.samples, self._clock())
        self._raise(alarm, (kind, column.source), alarms)

    def _raise(self, alarm: Alarm, key: tuple[str, str], alarms: list[Alarm]) -> None:
        self._alarms[key] = alarm
        alarms.append(alarm)

    def _end(self) -> None:
        """Alarms that have gone quiet end."""
        if not self._alarms:
            return
        quiet = self._scan.recent(_RECENT) < _QUIET
        standing = {self.reference.columns[fault.place].source for fault in self._runs.faults(self.samples - 1)}
        happening = {fault.place for fault in self._events.faults(self.samples - 1)}
        for key, alarm in list(self._alarms.items()):
            if self.samples - alarm.raised < _RECENT:
                continue
            mine = [stream for stream, kind in enumerate(self._streams.kinds) if (kind, self._source(stream)) == key]
            if mine:
                if not quiet[mine].all():
                    continue
                self._scan.begin(np.array(mine))
            elif (alarm.kind == "stuck" and key[1] in standing) or (alarm.kind != "stuck" and happening):
                continue
            del self._alarms[key]
            self._ended = [*self._ended, {**alarm.to_dict(), "ended": self.samples}][-_KEPT:]

    # -- Telling --------------------------------------------------------------------------------------------------

    @property
    def alarms(self) -> tuple[Alarm, ...]:
        """Those that stand."""
        with self._lock:
            return tuple(self._alarms.values())

    def status(self) -> dict[str, Any]:
        """All of it, as JSON values."""
        with self._lock:
            return {
                "samples": self.samples,
                "calls": self.calls,
                "passed_over": self.passed_over,
                "reference": {"samples": self.reference.header.samples, "proven": self.reference.header.proven},
                "alarms": [alarm.to_dict() for alarm in self._alarms.values()],
                "ended": list(self._ended),
                "left_out": list(self._rows.left_out),
            }


def _bounds(about: Reference) -> tuple[Array, Array, list[Kind]]:
    """Numbers of the inputs below or above which is nothing that was seen; and what it is if they are passed."""
    number = about.header.inputs
    low, high = np.full(number, -np.inf), np.full(number, np.inf)
    kinds: list[Kind] = []
    for place, column in enumerate(about.columns[:number]):
        mean, deviation = about.mean[place], about.deviation[place]
        inner = about.inner[place].astype(np.float64)
        inner = inner[np.isfinite(inner)]
        kind: Kind = "out-of-range"
        if about.ties[place] >= 1:
            low[place], high[place] = mean - deviation, mean + deviation
            kind = "constant"
        elif inner.size:
            span = max(8.0, 3 * (inner[-1] - inner[0]))
            low[place], high[place] = mean + (inner[0] - span) * deviation, mean + (inner[-1] + span) * deviation
            if (column.noun, column.name) in (("picture", "contrast"), ("band", "loudness")):
                # A twentieth of the contrast that nearly all have; it is a logarithm.
                low[place] = mean + inner[0] * deviation - np.log(20)
                kind = "blank"
        kinds.append(kind)
    return low, high, kinds
