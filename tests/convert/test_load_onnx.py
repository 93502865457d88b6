"""ONNX sources: every way to keep weights, every kind of interface, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_sources import FLOAT, INT64, agrees, load, lowered, model_of

from edgekit import errors
from edgekit.converters import load_onnx
from edgekit.converters.from_onnx import current
from edgekit.converters.sources import identify


def relu(shape=("N", 4), **more):
    return model_of([helper.make_node("Relu", ["x"], ["y"])], {"x": (FLOAT, shape)}, {"y": (FLOAT, shape)}, **more)


def dense(weights, **more):
    """y = x @ weights."""
    sizes = {"x": (FLOAT, ["N", weights.shape[0]])}, {"y": (FLOAT, ["N", weights.shape[1]])}
    return model_of([helper.make_node("MatMul", ["x", "w"], ["y"])], *sizes, {"w": weights}, **more)


WEIGHTS = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)
X = np.random.default_rng(2).normal(size=(5, 4)).astype(np.float32)


def body(nodes, outputs, inputs=(), constants=()):
    return helper.make_graph(
        nodes,
        "body",
        [helper.make_tensor_value_info(name, *about) for name, about in inputs],
        [helper.make_tensor_value_info(name, *about) for name, about in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants],
    )


# -- Ways to keep weights ---------------------------------------------------------------------------------------


def external(model, **places) -> onnx.ModelProto:
    """`model` with constants moved out: name -> {"location": ..., "offset": ..., "length": ...}."""
    for tensor in model.graph.initializer:
        if tensor.name in places:
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in places[tensor.name].items():
                tensor.external_data.add(key=key, value=str(value))
    return model


def two_dense():
    """y = x @ w @ v."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("MatMul", ["h", "v"], ["y"])]
    constants = {"w": WEIGHTS, "v": np.float32([[1, 2], [3, 4], [5, 6]])}
    return model_of(nodes, {"x": (FLOAT, ["N", 4])}, {"y": (FLOAT, ["N", 2])}, constants)


def test_weights_listed_as_inputs_are_constants(tmp_path):
    listed = dense(WEIGHTS, opset=8, ir_version=3)
    listed.graph.input.add().CopyFrom(helper.make_tensor_value_info("w", FLOAT, [4, 3]))
    model = load(listed, tmp_path)
    assert [spec.describe() for spec in model.facts.inputs] == ["x float32 [N,4]"]
    assert "1 weights that were listed as inputs became constants" in model.facts.notes
    assert agrees(model, tmp_path, {"x": X})["y"] == pytest.approx(X @ WEIGHTS, abs=1e-5)


def test_an_old_file_without_listed_weights_is_read(tmp_path):
    assert load(dense(WEIGHTS, opset=8, ir_version=3), tmp_path).run({"x": X})["y"].shape == (5, 3)


def test_weights_in_several_files_offsets_and_folders(tmp_path):
    v = np.float32([[1, 2], [3, 4], [5, 6]])
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "w.bin").write_bytes(b"\xff" * 64 + WEIGHTS.tobytes() + b"\xff" * 5)
    (tmp_path / "v.bin").write_bytes(v.tobytes())
    places = {
        "w": {"location": "deep/er/w.bin", "offset": 64, "length": WEIGHTS.nbytes},
        "v": {"location": "./v.bin"},
    }
    model = load(external(two_dense(), **places), tmp_path)
    answers = agrees(model, tmp_path, {"x": X})
    np.testing.assert_allclose(answers["y"], X @ WEIGHTS @ v, rtol=1e-5)
    assert not any(t.external_data for t in lowered(model, tmp_path)["proto"].graph.initializer)


def test_the_digest_covers_the_weights_beside_the_file(tmp_path):
    (tmp_path / "w.bin").write_bytes(WEIGHTS.tobytes())
    path = tmp_path / "m.onnx"
    path.write_bytes(external(dense(WEIGHTS), w={"location": "w.bin"}).SerializeToString())
    before = identify(path)
    assert before.bytes == path.stat().st_size + WEIGHTS.nbytes
    (tmp_path / "w.bin").write_bytes((WEIGHTS + 1).tobytes())
    assert identify(path).sha256 != before.sha256


def test_weights_of_a_body_may_be_external_too(tmp_path):
    grown = body(
        [helper.make_node("Mul", ["x", "factor"], ["a"])],
        [("a", (FLOAT, ["N", 4]))],
        constants=[("factor", np.float32([[2, 3, 4, 5]]))],
    )
    tensor = grown.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="f.bin")
    other = body([helper.make_node("Neg", ["x"], ["b"])], [("b", (FLOAT, ["N", 4]))])
    node = helper.make_node("If", ["yes"], ["y"], then_branch=grown, else_branch=other)
    model = model_of([node], {"x": (FLOAT, ["N", 4])}, {"y": (FLOAT, ["N", 4])}, {"yes": np.bool_(True)})
    (tmp_path / "f.bin").write_bytes(np.float32([[2, 3, 4, 5]]).tobytes())
    np.testing.assert_allclose(load(model, tmp_path).run({"x": X})["y"], X * np.float32([[2, 3, 4, 5]]))


ESCAPES = {
    "up": "../w.bin", "absolute": "/etc/hostname", "through a folder": "deep/../../w.bin", "none": "",
    "dots": ".", "windows": "..\\w.bin", "drive": "C:/w.bin", "null": "w\0.bin", "folder": "deep",
}  # fmt: skip


