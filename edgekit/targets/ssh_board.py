"""What runs on a board while a target is open there: sent over the link as text, by itself, before anything is there.

It keeps the lease, takes files in and gives them back, and turns into the process that runs jobs. Requests are JSON
lines on stdin, answers JSON lines on stdout; bytes of files follow their line. No request ever reaches a shell: this
is the reason why the board needs neither SFTP nor any command but Python.

Standard library only, and words that Python 3.7 understands, so that a board with an old Python can say so. What
happens when the link is cut, silently or not: the alarm that every line resets ends this process, and with it go the
locks it holds. Paths are strings here, because they cross the link. Everything is kept below one folder,
`~/.edgekit`:

    lease              lock of the user who measures
    jobs/              processes that run jobs, so that nobody's are left behind
    files/ trees/      what was sent, named by SHA-256; `.part` until its digest was checked
    bundles/           EdgeKit's device side, unpacked
    scratch/           what jobs write; gone with the link
    setup.json, env*/  which Python runs jobs, and the environment that `edgekit target setup` made
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from typing import Any, Callable, Dict, NoReturn, Optional, Tuple

Message = Dict[str, Any]

QUOTA = 512 << 20
BUNDLES_KEPT = 2
PROBE = """
import importlib.util as u, json, platform, struct, sys, sysconfig
def find(n):
    try:
        return u.find_spec(n) is not None
    except Exception:
        return False
names = ("ai_edge_litert", "tflite_runtime", "tensorflow", "onnxruntime")
print("EDGEKIT-PROBE " + json.dumps({"version": list(sys.version_info[:3]), "bits": struct.calcsize("P") * 8,
    "machine": sysconfig.get_platform().split("-", 1)[-1].replace("-", "_"), "libc": platform.libc_ver(),
    "numpy": find("numpy"), "venv": find("venv") and find("ensurepip"), "executable": sys.executable,
    "engines": [n for n in names if find(n)]}))
"""
JOB_ENVIRONMENT = {
    "PYTHONHASHSEED": "0", "PYTHONUNBUFFERED": "1", "MALLOC_ARENA_MAX": "2", "TF_CPP_MIN_LOG_LEVEL": "3",
    "CUDA_VISIBLE_DEVICES": "", "ORT_DISABLE_TELEMETRY": "1", "PYTHONIOENCODING": "utf-8",
}  # fmt: skip


class Refused(Exception):  # noqa: N818 - an answer, not a fault
    """What the other side is told: a code that it knows, and a sentence."""

    def __init__(self, code: str, message: str, **facts: Any) -> None:
        super().__init__(message)
        self.answer = {"refused": code, "message": message, **facts}


def unstored(base: str, error: OSError) -> Refused:
    """What a fault of the storage is called."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return Refused("full" if full else "storage", str(error), free=shutil.disk_usage(base).free)


def home() -> str:
    """Where everything is kept."""
    data = os.environ.get("XDG_DATA_HOME", "")
    if os.path.isabs(data):
        return os.path.join(data, "edgekit")
    return os.path.join(os.path.expanduser("~"), ".edgekit")


def say(message: Message) -> None:
    """One answer."""
    sys.stdout.buffer.write(json.dumps(message).encode() + b"\n")
    sys.stdout.buffer.flush()


def started(pid: int) -> Optional[str]:
    """When a process began, in clock ticks since boot: with its number this names it for good; None when gone."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


def me() -> Message:
    """This process, as others can recognize it."""
    return {"pid": os.getpid(), "began": started(os.getpid())}


def end(process: Message) -> bool:
    """Kill a process that is still the one meant, and wait until it is gone."""
    pid = int(process["pid"])
    for attempt in range(100):
        if started(pid) != process["began"] or state(pid) == "Z":
            return attempt > 0
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
    return False


def state(pid: int) -> str:
    """The letter that ps shows: a killed process is a zombie until its parent looks."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return "Z"


