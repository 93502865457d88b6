"""What the monitor says: a verdict on each call, and alarms in words."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

Kind = Literal[
    "input-shift", "input-spread", "input-relation", "input-shape", "output-shift", "confidence-shift", "class-shift",
    "embedding-shift", "embedding-spread", "embedding-relation", "unfamiliar", "stuck", "blank", "clipped", "constant",
    "missing", "out-of-range", "latency", "temperature",
]  # fmt: skip
"""What an alarm is about: the middle, the spread, the relations or the shape of the input's distribution; outputs,
confidence, class frequencies; what the model makes of its inputs inside; samples unlike the reference; faults of the
data; the device."""


@dataclass(frozen=True)
class Alarm:
    """Something changed, and not by chance.

    Attributes:
        kind: What kind of thing; one of `Kind`.
        where: Which: "input x: mean radius".
        amount: How much, in `unit`.
        since: Number of the sample with which it began, as far as can be told; samples count from 0.
        message: All of it in one sentence.
        unit: Of the amount: "sigma" (standard deviations of the reference), "share", "samples", "ratio", "degrees".
        raised: Number of the sample at which it was noticed.
        time: Seconds since 1970 when it was noticed, as the device's clock says.
    """

    kind: Kind
    where: str
    amount: float
    since: int
    message: str
    unit: str = "sigma"
    raised: int = 0
    time: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.since <= self.raised:
            raise ValueError(f"an alarm raised at sample {self.raised} cannot have begun with sample {self.since}")

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; the time as ISO 8601 in UTC."""
        return {
            "kind": self.kind,
            "where": self.where,
            "amount": round(self.amount, 4),
            "unit": self.unit,
            "since": self.since,
            "raised": self.raised,
            "time": datetime.fromtimestamp(self.time, UTC).isoformat(timespec="seconds"),
            "message": self.message,
        }


@dataclass(frozen=True)
class Verdict:
    """What the monitor makes of one call; of several samples, of the strangest.

    Attributes:
        ood_score: How far from the reference: 1 is passed by one in a hundred of its samples, 0 is its middle; at least
            1 where a number is missing (NaN) that never was.
        uncertainty: From 0, sure, to 1: one minus the top class's probability; 0 for models without classes.
        alarms: Raised by this call; those of before stand in the monitor's `status`.
        doubt: The chance that the answer is wrong, as labelled evaluation data tell it from how sure the model is,
            which class it answered and how far the sample lies; None without any.
    """

    ood_score: float
    uncertainty: float
    alarms: tuple[Alarm, ...] = ()
    doubt: float | None = field(default_factory=lambda: None)  # no attribute of the class: `Later` makes its own