@pytest.mark.parametrize("how", ESCAPES)
def test_weights_outside_the_folder_are_refused(how, tmp_path):
    folder = tmp_path / "model"
    (folder / "deep").mkdir(parents=True)
    (tmp_path / "w.bin").write_bytes(WEIGHTS.tobytes())
    with pytest.raises(errors.UnsafeSourceError) as caught:
        load(external(dense(WEIGHTS), w={"location": ESCAPES[how]}), folder)
    assert caught.value.code == "source-unsafe-path"


@pytest.mark.parametrize("how", ["symbolic", "hard", "folder", "pipe"])
def test_weights_behind_a_link_are_refused(how, tmp_path):
    folder, outside = tmp_path / "model", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    (outside / "w.bin").write_bytes(WEIGHTS.tobytes())
    location = "w.bin"
    if how == "symbolic":
        (folder / "w.bin").symlink_to(outside / "w.bin")
    elif how == "hard":
        os.link(outside / "w.bin", folder / "w.bin")
    elif how == "pipe":
        os.mkfifo(folder / "w.bin")
    else:
        (folder / "sub").symlink_to(outside)
        location = "sub/w.bin"
    with pytest.raises(errors.UnsafeSourceError, match="weights lie") as caught:
        load(external(dense(WEIGHTS), w={"location": location}), folder)
    assert caught.value.code == "source-unsafe-path"


def test_a_link_inside_attributes_is_seen_as_well(tmp_path):
    """Where the cheap scan does not look, the loader does."""
    (tmp_path / "w.bin").symlink_to("/etc/hostname")
    tensor = numpy_helper.from_array(WEIGHTS, "w")
    node = helper.make_node("Constant", [], ["w"], value=tensor)
    inside = node.attribute[0].t
    inside.ClearField("raw_data")
    inside.data_location = TensorProto.EXTERNAL
    inside.external_data.add(key="location", value="w.bin")
    model = dense(WEIGHTS)
    del model.graph.initializer[:]
    model.graph.node.insert(0, node)
    with pytest.raises(errors.UnsafeSourceError, match="symbolic link"):
        load(model, tmp_path)


def test_missing_weights_are_named(tmp_path):
    with pytest.raises(errors.SourceError, match=r"w\.bin") as caught:
        load(external(dense(WEIGHTS), w={"location": "w.bin"}), tmp_path)
    assert caught.value.code == "source-weights-missing"


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ({"offset": 40}, "bytes; its shape"),
        ({"offset": 40, "length": 48}, "lie at bytes 40 to 88 of w.bin, which has 48"),
        ({"offset": -1}, "lie at bytes -1"),
        ({"length": -5}, "lie at bytes 0 to -5"),
        ({"offset": "many"}, "is no number"),
        ({"length": 12}, "has 12 bytes; its shape"),
    ],
)
def test_wrong_places_of_weights_are_refused(place, message, tmp_path):
    (tmp_path / "w.bin").write_bytes(WEIGHTS.tobytes())
    with pytest.raises(errors.SourceError, match=message) as caught:
        load(external(dense(WEIGHTS), w={"location": "w.bin", **place}), tmp_path)
    assert caught.value.code == "source-unreadable"


def test_weights_over_two_gigabytes_are_refused(tmp_path):
    """Sparse on disk: nothing of that size is read."""
    with open(tmp_path / "w.bin", "wb") as file:
        file.truncate((2 << 30) + 64)
    model = external(dense(WEIGHTS), w={"location": "w.bin"})
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    source = load_onnx_source(path)
    with pytest.raises(errors.SourceError) as caught:
        load_onnx.load(source)
    assert caught.value.code == "source-too-large"


def load_onnx_source(path: Path):
    from edgekit.converters.stages import Source

    return Source(str(path), "onnx", "", 0)


def sparse(shape=(4, 3), positions=(0, 7), where="weights"):
    """y = x @ w, w all zeros but for a 2 and a 3."""
    values = numpy_helper.from_array(np.float32([2, 3]), "w")
    made = helper.make_sparse_tensor(values, numpy_helper.from_array(np.int64(positions), "indices"), list(shape))
    model = dense(WEIGHTS)
    del model.graph.initializer[:]
    if where == "weights":
        model.graph.sparse_initializer.append(made)
    else:
        model.graph.node.insert(0, helper.make_node("Constant", [], ["w"], sparse_value=made))
    return model


@pytest.mark.parametrize("where", ["weights", "nodes"])
@pytest.mark.parametrize("positions", [(0, 7), ((0, 0), (2, 1))])
def test_sparse_weights_are_written_out(where, positions, tmp_path):
    model = load(sparse(positions=positions, where=where), tmp_path)
    thick = np.zeros((4, 3), np.float32)
    thick[0, 0], thick[2, 1] = 2, 3
    np.testing.assert_allclose(agrees(model, tmp_path, {"x": X})["y"], X @ thick, rtol=1e-5)
    assert "1 sparse weights were written out in full" in model.facts.notes
    (stored,) = lowered(model, tmp_path)["proto"].graph.initializer
    np.testing.assert_array_equal(numpy_helper.to_array(stored), thick)


