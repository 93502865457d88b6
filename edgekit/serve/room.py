"""Room for bodies: how many bytes of them are kept, and who waits for some.

A large body is announced by its head, and comes only where it can be queued and kept when it is whole: it is promised a
place in its model's queue and its bytes from then on. Where these are not free it waits in line, unread at its sender's
end. A promised place is kept for a while only, and who is slow to send gives way when others wait, so that slow clients
do not shut out the others. What is late is told so at its deadline, whether it came or not.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from typing import Protocol

from edgekit.errors import LimitError
from edgekit.serve.asking import Asking
from edgekit.serve.lane import Lane
from edgekit.serve.messages import Reply, Request, refusal
from edgekit.serve.settings import Bounds

_SMALL = 8
"""One part of so many of `Bounds.buffered` is there beyond it, for bodies that were not announced: large ones must not
shut out the small.
"""
_PROMISED = 0.5
"""Seconds for which a place in a queue is kept."""
_GRACE, _SLOW = 0.5, 1e6
"""Who had so many seconds, and then one for so many bytes, is slow."""


def is_slow(seconds: float, size: int) -> bool:
    """Whether a body of so many bytes should be there after so many seconds, where others wait."""
    return seconds > _GRACE + size / _SLOW


class Arriving(Protocol):
    """A body on its way, as it is told; `arrival.Arrival` has the meaning of each."""

    def welcome(self, size: int) -> None: ...
    def too_late(self, reply: Reply) -> None: ...


class _Announced:
    """One that is not whole."""

    __slots__ = ("arriving", "lane", "request", "size", "timer")

    def __init__(self, request: Request, lane: Lane, size: int, arriving: Arriving, timer: asyncio.TimerHandle) -> None:
        self.request, self.lane, self.size, self.arriving, self.timer = request, lane, size, arriving, timer


class Room:
    """See the module header.

    Attributes:
        held: Bytes of bodies that are kept, or promised.
    """

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self.held = 0
        self._coming: dict[Request, _Announced] = {}
        self._line: deque[_Announced] = deque()
        self._large: set[Request] = set()
        self._turning = False
        self._loop = asyncio.get_running_loop()

    @property
    def wanted(self) -> bool:
        """Somebody waits for it."""
        return bool(self._line)

    def hold(self, size: int) -> bool:
        """Account for bytes that came unannounced, or are let go; whether there is room for them."""
        buffered = self._bounds.buffered
        if size > 0 and self.held + size > buffered + buffered // _SMALL:
            return False
        self.held += size
        if size < 0:
            self._soon()
        return True

    def announce(
        self, request: Request, lane: Lane, asking: Asking, size: int, arriving: Arriving, share: float
    ) -> Reply | None:
        """A body is on its way; why it need not come. It is told when it may: now or later.

        Args:
            request: Whose; its head is there.
            lane: Of its model.
            asking: What it asks.
            size: Of the body, in bytes.
            arriving: Who is told.
            share: Of the cores, that its model has while others work.
        """
        refused = lane.hopeless(request, asking, share)
        if refused is not None:
            return refused
        timer = self._loop.call_at(request.arrived + asking.seconds, self._late, request)
        one = self._coming[request] = _Announced(request, lane, size, arriving, timer)
        if not self._line and self._fits(size):
            self._let_in(one)
        else:
            self._line.append(one)
            lane.queue.promise(request, math.inf)
        return None

    def came(self, request: Request) -> None:
        """It is whole, or will not come."""
        one = self._coming.pop(request, None)
        if one is None:
            return
        one.timer.cancel()
        one.lane.queue.redeem(request)
        if request not in self._large:
            self._line.remove(one)
            self._soon()

    def left(self, request: Request) -> None:
        """It is done with, and its bytes are let go."""
        self.came(request)
        self._large.discard(request)
        self._soon()

    def _fits(self, size: int) -> bool:
        """The only one always does: whatever small ones hold, it would wait for ever."""
        return not self._large or self.held + size <= self._bounds.buffered

    def _let_in(self, one: _Announced) -> None:
        self.held += one.size
        self._large.add(one.request)
        one.lane.queue.promise(one.request, self._loop.time() + _PROMISED)
        one.arriving.welcome(one.size)

    def _soon(self) -> None:
        if self._line and not self._turning:
            self._turning = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        """Some of it became free."""
        self._turning = False
        while self._line and self._fits(self._line[0].size):
            self._let_in(self._line.popleft())

    def _late(self, request: Request) -> None:
        one = self._coming[request]
        one.lane.metrics.count("requests", "deadline-passed")
        one.arriving.too_late(refusal(LimitError("deadline-passed", "its deadline passed before its body was there")))
