"""Which parts of EdgeKit stand where, as `parts.toml` says: all of them at a desk, some on a board.

Two wheels are built from this tree: `edgekit-sdk` has everything, `edgekit-runtime` what a board uses. They share the
package `edgekit`, so that one environment holds one of them.
"""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path
from typing import Literal

from edgekit.errors import EngineMissingError, UsageError

SDK, RUNTIME = "edgekit-sdk", "edgekit-runtime"
Place = Literal["desk", "board", "everywhere"]


def place_of(module: str) -> Place:
    """Where a module is needed: "edgekit.tune.front" at the desk."""
    named = _named()
    parts = module.split(".")[1:]
    for count in range(len(parts), 0, -1):  # what is said of a module goes before what is said of its package
        if place := named.get(".".join(parts[:count])):
            return place
    return "everywhere"


def desk_commands() -> list[str]:
    """Commands that a board lacks."""
    return [name.removeprefix("cli.cmd_") for name, place in _named().items() if place == "desk" and "cmd_" in name]


def has_desk() -> bool:
    """Whether the parts for a desk are installed here."""
    return importlib.util.find_spec("edgekit.pipeline") is not None


def install(extra: str) -> str:
    """The command that adds an extra to the distribution that is installed here."""
    return f'pip install "{SDK if has_desk() else RUNTIME}[{extra}]"'


def at_desk_only(what: str) -> EngineMissingError:
    """`desk-only`: this is the wheel for boards, and it was asked for more."""
    return EngineMissingError(
        "desk-only", f"{what} belongs to the desk: {RUNTIME}, which is installed here, has none of it"
    )


def both() -> tuple[str, str] | None:
    """The versions of `edgekit-sdk` and `edgekit-runtime` where both are installed, which write over each other."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(SDK), version(RUNTIME)
    except PackageNotFoundError:
        return None


def refuse_a_mixture() -> None:
    """Of two versions, some modules would be of one and some of the other.

    Raises:
        UsageError: `installed-twice`.
    """
    found = both()
    if found is not None and found[0] != found[1]:
        raise UsageError("installed-twice", f"{SDK} {found[0]} and {RUNTIME} {found[1]} lie in one folder, mixed")


@functools.cache
def _named() -> dict[str, Place]:
    import tomllib

    said = tomllib.loads(Path(__file__).with_name("parts.toml").read_text(encoding="utf-8"))
    return {name: place for place in ("desk", "board") for name in said[place]}