@pytest.mark.parametrize(
    ("about", "code"),
    [
        ({"positions": (0, 12)}, "source-unreadable"),
        ({"positions": (-1, 3)}, "source-unreadable"),
        ({"positions": ((0, 0), (4, 0))}, "source-unreadable"),
        ({"positions": (0, 1, 2)}, "source-unreadable"),
        ({"positions": ((0, 0, 0), (1, 1, 1))}, "source-unreadable"),
        ({"shape": (1 << 20, 1 << 20)}, "source-too-large"),
        ({"shape": (-4, 3)}, "source-too-large"),
    ],
)
def test_sparse_weights_that_lie_are_refused(about, code, tmp_path):
    with pytest.raises(errors.SourceError) as caught:
        load(sparse(**about), tmp_path)
    assert caught.value.code == code


@pytest.mark.parametrize("change", ["short", "long", "negative", "huge"])
def test_weights_that_contradict_their_shape_are_refused(change, tmp_path):
    model = dense(WEIGHTS)
    tensor = model.graph.initializer[0]
    if change in ("short", "long"):
        tensor.raw_data = tensor.raw_data[:-4] if change == "short" else tensor.raw_data + b"\0" * 4
    else:
        tensor.dims[0] = -4 if change == "negative" else 1 << 40
    with pytest.raises(errors.SourceError) as caught:
        load(model, tmp_path)
    assert caught.value.code == ("source-unreadable" if change in ("short", "long") else "source-too-large")


# -- Structure --------------------------------------------------------------------------------------------------


def test_local_functions_are_inlined(tmp_path):
    doubled = helper.make_function(
        "mine", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 17)]
    )
    nodes = [helper.make_node("Twice", ["x"], ["h"], domain="mine"), helper.make_node("Relu", ["h"], ["y"])]
    model = model_of(
        nodes, {"x": (FLOAT, ["N", 4])}, {"y": (FLOAT, ["N", 4])}, domains=[("mine", 1)], functions=[doubled]
    )
    loaded = load(model, tmp_path)
    assert {node.op_type for node in loaded.handle.graph.node} == {"Add", "Relu"}
    np.testing.assert_allclose(agrees(loaded, tmp_path, {"x": X})["y"], np.maximum(2 * X, 0))


def test_nodes_out_of_order_are_put_in_order(tmp_path):
    model = two_dense()
    nodes = list(model.graph.node)[::-1]
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    loaded = load(model, tmp_path)
    assert [node.output[0] for node in loaded.handle.graph.node] == ["h", "y"]


def test_nodes_in_a_circle_are_named(tmp_path):
    nodes = [
        helper.make_node("Add", ["x", "b"], ["a"], "first"),
        helper.make_node("Relu", ["a"], ["b"], "second"),
        helper.make_node("Relu", ["a"], ["y"]),
    ]
    with pytest.raises(errors.SourceError, match="circle: first, second") as caught:
        load(model_of(nodes, {"x": (FLOAT, [1])}, {"y": (FLOAT, [1])}), tmp_path)
    assert caught.value.code == "source-unreadable"


@pytest.mark.parametrize("depth", [10, 30, 40])
def test_bodies_nest_only_so_deep(depth, tmp_path):
    """Too deep for us or for protobuf, whoever notices first."""
    made = body([helper.make_node("Relu", ["x"], ["y"])], [("y", (FLOAT, ["N", 4]))]).SerializeToString()
    other = body([helper.make_node("Neg", ["x"], ["y"])], [("y", (FLOAT, ["N", 4]))]).SerializeToString()
    outputs = helper.make_tensor_value_info("y", FLOAT, ["N", 4]).SerializeToString()
    for level in range(depth):
        node = helper.make_node("If", ["yes"], [f"y{level}" if level < depth - 1 else "y"]).SerializeToString()
        for name, graph in (("then_branch", made), ("else_branch", other)):
            node += field(5, field(1, name.encode()) + field(6, graph) + b"\xa0\x01\x05")
        result = helper.make_tensor_value_info(f"y{level}", FLOAT, ["N", 4]).SerializeToString()
        made = field(1, node) + field(2, b"deep") + field(12, result)
    constant = numpy_helper.from_array(np.bool_(True), "yes").SerializeToString()
    whole = field(1, node) + field(2, b"g") + field(5, constant) + field(12, outputs)
    whole += field(11, helper.make_tensor_value_info("x", FLOAT, ["N", 4]).SerializeToString())
    data = b"\x08\x08" + field(7, whole) + field(8, b"\x10\x11")
    if depth < 32:
        np.testing.assert_allclose(load(data, tmp_path).run({"x": X})["y"], np.maximum(X, 0))
        return
    with pytest.raises(errors.SourceError) as caught:
        load(data, tmp_path)
    assert caught.value.code == "source-unreadable"


def field(number: int, content: bytes) -> bytes:
    """A length-delimited protobuf field."""
    size, length = len(content), b""
    while True:
        size, low = size >> 7, size & 0x7F
        length += bytes([low | (0x80 if size else 0)])
        if not size:
            return bytes([number << 3 | 2]) + length + content


def test_a_file_without_a_graph_is_refused(tmp_path):
    model = relu()
    del model.graph.node[:], model.graph.output[:]
    with pytest.raises(errors.SourceError, match="holds no graph") as caught:
        load(model, tmp_path)
    assert caught.value.code == "source-unreadable"


def test_what_breaks_onnx_rules_is_refused(tmp_path):
    model = model_of([helper.make_node("Relu", ["nowhere"], ["y"])], {"x": (FLOAT, [1])}, {"y": (FLOAT, [1])})
    with pytest.raises(errors.SourceError, match="breaks ONNX' rules") as caught:
        load(model, tmp_path)
    assert caught.value.code == "source-unreadable"


