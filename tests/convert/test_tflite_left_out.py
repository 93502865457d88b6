"""Vectors that a TFLite file leaves out: legal in the format, absent in what the schema's reader returns."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit.converters import tflite_graph, tflite_shapes
from edgekit.converters.tflite_builder import Builder
from edgekit.converters.tflite_write import write


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
