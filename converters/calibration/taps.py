"""Taps: one a format; they run a float graph in the real engine and show what each of its float tensors holds.

A tap makes the tensors that shall be seen outputs of the graph. An engine must give true values for outputs, with
all its fast kernels, whereas TFLite's switch that preserves intermediate tensors is experimental, needs all of
them in memory at once, and is known to show stale values where a delegate took over. Which tensors are shown is
chosen when the graph is opened, so that a graph whose activations do not fit in memory is seen in several passes.

Values are handed to a callback as views of the engine's own memory, valid until the callback returns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgekit.converters import steps as graphs
from edgekit.converters.stages import Graph
from edgekit.converters.steps import Score, Step
from edgekit.errors import EngineError, EngineMissingError, InternalError
from edgekit.tensors import TensorSpec

Show = Callable[[str, NDArray[Any]], None]
Feed = Mapping[str, NDArray[Any]]


class Session(Protocol):
    """A graph opened for some of its tensors."""

    def run(self, feed: Feed, show: Show) -> None:
        """Run one feed (names inside the file) and show each chosen tensor."""
        ...

    def close(self) -> None: ...


class Tap(Protocol):
    """A float graph whose tensors can be seen.

    Attributes:
        inputs: Name of the tensor inside the file -> (shape with -1 for free sizes, dtype).
    """

    inputs: dict[str, tuple[tuple[int, ...], np.dtype[Any]]]

    def inside(self, spec: TensorSpec) -> str:
        """Name inside the file of an input."""
        ...

    def sizes(self, feed: Feed) -> dict[str, int]:
        """Bytes of each float tensor that an operator makes, for such a feed; in the graph's order."""
        ...

    def steps(self) -> list[Step]:
        """The operators in order."""
        ...

    def working_set(self, sizes: Mapping[str, int]) -> int:
        """Bytes that must be live at once to run the graph at all."""
        ...

    def answers(self) -> set[str]:
        """The outputs, and the tensors that they are a rearrangement or a squashing of, such as logits."""
        ...

    def scores(self) -> list[Score]:
        """An output each, in order: the tensor that it squashes (the logits of a softmax), or else itself."""
        ...

    def squashed(self) -> set[str]:
        """Tensors that nothing but one sigmoid or tanh reads."""
        ...

    def real(self, name: str, values: NDArray[Any]) -> NDArray[np.float32]:
        """The real numbers that a tensor's values stand for; a copy."""
        ...

    def open(self, names: Sequence[str], *, fused: bool = False) -> Session:
        """Load the graph into the engine so that it shows these tensors; `fused`: as a device would run it."""
        ...


def tap(graph: Graph, threads: int) -> Tap:
    """The tap for a graph's format."""
    data = Path(graph.path).read_bytes()
    if graph.format == "tflite":
        return TFLiteTap(data, threads)
    if graph.format == "onnx":
        return OnnxTap(data, Path(graph.path).parent, threads)
    raise InternalError("tap-missing", f"there is no tap for {graph.format}")


class TFLiteTap:
    """Taps TFLite graphs through LiteRT."""

    def __init__(self, data: bytes, threads: int) -> None:
        from edgekit.converters.tflite_graphs import graph as files

        self._model = files.read(data)
        self._threads = threads
        graph = self._model.subgraphs[0]
        self._names = files.unique_names(graph)
        self._stateful = any(tensor.isVariable for tensor in graph.tensors)
        self.inputs = {}
        for index in (int(i) for i in graph.inputs):
            tensor = graph.tensors[index]
            shape = tensor.shape if tensor.shapeSignature is None else tensor.shapeSignature
            sizes = () if shape is None else tuple(int(size) for size in shape)
            self.inputs[self._names[index]] = (sizes, files.np_dtype(tensor))

    @cached_property
    def _unsigned(self) -> bytes:
        """The file without signatures, which name the outputs there are."""
        from edgekit.converters.tflite_graphs.write import write

        signatures, self._model.signatureDefs = self._model.signatureDefs, None
        try:
            return write(self._model)
        finally:
            self._model.signatureDefs = signatures

    def inside(self, spec: TensorSpec) -> str:
        from edgekit.converters.tflite_graphs import graph as files

        (place,) = files.interface(self._model, (spec,), "inputs")
        return self._names[int(self._model.subgraphs[0].inputs[place])]

    def sizes(self, feed: Feed) -> dict[str, int]:
        from edgekit.converters.tflite_graphs.decisions import compared

        del feed  # the file holds sizes for a batch of one
        graph = self._model.subgraphs[0]
        unseen = compared(self._model)
        return {
            self._names[index]: 4 * math.prod(() if shape is None else (int(size) for size in shape))
            for op in graph.operators or ()
            for index in (int(i) for i in op.outputs)
            for shape in (graph.tensors[index].shape,)
            if graph.tensors[index].type == _FLOAT32_TFLITE and not graph.tensors[index].isVariable
            if index not in unseen
        }

    def working_set(self, sizes: Mapping[str, int]) -> int:
        return graphs.peak(self.steps(), sizes)

    def answers(self) -> set[str]:
        return graphs.answers(self.steps(), [self._names[int(i)] for i in self._model.subgraphs[0].outputs])

    def scores(self) -> list[Score]:
        return graphs.scores(self.steps(), [self._names[int(i)] for i in self._model.subgraphs[0].outputs])

    def squashed(self) -> set[str]:
        return graphs.squashed(self.steps(), [self._names[int(i)] for i in self._model.subgraphs[0].outputs])

    def steps(self) -> list[Step]:
        from edgekit.converters.tflite_graphs import graph as files

        return [
            Step(
                files.op_name(self._model, op),
                tuple(self._names[i] for i in op.inputs if i >= 0),
                tuple(self._names[i] for i in op.outputs),
            )
            for op in self._model.subgraphs[0].operators or ()
        ]

    def real(self, name: str, values: NDArray[Any]) -> NDArray[np.float32]:
        found = self._model.subgraphs[0].tensors[self._names.index(name)].quantization
        if values.dtype.kind == "f" or found is None or found.scale is None or not len(found.scale):
            return np.array(values, np.float32)
        return (values.astype(np.float32) - int(found.zeroPoint[0])) * np.float32(found.scale[0])

    def open(self, names: Sequence[str], *, fused: bool = False) -> Session:
        from edgekit.converters.tflite_graphs.write import with_outputs

        del fused  # its kernels are the same either way

        index_of = {name: index for index, name in enumerate(self._names)}
        shown = {name: index_of[name] for name in names}
        kept = [int(i) for i in self._model.subgraphs[0].outputs if int(i) not in shown.values()]
        data = with_outputs(self._unsigned, [*shown.values(), *kept])
        inputs = {name: index_of[name] for name in self.inputs}
        return TFLiteSession(data, inputs, shown, self._threads, stateful=self._stateful)


