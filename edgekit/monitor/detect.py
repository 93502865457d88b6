"""The detectors over rows of numbers: what each block of samples changes, and what follows from it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from edgekit.monitor import bins, expected, words
from edgekit.monitor.alarm import Kind
from edgekit.monitor.book import SETTLED, Book, Finding, Key
from edgekit.monitor.cause import Cause, guess
from edgekit.monitor.columns import Array
from edgekit.monitor.faults import Events, Fault, Runs
from edgekit.monitor.pool import Pool
from edgekit.monitor.reference import CLIP, Reference
from edgekit.monitor.rightness import EXTRAS, Rightness, Told
from edgekit.monitor.scan import BLOCK, ROUNDS, Excess, Scan
from edgekit.monitor.sketches import Distances, Sketches
from edgekit.monitor.streams import Streams, streams

SHARES = {"scan": 0.7, "sketches": 0.1, "runs": 0.05, "events": 0.05, "pace": 0.1}
"""Parts of the accepted rate of false alarms that the detectors may spend."""

RECENT = SETTLED
"""Samples over which an alarm must have gone quiet to end."""

_QUIET = 0.6
"""It is quiet when everything is below this part of its threshold."""

_FAULTS = ("stuck", "missing", "constant", "out-of-range")
_ALONE = (*_FAULTS, "input-shift", "input-spread", "input-shape")
"""Kinds that one column has by itself: of relations, all have their part."""

_SHAPE: dict[str, Kind] = {"input": "input-shape", "output": "output-shift", "embedding": "embedding-shift"}

_GUESSED: tuple[Kind, ...] = ("input-shift", "input-relation", "input-spread")
"""Kinds whose cause is guessed; the first of an input tells it."""


class Detectors:
    """All of them, for the rows of one model.

    Args:
        reference: What they are held against.
        rate: False alarms a sample.
        cycle: Samples in which the stream goes through all of its states; 0: any stretch has them all.

    Attributes:
        samples: Rows that were taken in, the block that is open aside.
        right: The estimate of the accuracy; None for references without labels.
        chance: [BLOCK]: that answers to the last block are right; None before there is one, and without labels.
    """

    def __init__(self, reference: Reference, rate: float, cycle: int = 0) -> None:
        self.reference = reference
        self._recent = max(RECENT, ROUNDS * cycle)
        self.samples = 0
        self._streams = made = streams(reference)
        self._columns = reference.columns
        self._inputs = reference.header.inputs
        self._of = _middles(made)
        extras = len(self._columns) + EXTRAS  # and what the estimate of the accuracy asks of each sample
        self._scan = Scan(
            made.tables,
            made.mass,
            made.sizes,
            made.floors,
            extras=extras,
            rate=rate * SHARES["scan"],
            of=self._of,
            numbers=np.where([aspect == "middle" for aspect in made.aspect], made.column, -1),
            shares=np.array([aspect == "share" for aspect in made.aspect]),
            cycle=cycle,
        )
        # Twice as many: what a part of a cycle does to a whole distribution has no bound of its own.
        self._sketches = Sketches(
            reference.inner, reference.mass, reference.sizes, block=BLOCK, rate=rate * SHARES["sketches"],
            least=2 * ROUNDS * cycle,
        )  # fmt: skip
        self._edges = bins.upright(reference.inner, np.float32)
        self._index = np.zeros((BLOCK, len(self._columns) + 1), np.intp)
        self._extras = np.zeros((BLOCK, extras))
        self._pool = Pool(self._inputs) if reference.header.distinct and self._inputs else None
        self.right = Rightness(reference, made) if reference.header.estimator is not None else None
        self.chance: Array | None = None
        self._shape = np.array([column.role in _SHAPE for column in self._columns], bool)
        self._tables = np.ascontiguousarray(made.tables)
        self._offsets = np.arange(len(made.kinds)) * made.tables.shape[1]
        self._middles = _firsts(made.column, len(self._columns))
        self._sources = tuple(
            self._columns[place].source if place < len(self._columns) else "" for place in made.column.tolist()
        )
        self.runs = Runs(reference.usual, rate * SHARES["runs"], expected.often(reference), cycle)
        self._low, self._high, self._event_kinds = expected.bounds(reference)
        absent = expected.absent(reference.header)
        self._unknown = absent >= expected.NEVER
        self._events = Events(expected.chances(reference.header.samples, absent), rate * SHARES["events"])

    # -- Rows come in ---------------------------------------------------------------------------------------------

    def missing(self, which: Array, sample: int) -> bool:
        """Numbers `which` (bool [inputs]) of a sample are none; whether that happens too often from now on."""
        return self._events.hit(np.concatenate([np.zeros_like(which), which]), sample)

    def standing_still(self, sample: int, book: Book) -> list[Finding]:
        """Findings on numbers that do not change any more, one a tensor, but those that the book knows of."""
        by_source: dict[str, list[Fault]] = {}
        for fault in self.runs.faults(sample):
            by_source.setdefault(self._columns[fault.place].source, []).append(fault)
        # What the model makes of an input that stands still, stands still.
        given = [found for found in by_source.values() if self._columns[found[0].place].role == "input"]
        news = [(found, [fault for fault in found if self._news("stuck", fault.place, sample, book)])
                for found in given or by_source.values()]  # fmt: skip
        return [self._standing(found, new) for found, new in news if new]

    def _standing(self, faults: list[Fault], news: list[Fault]) -> Finding:
        """Of one tensor: all that stand still, and those that the book does not know of."""
        first = self._columns[faults[0].place]
        own = sum(column.source == first.source and column.role == first.role for column in self._columns)
        enough = own / 2 if first.noun in ("picture", "band") else own - 1  # some of a picture's are often the same
        whole = own > 1 and len(faults) > enough
        return self._fault("stuck", news[0], tuple(fault.place for fault in news), whole=whole)

    def happened(self, sample: int, book: Book) -> list[Finding]:
        """Findings on events, up to this sample, but those that the book knows of."""
        news: dict[tuple[Kind, str], list[Fault]] = {}
        for fault in self._events.faults(sample):
            place = fault.place % self._inputs
            kind: Kind = "missing" if fault.place >= self._inputs else self._event_kinds[place]
            if self._news(kind, place, sample, book):
                news.setdefault((kind, self._columns[place].source), []).append(fault._replace(place=place))
        return [self._fault(kind, found[0], tuple(fault.place for fault in found)) for (kind, _), found in news.items()]

    def _news(self, kind: Kind, place: int, sample: int, book: Book) -> bool:
        """Whether the book does not know of a column."""
        column = self._columns[place]
        return book.untold(Key(kind, column.source, self._alone(kind, (place,))), sample)

    def _alone(self, kind: Kind, places: tuple[int, ...]) -> tuple[int, ...]:
        """Columns that an alarm is about: sensors drift and fail one by one, numbers of a picture together."""
        noun = self._columns[places[0]].noun if places[0] < len(self._columns) else ""
        return places if (noun == "feature" and kind in _ALONE) or (noun == "band" and kind in _FAULTS) else ()

    def block(self, rows: Array, scores: Array, book: Book) -> list[Finding]:
        """A whole block.

        Args:
            rows: [BLOCK, columns] as the reference has them.
            scores: [BLOCK, classes]: probabilities.
            book: What stands is not found again; what is over is ended.
        """
        self.samples += BLOCK
        z = (rows - self.reference.mean) / self.reference.deviation
        index, extras, width = self._index, self._extras, len(self._columns)
        index[:, :width] = bins.passed(z.astype(np.float32), self._edges)
        if scores.shape[1]:
            answered = scores.argmax(axis=1)
            index[:, width] = self._streams.heaps.take(answered)
            if self.right is not None:
                extras[:, width:] = self.right.each(z, rows, answered)
                self.chance = extras[:, width]
        # A number of an output that is none counts as the lowest, as its bin does: sums would never forget it.
        extras[:, :width] = np.fmin(np.fmax(z, -CLIP), CLIP)
        table = self._tables.take(index.take(self._streams.column, axis=1) + self._offsets)
        self._scan.add(table, extras)
        if self._pool is not None:
            self._pool.add(rows[:, : self._inputs])
        excess = self._scan.look(self._drawn_from)
        found: list[Finding] = []
        if excess is not None:
            found += self._moved(excess, rows, book)
        found += self._beyond(rows, book)
        tau = self._scan.memory()[self._middles] if self._sketches.ends else None
        pool = self._drawn_from() if self._sketches.ends else math.inf
        apart = self._sketches.add(index[:, :width], tau, pool)
        if apart is not None:
            found += self._reshaped(apart, book)
        if self._scan.blocks % 8 == 0:
            self.runs.settle()
            self._end(book)
        return found

    def _drawn_from(self) -> float:
        """How many different samples the stream is drawn from; infinite where so many are no wonder: m samples without
        a pair are had from a pool of m^2 / 6 in one of twenty cases.
        """
        size = math.inf if self._pool is None else self._pool.size
        return size if size < self.reference.header.samples**2 / 6 else math.inf

    def _moved(self, excess: Excess, rows: Array, book: Book) -> list[Finding]:
        """Findings of the scan: one for each kind and tensor, which names what moved most.

        A number that has moved lies far from where it was, and so do its squares, though it varies as it did: of one
        whose middle is known to have moved, the spread is not told.
        """
        groups: dict[tuple[Kind, str], list[int]] = {}
        apart = (self._of == np.arange(self._of.size)) | (excess.ratio[self._of] <= 1)
        for stream in np.flatnonzero((excess.ratio > 1) & apart).tolist():
            groups.setdefault((self._streams.kinds[stream], self._sources[stream]), []).append(stream)
        findings = []
        for (kind, source), moving in groups.items():
            members = [
                stream for stream in moving
                if book.untold(Key(kind, source, self._alone(kind, (int(self._streams.column[stream]),))), self.samples)
            ]  # fmt: skip
            if not members:
                continue
            members.sort(key=lambda stream: -excess.ratio[stream])
            since = self.samples - int(excess.length[members[0]])
            moves = [self._move(stream, int(excess.length[stream])) for stream in members]
            first = moves[0]
            text = words.moved(kind, moves, since)
            named = ("input-shift", source) in groups or book.stands("input-shift", source)
            if kind == "input-shift" or (kind in _GUESSED and not named):
                text += words.behind(self._guess(source, rows, int(excess.length[members[0]])), start=since == 0)
            places = self._alone(kind, tuple(self._streams.column[members].tolist()))
            findings.append(Finding(kind, source, first.where, first.amount, first.unit, since, text, places))
        return findings

    def _move(self, stream: int, length: int) -> words.Move:
        """What a stream did over its last `length` samples, in words' terms."""
        made = self._streams
        place = int(made.column[stream])
        means = self._scan.mean(length)
        score = float(means[stream])
        if made.aspect[stream] == "share":
            heap = int(np.count_nonzero(made.column[: stream + 1] == place)) - 1
            share = float(made.mass[stream][heap])
            now = share + score * float(np.sqrt(share * (1 - share)))
            return words.Move(f"class {made.names[heap]}", "share", now - share, share, now, "share")
        column = self._columns[place]
        mean, deviation = float(self.reference.mean[place]), float(self.reference.deviation[place])
        shift = float(means[len(made.kinds) + place])
        if made.aspect[stream] == "spread":
            return words.Move(column.where, "spread", score, mean, mean + shift * deviation, "sigma")
        amount = shift if shift * score > 0 else score
        return words.Move(column.where, "middle", amount, mean, mean + shift * deviation, "sigma")

    def _guess(self, source: str, rows: Array, length: int) -> Cause:
        """What may be behind a shift of the last `length` samples; `rows` are the last."""
        columns = slice(len(self._streams.kinds), len(self._streams.kinds) + len(self._columns))
        mean = self.reference.mean + self._scan.mean(length)[columns] * self.reference.deviation
        return guess(self.reference, source, mean, rows.mean(axis=0), length)

    def _reshaped(self, apart: Distances, book: Book) -> list[Finding]:
        """Distributions that differ though neither their middle nor their spread is known to have moved."""
        findings: list[Finding] = []
        for place in np.flatnonzero((apart.ratio > 1) & self._shape).tolist():
            column = self._columns[place]
            kind = _SHAPE[column.role]
            told = any(book.stands(other, column.source, place) for other in ("input-shift", "input-spread", kind))
            once = any(finding.source == column.source for finding in findings)
            if told or once or not self._news(kind, place, self.samples, book):
                continue
            since = max(0, self.samples - self._sketches.span)
            text = words.reshaped(column, apart, place, since)
            places = self._alone(kind, (place,))
            findings.append(
                Finding(kind, column.source, column.where, float(apart.w[place]), "sigma", since, text, places)
            )
        return findings

    def _beyond(self, rows: Array, book: Book) -> list[Finding]:
        """Findings on events, after those of the block in its order."""
        own = rows[:, : self._inputs]
        bad = (own < self._low) | (own > self._high)
        if bad.any():
            nothing = np.zeros(bad.shape[1], bool)
            for place in np.flatnonzero(bad.any(axis=1)).tolist():
                self._events.hit(np.concatenate([bad[place], nothing]), self.samples - BLOCK + place)
        return self.happened(self.samples - 1, book)

    def _fault(self, kind: Kind, fault: Fault, places: tuple[int, ...], *, whole: bool = False) -> Finding:
        column = self._columns[fault.place]
        last = None if self._unknown[fault.place] else float(self.reference.mean[fault.place])
        others = len(places) - 1
        text = words.frozen(column, fault) if whole else words.fault(kind, column, fault, others, last)
        about = self._alone(kind, places)
        return Finding(kind, column.source, column.where, float(fault.samples), "samples", fault.since, text, about)

    def _end(self, book: Book) -> None:
        """End what has gone quiet."""
        if not book.keys:
            return
        quiet = self._scan.recent(self._recent) < _QUIET
        still = np.zeros(self._inputs, bool)
        still[[fault.place for fault in self.runs.faults(self.samples - 1)]] = True
        events = ~self._events.calm(self.samples - 1, RECENT)
        kinds = np.array([*self._event_kinds, *(["missing"] * self._inputs)])
        for key in book.keys:
            if book.age(key, self.samples) < self._recent or key.kind in ("latency", "temperature"):
                continue
            mine = [
                stream for stream, own in enumerate(self._streams.kinds)
                if self._sources[stream] == key.source and key.about(int(self._streams.column[stream]))
                and (own == key.kind or (key.kind == "input-shape" and own == "input-shift"))
            ]  # fmt: skip
            own = [column.source == key.source and key.about(place) for place, column in enumerate(self._columns)]
            here = np.array(own[: self._inputs], bool)
            about = (kinds == key.kind) & np.tile(here, 2)
            lasts = still[here] if key.kind == "stuck" else events[about]
            over = bool(quiet[mine].all()) if mine else not lasts.any()
            if over and key.kind == "input-shape":
                over = self._sketches.calm(np.array(own))
            if over:
                if mine and key.kind != "input-shape":
                    self._scan.begin(np.flatnonzero(np.isin(self._of, mine)))  # spreads that it stood for as well
                self._events.forget(about)
                book.end(key, self.samples)

    # -- Telling --------------------------------------------------------------------------------------------------

    def shifts(self, length: int) -> dict[str, float] | None:
        """Mean shift of each column in deviations over the last `length` samples; None before there are as many."""
        if length > self.samples:
            return None
        means = self._scan.mean(length)[len(self._streams.kinds) :]
        return {column.key: float(means[place]) for place, column in enumerate(self._columns)}

    def rightness(self, length: int) -> Told | None:
        """Of the accuracy over the last `length` samples; None before there are as many, and without labels."""
        if length > self.samples or self.right is None:
            return None
        means = self._scan.mean(length)
        number = len(self._streams.kinds)
        return self.right.interval(means[:number], means[number:-EXTRAS], means[-EXTRAS:], length)

    def distances(self) -> dict[str, dict[str, dict[str, float]]]:
        """Span -> column -> its distances from the reference."""
        return {
            str(span): {
                column.key: {name: round(float(getattr(found, name)[place]), 4) for name in ("psi", "js", "ks", "w")}
                for place, column in enumerate(self._columns)
            }
            for span, found in self._sketches.last.items()
        }

    def _parts(self) -> list[tuple[str, Any]]:
        """What remembers something, by name."""
        parts = [("scan", self._scan), ("sketches", self._sketches), ("runs", self.runs), ("events", self._events)]
        return parts if self._pool is None else [*parts, ("pool", self._pool)]

    def state(self) -> dict[str, Array]:
        """What must be kept."""
        arrays = {f"{name}.{key}": value for name, part in self._parts() for key, value in part.state().items()}
        return {**arrays, "samples": np.array(self.samples)}

    def restore(self, state: dict[str, Array]) -> None:
        """Go on from what `state` gave.

        Raises:
            KeyError: Something is missing. ValueError: It has another shape.
        """
        for name, part in self._parts():
            part.restore({key.partition(".")[2]: value for key, value in state.items() if key.startswith(f"{name}.")})
        self.samples = int(state["samples"])


def _middles(made: Streams) -> Array:
    """[s]: of the stream of a spread that of its number's middle, of others themselves."""
    first = {int(place): stream for stream, place in reversed(list(enumerate(made.column.tolist())))}
    return np.array(
        [first[place] if aspect == "spread" else stream
         for stream, (place, aspect) in enumerate(zip(made.column.tolist(), made.aspect, strict=True))], np.intp,
    )  # fmt: skip


def _firsts(column: Array, number: int) -> Array:
    """[number]: the first stream of each column; 0 for one without."""
    found = np.zeros(number, np.intp)
    for stream in range(len(column) - 1, -1, -1):
        if column[stream] < number:
            found[column[stream]] = stream
    return found
