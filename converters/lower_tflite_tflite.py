"""TFLite to TFLite: the graph that the loader made ready, byte by byte.

A quantized source keeps its integers; the graph then bears the name of the precision that comes nearest, so that it is
judged and labelled as what it is.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from edgekit.converters.stages import Graph, LoadedModel

if TYPE_CHECKING:
    from edgekit.converters.loaded import Loaded

FRAMEWORKS = ("tflite",)
FORMAT: Literal["tflite", "onnx"] = "tflite"
EXTRA = "convert"


def lower(model: LoadedModel, path: Path) -> Graph:
    """Write the graph to `path`.

    Args:
        model: Of the TFLite loader, which has opened the file in the engine.
        path: Where the file goes.

    Returns:
        Inputs and outputs under their signature's names, or the tensors' own.
    """
    source = cast("Loaded", model)
    path.write_bytes(source.handle)
    facts = source.facts
    return Graph("tflite", str(path), facts.inputs, facts.outputs, precision=source.precision, tools=dict(facts.tools))
