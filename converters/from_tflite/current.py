"""A TFLite file, brought to the form that every later stage can rely on: one graph, one set of names, float weights.

A file may hold several signatures, each a model of its own; tensors may share names or have none; weights may be
stored as float16 behind a DEQUANTIZE, where no quantizer finds them. What is not so is left as it is, byte by byte.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgekit.converters.tflite_graphs import graph as files
from edgekit.converters.tflite_graphs import write as tflite_write
from edgekit.converters.tflite_graphs.graph import ModelT
from edgekit.errors import SourceError, UsageError
from edgekit.tensors import DTYPES, UNFED, Layout, QuantParams, TensorSpec

DEFAULT_SIGNATURE = "serving_default"
_NARROW = frozenset({"int8", "uint8", "int16", "int4"})
_SUBGRAPHS = (
    "subgraph", "initSubgraphIndex", "thenSubgraphIndex", "elseSubgraphIndex", "condSubgraphIndex", "bodySubgraphIndex",
    "decompositionSubgraphIndex", "updateComputationSubgraphIndex", "comparatorSubgraphIndex",
    "branchSubgraphIndices",
)  # fmt: skip
"""Fields of operators' options that name other graphs of the file."""

_ALONG = frozenset({
    "ADD", "SUB", "MUL", "DIV", "PAD", "PADV2", "MIRROR_PAD", "QUANTIZE", "DEQUANTIZE", "CAST", "RELU", "RELU6",
    "MINIMUM", "MAXIMUM", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR",
})  # fmt: skip
_SPATIAL: dict[str, Layout] = {
    "CONV_2D": "NHWC", "DEPTHWISE_CONV_2D": "NHWC", "TRANSPOSE_CONV": "NHWC", "MAX_POOL_2D": "NHWC",
    "AVERAGE_POOL_2D": "NHWC", "CONV_3D": "NDHWC", "SPACE_TO_DEPTH": "NHWC",
}  # fmt: skip

Shapes = Mapping[str, tuple[int | None, ...]]


@dataclass(frozen=True)
class Entry:
    """Which part of a file is the model.

    Attributes:
        signature: Its key; None in a file without signatures.
        graph: Index of its subgraph.
        names: Tensor index -> public name, of inputs and of outputs.
        others: Keys of the signatures that were not meant.
    """

    signature: str | None
    graph: int
    inputs: dict[int, str]
    outputs: dict[int, str]
    others: tuple[str, ...] = ()


def choose(model: ModelT, wanted: str | None, name: str) -> Entry:
    """The signature that is meant: the wanted one, the only one, or `serving_default`; else the main graph.

    Raises:
        UsageError: `signature-unknown`, `signature-ambiguous`; both list what there is.
        SourceError: `source-unreadable`: a signature or graph refers to what is not there.
    """
    known = {(entry.signatureKey or b"").decode("utf-8", "replace"): entry for entry in model.signatureDefs or ()}
    if wanted is not None and wanted not in known:
        listed = ", ".join(known) or "none"
        raise UsageError("signature-unknown", f"{name} has no signature {wanted!r}; it has: {listed}", known=[*known])
    if not model.subgraphs:
        raise SourceError("source-unreadable", f"{name} holds no graph")
    if not known:
        return _checked(model, _plain(model), name)
    if wanted is None and len(known) > 1 and DEFAULT_SIGNATURE not in known:
        raise UsageError(
            "signature-ambiguous", f"{name} has {len(known)} signatures: {', '.join(known)}", known=[*known]
        )
    key = wanted or (DEFAULT_SIGNATURE if DEFAULT_SIGNATURE in known else next(iter(known)))
    entry = known[key]
    sides = [
        {int(item.tensorIndex): (item.name or b"").decode("utf-8", "replace") for item in side or ()}
        for side in (entry.inputs, entry.outputs)
    ]
    others = tuple(other for other in known if other != key)
    return _checked(model, Entry(key, int(entry.subgraphIndex), sides[0], sides[1], others), name)


