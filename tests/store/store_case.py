"""A store with one committed version, and a process that does something to it."""

from __future__ import annotations

import hashlib
import io
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

from edgekit import files
from edgekit.deploy import install
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
    """What the crash tests interrupt: receive, install (verify, test, switch, trial, commit), roll back, prune."""
    install_new(root)
    roll_back(root)
    install_new(root)
    prune(root)


def arrived(root: Path) -> Path:
    """Where NEW lies before it is received."""
    path = root.parent / "arrived"
    if not path.exists():
        path.write_bytes(NEW)
    return path


def install_new(root: Path) -> None:
    installed(root, arrived(root), NEW)


def roll_back(root: Path) -> None:
    install.roll_back(install.ShelfRequest(NAME, str(root), "test"))


def prune(root: Path) -> None:
    install.prune(install.ShelfRequest(NAME, str(root), keep_mb=(len(NEW) + len(OLD)) / 1e6))


def race(number: int, go: str) -> Callable[[Path], None]:
    """An installation of a version of its own, which says that it is ready and begins when the file `go` is there."""

    def begin(root: Path) -> None:
        data = b"version %d " % number * 500
        path = root.parent / f"arrived-{number}"
        path.write_bytes(data)
        print("ready", flush=True)
        while not Path(go).exists():
            time.sleep(0.001)
        installed(root, path, data)

    return begin


def installed(root: Path, path: Path, data: bytes) -> None:
    """The bytes are no model, and stand for a good one."""
    good = SimpleNamespace(format="tflite", selftest=True)
    with patch.object(install, "artifacts", SimpleNamespace(read=lambda _: good)):
        installs(install.InstallRequest(NAME, str(path), digest(data), len(data), None, str(root), seconds=1e-9))


def installs(request: install.InstallRequest) -> None:
    """An installation without what looks at versions in processes of its own: all do well there."""
    with patch.object(install, "seen_of", lambda *_: None), patch.object(install, "fault_of", lambda *_: ""):
        for _ in install.install(request):
            pass


def script(root: Path, what: str = "change", without: str = "") -> list[str]:
    """A process that does `change`, or a part of it; everything before the marker is Python's start.

    It ends with status 9 and the code of an error that it met.

    Args:
        root: Folder of all models.
        what: Name of the function.
        without: The site (see `site`) whose fsync is left out; "" for none.
    """
    code = (
        f"import sys, os; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import store_case, shutil, json, errno, fcntl, secrets, tempfile, datetime\n"
        "from edgekit.errors import EdgeKitError\n"
        f"store_case.arrived(store_case.Path({str(root)!r}))\n"
        "store_case.Shelf('x', '/nowhere').record()\n"
        f"store_case.lose_syncs({without!r})\n"
        f"os.path.exists({MARKER!r})\n"
        "try:\n"
        f"    store_case.{what}(store_case.Path({str(root)!r}))\n"
        "except EdgeKitError as error:\n"
        "    print(error.code)\n"
        "    sys.exit(9)\n"
    )
    return [sys.executable, "-c", code]


def site() -> str:
    """Who calls os.fsync: the function, and whether it syncs a file or a folder."""
    caller = sys._getframe(2)
    if caller.f_code.co_name == "sync_folder":
        assert caller.f_back is not None
        return f"{caller.f_back.f_code.co_name} folder"
    return f"{caller.f_code.co_name} file"


def lose_syncs(where: str) -> None:
    """Leave the fsync of one site out, for the rest of this process."""
    real = os.fsync

    def fsync(handle: int) -> None:
        if site() != where:
            real(handle)

    os.fsync = fsync


def healthy(root: Path) -> bytes | None:
    """The active version's bytes, None before there is one, from a store that must be in order."""
    shelf = Shelf(NAME, root)
    if shelf.settled().active is None:
        return None
    data, record = shelf.read_active()
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


def lost(root: Path) -> list[str]:
    """Versions that the record names and that are not there, or not whole."""
    shelf = Shelf(NAME, root)
    named = [version.sha256 for version in shelf.record().versions]
    return [sha256 for sha256 in named if not shelf.path(sha256).exists() or files.sha256(shelf.path(sha256)) != sha256]
