"""TFLite: from the flatbuffer to `ModelFacts`.

Public names come from the model's signature when it has exactly one, as engines offer them. A free size is a -1 in
`shape_signature`; it counts as 1 in every figure.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from edgekit.formats import tflite_macs, tflite_parts
from edgekit.formats.facts import (
    MAX_RANK,
    Budget,
    ModelFacts,
    Operand,
    OpFacts,
    SignatureFacts,
    elements,
    total,
)
from edgekit.formats.flatbuffer import Table
from edgekit.formats.graph import GraphFacts, Tensor
from edgekit.formats.tflite_graph import SETTINGS, node, planned
from edgekit.formats.tflite_parts import Part, Step, Subgraph
from edgekit.formats.tflite_schema import (
    BUILTIN_OPERATORS,
    CUSTOM,
    PLACEHOLDER,
    SUBGRAPH_SLOTS,
    TENSOR_TYPES,
    Slot,
)
from edgekit.tensors import DTYPES, QuantParams, TensorSpec

_SCHEMA_VERSION = 3
_METADATA_LIMIT = 64
_POOLS = frozenset({"AVERAGE_POOL_2D", "L2_POOL_2D", "MAX_POOL_2D"})
_WINDOW = (Slot.POOL_HEIGHT, Slot.POOL_WIDTH)


@dataclass(frozen=True, slots=True)
class _Signature:
    facts: SignatureFacts
    subgraph: int
    names: dict[int, str]


def read(data: bytes) -> ModelFacts:
    """Read a `.tflite` file.

    Raises:
        ValueError: It contradicts the format or points outside itself.
    """
    model = Table.root(data, Budget(len(data)))
    version = model.scalar(Slot.MODEL_VERSION, "I")
    if version != _SCHEMA_VERSION:
        raise ValueError(f"schema version {version} is not {_SCHEMA_VERSION}")
    buffers = model.tables(Slot.MODEL_BUFFERS)
    weights = [_buffer_bytes(buffer, len(data)) for buffer in buffers]
    outside = sum(t.scalar(Slot.EXTERNAL_LENGTH, "Q") for t in model.tables(Slot.MODEL_EXTERNAL_BUFFERS))
    codes = [_op_code(code) for code in model.tables(Slot.MODEL_OPERATOR_CODES)]
    graphs = [_graph(graph, codes, weights) for graph in model.tables(Slot.MODEL_SUBGRAPHS)]
    if not graphs:
        raise ValueError("it has no subgraph")
    _check_calls(graphs)
    signatures = [_signature(s, graphs) for s in model.tables(Slot.MODEL_SIGNATURES)]
    only = signatures[0] if len(signatures) == 1 else None
    main = only.subgraph if only else 0
    (inputs, left_out), (outputs, left_out_too) = (
        _interface(graphs[main], graphs[main].inputs, only, "input"),
        _interface(graphs[main], graphs[main].outputs, only, "output"),
    )
    parameters, weight_bytes = tflite_parts.constants(graphs, weights)
    live = tuple(_facts(graphs[i], buffers) for i in tflite_parts.reachable(graphs, main))
    return ModelFacts(
        format="tflite",
        inputs=inputs,
        outputs=outputs,
        ops=tuple(op.facts for graph in graphs for op in graph.ops),
        tensors=sum(len(graph.tensors) for graph in graphs),
        parameters=parameters,
        weight_bytes=weight_bytes + outside,
        arena_bytes=total(planned(found) for found in live),
        macs=tflite_parts.macs(graphs, main),
        bytes=len(data),
        precision=tflite_parts.precision(graphs),
        signatures=tuple(s.facts for s in signatures),
        description=model.text(Slot.MODEL_DESCRIPTION),
        metadata=_metadata(model, buffers),
        external=tuple(g.text(Slot.EXTERNAL_GROUP_NAME) for g in model.tables(Slot.MODEL_EXTERNAL_GROUPS)),
        notes=(*left_out, *left_out_too),
        graphs=live,
    )


def _buffer_bytes(buffer: Table, size: int) -> int:
    """Bytes of one buffer, which lies inside the flatbuffer or, in files over 2 GB, behind it."""
    start, length = buffer.scalar(Slot.BUFFER_OFFSET, "Q"), buffer.scalar(Slot.BUFFER_SIZE, "Q")
    if start > 1:
        if start + length > size:
            raise ValueError(f"a buffer ends at byte {start + length} of {size}: the file is cut short or damaged")
        return length
    return buffer.length(Slot.BUFFER_DATA)


def _op_code(code: Table) -> tuple[str, int]:
    """Kind and version. Old files have the 8-bit field alone, newer ones both."""
    old = code.scalar(Slot.CODE_OLD, "b")
    number = code.scalar(Slot.CODE_NEW, "i")
    number = number if old == PLACEHOLDER or number > old else old
    version = code.scalar(Slot.CODE_VERSION, "i", 1)
    if number == CUSTOM:
        return f"CUSTOM:{code.text(Slot.CODE_CUSTOM) or '?'}", version
    known = 0 <= number < len(BUILTIN_OPERATORS)
    return BUILTIN_OPERATORS[number] if known else f"UNKNOWN:{number}", version


def _graph(graph: Table, codes: list[tuple[str, int]], weights: list[int]) -> Subgraph:
    tensors = [_tensor(tensor, weights) for tensor in graph.tables(Slot.GRAPH_TENSORS)]
    inputs = _indices(graph.scalars(Slot.GRAPH_INPUTS, "i"), tensors)
    outputs = _indices(graph.scalars(Slot.GRAPH_OUTPUTS, "i"), tensors)
    ops = [_op(op, codes, tensors) for op in graph.tables(Slot.GRAPH_OPERATORS)]
    return Subgraph(tensors, inputs, outputs, ops)


def _tensor(table: Table, weights: list[int]) -> Part:
    shape = table.scalars(Slot.TENSOR_SHAPE, "i") or ()
    signature = table.scalars(Slot.TENSOR_SIGNATURE, "i") or shape
    name = table.text(Slot.TENSOR_NAME)
    if len(shape) > MAX_RANK or (len(signature) != len(shape) and shape):
        raise ValueError(f"tensor {name!r} has {len(shape)} axes and {len(signature)} in its signature")
    free = tuple(size == -1 for size in signature)
    shape = tuple(1 if unknown else size for size, unknown in zip(shape or signature, free, strict=True))
    kind = table.scalar(Slot.TENSOR_TYPE, "b")
    if not 0 <= kind < len(TENSOR_TYPES):
        raise ValueError(f"tensor {name!r} has the unknown element type {kind}")
    if any(size < 0 for size in shape):
        raise ValueError(f"tensor {name!r} has a negative size in {shape}")
    elements(shape)
    dtype, bits = TENSOR_TYPES[kind]
    buffer = table.scalar(Slot.TENSOR_BUFFER, "I")
    if buffer >= max(len(weights), 1):
        raise ValueError(f"tensor {name!r} names buffer {buffer} of {len(weights)}")
    held = bool(weights) and weights[buffer] > 0
    variable = table.scalar(Slot.TENSOR_VARIABLE, "B") != 0
    constant = (held and not variable) or table.scalar(Slot.TENSOR_EXTERNAL, "I") != 0
    quantization = table.table(Slot.TENSOR_QUANTIZATION)
    scaled = quantization is not None and (
        quantization.length(Slot.QUANT_SCALE, "f") > 0 or quantization.scalar(Slot.QUANT_DETAILS_TYPE, "B") > 0
    )
    operand = Operand(shape, dtype, constant)
    return Part(name, shape, free, dtype, bits, buffer, constant, variable, scaled, table, operand)


def _indices(numbers: tuple[int, ...] | None, tensors: list[Part], *, optional: bool = False) -> tuple[int, ...]:
    numbers = numbers or ()
    least = -1 if optional else 0
    for number in numbers:
        if not least <= number < len(tensors):
            raise ValueError(f"tensor {number} is named, of {len(tensors)}")
    return numbers


def _op(table: Table, codes: list[tuple[str, int]], tensors: list[Part]) -> Step:
    code = table.scalar(Slot.OP_CODE, "I")
    if code >= len(codes):
        raise ValueError(f"op code {code} is named, of {len(codes)}")
    kind, version = codes[code]
    inputs = _indices(table.scalars(Slot.OP_INPUTS, "i"), tensors, optional=True)
    outputs = _indices(table.scalars(Slot.OP_OUTPUTS, "i"), tensors, optional=True)
    options = table.table(Slot.OP_OPTIONS)
    macs = tflite_macs.count(
        kind,
        [tensors[i].shape if i >= 0 else None for i in inputs],
        [tensors[i].shape if i >= 0 else None for i in outputs],
        adjoint=bool(kind == "BATCH_MATMUL" and options and options.scalar(Slot.BATCH_MATMUL_ADJ_X, "B")),
        basic=bool(kind == "LSTM" and options and options.scalar(Slot.LSTM_KERNEL_TYPE, "b")),
    )
    names = tuple(tensors[i].name if i >= 0 else "" for i in outputs)
    facts = OpFacts(
        kind=kind,
        name=names[0] if names else "",
        version=version,
        inputs=tuple(tensors[i].name if i >= 0 else "" for i in inputs),
        outputs=names,
        macs=macs,
        dtype=tensors[outputs[0]].dtype if outputs and outputs[0] >= 0 else "",
        reads=tuple(tensors[i].operand if i >= 0 else None for i in inputs),
        writes=tuple(tensors[i].operand if i >= 0 else None for i in outputs),
        window=tuple(max(1, options.scalar(slot, "i")) for slot in _WINDOW) if options and kind in _POOLS else (),
    )
    return Step(facts, inputs, outputs, _calls(kind, table), table)


def _calls(kind: str, table: Table) -> tuple[int, ...]:
    if kind not in SUBGRAPH_SLOTS:
        return ()
    options = table.table(Slot.OP_OPTIONS_2 if kind.startswith("STABLEHLO") else Slot.OP_OPTIONS)
    return tuple(options.scalar(slot, "i") for slot in SUBGRAPH_SLOTS[kind]) if options else ()


def _check_calls(graphs: list[Subgraph]) -> None:
    for graph in graphs:
        for op in graph.ops:
            if any(not 0 <= called < len(graphs) for called in op.calls):
                raise ValueError(f"{op.facts.kind} calls subgraph {max(op.calls)}, of {len(graphs)}")


def _signature(table: Table, graphs: list[Subgraph]) -> _Signature:
    subgraph = table.scalar(Slot.SIGNATURE_SUBGRAPH, "I")
    if subgraph >= len(graphs):
        raise ValueError(f"a signature names subgraph {subgraph}, of {len(graphs)}")
    names: dict[int, str] = {}
    sides: list[tuple[str, ...]] = []
    for slot in (Slot.SIGNATURE_INPUTS, Slot.SIGNATURE_OUTPUTS):
        side = []
        for entry in table.tables(slot):
            index, name = entry.scalar(Slot.MAP_TENSOR, "I"), entry.text(Slot.MAP_NAME)
            if index >= len(graphs[subgraph].tensors):
                raise ValueError(f"a signature names tensor {index}, of {len(graphs[subgraph].tensors)}")
            names.setdefault(index, name)
            side.append(name)
        sides.append(tuple(side))
    facts = SignatureFacts(table.text(Slot.SIGNATURE_KEY), sides[0], sides[1])
    return _Signature(facts, subgraph, names)


def _interface(
    graph: Subgraph, indices: tuple[int, ...], signature: _Signature | None, side: str
) -> tuple[tuple[TensorSpec, ...], list[str]]:
    """Specs of one side, and notes on the tensors that have none."""
    specs, notes = [], []
    for position, index in enumerate(indices):
        tensor = graph.tensors[index]
        name = (signature.names.get(index) if signature else None) or tensor.name or f"{side}_{position}"
        if tensor.dtype not in DTYPES:
            notes.append(f"{side} {name} has element type {tensor.dtype}, which no runtime here can feed or read")
            continue
        shape = tuple(None if free else size for size, free in zip(tensor.shape, tensor.free, strict=True))
        inside = tensor.name if tensor.name and tensor.name != name else None
        specs.append(TensorSpec(name, shape, tensor.dtype, quant=_quant(tensor), tensor=inside))
    return tuple(specs), notes


def _quant(tensor: Part) -> QuantParams | None:
    table = tensor.table.table(Slot.TENSOR_QUANTIZATION)
    if table is None or tensor.dtype.startswith("float"):
        return None
    scale = table.floats(Slot.QUANT_SCALE)
    if not scale:
        return None
    points = table.scalars(Slot.QUANT_ZERO_POINT, "q") or (0,) * len(scale)
    points = points * len(scale) if len(points) == 1 else points
    return QuantParams(scale, points, table.scalar(Slot.QUANT_AXIS, "i") if len(scale) > 1 else None)


def _facts(graph: Subgraph, buffers: list[Table]) -> GraphFacts:
    tensors = [
        Tensor(t.name, t.shape, t.dtype, t.bytes, t.constant or not t.bits, t.variable, *_steps(t), any(t.free))
        for t in graph.tensors
    ]
    nodes = [
        node(op.facts, op.inputs, op.outputs, op.table, _scales(op, graph), _setting(op, graph, buffers))
        for op in graph.ops
    ]
    calls = any(op.calls for op in graph.ops)
    return GraphFacts(dict(enumerate(tensors)), tuple(nodes), graph.inputs, graph.outputs, calls)


def _steps(tensor: Part) -> tuple[float | None, int]:
    """Scale and zero point of a tensor that has one of each."""
    about = tensor.table.table(Slot.TENSOR_QUANTIZATION) if tensor.scaled else None
    scales = about.length(Slot.QUANT_SCALE, "f") if about is not None else 0
    if about is None or scales != 1:
        return None, 0
    zero = about.scalars(Slot.QUANT_ZERO_POINT, "q") or (0,)
    return (about.scalars(Slot.QUANT_SCALE, "f") or (0.0,))[0], zero[0]


def _scales(op: Step, graph: Subgraph) -> int:
    """How many scales an op's weights have."""
    weights = op.inputs[1] if op.facts.kind in tflite_macs.WEIGHTED and len(op.inputs) > 1 else -1
    about = graph.tensors[weights].table.table(Slot.TENSOR_QUANTIZATION) if weights >= 0 else None
    return about.length(Slot.QUANT_SCALE, "f") if about is not None else 0


