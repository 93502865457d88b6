"""Jobs are generators of events; tests of their results want these alone."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any


def result(steps: Generator[Any, None, Any]) -> Any:
    """What a generator returns."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value
