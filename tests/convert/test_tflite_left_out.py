"""What a TFLite file leaves out, legally or through damage: absent in what the schema's reader returns."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit.converters.tflite_graphs import graph as tflite_graph
from edgekit.converters.tflite_graphs import shapes as tflite_shapes
from edgekit.converters.tflite_graphs.builder import Builder
from edgekit.converters.tflite_graphs.write import write
from edgekit.errors import SourceError


@pytest.mark.parametrize("side", ["inputs", "outputs"])
def test_an_operator_without_inputs_or_outputs_is_read(side):
    graph = Builder()
    x = graph.input("x", (1, 4))
    model = tflite_graph.read(graph.finish([graph.op("RELU", [x], (1, 4), "y")]))
    setattr(model.subgraphs[0].operators[0], side, None)
    again = tflite_graph.read(write(model))
    assert list(getattr(again.subgraphs[0].operators[0], side)) == []
    tflite_shapes.settle(again)


def test_a_graph_without_operators_is_read():
    graph = Builder()
    x = graph.input("x", (1, 4))
    model = tflite_graph.read(graph.finish([x]))
    model.subgraphs[0].operators = None
    model.subgraphs[0].outputs = None
    again = tflite_graph.read(write(model)).subgraphs[0]
    assert again.operators == []
    assert np.asarray(again.outputs).size == 0


@pytest.mark.parametrize("damage", ["name", "twice", "index", "graph"])
def test_damaged_signatures_are_refused(damage):
    """LiteRT opens such a file and answers under another name, or none."""
    graph = Builder()
    x, other = graph.input("x", (1, 4)), graph.input("other", (1, 4))
    made = graph.op("ADD", [x, other], (1, 4), "y", "AddOptions")
    model = tflite_graph.read(graph.finish([made], signature="serving_default"))
    signature = model.signatureDefs[0]
    if damage == "name":
        signature.inputs[0].name = None
    elif damage == "twice":
        signature.inputs[0].name = signature.inputs[1].name
    elif damage == "index":
        signature.outputs[0].tensorIndex = 0
    else:
        signature.subgraphIndex = 5
    with pytest.raises(SourceError) as caught:
        tflite_graph.read(write(model))
    assert caught.value.code == "tflite-unreadable"
