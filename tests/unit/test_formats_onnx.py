"""The ONNX reader against onnx's own parse, shape inference and reference outputs, and files that lie."""

from __future__ import annotations

import math
import random
import re
import time
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit import artifact, formats
from edgekit.errors import ArtifactError
from edgekit.formats import onnx as reader
from edgekit.formats import read_facts
from edgekit.formats.onnx_graph import Uses
from edgekit.formats.onnx_proto import DATA_TYPES, MAX_DEPTH, WANTED, Reader
from edgekit.formats.onnx_rules import RULES
from edgekit.tensors import QuantParams

FLOAT, INT8, UINT8, INT64 = TensorProto.FLOAT, TensorProto.INT8, TensorProto.UINT8, TensorProto.INT64


def facts_of(model: onnx.ModelProto | bytes):
    return read_facts(artifact.from_bytes(model if isinstance(model, bytes) else model.SerializeToString()))


def model_of(nodes, inputs, outputs, constants=(), opset=17, domains=(), **more) -> onnx.ModelProto:
    """inputs, outputs: (name, element type, shape); constants: (name, array)."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(*about) for about in inputs],
        [helper.make_tensor_value_info(*about) for about in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants],
        **more,
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    model = helper.make_model(graph, opset_imports=opsets)
    model.ir_version = 8
    return model


def shapes_of(data: bytes) -> tuple[dict, dict, dict]:
    """Our shapes, numbers and element types of the main graph."""
    parsed = Reader(data)
    graph = parsed.model().graph
    at, types = reader._survey(graph, Uses(graph), parsed)
    return at.shapes, at.numbers, types


def test_a_tiny_model(tiny_onnx):
    facts = facts_of(tiny_onnx)
    assert [spec.describe() for spec in (*facts.inputs, *facts.outputs)] == ["x float32 [N,4]", "y float32 [N,3]"]
    assert facts.op_counts() == {"Gemm": 1, "Softmax": 1}
    assert [(op.name, op.version, op.macs, op.dtype) for op in facts.ops] == [
        ("dense", None, 12, "float32"),
        ("y", None, 0, "float32"),
    ]
    assert (facts.parameters, facts.weight_bytes, facts.macs, facts.tensors) == (15, 60, 12, 5)
    assert (facts.precision, facts.opsets, facts.producer) == ("fp32", {"": 17}, "test")
    assert facts.metadata == {"ir_version": "8"}
    # x stays for the whole run, the softmax may not take the place of h because it is an output.
    assert facts.arena_bytes == 64 + 64 + 12


def test_weights_listed_as_inputs_are_no_inputs():
    model = model_of(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [("x", FLOAT, [1, 4]), ("w", FLOAT, [4, 2])],
        [("y", FLOAT, [1, 2])],
        [("w", np.ones((4, 2), np.float32))],
    )
    facts = facts_of(model)
    assert [spec.name for spec in facts.inputs] == ["x"]
    assert (facts.macs, facts.parameters) == (8, 8)


@pytest.mark.parametrize("typed", [True, False])
def test_raw_and_typed_payloads_read_alike(typed):
    wanted = [2, 2, 1]
    shape = helper.make_tensor("s", INT64, [3], wanted) if typed else numpy_helper.from_array(np.array(wanted), "s")
    model = model_of([helper.make_node("Reshape", ["x", "s"], ["y"])], [("x", FLOAT, ["N", 4])], [("y", FLOAT, None)])
    model.graph.initializer.append(shape)
    facts = facts_of(model)
    assert facts.parameters == 0
    assert facts.weight_bytes == 24
    assert shapes_of(model.SerializeToString())[0]["y"] == (2, 2, 1)
    assert facts.notes == ("output y has no shape in the file",)


def test_free_sizes_count_as_one_and_unknown_ones_stay_unknown():
    nodes = [helper.make_node("Mystery", ["x"], ["h"], domain="mine"), helper.make_node("MatMul", ["h", "w"], ["y"])]
    inputs, outputs = [("x", FLOAT, ["N", 4])], [("y", FLOAT, ["M", 2])]
    constants = [("w", np.ones((4, 2), np.float32))]
    plain = facts_of(model_of(nodes, inputs, outputs, constants, domains=("mine",)))
    assert (plain.arena_bytes, plain.macs) == (None, None)
    assert plain.op_counts() == {"MatMul": 1, "mine:Mystery": 1}
    said = [helper.make_tensor_value_info("h", FLOAT, ["N", 4])]
    told = facts_of(model_of(nodes, inputs, [("y", FLOAT, ["N", 2])], constants, domains=("mine",), value_info=said))
    assert told.ops[1].macs == 8
    assert told.macs is None, "what Mystery multiplies nobody knows"
    assert told.arena_bytes is not None


CONV = (1, 4, 8, 8)


@pytest.mark.parametrize(
    ("node", "inputs", "macs"),
    [
        (("Conv", {"pads": [1, 1, 1, 1]}), [CONV, (6, 4, 3, 3)], 64 * 6 * 36),
        (("Conv", {"group": 2, "strides": [2, 2]}), [CONV, (6, 2, 2, 2)], 16 * 6 * 8),
        (("Conv", {"auto_pad": "SAME_UPPER", "strides": [3, 3]}), [CONV, (1, 4, 5, 5)], 9 * 100),
        (("ConvTranspose", {"strides": [2, 2]}), [CONV, (4, 6, 3, 3)], 64 * 4 * 54),
        (("ConvTranspose", {"group": 2}), [CONV, (4, 3, 3, 3)], 64 * 4 * 27),
        (("Gemm", {"transA": 1}), [(7, 5), (7, 3)], 5 * 7 * 3),
        (("Gemm", {"transB": 1}), [(5, 7), (3, 7)], 5 * 7 * 3),
        (("MatMul", {}), [(2, 3, 4, 5), (5, 6)], 24 * 5 * 6),
        (("MatMul", {}), [(5,), (5, 6)], 30),
        (("LSTM", {"hidden_size": 8}), [(10, 1, 3), (1, 32, 3), (1, 32, 8)], 10 * (96 + 256)),
        (
            ("GRU", {"hidden_size": 8, "direction": "bidirectional"}),
            [(10, 2, 3), (2, 24, 3), (2, 24, 8)],
            20 * (144 + 384),
        ),
        (("Relu", {}), [CONV], 0),
        (("Einsum", {"equation": "ij->ij"}), [(2, 2)], None),
        (("DeformConv", {}), [CONV, (6, 4, 3, 3), (1, 18, 6, 6)], None),
        (("Conv", {"strides": [0, 0]}), [CONV, (6, 4, 3, 3)], None),
        (("Conv", {"dilations": [9, 9]}), [CONV, (6, 4, 3, 3)], None),
    ],
)
def test_multiply_accumulates(node, inputs, macs):
    op, attributes = node
    names = [f"i{n}" for n in range(len(inputs))]
    model = model_of(
        [helper.make_node(op, names, ["y"], **attributes)],
        [("i0", FLOAT, inputs[0])],
        [("y", FLOAT, None)],
        [(name, np.zeros(shape, np.float32)) for name, shape in zip(names[1:], inputs[1:], strict=True)],
    )
    assert facts_of(model).macs == macs


def test_every_attribute_that_is_read_is_wanted():
    pattern = re.compile(r'\.(?:ints|floats|lists|texts|counts)(?:\.get\(|\[)"(\w+)"|"(\w+)" in node\.')
    read = {
        name
        for path in Path(formats.__file__).parent.glob("onnx*.py")
        for groups in pattern.findall(path.read_text())
        for name in groups
        if name
    }
    assert len(read) > 20
    assert read | {"value"} == WANTED


def test_shapes_against_the_standards_reference_outputs():
    """Every node test of the ONNX standard: what we infer is what the reference computes, or nothing."""
    from onnx.backend.test.case.node import collect_testcases

    verdicts = Counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the cases overflow on purpose
        cases = collect_testcases(None)
    for case in cases:
        for inputs, outputs in case.data_sets or ():
            if not all(isinstance(value, np.ndarray) or np.isscalar(value) for value in (*inputs, *outputs)):
                continue
            model = onnx.ModelProto()
            model.CopyFrom(case.model)
            for info, array in list(zip(model.graph.input, inputs, strict=False))[1:]:
                if np.asarray(array).dtype.kind in "fiub":
                    model.graph.initializer.append(numpy_helper.from_array(np.asarray(array), info.name))
            del model.graph.value_info[:]
            said = [(info.name, info.type.tensor_type.elem_type) for info in model.graph.output]
            for info in model.graph.output:
                info.type.Clear()
            shapes, numbers, types = shapes_of(model.SerializeToString())
            for (name, kind), output in zip(said, outputs, strict=True):
                if name in numbers:
                    np.testing.assert_allclose(np.ravel(output), numbers[name], rtol=1e-6, err_msg=case.name)
                if name not in shapes:
                    verdicts["unknown"] += 1
                    continue
                assert shapes[name] == np.shape(output), f"{case.name}: {name}"
                assert types[name] in ("", DATA_TYPES[kind][0]), f"{case.name}: {name}"
                verdicts["right"] += 1
    assert verdicts["right"] > 1000


LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
PUBLISHED = {  # millions of multiply-accumulates at 224 x 224
    "bvlc_alexnet": None, "densenet121": 2834, "inception_v1": None, "inception_v2": 2018, "resnet50": 4089,
    "shufflenet": None, "squeezenet": 349, "vgg19": 19632, "zfnet512": None,
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_whole_networks_against_onnx(name):
    path = LIGHT / f"light_{name}.onnx"
    facts = read_facts(artifact.read(path))
    compare_with_onnx(path, facts)
    assert facts.arena_bytes
    assert facts.macs
    if PUBLISHED[name]:
        assert round(facts.macs / 1e6) == pytest.approx(PUBLISHED[name], abs=1)


def compare_with_onnx(path: Path, facts) -> None:
    parsed = onnx.load(path)
    graph = onnx.shape_inference.infer_shapes(parsed, data_prop=True).graph
    held = {tensor.name for tensor in graph.initializer}
    assert [spec.name for spec in facts.inputs] == [info.name for info in graph.input if info.name not in held]
    assert [spec.name for spec in facts.outputs] == [info.name for info in graph.output]
    assert [op.kind for op in facts.ops] == [node.op_type for node in graph.node]
    assert [op.outputs for op in facts.ops] == [tuple(node.output) for node in graph.node]
    assert facts.opsets == {entry.domain: entry.version for entry in parsed.opset_import}
    shapes, _, types = shapes_of(path.read_bytes())
    for info in [*graph.value_info, *graph.output]:
        sizes = [d.dim_value if d.HasField("dim_value") else None for d in info.type.tensor_type.shape.dim]
        if info.type.tensor_type.HasField("shape") and None not in sizes:
            assert shapes[info.name] == tuple(sizes), info.name
        assert types[info.name] == DATA_TYPES[info.type.tensor_type.elem_type][0]
    constants = [*graph.initializer, *(a.t for n in graph.node if n.op_type == "Constant" for a in n.attribute)]
    assert facts.weight_bytes == sum(numpy_helper.to_array(tensor).nbytes for tensor in constants)
    floats = [math.prod(tensor.dims) for tensor in constants if tensor.data_type == FLOAT]
    assert facts.parameters <= sum(floats)


@pytest.mark.parametrize(
    ("name", "parameters", "macs"),
    [("mnist_cnn_onnx/mnist", 5994, 786_560), ("face_ultraface_onnx/version-RFB-320", 307_624, 100_418_560)],
)
def test_real_models_against_onnx(shared, name, parameters, macs):
    path = shared / "models" / f"{name}.onnx"
    facts = read_facts(artifact.read(path))
    compare_with_onnx(path, facts)
    assert (facts.parameters, facts.macs, facts.precision) == (parameters, macs, "fp32")
    assert facts.arena_bytes


# Quantized models -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def float_cnn(tmp_path_factory) -> Path:
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], strides=[2, 2]),
        helper.make_node("GlobalAveragePool", ["c2"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "w3", "b3"], ["y"]),
    ]
    shapes = {"w1": (16, 3, 3, 3), "b1": (16,), "w2": (8, 16, 2, 2), "w3": (8, 5), "b3": (5,)}
    constants = [(name, rng.normal(size=shape).astype(np.float32)) for name, shape in shapes.items()]
    model = model_of(nodes, [("x", FLOAT, ["N", 3, 16, 16])], [("y", FLOAT, ["N", 5])], constants)
    path = tmp_path_factory.mktemp("cnn") / "float.onnx"
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def quantized_cnn(float_cnn) -> dict[str, Path]:
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_dynamic, quantize_static

    class Samples(CalibrationDataReader):
        def __init__(self):
            self.left = [
                {"x": np.random.default_rng(i).normal(size=(1, 3, 16, 16)).astype(np.float32)} for i in range(3)
            ]

        def get_next(self):
            return self.left.pop() if self.left else None

    paths = {kind: float_cnn.with_name(f"{kind}.onnx") for kind in ("int8", "int16x8", "dynamic")}
    quantize_static(float_cnn, paths["int8"], Samples(), per_channel=True, weight_type=QuantType.QInt8)
    quantize_static(
        float_cnn, paths["int16x8"], Samples(), activation_type=QuantType.QInt16, weight_type=QuantType.QInt8,
        extra_options={"UseQDQContribOps": True},
    )  # fmt: skip
    quantize_dynamic(float_cnn, paths["dynamic"])
    return paths


@pytest.mark.parametrize("kind", ["int8", "int16x8", "dynamic"])
def test_precision_is_told_from_the_types(quantized_cnn, float_cnn, kind):
    facts, plain = (read_facts(artifact.read(path)) for path in (quantized_cnn[kind], float_cnn))
    assert facts.precision == kind
    assert plain.precision == "fp32"
    # Scales and zero points are not counted; dynamic models multiply by their three weights' scales in plain ops.
    assert facts.parameters == plain.parameters + (3 if kind == "dynamic" else 0)
    assert facts.macs == plain.macs
    assert facts.weight_bytes < 0.6 * plain.weight_bytes


def test_half_precision():
    half = [("w", np.ones((4, 2), np.float16))]
    direct = model_of(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [("x", TensorProto.FLOAT16, [1, 4])],
        [("y", TensorProto.FLOAT16, [1, 2])],
        half,
    )
    cast = model_of(
        [helper.make_node("Cast", ["w"], ["f"], to=FLOAT), helper.make_node("MatMul", ["x", "f"], ["y"])],
        [("x", FLOAT, [1, 4])],
        [("y", FLOAT, [1, 2])],
        half,
    )
    assert [facts_of(model).precision for model in (direct, cast)] == ["fp16", "fp16"]


def test_eight_bit_activations_take_a_quarter_of_the_float_arena(quantized_cnn, float_cnn):
    facts, plain = (read_facts(artifact.read(path)) for path in (quantized_cnn["int8"], float_cnn))
    image = 3 * 16 * 16 * 4
    # The float input and its integer copy come on top.
    assert plain.arena_bytes / 4 <= facts.arena_bytes <= plain.arena_bytes / 4 + 1.3 * image


def test_an_integer_interface_has_its_quantization():
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "s", "z"], ["xf"]),
        helper.make_node("Relu", ["xf"], ["yf"]),
        helper.make_node("QuantizeLinear", ["yf", "t", "u"], ["yq"]),
        helper.make_node("Reshape", ["yq", "n"], ["y"]),
    ]
    constants = [("s", np.float32(0.5)), ("z", np.int8(-3)), ("t", np.float32(0.25)), ("u", np.uint8(7)), ("n", [4])]
    model = model_of(nodes, [("x", INT8, [1, 4])], [("y", UINT8, [4])], constants)
    facts = facts_of(model)
    assert facts.inputs[0].quant == QuantParams((0.5,), (-3,))
    assert facts.outputs[0].quant == QuantParams((0.25,), (7,))
    assert facts.parameters == 0


def test_a_scale_that_is_computed_is_not_guessed():
    nodes = [helper.make_node("DequantizeLinear", ["x", "s"], ["y"])]
    facts = facts_of(model_of(nodes, [("x", INT8, [4]), ("s", FLOAT, [])], [("y", FLOAT, [4])]))
    assert facts.inputs[0].quant is None


# Structure ------------------------------------------------------------------------------------------------------------


def branch(name: str, nodes) -> onnx.GraphProto:
    return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info("b", FLOAT, [1, 2])])


def test_ops_inside_branches_are_listed_and_their_work_is_unknown():
    heavy = branch("then", [helper.make_node("MatMul", ["x", "w"], ["b"])])
    light = branch("else", [helper.make_node("Identity", ["x"], ["b"])])
    inputs = [("x", FLOAT, [1, 2]), ("go", TensorProto.BOOL, [])]
    for then, macs in ((heavy, None), (light, 0)):
        node = helper.make_node("If", ["go"], ["y"], then_branch=then, else_branch=light)
        facts = facts_of(model_of([node], inputs, [("y", FLOAT, [1, 2])], [("w", np.ones((2, 2), np.float32))]))
        assert facts.op_counts()["If"] == 1
        assert sum(facts.op_counts().values()) == 3
        assert facts.macs == macs
        assert facts.arena_bytes is None


def test_local_functions_are_their_ops():
    function = helper.make_function(
        "mine", "Twice", ["a"], ["c"], [helper.make_node("Add", ["a", "a"], ["c"])], [helper.make_opsetid("", 17)]
    )
    model = model_of(
        [
            helper.make_node("Twice", ["x"], ["h"], domain="mine"),
            helper.make_node("Twice", ["h"], ["y"], domain="mine"),
        ],
        [("x", FLOAT, [2])],
        [("y", FLOAT, [2])],
        domains=("mine",),
    )
    model.functions.append(function)
    facts = facts_of(model)
    assert facts.op_counts() == {"Add": 1}
    assert facts.macs == 0


def test_interfaces_that_no_runtime_here_can_feed_are_noted():
    model = model_of(
        [helper.make_node("Identity", ["x"], ["y"])], [("x", TensorProto.BFLOAT16, [2])], [("y", FLOAT, [2])]
    )
    sequence = helper.make_tensor_sequence_value_info("z", FLOAT, [2])
    model.graph.output.append(sequence)
    facts = facts_of(model)
    assert facts.inputs == ()
    assert [spec.name for spec in facts.outputs] == ["y"]
    assert facts.notes == (
        "input x has element type bfloat16, which no runtime here can feed or read",
        "output z is a sequence, which no runtime here can feed or read",
    )


def test_external_data_is_named(tmp_path, tiny_onnx):
    model = onnx.load_from_string(tiny_onnx)
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    facts = read_facts(artifact.read(tmp_path / "m.onnx"))
    assert facts.external == ("weights.bin",)
    assert (facts.parameters, facts.weight_bytes) == (15, 60)


def test_classic_estimators_keep_their_numbers_in_attributes():
    coefficients = [0.5] * 12
    node = helper.make_node(
        "LinearClassifier",
        ["x"],
        ["l", "y"],
        domain="ai.onnx.ml",
        coefficients=coefficients,
        classlabels_ints=[0, 1, 2],
    )
    model = model_of([node], [("x", FLOAT, ["N", 4])], [("y", FLOAT, ["N", 3])], domains=("ai.onnx.ml",))
    facts = facts_of(model)
    assert (facts.macs, facts.parameters) == (12, 12)
    assert facts.weight_bytes > 48


# Files that lie -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [False, True])
def test_trees_are_counted_by_the_lengths_of_their_lists(packed):
    """Three trees of 7 nodes, 4 of them leaves: two nodes are passed in each; 64, 128: a tag, a zero."""
    ids = [*range(7), *range(7), 0, 64, 128, 16384, 8192, 5, 6]
    node = helper.make_node("TreeEnsembleRegressor", ["x"], ["y"], domain="ai.onnx.ml", n_targets=2, nodes_nodeids=ids,
                            nodes_values=[0.5] * 21)  # fmt: skip
    if packed:  # as writers of proto3 store them
        for attribute in node.attribute:
            if attribute.name == "nodes_values":
                attribute.ClearField("floats")
                attribute.t.CopyFrom(numpy_helper.from_array(np.full(21, 0.5)))
                attribute.name, attribute.type = "nodes_values_as_tensor", onnx.AttributeProto.TENSOR
    facts = facts_of(model_of([node], [("x", FLOAT, [3, 4])], [("y", FLOAT, None)], domains=("ai.onnx.ml",)))
    (op,) = facts.ops
    assert op.visits == 6
    assert op.writes[0].shape == (3, 2)
    newer = helper.make_node("TreeEnsemble", ["x"], ["y"], domain="ai.onnx.ml", tree_roots=[0, 3, 6],
                             nodes_splits=numpy_helper.from_array(np.zeros(9)))  # fmt: skip
    facts = facts_of(model_of([newer], [("x", FLOAT, [3, 4])], [("y", FLOAT, None)], domains=("ai.onnx.ml",)))
    assert facts.ops[0].visits == 6


def refused(data: bytes | onnx.ModelProto, message: str) -> None:
    with pytest.raises(ArtifactError, match=message) as caught:
        facts_of(data)
    assert caught.value.code == "model-unreadable"


def lying(name="w", dims=(4, 2), kind=FLOAT, raw=b"\0" * 32) -> onnx.ModelProto:
    model = model_of([helper.make_node("MatMul", ["x", "w"], ["y"])], [("x", FLOAT, [1, 4])], [("y", FLOAT, [1, 2])])
    tensor = model.graph.initializer.add()
    tensor.name, tensor.data_type, tensor.raw_data = name, kind, raw
    tensor.dims.extend(dims)
    return model


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"raw": b"\0" * 31}, "31 bytes of data where its shape asks for 32"),
        ({"dims": (1 << 40, 1 << 40)}, "elements"),
        ({"dims": (-1, 4)}, "shape"),
        ({"dims": (1,) * 65}, "65 axes|more than 64 axes"),
        ({"kind": 99}, "element type 99"),
        ({"raw": b"", "dims": (1 << 30,)}, "0 bytes of data"),
    ],
)
def test_constants_that_contradict_themselves(change, message):
    assert facts_of(lying()).parameters == 8
    refused(lying(**change), message)


def test_a_graph_and_an_operator_set_are_needed(tiny_onnx):
    model = onnx.load_from_string(tiny_onnx)
    del model.opset_import[:]
    refused(model, "operator set")


def test_graphs_nest_only_so_deep():
    def nested(depth: int) -> bytes:
        graph = b""
        for _ in range(depth):
            attribute = artifact.field(1, b"body") + artifact.field(6, graph)
            graph = artifact.field(1, artifact.field(4, b"Loop") + artifact.field(5, attribute))
        opset = artifact.field(8, b"\x10\x11")
        return b"\x08\x08" + artifact.field(7, graph) + opset

    assert facts_of(nested(MAX_DEPTH)).op_counts() == {"Loop": MAX_DEPTH}
    for depth in (MAX_DEPTH + 2, 500):
        refused(nested(depth), "nest more than")


def test_millions_of_tiny_fields_are_refused_in_time_and_memory():
    import tracemalloc

    empty_nodes = b"\x0a\x00" * 3_000_000
    data = b"\x08\x08" + artifact.field(7, empty_nodes) + artifact.field(8, b"\x10\x11")
    tracemalloc.start()
    started = time.process_time()
    refused(data, "more than a reader can walk through")
    spent, peak = time.process_time() - started, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 300 << 20
    assert spent < 120


def test_numbers_do_not_grow_without_bound():
    """Squaring a number over and over would fill the memory with one integer."""
    nodes = [helper.make_node("Mul", [f"n{i}", f"n{i}"], [f"n{i + 1}"]) for i in range(200)]
    model = model_of(nodes, [("x", FLOAT, [1])], [("n200", INT64, [1])], [("n0", np.array([3]))])
    _, numbers, _ = shapes_of(model.SerializeToString())
    assert max(numbers[name][0] for name in numbers) < 1 << 62


@pytest.mark.parametrize("seed", range(10))
def test_mutated_files_give_facts_or_a_typed_error(tiny_onnx, float_cnn, quantized_cnn, mutated, seed, effort):
    rng = random.Random(seed)
    originals = [tiny_onnx, float_cnn.read_bytes(), quantized_cnn["int8"].read_bytes()]
    outcomes = Counter()
    for _ in range(60 * effort):
        data = mutated(rng, rng.choice(originals))
        try:
            facts_of(data).op_counts()
            outcomes["facts"] += 1
        except ArtifactError as error:
            outcomes[error.code] += 1
    assert set(outcomes) <= {"facts", "model-unreadable", "artifact-unknown", "artifact-damaged"}
    assert outcomes["facts"]
    assert outcomes["artifact-unknown"] + outcomes["model-unreadable"] > 5


def test_every_truncation_is_noticed(tiny_onnx):
    for length in range(len(tiny_onnx)):
        with pytest.raises(ArtifactError):
            facts_of(tiny_onnx[:length])


EXTREMES = [0, 1, 2, 3, -1, -2, 7, 64, 1 << 31, (1 << 63) - 1, -(1 << 63)]


def nonsense(rng: random.Random) -> onnx.ModelProto:
    """A few nodes of ops that we have rules for, with operands and attributes that make no sense."""
    constants = [
        (f"c{i}", np.array([rng.choice(EXTREMES) for _ in range(rng.randrange(5))], np.int64)) for i in range(3)
    ]
    wild = [0.0, 1.0, -1.0, 0.5, np.nan, np.inf, 1e38]
    constants += [(f"f{i}", np.array([rng.choice(wild) for _ in range(rng.randrange(5))], "f4")) for i in range(3)]
    constants += [("d", np.array([1e308, 1e308])), ("h", np.array([np.nan, np.inf], "f2"))]
    constants += [("scalar", np.array(rng.choice(EXTREMES))), ("cube", np.zeros((2, 3, 4), np.float32))]
    shapes = [[rng.choice([0, 1, 2, 5, "N", 1 << 40]) for _ in range(rng.randrange(6))] for _ in range(2)]
    names = ["x0", "x1", "", *(name for name, _ in constants)]
    nodes = []
    for i in range(rng.randrange(1, 8)):
        domain, _, op = rng.choice([*sorted(RULES), "Constant", "Einsum"]).rpartition(":")
        outputs = [f"t{i}", f"u{i}"][: rng.randrange(3)]
        node = helper.make_node(op, rng.choices(names, k=rng.randrange(1, 6)), outputs, domain=domain)
        for name in rng.sample(sorted(WANTED), 3):
            lists = rng.choices(EXTREMES, k=rng.choice([1, 2, 4, 4, 200]))
            value = rng.choice([rng.choice(EXTREMES), lists, "SAME_UPPER", 0.5])
            node.attribute.append(helper.make_attribute(name, value))
        names += node.output
        nodes.append(node)
    inputs = [(f"x{i}", FLOAT, shape) for i, shape in enumerate(shapes)]
    return model_of(
        nodes, inputs, [(name, FLOAT, None) for name in names[-1:] if name], constants, domains=("ai.onnx.ml",)
    )


@pytest.mark.parametrize("seed", range(5))
def test_nonsense_is_unknown_or_refused_but_never_a_crash(seed, effort):
    rng = random.Random(seed)
    outcomes = Counter()
    for _ in range(100 * effort):
        try:
            outcomes[facts_of(nonsense(rng)).macs is None] += 1
        except ArtifactError as error:
            outcomes[error.code] += 1
    assert set(outcomes) <= {True, False, "model-unreadable"}
    assert outcomes[True]


def test_one_name_read_and_listed_many_times_costs_no_square():
    nodes = [helper.make_node("Relu", ["x"], ["y"])] * 4000
    model = model_of(nodes, [("x", INT8, [1])] * 4000, [("y", INT8, [1])])
    started = time.process_time()
    assert len(facts_of(model).inputs) == 4000
    assert time.process_time() - started < 20
