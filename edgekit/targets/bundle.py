"""What of EdgeKit travels to a board: the modules that running and measuring need, as one zip named by its content.

Which those are stands in `edgekit/parts.toml`.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from edgekit.parts import place_of

_APART = ("device_profiles", "runtimes")
"""Packages whose folders stand elsewhere in a checkout."""

_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The earliest date that a zip can hold: the same modules give the same bytes."""


@dataclass(frozen=True)
class Bundle:
    """The zip; unpacked, its folder is what `PYTHONPATH` names on the board.

    Attributes:
        digest: SHA-256 of `data`, in hex.
    """

    digest: str
    data: bytes = field(repr=False)

    def unpack(self, folder: Path) -> None:
        """Write the modules below `folder`, which may exist."""
        with zipfile.ZipFile(io.BytesIO(self.data)) as packed:
            packed.extractall(folder)


@functools.cache
def bundle() -> Bundle:
    """The bundle of this very EdgeKit."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, file in _carried():
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            packed.writestr(entry, file.read_bytes())
    data = content.getvalue()
    return Bundle(hashlib.sha256(data).hexdigest(), data)


def _carried() -> Iterator[tuple[str, Path]]:
    """Names in the zip and files: modules and data that are needed everywhere."""
    for package in ("edgekit", *(f"edgekit.{name}" for name in _APART)):
        folder = Path(importlib.import_module(package).__path__[0])
        for file in sorted(folder.rglob("*")):
            inside = file.relative_to(folder)
            if file.suffix not in (".py", ".toml") or (package == "edgekit" and inside.parts[0] in _APART):
                continue  # a checkout may have links there
            module = ".".join([package, *inside.with_suffix("").parts])
            if file.is_file() and place_of(module) == "everywhere":
                yield f"{package.replace('.', '/')}/{inside.as_posix()}", file
