"""Targets by name: `local`, `emulator:PROFILE`, `ssh://[user@]host[:port]`."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from edgekit.errors import UsageError

if TYPE_CHECKING:
    from edgekit.child import Progress
    from edgekit.targets.base import Target

KINDS = {"local": "local", "emulator": "emulator:PROFILE", "ssh": "ssh://[USER@]HOST[:PORT]"}
"""Kind -> how it is written; each is a module here with a function `open_target`."""


def open_target(name: str, progress: Progress | None = None) -> Target:
    """The target of that name, ready to take files and jobs; use it in `with`.

    Args:
        name: What --target takes.
        progress: Told what a board takes its time with: others who use it, files on their way.

    Raises:
        UsageError: `unknown-target`: lists the kinds.
        TargetError: It cannot be reached, or is not set up.
    """
    kind, colon, rest = name.partition(":")
    if kind not in KINDS or bool(colon) != (KINDS[kind] != kind):
        raise UsageError("unknown-target", f"no target is called {name!r}; known: {', '.join(KINDS.values())}")
    opened: Target = importlib.import_module(f"edgekit.targets.{kind}").open_target(rest)
    opened.progress = progress
    return opened
