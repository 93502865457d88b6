"""What a tensor is called, how it is shaped and how its integers stand for real numbers.

No numpy here: the command line and the manifest must be readable without it. Arithmetic on these parameters
lives in `edgekit.runtimes.base`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

DTYPES = (
    "float16", "float32", "float64", "int4", "int8", "int16", "int32", "int64",
    "uint8", "uint16", "uint32", "uint64", "bool", "string", "complex64",
)  # fmt: skip
"""Names of element types, as numpy spells them (`int4` is TFLite's, packed two to a byte)."""

DTYPE_BITS = {
    "float16": 16, "float32": 32, "float64": 64, "int4": 4, "int8": 8, "int16": 16, "int32": 32, "int64": 64,
    "uint8": 8, "uint16": 16, "uint32": 32, "uint64": 64, "bool": 8, "string": 0, "complex64": 64,
}  # fmt: skip

UNFED = frozenset({"string", "complex64", "int4"})
"""Element types that files may have inside, and that no engine on a device is fed with."""

INTEGER_RANGE = {"int8": (-128, 127), "uint8": (0, 255), "int16": (-32768, 32767), "uint16": (0, 65535)}

Layout = Literal["NHWC", "NCHW", "NWC", "NCW", "NDHWC", "NCDHW"]


@dataclass(frozen=True)
class QuantParams:
    """Affine quantization: real = scale * (integer - zero_point).

    Attributes:
        scale: One positive number, or one a channel.
        zero_point: As many integers as scales.
        axis: Channel axis when there are several; None for per-tensor.
    """

    scale: tuple[float, ...]
    zero_point: tuple[int, ...]
    axis: int | None = None

    def __post_init__(self) -> None:
        if not self.scale or len(self.scale) != len(self.zero_point):
            raise ValueError(f"{len(self.scale)} scales and {len(self.zero_point)} zero points do not pair up")
        if not all(math.isfinite(s) and s > 0 for s in self.scale):
            raise ValueError("a scale must be finite and positive")
        if (self.axis is None) != (len(self.scale) == 1):
            raise ValueError("several scales need an axis, one scale has none")

    @property
    def per_channel(self) -> bool:
        return self.axis is not None


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a model.

    Attributes:
        name: The public name, the key of `Model.run`'s dicts: the source's own name.
        shape: Sizes; None where the size is free.
        dtype: Element type as stored in the file; one of `DTYPES`.
        layout: Meaning of the axes, where known.
        quant: How integers map to reals; None for real-valued and index tensors.
        tensor: The name inside the file, when it differs from `name`.
        missing: Of an input: where NaN is taken, for a value that is missing. True: everywhere; or places along the
            last axis, as of columns; None: nowhere.
        columns: Of an input: what the places along the last axis are called, where the source knows; None: nobody does.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str
    layout: Layout | None = None
    quant: QuantParams | None = None
    tensor: str | None = None
    missing: bool | tuple[int, ...] | None = None
    columns: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("a tensor needs a name")
        if self.dtype not in DTYPES:
            raise ValueError(f"unknown dtype {self.dtype!r}; known: {', '.join(DTYPES)}")
        if any(size is not None and size < 0 for size in self.shape):
            raise ValueError(f"{self.name}: negative size in shape {self.shape}")
        if self.layout is not None and len(self.layout) != len(self.shape):
            raise ValueError(f"{self.name}: layout {self.layout} has {len(self.layout)} axes, shape {self.shape}")
        if isinstance(self.missing, tuple) and not all(
            self.shape and 0 <= place < (self.shape[-1] or math.inf) for place in self.missing
        ):
            raise ValueError(f"{self.name}: no such places to be missing: {self.missing[:8]}")
        if self.columns is not None and self.shape[-1:] != (len(self.columns),):
            raise ValueError(f"{self.name}: {len(self.columns)} columns are named, its shape is {self.shape}")

    @property
    def key(self) -> str:
        """The name inside the file."""
        return self.tensor or self.name

    @property
    def dynamic(self) -> bool:
        return None in self.shape

    @property
    def elements(self) -> int:
        """Elements of one sample: free sizes count as 1."""
        return math.prod(1 if size is None else size for size in self.shape)

    def may_miss(self, place: int) -> bool:
        """Whether NaN is taken at this place along the last axis."""
        return place in self.missing if isinstance(self.missing, tuple) else bool(self.missing)

    def describe(self) -> str:
        """For messages: `input_1 float32 [N,32,32,3]`."""
        sizes = ",".join("N" if size is None else str(size) for size in self.shape)
        return f"{self.name} {self.dtype} [{sizes}]"


def fixed_batch(specs: tuple[TensorSpec, ...]) -> int:
    """How many samples one call must take: the first size of all tensors where it is fixed and the same, else 1."""
    firsts = {spec.shape[0] if spec.shape else None for spec in specs}
    return (firsts.pop() or 1) if len(firsts) == 1 else 1


def whole(inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> bool:
    """Whether a sample is all of each input, since no first axis can be a batch: they differ, or there is none; or they
    are fixed, longer than 1, and either the only axis (a wave [15600]) or shared by no output ([28,28] -> [10]), where
    these are known.
    """
    firsts = {spec.shape[0] if spec.shape else -1 for spec in inputs}
    if len(firsts) > 1 or -1 in firsts:
        return True
    first = firsts.pop() if firsts else None
    if first in (None, 1):
        return False
    shared = not outputs or any(spec.shape and spec.shape[0] in (None, first) for spec in outputs)
    return not shared or any(len(spec.shape) == 1 for spec in inputs)


def sampled(inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    """What data looks like: its first axis counts samples, one more than the model has where a sample is all of it."""
    if not whole(inputs, outputs):
        return inputs
    return tuple(replace(spec, shape=(None, *spec.shape), layout=None) for spec in inputs)


def unbatched(inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> frozenset[str]:
    """Outputs whose first axis counts no samples: it is fixed, longer than 1, and no input's batch."""
    batches = () if whole(inputs, outputs) else [spec.shape[0] for spec in inputs]
    counted = {None, 1, *batches}
    return frozenset(spec.name for spec in outputs if spec.shape and spec.shape[0] not in counted)


def batched(specs: tuple[TensorSpec, ...]) -> bool:
    """Whether the first axis of every tensor is a batch axis: free, or of size 1 throughout."""
    return bool(specs) and all(spec.shape and spec.shape[0] in (None, 1) for spec in specs)
