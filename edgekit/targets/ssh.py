"""A real board over SSH: needs nothing there but Python 3.11, numpy and an engine.

One process on the board (`ssh_keeper`) lives as long as the target is open: it holds the lease, so that one user at a
time measures there, and takes the files in. Each job runs in another one. Both end themselves when the link is cut.

Files are sent by content and named there by their digest; of the user's names only a plain suffix goes along, and the
names of data folders, because those are classes. Folders travel as one archive.
"""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import time
import zipfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

from edgekit import files
from edgekit.child import Limits, Link, Progress, tail
from edgekit.errors import EdgeKitError, EngineMissingError, InternalError, MissingFileError, TargetError, from_dict
from edgekit.targets.base import Target
from edgekit.targets.bundle import bundle
from edgekit.targets.ssh_address import Address, parse
from edgekit.targets.ssh_channel import ANSWER, Channel
from edgekit.targets.ssh_wire import HEARTBEAT, Wire, old_python

PATIENCE = 300.0
"""Seconds to wait for the lease of a board that somebody else uses; EDGEKIT_TARGET_WAIT says otherwise."""
PYTHON = (3, 11)
_PIECE = 1 << 17
_SLOWEST = 1 << 20
"""Bytes a second that any board's storage reads and writes."""
_SUFFIX = re.compile(r"\.[a-z0-9]{1,12}\Z")
_EPOCH = (1980, 1, 1, 0, 0, 0)


class SshLink:
    """The process that runs jobs; see `edgekit.child.Link`."""

    def __init__(self, place: Ssh, channel: Channel, pid: int) -> None:
        self.hello: dict[str, Any] = {"parent": None, "heartbeat": HEARTBEAT}
        self._place = place
        self._channel = channel
        self._pid = pid

    def write(self, data: bytes) -> None:
        self._channel.write(data)

    def read(self, seconds: float) -> bytes | None:
        return self._channel.read(seconds)

    def status(self) -> int | None:
        return self._channel.status()

    def said(self) -> str:
        return tail(self._channel.log)

    def close(self) -> None:
        channel = self._channel
        if channel.closed.is_set():
            return
        channel.end_input()
        if not channel.closed.wait(1):  # it hangs, or is stopped
            with contextlib.suppress(TargetError):
                self._place.ask({"do": "kill", "pid": self._pid})
            channel.closed.wait(3)


