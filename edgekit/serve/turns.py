"""A loop whose turns are short, however many connections have something to say.

All that is ready at once would be one turn otherwise, and whatever takes several turns (a new connection takes four)
would wait for all of it each time. The kernel hands out what is ready in turn, so nobody is passed over.
"""

from __future__ import annotations

import asyncio
import math
import os
import select
import selectors
from typing import Any

_MOST = 48
"""Events in a turn: about a millisecond of them."""


class Selector(selectors.EpollSelector):
    """As its base, but for `_MOST`."""

    def __init__(self) -> None:
        super().__init__()
        self._few = select.epoll.fromfd(os.dup(self.fileno()))
        self._keys: dict[int, selectors.SelectorKey] = {}

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        """See the base."""
        key = super().register(fileobj, events, data)
        self._keys[key.fd] = key
        return key

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        """See the base."""
        key = super().modify(fileobj, events, data)
        self._keys[key.fd] = key
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        """See the base."""
        key = super().unregister(fileobj)
        self._keys.pop(key.fd, None)
        return key

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """See the base."""
        seconds = -1.0 if timeout is None else math.ceil(max(timeout, 0.0) * 1000) / 1000
        try:
            found = self._few.poll(seconds, _MOST)
        except InterruptedError:
            return []
        ready = []
        for descriptor, event in found:
            key = self._keys.get(descriptor)
            if key is not None:
                seen = bool(event & ~select.EPOLLIN) * selectors.EVENT_WRITE
                seen |= bool(event & ~select.EPOLLOUT) * selectors.EVENT_READ
                ready.append((key, seen & key.events))
        return ready

    def close(self) -> None:
        """See the base."""
        self._few.close()
        super().close()


def loop() -> asyncio.AbstractEventLoop:
    """A new one."""
    return asyncio.SelectorEventLoop(Selector())
