"""ONNX to TFLite, operator by operator, without a framework in between.

The whole graph is walked before anything is written; what cannot be lowered is reported in one error, node by node.
The batch stays free where the source's is and the graph is the same for every batch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from edgekit.converters.from_onnx import current
from edgekit.converters.stages import Graph, LoadedModel, QuantizeOptions, Range, Ranges
from edgekit.errors import ConversionError, UsageError
from edgekit.tensors import Layout, TensorSpec, whole

if TYPE_CHECKING:
    from edgekit.converters.loaded import Loaded
    from edgekit.converters.onnx_to_tflite.draft import Draft, Tensor
    from edgekit.converters.onnx_to_tflite.lowering import Lowering
    from edgekit.converters.onnx_to_tflite.nodes import Order
    from edgekit.converters.onnx_to_tflite.refusal import Gap

FRAMEWORKS = ("onnx", "torch", "sklearn")
FORMAT: Literal["tflite", "onnx"] = "tflite"
EXTRA = "convert"
TURNS = True
"""It takes a layout, and whether numbers stay real ones."""

_BATCHES = (7, 11)
"""Two batches by which a free one is found out; see `onnx_to_tflite.batches`."""
_SHOWN = 12


def lower(model: LoadedModel, path: Path, layout: str = "keep", *, floats: bool = False) -> Graph:
    """Write the graph to `path`.

    Args:
        model: Of the ONNX loader, or of one whose handle and precision are the same.
        path: Where the file goes.
        layout: Of images that go in and come out: "keep", "nhwc" or "nchw".
        floats: Nothing of it will be quantized, so tensors need no ranges of their own.

    Returns:
        Inputs and outputs under the source's names; the same model gives the same bytes.

    Raises:
        ConversionError: `op-unsupported-conversion`: lists every node that cannot be lowered, and why.
        UsageError: `shape-conflict`: a size other than the batch is free.
    """
    from edgekit.converters.onnx_to_tflite import writing

    source = cast("Loaded", model)
    facts = source.facts
    if facts.quantized and source.precision not in ("int8", "int16x8"):
        raise ConversionError(
            "conversion-failed",
            "the source computes with integers that it scales while it runs, which TFLite's kernels do in another way",
            next_step="Convert the float model it was made from, with --precision dynamic.",
        )
    way = _Way(facts.quantized, _orders(facts.inputs, layout), layout == "nhwc", floats and not facts.quantized)
    draft, free, notes, turned = _drafted(source.handle, facts.inputs, way)
    path.write_bytes(writing.write(draft, floats=way.floats))
    inputs, outputs = facts.inputs, facts.outputs
    if not free:
        inputs = tuple(replace(spec, shape=_fixed(spec)) for spec in inputs)
        known = {tensor.name: _unturned(_sizes(tensor), turned.get(tensor.name)) for tensor in draft.outputs}
        outputs = tuple(replace(spec, shape=known[spec.name]) for spec in outputs)
    inputs, outputs = (tuple(_turned(spec, turned.get(spec.name)) for spec in side) for side in (inputs, outputs))
    graph = Graph("tflite", str(path), inputs, outputs, notes=notes, tools=dict(facts.tools), turned=turned)
    return _in_integers(graph, draft, source) if facts.quantized else graph


def _in_integers(graph: Graph, draft: Draft, source: Loaded) -> Graph:
    """The graph with integer operators, by the scales that the source brought along."""
    from edgekit.converters import quantizers
    from edgekit.converters.onnx_to_tflite import integers
    from edgekit.converters.quantize_tflite import FROM_SOURCE
    from edgekit.precision import precisions

    integers.spread(draft)
    made = (tensor for op in draft.ops for tensor in op.outputs)
    known = {tensor.name: Range(*tensor.range) for tensor in (*draft.inputs, *made) if tensor.range is not None}
    whole = all(spec.dtype != "float32" for spec in source.facts.inputs)
    real = [tuple(replace(s, dtype="float32", quant=None) for s in side) for side in (graph.inputs, graph.outputs)]
    return quantizers.get("tflite").quantize(
        replace(graph, inputs=real[0], outputs=real[1]),
        Ranges(FROM_SOURCE, 0, known),
        precisions.get(source.precision),
        QuantizeOptions("int8" if whole else "float", allow_float_ops=True),
        Path(graph.path),
    )


@dataclass(frozen=True)
class _Way:
    """How the graph is walked.

    Attributes:
        ranges: The source is quantized, see `Lowering.ranges`.
        orders: Of inputs that are turned.
        outputs_last: See `Lowering.run`.
        floats: See `lower`.
    """

    ranges: bool
    orders: dict[str, Order]
    outputs_last: bool
    floats: bool


_LAST: dict[str, Layout] = {"NCW": "NWC", "NCHW": "NHWC", "NCDHW": "NDHWC"}
_FIRST: dict[str, Layout] = {"NWC": "NCW", "NHWC": "NCHW", "NDHWC": "NCDHW"}


def _orders(inputs: tuple[TensorSpec, ...], layout: str) -> dict[str, Order]:
    """Inputs that are to be turned, and how."""
    found: dict[str, Order] = {}
    for spec in inputs:
        rank = len(spec.shape)
        if layout == "nhwc" and spec.layout in _LAST:
            found[spec.name] = (0, *range(2, rank), 1)
        elif layout == "nchw" and spec.layout in _FIRST:
            found[spec.name] = (0, rank - 1, *range(1, rank - 1))
    return found


def _turned(spec: TensorSpec, order: Order | None) -> TensorSpec:
    """As the file has it."""
    if order is None:
        return spec
    named = _LAST.get(spec.layout or "") or _FIRST.get(spec.layout or "")
    if spec.layout is None:  # an output that lies as the convolutions left it
        named = {3: "NWC", 4: "NHWC", 5: "NDHWC"}[len(order)]  # type: ignore[assignment]
    return replace(spec, shape=tuple(spec.shape[axis] for axis in order), layout=named)


def _sizes(tensor: Tensor) -> tuple[int | None, ...]:
    return tuple(None if axis in tensor.free else size for axis, size in enumerate(tensor.shape))


def _unturned(shape: tuple[int | None, ...], order: Order | None) -> tuple[int | None, ...]:
    return shape if order is None else tuple(shape[order.index(axis)] for axis in range(len(shape)))


def _fixed(spec: TensorSpec) -> tuple[int, ...]:
    return tuple(1 if size is None else size for size in spec.shape)


def _drafted(
    model: Any, inputs: tuple[TensorSpec, ...], way: _Way
) -> tuple[Draft, bool, tuple[str, ...], dict[str, Order]]:
    """The draft, whether its batch is free, notes, and what is turned."""
    from edgekit.converters.onnx_to_tflite.batches import Bound, release

    for spec in inputs:
        if None in spec.shape[1:]:
            sizes = ",".join("N" if size is None else str(size) for size in spec.shape)
            raise UsageError(
                "shape-conflict",
                f"{spec.name} [{sizes}] leaves more than its batch free, and a TFLite graph needs all other sizes",
                next_step=f"Say the size that the board will feed: --input {spec.name}={_example(spec, inputs)}.",
            )
    if not any(spec.shape and spec.shape[0] is None for spec in inputs):
        draft, notes, turned = _single(model, inputs, way)
        return draft, False, notes, turned
    if all(spec.shape and spec.shape[0] is None for spec in inputs):
        first = _walked(model, inputs, _BATCHES[0], way)
        if first.sizes.count:
            why = "it selects by the data, and of several samples nothing would say what belongs to which"
        else:
            try:
                release(first.draft, _walked(model, inputs, _BATCHES[1], way).draft, _BATCHES)
                return first.draft, True, tuple(first.notes), first.turned
            except Bound as bound:
                why = str(bound)
    else:
        why = "not all inputs have a free one"
    draft, notes, turned = _single(model, inputs, way)
    return draft, False, (*notes, f"the batch is fixed to 1: {why}"), turned


def _single(model: Any, inputs: tuple[TensorSpec, ...], way: _Way) -> tuple[Draft, tuple[str, ...], dict[str, Order]]:
    """The draft for a batch of one; sizes that only a run tells are free, see `measures`.

    Raises:
        ConversionError: See `lower`.
    """
    from edgekit.converters.onnx_to_tflite.batches import Bound, readable, release
    from edgekit.converters.onnx_to_tflite.refusal import Gap

    first = _walked(model, inputs, 1, way)
    if first.sizes.count:
        try:
            release(first.draft, _walked(model, inputs, 1, way, guess=1).draft, *first.sizes.pairs)
            readable(first.draft)
        except Bound as bound:
            raise _refused([Gap("graph", "sizes that depend on the data", str(bound))]) from bound
    return first.draft, tuple(first.notes), first.turned


def _example(spec: TensorSpec, inputs: tuple[TensorSpec, ...]) -> str:
    """A batch stays free where all inputs have it in front; elsewhere one sample is as likely as any size."""
    batch, size = ("1", "1") if whole(inputs, ()) and spec.shape[0] is not None else ("N", "64")
    return ",".join(str(s or (batch if axis == 0 else size)) for axis, s in enumerate(spec.shape))


def _walked(model: Any, inputs: tuple[TensorSpec, ...], batch: int, way: _Way, guess: int = 0) -> Lowering:
    """The walk over a model for one batch.

    Raises:
        ConversionError: See `lower`.
    """
    from edgekit.converters.onnx_to_tflite import patterns
    from edgekit.converters.onnx_to_tflite.lowering import Lowering
    from edgekit.converters.onnx_to_tflite.tidy import tidy

    sized = type(model)()
    sized.CopyFrom(model)
    shapes = {spec.name: tuple(batch if size is None else size for size in spec.shape) for spec in inputs}
    current.fix_sizes(sized, {name: shape for name, shape in shapes.items() if shape})
    patterns.rewrite(sized)
    lowering = Lowering(sized, ranges=way.ranges, guess=guess)
    lowering.run(way.orders, outputs_last=way.outputs_last)
    if lowering.gaps:
        raise _refused(lowering.gaps)
    tidy(lowering.draft, floats=way.floats)
    return lowering


def _refused(gaps: list[Gap]) -> ConversionError:
    ops = sorted({gap.op for gap in gaps})
    lines = [str(gap) for gap in gaps[:_SHOWN]]
    if len(gaps) > _SHOWN:
        lines.append(f"and {len(gaps) - _SHOWN} more")
    hints = list(dict.fromkeys(gap.instead for gap in gaps if gap.instead))
    return ConversionError(
        "op-unsupported-conversion",
        f"{len(gaps)} {'node' if len(gaps) == 1 else 'nodes'} cannot be written as TFLite operators: "
        + "; ".join(lines),
        next_step=". ".join(hints) + "." if hints else None,
        ops=ops,
        nodes=[gap.node for gap in gaps],
        format="tflite",
    )
