"""The JSON Schema of a profile file, from the dataclasses that read it: for editors, and for profiles made elsewhere.

It describes a file as it is written: every table may be left to a parent (`inherits`), so that nothing is required.
What a schema cannot say, such as that usable memory does not exceed what Linux sees, `edgekit devices validate` checks.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
import typing
from typing import Any, Literal, Union

from edgekit.device_profiles.schema import COSTS, ISA, Profile
from edgekit.device_profiles.software import ENGINES, Engine

DRAFT = "https://json-schema.org/draft/2020-12/schema"
_SCALARS: dict[Any, dict[str, Any]] = {
    str: {"type": "string"},
    bool: {"type": "boolean"},
    int: {"type": "integer", "exclusiveMinimum": 0},
    float: {"type": "number", "exclusiveMinimum": 0},
}
_OWN = ("costs", "name", "title", "notes", "sources", "engines")


def schema() -> dict[str, Any]:
    """The whole document."""
    hints = typing.get_type_hints(Profile)
    properties: dict[str, Any] = {
        "title": {"type": "string", "description": "For people."},
        "notes": {"type": "array", "items": {"type": "string"}, "description": "What a user of the board should know."},
        "inherits": {
            "description": "A known board, or the path of a file, or a list of them; later ones go over earlier ones.",
            "oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
        },
        "sources": {
            "type": "object",
            "description": "Dotted path of a figure, or of a table around it -> where it comes from.",
            "additionalProperties": {"type": "string", "minLength": 1},
        },
        "engines": {
            "type": "object",
            "description": "Inference engines there: a version with wheels, or the reason why there is none.",
            "properties": {name: _table(Engine) for name in ENGINES},
            "additionalProperties": False,
        },
        "costs": {
            "type": "object",
            "description": "What kernels cost, by `devices probe`: ENGINE-PRECISION-THREADS -> unit -> ns.",
            "patternProperties": {
                COSTS.pattern.replace(r"\Z", "$"): {
                    "type": "object",
                    "additionalProperties": {"type": "number", "minimum": 0},
                }
            },
            "additionalProperties": False,
        },
    }
    for field in dataclasses.fields(Profile):
        if field.name not in _OWN:
            properties[field.name] = _table(hints[field.name])
    properties["cpu"]["properties"]["isa"]["items"] = {"enum": list(ISA)}
    return {
        "$schema": DRAFT,
        "title": "EdgeKit device profile",
        "description": "A board: what it can hold and run. `edgekit devices validate FILE` checks more than this.",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
    }


def _table(kind: type) -> dict[str, Any]:
    about, said = _docstring(kind)
    hints = typing.get_type_hints(kind)
    properties = {}
    for field in dataclasses.fields(kind):
        properties[field.name] = _value(hints[field.name])
        if field.name in said:
            properties[field.name]["description"] = said[field.name]
    return {"type": "object", "description": about, "properties": properties, "additionalProperties": False}


def _value(kind: Any) -> dict[str, Any]:
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType):
        (only,) = (option for option in inner if option is not type(None))
        return _value(only)
    if origin is Literal:
        return {"enum": list(inner)}
    if origin is tuple:
        return {"type": "array", "items": _value(inner[0])}
    return dict(_SCALARS[kind]) if kind in _SCALARS else _table(kind)


def _docstring(kind: type) -> tuple[str, dict[str, str]]:
    """The summary, and what the section "Attributes" says of each name (several may share a line)."""
    text = inspect.getdoc(kind) or ""
    summary, _, rest = text.partition("\n\nAttributes:\n")
    said: dict[str, str] = {}
    for entry in re.split(r"\n(?=    \w)", "\n" + rest):
        names, _, about = entry.strip().partition(": ")
        said.update((name.strip(), " ".join(about.split())) for name in names.split(",") if about)
    return " ".join(summary.split()), said
