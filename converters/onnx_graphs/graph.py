"""ONNX graphs for the quantizers: read, make ready, find things in, write.

Making ready is left to onnxruntime's own basic optimizations, because they are what runs on the device anyway: weights
that are computed in the file become constants, BatchNorm and bias additions go into the convolution or the Gemm
before them. A quantizer that saw the graph as exported would put roundings between these parts, find no weight where
one is computed (so onnxruntime's issue 24815) and leave half of the work in float.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.converters.stages import Range
from edgekit.errors import ConversionError

if TYPE_CHECKING:
    from numpy.typing import NDArray

IR_VERSION = {13: 7, 14: 7, 15: 8, 16: 8, 17: 8, 18: 8, 19: 9, 20: 9, 21: 10}
"""IR version that came with an opset (ONNX' own table); later ones are refused by an older engine on a device."""

FLOAT32 = 1
FLOATS = frozenset({FLOAT32, 10, 11, 16})
"""Element types by TensorProto's numbers: float32; float16, float64, bfloat16."""

MOVES = frozenset({
    "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout", "Slice", "Gather",
    "GatherElements", "GatherND", "Split", "Expand", "Tile", "DepthToSpace", "SpaceToDepth", "ReverseSequence",
})  # fmt: skip
"""Ops whose (first) input's values are their outputs' values, in other places."""

BYSTANDERS = MOVES | frozenset({
    "Concat", "Pad", "Cast", "CastLike", "Shape", "Size", "Constant", "ConstantOfShape", "Range", "NonZero", "OneHot",
    "ScatterND", "ScatterElements", "EyeLike", "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Trilu",
    "Col2Im",
})  # fmt: skip
"""Ops that compute nothing: they move, place or convert values. Never counted as float ops."""


def read(path: str | Path) -> Any:
    """The model in `path`, external data included, with constants no longer listed as inputs.

    Raises:
        ConversionError: `onnx-unreadable`: the float file of an earlier stage cannot be parsed.
    """
    import onnx

    try:
        model = onnx.load(str(path))
    except Exception as error:  # protobuf's DecodeError derives from Exception only, and its module has no types
        raise ConversionError("onnx-unreadable", f"{path} cannot be read: {error}") from error
    constant = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constant]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    return model


def write(model: Any, path: Path) -> None:
    """Write a model; the same model gives the same bytes.

    Raises:
        ConversionError: `model-too-large`: over the 2 GiB that one protobuf file can hold.
    """
    try:
        data = model.SerializeToString(deterministic=True)
    except ValueError as error:
        raise ConversionError("model-too-large", f"{path.name} would pass the 2 GiB of a protobuf file") from error
    path.write_bytes(data)


def raise_opset(model: Any, minimum: int) -> tuple[Any, tuple[str, ...]]:
    """The model in at least opset `minimum`, and what to tell the user about it.

    Raises:
        ConversionError: `opset-raise-failed`: an op has no counterpart there.
    """
    from onnx import version_converter

    before = opset(model)
    if before >= minimum:
        return model, ()
    metadata = list(model.metadata_props)
    try:
        raised = version_converter.convert_version(model, minimum)
    except Exception as error:  # the converter raises RuntimeError and its own C++ exceptions
        line = str(error).strip().splitlines()[0]
        raise ConversionError(
            "opset-raise-failed", f"opset {before} cannot be raised to {minimum}: {line}", opset=before
        ) from error
    raised.ir_version = max(raised.ir_version, IR_VERSION[minimum])
    del raised.metadata_props[:]
    raised.metadata_props.extend(metadata)
    return raised, (f"opset {before} was raised to {minimum}",)


