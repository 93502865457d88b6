"""The TFLite reader against the schema module, the interpreter's own lists, and files that lie."""

from __future__ import annotations

import random
import struct
import time

import numpy as np
import pytest

from edgekit import artifact
from edgekit.errors import ArtifactError
from edgekit.formats import read_facts
from edgekit.formats.facts import Budget
from edgekit.formats.tflite_schema import BUILTIN_OPERATORS, IN_PLACE, SUBGRAPH_SLOTS, TENSOR_TYPES, Slot
from edgekit.tensors import QuantParams


@pytest.fixture(scope="module")
def schema():
    from ai_edge_litert import schema_py_generated

    return schema_py_generated


def facts_of(data: bytes):
    return read_facts(artifact.from_bytes(data))


def enum(kind) -> dict[str, int]:
    return {name: number for name, number in vars(kind).items() if not name.startswith("_")}


def test_op_names_are_the_schemas(schema):
    assert {name: number for number, name in enumerate(BUILTIN_OPERATORS)} == enum(schema.BuiltinOperator)
    assert set(IN_PLACE) | set(SUBGRAPH_SLOTS) <= set(BUILTIN_OPERATORS)


def test_element_types_are_the_schemas(schema):
    ours = {name: number for number, (name, _) in enumerate(TENSOR_TYPES)}
    assert ours == {name.lower(): number for name, number in enum(schema.TensorType).items()}


def test_slots_are_the_schemas(schema):
    """Written by the schema module slot by slot, found by ours: see also every other test here."""
    import inspect

    for prefix, kind, names in [
        ("MODEL", schema.Model, {"OPERATOR_CODES": "OperatorCodes", "SUBGRAPHS": "Subgraphs", "BUFFERS": "Buffers",
                                 "METADATA": "Metadata", "SIGNATURES": "SignatureDefs", "VERSION": "Version",
                                 "DESCRIPTION": "Description", "EXTERNAL_GROUPS": "ExternalBufferGroups",
                                 "EXTERNAL_BUFFERS": "ExternalBuffers"}),
        ("TENSOR", schema.Tensor, {"SHAPE": "Shape", "TYPE": "Type", "BUFFER": "Buffer", "NAME": "Name",
                                   "QUANTIZATION": "Quantization", "VARIABLE": "IsVariable",
                                   "SIGNATURE": "ShapeSignature", "EXTERNAL": "ExternalBuffer"}),
        ("QUANT", schema.QuantizationParameters, {"SCALE": "Scale", "ZERO_POINT": "ZeroPoint",
                                                  "DETAILS_TYPE": "DetailsType", "AXIS": "QuantizedDimension"}),
        ("OP", schema.Operator, {"CODE": "OpcodeIndex", "INPUTS": "Inputs", "OUTPUTS": "Outputs",
                                 "OPTIONS": "BuiltinOptions", "OPTIONS_2": "BuiltinOptions2"}),
        ("CODE", schema.OperatorCode, {"OLD": "DeprecatedBuiltinCode", "CUSTOM": "CustomCode", "VERSION": "Version",
                                       "NEW": "BuiltinCode"}),
        ("BUFFER", schema.Buffer, {"DATA": "Data", "OFFSET": "Offset", "SIZE": "Size"}),
        ("SIGNATURE", schema.SignatureDef, {"INPUTS": "Inputs", "OUTPUTS": "Outputs", "KEY": "SignatureKey",
                                            "SUBGRAPH": "SubgraphIndex"}),
        ("EXTERNAL", schema.ExternalBuffer, {"LENGTH": "Length"}),
        ("BATCH_MATMUL", schema.BatchMatMulOptions, {"ADJ_X": "AdjX"}),
        ("LSTM", schema.LSTMOptions, {"KERNEL_TYPE": "KernelType"}),
    ]:  # fmt: skip
        for name, method in names.items():
            slot = getattr(Slot, f"{prefix}_{name}")
            assert f"Offset({4 + 2 * slot}))" in inspect.getsource(getattr(kind, method)), f"{prefix}_{name}"


