"""Small files that apps append to, a line of JSON a message, and the supervisor of a trial reads.

Any process may append at any moment; what a kill tore is skipped. An app that may not write here is not disturbed.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def append(path: Path, message: dict[str, Any], limit: int) -> bool:
    """Add a message, unless the file has reached its limit in bytes; whether it was added."""
    line = json.dumps(message).encode() + b"\n"
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        try:
            return os.fstat(handle).st_size < limit and os.write(handle, line) == len(line)
        finally:
            os.close(handle)
    return False


def about(path: Path, sha256: str) -> Iterator[dict[str, Any]]:
    """The messages about one version, oldest first."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        try:
            message = json.loads(line)
        except ValueError:
            continue
        if isinstance(message, dict) and message.get("sha256") == sha256:
            yield message
