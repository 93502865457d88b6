"""A model's graph with sizes: which tensors there are, which op makes and which op reads them.

What the memory planner and its explanations look at. Constants stay in the file; of tensors only sizes are known.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field

from edgekit.formats.facts import Shape

Key = Hashable
"""What a reader calls its tensors: numbers (TFLite) or names (ONNX)."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor.

    Attributes:
        name: For people.
        shape: Free sizes count as 1; None when it is not known.
        dtype: Element type; "" when unknown.
        bytes: Of its content; 0 for what lies in no arena (strings, handles), None when the shape is unknown.
        constant: It lies in the file, or follows from constants only.
        variable: It outlives a run.
        scale: Of one step of integers, where the whole tensor has one; else None.
        zero: The integer that stands for 0.
        free: Some of its sizes are left open.
    """

    name: str
    shape: Shape | None
    dtype: str
    bytes: int | None
    constant: bool = False
    variable: bool = False
    scale: float | None = None
    zero: int = 0
    free: bool = False


@dataclass(frozen=True, slots=True)
class Node:
    """One op, in the order of execution.

    Attributes:
        kind: As `OpFacts.kind`.
        name: As `OpFacts.name`.
        inputs, outputs: Keys of tensors; None for an optional one that is absent.
        attributes: Integers that decide on memory: strides, windows, dilations.
    """

    kind: str
    name: str
    inputs: tuple[Key | None, ...]
    outputs: tuple[Key | None, ...]
    attributes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class GraphFacts:
    """One graph.

    Attributes:
        tensors: By key.
        nodes: In the order of execution.
        inputs, outputs: Of the graph.
        calls: Its ops run other graphs (loops, branches, calls), whose tensors come on top.
    """

    tensors: Mapping[Key, Tensor]
    nodes: tuple[Node, ...]
    inputs: tuple[Key, ...]
    outputs: tuple[Key, ...]
    calls: bool = False

    @functools.cached_property
    def readings(self) -> Mapping[Key | None, int]:
        """How often each tensor is an input."""
        return Counter(key for node in self.nodes for key in node.inputs)

    def sizes(self) -> dict[Key, int] | None:
        """Bytes of every tensor that is no constant; None as soon as one is unknown."""
        found: dict[Key, int] = {}
        for key, tensor in self.tensors.items():
            if tensor.constant:
                continue
            if tensor.bytes is None:
                return None
            found[key] = tensor.bytes
        return found
