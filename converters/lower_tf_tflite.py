"""Keras and SavedModel -> float TFLite, by TensorFlow's own converter.

Built-in kernels only: what needs TensorFlow kernels on the device (Flex) is refused, with the ops by name. No
optimizations: quantization works on the float file, with ranges that we observe.

The signature of the file carries the public names.

What that converter refuses goes by way of ONNX, through our own lowering, and the graph says so: recurrent layers,
whose steps the converter keeps in a list that no free batch may have, and what it does not write with TFLite's own
kernels (pooling over volumes, ...). Where that is refused as well, recurrent layers are converted for one sample at a
time.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from edgekit import files
from edgekit.converters.from_tensorflow.model import TfModel
from edgekit.converters.load_keras import reason
from edgekit.converters.stages import Graph, LoadedModel
from edgekit.converters.tflite_graphs import roots
from edgekit.errors import ConversionError, EdgeKitError, SourceError, UsageError
from edgekit.tensors import TensorSpec

FRAMEWORKS = ("keras", "saved_model")
FORMAT: Literal["tflite", "onnx"] = "tflite"
EXTRA = "tensorflow"

_OP_LISTS = re.compile(r"(?:TF Select|Custom) ops: *(?P<names>[^\n]+)")
_NEEDS_FIXED = ("TensorListReserve", "TensorListFromTensor", "TensorListStack", "element_shape")
"""In the converter's message: a list of steps whose size depends on the free batch."""


def lower(model: LoadedModel, path: Path) -> Graph:
    """Convert to a float TFLite file.

    Args:
        model: Of a Keras or SavedModel loader.
        path: Where the file goes.

    Returns:
        Its inputs and outputs in the source's order; the batch is free where the source's is.

    Raises:
        ConversionError: `op-unsupported-conversion`: lists the ops; `conversion-failed`; `conversion-names`.
    """
    import tensorflow as tf

    handle: TfModel = model.handle
    notes: tuple[str, ...] = ()
    try:
        data = _convert(handle)
    except ConversionError as error:
        try:
            return _by_onnx(model, path, error)
        except (ConversionError, SourceError, UsageError) as other:
            fixed = _fixed(handle) if error.details.get("batch") else {}
            if not fixed:
                raise _both_refused(error, other) from error
            handle = handle.with_shapes(fixed)
            try:
                data = _convert(handle)
            except ConversionError:
                raise _both_refused(error, other) from error
        notes = ("the batch is fixed to 1: a recurrent layer of this model converts in no other way",)
    data = roots.bounded(data)
    path.write_bytes(data)
    inputs, outputs, keeps_state = _interface(data, handle)
    if keeps_state:
        notes += ("its recurrent layer keeps its state between runs, unless the variables are reset before each",)
    return Graph("tflite", str(path), inputs, outputs, notes=notes, tools={"tensorflow": str(tf.__version__)})


def _by_onnx(model: LoadedModel, path: Path, error: ConversionError) -> Graph:
    """The graph by tf2onnx and our own lowering, under the source's names."""
    from edgekit.converters import load_onnx, lower_onnx_tflite, lower_tf_onnx
    from edgekit.converters.stages import Source

    with files.scratch() as scratch:
        written = lower_tf_onnx.lower(model, scratch / "model.onnx")
        size = (scratch / "model.onnx").stat().st_size
        loaded = load_onnx.load(Source(written.path, load_onnx.NAME, "", size))
        made = lower_onnx_tflite.lower(loaded, path)
    recurrent = ["its recurrent layers"] if error.details.get("batch") else ["it"]
    what = ", ".join(error.details.get("ops") or recurrent)
    note = f"by way of ONNX, since TensorFlow's converter has no way for {what}"
    inputs, outputs = (
        tuple(replace(spec, shape=lowered.shape) for spec, lowered in zip(side, _in_order(side, found), strict=True))
        for side, found in ((written.inputs, made.inputs), (written.outputs, made.outputs))
    )
    return replace(
        made, inputs=inputs, outputs=outputs, notes=(note, *made.notes), tools={**written.tools, **made.tools}
    )


def _in_order(wanted: tuple[TensorSpec, ...], found: tuple[TensorSpec, ...]) -> list[TensorSpec]:
    by_name = {spec.name: spec for spec in found}
    return [by_name[spec.key] for spec in wanted]


