"""The seam to the engines, and what happens on our side of it: feeds are checked, reals become integers and back.

A backend has one verb, `open`; a session has two, `run` and `close`. A session takes and gives raw arrays, exactly as
the file says; everything that makes a model pleasant lives above it, in `edgekit.runtimes.model`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakSet

import numpy as np

from edgekit.artifact import Artifact
from edgekit.errors import ArtifactError, EngineError, FeedError
from edgekit.tensors import INTEGER_RANGE, TensorSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit.runtimes.model import Model

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
        """Raw arrays of the tensors' own dtypes in and out; the answers belong to the caller, as the feeds do again.

        What a session may have besides, for those who look: `run_some(names, feeds)`, for these outputs alone;
        `run_into(feeds, buffers)`, some answers into given arrays.
        """
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
    """Version of an installed engine; where its distribution has another name (onnxruntime-gpu, tensorflow-cpu, a
    build of one's own), what its module says.
    """
    from importlib import import_module, metadata  # slow to import, and never needed to run a model

    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return str(getattr(import_module(distribution.replace("-", "_")), "__version__", "of unknown version"))


def closed() -> EngineError:
    """What a session raises after `close`."""
    return EngineError("model-closed", "the model was closed")


def forked(pid: int) -> EngineError:
    """What a model of the parent's raises in a forked child."""
    return EngineError("model-forked", f"the model was opened in process {pid}, before a fork")


_open: WeakSet[Model] = WeakSet()


def leave_to_parent(model: Model) -> None:
    """From now on, while it is open, a forked child does nothing with its session, at its end neither.

    A session's destructor waits for threads, which a fork does not copy: a child that ends by itself would hang in it,
    or die by a signal. It gets one more reference to each, so that no destructor runs there.
    """
    _open.add(model)


def _keep_sessions() -> None:
    import ctypes  # numpy has imported it

    for model in _open:
        session = model._session  # noqa: SLF001 - what `close` lets go
        if session is not None:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keep_sessions)


def quantize(real: Array, spec: TensorSpec) -> Array:
    """Reals to the tensor's integers: round(x / scale) + zero point, saturated.

    Rounds halves to even, as ONNX's QuantizeLinear and TFLite's QUANTIZE on Arm do; the scale is divided by in float32,
    as they do. Source: https://onnx.ai/onnx/operators/onnx__QuantizeLinear.html.
    """
    if spec.quant is None:
        return real.astype(spec.dtype)
    low, high = INTEGER_RANGE.get(spec.dtype) or _wide(spec.dtype)
    scale, zero = _along(spec, real.ndim)
    # Saturated first, as reals, so that no division overflows.
    scaled = np.clip(np.asarray(real, scale.dtype), (low - zero) * scale, (high - zero) * scale)
    scaled /= scale
    np.rint(scaled, out=scaled)
    scaled += zero
    return np.asarray(scaled, spec.dtype)


def dequantize(integers: Array, spec: TensorSpec) -> Array:
    """The tensor's integers to float32 reals: scale * (q - zero point). Widened before subtracting."""
    if spec.quant is None:
        return integers
    scale, zero = _along(spec, integers.ndim)
    real = integers.astype(scale.dtype)
    real -= zero
    real *= scale
    return real.astype(np.float32, copy=False)


def _along(spec: TensorSpec, rank: int) -> tuple[Any, Any]:
    """Scale and zero point as scalars, or as arrays that broadcast along the channel axis."""
    quant = spec.quant
    # float32 counts to 2**24: enough for 16 bits, not for more.
    exact = np.float32 if spec.dtype in INTEGER_RANGE else np.float64
    if quant is None:
        return exact(1), exact(0)
    if quant.axis is None:
        return exact(quant.scale[0]), exact(quant.zero_point[0])
    shape = [1] * rank
    shape[quant.axis] = -1
    return np.asarray(quant.scale, exact).reshape(shape), np.asarray(quant.zero_point, exact).reshape(shape)


def _wide(dtype: str) -> tuple[int, int]:
    """Range of a wider integer type, as far as float64 counts."""
    limits = np.iinfo(dtype)
    return max(limits.min, -(1 << 53)), min(limits.max, 1 << 53)


def absent(array: Array, spec: TensorSpec) -> Array:
    """Where values are NaN that the input takes for missing ones; bool, of the array's shape."""
    found = np.isnan(array)
    if isinstance(spec.missing, tuple):
        found &= np.isin(np.arange(array.shape[-1]), spec.missing)
    return found if spec.missing else np.zeros_like(found)


