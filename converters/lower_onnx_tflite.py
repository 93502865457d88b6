"""ONNX to TFLite, operator by operator, without a framework in between.

The whole graph is walked before anything is written; what cannot be lowered is reported in one error, node by node.
The batch stays free where the source's is and the graph is the same for every batch.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from edgekit.converters import _onnx_current as current
from edgekit.converters.stages import Graph, LoadedModel
from edgekit.errors import ConversionError, UsageError
from edgekit.tensors import TensorSpec

if TYPE_CHECKING:
    from edgekit.converters.load_onnx import LoadedOnnx
    from edgekit.converters.onnx_to_tflite.draft import Draft
    from edgekit.converters.onnx_to_tflite.refusal import Gap

FRAMEWORKS = ("onnx", "torch", "sklearn")
FORMAT: Literal["tflite", "onnx"] = "tflite"
EXTRA = "convert"

_BATCHES = (7, 11)
"""Two batches by which a free one is found out; see `onnx_to_tflite.batches`."""
_SHOWN = 12


def lower(model: LoadedModel, path: Path) -> Graph:
    """Write the graph to `path`.

    Args:
        model: Of the ONNX loader, or of one whose handle and precision are the same.
        path: Where the file goes.

    Returns:
        Inputs and outputs under the source's names; the same model gives the same bytes.

    Raises:
        ConversionError: `op-unsupported-conversion`: lists every node that cannot be lowered, and why.
        UsageError: `shape-conflict`: a size other than the batch is free.
    """
    from edgekit.converters.onnx_to_tflite import writing

    source = cast("LoadedOnnx", model)
    facts = source.facts
    if facts.quantized:
        raise ConversionError(
            "conversion-failed",
            "the source is quantized already, and its integers cannot be written as TFLite's yet",
            next_step="Convert the float model it was made from, or convert this one with --to onnx.",
        )
    draft, free, notes = _drafted(source.handle, facts.inputs)
    data = writing.write(draft)
    path.write_bytes(data)
    inputs, outputs = facts.inputs, facts.outputs
    if not free:
        inputs = tuple(replace(spec, shape=_fixed(spec)) for spec in inputs)
        known = {tensor.name: tensor.shape for tensor in draft.outputs}
        outputs = tuple(replace(spec, shape=known[spec.name]) for spec in outputs)
    return Graph("tflite", str(path), inputs, outputs, notes=notes, tools=dict(facts.tools))


def _fixed(spec: TensorSpec) -> tuple[int, ...]:
    return tuple(1 if size is None else size for size in spec.shape)


def _drafted(model: Any, inputs: tuple[TensorSpec, ...]) -> tuple[Draft, bool, tuple[str, ...]]:
    """The draft, whether its batch is free, and notes."""
    from edgekit.converters.onnx_to_tflite.batches import Bound, release

    for spec in inputs:
        if None in spec.shape[1:]:
            sizes = ",".join("N" if size is None else str(size) for size in spec.shape)
            raise UsageError(
                "shape-conflict",
                f"{spec.name} [{sizes}] leaves more than its batch free, and a TFLite graph needs all other sizes",
                next_step=f"Say the size that the board will feed: --input {spec.name}={_example(spec)}.",
            )
    if not any(spec.shape and spec.shape[0] is None for spec in inputs):
        draft, notes = _walked(model, inputs, 1)
        return draft, False, notes
    if all(spec.shape and spec.shape[0] is None for spec in inputs):
        first, notes = _walked(model, inputs, _BATCHES[0])
        try:
            second, _ = _walked(model, inputs, _BATCHES[1])
            release(first, second, _BATCHES)
            return first, True, notes
        except Bound as bound:
            why = str(bound)
    else:
        why = "not all inputs have a free one"
    draft, notes = _walked(model, inputs, 1)
    return draft, False, (*notes, f"the batch is fixed to 1: {why}")


def _example(spec: TensorSpec) -> str:
    return ",".join("N" if axis == 0 and size is None else str(size or 64) for axis, size in enumerate(spec.shape))


def _walked(model: Any, inputs: tuple[TensorSpec, ...], batch: int) -> tuple[Draft, tuple[str, ...]]:
    """The draft of a model for one batch.

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
    lowering = Lowering(sized)
    draft = lowering.run()
    if lowering.gaps:
        raise _refused(lowering.gaps)
    tidy(draft)
    return draft, tuple(lowering.notes)


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
