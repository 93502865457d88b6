"""TFLite files read and written again: the same answers, fewer bytes, the same bytes every time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.converters.tflite_graphs import graph as files
from edgekit.converters.tflite_graphs.builder import Builder
from edgekit.converters.tflite_graphs.write import with_outputs, write
from edgekit.errors import InternalError, SourceError
from edgekit.tensors import TensorSpec

interpreter = pytest.importorskip("ai_edge_litert.interpreter", reason="comes with the tflite extra")

RANDOM = np.random.default_rng(2)


def answers(data: bytes, *feeds: np.ndarray) -> list[np.ndarray]:
    engine = interpreter.Interpreter(model_content=data)
    engine.allocate_tensors()
    for detail, feed in zip(engine.get_input_details(), feeds, strict=True):
        engine.set_tensor(detail["index"], feed)
    engine.invoke()
    return [engine.get_tensor(detail["index"]).copy() for detail in engine.get_output_details()]


def twins(signature: str | None = "serve") -> bytes:
    """Two equal layers, each with names as converters write them and weights of its own."""
    graph = Builder()
    x = graph.input("x", (1, 6))
    weights = np.arange(36, dtype=np.float32).reshape(6, 6) / 36
    for number in (1, 2):
        scope = f"net/block_{number}"
        parts = [x, graph.constant(f"{scope}/MatMul", weights.copy()), -1]
        name = f"{scope}/Relu;{scope}/MatMul;{scope}/BiasAdd/ReadVariableOp"
        x = graph.op("FULLY_CONNECTED", parts, (1, 6), name, "FullyConnectedOptions", {"fusedActivationFunction": 1})
    return graph.finish([x], signature=signature)


def test_packing_keeps_answers_and_saves_bytes():
    data = twins()
    packed = files.pack(data)
    feed = RANDOM.normal(size=(1, 6)).astype(np.float32)
    np.testing.assert_array_equal(answers(packed, feed)[0], answers(data, feed)[0])
    assert len(packed) < len(data) - 100  # one copy of the weights is 144 bytes
    assert files.pack(packed) == packed
    assert files.pack(data) == packed


def test_equal_weights_stand_once_and_on_their_boundary():
    model = files.read(files.pack(twins()))
    first, second = (model.subgraphs[0].operators[number].inputs[1] for number in (0, 1))
    tensors = model.subgraphs[0].tensors
    assert tensors[int(first)].buffer == tensors[int(second)].buffer
    packed = files.pack(twins())
    weights = np.arange(36, dtype=np.float32) / 36
    assert packed.count(weights.tobytes()) == 1
    assert packed.index(weights.tobytes()) % 16 == 0


def test_inner_names_are_the_layers_and_outer_ones_stay():
    model = files.read(files.pack(twins()))
    names = [files.name_of(tensor) for tensor in model.subgraphs[0].tensors]
    assert len(set(names)) == len(names)
    assert "x" in names
    assert any(name.startswith("net/block_2/Relu;") for name in names)  # the output's: others ask for it
    assert not any(";" in name for name in names if not name.startswith("net/block_2/Relu;"))


def test_unused_tensors_and_codes_go():
    graph = Builder()
    x = graph.input("x", (1, 4))
    graph.constant("nobody", np.ones(5000, np.float32))
    made = graph.op("RELU", [x], (1, 4), "y")
    data = graph.finish([made], signature="serve")
    packed = files.pack(data)
    assert len(packed) < 1500
    feed = np.float32([[-1, 2, -3, 4]])
    np.testing.assert_array_equal(answers(packed, feed)[0], [[0, 2, 0, 4]])
    (signature,) = files.read(packed).signatureDefs
    main = files.read(packed).subgraphs[0]
    assert int(signature.outputs[0].tensorIndex) == int(main.outputs[0])


def test_buffers_behind_the_file_are_brought_inside():
    """As files of 2 GB and more have them; older runtimes read only what lies inside."""
    model = files.read(twins())
    weights = np.arange(36, dtype=np.float32) / 36
    for buffer in model.buffers:
        if buffer.data is not None and len(buffer.data):
            buffer.data, buffer.offset, buffer.size = None, 2, weights.nbytes
    short = write(model)
    offset = (len(short) + 15) // 16 * 16
    model.buffers = model.buffers  # the offset is written into the same number of bytes
    for buffer in model.buffers:
        if buffer.offset:
            buffer.offset = offset
    outside = write(model).ljust(offset, b"\0") + weights.tobytes()
    feed = RANDOM.normal(size=(1, 6)).astype(np.float32)
    np.testing.assert_array_equal(answers(files.pack(outside), feed)[0], answers(twins(), feed)[0])


@given(st.lists(st.sampled_from(["", "a", "b", "a#1", "tensor"]), min_size=1, max_size=8))
@settings(max_examples=50, deadline=None)
def test_unique_names_are_unique_and_keep_the_first(names):
    graph = Builder()
    for name in names:
        graph.tensor(name, (1,))
    model = files.read(graph.finish([0]))
    unique = files.unique_names(model.subgraphs[0])
    assert len(set(unique)) == len(names)
    assert unique[0] == (names[0] or "tensor#0")


def test_specs_are_found_by_signature_or_tensor_name():
    model = files.read(twins())
    assert files.interface(model, [TensorSpec("x", (1, 6), "float32")], "inputs") == [0]
    with pytest.raises(InternalError) as caught:
        files.interface(model, [TensorSpec("z", (1, 6), "float32")], "inputs")
    assert caught.value.code == "interface-lost"


@pytest.mark.parametrize(
    "data", [b"", b"TFL3", bytes(40), b"\x10\0\0\0TFL3" + bytes(20), b"\xff\xff\xff\x7fTFL3" + bytes(8)]
)
def test_what_is_no_model_is_refused(data):
    with pytest.raises(SourceError) as caught:
        files.read(data)
    assert caught.value.code == "tflite-unreadable"


@given(cut=st.integers(8, 1200))
@settings(max_examples=60, deadline=None)
def test_a_file_cut_short_is_refused_or_read(cut):
    data = twins()[:cut]
    try:
        files.read(data)
    except SourceError as error:
        assert error.code == "tflite-unreadable"


def test_other_outputs_are_those_of_a_model_that_is_written_with_them():
    model = files.read(twins(signature=None))
    written = write(model)
    graph = model.subgraphs[0]
    everything = [int(index) for op in graph.operators for index in op.outputs]
    feed = RANDOM.normal(size=(1, 6)).astype(np.float32)
    for shown in (everything, everything[::-1], everything[:1], []):
        graph.outputs = np.array(shown, np.int32)
        patched = with_outputs(written, shown)
        assert files.read(patched).subgraphs[0].outputs.tolist() == shown
        if shown:
            for ours, theirs in zip(answers(patched, feed), answers(write(model), feed), strict=True):
                np.testing.assert_array_equal(ours, theirs)
