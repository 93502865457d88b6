"""A few calibration samples, and a float graph's tensors on them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.converters.calibrate import single_feeds
from edgekit.converters.calibration.taps import tap
from edgekit.converters.stages import Feeds, Graph

Array = NDArray[Any]

_BYTES = 48 << 20
"""Of activations that are looked at in one pass, and of samples that are held."""
_FEWEST = 4


class Samples:
    """Samples by public names, held in memory, hence few.

    Args:
        batches: Arrays [n, ...] by input name.
        most: Samples to keep.
        step: Samples that a model with a fixed batch takes at once; n is a multiple of it.
    """

    def __init__(self, batches: Iterable[Feeds], most: int, step: int = 1) -> None:
        kept: list[Feeds] = []
        held = 0
        for batch in batches:
            for place in range(0, len(next(iter(batch.values()))), step):
                one = {name: np.array(array[place : place + step]) for name, array in batch.items()}
                held += sum(array.nbytes for array in one.values())
                if len(kept) * step >= most or (held > _BYTES and len(kept) >= _FEWEST):
                    break
                kept.append(one)
            else:
                continue
            break
        self._kept = kept

    def first(self, count: int) -> Samples:
        """So many of them, without copies."""
        some = Samples((), 0)
        some._kept = self._kept[:count]
        return some

    def __len__(self) -> int:
        return len(self._kept)

    def __iter__(self) -> Iterator[Feeds]:
        return iter(self._kept)


def look(
    graph: Graph, samples: Samples, names: Sequence[str], show: Callable[[int, str, Array], None], threads: int
) -> None:
    """Run a float graph and show tensors, by their names inside the file, with the number of the run.

    In several passes where they are too large to be seen at once.

    Raises:
        EngineError: `calibration-engine`. EngineMissingError: `engine-missing`. DataError: `calibration-shape`.
    """
    tapped = tap(graph, threads)
    feeds = [feed for _, feed in single_feeds(graph, tapped, (graph.turn(sample) for sample in samples))]
    if not feeds:
        return
    for number, feed in enumerate(feeds):
        for name in names:
            if name in tapped.inputs:
                show(number, name, feed[name])
    sizes = tapped.sizes(feeds[0])
    for group in _grouped([name for name in names if name not in tapped.inputs], sizes):
        session = tapped.open(group)
        try:
            for number, feed in enumerate(feeds):
                session.run(feed, lambda name, values, number=number: show(number, name, values))  # type: ignore[misc]
        finally:
            session.close()


def _grouped(names: Sequence[str], sizes: dict[str, int]) -> Iterator[list[str]]:
    group: list[str] = []
    filled = 0
    for name in names:
        if group and filled + sizes.get(name, 0) > _BYTES:
            yield group
            group, filled = [], 0
        group.append(name)
        filled += sizes.get(name, 0)
    if group:
        yield group


def answers(graph: Graph, samples: Samples, threads: int) -> list[Feeds]:
    """What a graph, float or quantized, answers to each sample in the real engine: real values by public names."""
    from edgekit import artifact
    from edgekit.runtimes.model import Model

    opened = artifact.read(graph.path)
    with Model.from_artifact(opened, inputs=graph.inputs, outputs=graph.outputs, threads=threads) as model:
        return [model.run(graph.turn(_filled(sample, graph))) for sample in samples]


def _filled(sample: Feeds, graph: Graph) -> Feeds:
    """A sample as often as a graph of a fixed batch takes it."""
    fixed = {spec.shape[0] for spec in graph.inputs if spec.shape}
    batch = fixed.pop() if len(fixed) == 1 else None
    return sample if batch is None else {name: np.repeat(array, batch, axis=0) for name, array in sample.items()}
