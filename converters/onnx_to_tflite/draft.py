"""A TFLite graph in the making: tensors and operators as plain objects, written as a file at the end.

Sizes are always known here. A free batch is found by drafting the same model for two batches (`batches`); what
differs between both drafts is free.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.converters.onnx_to_tflite.refusal import Refused

Array = NDArray[Any]
Shape = tuple[int, ...]

_SMALL = 64
"""Elements of a constant up to which equal ones are one tensor."""


@dataclass(frozen=True)
class Quantized:
    """How integers stand for real numbers: real = scale * (integer - zero point).

    Attributes:
        scale: float32, one number or one a slice along `axis`.
        zero_point: int64, as many.
        axis: Of the tensor as it lies in TFLite.
    """

    scale: NDArray[np.float32]
    zero_point: NDArray[np.int64]
    axis: int = 0


@dataclass(eq=False, slots=True)
class Tensor:
    """A tensor of the TFLite graph; `data` holds its values where it is a constant.

    Attributes:
        name: In the file.
        shape: Sizes.
        dtype: As numpy spells it.
        data: Values of a constant.
        quant: Scale and zero point of integers that stand for real numbers.
        range: Least and greatest real number that the source's integers could show.
        free: Axes whose size is a multiple of the batch, and whose `shape` is that of a batch of one.
    """

    name: str
    shape: Shape
    dtype: str
    data: Array | None = None
    quant: Quantized | None = None
    free: frozenset[int] = frozenset()
    range: tuple[float, float] | None = None

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))


@dataclass(eq=False, slots=True)
class Op:
    """An operator; `options` are fields of its table in the schema, by their Python names."""

    kind: str
    inputs: list[Tensor | None]
    outputs: list[Tensor]
    options: dict[str, Any] = field(default_factory=dict)
    origin: str = ""

    @property
    def output(self) -> Tensor:
        return self.outputs[0]


@dataclass(frozen=True)
class Kernel:
    """What is known of a builtin operator; a row of `_kernels.toml`.

    Attributes:
        dtypes: Element types of its data that the kernels of LiteRT and tflite-runtime 2.14 take.
        rank: Most axes of its data.
        options: Its options table in the schema.
        version: Of the operator as it is used here.
        data: Which input decides about the dtype.
    """

    dtypes: tuple[str, ...]
    rank: int = 8
    options: str | None = None
    version: int = 1
    data: int = 0


@cache
def kernels() -> dict[str, Kernel]:
    """Every operator that a draft may hold."""
    rows = tomllib.loads((Path(__file__).parent / "_kernels.toml").read_text())
    return {kind: Kernel(**{**row, "dtypes": tuple(row["dtypes"].split())}) for kind, row in rows.items()}


class Draft:
    """The graph, op by op, in an order in which it can run.

    Attributes:
        alike: Origin of operators of one step of many -> what all these steps are called.
    """

    def __init__(self) -> None:
        self.ops: list[Op] = []
        self.inputs: list[Tensor] = []
        self.outputs: list[Tensor] = []
        self.origin = ""
        self.alike: dict[str, str] = {}
        self._constants: dict[Any, Tensor] = {}

    def constant(self, values: Array, name: str = "", quant: Quantized | None = None) -> Tensor:
        """A constant tensor."""
        values = np.asarray(values, order="C")
        made = Tensor(name or "constant", tuple(values.shape), values.dtype.name, values, quant)
        if quant is not None or values.size > _SMALL:
            return made
        return self._constants.setdefault((made.dtype, made.shape, values.tobytes()), made)

    def ints(self, values: Iterable[int], name: str = "") -> Tensor:
        """A vector of int32, as operators take sizes and axes."""
        return self.constant(np.array(list(values), np.int32), name)

    def scalar(self, value: Any, dtype: str) -> Tensor:
        """A number without axes."""
        return self.constant(np.array(value, dtype))

    def emit(
        self,
        kind: str,
        inputs: Sequence[Tensor | None],
        shape: Sequence[int],
        dtype: str | None = None,
        *,
        quant: Quantized | None = None,
        **options: Any,
    ) -> Tensor:
        """Add an operator with one output, of its data's dtype unless another is given.

        Raises:
            Refused: No kernel takes this dtype or this many axes.
        """
        data = inputs[kernels()[kind].data]
        sizes = tuple(int(size) for size in shape)
        # A step on the way to a value; the value's own tensor is named after it by `Lowering.put`.
        name = f"{self.origin}/{kind.lower()}" if self.origin else kind.lower()
        made = Tensor(name, sizes, dtype or (data.dtype if data else ""), quant=quant)
        self.emit_to(kind, inputs, [made], **options)
        return made

    def emit_to(self, kind: str, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor], **options: Any) -> None:
        """Add an operator with the outputs given.

        Raises:
            Refused: As `emit`.
        """
        kernel = kernels()[kind]
        data = inputs[kernel.data]
        if data is not None:
            if data.dtype not in kernel.dtypes and data.quant is None:
                raise Refused(f"TFLite's {kind} takes {', '.join(kernel.dtypes)}, not {data.dtype}")
            rank = max(tensor.rank for tensor in (data, outputs[0]))
            if rank > kernel.rank:
                raise Refused(f"TFLite's {kind} takes tensors of up to {kernel.rank} axes, not {rank}")
        if any(0 in tensor.shape for tensor in (*(t for t in inputs if t is not None and t.rank != 1), *outputs)):
            raise Refused("it has an empty tensor, which TFLite's kernels do not take")
        self.ops.append(Op(kind, list(inputs), list(outputs), options, self.origin))

    def producers(self) -> dict[Tensor, Op]:
        """Tensor -> the operator that makes it."""
        return {tensor: op for op in self.ops for tensor in op.outputs}

    def readers(self) -> dict[Tensor, list[Op]]:
        """Tensor -> operators that read it."""
        found: dict[Tensor, list[Op]] = {}
        for op in self.ops:
            for tensor in op.inputs:
                if tensor is not None:
                    found.setdefault(tensor, []).append(op)
        return found
