"""Resize and Upsample in all of their coordinate modes.

TFLite's own operators are used where they compute the same; otherwise each axis is resized by itself: every result is
a weighted sum of a few elements, whose places are known here, or of many: a product with a constant matrix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.converters.onnx_to_tflite import steps
from edgekit.converters.onnx_to_tflite.draft import Tensor
from edgekit.converters.onnx_to_tflite.linears import dense
from edgekit.converters.onnx_to_tflite.lowering import Lowering
from edgekit.converters.onnx_to_tflite.nodes import Node, axis_of
from edgekit.converters.onnx_to_tflite.refusal import Refused
from edgekit.converters.onnx_to_tflite.registry import lowers

_GATHERED = 8
"""Elements a result that are gathered one by one; more are a product with a matrix."""

Places = NDArray[np.int64]
Weights = NDArray[np.float64]


@dataclass(frozen=True)
class Axis:
    """How one axis is resized.

    Attributes:
        before, after: Its sizes.
        scale: As the node says it, or after / before.
        region: Start and end of the region for "tf_crop_and_resize", from 0 to 1.
    """

    before: int
    after: int
    scale: float
    region: tuple[float, float] = (0.0, 1.0)


@lowers("Resize", "Upsample")
def _resize(low: Lowering, node: Node) -> None:
    value, output = node.value(0), node.output
    axes = _axes(node, value.shape, output.shape)
    order = low.order([value])
    changing = [axis for axis, how in axes.items() if (how.before, how.scale) != (how.after, 1.0) or _crops(node)]
    if not changing:
        low.alias(output, value)
        return
    if _engine_can(node, axes, changing, value.rank):
        order = (0, 2, 3, 1)
        low.put(output, _by_engine(low, node, low.get(value, order), output.shape[2:]), order)
        return
    tensor = low.get(value, order)
    own, tensor = tensor.dtype, steps.cast(low.draft, tensor, "float32")
    for axis in changing:
        tensor = _along(low, node, tensor, order.index(axis), axes[axis])
    if own != "float32" and node.attribute("mode", "nearest") != "nearest":
        raise Refused(f"TFLite does not interpolate {own}")
    low.put(output, steps.cast(low.draft, tensor, own), order)


def _crops(node: Node) -> bool:
    return bool(node.attribute("coordinate_transformation_mode") == "tf_crop_and_resize")


def _axes(node: Node, before: Sequence[int], after: Sequence[int]) -> dict[int, Axis]:
    """Axis -> how it is resized."""
    rank = len(before)
    old = node.op == "Upsample" or node.version < 11
    named = [axis_of(axis, rank) for axis in node.attribute("axes", range(rank))]
    region, scales = [0.0] * len(named) + [1.0] * len(named), None
    if not old and _crops(node):
        region = [float(x) for x in _floats(node, 1, "region")]
    held = node.maybe(1 if old else 2)
    if held is not None and held.size:
        scales = [float(x) for x in _floats(node, 1 if old else 2, "scales")]
    elif "scales" in node.attributes:
        scales = [float(x) for x in node.attribute("scales")]
    found = {}
    for at, axis in enumerate(named):
        scale = scales[at] if scales is not None else after[axis] / before[axis]
        if scales is None and node.attribute("keep_aspect_ratio_policy", "stretch") != "stretch":
            scale = _kept_ratio(node, before, named)
        found[axis] = Axis(before[axis], after[axis], scale, (region[at], region[at + len(named)]))
    return found


def _kept_ratio(node: Node, before: Sequence[int], named: Sequence[int]) -> float:
    sizes = node.ints("sizes", 3) or []
    ratios = [size / before[axis] for size, axis in zip(sizes, named, strict=True)]
    return min(ratios) if node.attribute("keep_aspect_ratio_policy") == "not_larger" else max(ratios)


def _floats(node: Node, index: int, what: str) -> NDArray[Any]:
    found = node.constant(index, what)
    if found is None:
        raise Refused(f"its {what} are missing")
    return found.reshape(-1)


_ENGINE = {
    ("linear", "half_pixel"): (False, True), ("linear", "pytorch_half_pixel"): (False, True),
    ("linear", "asymmetric"): (False, False), ("linear", "align_corners"): (True, False),
    ("nearest", "asymmetric"): (False, False),
}  # fmt: skip
"""(mode, coordinates) -> the engine's align_corners and half_pixel_centers."""


