"""From an ONNX graph to a draft: one walk over the nodes, each folded, lowered by its rule, or refused by name.

What does not depend on the inputs is computed here. For everything else the shapes are inferred, node by node, with
the values that are known; so a rule sees sizes, never symbols. An operator without a rule is replaced by the body
that ONNX defines for it, where there is one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from edgekit.converters.onnx_to_tflite import inference, steps
from edgekit.converters.onnx_to_tflite.draft import Array, Draft, Tensor
from edgekit.converters.onnx_to_tflite.measures import OPEN, Measures, check, inferred
from edgekit.converters.onnx_to_tflite.nodes import Node, Order, Value, channels_last, identity
from edgekit.converters.onnx_to_tflite.refusal import Gap, Refused
from edgekit.converters.onnx_to_tflite.registry import Rule, find
from edgekit.converters.onnx_to_tflite.regrouping import joined, ordered
from edgekit.errors import InternalError

_MOVING = frozenset({
    "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Concat", "Split", "Gather", "MaxPool",
    "Identity", "Expand", "Tile", "DepthToSpace", "SpaceToDepth", "Dropout", "Resize",
})  # fmt: skip
"""Operators that do to integers what they do to the numbers these stand for."""

_IMAGE = 4
"""Axes of an image; of fewer, the last are as often features already."""

Scope = dict[str, Value | None]
"""Name -> value; None where it could not be found out because of a gap before."""


class Lowering:
    """What rules work with.

    Attributes:
        draft: Where operators go.
        gaps: Nodes that could not be lowered.
        notes: For the user.
        values: Every value, in the order in which they were made.
        turned: Inputs and outputs whose axes lie in another order than in ONNX.
        ranges: Whether what is quantized stays a real number with a range, see `quantized`.
        sizes: Those that only a run tells, see `measures`.
    """

    def __init__(self, model: Any, *, ranges: bool = False, guess: int = 0) -> None:
        self.ranges = ranges
        self.sizes = Measures(guess)
        self.draft = Draft()
        self.gaps: list[Gap] = []
        self.notes: dict[str, None] = {}
        self.values: list[Value] = []
        self.turned: dict[str, Order] = {}
        self._model = model
        self._versions = {entry.domain.replace("ai.onnx", "") if entry.domain == "ai.onnx" else entry.domain:
                          int(entry.version) for entry in model.opset_import}  # fmt: skip
        self._declared = inference.declared(model.graph)

    def run(self, orders: Mapping[str, Order] | None = None, *, outputs_last: bool = False) -> Draft:
        """Walk the whole graph.

        Args:
            orders: Input -> how its axes lie in the file, where that is not as in ONNX.
            outputs_last: Outputs that lie with their channels last are left so; see `turned`.
        """
        graph, orders = self._model.graph, orders or {}
        self.turned = dict(orders)
        scope: Scope = {}
        for tensor in graph.initializer:
            scope[tensor.name] = self._constant(tensor.name, inference.array(tensor))
        for info in graph.input:
            if info.name not in scope:
                scope[info.name] = self._input(info, orders.get(info.name))
        self.walk(graph.node, scope)
        for info in graph.output:
            value = scope.get(info.name)
            if value is not None:
                try:
                    self.draft.outputs.append(self._output(value, info.name, outputs_last))
                except Refused as refusal:
                    self.gaps.append(Gap(info.name, "output", refusal.why))
        return self.draft

    def walk(self, nodes: Iterable[Any], scope: Scope, versions: Mapping[str, int] | None = None) -> None:
        """Lower nodes in order; their outputs are added to the scope."""
        for proto in nodes:
            self._visit(proto, scope, versions or self._versions)

    # Values and their forms.

    def get(self, value: Value, order: Sequence[int] | None = None) -> Tensor:
        """The value as a tensor whose axes lie in this order (default: as in ONNX)."""
        wanted = identity(value.rank) if order is None else tuple(order)
        if wanted in value.forms:
            return value.forms[wanted]
        if value.data is not None:
            data = value.data.astype(steps.carrier(value.dtype))
            made = self.draft.constant(np.transpose(data, wanted) if value.rank else data, value.name)
        else:
            if not value.forms and value.flat is not None:
                self._reshape(value, value.flat, wanted)
                if wanted in value.forms:
                    return value.forms[wanted]
            made = self._moved(value, wanted)
        value.forms[wanted] = made
        return made

    def put(self, value: Value, tensor: Tensor, order: Sequence[int] | None = None) -> None:
        """Say that a tensor holds a value, with its axes in this order (default: as in ONNX).

        Raises:
            InternalError: `lowering-inconsistent`: it does not.
        """
        axes = identity(value.rank) if order is None else tuple(order)
        sizes = tuple(value.shape[axis] for axis in axes)
        if tensor.shape != sizes or tensor.dtype != steps.carrier(value.dtype):
            raise InternalError(
                "lowering-inconsistent",
                f"{value.name} was lowered to {tensor.dtype}{list(tensor.shape)}, not {value.dtype}{list(sizes)}",
            )
        if not value.forms and tensor.data is None and tensor not in self.draft.inputs:
            tensor.name = value.name
        value.forms[axes] = tensor

    def alias(self, value: Value, other: Value) -> None:
        """Let a value be another one; also gives it that one's shape and type."""
        value.shape, value.dtype, value.data = other.shape, other.dtype, other.data
        value.forms, value.flat, value.scaled = other.forms, other.flat, other.scaled

    def order(self, values: Iterable[Value], rank: int | None = None) -> Order:
        """The order of axes in which most of these values lie already; only those of the largest rank count."""
        given = list(values)
        found = [value for value in given if value.data is None]
        rank = max((value.rank for value in found or given), default=0) if rank is None else rank
        found = [value for value in found if value.rank == rank]
        best, cost = identity(rank), float("inf")
        for value in found:
            for candidate in value.forms or _hinted(value):
                price = sum(other.size for other in found if not _lies(other, candidate))
                if price < cost:
                    best, cost = candidate, price
        return best

    def fresh(self, value: Value) -> Value:
        """A value for something in between."""
        self.values.append(value)
        return value

    def _reshape(self, value: Value, source: Value, wanted: Order) -> None:
        """Do a reshape that was put off, where it can be in the order in which it is wanted."""
        before = ordered(source.shape, value.shape, wanted)
        order = identity(value.rank) if before is None else wanted
        shape = [value.shape[axis] for axis in order]
        value.forms[order] = steps.reshape(self.draft, self.get(source, before), shape)

    def _moved(self, value: Value, wanted: Order) -> Tensor:
        held = sorted(value.forms, key=lambda order: _moving(value, order) != _moving(value, wanted))
        if not held:
            raise InternalError("lowering-inconsistent", f"{value.name} was read before it was made")
        start = held[0]
        return steps.transpose(self.draft, value.forms[start], [start.index(axis) for axis in wanted])

    def _constant(self, name: str, data: Array | None) -> Value | None:
        if data is None:
            return None
        return self.fresh(Value(name, tuple(data.shape), data.dtype.name, data))

    def _input(self, info: Any, order: Order | None) -> Value | None:
        kind = inference.kind_of(info.type)
        if kind is None:
            self.gaps.append(Gap(info.name, "input", "its size or type is not known"))
            return None
        value = self.fresh(Value(info.name, *kind))
        if self.ranges and value.dtype in ("int8", "uint8", "int16", "uint16"):
            # Integers that stand for real numbers: those are fed, and the quantizer makes integers of them again.
            value.scaled = self.fresh(Value(info.name, value.shape, "float32"))
            self._fed(value.scaled, order)
            return value
        try:
            return self._fed(value, order)
        except Refused as refusal:
            self.gaps.append(Gap(info.name, "input", refusal.why))
            return None

    def _fed(self, value: Value, order: Order | None) -> Value:
        """An input of the draft; what kernels do not compute in is cast first."""
        axes = identity(value.rank) if order is None else order
        tensor = Tensor(value.name, tuple(value.shape[axis] for axis in axes), value.dtype)
        self.draft.origin = value.name
        if not value.size:
            self.draft.inputs.append(tensor)
            value.data = np.zeros(value.shape, steps.carrier(value.dtype))
            return value
        held = steps.cast(self.draft, tensor, steps.carrier(value.dtype))
        self.draft.inputs.append(tensor)
        value.forms[axes] = held
        return value

    def _output(self, value: Value, name: str, last: bool) -> Tensor:
        self.draft.origin = name
        if value.scaled is not None and not value.forms:
            value = value.scaled
        axes = identity(value.rank)
        if last and value.rank >= 3 and channels_last(value.rank) in value.forms and axes not in value.forms:
            axes = channels_last(value.rank)
            self.turned[name] = axes
        tensor = steps.cast(self.draft, self.get(value, axes), value.dtype)
        if tensor in self.draft.inputs or tensor in self.draft.outputs or tensor.data is not None:
            # An output must be a tensor of its own that an operator makes.
            if tensor.data is not None and tensor.size == 0:
                self.gaps.append(Gap(name, "output", "it is empty"))
                return tensor
            tensor = self.draft.emit("RESHAPE", [tensor, self.draft.ints(tensor.shape)], tensor.shape,
                                     newShape=np.array(tensor.shape, np.int32))  # fmt: skip
        tensor.name = name
        return tensor

    # Nodes.

    def _visit(self, proto: Any, scope: Scope, versions: Mapping[str, int]) -> None:
        domain = "" if proto.domain == "ai.onnx" else proto.domain
        names = [name for name in (*proto.input, *proto.output) if name]
        where = proto.name or next(iter(proto.output), "") or (names[0] if names else proto.op_type)
        if any(scope.get(name) is None for name in proto.input if name):
            scope.update({name: None for name in proto.output if name})
            return
        try:
            self._lower(proto, domain, int(versions.get(domain, 1)), where, scope, versions)
        except Refused as refusal:
            label = f"{domain}.{proto.op_type}" if domain else proto.op_type
            self.gaps.append(Gap(where, label, refusal.why, refusal.instead))
            self._stand_in(proto, domain, int(versions.get(domain, 1)), scope)

    def _lower(
        self, proto: Any, domain: str, version: int, where: str, scope: Scope, versions: Mapping[str, int]
    ) -> None:
        inputs = tuple(scope[name] if name else None for name in proto.input)
        measured = self.sizes.any(inputs)
        folded = inference.fold(proto, domain, version, inputs, measured=measured)
        if folded is not None:
            for name, data in zip(proto.output, folded, strict=False):
                if name:
                    scope[name] = self._constant(name, data)
            return
        rule = find(domain, proto.op_type, version)
        if rule is None:
            body = inference.body(proto, domain, version, inputs)
            if body is None:
                raise Refused("there is no way to write it as TFLite operators yet")
            self._inline(body, inputs, proto, scope, versions)
            return
        if measured:
            check(
                self.sizes, Node(proto.op_type, domain, version, where, inputs, (), inference.attributes(proto)), rule
            )
        outputs = self._outputs(proto, domain, version, inputs)
        if self.ranges and proto.op_type in _MOVING and any(v is not None and v.scaled is not None for v in inputs):
            # Moving integers that stand for real numbers is moving those.
            inputs = tuple(v.scaled if v is not None and v.scaled is not None else v for v in inputs)
            reals = tuple(None if v is None else Value(v.name, v.shape, "float32") for v in outputs)
            for whole, real in zip(outputs, reals, strict=True):
                if whole is not None:
                    whole.scaled = real
            self._apply(
                rule, Node(proto.op_type, domain, version, where, inputs, reals, inference.attributes(proto), scope)
            )
            scope.update({value.name: value for value in outputs if value is not None})
            return
        node = Node(proto.op_type, domain, version, where, inputs, outputs, inference.attributes(proto), scope=scope)
        self._apply(rule, node)
        for value in outputs:
            if value is not None:
                self.values.append(value)
                scope[value.name] = value

    def _apply(self, rule: Rule, node: Node) -> None:
        """Let a rule make a node's outputs; what it emitted is taken back if it refuses."""
        self.draft.origin = next((value.name for value in node.outputs if value is not None), node.name)
        mark = len(self.draft.ops)
        try:
            rule(self, node)
        except Refused:
            del self.draft.ops[mark:]
            raise
        for value in node.outputs:
            held = value is None or value.forms or value.data is not None or value.flat or value.scaled
            if not held and value is not None:
                raise InternalError("lowering-inconsistent", f"{node.name} ({node.op}) did not make {value.name}")

    def _outputs(
        self, proto: Any, domain: str, version: int, inputs: Sequence[Value | None]
    ) -> tuple[Value | None, ...]:
        kinds = inference.outputs(proto, domain, version, inputs, self._versions)
        made: list[Value | None] = []
        measured: dict[int, int] = {}  # outputs of one operator share their sizes
        for name in proto.output:
            kind = kinds.get(name)
            if kind is not None and proto.op_type in OPEN:
                asked = Node(proto.op_type, domain, version, name, tuple(inputs), (), inference.attributes(proto))
                kind = inferred(self.sizes, asked, kind)
            if kind is None or None in kind[0]:
                kind = self._declared.get(name) or kind
            if not name:
                made.append(None)
            elif kind is not None and (None not in kind[0] or (not domain and proto.op_type in OPEN)):
                for axis in (axis for axis, size in enumerate(kind[0]) if size is None and axis not in measured):
                    measured[axis] = self.sizes.new()
                sizes = tuple(measured[axis] if size is None else size for axis, size in enumerate(kind[0]))
                made.append(Value(name, sizes, kind[1]))
            elif proto.op_type in inference.SELF_SHAPED or domain not in inference.STANDARD:
                made.append(Value(name, (), ""))
            else:
                raise Refused(f"the size of its output {name!r} depends on the data", "Export it with fixed sizes")
        return tuple(made)

    def _inline(
        self, body: Any, inputs: Sequence[Value | None], proto: Any, scope: Scope, versions: Mapping[str, int]
    ) -> None:
        inner: Scope = {name: value for name, value in zip(body.input, inputs, strict=False) if value is not None}
        known = dict(versions) | {
            ("" if e.domain == "ai.onnx" else e.domain): int(e.version) for e in body.opset_import
        }
        prefix = next((name for name in proto.output if name), proto.op_type)
        before = len(self.gaps)
        self.walk(inference.instantiate(body, proto, set(inner), prefix), inner, known)
        if len(self.gaps) > before:
            why = self.gaps[before].why
            del self.gaps[before:]
            raise Refused(why)
        for outer, name in zip(proto.output, body.output, strict=False):
            if outer:
                value = inner.get(name)
                if value is None:
                    raise Refused(f"its body does not give {name}")
                scope[outer] = value

    def _stand_in(self, proto: Any, domain: str, version: int, scope: Scope) -> None:
        """Let the walk go on after a gap, so that one report names them all."""
        inputs = tuple(scope[name] if name else None for name in proto.input)
        try:
            outputs = self._outputs(proto, domain, version, inputs)
        except Refused:
            outputs = ()
        known = {value.name: value for value in outputs if value is not None and value.dtype}
        for name in proto.output:
            value = known.get(name)
            if value is not None:
                try:
                    value.forms[identity(value.rank)] = Tensor(name, value.shape, steps.carrier(value.dtype))
                except Refused:
                    value = None
            if name:
                scope[name] = value


def _hinted(value: Value) -> tuple[Order, ...]:
    """Orders in which a reshape that was put off may as well be done: channels last where its source lies so."""
    source = value.flat
    if source is None or value.rank < _IMAGE or source.rank < _IMAGE:
        return ()
    last, channels = channels_last(value.rank), joined(source.shape, value.shape, 1)
    if ordered(source.shape, value.shape, last) is None or any(form[-1] not in channels for form in source.forms):
        return ()
    return (last,)


def _lies(value: Value, order: Order) -> bool:
    """Whether a value is there in an order without moving more than axes of size 1."""
    return any(_moving(value, form) == _moving(value, order) for form in value.forms)


def _moving(value: Value, order: Order) -> list[int]:
    return [axis for axis in order if value.shape[axis] != 1]