def _setting(op: Step, graph: Subgraph, buffers: list[Table]) -> tuple[int, ...]:
    """Content of the input that sets the op up, where that is looked at."""
    at = SETTINGS.get(op.facts.kind, len(op.inputs))
    tensor = graph.tensors[op.inputs[at]] if at < len(op.inputs) and op.inputs[at] >= 0 else None
    letter = {"int32": "i", "int64": "q"}.get(tensor.dtype) if tensor is not None and tensor.constant else None
    if tensor is None or letter is None or tensor.buffer >= len(buffers):
        return ()
    size = struct.calcsize(letter)
    content = buffers[tensor.buffer].blob(Slot.BUFFER_DATA, _METADATA_LIMIT)
    return struct.unpack(f"<{len(content) // size}{letter}", content[: len(content) // size * size])


def _metadata(model: Table, buffers: list[Table]) -> dict[str, str]:
    """`min_runtime_version` is text padded with zeros; of other entries only their presence is told."""
    found: dict[str, str] = {}
    for entry in model.tables(Slot.MODEL_METADATA):
        name, buffer = entry.text(Slot.METADATA_NAME), entry.scalar(Slot.METADATA_BUFFER, "I")
        if not name or buffer >= len(buffers):
            continue
        blob = buffers[buffer].blob(Slot.BUFFER_DATA, _METADATA_LIMIT)
        text = blob.split(b"\0")[0].decode("ascii", "replace")
        size = buffers[buffer].length(Slot.BUFFER_DATA)
        found[name] = text if name == "min_runtime_version" else f"{size} bytes"
    return found
