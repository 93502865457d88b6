"""What happens on the device: a file becomes the active version of a model, or nothing changes.

One process holds the model's lock from the first byte to the verdict, and supervises the trial. If it is killed, or
the power goes, the next who looks finds a trial that nobody supervises, and the version before answers again.
"""

from __future__ import annotations

import io
import time
from collections.abc import Generator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

from edgekit import artifact as artifacts
from edgekit.deploy.delta import apply
from edgekit.deploy.trial import Bounds, LookRequest, fault_of, seen_of
from edgekit.errors import ArtifactError, EdgeKitError, MissingFileError, VerificationError
from edgekit.store import Record, Shadow, Shelf, names, policy, shadow
from edgekit.store.faults import told
from edgekit.store.signature import parse_public

Event = dict[str, Any]
_LOOKS = 10
"""In a trial; between them the board does its work."""
_GLANCE = 0.2
"""Seconds between two questions for faults that apps told."""


@dataclass(frozen=True)
class InstallRequest:
    """A file on the device, and what it shall be.

    Attributes:
        name: The model's.
        path: The file that arrived; "" for a version that is there already.
        sha256: What it must be.
        size: Its bytes.
        base: The version that `path` is the difference from; None for a whole file.
        root: Folder of all models; None for the device's own.
        seconds: How long the trial lasts.
        bounds: What it must hold.
        keep_mb: Older versions are removed when all together take more.
        patience: Seconds to wait for another deployment of the same model.
        threads, engine: To open it with.
        signature: JSON of `edgekit.store.signature.Signature`; None for an unsigned file.
        downgrade: An older release is meant.
        shadow: How apps compare it with the version before while it is on trial; None not at all.
    """

    name: str
    path: str
    sha256: str
    size: int
    base: str | None = None
    root: str | None = None
    seconds: float = 60.0
    bounds: Bounds = field(default_factory=Bounds)
    keep_mb: float = 256.0
    patience: float = 0.0
    threads: int | None = None
    engine: str | None = None
    signature: str | None = None
    downgrade: bool = False
    shadow: Shadow | None = None


@dataclass(frozen=True)
class Installed:
    """What came of it.

    Attributes:
        name: The model's.
        sha256: The active version.
        number: Its number.
        before: The version before; None for a first one.
        changed: Whether anything was switched: the same version may have been active already.
        pruned: Versions that were removed.
    """

    name: str
    sha256: str
    number: int
    before: str | None
    changed: bool
    pruned: tuple[str, ...] = ()


def install(request: InstallRequest) -> Generator[Event, None, Installed]:
    """Receive, verify, test, switch, try, commit.

    Raises:
        UnsafeSourceError: The device's policy refuses it; see `edgekit.store.policy.admit`.
        ArtifactError: `store-digest`, `deploy-refused`: it was refused before it was active.
        VerificationError: `deploy-rolled-back`: it failed its trial, the version before is active again.
        TargetError: `store-busy`, `store-full`, `store-unwritable`.
    """
    shelf = Shelf(request.name, request.root)
    with shelf.changing(request.patience):
        record = shelf.recover()
        admission = policy.admit(
            policy.read(request.root), record, request.name, request.sha256, request.signature,
            downgrade=request.downgrade,
        )  # fmt: skip
        yield {"stage": "receive"}
        with _source(shelf, request) as source:
            record = shelf.receive(source, request.sha256, request.size)
        if record.active == request.sha256:
            if record.version(request.sha256).release != admission.release:  # signed anew
                record = shelf.change(lambda record: _noted(record, request.sha256, admission))
            return _installed(shelf, record, changed=False)
        yield {"stage": "self-test"}
        bounds = _proved(shelf, record, request)
        yield {"stage": "switch"}
        shelf.unhear()
        shelf.change(lambda record: _noted(record, request.sha256, admission))
        return (yield from _switched(shelf, request, bounds))


def _switched(shelf: Shelf, request: InstallRequest, bounds: Bounds) -> Generator[Event, None, Installed]:
    """Make it active, try it, and commit it or return to the version before."""
    record = shelf.change(lambda record: record.switch(request.sha256, request.seconds, request.shadow))
    compared = request.shadow if record.trial and record.trial.back else None
    fault = yield from _tried(shelf, request, bounds, compared)
    if fault:
        record = shelf.change(lambda record: record.fall_back(fault))
        back = f"version {record.version(record.active).number}" if record.active else "no version"
        raise VerificationError("deploy-rolled-back", f"{request.name}: {fault}; {back} is active again", reason=fault)
    held = f"held for {request.seconds:g} s{_compared(shelf, request, compared)}"
    shelf.change(lambda record: record.commit(held))
    pruned = shelf.prune(int(request.keep_mb * 1e6))
    return _installed(shelf, shelf.record(), changed=True, pruned=pruned)


def _source(shelf: Shelf, request: InstallRequest) -> BinaryIO:
    """The whole file, wherever it comes from."""
    if request.base is None:
        return open(request.path or shelf.path(request.sha256), "rb")
    old = shelf.path(request.base).read_bytes()
    return io.BytesIO(apply(old, Path(request.path).read_bytes(), request.sha256, request.size))


def _noted(record: Record, sha256: str, admission: policy.Admission) -> Record:
    for what, detail in admission.notes:
        record = record.note(what, sha256, detail)
    return record.released(sha256, admission.release)


