"""A real OpenSSH server on loopback, as whoever runs the tests; its sessions live in a home of their own."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import pytest

from edgekit.targets.bundle import Bundle, bundle

SSHD = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")


class Server:
    """Attributes: `target`, what --target takes; `home`, the board's; `log`, what sshd says."""

    def __init__(self, folder: Path, home: Path | None = None) -> None:
        self.folder = folder
        self.home = home or folder / "home"
        self.base = self.home / ".edgekit"
        self.bin = folder / "bin"
        self.log = folder / "sshd.log"
        self.known_hosts = folder / "known_hosts"
        for made in (self.folder, self.home, self.bin, self.base):
            made.mkdir(exist_ok=True)
        self.python(self.bin / "python3")
        self.use(sys.executable)
        for name in ("host", "user"):
            self.keygen(name)
        shutil.copy(folder / "user.pub", folder / "authorized_keys")
        self.port = free_port()
        self.target = f"ssh://127.0.0.1:{self.port}"
        self.trust()
        self.process: subprocess.Popen[bytes] | None = None

    def keygen(self, name: str) -> None:
        (self.folder / name).unlink(missing_ok=True)
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(self.folder / name)]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)

    def python(self, path: Path) -> None:
        """A `python3` that is found on the board's PATH."""
        path.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
        path.chmod(0o755)

    def use(self, python: str | None) -> None:
        """Say which Python runs jobs."""
        (self.base / "setup.json").write_text(json.dumps({"python": python} if python else {}))

    def trust(self, port: int | None = None) -> None:
        key = (self.folder / "host.pub").read_text()
        self.known_hosts.write_text(f"[127.0.0.1]:{port or self.port} {key}")

    def start(self) -> None:
        config = self.folder / "sshd_config"
        config.write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {self.folder}/host\nPidFile none\nStrictModes no\n"
            f"AuthorizedKeysFile {self.folder}/authorized_keys\nPasswordAuthentication no\nUsePAM no\n"
            "KbdInteractiveAuthentication no\nPermitRootLogin yes\nLogLevel VERBOSE\nMaxStartups 100\n"
            f"SetEnv {quoted(f'HOME={self.home}')} PATH={self.bin}:/usr/bin:/bin\n"
        )
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        # Python sets Popen's own flags aside: sshd re-executes itself by its full path.
        self.process = subprocess.Popen(
            [str(SSHD), "-D", "-f", str(config), "-E", str(self.log)],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        for _ in range(500):
            if self.process.poll() is not None:
                pytest.skip(f"sshd does not start here: {self.said()[-300:]}")
            if "Server listening" in self.said():
                return
            time.sleep(0.01)
        pytest.fail(self.said())

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait()
            self.process = None

    def said(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def processes(self) -> list[int]:
        """What of ours runs on the board: whoever has its home in the environment."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and f"HOME={self.home}\0".encode() in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
        return found

    def gone(self, seconds: float = 30.0) -> bool:
        """Whether nothing of ours is left, within a bound."""
        deadline = time.monotonic() + seconds
        while self.processes():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True


class Proxy:
    """A TCP proxy between us and the server that can be told when to misbehave.

    Attributes:
        cut_after: Close both ends after so many bytes towards the server; None for never.
        hole: Swallow everything from now on, in silence.
        passed: Bytes towards the server so far, of the latest connection.
    """

    def __init__(self, port: int) -> None:
        self._to = port
        self.cut_after: int | None = None
        self.hole = threading.Event()
        self.passed = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self._to))
            self.passed = 0
            self._open += [near, far]
            threading.Thread(target=self._pass, args=(near, far, True), daemon=True).start()
            threading.Thread(target=self._pass, args=(far, near, False), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, upward: bool) -> None:
        try:
            while data := source.recv(4096):
                if self.hole.is_set():
                    continue
                if upward:
                    if self.cut_after is not None:
                        data = data[: max(0, self.cut_after - self.passed)]
                    self.passed += len(data)
                target.sendall(data)
                if upward and self.cut_after is not None and self.passed >= self.cut_after:
                    break
        except OSError:
            pass
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.close()
        for end in self._open:
            end.close()


def quoted(word: str) -> str:
    """As sshd_config wants it."""
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """One server a module; `board` gives each test a clean home."""
    if SSHD is None:
        pytest.skip("needs an OpenSSH server (Debian package openssh-server)")
    pytest.importorskip("asyncssh", reason="needs the extra ssh")
    made = Server(tmp_path_factory.mktemp("ssh"))
    made.start()
    yield made
    made.stop()


@pytest.fixture
def board(server, monkeypatch, tmp_path):
    """The server, its home emptied, and our own home with a key for it."""
    shutil.rmtree(server.base)
    server.base.mkdir()
    server.use(sys.executable)
    server.python(server.bin / "python3")
    server.trust()
    home = tmp_path / "our-home"
    (home / ".ssh").mkdir(parents=True, mode=0o700)
    shutil.copy(server.folder / "user", home / ".ssh" / "id_ed25519")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("EDGEKIT_KNOWN_HOSTS", str(server.known_hosts))
    monkeypatch.setenv("EDGEKIT_TARGET_WAIT", "0")
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    yield server
    assert server.gone(), f"left on the board: {server.processes()}"


@pytest.fixture
def proxy(board):
    """Between us and the board; `board.target` leads through it for this test."""
    made = Proxy(board.port)
    board.trust(made.port)
    board.through = f"ssh://127.0.0.1:{made.port}"
    yield made
    made.close()


JOBS = """
from __future__ import annotations
import os, signal, sys, time
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any
from edgekit.errors import EngineMissingError

@dataclass(frozen=True)
class Ask:
    value: int = 0
    text: str = ""

def double(ask: Ask) -> Ask:
    return Ask(2 * ask.value, ask.text)

def wait(ask: Ask) -> Generator[dict[str, Any], None, Ask]:
    yield {"pid": os.getpid()}
    time.sleep(ask.value)
    return ask

def suicide(ask: Ask) -> Ask:
    os.kill(os.getpid(), ask.value)
    time.sleep(60)
    return ask

def say(ask: Ask) -> Ask:
    print(ask.text, flush=True)
    os.write(1, b"more\\n")
    os._exit(3)

def write(ask: Ask) -> Ask:
    with open(ask.text, "wb") as file:
        file.write(b"x" * ask.value)
    return ask

def lack(ask: Ask) -> Ask:
    raise EngineMissingError("engine-missing", "no engine")
"""


@pytest.fixture
def jobs(tmp_path, monkeypatch):
    """Jobs to go wrong with: a module that travels in the bundle as edgekit/testing_jobs.py."""
    path = tmp_path / "testing_jobs.py"
    path.write_text(JOBS)
    spec = importlib.util.spec_from_file_location("edgekit.testing_jobs", path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "edgekit.testing_jobs", module)
    spec.loader.exec_module(module)
    content = io.BytesIO(bundle().data)
    with zipfile.ZipFile(content, "a") as packed:
        packed.writestr("edgekit/testing_jobs.py", JOBS)
    data = content.getvalue()
    monkeypatch.setattr("edgekit.targets.ssh.bundle", lambda: Bundle(hashlib.sha256(data).hexdigest(), data))
    return module
