"""A fixed piece of work that says how fast the machine is just now.

It runs between the blocks of a measurement and its times are stored with them, so that a result of last week can be
compared with one of today although the machine as a whole is slower today: what a model's time did and the
reference's did not is the model's. Interpreter, small arithmetic and a buffer that fits a first-level cache: a tenth
of a millisecond on a workstation, one or two on a small board. It calls no BLAS, which would start threads.
"""

from __future__ import annotations

import time
from collections.abc import Callable

_LOOPS = 1500
_PASSES = 12
_ELEMENTS = 6144  # 24 kB of float32
REPEATS = 3


def reference(clock: Callable[[], int] = time.perf_counter_ns) -> Callable[[], float]:
    """The work, prepared: a function that does it and returns its seconds, the median of a few."""
    import numpy as np

    values = np.linspace(0.5, 1.5, _ELEMENTS, dtype=np.float32)
    room = np.empty_like(values)

    def once() -> int:
        start = clock()
        total = 0
        for i in range(_LOOPS):
            total += i * i & 7
        for _ in range(_PASSES):
            np.multiply(values, values, out=room)
            np.add(room, values, out=room)
            np.maximum(room, values, out=room)
        return clock() - start

    def measured() -> float:
        return sorted(once() for _ in range(REPEATS))[REPEATS // 2] / 1e9

    return measured
