"""Numbers that an app gives: those that mean nothing are refused where they are given, not where they are used."""

from __future__ import annotations

import math
import operator
from numbers import Real
from typing import Any

from edgekit.errors import UsageError

MOST_THREADS = 256
"""As the command line has it; engines end the process when the system has no more."""

MOST_SECONDS = 1e9
"""Thirty years: what clocks and locks of every system can wait."""


def whole(name: str, value: Any, *, least: int = 1, most: int = 1 << 31) -> int:
    """A number of things.

    Raises:
        UsageError: `option-value`.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if not least <= number <= most:
        raise UsageError("option-value", f"{name} is {value!r}; it is a whole number from {least} to {most}")
    return number


def seconds(name: str, value: Any, *, least: float | None = None) -> float:
    """A time, from `least` on; None: longer than nothing.

    Raises:
        UsageError: `option-value`.
    """
    number: Any = value if isinstance(value, Real) else math.nan  # whose comparisons are false
    if number <= MOST_SECONDS and (number > 0 if least is None else number >= least):
        return float(number)
    said = "positive" if least is None else f"at least {least:g}"
    raise UsageError(
        "option-value", f"{name} is {value!r}; it is a number of seconds, {said}, at most {MOST_SECONDS:g}"
    )
