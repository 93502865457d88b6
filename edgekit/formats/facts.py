"""What the two readers report, and the budget that bounds their work.

The same fields for both formats, so that `inspect`, `check` and the manifest need not know which one they look at.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from edgekit.tensors import TensorSpec

if TYPE_CHECKING:
    from edgekit.formats.graph import GraphFacts

MAX_RANK = 64
"""Real tensors have at most 8 axes; without a bound the product of a hostile shape would be a number of megabytes."""

MAX_ELEMENTS = 1 << 62
"""Sizes beyond what a 64-bit runtime can index are refused."""

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Operand:
    """A tensor as an op meets it.

    Attributes:
        shape: Free sizes counted as 1; None when unknown.
        dtype: Element type; "" when unknown.
        constant: Its content is in the file, or follows from what is, and cannot be overridden by an input.
    """

    shape: Shape | None
    dtype: str
    constant: bool = False

    @property
    def elements(self) -> int:
        """How many; 0 when unknown."""
        return math.prod(self.shape) if self.shape is not None else 0


@dataclass(frozen=True)
class OpFacts:
    """One operation.

    Attributes:
        kind: "CONV_2D", "Conv"; "CUSTOM:Name" in TFLite; "com.microsoft:Name" for a foreign domain in ONNX.
        name: ONNX: the node's name; TFLite, whose ops have none, and unnamed nodes: the first output's.
        version: TFLite's op version, which decides the runtime that is needed; None for ONNX.
        inputs: Tensor names; "" for an optional input that is absent.
        outputs: Tensor names.
        macs: Multiply-accumulates of one run, free sizes counted as 1; None when unknown.
        dtype: Element type of the first output; "" when unknown.
        reads: The tensors of `inputs`; None for an optional input that is absent.
        writes: The tensors of `outputs`.
        window: Spatial sizes of a pooling's window, outermost first; empty for other ops.
        groups: Of a convolution; 0 where the operator has no such setting.
        blends: A resizing that mixes neighbors instead of taking the nearest.
        visits: Nodes of trees that one sample passes, about.
    """

    kind: str
    name: str
    version: int | None
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    macs: int | None
    dtype: str
    reads: tuple[Operand | None, ...] = ()
    writes: tuple[Operand | None, ...] = ()
    window: tuple[int, ...] = ()
    groups: int = 0
    blends: bool = False
    visits: int = 0


@dataclass(frozen=True)
class SignatureFacts:
    """A named entry point of a TFLite model: the public names of its inputs and outputs."""

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class ModelFacts:
    """A model file, seen from outside.

    Attributes:
        format: "tflite" or "onnx".
        inputs: What a run takes, in the file's order. Public names are the signature's where a TFLite model has
            exactly one; then `tensor` is the name inside.
        outputs: What a run gives.
        ops: All of them, in order; those of control-flow bodies, local functions and further signatures included.
        tensors: How many named tensors there are.
        parameters: Elements of constants that carry numbers of the model: floats, quantized integers, and
            quantized int32 biases. Shapes, axes, indices, strings and the scales and zero points of quantization
            nodes are not counted; a constant that several ops share counts once.
        weight_bytes: Bytes of all constants, also of those that `parameters` leaves out.
        arena_bytes: Peak of the activations, free sizes counted as 1, by the plan of `edgekit.formats.arena`. An
            estimate: a kernel's scratch memory and an engine's repacked weights come on top. None when a shape is
            unknown.
        macs: Multiply-accumulates of one run, free sizes counted as 1; None when unknown.
        bytes: Of the whole file.
        precision: By the element types: "fp32", "fp16", "dynamic" (float activations, integer weights), "int8"
            (uint8 too), "int16x8", "mixed", or "" for a model without arithmetic on weights and without tensors.
        opsets: ONNX: domain -> version; "" is the standard domain.
        signatures: TFLite.
        producer: Who wrote the file, as far as it says.
        description: The file's own words.
        metadata: Further entries of the file: "min_runtime_version" (TFLite), "ir_version" (ONNX).
        external: Files that the model's constants lie in, beside it.
        notes: What a reader should know: "output probabilities is a sequence and cannot be run".
        graphs: The main graph, and those that its ops run, with the sizes of all tensors.
    """

    format: Literal["tflite", "onnx"]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    ops: tuple[OpFacts, ...]
    tensors: int
    parameters: int
    weight_bytes: int
    arena_bytes: int | None
    macs: int | None
    bytes: int
    precision: str
    opsets: dict[str, int] = field(default_factory=dict)
    signatures: tuple[SignatureFacts, ...] = ()
    producer: str = ""
    description: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    external: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    graphs: tuple[GraphFacts, ...] = field(default=(), compare=False, repr=False)

    @property
    def unsized(self) -> tuple[str, ...]:
        """Inputs with free sizes beside the first, the number of samples: what is counted for them is too little."""
        return tuple(spec.name for spec in self.inputs if any(size is None for size in spec.shape[1:]))

    def op_counts(self) -> dict[str, int]:
        """Op kind -> how often, most frequent first, then by name."""
        counts: dict[str, int] = {}
        for op in self.ops:
            counts[op.kind] = counts.get(op.kind, 0) + 1
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


class Budget:
    """Steps that a reader may still take: some work a byte of the file, and never more than a few seconds' worth.

    A flatbuffer may point many times to one place, so that a small file can describe endless work, and two bytes of
    protobuf make an object. Memory is bounded with the steps: a record that is kept costs as many as it is large.

    Attributes:
        PER_BYTE: Generous: no honest file comes near.
        LEAST: For the smallest files.
        MOST: A graph of some hundred thousand ops, which no small board could run.
        OBJECT: What a table or a message costs.
        TEXT: What a name costs, besides its length.
    """

    PER_BYTE = 32
    LEAST = 1 << 16
    MOST = 4_000_000
    OBJECT = 16
    TEXT = 4

    def __init__(self, size: int) -> None:
        self.left = min(self.PER_BYTE * size + self.LEAST, self.MOST)

    def spend(self, steps: int = 1) -> None:
        self.left -= steps
        if self.left < 0:
            raise ValueError("it describes more than a reader can walk through")


def elements(shape: Iterable[int]) -> int:
    """Product of the sizes.

    Raises:
        ValueError: More than an engine could index.
    """
    count = math.prod(shape)
    if not 0 <= count <= MAX_ELEMENTS:
        raise ValueError(f"a tensor of about 2^{count.bit_length()} elements")
    return count


def total(macs: Iterable[int | None]) -> int | None:
    """Sum; None as soon as one part is unknown."""
    known = 0
    for part in macs:
        if part is None:
            return None
        known += part
    return known


INTEGER_WEIGHTS = frozenset({"int8", "uint8", "int4", "uint4", "int2", "uint2", "int16", "uint16"})


def arithmetic(activation: str, weight: str) -> str:
    """How an op multiplies, by the stored element types of its data and of its weights."""
    if weight in INTEGER_WEIGHTS:
        if activation in ("int16", "uint16"):
            return "int16x8"
        return "int8" if activation in INTEGER_WEIGHTS else "dynamic"
    return "fp16" if "float16" in (activation, weight) else "fp32"


def derive_precision(kinds: set[str], dtypes: set[str]) -> str:
    """One word for a model.

    Args:
        kinds: What its multiplying ops are: "fp32", "fp16", "dynamic", "int8", "int16x8".
        dtypes: Element types of all its tensors, for a model without such ops.
    """
    if not kinds:
        integers = dtypes & {"int8", "uint8"}
        floats = dtypes & {"float32", "float64"}
        halves = dtypes & {"float16"}
        kinds = {"int8"} if integers and not floats | halves else {"fp32"} if floats else {"fp16"} if halves else set()
    if len(kinds) > 1 and kinds <= {"fp32", "fp16"}:
        return "fp16"
    if len(kinds) > 1 and kinds <= {"fp32", "fp16", "dynamic"}:
        return "dynamic"
    return "mixed" if len(kinds) > 1 else "".join(kinds)
