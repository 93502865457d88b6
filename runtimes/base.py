"""The seam to the engines, and what happens on our side of it: feeds are checked, reals become integers and back.

A backend has one verb, `open`; a session has two, `run` and `close`. A session takes and gives raw arrays, exactly as
the file says; everything that makes a model pleasant lives above it, in `edgekit.runtimes.model`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from edgekit.artifact import Artifact
from edgekit.errors import EngineError, FeedError
from edgekit.tensors import INTEGER_RANGE, TensorSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]
else:
    Array = np.ndarray  # the typing module of numpy costs a device a millisecond
Feeds = Mapping[str, Array]


class Session(Protocol):
    """An opened model. Keys of feeds and answers are the `name`s of `inputs` and `outputs`, the file's own."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]: ...
    @property
    def outputs(self) -> tuple[TensorSpec, ...]: ...
    @property
    def concurrent(self) -> bool:
        """Whether `run` may be called by several threads at once."""
        ...

    @property
    def batches(self) -> bool:
        """Whether a free batch axis takes any size at no cost; else the model feeds one sample after the other."""
        ...

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """Raw arrays of the tensors' own dtypes in and out; the answers belong to the caller."""
        ...

    def close(self) -> None: ...


class Backend(Protocol):
    """One engine."""

    @property
    def name(self) -> str: ...
    @property
    def formats(self) -> tuple[str, ...]: ...

    def version(self) -> str:
        """Of the distribution that is installed: "2.3.0"."""
        ...

    def open(self, artifact: Artifact, threads: int | None) -> Session: ...


def version_of(distribution: str) -> str:
    """Version of an installed distribution."""
    from importlib import metadata  # slow to import, and never needed to run a model

    return metadata.version(distribution)


def closed() -> EngineError:
    """What a session raises after `close`."""
    return EngineError("model-closed", "the model was closed")


def quantize(real: Array, spec: TensorSpec) -> Array:
    """Reals to the tensor's integers: round(x / scale) + zero point, saturated.

    Rounds halves to even, as ONNX's QuantizeLinear and TFLite's QUANTIZE on Arm do; the scale is divided by in float32,
    as they do. Source: https://onnx.ai/onnx/operators/onnx__QuantizeLinear.html.
    """
    if spec.quant is None:
        return real.astype(spec.dtype)
    low, high = INTEGER_RANGE[spec.dtype]
    scale, zero = _along(spec, real.ndim)
    # Saturated first, as reals, so that no division overflows.
    scaled = np.clip(np.asarray(real, np.float32), (low - zero) * scale, (high - zero) * scale)
    scaled /= scale
    np.rint(scaled, out=scaled)
    scaled += zero
    return np.asarray(scaled, spec.dtype)


def dequantize(integers: Array, spec: TensorSpec) -> Array:
    """The tensor's integers to float32 reals: scale * (q - zero point). Widened before subtracting."""
    if spec.quant is None:
        return integers
    scale, zero = _along(spec, integers.ndim)
    real = integers.astype(np.float32)
    real -= zero
    real *= scale
    return real


def _along(spec: TensorSpec, rank: int) -> tuple[Any, Any]:
    """Scale and zero point as scalars, or as arrays that broadcast along the channel axis."""
    quant = spec.quant
    if quant is None or quant.axis is None:
        return (
            (np.float32(1), np.float32(0))
            if quant is None
            else (np.float32(quant.scale[0]), np.float32(quant.zero_point[0]))
        )
    shape = [1] * rank
    shape[quant.axis] = -1
    return np.asarray(quant.scale, np.float32).reshape(shape), np.asarray(quant.zero_point, np.float32).reshape(shape)


def check_finite(array: Array, name: str) -> None:
    """Refuse NaN and infinity.

    Raises:
        FeedError: `feed-nan`.
    """
    flat = array.reshape(-1)
    # One pass of BLAS: the sum of squares is finite unless something is not, or unless it overflows.
    with np.errstate(over="ignore", invalid="ignore"):
        finite = flat.dtype.kind != "f" or np.isfinite(np.dot(flat, flat)) or bool(np.isfinite(flat).all())
    if not finite:
        at = int(np.flatnonzero(~np.isfinite(flat))[0])
        where = np.unravel_index(at, array.shape)
        raise FeedError("feed-nan", f"{name} holds {flat[at]} at {tuple(int(i) for i in where)}")


def check_names(feeds: Feeds, inputs: tuple[TensorSpec, ...]) -> None:
    """Every input once, nothing else.

    Raises:
        FeedError: `feed-name`.
    """
    wanted = [spec.name for spec in inputs]
    missing = [name for name in wanted if name not in feeds]
    extra = [name for name in feeds if name not in wanted]
    if missing or extra:
        problems = [f"lacks {', '.join(missing)}"] if missing else []
        problems += [f"has {', '.join(map(str, extra))}, which the model does not"] if extra else []
        raise FeedError("feed-name", f"the feed {' and '.join(problems)}; inputs: {', '.join(wanted)}")


def as_dtype(value: Any, spec: TensorSpec, *, raw: bool) -> Array:
    """The array in the dtype that `spec` takes: raw, or real values for a quantized tensor.

    Raises:
        FeedError: `feed-dtype`: the conversion would lose information or makes no sense.
    """
    array = np.asarray(value)
    wanted = np.dtype(spec.dtype)
    if raw or spec.quant is None:
        if array.dtype == wanted:
            return array
        if raw or not _safe(array, wanted):
            raise FeedError(
                "feed-dtype", f"{spec.name} takes {wanted}, got {array.dtype}" + (" (raw=True)" if raw else "")
            )
        return array.astype(wanted)
    if array.dtype.kind not in "fiub":
        raise FeedError("feed-dtype", f"{spec.name} takes real values, got {array.dtype}")
    return array if array.dtype == np.float32 else array.astype(np.float32)


def _safe(array: Array, wanted: np.dtype[Any]) -> bool:
    """Integers to floats, wider to narrower floats, integers that fit: what people mean when they pass them."""
    if wanted.kind == "f":
        return array.dtype.kind in "fiub"
    if wanted.kind in "iu" and array.dtype.kind in "iub":
        if not array.size:
            return True
        limits = np.iinfo(wanted)
        return bool(array.min() >= limits.min and array.max() <= limits.max)
    return False
