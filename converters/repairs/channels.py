"""Groups of tensors whose channels can be scaled together without changing any answer.

Whatever makes such a tensor multiplies its channels by numbers of its own (kernels, a normalization's factors), so it
can make channel c twice as large; whatever lies between (Relu, pooling, additions, biases) passes that on; and
whatever reads it multiplies again and can take the factor back. A group is all tensors that are so connected. It is
left alone if anything else touches it: an output of the model, a sigmoid, a Relu6.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from edgekit.converters.repairs.view import Layer, Op, View


@dataclass(frozen=True)
class Group:
    """Tensors that share their channels.

    Attributes:
        channels: How many.
        tensors: Name -> channel axis.
        makers, readers: Layers at its ends.
        scales: Constants of one element a channel that make a tensor of the group, with it: a normalization's.
        inverse: Constants that multiply what they read from it.
        normalized: One of the makers is no layer but a normalization or a multiplication.
    """

    channels: int
    tensors: dict[str, int]
    makers: tuple[Layer, ...]
    readers: tuple[Layer, ...]
    scales: tuple[str, ...]
    inverse: tuple[str, ...]
    normalized: bool


def groups(view: View) -> Iterator[Group]:
    """All groups with a reader that is a layer, in the order of the graph."""
    links = _Links(view)
    seen: set[str] = set()
    for op in view.ops:
        axis = op.layer.made_axis if op.layer is not None else op.axis
        if op.kind in ("layer", "scale") and op.outputs[0] not in seen:
            found = _Flood(view, links).run(op.outputs[0], axis)
            if found is not None:
                seen.update(found.tensors)
                yield found


class _Links:
    def __init__(self, view: View) -> None:
        self.maker = {name: op for op in view.ops for name in op.outputs}
        self.readers: dict[str, list[Op]] = {}
        for op in view.ops:
            for name in dict.fromkeys(op.inputs):
                self.readers.setdefault(name, []).append(op)


class _Flood:
    """Walks from one tensor to all that share its channels; gives up at what cannot be scaled."""

    def __init__(self, view: View, links: _Links) -> None:
        self._view = view
        self._links = links
        self._tensors: dict[str, int] = {}
        self._ends: dict[str, list[Layer]] = {"makers": [], "readers": []}
        self._scales: list[str] = []
        self._inverse: list[str] = []
        self._normalized = False

    def run(self, name: str, axis: int) -> Group | None:
        channels = self._size(name, axis)
        waiting = [(name, axis)]
        while waiting:
            name, axis = waiting.pop()
            if name in self._tensors:
                if self._tensors[name] != axis:
                    return None
                continue
            if channels < 2 or self._size(name, axis) != channels or name in self._view.outputs:
                return None
            self._tensors[name] = axis
            steps = self._steps(name, axis)
            if steps is None:
                return None
            waiting += steps
        readers = tuple(dict.fromkeys(self._ends["readers"]))
        if not readers:
            return None
        makers = tuple(dict.fromkeys(self._ends["makers"]))
        return Group(
            channels, self._tensors, makers, readers, tuple(dict.fromkeys(self._scales)), tuple(self._inverse),
            self._normalized,
        )  # fmt: skip

    def _size(self, name: str, axis: int) -> int:
        shape = self._view.shape(name)
        return shape[axis] if shape is not None and axis < len(shape) else -1

    def _steps(self, name: str, axis: int) -> list[tuple[str, int]] | None:
        """Where to go on from a tensor; None when it cannot be scaled."""
        maker = self._links.maker.get(name)
        back = None if maker is None else self._back(maker, name, axis)
        if back is None:
            return None
        steps = back
        for reader in self._links.readers.get(name, []):
            on = self._on(reader, axis)
            if on is None:
                return None
            steps += on
        return steps

    def _back(self, op: Op, name: str, axis: int) -> list[tuple[str, int]] | None:
        if op.layer is not None:
            self._ends["makers"].append(op.layer)
            return [] if op.layer.homogeneous and op.layer.made_axis == axis else None
        if op.kind == "scale" and op.axis == axis:
            self._normalized = True
            self._scales += op.constants
            return []
        if op.kind == "shift" and op.axis == axis:
            self._scales += op.constants
            return [(op.inputs[0], self._like(name, op.inputs[0], axis))]
        if op.kind == "same":
            return self._before(op, axis)
        return None

    def _on(self, op: Op, axis: int) -> list[tuple[str, int]] | None:
        if op.layer is not None:
            self._ends["readers"].append(op.layer)
            return [] if op.layer.axis == axis else None
        if (
            op.kind == "scale"
            and op.title in ("Mul", "MUL")
            and self._like(op.inputs[0], op.outputs[0], axis) == op.axis
        ):
            self._inverse += op.constants
            return []
        if op.kind == "shift" and self._like(op.inputs[0], op.outputs[0], axis) == op.axis:
            return [(op.outputs[0], op.axis)]
        if op.kind == "same":
            after = op.turn(axis)
            return None if after is None else [(name, after) for name in op.outputs]
        return None

    def _before(self, op: Op, axis: int) -> list[tuple[str, int]] | None:
        """The axis of the inputs that an operator turns into `axis`; None where it is not exactly one."""
        rank = len(self._view.shape(op.inputs[0]) or ())
        found = [place for place in range(rank) if op.turn(place) == axis]
        return [(name, found[0]) for name in op.inputs] if len(found) == 1 else None

    def _like(self, name: str, other: str, axis: int) -> int:
        """The same axis counted from the end: constants are broadcast from there."""
        return axis + len(self._view.shape(other) or ()) - len(self._view.shape(name) or ())
