"""An ONNX graph in the making.

Estimators compute in double precision where their weights are kept in it, and labels hang on the last bit. So a tensor
may be `wide`: what is computed of it is wide as well, and constants take the type of what they meet, as in numpy. The
same graph is written in two ways: as it is, or all in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgekit.converters.stages import Array

OPSET, ML_OPSET = 15, 3
"""Of the standard operators and of ai.onnx.ml: onnxruntime 1.10 and newer."""
IR_VERSION = 8
FLOAT, INT32, INT64, BOOL, DOUBLE = 1, 6, 7, 9, 11
"""TensorProto's numbers of the element types."""

_ML = frozenset({"TreeEnsembleRegressor"})
_WIDE = frozenset({
    "Abs", "Add", "ArgMax", "ArgMin", "Clip", "Concat", "Div", "Equal", "Exp", "Gather", "Greater", "GreaterOrEqual",
    "Less", "Log", "MatMul", "Max", "Min", "Mul", "Neg", "ReduceMax", "ReduceSum", "Relu", "Reshape", "Sigmoid",
    "Softmax", "Split", "Sqrt", "Sub", "Sum", "Tanh", "TopK", "Unsqueeze", "Where",
})  # fmt: skip
"""What onnxruntime computes in double precision; everything else gets its inputs in float32."""
_MADE = {"ArgMax": INT64, "ArgMin": INT64, "Equal": BOOL, "Greater": BOOL, "GreaterOrEqual": BOOL, "Less": BOOL,
         "IsNaN": BOOL}  # fmt: skip
"""Operators that answer with something else than what they are given."""


