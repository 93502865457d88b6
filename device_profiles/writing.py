"""A device profile as TOML text that `edgekit.device_profiles.reading` reads back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def toml(
    title: str, tables: Mapping[str, Mapping[str, Any]], sources: Mapping[str, str], notes: tuple[str, ...] = ()
) -> str:
    """The text; values of None, and tables without any other, are left out.

    Args:
        title: For people.
        tables: By dotted name: "cpu", "engines.litert".
        sources: Dotted path -> where the figures come from; those of tables that are left out go with them.
        notes: What a user of the board should know.
    """
    lines = [f"title = {_value(title)}"]
    if notes:
        lines += ["notes = [", *(f"    {_value(note)}," for note in notes), "]"]
    kept = {name: {k: v for k, v in table.items() if v is not None} for name, table in tables.items()}
    for name, table in kept.items():
        if table:
            lines += ["", f"[{name}]", *(f"{key} = {_value(value)}" for key, value in table.items())]
    there = {path: said for path, said in sources.items() if _stated(path, kept)}
    lines += ["", "[sources]", *(f"{_value(path)} = {_value(said)}" for path, said in there.items())]
    return "\n".join(lines) + "\n"


def _stated(path: str, tables: Mapping[str, Mapping[str, Any]]) -> bool:
    table, _, key = path.rpartition(".")
    return bool(tables.get(path)) or key in tables.get(table, {})


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_value(item)}" for key, item in value.items() if item is not None) + " }"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    if isinstance(value, str):  # JSON's escapes are TOML's, but for the one that TOML wants escaped beside
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return str(value)
