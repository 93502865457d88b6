"""Activations that recurrent operators name in their attributes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from edgekit.converters.onnx_to_tflite.activations import Maths
from edgekit.converters.onnx_to_tflite.draft import Tensor
from edgekit.converters.onnx_to_tflite.lowering import Lowering
from edgekit.converters.onnx_to_tflite.nodes import Node, Value, identity
from edgekit.converters.onnx_to_tflite.refusal import Refused
from edgekit.converters.onnx_to_tflite.registry import find

Function = Callable[[Tensor], Tensor]

_USUAL = {"RNN": ("Tanh",), "GRU": ("Sigmoid", "Tanh"), "LSTM": ("Sigmoid", "Tanh", "Tanh")}
_NUMBERS: dict[str, tuple[float | None, float | None]] = {
    "Relu": (None, None), "Tanh": (None, None), "Sigmoid": (None, None), "Softsign": (None, None),
    "Softplus": (None, None), "Elu": (1.0, None), "LeakyRelu": (0.01, None), "ThresholdedRelu": (1.0, None),
    "HardSigmoid": (0.2, 0.5), "Affine": (1.0, 0.0), "ScaledTanh": (1.0, 1.0),
}  # fmt: skip
"""Function -> its alpha and beta unless they are given; None where it has none."""


def functions(low: Lowering, node: Node, direction: int) -> list[Function]:
    """The activations of one direction of a recurrent operator.

    Raises:
        Refused: One of them is none that ONNX names.
    """
    usual = _USUAL[node.op]
    named = list(node.attribute("activations") or ())
    count = len(usual)
    if not named:
        named = [*usual] * (direction + 1)
    if len(named) < (direction + 1) * count:
        raise Refused(f"it names {len(named)} activations, and needs {count} for each direction")
    alphas, betas = iter(node.attribute("activation_alpha") or ()), iter(node.attribute("activation_beta") or ())
    # Each function that has a number takes the next one of the list.
    found = [_function(low, node.version, name, alphas, betas) for name in named]
    return found[direction * count : (direction + 1) * count]


def _function(low: Lowering, version: int, name: str, alphas: Iterator[float], betas: Iterator[float]) -> Function:
    known = {other.lower(): other for other in _NUMBERS}.get(name.lower())
    if known is None:
        raise Refused(f"it has an activation {name!r}, which ONNX does not name")
    alpha, beta = (
        None if usual is None else float(next(given, usual))
        for usual, given in zip(_NUMBERS[known], (alphas, betas), strict=True)
    )
    do = Maths(low)
    if known == "Affine":
        return lambda x: do("ADD", do("MUL", x, alpha), beta)
    if known == "ScaledTanh":
        return lambda x: do("MUL", do("TANH", do("MUL", x, beta)), alpha)
    numbers = {key: number for key, number in (("alpha", alpha), ("beta", beta)) if number is not None}
    return lambda x: _apply(low, version, known, x, numbers)


def _apply(low: Lowering, version: int, op: str, x: Tensor, numbers: dict[str, float]) -> Tensor:
    """As the operator of the same name would be lowered."""
    rule = find("", op, version)
    if rule is None:
        raise Refused(f"its activation {op} is not known")
    order = identity(x.rank)
    given = Value(x.name, x.shape, x.dtype, None, {order: x})
    made = Value(f"{low.draft.origin}/{op.lower()}", x.shape, x.dtype)
    rule(low, Node(op, "", version, made.name, (given,), (made,), numbers))
    return low.get(made)
