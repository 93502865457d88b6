"""A tensor inside the model as one more output, for the monitor: `--embedding`.

It is named by a layer, as rules are (see `edgekit.converters.rules`); of several layers the last is meant, and of a
layer what leaves it, after its activation. What is quantized stays so: TFLite gives the integers as they are, ONNX what
a DequantizeLinear of its own makes of them, so that no kernel is fused otherwise than without it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgekit.converters import rules
from edgekit.converters.rules import Layer
from edgekit.converters.stages import Graph
from edgekit.errors import UsageError
from edgekit.tensors import Layout, TensorSpec

_ROUNDING = frozenset({"QUANTIZE", "DEQUANTIZE", "QuantizeLinear", "DequantizeLinear"})
_FOLLOWS = frozenset({
    "BatchNormalization", "Relu", "Clip", "LeakyRelu", "HardSwish", "RELU", "RELU6", "RELU_N1_TO_1", "LEAKY_RELU",
    "HARD_SWISH",
})  # fmt: skip
_ARITHMETIC = frozenset({"Add", "Sub", "Mul", "Div"})
"""What belongs to the layer before it, the latter with a constant: quantizers and engines make one kernel of them."""

_LAYOUTS: dict[str, Layout] = {"tflite": "NHWC", "onnx": "NCHW"}
_GLOB = frozenset("*?[")


@dataclass(frozen=True)
class InnerRequest:
    """Find a tensor, or make it an output.

    Attributes:
        graph: As the user knows it: the float one.
        name: What the user called it.
        final: The finished one, which is to have the output; None to look only.
        path: Where that goes.
        answer: The output that holds the answer.
        modules: Tensor -> path of the module of a PyTorch network that makes it.
    """

    graph: Graph
    name: str
    answer: str
    final: Graph | None = None
    path: str = ""
    modules: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Exposed:
    """A graph whose file has the output.

    Attributes:
        graph: Its `outputs` are those of the source.
        spec: The output.
    """

    graph: Graph
    spec: TensorSpec


def find(request: InnerRequest) -> str:
    """The tensor's name in the float graph.

    Raises:
        UsageError: `embedding-unknown`: no layer is called so; lists close names. `embedding-unfit`: it is the answer,
            or none of the numbers that a sample has.
    """
    graph = request.graph
    tensor = next((spec.key for spec in graph.outputs if spec.name == request.name), "")
    if not tensor:
        tensor = _found(_layers(graph), _meant(request, _layers(graph)), {spec.key for spec in graph.outputs})
    if any(spec.name == request.answer for spec in graph.outputs if spec.key == tensor):
        raise _unfit(request.name, "holds the model's answer, which is watched anyway")
    return tensor


def expose(request: InnerRequest) -> Exposed:
    """The finished graph with the tensor as its last output.

    Raises:
        UsageError: As `find`.
    """
    final = request.final
    assert final is not None  # noqa: S101  the caller's business
    tensor = find(request)
    there = next((spec for spec in final.outputs if spec.key == tensor), None)
    if there is not None:
        return Exposed(final, there)
    layers = _layers(final)
    if not any(tensor in layer.made for layer in layers):
        tensor = _found(layers, _meant(request, layers), {spec.key for spec in final.outputs})
    key = (_in_tflite if final.format == "tflite" else _in_onnx)(final.path, tensor, request.path)
    graph = replace(final, path=request.path)
    return Exposed(graph, _spec(graph, key, request.name, tensor))


def _meant(request: InnerRequest, layers: list[Layer]) -> str:
    """The name; of a module, as PyTorch calls it, that of the last tensor that it makes."""
    path = request.name
    inside = {name for name, module in request.modules.items() if module == path or module.startswith(f"{path}.")}
    made = [name for layer in layers for name in layer.made if name in inside]
    return made[-1] if made else path


def _found(layers: list[Layer], name: str, ends: set[str]) -> str:
    """The tensor that leaves the last of the layers which a name means."""
    meant, near = rules.named([layer for layer in layers if name in layer.made or not _helps(layer)], name)
    meant = [layer for layer in meant if layer.made]
    if not meant:
        raise UsageError(
            "embedding-unknown",
            f"no layer or tensor of the model is called {name}; close to it: {', '.join(near)}",
            near=near,
        )
    return _left(layers, meant[-1].made[0], ends)


def _helps(layer: Layer) -> bool:
    """Whether it rounds, or moves the values of the layer whose name it has: a lowering made it ("conv/reshape")."""
    return layer.kind in _ROUNDING or any(name.endswith(f"/{layer.kind.lower()}") for name in layer.made)


def _left(layers: list[Layer], tensor: str, ends: set[str]) -> str:
    """What leaves the layer that makes this tensor."""
    readers: dict[str, list[Layer]] = {}
    for layer in layers:
        for one in layer.read:
            readers.setdefault(one, []).append(layer)
    computed = {one for layer in layers for one in layer.made}
    while tensor not in ends and len(after := readers.get(tensor, [])) == 1:
        (layer,) = after
        alone = layer.kind in _ARITHMETIC and not computed & {*layer.read} - {tensor}
        if not alone and layer.kind not in _FOLLOWS:
            break
        tensor = layer.made[0]
    return tensor


def _layers(graph: Graph) -> list[Layer]:
    if graph.format == "tflite":
        from edgekit.converters.tflite_graphs import graph as files
        from edgekit.converters.tflite_graphs import plan

        return plan.layers(files.read(Path(graph.path).read_bytes()))
    from edgekit.converters.onnx_graphs import graph as onnx_graph
    from edgekit.converters.onnx_graphs import lifts

    return lifts.layers(onnx_graph.read(graph.path))


def _in_tflite(source: str, name: str, path: str) -> str:
    from edgekit.converters.tflite_graphs import graph as files

    model = files.read(Path(source).read_bytes())
    graph = model.subgraphs[0]
    index = next(int(i) for op in graph.operators for i in op.outputs if files.name_of(graph.tensors[int(i)]) == name)
    graph.outputs = [*map(int, graph.outputs), index]
    for signature in model.signatureDefs or ():
        if signature.subgraphIndex == 0:
            entry = files.schema().TensorMapT()
            entry.name, entry.tensorIndex = name.encode(), index
            signature.outputs.append(entry)
    Path(path).write_bytes(files.dump(model))
    return name


def _in_onnx(source: str, name: str, path: str) -> str:
    import onnx

    from edgekit.converters.onnx_graphs import graph as onnx_graph

    model = onnx_graph.read(source)
    rounded = next((n for n in model.graph.node if n.op_type == "QuantizeLinear" and n.input[0] == name), None)
    if rounded is not None:
        made = f"{name}_embedding"
        again: Any = onnx.helper.make_node("DequantizeLinear", [rounded.output[0], *rounded.input[1:]], [made])
        again.attribute.extend(one for one in rounded.attribute if one.name == "axis")
        model.graph.node.append(again)
        name = made
    model.graph.output.append(onnx.ValueInfoProto(name=name))
    spec = _offered(model.SerializeToString(), name)
    sizes = ["N" if size is None else size for size in spec.shape]
    kind = onnx.helper.np_dtype_to_tensor_dtype(_np_dtype(spec))
    model.graph.output[-1].CopyFrom(onnx.helper.make_tensor_value_info(name, kind, sizes))
    onnx_graph.write(model, Path(path))
    return name


def _spec(graph: Graph, key: str, called: str, tensor: str) -> TensorSpec:
    """Of the new output, under a name that no other tensor has."""
    there = _offered(Path(graph.path).read_bytes(), key)
    real = there.dtype.startswith("float") or (there.quant is not None and not there.quant.per_channel)
    if len(there.shape) < 2 or not real:
        raise _unfit(called, f"is {there.describe()}: no real numbers of one sample each")
    layout = _LAYOUTS[graph.format] if len(there.shape) == 4 else None
    if there.shape[1 if layout == "NCHW" else -1] is None:
        raise _unfit(called, f"is {there.describe()}: only a run tells how many channels it has")
    taken = {spec.name for spec in (*graph.inputs, *graph.outputs)}
    name = rules.layer_names([Layer("", (), (tensor,))])[0] if _GLOB & set(called) else called
    while name in taken:
        name += "_embedding"
    free = bool(graph.inputs[0].shape) and graph.inputs[0].shape[0] is None
    shape = (None if free else there.shape[0], *there.shape[1:])
    return replace(there, name=name, tensor=None if name == key else key, shape=shape, layout=layout)


def _offered(data: bytes, key: str) -> TensorSpec:
    """What the engine says of an output."""
    from edgekit import artifact
    from edgekit.runtimes.model import Model

    with Model.from_artifact(artifact.from_bytes(data), threads=1) as model:
        return next(spec for spec in model.outputs if key in (spec.key, spec.name))


def _np_dtype(spec: TensorSpec) -> Any:
    import numpy as np

    return np.dtype(spec.dtype)


def _unfit(name: str, why: str) -> UsageError:
    return UsageError("embedding-unfit", f"the layer {name} {why}")
