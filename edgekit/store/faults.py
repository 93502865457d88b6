"""What apps tell of a version on trial: a line a fault, appended by any process, read by who supervises the trial."""

from __future__ import annotations

import contextlib
import json
import os

from edgekit.store.shelf import Shelf

_FILE = "faults"
_LIMIT = 1 << 16


def tell(shelf: Shelf, sha256: str, fault: str) -> None:
    """An app met a fault; nobody listens unless that version is on trial."""
    line = json.dumps({"sha256": sha256, "fault": fault[:300]}) + "\n"
    with contextlib.suppress(OSError):  # an app that may not write here still has its exception
        handle = os.open(shelf.folder / _FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        try:
            if os.fstat(handle).st_size < _LIMIT:
                os.write(handle, line.encode())
        finally:
            os.close(handle)


def told(shelf: Shelf, sha256: str) -> str:
    """The first fault that was told of a version; "" when none was."""
    try:
        lines = (shelf.folder / _FILE).read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return ""
    for line in lines:
        try:
            found = json.loads(line)
        except ValueError:  # torn by a kill
            continue
        if isinstance(found, dict) and found.get("sha256") == sha256:
            return f"an app met a fault: {found.get('fault')}"
    return ""


def clear(shelf: Shelf) -> None:
    """Forget what was told before a trial began; the lock must be held."""
    (shelf.folder / _FILE).unlink(missing_ok=True)
