"""One int8 file by one other tool, in its environment: `python int8_peers_tools.py TOOL FLOAT CALIBRATION.npy OUT`.

Each as its own documentation shows it: full integer, per channel where it can.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np


def tensorflow(source: str, samples: Any, out: str) -> None:
    import tensorflow as tf

    if Path(source).is_dir():
        converter = tf.lite.TFLiteConverter.from_saved_model(source)
    else:
        import tf_keras

        converter = tf.lite.TFLiteConverter.from_keras_model(tf_keras.models.load_model(source, compile=False))
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([sample[None]] for sample in samples)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    Path(out).write_bytes(converter.convert())


def ai_edge_quantizer(source: str, samples: Any, out: str) -> None:
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer import quantizer, recipe

    worker = quantizer.Quantizer(source, recipe.static_wi8_ai8())
    runner = Interpreter(source)
    (key, names), *_ = runner.get_signature_list().items()
    data = {key: [{names["inputs"][0]: sample[None]} for sample in samples]}
    worker.quantize(worker.calibrate(data)).export_model(out, overwrite=True)


def _onnxruntime(source: str, samples: Any, out: str, method: str) -> None:
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = f"{out}.prepared.onnx"
    model = onnx.load(source)
    if next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")) < 13:
        source = f"{out}.raised.onnx"
        onnx.save(onnx.version_converter.convert_version(model, 13), source)
    quant_pre_process(source, prepared, skip_symbolic_shape=True)
    name = next(v.name for v in model.graph.input if v.name not in {i.name for i in model.graph.initializer})

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.rest: Iterator[Any] = iter(samples)

        def get_next(self) -> Any:
            sample = next(self.rest, None)
            return None if sample is None else {name: sample[None]}

    def quantize(*, per_channel: bool) -> None:
        quantize_static(
            prepared, out, Reader(), per_channel=per_channel, activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8, calibrate_method=getattr(CalibrationMethod, method),
        )  # fmt: skip

    try:
        quantize(per_channel=True)
    except ValueError:
        quantize(per_channel=False)


def onnxruntime_minmax(source: str, samples: Any, out: str) -> None:
    _onnxruntime(source, samples, out, "MinMax")


def onnxruntime_entropy(source: str, samples: Any, out: str) -> None:
    _onnxruntime(source, samples, out, "Entropy")


def onnxruntime_percentile(source: str, samples: Any, out: str) -> None:
    _onnxruntime(source, samples, out, "Percentile")


def nncf(source: str, samples: Any, out: str) -> None:
    import nncf as tool
    import onnx

    model = onnx.load(source)
    if next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")) < 13:
        model = onnx.version_converter.convert_version(model, 13)
    constants = {tensor.name for tensor in model.graph.initializer}
    kept = [value for value in model.graph.input if value.name not in constants]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    name = kept[0].name
    data = tool.Dataset(list(samples), lambda sample: {name: sample[None]})
    onnx.save(tool.quantize(model, data, subset_size=len(samples)), out)


def _turned_input(model: Any, name: str, nhwc: tuple[int, ...]) -> bool:
    """Take away what turns the input of a graph that came from Keras, if it has that: onnx2tf expects ONNX's own order.

    Told to keep the input as it is (-kat), it takes what comes behind the Transpose for channels last all the same.
    """
    graph = model.graph
    readers = [node for node in graph.node if name in node.input]
    perms = [next((list(one.ints) for one in node.attribute if one.name == "perm"), None) for node in readers]
    flat = len(readers) == 1 and readers[0].op_type == "Reshape" and nhwc[-1] == 1  # one channel is moved so
    if perms != [[0, 3, 1, 2]] and not flat:
        return False
    (value,) = (value for value in graph.input if value.name == name)
    sizes = value.type.tensor_type.shape.dim
    for size, known in zip(sizes, (1, nhwc[3], nhwc[1], nhwc[2]), strict=True):
        size.dim_value = known
    behind = readers[0].output[0]
    for node in graph.node:
        node.input[:] = [name if one == behind else one for one in node.input]
    graph.node.remove(readers[0])
    return True


def onnx2tf(source: str, samples: Any, out: str) -> None:
    import subprocess

    import onnx

    model = onnx.load(source)
    constants = {tensor.name for tensor in model.graph.initializer}
    name = next(value.name for value in model.graph.input if value.name not in constants)
    folder = Path(f"{out}.folder")
    data = f"{out}.samples.npy"
    turned = samples.ndim == 4 and samples.shape[1] < samples.shape[3]
    nhwc = samples.transpose(0, 2, 3, 1) if turned else samples
    np.save(data, nhwc)
    if not turned and samples.ndim == 4:
        turned = _turned_input(model, name, nhwc.shape)
        source = f"{out}.turned.onnx"
        onnx.save(model, source)
    channels = nhwc.shape[-1]
    nothing = [[[[0.0] * channels]]], [[[[1.0] * channels]]]
    command = [Path(sys.executable).with_name("onnx2tf"), "-i", source, "-o", folder, "-oiqt", "-b", "1"]
    # Its own writer, the default, knows no integers of some operators (FILL).
    command += ["-cind", name, data, str(nothing[0]), str(nothing[1]), "-n", "-tb", "tf_converter"]
    command += [] if turned else ["-kat", name]  # it is NHWC already
    subprocess.run([str(part) for part in command], check=True)
    shutil.copy(next(folder.glob("*full_integer_quant.tflite")), out)


if __name__ == "__main__":
    tool, source, samples, out = sys.argv[1:]
    globals()[tool](source, np.load(samples), out)
