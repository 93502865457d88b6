"""Nodes of an ONNX graph and the values between them, as the rules of the lowering see them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.converters.onnx_to_tflite.draft import Shape, Tensor
from edgekit.converters.onnx_to_tflite.refusal import Refused

Array = NDArray[Any]

Order = tuple[int, ...]
"""How a value's axes lie in a tensor: the tensor's axis i is the value's axis order[i]."""


def identity(rank: int) -> Order:
    """Axes as ONNX has them."""
    return tuple(range(rank))


def channels_last(rank: int) -> Order:
    """[N, C, ...] with C moved to the end."""
    return (0, *range(2, rank), 1)


@dataclass(eq=False, slots=True)
class Value:
    """A tensor of the ONNX graph.

    It may lie in the TFLite graph in several forms, each with its axes in another order; transposing is put off until
    an operator demands an order in which the value does not lie yet.

    Attributes:
        name: In the ONNX graph.
        shape: Sizes, all known.
        dtype: As numpy spells it.
        data: Values of a constant.
        forms: Order of axes -> tensor of the draft.
        flat: What it is a reshape of, where that was put off too.
        scaled: Of integers in a quantized graph: the real numbers that they stand for, see `Lowering.ranges`.
    """

    name: str
    shape: Shape
    dtype: str
    data: Array | None = None
    forms: dict[Order, Tensor] = field(default_factory=dict)
    flat: Value | None = None
    scaled: Value | None = None

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))


@dataclass(frozen=True)
class Node:
    """An operator.

    Attributes:
        op: Its type.
        domain: Of the type; "" is ai.onnx.
        version: Of its domain's operator set.
        name: For messages.
        inputs: None where an optional input is left out.
        outputs: Their shapes are known; None where left out.
        attributes: As numpy arrays, numbers, strings, lists of them or graphs.
        scope: Name -> value around the node, for its bodies.
    """

    op: str
    domain: str
    version: int
    name: str
    inputs: tuple[Value | None, ...]
    outputs: tuple[Value | None, ...]
    attributes: dict[str, Any]
    scope: Any = None

    def value(self, index: int = 0) -> Value:
        """An input that must be there."""
        found = self.maybe(index)
        if found is None:
            raise Refused(f"its input {index} is missing")
        return found

    def maybe(self, index: int) -> Value | None:
        """An input, or None."""
        return self.inputs[index] if index < len(self.inputs) else None

    @property
    def output(self) -> Value:
        """The first output."""
        found = self.outputs[0]
        if found is None:
            raise Refused("its first output is left out")
        return found

    def has_output(self, index: int) -> Value | None:
        """An output that may be left out."""
        return self.outputs[index] if index < len(self.outputs) else None

    def attribute(self, name: str, default: Any = None) -> Any:
        """An attribute's value."""
        return self.attributes.get(name, default)

    def constant(self, index: int, what: str) -> Array | None:
        """The values of an input that must be constant if it is there.

        Raises:
            Refused: It is computed while the model runs.
        """
        value = self.maybe(index)
        if value is None:
            return None
        if value.data is None:
            raise Refused(f"its {what} {value.name!r} is computed while the model runs, and must be constant")
        return value.data

    def ints(self, name: str, index: int | None = None, default: Sequence[int] | None = None) -> list[int] | None:
        """Integers given as an attribute (older opsets) or as a constant input (newer ones)."""
        if name in self.attributes:
            found = self.attributes[name]
            return [int(found)] if isinstance(found, int) else [int(item) for item in found]
        if index is not None:
            values = self.constant(index, name)
            if values is not None:
                return [int(item) for item in values.reshape(-1)]
        return None if default is None else list(default)


def axis_of(axis: int, rank: int) -> int:
    """An axis counted from the front."""
    return axis + rank if axis < 0 else axis
