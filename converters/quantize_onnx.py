"""Quantize a float ONNX graph.

    int8, int16x8   onnxruntime's QDQ quantizer, fed with our ranges      onnx_graphs.qdq, onnx_graphs.finish
    dynamic         int8 weights, activations quantized while running     onnx_graphs.dynamic
    fp16            weights stored as float16                             onnx_graphs.float16

The ways share preparation (`onnx_graphs.graph`, `onnx_graphs.rewrite`) and slimming. The float file is only read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from edgekit.converters.onnx_graphs import dynamic as onnx_dynamic
from edgekit.converters.onnx_graphs import finish as onnx_finish
from edgekit.converters.onnx_graphs import float16 as onnx_float16
from edgekit.converters.onnx_graphs import graph as onnx_graph
from edgekit.converters.onnx_graphs import lifts as onnx_lifts
from edgekit.converters.onnx_graphs import qdq as onnx_qdq
from edgekit.converters.onnx_graphs import rewrite as onnx_rewrite
from edgekit.converters.onnx_graphs import slim as onnx_slim
from edgekit.converters.stages import LEVELS, Graph, QuantizeOptions, Ranges
from edgekit.errors import ConversionError, some
from edgekit.precision import Precision
from edgekit.runtimes.engine_onnxruntime import saturates_here

FORMAT: Literal["tflite", "onnx"] = "onnx"

OPSET_INT8 = 13
"""QuantizeLinear and DequantizeLinear have an axis (a scale a channel) since opset 13."""

OPSET_INT16 = 21
"""... and 16-bit integers since opset 21; onnxruntime reads it since 1.18."""


def quantize(graph: Graph, ranges: Ranges | None, precision: Precision, options: QuantizeOptions, path: Path) -> Graph:
    """Quantize `graph` to `precision` and write it to `path`.

    Args:
        graph: Float.
        ranges: Of its tensors; needed for static precisions.
        precision: What weights and activations become.
        options: Integer or float interface; whether ops may stay in float.
        path: The new file.

    Returns:
        The new graph. `float_ops` lists what stayed in float; what is stored in integers but computed in float by
        onnxruntime, for want of a kernel, is a note.

    Raises:
        UsageError: `rule-unmatched`.
        ConversionError: See `onnx_graphs.qdq.quantize`, `onnx_graphs.graph.raise_opset`,
            `onnx_graphs.dynamic.quantize`; `precision-unsupported`: no way for these element types;
            `ranges-missing`: static without calibration.
    """
    import onnx
    import onnxruntime

    tools = {**graph.tools, "onnx": str(onnx.__version__), "onnxruntime": str(onnxruntime.__version__)}
    before = replace(graph, precision=precision.name, tools=tools)
    model = onnx_graph.read(graph.path)
    ways = {
        ("static", "int8", "int8"): lambda: _static(model, before, ranges, options, path, "uint8"),
        ("static", "int8", "int16"): lambda: _static(model, before, ranges, options, path, "int16"),
        ("dynamic", "int8", "float32"): lambda: _dynamic(model, before, options, path),
        ("float", "float16", "float32"): lambda: _float16(model, before, path),
    }
    way = ways.get((precision.kind, precision.weights, precision.activations))
    if way is None:
        raise ConversionError(
            "precision-unsupported",
            f"onnx has no way to {precision.name}: {precision.weights} weights, {precision.activations} activations",
        )
    return way()


def _static(
    model: Any, graph: Graph, ranges: Ranges | None, options: QuantizeOptions, path: Path, activations: str
) -> Graph:
    if ranges is None:
        raise ConversionError("ranges-missing", f"{graph.precision} needs ranges observed on calibration data")
    observable = frozenset({*_tensors(model), *(value.name for value in model.graph.input)})
    lifts = onnx_lifts.match(model, options.rules, "int16x8" if activations == "int16" else "int8")
    sixteen = activations == "int16" or lifts.wide
    model, notes = onnx_graph.raise_opset(model, OPSET_INT16 if sixteen else OPSET_INT8)
    model = onnx_rewrite.rewrite(onnx_graph.optimize(model, path.parent))
    onnx_rewrite.near_constants(model, onnx_graph.propagate(model, ranges.tensors))
    lifted = lifts.settle(model)
    in_float = [onnx_qdq.describe(node) for node in model.graph.node if _stays(node, lifted)]
    said = tuple(
        f"{onnx_qdq.describe(node)}: {lifted[node.output[0]]}" for node in model.graph.node if node.output[0] in lifted
    )
    model, foreign = onnx_qdq.quantize(
        model,
        ranges.tensors,
        activations=activations,
        allow_float_ops=options.allow_float_ops,
        observable=observable,
        lifted=lifted,
        weight_bits=options.weight_bits,
    )
    onnx_lifts.finish(model, lifted, onnx_graph.propagate(model, ranges.tensors))
    inputs, outputs = graph.inputs, graph.outputs
    if activations == "uint8":
        # There are no kernels for 16-bit integers to move by.
        onnx_finish.move_on_integers(model)
    if options.interface == "int8":
        inputs, outputs = onnx_finish.integer_interface(model, inputs, outputs)
    else:
        onnx_finish.free_outputs(model)
    if activations == "int16":
        onnx_finish.join_activations(model)
    else:
        onnx_finish.drop_zero_points(model)
        model = onnx_graph.infer_types(model)
        notes += _notes(
            [op for op in onnx_finish.float_ops(model, path.parent) if op not in foreign and _tensor(op) not in lifted],
            options.weight_bits,
        )
    if foreign:
        notes += (f"left in float: {some(foreign)}",)
    onnx_slim.slim(model, ranges.tensors)
    onnx_graph.write(model, path)
    before, after = Path(graph.path).stat().st_size, path.stat().st_size
    if after >= before:
        notes += (f"{graph.precision} takes {after} bytes and float {before}: too few weights for their scales",)
    notes = (*graph.notes, *notes)
    return replace(
        graph,
        path=str(path),
        inputs=inputs,
        outputs=outputs,
        notes=notes,
        float_ops=(*foreign, *in_float),
        lifted=said,
    )


def _stays(node: Any, lifted: Mapping[str, str]) -> bool:
    return lifted.get(node.output[0]) in ("fp16", "float")


def _tensor(op: str) -> str:
    """Of "Exp (boxes)"."""
    return op.partition(" (")[2].removesuffix(")")


def _notes(in_float: Sequence[str], weight_bits: int) -> tuple[str, ...]:
    notes = []
    if in_float:
        notes.append(f"onnxruntime has no int8 kernels for, and computes in float: {some(in_float)}")
    if weight_bits == 7:
        notes.append(_NARROW)
    elif saturates_here():
        notes.append(
            "this processor has no VNNI: onnxruntime's int8 sums saturate here, so accuracy may be better on the device"
        )
    return tuple(notes)


_NARROW = "weights have 7 bits, so that sums of products do not saturate on x86 without VNNI"


def _dynamic(model: Any, graph: Graph, options: QuantizeOptions, path: Path) -> Graph:
    model, notes = onnx_graph.raise_opset(model, OPSET_INT8)
    levels = LEVELS[options.weight_bits]
    if options.weight_bits == 7:
        notes = (*notes, _NARROW)
    return _stored_smaller(model, graph, path, lambda model: onnx_dynamic.quantize(model, levels), notes)


def _float16(model: Any, graph: Graph, path: Path) -> Graph:
    return _stored_smaller(model, graph, path, onnx_float16.quantize, ())


def _stored_smaller(
    model: Any,
    graph: Graph,
    path: Path,
    quantize_weights: Callable[[Any], tuple[bool, tuple[str, ...]]],
    notes: tuple[str, ...],
) -> Graph:
    """Write a file that exists for its size: smaller than the float one, or, when there is nothing to gain, the same.

    Raises:
        ConversionError: `not-smaller`.
    """
    keep = _tensors(model)
    model = onnx_graph.optimize(model, path.parent)
    changed, more = quantize_weights(model)
    graph_after = replace(graph, path=str(path), notes=(*graph.notes, *notes, *more))
    source = Path(graph.path)
    if not changed:
        path.write_bytes(source.read_bytes())
        return graph_after
    onnx_slim.slim(model, keep)
    onnx_graph.write(model, path)
    before, after = source.stat().st_size, path.stat().st_size
    if after >= before:
        path.unlink()
        raise ConversionError(
            "not-smaller",
            f"{graph.precision} would take {after} bytes, the float file takes {before}",
            float_bytes=before,
            bytes=after,
        )
    return graph_after


def _tensors(model: Any) -> list[str]:
    return [name for node in model.graph.node for name in node.output if name]
