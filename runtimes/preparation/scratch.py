"""Arrays to work in that are used again.

What numpy makes anew and lets go at every call, the system takes back and has to clear again, page by page, which takes
longer than the arithmetic (glibc's malloc keeps less than 128 KiB). So as many sets are kept as threads were ever at
work at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Spare(Generic[T]):
    """What nobody uses now. Threads may share it.

    Args:
        make: Makes one more.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._free: list[T] = []
        self.give = self._free.append

    def take(self) -> T:
        """One for the caller alone, until `give`; what is not given back is left to the garbage."""
        try:
            return self._free.pop()
        except IndexError:
            return self._make()
