"""Before anything is sent: can that device run this file, and keep it? Decided where it is sent from."""

from __future__ import annotations

from edgekit.artifact import Artifact
from edgekit.deploy.preflight import DeviceFacts
from edgekit.errors import LimitError

_ROOM = 1 << 20
"""Bytes that must stay free: records, journals and what else the device writes."""


def check(opened: Artifact, found: DeviceFacts, target: str, device: str | None) -> None:
    """Refuse what cannot go well.

    Raises:
        LimitError: `deploy-preflight`: names the reason; or what the gate of a device profile says.
    """
    size = len(opened.data)
    needed = _ROOM if opened.sha256 in found.versions else size - found.arrived + size * found.shared + _ROOM
    if found.missing:
        raise LimitError("deploy-preflight", f"{target} cannot run {opened.format}: {found.missing}")
    if not found.writable:
        raise LimitError("deploy-preflight", f"{target}: the folder of models cannot be written to")
    if found.free < needed:
        raise LimitError(
            "deploy-preflight",
            f"{target} has {found.free / 1e6:.1f} MB free, {needed / 1e6:.1f} MB are needed",
            required=needed, available=found.free,
        )  # fmt: skip
    if device is not None:
        _gate(opened, device)


def _gate(opened: Artifact, device: str) -> None:
    from edgekit import gate
    from edgekit.device_profiles import load_profile
    from edgekit.formats import read_facts

    gate.enforce(gate.check(read_facts(opened), opened.manifest, load_profile(device)))