def test_a_tiny_model(tiny_tflite):
    facts = facts_of(tiny_tflite)
    assert [spec.describe() for spec in (*facts.inputs, *facts.outputs)] == ["x float32 [N,4]", "y float32 [N,3]"]
    assert [spec.tensor for spec in (*facts.inputs, *facts.outputs)] == ["in:0", "out:0"]
    assert facts.op_counts() == {"FULLY_CONNECTED": 1, "SOFTMAX": 1}
    dense = facts.ops[0]
    assert (dense.name, dense.version, dense.inputs, dense.outputs) == ("h", 1, ("in:0", "w", "b"), ("h",))
    assert (dense.macs, dense.dtype, facts.macs) == (12, "float32", 12)
    assert (facts.parameters, facts.weight_bytes, facts.tensors) == (15, 60, 5)
    assert (facts.precision, facts.bytes, facts.description) == ("fp32", len(tiny_tflite), "built by a test")
    assert [(s.name, s.inputs, s.outputs) for s in facts.signatures] == [("serving_default", ("x",), ("y",))]


def test_without_a_signature_names_are_the_tensors(make_tflite):
    data = make_tflite(
        [{"name": "a", "shape": (2, 2), "dtype": "INT8", "quant": ([0.5], [-3], 0)},
         {"name": "", "shape": (2, 2), "dtype": "INT8", "quant": ([0.5, 0.25], [1, 2], 1)}],
        [("RELU", (0,), (1,), None)], (0,), (1,),
    )  # fmt: skip
    facts = facts_of(data)
    assert facts.inputs[0].name == "a"
    assert facts.inputs[0].tensor is None
    assert facts.inputs[0].quant == QuantParams((0.5,), (-3,))
    assert facts.outputs[0].name == "output_0"
    assert facts.outputs[0].quant == QuantParams((0.5, 0.25), (1, 2), axis=1)
    assert facts.precision == "int8"


def test_parameters_are_numbers_of_the_model(make_tflite):
    data = make_tflite(
        [{"name": "x", "shape": (1, 8), "dtype": "INT8", "quant": ([1.0], [0], 0)},
         {"name": "w", "shape": (2, 8), "dtype": "INT8", "quant": ([1.0, 2.0], [0, 0], 0), "data": np.ones(16, "i1")},
         {"name": "bias", "shape": (2,), "dtype": "INT32", "quant": ([1.0, 2.0], [0, 0], 0), "data": np.ones(2, "i4")},
         {"name": "h", "shape": (1, 2), "dtype": "INT8", "quant": ([1.0], [0], 0)},
         {"name": "shape", "shape": (2,), "dtype": "INT32", "data": np.array([2, 1], "i4")},
         {"name": "y", "shape": (2, 1), "dtype": "INT8", "quant": ([1.0], [0], 0)}],
        [("FULLY_CONNECTED", (0, 1, 2), (3,), None), ("RESHAPE", (3, 4), (5,), None)], (0,), (5,),
    )  # fmt: skip
    facts = facts_of(data)
    assert (facts.parameters, facts.weight_bytes, facts.macs) == (18, 16 + 8 + 8, 16)


@pytest.mark.parametrize(
    ("kind", "inputs", "outputs", "macs"),
    [
        ("CONV_2D", [(1, 8, 8, 3), (16, 3, 3, 3), (16,)], [(1, 4, 4, 16)], 4 * 4 * 16 * 27),
        ("CONV_2D", [(1, 8, 8, 4), (8, 3, 3, 2), (8,)], [(1, 8, 8, 8)], 64 * 8 * 18),
        ("DEPTHWISE_CONV_2D", [(1, 8, 8, 3), (1, 3, 3, 6), (6,)], [(1, 8, 8, 6)], 64 * 6 * 9),
        ("CONV_3D", [(1, 4, 4, 4, 2), (3, 3, 3, 2, 5), (5,)], [(1, 4, 4, 4, 5)], 64 * 5 * 54),
        ("TRANSPOSE_CONV", [(4,), (6, 3, 3, 2), (1, 4, 4, 2)], [(1, 8, 8, 6)], 16 * 2 * 54),
        ("FULLY_CONNECTED", [(5, 8), (3, 8), (3,)], [(5, 3)], 5 * 24),
        ("BATCH_MATMUL", [(2, 3, 4), (2, 4, 5)], [(2, 3, 5)], 2 * 3 * 4 * 5),
        ("SVDF", [(2, 10), (4, 10), (4, 7)], [(2, 4)], 2 * (40 + 28)),
        ("UNIDIRECTIONAL_SEQUENCE_RNN", [(1, 6, 3), (4, 3), (4, 4), (4,), (1, 4)], [(1, 6, 4)], 6 * (12 + 16)),
        ("CONV_2D", [(1, 8, 8, 3), (27,)], [(1, 4, 4, 16)], None),
        ("CONV_2D", [], [(1, 4, 4, 16)], None),
        ("STABLEHLO_CONVOLUTION", [(1, 2), (2, 1)], [(1, 1)], None),
        (("CUSTOM", "Mine"), [(1, 2)], [(1, 2)], None),
        (("CUSTOM", "TFLite_Detection_PostProcess"), [(1, 2)], [(1, 2)], 0),
        ("MAX_POOL_2D", [(1, 8, 8, 3)], [(1, 4, 4, 3)], 0),
    ],
)
def test_multiply_accumulates(make_tflite, kind, inputs, outputs, macs):
    tensors = [{"name": f"t{i}", "shape": s, "dtype": "FLOAT32"} for i, s in enumerate([*inputs, *outputs])]
    takes, gives = tuple(range(len(inputs))), tuple(range(len(inputs), len(tensors)))
    facts = facts_of(make_tflite(tensors, [(kind, takes, gives, None)], takes, gives))
    assert facts.ops[0].macs == macs == facts.macs
    assert facts.ops[0].kind == (f"CUSTOM:{kind[1]}" if isinstance(kind, tuple) else kind)


