"""What a device knows of one model, and how it changes: pure values, no file is touched here.

    received > verified > tested > trial > committed
                                     └────> rolled-back      (any stage before it may end in `refused`)

A record is written whole, with its journal, so that pointer, stages and history never disagree. Order is told by
counting, never by a clock: boards without a battery start in 1970. Times stand in the journal for people to read.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal

from edgekit.errors import InternalError, UsageError

SCHEMA = 1
JOURNAL = 400
"""Events kept; the oldest go first."""
CLOCK_SET = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
"""A clock that says less was never set."""

Stage = Literal["received", "verified", "tested", "trial", "committed", "rolled-back", "refused"]
_NEXT: dict[Stage, tuple[Stage, ...]] = {
    "received": ("verified", "refused"),
    "verified": ("tested", "refused"),
    "tested": ("trial", "refused"),
    "trial": ("committed", "rolled-back"),
    "committed": ("trial",),
    "rolled-back": ("verified", "refused"),
    "refused": ("verified", "refused"),
}
"""Stage -> what may follow. A version that was committed once can be tried again, one that failed starts over."""


@dataclass(frozen=True)
class Version:
    """One version of a model.

    Attributes:
        number: Counts up, one for each content that came.
        sha256: Of the file.
        bytes: Its size.
        format: "tflite" or "onnx"; "" until it was looked at.
        stage: How far it came.
        reason: Why it was refused or rolled back.
        release: The number its maker gave it (signed, rising); None where there is none.
    """

    number: int
    sha256: str
    bytes: int
    format: str = ""
    stage: Stage = "received"
    reason: str = ""
    release: int | None = None


@dataclass(frozen=True)
class Shadow:
    """How a version on trial is compared with the one before, on what apps ask.

    Attributes:
        share: Of the calls of an app, above 0 and at most 1: each of these costs an inference of the old version more.
        tolerance: Two answers agree when no value differs by more, as a share of the range of the old one's values in
            that output; two classifications, when the old one prefers its class by no more over the new one's.
        agree: Share of the compared answers that must agree.
    """

    share: float = 0.1
    tolerance: float = 0.1
    agree: float = 0.98

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1 or not 0 < self.agree <= 1 or not 0 <= self.tolerance < float("inf"):
            raise ValueError("shares are above 0 and at most 1, a tolerance is 0 or more")


@dataclass(frozen=True)
class Trial:
    """The active version is on trial.

    Attributes:
        sha256: It.
        back: What was active before, and will be again if it fails; None for a first version.
        seconds: How long it must hold.
        shadow: How apps compare it with the one before; None not at all.
    """

    sha256: str
    back: str | None
    seconds: float
    shadow: Shadow | None = None


@dataclass(frozen=True)
class Event:
    """One line of the journal.

    Attributes:
        number: Counts up.
        what: The stage that was reached, or "rolled-back", "pruned", "downgrade".
        sha256: Of which version.
        detail: In words.
        at: Time, ISO 8601 in UTC; None where the clock was not set.
    """

    number: int
    what: str
    sha256: str
    detail: str = ""
    at: str | None = None


@dataclass(frozen=True)
class Record:
    """All of it.

    Attributes:
        active: The version that answers; None before the first.
        previous: What it followed, and what `rollback` returns to.
        trial: Set while the active version is on trial.
        highest: The highest release that was ever switched to, also when that version is gone; None for none.
    """

    schema: int = SCHEMA
    active: str | None = None
    previous: str | None = None
    trial: Trial | None = None
    highest: int | None = None
    versions: tuple[Version, ...] = ()
    events: tuple[Event, ...] = ()

    def __post_init__(self) -> None:
        known = {version.sha256 for version in self.versions}
        named = {self.active, self.previous, *((self.trial.sha256, self.trial.back) if self.trial else ())} - {None}
        if not named <= known:
            raise ValueError("it names a version that it does not list")
        if self.trial and self.trial.sha256 != self.active:
            raise ValueError("a version is on trial that is not active")

    def find(self, sha256: str) -> Version | None:
        """The version of that content."""
        return next((version for version in self.versions if version.sha256 == sha256), None)

    def version(self, sha256: str) -> Version:
        """The version of that content, which must be there."""
        found = self.find(sha256)
        if found is None:
            raise InternalError("store-inconsistent", f"there is no version {sha256[:12]}")
        return found

    def receive(self, sha256: str, size: int) -> Record:
        """A file of that content has arrived, or was here already."""
        if self.find(sha256) is not None:
            return self
        number = max((version.number for version in self.versions), default=0) + 1
        made = Version(number, sha256, size)
        return replace(self, versions=(*self.versions, made)).note("received", sha256, f"{size} bytes")

    def advance(self, sha256: str, stage: Stage, detail: str = "", **known: str | int | None) -> Record:
        """A version reached a stage.

        Raises:
            InternalError: `store-inconsistent`: that stage does not follow.
        """
        version = self.version(sha256)
        if stage not in _NEXT[version.stage]:
            raise InternalError("store-inconsistent", f"{stage} does not follow {version.stage}")
        reason = detail if stage in ("refused", "rolled-back") else ""
        changed = replace(version, stage=stage, reason=reason, **known)  # type: ignore[arg-type]
        versions = tuple(changed if v.sha256 == sha256 else v for v in self.versions)
        return replace(self, versions=versions).note(stage, sha256, detail)

    def released(self, sha256: str, release: int | None) -> Record:
        """The same, knowing the number that its maker gave a version."""
        self.version(sha256)
        versions = tuple(replace(v, release=release) if v.sha256 == sha256 else v for v in self.versions)
        highest = max((known for known in (self.highest, release) if known is not None), default=None)
        return replace(self, versions=versions, highest=highest)

    def switch(self, sha256: str, seconds: float, shadow: Shadow | None = None) -> Record:
        """Make a tested or once committed version the active one, on trial."""
        if self.trial is not None:
            raise InternalError("store-inconsistent", "another version is on trial")
        record = self.advance(sha256, "trial")
        return replace(record, active=sha256, trial=Trial(sha256, self.active, seconds, shadow))

    def commit(self, detail: str = "") -> Record:
        """The trial was passed."""
        trial = self._trial()
        record = self.advance(trial.sha256, "committed", detail)
        return replace(record, trial=None, previous=trial.back or record.previous)

    def fall_back(self, reason: str) -> Record:
        """The trial was not passed: what was active before is so again."""
        trial = self._trial()
        record = replace(self, trial=None, active=trial.back)
        return record.advance(trial.sha256, "rolled-back", reason)

    def roll_back(self, reason: str) -> Record:
        """Return to the version before, by the user's word.

        Raises:
            UsageError: `rollback-nothing`.
        """
        if self.trial is not None:
            return self.fall_back(reason)
        if self.active is None or self.previous is None:
            raise UsageError("rollback-nothing", "there is no version before the active one")
        left, back = self.active, self.previous
        versions = tuple(
            replace(v, stage="rolled-back", reason=reason) if v.sha256 == left else v for v in self.versions
        )
        record = replace(self, active=back, previous=None, versions=versions)
        return record.note("rolled-back", left, reason)

    def prunable(self, keep_bytes: int) -> tuple[Version, ...]:
        """Versions to remove, oldest first, until the rest fits; the active one and those to return to always stay."""
        held = {self.active, self.previous, self.trial.back if self.trial else None}
        left = sum(version.bytes for version in self.versions)
        gone = []
        for version in sorted(self.versions, key=lambda v: v.number):
            if left <= keep_bytes:
                break
            if version.sha256 not in held:
                gone.append(version)
                left -= version.bytes
        return tuple(gone)

    def forget(self, versions: tuple[Version, ...]) -> Record:
        """Without those versions."""
        record = replace(self, versions=tuple(v for v in self.versions if v not in versions))
        for version in versions:
            record = record.note("pruned", version.sha256, f"{version.bytes} bytes")
        return record

    def note(self, what: str, sha256: str, detail: str = "") -> Record:
        """The same, with one more line in the journal."""
        number = self.events[-1].number + 1 if self.events else 1
        event = Event(number, what, sha256, detail[:500], _now())
        return replace(self, events=(*self.events, event)[-JOURNAL:])

    def _trial(self) -> Trial:
        if self.trial is None:
            raise InternalError("store-inconsistent", "no version is on trial")
        return self.trial


def _now() -> str | None:
    seconds = time.time()
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds") if seconds >= CLOCK_SET else None
