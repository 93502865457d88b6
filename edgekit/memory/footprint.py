"""The figures behind the estimates: `memory.toml` beside this file, with how each was found."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

MIB = 2**20


@dataclass(frozen=True)
class Machine:
    """A userland: what wheels call it, and the bytes of a pointer."""

    name: str
    pointer: int


def machine(name: str) -> Machine:
    """Of a profile's `os.machine`."""
    narrow = name in ("armv6l", "armv7l")
    return Machine("armv7l" if narrow else name, 4 if narrow else 8)


def process(engine: str, userland: Machine) -> Mapping[str, Any]:
    """MiB of a process that has imported the engine ("import"), opened any model ("session") and run it ("first")."""
    found: Mapping[str, Any] = data()["process"][engine][userland.name]
    return found


@functools.cache
def data() -> Mapping[str, Any]:
    """The whole table."""
    return tomllib.loads(resources.files("edgekit.memory").joinpath("memory.toml").read_text(encoding="utf-8"))
