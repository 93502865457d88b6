"""Calibration: which values each tensor of a float graph takes, observed in the real engine, in bounded memory.

Samples are read one at a time and forgotten. Activations are seen by reference, never gathered. When all of them
do not fit under the memory bound, they are seen in several passes, a group of tensors each, over blocks of
samples that do fit; the result is the same to the last bit, because observers do not depend on order.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Container, Generator, Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgekit.converters.calibration import observers
from edgekit.converters.calibration.bends import bends
from edgekit.converters.calibration.checkpoints import Checkpoint
from edgekit.converters.calibration.masks import BOTTOM, Masks
from edgekit.converters.calibration.observers import Observer
from edgekit.converters.calibration.taps import Feed, Session, Tap, tap
from edgekit.converters.stages import CalibrationOptions, Graph, Ranges
from edgekit.converters.steps import folded, origins
from edgekit.errors import ConversionError, DataError
from edgekit.tensors import whole

if TYPE_CHECKING:
    from edgekit.converters.stages import Feeds

_MB = 1 << 20
_RESERVE = 40 * _MB
"""For the histograms, the engine's own packed weights and scratch, and the allocator's gaps."""
_COPIES = 3
"""Of the model's bytes: the file as handed to the engine, the engine's own, and its packed weights."""
_FLOOR = 16 * _MB
"""A pass never takes less: below, passes cost more than they save."""
_WATCHED = 192 << 10
"""Bytes that an observer of one tensor may hold."""
_TRIM_AT = 0.8
"""Share of the bound from which freed memory is returned at once."""
_EVENT_EVERY = 16


def calibrate(
    graph: Graph, batches: Iterator[Feeds], options: CalibrationOptions, checkpoint: Checkpoint | None = None
) -> Generator[dict[str, Any], None, Ranges]:
    """Observe a float graph on data.

    Args:
        graph: The float graph.
        batches: Arrays by public input name, [n, ...], any n; values are cast to the graph's input types.
        options: Which observer, and the bound on memory.
        checkpoint: Where to go on from, and to leave what was seen in case this process dies; None: nowhere.

    Yields:
        `{"samples": how many are done}`, now and then.

    Returns:
        A range for each float input and each float tensor that an operator makes, by its name inside the file.

    Raises:
        UsageError: `observer-unknown`, `percentile-invalid`.
        DataError: `calibration-empty`: there was no sample; `calibration-shape`: an array does not fit its input.
        ConversionError: `activation-not-finite`: a tensor held NaN or infinity; names it.
        EngineError: `calibration-engine`: the engine refused the graph or a sample.
        EngineMissingError: `engine-missing`.
    """
    observers.factory(options.observer)(options)  # options that the observer refuses are refused before any work
    tapped = tap(graph, options.threads)
    watch = _Watch(options, tapped)
    feeds = single_feeds(graph, tapped, batches)
    first = next(feeds, None)
    if first is None:
        raise DataError("calibration-empty", "there is no sample to calibrate with")
    groups, block = _plan(tapped, first[1], options, graph, watch.told)
    if checkpoint is not None:
        watch.resume(checkpoint)
    rest = islice(chain([first], feeds), watch.runs, None)
    if len(groups) == 1:
        yield from _one_pass(tapped, groups[0], rest, watch, options.memory_mb * _MB)
    else:
        yield from _passes(tapped, groups, rest, watch, block)
    if checkpoint is not None:
        checkpoint.clear()
    watch.tell()
    return _decided(options.observer, watch)


def _decided(observer: str, watch: _Watch) -> Ranges:
    """The ranges; with those to choose from, where the observer leaves the choice."""
    tensors = watch.masks.tamed({name: seen.range() for name, seen in watch.seen.items()})
    offered = {name: found.candidates() for name, found in watch.seen.items() if hasattr(found, "candidates")}
    ways = list(next(iter(offered.values()), {}))
    alternatives = {
        way: watch.masks.tamed(
            {name: offered[name][way] if name in offered else seen for name, seen in tensors.items()}
        )
        for way in ways
    }
    return Ranges(observer, watch.samples, tensors, alternatives)


def _one_pass(
    tapped: Tap, names: Sequence[str], feeds: Iterable[tuple[int, Feed]], watch: _Watch, bound: int
) -> Generator[dict[str, Any], None, None]:
    session = tapped.open(names)
    try:
        for count, feed in feeds:
            _observe(session, tapped, count, feed, watch)
            watch.ran(1)
            if watch.runs % _EVENT_EVERY == 1:
                _give_back(beyond=bound * _TRIM_AT)
                yield {"samples": watch.samples}
    finally:
        session.close()
    yield {"samples": watch.samples}


def _passes(
    tapped: Tap, groups: Sequence[Sequence[str]], feeds: Iterator[tuple[int, Feed]], watch: _Watch, block: int
) -> Generator[dict[str, Any], None, None]:
    """Each block of samples goes through one session a group; one session lives at a time."""
    while held := list(islice(feeds, block)):
        before = watch.samples
        for number, group in enumerate(groups):
            watch.samples = before
            session = tapped.open(group)
            try:
                for count, feed in held:
                    _observe(session, tapped, count, feed, watch, inputs_too=number == 0)
            finally:
                session.close()
            _give_back(beyond=0)
        watch.ran(len(held))
        yield {"samples": watch.samples}


def _observe(session: Session, tapped: Tap, count: int, feed: Feed, watch: _Watch, *, inputs_too: bool = True) -> None:
    if inputs_too:
        for name in tapped.inputs:
            if feed[name].dtype.kind == "f":
                watch.show(name, feed[name])
    session.run(feed, watch.show)
    watch.samples += count


class _Watch:
    """The observers, one a tensor, made when the tensor is first seen.

    Answers are never clipped: what is rare in them, such as the one box with a face among thousands, is what the model
    is for. Scores lose only what the sigmoid behind them does not tell apart.
    """

    def __init__(self, options: CalibrationOptions, tapped: Tap) -> None:
        self._options = options
        self._answers = tapped.answers()
        steps = tapped.steps()
        self._folded = folded(steps, self._answers)
        self.masks = Masks(steps, self._answers)
        self._bends, self._squashed = bends(steps), tapped.squashed()
        self.told = origins(
            steps, self._answers | self._folded, cut=hasattr(observers.factory(options.observer), "positive")
        )
        self._checkpoint: Checkpoint | None = None
        self.seen: dict[str, Observer] = {}
        self.samples = self.runs = 0

    def resume(self, checkpoint: Checkpoint) -> None:
        """Take over what an earlier run left, and leave what this one sees there."""
        self._checkpoint = checkpoint
        saved = checkpoint.load()
        if saved is not None:
            self.samples, self.runs = saved.samples, saved.runs
            for name, state in saved.observers.items():
                self.seen[name] = self._make(name)
                self.seen[name].restore(state)

    def ran(self, runs: int) -> None:
        """So many runs are complete: every tensor was seen in them."""
        self.runs += runs
        if self._checkpoint is not None and self._checkpoint.due():
            self._checkpoint.save(self.runs, self.samples, {name: seen.state() for name, seen in self.seen.items()})

    def _make(self, name: str) -> Observer:
        factory = observers.factory(self._options.observer)
        if name in self._answers or name in self._folded:
            whole = name in self._folded or self._options.observer not in observers.ROOMY
            factory = observers.factory("minmax") if whole else observers.Answers
        made = factory(self._options)
        cuts = isinstance(made, observers.Auto) or (name in self._squashed and self._options.observer == "auto")
        if name in self._bends and cuts and isinstance(made, observers.Auto | observers.Answers):
            made.read_by(self._bends[name])
        return made

    def tell(self) -> None:
        """Give the tensors that were not watched what those that they come from tell about them."""
        for name, origin in self.told.items():
            found: Any = self.seen.get(origin.name)
            if found is not None and name not in self.seen:
                self.seen[name] = found.positive() if origin.positive else found

    def show(self, name: str, values: NDArray[Any]) -> None:
        if not values.size:
            return
        values = values.reshape(-1)
        if values.dtype != np.float32:
            values = values.astype(np.float32)
        # A NaN anywhere makes both NaN: finite ends prove that all values are finite.
        low, high = float(values.min()), float(values.max())
        if low < BOTTOM and name in self.masks.seen_from_bottom:
            values = np.maximum(values, np.float32(BOTTOM))
            low, high = BOTTOM, max(high, BOTTOM)
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ConversionError(
                "activation-not-finite",
                f"the float graph's tensor {name} holds {'NaN' if math.isnan(low) else 'infinity'} at sample "
                f"{self.samples + 1} of the calibration data",
                tensor=name,
                sample=self.samples + 1,
            )
        found = self.seen.get(name)
        if found is None:
            found = self.seen[name] = self._make(name)
        found.update(values, low, high)


def _plan(
    tapped: Tap, feed: Feed, options: CalibrationOptions, graph: Graph, told: Container[str] = ()
) -> tuple[list[list[str]], int]:
    """Groups of tensors that fit in memory together, and how many feeds may be held for all of them."""
    every = tapped.sizes(feed)
    sizes = {name: size for name, size in every.items() if name not in told}
    model = Path(graph.path).stat().st_size
    available = max(_FLOOR, options.memory_mb * _MB - _resident() - _RESERVE - _COPIES * model - _WATCHED * len(sizes))
    if sum(sizes.values()) <= available:
        return [list(sizes)], 1
    # Beside the group's tensors the graph needs what is live at once anyway, and the samples that are held.
    held = available // 8
    room = max(_FLOOR, available - held - tapped.working_set(every))
    groups: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if groups[-1] and filled + size > room:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += size
    return groups, max(1, held // max(1, sum(array.nbytes for array in feed.values())))


def _give_back(beyond: float) -> None:
    """Return freed memory to the system once the process holds more than `beyond` bytes.

    Arrays of activations and counters that live and die between each other leave gaps that the C library keeps.
    """
    if _resident() <= beyond:
        return
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it, musl and macOS do not
    if trim is not None:
        trim(0)


def _resident() -> int:
    """Bytes of memory this process holds now; 0 where the system does not tell."""
    try:
        with open("/proc/self/statm") as file:
            pages = int(file.read().split()[1])
    except OSError:
        return 0
    import resource

    return pages * resource.getpagesize()


def single_feeds(graph: Graph, tapped: Tap, batches: Iterable[Feeds]) -> Iterator[tuple[int, Feed]]:
    """Batches cut into what one run of the graph takes: the number of samples and arrays by name inside the file."""
    name_of = _names_inside(graph, tapped)
    alone = whole(graph.inputs, graph.outputs)
    for batch in batches:
        missing = sorted(set(name_of) - set(batch))
        if missing:
            raise DataError("calibration-shape", f"the calibration data lacks the input {', '.join(missing)}")
        arrays = {inside: np.asarray(batch[public]) for public, inside in name_of.items()}
        if alone and all(_fits(array.shape, tapped.inputs[name][0]) for name, array in arrays.items()):
            yield 1, {name: np.asarray(array, tapped.inputs[name][1], order="C") for name, array in arrays.items()}
            continue
        total = min((len(array) for array in arrays.values()), default=0)
        step = _step(tapped)
        for start in range(0, total, step):
            count = min(step, total - start)
            yield (
                count,
                {name: _shaped(name, array, start, step, *tapped.inputs[name]) for name, array in arrays.items()},
            )


def _names_inside(graph: Graph, tapped: Tap) -> dict[str, str]:
    """Public name -> name inside the file."""
    public = {tapped.inside(spec): spec.name for spec in graph.inputs}
    return {public.get(inside, inside): inside for inside in tapped.inputs}


def _step(tapped: Tap) -> int:
    """Samples a run: the fixed batch size where all inputs share one, else 1."""
    firsts = {shape[0] for shape, _ in tapped.inputs.values() if shape}
    return firsts.pop() if len(firsts) == 1 and min(firsts) > 1 else 1


def _shaped(
    name: str, array: NDArray[Any], start: int, step: int, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> NDArray[Any]:
    """Samples `start` to `start + step` as the graph's input takes them; the last batch is filled with its end."""
    part = array[start : start + step]
    if len(part) < step:
        part = np.concatenate([part, np.repeat(part[-1:], step - len(part), axis=0)])
    if not _fits(part.shape, shape) and _fits(part.shape[1:], shape):
        part = part[0]  # an input without a batch axis
    if not _fits(part.shape, shape):
        raise DataError(
            "calibration-shape",
            f"the calibration data for {name} has samples of shape {list(array.shape[1:])}, "
            f"the graph takes {['free' if size < 0 else size for size in shape]}",
            input=name,
        )
    return np.ascontiguousarray(part, dtype)


def _fits(actual: Sequence[int], wanted: Sequence[int]) -> bool:
    return len(actual) == len(wanted) and all(w in (a, -1) for a, w in zip(actual, wanted, strict=True))