def _engine_can(node: Node, axes: dict[int, Axis], changing: Sequence[int], rank: int) -> bool:
    """Whether TFLite's own operator gives the same: images, and scales that are the ratio of the sizes."""
    if rank != 4 or not set(changing) <= {2, 3} or node.attribute("antialias", 0) or node.value().dtype != "float32":
        return False
    mode, coordinates = _modes(node)
    if (mode, coordinates) not in _ENGINE:
        return False
    if mode == "nearest" and node.attribute("nearest_mode", "round_prefer_floor") != "floor" and node.op == "Resize":
        # Whole factors name the same element, rounded down or not, only where a step is less than half.
        return False
    if coordinates == "pytorch_half_pixel" and any(how.after == 1 for how in axes.values()):
        return False
    if coordinates == "align_corners" and any(how.after == 1 for axis, how in axes.items() if axis in (2, 3)):
        return False
    return all(how.scale == how.after / how.before for how in axes.values())


def _modes(node: Node) -> tuple[str, str]:
    if node.op == "Upsample" or node.version < 11:
        return node.attribute("mode", "nearest"), "asymmetric"
    return node.attribute("mode", "nearest"), node.attribute("coordinate_transformation_mode", "half_pixel")


def _by_engine(low: Lowering, node: Node, tensor: Tensor, sizes: Sequence[int]) -> Tensor:
    mode, coordinates = _modes(node)
    corners, half = _ENGINE[mode, coordinates]
    kind = "RESIZE_BILINEAR" if mode == "linear" else "RESIZE_NEAREST_NEIGHBOR"
    shape = [tensor.shape[0], *sizes, tensor.shape[3]]
    return low.draft.emit(kind, [tensor, low.draft.ints(sizes)], shape, alignCorners=corners, halfPixelCenters=half)


def _along(low: Lowering, node: Node, tensor: Tensor, place: int, how: Axis) -> Tensor:
    """One axis."""
    places, weights, outside = _taps(node, how)
    way = _by_matrix if places.shape[1] > _GATHERED else _by_elements
    made = way(low, tensor, place, places, weights)
    if outside.any():
        filling = low.draft.scalar(float(node.attribute("extrapolation_value", 0.0)), "float32")
        column = [-1 if axis == place else 1 for axis in range(tensor.rank)]
        made = steps.select(low.draft, low.draft.constant(outside.reshape(column)), filling, made)
    return made


def _by_elements(low: Lowering, tensor: Tensor, place: int, places: Places, weights: Weights) -> Tensor:
    """One axis, as a sum of gathered elements."""
    draft, before, after = low.draft, tensor.shape[place], len(places)
    shape = [*tensor.shape[:place], after, *tensor.shape[place + 1 :]]
    column = [-1 if axis == place else 1 for axis in range(tensor.rank)]
    made: Tensor | None = None
    for tap in range(places.shape[1]):
        index, weight = places[:, tap], weights[:, tap]
        if not weight.any():
            continue
        part = tensor
        if before != after or not np.array_equal(index, np.arange(after)):
            part = draft.emit("GATHER", [tensor, draft.ints(index)], shape, axis=place, batchDims=0)
        if not np.all(weight == 1):
            part = steps.binary(draft, "MUL", part, draft.constant(weight.astype(np.float32).reshape(column)))
        made = part if made is None else steps.binary(draft, "ADD", made, part)
    if made is None:
        raise Refused("all of its weights are zero")
    return made


