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


class Spectrum:
    """Frames of features, chunk by chunk: `push` samples, then `finish`.

    Args:
        steps: What is made; `features` other than "wave".
    """

    def __init__(self, steps: AudioSteps) -> None:
        self._steps = steps
        self._fft = transform_length(steps)
        self._window = _window(steps.window, steps.frame)
        if steps.convention == "librosa" and self._fft > steps.frame:  # it pads the window, at both sides
            left = (self._fft - steps.frame) // 2
            self._window = np.pad(self._window, (left, self._fft - steps.frame - left))
        self._frame = len(self._window)
        power = steps.power if steps.power is not None else (2.0 if steps.convention == "librosa" else 1.0)
        self._power = np.float32(power)
        self._mel: Array | None = None
        self._bins = slice(None)
        if steps.features != "spectrogram":
            self._mel, self._bins = _banded(steps)
        self._cosines = (
            _cosines(steps.coefficients, steps.bands, steps.convention) if steps.features == "mfcc" else None
        )
        self._kept = np.zeros(self._fft // 2 if steps.center else 0, np.float32)

    @property
    def width(self) -> int:
        """Features of one frame."""
        if self._cosines is not None:
            return int(self._cosines.shape[1])
        return int(self._mel.shape[1]) if self._mel is not None else self._fft // 2 + 1

    def push(self, samples: Array) -> Array:
        """The frames that these samples complete: float32 [t, width]; samples are float32 [n]."""
        self._kept = np.concatenate([self._kept, samples])
        count = 1 + (len(self._kept) - self._frame) // self._steps.hop if len(self._kept) >= self._frame else 0
        if not count:
            return np.zeros((0, self.width), np.float32)
        strides = self._kept.strides[0]
        frames = np.lib.stride_tricks.as_strided(
            self._kept, (count, self._frame), (self._steps.hop * strides, strides), writeable=False
        )
        made = self._features(frames)
        self._kept = self._kept[count * self._steps.hop :].copy()
        return made

    def finish(self) -> Array:
        """What is left: the frames that reach into the silence behind a centered sound."""
        return self.push(np.zeros(self._fft // 2 if self._steps.center else 0, np.float32))

    def _features(self, frames: Array) -> Array:
        transformed = np.fft.rfft(frames * self._window, self._fft, axis=-1)
        # Not np.abs: its vector code and its scalar code round differently.
        heard = transformed[:, self._bins]
        squared = (heard.real**2 + heard.imag**2).astype(np.float32, copy=False)
        if self._power == 2:
            bins = squared
        else:
            bins = np.sqrt(squared)
            if self._power != 1:
                bins **= self._power
        if self._mel is None:
            return np.asarray(bins)
        mel = _each(bins, self._mel)
        if self._steps.features == "mel":
            return mel
        logarithms = _logarithm(mel, self._steps)
        if self._cosines is None or self._steps.top_db is not None:
            return logarithms
        return _each(logarithms, self._cosines)

    def whole(self, frames: Array) -> Array:
        """What needs all frames at once: librosa's `top_db`, which looks for the loudest, and the MFCCs of that."""
        if self._steps.top_db is not None and self._steps.features in ("log-mel", "mfcc") and frames.size:
            frames = np.maximum(frames, frames.max() - np.float32(self._steps.top_db))
            if self._cosines is not None:
                return _each(frames, self._cosines)
        return frames


def spectrum(samples: Array, steps: AudioSteps) -> Array:
    """Features of a whole sound: float32 [frames, width]."""
    made = Spectrum(steps)
    return made.whole(np.concatenate([made.push(samples), made.finish()]))


def streaming(steps: AudioSteps) -> Spectrum:
    """The same for chunks.

    Raises:
        UsageError: `stream-whole`: something that only the whole sound tells is asked for.
    """
    if steps.top_db is not None:
        raise UsageError("stream-whole", "top_db is measured from the loudest frame of the whole sound")
    return Spectrum(steps)


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


@functools.lru_cache(maxsize=8)
def _banded(steps: AudioSteps) -> tuple[Array, slice]:
    """The mel matrix without the bins that no band hears, and which do."""
    whole = mel_matrix(steps)
    heard = np.flatnonzero(whole.any(axis=1))
    kept = slice(int(heard[0]), int(heard[-1]) + 1) if heard.size else slice(0, 1)
    return np.ascontiguousarray(whole[kept]), kept


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


def _each(rows: Array, matrix: Array) -> Array:
    """Rows @ matrix, row by row."""
    made = np.empty((len(rows), matrix.shape[1]), np.float32)
    for row, answer in zip(np.ascontiguousarray(rows), made, strict=True):
        np.dot(row, matrix, out=answer)
    return made