def _proved(shelf: Shelf, record: Record, request: InstallRequest) -> Bounds:
    """See that it may become active, and how fast it must be; each stage is written down as it is reached."""
    path, asked = shelf.path(request.sha256), LookRequest("", request.threads, request.engine)
    stage = record.version(request.sha256).stage
    before = None if record.active is None else seen_of(shelf.path(record.active), asked, request.bounds.patience)
    bounds = request.bounds.after(before)
    if stage in ("received", "refused", "rolled-back"):
        try:
            opened = artifacts.read(path)
        except EdgeKitError as error:
            raise _refused(shelf, request, error.message) from error
        if opened.selftest is None:
            raise _refused(shelf, request, "it carries no self-test: edgekit did not write it")
        shelf.change(lambda record: record.advance(request.sha256, "verified", format=opened.format))
        stage = "verified"
    if stage == "verified":
        if fault := fault_of(path, bounds, asked):
            raise _refused(shelf, request, fault)
        shelf.change(lambda record: record.advance(request.sha256, "tested"))
    return bounds


def _refused(shelf: Shelf, request: InstallRequest, fault: str) -> ArtifactError:
    record = shelf.change(lambda record: record.advance(request.sha256, "refused", fault))
    active = f"version {record.version(record.active).number} stays active" if record.active else "none is active"
    return ArtifactError("deploy-refused", f"{request.name}: {fault}; {active}", reason=fault)


def _tried(
    shelf: Shelf, request: InstallRequest, bounds: Bounds, compared: Shadow | None
) -> Generator[Event, None, str]:
    """Look again and again until the time is over; what is wrong, or ""."""
    path, asked = shelf.path(request.sha256), LookRequest("", request.threads, request.engine)

    def heard(*, over: bool) -> str:
        fault = told(shelf, request.sha256)
        return fault or ("" if compared is None else shadow.seen(shelf, request.sha256, compared, over=over)[0])

    started = time.monotonic()
    pause = request.seconds / _LOOKS
    while True:
        passed = time.monotonic() - started
        yield {"stage": "trial", "done": round(min(passed, request.seconds)), "total": round(request.seconds)}
        if fault := fault_of(path, bounds, asked):
            return fault
        until = min(time.monotonic() + pause, started + request.seconds)
        while (left := until - time.monotonic()) > 0:
            if fault := heard(over=False):
                return fault
            time.sleep(min(_GLANCE, left))
        if time.monotonic() - started >= request.seconds:
            return heard(over=True)


def _compared(shelf: Shelf, request: InstallRequest, compared: Shadow | None) -> str:
    """What the journal says of the comparison with the version before."""
    if request.shadow is None:
        return ""
    if compared is None:
        return "; there was no version before to compare answers with"
    return f"; {shadow.seen(shelf, request.sha256, compared, over=True)[1]}"


def _installed(shelf: Shelf, record: Record, *, changed: bool, pruned: tuple[str, ...] = ()) -> Installed:
    assert record.active is not None  # noqa: S101 - it was installed
    number = record.version(record.active).number
    return Installed(shelf.name, record.active, number, record.previous, changed, pruned)


@dataclass(frozen=True)
class ShelfRequest:
    """Which model, where."""

    name: str
    root: str | None = None
    reason: str = "by request"
    keep_mb: float = 0.0


@dataclass(frozen=True)
class Shown:
    """A model's record; `busy` while a deployment is under way."""

    name: str
    record: Record
    busy: bool


def _known(request: ShelfRequest) -> Shelf:
    """Raises:
    MissingFileError: `model-unknown`: nothing was ever received under that name.
    """
    shelf = Shelf(request.name, request.root)
    if shelf.record() == Record():
        known = names(request.root)
        said = f"there are {', '.join(known)}" if known else "there are none at all"
        raise MissingFileError("model-unknown", f"there is no model {request.name} in {shelf.folder.parent}; {said}")
    return shelf


def show(request: ShelfRequest) -> Shown:
    """What is known of a model there; an unsupervised trial is ended.

    Raises:
        MissingFileError: `model-unknown`.
    """
    shelf = _known(request)
    return Shown(request.name, shelf.settled(), shelf.busy())


def roll_back(request: ShelfRequest) -> Shown:
    """Return to the version before.

    Raises:
        MissingFileError: `model-unknown`. UsageError: `rollback-nothing`. TargetError: `store-busy`.
    """
    shelf = _known(request)
    with shelf.changing():
        shelf.recover()
        return Shown(request.name, shelf.change(lambda record: record.roll_back(request.reason)), busy=False)


@dataclass(frozen=True)
class Pruned:
    """Digests of the versions that were removed."""

    name: str
    removed: tuple[str, ...]


def prune(request: ShelfRequest) -> Pruned:
    """Remove old versions until all together take at most `keep_mb`; active and previous stay.

    Raises:
        MissingFileError: `model-unknown`. TargetError: `store-busy`.
    """
    shelf = _known(request)
    with shelf.changing():
        shelf.recover()
        return Pruned(request.name, shelf.prune(int(request.keep_mb * 1e6)))


@dataclass(frozen=True)
class TrustRequest:
    """A public key (base64) to trust from now on, and whether to ask for signatures; None leaves that as it is."""

    root: str | None = None
    public: str | None = None
    require: bool | None = None


def trust(request: TrustRequest) -> policy.Policy:
    """Change the device's policy; with neither a key nor a wish it is only told."""
    found = policy.read(request.root)
    changed = found
    if request.public is not None:
        changed = changed.trusting(parse_public(request.public, "the key"))
    if request.require is not None:
        changed = replace(changed, require_signature=request.require)
    if changed != found:
        policy.write(changed, request.root)
    return changed


@dataclass(frozen=True)
class Everything:
    """All models of a device; None for its own folder."""

    root: str | None = None


@dataclass(frozen=True)
class AllShown:
    """Their records."""

    models: tuple[Shown, ...]


def show_all(request: Everything) -> AllShown:
    """What is known of every model there."""
    return AllShown(tuple(show(ShelfRequest(name, request.root)) for name in names(request.root)))