def custom_ops(model: ModelT) -> tuple[str, ...]:
    """Names of operators that are not TFLite's own."""
    custom = files.schema().BuiltinOperator.CUSTOM
    return tuple(
        sorted({files.op_name(model, op) for op in files.operators(model) if files.op_code(model, op) == custom})
    )


def keeps_state(model: ModelT, entry: Entry) -> bool:
    """Whether an answer changes the next one, through variables that the engine has no way to reset.

    What is assigned by CALL_ONCE alone is set up once and read from then on.
    """
    operator = files.schema().BuiltinOperator
    return any(
        files.op_code(model, op) == operator.ASSIGN_VARIABLE
        for index in _reachable(model, entry.graph, once=False)
        for op in model.subgraphs[index].operators or ()
    )


def interface(model: ModelT, entry: Entry, name: str) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs in the graph's order; `tensor` is the name inside the file.

    Raises:
        SourceError: `source-dtype`: a tensor that cannot be fed or read.
    """
    graph = model.subgraphs[entry.graph]
    layout = _layout(model, entry)
    inputs = tuple(_spec(graph.tensors[i], public, name) for i, public in entry.inputs.items())
    outputs = tuple(_spec(graph.tensors[i], public, name) for i, public in entry.outputs.items())
    return tuple(_with_layout(spec, layout) for spec in inputs), outputs


def isolate(model: ModelT, entry: Entry) -> Entry | None:
    """Make the chosen signature the only one and its graph the first, in place; None when it is so already."""
    if not entry.others and entry.graph == 0:
        return None
    order = _reachable(model, entry.graph)
    new = {old: position for position, old in enumerate(order)}
    model.subgraphs = [model.subgraphs[old] for old in order]
    for op in files.operators(model):
        for options, field, value in _references(op):
            numbers = [new[int(number)] for number in np.atleast_1d(value)]
            setattr(options, field, np.array(numbers, np.int32) if np.ndim(value) else numbers[0])
    model.signatureDefs = [s for s in model.signatureDefs or () if (s.signatureKey or b"").decode() == entry.signature]
    for signature in model.signatureDefs:
        signature.subgraphIndex = 0
    return Entry(entry.signature, 0, entry.inputs, entry.outputs)


def name_apart(model: ModelT, entry: Entry) -> bool:
    """Give inputs and outputs names of their own, in place; whether that changed any."""
    graph = model.subgraphs[entry.graph]
    ends = {*entry.inputs, *entry.outputs}
    names = files.unique_names(graph)
    wrong = [index for index in ends if files.name_of(graph.tensors[index]) != names[index]]
    for index in wrong:
        graph.tensors[index].name = names[index].encode()
    return bool(wrong)


def widen_halves(model: ModelT) -> int:
    """Replace weights stored as float16 by the same numbers as float32, in place; how many."""
    operator = files.schema().BuiltinOperator
    float32 = files.schema().TensorType.FLOAT32
    count = 0
    for graph in model.subgraphs:
        outputs = {int(index) for index in _ints(graph.outputs)}
        kept = []
        for op in graph.operators or ():
            source = graph.tensors[int(op.inputs[0])] if len(_ints(op.inputs)) else None
            stored = (
                source is not None
                and files.op_code(model, op) == operator.DEQUANTIZE
                and files.dtype_of(source) == "float16"
                and files.is_constant(model, source)
                and int(op.outputs[0]) not in outputs
            )
            if not stored:
                kept.append(op)
                continue
            target = graph.tensors[int(op.outputs[0])]
            files.set_constant(model, target, files.constant(model, source).astype(np.float32))
            target.type, target.quantization = float32, None
            count += 1
        graph.operators = kept
    return count


def fix_sizes(model: ModelT, entry: Entry, shapes: Shapes, name: str) -> bool:
    """Replace free sizes of the inputs and everything that follows from them, in place; whether there were any.

    Raises:
        UsageError: `input-unknown`; `shape-conflict`: also when the graph cannot be computed with these sizes.
    """
    graph = model.subgraphs[entry.graph]
    inputs = {public: graph.tensors[index] for index, public in entry.inputs.items()}
    changed = False
    for public, shape in shapes.items():
        if public not in inputs:
            raise UsageError("input-unknown", f"no input is called {public!r}; known: {', '.join(inputs)}")
        tensor = inputs[public]
        declared = _shape(tensor)
        if len(shape) != len(declared) or any(d not in (None, s) for d, s in zip(declared, shape, strict=True)):
            raise UsageError(
                "shape-conflict",
                f"the shape {list(shape)} does not fit {_spec(tensor, public, name).describe()}: only free sizes can "
                "be set",
            )
        if declared != tuple(shape):
            changed = True
            tensor.shape = np.array([1 if size is None else size for size in shape], np.int32)
            free = None in shape
            tensor.shapeSignature = np.array([-1 if s is None else s for s in shape], np.int32) if free else None
    if changed:
        _derive(model, entry, name)
    return changed


def precision(model: ModelT) -> str:
    """What numbers are stored as: "fp32", or the nearest of our precisions for a quantized file."""
    operator = files.schema().BuiltinOperator
    computed, stored = set(), set()
    for graph in model.subgraphs:
        for op in graph.operators or ():
            converts = files.op_code(model, op) in (operator.QUANTIZE, operator.DEQUANTIZE)
            for index in (*_ints(op.inputs), *_ints(op.outputs)):
                tensor = graph.tensors[index] if 0 <= index < len(graph.tensors) else None
                if tensor is None or not _scales(tensor) or files.dtype_of(tensor) not in _NARROW:
                    continue
                if files.is_constant(model, tensor):
                    stored.add(files.dtype_of(tensor))
                elif not converts:
                    computed.add(files.dtype_of(tensor))
    if computed & {"int8", "uint8", "int4"}:
        return "int8"
    if computed:
        return "int16x8"
    return "dynamic" if stored else "fp32"


def _plain(model: ModelT) -> Entry:
    graph = model.subgraphs[0]
    names = files.unique_names(graph) if graph.tensors else []
    sides = [
        {index: names[index] if 0 <= index < len(names) else "" for index in _ints(side)}
        for side in (graph.inputs, graph.outputs)
    ]
    return Entry(None, 0, sides[0], sides[1])


def _checked(model: ModelT, entry: Entry, name: str) -> Entry:
    """In the order of the graph, which is the engine's; every reference inside the file."""
    if not 0 <= entry.graph < len(model.subgraphs):
        raise SourceError("source-unreadable", f"{name}: the signature {entry.signature!r} has no graph")
    graph = model.subgraphs[entry.graph]
    count = len(graph.tensors or ())
    for inner in model.subgraphs:
        limit = len(inner.tensors or ())
        used = [i for op in inner.operators or () for i in (*_ints(op.inputs), *_ints(op.outputs))]
        codes = [int(op.opcodeIndex) for op in inner.operators or ()]
        buffers = [int(tensor.buffer) for tensor in inner.tensors or ()]
        if (
            any(not -1 <= i < limit for i in (*used, *_ints(inner.inputs), *_ints(inner.outputs)))
            or any(not 0 <= code < len(model.operatorCodes or ()) for code in codes)
            or any(not 0 <= buffer < len(model.buffers or ()) for buffer in buffers)
        ):
            raise SourceError("source-unreadable", f"{name}: an operator or tensor refers to what is not in the file")
    sides = []
    for given, own in ((entry.inputs, graph.inputs), (entry.outputs, graph.outputs)):
        if any(not 0 <= index < count for index in (*given, *_ints(own))):
            raise SourceError("source-unreadable", f"{name}: an input or output is not among the tensors")
        order = [index for index in dict.fromkeys((*_ints(own), *given)) if index in given]
        sides.append(
            {index: given[index] or files.name_of(graph.tensors[index]) or f"tensor_{index}" for index in order}
        )
    if not sides[0] or not sides[1]:
        raise SourceError("source-unreadable", f"{name} has no {'outputs' if sides[0] else 'inputs'}")
    return Entry(entry.signature, entry.graph, sides[0], sides[1], entry.others)