class TFLiteSession:
    """A TFLite file in LiteRT; names of inputs and shown tensors -> their indices."""

    def __init__(
        self, data: bytes, inputs: dict[str, int], shown: dict[str, int], threads: int, *, stateful: bool
    ) -> None:
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError as error:
            raise EngineMissingError("engine-missing", "calibrating a TFLite graph needs ai-edge-litert") from error
        self._stateful = stateful
        self._inputs = inputs
        self._shown = shown
        try:
            self._engine = Interpreter(model_content=data, num_threads=threads)
            about = self._engine.get_input_details()
            # Sizes that are free stand as 1 here, which an operator behind may refuse: those of a feed decide.
            self._ready = all((detail["shape_signature"] >= 0).all() for detail in about)
            if self._ready:
                self._engine.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            raise _refused(error) from error
        self._shapes = {detail["index"]: tuple(detail["shape"]) for detail in about}

    def run(self, feed: Feed, show: Show) -> None:
        engine = self._engine
        try:
            self._fit(feed)
            if self._stateful:
                engine.reset_all_variables()
            for name, index in self._inputs.items():
                engine.set_tensor(index, feed[name])
            engine.invoke()
        except (RuntimeError, ValueError) as error:
            raise _refused(error) from error
        for name, index in self._shown.items():
            show(name, engine.tensor(index)())

    def _fit(self, feed: Feed) -> None:
        """Give inputs of free size the size of this feed."""
        changed = {index: feed[name].shape for name, index in self._inputs.items()}
        changed = {index: shape for index, shape in changed.items() if shape != self._shapes[index]}
        for index, shape in changed.items():
            self._engine.resize_tensor_input(index, shape)
        if changed or not self._ready:
            self._shapes.update(changed)
            self._engine.allocate_tensors()
            self._ready = True

    def close(self) -> None:
        del self._engine


