"""TFLite and ONNX files as pictures; see `nets`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from typing import Any

import numpy as np

from edgekit.converters.calibration.taps import OnnxSession, TFLiteSession
from edgekit.converters.debugging.nets import CONVERSIONS, Array, Net, Op, Runner, Side, Tensor
from edgekit.converters.onnx_graphs import graph as onnx_graph
from edgekit.converters.tflite_graphs import graph as files
from edgekit.converters.tflite_graphs.write import write
from edgekit.tensors import QuantParams, TensorSpec


class TFLiteNet(Net):
    """A TFLite file; its main graph."""

    format = "tflite"

    def __init__(self, data: bytes) -> None:
        self._model = files.read(data)
        main = self._model.subgraphs[0]
        self._names = names = files.unique_names(main)
        self._index = {name: index for index, name in enumerate(names)}
        self._stateful = any(tensor.isVariable for tensor in main.tensors)
        ops = [
            Op(
                number,
                files.op_name(self._model, op),
                tuple(names[int(i)] if int(i) >= 0 else "" for i in op.inputs),
                tuple(names[int(i)] for i in op.outputs),
            )
            for number, op in enumerate(main.operators)
        ]
        tensors = {name: _of_tflite(name, tensor) for name, tensor in zip(names, main.tensors, strict=True)}
        super().__init__([names[int(i)] for i in main.inputs], [names[int(i)] for i in main.outputs], tensors, ops)

    def place(self, specs: Sequence[TensorSpec], side: Side) -> list[str]:
        """Names of the tensors that these inputs or outputs are."""
        ends = getattr(self, side)
        return [ends[place] for place in files.interface(self._model, specs, side)]

    @property
    def public(self) -> dict[str, list[str]]:
        """Side -> public names, by the signature where there is one."""
        found = {side: list(getattr(self, side)) for side in ("inputs", "outputs")}
        for signature in (self._model.signatureDefs or ())[:1]:
            for side, names in found.items():
                known = {self._names[int(e.tensorIndex)]: e.name.decode() for e in getattr(signature, side) or ()}
                found[side] = [known.get(name, name) for name in names]
        return found

    def open(
        self, inputs: Sequence[str], outputs: Sequence[str], threads: int = 1, *, as_written: bool = False
    ) -> Runner:
        del as_written  # LiteRT runs what stands there
        data, moved = self._cut(inputs, outputs)
        places = [{name: moved[self._index[name]] for name in side} for side in (inputs, outputs)]
        return Runner(TFLiteSession(data, places[0], places[1], threads, stateful=self._stateful))

    def put(self, name: str, values: Array) -> None:
        files.set_constant(self._model, self._model.subgraphs[0].tensors[self._index[name]], values)

    def _cut(self, inputs: Sequence[str], outputs: Sequence[str]) -> tuple[bytes, dict[int, int]]:
        """The part as a file of its own tensors alone, since one is written for each layer; and where these went."""
        main, model = self._model.subgraphs[0], self._model
        ops = [main.operators[op.number] for op in self.between(inputs, outputs)]
        ends = [[self._index[name] for name in side] for side in (inputs, outputs)]
        used = {int(i) for op in ops for part in _indices(op) for i in part if int(i) >= 0}
        moved = {old: new for new, old in enumerate(sorted(used.union(*ends)))}
        part, whole = copy(main), copy(model)
        part.tensors = [main.tensors[index] for index in moved]
        part.operators = [_renumbered(op, moved) for op in ops]
        part.inputs, part.outputs = (np.array([moved[index] for index in side], np.int32) for side in ends)
        whole.subgraphs, whole.signatureDefs, whole.metadata = [part, *model.subgraphs[1:]], None, None
        kept = {int(tensor.buffer) for graph in whole.subgraphs for tensor in graph.tensors}
        empty = files.schema().BufferT()
        whole.buffers = [buffer if number in kept else empty for number, buffer in enumerate(model.buffers)]
        if len(whole.subgraphs) == 1:
            part.tensors, whole.buffers = _with_own_buffers(part.tensors, model.buffers)
        return write(whole), moved

    def _stored_names(self) -> Iterable[str]:
        main = self._model.subgraphs[0]
        return (n for n, t in zip(self._names, main.tensors, strict=True) if files.is_constant(self._model, t))

    def _values(self, name: str) -> Array | None:
        tensor = self._model.subgraphs[0].tensors[self._index[name]]
        if not files.is_constant(self._model, tensor) or self.tensors[name].dtype not in _KNOWN:
            return None
        return files.constant(self._model, tensor)

    def _variable(self, op: Op) -> bool:
        tensors = self._model.subgraphs[0].tensors
        return any(tensors[self._index[name]].isVariable for name in op.inputs if name) or not op.inputs


def _indices(op: Any) -> Iterator[Sequence[int]]:
    """Everything by which an operator names tensors."""
    yield from (part for part in (op.inputs, op.outputs, op.intermediates) if part is not None)


def _renumbered(op: Any, moved: dict[int, int]) -> Any:
    own = copy(op)
    for part in ("inputs", "outputs", "intermediates"):
        held = getattr(op, part)
        if held is not None:
            setattr(own, part, np.array([moved.get(int(index), -1) for index in held], np.int32))
    return own


def _with_own_buffers(tensors: Sequence[Any], buffers: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """Tensors that refer to a list of their own buffers; its first one is empty, as the schema demands."""
    own, found = [files.schema().BufferT()], []
    for tensor in tensors:
        held = copy(tensor)
        if files.filled(buffers[int(tensor.buffer)].data):
            held.buffer = len(own)
            own.append(buffers[int(tensor.buffer)])
        else:
            held.buffer = 0
        found.append(held)
    return found, own


_KNOWN = frozenset({"float32", "float16", "float64", "int8", "uint8", "int16", "int32", "int64", "bool"})


def _of_tflite(name: str, tensor: Any) -> Tensor:
    shape = tensor.shape if tensor.shapeSignature is None else tensor.shapeSignature
    sizes = None if shape is None else tuple(int(size) if size >= 0 else None for size in shape)
    table, quant = tensor.quantization, None
    if table is not None and files.filled(table.scale) and not files.dtype_of(tensor).startswith("float"):
        scales = tuple(float(scale) for scale in table.scale)
        points = [0] * len(scales) if not files.filled(table.zeroPoint) else [int(point) for point in table.zeroPoint]
        if len(points) != len(scales):
            points = points[:1] * len(scales)
        if all(np.isfinite(scale) and scale > 0 for scale in scales):
            quant = QuantParams(scales, tuple(points), int(table.quantizedDimension) if len(scales) > 1 else None)
    return Tensor(name, files.dtype_of(tensor), sizes, quant)


class OnnxNet(Net):
    """An ONNX file; its main graph."""

    format = "onnx"

    def __init__(self, data: bytes) -> None:
        import onnx

        self._onnx = onnx
        model = onnx.load_from_string(data)
        constant = {tensor.name for tensor in model.graph.initializer}
        inputs = [value for value in model.graph.input if value.name not in constant]
        del model.graph.input[:]
        model.graph.input.extend(inputs)
        self._model = onnx_graph.infer_types(model)
        graph = self._model.graph
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        ops = [
            Op(number, node.op_type, (*node.input, *_captured(node)), tuple(node.output))
            for number, node in enumerate(graph.node)
        ]
        super().__init__([v.name for v in graph.input], [v.name for v in graph.output], self._tensors(), ops)

    def place(self, specs: Sequence[TensorSpec], side: Side) -> list[str]:
        """Names of the tensors that these inputs or outputs are."""
        del side
        return [spec.key for spec in specs]

    @property
    def public(self) -> dict[str, list[str]]:
        """Side -> public names."""
        return {"inputs": list(self.inputs), "outputs": list(self.outputs)}

    @property
    def nodes(self) -> dict[str, str]:
        """Tensor -> name of the node that makes it, where it has one."""
        return {name: node.name for node in self._model.graph.node for name in node.output if name and node.name}

    def open(
        self, inputs: Sequence[str], outputs: Sequence[str], threads: int = 1, *, as_written: bool = False
    ) -> Runner:
        return Runner(OnnxSession(self._cut(inputs, outputs), list(outputs), threads, fused=not as_written))

    def put(self, name: str, values: Array) -> None:
        self._constants[name].CopyFrom(self._onnx.numpy_helper.from_array(values, name))

    def _cut(self, inputs: Sequence[str], outputs: Sequence[str]) -> bytes:
        whole = self._model
        nodes = [whole.graph.node[op.number] for op in self.between(inputs, outputs)]
        used = {name for node in nodes for name in (*node.input, *_captured(node))}
        part = self._onnx.ModelProto()
        part.ir_version = whole.ir_version
        part.opset_import.extend(whole.opset_import)
        part.functions.extend(whole.functions)
        part.graph.name = "part"
        part.graph.node.extend(nodes)
        part.graph.initializer.extend(self._constants[name] for name in sorted(used & set(self._constants)))
        part.graph.input.extend(self._described(name) for name in inputs)
        part.graph.output.extend(self._onnx.ValueInfoProto(name=name) for name in outputs)
        data: bytes = part.SerializeToString()
        return data

    def _described(self, name: str) -> Any:
        kind = self._onnx.helper.np_dtype_to_tensor_dtype(np.dtype(self.tensors[name].dtype or "float32"))
        return self._onnx.helper.make_tensor_value_info(name, kind, None)

    def _tensors(self) -> dict[str, Tensor]:
        graph = self._model.graph
        quants, kinds = self._quants(), {}
        for value in (*graph.value_info, *graph.input, *graph.output):
            kinds[value.name] = value.type.tensor_type
        found = {}
        made = (name for node in graph.node for name in node.output)
        for name in dict.fromkeys((*self._constants, *(v.name for v in graph.input), *made)):
            number, shape = _kind(kinds.get(name))
            if name in self._constants:
                number, shape = self._constants[name].data_type, tuple(self._constants[name].dims)
            quant, stored_as = quants.get(name, (None, ""))
            found[name] = Tensor(name, stored_as or self._dtype(number), shape, quant)
        return found

    def _dtype(self, number: int) -> str:
        if not number:
            return ""
        try:
            return str(self._onnx.helper.tensor_dtype_to_np_dtype(number))
        except KeyError:
            return ""

    def _quants(self) -> dict[str, tuple[QuantParams, str]]:
        """How integers stand for real numbers: said by the nodes that make or read them."""
        found: dict[str, tuple[QuantParams, str]] = {}
        for node in self._model.graph.node:
            if node.op_type not in CONVERSIONS:
                continue
            name = node.output[0] if node.op_type == "QuantizeLinear" else node.input[0]
            scale = self._values(node.input[1])
            point = self._values(node.input[2]) if len(node.input) > 2 and node.input[2] else None
            if scale is None or not (np.isfinite(scale).all() and (scale > 0).all()):
                continue
            kind = self._integer_kind(node, name, point)
            points = np.zeros(scale.size, np.int64) if point is None else point.reshape(-1)
            axis = onnx_graph.attribute(node, "axis", 1) if scale.size > 1 else None
            found[name] = (
                QuantParams(tuple(map(float, scale.reshape(-1))), tuple(map(int, points)), axis),
                kind,
            )
        return found

    def _integer_kind(self, node: Any, name: str, point: Array | None) -> str:
        if point is not None:
            return str(point.dtype)
        if name in self._constants:
            return self._dtype(self._constants[name].data_type)
        return self._dtype(int(onnx_graph.attribute(node, "output_dtype", 0))) or "uint8"

    def _stored_names(self) -> Iterable[str]:
        return self._constants

    def _values(self, name: str) -> Array | None:
        held = self._constants.get(name)
        return None if held is None else np.asarray(self._onnx.numpy_helper.to_array(held))


def _kind(about: Any) -> tuple[int, tuple[int | None, ...] | None]:
    if about is None:
        return 0, None
    if not about.HasField("shape"):
        return int(about.elem_type), None
    sizes = tuple(int(d.dim_value) if d.HasField("dim_value") else None for d in about.shape.dim)
    return int(about.elem_type), sizes


def _captured(node: Any) -> Iterator[str]:
    """Names that the bodies of a node read from outside."""
    for item in node.attribute:
        for body in (*([item.g] if item.HasField("g") else []), *item.graphs):
            inside = {value.name for value in body.input} | {tensor.name for tensor in body.initializer}
            inside |= {name for child in body.node for name in child.output}
            names = {name for child in body.node for name in (*child.input, *_captured(child))}
            yield from sorted(name for name in names if name and name not in inside)
