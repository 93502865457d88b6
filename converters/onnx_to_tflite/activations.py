"""Elementwise functions of one input: roots, exponentials, circular functions, activations."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from edgekit.converters.onnx_to_tflite import steps
from edgekit.converters.onnx_to_tflite.draft import Tensor
from edgekit.converters.onnx_to_tflite.lowering import Lowering
from edgekit.converters.onnx_to_tflite.nodes import Node, Order
from edgekit.converters.onnx_to_tflite.refusal import Refused
from edgekit.converters.onnx_to_tflite.registry import lowers

_DIRECT = {
    "Abs": "ABS", "Neg": "NEG", "Sqrt": "SQRT", "Exp": "EXP", "Log": "LOG", "Sin": "SIN", "Cos": "COS",
    "Floor": "FLOOR", "Ceil": "CEIL", "Round": "ROUND", "Sigmoid": "LOGISTIC", "Tanh": "TANH", "Relu": "RELU",
    "HardSwish": "HARD_SWISH", "Sign": "SIGN",
}  # fmt: skip


def _in(low: Lowering, node: Node) -> tuple[Order, Tensor]:
    order = low.order([node.value()])
    return order, low.get(node.value(), order)


class Maths:
    """Arithmetic on tensors and numbers, written as it is read."""

    def __init__(self, low: Lowering) -> None:
        self.draft = low.draft

    def _tensor(self, x: Tensor | float, like: Tensor) -> Tensor:
        return x if isinstance(x, Tensor) else self.draft.scalar(x, like.dtype)

    def __call__(self, kind: str, a: Tensor | float, b: Tensor | float | None = None) -> Tensor:
        """An operator of one or two inputs, of which at least one is a tensor."""
        if b is None:
            if not isinstance(a, Tensor):
                raise TypeError("an operator of one input needs a tensor")
            return steps.unary(self.draft, kind, a)
        like = a if isinstance(a, Tensor) else b
        if not isinstance(like, Tensor):
            raise TypeError("an operator of two numbers is no operator")
        return steps.binary(self.draft, kind, self._tensor(a, like), self._tensor(b, like))

    def test(self, kind: str, a: Tensor, b: Tensor | float) -> Tensor:
        """A comparison."""
        return steps.binary(self.draft, kind, a, self._tensor(b, a), "bool")

    def pick(self, condition: Tensor, a: Tensor | float, b: Tensor | float, dtype: str = "float32") -> Tensor:
        """A where the condition holds, else b."""
        parts = [x if isinstance(x, Tensor) else self.draft.scalar(x, dtype) for x in (a, b)]
        return steps.select(self.draft, condition, *parts)

    def series(self, x: Tensor, coefficients: tuple[float, ...]) -> Tensor:
        """A polynomial by Horner's rule, the highest power's coefficient first."""
        made: Tensor | float = coefficients[0]
        for coefficient in coefficients[1:]:
            made = self("ADD", self("MUL", made, x), coefficient)
        if not isinstance(made, Tensor):
            raise TypeError("a polynomial needs two coefficients")
        return made


@lowers(*_DIRECT)
def _direct(low: Lowering, node: Node) -> None:
    order, x = _in(low, node)
    if x.dtype != "float32" and node.op in ("Relu", "Abs", "Sign", "Neg"):
        low.put(node.output, _integer(low, node, x), order)
        return
    low.put(node.output, steps.unary(low.draft, _DIRECT[node.op], x), order)


def _integer(low: Lowering, node: Node, x: Tensor) -> Tensor:
    do = Maths(low)
    unsigned = node.output.dtype.startswith("u")
    if node.op == "Relu":
        return do("MAXIMUM", x, 0)
    if node.op == "Abs":
        return do("MAXIMUM", x, 0) if unsigned else do("MAXIMUM", x, do("SUB", 0, x))
    if node.op == "Sign":
        return do("MINIMUM", do("MAXIMUM", x, -1 if not unsigned else 0), 1)
    return do("SUB", 0, x)


_FUNCTIONS: dict[str, Callable[[Maths, Tensor, Node], Tensor]] = {
    "Reciprocal": lambda do, x, _: do("DIV", 1.0, x),
    "Tan": lambda do, x, _: do("DIV", do("SIN", x), do("COS", x)),
    "Sinh": lambda do, x, _: _sinh(do, x),
    "Cosh": lambda do, x, _: do("MUL", do("ADD", do("EXP", x), do("EXP", do("NEG", x))), 0.5),
    "Asin": lambda do, x, _: do("ATAN2", x, _leg(do, x)),
    "Acos": lambda do, x, _: do("ATAN2", _leg(do, x), x),
    # The kernel of ATAN2 does not broadcast.
    "Atan": lambda do, x, _: do("ATAN2", x, do.draft.constant(np.ones(x.shape, np.float32))),
    "Asinh": lambda do, x, _: _asinh(do, x),
    "Acosh": lambda do, x, _: do("LOG", do("ADD", x, do("SQRT", do("MUL", do("ADD", x, 1.0), do("SUB", x, 1.0))))),
    "Atanh": lambda do, x, _: _atanh(do, x),
    "Erf": lambda do, x, _: _erf(do, x),
    "Softplus": lambda do, x, _: _softplus(do, x),
    "Softsign": lambda do, x, _: do("DIV", x, do("ADD", do("ABS", x), 1.0)),
    "HardSigmoid": lambda do, x, node: _hard_sigmoid(do, x, node.attribute("alpha", 0.2), node.attribute("beta", 0.5)),
    "Selu": lambda do, x, node: _elu(
        do, x, node.attribute("alpha", 1.67326319217681884765625), node.attribute("gamma", 1.05070102214813232421875)
    ),
    "Celu": lambda do, x, node: _celu(do, x, node.attribute("alpha", 1.0)),
    "Elu": lambda do, x, node: _elu(do, x, node.attribute("alpha", 1.0), 1.0),
    "ThresholdedRelu": lambda do, x, node: do.pick(do.test("GREATER", x, node.attribute("alpha", 1.0)), x, 0.0),
    "Mish": lambda do, x, _: _mish(do, x),
    "Swish": lambda do, x, node: do("MUL", x, do("LOGISTIC", _times(do, x, node.attribute("alpha", 1.0)))),
    "Shrink": lambda do, x, node: _shrink(do, x, node.attribute("lambd", 0.5), node.attribute("bias", 0.0)),
}


@lowers(*_FUNCTIONS)
def _function(low: Lowering, node: Node) -> None:
    order, x = _in(low, node)
    do = Maths(low)
    if x.dtype != "float32":
        if node.op != "Shrink":
            raise Refused(f"it has no meaning for {x.dtype}")
        x = steps.cast(low.draft, x, "float32")
    made = _FUNCTIONS[node.op](do, x, node)
    low.put(node.output, steps.cast(low.draft, made, steps.carrier(node.output.dtype)), order)


@lowers("LeakyRelu")
def _leaky_relu(low: Lowering, node: Node) -> None:
    order, x = _in(low, node)
    alpha = float(node.attribute("alpha", 0.01))
    low.put(node.output, steps.unary(low.draft, "LEAKY_RELU", x, alpha=alpha), order)


@lowers("PRelu")
def _prelu(low: Lowering, node: Node) -> None:
    from edgekit.converters.onnx_to_tflite.arithmetic import aligned

    rank = node.output.rank
    order, (x, slope) = aligned(low, [node.value(0), node.value(1)], rank)
    do = Maths(low)
    # The kernel wants one slope a channel, the last axis, and not too many axes.
    a_channel = slope.size in (1, x.shape[-1]) and slope.shape[-1] == slope.size
    if x.dtype == "float32" and 2 <= rank <= 4 and slope.data is not None and a_channel:
        alpha = np.broadcast_to(slope.data.reshape(-1), (x.shape[-1],)).reshape((1,) * (rank - 2) + (-1,))
        low.put(node.output, low.draft.emit("PRELU", [x, low.draft.constant(alpha)], x.shape), order)
        return
    negative = do("MUL", do("MINIMUM", x, 0), slope)
    low.put(node.output, do("ADD", do("MAXIMUM", x, 0), negative), order)


@lowers("Gelu")
def _gelu(low: Lowering, node: Node) -> None:
    order, x = _in(low, node)
    approximate = node.attribute("approximate", "none") == "tanh"
    low.put(node.output, steps.unary(low.draft, "GELU", x, approximate=approximate), order)


@lowers("FastGelu", "QuickGelu", "Gelu", "BiasGelu", domain="com.microsoft")
def _gelus(low: Lowering, node: Node) -> None:
    node.output.shape, node.output.dtype = node.value().shape, node.value().dtype
    order, x = _in(low, node)
    do = Maths(low)
    bias = node.maybe(1)
    if bias is not None:
        x = do("ADD", x, steps.transpose(low.draft, steps.reshape(low.draft, low.get(bias),
                                         (1,) * (x.rank - 1) + bias.shape), order))  # fmt: skip
    if node.op == "QuickGelu":
        made = do("MUL", x, do("LOGISTIC", do("MUL", x, float(node.attribute("alpha", 1.702)))))
    else:
        made = steps.unary(low.draft, "GELU", x, approximate=node.op == "FastGelu")
    low.put(node.output, made, order)


def _times(do: Maths, x: Tensor, factor: float) -> Tensor:
    return x if factor == 1.0 else do("MUL", x, float(factor))


def _leg(do: Maths, x: Tensor) -> Tensor:
    """sqrt(1 - x^2), as (1 - x)(1 + x), which keeps its digits near 1."""
    return do("SQRT", do("MUL", do("SUB", 1.0, x), do("ADD", x, 1.0)))


def _sinh(do: Maths, x: Tensor) -> Tensor:
    """By exponentials, near zero by the Taylor series, where their difference would lose its digits."""
    square = do("SQUARE", x)
    near = do("MUL", x, do.series(square, (1 / 5040, 1 / 120, 1 / 6, 1.0)))
    far = do("MUL", do("SUB", do("EXP", x), do("EXP", do("NEG", x))), 0.5)
    return do.pick(do.test("LESS", do("ABS", x), 0.5), near, far)


def _asinh(do: Maths, x: Tensor) -> Tensor:
    """sign(x) log(|x| + sqrt(x^2 + 1)); near zero the Taylor series."""
    size, square = do("ABS", x), do("SQUARE", x)
    near = do("MUL", x, do.series(square, (105 / 3456, -15 / 336, 3 / 40, -1 / 6, 1.0)))
    far = do("MUL", do("SIGN", x), do("LOG", do("ADD", size, do("SQRT", do("ADD", square, 1.0)))))
    return do.pick(do.test("LESS", size, 0.3), near, far)


def _atanh(do: Maths, x: Tensor) -> Tensor:
    """log((1 + x) / (1 - x)) / 2; near zero the Taylor series."""
    near = do("MUL", x, do.series(do("SQUARE", x), (1 / 9, 1 / 7, 1 / 5, 1 / 3, 1.0)))
    far = do("MUL", do("LOG", do("DIV", do("ADD", x, 1.0), do("SUB", 1.0, x))), 0.5)
    return do.pick(do.test("LESS", do("ABS", x), 0.2), near, far)


_ERF_UP = (
    -2.72614225801306e-10, 2.77068142495902e-08, -2.10102402082508e-06, -5.69250639462346e-05,
    -7.34990630326855e-04, -2.95459980854025e-03, -1.60960333262415e-02,
)  # fmt: skip
_ERF_DOWN = (
    -1.45660718464996e-05, -2.13374055278905e-04, -1.68282697438203e-03, -7.37332916720468e-03, -1.42647390514189e-02,
)  # fmt: skip


def _erf(do: Maths, x: Tensor) -> Tensor:
    """The rational approximation of single precision that Eigen and XLA use, for |x| <= 4."""
    held = do("MINIMUM", do("MAXIMUM", x, -4.0), 4.0)
    square = do("SQUARE", held)
    return do("DIV", do("MUL", held, do.series(square, _ERF_UP)), do.series(square, _ERF_DOWN))


_ATANH = (0.3422599802095501, 0.3958947003019304, 0.6667600251631136, 1.9999996708859973)
"""2 atanh(s) / s of s * s up to 1/9, highest power first: the polynomial whose largest relative error is the least,
1.8e-7 in float32 (fitted on Chebyshev's points, weights raised where the error was large)."""


def _softplus(do: Maths, x: Tensor) -> Tensor:
    """max(x, 0) + log(1 + u) of u = exp(-|x|), which is 2 atanh(u / (2 + u)).

    The engine's LOG loses digits near 1.
    """
    small = do("EXP", do("NEG", do("ABS", x)))
    ratio = do("DIV", small, do("ADD", small, 2.0))
    log = do("MUL", ratio, do.series(do("SQUARE", ratio), _ATANH))
    return do("ADD", do("RELU", x), log)


def _mish(do: Maths, x: Tensor) -> Tensor:
    """X tanh(log(1 + u)) of u = exp(x), which is x n / (n + 2) of n = u (u + 2)."""
    raised = do("EXP", do("MINIMUM", x, 20.0))
    part = do("MUL", raised, do("ADD", raised, 2.0))
    return do("MUL", x, do("DIV", part, do("ADD", part, 2.0)))


def _hard_sigmoid(do: Maths, x: Tensor, alpha: float, beta: float) -> Tensor:
    if math.isclose(alpha, 1 / 6, rel_tol=1e-4) and beta == 0.5:
        return do("MUL", do("RELU6", do("ADD", x, 3.0)), 1 / 6)
    return do("MINIMUM", do("RELU", do("ADD", do("MUL", x, alpha), beta)), 1.0)


def _elu(do: Maths, x: Tensor, alpha: float, gamma: float) -> Tensor:
    if alpha == 1.0:
        return _times(do, do("ELU", x), gamma)
    negative = do("MUL", do("ELU", do("MINIMUM", x, 0.0)), float(alpha))
    return _times(do, do("ADD", do("RELU", x), negative), gamma)


def _celu(do: Maths, x: Tensor, alpha: float) -> Tensor:
    if alpha == 1.0:
        return do("ELU", x)
    return do("ADD", do("RELU", x), do("MUL", do("ELU", do("MUL", do("MINIMUM", x, 0.0), 1 / alpha)), float(alpha)))


def _shrink(do: Maths, x: Tensor, bound: float, bias: float) -> Tensor:
    upper = do.pick(do.test("GREATER", x, bound), do("SUB", x, float(bias)), 0.0)
    return do.pick(do.test("LESS", x, -bound), do("ADD", x, float(bias)), upper)
