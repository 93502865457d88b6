"""TFLite files that no builder call makes by itself."""

from __future__ import annotations

import numpy as np

from edgekit.converters.tflite_graphs import graph as files
from edgekit.converters.tflite_graphs.builder import Builder
from edgekit.converters.tflite_graphs.write import write


def counting() -> bytes:
    """x doubled three times, by a loop over two further graphs."""
    main, test, step = Builder(), Builder(), Builder()
    n, x = main.constant("start", np.array(0, np.int32)), main.input("x", (1, 2))
    fields = {"condSubgraphIndex": 1, "bodySubgraphIndex": 2}
    main.op("WHILE", [n, x], (), "n_out", "WhileOptions", fields, dtype="int32")
    out = main.tensor("x_out", (1, 2))
    n = test.input("n", (), "int32")
    test.input("x", (1, 2))
    less = test.op("LESS", [n, test.constant("three", np.array(3, np.int32))], (), "go", "LessOptions", dtype="bool")
    n, x = step.input("n", (), "int32"), step.input("x", (1, 2))
    more = step.op("ADD", [n, step.constant("one", np.array(1, np.int32))], (), "n1", "AddOptions", dtype="int32")
    twice = step.op("ADD", [x, x], (1, 2), "x2", "AddOptions")
    whole = files.read(main.finish([out]))
    whole.subgraphs[0].operators[0].outputs = np.int32([whole.subgraphs[0].operators[0].outputs[0], out])
    for part in (files.read(test.finish([less])), files.read(step.finish([more, twice]))):
        for op in part.subgraphs[0].operators:
            op.opcodeIndex += len(whole.operatorCodes)
        for tensor in part.subgraphs[0].tensors:
            tensor.buffer += len(whole.buffers)
        whole.operatorCodes += part.operatorCodes
        whole.buffers += part.buffers
        whole.subgraphs += part.subgraphs
    return write(whole)
