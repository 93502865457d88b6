"""ONNX graphs as repairs see them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.converters import rules as matching
from edgekit.converters.onnx_graphs import graph as onnx_graph
from edgekit.converters.onnx_graphs import lifts as onnx_lifts
from edgekit.converters.onnx_graphs.graph import MOVES, attribute, has_subgraph
from edgekit.converters.repairs.view import Floats, Layer, Op, Window, reduced, reshaped, transposed
from edgekit.rules import Rule

_SAME = frozenset({
    "Relu", "LeakyRelu", "PRelu", "Identity", "Dropout", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool",
    "ReduceMean", "Pad", "Add", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Resize", "Clip",
})  # fmt: skip
_ORDERED = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
_KERNEL_RANK = {"Conv": (3, 4, 5), "ConvTranspose": (3, 4, 5), "Gemm": (2,), "MatMul": (2,)}


class OnnxView:
    """See `View`; bodies of If and Loop stay out of sight, and constants that they read stay as they are."""

    def __init__(self, path: Path) -> None:
        self._model = onnx_graph.infer_types(onnx_graph.read(path))
        self._view = onnx_graph.View(self._model)
        graph = self._model.graph
        self._readers = Counter(name for node in graph.node for name in _read(node))
        self._readers.update(value.name for value in graph.output)
        self._layers: dict[str, Any] = {}
        self.inputs = frozenset(value.name for value in graph.input)
        self.outputs = frozenset(value.name for value in graph.output)
        self.fused = frozenset(
            str(node.input[0])
            for node in graph.node
            if node.op_type in ("Relu", "Clip") and self._readers[node.input[0]] == 1
        )
        self.ops = tuple(self._op(node) for node in graph.node)

    def shape(self, name: str) -> tuple[int, ...] | None:
        return self._view.sizes(name) or None

    def kernel(self, layer: Layer) -> Floats:
        node = self._layers[layer.name]
        return np.ascontiguousarray(_turned(node, self._array(node.input[1])), np.float32)

    def set_kernel(self, layer: Layer, kernel: Floats) -> None:
        node = self._layers[layer.name]
        self._set(node.input[1], np.ascontiguousarray(_turned(node, kernel), np.float32))

    def bias(self, layer: Layer) -> Floats | None:
        name = _bias(self._layers[layer.name])
        return np.array(self._array(name), np.float32).reshape(-1) if name else None

    def set_bias(self, layer: Layer, bias: Floats) -> None:
        node = self._layers[layer.name]
        tensor = onnx_graph.constant(self._free(f"{layer.name}_bias"), bias.astype(np.float32))
        self._model.graph.initializer.append(tensor)
        self._view.constants[tensor.name] = self._model.graph.initializer[-1]
        if len(node.input) > 2:
            node.input[2] = tensor.name
        else:
            node.input.append(tensor.name)

    def constant(self, name: str) -> Floats:
        return np.array(self._array(name), np.float32).reshape(-1)

    def set_constant(self, name: str, values: Floats) -> None:
        self._set(name, values.astype(np.float32).reshape(self._array(name).shape))

    def divide(self, name: str, divisors: Floats, axis: int) -> str:
        from onnx import helper

        place, maker = next((n, node) for n, node in enumerate(self._model.graph.node) if name in node.output)
        before = self._free(f"{name}_apart")
        maker.output[list(maker.output).index(name)] = before
        # A product would be put back into the convolution by onnxruntime.
        shaped = divisors.astype(np.float32).reshape(-1, *[1] * (len(self.shape(name) or ()) - 1 - axis))
        tensor = onnx_graph.constant(self._free(f"{name}_divisors"), shaped)
        self._model.graph.initializer.append(tensor)
        self._model.graph.node.insert(place + 1, helper.make_node("Div", [before, tensor.name], [name]))
        return "Div"

    def lifted(self, rules: Sequence[Rule]) -> frozenset[str]:
        return frozenset(matching.assign(onnx_lifts.layers(self._model), rules))

    def write(self, path: Path) -> None:
        onnx_graph.write(self._model, path)

    def _array(self, name: str) -> Any:
        found = self._view.array(name)
        if found is None:
            raise AssertionError(name)
        return found

    def _set(self, name: str, values: Floats) -> None:
        self._view.constants[name].CopyFrom(onnx_graph.constant(name, values))

    def _free(self, name: str) -> str:
        free, number = name, 1
        while free in self._view.constants or free in self._view.producer or free in self.inputs:
            free, number = f"{name}_{number}", number + 1
        return free

    def _constant(self, name: str) -> bool:
        return name in self._view.constants and self._view.floating(name)

    def _op(self, node: Any) -> Op:
        title = str(node.op_type)
        real = tuple(dict.fromkeys(name for name in _read(node) if name not in self._view.constants))
        made = tuple(name for name in node.output if name)
        if node.domain or has_subgraph(node) or not made:
            return Op("opaque", title, real, made)
        layer = self._layer(node)
        if layer is not None:
            self._layers[layer.name] = node
            return Op("layer", title, (layer.source,), made, layer)
        rank = len(self.shape(made[0]) or ())
        if title == "Concat":
            axis = attribute(node, "axis", 0)
            whole = len(real) == len(node.input) and rank > 0
            return Op(
                "concat" if whole else "opaque", title, real, made, axis=axis + (rank if axis < 0 else 0), moves=True
            )
        if title in ("Add", "Mul", "LayerNormalization"):
            found = self._by_channel(node, rank)
            if found is not None:
                return Op("shift" if title == "Add" else "scale", title, real, made, constants=found[0], axis=found[1])
        moves = title in MOVES
        turn = self._turn(node)
        if turn is None or not rank:
            return Op("opaque", title, real, made, moves=moves)
        return Op("same", title, real[:1] if title != "Add" else real, made[:1], turn=turn, moves=moves)

    def _layer(self, node: Any) -> Layer | None:
        title = str(node.op_type)
        if title not in _KERNEL_RANK or len(node.output) != 1:
            return None
        source, kernel, bias = node.input[0], node.input[1], _bias(node)
        if not self._constant(kernel) or self._readers[kernel] > 1 or source in self._view.constants:
            return None
        sizes, shape, made = self._view.sizes(kernel) or (), self.shape(source), self.shape(node.output[0])
        if len(sizes) not in _KERNEL_RANK[title] or not shape or not made or not self._view.floating(source):
            return None
        if bias and (not self._constant(bias) or self._array(bias).size != made[1 if title != "MatMul" else -1]):
            return None
        plain = (attribute(node, "alpha", 1.0), attribute(node, "beta", 1.0), attribute(node, "transA", 0))
        groups = int(attribute(node, "group", 1))
        if (title == "Gemm" and plain != (1.0, 1.0, 0)) or (title == "ConvTranspose" and groups > 1):
            return None
        places = title in ("Conv", "ConvTranspose")
        window = self._window(node, sizes, shape) if title == "Conv" else None
        if title == "Conv" and window is None:
            return None
        return Layer(
            str(node.output[0]),
            str(source),
            groups,
            window,
            axis=1 if places else len(shape) - 1,
            made_axis=1 if places else len(made) - 1,
            transposed=title == "ConvTranspose",
            addend=self._addend(node) if title == "MatMul" else None,
            biased=title != "MatMul",
        )

    def _addend(self, node: Any) -> str | None:
        """What the Add behind a MatMul adds to each of its rows."""
        readers = self._view.consumers.get(node.output[0], [])
        if len(readers) != 1 or readers[0].op_type != "Add" or node.output[0] in self.outputs:
            return None
        rank = len(self.shape(readers[0].output[0]) or ())
        found = self._by_channel(readers[0], rank) if rank else None
        return found[0][0] if found is not None and found[1] == rank - 1 else None

    def _window(self, node: Any, kernel: Sequence[int], shape: Sequence[int]) -> Window | None:
        size = tuple(int(n) for n in kernel[2:])
        strides = tuple(attribute(node, "strides", [1] * len(size)))
        dilations = tuple(attribute(node, "dilations", [1] * len(size)))
        pads = tuple(attribute(node, "pads", [0] * 2 * len(size)))
        padding = attribute(node, "auto_pad", b"NOTSET").decode()
        if padding in ("SAME_UPPER", "SAME_LOWER"):
            if any(n < 0 for n in shape[2:]):
                return None
            reach = [(n - 1) * d + 1 for n, d in zip(size, dilations, strict=True)]
            needs = [
                max(0, (-(-length // step) - 1) * step + far - length)
                for length, step, far in zip(shape[2:], strides, reach, strict=True)
            ]
            small, large = [n // 2 for n in needs], [n - n // 2 for n in needs]
            pads = (*small, *large) if padding == "SAME_UPPER" else (*large, *small)
        elif padding == "VALID":
            pads = (0,) * 2 * len(size)
        return Window(size, strides, dilations, pads[: len(size)], pads[len(size) :])

    def _by_channel(self, node: Any, rank: int) -> tuple[tuple[str, ...], int] | None:
        """Constants with an element a channel, and the axis of channels."""
        if node.op_type == "LayerNormalization":
            names = tuple(name for name in node.input[1:3] if name)
            last = attribute(node, "axis", -1) in (-1, rank - 1)
            fits = all(self._constant(name) and self._readers[name] == 1 for name in names)
            return (names, rank - 1) if last and fits and len(node.output) == 1 else None
        names = tuple(name for name in node.input if self._constant(name))
        if len(names) != 1 or self._readers[names[0]] > 1:
            return None
        sizes, made = self._view.sizes(names[0]) or (), self.shape(node.output[0]) or ()
        wide = [place for place, n in enumerate(sizes) if n != 1]
        if len(wide) != 1 or len(sizes) > rank:
            return None
        axis = wide[0] + rank - len(sizes)
        return (names, axis) if made[axis] == sizes[wide[0]] else None

    def _turn(self, node: Any) -> Callable[[int], int | None] | None:
        title = node.op_type
        if title not in _SAME:
            return None
        source, made = self.shape(node.input[0]), self.shape(node.output[0])
        if source is None or made is None:
            return None
        if title in _ORDERED:
            return reshaped(source, made)
        if title == "Transpose":
            return transposed(attribute(node, "perm", list(range(len(source)))[::-1]))
        if title == "ReduceMean":
            axes = self._view.array(node.input[1]) if len(node.input) > 1 else attribute(node, "axes")
            if axes is None:
                return None
            return reduced([int(a) % len(source) for a in axes], keeps=bool(attribute(node, "keepdims", 1)))
        alike = {
            "Add": len(node.input) == 2
            and self.shape(node.input[1]) == source
            and node.input[1] not in self._view.constants,
            "Clip": self._from_zero(node),
            "Pad": self._zeros(node),
            "Resize": attribute(node, "mode", b"nearest") != b"cubic",
        }
        return (lambda axis: axis) if alike.get(title, True) else None

    def _from_zero(self, node: Any) -> bool:
        """Whether a Clip is a Relu."""
        low = self._view.array(node.input[1]) if len(node.input) > 1 and node.input[1] else None
        return low is not None and not low.any() and not (len(node.input) > 2 and node.input[2])

    def _zeros(self, node: Any) -> bool:
        value = self._view.array(node.input[2]) if len(node.input) > 2 and node.input[2] else np.zeros(1)
        return value is not None and not value.any()


def _read(node: Any) -> list[str]:
    inside = [
        name
        for item in node.attribute
        for graph in (item.g, *item.graphs)
        for child in graph.node
        for name in _read(child)
    ]
    return [name for name in (*node.input, *inside) if name]


def _bias(node: Any) -> str:
    return str(node.input[2]) if node.op_type != "MatMul" and len(node.input) > 2 else ""


def _turned(node: Any, kernel: Any) -> Any:
    """From the file's form to [out, in, ...] and back: the same exchange of the first two axes, where they differ."""
    if node.op_type == "MatMul" or (node.op_type == "Gemm" and not attribute(node, "transB", 0)):
        return kernel.T
    return kernel.swapaxes(0, 1) if node.op_type == "ConvTranspose" else kernel
