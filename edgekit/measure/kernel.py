"""What the kernel tells in a file of /proc or /sys."""

from __future__ import annotations

from pathlib import Path


def read(path: Path) -> str | None:
    """The text without white space around; None where this kernel does not tell, or not us, or no longer."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None
