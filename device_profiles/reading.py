"""From TOML text to a profile: parents, sources, then the strict decode.

A profile is a TOML file of a few tables (`edgekit.device_profiles.schema`) and two keys of its own:

- `inherits`: a name or a list of names. Tables are merged key by key, later names over earlier ones and the file
  over them all; a list and an `[engines.NAME]` table are one value and replaced whole.
- `[sources]`: where the figures *of this file* come from. A key is a figure's dotted path ("memory.idle_mib") or
  the path of a table around it ("peak"), the longest one counts. An inherited figure keeps its parent's source; one
  that a file sets without a source is recorded as stated by that file, so that nothing is ever attributed to a
  source that did not say it.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from edgekit.codec import CodecError, decode
from edgekit.device_profiles.schema import Profile
from edgekit.errors import UsageError

STATED = "stated in "
"""Start of the source of a figure whose file gives none."""

_DEEPEST = 16
"""Generations of parents; more are a loop through links whose names differ."""

_OWN = ("title", "notes", "inherits", "sources")


@dataclass(frozen=True)
class Definition:
    """A profile file as written.

    Attributes:
        name: What to call it in messages and in the profile.
        table: Its TOML.
    """

    name: str
    table: Mapping[str, Any]


Find = Callable[[str, Definition], Definition]
"""Finds the parent of this name for that child; raises `UsageError` when there is none."""


def parse(name: str, text: Any) -> Definition:
    """Read TOML text, or what a stranger's entry point names: a function that returns such text.

    Raises:
        UsageError: `profile-invalid`.
    """
    content = text() if callable(text) else text
    if not isinstance(content, str):
        raise _invalid(name, f"expected TOML text, got {type(content).__name__}")
    try:
        return Definition(name, tomllib.loads(content))
    except (ValueError, RecursionError) as error:
        # TOMLDecodeError is a ValueError, as is what int() says of a number of thousands of digits.
        raise _invalid(name, f"it is not TOML: {error}") from error


def resolve(definition: Definition, find: Find) -> Profile:
    """Merge a definition with its parents and check the result.

    Raises:
        UsageError: `profile-invalid`, `profile-cycle`, or what `find` raises.
    """
    title, notes, figures, sources = _flatten(definition, find, ())
    table: dict[str, Any] = {"name": definition.name, "notes": notes, "sources": sources}
    if title is not None:
        table["title"] = title
    for path, value in figures.items():
        _put(definition.name, table, path, value)
    try:
        return decode(Profile, table, strict=True)
    except (CodecError, OverflowError) as error:
        raise _invalid(definition.name, str(error)) from error


_Flat = tuple[Any, Any, dict[tuple[str, ...], Any], dict[str, str]]


def _flatten(definition: Definition, find: Find, below: tuple[str, ...]) -> _Flat:
    """Title, notes, figures by path and sources by dotted path, parents first."""
    name = definition.name
    if name in below or len(below) > _DEEPEST:
        raise UsageError("profile-cycle", f"device profiles inherit each other: {' -> '.join((*below, name))}")
    if "name" in definition.table:
        raise _invalid(name, "name: a profile is called what its file is called")
    title: Any = None
    notes: Any = ()
    figures: dict[tuple[str, ...], Any] = {}
    sources: dict[str, str] = {}
    for parent in _parents(definition):
        seen = _flatten(find(parent, definition), find, (*below, name))
        title, notes = seen[0] or title, seen[1] or notes
        for path, value in seen[2].items():
            _set(name, figures, sources, path, value, seen[3][".".join(path)])
    table = definition.table
    given = _given_sources(definition)
    used: set[str] = set()
    for path, value in _leaves({key: value for key, value in table.items() if key not in _OWN}).items():
        prefix = _longest(path, given)
        used |= {prefix} if prefix else set()
        _set(name, figures, sources, path, value, given[prefix] if prefix else STATED + name)
    idle = sorted(set(given) - used)
    if idle:
        raise _invalid(name, f"sources.{idle[0]}: the file sets no such figure (or a longer path gives its source)")
    return table.get("title", title), table.get("notes", notes), figures, sources


def _parents(definition: Definition) -> list[str]:
    inherits = definition.table.get("inherits", [])
    names = [inherits] if isinstance(inherits, str) else inherits
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise _invalid(definition.name, "inherits: expected a name or a list of names")
    return names


def _given_sources(definition: Definition) -> dict[str, str]:
    given = definition.table.get("sources", {})
    if not isinstance(given, dict):
        raise _invalid(definition.name, f"sources: expected a table, got {type(given).__name__}")
    for key, value in given.items():
        if not isinstance(value, str) or not value.strip():
            raise _invalid(definition.name, f"sources.{key}: expected a text (quote a key that has dots)")
    return given


def _leaves(table: Mapping[str, Any], above: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    found: dict[tuple[str, ...], Any] = {}
    for key, value in table.items():
        path = (*above, key)
        # An engine is one statement: a version inherited next to a reason why there is none would be nonsense. So are
        # the prices of an engine, which were fitted together.
        if isinstance(value, dict) and not (len(path) == 2 and path[0] in ("engines", "costs")):
            found |= _leaves(value, path)
        else:
            found[path] = value
    return found


def _longest(path: tuple[str, ...], given: Mapping[str, str]) -> str | None:
    for length in range(len(path), 0, -1):
        prefix = ".".join(path[:length])
        if prefix in given:
            return prefix
    return None


def _set(
    name: str,
    figures: dict[tuple[str, ...], Any],
    sources: dict[str, str],
    path: tuple[str, ...],
    value: Any,
    source: str,
) -> None:
    for other in figures:
        if other != path and (other[: len(path)] == path or path[: len(other)] == other):
            raise _invalid(name, f"{'.'.join(path)}: is a table in one file of the family and a value in another")
    figures[path] = value
    sources[".".join(path)] = source


def _put(name: str, table: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    at = table
    for part in path[:-1]:
        at = at.setdefault(part, {})
        if not isinstance(at, dict):
            raise _invalid(name, f"{'.'.join(path)}: {part} is not a table")
    at[path[-1]] = value


def _invalid(name: str, problem: str) -> UsageError:
    return UsageError("profile-invalid", f"the device profile {name} is invalid: {problem}", profile=name)