def test_an_adjoint_left_operand(make_tflite, schema):
    options = schema.BatchMatMulOptionsT()
    options.adjX = True
    shapes = [(2, 7, 3), (2, 7, 5), (2, 3, 5)]
    tensors = [{"name": f"t{i}", "shape": shape, "dtype": "FLOAT32"} for i, shape in enumerate(shapes)]
    assert facts_of(make_tflite(tensors, [("BATCH_MATMUL", (0, 1), (2,), options)], (0, 1), (2,))).macs == 2 * 7 * 15


def random_graph(rng: random.Random, schema):
    """Ops that need no scratch memory, wired at random; every tensor is [1, 4, 4, channels]."""
    tensors = [{"name": "x", "shape": (1, 4, 4, rng.randrange(1, 60)), "dtype": "FLOAT32"}]
    ops = []
    alive = [0]
    for step in range(rng.randrange(3, 25)):
        source = rng.choice(alive[-4:])
        channels = tensors[source]["shape"][3]
        kind = rng.choice(["RELU", "LOGISTIC", "ADD", "MUL", "CONCATENATION", "RESHAPE", "SOFTMAX", "MAX_POOL_2D"])
        takes, size, options = (source,), channels, None
        if kind in ("ADD", "MUL", "CONCATENATION"):
            others = [i for i in alive if kind == "CONCATENATION" or tensors[i]["shape"][3] == channels]
            takes = (source, rng.choice(others))
            options = {
                "ADD": schema.AddOptionsT,
                "MUL": schema.MulOptionsT,
                "CONCATENATION": schema.ConcatenationOptionsT,
            }[kind]()
            if kind == "CONCATENATION":
                options.axis = 3
                size = channels + tensors[takes[1]]["shape"][3]
        elif kind == "RESHAPE":
            tensors.append(
                {"name": f"s{step}", "shape": (4,), "dtype": "INT32", "data": np.array([1, 4, 4, channels], "i4")}
            )
            takes, options = (source, len(tensors) - 1), schema.ReshapeOptionsT()
            options.newShape = [1, 4, 4, channels]
        elif kind == "SOFTMAX":
            options = schema.SoftmaxOptionsT()
            options.beta = 1.0
        elif kind == "MAX_POOL_2D":
            options = schema.Pool2DOptionsT()
            options.strideW = options.strideH = options.filterWidth = options.filterHeight = 1
        tensors.append({"name": f"t{step}", "shape": (1, 4, 4, size), "dtype": "FLOAT32"})
        alive.append(len(tensors) - 1)
        ops.append((kind, takes, (alive[-1],), options))
    outputs = sorted({alive[-1], *(rng.choice(alive[1:]) for _ in range(rng.randrange(2)))})
    return tensors, ops, (0,), outputs


