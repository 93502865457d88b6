"""LSTM, GRU and RNN, step after step.

Sizes are static, so a sequence is written out: what depends on the inputs only is one product over all steps, and
each step is left with the product of its state, which shares its weights with all the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from edgekit.converters.onnx_to_tflite import steps
from edgekit.converters.onnx_to_tflite.activations import Maths
from edgekit.converters.onnx_to_tflite.draft import Tensor
from edgekit.converters.onnx_to_tflite.gates import Function, functions
from edgekit.converters.onnx_to_tflite.linears import multiply
from edgekit.converters.onnx_to_tflite.lowering import Lowering
from edgekit.converters.onnx_to_tflite.nodes import Node, Order, Value
from edgekit.converters.onnx_to_tflite.refusal import Refused
from edgekit.converters.onnx_to_tflite.registry import lowers
from edgekit.converters.onnx_to_tflite.slices import cut_out
from edgekit.converters.onnx_to_tflite.stacks import packed, unpacked

LONGEST = 512
"""Steps that are written out; each is about ten operators."""

State = tuple[Tensor | None, ...]
"""What a step hands to the next one: h, and c of an LSTM; None is zero, which needs no arithmetic."""
Step = Callable[[Sequence[Tensor], State], tuple[Tensor, ...]]
"""(products of the inputs, state) -> new state."""


@dataclass(frozen=True)
class _Sequence:
    """The input of a recurrent node as it lies.

    Attributes:
        x: [batch, time, features], or [time, batch, features].
        time: Its axis of time.
        count: Steps.
        valid: For each step whether samples still have one, [batch, 1]; None where all have them all.
    """

    x: Tensor
    time: int
    count: int
    valid: list[Tensor] | None


@dataclass(frozen=True)
class _Direction:
    """Weights and functions of one direction.

    Attributes:
        low: Where operators go.
        node: Whose direction it is.
        w: [gates * hidden, features].
        r: [gates * hidden, hidden].
        wb: [gates * hidden], added to the inputs' product; or None.
        rb: [gates * hidden], added to the state's; or None.
        peepholes: For the gates i, o and f of an LSTM; or None.
        functions: Of its activations, in ONNX' order.
        hidden: Features of the state.
    """

    low: Lowering
    node: Node
    w: Tensor
    r: Tensor
    wb: Tensor | None
    rb: Tensor | None
    peepholes: list[Tensor] | None
    functions: list[Function]
    hidden: int

    def rows(self, tensor: Tensor, first: int, last: int) -> Tensor:
        """Those of some of the gates."""
        cut = [slice(first * self.hidden, last * self.hidden), *[slice(None)] * (tensor.rank - 1)]
        return cut_out(self.low, tensor, cut)

    def bias(self, tensor: Tensor | None, first: int, last: int) -> Tensor | None:
        """As `rows`, of what may be left out."""
        return None if tensor is None else self.rows(tensor, first, last)

    def clipped(self, x: Tensor) -> Tensor:
        """What an activation takes."""
        bound = self.node.attribute("clip")
        if not bound:
            return x
        do = Maths(self.low)
        return do("MINIMUM", do("MAXIMUM", x, -float(bound)), float(bound))


@lowers("LSTM", "GRU", "RNN")
def _recurrent(low: Lowering, node: Node) -> None:
    sequence = _sequence(low, node)
    ways = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}
    backwards = ways[node.attribute("direction", "forward")]
    name, every, last = low.draft.origin, [], []
    for number, backward in enumerate(backwards):
        low.draft.origin = name
        found, state = _run(low, node, sequence, number, backward)
        every.append(found)
        last.append(state)
    low.draft.origin = name
    if node.outputs[0] is not None:
        _put_all(low, node, node.outputs[0], every, sequence.time)
    for index in range(1, len(node.outputs)):
        output = node.has_output(index)
        if output is not None:
            low.put(output, packed(low, [state[index - 1] for state in last], 1 if node.attribute("layout", 0) else 0))


def _sequence(low: Lowering, node: Node) -> _Sequence:
    """The input, with its time or its batch first, whichever it lies in."""
    value = node.value(0)
    time, batch = (1, 0) if node.attribute("layout", 0) else (0, 1)
    count = value.shape[time]
    if count > LONGEST:
        raise Refused(
            f"its {count} steps would be written out one by one, and that is done for up to {LONGEST}",
            "Convert it with a shorter sequence and carry the state from call to call",
        )
    order = low.order([value])
    if order[-1] != 2:
        order = (batch, time, 2)
    return _Sequence(low.get(value, order), order.index(time), count, _valid(low, node, count))


def _valid(low: Lowering, node: Node, count: int) -> list[Tensor] | None:
    lengths = node.maybe(4)
    if lengths is None or (lengths.data is not None and (lengths.data >= count).all()):
        return None
    draft, places = low.draft, np.arange(count, dtype=np.int32)
    if lengths.data is not None:
        known = places[:, None, None] < lengths.data.astype(np.int32)[None, :, None]
        return [draft.constant(step) for step in known]
    ends = steps.reshape(draft, steps.cast(draft, low.get(lengths), "int32"), (lengths.size, 1))
    return [steps.binary(draft, "GREATER", ends, draft.scalar(place, "int32"), "bool") for place in places]


def _direction(low: Lowering, node: Node, number: int) -> _Direction:
    hidden = node.value(2).shape[2]
    biases = node.maybe(3)
    wb = rb = None
    if biases is not None and (biases.data is None or biases.data.any()):
        both = steps.reshape(low.draft, _part(low, biases, number), (2, biases.shape[1] // 2))
        wb, rb = unpacked(low, both, 0)
    given = node.maybe(7) if node.op == "LSTM" else None
    peepholes = None
    if given is not None and (given.data is None or given.data.any()):
        peepholes = unpacked(low, steps.reshape(low.draft, _part(low, given, number), (3, hidden)), 0)
    return _Direction(
        low, node, _part(low, node.value(1), number), _part(low, node.value(2), number), wb, rb, peepholes,
        functions(low, node, number), hidden,
    )  # fmt: skip


def _part(low: Lowering, value: Value, number: int, order: Order | None = None) -> Tensor:
    """A value [directions, ...] in one direction."""
    whole = low.get(value, order)
    cut = cut_out(low, whole, [slice(number, number + 1), *[slice(None)] * (whole.rank - 1)])
    return steps.reshape(low.draft, cut, cut.shape[1:])


def _start(low: Lowering, node: Node, number: int) -> State:
    """The first state."""
    order = (1, 0, 2) if node.attribute("layout", 0) else None
    found = []
    for index in (5, 6) if node.op == "LSTM" else (5,):
        value = node.maybe(index)
        zero = value is None or (value.data is not None and not value.data.any())
        found.append(None if zero or value is None else _part(low, value, number, order))
    return tuple(found)


def _run(
    low: Lowering, node: Node, sequence: _Sequence, number: int, backward: bool
) -> tuple[list[Tensor], tuple[Tensor, ...]]:
    """The outputs of all steps in the order of time, and the last state."""
    name, start = low.draft.origin, _start(low, node, number)
    state = start
    products, step = _KINDS[node.op](_direction(low, node, number), sequence.x)
    side = f"{name}/{number}"
    low.draft.origin = f"{side}/steps"
    low.draft.alike[low.draft.origin] = side
    slices = [unpacked(low, product, sequence.time) for product in products]
    found: dict[int, Tensor] = {}
    last: tuple[Tensor, ...] = ()
    for time in reversed(range(sequence.count)) if backward else range(sequence.count):
        # Names of their own for each step: thousands of tensors under one name would be counted through.
        low.draft.origin = f"{side}/{time}"
        low.draft.alike[low.draft.origin] = side
        last = step([parts[time] for parts in slices], state)
        found[time] = last[0]
        if sequence.valid is not None:
            held, do = sequence.valid[time], Maths(low)
            found[time] = do.pick(held, last[0], 0.0)
            last = tuple(
                found[time] if new is last[0] and old is None else do.pick(held, new, 0.0 if old is None else old)
                for new, old in zip(last, state, strict=True)
            )
        state = last
    return [found[time] for time in range(sequence.count)], _emptied(low, sequence, start, last)


def _emptied(low: Lowering, sequence: _Sequence, start: State, last: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The last state; samples without any step have zeros there, as onnxruntime has it, and not the first state."""
    first = None if sequence.valid is None else sequence.valid[0]
    if first is None or (first.data is not None and first.data.all()):
        return last
    do = Maths(low)
    return tuple(new if old is None else do.pick(first, new, 0.0) for new, old in zip(last, start, strict=True))


