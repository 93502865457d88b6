"""An ONNX graph in the making."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgekit.converters.stages import Array

OPSET, ML_OPSET = 15, 3
"""Of the standard operators and of ai.onnx.ml: onnxruntime 1.10 and newer."""
IR_VERSION = 8
FLOAT, INT64 = 1, 7
"""TensorProto's numbers of the element types."""

_ML = frozenset({"TreeEnsembleRegressor"})


@dataclass
class Draft:
    """Nodes and constants so far; all values are float32 where nothing else is said."""

    nodes: list[Any] = field(default_factory=list)
    constants: dict[str, Array] = field(default_factory=dict)
    _count: int = 0

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        """Name of a constant."""
        name = self._name("c")
        self.constants[name] = np.asarray(value, dtype)
        return name

    def add(self, kind: str, *inputs: str, outputs: int | Sequence[str] = 1, **attributes: Any) -> Any:
        """Add a node; the name of its output, or a list of names."""
        from onnx import helper

        names = [self._name("t") for _ in range(outputs)] if isinstance(outputs, int) else list(outputs)
        domain = "ai.onnx.ml" if kind in _ML else ""
        self.nodes.append(helper.make_node(kind, list(inputs), names, self._name(kind), domain=domain, **attributes))
        return names[0] if len(names) == 1 else names

    def _name(self, what: str) -> str:
        self._count += 1
        return f"{what}_{self._count}"

    def inline(self, model: Any, source: str) -> list[str]:
        """Add the graph of another model of one input; the names of its outputs here."""
        self._count += 1
        names = {model.graph.input[0].name: source, "": ""}

        def renamed(name: str) -> str:
            return names.setdefault(name, f"m{self._count}_{name}")

        from onnx import numpy_helper

        for tensor in model.graph.initializer:
            self.constants[renamed(tensor.name)] = np.asarray(numpy_helper.to_array(tensor))
        for node in model.graph.node:
            copy = type(node).FromString(node.SerializeToString())
            copy.input[:] = [renamed(name) for name in node.input]
            copy.output[:] = [renamed(name) for name in node.output]
            copy.name = f"m{self._count}_{node.name}"
            self.nodes.append(copy)
        return [renamed(value.name) for value in model.graph.output]

    def model(self, inputs: dict[str, Sequence[Any]], outputs: dict[str, tuple[str, int]]) -> Any:
        """The finished ModelProto.

        Args:
            inputs: Name -> sizes, "N" for a free one; all float32.
            outputs: Public name -> tensor, element type; their shapes are left open.
        """
        from onnx import helper, numpy_helper

        ends = [helper.make_node("Identity", [tensor], [name], name) for name, (tensor, _) in outputs.items()]
        graph = helper.make_graph(
            [*self.nodes, *ends],
            "edgekit",
            [helper.make_tensor_value_info(name, FLOAT, sizes) for name, sizes in inputs.items()],
            [helper.make_tensor_value_info(name, dtype, None) for name, (_, dtype) in outputs.items()],
            [numpy_helper.from_array(np.ascontiguousarray(v).reshape(v.shape), k) for k, v in self.constants.items()],
        )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", ML_OPSET)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
