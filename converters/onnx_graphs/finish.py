"""What is done to a QDQ graph after onnxruntime's quantizer: everything it leaves on the table.

- Padding and copying happen on the integers instead of between a DequantizeLinear and a QuantizeLinear.
- A Gemm or MatMul at an output of the model scales its 32-bit sums straight to floats; rounding them to 256 steps
  first would only lose accuracy (mnist: 37.8 instead of 42.4 dB).
- Zero points of zero are left out where onnxruntime fuses without them. It does not everywhere: Gemm, MatMul, pooling
  and moves stay in float if a pair has none.
- The interface is made of integers if wanted.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.converters.onnx_graphs import graph as onnx_graph
from edgekit.converters.onnx_graphs.graph import BYSTANDERS, View, attribute
from edgekit.tensors import QuantParams, TensorSpec

_PADS = ("constant", "reflect", "edge", "wrap")


def move_on_integers(model: Any) -> None:
    """Turn DequantizeLinear > Pad > QuantizeLinear of one scale and zero point into Pad on the integers."""
    view = View(model)
    gone: set[int] = set()
    for node in model.graph.node:
        if node.op_type != "Pad" or node.domain or attribute(node, "mode", b"constant").decode() not in _PADS:
            continue
        before = view.producer.get(node.input[0])
        after = view.consumers.get(node.output[0], [])
        if before is None or before.op_type != "DequantizeLinear" or [n.op_type for n in after] != ["QuantizeLinear"]:
            continue
        if (
            node.output[0] in view.outputs
            or (len(node.input) > 2 and node.input[2])
            or not _equal(before, after[0], view)
        ):
            continue
        inputs = [before.input[0], node.input[1], before.input[2], *node.input[3:]]
        del node.input[:]
        node.input.extend(inputs)
        node.output[0] = after[0].output[0]
        gone.add(id(after[0]))
    onnx_graph.remove(model, gone)
    drop_dead(model)


def _equal(first: Any, second: Any, view: View) -> bool:
    if len(first.input) < 3 or len(second.input) < 3:
        return False
    pairs = zip(first.input[1:3], second.input[1:3], strict=True)
    return all(np.array_equal(_value(view, a), _value(view, b)) for a, b in pairs)


def _value(view: View, name: str) -> Any:
    value = view.array(name)
    return np.nan if value is None else value


def join_activations(model: Any) -> None:
    """Let a Relu or Clip follow its producer directly, without a rounding in between (16-bit graphs).

    Weights keep their DequantizeLinear there, though onnxruntime runs it at every inference: constants that it could
    fold beforehand are quantized again by itself, a scale a tensor (1.32: 18.4 instead of 27.4 dB on ResNet-8).
    """
    view = View(model)
    for node in model.graph.node:
        if node.op_type in ("Relu", "Clip"):
            node.input[0] = _before_rounding(node.input[0], view)
    drop_dead(model)


def _before_rounding(name: str, view: View) -> str:
    """The tensor before QuantizeLinear and DequantizeLinear, if those have no other reader."""
    last = view.producer.get(name)
    if last is None or last.op_type != "DequantizeLinear" or len(view.consumers[name]) != 1:
        return name
    first = view.producer.get(last.input[0])
    if first is None or first.op_type != "QuantizeLinear" or len(view.consumers[last.input[0]]) != 1:
        return name
    return str(first.input[0])


def free_outputs(model: Any) -> None:
    """Let a Gemm or MatMul that makes an output of the model give it as floats."""
    view = View(model)
    gone: set[int] = set()
    for value in model.graph.output:
        last = view.producer.get(value.name)
        if last is None or last.op_type != "DequantizeLinear" or view.consumers.get(value.name):
            continue
        rounding = view.producer.get(last.input[0])
        if rounding is None or rounding.op_type != "QuantizeLinear" or len(view.consumers[rounding.output[0]]) != 1:
            continue
        maker = view.producer.get(rounding.input[0])
        if maker is None or maker.op_type not in ("Gemm", "MatMul") or len(view.consumers[rounding.input[0]]) != 1:
            continue
        maker.output[0] = value.name
        gone |= {id(last), id(rounding)}
    onnx_graph.remove(model, gone)


def drop_zero_points(model: Any) -> None:
    """Leave out the zero points of Conv's weights and of all int32 biases: arrays of zeros, one a channel."""
    view = View(model)
    for node in model.graph.node:
        if node.op_type != "DequantizeLinear" or len(node.input) < 3 or node.input[0] not in view.constants:
            continue
        zero = view.array(node.input[2])
        readers = view.consumers.get(node.output[0], [])
        if zero is None or zero.any():
            continue
        if zero.dtype == np.int32 or all(reader.op_type in ("Conv", "ConvTranspose") for reader in readers):
            del node.input[2]


