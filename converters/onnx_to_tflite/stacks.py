"""Tensors cut into their slices along an axis, and slices put back together."""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.converters.onnx_to_tflite import steps
from edgekit.converters.onnx_to_tflite.draft import Tensor, kernels
from edgekit.converters.onnx_to_tflite.lowering import Lowering
from edgekit.converters.onnx_to_tflite.slices import cut_out


def unpacked(low: Lowering, tensor: Tensor, axis: int) -> list[Tensor]:
    """Every slice along an axis, without that axis."""
    draft, count = low.draft, tensor.shape[axis]
    rest = (*tensor.shape[:axis], *tensor.shape[axis + 1 :])
    if count == 1:
        return [steps.reshape(draft, tensor, rest)]
    if tensor.data is not None:
        return [draft.constant(tensor.data.take(at, axis)) for at in range(count)]
    if tensor.dtype not in kernels()["UNPACK"].dtypes:
        whole = [slice(None)] * tensor.rank
        cuts = [[*whole[:axis], slice(at, at + 1), *whole[axis + 1 :]] for at in range(count)]
        return [steps.reshape(draft, cut_out(low, tensor, cut), rest) for cut in cuts]
    made = [Tensor(f"{draft.origin}/{at}", rest, tensor.dtype) for at in range(count)]
    draft.emit_to("UNPACK", [tensor], made, num=count, axis=axis)
    return made


def packed(low: Lowering, parts: Sequence[Tensor], axis: int) -> Tensor:
    """Tensors of one shape along a new axis."""
    draft, first = low.draft, parts[0]
    shape = (*first.shape[:axis], len(parts), *first.shape[axis:])
    if len(parts) == 1:
        return steps.reshape(draft, first, shape)
    own = first.dtype
    inner = own if own in kernels()["PACK"].dtypes else {"bool": "uint8"}.get(own, "int32")
    held = [steps.cast(draft, part, inner) for part in parts]
    return steps.cast(draft, draft.emit("PACK", held, shape, valuesCount=len(parts), axis=axis), own)
