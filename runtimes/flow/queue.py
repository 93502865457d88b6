"""A bounded queue of things that age: what waits too long is not worth working on."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Generic, Literal, TypeVar

T = TypeVar("T")
Policy = Literal["block", "drop-oldest", "drop-newest"]
POLICIES = ("block", "drop-oldest", "drop-newest")


class Aging(Generic[T]):
    """First in, first out; under "drop-oldest" last in, first out, because the freshest counts.

    Args:
        size: How many may wait.
        policy: What happens to one too many: "block" waits for room, "drop-oldest" makes room, "drop-newest" turns
            the new one away.
    """

    def __init__(self, size: int, policy: Policy) -> None:
        self._size = size
        self._policy = policy
        self._items: deque[tuple[T, float]] = deque()
        self._changed = threading.Condition()
        self._closed = False

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: T, seconds: float | None = None) -> T | None:
        """Let it wait, from now on.

        Args:
            item: What.
            seconds: How long to wait for room; None for as long as it takes.

        Returns:
            What was dropped for it: an older one, or itself, also when there was no room in time or the queue closed.
        """
        with self._changed:
            if self._policy == "block":
                room = self._changed.wait_for(lambda: len(self._items) < self._size or self._closed, seconds)
                if not room:
                    return item
            if self._closed:
                return item
            dropped = None
            if len(self._items) >= self._size:
                if self._policy == "drop-newest":
                    return item
                dropped = self._items.popleft()[0]
            self._items.append((item, time.monotonic()))
            self._changed.notify_all()
            return dropped

    def take(self, seconds: float | None = None) -> tuple[T, float] | None:
        """The next one and when it came, by `time.monotonic`; None when none came in time, or none will ever come."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._items) or self._closed, seconds)
            if not self._items:
                return None
            found = self._items.pop() if self._policy == "drop-oldest" else self._items.popleft()
            self._changed.notify_all()
            return found

    @property
    def over(self) -> bool:
        """Closed, and nothing is left."""
        with self._changed:
            return self._closed and not self._items

    def close(self) -> list[T]:
        """Take no more; who waits is woken. What still waits can be taken, or is this list's after `clear`."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            return [item for item, _ in self._items]

    def clear(self) -> list[T]:
        """Everything that waits, and close."""
        with self._changed:
            left = self.close()
            self._items.clear()
            return left
