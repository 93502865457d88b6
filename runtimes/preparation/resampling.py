"""Sounds at another rate: a polyphase filter, whole or in chunks with the same result.

The filter is that of `scipy.signal.resample_poly`: 20 * max(up, down) + 1 taps of a sinc under a Kaiser window, beta 5
(https://docs.scipy.org/doc/scipy/reference/generated/scipy.signal.resample_poly.html).
"""

from __future__ import annotations

import functools
import math

import numpy as np

from edgekit.errors import DataError
from edgekit.runtimes.base import Array

_MOST = 1 << 24
"""Samples that a shorter sound may become: a file that says one sample a second is no sound."""


class Resampler:
    """From one rate to another, chunk by chunk.

    Each sample that comes out is one dot product of fixed length, computed alike wherever the chunks end.
    """

    def __init__(self, rate: int, wanted: int) -> None:
        if not 1 <= rate <= 1_000_000:
            raise DataError("data-unreadable", f"a sound of {rate} samples a second cannot be resampled")
        shared = math.gcd(rate, wanted)
        self._up, self._down = wanted // shared, rate // shared
        self._phases = _phases(self._up, self._down) if self._up != self._down else np.ones((1, 1), np.float32)
        self._half = (self._phases.shape[1] - 1) // 2
        self._kept = np.zeros(self._half, np.float32)  # what lies before the sound is silence
        self._begun = 0  # where `kept` begins, counted in the sound padded in front by `half`
        self._made = 0
        self._taken = 0

    def needed(self, made: int) -> int:
        """How many samples tell the first so many that come out."""
        return made * self._down // self._up + len(self._phases[0])

    def push(self, samples: Array) -> Array:
        """What can be said after these samples: float32 [m]."""
        self._taken += len(samples)
        self._kept = np.concatenate([self._kept, samples])
        return self._pull(math.inf)

    def finish(self) -> Array:
        """The rest; what lies behind the sound is silence. In all, ceil(n * wanted / rate) samples came out."""
        self._kept = np.concatenate([self._kept, np.zeros(self._phases.shape[1], np.float32)])
        return self._pull(-(-self._taken * self._up // self._down))

    def _pull(self, most: float) -> Array:
        taps = self._phases.shape[1]
        # Output m lies at m * down / up; it needs `taps` samples from floor(m * down / up) on, in the padded sound.
        reach = self._begun + len(self._kept) - taps
        ready = int(min(max((reach + 1) * self._up - 1, -1) // self._down + 1, most)) - self._made if reach >= 0 else 0
        if ready <= 0:
            return np.zeros(0, np.float32)
        places = (self._made + np.arange(ready, dtype=np.int64)) * self._down
        first, phase = places // self._up - self._begun, places % self._up
        made = np.empty(ready, np.float32)
        for start in range(0, ready, 4096):  # bounded memory
            part = slice(start, start + 4096)
            rows = self._kept[first[part, None] + np.arange(taps)] * self._phases[phase[part]]
            # Added in one order, tap by tap: sums over an axis that is contiguous depend on nothing else.
            made[part] = rows.sum(axis=1)
        self._made += ready
        done = int(self._made * self._down // self._up) - self._begun
        self._kept, self._begun = self._kept[done:], self._begun + done
        return made


def resample(samples: Array, rate: int, wanted: int, most: int | None = None) -> Array:
    """A sound at another rate: float32 [ceil(n * wanted / rate)].

    Args:
        samples: float32 [n].
        rate: Theirs.
        wanted: The other.
        most: So many of the result are needed; more may come, but not all are computed.

    Raises:
        DataError: `data-unreadable`: the rate is none.
    """
    if rate == wanted:
        return samples
    resampler = Resampler(rate, wanted)
    if most is not None:
        samples = samples[: resampler.needed(most)]
    made = -(-len(samples) * wanted // rate)
    if made > max(_MOST, len(samples)):
        raise DataError("data-unreadable", f"{len(samples)} samples at {rate} a second would become {made}")
    return np.concatenate([resampler.push(samples), resampler.finish()])


@functools.lru_cache(maxsize=8)
def _phases(up: int, down: int) -> Array:
    """[up, taps]: the filter of each phase, over the neighbors of an output sample, oldest first."""
    most = max(up, down)
    half = 10 * most
    at = np.arange(-half, half + 1)
    prototype = np.sinc(at / most) * np.kaiser(2 * half + 1, 5.0)
    prototype *= up / prototype.sum()
    # Output m at phase p uses x[k] * h(p - (k - base) * up): |p - d * up| <= half.
    reach = half // up + 1
    phases = np.zeros((up, 2 * reach + 1), np.float32)
    for phase in range(up):
        for tap, distance in enumerate(range(-reach, reach + 1)):
            place = phase - distance * up
            if abs(place) <= half:
                phases[phase, tap] = prototype[place + half]
    return phases
