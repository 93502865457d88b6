"""Sizes that only a run tells: how many boxes are left, how many elements are not zero.

The rest of the lowering works with numbers. So such a size gets one, a large prime, and the graph is drafted twice with
other primes: what differs between both drafts is a size that the device measures (`batches`). That holds where an
operator's sizes are multiples of its inputs' and its rule decides nothing by them; `check` lets only such operators see
these numbers. The sizes themselves (Shape, Size) are read on the device and never computed with here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from edgekit.converters.onnx_to_tflite.nodes import Node, Value, axis_of
from edgekit.converters.onnx_to_tflite.refusal import Refused

if TYPE_CHECKING:
    from edgekit.converters.onnx_to_tflite.inference import OpenKind
    from edgekit.converters.onnx_to_tflite.registry import Rule

_PRETENDED = (
    (10007, 10009), (10037, 10039), (10061, 10067), (10069, 10079), (10091, 10093), (10099, 10103), (10111, 10133),
    (10139, 10141), (10151, 10159), (10163, 10169), (10177, 10181), (10193, 10211), (10223, 10243), (10247, 10253),
    (10259, 10267), (10271, 10273),
)  # fmt: skip
"""Size -> what stands for it in either draft: primes, larger than what a multiple could be mistaken for."""

OPEN = frozenset({
    "NonMaxSuppression", "NonZero", "Compress", "Slice", "TopK", "Range", "ConstantOfShape", "Expand", "Pad", "Tile",
})  # fmt: skip
"""Operators whose rules make outputs of a size that ONNX cannot infer."""


class Measures:
    """The sizes of one draft.

    Attributes:
        guess: Which of the two drafts it is.
        count: How many sizes there are.
    """

    def __init__(self, guess: int) -> None:
        self.guess = guess
        self.count = 0

    def new(self) -> int:
        """What stands for one more size.

        Raises:
            Refused: There are too many.
        """
        if self.count == len(_PRETENDED):
            raise Refused(f"more than {len(_PRETENDED)} sizes of this graph depend on the data")
        self.count += 1
        return _PRETENDED[self.count - 1][self.guess]

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """What stands for each size in both drafts."""
        return _PRETENDED[: self.count]

    def axes(self, value: Value) -> frozenset[int]:
        """Axes of a value whose size depends on the data."""
        known = [pair[self.guess] for pair in self.pairs]
        return frozenset(
            axis for axis, size in enumerate(value.shape) if size and any(size % number == 0 for number in known)
        )

    def any(self, values: Iterable[Value | None]) -> bool:
        """Whether one of these values has such an axis."""
        return self.count > 0 and any(value is not None and self.axes(value) for value in values)


def check(sizes: Measures, node: Node, rule: Rule) -> None:
    """Let an operator have inputs whose sizes depend on the data, if it is right for every size.

    Raises:
        Refused: It is not known to be.
    """
    plain = rule.__module__.rpartition(".")[2] in ("activations", "arithmetic")
    asked = _RIGHT.get(node.op) if not node.domain else None
    if not plain and (asked is None or not asked(sizes, node)):
        raise Refused(
            "the size of its input depends on the data, which it is not written for",
            "Leave what follows the selection to the program, or export it with fixed sizes",
        )


def _always(_sizes: Measures, _node: Node) -> bool:
    return True


def _one_axis(default: int) -> Callable[[Measures, Node], bool]:
    """Along an axis whose size is known."""

    def asked(sizes: Measures, node: Node) -> bool:
        value = node.value()
        return axis_of(int(node.attribute("axis", default)), value.rank) not in sizes.axes(value)

    return asked


def _squeeze(_sizes: Measures, node: Node) -> bool:
    return node.maybe(1) is not None or "axes" in node.attributes


def _gathers(sizes: Measures, node: Node) -> bool:
    return not node.attribute("batch_dims", 0) and not sizes.axes(node.value())


def _sliced(node: Node) -> set[int] | None:
    """Axes that a Slice cuts; None where only a run tells."""
    value, given, axes = node.value(), node.maybe(1), node.maybe(3)
    if axes is not None:
        named = None if axes.data is None else axes.data.reshape(-1).tolist()
    else:
        named = list(range(given.size)) if given is not None else node.ints("axes")
    return None if named is None else {axis_of(int(axis), value.rank) for axis in named}


def _slice(_sizes: Measures, node: Node) -> bool:
    return _sliced(node) is not None and node.maybe(1) is not None


def inferred(sizes: Measures, node: Node, kind: OpenKind) -> OpenKind:
    """What ONNX infers of an operator's output, less what is only so for what stands for a size, and what it missed."""
    cut = _sliced(node) if node.op == "Slice" else None
    if cut is None:
        return kind
    value, known = node.value(), set(range(node.value().rank)) - cut
    anew = sizes.axes(value) & cut
    return tuple(
        value.shape[axis] if axis in known else None if axis in anew else size for axis, size in enumerate(kind[0])
    ), kind[1]


def _reduction(sizes: Measures, node: Node) -> bool:
    value, given = node.value(), node.maybe(1)
    if given is not None and given.data is None:
        return False
    axes = given.data.reshape(-1).tolist() if given is not None and given.data is not None else node.ints("axes") or []
    gone = {axis_of(axis, value.rank) for axis in axes} or set(range(value.rank))
    return node.op == "ReduceSum" or not sizes.axes(value) & gone


def _product(sizes: Measures, node: Node) -> bool:
    a, b = node.value(0), node.value(1)
    return b.data is not None and b.rank == 2 and not sizes.axes(a) & {a.rank - 1} and not node.attribute("transA", 0)


def _repeats(_sizes: Measures, node: Node) -> bool:
    given = node.maybe(1)
    return given is not None and given.data is not None


def _padding(_sizes: Measures, node: Node) -> bool:
    return bool(node.attribute("mode", "constant") == "constant")


_RIGHT: dict[str, Callable[[Measures, Node], bool]] = {
    **dict.fromkeys(("Reshape", "Flatten", "Unsqueeze", "Transpose", "Concat", "Gather", "Shape", "NonZero"), _always),
    **dict.fromkeys(("Softmax", "LogSoftmax", "LpNormalization", "Hardmax"), _one_axis(-1)),
    **dict.fromkeys(("ArgMax", "ArgMin", "Split"), _one_axis(0)),
    **dict.fromkeys(("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceProd"), _reduction),
    **dict.fromkeys(("MatMul", "Gemm"), _product),
    "Squeeze": _squeeze, "GatherND": _gathers, "Slice": _slice, "TopK": _one_axis(-1), "Tile": _repeats,
    "Pad": _padding,
}  # fmt: skip
"""Operator -> whether it is right for every size, as a node uses it."""