def interpreters_arena(data: bytes) -> int:
    """Bytes between the first and the last activation as the interpreter placed them."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    plain = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(model_content=data, experimental_op_resolver_type=plain, num_threads=1)
    interpreter.allocate_tensors()
    places = []
    for detail in interpreter.get_tensor_details():
        if detail["dtype"] == np.float32:
            view = interpreter.tensor(detail["index"])()
            places.append((view.__array_interface__["data"][0], view.nbytes))
    return max(at + size for at, size in places) - min(at for at, _ in places)


@pytest.mark.parametrize("seed", range(30))
def test_the_arena_is_planned_exactly_as_the_interpreter_does(make_tflite, schema, seed):
    data = make_tflite(*random_graph(random.Random(seed), schema))
    assert facts_of(data).arena_bytes == interpreters_arena(data)


SHARED = sorted(
    [
        "ic_resnet8/resnet8_fp32", "ic_resnet8/resnet8_int8", "kws_dscnn/kws_fp32", "kws_dscnn/kws_int8",
        "vww_mobilenet/vww_96_int8", "mnist_conv_tflite/conv_fc_mnist", "mnist_conv_tflite/conv_fc_mnist_a8w8",
        "mnist_lstm_tflite/lstm_fp32", "mnist_lstm_tflite/lstm_int8",
        "imagenet_mobilenet_tflite/mobilenet_v1_0.25_128_quant", "imagenet_mobilenet_tflite/mobilenet_v1_0.5_160_quant",
    ]
)  # fmt: skip


@pytest.mark.parametrize("name", SHARED)
def test_real_models_against_the_interpreter(shared, name):
    from ai_edge_litert.interpreter import Interpreter

    path = shared / "models" / f"{name}.tflite"
    facts = read_facts(artifact.read(path))
    interpreter = Interpreter(model_path=str(path))
    # The default delegate appends ops of its own; the file's tensors come first.
    details = interpreter.get_tensor_details()[: facts.tensors]
    ops = [op for op in interpreter._get_ops_details() if op["op_name"] != "DELEGATE"]
    assert [op.kind for op in facts.ops] == [op["op_name"] for op in ops]
    names = {detail["index"]: detail["name"] for detail in details}
    assert [op.outputs for op in facts.ops] == [tuple(names[i] for i in op["outputs"]) for op in ops]
    for ours, theirs in [
        (facts.inputs, interpreter.get_input_details()),
        (facts.outputs, interpreter.get_output_details()),
    ]:
        assert len(ours) == len(theirs)
        for spec, detail in zip(ours, theirs, strict=True):
            assert spec.key == detail["name"]
            assert spec.dtype == np.dtype(detail["dtype"]).name
            assert [size or -1 for size in spec.shape] == detail["shape_signature"].tolist()
            scale, point = detail["quantization"]
            assert (spec.quant is None) == (scale == 0)
            if spec.quant:
                assert (spec.quant.scale[0], spec.quant.zero_point[0]) == (pytest.approx(scale), point)
    held = sum(
        int(np.prod(d["shape"])) * np.dtype(d["dtype"]).itemsize for d in details if d["index"] in constants(path)
    )
    assert facts.weight_bytes == held
    assert facts.precision in name or facts.precision in {
        "kws_dscnn/kws_fp32": "dynamic", "mnist_conv_tflite/conv_fc_mnist": "fp32",
    }.get(name, "int8")  # fmt: skip


def constants(path) -> set[int]:
    """Tensors with data, by the schema module, each buffer once."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    found = {}
    for index, tensor in enumerate(model.subgraphs[0].tensors):
        if model.buffers[tensor.buffer].data is not None and len(model.buffers[tensor.buffer].data):
            found.setdefault(tensor.buffer, index)
    return set(found.values())


@pytest.mark.parametrize(
    ("name", "macs"),
    [("imagenet_mobilenet_tflite/mobilenet_v1_0.25_128_quant", 14e6),
     ("imagenet_mobilenet_tflite/mobilenet_v1_0.5_160_quant", 77e6), ("ic_resnet8/resnet8_fp32", 12.5e6)],
)  # fmt: skip
def test_published_work(shared, name, macs):
    assert read_facts(artifact.read(shared / "models" / f"{name}.tflite")).macs == pytest.approx(macs, rel=0.04)


# Files that lie -------------------------------------------------------------------------------------------------------


def refused(data: bytes, message: str) -> None:
    with pytest.raises(ArtifactError, match=message) as caught:
        facts_of(data)
    assert caught.value.code == "model-unreadable"


@pytest.mark.parametrize(
    ("tensors", "ops", "inputs", "outputs", "message"),
    [
        ([], [("RELU", (0,), (1,), None)], (), (), "tensor 0 is named, of 0"),
        ([{"name": "x", "shape": (1,), "dtype": "FLOAT32"}], [], (7,), (), "tensor 7 is named, of 1"),
        ([{"name": "x", "shape": (1,), "dtype": "FLOAT32"}], [], (-1,), (), "tensor -1 is named, of 1"),
        ([{"name": "x", "shape": (-5,), "dtype": "FLOAT32"}], [], (), (), "negative size"),
        ([{"name": "x", "shape": (1,) * 65, "dtype": "FLOAT32"}], [], (), (), "65 axes"),
        ([{"name": "x", "shape": (2**31 - 1,) * 3, "dtype": "FLOAT32"}], [], (), (), "elements"),
        (
            [{"name": "x", "shape": (1,), "dtype": "INT8", "quant": ([0.0], [0], 0)}],
            [],
            (0,),
            (),
            "finite and positive",
        ),
    ],
)
def test_contradictions_are_refused(make_tflite, tensors, ops, inputs, outputs, message):
    refused(make_tflite(tensors, ops, inputs, outputs), message)


