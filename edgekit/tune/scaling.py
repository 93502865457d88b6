"""How time falls with threads on one engine, learned from one artifact and applied to others.

The time of n threads is a part that no thread divides, a part that all divide, and what each further thread costs in
waking and waiting (Amdahl's law with a cost of synchronization):

    latency(n) = L (1 - s + s / n) + g (n - 1)

The share s and the cost g (ms) belong to the network's shape and the engine, and hardly to the precision; L, the time
of one thread, does.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

_LEAST = 0.1
"""Share of a measured time that is always left for work, however much synchronization costs."""


@dataclass(frozen=True)
class Scaling:
    """What was learned.

    Attributes:
        share: Of the work that threads divide, 0 to 1.
        cost_ms: Of each further thread.
    """

    share: float = 0.0
    cost_ms: float = 0.0

    def predict(self, latency_ms: float, threads: int, wanted: int) -> float:
        """Latency with `wanted` threads, of what takes `latency_ms` with `threads`."""
        work = max(latency_ms - self.cost_ms * (threads - 1), _LEAST * latency_ms)
        return work * self._rest(wanted) / self._rest(threads) + self.cost_ms * (wanted - 1)

    def _rest(self, threads: int) -> float:
        return 1 - self.share + self.share / threads


def fit(latencies: Mapping[int, float]) -> Scaling:
    """Learn from latencies (ms) by threads: the least squares among fits without negative parts."""
    import numpy as np

    threads = np.array(sorted(latencies), np.float64)
    times = np.array([latencies[int(count)] for count in threads])
    columns = np.stack([np.ones_like(threads), 1 / threads, threads - 1], axis=1)
    best, least = Scaling(), np.inf
    # Few parts first: a part more must explain more.
    for count in range(1, min(3, len(threads)) + 1):
        for parts in itertools.combinations(range(3), count):
            values = np.linalg.lstsq(columns[:, parts], times, rcond=None)[0]
            error = float(((columns[:, parts] @ values - times) ** 2).sum())
            full = dict(zip(parts, values.tolist(), strict=True))
            serial, divided, cost = (full.get(part, 0.0) for part in range(3))
            if min(serial, divided, cost) >= 0 and serial + divided > 0 and error < least * (1 - 1e-9) - 1e-18:
                best, least = Scaling(divided / (serial + divided), cost), error
    return best
