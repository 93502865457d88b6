"""TFLite to TFLite: the float graph is the file itself, packed without what nobody reads."""

from __future__ import annotations

from pathlib import Path

from edgekit.converters.stages import Graph, LoadedModel

FRAMEWORKS = ("tflite",)
FORMAT = "tflite"
EXTRA = "convert"


def lower(model: LoadedModel, path: Path) -> Graph:
    """Copy the model's own bytes; public names are those of its signature or tensors."""
    facts = model.facts
    path.write_bytes(model.handle.model)
    return Graph("tflite", str(path), facts.inputs, facts.outputs, tools=dict(facts.tools))