def _spec(tensor: Any, public: str, name: str) -> TensorSpec:
    dtype = files.dtype_of(tensor)
    if dtype not in DTYPES or dtype in UNFED:
        raise SourceError(
            "source-dtype", f"{name}: the tensor {public!r} is {dtype}, which cannot be fed on a device", name=public
        )
    inside = files.name_of(tensor)
    return TensorSpec(public, _shape(tensor), dtype, quant=_quant(tensor), tensor=inside if inside != public else None)


def _shape(tensor: Any) -> tuple[int | None, ...]:
    sizes = tensor.shape if tensor.shapeSignature is None or not len(tensor.shapeSignature) else tensor.shapeSignature
    return tuple(None if size < 0 else int(size) for size in ([] if sizes is None else sizes))


def _quant(tensor: Any) -> QuantParams | None:
    scales = _scales(tensor)
    if not scales or not all(np.isfinite(scale) and scale > 0 for scale in scales):
        return None
    points = _ints(tensor.quantization.zeroPoint) or [0] * len(scales)
    axis = int(tensor.quantization.quantizedDimension) if len(scales) > 1 else None
    return QuantParams(tuple(scales), tuple(points * len(scales) if len(points) == 1 else points), axis)


def _scales(tensor: Any) -> list[float]:
    table = tensor.quantization
    return [] if table is None or table.scale is None else [float(scale) for scale in table.scale]


