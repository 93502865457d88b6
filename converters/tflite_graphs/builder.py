"""Making TFLite graphs from Python, operator by operator, without a framework.

For what must not import TensorFlow: lowerings of other formats, synthetic models of benchmarks and tests.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.converters.tflite_graphs import graph as files
from edgekit.converters.tflite_graphs.write import write

_TYPES = {
    "float16": "FLOAT16", "float32": "FLOAT32", "float64": "FLOAT64", "int8": "INT8", "int16": "INT16",
    "int32": "INT32", "int64": "INT64", "uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32",
    "uint64": "UINT64", "bool": "BOOL",
}  # fmt: skip


class Builder:
    """A graph in the making; tensors are the numbers that the methods return.

    Example:
        graph = Builder()
        x = graph.input("x", (1, 8))
        w = graph.constant("w", np.eye(4, 8, dtype=np.float32))
        y = graph.op("FULLY_CONNECTED", [x, w], (1, 4), "y", "FullyConnectedOptions")
        data = graph.finish([y])
    """

    def __init__(self) -> None:
        schema = files.schema()
        self._model = schema.ModelT()
        self._model.version = 3
        self._model.operatorCodes = []
        self._model.buffers = [schema.BufferT()]
        self._graph = schema.SubGraphT()
        self._graph.tensors, self._graph.operators = [], []
        self._graph.inputs = np.zeros(0, np.int32)
        self._graph.outputs = np.zeros(0, np.int32)
        self._model.subgraphs = [self._graph]

    def tensor(
        self,
        name: str,
        shape: Sequence[int],
        dtype: str = "float32",
        *,
        variable: bool = False,
        quant: Any = None,
        free: Collection[int] = (),
    ) -> int:
        """A tensor without values.

        Args:
            name: In the file.
            shape: Sizes; one of -1 is free and stands for 1 until it is known.
            dtype: As numpy spells it.
            variable: It keeps its values from run to run.
            quant: Something with a `scale` [n], a `zero_point` [n] and an `axis`.
            free: Axes whose size is only known when the model runs.
        """
        schema = files.schema()
        tensor = schema.TensorT()
        tensor.name = name.encode()
        tensor.type = getattr(schema.TensorType, _TYPES[dtype])
        tensor.shape = np.array([max(1, size) if size == -1 else size for size in shape], np.int32)
        signature = [-1 if axis in free else size for axis, size in enumerate(shape)]
        tensor.shapeSignature = np.array(signature, np.int32) if -1 in signature else None
        tensor.isVariable = variable
        tensor.hasRank = True
        if quant is not None:
            tensor.quantization = schema.QuantizationParametersT()
            tensor.quantization.scale = np.asarray(quant.scale, np.float32)
            tensor.quantization.zeroPoint = np.asarray(quant.zero_point, np.int64)
            tensor.quantization.quantizedDimension = quant.axis
        self._graph.tensors.append(tensor)
        return len(self._graph.tensors) - 1

    def input(self, name: str, shape: Sequence[int], dtype: str = "float32", *, free: Collection[int] = ()) -> int:
        """An input of the graph."""
        index = self.tensor(name, shape, dtype, free=free)
        self._graph.inputs = np.append(self._graph.inputs, np.int32(index))
        return index

    def constant(self, name: str, values: NDArray[Any], quant: Any = None) -> int:
        """A constant."""
        index = self.tensor(name, values.shape, values.dtype.name, quant=quant)
        files.set_constant(self._model, self._graph.tensors[index], values)
        return index

    def op(
        self,
        kind: str,
        inputs: Sequence[int],
        shape: Sequence[int],
        name: str,
        options: str | None = None,
        fields: Mapping[str, Any] | None = None,
        *,
        dtype: str = "float32",
        version: int = 1,
    ) -> int:
        """An operator with one output, as the schema spells it; `fields` of its options table by their Python names."""
        made = self.tensor(name, shape, dtype)
        self.operator(kind, inputs, [made], options, fields, version=version)
        return made

    def operator(
        self,
        kind: str,
        inputs: Sequence[int],
        outputs: Sequence[int],
        options: str | None = None,
        fields: Mapping[str, Any] | None = None,
        *,
        version: int = 1,
    ) -> None:
        """An operator between tensors that are there already; an input of -1 is left out."""
        schema = files.schema()
        op = schema.OperatorT()
        op.opcodeIndex = files.use_op_code(self._model, getattr(schema.BuiltinOperator, kind), version)
        op.inputs, op.outputs = np.array(inputs, np.int32), np.array(outputs, np.int32)
        if options is not None:
            op.builtinOptionsType = getattr(schema.BuiltinOptions, options)
            op.builtinOptions = getattr(schema, f"{options}T")()
            for field, value in (fields or {}).items():
                setattr(op.builtinOptions, field, value)
        self._graph.operators.append(op)

    def conv(
        self, x: int, weights: NDArray[np.float32], bias: NDArray[np.float32], name: str, *, relu: bool = True
    ) -> int:
        """A convolution of stride 1 that keeps the size: weights [out, height, width, in]."""
        shape = [*(int(size) for size in self._graph.tensors[x].shape[:3]), weights.shape[0]]
        parts = [x, self.constant(f"{name}/weights", weights), self.constant(f"{name}/bias", bias)]
        fields = {"padding": 0, "strideW": 1, "strideH": 1, "fusedActivationFunction": int(relu)}
        return self.op("CONV_2D", parts, shape, name, "Conv2DOptions", fields)

    def finish(self, outputs: Sequence[int], *, signature: str | None = None) -> bytes:
        """The file. With `signature`, inputs and outputs also have their names in a signature called so."""
        return write(self.model(outputs, signature=signature))

    def model(self, outputs: Sequence[int], *, signature: str | None = None) -> Any:
        """The file's objects, see `finish`."""
        self._graph.outputs = np.array(outputs, np.int32)
        if signature is not None:
            self._model.signatureDefs = [self._signature(signature)]
        return self._model

    def _signature(self, key: str) -> Any:
        schema = files.schema()

        def entry(index: int) -> Any:
            made = schema.TensorMapT()
            made.name, made.tensorIndex = self._graph.tensors[index].name, int(index)
            return made

        signature = schema.SignatureDefT()
        signature.signatureKey = key.encode()
        signature.subgraphIndex = 0
        signature.inputs = [entry(index) for index in self._graph.inputs]
        signature.outputs = [entry(index) for index in self._graph.outputs]
        return signature