def test_damaged_protobuf_is_refused(tmp_path):
    data = relu().SerializeToString()
    path = tmp_path / "m.onnx"
    at = data.index(b"Relu")
    path.write_bytes(data[: at - 2] + b"\xff\xff" + data[at:])
    with pytest.raises(errors.SourceError) as caught:
        load_onnx.load(load_onnx_source(path))
    assert caught.value.code in ("source-unreadable", "artifact-damaged")


def test_what_onnxruntime_refuses_is_refused_with_its_words(tmp_path):
    model = model_of(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": (FLOAT, ["N", 4])}, {"y": (FLOAT, None)},
        {"w": np.zeros((5, 3), np.float32)},
    )  # fmt: skip
    with pytest.raises(errors.SourceError, match="onnxruntime refuses") as caught:
        load(model, tmp_path)
    assert caught.value.code == "source-unreadable"


@pytest.mark.parametrize("opset", [1, 6])
def test_too_old_opsets_are_refused(opset, tmp_path):
    with pytest.raises(errors.SourceError, match=f"opset {opset}; 7 is the oldest") as caught:
        load(relu(opset=opset, ir_version=3), tmp_path)
    assert caught.value.code == "source-opset"


def test_no_opset_at_all_is_refused(tmp_path):
    model = relu()
    del model.opset_import[:]
    with pytest.raises(errors.SourceError, match="opset none") as caught:
        load(model, tmp_path)
    assert caught.value.code == "source-opset"


def test_too_new_opsets_are_refused_by_name(tmp_path):
    with pytest.raises(errors.SourceError, match="opset 99") as caught:
        load(relu(opset=99, ir_version=10), tmp_path)
    assert caught.value.code == "source-opset"


def test_foreign_operators_are_refused_by_name(tmp_path):
    model = model_of(
        [helper.make_node("Warp", ["x"], ["y"], domain="acme")], {"x": (FLOAT, [1])}, {"y": (FLOAT, [1])},
        domains=[("acme", 1)],
    )  # fmt: skip
    with pytest.raises(errors.SourceError, match=r"acme\.Warp") as caught:
        load(model, tmp_path)
    assert caught.value.code == "source-custom-ops"
    assert caught.value.details["ops"] == ["acme.Warp"]


def test_operators_of_onnxruntime_itself_are_read(tmp_path):
    model = model_of(
        [helper.make_node("FastGelu", ["x"], ["y"], domain="com.microsoft")], {"x": (FLOAT, ["N", 4])},
        {"y": (FLOAT, ["N", 4])}, domains=[("com.microsoft", 1)],
    )  # fmt: skip
    agrees(load(model, tmp_path), tmp_path, {"x": X})


def test_classic_estimators_are_read(tmp_path):
    model = model_of(
        [
            helper.make_node("Scaler", ["x"], ["s"], domain="ai.onnx.ml", offset=[0.5], scale=[2.0]),
            helper.make_node(
                "LinearClassifier", ["s"], ["label", "y"], domain="ai.onnx.ml", post_transform="SOFTMAX",
                coefficients=[1.0, -1, 2, 0, -1, 1, 0, 2, 0, 0, 1, 1], intercepts=[0.0, 0.5, -0.5],
                classlabels_ints=[0, 1, 2],
            ),
        ],
        {"x": (FLOAT, ["N", 4])}, {"label": (INT64, ["N"]), "y": (FLOAT, ["N", 3])}, domains=[("ai.onnx.ml", 3)],
    )  # fmt: skip
    answers = agrees(load(model, tmp_path), tmp_path, {"x": X})
    np.testing.assert_allclose(answers["y"].sum(1), 1, rtol=1e-5)
    assert (answers["label"] == answers["y"].argmax(1)).all()


@pytest.mark.parametrize("imported", [[], [""], ["", ""], ["ai.onnx"], ["", "ai.onnx"]])
def test_the_standard_opset_is_imported_once(imported, tmp_path):
    """Quantizers and optimizers look for exactly one, though no operator needs it."""
    node = helper.make_node("Scaler", ["x"], ["y"], domain="ai.onnx.ml", offset=[0.5], scale=[2.0])
    model = model_of([node], {"x": (FLOAT, ["N", 4])}, {"y": (FLOAT, ["N", 4])}, domains=[("ai.onnx.ml", 3)])
    del model.opset_import[0]
    for domain in imported:
        model.opset_import.add(domain=domain, version=17)
    loaded = load(model, tmp_path)
    np.testing.assert_allclose(agrees(loaded, tmp_path, {"x": X})["y"], (X - 0.5) * 2, rtol=1e-5)
    found = [entry.version for entry in lowered(loaded, tmp_path)["proto"].opset_import if not entry.domain]
    assert found == [17 if imported else current.TARGET]


def training(kind):
    if kind == "dropout":
        nodes = [helper.make_node("Dropout", ["x", "ratio", "on"], ["y"], "drop")]
        constants = {"ratio": np.float32(0.5), "on": np.bool_(True)}
        return model_of(nodes, {"x": (FLOAT, ["N", 4])}, {"y": (FLOAT, ["N", 4])}, constants)
    constants = {name: np.ones(4, np.float32) for name in "abcd"}
    names = ["x", *"abcd"]
    if kind == "normalization":
        node = helper.make_node("BatchNormalization", names, ["y", "m", "v"], "norm", training_mode=1)
        return model_of([node], {"x": (FLOAT, ["N", 4])}, {"y": (FLOAT, ["N", 4])}, constants)
    node = helper.make_node("BatchNormalization", names, ["y", "m", "v", "sm", "sv"], "norm")
    return model_of([node], {"x": (FLOAT, ["N", 4])}, {"y": (FLOAT, ["N", 4])}, constants, opset=9)