def integer_interface(
    model: Any, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Remove the QuantizeLinear behind each input and the DequantizeLinear before each output.

    Returns:
        The specs with the dtype and the quantization parameters of the integers. Tensors that are not quantized
        (indices; inputs and outputs of ops that stay in float) keep theirs.
    """
    specs = [_integer_input(model, spec) for spec in inputs]
    results = [_integer_output(model, spec) for spec in outputs]
    drop_dead(model)
    return tuple(specs), tuple(results)


def _integer_input(model: Any, spec: TensorSpec) -> TensorSpec:
    view = View(model)
    readers = view.consumers.get(spec.key, [])
    if len(readers) != 1 or readers[0].op_type != "QuantizeLinear" or spec.key in view.outputs:
        return spec
    quantized = readers[0]
    params, kind = _params(view, quantized)
    _redirect(view, quantized.output[0], spec.key)
    onnx_graph.remove(model, {id(quantized)})
    value = next(value for value in model.graph.input if value.name == spec.key)
    value.type.tensor_type.elem_type = kind
    return replace(spec, dtype=_DTYPES[kind], quant=params)


def _integer_output(model: Any, spec: TensorSpec) -> TensorSpec:
    view = View(model)
    last = view.producer.get(spec.key)
    if last is None or last.op_type != "DequantizeLinear":
        return spec
    quantized = last.input[0]
    maker = view.producer.get(quantized)
    if maker is None or quantized in view.outputs:
        return spec
    params, kind = _params(view, last)
    # Readers of the real values inside the model keep them, under another name.
    last.output[0] = f"{quantized}_real"
    _redirect(view, spec.key, last.output[0])
    _redirect(view, quantized, spec.key)
    maker.output[list(maker.output).index(quantized)] = spec.key
    value = next(value for value in model.graph.output if value.name == spec.key)
    value.type.tensor_type.elem_type = kind
    return replace(spec, dtype=_DTYPES[kind], quant=params)


def _redirect(view: View, old: str, new: str) -> None:
    for node in view.consumers.get(old, []):
        for index, name in enumerate(node.input):
            if name == old:
                node.input[index] = new


_DTYPES = {2: "uint8", 3: "int8", 5: "int16"}
"""Element types of ONNX by number."""


def _params(view: View, node: Any) -> tuple[QuantParams, int]:
    scale, zero = view.array(node.input[1]), view.array(node.input[2])
    if scale is None or zero is None:
        raise AssertionError(node.op_type)
    kind = int(view.constants[node.input[2]].data_type)
    return QuantParams((float(scale.item()),), (int(zero.item()),)), kind


def drop_dead(model: Any) -> None:
    """Remove nodes whose outputs nobody takes."""
    while True:
        view = View(model)
        dead = {
            id(node)
            for node in model.graph.node
            if not any(name in view.consumers or name in view.outputs for name in node.output)
        }
        if not dead:
            return
        onnx_graph.remove(model, dead)


def float_ops(model: Any, scratch: Path) -> tuple[str, ...]:
    """Ops that onnxruntime computes in float in a QDQ graph, found by letting it fuse the graph: "Exp (boxes)".

    Args:
        model: Quantized, with types inferred.
        scratch: A folder for a temporary file.

    Raises:
        ConversionError: `onnx-engine-refused`.
    """
    import onnx
    import onnxruntime

    view = View(model)
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        target = Path(folder) / "fused.onnx"
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        # Extended: with the fusions to integer kernels, without those to layouts, which hide the ops' names.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(target)
        onnx_graph.session(model, options)
        fused = onnx.load(str(target))
    return tuple(_in_float(fused, view))


def _in_float(fused: Any, view: View) -> list[str]:
    constants = {tensor.name: tensor.data_type for tensor in fused.graph.initializer}
    kinds = {value.name: value.type.tensor_type.elem_type for value in fused.graph.input}
    integers = {name for name, kind in {**constants, **kinds}.items() if kind in _DTYPES}
    found = []
    for node in fused.graph.node:
        if node.op_type == "QuantizeLinear" or node.op_type.startswith("QLinear") or node.op_type == "QGemm":
            integers.update(node.output)
        elif node.op_type == "DequantizeLinear" or node.op_type.startswith("MatMulInteger"):
            continue
        elif any(name in integers for name in node.input):
            integers.update(node.output)
        elif node.op_type not in BYSTANDERS and (
            node.domain or any(view.floating(name) for name in (*node.input, *node.output) if name)
        ):
            found.append(f"{node.op_type} ({node.output[0]})")
    return found
