"""From a sound to the tensor: at the model's rate, in its length, as its features; whole, or from a microphone.

listener = Listener(how, spec)
for chunk in microphone:
for tensor in listener.push(chunk): ...
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from edgekit.errors import FeedError, UsageError
from edgekit.feeding import AudioSteps, Preprocess
from edgekit.runtimes.base import Array
from edgekit.runtimes.preparation.numbers import normalize
from edgekit.runtimes.preparation.resampling import Resampler, resample
from edgekit.runtimes.preparation.sounds import Sound, fit_length, fit_wave, mixed
from edgekit.runtimes.preparation.spectra import Spectrum, features_of, frames_of, samples_of
from edgekit.tensors import TensorSpec


class SoundPlan:
    """From sounds to what one input takes of them; what can be looked up before the first one is. Threads may share it.

    Args:
        spec: The model's input.
        how: The manifest's.
    """

    def __init__(self, spec: TensorSpec, how: Preprocess) -> None:
        self._spec = spec
        self._steps = steps = how.audio or AudioSteps()
        self._features = None if steps.features == "wave" else features_of(steps)
        self._length = steps.samples if self._features is None else steps.samples or _asked(spec, steps)
        self._shape: list[int] | None = None
        if self._features is not None and self._length is not None:
            frames = frames_of(self._length, steps), self._features.width
            self._shape = _fitting(frames if steps.axes == "time-bands" else frames[::-1], spec)

    def __call__(self, sound: Sound) -> Array:
        """Without the batch axis; scale, mean and std are not applied yet.

        Raises:
            FeedError: `feed-shape`: there are no samples, or the features do not have the input's shape.
        """
        steps, samples = self._steps, sound.samples
        if not len(samples):
            raise FeedError("feed-shape", f"{self._spec.name} is fed with a sound that has no samples")
        if steps.rate is not None and sound.rate is not None:
            samples = resample(samples, sound.rate, steps.rate, self._length)
        if self._length is not None:
            samples = fit_length(samples, self._length)
        if self._features is None:
            return fit_wave(samples, self._spec)
        made = self._features.whole(samples)
        if self._shape is None:
            return shaped(made, self._spec, steps)
        return (made if steps.axes == "time-bands" else made.T).reshape(self._shape)


def sound_array(sound: Sound, spec: TensorSpec, how: Preprocess) -> Array:
    """What the input takes of one sound; see `SoundPlan`."""
    return SoundPlan(spec, how)(sound)


def shaped(features: Array, spec: TensorSpec, steps: AudioSteps) -> Array:
    """[frames, width] in the input's shape, without the batch axis.

    Raises:
        FeedError: `feed-shape`.
    """
    turned = features if steps.axes == "time-bands" else features.T
    shape = _fitting(turned.shape, spec)
    if shape is None:
        raise FeedError(
            "feed-shape",
            f"{steps.features} has {len(turned)} by {turned.shape[1]} values ({steps.axes}): {spec.describe()}",
        )
    return np.ascontiguousarray(turned).reshape(shape)


def _fitting(given: tuple[int, ...], spec: TensorSpec) -> list[int] | None:
    """The input's shape without the batch axis, for a table of features; None where it does not take it."""
    wanted = spec.shape[1:]
    long, sizes = [size for size in given if size != 1], [size for size in wanted if size != 1]
    if len(sizes) == len(long) and all(want in (None, size) for want, size in zip(sizes, long, strict=True)):
        rest = iter(long)
        return [1 if want == 1 else next(rest) for want in wanted]
    flat = int(np.prod(given))
    return [flat] if len(wanted) == 1 and wanted[0] == flat else None


def _asked(spec: TensorSpec, steps: AudioSteps) -> int | None:
    """How many samples have as many frames as the input takes; None where its shape leaves it open."""
    sizes = [size for size in spec.shape[1:] if size != 1]
    if len(sizes) != 2:
        return None
    frames = sizes[0] if steps.axes == "time-bands" else sizes[1]
    return None if frames is None else samples_of(frames, steps)


class Listener:
    """Windows over an endless sound, each as the input takes it. What overlaps is computed once.

    The tensors are to the last bit those of the same stretches of the sound prepared as a whole.

    Args:
        how: The manifest's.
        spec: The model's input.
        every: Seconds from one window to the next, positive; a whole number of hops, rounded up.
        rate: Of the chunks; None for the model's.

    Raises:
        UsageError: `stream-whole`: the features need the whole sound; `option-value`.
    """

    def __init__(self, how: Preprocess, spec: TensorSpec, *, every: float = 0.25, rate: int | None = None) -> None:
        if not (0 < every < math.inf) or (rate is not None and not rate >= 1):
            raise UsageError("option-value", f"every {every} s is positive and finite; rate {rate} is at least 1")
        steps = how.audio or AudioSteps()
        self._how, self._spec, self._steps = how, spec, steps
        if steps.center and steps.features != "wave":
            raise UsageError("stream-whole", "centered frames lie half in the silence around the whole sound")
        length = steps.samples or (int(np.prod([s or 1 for s in spec.shape[1:]])) if steps.features == "wave" else None)
        length = length or _asked(spec, steps)
        if length is None or (steps.rate is None and rate is None):
            raise UsageError("stream-whole", "a stream needs the rate and the length of a clip (samples)")
        own = steps.rate or rate or 1
        self._resampler = Resampler(rate, own) if rate is not None and rate != own else None
        self._spectrum = None if steps.features == "wave" else Spectrum(steps)
        unit = 1 if self._spectrum is None else steps.hop
        self._size = length if self._spectrum is None else frames_of(length, steps)
        self._step = max(round(every * own / unit + 0.499999), 1)
        self._rows: Array = (
            np.zeros(0, np.float32) if self._spectrum is None else np.zeros((0, self._spectrum.width), np.float32)
        )

    def push(self, chunk: Array) -> Iterator[Array]:
        """The tensors, with a batch axis, that these samples complete: float32 of the input's shape. The samples are
        taken at once; tensors that nobody iterates over come with the next ones.

        Args:
            chunk: Samples [n] as `Sound` has them, or [n, channels], which are mixed.

        Raises:
            FeedError: `feed-dtype`, `feed-shape`.
        """
        array = np.asarray(chunk)
        samples = mixed(array[0] if array.ndim == 2 and len(array) == 1 < array.shape[1] else array, self._spec.name)
        if self._resampler is not None:
            samples = self._resampler.push(samples)
        rows = samples if self._spectrum is None else self._spectrum.push(samples)
        self._rows = np.concatenate([self._rows, rows])
        return self._windows()

    def _windows(self) -> Iterator[Array]:
        while len(self._rows) >= self._size:
            window = self._rows[: self._size]
            self._rows = self._rows[self._step :]
            made = fit_wave(window, self._spec) if self._spectrum is None else shaped(window, self._spec, self._steps)
            yield normalize(made, self._how, self._spec)[None]
