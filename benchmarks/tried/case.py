"""What a family of tried models consists of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Made:
    """A model, samples, and its framework's own answers.

    Attributes:
        source: What `edgekit.convert` takes.
        data: Input name -> samples.
        answers: Output name -> array, the arrays in the outputs' order, or what gives the arrays of named outputs.
        options: Of `convert`.
        formats, precisions: What is tried.
        loose: The answers' axes may lie otherwise, or have other names: figures are EdgeKit's own.
        chained: The other format is made of the ONNX artifact, not of the source once more.
        check: What else is wrong with the artifact, in words.
    """

    source: Any
    data: dict[str, Any]
    answers: dict[str, Any] | list[Any] | Callable[[list[str]], dict[str, Any]]
    options: dict[str, Any] = field(default_factory=dict)
    formats: tuple[str, ...] = ("onnx", "tflite")
    precisions: tuple[str, ...] = ("fp32", "int8")
    loose: bool = False
    chained: bool = False
    check: Callable[[Any], list[str]] | None = None


@dataclass(frozen=True)
class Case:
    """A model by name, made when its turn comes."""

    name: str
    build: Callable[[], Made]
