"""From the desk to one device or many: the file travels by content, the rest happens there (`edgekit.deploy.install`).

A bounded number of devices is served at once; the first one alone, as the canary; after too many failures the rest is
left alone. What was sent is not sent again, so that a repeated command goes on where the last one ended.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgekit import artifact as artifacts
from edgekit import files
from edgekit.artifact import Artifact
from edgekit.child import Limits, Progress
from edgekit.deploy import install as there
from edgekit.deploy.admission import check
from edgekit.deploy.delta import best, remember
from edgekit.deploy.preflight import DeviceFacts, FactsRequest, preflight
from edgekit.deploy.trial import Bounds
from edgekit.errors import EdgeKitError, MissingFileError, UsageError
from edgekit.store import Shadow
from edgekit.store.places import checked
from edgekit.store.policy import Policy
from edgekit.store.signature import SUFFIX
from edgekit.targets import open_target
from edgekit.targets.base import Target

_SLACK = 600.0
"""Seconds that receiving, testing and committing may take beside the trial."""


@dataclass(frozen=True)
class Deployment:
    """What shall be deployed, and how.

    Attributes:
        path: The artifact.
        name: What the model is called on the device.
        root: Folder of all models there; None for the device's own.
        seconds: Of the trial.
        bounds: What it must hold.
        keep_mb: All versions together.
        device: Profile whose limits it must fit; None not to ask.
        patience: Seconds to wait for another deployment of the same model.
        signature: Its file; None for the one beside the artifact, if there is one.
        downgrade: An older release is meant.
        shadow: How apps there compare it with the version before while it is on trial; None not at all.
    """

    path: Path
    name: str
    root: str | None = None
    seconds: float = 60.0
    bounds: Bounds = field(default_factory=Bounds)
    keep_mb: float = 256.0
    device: str | None = None
    patience: float = 0.0
    threads: int | None = None
    engine: str | None = None
    signature: Path | None = None
    downgrade: bool = False
    shadow: Shadow | None = None

    def __post_init__(self) -> None:
        checked(self.name)
        if not self.seconds > 0:
            raise UsageError("option-value", f"a trial of {self.seconds} s proves nothing")
        if not self.bounds.slower >= 1:
            raise UsageError("option-value", f"--slower is {self.bounds.slower}; at least 1")


@dataclass(frozen=True)
class Outcome:
    """What became of one device.

    Attributes:
        target: Which.
        installed: When it went well.
        error: What went wrong, as `EdgeKitError.to_dict` has it.
        skipped: It was left alone, because others failed before.
    """

    target: str
    installed: there.Installed | None = None
    error: dict[str, Any] | None = None
    skipped: bool = False

    @property
    def done(self) -> bool:
        """Whether it runs the version now."""
        return self.installed is not None


def deploy(asked: Deployment, target: str, progress: Progress | None = None) -> there.Installed:
    """Deploy to one device.

    Raises:
        MissingFileError, ArtifactError: The file is none, or damaged. TargetError: The device cannot be reached, is
        full or busy. LimitError: `deploy-preflight`: it cannot run there; nothing was sent.
        ArtifactError: `deploy-refused`. VerificationError: `deploy-rolled-back`.
    """
    opened = artifacts.read(asked.path)
    with open_target(target, progress) as place:
        found = place.perform(
            preflight, FactsRequest(asked.name, asked.root, opened.format, opened.sha256, place.copies)
        )
        check(opened, found, place.name, asked.device)
        path, base = _sent(place, asked.path, opened, found)
        request = there.InstallRequest(
            asked.name, path, opened.sha256, len(opened.data), base, asked.root, asked.seconds, asked.bounds,
            asked.keep_mb, asked.patience, asked.threads, asked.engine, _signature(asked), asked.downgrade,
            asked.shadow,
        )  # fmt: skip
        limits = Limits(asked.seconds + asked.patience + _SLACK)
        done = place.perform(there.install, request, limits=limits, progress=progress)
    remember(opened.data, opened.sha256)
    return done


def _sent(place: Target, path: Path, opened: Artifact, found: DeviceFacts) -> tuple[str, str | None]:
    """(path there, the version that it is the difference from): nothing, a difference, or the file."""
    if opened.sha256 in found.versions:
        return "", None
    delta = best(opened.data, found.versions) if place.copies else None
    if delta is None:
        return place.put(path), None
    with files.scratch() as folder:
        made = folder / f"{opened.sha256}.delta"
        made.write_bytes(delta.data)
        return place.put(made), delta.base


def _signature(asked: Deployment) -> str | None:
    beside = asked.path.with_name(asked.path.name + SUFFIX)
    path = asked.signature or (beside if beside.exists() else None)
    try:
        return None if path is None else path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise MissingFileError("file-missing", f"{path} cannot be read: {error.strerror}") from error


def deploy_many(
    asked: Deployment,
    targets: Sequence[str],
    *,
    at_once: int = 4,
    stop_after: int = 1,
    canary: bool = True,
    told: Callable[[Outcome], None] | None = None,
    progress: Progress | None = None,
) -> tuple[Outcome, ...]:
    """Deploy to many devices; no failure of one is raised, all are told.

    Args:
        asked: What.
        targets: Where.
        at_once: So many at a time.
        stop_after: After so many failures no further device is begun.
        canary: The first is served alone, and its failure ends it all.
        told: Called with each outcome as it comes.
        progress: Told what each device is at, from several threads.

    Returns:
        An outcome a target, in their order.
    """
    outcomes: dict[str, Outcome] = {}

    def add(outcome: Outcome) -> None:
        outcomes[outcome.target] = outcome
        if told is not None:
            told(outcome)

    left = list(dict.fromkeys(targets))
    if canary and len(left) > 1:
        add(_outcome(asked, left.pop(0), progress))
    failures = sum(not outcome.done for outcome in outcomes.values())
    stopped = canary and failures > 0
    with ThreadPoolExecutor(max(1, at_once)) as pool:
        running: set[Any] = set()
        while running or (left and not stopped and failures < stop_after):
            while left and not stopped and failures < stop_after and len(running) < at_once:
                running.add(pool.submit(_outcome, asked, left.pop(0), progress))
            finished, running = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                add(future.result())
                failures += not future.result().done
    for target in left:
        add(Outcome(target, skipped=True))
    return tuple(outcomes[target] for target in dict.fromkeys(targets))


def _outcome(asked: Deployment, target: str, progress: Progress | None) -> Outcome:
    def tell(event: dict[str, Any]) -> None:
        if progress is not None and "stage" in event:
            progress({**event, "stage": f"{target}: {event['stage']}"})

    try:
        return Outcome(target, deploy(asked, target, tell))
    except EdgeKitError as error:
        return Outcome(target, error=error.to_dict())


def hosts(path: Path) -> tuple[str, ...]:
    """Targets of a file: one a line, `#` starts a comment.

    Raises:
        MissingFileError: `file-missing`. UsageError: `targets-none`.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise MissingFileError("file-missing", f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(
            "targets-none", f"{path} is no text in UTF-8: {error}", next_step="Save it as UTF-8, one target a line."
        ) from error
    found = tuple(line for line in (re.sub(r"(^|\s)#.*", "", line).strip() for line in lines) if line)
    if not found:
        raise UsageError("targets-none", f"{path} names no target")
    return found


def show(target: str, name: str | None, root: str | None = None) -> tuple[there.Shown, ...]:
    """What a device knows of one model, or of all."""
    with open_target(target) as place:
        if name is None:
            return place.perform(there.show_all, there.Everything(root)).models
        return (place.perform(there.show, there.ShelfRequest(checked(name), root)),)


def roll_back(target: str, name: str, reason: str, root: str | None = None) -> there.Shown:
    """Return to the version before, on one device."""
    with open_target(target) as place:
        return place.perform(there.roll_back, there.ShelfRequest(checked(name), root, reason))


def prune(target: str, name: str, keep_mb: float, root: str | None = None) -> there.Pruned:
    """Remove old versions on one device."""
    with open_target(target) as place:
        return place.perform(there.prune, replace(there.ShelfRequest(checked(name), root), keep_mb=keep_mb))


def trust(target: str, public: bytes | None, require: bool | None, root: str | None = None) -> Policy:
    """Let a device trust a key, or ask for signatures; with neither, tell what it does."""
    text = None if public is None else base64.b64encode(public).decode()
    with open_target(target) as place:
        return place.perform(there.trust, there.TrustRequest(root, text, require))