def _with_layout(spec: TensorSpec, layouts: dict[str, Layout]) -> TensorSpec:
    layout = layouts.get(spec.name)
    if layout is None or len(layout) != len(spec.shape):
        return spec
    return TensorSpec(spec.name, spec.shape, spec.dtype, layout, spec.quant, spec.tensor)


def _layout(model: ModelT, entry: Entry) -> dict[str, Layout]:
    """Public input name -> meaning of its axes, where a convolution or pooling is what it leads to."""
    found: dict[str, Layout] = {}
    reached = dict(entry.inputs)
    for op in model.subgraphs[entry.graph].operators or ():
        kind = files.op_name(model, op)
        taken = [reached[index] for index in _ints(op.inputs) if index in reached]
        if not taken:
            continue
        if kind in _SPATIAL:
            found.setdefault(taken[0], _SPATIAL[kind])
        elif kind in _ALONG:
            reached[int(op.outputs[0])] = taken[0]
    return found


def _reachable(model: ModelT, main: int, *, once: bool = True) -> list[int]:
    """The graph and those that its operators call; `once`: also those that are called at the start only."""
    initial = files.schema().BuiltinOperator.CALL_ONCE
    reached = [main]
    for index in reached:  # grows while it is walked
        for op in model.subgraphs[index].operators or ():
            if not once and files.op_code(model, op) == initial:
                continue
            called = [int(i) for _, _, value in _references(op) for i in np.atleast_1d(value)]
            reached += [i for i in dict.fromkeys(called) if i not in reached and 0 <= i < len(model.subgraphs)]
    return reached


def _references(op: Any) -> Iterator[tuple[Any, str, Any]]:
    """Options of an operator that name other graphs: the options, the field, its value."""
    for options in (op.builtinOptions, op.builtinOptions2):
        for field in _SUBGRAPHS if options is not None else ():
            value = getattr(options, field, None)
            if value is not None and np.size(value) and np.min(value) >= 0:
                yield options, field, value


def _derive(model: ModelT, entry: Entry, name: str) -> None:
    """Shapes of all tensors that follow from the inputs, as the engine derives them."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    graph = model.subgraphs[entry.graph]
    for tensor in graph.tensors:
        if tensor.shapeSignature is not None and not any(tensor is graph.tensors[i] for i in entry.inputs):
            tensor.shapeSignature = None
    try:
        engine = Interpreter(
            model_content=tflite_write.write(model),
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        )
        engine.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        raise UsageError(
            "shape-conflict", f"{name} cannot be computed with these sizes: {' '.join(str(error).split())[:300]}"
        ) from error
    for detail in engine.get_tensor_details():
        if detail["index"] < len(graph.tensors):
            graph.tensors[detail["index"]].shape = np.array(detail["shape"], np.int32)


def _ints(values: Any) -> list[int]:
    return [] if values is None else [int(value) for value in values]