@dataclass
class Draft:
    """Nodes and constants so far; all values are float32 where nothing else is said.

    Attributes:
        nodes: In an order in which they can run.
        constants: Name -> values.
        kinds: Tensor -> element type, of those that are not float32.
        turns: What a cast between float32 and double made -> what was cast.
        count: Names given so far.
    """

    nodes: list[Any] = field(default_factory=list)
    constants: dict[str, Array] = field(default_factory=dict)
    kinds: dict[str, int] = field(default_factory=dict)
    turns: dict[str, str] = field(default_factory=dict)
    count: int = 0
    _numbers: dict[str, Array] = field(default_factory=dict)

    def constant(self, value: Any, dtype: Any = None) -> str:
        """Name of a constant; without a type it is as wide as what it meets."""
        name = self._name("c")
        if dtype is None:
            self._numbers[name] = np.asarray(value, np.float64)
        else:
            self.constants[name] = np.asarray(value, dtype)
        return name

    def add(self, kind: str, *inputs: str, outputs: int | Sequence[str] = 1, **attributes: Any) -> Any:
        """Add a node; the name of its output, or a list of names."""
        wide = kind in _WIDE and any(self.is_wide(name) for name in inputs)
        given = [self._fitting(name, wide=wide) for name in inputs]
        names = [self._name("t") for _ in range(outputs)] if isinstance(outputs, int) else list(outputs)
        self._append(kind, given, names, attributes)
        made = attributes["to"] if kind == "Cast" else _MADE.get(kind, DOUBLE if wide else FLOAT)
        for name in names[:1] if kind == "TopK" else names:
            if made != FLOAT:
                self.kinds[name] = made
        if kind == "TopK":
            self.kinds[names[1]] = INT64
        return names[0] if len(names) == 1 else names

    def wide(self, x: str) -> str:
        """A float32 tensor in double precision."""
        return x if self.is_wide(x) else self._turned(x, DOUBLE)

    def narrow(self, x: str) -> str:
        """A tensor rounded to float32."""
        return self._turned(x, FLOAT) if self.is_wide(x) else x

    def like(self, x: str, values: Any) -> str:
        """A tensor as numpy has it after it met these values: wide if they are."""
        return self.wide(x) if np.asarray(values).dtype == np.float64 else x

    def is_wide(self, name: str) -> bool:
        """Whether a tensor is in double precision."""
        return self.kinds.get(name) == DOUBLE

    def _turned(self, x: str, to: int) -> str:
        name = self._name("t")
        self._append("Cast", [self._fitting(x, wide=to == FLOAT)], [name], {"to": to})
        self.turns[name] = x
        if to == DOUBLE:
            self.kinds[name] = DOUBLE
        return name

    def _append(self, kind: str, inputs: list[str], outputs: list[str], attributes: dict[str, Any]) -> None:
        from onnx import helper

        domain = "ai.onnx.ml" if kind in _ML else ""
        self.nodes.append(helper.make_node(kind, inputs, outputs, self._name(kind), domain=domain, **attributes))

    def _fitting(self, name: str, *, wide: bool) -> str:
        """An input as an operator takes it."""
        if name in self._numbers:
            fitting = f"{name}_wide" if wide else name
            self.constants[fitting] = self._numbers[name].astype(np.float64 if wide else np.float32)
            if wide:
                self.kinds[fitting] = DOUBLE
            return fitting
        if wide and name not in self.constants and self.kinds.get(name, FLOAT) == FLOAT:
            return self._turned(name, DOUBLE)
        return name if wide else self.narrow(name)

    def _name(self, what: str) -> str:
        self.count += 1
        return f"{what}_{self.count}"

    def inline(self, model: Any, source: str) -> list[str]:
        """Add the graph of another model of one input; the names of its outputs here."""
        source = self._fitting(source, wide=False)
        self.count += 1
        names = {model.graph.input[0].name: source, "": ""}

        def renamed(name: str) -> str:
            return names.setdefault(name, f"m{self.count}_{name}")

        from onnx import numpy_helper

        for tensor in model.graph.initializer:
            self.constants[renamed(tensor.name)] = np.asarray(numpy_helper.to_array(tensor))
        for node in model.graph.node:
            copy = type(node).FromString(node.SerializeToString())
            copy.input[:] = [renamed(name) for name in node.input]
            copy.output[:] = [renamed(name) for name in node.output]
            copy.name = f"m{self.count}_{node.name}"
            self.nodes.append(copy)
        return [renamed(value.name) for value in model.graph.output]

    def model(
        self, inputs: dict[str, Sequence[Any]], outputs: dict[str, tuple[str, int]], *, wide: bool = False
    ) -> Any:
        """The finished ModelProto.

        Args:
            inputs: Name -> sizes, "N" for a free one; all float32.
            outputs: Public name -> tensor, element type; their shapes are left open.
            wide: Compute in double precision where the estimator does.
        """
        from onnx import helper, numpy_helper

        nodes, constants = (self.nodes, self.constants) if wide else self._narrowed()
        ends = []
        for name, (tensor, _) in outputs.items():
            held = tensor if wide else self._origin(tensor)
            cast = wide and self.is_wide(tensor)
            more: dict[str, Any] = {"to": FLOAT} if cast else {}
            ends.append(helper.make_node("Cast" if cast else "Identity", [held], [name], name, **more))
        used = {name for node in nodes for name in node.input}
        graph = helper.make_graph(
            [*nodes, *ends],
            "edgekit",
            [helper.make_tensor_value_info(name, FLOAT, sizes) for name, sizes in inputs.items()],
            [helper.make_tensor_value_info(name, dtype, None) for name, (_, dtype) in outputs.items()],
            [
                numpy_helper.from_array(np.ascontiguousarray(value).reshape(value.shape), name)
                for name, value in constants.items()
                if name in used
            ],
        )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", ML_OPSET)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)

    @property
    def has_wide(self) -> bool:
        """Whether anything is computed in double precision."""
        return bool(self.turns)

    def _origin(self, name: str) -> str:
        """What a tensor was before it was only cast between float32 and double."""
        while name in self.turns:
            name = self.turns[name]
        return name

    def _narrowed(self) -> tuple[list[Any], dict[str, Array]]:
        """Nodes and constants, all in float32."""
        nodes = []
        for node in self.nodes:
            if node.output[0] in self.turns:
                continue
            copy = type(node).FromString(node.SerializeToString())
            copy.input[:] = [self._origin(name) for name in node.input]
            nodes.append(copy)
        return nodes, {
            name: value.astype(np.float32) if value.dtype == np.float64 and self.is_wide(name) else value
            for name, value in self.constants.items()
        }