@pytest.mark.parametrize(("kind", "name"), [("dropout", "drop"), ("normalization", "norm"), ("old", "norm")])
def test_models_in_training_mode_are_refused_by_name(kind, name, tmp_path):
    with pytest.raises(errors.SourceError, match=name) as caught:
        load(training(kind), tmp_path)
    assert caught.value.code == "source-training-mode"
    assert "eval()" in caught.value.next_step


@pytest.mark.parametrize("where", ["weights", "nodes"])
def test_dropout_that_is_off_is_no_training(where, tmp_path):
    model = training("dropout")
    if where == "weights":
        model.graph.initializer[1].CopyFrom(numpy_helper.from_array(np.bool_(False), "on"))
    else:
        del model.graph.initializer[1]
        for name, value in (("on", False), ("unused", True)):
            node = helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.bool_(value)))
            model.graph.node.insert(0, node)
    np.testing.assert_array_equal(agrees(load(model, tmp_path), tmp_path, {"x": X})["y"], X)


def test_random_answers_fail_the_comparison_not_the_load(tmp_path):
    """A seedless RandomNormal is read; that its answers cannot be proved is for the verification to say."""
    nodes = [helper.make_node("RandomNormalLike", ["x"], ["r"]), helper.make_node("Add", ["x", "r"], ["y"])]
    model = load(model_of(nodes, {"x": (FLOAT, ["N", 4])}, {"y": (FLOAT, ["N", 4])}), tmp_path)
    assert (model.run({"x": X})["y"] != model.run({"x": X})["y"]).any()


# -- Interfaces -------------------------------------------------------------------------------------------------


def test_free_sizes_have_names_and_can_be_fixed(tmp_path):
    nodes = [helper.make_node("Add", ["a", "b"], ["y"])]
    sizes = {"a": (FLOAT, ["batch", "time", 3]), "b": (FLOAT, ["batch", "time", 3])}
    model = model_of(nodes, sizes, {"y": (FLOAT, ["batch", "time", 3])})
    free = load(model, tmp_path)
    assert [spec.describe() for spec in free.facts.inputs] == ["a float32 [N,N,3]", "b float32 [N,N,3]"]
    fixed = load(model, tmp_path, shapes={"a": (None, 7, 3)})
    assert [spec.shape for spec in (*fixed.facts.inputs, *fixed.facts.outputs)] == [(None, 7, 3)] * 3
    answers = agrees(fixed, tmp_path, {"a": np.ones((2, 7, 3), np.float32), "b": np.ones((2, 7, 3), np.float32)})
    assert answers["y"].shape == (2, 7, 3)


