"""A graph as a list of steps, one an operator, for questions that are the same in both formats."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """An operator: its kind, the tensors it reads and makes, and its attributes that are floats."""

    kind: str
    read: tuple[str, ...]
    made: tuple[str, ...]
    numbers: tuple[tuple[str, float], ...] = ()


def peak(steps: Sequence[Step], sizes: Mapping[str, int]) -> int:
    """The most bytes live at once when each tensor lives from the step that makes it to the last that reads it."""
    last = {name: number for number, step in enumerate(steps) for name in (*step.read, *step.made)}
    live = peak = 0
    for number, step in enumerate(steps):
        live += sum(sizes.get(name, 0) for name in step.made)
        peak = max(peak, live)
        live -= sum(sizes.get(name, 0) for name in {*step.read, *step.made} if last[name] == number)
    return peak


_TRANSPARENT = frozenset(
    # TFLite's names, then ONNX's.
    (
        *("SOFTMAX", "LOG_SOFTMAX", "LOGISTIC", "TANH", "RESHAPE", "SQUEEZE", "EXPAND_DIMS", "TRANSPOSE"),
        *("CONCATENATION", "PACK", "UNPACK", "SLICE", "STRIDED_SLICE", "SPLIT", "SPLIT_V"),
        *("Softmax", "LogSoftmax", "Sigmoid", "Tanh", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose"),
        *("Concat", "Slice", "Split", "Identity"),
    )
)
"""Operators that move values or squash each range of them monotonically: what goes in is the answer already."""


def _scales(step: Step, maker: Mapping[str, Step]) -> bool:
    """Whether it multiplies or divides by something that no operator makes, such as sizes in pixels."""
    return step.kind in ("MUL", "DIV", "Mul", "Div") and sum(name in maker for name in step.read) == 1


def answers(steps: Sequence[Step], outputs: Iterable[str]) -> set[str]:
    """The outputs, and the tensors that they are a rearrangement, a squashing or a multiple of."""
    maker = {name: step for step in steps for name in step.made}
    found: set[str] = set()
    waiting = list(outputs)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            step = maker.get(name)
            waiting += step.read if step is not None and (step.kind in _TRANSPARENT or _scales(step, maker)) else ()
    return found


_MOVING = frozenset(
    (
        *("RESHAPE", "SQUEEZE", "EXPAND_DIMS", "TRANSPOSE", "DEPTH_TO_SPACE", "SPACE_TO_DEPTH"),
        *("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Identity", "DepthToSpace", "SpaceToDepth"),
    )
)
"""Operators that put each value of their first input somewhere else, once."""

_SQUASHING = frozenset({"SOFTMAX", "LOG_SOFTMAX", "LOGISTIC", "TANH", "Softmax", "LogSoftmax", "Sigmoid", "Tanh"})
_RESCALING = frozenset({"QUANTIZE", "DEQUANTIZE", "QuantizeLinear", "DequantizeLinear"})
_BY_VALUE = {"LOGISTIC": "sigmoid", "Sigmoid": "sigmoid", "TANH": "tanh", "Tanh": "tanh"}


@dataclass(frozen=True)
class Score:
    """What an output tells in other numbers, such as the logits of a softmax.

    Attributes:
        name: Of the tensor.
        function: "sigmoid" or "tanh", where that makes the output of it value by value.
    """

    name: str
    function: str | None = None


def scores(steps: Sequence[Step], outputs: Iterable[str]) -> list[Score]:
    """An output each: the tensor that it squashes, or else itself."""
    maker = {name: step for step in steps for name in step.made}

    def behind(name: str) -> Score:
        found, at, functions = name, name, list[str | None]()
        while (step := maker.get(at)) is not None and step.kind in _SQUASHING | _RESCALING | _MOVING:
            at = step.read[0]
            if step.kind in _SQUASHING:
                found = at
                functions.append(_BY_VALUE.get(step.kind))
        return Score(found, functions[0] if len(functions) == 1 else None)

    return [behind(name) for name in outputs]


def squashed(steps: Sequence[Step], outputs: Iterable[str]) -> set[str]:
    """Tensors that nothing but one sigmoid or tanh reads."""
    readers: dict[str, list[Step]] = {}
    for step in steps:
        for name in step.read:
            readers.setdefault(name, []).append(step)
    alone = {name for name, reading in readers.items() if len(reading) == 1 and reading[0].kind in _BY_VALUE}
    return alone - set(outputs)


_CUTTING = frozenset({"RELU", "Relu"})


@dataclass(frozen=True)
class Origin:
    """Where the values of a tensor come from.

    Attributes:
        name: Of the tensor that they are taken from.
        positive: Those below zero became zero.
    """

    name: str
    positive: bool = False


def origins(steps: Sequence[Step], apart: Container[str], *, cut: bool) -> dict[str, Origin]:
    """The tensors whose values another one tells, by name.

    Args:
        steps: The graph.
        apart: Tensors that are told by others of these only.
        cut: Whether it tells, too, what a Relu makes of it.
    """
    found: dict[str, Origin] = {}
    for step in steps:
        if step.kind in _MOVING or (cut and step.kind in _CUTTING):
            read, made = step.read[0], step.made[0]
            before = found.get(read, Origin(read))
            if (read in apart) == (made in apart):
                found[made] = Origin(before.name, before.positive or step.kind in _CUTTING)
    return found


def folded(steps: Sequence[Step], outputs: Iterable[str]) -> set[str]:
    """Results of convolutions that only a batch normalization reads: it becomes part of them."""
    readers: dict[str, list[str]] = {}
    for step in steps:
        for name in step.read:
            readers.setdefault(name, []).append(step.kind)
    made = {name for step in steps if step.kind == "Conv" for name in step.made}
    return {name for name in made - set(outputs) if readers.get(name) == ["BatchNormalization"]}
