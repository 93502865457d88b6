"""What a PyTorch file is, by the names in its archive or its first bytes, with the standard library only.

Three things go by the same suffixes: weights alone (`torch.save(model.state_dict())`, or a checkpoint around them),
TorchScript, and exported programs. Weights are read by a reader that runs no code; the other two are programs.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Literal

Content = Literal["weights", "script", "program"]

_LEGACY = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"
"""How torch.save before 1.6 goes on after the pickle's protocol: its magic number as a pickled integer."""

_MEMBERS_LIMIT = 100_000
_HEADER_LIMIT = 100 << 20
"""Of safetensors, by its own rules."""

_ZIP_HEADER = 30
"""Bytes before the first member's name, whose length stands at byte 26."""

_LITE = "bytecode.pkl"
"""TorchScript for phones: its operators have no Python side."""


def content(path: Path) -> Content | None:
    """What the file holds; None when it is no PyTorch or safetensors file, or cannot be read."""
    try:
        with open(path, "rb") as file:
            head = file.read(16)
        if head[:2] == b"PK":
            return _archived(path)
    except (OSError, ValueError):
        return None
    if head[:1] == b"\x80" and head[2 : 2 + len(_LEGACY)] == _LEGACY:
        return "weights"
    return "weights" if is_safetensors(path) else None


def is_safetensors(path: Path) -> bool:
    """Whether it begins as safetensors do: the length of a JSON header, then the header."""
    try:
        with open(path, "rb") as file:
            head = file.read(9)
        return head[8:9] == b"{" and 1 < int.from_bytes(head[:8], "little") < min(_HEADER_LIMIT, path.stat().st_size)
    except OSError:
        return False


def _archived(path: Path) -> Content | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()[:_MEMBERS_LIMIT]
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError, EOFError):
        return _cut_off(path)
    # Everything in these archives lies in one folder, or at the top in exported programs of PyTorch before 2.9.
    inner = {name.partition("/")[2] for name in names} | set(names)
    if "archive_format" in inner or "serialized_exported_program.json" in inner:
        return "program"
    if _LITE in inner or "data.pkl" not in inner:
        return None
    return "script" if "constants.pkl" in inner else "weights"


def _cut_off(path: Path) -> Content | None:
    """An archive without its end, as a broken download leaves it: known by its first member, refused by its reader."""
    with open(path, "rb") as file:
        head = file.read(_ZIP_HEADER + 256)
    name = head[_ZIP_HEADER : _ZIP_HEADER + int.from_bytes(head[26:28], "little")]
    return "weights" if name.endswith(b"/data.pkl") else None