class OnnxTap:
    """Taps ONNX graphs through onnxruntime."""

    def __init__(self, data: bytes, folder: Path, threads: int) -> None:
        try:
            import onnx
        except ImportError as error:
            raise EngineMissingError("engine-missing", "calibrating an ONNX graph needs onnx") from error
        self._onnx = onnx
        self._threads = threads
        self._model = onnx.load_from_string(data)
        onnx.load_external_data_for_model(self._model, str(folder))
        graph = self._model.graph
        self._outputs = list(graph.output)
        self._constants = {init.name for init in graph.initializer}
        self._types: dict[str, tuple[str, Sequence[Any]]] = {}
        self.inputs = {}
        for value in graph.input:
            if value.name not in self._constants:
                kind = value.type.tensor_type
                shape = tuple(d.dim_value if d.HasField("dim_value") else -1 for d in kind.shape.dim)
                self.inputs[value.name] = (shape, onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))

    def inside(self, spec: TensorSpec) -> str:
        return spec.key

    def sizes(self, feed: Feed) -> dict[str, int]:
        made = [name for node in self._model.graph.node if node.op_type != "Constant" for name in node.output if name]
        opened = self.open(made)
        inferred = {value.name: value for value in opened.engine.get_outputs() if value.type in _FLOAT_ONNX}
        known = _sizes_of_symbols(opened.engine.get_inputs(), feed)
        opened.close()
        shapes = {name: [known.get(size, size) for size in value.shape] for name, value in inferred.items()}
        unknown = [name for name, shape in shapes.items() if not all(isinstance(size, int) for size in shape)]
        if unknown:
            shapes.update(self._measure_shapes(unknown, feed))
        return {name: math.prod(shapes[name]) * _FLOAT_ONNX[value.type] for name, value in inferred.items()}

    def _measure_shapes(self, names: Sequence[str], feed: Feed) -> dict[str, list[int]]:
        """Run the graph once with a Shape node on each tensor."""
        found: dict[str, list[int]] = {}
        probe = self._open(names, shapes_only=True)
        probe.run(feed, lambda name, shape: found.update({name.removesuffix(_SHAPE_OF): shape.tolist()}))
        probe.close()
        return found

    def working_set(self, sizes: Mapping[str, int]) -> int:
        return graphs.peak(self.steps(), sizes)

    def answers(self) -> set[str]:
        return graphs.answers(self.steps(), [value.name for value in self._outputs])

    def scores(self) -> list[Score]:
        return graphs.scores(self.steps(), [value.name for value in self._outputs])

    def squashed(self) -> set[str]:
        return graphs.squashed(self.steps(), [value.name for value in self._outputs])

    def steps(self) -> list[Step]:
        floats = self._onnx.AttributeProto.FLOAT
        return [
            Step(
                node.op_type,
                tuple(node.input),
                tuple(node.output),
                tuple((one.name, one.f) for one in node.attribute if one.type == floats),
            )
            for node in self._model.graph.node
        ]

    def real(self, name: str, values: NDArray[Any]) -> NDArray[np.float32]:
        del name  # scales are nodes of the graph: what it shows are real numbers
        return np.array(values, np.float32)

    def open(self, names: Sequence[str], *, fused: bool = False) -> OnnxSession:
        return self._open(names, shapes_only=False, fused=fused)

    def _open(self, names: Sequence[str], *, shapes_only: bool, fused: bool = False) -> OnnxSession:
        graph = self._model.graph
        nodes = len(graph.node)
        shown = [name + _SHAPE_OF for name in names] if shapes_only else list(names)
        del graph.output[:]
        graph.output.extend(self._onnx.ValueInfoProto(name=name) for name in shown)
        if shapes_only:
            graph.node.extend(self._onnx.helper.make_node("Shape", [name], [name + _SHAPE_OF]) for name in names)
        try:
            data = self._model.SerializeToString()
        finally:
            del graph.output[:]
            graph.output.extend(self._outputs)
            del graph.node[nodes:]
        return OnnxSession(data, shown, self._threads, fused=fused)


class OnnxSession:
    """An ONNX file in onnxruntime; `fused` as on a device, else op by op as it is written."""

    def __init__(self, data: bytes, shown: list[str], threads: int, *, fused: bool = False) -> None:
        try:
            import onnxruntime as ort
        except ImportError as error:
            raise EngineMissingError("engine-missing", "calibrating an ONNX graph needs onnxruntime") from error
        options = ort.SessionOptions()
        # Rewriting would fold away tensors that the quantizer asks for, and costs time on a graph that runs briefly.
        if not fused:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        # The arena grows by powers of two and never shrinks: twice the activations.
        options.enable_cpu_mem_arena = False
        options.enable_mem_pattern = False
        options.intra_op_num_threads = threads
        options.log_severity_level = 4
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # Shape nodes run as soon as they can; by default all tensors would stay until the end for their sake.
        options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
        try:
            self.engine = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions have no common base but this
            raise _refused(error) from error
        self._shown = shown

    def run(self, feed: Feed, show: Show) -> None:
        if not self._shown:  # which the engine refuses: of a graph that only moves numbers nothing is asked
            return
        try:
            values = self.engine.run(self._shown, dict(feed))
        except Exception as error:  # as above
            raise _refused(error) from error
        for position, name in enumerate(self._shown):
            value, values[position] = values[position], None
            show(name, value)

    def close(self) -> None:
        del self.engine


_FLOAT32_TFLITE = 0
_FLOAT_ONNX = {"tensor(float)": 4, "tensor(double)": 8, "tensor(float16)": 2}
_SHAPE_OF = "#shape"


def _sizes_of_symbols(inputs: Sequence[Any], feed: Feed) -> dict[Any, int]:
    """Values of the free sizes that have a name."""
    return {
        symbol: size
        for value in inputs
        for symbol, size in zip(value.shape, feed[value.name].shape, strict=True)
        if isinstance(symbol, str)
    }


def _refused(error: Exception) -> EngineError:
    return EngineError("calibration-engine", f"the engine could not run the graph: {str(error).splitlines()[0]}")
