"""How things stood on the boards over time: the lines of status.jsonl.

They come from records that whoever finds a board may have written, so that each is looked at before it is believed;
what a later version of EdgeKit says besides goes along.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from edgekit.codec import CodecError, decode
from edgekit.errors import ArtifactError
from edgekit.monitor.digest import digest
from edgekit.monitor.records import Record
from edgekit.monitor.segments import Header


@dataclass(frozen=True)
class _Alarm:
    """What is asked of an alarm."""

    kind: str
    where: str
    message: str


@dataclass(frozen=True)
class _Status:
    """What is asked of a record of how things stand."""

    seen: int
    version: str = ""
    ood: float | None = None
    uncertainty: float | None = None
    strata: dict[str, float] = field(default_factory=dict)
    kept: dict[str, int] = field(default_factory=dict)
    classes: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class _Accuracy:
    estimate: float
    low: float
    high: float
    answered: bool = True  # boards of a version before do not know


@dataclass(frozen=True)
class _Standing:
    kind: str = ""
    where: str = ""
    message: str = ""
    since: int = 0


@dataclass(frozen=True)
class Watched:
    """What a board's monitor told, see `edgekit.monitor.digest`."""

    samples: int = 0
    alarms: tuple[_Standing, ...] = ()
    over: int = 0
    accuracy: _Accuracy | None = None
    unestimated: str | None = None
    moved: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float | None] = field(default_factory=dict)


def line(header: Header, record: Record) -> dict[str, Any]:
    """A record of an alarm, or of how things stood, as a line.

    Raises:
        ArtifactError: `capture-damaged`: no EdgeKit wrote this.
    """
    try:
        if record.kind == "alarm":
            decode(_Alarm, record.about.get("alarm"), strict=False)
        else:
            decode(_Status, record.about, strict=False)
    except CodecError as error:
        raise ArtifactError("capture-damaged", f"a captured record cannot be read: {error}") from error
    return {**record.about, "store": header.store, "host": header.host, "kind": record.kind, "at": record.at}


def watched(line: dict[str, Any]) -> Watched | None:
    """What the monitor told; None where nothing watched, or another watcher of the app's, which says what it likes.
    Boards of a version before tell all of its status.
    """
    told = line.get("monitor")
    if not told:
        return None
    try:
        return decode(Watched, digest(told) if "scales" in told else told, strict=False)
    except (CodecError, KeyError, TypeError, ValueError, AttributeError):
        return None
