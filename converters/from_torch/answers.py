"""What a network answers, as a flat list of named tensors: dicts, tuples, dataclasses and what they hold."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from edgekit.errors import SourceError

_DEPTH = 8


def numeric(tensor: Any) -> Any:
    """A tensor as engines answer it: they have no bfloat16, and numpy neither."""
    import torch

    return tensor.float() if tensor.dtype == torch.bfloat16 else tensor


def leaves(answer: Any, name: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """The tensors in an answer and what it calls them: keys, field names, places; what is no tensor is left out."""
    import torch

    if depth > _DEPTH:
        return
    if isinstance(answer, torch.Tensor):
        yield name, answer
        return
    inner: Iterator[tuple[str, Any]] | list[tuple[str, Any]] = []
    if isinstance(answer, Mapping):
        inner = [(str(key), value) for key, value in answer.items()]
    elif isinstance(answer, tuple) and hasattr(answer, "_fields"):
        inner = list(zip(answer._fields, answer, strict=True))
    elif isinstance(answer, (list, tuple)):
        inner = [(str(place) if name else f"output_{place}", value) for place, value in enumerate(answer)]
    elif dataclasses.is_dataclass(answer) and not isinstance(answer, type):
        inner = [(field.name, getattr(answer, field.name)) for field in dataclasses.fields(answer)]
    for key, value in inner:
        yield from leaves(value, f"{name}_{key}" if name else key, depth + 1)


def names_of(answer: Any) -> list[str]:
    """What the tensors in an answer are called."""
    return [name or "output" for name, _ in leaves(answer)]


def check(names: list[str], answer: Any) -> None:
    """Refuse answers that no engine can give.

    Raises:
        SourceError: `torch-outputs`: there are no tensors; `source-dtype`.
    """
    tensors = [tensor for _, tensor in leaves(answer)]
    if not tensors:
        raise SourceError("torch-outputs", "the network answers no tensors")
    for name, tensor in zip(names, tensors, strict=True):
        dtype = str(tensor.dtype).removeprefix("torch.")
        if tensor.is_complex() or tensor.is_sparse or tensor.is_quantized:
            raise SourceError("source-dtype", f"the output {name!r} is {dtype}, which no engine gives")