@pytest.mark.parametrize(
    ("shapes", "code"),
    [
        ({"nobody": (1, 4)}, "input-unknown"),
        ({"x": (1, 5)}, "shape-conflict"),
        ({"x": (1, 4, 1)}, "shape-conflict"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(shapes, code, tmp_path):
    with pytest.raises(errors.UsageError) as caught:
        load(dense(WEIGHTS), tmp_path, shapes=shapes)
    assert caught.value.code == code


def test_sizes_that_only_another_branch_takes_are_named_as_the_reason(tmp_path):
    def branch(name, width):
        weights = numpy_helper.from_array(np.ones((width, 2), np.float32), f"{name}_w")
        node = helper.make_node("MatMul", ["x", f"{name}_w"], [f"{name}_y"], f"{name}_product")
        made = helper.make_tensor_value_info(f"{name}_y", FLOAT, None)
        return helper.make_graph([node], name, [], [made], [weights])

    nodes = [helper.make_node("If", ["which"], ["y"], then_branch=branch("a", 4), else_branch=branch("b", 8))]
    inputs = {"x": (FLOAT, ["batch", "time"]), "which": (TensorProto.BOOL, [])}
    model = model_of(nodes, inputs, {"y": (FLOAT, None)})
    load(model, tmp_path)
    with pytest.raises(errors.UsageError, match="does not fit the sizes that were given") as caught:
        load(model, tmp_path, shapes={"x": (1, 4)})
    assert caught.value.code == "shape-conflict"


def test_one_symbol_cannot_be_two_sizes(tmp_path):
    nodes = [helper.make_node("Add", ["a", "b"], ["y"])]
    model = model_of(nodes, {"a": (FLOAT, ["N"]), "b": (FLOAT, ["N"])}, {"y": (FLOAT, ["N"])})
    with pytest.raises(errors.UsageError, match="N would be 2 and 3 at once") as caught:
        load(model, tmp_path, shapes={"a": (2,), "b": (3,)})
    assert caught.value.code == "shape-conflict"


def test_zero_and_minus_one_are_free_sizes(tmp_path):
    model = relu(shape=(0, 4))
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = -1
    loaded = load(model, tmp_path)
    assert [spec.shape for spec in (*loaded.facts.inputs, *loaded.facts.outputs)] == [(None, 4), (None, 4)]


def test_outputs_without_a_shape_have_the_engines(tmp_path):
    model = dense(WEIGHTS)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    loaded = load(model, tmp_path)
    assert loaded.facts.outputs[0].shape == (None, 3)
    agrees(loaded, tmp_path, {"x": X})


def test_inputs_without_a_rank_are_refused(tmp_path):
    model = relu()
    model.graph.input[0].type.tensor_type.ClearField("shape")
    with pytest.raises(errors.SourceError, match="no fixed number of dimensions") as caught:
        load(model, tmp_path)
    assert caught.value.code == "source-rank"


def test_inputs_of_absurd_sizes_are_refused(tmp_path):
    with pytest.raises(errors.SourceError, match="elements") as caught:
        load(relu(shape=(1 << 20, 1 << 20)), tmp_path)
    assert caught.value.code == "source-too-large"


@pytest.mark.parametrize(
    ("kind", "code"),
    [("string", "source-dtype"), ("bfloat16", "source-dtype"), ("float8e5m2", "source-dtype"), ("int4", "source-dtype"),
     ("complex64", "source-dtype"), ("sequence", "source-not-tensor"), ("optional", "source-not-tensor")],
)  # fmt: skip
def test_types_that_no_device_takes_are_refused(kind, code, tmp_path):
    model = model_of([helper.make_node("Identity", ["x"], ["y"])], {"x": (FLOAT, [2])}, {"y": (FLOAT, [2])}, opset=21)
    for value in (model.graph.input[0], model.graph.output[0]):
        about = value.type.tensor_type
        if kind in ("sequence", "optional"):
            tensor = helper.make_tensor_type_proto(FLOAT, [2])
            make = helper.make_sequence_type_proto if kind == "sequence" else helper.make_optional_type_proto
            value.type.CopyFrom(make(tensor))
        else:
            about.elem_type = getattr(TensorProto, kind.upper())
    with pytest.raises(errors.SourceError, match="'x'") as caught:
        load(model, tmp_path)
    assert caught.value.code == code


def test_an_output_that_is_a_sequence_is_refused(tmp_path):
    """What classic classifiers give unless they are told not to (zipmap)."""
    node = helper.make_node("SplitToSequence", ["x"], ["y"])
    model = model_of([node], {"x": (FLOAT, [2, 2])}, {"y": (FLOAT, None)})
    model.graph.output[0].type.CopyFrom(helper.make_sequence_type_proto(helper.make_tensor_type_proto(FLOAT, None)))
    with pytest.raises(errors.SourceError, match="'y' is a sequence") as caught:
        load(model, tmp_path)
    assert caught.value.code == "source-not-tensor"


@pytest.mark.parametrize("dtype", ["int64", "int32", "uint8", "bool", "float64", "float16"])
def test_inputs_of_other_types(dtype, tmp_path):
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    nodes = [helper.make_node("Cast", ["x"], ["f"], to=FLOAT), helper.make_node("MatMul", ["f", "w"], ["y"])]
    model = model_of(nodes, {"x": (kind, ["N", 4])}, {"y": (FLOAT, ["N", 3])}, {"w": WEIGHTS})
    loaded = load(model, tmp_path)
    assert loaded.facts.inputs[0].dtype == dtype
    x = np.random.default_rng(0).integers(0, 2, (5, 4)).astype(dtype)
    np.testing.assert_allclose(agrees(loaded, tmp_path, {"x": x})["y"], x.astype(np.float32) @ WEIGHTS, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float64", "float16"])
def test_networks_in_other_real_types(dtype, tmp_path):
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Tanh", ["h"], ["y"])]
    constants = {"w": WEIGHTS.astype(dtype)}
    model = model_of(nodes, {"x": (kind, ["N", 4])}, {"y": (kind, ["N", 3])}, constants)
    answers = agrees(load(model, tmp_path), tmp_path, {"x": X.astype(dtype)}, tolerance=2e-3)
    np.testing.assert_allclose(answers["y"], np.tanh(X @ WEIGHTS), atol=5e-3)


def test_weights_of_brain_floats_are_read(tmp_path):
    nodes = [helper.make_node("Cast", ["b"], ["w"], to=FLOAT), helper.make_node("MatMul", ["x", "w"], ["y"])]
    model = model_of(nodes, {"x": (FLOAT, ["N", 4])}, {"y": (FLOAT, ["N", 3])})
    cut = (WEIGHTS.view(np.uint32) & 0xFFFF0000).view(np.float32)
    raw = (cut.view(np.uint32) >> 16).astype(np.uint16).tobytes()
    model.graph.initializer.append(helper.make_tensor("b", TensorProto.BFLOAT16, [4, 3], raw, raw=True))
    np.testing.assert_allclose(agrees(load(model, tmp_path), tmp_path, {"x": X})["y"], X @ cut, rtol=1e-4, atol=1e-5)


def test_scalars_stay_scalars(tmp_path):
    nodes = [helper.make_node("Mul", ["x", "gain"], ["y"]), helper.make_node("Identity", ["gain"], ["was"])]
    model = model_of(nodes, {"x": (FLOAT, [4]), "gain": (FLOAT, [])}, {"y": (FLOAT, [4]), "was": (FLOAT, [])})
    answers = agrees(load(model, tmp_path), tmp_path, {"x": X[0], "gain": np.array(3, np.float32)})
    assert answers["was"].shape == ()
    np.testing.assert_allclose(answers["y"], X[0] * 3)


def test_a_fixed_batch_answers_any_number_of_samples(tmp_path):
    model = dense(WEIGHTS)
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = 2
    np.testing.assert_allclose(load(model, tmp_path).run({"x": X})["y"], X @ WEIGHTS, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("feeds", "code"),
    [
        ({"z": X}, "feed-names"),
        ({"x": X[:0]}, "feed-batch"),
        ({"x": X[:, :3]}, "source-run"),
        ({"x": X[0]}, "source-run"),
    ],
)
def test_wrong_feeds_are_refused(feeds, code, tmp_path):
    with pytest.raises(errors.FeedError) as caught:
        load(dense(WEIGHTS), tmp_path).run(feeds)
    assert caught.value.code == code


def test_inputs_of_unequal_length_are_refused(tmp_path):
    model = model_of(
        [helper.make_node("Add", ["a", "b"], ["y"])],
        {"a": (FLOAT, ["N", 2]), "b": (FLOAT, ["N", 2])}, {"y": (FLOAT, ["N", 2])},
    )  # fmt: skip
    with pytest.raises(errors.FeedError, match="a 3, b 2") as caught:
        load(model, tmp_path).run({"a": np.zeros((3, 2), np.float32), "b": np.zeros((2, 2), np.float32)})
    assert caught.value.code == "feed-batch"


def test_a_batch_that_is_answered_as_a_whole_must_be_whole(tmp_path):
    model = model_of(
        [helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0)], {"x": (FLOAT, [2, 4])}, {"y": (FLOAT, [])}
    )
    loaded = load(model, tmp_path)
    assert loaded.run({"x": X[:4]})["y"].shape == (2,)
    with pytest.raises(errors.FeedError, match="multiple of 2") as caught:
        loaded.run({"x": X})
    assert caught.value.code == "feed-batch"


def test_data_that_the_network_cannot_compute_with(tmp_path):
    model = model_of(
        [helper.make_node("Gather", ["w", "x"], ["y"])], {"x": (INT64, ["N"])}, {"y": (FLOAT, ["N", 3])}, {"w": WEIGHTS}
    )
    with pytest.raises(errors.FeedError, match="cannot answer these inputs") as caught:
        load(model, tmp_path).run({"x": np.int64([99])})
    assert caught.value.code == "source-run"


@pytest.mark.parametrize(
    ("nodes", "layout"),
    [
        (["Conv"], "NCHW"),
        (["Sub", "Div", "Conv"], "NCHW"),
        (["Transpose", "Conv"], "NHWC"),
        (["Relu6ish", "Conv"], None),
    ],
)
def test_the_layout_is_told_from_the_first_convolution(nodes, layout, tmp_path):
    made, last = [], "x"
    for index, kind in enumerate(nodes):
        extra = {"perm": [0, 3, 1, 2]} if kind == "Transpose" else {}
        takes = {"Conv": [last, "w"], "Sub": [last, "c"], "Div": [last, "c"]}.get(kind, [last])
        made.append(helper.make_node("Erf" if kind == "Relu6ish" else kind, takes, [f"h{index}"], **extra))
        last = f"h{index}"
    made[-1].output[0] = "y"
    shape = ["N", 8, 8, 3] if layout == "NHWC" else ["N", 3, 8, 8]
    constants = {"w": np.ones((2, 3, 3, 3), np.float32), "c": np.float32(2)}
    loaded = load(model_of(made, {"x": (FLOAT, shape)}, {"y": (FLOAT, None)}, constants), tmp_path)
    assert loaded.facts.inputs[0].layout == layout


# -- Quantized sources ------------------------------------------------------------------------------------------


def quantized(kind):
    scale = {"s": np.float32(0.1), "z": np.int8(3), "ws": np.float32(0.02), "wz": np.int8(0)}
    w8 = np.clip(np.round(WEIGHTS / 0.02), -127, 127).astype(np.int8)
    float_in = {"x": (FLOAT, ["N", 4])}, {"y": (FLOAT, ["N", 3])}
    weigh = helper.make_node("DequantizeLinear", ["w8", "ws", "wz"], ["w"])
    if kind == "weights":
        nodes = [weigh, helper.make_node("MatMul", ["x", "w"], ["y"])]
        return model_of(nodes, *float_in, {"w8": w8, **scale})
    if kind == "dynamic":
        nodes = [
            helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "qs", "qz"]),
            helper.make_node("MatMulInteger", ["q", "w8", "qz", "wz"], ["h"]),
            helper.make_node("Cast", ["h"], ["hf"], to=FLOAT),
            helper.make_node("Mul", ["qs", "ws"], ["m"]),
            helper.make_node("Mul", ["hf", "m"], ["y"]),
        ]
        return model_of(nodes, *float_in, {"w8": w8, **scale})
    if kind == "qoperator":
        nodes = [
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
            helper.make_node("QLinearMatMul", ["q", "s", "z", "w8", "ws", "wz", "s", "z"], ["h"]),
            helper.make_node("DequantizeLinear", ["h", "s", "z"], ["y"]),
        ]
        return model_of(nodes, *float_in, {"w8": w8, **scale})
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "s", "z"], ["f"]),
        weigh,
        helper.make_node("MatMul", ["f", "w"], ["h"]),
        helper.make_node("QuantizeLinear", ["h", "s", "z"], ["y"]),
    ]
    if kind == "qdq int16":
        scale["z"] = np.int16(3)
        sizes = {"x": (TensorProto.INT16, ["N", 4])}, {"y": (TensorProto.INT16, ["N", 3])}
        return model_of(nodes, *sizes, {"w8": w8, **scale}, opset=21)
    return model_of(
        nodes, {"x": (TensorProto.INT8, ["N", 4])}, {"y": (TensorProto.INT8, ["N", 3])}, {"w8": w8, **scale}
    )


