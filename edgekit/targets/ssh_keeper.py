"""What a board answers: the requests of one open target, and of `edgekit target setup`. See `ssh_board`.

One process of this module keeps the lease and the files of one open target; each job is another one that becomes
`edgekit.child`. Also sent as text, and held to Python 3.7.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
from typing import Any, List, NoReturn, Optional

from edgekit.targets import ssh_board as board
from edgekit.targets.ssh_board import Message, Refused, Requests, Store, say

_PDEATHSIG = 1
_REQUIREMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*([<>=!~]=?[0-9][0-9A-Za-z.]*(,[<>=!~]=?[0-9][0-9A-Za-z.]*)*)?\Z")
_WHEEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+!-]*\.whl\Z")
_OFFLINE = (
    "NewConnectionError",
    "name resolution",
    "Network is unreachable",
    "ConnectTimeout",
    "ProxyError",
    "Connection refused",
)


def main() -> None:
    """Read what is wanted, then be it."""
    hello = json.loads(sys.stdin.buffer.readline())
    base = board.home()
    try:
        os.makedirs(base, mode=0o700, exist_ok=True)
        if hello["role"] == "job":
            _become(base, hello)
        if hello["role"] == "reap":  # somebody of ours does not answer any more
            say({"ended": board.end(hello)})
            return
        Keeper(base, hello).serve()
    except Refused as refusal:
        say(refusal.answer)
    except OSError as error:
        say({"refused": "storage", "message": str(error)})


def _become(base: str, hello: Message) -> NoReturn:
    """The process that runs jobs."""
    if board.words(os.path.join(base, "lease")).get("run") != hello["run"]:
        raise Refused("lease", "the lease is gone")
    folder = Store(base).path("bundles", hello["bundle"])
    with open(os.path.join(base, "jobs", str(os.getpid())), "w", encoding="utf-8") as file:
        json.dump(board.me(), file)
    os.chdir(os.path.join(base, "scratch"))
    python = board.python_of(base)
    signal.alarm(120)  # until the job's own heartbeat
    say({"ready": True, **board.me()})
    paths = {"PYTHONPATH": folder, "PWD": os.getcwd()}
    os.execve(  # noqa: S606 - no shell is the point
        python, [python, "-P", "-m", "edgekit.child", "0", "1"], {**os.environ, **board.JOB_ENVIRONMENT, **paths}
    )  # fmt: skip


class Keeper:
    """One open target, seen from the board."""

    def __init__(self, base: str, hello: Message) -> None:
        self._base = base
        self._run = str(hello["run"])
        self._heartbeat = int(hello["heartbeat"])
        self._lease: Optional[board.Locked] = None
        self._who: Message = {}
        self._store = Store(base)
        self._renewed = 0.0
        self._requests = Requests(self._heartbeat, self._renew, self._clean)
        os.makedirs(os.path.join(base, "jobs"), mode=0o700, exist_ok=True)

    def serve(self) -> NoReturn:
        """Answer until told to go."""
        say({"ready": True, "base": self._base, "version": list(sys.version_info[:3]), **board.me()})
        answers = {
            "lease": self.lease, "put": self.put, "there": self._store.there, "unpack": self._store.unpack,
            "get": self.get, "probe": self.probe, "kill": self.kill, "facts": self.facts, "use": self.use,
            "environment": self.environment, "forget": self.forget,
        }  # fmt: skip
        while True:
            message, _ = self._requests.next()
            if message["do"] == "bye":
                self._clean()
                say({"bye": True})
                os._exit(0)  # the interpreter would wait for the thread that reads
            try:
                answer = answers[message["do"]](message)
                if answer is not None:
                    say(answer)
            except Refused as refusal:
                say(refusal.answer)
            except OSError as error:
                say(board.unstored(self._base, error).answer)

    def _clean(self) -> None:
        """What must not outlive the link: the jobs of this run, and what they wrote."""
        if self._lease is not None:
            self._end_jobs()
            shutil.rmtree(os.path.join(self._base, "scratch"), ignore_errors=True)

    def _end_jobs(self) -> None:
        """Whoever holds the lease owns all jobs: those that are left ran for somebody who is gone."""
        folder = os.path.join(self._base, "jobs")
        for name in os.listdir(folder):
            path = os.path.join(folder, name)
            found = board.words(path)
            if found:
                board.end(found)
            with contextlib.suppress(OSError):
                os.unlink(path)

    def _renew(self) -> None:
        """The lease's term is for holders that were stopped: a living one renews it in time."""
        if self._lease is not None and board.now() > self._renewed + self._heartbeat:
            self._renewed = board.now()
            self._lease.write({**self._who, "until": self._renewed + 3 * self._heartbeat})

    def lease(self, message: Message) -> Message:
        """One user at a time. A holder whose term is over was stopped, not busy: it is ended."""
        if self._lease is None:
            lock = board.Locked(os.path.join(self._base, "lease"))
            if not lock.take():
                holder = lock.read()
                if holder and holder["until"] < board.now():
                    board.end(holder)
                if not lock.take():
                    os.close(lock.handle)
                    since = board.now() - holder.get("since", board.now())
                    return {"busy": {"who": holder.get("who", "somebody"), "seconds": since}}
            self._who = {"who": message["who"], "since": board.now(), "run": self._run, **board.me()}
            self._lease = lock
            self._renew()
            self._end_jobs()
            shutil.rmtree(os.path.join(self._base, "scratch"), ignore_errors=True)
            os.makedirs(os.path.join(self._base, "scratch"), mode=0o700)
        return {"held": True, "scratch": os.path.join(self._base, "scratch")}

    def put(self, message: Message) -> Message:
        """Take a file in."""
        return self._store.receive(message, self._requests)

    def get(self, message: Message) -> None:
        """Give a file that a job wrote: its size and digest, then its bytes."""
        folder = os.path.realpath(os.path.join(self._base, "scratch"))
        path = os.path.realpath(str(message["path"]))
        if os.path.dirname(path) != folder:
            raise Refused("name", f"{path} is not what a job wrote here")
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            say({"size": size, "sha256": board.digest(path)})
            while size > 0:
                piece = file.read(min(1 << 18, size))
                if not piece:
                    os._exit(1)  # it shrank while it was read: the length that was promised cannot be kept
                sys.stdout.buffer.write(piece)
                size -= len(piece)
        sys.stdout.buffer.flush()

    def probe(self, message: Message) -> Message:
        """The Python of jobs."""
        del message
        return board.probe(board.python_of(self._base))

    def kill(self, message: Message) -> Message:
        """End a job of this run."""
        found = board.words(os.path.join(self._base, "jobs", str(int(message["pid"]))))
        return {"ended": bool(found) and board.end(found)}

    def facts(self, message: Message) -> Message:
        """What the board is, what we keep there, and a Python: the one asked for, "" for ours, None for jobs'."""
        model = None
        with contextlib.suppress(OSError), open("/proc/device-tree/model", encoding="utf-8") as file:
            model = file.read().strip("\0\n")
        libc = os.confstr("CS_GNU_LIBC_VERSION") if "CS_GNU_LIBC_VERSION" in os.confstr_names else None
        wanted = board.python_of(self._base) if message["python"] is None else message["python"] or sys.executable
        try:
            own = board.probe(str(wanted))
        except Refused:
            if message["python"]:
                raise
            own = board.probe(sys.executable)  # that of jobs is broken: another setup can mend it
        return {
            "model": model, "kernel": os.uname().machine, "system": platform.platform(), "libc": libc,
            "own": own, "free": shutil.disk_usage(self._base).free,
            "kept": sum(board.weight(os.path.join(self._base, kind)) for kind in ("files", "trees", "bundles")),
        }  # fmt: skip

    def use(self, message: Message) -> Message:
        """Remember a Python."""
        found = board.probe(str(message["python"]))
        self._settle({"python": message["python"]})
        return found

    def forget(self, message: Message) -> Message:
        """Remove all that we ever put here, but for the lease that is held."""
        del message
        freed = board.weight(self._base)
        for name in os.listdir(self._base):
            if name not in ("lease", "jobs", "scratch"):
                board.remove(os.path.join(self._base, name))
        return {"freed": freed}

    def environment(self, message: Message) -> Message:
        """Make the environment beside, try it, then put it in its place. What a broken link left is gone on with."""
        final = self._store.path("env-" + str(message["id"]))
        python, part = os.path.join(final, "bin", "python"), final + ".part"
        if not os.path.exists(python):
            if not os.path.exists(os.path.join(part, "made")):
                shutil.rmtree(part, ignore_errors=True)
                system = ["--system-site-packages"] if message["system"] else []
                self._say("making an environment")
                self._command([str(message["python"]), "-m", "venv", *system, part], "venv")
                open(os.path.join(part, "made"), "w").close()
            self._install(os.path.join(part, "bin", "python"), message)
            self._check(board.probe(os.path.join(part, "bin", "python")))
            os.sync()
            os.replace(part, final)
        found = board.probe(python)
        self._check(found)
        self._settle({"python": python, "installed": message["requirements"]})
        for name in os.listdir(self._base):
            if name.startswith("env-") and name != os.path.basename(final):
                shutil.rmtree(os.path.join(self._base, name), ignore_errors=True)
        shutil.rmtree(os.path.join(self._base, "wheels"), ignore_errors=True)
        for name in os.listdir(os.path.join(self._base, "files")):
            if name.endswith(".whl"):
                os.unlink(os.path.join(self._base, "files", name))
        return found

    def _install(self, python: str, message: Message) -> None:
        wanted = [str(name) for name in message["requirements"]]
        if not all(map(_REQUIREMENT.match, wanted)):
            raise Refused("name", f"a requirement that is none: {wanted!r}")
        # Without a network, nobody should wait for many attempts at each package.
        options = [
            "--only-binary=:all:",
            "--disable-pip-version-check",
            "--no-input",
            "--progress-bar=off",
            "--retries=1",
        ]
        if message["wheels"]:
            folder = os.path.join(self._base, "wheels")
            os.makedirs(folder, exist_ok=True)
            for wheel in message["wheels"]:
                if not _WHEEL.match(wheel["name"]):
                    raise Refused("name", "a wheel's name that is none: {!r}".format(wheel["name"]))
                link = os.path.join(folder, wheel["name"])
                if not os.path.exists(link):
                    os.link(self._store.path("files", wheel["file"]), link)
            options += ["--no-index", "--find-links=" + folder]
        self._say("installing " + ", ".join(wanted))
        self._command([python, "-m", "pip", "install", *options, "--", *wanted], "pip")

    def _check(self, found: Message) -> None:
        if not found["numpy"] or not found["engines"]:
            raise Refused("pip", f"after the installation numpy or an engine is still missing: {found!r}")

    def _settle(self, words: Message) -> None:
        path = os.path.join(self._base, "setup.json")
        with open(path + ".part", "w", encoding="utf-8") as file:
            json.dump(words, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(path + ".part", path)
        board.sync(self._base)

    def _say(self, words: str) -> None:
        say({"event": {"stage": words}})

    def _command(self, command: List[str], what: str) -> None:
        """Run something that takes long; its lines are progress, and it ends when this process does."""

        def die_with_me() -> None:
            libc.prctl(_PDEATHSIG, signal.SIGKILL)

        import ctypes

        libc = ctypes.CDLL(None)
        said: List[str] = []
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment,
            preexec_fn=die_with_me,  # noqa: PLW1509 - this thread alone forks
        ) as running:  # fmt: skip
            for line in _lines(running.stdout):
                said.append(line)
                self._say(line[:120])
        if running.returncode:
            words = " ".join(said[-8:])[-800:]
            offline = any(word in text for word in _OFFLINE for text in said)
            raise Refused(what, words, status=running.returncode, offline=offline)


def _lines(stream: Any) -> Any:
    for line in stream:
        text = line.decode("utf-8", "replace").strip()
        if text:
            yield text
