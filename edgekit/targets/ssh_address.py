"""`ssh://[user@]host[:port]`, and which host keys are trusted.

Names are checked here before anything looks at them, because ~/.ssh/config may hand them to a ProxyCommand: a letter,
digit or underscore first, so that none reads as an option, and nothing that a shell would see.

A key is trusted when it stands in a known_hosts file, and never becomes trusted by being seen. The files are the one
of EDGEKIT_KNOWN_HOSTS, else those of UserKnownHostsFile in ~/.ssh/config, else the usual ones.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.errors import TargetError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

PORT = 22
_USUAL = ("~/.ssh/known_hosts", "~/.ssh/known_hosts2")
_GLOBAL = ("/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2")
_FORM = re.compile(
    r"//(?:(?P<user>[A-Za-z0-9_][A-Za-z0-9._-]{0,63})@)?"
    r"(?:(?P<host>(?=.{1,253}(?:[:/]|\Z))[A-Za-z0-9_][A-Za-z0-9_-]{0,62}(?:\.[A-Za-z0-9_-]{1,63})*\.?)|\[(?P<ip>[0-9A-Fa-f:.]{2,45})\])"
    r"(?::(?P<port>[0-9]{1,5}))?/?\Z"
)


@dataclass(frozen=True)
class Address:
    """Where, as the user wrote it; None is left to ~/.ssh/config and the usual values."""

    host: str
    user: str | None = None
    port: int | None = None

    def __str__(self) -> str:
        user = f"{self.user}@" if self.user else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"ssh://{user}{host}" + (f":{self.port}" if self.port else "")


def parse(rest: str) -> Address:
    """What follows `ssh:`.

    Raises:
        UsageError: `target-address`.
    """
    found = _FORM.match(rest)
    port = int(found["port"]) if found and found["port"] else None
    if not found or (port is not None and not 0 < port < 1 << 16):
        shown = re.sub(r"(?<=:)[^:@/]*(?=@)", "...", rest)  # a password, if it is one, is not for logs
        raise UsageError("target-address", f"{'ssh:' + shown!r} is no board's address")
    return Address(found["host"] or found["ip"], found["user"], port)


class Trust:
    """The keys that known_hosts files give to one host; what a connection is checked against before it authenticates.

    Attributes:
        files: That were looked at, whether they exist or not.
        known: Whether any key of that host is trusted, which tells a changed key from an unknown one.
        seen: The key that was presented and is not trusted.
    """

    def __init__(self) -> None:
        self.files: list[Path] = []
        self.known = False
        self.seen: Any = None
        self._keys: list[Any] = []

    def use(self, configured: Sequence[str]) -> None:
        """Name the files; `configured` are those of ~/.ssh/config."""
        own = os.environ.get("EDGEKIT_KNOWN_HOSTS")
        names = [own] if own else [*(configured or _USUAL), *_GLOBAL]
        self.files = [Path(name).expanduser() for name in names if name != "none"]

    def __call__(self, host: str, addr: str, port: int | None) -> Any:
        """What asyncssh asks: trusted keys, authorities, revoked keys and the like.

        An entry for the very port is needed where it is not the usual one, and the address alone never matches: both
        as OpenSSH has it.
        """
        import asyncssh

        del addr
        text = "\n".join(_read(file) for file in self.files)
        try:
            known = asyncssh.import_known_hosts(text)
        except ValueError as error:
            raise TargetError("target-config", f"{self.files[0]} is no known_hosts file: {error}") from error
        found = known.match(f"[{host}]:{port}" if port else host, "", None)
        self.known = any(found[:2])
        self._keys = list(found[0])
        return found

    def trusts(self, key: Any) -> bool:
        """Whether a key is among the trusted ones."""
        return key in self._keys

    def refuse(self, key: Any) -> bool:
        """What asyncssh asks about a key that is not among the trusted ones."""
        self.seen = key
        return False

    def error(self, address: Address, host: str, port: int) -> TargetError:
        """Why no connection was made."""
        place = f"[{host}]:{port}" if port != PORT else host
        file = self.files[0] if self.files else Path(_USUAL[0])
        print_ = self.seen.get_fingerprint() if self.seen else "no key of the kinds that are known"
        kind = self.seen.get_algorithm() if self.seen else "none"
        scan = f"ssh-keyscan {'' if port == PORT else f'-p {port} '}{host} >> {file}"
        facts = {"fingerprint": print_, "algorithm": kind, "known_hosts": str(file)}
        if self.known:
            return TargetError(
                "target-key-changed",
                f"{address} presents another host key than {file} knows: {kind} {print_}",
                next_step=f"Only when the board was installed anew: `ssh-keygen -R '{place}' -f {file}`, then compare "
                f"the fingerprint on the board itself and add it: `{scan}`",
                **facts,
            )
        return TargetError(
            "target-key-unknown",
            f"the host key of {address} is not known: {kind} {print_}",
            next_step="Compare the fingerprint with what `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` says on "
            f"the board itself; then add it: `{scan}`",
            **facts,
        )


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise TargetError("target-config", f"{file} cannot be read: {error.strerror}") from error