def opset(model: Any) -> int:
    """Version of the standard operator set that a model uses."""
    return next((int(entry.version) for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 1)


def optimize(model: Any, scratch: Path) -> Any:
    """The model after onnxruntime's basic optimizations, which keep to standard ops, with element types inferred.

    Transposes stay where they are: moving them would rename tensors that have been observed.

    Args:
        model: Any float model.
        scratch: A folder for a temporary file.

    Raises:
        ConversionError: `onnx-engine-refused`: onnxruntime cannot open the float model.
    """
    import onnx
    import onnxruntime

    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        target = Path(folder) / "optimized.onnx"
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(target)
        session(model, options, disabled_optimizers=["TransposeOptimizer"])
        optimized = onnx.load(str(target))
    return infer_types(optimized)


def session(model: Any, options: Any = None, **more: Any) -> Any:
    """An onnxruntime session of a model (a ModelProto or its bytes) on the CPU, one thread.

    Raises:
        ConversionError: `onnx-engine-refused`.
    """
    import onnxruntime

    if options is None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
    options.intra_op_num_threads = 1
    data = model if isinstance(model, bytes) else model.SerializeToString()
    try:
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"], **more)
    except Exception as error:  # its exception classes share no public base but Exception
        line = str(error).strip().splitlines()[0]
        raise ConversionError("onnx-engine-refused", f"onnxruntime cannot open the model: {line}") from error


def infer_types(model: Any) -> Any:
    """The model with what shape inference knows; tensors that it cannot follow stay without."""
    import onnx

    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    del model.graph.value_info[:]
    model.graph.value_info.extend(inferred.graph.value_info)
    return model


def declare(model: Any, names: Iterable[str]) -> None:
    """Say that tensors of unknown type are float32: outputs of ops that shape inference does not know."""
    from onnx import helper

    view = View(model)
    unknown = [name for name in names if name in view.producer and not view.type(name)]
    model.graph.value_info.extend(helper.make_tensor_value_info(name, FLOAT32, None) for name in unknown)


class View:
    """Look-ups in a graph as it is now: who makes a tensor, who takes it, which are constants and floats."""

    def __init__(self, model: Any) -> None:
        graph = model.graph
        self.constants: dict[str, Any] = {tensor.name: tensor for tensor in graph.initializer}
        self.producer: dict[str, Any] = {name: node for node in graph.node for name in node.output if name}
        self.consumers: dict[str, list[Any]] = {}
        for node in graph.node:
            for name in node.input:
                self.consumers.setdefault(name, []).append(node)
        self.outputs = {value.name for value in graph.output}
        self.inputs = {value.name for value in graph.input}
        self._types = {
            value.name: value.type.tensor_type
            for value in (*graph.value_info, *graph.output, *graph.input)
            if value.type.HasField("tensor_type")
        }

    def array(self, name: str) -> NDArray[Any] | None:
        """A constant's value; None when `name` is not one."""
        from onnx import numpy_helper

        tensor = self.constants.get(name)
        return None if tensor is None else np.asarray(numpy_helper.to_array(tensor))

    def type(self, name: str) -> int:
        """Element type, one of TensorProto's; 0 when unknown."""
        if name in self.constants:
            return int(self.constants[name].data_type)
        return int(self._types[name].elem_type) if name in self._types else 0

    def floating(self, name: str) -> bool:
        """Whether a tensor is known to be float32."""
        return self.type(name) == FLOAT32

    def rank(self, name: str) -> int | None:
        """Number of axes, where known."""
        if name in self.constants:
            return len(self.constants[name].dims)
        kind = self._types.get(name)
        return len(kind.shape.dim) if kind is not None and kind.HasField("shape") else None

    def sizes(self, name: str) -> tuple[int, ...]:
        """Sizes of a tensor, -1 for those that are not known; () when not even their number is."""
        if name in self.constants:
            return tuple(int(size) for size in self.constants[name].dims)
        kind = self._types.get(name)
        if kind is None or not kind.HasField("shape"):
            return ()
        return tuple(int(size.dim_value) if size.HasField("dim_value") else -1 for size in kind.shape.dim)


def attribute(node: Any, name: str, default: Any = None) -> Any:
    """Value of a node's attribute."""
    from onnx import helper

    return next((helper.get_attribute_value(item) for item in node.attribute if item.name == name), default)


def has_subgraph(node: Any) -> bool:
    """Whether a node holds graphs of its own (If, Loop, Scan)."""
    return any(item.HasField("g") or item.graphs for item in node.attribute)


def propagate(model: Any, known: Mapping[str, Range]) -> dict[str, Range]:
    """Ranges of all tensors that moves connect with an observed one, in both directions.

    Optimizations and rewritings leave tensors that nobody observed; as long as only moves lie between, the range is
    the same.
    """
    ranges = dict(known)
    moves = [node for node in model.graph.node if node.op_type in MOVES and not node.domain]
    changed = True
    while changed:
        changed = False
        for node in moves:
            outputs = [name for name in node.output if name]
            if node.input[0] in ranges:
                missing = [name for name in outputs if name not in ranges]
                ranges.update(dict.fromkeys(missing, ranges[node.input[0]]))
                changed = changed or bool(missing)
            elif len(outputs) == 1 and outputs[0] in ranges:
                ranges[node.input[0]] = ranges[outputs[0]]
                changed = True
    return ranges


def replace_constants(model: Any, constants: Iterable[Any]) -> None:
    """Make `constants` the model's constants."""
    kept = list(constants)
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


def constant(name: str, value: NDArray[Any]) -> Any:
    """A TensorProto; contiguous little-endian bytes."""
    from onnx import numpy_helper

    return numpy_helper.from_array(np.ascontiguousarray(value).reshape(value.shape), name)


def sort(model: Any) -> None:
    """Put the nodes into an order in which every tensor is made before it is taken; stable."""
    made = {value.name for value in model.graph.input} | {tensor.name for tensor in model.graph.initializer} | {""}
    waiting = list(model.graph.node)
    ordered: list[Any] = []
    while waiting:
        ready = [node for node in waiting if all(name in made for name in _needs(node))]
        if not ready:
            raise ConversionError("onnx-graph-cycle", "the graph's nodes depend on each other in a circle")
        # One pass over what is ready keeps the original order within each rank.
        ordered += ready
        made.update(name for node in ready for name in node.output)
        taken = {id(node) for node in ready}
        waiting = [node for node in waiting if id(node) not in taken]
    set_nodes(model, ordered)


def prepend(model: Any, nodes: list[Any]) -> None:
    """Put nodes before all others."""
    set_nodes(model, [*nodes, *model.graph.node])


def remove(model: Any, gone: set[int]) -> None:
    """Remove the nodes with these ids (`id(node)`). Nodes are copied: ids and references to them end here."""
    if gone:
        set_nodes(model, [node for node in model.graph.node if id(node) not in gone])


def set_nodes(model: Any, nodes: list[Any]) -> None:
    """Make `nodes` (in order) the model's nodes; they are copied."""
    copies = [copy(node) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)


def copy(node: Any) -> Any:
    """A node that survives its graph's list being emptied."""
    from onnx import NodeProto

    copy = NodeProto()
    copy.CopyFrom(node)
    return copy


def _needs(node: Any) -> Iterator[str]:
    yield from node.input
    for item in node.attribute:
        for graph in (*([item.g] if item.HasField("g") else []), *item.graphs):
            inside = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
            inside |= {name for child in graph.node for name in child.output}
            yield from (name for child in graph.node for name in _needs(child) if name not in inside)