def test_a_loop_between_subgraphs_has_no_count_and_ends(make_tflite, schema):
    options = schema.CallOptionsT()
    options.subgraph = 0
    tensors = [{"name": "x", "shape": (1, 2), "dtype": "FLOAT32"}, {"name": "y", "shape": (1, 2), "dtype": "FLOAT32"}]
    facts = facts_of(make_tflite(tensors, [("CALL", (0,), (1,), options)] * 3, (0,), (1,)))
    assert facts.macs is None
    options.subgraph = 5
    refused(make_tflite(tensors, [("CALL", (0,), (1,), options)], (0,), (1,)), "calls subgraph 5, of 1")


def bomb(count: int) -> bytes:
    """`count` subgraphs that are one table, whose `count` ops are one table: count * count ops in 8 * count bytes."""
    data = bytearray(struct.pack("<I4s", 0, b"TFL3"))

    def vtable(size: int, *fields: int) -> int:
        data.extend(struct.pack(f"<{2 + len(fields)}H", 4 + 2 * len(fields), size, *fields))
        return len(data) - 4 - 2 * len(fields)

    def vector_to_one_table() -> None:
        """The table stands right behind the vector."""
        data.extend(struct.pack("<I", count))
        data.extend(b"".join(struct.pack("<I", 4 * (count - i)) for i in range(count)))

    model, graph, op = vtable(16, 4, 8, 12), vtable(8, 0, 0, 0, 4), vtable(4)
    data.extend(bytes(-len(data) % 4))
    data[:4] = struct.pack("<I", len(data))
    data.extend(struct.pack("<iIII", len(data) - model, 3, 8, 16))
    data.extend(struct.pack("<IIi", 1, 4, len(data) + 8 - op))  # one op code, all defaults: ADD
    vector_to_one_table()
    data.extend(struct.pack("<iI", len(data) - graph, 4))
    vector_to_one_table()
    data.extend(struct.pack("<i", len(data) - op))
    return bytes(data)


def test_a_small_file_cannot_describe_endless_work():
    """Offsets that all lead to one table: the classic bomb of formats with pointers."""
    assert facts_of(bomb(20)).op_counts() == {"ADD": 400}
    assert Budget(8 * 2000).left < 2000 * 2000
    refused(bomb(2000), "more than a reader can walk through")
    assert Budget(1 << 30).left == Budget.MOST
    started = time.process_time()
    refused(bomb(100_000), "more than a reader can walk through")
    assert time.process_time() - started < 60, "bounded by the budget, not by the square of the count"


@pytest.mark.parametrize("seed", range(10))
def test_mutated_files_give_facts_or_a_typed_error(tiny_tflite, make_tflite, schema, mutated, seed, effort):
    rng = random.Random(seed)
    whole = make_tflite(*random_graph(rng, schema))
    outcomes = set()
    for _ in range(60 * effort):
        data = mutated(rng, rng.choice((tiny_tflite, whole)))
        try:
            facts_of(data).op_counts()
            outcomes.add("facts")
        except ArtifactError as error:
            outcomes.add(error.code)
    assert outcomes <= {"facts", "model-unreadable", "artifact-unknown"}
    assert {"facts", "model-unreadable"} <= outcomes


def test_every_truncation_is_noticed(tiny_tflite):
    for length in range(8, len(tiny_tflite) - 3):
        refused(tiny_tflite[:length], "cut short|runs past|outside")


def test_reading_needs_no_engine_and_no_numpy(tiny_tflite, tiny_onnx, tmp_path):
    import subprocess
    import sys

    (tmp_path / "a.tflite").write_bytes(tiny_tflite)
    (tmp_path / "a.onnx").write_bytes(tiny_onnx)
    code = (
        "import sys; from edgekit.inspect import inspect\n"
        f"for name in ('a.tflite', 'a.onnx'): inspect({str(tmp_path)!r} + '/' + name).encode()\n"
        "print(sorted({m.split('.')[0] for m in sys.modules} & {'numpy', 'onnx', 'onnxruntime', 'ai_edge_litert',"
        " 'flatbuffers', 'google', 'tensorflow'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
