"""Elementwise operators of one type or several inputs: arithmetic, comparisons, logic, casts, Where."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgekit.converters.onnx_to_tflite import steps
from edgekit.converters.onnx_to_tflite.draft import Tensor
from edgekit.converters.onnx_to_tflite.lowering import Lowering
from edgekit.converters.onnx_to_tflite.nodes import Node, Order, Value, identity
from edgekit.converters.onnx_to_tflite.refusal import Refused
from edgekit.converters.onnx_to_tflite.registry import lowers

_BINARY = {"Add": "ADD", "Sub": "SUB", "Mul": "MUL"}
_COMPARES = {
    "Equal": "EQUAL", "Greater": "GREATER", "GreaterOrEqual": "GREATER_EQUAL", "Less": "LESS",
    "LessOrEqual": "LESS_EQUAL",
}  # fmt: skip
_FOLDS = {"Max": "MAXIMUM", "Min": "MINIMUM", "Sum": "ADD", "Mean": "ADD"}
_WRAPPING = {"uint8": 8, "uint16": 16, "uint32": 32}


def aligned(low: Lowering, values: Sequence[Value], rank: int) -> tuple[Order, list[Tensor]]:
    """Tensors of the same rank, their axes in the order that moves least."""
    order = low.order(values, rank) if any(value.rank == rank for value in values) else identity(rank)
    found = []
    for value in values:
        if value.rank == rank:
            found.append(low.get(value, order))
        else:
            padded = steps.reshape(low.draft, low.get(value), (1,) * (rank - value.rank) + value.shape)
            found.append(steps.transpose(low.draft, padded, order))
    return order, found


def _present(node: Node) -> list[Value]:
    return [value for value in node.inputs if value is not None]


def _wrapped(low: Lowering, tensor: Tensor, dtype: str) -> Tensor:
    """Unsigned values that are carried in wider signed ones, brought back into their range."""
    if dtype != "uint32":
        return tensor
    mask = low.draft.scalar(1 << 32, "int64")
    return steps.binary(low.draft, "FLOOR_MOD", tensor, mask)


@lowers("Add", "Sub", "Mul")
def _add(low: Lowering, node: Node) -> None:
    order, (a, b) = aligned(low, _present(node), node.output.rank)
    made = steps.binary(low.draft, _BINARY[node.op], a, b)
    low.put(node.output, _wrapped(low, made, node.output.dtype), order)


@lowers("Div")
def _div(low: Lowering, node: Node) -> None:
    order, (a, b) = aligned(low, _present(node), node.output.rank)
    if node.output.dtype == "int64":
        # The engine has no division of 64-bit integers; sizes and indices fit in 32.
        low.notes["an integer division is done in 32 bits"] = None
        made = steps.cast(low.draft, steps.binary(low.draft, "DIV", steps.cast(low.draft, a, "int32"),
                                                  steps.cast(low.draft, b, "int32")), "int64")  # fmt: skip
    else:
        if node.output.dtype in ("uint32", "uint64"):
            raise Refused(f"TFLite does not divide {node.output.dtype}")
        made = steps.binary(low.draft, "DIV", a, b)
    low.put(node.output, made, order)


@lowers("Mod")
def _mod(low: Lowering, node: Node) -> None:
    order, (a, b) = aligned(low, _present(node), node.output.rank)
    draft = low.draft
    if not node.attribute("fmod", 0):
        low.put(node.output, steps.binary(draft, "FLOOR_MOD", a, b), order)
        return
    # The remainder has the dividend's sign: sign(a) * (|a| mod |b|).
    positive = steps.binary(draft, "FLOOR_MOD", _magnitude(low, a), _magnitude(low, b))
    low.put(node.output, steps.binary(draft, "MUL", positive, _signs(low, a)), order)


def _magnitude(low: Lowering, x: Tensor) -> Tensor:
    if x.dtype in ("float32", "int32"):
        return steps.unary(low.draft, "ABS", x)
    return steps.binary(low.draft, "MAXIMUM", x, steps.binary(low.draft, "SUB", low.draft.scalar(0, x.dtype), x))


def _signs(low: Lowering, x: Tensor) -> Tensor:
    negative = steps.binary(low.draft, "LESS", x, low.draft.scalar(0, x.dtype), "bool")
    return steps.select(low.draft, negative, low.draft.scalar(-1, x.dtype), low.draft.scalar(1, x.dtype))


@lowers("Pow")
def _pow(low: Lowering, node: Node) -> None:
    base, exponent = node.value(0), node.value(1)
    order, (a, b) = aligned(low, [base, exponent], node.output.rank)
    draft = low.draft
    if exponent.data is not None and exponent.size == 1 and a.dtype == "float32":
        power = float(exponent.data.reshape(-1)[0])
        known = {2.0: "SQUARE", 0.5: "SQRT", -0.5: "RSQRT"}
        if power in known:
            low.put(node.output, steps.unary(draft, known[power], a), order)
            return
        if power == int(power) and 1 <= power <= 4:
            square = steps.unary(draft, "SQUARE", a) if power > 1 else a
            made = {1: lambda: steps.binary(draft, "MUL", a, draft.scalar(1, "float32")),
                    2: lambda: square,
                    3: lambda: steps.binary(draft, "MUL", square, a),
                    4: lambda: steps.unary(draft, "SQUARE", square)}[int(power)]()  # fmt: skip
            low.put(node.output, made, order)
            return
    inner = "float32" if {a.dtype, b.dtype} & {"float32"} or a.dtype == "int64" else a.dtype
    if a.dtype == "int64":
        low.notes["a power of 64-bit integers is computed in float32"] = None
    made = steps.binary(draft, "POW", steps.cast(draft, a, inner), steps.cast(draft, b, inner))
    if inner == "float32" and a.dtype != "float32":
        made = _rounded(low, made) if b.dtype != "float32" else made
    low.put(node.output, steps.cast(draft, made, a.dtype), order)


def _rounded(low: Lowering, x: Tensor) -> Tensor:
    return steps.unary(low.draft, "ROUND", x)


@lowers("Max", "Min", "Sum", "Mean")
def _fold(low: Lowering, node: Node) -> None:
    order, parts = aligned(low, _present(node), node.output.rank)
    made = parts[0]
    for part in parts[1:]:
        made = steps.binary(low.draft, _FOLDS[node.op], made, part)
    if node.op == "Mean" and len(parts) > 1:
        made = steps.binary(low.draft, "MUL", made, low.draft.scalar(1 / len(parts), made.dtype))
    low.put(node.output, made, order)


@lowers(*_COMPARES)
def _compare(low: Lowering, node: Node) -> None:
    order, (a, b) = aligned(low, _present(node), node.output.rank)
    low.put(node.output, steps.binary(low.draft, _COMPARES[node.op], a, b, "bool"), order)


@lowers("And", "Or", "Xor")
def _logic(low: Lowering, node: Node) -> None:
    order, (a, b) = aligned(low, _present(node), node.output.rank)
    kind = {"And": "LOGICAL_AND", "Or": "LOGICAL_OR", "Xor": "NOT_EQUAL"}[node.op]
    low.put(node.output, steps.binary(low.draft, kind, a, b, "bool"), order)


@lowers("Not")
def _not(low: Lowering, node: Node) -> None:
    order = low.order([node.value()])
    low.put(node.output, steps.unary(low.draft, "LOGICAL_NOT", low.get(node.value(), order)), order)


@lowers("BitwiseXor", "BitwiseAnd", "BitwiseOr", "BitwiseNot")
def _bits(low: Lowering, node: Node) -> None:
    dtype = node.output.dtype
    if dtype not in ("int8", "uint8", "int16", "uint16", "int32"):
        raise Refused(f"TFLite has no operator on the bits of {dtype}")
    values = _present(node)
    order, parts = aligned(low, values, node.output.rank)
    draft = low.draft
    if node.op == "BitwiseXor":
        made = steps.binary(draft, "BITWISE_XOR", parts[0], parts[1])
    elif node.op == "BitwiseNot":
        made = steps.binary(draft, "BITWISE_XOR", parts[0], draft.scalar(-1 if dtype[0] == "i" else
                                                                         np.iinfo(dtype).max, dtype))  # fmt: skip
    elif dtype != "int32":
        made = _and_or(low, node.op, parts[0], parts[1])
    else:
        raise Refused("TFLite has only exclusive or of 32 bits")
    low.put(node.output, made, order)


@lowers("BitShift")
def _shift(low: Lowering, node: Node) -> None:
    """To the right by the kernel; to the left as a product with a power of two, less what leaves the type."""
    dtype = node.output.dtype
    if dtype not in _WRAPPING:
        raise Refused(f"TFLite does not shift {dtype}")
    order, (a, b) = aligned(low, _present(node), node.output.rank)
    draft, bits = low.draft, _WRAPPING[dtype]
    if node.attribute("direction") == "RIGHT":
        inner = [steps.cast(draft, x, dtype) for x in (a, b)]
        made = draft.emit("RIGHT_SHIFT", inner, np.broadcast_shapes(a.shape, b.shape))
        made = steps.cast(draft, made, steps.carrier(dtype))
        # The kernel shifts by one less than the width at most.
        left = steps.binary(draft, "LESS", steps.cast(draft, b, "int32"), draft.scalar(bits, "int32"), "bool")
        low.put(node.output, steps.select(draft, left, made, draft.scalar(0, made.dtype)), order)
        return
    wide = "int32" if bits == 8 else "int64"
    powers = draft.constant(np.array([1 << bit for bit in range(bits)] + [0], wide))
    places = steps.binary(draft, "MINIMUM", steps.cast(draft, b, "int32"), draft.scalar(bits, "int32"))
    factor = draft.emit("GATHER", [powers, places], places.shape, axis=0, batchDims=0)
    made = steps.binary(draft, "MUL", steps.cast(draft, a, wide), factor)
    made = steps.binary(draft, "FLOOR_MOD", made, draft.scalar(1 << bits, wide))
    low.put(node.output, steps.cast(draft, made, steps.carrier(dtype)), order)


def _and_or(low: Lowering, op: str, a: Tensor, b: Tensor) -> Tensor:
    """By sums in 32 bits: a + b = (a xor b) + 2 (a and b), and (a or b) = (a xor b) + (a and b)."""
    draft, own = low.draft, a.dtype
    either = steps.cast(draft, steps.binary(draft, "BITWISE_XOR", a, b), "int32")
    total = steps.binary(draft, "ADD", steps.cast(draft, a, "int32"), steps.cast(draft, b, "int32"))
    both = steps.binary(draft, "FLOOR_DIV", steps.binary(draft, "SUB", total, either), draft.scalar(2, "int32"))
    return steps.cast(draft, both if op == "BitwiseAnd" else steps.binary(draft, "ADD", both, either), own)


@lowers("Where")
def _where(low: Lowering, node: Node) -> None:
    order, (condition, a, b) = aligned(low, _present(node), node.output.rank)
    low.put(node.output, steps.select(low.draft, condition, a, b), order)


@lowers("Clip")
def _clip(low: Lowering, node: Node) -> None:
    order = low.order([node.value()])
    made = low.get(node.value(), order)
    lowest, highest = _bound(node, 1), _bound(node, 2)
    fused = {(0.0, 6.0): "RELU6", (-1.0, 1.0): "RELU_N1_TO_1"}.get((_number(lowest), _number(highest)))  # type: ignore[arg-type]
    if made.dtype == "float32" and fused:
        low.put(node.output, steps.unary(low.draft, fused, made), order)
        return
    if made.dtype == "float32" and highest is None and _number(lowest) == 0.0:
        low.put(node.output, steps.unary(low.draft, "RELU", made), order)
        return
    # ONNX: where min exceeds max, max wins.
    for bound, kind in ((lowest, "MAXIMUM"), (highest, "MINIMUM")):
        if bound is not None:
            limit = steps.reshape(low.draft, low.get(bound), ())
            made = steps.binary(low.draft, kind, made, limit)
    if made is low.get(node.value(), order):
        low.alias(node.output, node.value())
        return
    low.put(node.output, made, order)


def _bound(node: Node, index: int) -> Value | None:
    value = node.maybe(index)
    if value is not None and value.data is not None and np.isinf(value.data.astype(np.float64)).all():
        return None
    return value


def _number(value: Value | None) -> float | None:
    return None if value is None or value.data is None else float(value.data.reshape(-1)[0])


@lowers("Cast", "CastLike")
def _cast(low: Lowering, node: Node) -> None:
    value, output = node.value(), node.output
    if output.dtype == "float16" and steps.carrier(value.dtype) == "float32" and value.dtype != "float16":
        order = low.order([value])
        half = steps.cast(low.draft, low.get(value, order), "float16")
        low.put(output, steps.cast(low.draft, half, "float32"), order)
        return
    if steps.carrier(value.dtype) == steps.carrier(output.dtype) and not _narrows(value.dtype, output.dtype):
        output.forms, output.flat = dict(value.forms), value.flat
        if value.data is not None:
            output.data = value.data.astype(output.dtype)
        return
    if _narrows(value.dtype, output.dtype):
        raise Refused(f"a cast from {value.dtype} to {output.dtype} loses digits that TFLite keeps")
    order = low.order([value])
    tensor = low.get(value, order)
    if output.dtype == "bool" and tensor.dtype == "float32":
        made = steps.binary(low.draft, "NOT_EQUAL", tensor, low.draft.scalar(0, "float32"), "bool")
    else:
        made = steps.cast(low.draft, tensor, steps.carrier(output.dtype))
    low.put(output, made, order)


def _narrows(source: str, target: str) -> bool:
    """Whether a cast rounds in a way that float32 tensors cannot show."""
    return target in ("float16", "bfloat16") and source in ("float32", "float64", "bfloat16", "float16", "int32",
                                                            "int64") and source != target  # fmt: skip


@lowers("Identity", "Dropout")
def _identity(low: Lowering, node: Node) -> None:
    training = node.maybe(2)
    if training is not None and (training.data is None or training.data.any()):
        raise Refused("it drops values at random", "Export the model in its mode for inference (model.eval())")
    low.alias(node.output, node.value())
    mask = node.has_output(1)
    if mask is not None:
        mask.data = np.ones(mask.shape, bool)


@lowers("IsNaN")
def _is_nan(low: Lowering, node: Node) -> None:
    order = low.order([node.value()])
    x = low.get(node.value(), order)
    low.put(node.output, steps.binary(low.draft, "NOT_EQUAL", x, x, "bool"), order)


@lowers("IsInf")
def _is_inf(low: Lowering, node: Node) -> None:
    order = low.order([node.value()])
    x, draft = low.get(node.value(), order), low.draft
    wanted = [sign * np.inf for sign, name in ((1, "detect_positive"), (-1, "detect_negative")) if
              node.attribute(name, 1)]  # fmt: skip
    if not wanted:
        low.put(node.output, steps.binary(draft, "LESS", x, draft.scalar(-np.inf, "float32"), "bool"), order)
        return
    found = [steps.binary(draft, "EQUAL", x, draft.scalar(value, "float32"), "bool") for value in wanted]
    made = found[0] if len(found) == 1 else steps.binary(draft, "LOGICAL_OR", found[0], found[1], "bool")
    low.put(node.output, made, order)
