"""A loop whose turns are short, however many connections have something to say, and in which who is new comes first.

All that is ready at once would be one turn otherwise, and whatever takes several turns (a new connection takes four)
would wait for all of it each time. The kernel hands out what is ready in turn, so nobody is passed over. In a flood
even one round takes long; so listeners, and connections of which nothing was read yet, have a list of their own, of
which each turn takes some as well: who asks whether the server lives does not stand in line behind those who ask again
and again.
"""

from __future__ import annotations

import asyncio
import math
import os
import select
import selectors
import socket
from typing import Any

_MOST, _NEW = 16, 8
"""Events in a turn, of all and of the new: less than a millisecond of them."""


class Selector(selectors.EpollSelector):
    """As its base, but for `_MOST`.

    Its own list has all descriptors but those that are new, and the list of those.
    """

    def __init__(self) -> None:
        super().__init__()
        self._all = select.epoll.fromfd(os.dup(self.fileno()))
        self._new = select.epoll()
        self._all.register(self._new.fileno(), select.EPOLLIN)
        self._keys: dict[int, selectors.SelectorKey] = {}
        self._fresh: set[int] = set()

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        """See the base."""
        key = super().register(fileobj, events, data)
        self._keys[key.fd] = key
        self._all.unregister(key.fd)
        self._new.register(key.fd, _mask(events))
        self._fresh.add(key.fd)
        return key

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        """See the base."""
        self._settle(self.get_key(fileobj).fd)
        key = super().modify(fileobj, events, data)
        self._keys[key.fd] = key
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        """See the base."""
        self._settle(self.get_key(fileobj).fd)
        key = super().unregister(fileobj)
        self._keys.pop(key.fd, None)
        return key

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """See the base."""
        seconds = -1.0 if timeout is None else math.ceil(max(timeout, 0.0) * 1000) / 1000
        try:
            found = self._all.poll(seconds, _MOST)
            new = self._new.poll(0, _NEW)
        except InterruptedError:
            return []
        ready = []
        for descriptor, event in (*new, *found):
            key = self._keys.get(descriptor)
            if key is not None:
                seen = bool(event & ~select.EPOLLIN) * selectors.EVENT_WRITE
                seen |= bool(event & ~select.EPOLLOUT) * selectors.EVENT_READ
                ready.append((key, seen & key.events))
        for descriptor, _ in new:
            if not _listens(descriptor):
                self._settle(descriptor)
        return ready

    def close(self) -> None:
        """See the base."""
        self._all.close()
        self._new.close()
        super().close()

    def _settle(self, descriptor: int) -> None:
        """It is new no more."""
        if descriptor in self._fresh:
            self._fresh.discard(descriptor)
            try:
                self._new.unregister(descriptor)
                self._all.register(descriptor, _mask(self._keys[descriptor].events))
            except OSError:
                return  # it was closed, and is in no list


def _mask(events: int) -> int:
    return bool(events & selectors.EVENT_READ) * select.EPOLLIN | bool(events & selectors.EVENT_WRITE) * select.EPOLLOUT


def _listens(descriptor: int) -> bool:
    try:
        borrowed = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, descriptor)
    except OSError:
        return False
    try:
        return bool(borrowed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    except OSError:
        return False  # a pipe
    finally:
        borrowed.detach()


def loop() -> asyncio.AbstractEventLoop:
    """A new one."""
    return asyncio.SelectorEventLoop(Selector())
