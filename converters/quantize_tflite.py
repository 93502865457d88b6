"""Quantizing TFLite graphs: ai-edge-quantizer rewrites the float graph by the ranges that we observed.

Around it stands what it leaves to the user: unique names, ranges that kernels can compute with, recurrent weights,
float16 for any operator, integer forms of operators that it does not know but kernels do, integers or floats at the
ends, the list of what still computes in float, and a file without debris. Nothing stays in float silently.

Where the quantizer would give weights a scale a channel, but some kernel reads those as zero or wrongly, they get one
scale for all. What was found, by comparing each operator with float on LiteRT 2.3 and tflite-runtime 2.14:
  - BATCH_MATMUL by a constant, everywhere: zeros. (By one constant matrix it becomes FULLY_CONNECTED, which is exact.)
  - FULLY_CONNECTED in dynamic precision, before runtime 2.15: 0.5 dB instead of 40.
  - FULLY_CONNECTED with int16 activations and several rows, before runtime 2.15: 0 dB instead of 48.
Weights of 4 bits are for FULLY_CONNECTED alone, a scale a channel: 1 x 1024 x 1024 takes 0.6 to 0.7 of the time of int8
and 0.15 of float on LiteRT 2.3 (x86 with VNNI, one thread); CONV_2D takes 3.2 times as long as with int8. A scale a
block of 32 weights gains 1.3 dB and gives nonsense before LiteRT 2.1.
Weights of depthwise and transposed convolutions in dynamic precision are stored as int8 and widened on loading: no fast
kernel quantizes their activations while running; the slow depthwise one takes four to five times as long as float, the
other one does not exist before runtime 2.15.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edgekit.converters.stages import Graph, QuantizeOptions, Ranges
from edgekit.converters.tflite_graphs import folding as tflite_folding
from edgekit.converters.tflite_graphs import graph as files
from edgekit.converters.tflite_graphs import interface as tflite_interface
from edgekit.converters.tflite_graphs import islands as tflite_islands
from edgekit.converters.tflite_graphs import narrow as tflite_narrow
from edgekit.converters.tflite_graphs import plan as tflite_plan
from edgekit.converters.tflite_graphs import ranges as tflite_ranges
from edgekit.converters.tflite_graphs import recipe as tflite_recipe
from edgekit.converters.tflite_graphs import rewrites
from edgekit.converters.tflite_graphs import shapes as tflite_shapes
from edgekit.converters.tflite_graphs import spellings as tflite_spellings
from edgekit.converters.tflite_graphs.decisions import decisions
from edgekit.converters.tflite_graphs.graph import ModelT, TensorT
from edgekit.converters.tflite_graphs.plan import Plan
from edgekit.converters.tflite_graphs.write import write
from edgekit.errors import ConversionError, EngineMissingError, some
from edgekit.precision import Precision
from edgekit.tensors import QuantParams, TensorSpec

FORMAT: Literal["tflite", "onnx"] = "tflite"


_STATIC_BITS = {("static", "int8", "int8"): 8, ("static", "int8", "int16"): 16}

FROM_SOURCE = "source"
"""The observer of ranges that an already quantized source brought along; what it left in float stays in float."""

_NARROW_WORTH = 16384
"""Weights of a dense layer from which 4 bits are worth what they cost in accuracy."""

_MATRIX_WORTH = 1024
"""Elements of a constant matrix below which dynamic precision leaves it alone without a word."""


def quantize(graph: Graph, ranges: Ranges | None, precision: Precision, options: QuantizeOptions, path: Path) -> Graph:
    """Quantize a float TFLite graph.

    Args:
        graph: The float graph.
        ranges: From `calibrate`; needed when the precision is static.
        precision: Any of the TFLite ones.
        options: Interface and what may stay in float.
        path: Where the file goes.

    Returns:
        The quantized graph; `float_ops` names what stayed in float.

    Raises:
        UsageError: `rule-unmatched`.
        ConversionError: `op-not-quantizable`: names the operators that the precision cannot do;
            `tflite-quantizer-failed`: the quantizer refused the graph; `ranges-missing`, `range-missing`: it was not
            calibrated, or not all of it; `tflite-precision-unsupported`.
        SourceError: `tflite-unreadable`.
        EngineMissingError: `quantizer-missing`.
    """
    model = files.read(Path(graph.path).read_bytes())
    places = _Places(model, graph)
    rewrites.give_unique_names(model)
    tflite_shapes.settle(model)
    notes: list[str] = []
    left: list[str] = []
    way = (precision.kind, precision.weights, precision.activations)
    lifted: tuple[str, ...] = ()
    allowed: tuple[str, ...] = ()
    if way in _STATIC_BITS:
        if ranges is None:
            raise ConversionError("ranges-missing", f"{precision.name} was asked for without observed ranges")
        _refuse_rounding(model)
        plan = tflite_plan.plan(model, options.rules, _STATIC_BITS[way])
        model = _static(model, ranges, plan, options)
        left = _float_operators(model)
        lifted, allowed = plan.lifted, plan.in_float
    elif way == ("dynamic", "int8", "float32"):
        model = _dynamic(model)
        left = _float_matrices(model)
    elif way == ("dynamic", "int4", "float32"):
        rewrites.matmul_to_fully_connected(model)
        narrow = tflite_narrow.clip(model, _NARROW_WORTH)
        model = _dynamic(model, narrow)
        left = _float_matrices(model)
        if not narrow:
            notes = [f"no dense layer has {_NARROW_WORTH} weights or more: nothing is stored in 4 bits"]
    elif way == ("float", "float16", "float32"):
        notes = [f"{name} stays float32: float16 cannot hold its values" for name in rewrites.weights_to_half(model)]
    else:
        raise ConversionError(
            "tflite-precision-unsupported",
            f"{precision.name} ({precision.kind}: {precision.weights} weights, {precision.activations} activations) "
            "cannot be made of a TFLite graph",
        )
    refused = [op for op in left if op not in allowed]
    if refused and not options.allow_float_ops:
        raise _refusal(refused, precision)
    places.restore(model)
    # It was true of the float graph.
    files.drop_metadata(model, [b"min_runtime_version"])
    files.shorten_names(model)
    path.write_bytes(files.dump(model))
    return replace(
        graph,
        path=str(path),
        inputs=places.described(model, "inputs", graph.inputs),
        outputs=places.described(model, "outputs", graph.outputs),
        precision=precision.name,
        notes=(*graph.notes, *notes),
        float_ops=tuple(left),
        lifted=lifted,
        tools={**graph.tools, "ai-edge-quantizer": version("ai-edge-quantizer")},
    )


def _refuse_rounding(model: files.ModelT) -> None:
    """Networks trained to be quantized (tfmot) round to integers in their float graph, and would be rounded twice."""
    code = files.schema().BuiltinOperator.QUANTIZE
    if any(files.op_code(model, op) == code for graph in model.subgraphs for op in graph.operators or ()):
        raise ConversionError(
            "source-quantized",
            "the source rounds to integers where it computes, as networks that were trained to be quantized do",
            next_step="Convert the network as it was before (tfmot: the one given to quantize_model, with the trained "
            "weights), or keep its rounding with --precision fp32.",
        )


def _static(model: ModelT, ranges: Ranges, plan: Plan, options: QuantizeOptions) -> ModelT:
    unknown = _without_range(model, ranges)
    if decided := decisions(model):
        raise _undecided([rewrites.called(model, model.subgraphs[0], op) for op in decided])
    if unknown and ranges.observer != FROM_SOURCE:
        raise ConversionError("range-missing", f"calibration did not observe {', '.join(unknown[:8])}", tensors=unknown)
    rewrites.matmul_to_fully_connected(model)
    tflite_folding.columns_into_dense(model, plan.width)
    rewrites.to_multiplication(model)
    rewrites.whole_pools_to_means(model)
    bits = plan.settle(model)
    seen = tflite_ranges.usable(model, ranges.tensors)
    tflite_ranges.tame_masks(model, seen)
    tflite_ranges.near_constants(model, seen)
    tflite_spellings.spell_out(model, seen, bits)
    tflite_ranges.widen_results(model, seen, bits)
    if 16 in bits.values():
        rewrites.plain_int16_sums(model)
    ranks = rewrites.ranks_of_constants_beside(model)
    statistics = {name: _statistic(found.min, found.max, ranks.get(name, 1)) for name, found in seen.items()}
    for name, (low, high) in tflite_ranges.wide_weights(model, seen, bits).items():
        statistics[name] = {"min": low, "max": high}
    made = _run_quantizer(model, tflite_recipe.static(model, seen, plan.base, bits, unknown), statistics)
    for wide in (8, 16):
        others = {name for name, found in bits.items() if found != wide}
        if plan.base != wide:
            others = {files.name_of(tensor) for tensor in made.subgraphs[0].tensors} - bits.keys() | others
        tflite_islands.absorb(made, replace(ranges, tensors=seen), wide, others)
    plan.store_half(made)
    tflite_interface.settle(made, options.interface)
    return made


def _without_range(model: ModelT, ranges: Ranges) -> list[str]:
    """Names of float tensors that need a range and have none."""
    main = model.subgraphs[0]
    made = [int(i) for op in main.operators or () for i in op.outputs]
    return [
        files.name_of(tensor)
        for tensor in (main.tensors[i] for i in (*(int(i) for i in main.inputs), *made))
        if files.dtype_of(tensor) == "float32" and not tensor.isVariable
        if files.name_of(tensor) not in ranges.tensors
    ]


def _dynamic(model: ModelT, narrow: Iterable[str] = ()) -> ModelT:
    rewrites.matmul_to_fully_connected(model)
    rewrites.lstm_weights_to_int8(model)
    rewrites.tables_to_int8(model, _MATRIX_WORTH)
    rewrites.volumes_to_int8(model, _MATRIX_WORTH)
    return _run_quantizer(model, tflite_recipe.dynamic(model, narrow), None)


def _float_matrices(model: ModelT) -> list[str]:
    """Operators that read a constant matrix in float: weights that did not become integers."""
    return [
        rewrites.called(model, graph, op)
        for graph in model.subgraphs
        for op in graph.operators or ()
        if any(_is_float_matrix(model, graph.tensors[int(i)]) for i in op.inputs if int(i) >= 0)
    ]


def _is_float_matrix(model: ModelT, tensor: TensorT) -> bool:
    if files.dtype_of(tensor) != "float32" or not files.is_constant(model, tensor):
        return False
    shape = [int(size) for size in tensor.shape]
    return len(shape) > 1 and int(np.prod(shape)) >= _MATRIX_WORTH


def _run_quantizer(model: ModelT, recipe: Any, statistics: dict[str, Any] | None) -> ModelT:
    try:
        from ai_edge_quantizer import quantizer
    except ImportError as error:
        raise EngineMissingError("quantizer-missing", "quantizing TFLite graphs needs ai-edge-quantizer") from error
    rewrites.empty_unread(model)
    # It looks through them even where there are none.
    model.signatureDefs = model.signatureDefs or []
    with warnings.catch_warnings():
        # It warns about an interpreter that it makes itself.
        warnings.simplefilter("ignore", UserWarning)
        try:
            worker = quantizer.Quantizer(write(model), recipe)
            made = worker.quantize(statistics, enable_progress_bar=False, enable_progress_report=False)
        except Exception as error:  # it has no exception class of its own, and raises whatever its parts raise
            said = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ConversionError("tflite-quantizer-failed", f"ai-edge-quantizer refused the graph: {said}") from error
    return files.read(bytes(made.quantized_model))


def _statistic(low: float, high: float, rank: int = 1) -> dict[str, Any]:
    return {"min": np.full((1,) * rank, low, np.float32), "max": np.full((1,) * rank, high, np.float32)}


def _float_operators(model: ModelT) -> list[str]:
    """Operators that take or give values in float, by kind and name; those that only convert do not count."""
    operator = files.schema().BuiltinOperator
    ignored = (operator.QUANTIZE, operator.DEQUANTIZE, operator.CAST, operator.SHAPE, operator.RANK)
    found = []
    for graph in model.subgraphs:
        for op in graph.operators or ():
            if files.op_code(model, op) in ignored:
                continue
            touched = [graph.tensors[int(i)] for i in (*op.inputs, *op.outputs) if int(i) >= 0]
            if any(files.dtype_of(tensor) == "float32" for tensor in touched):
                found.append(rewrites.called(model, graph, op))
    return found


def _refusal(left: list[str], precision: Precision) -> ConversionError:
    instead = "--precision dynamic or " if precision.kind == "static" else ""
    return ConversionError(
        "op-not-quantizable",
        f"{precision.name} cannot be had for {some(left, 8)}",
        cause=_CAUSES.get(precision.kind, _CAUSES["static"]),
        next_step=f"Use {instead}--allow-float-ops, which leaves these operators in float and lists them.",
        ops=left,
    )


def _undecided(ops: list[str]) -> ConversionError:
    return ConversionError(
        "op-not-quantizable",
        f"integers would change what {some(ops, 8)} decide",
        cause="Trees compare floats with thresholds; a rounded value takes another way to another leaf.",
        next_step="Use --precision dynamic or fp16, which keep every decision as it is, or fp32.",
        ops=ops,
    )


_CAUSES = {
    "static": "There is no integer kernel for these operators, or none that gives right answers.",
    "dynamic": "These operators read constants that no kernel takes as integers.",
}


class _Places:
    """Where inputs and outputs stand in the float graph, and how they are called there and in signatures.

    The quantizer keeps only places: it renames tensors, and leaves signatures at ones that are no outputs any more.
    """

    def __init__(self, model: ModelT, graph: Graph) -> None:
        main = model.subgraphs[0]
        self._names = {
            side: [main.tensors[int(index)].name for index in getattr(main, side)] for side in ("inputs", "outputs")
        }
        self._places = {
            "inputs": files.interface(model, graph.inputs, "inputs"),
            "outputs": files.interface(model, graph.outputs, "outputs"),
        }
        self._entries = [
            (entry, side, [int(index) for index in getattr(main, side)].index(int(entry.tensorIndex)))
            for signature in model.signatureDefs or ()
            for side in ("inputs", "outputs")
            for entry in getattr(signature, side) or ()
            if signature.subgraphIndex == 0
        ]
        self._signatures, model.signatureDefs = model.signatureDefs, None

    def restore(self, model: ModelT) -> None:
        """Give inputs and outputs their old names; tensors inside that took one get another."""
        main = model.subgraphs[0]
        ends = {id(main.tensors[int(index)]) for side in self._names for index in getattr(main, side)}
        for side, names in self._names.items():
            for index, name in zip(getattr(main, side), names, strict=True):
                for other in main.tensors:
                    if other.name == name and id(other) not in ends:
                        other.name = name + b"_inner"
                main.tensors[int(index)].name = name
        for entry, side, place in self._entries:
            entry.tensorIndex = int(getattr(main, side)[place])
        model.signatureDefs = self._signatures

    def described(self, model: ModelT, side: str, specs: Iterable[TensorSpec]) -> tuple[TensorSpec, ...]:
        """The specs with the element types and scales that the tensors have now."""
        main = model.subgraphs[0]
        indices = [int(index) for index in getattr(main, side)]
        return tuple(
            replace(spec, dtype=files.dtype_of(tensor), quant=_quant(tensor))
            for spec, place in zip(specs, self._places[side], strict=True)
            for tensor in (main.tensors[indices[place]],)
        )


def _quant(tensor: TensorT) -> QuantParams | None:
    found = tensor.quantization
    if found is None or found.scale is None or not len(found.scale):
        return None
    return QuantParams(tuple(float(scale) for scale in found.scale), tuple(int(zero) for zero in found.zeroPoint))
