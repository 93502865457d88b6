"""Versions of engines that are known to fail on some cores or with some precisions; see `_faults.toml`."""

from __future__ import annotations

import functools
import tomllib
from dataclasses import dataclass
from importlib import resources

from edgekit.codec import decode


@dataclass(frozen=True)
class Fault:
    """What is wrong with some versions of a distribution.

    Attributes:
        cores: Where; empty for everywhere.
        precisions: With which artifacts; empty for all.
        what: In words: "executes an instruction that the core lacks".
        instead: Which versions are free of it.
    """

    distribution: str
    versions: tuple[str, ...]
    cores: tuple[str, ...]
    precisions: tuple[str, ...]
    what: str
    instead: str

    def sentence(self, version: str) -> str:
        """`onnxruntime 1.21.0 executes ...; 1.21.1 or newer does not`."""
        return f"{self.distribution} {version} {self.what}; {self.instead} does not"


def known_fault(
    distribution: str, version: str, *, core: str | None = None, precision: str | None = None
) -> Fault | None:
    """The fault of this version on this core, with this precision; where those are not known, any will do."""
    for fault in _faults():
        if fault.distribution == distribution and version in fault.versions:
            on_core = not fault.cores or core is None or core in fault.cores
            if on_core and (not fault.precisions or precision is None or precision in fault.precisions):
                return fault
    return None


@functools.cache
def _faults() -> tuple[Fault, ...]:
    text = resources.files("edgekit.device_profiles").joinpath("_faults.toml").read_text(encoding="utf-8")
    return tuple(decode(Fault, entry, strict=True) for entry in tomllib.loads(text)["fault"])
