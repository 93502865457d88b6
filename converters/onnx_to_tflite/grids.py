"""GridSample: values of an image or a volume at places that the graph computes, in all modes of PyTorch's grid_sample.

Every answer is a weighted sum of a few elements, whose places are indices into the joined spatial axes, a GATHER each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

from edgekit.converters.onnx_to_tflite import steps
from edgekit.converters.onnx_to_tflite.activations import Maths
from edgekit.converters.onnx_to_tflite.draft import Tensor
from edgekit.converters.onnx_to_tflite.lowering import Lowering
from edgekit.converters.onnx_to_tflite.nodes import Node, channels_last
from edgekit.converters.onnx_to_tflite.refusal import Refused
from edgekit.converters.onnx_to_tflite.registry import lowers
from edgekit.converters.onnx_to_tflite.stacks import unpacked

_MODES = {"bilinear": "linear", "bicubic": "cubic"}
"""Names before opset 20 -> those since."""
_SHARPNESS = -0.75
"""Of Keys' cubic function, as ONNX and PyTorch have it."""
_MARGIN = 3
"""So far outside, all elements of any mode are outside as well; farther places would not fit into an index."""


@dataclass(frozen=True)
class _Tap:
    """One element an answer takes along one axis, a tensor [N, answers] each.

    Attributes:
        index: int32, inside the axis.
        weight: float32; None for 1.
    """

    index: Tensor
    weight: Tensor | None


