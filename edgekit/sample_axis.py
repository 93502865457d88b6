"""Samples of models without a batch axis: frames [1,576] beside a state [2,1,128] and a number, a wave [15600].

Their data has an axis more in front, [n, 2, 1, 128], and they are asked with one sample at a time, as it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.tensors import TensorSpec

Specs = tuple[TensorSpec, ...]
Feeds = dict[str, NDArray[Any]]

_REMEMBERED = 1 << 16
"""Digests of 16 bytes: 6 MB with what Python adds."""


def each(run: Callable[[Feeds], Feeds], samples: Specs, inputs: Specs) -> Callable[[Feeds], Feeds]:
    """What answers data [n, ...] that looks like `samples`, by something that takes `inputs`."""
    if not _deeper(samples, inputs):
        return run
    return lambda data: stacked([run(feeds) for feeds in one_by_one(data)])


def taken(data: Feeds, samples: Specs, inputs: Specs) -> Iterator[Feeds]:
    """Such data as feeds that a model takes: all at once, or one by one."""
    if _deeper(samples, inputs):
        yield from one_by_one(data)
    else:
        yield data


def _deeper(samples: Specs, inputs: Specs) -> bool:
    return len(samples[0].shape) > len(inputs[0].shape)


def distinct(batches: Iterable[Feeds]) -> Iterator[Feeds]:
    """Arrays [n, ...] without samples that came before: a rest that is recorded again and again, as silence is, teaches
    nothing of what was not seen. Of the first `_REMEMBERED` different ones, so that memory stays bounded.
    """
    known: set[bytes] = set()
    for batch in batches:
        kept = []
        for number in range(len(next(iter(batch.values())))):
            digest = hashlib.blake2b(digest_size=16)
            for name in sorted(batch):
                digest.update(np.ascontiguousarray(batch[name][number]).data)
            if digest.digest() in known:
                continue
            kept.append(number)
            if len(known) < _REMEMBERED:
                known.add(digest.digest())
        if kept:
            yield {name: array[kept] for name, array in batch.items()}


def one_by_one(data: Feeds) -> Iterator[Feeds]:
    """Each sample for itself, without the axis that counts them."""
    for number in range(len(next(iter(data.values())))):
        yield {name: np.asarray(array[number]) for name, array in data.items()}


def stacked(answers: list[Feeds]) -> Feeds:
    """Answers to samples, with an axis in front that counts them."""
    return {name: np.stack([answer[name] for answer in answers]) for name in answers[0]}