@pytest.mark.parametrize(
    ("kind", "precision"),
    [("weights", "dynamic"), ("dynamic", "dynamic"), ("qoperator", "int8"), ("qdq", "int8"), ("qdq int16", "int16x8")],
)
def test_quantized_sources_are_recognized_and_kept(kind, precision, tmp_path):
    model = load(quantized(kind), tmp_path)
    assert model.facts.quantized
    assert model.precision == precision
    np.testing.assert_allclose(model.run({"x": X})["y"], X @ WEIGHTS, atol=0.5)
    made = lowered(model, tmp_path)
    assert made["graph"].precision == precision
    wanted = [node.op_type for node in quantized(kind).graph.node]
    assert [node.op_type for node in made["proto"].graph.node] == wanted


def test_an_integer_interface_is_fed_with_real_numbers(tmp_path):
    model = load(quantized("qdq"), tmp_path)
    spec = model.facts.inputs[0]
    assert (spec.dtype, spec.quant.scale[0], spec.quant.zero_point) == ("int8", pytest.approx(0.1), (3,))
    assert model.facts.outputs[0].quant is not None


def test_half_weights_are_not_quantized(tmp_path):
    nodes = [helper.make_node("Cast", ["h"], ["w"], to=FLOAT), helper.make_node("MatMul", ["x", "w"], ["y"])]
    constants = {"h": WEIGHTS.astype(np.float16)}
    model = load(model_of(nodes, {"x": (FLOAT, ["N", 4])}, {"y": (FLOAT, ["N", 3])}, constants), tmp_path)
    assert (model.facts.quantized, model.precision) == (False, "fp16")


