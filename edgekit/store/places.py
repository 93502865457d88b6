"""Where models and captures lie on a device, and what they may be called."""

from __future__ import annotations

import os
import re
from pathlib import Path

from edgekit.errors import UsageError

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?\Z")
ENVIRONMENT = "EDGEKIT_STORE"
CAPTURES = "EDGEKIT_CAPTURES"
SYSTEM = Path("/var/lib/edgekit/models")


def root(chosen: str | Path | None = None) -> Path:
    """The folder of all models: the chosen one, else EDGEKIT_STORE, else root's own or the user's data folder."""
    return _place(chosen, ENVIRONMENT, "models")


def captures(chosen: str | Path | None = None) -> Path:
    """The folder of all captures, one a model: the chosen one, else EDGEKIT_CAPTURES, else beside the models."""
    return _place(chosen, CAPTURES, "captures")


def _place(chosen: str | Path | None, variable: str, name: str) -> Path:
    if chosen is not None:
        return Path(chosen)
    if said := os.environ.get(variable):
        return Path(said)
    if os.geteuid() == 0:
        return SYSTEM.with_name(name)
    data = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(data).expanduser() / "edgekit" / name


def is_name(text: str) -> bool:
    """Lower case letters, digits and hyphens, 64 at most: no such text is a path or a file name with a suffix."""
    return _NAME.match(text) is not None


def checked(name: str) -> str:
    """The name, if it is one.

    Raises:
        UsageError: `model-name`.
    """
    if not is_name(name):
        raise UsageError("model-name", f"{name!r} is no name of a model: lower case letters, digits and hyphens are")
    return name
