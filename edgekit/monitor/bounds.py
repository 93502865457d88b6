"""What a capture's folder may take: bytes, time, and what a power cut may cost."""

from __future__ import annotations

from dataclasses import dataclass

from edgekit.errors import UsageError

LEAST = 64 << 10
"""Bytes of the smallest quota: a ring needs room for several segments."""


@dataclass(frozen=True)
class Bounds:
    """What a ring may take.

    Attributes:
        quota: Bytes of its folder, in blocks of the file system.
        retention: Seconds after which a record is gone, as long as somebody writes; None for no end.
        sync: Seconds between two flushes to the disk: what a power cut may take. A kill takes nothing.
    """

    quota: int
    retention: float | None = None
    sync: float = 10.0

    def __post_init__(self) -> None:
        if self.quota < LEAST:
            raise UsageError("option-value", f"a quota of {self.quota} bytes holds nothing; at least {LEAST}")
        if self.retention is not None and not self.retention > 0:
            raise UsageError("option-value", f"a retention of {self.retention} s keeps nothing")
        if not self.sync >= 0:
            raise UsageError("option-value", f"{self.sync} s are no interval")