class Ssh(Target):
    """See `Target`.

    Args:
        address: Which board.

    Every method may raise TargetError: all that `ssh_wire.Wire` raises; `target-busy`: somebody else measures there;
    `target-storage`, `target-disk-full`: nothing can be kept there; `target-link-lost`, `target-hung`,
    `target-board-died`.
    """

    copies: ClassVar[bool] = True

    def __init__(self, address: Address) -> None:
        self.name = str(address)
        self._address = address
        self._run = secrets.token_hex(8)
        self._stack = ExitStack()
        self._scratch = self._stack.enter_context(files.scratch())
        self._wire: Wire | None = None
        self._channel: Channel | None = None
        self._process: dict[str, Any] = {}
        self._keeper: Channel | None = None
        self._folder = ""
        self._bundle: str | None = None
        self._python: dict[str, Any] | None = None
        self._made = 0
        self._names: dict[str, str] = {}

    def _connected(self) -> Wire:
        """The connection, made when it is first needed, because then somebody listens to what it waits for."""
        if self._wire is None:
            wire = Wire(self._address, self._scratch / "keeper.log")
            self._stack.callback(wire.close)
            self._wire = wire
            self._tell({"stage": f"opening {self.name}"})
            self._channel, answer = wire.open({"role": "keep", "run": self._run, "heartbeat": HEARTBEAT})
            self._process = {key: self._checked(answer)[key] for key in ("pid", "began")}
            self._keeper = self._channel
            self._folder = self._leased()
        return self._wire

    # -- Files -------------------------------------------------------------------------------------------------

    def put(self, path: Path) -> str:
        there = self._put_folder(path) if path.is_dir() else self._put_file(path)
        self._names[there] = str(path)
        return there

    def _put_file(self, path: Path) -> str:
        try:
            with open(path, "rb") as file:
                name = hashlib.file_digest(file, "sha256").hexdigest() + suffix(path)
                return self.send(file, name, os.fstat(file.fileno()).st_size, what=path.name)
        except OSError as error:
            raise MissingFileError("file-missing", f"{path} cannot be read: {error.strerror}") from error

    def _put_folder(self, path: Path) -> str:
        archive = self._scratch / "folder.zip"
        pack(path, archive)
        try:
            return self._unpacked("trees", archive, what=path.name)
        finally:
            archive.unlink()

    def _unpacked(self, kind: str, archive: Path, what: str) -> str:
        """An archive, as a folder of that kind there."""
        digest = files.sha256(archive)
        found = self.ask({"do": "there", "kind": kind, "name": digest})["path"]
        if found is None:
            with open(archive, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                self.send(file, f"{digest}.zip", size, what=what)
            answer = self.ask({"do": "unpack", "kind": kind, "name": f"{digest}.zip"}, ANSWER + size / _SLOWEST)
            found = answer["path"]
        return str(found)

    def send(self, file: BinaryIO, name: str, size: int, *, what: str) -> str:
        """Bring bytes there under the name of their digest, but for those that are there; twice, if they arrive wrong.

        Returns:
            The path there.

        Raises:
            TargetError: `target-digest`, `target-disk-full`, `target-storage`, `target-link-lost`, `target-hung`.
        """
        try:
            return self._send(file, name, size, what)
        except TargetError as error:
            if error.code != "target-digest":
                raise
            return self._send(file, name, size, what)

    def _send(self, file: BinaryIO, name: str, size: int, what: str) -> str:
        patience = ANSWER + size / _SLOWEST
        answer = self.ask({"do": "put", "name": name, "size": size}, patience)
        if "path" in answer:
            return str(answer["path"])
        with self._talking() as keeper:
            file.seek(int(answer["from"]))
            while (piece := file.read(_PIECE)) and not keeper.pending():
                head = json.dumps({"do": "piece", "bytes": len(piece)}).encode()
                keeper.write(head + b"\n" + piece)
                self._tell({"stage": f"sending {what}", "done": file.tell(), "total": size})
            keeper.write(b'{"do": "end"}\n')
            answer = keeper.message(patience)
            while "stop" in answer:
                answer = keeper.message(patience)
        return str(self._checked(answer)["path"])

    def new(self, name: str) -> str:
        self._connected()
        self._made += 1
        return f"{self._folder}/{self._made}{suffix(Path(name))}"

    def get(self, there: str, here: Path) -> None:
        whole = hashlib.sha256()
        with self._talking() as keeper:
            keeper.write(json.dumps({"do": "get", "path": there}).encode() + b"\n")
            head = keeper.message(ANSWER)
            if "size" in head:
                content = bytearray()
                while len(content) < head["size"]:
                    chunk = keeper.read(ANSWER)
                    if not chunk:
                        raise keeper.died() if chunk == b"" else self._hung()
                    content += chunk
                whole.update(content)
        self._checked(head)
        if whole.hexdigest() != head["sha256"]:
            raise TargetError("target-digest", f"what came back from {self.name} is not what lies there")
        files.replace(here, bytes(content))

    # -- Processes ---------------------------------------------------------------------------------------------

    def python(self) -> dict[str, Any]:
        """What runs jobs there; tells when it cannot.

        Raises:
            TargetError: `target-python-old`, `target-numpy-missing`, `target-engine-missing`, `target-python-broken`.
        """
        if self._python is None:
            found = self.ask({"do": "probe"}, 150)
            version = ".".join(map(str, found["version"]))
            if tuple(found["version"][:2]) < PYTHON:
                raise old_python(self.name, version)
            next_step = f"`edgekit target setup {self.name}` installs what is missing there."
            if not found["numpy"]:
                words = f"{found['python']} on {self.name} has no numpy"
                raise TargetError("target-numpy-missing", words, next_step=next_step)
            if not found["engines"]:
                words = f"{found['python']} on {self.name} has no engine"
                raise TargetError("target-engine-missing", words, next_step=next_step)
            self._python = found
        return self._python

    def link(self, log: Path) -> Link:
        self.python()
        if self._bundle is None:
            packed = self._scratch / "bundle.zip"
            packed.write_bytes(bundle().data)
            self._bundle = Path(self._unpacked("bundles", packed, what="EdgeKit")).name
        channel, answer = self._connected().open({"role": "job", "run": self._run, "bundle": self._bundle}, log)
        self._checked(answer)
        return SshLink(self, channel, int(answer["pid"]))

    def perform(
        self, job: Callable[[Any], Any], request: Any, *, limits: Limits | None = None, progress: Progress | None = None
    ) -> Any:
        try:
            return super().perform(job, request, limits=limits, progress=progress)
        except EngineMissingError as error:
            raise EngineMissingError(
                "engine-missing",
                f"{self.name}: {error.message}",
                next_step=f"`edgekit target setup {self.name}` installs the engines there.",
            ) from error
        except EdgeKitError as error:
            raise self._named(error) from error

    def _named(self, error: EdgeKitError) -> EdgeKitError:
        """The error, with files called as the user calls them."""
        fields = error.to_dict()
        for field in ("message", "cause", "next_step"):
            for there, here in self._names.items():
                fields[field] = fields[field].replace(there, here)
        return from_dict(fields)

    # -- Talking to the keeper ---------------------------------------------------------------------------------

    def ask(self, request: dict[str, Any], seconds: float = ANSWER) -> dict[str, Any]:
        """One request, its answer; what comes in between is progress."""
        with self._talking() as keeper:
            keeper.write(json.dumps(request).encode() + b"\n")
            while "event" in (answer := keeper.message(seconds)):
                self._tell(answer["event"])
        return self._checked(answer)

    @contextlib.contextmanager
    def _talking(self) -> Any:
        """The keeper, for one request; whoever is interrupted meanwhile leaves it unusable, and it is given up."""
        self._connected()
        keeper = self._keeper
        if keeper is None:
            raise TargetError("target-link-lost", f"{self.name} is no longer open")
        self._keeper = None
        yield keeper
        self._keeper = keeper

    def _checked(self, answer: dict[str, Any]) -> dict[str, Any]:
        if "refused" not in answer:
            return answer
        said, name = str(answer["message"]), self.name
        match answer["refused"]:
            case "full":
                free = int(answer.get("free", 0)) / 1e6
                raise TargetError("target-disk-full", f"the disk of {name} is full: {free:.1f} MB are left", cause=said)
            case "storage":
                raise TargetError("target-storage", f"{name} cannot keep files: {said}")
            case "digest":
                raise TargetError("target-digest", f"{name} received other bytes than were sent")
            case "python":
                raise TargetError("target-python-broken", f"{name}: {said}")
            case "lease":
                raise TargetError("target-lease-lost", f"another user took {name} over")
            case "venv":
                raise TargetError("target-no-venv", f"{name} cannot make a virtual environment", cause=said)
            case "pip":
                offline = bool(answer.get("offline"))
                raise TargetError("target-install-failed", f"pip failed on {name}", cause=said, offline=offline)
        raise InternalError("internal", f"{name} refuses: {said}")

    def _leased(self) -> str:
        """Wait for our turn; the folder where jobs write."""
        patience = float(os.environ.get("EDGEKIT_TARGET_WAIT", PATIENCE))
        began = time.monotonic()
        while True:
            answer = self.ask({"do": "lease", "who": f"{getpass.getuser()}@{socket.gethostname()}"})
            if "held" in answer:
                return str(answer["scratch"])
            busy = answer["busy"]
            words = f"{self.name} is in use by {busy['who']} since {busy['seconds']:.0f} s"
            if time.monotonic() - began > patience:
                raise TargetError("target-busy", words, holder=busy["who"], seconds=busy["seconds"])
            self._tell({"stage": f"waiting: {words}"})
            time.sleep(min(1.0, patience))

    def _hung(self) -> TargetError:
        return TargetError("target-hung", f"{self.name} has not answered for {ANSWER} s")

    def _tell(self, event: dict[str, Any]) -> None:
        if self.progress is not None:
            self.progress(event)

    def close(self) -> None:
        with contextlib.suppress(TargetError, InternalError):  # the link may be what went wrong
            if self._keeper is not None:
                self.ask({"do": "bye"}, 5)
            self._dismiss()
        self._keeper = self._channel = None
        self._stack.close()

    def _dismiss(self) -> None:
        """See to it that our process there is gone, also when it hangs or was stopped."""
        if self._channel is None or self._wire is None:
            return
        self._channel.end_input()
        if not self._channel.closed.wait(2):
            reaper, _ = self._wire.open({"role": "reap", **self._process})
            self._channel.closed.wait(3)
            reaper.closed.wait(3)


def suffix(path: Path) -> str:
    """What of a file's name goes along."""
    found = path.suffix.lower()
    return found if _SUFFIX.match(found) and found != ".part" else ""


def pack(folder: Path, archive: Path) -> None:
    """A data folder as an archive: members are numbered in order, the folders' names stand in a list beside them.

    The same content gives the same bytes.
    """
    found = sorted(
        p for p in folder.rglob("*") if p.is_file() and not any(q.startswith(".") for q in p.relative_to(folder).parts)
    )
    folders = sorted({p.relative_to(folder).parent.parts for p in found})
    numbers = {parts: number for number, parts in enumerate(folders)}
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as packed:
        packed.writestr(zipfile.ZipInfo("folders.json", _EPOCH), json.dumps(folders))
        for count, path in enumerate(found):
            entry = zipfile.ZipInfo(
                f"{numbers[path.relative_to(folder).parent.parts]}/{count:08d}{suffix(path)}", _EPOCH
            )
            with open(path, "rb") as source, packed.open(entry, "w", force_zip64=True) as target:
                shutil.copyfileobj(source, target, 1 << 20)


def open_target(rest: str) -> Ssh:
    """`ssh://[user@]host[:port]`.

    Raises:
        UsageError: `target-address`.
    """
    return Ssh(parse(rest))
