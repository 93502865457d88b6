"""A TFLite model cut into its ops, each a file that runs by itself; see `edgekit.measure.profile_tflite`."""

from __future__ import annotations

import json
import math
import zipfile
from pathlib import Path

import numpy as np

from edgekit.artifact import Artifact
from edgekit.codec import encode
from edgekit.converters.tflite_graphs import graph as files
from edgekit.converters.tflite_graphs.builder import Builder
from edgekit.converters.tflite_graphs.graph import ModelT, OperatorT
from edgekit.formats import read_facts
from edgekit.measure.profile_tflite import INDEX, Index, Piece

_BY_XNNPACK, _BY_BUILTIN = "empty-xnnpack.tflite", "empty-builtin.tflite"
_DEPENDENT = ("CALL_ONCE", "VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE")


def cut(artifact: Artifact, path: Path) -> None:
    """Write the pieces of a model, and what is known of each, as a zip.

    Args:
        artifact: A TFLite one, ours or foreign.
        path: Where the zip goes.

    Raises:
        SourceError: `tflite-unreadable`. ArtifactError: `model-unreadable`.
    """
    facts = read_facts(artifact).ops
    whole = files.read(artifact.data)
    main = whole.subgraphs[0]
    pieces = []
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as packed:
        for number, op in enumerate(main.operators):
            kind = files.op_name(whole, op)
            if kind in _DEPENDENT:
                continue  # by itself it would have no variable; it costs next to nothing
            inputs, data = _piece(artifact.data, number)
            name = f"{number:05}.tflite"
            packed.writestr(name, data)
            outputs = tuple(int(index) for index in op.outputs)
            called = files.name_of(main.tensors[outputs[0]]) if outputs else ""
            macs = facts[number].macs if number < len(facts) else None
            pieces.append(Piece(name, called, kind, inputs, outputs, macs, _bytes(whole, op)))
        empty = {_BY_XNNPACK: _nothing("ADD"), _BY_BUILTIN: _nothing("RESHAPE")}
        for name, data in empty.items():
            packed.writestr(name, data)
        index = Index(
            tuple(int(i) for i in main.inputs), tuple(pieces), ("empty-xnnpack.tflite", "empty-builtin.tflite")
        )
        packed.writestr(INDEX, json.dumps(encode(index)))


def _piece(data: bytes, number: int) -> tuple[tuple[int, ...], bytes]:
    model = files.read(data)
    main = model.subgraphs[0]
    op = main.operators[number]
    inputs = dict.fromkeys(
        int(index)
        for index in op.inputs
        if int(index) >= 0
        and not files.is_constant(model, main.tensors[int(index)])
        and not main.tensors[int(index)].isVariable
    )
    main.operators = [op]
    main.inputs, main.outputs = np.array([*inputs], np.int32), np.array(op.outputs, np.int32)
    model.signatureDefs = model.metadata = None
    return tuple(inputs), files.dump(model)


def _bytes(model: ModelT, op: OperatorT) -> int:
    main = model.subgraphs[0]
    touched = {int(index) for index in (*op.inputs, *op.outputs) if int(index) >= 0}
    return sum(
        math.prod(max(1, int(size)) for size in main.tensors[index].shape)
        * files.np_dtype(main.tensors[index]).itemsize
        for index in touched
    )


def _nothing(kind: str) -> bytes:
    """A net whose one op computes one number: by XNNPACK when it adds floats, by a kernel when it reshapes integers."""
    net = Builder()
    if kind == "ADD":
        x = net.input("x", (1,))
        made = net.op("ADD", [x, x], (1,), "y", "AddOptions")
    else:
        x = net.input("x", (1,), "int32")
        shape = net.constant("shape", np.array([1], np.int32))
        made = net.op("RESHAPE", [x, shape], (1,), "y", "ReshapeOptions", {"newShape": [1]}, dtype="int32")
    return net.finish([made])
