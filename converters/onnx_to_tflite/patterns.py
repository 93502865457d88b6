"""Operators that exporters write out, found again before the walk."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

_LARGE = 18.0
"""From here on exp(-x) is less than half a step of float32 of x."""


def rewrite(model: Any) -> None:
    """Replace what is found by single operators, in place; what is left over is dropped by the walk."""
    graph = model.graph
    view = _View(graph)
    for node in list(graph.node):
        if node.op_type == "Erf":
            _gelu(view, node)
        elif node.op_type == "Where":
            _softplus(view, node)


class _View:
    """Makers, readers and constants of a graph."""

    def __init__(self, graph: Any) -> None:
        from onnx import numpy_helper

        self.graph = graph
        self.makers = {name: node for node in graph.node for name in node.output if name}
        self.readers: dict[str, list[Any]] = {}
        for node in graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        self.outputs = {value.name for value in graph.output}
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        self._array: Callable[[Any], Any] = numpy_helper.to_array

    def number(self, name: str) -> float | None:
        """The value of a constant with one element."""
        tensor = self._tensors.get(name)
        if tensor is None:
            maker = self.makers.get(name)
            if maker is None or maker.op_type != "Constant":
                return None
            tensor = next((a.t for a in maker.attribute if a.name == "value"), None)
        if tensor is None or tensor.data_type == 8 or math.prod(tensor.dims) != 1:
            return None
        return float(np.asarray(self._array(tensor)).reshape(-1)[0])

    def only(self, node: Any) -> Any | None:
        """The node that alone reads this node's output."""
        readers = self.readers.get(node.output[0], [])
        return readers[0] if len(readers) == 1 and node.output[0] not in self.outputs else None

    def beside(self, node: Any, kind: str, number: float) -> str | None:
        """The other input of a commutative node that combines something with this number."""
        if node is None or node.op_type != kind or len(node.input) != 2:
            return None
        for at, other in ((0, 1), (1, 0)):
            found = self.number(node.input[other])
            if found is not None and abs(found - number) < 1e-4 * abs(number):
                return str(node.input[at])
        return None


def _softplus(view: _View, chosen: Any) -> None:
    """X where it is large, else softplus(x), as PyTorch has it: softplus alone, which differs by exp(-x) there."""
    question, x, below = (str(name) for name in chosen.input)
    asked, maker = view.makers.get(question), view.makers.get(below)
    if asked is None or maker is None or asked.op_type != "Greater" or maker.op_type != "Softplus":
        return
    large = view.number(asked.input[1])
    if large is None or large < _LARGE or asked.input[0] != x or maker.input[0] != x:
        return
    chosen.op_type = "Identity"
    del chosen.input[:]
    chosen.input.append(below)


def _gelu(view: _View, erf: Any) -> None:
    """X * (1 + erf(x / sqrt(2))) * 0.5, in any order of the products."""
    before = view.makers.get(erf.input[0])
    x = view.beside(before, "Mul", math.sqrt(0.5))
    if x is None and before is not None and before.op_type == "Div" and view.number(before.input[1]) is not None:
        divisor = view.number(before.input[1])
        x = str(before.input[0]) if divisor is not None and abs(divisor - math.sqrt(2)) < 1e-4 else None
    added = view.only(erf)
    if x is None or view.beside(added, "Add", 1.0) is None:
        return
    halves = {x, *(node.output[0] for node in view.readers.get(x, []) if view.beside(node, "Mul", 0.5) == x)}
    first = view.only(added)
    if first is None or first.op_type != "Mul":
        return
    if view.beside(first, "Mul", 0.5) is not None:  # 0.5 * (1 + erf), then times x
        last = view.only(first)
        done = last is not None and last.op_type == "Mul" and x in last.input
    elif x in first.input:  # x * (1 + erf), then halved
        last = view.only(first)
        done = view.beside(last, "Mul", 0.5) is not None
    else:  # (x / 2) * (1 + erf)
        last, done = first, any(name in halves for name in first.input)
    if not done or last is None:
        return
    last.op_type, last.domain = "Gelu", "com.microsoft"
    del last.input[:]
    del last.attribute[:]
    last.input.append(x)