@lowers("GridSample", since=16)
def _grid_sample(low: Lowering, node: Node) -> None:
    value, grid, output, draft = node.value(0), node.value(1), node.output, low.draft
    rank = value.rank - 2
    mode = node.attribute("mode", "linear")
    mode = _MODES.get(mode, mode)
    along = _ALONG.get(mode)
    if along is None or rank not in (2, 3):
        raise Refused(f"its mode {mode!r} over {rank} axes is not written")
    if steps.carrier(value.dtype) != "float32":
        raise Refused(f"TFLite does not interpolate {value.dtype}")
    batch, sizes = value.shape[0], value.shape[2:]
    places = steps.reshape(draft, low.get(grid), (batch, grid.size // batch // rank, rank))
    # The grid names the last axis first.
    given = unpacked(low, places, 2)[::-1]
    corners, padding = bool(node.attribute("align_corners", 0)), node.attribute("padding_mode", "zeros")
    axes = [along(Maths(low), x, size, padding, corners) for x, size in zip(given, sizes, strict=True)]
    order = channels_last(value.rank)
    flat = steps.reshape(draft, low.get(value, order), (batch, _count(sizes), value.shape[1]))
    made = _summed(low, flat, axes, sizes)
    low.put(output, steps.reshape(draft, made, [output.shape[axis] for axis in order]), order)


def _count(sizes: Sequence[int]) -> int:
    total = 1
    for size in sizes:
        total *= size
    return total


def _summed(low: Lowering, flat: Tensor, axes: Sequence[Sequence[_Tap]], sizes: Sequence[int]) -> Tensor:
    """[N, answers, channels] of elements [N, joined axes, channels]."""
    do, draft = Maths(low), low.draft
    made: Tensor | None = None
    for taps in product(*axes):
        index = taps[0].index
        for tap, size in zip(taps[1:], sizes[1:], strict=True):
            index = do("ADD", do("MUL", index, size), tap.index)
        shape = [*index.shape, flat.shape[2]]
        part = draft.emit("GATHER", [flat, index], shape, axis=1, batchDims=1)
        weights = [tap.weight for tap in taps if tap.weight is not None]
        if weights:
            weight = weights[0]
            for other in weights[1:]:
                weight = do("MUL", weight, other)
            part = do("MUL", part, steps.reshape(draft, weight, (*weight.shape, 1)))
        made = part if made is None else do("ADD", made, part)
    if made is None:
        raise Refused("it takes no elements")
    return made


def _place(do: Maths, x: Tensor, size: int, corners: bool) -> Tensor:
    """From -1 ... 1 to elements: the ends are the middles of the outer elements, or their outer borders."""
    if corners:
        return do("MUL", do("ADD", x, 1.0), (size - 1) / 2)
    return do("MUL", do("SUB", do("MUL", do("ADD", x, 1.0), float(size)), 1.0), 0.5)


def _inside(do: Maths, x: Tensor, size: int, padding: str, corners: bool) -> Tensor:
    """Places that lie outside, brought back as the padding says; for zeros only so far that they can be counted."""
    if padding == "zeros":
        return _clipped(do, x, -float(_MARGIN), float(size - 1 + _MARGIN))
    if padding == "reflection":
        x = _reflected(do, x, *((0.0, float(size - 1)) if corners else (-0.5, size - 0.5)))
    elif padding != "border":
        raise Refused(f"its padding {padding!r} is not known")
    return _clipped(do, x, 0.0, float(size - 1))


def _clipped(do: Maths, x: Tensor, least: float, most: float) -> Tensor:
    return do("MINIMUM", do("MAXIMUM", x, least), most)


def _reflected(do: Maths, x: Tensor, least: float, most: float) -> Tensor:
    """As light between two mirrors: a wave of triangles."""
    span = most - least
    if not span:
        return do("MUL", x, 0.0)
    far = do("SUB", x, least)
    turns = do("FLOOR", do("MUL", far, 1 / (2 * span)))
    rest = do("SUB", far, do("MUL", turns, 2 * span))
    return do("SUB", most, do("ABS", do("SUB", rest, span)))


def _tap(do: Maths, place: Tensor, weight: Tensor | None, size: int, padding: str) -> _Tap:
    """The element at a whole place; where that lies outside, the nearest, with a weight of zero."""
    held = _clipped(do, place, 0.0, float(size - 1))
    if padding == "zeros":
        there = steps.cast(do.draft, do.test("EQUAL", place, held), "float32")
        weight = there if weight is None else do("MUL", weight, there)
    return _Tap(steps.cast(do.draft, held, "int32"), weight)


def _nearest(do: Maths, x: Tensor, size: int, padding: str, corners: bool) -> list[_Tap]:
    place = do("ROUND", _inside(do, _place(do, x, size, corners), size, padding, corners))
    return [_tap(do, place, None, size, padding)]


def _linear(do: Maths, x: Tensor, size: int, padding: str, corners: bool) -> list[_Tap]:
    place = _inside(do, _place(do, x, size, corners), size, padding, corners)
    first = do("FLOOR", place)
    after = do("SUB", place, first)
    return [
        _tap(do, first, do("SUB", 1.0, after), size, padding),
        _tap(do, do("ADD", first, 1.0), after, size, padding),
    ]


def _cubic(do: Maths, x: Tensor, size: int, padding: str, corners: bool) -> list[_Tap]:
    """Keys' function over the four nearest, each of which is padded by itself."""
    if padding != "reflection":
        place = _clipped(do, _place(do, x, size, corners), -float(_MARGIN), float(size - 1 + _MARGIN))
    else:
        place = _place(do, x, size, corners)
    first = do("FLOOR", place)
    after = do("SUB", place, first)
    before = do("SUB", 1.0, after)
    weights = [_far(do, do("ADD", after, 1.0)), _near(do, after), _near(do, before), _far(do, do("ADD", before, 1.0))]
    found = []
    for offset, weight in zip((-1.0, 0.0, 1.0, 2.0), weights, strict=True):
        at = do("ADD", first, offset) if offset else first
        if padding == "reflection":
            at = do("ROUND", _inside(do, at, size, padding, corners))
        found.append(_tap(do, at, weight, size, padding))
    return found


def _near(do: Maths, x: Tensor) -> Tensor:
    """Keys, "Cubic convolution interpolation", IEEE Trans. ASSP 29 (1981): up to a distance of 1."""
    return do.series(x, (_SHARPNESS + 2, -(_SHARPNESS + 3), 0.0, 1.0))


def _far(do: Maths, x: Tensor) -> Tensor:
    """... and from 1 to 2."""
    return do.series(x, (_SHARPNESS, -5 * _SHARPNESS, 8 * _SHARPNESS, -4 * _SHARPNESS))


_ALONG: dict[str, Callable[[Maths, Tensor, int, str, bool], list[_Tap]]] = {
    "nearest": _nearest, "linear": _linear, "cubic": _cubic,
}  # fmt: skip
