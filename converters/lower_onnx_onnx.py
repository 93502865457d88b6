"""ONNX to ONNX: the float graph with constants folded, BatchNorm in the convolutions, and nothing that does no work.

onnxruntime's own basic optimizations do it offline: they keep to standard operators (the later levels do not), are the
ones that the engine would apply at load anyway, and need no second optimizer to be trusted.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from edgekit.converters.stages import Graph, LoadedModel
from edgekit.errors import ConversionError

FRAMEWORKS = ("onnx",)
FORMAT = "onnx"
EXTRA = "convert"


def lower(model: LoadedModel, path: Path) -> Graph:
    """Write the folded graph; inputs and outputs keep their names.

    Raises:
        ConversionError: `conversion-failed`.
    """
    facts = model.facts
    proto = model.handle if facts.quantized else optimize(model.handle)
    path.write_bytes(proto.SerializeToString(deterministic=True))
    return Graph("onnx", str(path), facts.inputs, facts.outputs, tools=dict(facts.tools))


def optimize(model: Any) -> Any:
    """The model after onnxruntime's basic graph optimizations, with only standard operators."""
    import onnx
    import onnxruntime as ort

    domains = {entry.domain for entry in model.opset_import}
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    options.inter_op_num_threads = options.intra_op_num_threads = 1
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "optimized.onnx"
        options.optimized_model_filepath = str(target)
        try:
            ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except (RuntimeError, ValueError) as error:
            raise ConversionError("conversion-failed", f"onnxruntime cannot prepare the graph: {error}") from error
        optimized = onnx.load(target)
    foreign = {node.domain for node in optimized.graph.node} - domains - {"", "ai.onnx"}
    if foreign:
        return model  # an optimization of this version left the standard: the graph as it was is right, only larger
    used = {node.domain for node in optimized.graph.node} | {""}
    for entry in [e for e in optimized.opset_import if e.domain not in used and e.domain != "ai.onnx"]:
        optimized.opset_import.remove(entry)
    del optimized.metadata_props[:]
    _drop_unused(optimized.graph)
    return optimized


def _drop_unused(graph: Any) -> None:
    read = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    if any(attribute.HasField("g") or attribute.graphs for node in graph.node for attribute in node.attribute):
        return  # a subgraph may read names of the outer graph
    for tensor in [t for t in graph.initializer if t.name not in read]:
        graph.initializer.remove(tensor)