def _by_matrix(low: Lowering, tensor: Tensor, place: int, places: Places, weights: Weights) -> Tensor:
    """One axis as a product with a constant matrix."""
    count = tensor.shape[place]
    matrix = np.zeros((len(places), count))
    np.add.at(matrix, (np.arange(len(places))[:, None], places), weights)
    order = [*(axis for axis in range(tensor.rank) if axis != place), place]
    made = dense(low, steps.transpose(low.draft, tensor, order), matrix.astype(np.float32))
    return steps.transpose(low.draft, made, [order.index(axis) for axis in range(tensor.rank)])


def _taps(node: Node, how: Axis) -> tuple[Places, Weights, NDArray[np.bool_]]:
    """Elements that each result takes, their weights, and which results lie outside: [after, taps] twice, [after]."""
    mode, coordinates = _modes(node)
    where = _coordinates(coordinates, how)
    outside = np.zeros(how.after, bool)
    if coordinates == "tf_crop_and_resize":
        outside = (where < 0) | (where > how.before - 1)
    if mode == "nearest":
        nearest = node.attribute("nearest_mode", "round_prefer_floor") if node.op == "Resize" else "floor"
        index = _ROUND[nearest](where).astype(np.int64)
        return np.clip(index, 0, how.before - 1)[:, None], np.ones((how.after, 1)), outside
    reach = {"linear": 1, "cubic": 2}.get(mode)
    if reach is None:
        raise Refused(f"its mode {mode!r} is not known")
    wide = min(how.scale, 1.0) if node.attribute("antialias", 0) else 1.0
    span = int(np.ceil(reach / wide))
    base = np.floor(where).astype(np.int64)
    offsets = np.arange(1 - span, span + 1)
    places = base[:, None] + offsets[None, :]
    distance = (places - where[:, None]) * wide
    weights = _linear(distance) if mode == "linear" else _cubic(distance, float(node.attribute("cubic_coeff_a", -0.75)))
    inside = (places >= 0) & (places < how.before)
    if node.attribute("exclude_outside", 0):
        weights = weights * inside
    if node.attribute("exclude_outside", 0) or wide < 1.0:
        weights = weights / weights.sum(1, keepdims=True)
    used = np.flatnonzero(np.abs(weights).max(0) > 0)
    return np.clip(places, 0, how.before - 1)[:, used], weights[:, used], outside


_ROUND: dict[str, Any] = {
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}


def _coordinates(mode: str, how: Axis) -> Weights:
    """Where in the input each result lies; the formulas of the ONNX specification of Resize."""
    x = np.arange(how.after, dtype=np.float64)
    whole = how.before * how.scale
    if mode == "half_pixel":
        return (x + 0.5) / how.scale - 0.5
    if mode == "half_pixel_symmetric":
        adjusted = how.after / whole
        centre = how.before / 2
        return centre * (1 - adjusted) + (x + 0.5) / how.scale - 0.5
    if mode == "pytorch_half_pixel":
        return (x + 0.5) / how.scale - 0.5 if how.after > 1 else np.zeros_like(x)
    if mode == "align_corners":
        return x * (how.before - 1) / (how.after - 1) if how.after > 1 else np.zeros_like(x)
    if mode == "asymmetric":
        return x / how.scale
    if mode == "tf_crop_and_resize":
        start, end = how.region
        if how.after > 1:
            return start * (how.before - 1) + x * (end - start) * (how.before - 1) / (how.after - 1)
        return np.full_like(x, 0.5 * (start + end) * (how.before - 1))
    raise Refused(f"its coordinates {mode!r} are not known")


def _linear(distance: Weights) -> Weights:
    found: Weights = np.maximum(1 - np.abs(distance), 0.0)
    return found


def _cubic(distance: Weights, a: float) -> Weights:
    """Keys, Cubic convolution interpolation, IEEE Trans. ASSP 29 (1981)."""
    x = np.abs(distance)
    near: Weights = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far: Weights = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
    found: Weights = np.where(x <= 1, near, np.where(x < 2, far, 0.0))
    return found