def _both_refused(error: ConversionError, other: EdgeKitError) -> ConversionError:
    """What TensorFlow's converter refused, with what stands in the way by ONNX as well."""
    return ConversionError(
        "op-unsupported-conversion" if error.details.get("ops") else "conversion-failed",
        str(error),
        cause=f"By way of ONNX: {other}",
        next_step=other.next_step,
        **error.details,
    )


def _convert(model: TfModel) -> bytes:
    import tensorflow as tf
    from tensorflow.lite.python.convert_phase import ConverterError

    with files.scratch() as scratch, contextlib.redirect_stdout(io.StringIO()):
        # Of a SavedModel, too, only the traced signature is written anew: the converter takes twice as long to read
        # one with all its functions. (TFLiteConverter.from_concrete_functions does the same, but goes on without a
        # signature when saving fails, and the names are lost.)
        signature = model.export(scratch / "model")
        converter = tf.lite.TFLiteConverter.from_saved_model(str(scratch / "model"), signature_keys=[signature])
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        try:
            return bytes(converter.convert())
        except (ConverterError, ValueError, RuntimeError) as error:
            raise _explained(error) from error


def _fixed(model: TfModel) -> dict[str, tuple[int | None, ...]]:
    """Shapes with a batch of one, where all inputs have a free one."""
    if not all(spec.shape and spec.shape[0] is None for spec in model.inputs):
        return {}
    return {spec.name: (1, *spec.shape[1:]) for spec in model.inputs}


def _explained(error: Exception) -> ConversionError:
    said = str(error)
    batch = any(word in said for word in _NEEDS_FIXED)
    lists = [match["names"].rstrip(". ") for match in _OP_LISTS.finditer(said)]
    ops = sorted({name.strip() for names in lists for name in names.split(",") if name.strip()})
    if ops:
        return ConversionError(
            "op-unsupported-conversion",
            f"TFLite has no kernel for {', '.join(ops)} as the model uses {'it' if len(ops) == 1 else 'them'}",
            cause=" ".join(said.partition("Details:")[2].split())[:500] or None,
            ops=ops,
            format="tflite",
            batch=batch,
        )
    return ConversionError(
        "conversion-failed", f"TensorFlow's converter refused the model: {reason(error)}", batch=batch
    )


def _interface(data: bytes, model: TfModel) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...], bool]:
    """Inputs and outputs as the file has them, found by its signature; and whether it has variable tensors.

    Raises:
        ConversionError: `conversion-names`: the file's signature is not the source's.
    """
    from tensorflow.lite.python import schema_py_generated as schema

    file = schema.Model.GetRootAsModel(data, 0)
    if file.SignatureDefsLength() != 1:
        raise ConversionError("conversion-names", f"the file has {file.SignatureDefsLength()} signatures, not one")
    signature = file.SignatureDefs(0)
    graph = file.Subgraphs(signature.SubgraphIndex())
    found_inputs = {
        signature.Inputs(i).Name().decode(): graph.Tensors(signature.Inputs(i).TensorIndex())
        for i in range(signature.InputsLength())
    }
    found_outputs = {
        signature.Outputs(i).Name().decode(): graph.Tensors(signature.Outputs(i).TensorIndex())
        for i in range(signature.OutputsLength())
    }
    keeps_state = any(graph.Tensors(i).IsVariable() for i in range(graph.TensorsLength()))
    return (
        _specs(model.inputs, found_inputs, "input"),
        _specs(model.outputs, found_outputs, "output"),
        keeps_state,
    )


def _specs(specs: tuple[TensorSpec, ...], found: Mapping[str, Any], kind: str) -> tuple[TensorSpec, ...]:
    wanted = [spec.key for spec in specs]
    if set(wanted) != set(found):
        raise ConversionError(
            "conversion-names", f"the file's {kind}s are {', '.join(found)}; the source's are {', '.join(wanted)}"
        )
    result = []
    for spec in specs:
        tensor = found[spec.key]
        free = tensor.ShapeSignatureLength() > 0
        sizes = tensor.ShapeSignatureAsNumpy() if free else tensor.ShapeAsNumpy() if tensor.ShapeLength() else ()
        shape = tuple(None if size < 0 else int(size) for size in sizes)
        if len(shape) != len(spec.shape):
            raise ConversionError(
                "conversion-names", f"the {kind} {spec.name!r} has {len(shape)} dimensions, not {len(spec.shape)}"
            )
        result.append(replace(spec, shape=shape))
    return tuple(result)