def _put_all(low: Lowering, node: Node, output: Value, every: Sequence[list[Tensor]], time: int) -> None:
    """Say what Y is: [.., .., directions, hidden], its first axes as those of the input."""
    sides = [packed(low, found, time) for found in every]
    made, width = sides[0], sides[0].shape[-1]
    if len(sides) > 1:
        shape = (*made.shape[:2], width * len(sides))
        made = low.draft.emit("CONCATENATION", sides, shape, axis=2, fusedActivationFunction=0)
    made = steps.reshape(low.draft, made, (*made.shape[:2], len(sides), width))
    times, batches, directions = (1, 0, 2) if node.attribute("layout", 0) else (0, 2, 1)
    first = (times, batches) if time == 0 else (batches, times)
    low.put(output, made, (*first, directions, 3))


def _linear(low: Lowering, x: Tensor, weights: Tensor, bias: Tensor | None = None) -> Tensor:
    """X [..., in] times weights [out, in], plus a bias. The weights' tensor is shared by all steps."""
    if weights.data is not None and x.data is None and (bias is None or bias.data is not None):
        return low.draft.emit(
            "FULLY_CONNECTED", [x, weights, bias], [*x.shape[:-1], weights.shape[0]],
            fusedActivationFunction=0, weightsFormat=0, keepNumDims=x.rank != 2, asymmetricQuantizeInputs=False,
        )  # fmt: skip
    made = multiply(low, x, weights, turned_b=True)
    return made if bias is None else steps.binary(low.draft, "ADD", made, bias)


