"""The SSH connection: a thread that speaks it, channels that the rest of the program reads and writes like pipes.

asyncssh needs an event loop; it runs in a thread of its own, which therefore also sends the empty lines by which the
board knows that somebody is there, whatever the program is doing. All failures of the network leave here as one
TargetError each.

The one command that the board's login shell ever sees is the constant COMMAND; a program for it, and all names, follow
as data on its standard input.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import re
import socket
import threading
from collections.abc import Coroutine
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, cast

from edgekit.errors import TargetError, UsageError
from edgekit.targets.ssh_address import PORT, Address, Trust
from edgekit.targets.ssh_channel import ANSWER, Channel

T = TypeVar("T")

HEARTBEAT = 20
"""Seconds after which a process on the board that hears nothing ends itself; four empty lines are sent in that time."""
KEEPALIVE = 5
"""Seconds between keep-alive requests; three unanswered ones and the link counts as cut."""
CONNECT = 15
"""Seconds for a connection, and as many again to log in."""

COMMAND = "exec {} -I -c 'import sys;i=sys.stdin.buffer;exec(i.read(int(i.readline())))'"
_PYTHON = re.compile(r"[A-Za-z0-9_./][A-Za-z0-9_./-]*\Z")
_MARK = b"EDGEKIT-BOARD "
_FIRST = f"""
print("\\n{_MARK.decode()}%d.%d" % sys.version_info[:2]);sys.stdout.flush()
if sys.version_info >= (3, 7): exec(i.read(int(i.readline())))
"""
_LOADER = """
import types
for name, text in %r:
    module = types.ModuleType(name)
    sys.modules[name] = module
    exec(compile(text, name, "exec"), module.__dict__)
sys.modules["edgekit.targets.ssh_keeper"].main()
"""


def program() -> bytes:
    """What COMMAND reads and runs: a word about the Python that it met, then the modules of the board's side."""
    modules = [("edgekit", ""), ("edgekit.targets", "")]
    for name in ("ssh_board", "ssh_keeper"):
        text = resources.files("edgekit.targets").joinpath(f"{name}.py").read_text(encoding="utf-8")
        modules.append((f"edgekit.targets.{name}", text))
    return b"".join(b"%d\n%b" % (len(code), code) for code in (_FIRST.encode(), (_LOADER % modules).encode()))


