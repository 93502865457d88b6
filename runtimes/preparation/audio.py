"""From a sound to the tensor: at the model's rate, in its length, as its features; whole, or from a microphone.

listener = Listener(how, spec)
for chunk in microphone:
for tensor in listener.push(chunk): ...
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgekit.errors import FeedError, UsageError
from edgekit.feeding import AudioSteps, Preprocess
from edgekit.runtimes.base import Array
from edgekit.runtimes.preparation.numbers import normalize
from edgekit.runtimes.preparation.resampling import Resampler, resample
from edgekit.runtimes.preparation.sounds import Sound, as_real, fit_length, fit_wave
from edgekit.runtimes.preparation.spectra import frames_of, samples_of, spectrum, streaming
from edgekit.tensors import TensorSpec


def sound_array(sound: Sound, spec: TensorSpec, how: Preprocess) -> Array:
    """What the input takes of a sound, without the batch axis; scale, mean and std are not applied yet.

    Raises:
        FeedError: `feed-shape`: the features do not have the input's shape.
    """
    steps = how.audio or AudioSteps()
    samples = sound.samples
    if steps.rate is not None and sound.rate is not None:
        samples = resample(samples, sound.rate, steps.rate)
    if steps.features == "wave":
        return fit_wave(samples if steps.samples is None else fit_length(samples, steps.samples), spec)
    length = steps.samples or _asked(spec, steps)
    if length is not None:
        samples = fit_length(samples, length)
    return shaped(spectrum(samples, steps), spec, steps)


def shaped(features: Array, spec: TensorSpec, steps: AudioSteps) -> Array:
    """[frames, width] in the input's shape, without the batch axis.

    Raises:
        FeedError: `feed-shape`.
    """
    turned = features if steps.axes == "time-bands" else features.T
    wanted = spec.shape[1:]
    sizes = [size for size in wanted if size != 1]
    if len(sizes) <= 2 and len(sizes) == len([size for size in turned.shape if size != 1]):
        fits = all(want in (None, size) for want, size in zip(sizes, (s for s in turned.shape if s != 1), strict=True))
        if fits:
            it = iter(size for size in turned.shape if size != 1)
            return np.ascontiguousarray(turned).reshape([1 if want == 1 else next(it) for want in wanted])
    if None not in wanted and int(np.prod([w or 1 for w in wanted])) == turned.size and len(wanted) == 1:
        return np.ascontiguousarray(turned).reshape(-1)
    raise FeedError(
        "feed-shape",
        f"{steps.features} has {len(turned)} by {turned.shape[1]} values ({steps.axes}): {spec.describe()}",
    )


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
        every: Seconds from one window to the next; a whole number of hops, rounded up.
        rate: Of the chunks; None for the model's.

    Raises:
        UsageError: `stream-whole`: the features need the whole sound.
    """

    def __init__(self, how: Preprocess, spec: TensorSpec, *, every: float = 0.25, rate: int | None = None) -> None:
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
        self._spectrum = None if steps.features == "wave" else streaming(steps)
        unit = 1 if self._spectrum is None else steps.hop
        self._size = length if self._spectrum is None else frames_of(length, steps)
        self._step = max(round(every * own / unit + 0.499999), 1)
        self._rows: Array = (
            np.zeros(0, np.float32) if self._spectrum is None else np.zeros((0, self._spectrum.width), np.float32)
        )

    def push(self, chunk: Array) -> Iterator[Array]:
        """The tensors, with a batch axis, that these samples complete: float32 of the input's shape."""
        samples = as_real(np.asarray(chunk), self._spec).reshape(-1)
        if self._resampler is not None:
            samples = self._resampler.push(samples)
        rows = samples if self._spectrum is None else self._spectrum.push(samples)
        self._rows = np.concatenate([self._rows, rows])
        while len(self._rows) >= self._size:
            window = self._rows[: self._size]
            self._rows = self._rows[self._step :]
            made = fit_wave(window, self._spec) if self._spectrum is None else shaped(window, self._spec, self._steps)
            yield normalize(made, self._how, self._spec)[None]
