"""Answers of a source, batch by batch, whatever batch the source itself takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgekit.converters.stages import Array, Feeds
from edgekit.errors import FeedError
from edgekit.tensors import TensorSpec

_CHUNK_SAMPLES, _CHUNK_ELEMENTS = 128, 1 << 22
"""A chunk of a free batch has at most so many samples and input elements: a few hundred MB of
activations for usual nets."""


@dataclass(frozen=True)
class Answering:
    """A model's inputs and what answers them.

    Attributes:
        inputs: Public names, shapes (None: free), dtypes.
        call: Arrays by public name, in the size of batch that the model takes, to arrays by public name.
        single: Feed one sample at a time though the batch is free.
        outputs: Where they are known, they must share the batch axis: else there is none.
    """

    inputs: tuple[TensorSpec, ...]
    call: Callable[[Feeds], Feeds]
    single: bool = False
    outputs: tuple[TensorSpec, ...] = ()
    batch: int | None = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "batch", _batch((*self.inputs, *self.outputs)))

    def run(self, feeds: Feeds) -> Feeds:
        """Answer any number of samples.

        Args:
            feeds: Public name -> array [n, ...]; a model without a batch axis takes its shapes as they are.

        Returns:
            Public name -> array [n, ...].

        Raises:
            FeedError: `feed-names`, `feed-batch`; `source-run`: an array does not fit its input.
        """
        arrays = self._arrays(feeds)
        if self.batch is None:
            return self.call(arrays)
        count = len(next(iter(arrays.values())))
        if not count or any(len(array) != count for array in arrays.values()):
            lengths = ", ".join(f"{name} {len(array)}" for name, array in arrays.items())
            raise FeedError("feed-batch", f"the inputs must hold equally many samples, at least one: {lengths}")
        sizes, parts = [], []
        for chunk, used in self._chunks(arrays, count):
            parts.append(_cut(self._called(chunk), used, len(chunk[self.inputs[0].name])))
            sizes.append(used)
        if len(parts) == 1:
            return parts[0]
        return {name: _joined([part[name] for part in parts], sizes) for name in parts[0]}

    def _called(self, chunk: Feeds) -> Feeds:
        """The answers; a model that leaves sizes free takes few of them, and no data may say which."""
        try:
            return self.call(chunk)
        except FeedError as error:
            free = next((spec for spec in self.inputs if None in spec.shape[1:]), None)
            if free is None or error.code != "source-run":
                raise
            fed = [*chunk[free.name].shape[1:]]
            example = ",".join("N" if not axis else str(size or 64) for axis, size in enumerate(free.shape))
            raise FeedError(
                "source-run",
                f"{free.describe()} leaves sizes free, and does not take {fed}: {error.message}",
                next_step=f"Say the sizes that the board will feed: --input {free.name}={example}.",
            ) from error

    def _arrays(self, feeds: Feeds) -> Feeds:
        known = {spec.name: spec for spec in self.inputs}
        if known.keys() != feeds.keys():
            raise FeedError("feed-names", f"the inputs are {', '.join(known)}, not {', '.join(feeds) or 'none'}")
        arrays: Feeds = {}
        for name, spec in known.items():
            # Quantized inputs are fed with the real numbers that their integers stand for.
            dtype = None if spec.dtype == "string" else spec.dtype
            array = np.asarray(feeds[name], np.float32 if spec.quant else dtype)
            wrong = array.ndim != len(spec.shape) or any(
                want not in (None, size) for size, want in zip(array.shape[1:], spec.shape[1:], strict=False)
            )
            if wrong:
                raise FeedError("source-run", f"{spec.describe()} does not take an array of {list(array.shape)}")
            arrays[name] = array
        return arrays

    def _chunks(self, arrays: Feeds, count: int) -> Iterator[tuple[Feeds, int]]:
        """Slices along the batch axis and how many samples count; the last one of a fixed batch is filled up."""
        elements = sum(array.size for array in arrays.values())
        free = max(1, min(_CHUNK_SAMPLES, _CHUNK_ELEMENTS * count // max(1, elements)))
        size = self.batch or (1 if self.single else free)
        for start in range(0, count, size):
            chunk = {name: array[start : start + size] for name, array in arrays.items()}
            used = min(size, count - start)
            if self.batch and used < size:
                chunk = {name: np.concatenate([a, np.repeat(a[-1:], size - used, 0)]) for name, a in chunk.items()}
            yield chunk, used


def _joined(parts: list[Array], sizes: list[int]) -> Array:
    """Answers to chunks of so many samples; those that have no batch axis in front get one."""
    if all(part.ndim and len(part) == size for part, size in zip(parts, sizes, strict=True)):
        return np.concatenate(parts)
    return np.stack(parts)


def _cut(answers: Feeds, used: int, size: int) -> Feeds:
    """Drop the answers to samples that only filled a batch up."""
    if used == size:
        return answers
    if any(not array.ndim or len(array) != size for array in answers.values()):
        raise FeedError(
            "feed-batch", f"the model answers batches of {size} as a whole; give a multiple of {size} samples"
        )
    return {name: array[:used] for name, array in answers.items()}


def _batch(specs: tuple[TensorSpec, ...]) -> int | None:
    """Size of the batch axis that all share: 0 when it is free, None when there is none."""
    first: set[Any] = {spec.shape[0] if spec.shape else -1 for spec in specs}
    if len(first) != 1 or -1 in first:
        return None
    return first.pop() or 0