# -- Live objects -----------------------------------------------------------------------------------------------


def test_live_models_are_written_and_read_again(tmp_path):
    proto = dense(WEIGHTS)
    onnx_ir = pytest.importorskip("onnx_ir", reason="comes with onnxscript")
    live = [proto, proto.SerializeToString(), bytearray(proto.SerializeToString()), onnx_ir.from_proto(proto)]
    for number, model in enumerate(live):
        folder = tmp_path / str(number)
        folder.mkdir()
        assert load_onnx.accepts(model)
        loaded = load_onnx.load(identify(load_onnx.save(model, folder)))
        np.testing.assert_allclose(loaded.run({"x": X})["y"], X @ WEIGHTS, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("other", [None, 3, "m.onnx", b"TFL3", b"", WEIGHTS, relu().graph])
def test_other_objects_are_not_accepted(other):
    assert not load_onnx.accepts(other)


def test_live_models_over_two_gigabytes_are_refused(tmp_path):
    class Endless:
        DESCRIPTOR = onnx.ModelProto.DESCRIPTOR

        def SerializeToString(self) -> bytes:
            from google.protobuf.message import EncodeError

            raise EncodeError("over 2 GiB")

    assert load_onnx.accepts(Endless())
    with pytest.raises(errors.SourceError) as caught:
        load_onnx.save(Endless(), tmp_path)
    assert caught.value.code == "source-too-large"


# -- Real files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["mnist_cnn_onnx/mnist.onnx", "face_ultraface_onnx/version-RFB-320.onnx"])
def test_real_models(file, shared, tmp_path):
    model = load_onnx.load(identify(shared / "models" / file))
    assert any(note.startswith("opset ") and note.endswith("was raised to 13") for note in model.facts.notes)
    assert "listed as inputs became constants" in " ".join(model.facts.notes)
    spec = model.facts.inputs[0]
    x = np.random.default_rng(0).uniform(0, 1, [size or 1 for size in spec.shape]).astype(np.float32)
    agrees(model, tmp_path, {spec.name: x}, tolerance=1e-4)


def test_an_output_that_is_declared_with_other_axes_has_those_of_the_engine(tmp_path):
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    about = {"y": (FLOAT, [])}
    loaded = load(model_of(nodes, {"x": (FLOAT, ["N", 3])}, about), tmp_path)
    assert loaded.facts.outputs[0].shape == (None, 3)


@pytest.mark.parametrize("computes", [True, False])
def test_a_graph_that_computes_in_float16_is_told_from_one_that_stores_it(computes, tmp_path):
    weights = {"w": np.ones((3, 2), np.float16)}
    half = [
        helper.make_node("Cast", ["x"], ["a"], to=TensorProto.FLOAT16),
        helper.make_node("MatMul", ["a", "w"], ["b"]),
        helper.make_node("Cast", ["b"], ["y"], to=FLOAT),
    ]
    stored = [helper.make_node("Cast", ["w"], ["v"], to=FLOAT), helper.make_node("MatMul", ["x", "v"], ["y"])]
    model = model_of(half if computes else stored, {"x": (FLOAT, ["N", 3])}, {"y": (FLOAT, ["N", 2])}, weights)
    assert load(model, tmp_path).facts.half is computes


def test_outputs_of_a_sigmoid_are_known(tmp_path):
    nodes = [
        helper.make_node("Sigmoid", ["x"], ["s"]),
        helper.make_node("Transpose", ["s"], ["y"], perm=[0, 1]),
        helper.make_node("Mul", ["s", "x"], ["z"]),
    ]
    shape = (FLOAT, ["N", 3])
    assert load(model_of(nodes, {"x": shape}, {"y": shape, "z": shape}), tmp_path).facts.squashed == ("y",)
