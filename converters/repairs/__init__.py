"""Repairs: changes to a float graph that make its quantized form more accurate, each switchable by name.

A repair is a module `repair_NAME.py` of this package (`repair_bias_correction` is called "bias-correction"), or a
stranger's under the entry point `edgekit.repairs`; see `repair.Repair` for what stands in it, and `mend` for how they
are chosen, checked and judged.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from edgekit.errors import UsageError
from edgekit.registry import Registry

AUTO, NONE = "auto", "none"


def _read(name: str, module: Any) -> Any:
    del name
    return module


def _spelled(stem: str) -> str:
    return stem.replace("_", "-")


repairs: Registry[Any] = Registry(
    kind="repair",
    package="edgekit.converters.repairs",
    prefix="repair_",
    suffix=".py",
    group="edgekit.repairs",
    read=_read,
    spelling=_spelled,
)


def names() -> list[str]:
    """All known repairs."""
    return repairs.names()


def of_kind(wanted: Iterable[str], kind: str) -> tuple[str, ...]:
    """Those of a `KIND`, in the order in which they are applied."""
    chosen = {name: module for name in wanted if kind == (module := repairs.get(name)).KIND}
    return tuple(sorted(chosen, key=lambda name: chosen[name].ORDER))


def choose(asked: str | Iterable[str], default: Iterable[str]) -> tuple[tuple[str, ...], bool]:
    """The repairs to try, and whether they were asked for by name.

    Args:
        asked: "auto" for the precision's own, "none", or names.
        default: The precision's own.

    Raises:
        UsageError: `repair-unknown`: lists the known ones; `repair-conflict`: "none" or "auto" beside others.
    """
    given = (asked,) if isinstance(asked, str) else tuple(dict.fromkeys(asked))
    special = [name for name in given if name in (AUTO, NONE)]
    if special and len(given) > 1:
        raise UsageError(
            "repair-conflict", f"{special[0]!r} cannot stand beside {', '.join(set(given) - {special[0]})}"
        )
    if special or not given:
        return (() if special == [NONE] else tuple(default)), False
    unknown = [name for name in given if name not in repairs]
    if unknown:
        known = ", ".join((AUTO, NONE, *names()))
        raise UsageError("repair-unknown", f"no repair is called {unknown[0]!r}; known: {known}")
    return given, True