def now() -> float:
    """Seconds since boot, by a clock that nobody sets: boards often have none that is right."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Locked:
    """A lock file with words inside for whoever finds it taken."""

    def __init__(self, path: str) -> None:
        self.handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)

    def take(self) -> bool:
        """Whether it is ours now."""
        try:
            fcntl.flock(self.handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def write(self, words: Message) -> None:
        """One write of constant size, so that a reader sees all or the former."""
        os.pwrite(self.handle, json.dumps(words).encode().ljust(1024), 0)

    def read(self) -> Message:
        """What the holder wrote, or nothing yet."""
        return _message(os.pread(self.handle, 1024, 0))


def words(path: str) -> Message:
    """What the holder of a lock file wrote."""
    try:
        with open(path, "rb") as file:
            return _message(file.read(1024))
    except OSError:
        return {}


def _message(data: bytes) -> Message:
    try:
        found = json.loads(data)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


class Requests:
    """Lines and bytes from the other side, read beside the work so that a busy board still notices a cut link."""

    def __init__(self, heartbeat: int, beat: Callable[[], None], lost: Callable[[], None]) -> None:
        self._heartbeat = heartbeat
        self._beat = beat
        self._lost = lost
        self._queue: "queue.Queue[Tuple[Message, bytes]]" = queue.Queue(64)
        signal.alarm(heartbeat)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        source = sys.stdin.buffer
        for line in iter(source.readline, b""):
            signal.alarm(self._heartbeat)
            if not line.strip():
                self._beat()
                continue
            message = json.loads(line)
            size = int(message.get("bytes", 0))
            data = source.read(size) if size else b""
            if len(data) == size:
                self._queue.put((message, data))
        # The link is closed: what arrived is still kept, for the next time, unless that takes long.
        with contextlib.suppress(queue.Full):
            self._queue.put(({"do": "lost"}, b""), timeout=5)
            time.sleep(5)
        self._end()

    def next(self) -> Tuple[Message, bytes]:
        """The next request and its bytes."""
        found = self._queue.get()
        if found[0].get("do") == "lost":
            self._end()
        signal.alarm(self._heartbeat)
        return found

    def _end(self) -> NoReturn:
        self._lost()
        os._exit(0)


class Store:
    """Files by content, below the home."""

    def __init__(self, base: str) -> None:
        self.base = base
        self._used = set()  # type: ignore[var-annotated]
        for name in ("files", "trees", "bundles"):
            os.makedirs(os.path.join(base, name), mode=0o700, exist_ok=True)

    def path(self, *names: str) -> str:
        """Below the home; a name is one plain component."""
        for name in names:
            if not name or name.startswith(".") or "/" in name or "\0" in name or len(name) > 128:
                raise Refused("name", f"a name that is none: {name!r}")
        return os.path.join(self.base, *names)

    def receive(self, message: Message, requests: Requests) -> Message:
        """Take a file in: say what is there already, append what comes, check the digest, then rename."""
        name, size = str(message["name"]), int(message["size"])
        final, part = self.path("files", name), self.path("files", name + ".part")
        if os.path.isfile(final) and os.path.getsize(final) == size and digest(final) == name[:64]:
            return self._using(final)
        self._used.add(part)
        self.sweep(room=size)
        begun = os.path.getsize(part) if os.path.exists(part) else 0
        if begun > size:
            os.unlink(part)
            begun = 0
        say({"from": begun})
        fault = self._append(part, requests)
        if fault is not None:
            raise fault
        if os.path.getsize(part) != size or digest(part) != name[:64]:
            os.unlink(part)
            raise Refused("digest", "what arrived is not what was sent")
        os.chmod(part, 0o400)
        os.replace(part, final)
        sync(os.path.dirname(final))
        return self._using(final)

    def _using(self, path: str) -> Message:
        """Not the oldest any more, and safe from the next sweep."""
        os.utime(path)
        self._used.add(path)
        return {"path": path}

    def there(self, message: Message) -> Message:
        """The folder of that digest, when it is there."""
        final = self.path(str(message["kind"]), str(message["name"])[:64])
        return self._using(final) if os.path.isdir(final) else {"path": None}

    def _append(self, part: str, requests: Requests) -> Optional[OSError]:
        """Write until the last piece; a fault is told at once, and the pieces under way are passed over."""
        fault = None
        with open(part, "ab", buffering=0) as file:
            while True:
                message, data = requests.next()
                if message.get("do") != "piece":
                    break
                try:
                    while data and fault is None:
                        data = data[file.write(data) :]
                except OSError as error:
                    fault = error
                    say({"stop": True})
            try:
                os.fsync(file.fileno())
            except OSError as error:
                fault = fault or error
        return fault

    def unpack(self, message: Message) -> Message:
        """An archive that was received, as a folder named by its digest; there whole or not at all."""
        name, kind = str(message["name"]), str(message["kind"])
        source, final = self.path("files", name), self.path(kind, name[:64])
        fresh = final + ".part"
        shutil.rmtree(fresh, ignore_errors=True)
        try:
            with zipfile.ZipFile(source) as archive:
                if kind == "bundles":
                    archive.extractall(fresh)  # ours; zipfile keeps names below the folder
                else:
                    spread(archive, fresh)
            os.sync()
            os.replace(fresh, final)
        except OSError:
            shutil.rmtree(fresh, ignore_errors=True)
            raise
        sync(os.path.dirname(final))
        os.unlink(source)
        return self._using(final)

    def sweep(self, room: int = 0) -> int:
        """Remove the oldest of what was sent beyond the quota, nothing of this run; returns the bytes that went."""
        found = []
        for kind in ("files", "trees", "bundles"):
            folder = os.path.join(self.base, kind)
            paths = [os.path.join(folder, name) for name in os.listdir(folder)]
            if kind == "bundles":
                paths = sorted(paths, key=os.path.getmtime)[:-BUNDLES_KEPT]
            found += [(os.path.getmtime(path), weight(path), path) for path in paths]
        gone, whole = 0, sum(size for _, size, _ in found) + room
        for _, size, path in sorted(found):
            if whole - gone > QUOTA and path not in self._used:
                remove(path)
                gone += size
        return gone


def spread(archive: zipfile.ZipFile, folder: str) -> None:
    """A data folder: `folders.json` lists its folders, which are classes; members are called NUMBER/NUMBER.SUFFIX."""
    os.makedirs(folder)
    folders = []
    for names in json.loads(archive.read("folders.json")):
        if any(not name or name in (".", "..") or "/" in name or "\0" in name for name in names):
            raise Refused("name", f"a folder's name that is none: {names!r}")
        folders.append(os.path.join(folder, *names))
        os.makedirs(folders[-1], exist_ok=True)
    for entry in archive.infolist():
        if entry.filename != "folders.json":
            number, _, name = entry.filename.partition("/")
            with archive.open(entry) as source, open(os.path.join(folders[int(number)], name), "xb") as target:
                shutil.copyfileobj(source, target, 1 << 20)


def digest(path: str) -> str:
    """SHA-256 in hex."""
    whole = hashlib.sha256()
    with open(path, "rb") as file:
        for piece in iter(lambda: file.read(1 << 20), b""):
            whole.update(piece)
    return whole.hexdigest()


def weight(path: str) -> int:
    """Bytes of a file, or of all below a folder."""
    if not os.path.isdir(path):
        return os.path.getsize(path)
    return sum(os.path.getsize(os.path.join(at, name)) for at, _, names in os.walk(path) for name in names)


def remove(path: str) -> None:
    """A file or a folder."""
    if os.path.isdir(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        os.unlink(path)


def sync(folder: str) -> None:
    """Make a rename survive a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def settings(base: str) -> Message:
    """What `edgekit target setup` left: the Python of jobs."""
    return words(os.path.join(base, "setup.json"))


def python_of(base: str) -> str:
    """The Python that runs jobs: the one that was set up, else the one that runs this."""
    return str(settings(base).get("python") or sys.executable)


def probe(python: str) -> Message:
    """What a Python is and has."""
    try:
        done = subprocess.run(
            [python, "-c", PROBE], stdin=subprocess.DEVNULL, capture_output=True, timeout=120, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Refused("python", f"{python} cannot be started: {error}") from error
    answer = done.stdout.decode("utf-8", "replace").rpartition("EDGEKIT-PROBE ")[2]
    try:
        return {"python": python, **json.loads(answer)}
    except ValueError:
        said = " ".join(done.stderr.decode("utf-8", "replace").split())[-400:]
        raise Refused("python", f"{python} cannot be used: status {done.returncode}. {said}") from None
