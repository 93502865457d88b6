"""If, Loop and Scan without subgraphs: bodies are lowered in place, as often as they run.

What decides is mostly known while lowering, since it follows from sizes. An If that only the device can decide is
computed both ways; a Loop that may end early goes on with the values that it had.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from edgekit.converters.onnx_to_tflite import inference, steps
from edgekit.converters.onnx_to_tflite.draft import Tensor
from edgekit.converters.onnx_to_tflite.lowering import Lowering, Scope
from edgekit.converters.onnx_to_tflite.nodes import Node, Order, Value, axis_of
from edgekit.converters.onnx_to_tflite.refusal import Refused
from edgekit.converters.onnx_to_tflite.registry import lowers
from edgekit.converters.onnx_to_tflite.stacks import packed, unpacked

_ROUNDS = 512
"""Most runs of a body that are written out."""
_OPERATORS = 1 << 15
"""Most operators that a loop may become."""


@lowers("If")
def _if(low: Lowering, node: Node) -> None:
    condition, outputs = node.value(), node.outputs
    if condition.data is not None:
        taken = "then_branch" if bool(condition.data.reshape(-1)[0]) else "else_branch"
        for output, value in zip(outputs, _inlined(low, node, node.attribute(taken), ()), strict=True):
            if output is not None:
                low.alias(output, value)
        return
    branches = [_inlined(low, node, node.attribute(name), ()) for name in ("then_branch", "else_branch")]
    for output, first, second in zip(outputs, *branches, strict=True):
        if output is not None:
            low.alias(output, _chosen(low, _truth(low, condition), first, second))
    low.notes[f"both branches of {node.name} run, and the answer of one is taken"] = None


@lowers("Loop")
def _loop(low: Lowering, node: Node) -> None:
    body, going, start = node.attribute("body"), node.maybe(1), len(low.draft.ops)
    trips, carried = _trips(node), [_present(value) for value in node.inputs[2:]]
    if trips is not None and trips > _ROUNDS and _unending(body):
        raise Refused(f"its {trips} rounds would be written out one by one, and that is done for up to {_ROUNDS}")
    every: list[list[Value]] = [[] for _ in node.outputs[len(carried) :]]
    alive: Tensor | None = None
    for number in range(_ROUNDS + 1):
        if number == trips or (going is not None and going.data is not None and not going.data.reshape(-1)[0]):
            break
        if number == _ROUNDS:
            raise Refused(f"it has more than {_ROUNDS} rounds, which would be written out one by one")
        if going is not None and going.data is None:
            alive = _still(low, alive, going, trips, bool(every))
        keep = _number("keep", True, "bool") if going is None or alive is not None else going
        found = _round(low, node, body, [_number("round", number, "int64"), keep, *carried], start)
        going, *rest = found
        new = rest[: len(carried)]
        carried = new if alive is None else [_chosen(low, alive, a, b) for a, b in zip(new, carried, strict=True)]
        for values, value in zip(every, rest[len(carried) :], strict=True):
            values.append(value)
    for output, value in zip(node.outputs, carried, strict=False):
        if output is not None:
            low.alias(output, value)
    for output, values in zip(node.outputs[len(carried) :], every, strict=True):
        if output is not None:
            _stack(low, output, values, 0)


@lowers("Scan", since=9)
def _scan(low: Lowering, node: Node) -> None:
    body, fed = node.attribute("body"), int(node.attribute("num_scan_inputs"))
    given = [_present(value) for value in node.inputs]
    carried, scanned = given[: len(given) - fed], given[len(given) - fed :]
    axes, turns = node.ints("scan_input_axes") or [0] * fed, node.ints("scan_input_directions") or [0] * fed
    slices = [_slices(low, v, axis_of(axis, v.rank), turn) for v, axis, turn in zip(scanned, axes, turns, strict=True)]
    rounds = len(slices[0])
    if rounds > _ROUNDS:
        raise Refused(f"its {rounds} rounds would be written out one by one, and that is done for up to {_ROUNDS}")
    every: list[list[Value]] = [[] for _ in node.outputs[len(carried) :]]
    start = len(low.draft.ops)
    for number in range(rounds):
        found = _round(low, node, body, [*carried, *(values[number] for values in slices)], start)
        carried = found[: len(carried)]
        for values, value in zip(every, found[len(carried) :], strict=True):
            values.append(value)
    for output, value in zip(node.outputs, carried, strict=False):
        if output is not None:
            low.alias(output, value)
    axes, turns = ([0] * len(every) if given is None else given
                   for given in (node.ints("scan_output_axes"), node.ints("scan_output_directions")))  # fmt: skip
    for output, values, axis, turn in zip(node.outputs[len(carried) :], every, axes, turns, strict=True):
        if output is not None:
            _stack(low, output, values[::-1] if turn else values, axis_of(axis, values[0].rank + 1))


def _inlined(low: Lowering, node: Node, body: Any, inputs: Sequence[Value]) -> list[Value]:
    """A body's outputs, its nodes lowered among those around it.

    Raises:
        Refused: One of them cannot be lowered; it is named itself, too.
    """
    scope: Scope = dict(node.scope)
    for tensor in body.initializer:
        data = inference.array(tensor)
        scope[tensor.name] = None if data is None else _constant(tensor.name, data)
    scope.update({info.name: value for info, value in zip(body.input, inputs, strict=True)})
    origin, before = low.draft.origin, len(low.gaps)
    low.walk(body.node, scope)
    low.draft.origin = origin
    found = [value for value in (scope.get(info.name) for info in body.output) if value is not None]
    if len(low.gaps) > before:
        raise Refused("its body holds what cannot be written")
    if len(found) < len(body.output):
        raise Refused("its body reads what cannot be written")
    return found


def _round(low: Lowering, node: Node, body: Any, inputs: Sequence[Value], start: int) -> list[Value]:
    """One run of a body of a loop whose first operator has the number `start`."""
    found = _inlined(low, node, body, inputs)
    if len(low.draft.ops) - start > _OPERATORS:
        raise Refused(f"written out, its rounds are more than {_OPERATORS} operators")
    return found


def _present(value: Value | None) -> Value:
    if value is None:
        raise Refused("one of its inputs is missing")
    return value


def _constant(name: str, data: Any) -> Value:
    return Value(name, tuple(data.shape), data.dtype.name, data)


def _number(name: str, number: int | bool, dtype: str) -> Value:
    return _constant(name, np.array(number, dtype))


def _trips(node: Node) -> int | None:
    given = node.constant(0, "number of rounds")
    return None if given is None else int(given.reshape(-1)[0])


def _unending(body: Any) -> bool:
    """Whether a body hands on the condition that it is given."""
    name = body.output[0].name
    for made in reversed(body.node):
        if name in made.output and made.op_type == "Identity":
            name = made.input[0]
    return bool(name == body.input[1].name)


def _still(low: Lowering, alive: Tensor | None, going: Value, trips: int | None, scans: bool) -> Tensor:
    """Whether a loop is still running that the device may end; once it has ended it stays so."""
    if trips is None or trips > _ROUNDS:
        raise Refused("how often it runs depends on the data")
    if scans:
        raise Refused("the size of what it collects depends on the data")
    now = _truth(low, going)
    return now if alive is None else steps.binary(low.draft, "LOGICAL_AND", alive, now)


def _truth(low: Lowering, condition: Value) -> Tensor:
    return steps.reshape(low.draft, low.get(condition), ())


def _chosen(low: Lowering, condition: Tensor, first: Value, second: Value) -> Value:
    """One of two values, as the device decides."""
    if first is second:
        return first
    if (first.shape, first.dtype) != (second.shape, second.dtype):
        raise Refused(
            f"what {first.name} is depends on the data: {first.dtype}{list(first.shape)} "
            f"or {second.dtype}{list(second.shape)}"
        )
    order = low.order([first, second])
    made = steps.select(low.draft, condition, low.get(first, order), low.get(second, order))
    return _lying(first.name, first.shape, first.dtype, made, order)


def _lying(name: str, shape: Sequence[int], dtype: str, tensor: Tensor, order: Order) -> Value:
    return Value(name, tuple(shape), dtype, None, {order: tensor})


def _slices(low: Lowering, value: Value, axis: int, backward: int) -> list[Value]:
    """What each round of a Scan reads of an input."""
    shape = (*value.shape[:axis], *value.shape[axis + 1 :])
    if value.data is not None:
        found = [_constant(f"{value.name}/{at}", part) for at, part in enumerate(_taken(value.data, axis))]
    else:
        order = low.order([value])
        rest = tuple(a - (a > axis) for a in order if a != axis)
        parts = unpacked(low, low.get(value, order), order.index(axis))
        found = [_lying(f"{value.name}/{at}", shape, value.dtype, part, rest) for at, part in enumerate(parts)]
    return found[::-1] if backward else found


def _taken(data: Any, axis: int) -> Iterator[Any]:
    return (data.take(at, axis) for at in range(data.shape[axis]))


def _stack(low: Lowering, output: Value, values: Sequence[Value], axis: int) -> None:
    """Let an output be what all rounds made, along a new axis."""
    if not values:
        raise Refused("it collects nothing, and TFLite has no empty tensors")
    if len({(value.shape, value.dtype) for value in values}) > 1:
        raise Refused("what it collects has another size in every round")
    shape = values[0].shape
    output.shape, output.dtype = (*shape[:axis], len(values), *shape[axis:]), values[0].dtype
    known = [value.data for value in values if value.data is not None]
    if len(known) == len(values):
        output.data = np.stack(known, axis)
        return
    order = low.order(values)
    made = packed(low, [low.get(value, order) for value in values], axis)
    places = [a + (a >= axis) for a in order]
    low.put(output, made, (*places[:axis], axis, *places[axis:]))
