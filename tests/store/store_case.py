"""A store with one committed version, and a process that does something to it."""

from __future__ import annotations

import hashlib
import io
import sys
from pathlib import Path

from edgekit.store import Record, Shelf

NAME = "people-counter"
MARKER = "/here-begins-the-change"
OLD, NEW = b"old model " * 900, b"new model " * 1000


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def receive(shelf: Shelf, data: bytes) -> Record:
    return shelf.receive(io.BytesIO(data), digest(data), len(data))


def bring(shelf: Shelf, data: bytes) -> None:
    """All stages of a version, one written record each."""
    sha256 = digest(data)
    receive(shelf, data)
    if shelf.record().active == sha256:
        return
    for stage in ("verified", "tested"):
        if shelf.record().version(sha256).stage not in ("verified", "tested", "committed"):
            shelf.change(lambda record: record.advance(sha256, "verified"))
        elif stage == "tested" and shelf.record().version(sha256).stage == "verified":
            shelf.change(lambda record: record.advance(sha256, "tested"))
    shelf.change(lambda record: record.switch(sha256, 1.0))
    shelf.change(Record.commit)


def change(root: Path) -> None:
    """What the crash tests interrupt: receive, switch, commit, roll back, switch again, prune."""
    shelf = Shelf(NAME, root)
    with shelf.changing():
        shelf.recover()
        bring(shelf, NEW)
        shelf.change(lambda record: record.roll_back("test"))
    with shelf.changing():
        bring(shelf, NEW)
        shelf.prune(len(NEW) + len(OLD))


def script(root: Path) -> list[str]:
    """A process that does `change`; everything before the marker is Python's start."""
    code = (
        f"import sys, os; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import store_case, shutil, json, errno, fcntl, secrets, tempfile, datetime\n"
        "store_case.Shelf('x', '/nowhere').record()\n"
        f"os.path.exists({MARKER!r})\n"
        f"store_case.change(store_case.Path({str(root)!r}))\n"
    )
    return [sys.executable, "-c", code]


def healthy(root: Path) -> bytes:
    """The active version's bytes, from a store that must be in order."""
    data, record = Shelf(NAME, root).read_active()
    assert record.trial is None
    assert data in (OLD, NEW)
    return data


def leftovers(root: Path) -> list[str]:
    """Files that no record explains."""
    shelf = Shelf(NAME, root)
    known = {version.sha256 for version in shelf.record().versions}
    found = [path for path in shelf.folder.rglob("*") if path.is_file()]
    return sorted(
        str(path.relative_to(shelf.folder))
        for path in found
        if path.name not in ("record.json", "lock") and not (path.parent.name == "versions" and path.name in known)
    )
