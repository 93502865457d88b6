"""Who gets the cores: models share them by weight, as far as they have work.

A model is charged the seconds of cores that its calls took, over its weight; whoever was charged least is served next
(stride scheduling, Waldspurger and Weihl 1995). One that had nothing to do starts level with the others: time that it
did not use is not saved up.
"""

from __future__ import annotations

import asyncio

from edgekit.serve.lane import Lane


class Scheduler:
    """See the module header.

    Args:
        slots: Threads of engines that may be at work at once.
    """

    def __init__(self, slots: int) -> None:
        self.lanes: list[Lane] = []
        self._slots = slots
        self._idle: set[str] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._soon = False
        self._loop = asyncio.get_running_loop()

    def share(self, lane: Lane) -> float:
        """Of the cores, that a model has while those work that work now."""
        weights = sum(one.serving.weight for one in self.lanes if one is lane or one.busy)
        return lane.serving.weight / weights

    def pump(self) -> None:
        """Hand over what can be."""
        now = self._loop.time()
        self._level()
        soonest = 0.0
        while waiting := [lane for lane in self.lanes if len(lane.queue)]:
            free = self._slots - self._running()
            chosen = None
            for lane in sorted(waiting, key=lambda one: one.virtual) if len(waiting) > 1 else waiting:
                if delay := lane.waits(now):
                    soonest = min(soonest or delay, delay)
                    continue
                worker = lane.idle_worker(ahead=len(waiting) == 1)
                if worker is None:
                    continue
                if worker.batches or free >= min(lane.threads, self._slots):
                    chosen = lane, worker
                break  # a model that is next and too large for what is free waits for it, or it never would be
            if chosen is None:
                break
            chosen[0].hand(chosen[1], now)
        if soonest:
            self._later(soonest)

    def soon(self) -> None:
        """The same when all that came in this turn of the loop was looked at: what came together goes together."""
        if not self._soon:
            self._soon = True
            self._loop.call_soon(self._now)

    def serve(self) -> None:
        """Talk to the workers in the midst of a long turn of the loop."""
        for lane in self.lanes:
            for crew in lane.versions.crews:
                for worker in crew.workers:
                    worker.serve()

    def _now(self) -> None:
        self._soon = False
        self.pump()

    def _running(self) -> int:
        return sum(
            lane.threads for lane in self.lanes for crew in lane.versions.crews for w in crew.workers if w.batches
        )

    def _level(self) -> None:
        busy = [lane for lane in self.lanes if lane.name not in self._idle and lane.busy]
        least = min((lane.virtual for lane in busy), default=None)
        for lane in self.lanes:
            if not lane.busy:
                self._idle.add(lane.name)
            elif lane.name in self._idle:
                self._idle.discard(lane.name)
                if least is not None:
                    lane.virtual = max(lane.virtual, least)

    def _later(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, self.pump)
