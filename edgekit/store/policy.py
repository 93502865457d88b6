"""What a device demands of whoever deploys: whose signatures it trusts, and whether it asks for one."""

from __future__ import annotations

import base64
import json
import time
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from edgekit import files
from edgekit.codec import CodecError, decode, encode
from edgekit.errors import ArtifactError, UnsafeSourceError
from edgekit.store import places
from edgekit.store.record import CLOCK_SET, Record
from edgekit.store.signature import Signature, check, key_id, parse, parse_public

_FILE = "policy.json"


@dataclass(frozen=True)
class Policy:
    """Of all models of a device.

    Attributes:
        require_signature: Nothing unsigned is installed.
        keys: Id -> public key, base64.
    """

    require_signature: bool = False
    keys: dict[str, str] = field(default_factory=dict)

    def trusting(self, public: bytes) -> Policy:
        """The same, with one more key."""
        return replace(self, keys={**self.keys, key_id(public): base64.b64encode(public).decode()})


@dataclass(frozen=True)
class Admission:
    """A version may be installed.

    Attributes:
        release: Its number, if it is signed.
        notes: For the journal.
    """

    release: int | None = None
    notes: tuple[tuple[str, str], ...] = ()


def read(root: str | Path | None = None) -> Policy:
    """The device's policy; trusting nobody and asking for nothing where none was written.

    Raises:
        ArtifactError: `policy-damaged`: a policy that cannot be read admits nothing.
    """
    path = places.root(root) / _FILE
    try:
        return decode(Policy, json.loads(path.read_text(encoding="utf-8")), strict=True)
    except FileNotFoundError:
        return Policy()
    except (OSError, ValueError, CodecError) as error:
        raise ArtifactError("policy-damaged", f"{path} cannot be read: {error}") from error


def write(policy: Policy, root: str | Path | None = None) -> None:
    """Put a policy in place of the old one, at once.

    Raises:
        UsageError: `output-unwritable`.
    """
    folder = places.root(root)
    folder.mkdir(parents=True, exist_ok=True)
    files.replace(folder / _FILE, (json.dumps(encode(policy), indent=1) + "\n").encode())


def admit(
    policy: Policy, record: Record, name: str, sha256: str, signature: str | None, *, downgrade: bool
) -> Admission:
    """See whether a version may be installed.

    Args:
        policy: Of the device.
        record: Of the model.
        name: Of the model.
        sha256: What would be installed.
        signature: Its JSON, where it has one.
        downgrade: The user wants an older release, and says so.

    Raises:
        UnsafeSourceError: `signature-absent`, `signature-untrusted`, `signature-other`, `signature-expired`,
            `release-old`. ArtifactError: `signature-invalid`, `signature-wrong`.
    """
    if signature is None:
        if policy.require_signature:
            raise UnsafeSourceError("signature-absent", f"this device installs nothing unsigned, and {name} is")
        return _rising(record, name, None, (), downgrade=downgrade)
    signed = parse(signature)
    if signed.key not in policy.keys:
        if not policy.keys and not policy.require_signature:
            return _rising(record, name, None, (("unsigned", "its signature was not asked for"),), downgrade=downgrade)
        raise UnsafeSourceError("signature-untrusted", f"this device does not trust the key {signed.key}")
    check(signed, parse_public(policy.keys[signed.key], "the policy's key"))
    if (signed.sha256, signed.name) != (sha256, name):
        raise UnsafeSourceError(
            "signature-other", f"the signature is for {signed.name} {signed.sha256[:12]}, not for {name} {sha256[:12]}"
        )
    return _rising(record, name, signed.release, _unexpired(signed), downgrade=downgrade)


def _unexpired(signed: Signature) -> tuple[tuple[str, str], ...]:
    """Notes; a clock that was never set, or stands before the signature was made, tells nothing."""
    if signed.expires is None:
        return ()
    now = time.time()
    if now < max(CLOCK_SET, datetime.fromisoformat(signed.made).timestamp()):
        return (("clock", f"not set: whether the signature expired on {signed.expires} is not known"),)
    if now > datetime.fromisoformat(signed.expires).timestamp():
        raise UnsafeSourceError("signature-expired", f"the signature expired on {signed.expires}")
    return ()


def _rising(
    record: Record, name: str, release: int | None, notes: tuple[tuple[str, str], ...], *, downgrade: bool
) -> Admission:
    """Releases only rise; an unsigned version is older than any signed one."""
    known = (record.highest, *(version.release for version in record.versions))
    highest = max((number for number in known if number is not None), default=None)
    if highest is None or (release is not None and release >= highest):
        return Admission(release, notes)
    what = "an unsigned version" if release is None else f"release {release}"
    if not downgrade:
        raise UnsafeSourceError("release-old", f"{name} was at release {highest} already; {what} is older")
    return Admission(release, (*notes, ("downgrade", f"from release {highest} to {what}, by request")))
