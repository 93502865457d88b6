"""What a capture keeps, and what it may take."""

from __future__ import annotations

from dataclasses import dataclass, field

from edgekit.errors import UsageError
from edgekit.monitor.bounds import Bounds
from edgekit.monitor.records import Stratum
from edgekit.monitor.strata import Draw


@dataclass(frozen=True)
class Plan:
    """What a capture keeps, and what it may take.

    Attributes:
        quota_mb: Megabytes (10^6 bytes) of its folder, all files of it.
        retention_days: After so many days a sample is gone; None for no end.
        window: Seconds of a window. Each stratum draws so many samples a window: that is the rate limit.
        random, uncertain, strange, disagreeing: How the strata draw. "strange" is out of distribution: the share that
            lies furthest from the reference, weighted by how unsure the model is; or all from a monitor's score on
            (`at`: 1 is what one in a hundred samples of the reference passes).
        shadow_share: Of the samples that the shadow model is asked for; drawn evenly.
        sync: Seconds between two flushes to the disk.
        status: Seconds between two records of how things stand, for the drift report.
    """

    quota_mb: float = 64.0
    retention_days: float | None = 30.0
    window: float = 60.0
    random: Draw = field(default_factory=Draw)
    uncertain: Draw = field(default_factory=Draw)
    strange: Draw = field(default_factory=Draw)
    disagreeing: Draw = field(default_factory=Draw)
    shadow_share: float = 0.1
    sync: float = 10.0
    status: float = 900.0

    def __post_init__(self) -> None:
        if not self.window > 0 or not self.status > 0:
            raise UsageError("option-value", "windows and intervals are longer than nothing")
        if not 0 < self.shadow_share <= 1:
            raise UsageError("option-value", f"a share of {self.shadow_share} cannot be drawn")

    @property
    def draws(self) -> dict[Stratum, Draw]:
        """Stratum -> how it draws."""
        return {
            "random": self.random, "uncertain": self.uncertain, "out-of-distribution": self.strange,
            "disagreeing": self.disagreeing,
        }  # fmt: skip

    @property
    def bounds(self) -> Bounds:
        """Of the folder."""
        days = self.retention_days
        return Bounds(int(self.quota_mb * 1e6), None if days is None else days * 86400, self.sync)
