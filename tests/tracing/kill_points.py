"""Every system call of a script at which it can be killed, by strace."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

_SYSCALL = re.compile(r"^(?:\d+ +)?([a-z0-9_]+)\(")


def calls(command: Sequence[str | Path], marker: str, log: Path) -> list[tuple[str, int]]:
    """(system call, its how-manyth in the process) of everything behind the marker."""
    subprocess.run(["strace", "-f", "-o", log, *command], check=True, capture_output=True)
    seen: Counter[str] = Counter()
    found, begun = [], False
    for line in log.read_text(errors="replace").splitlines():
        if (match := _SYSCALL.match(line)) is None:
            continue
        seen[match[1]] += 1
        begun = begun or marker in line
        if begun and match[1] not in ("exit_group", "execve"):
            found.append((match[1], seen[match[1]]))
    return found


def killed(command: Sequence[str | Path], name: str, which: int) -> int:
    """Exit code of a script that is killed at the `which`-th system call of that name."""
    inject = f"--inject={name}:signal=KILL:when={which}"
    traced = ["strace", "-f", "-o", "/dev/null", f"--trace={name}", inject, *command]
    return subprocess.run(traced, check=False, capture_output=True).returncode
