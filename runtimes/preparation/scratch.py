"""Arrays to work in that are used again.

What numpy makes anew and lets go at every call, the system takes back and has to clear again, page by page, which takes
longer than the arithmetic (glibc's malloc keeps less than 128 KiB). So as many sets are kept as threads were ever at
work at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import numpy as np

from edgekit.runtimes.base import Array

T = TypeVar("T")


class Bench:
    """Arrays by name, of any shape, in memory that only grows."""

    def __init__(self) -> None:
        self._kept: dict[str, Array] = {}

    def array(self, name: str, shape: tuple[int, ...], dtype: Any) -> Array:
        """C-ordered, with what was left there; valid until the next one of this name."""
        dtype = np.dtype(dtype)
        size = math.prod(shape) * dtype.itemsize
        kept = self._kept.get(name)
        if kept is None or kept.nbytes < size:
            kept = self._kept[name] = np.empty(size, np.uint8)
        made: Array = kept[:size].view(dtype).reshape(shape)
        return made


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
