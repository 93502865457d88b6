"""From a waveform to spectrograms, mel bands and MFCCs, by TensorFlow's conventions or librosa's; whole or in chunks.

Formulas: `tf.signal.stft`, `linear_to_mel_weight_matrix` and `mfccs_from_log_mel_spectrograms`
(https://www.tensorflow.org/api_docs/python/tf/signal); `librosa.stft`, `filters.mel`, `power_to_db` and `feature.mfcc`
(https://librosa.org/doc/latest). Everything is computed frame by frame, by operations that do not look at neighbors, so
that a sound in chunks gives the very bits that it gives as a whole: a product of whole matrices would not.
"""

from __future__ import annotations

import functools

import numpy as np

from edgekit.errors import UsageError
from edgekit.feeding import AudioSteps, Convention
from edgekit.runtimes.base import Array
from edgekit.runtimes.preparation.scratch import Spare

_BLOCK = 1 << 18
"""Bytes of spectra that are made at once: with what becomes of them, they stay in a processor's second cache."""

_SINGLE = int(np.__version__.partition(".")[0]) >= 2
"""Numpy 1 transforms in double, and not into a given array."""


class Features:
    """What is made of frames, each by itself; see `features_of`. Threads may share it.

    Args:
        steps: What is made; `features` other than "wave".
    """

    def __init__(self, steps: AudioSteps) -> None:
        self.steps = steps
        self.fft = transform_length(steps)
        self._window = _window(steps.window, steps.frame)
        if steps.convention == "librosa" and self.fft > steps.frame:  # it pads the window, at both sides
            left = (self.fft - steps.frame) // 2
            self._window = np.pad(self._window, (left, self.fft - steps.frame - left))
        power = steps.power if steps.power is not None else (2.0 if steps.convention == "librosa" else 1.0)
        self._power = np.float32(power)
        self._mel = Bands(steps) if steps.features != "spectrogram" else None
        self._bins = slice(None) if self._mel is None else self._mel.heard
        self._cosines: Array | None = None
        self._late: Array | None = None  # after all frames
        if steps.features == "mfcc":
            cosines = _cosines(steps.coefficients, steps.bands, steps.convention)
            self._cosines, self._late = (cosines, None) if steps.top_db is None else (None, cosines)
        self._block = max(_BLOCK // (8 * (self.fft // 2 + 1)), 1)
        self._scratch = Spare(self._arrays)
        self.silence = np.zeros(self.fft // 2 if steps.center else 0, np.float32)

    @property
    def width(self) -> int:
        """Features of one frame."""
        if self.steps.features == "mfcc":
            return self.steps.coefficients
        return self.fft // 2 + 1 if self._mel is None else self._mel.width

    def of(self, samples: Array) -> Array:
        """Of all frames that lie in float32 [n]: float32 [t, width]."""
        hop, frame = self.steps.hop, len(self._window)
        count = 1 + (len(samples) - frame) // hop if len(samples) >= frame else 0
        made = np.empty((count, self.width if self._late is None else self.steps.bands), np.float32)
        samples = np.ascontiguousarray(samples)
        (step,) = samples.strides
        size = -(-count // -(-count // self._block)) if count else 1
        scratch = self._scratch.take()
        for start in range(0, count, size):
            part = made[start : start + size]
            frames: Array = np.ndarray(
                (len(part), frame), samples.dtype, samples.data, start * hop * step, (hop * step, step)
            )
            self._fill(part, frames, *(array[: len(part)] for array in scratch))
        self._scratch.give(scratch)
        return made

    def _arrays(self) -> tuple[Array, Array, Array, Array]:
        """Windowed frames, their transforms, the squares of both parts of the bins that are heard, and their sums."""
        real, bins = np.float32 if _SINGLE else np.float64, self.fft // 2 + 1
        heard = len(range(*self._bins.indices(bins)))
        return (
            np.empty((self._block, len(self._window)), np.float32),
            np.empty((self._block, bins), np.complex64 if _SINGLE else np.complex128),
            np.empty((self._block, 2 * heard), real),
            np.empty((self._block, heard), real),
        )

    def _fill(self, made: Array, frames: Array, windowed: Array, whole: Array, parts: Array, squares: Array) -> None:
        np.multiply(frames, self._window, out=windowed)
        if _SINGLE:
            np.fft.rfft(windowed, self.fft, out=whole)
        else:
            whole = np.fft.rfft(windowed, self.fft)
        # Not np.abs: its vector code and its scalar code round differently.
        np.square(whole[:, self._bins].view(parts.dtype), out=parts)
        np.add(parts[:, 0::2], parts[:, 1::2], out=squares)
        bins = squares.astype(np.float32, copy=False)
        if self._power != 2:
            np.sqrt(bins, out=bins)
            if self._power != 1:
                bins **= self._power
        if self._mel is not None:
            bins = self._mel(bins)
            if self.steps.features != "mel":
                bins = _logarithm(bins, self.steps)
            if self._cosines is not None:
                bins = _rows(bins, self._cosines)
        made[...] = bins

    def whole(self, samples: Array) -> Array:
        """Of a whole sound: float32 [t, width]."""
        made = self.of(np.concatenate([self.silence, samples, self.silence]) if self.steps.center else samples)
        if self.steps.top_db is not None and self.steps.features in ("log-mel", "mfcc") and made.size:
            made = np.maximum(made, made.max() - np.float32(self.steps.top_db))
            if self._late is not None:
                return _rows(made, self._late)
        return made


class Spectrum:
    """Frames of features, chunk by chunk: `push` samples, then `finish`.

    Args:
        steps: What is made; `features` other than "wave".

    Raises:
        UsageError: `stream-whole`: something that only the whole sound tells is asked for.
    """

    def __init__(self, steps: AudioSteps) -> None:
        if steps.top_db is not None:
            raise UsageError("stream-whole", "top_db is measured from the loudest frame of the whole sound")
        self._features = features_of(steps)
        self._kept = self._features.silence

    @property
    def width(self) -> int:
        """Features of one frame."""
        return self._features.width

    def push(self, samples: Array) -> Array:
        """The frames that these samples complete: float32 [t, width]; samples are float32 [n]."""
        self._kept = np.concatenate([self._kept, samples])
        made = self._features.of(self._kept)
        self._kept = self._kept[len(made) * self._features.steps.hop :].copy()
        return made

    def finish(self) -> Array:
        """What is left: the frames that reach into the silence behind a centered sound."""
        return self.push(self._features.silence)


@functools.lru_cache(maxsize=8)
def features_of(steps: AudioSteps) -> Features:
    """Made once for each way to listen."""
    return Features(steps)


def spectrum(samples: Array, steps: AudioSteps) -> Array:
    """Features of a whole sound, float32 [n]: float32 [frames, width]."""
    return features_of(steps).whole(samples)


def transform_length(steps: AudioSteps) -> int:
    """Of the Fourier transform, in samples."""
    if steps.fft is not None:
        return steps.fft
    return steps.frame if steps.convention == "librosa" else 1 << (steps.frame - 1).bit_length()


def frames_of(samples: int, steps: AudioSteps) -> int:
    """How many frames a sound of so many samples has."""
    length = transform_length(steps)
    frame = length if steps.convention == "librosa" else steps.frame
    whole = samples + 2 * (length // 2) if steps.center else samples
    return 1 + (whole - frame) // steps.hop if whole >= frame else 0


def samples_of(frames: int, steps: AudioSteps) -> int:
    """The fewest samples that have so many frames."""
    length = transform_length(steps)
    frame = length if steps.convention == "librosa" else steps.frame
    return max((frames - 1) * steps.hop + frame - (2 * (length // 2) if steps.center else 0), 1)


class Bands:
    """The mel matrix in two parts, low bands and high ones, each without the bins that none of its bands hears.

    That is half the work. Products are made row by row.
    """

    def __init__(self, steps: AudioSteps) -> None:
        whole = mel_matrix(steps)
        self.width = whole.shape[1]
        self.heard = _heard(whole)
        half = -(-self.width // 16) * 8  # eight bands are one step of a vector unit
        self._parts: list[tuple[slice, slice, Array]] = []
        for bands in (slice(0, half), slice(half, self.width)):
            if whole[:, bands].any():
                bins = _heard(whole[:, bands])
                inside = slice(bins.start - self.heard.start, bins.stop - self.heard.start)
                self._parts.append((bands, inside, np.ascontiguousarray(whole[bins, bands])))

    def __call__(self, bins: Array) -> Array:
        """[t, bands] of the bins that are heard, [t, bins]."""
        made = np.zeros((len(bins), self.width), np.float32)
        for bands, inside, matrix in self._parts:
            np.matmul(bins[:, None, inside], matrix, out=made[:, None, bands])
        return made


def _heard(matrix: Array) -> slice:
    """From the first to the last bin that any band hears; one bin where none does."""
    heard = np.flatnonzero(matrix.any(axis=1))
    return slice(int(heard[0]), int(heard[-1]) + 1) if heard.size else slice(0, 1)


def mel_matrix(steps: AudioSteps) -> Array:
    """[bins, bands]: the weight of each bin of the transform in each mel band."""
    rate = float(steps.rate or 0)
    high = steps.high if steps.high is not None else rate / 2
    bins = transform_length(steps) // 2 + 1
    return _mel(bins, steps.bands, rate, steps.low, high, steps.convention)


@functools.lru_cache(maxsize=8)
def _mel(bins: int, bands: int, rate: float, low: float, high: float, convention: Convention) -> Array:
    hertz = np.linspace(0.0, rate / 2, bins)
    if convention == "tensorflow":
        # Triangles on HTK's mel scale: its bins count from 1, because the first carries no tone.
        points = np.linspace(_htk(low), _htk(high), bands + 2)
        at = _htk(hertz[1:, None])
        rising = (at - points[:-2]) / (points[1:-1] - points[:-2])
        falling = (points[2:] - at) / (points[2:] - points[1:-1])
        weights = np.maximum(0.0, np.minimum(rising, falling))
        return np.concatenate([np.zeros((1, bands)), weights]).astype(np.float32)
    # Triangles over frequency with ends on Slaney's mel scale, of equal area.
    points = _slaney_hertz(np.linspace(_slaney(low), _slaney(high), bands + 2))
    rising = (hertz[:, None] - points[:-2]) / (points[1:-1] - points[:-2])
    falling = (points[2:] - hertz[:, None]) / (points[2:] - points[1:-1])
    weights = np.maximum(0.0, np.minimum(rising, falling)) * (2.0 / (points[2:] - points[:-2]))
    return weights.astype(np.float32)


def _htk(hertz: Array | float) -> Array:
    return np.asarray(1127.0 * np.log1p(np.asarray(hertz, np.float64) / 700.0))


_KNEE, _LINEAR, _STEP = 1000.0, 200.0 / 3, float(np.log(6.4)) / 27
"""Slaney's Auditory Toolbox: linear up to 1 kHz, 200/3 Hz a mel; logarithmic above, 27 mels from 1 to 6.4 kHz."""


def _slaney(hertz: float) -> float:
    return float(hertz / _LINEAR if hertz < _KNEE else _KNEE / _LINEAR + np.log(hertz / _KNEE) / _STEP)


def _slaney_hertz(mels: Array) -> Array:
    knee = _KNEE / _LINEAR
    above = _KNEE * np.exp(_STEP * (np.maximum(mels, knee) - knee))
    return np.asarray(np.where(mels < knee, mels * _LINEAR, above))


@functools.lru_cache(maxsize=8)
def _window(name: str, length: int) -> Array:
    """float32 [length], periodic."""
    turn = 2 * np.pi * np.arange(length) / length
    shapes = {"hann": 0.5 - 0.5 * np.cos(turn), "hamming": 0.54 - 0.46 * np.cos(turn), "ones": np.ones(length)}
    return np.asarray(shapes[name], np.float32)


@functools.lru_cache(maxsize=8)
def _cosines(coefficients: int, bands: int, convention: Convention) -> Array:
    """[bands, coefficients]: the DCT-II, TensorFlow's scaled by sqrt(2 / bands), librosa's orthonormal."""
    angle = np.pi / bands * (np.arange(bands)[:, None] + 0.5) * np.arange(coefficients)
    made = np.cos(angle) * np.sqrt(2.0 / bands)
    if convention == "librosa":
        made[:, 0] *= np.sqrt(0.5)
    return np.asarray(made, np.float32)


def _logarithm(mel: Array, steps: AudioSteps) -> Array:
    if steps.convention == "librosa":
        least = np.float32(1e-10 if steps.floor is None else steps.floor)
        return np.asarray(np.float32(10) * np.log10(np.maximum(mel, least)))
    return np.asarray(np.log(mel + np.float32(1e-6 if steps.floor is None else steps.floor)))


def _rows(rows: Array, matrix: Array) -> Array:
    """Rows @ matrix, one product a row: numpy calls BLAS for each matrix of a stack, here of one row."""
    return np.asarray(np.matmul(rows[:, None, :], matrix)[:, 0])