def _added(low: Lowering, a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """The sum of two biases."""
    if a is None or b is None:
        return a if b is None else b
    if a.data is not None and b.data is not None:
        return low.draft.constant(a.data + b.data)
    return steps.binary(low.draft, "ADD", a, b)


def _split(low: Lowering, x: Tensor, count: int) -> list[Tensor]:
    """The gates that lie side by side."""
    shape = (*x.shape[:-1], x.shape[-1] // count)
    made = [Tensor(f"{low.draft.origin}/gate", shape, x.dtype) for _ in range(count)]
    low.draft.emit_to("SPLIT", [low.draft.scalar(x.rank - 1, "int32"), x], made, numSplits=count)
    return made


def _rnn(side: _Direction, x: Tensor) -> tuple[list[Tensor], Step]:
    low, do = side.low, Maths(side.low)

    def step(inputs: Sequence[Tensor], state: State) -> tuple[Tensor, ...]:
        total, (h,) = inputs[0], state
        if h is not None:
            total = do("ADD", total, _linear(low, h, side.r))
        return (side.functions[0](side.clipped(total)),)

    return [_linear(low, x, side.w, _added(low, side.wb, side.rb))], step


def _gru(side: _Direction, x: Tensor) -> tuple[list[Tensor], Step]:
    """Gates z and r together, since they share their inputs, then the new state."""
    low, do = side.low, Maths(side.low)
    late = bool(side.node.attribute("linear_before_reset", 0))
    gates, news = side.rows(side.r, 0, 2), side.rows(side.r, 2, 3)
    bias = side.bias(side.rb, 2, 3)
    products = [
        _linear(low, x, side.rows(side.w, 0, 2), _added(low, side.bias(side.wb, 0, 2), side.bias(side.rb, 0, 2))),
        _linear(low, x, side.rows(side.w, 2, 3), _added(low, side.bias(side.wb, 2, 3), None if late else bias)),
    ]

    def step(inputs: Sequence[Tensor], state: State) -> tuple[Tensor, ...]:
        total, new = inputs
        (h,) = state
        if h is not None:
            total = do("ADD", total, _linear(low, h, gates))
        z, r = _split(low, side.functions[0](side.clipped(total)), 2)
        if late and (h is not None or bias is not None):
            reset = bias if h is None else _linear(low, h, news, bias)
            new = do("ADD", new, do("MUL", r, reset)) if reset is not None else new
        elif h is not None:
            new = do("ADD", new, _linear(low, do("MUL", r, h), news))
        new = side.functions[1](side.clipped(new))
        # (1 - z) new + z h, with one product less.
        if h is None:
            return (do("SUB", new, do("MUL", z, new)),)
        return (do("ADD", new, do("MUL", z, do("SUB", h, new))),)

    return products, step


def _lstm(side: _Direction, x: Tensor) -> tuple[list[Tensor], Step]:
    low, do = side.low, Maths(side.low)
    gate, inner, outer = side.functions
    coupled = bool(side.node.attribute("input_forget", 0))

    def peeped(x: Tensor, number: int, c: Tensor | None) -> Tensor:
        """A gate that also looks at the cell."""
        if side.peepholes is None:
            return x
        return side.clipped(x if c is None else do("ADD", x, do("MUL", c, side.peepholes[number])))

    def step(inputs: Sequence[Tensor], state: State) -> tuple[Tensor, ...]:
        total, (h, c) = inputs[0], state
        if h is not None:
            total = do("ADD", total, _linear(low, h, side.r))
        i, o, f, new = _split(low, total if side.peepholes else side.clipped(total), 4)
        i = gate(peeped(i, 0, c))
        cell = do("MUL", i, inner(side.clipped(new) if side.peepholes else new))
        if c is not None:
            kept = do("SUB", 1.0, i) if coupled else gate(peeped(f, 2, c))
            cell = do("ADD", cell, do("MUL", kept, c))
        return do("MUL", gate(peeped(o, 1, cell)), outer(cell)), cell

    return [_linear(low, x, side.w, _added(low, side.wb, side.rb))], step


_KINDS: dict[str, Callable[[_Direction, Tensor], tuple[list[Tensor], Step]]] = {
    "RNN": _rnn, "GRU": _gru, "LSTM": _lstm,
}  # fmt: skip
