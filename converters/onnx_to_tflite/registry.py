"""Which function lowers which operator of which versions; each family of operators is one module that fills this."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from edgekit.converters.onnx_to_tflite.lowering import Lowering
    from edgekit.converters.onnx_to_tflite.nodes import Node

Rule = Callable[["Lowering", "Node"], None]
F = TypeVar("F", bound=Rule)

_FAMILIES = (
    "activations", "arithmetic", "control", "convolutions", "gathers", "grids", "linears", "ml_linear", "ml_prepare",
    "ml_trees", "normalizations", "pads", "pools", "quantized", "recurrent", "reductions", "resizes", "selections",
    "shapes", "signals", "slices",
)  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """A rule and the versions of its domain's operator set that it understands."""

    rule: Rule
    since: int
    until: int


_rules: dict[tuple[str, str], list[Entry]] = {}


def lowers(*ops: str, domain: str = "", since: int = 1, until: int = 1 << 30) -> Callable[[F], F]:
    """Register a function for operators of a domain, for operator sets `since` to `until`."""

    def register(rule: F) -> F:
        for op in ops:
            _rules.setdefault((domain, op), []).append(Entry(rule, since, until))
        return rule

    return register


def find(domain: str, op: str, version: int) -> Rule | None:
    """The rule for an operator in a version of its domain's operator set."""
    for entry in rules().get((domain, op), ()):
        if entry.since <= version <= entry.until:
            return entry.rule
    return None


@cache
def rules() -> dict[tuple[str, str], list[Entry]]:
    """(domain, operator) -> its rules, all families loaded."""
    for family in _FAMILIES:
        import_module(f"edgekit.converters.onnx_to_tflite.{family}")
    return _rules
