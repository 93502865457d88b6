"""Files from Debian's mirrors and from the package index, kept under their digest and checked by it."""

from __future__ import annotations

import hashlib
import http.client
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekit import files
from edgekit.child import Progress
from edgekit.errors import TargetError

_SILENCE_S = 30.0
"""A mirror that says nothing for this long is left for the next one."""

_PIECE = 1 << 18


@dataclass(frozen=True)
class Package:
    """A package of Debian's: its path on every mirror, SHA-256 in hex, and size."""

    path: str
    sha256: str
    bytes: int


def packages(wanted: Sequence[Package], mirrors: Sequence[str], store: Path, progress: Progress) -> list[Path]:
    """Every package as a file of `store`; what is there already is checked and taken.

    Raises:
        TargetError: `emulator-download`: no mirror gives one of them; says what each answered.
    """
    total = sum(package.bytes for package in wanted)
    done = 0
    found = []
    for package in wanted:
        place = store / f"{package.sha256}.deb"
        if not (place.is_file() and files.sha256(place) == package.sha256):
            start = done

            def told(received: int, start: int = start) -> None:
                progress({"stage": "packages", "done": (start + received) // 1000, "total": total // 1000})

            _fetch(package, mirrors, place, told)
        done += package.bytes
        found.append(place)
    return found


def wheel(
    requirement: str, platforms: Sequence[str], python: str, store: Path, *, digest: str | None, progress: Progress
) -> Path:
    """The wheel of an exact version, brought by pip from the user's own index.

    Args:
        requirement: "onnxruntime==1.32.0".
        platforms: Its tags, the best first.
        python: "3.11".
        store: Where it is kept.
        digest: SHA-256 in hex; None to take what the index says.
        progress: Told what goes on.

    Raises:
        TargetError: `emulator-download`: pip's own words; `emulator-pip`: pip is not here.
    """
    folder = store / f"{requirement}-{platforms[0]}-{python}"
    there = sorted(folder.glob("*.whl"))
    if there and (digest is None or files.sha256(there[0]) == digest):
        return there[0]
    progress({"stage": requirement})
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=store, prefix="wheel-") as scratch:
        asked = Path(scratch) / "asked.txt"
        asked.write_text(requirement + (f" --hash=sha256:{digest}" if digest else "") + "\n", encoding="utf-8")
        command = [
            *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"),
            *("--only-binary=:all:", "--implementation", "cp", "--python-version", python, "--dest", scratch),
            *(f"--platform={platform}" for platform in platforms),
            *(["--require-hashes"] if digest else []),
            *("--requirement", str(asked)),
        ]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        brought = sorted(Path(scratch).glob("*.whl"))
        if ended.returncode or len(brought) != 1:
            raise _no_wheel(requirement, ended.stderr)
        place = folder / brought[0].name
        files.replace(place, brought[0].read_bytes())
    return place


def _no_wheel(requirement: str, said: str) -> TargetError:
    if "No module named pip" in said:
        return TargetError("emulator-pip", f"{requirement} is brought by pip, which this Python does not have")
    words = " ".join(line.removeprefix("ERROR: ") for line in said.splitlines() if line.startswith("ERROR"))
    return TargetError("emulator-download", f"pip brings no {requirement}: {words or said.strip()[-300:]}")


def _fetch(package: Package, mirrors: Sequence[str], place: Path, told: Callable[[int], None]) -> None:
    answers = []
    for mirror in mirrors:
        try:
            content = _read(f"{mirror.rstrip('/')}/{package.path}", package.bytes, told)
        except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as error:
            answers.append(f"{mirror}: {error}")
            continue
        found = hashlib.sha256(content).hexdigest()
        if found == package.sha256:
            files.replace(place, content)
            return
        answers.append(f"{mirror}: its digest is {found[:12]}.., not {package.sha256[:12]}..")
    raise TargetError(
        "emulator-download", f"no mirror gives {package.path.rpartition('/')[2]}: {'; '.join(answers)}", tried=answers
    )


def _read(address: str, limit: int, told: Callable[[int], None]) -> bytes:
    content = bytearray()
    with urllib.request.urlopen(address, timeout=_SILENCE_S) as answer:  # noqa: S310 - https, or the mirror that the user set
        while piece := answer.read(_PIECE):
            content += piece
            if len(content) > limit:
                raise ValueError(f"it sends more than the {limit} bytes of the file")
            told(len(content))
    return bytes(content)
