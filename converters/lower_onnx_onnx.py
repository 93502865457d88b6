"""ONNX to ONNX: the float graph without what does no work.

Constants are folded, BatchNorm goes into the convolution before it, Identity and Dropout go away: by onnxruntime's own
basic optimizations, written to a file. They are what the engine would do at load anyway, the quantizer prepares its
graph with the same ones, and unlike the levels above they keep to standard operators (checked: a version that did not
would be refused). onnxscript's optimizer was the alternative: it leaves BatchNorm alone unless told by rewrite rules.

A graph that is quantized already is written as it is: folding would move its roundings.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from edgekit.converters.from_onnx import current
from edgekit.converters.onnx_graphs import graph as onnx_graph
from edgekit.converters.stages import Graph, LoadedModel
from edgekit.errors import ConversionError

if TYPE_CHECKING:
    from edgekit.converters.loaded import Loaded

FRAMEWORKS = ("onnx", "torch", "sklearn")
FORMAT: Literal["tflite", "onnx"] = "onnx"
EXTRA = "convert"


def lower(model: LoadedModel, path: Path) -> Graph:
    """Write the graph to `path`.

    Args:
        model: Of the ONNX loader, or of one whose handle and precision are the same.
        path: Where the file goes.

    Returns:
        Inputs and outputs under the source's names; the same model gives the same bytes.

    Raises:
        ConversionError: `onnx-engine-refused`; `onnx-left-standard`: an optimization made a private operator;
            `model-too-large`.
    """
    source = cast("Loaded", model)
    facts = source.facts
    proto = source.handle if facts.quantized else _optimized(source.handle, path.parent)
    _tidy(proto)
    onnx_graph.write(proto, path)
    return Graph("onnx", str(path), facts.inputs, facts.outputs, precision=source.precision, tools=dict(facts.tools))


def _optimized(model: Any, scratch: Path) -> Any:
    before = _private(model)
    optimized = onnx_graph.optimize(model, scratch)
    gained = sorted(_private(optimized) - before)
    if gained:
        raise ConversionError(
            "onnx-left-standard", f"this onnxruntime's basic optimizations made private operators: {', '.join(gained)}"
        )
    return optimized


def _private(model: Any) -> set[str]:
    standard = (*current.STANDARD, "ai.onnx.ml")
    return {f"{node.domain}.{node.op_type}" for node in current.all_nodes(model.graph) if node.domain not in standard}


def _tidy(model: Any) -> None:
    """Drop what no reader needs, in place: texts, derived shapes, constants and operator sets without a use."""
    from onnx import helper

    nodes = list(current.all_nodes(model.graph))
    used = {name for node in nodes for name in node.input} | {value.name for value in model.graph.output}
    used |= {value.name for node in nodes for body in current.bodies(node) for value in body.output}
    constants = [tensor for tensor in model.graph.initializer if tensor.name in used]
    imports = [e for e in model.opset_import if e.domain in current.STANDARD or e.domain in {n.domain for n in nodes}]
    for field in ("metadata_props", "doc_string", "producer_name", "producer_version", "domain", "model_version"):
        model.ClearField(field)
    for owner in (model.graph, *model.graph.input, *model.graph.output, *nodes, *constants):
        owner.ClearField("doc_string")
    for owner in (model.graph, *nodes):
        owner.ClearField("metadata_props")
    model.graph.ClearField("value_info")
    for field, kept in ((model.graph.initializer, constants), (model.opset_import, imports)):
        copies = [type(item).FromString(item.SerializeToString()) for item in kept]
        del field[:]
        field.extend(copies)
    model.graph.name = "edgekit"
    model.ir_version = max(4, helper.find_min_ir_version_for(list(model.opset_import), ignore_unknown=True))
