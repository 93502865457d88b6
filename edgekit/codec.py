"""Frozen dataclasses <-> JSON values, by their type hints.

One codec serves the manifest, the device profiles, the precisions and the messages between processes, so that
"what may stand in this file" is said once: in the dataclass. The device side needs it, hence no library.
Understood: str, int, float, bool, None, Any, Literal, X | None, tuple[X, ...], fixed tuples, list[X],
dict[str, X] and nested dataclasses. A dataclass refuses impossible values in its own `__post_init__`.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union, cast

T = TypeVar("T")


class CodecError(ValueError):
    """A JSON value does not fit its dataclass; the message starts with the path to the field."""


def encode(value: Any) -> Any:
    """Turn a dataclass (or a container of them) into JSON values; None fields are left out."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value))
        return {name: encode(item) for name, item in fields if item is not None}
    if isinstance(value, Mapping):
        return {str(key): encode(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [encode(item) for item in value]
    return value


def decode(kind: type[T], data: Any, *, strict: bool = False, where: str = "") -> T:
    """Build a `kind` from JSON values.

    Args:
        kind: A dataclass (or any type listed in the module header).
        data: What `json.loads` or `tomllib.loads` returned.
        strict: Refuse fields that `kind` does not have; otherwise they are ignored, so that a file of a
            later version can still be read.
        where: Path of `data` in its document, for messages.

    Raises:
        CodecError: A field is missing, unknown (strict) or of the wrong type.
    """
    return cast(T, _decode(kind, data, strict, where))


def finite(data: Any) -> Any:
    """The same without NaN and infinity, which JSON lacks: None in their place."""
    if isinstance(data, float):
        return data if abs(data) < float("inf") else None
    if isinstance(data, Mapping):
        return {key: finite(value) for key, value in data.items()}
    return [finite(value) for value in data] if isinstance(data, (list, tuple)) else data


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _decode(kind: Any, data: Any, strict: bool, where: str) -> Any:
    if type(data) is kind and kind is not dict:  # what most of a large document is
        return data
    origin = typing.get_origin(kind)
    if kind is Any:
        return data
    if origin in (Union, types.UnionType):
        return _decode_union(typing.get_args(kind), data, strict, where)
    if origin is Literal:
        if data not in typing.get_args(kind):
            raise CodecError(f"{where}: {data!r} is none of {', '.join(map(repr, typing.get_args(kind)))}")
        return data
    if dataclasses.is_dataclass(kind):
        return _decode_dataclass(cast(type, kind), data, strict, where)
    if origin in (tuple, list):
        return _decode_sequence(origin, typing.get_args(kind), data, strict, where)
    if origin in (dict, Mapping) or kind is dict:
        return _decode_mapping(typing.get_args(kind), data, strict, where)
    return _decode_scalar(kind, data, where)


def _decode_union(options: tuple[Any, ...], data: Any, strict: bool, where: str) -> Any:
    if data is None and type(None) in options:
        return None
    problems: list[str] = []
    for option in options:
        if option is type(None):
            continue
        try:
            return _decode(option, data, strict, where)
        except CodecError as error:
            problems.append(str(error))
    raise CodecError("; ".join(problems) or f"{where}: may not be null")


def _decode_dataclass(kind: type, data: Any, strict: bool, where: str) -> Any:
    if not isinstance(data, Mapping):
        raise CodecError(f"{where or kind.__name__}: expected a table, got {type(data).__name__}")
    hints = _hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind) if f.init}
    unknown = sorted(set(data) - set(fields))
    if strict and unknown:
        raise CodecError(f"{where or kind.__name__}: unknown field {', '.join(unknown)}; known: {', '.join(fields)}")
    values: dict[str, Any] = {}
    for name, field in fields.items():
        path = f"{where}.{name}" if where else name
        if name in data:
            values[name] = _decode(hints[name], data[name], strict, path)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            if type(None) in typing.get_args(hints[name]):
                values[name] = None  # `encode` leaves None out
                continue
            raise CodecError(f"{path}: missing")
    try:
        return kind(**values)
    except CodecError:
        raise
    except ValueError as error:
        raise CodecError(f"{where or kind.__name__}: {error}") from error


def _decode_sequence(origin: Any, args: tuple[Any, ...], data: Any, strict: bool, where: str) -> Any:
    if not isinstance(data, (list, tuple)):
        raise CodecError(f"{where}: expected a list, got {type(data).__name__}")
    if origin is tuple and not (len(args) == 2 and args[1] is Ellipsis):
        if len(args) != len(data):
            raise CodecError(f"{where}: expected {len(args)} items, got {len(data)}")
        pairs = enumerate(zip(args, data, strict=True))
        return tuple(_decode(kind, item, strict, f"{where}[{i}]") for i, (kind, item) in pairs)
    return origin(_decode(args[0], item, strict, f"{where}[{i}]") for i, item in enumerate(data))


def _decode_mapping(args: tuple[Any, ...], data: Any, strict: bool, where: str) -> dict[str, Any]:
    if not isinstance(data, Mapping):
        raise CodecError(f"{where}: expected a table, got {type(data).__name__}")
    kind = args[1] if args else Any
    return {str(key): _decode(kind, item, strict, f"{where}.{key}") for key, item in data.items()}


def _decode_scalar(kind: Any, data: Any, where: str) -> Any:
    if kind is float and isinstance(data, int) and not isinstance(data, bool):
        return float(data)
    if kind in (str, bool, float) and isinstance(data, kind):
        return data
    if kind is int and isinstance(data, int) and not isinstance(data, bool):
        return data
    raise CodecError(f"{where}: expected {getattr(kind, '__name__', kind)}, got {type(data).__name__}")