def check_finite(array: Array, spec: TensorSpec) -> None:
    """Refuse NaN and infinity; not NaN where the input takes it.

    Raises:
        FeedError: `feed-nan`.
    """
    flat = array.reshape(-1)
    # One pass of BLAS: the sum of squares is finite unless something is not, or unless it overflows.
    with np.errstate(over="ignore", invalid="ignore"):
        finite = flat.dtype.kind != "f" or np.isfinite(np.dot(flat, flat)) or bool(np.isfinite(flat).all())
    if finite:
        return
    broken = np.flatnonzero(~(np.isfinite(array) | absent(array, spec)))
    if broken.size:
        at = int(broken[0])
        where = np.unravel_index(at, array.shape)
        raise FeedError("feed-nan", f"{spec.name} holds {flat[at]} at {tuple(int(i) for i in where)}")


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


def matched(specs: tuple[TensorSpec, ...], offered: tuple[TensorSpec, ...], side: str, artifact: Artifact) -> list[str]:
    """The session's name of each spec.

    Raises:
        ArtifactError: `manifest-mismatch`.
    """
    about = artifact.path or "the model"
    names = {spec.name: spec for spec in offered}
    keys = names | {spec.key: spec for spec in offered}
    found: list[str] = []
    for spec in specs:
        own = names.get(spec.name)  # of two tensors that the file names alike, the one with this name
        there = own if own is not None and own.key == spec.key else keys.get(spec.key)
        if there is None:
            raise ArtifactError("manifest-mismatch", f"{about} has no {side} {spec.key}; it has {', '.join(keys)}")
        if there.dtype != spec.dtype or len(there.shape) != len(spec.shape):
            raise ArtifactError(
                "manifest-mismatch", f"{about} has {side} {there.describe()}, its manifest says {spec.describe()}"
            )
        found.append(there.name)
    left = [spec.name for spec in offered if spec.name not in found]
    if left and side == "input":
        raise ArtifactError("manifest-mismatch", f"{about} has the input {left[0]}, of which its manifest says nothing")
    return found


def as_array(value: Any, name: str) -> Array:
    """What numpy makes of it. Masked entries are NaN: numpy would give what lies under the mask.

    Raises:
        FeedError: `feed-dtype`: it makes no array.
    """
    try:
        if hasattr(value, "filled") and np.any(value.mask):
            return np.asarray(value.astype(np.promote_types(value.dtype, np.float32)).filled(np.nan))
        return np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:  # rows of unequal length; a tensor on another device
        raise FeedError("feed-dtype", f"{name} is fed with an array, and this makes none: {error}") from error


def as_dtype(value: Any, spec: TensorSpec, *, raw: bool) -> Array:
    """The array in the dtype that `spec` takes: raw, or real values for a quantized tensor.

    Raises:
        FeedError: `feed-dtype`: the conversion would lose information or makes no sense.
    """
    array = as_array(value, spec.name)
    if spec.dtype == "string":
        return _text(array, spec)
    wanted = np.dtype(spec.dtype)
    if raw or spec.quant is None:
        if array.dtype == wanted:
            return array
        if raw or not _safe(array, wanted):
            raise FeedError(
                "feed-dtype", f"{spec.name} takes {wanted}, got {array.dtype}" + (" (raw=True)" if raw else "")
            )
        made = _cast(array, wanted)
        if wanted.kind == "f" and (lost := _overflown(array, made)).any():
            raise FeedError("feed-dtype", f"{spec.name} takes {wanted}, {array[lost][0]} is too large for it")
        return made
    if array.dtype.kind not in "fiub":
        raise FeedError("feed-dtype", f"{spec.name} takes real values, got {array.dtype}")
    if array.dtype == np.float32:
        return array
    made = _cast(array, np.dtype(np.float32))
    if (lost := _overflown(array, made)).any():
        made[lost] = np.copysign(np.finfo(np.float32).max, made[lost])  # what saturates anyway
    return made


def _cast(array: Array, wanted: np.dtype[Any]) -> Array:
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(array.astype(wanted))


def _overflown(array: Array, made: Array) -> Array:
    """Where a finite number became infinite."""
    return np.asarray(np.isinf(made) & np.isfinite(array))


def _text(array: Array, spec: TensorSpec) -> Array:
    if array.dtype.kind in "US":
        return array.astype(object)
    if array.dtype.kind != "O" or not all(isinstance(value, (str, bytes)) for value in array.flat):
        raise FeedError("feed-dtype", f"{spec.name} takes strings, got {array.dtype}")
    return array


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
