"""What of EdgeKit travels to a board: the modules that running and measuring need, as one zip named by its content."""

from __future__ import annotations

import functools
import hashlib
import importlib
import io
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

PACKAGES = (
    "edgekit", "edgekit.deploy", "edgekit.device_profiles", "edgekit.formats", "edgekit.measure", "edgekit.monitor",
    "edgekit.runtimes", "edgekit.store", "edgekit.targets",
)  # fmt: skip
"""Modules and data in these, and in packages below all but the first; converters, commands and reports stay here."""

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
        for package in PACKAGES:
            folder = Path(importlib.import_module(package).__path__[0])
            for file in sorted(folder.iterdir() if package == "edgekit" else folder.rglob("*")):
                if file.suffix in (".py", ".toml") and file.is_file():
                    name = file.relative_to(folder).as_posix()
                    entry = zipfile.ZipInfo(f"{package.replace('.', '/')}/{name}", _EPOCH)
                    entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
                    packed.writestr(entry, file.read_bytes())
    data = content.getvalue()
    return Bundle(hashlib.sha256(data).hexdigest(), data)