class Wire:
    """A connection.

    Raises:
        UsageError: `target-address`: EDGEKIT_SSH_PYTHON is no path.
        TargetError: `ssh-missing`, `target-config`, `target-unreachable`, `target-refused`, `target-key-unknown`,
            `target-key-changed`, `target-auth-failed`.
    """

    def __init__(self, address: Address, log: Path) -> None:
        self.name = str(address)
        self._address = address
        self._log = log
        python = os.environ.get("EDGEKIT_SSH_PYTHON", "python3")
        if not _PYTHON.match(python):
            raise UsageError("target-address", f"EDGEKIT_SSH_PYTHON is {python!r}, which is no plain path")
        self._command = COMMAND.format(python)
        self.python = python
        self._lost: str | None = None
        self._closing = False
        self._channels: list[Channel] = []
        self._trust = Trust()
        self._connection: Any = None
        try:
            import asyncssh  # noqa: F401
        except ImportError as error:
            raise TargetError(
                "ssh-missing", f"{self.name} needs asyncssh", next_step='pip install "edgekit-sdk[ssh]"'
            ) from error
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="edgekit-ssh", daemon=True)
        self._thread.start()
        try:
            self.call(self._connect(), 3 * CONNECT)
        except BaseException:
            self.close()
            raise

    def call(self, work: Coroutine[Any, Any, T], seconds: float) -> T:
        """Do something in the loop's thread."""
        future = asyncio.run_coroutine_threadsafe(asyncio.wait_for(work, seconds), self._loop)
        try:
            return future.result(seconds + 5)
        except TimeoutError as error:
            raise TargetError("target-unreachable", f"{self.name} does not answer within {seconds:g} s") from error
        finally:
            future.cancel()

    async def _connect(self) -> None:
        import asyncssh

        trust, wire = self._trust, self

        class Client(asyncssh.SSHClient):
            def validate_host_public_key(self, host: str, addr: str, port: int, key: Any) -> bool:
                del host, addr, port
                return trust.refuse(key)

            def validate_host_ca_key(self, host: str, addr: str, port: int, key: Any) -> bool:
                del host, addr, port
                return trust.refuse(key)

            def connection_lost(self, exc: Exception | None) -> None:
                wire._lost = str(exc) if exc else "the board closed it"

        where: dict[str, Any] = {"host": self._address.host}
        if self._address.port:
            where["port"] = self._address.port
        if self._address.user:
            where["username"] = self._address.user
        try:
            options = asyncssh.SSHClientConnectionOptions(
                **where, config=(), client_factory=Client, known_hosts=trust, password_auth=False, kbdint_auth=False,
                host_based_auth=False, gss_auth=False, gss_kex=False, agent_forwarding=False, x11_forwarding=False,
                request_pty=False, env={}, send_env=[], connect_timeout=CONNECT, login_timeout=CONNECT,
                keepalive_interval=KEEPALIVE, keepalive_count_max=2,
            )  # fmt: skip
        except (ValueError, OSError) as error:
            raise TargetError(
                "target-config", f"{self.name}: ~/.ssh/config or a key cannot be used: {error}"
            ) from error
        trust.use(cast(list[str], options.config.get("UserKnownHostsFile", [])))
        host, port = str(options.host), int(options.port or PORT)
        try:
            self._connection = await asyncssh.connect(**where, options=options)
        except asyncssh.HostKeyNotVerifiable as error:
            raise trust.error(self._address, host, port) from error
        except (OSError, UnicodeError, asyncssh.Error) as error:
            if isinstance(error, asyncssh.PermissionDenied) or "authentication failures" in str(error):
                user = options.username
                raise TargetError("target-auth-failed", f"{self.name} does not let {user} in: {error}") from error
            if trust.known and await self._other_kind(where):
                raise trust.error(self._address, host, port) from error
            raise _unreachable(self.name, host, port, error) from error
        self._loop.create_task(self._beat())

    async def _other_kind(self, where: dict[str, Any]) -> bool:
        """Whether the board has only keys of other kinds than the known ones.

        Then no connection comes so far that a key is presented, and the board is asked for its key alone.
        """
        import asyncssh

        with contextlib.suppress(OSError, asyncssh.Error):
            address = {key: value for key, value in where.items() if key != "username"}
            self._trust.seen = await asyncssh.get_server_host_key(**address)
        return self._trust.seen is not None and not self._trust.trusts(self._trust.seen)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT / 4)
            for channel in self._channels:
                channel.beat()

    def open(self, hello: dict[str, Any], log: Path | None = None) -> tuple[Channel, dict[str, Any]]:
        """Start our program on the board.

        Returns:
            Its channel and its first answer.

        Raises:
            TargetError: `target-python-missing`, `target-python-old`.
        """
        channel = self.call(self._start(Channel(self, log or self._log)), ANSWER)
        channel.write(program() + json.dumps(hello).encode() + b"\n")
        while True:
            line = channel.line(ANSWER)
            if line is None:
                raise self._no_python(channel)
            if line.startswith(_MARK):
                break
        version = line[len(_MARK) :].decode("ascii", "replace")
        if version.startswith("2.") or version in ("3.0", "3.1", "3.2", "3.3", "3.4", "3.5", "3.6"):
            raise old_python(self.name, version)
        answer = channel.message(ANSWER)
        channel.beating = True
        return channel, answer

    async def _start(self, channel: Channel) -> Channel:
        import asyncssh

        try:
            await self._connection.create_session(lambda: channel, self._command, encoding=None)
        except (asyncssh.Error, OSError) as error:
            raise TargetError("target-refused", f"{self.name} lets no command run: {error}") from error
        self._channels.append(channel)
        return channel

    def _no_python(self, channel: Channel) -> TargetError:
        status = channel.status()
        if status in (126, 127):
            return TargetError("target-python-missing", f"{self.name} has no {self.python}")
        return channel.died()

    def check(self) -> None:
        """Raises when the connection is gone."""
        if self._lost is not None and not self._closing:
            raise TargetError("target-link-lost", f"the link to {self.name} was cut: {self._lost}")

    def close(self) -> None:
        """End it. Safe to call twice."""
        if self._closing:
            return
        self._closing = True
        with contextlib.suppress(TargetError):
            self.call(self._shut(), 5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        if not self._thread.is_alive():
            self._loop.close()

    async def _shut(self) -> None:
        if self._connection is not None:
            self._connection.abort() if self._lost else self._connection.close()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._connection.wait_closed(), 2)
            self._connection.abort()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()


def old_python(name: str, version: str) -> TargetError:
    """The board's Python is older than the device side."""
    return TargetError(
        "target-python-old",
        f"{name} has Python {version}; EdgeKit's device side needs 3.11 or newer",
        next_step=f"Install a newer one beside it, then `edgekit target setup {name} --python /path/to/python3`.",
        version=version,
    )


def _unreachable(name: str, host: str, port: int, error: Exception) -> TargetError:
    """What a network says when there is nobody."""
    words = str(error) or type(error).__name__
    if isinstance(error, socket.gaierror):
        return TargetError("target-unreachable", f"{name}: the name {host} cannot be resolved")
    if isinstance(error, ConnectionRefusedError) or f"[Errno {errno.ECONNREFUSED}]" in words:
        return TargetError("target-refused", f"{name}: nothing listens on port {port} of {host}")
    if isinstance(error, TimeoutError):
        words = f"no answer within {CONNECT} s"
    return TargetError("target-unreachable", f"{name} cannot be reached: {words}")
