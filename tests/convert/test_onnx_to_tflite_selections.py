"""What selects by the data, lowered: NonMaxSuppression and its kin, and what follows, of a size that a run tells."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import edgekit
from edgekit import errors
from edgekit.converters import load_onnx, lower_onnx_tflite
from edgekit.converters.from_onnx.ragged import ragged
from edgekit.converters.sources import identify
from edgekit.runtimes.replay import replay

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
node = helper.make_node
info = helper.make_tensor_value_info


def model_of(nodes, inputs, outputs, constants=None, opset=17):
    """A model; inputs and outputs: name -> (type, shape)."""
    graph = helper.make_graph(
        nodes, "g",
        [info(name, *about) for name, about in inputs.items()],
        [info(name, *about) for name, about in outputs.items()],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def both(model, folder, *feeds):
    """Answers of onnxruntime and of the lowered file to each of the feeds."""
    from edgekit.runtimes.engine_litert import interpreter

    path, made = folder / "m.onnx", folder / "m.tflite"
    path.write_bytes(model.SerializeToString())
    lower_onnx_tflite.lower(load_onnx.load(identify(path)), made)
    session, engine = ort.InferenceSession(path), interpreter(made.read_bytes(), 1)
    runner = engine.get_signature_runner()
    for feed in feeds:
        names = [value.name for value in session.get_outputs()]
        answer = runner(**feed)
        yield dict(zip(names, session.run(names, feed), strict=True)), {name: answer[name] for name in names}


def assert_same(pairs):
    for want, found in pairs:
        for name, array in want.items():
            assert found[name].shape == array.shape
            assert found[name].dtype == array.dtype
            np.testing.assert_allclose(found[name], array, rtol=1e-5, atol=1e-6)


def detector(boxes=48, classes=2):
    """A convolutional head, its boxes and scores, suppression, and the boxes and scores of what is left."""
    dice = np.random.default_rng(3)
    weights = dice.normal(size=(4 + classes, 3, 3, 3)).astype(np.float32)
    corners = np.repeat(dice.uniform(0, 8, (boxes, 2)), 2, 0).reshape(boxes, 4).astype(np.float32)
    nodes = [
        node("Conv", ["image", "w"], ["head"], pads=[1, 1, 1, 1]),
        node("Reshape", ["head", "flat"], ["cells"]),
        node("Split", ["cells", "parts"], ["sides", "rated"], axis=1),
        node("Transpose", ["sides"], ["by_box"], perm=[0, 2, 1]),
        node("Sigmoid", ["by_box"], ["size"]),
        node("Mul", ["size", "spread"], ["reach"]),
        node("Add", ["reach", "corners"], ["boxes"]),
        node("Sigmoid", ["rated"], ["scores"]),
        node("NonMaxSuppression", ["boxes", "scores", "most", "overlap", "least"], ["selected"]),
        node("Slice", ["selected", "zero", "hundred", "zero"], ["first"]),
        node("Gather", ["first", "two"], ["which"], axis=1),
        node("Gather", ["boxes", "which"], ["found"], axis=1),
        node("Squeeze", ["found", "zero"], ["box"]),
        node("Gather", ["first", "one"], ["class"], axis=1),
        node("GatherND", ["scores", "place"], ["score"]),
        node("Concat", ["image_column", "class_column", "which_column"], ["place"], axis=1),
        node("Unsqueeze", ["class", "one_axis"], ["class_column"]),
        node("Unsqueeze", ["which", "one_axis"], ["which_column"]),
        node("Mul", ["which_column", "nothing"], ["image_column"]),
    ]
    order = [*range(14), 16, 17, 18, 15, 14]
    constants = {
        "w": weights, "flat": np.array([1, 4 + classes, boxes]), "parts": np.array([4, classes]),
        "spread": np.array([-1, -1, 2, 2], np.float32), "corners": corners, "most": np.array([10]),
        "overlap": np.array([0.3], np.float32), "least": np.array([0.9], np.float32), "zero": np.array([0]),
        "hundred": np.array([12]), "two": np.array(2), "one": np.array(1), "one_axis": np.array([1]),
        "nothing": np.array(0),
    }  # fmt: skip
    outputs = {"box": (FLOAT, ["n", 4]), "class": (INT64, ["n"]), "score": (FLOAT, ["n"])}
    sizes = [1, 3, 6, boxes // 6]
    return model_of([nodes[at] for at in order], {"image": (FLOAT, sizes)}, outputs, constants)


def test_a_detector_with_suppression_at_its_end_converts_runs_and_proves_itself(tmp_path):
    path = tmp_path / "detector.onnx"
    onnx.save(detector(), path)
    artifact = edgekit.convert(path, to="tflite")
    assert artifact.manifest.needs.ops["NON_MAX_SUPPRESSION_V4"] == 2
    session = ort.InferenceSession(path)
    counts = set()
    with edgekit.load(artifact) as model:
        assert replay(model).passed
        assert [spec.shape for spec in model.outputs] == [(None, 4), (None,), (None,)]
        for seed, scale in enumerate((0.0, 0.5, 0.7, 1.0, 0.3, 0.1)):
            image = (np.random.default_rng(seed).normal(size=(1, 3, 6, 8)) * scale).astype(np.float32)
            want = dict(zip(("box", "class", "score"), session.run(None, {"image": image}), strict=True))
            found = model.run({"image": image})
            for name, array in want.items():
                np.testing.assert_allclose(found[name], array, rtol=1e-5, atol=1e-5)
            counts.add(len(want["box"]))
    assert 0 in counts
    assert len(counts) >= 3


@pytest.mark.parametrize("precision", ["fp16", "dynamic", "int8"])
def test_a_detector_in_few_bits_selects_as_well_or_is_refused(tmp_path, precision):
    path = tmp_path / "detector.onnx"
    onnx.save(detector(), path)
    images = np.random.default_rng(0).normal(size=(40, 3, 6, 8)).astype(np.float32)
    try:
        artifact = edgekit.convert(path, to="tflite", precision=precision, calibration=images, allow_float_ops=True)
    except errors.VerificationError as error:
        assert error.code in ("verify-outputs", "verify-parity", "verify-noise")
        return
    with edgekit.load(artifact) as model:
        assert replay(model).passed
        assert len(model.run(images[:1])["box"]) > 0


def test_the_way_to_onnx_takes_a_detector_as_well(tmp_path):
    path = tmp_path / "detector.onnx"
    onnx.save(detector(), path)
    artifact = edgekit.convert(path, to="onnx")
    assert artifact.manifest.proof.samples == 16


boxes_of = st.builds(
    lambda seed, count: np.random.default_rng(seed).uniform(0, 4, (count, 4)).astype(np.float32),
    st.integers(0, 1000), st.integers(1, 12),
)  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(
    boxes=boxes_of, images=st.integers(1, 2), classes=st.integers(1, 3), most=st.integers(1, 20),
    overlap=st.sampled_from([0.0, 0.25, 0.5, 0.9]), least=st.sampled_from([None, 0.0, 0.5, 2.0]), centred=st.booleans(),
)  # fmt: skip
def test_suppression_selects_what_onnxruntime_does(
    tmp_path_factory, boxes, images, classes, most, overlap, least, centred
):
    count = len(boxes)
    scores = np.random.default_rng(count).permutation(images * classes * count) / 64
    scores = scores.reshape(images, classes, count).astype(np.float32)
    constants = {"most": np.array([most]), "overlap": np.array([overlap], np.float32)}
    names = ["boxes", "scores", "most", "overlap"]
    if least is not None:
        constants["least"] = np.array([least], np.float32)
        names.append("least")
    model = model_of(
        [node("NonMaxSuppression", names, ["selected"], center_point_box=int(centred))],
        {"boxes": (FLOAT, [images, count, 4]), "scores": (FLOAT, [images, classes, count])},
        {"selected": (INT64, ["n", 3])}, constants,
    )  # fmt: skip
    feeds = {"boxes": np.stack([boxes, boxes[::-1]][:images]), "scores": scores}
    assert_same(both(model, tmp_path_factory.mktemp("nms"), feeds))


def test_boxes_that_overlap_by_exactly_the_threshold_stay(tmp_path):
    boxes = np.array([[[0, 0, 1, 1], [0, 0, 1, 0.5], [5, 5, 6, 6]]], np.float32)
    model = model_of(
        [node("NonMaxSuppression", ["boxes", "scores", "most", "overlap"], ["selected"])],
        {"boxes": (FLOAT, [1, 3, 4]), "scores": (FLOAT, [1, 1, 3])}, {"selected": (INT64, ["n", 3])},
        {"most": np.array([5]), "overlap": np.array([0.5], np.float32)},
    )  # fmt: skip
    ((want, found),) = both(model, tmp_path, {"boxes": boxes, "scores": np.array([[[0.9, 0.8, 0.7]]], np.float32)})
    assert len(want["selected"]) == 3
    np.testing.assert_array_equal(found["selected"], want["selected"])


SOME = [
    {"x": np.array([[1, -1, 0, 2], [0, 0, 3, -4]], np.float32)},
    {"x": np.zeros((2, 4), np.float32)},
    {"x": np.array([[0, 0, 0, 0], [0, 0, 0, 5]], np.float32)},
    {"x": np.ones((2, 4), np.float32)},
]


NON_ZERO, SELECTED = node("NonZero", ["x"], ["z"]), node("Cast", ["z"], ["f"], to=FLOAT)


@pytest.mark.parametrize(
    ("nodes", "kind", "shape"),
    [
        ([node("NonZero", ["x"], ["y"])], INT64, [2, "n"]),
        ([NON_ZERO, node("Transpose", ["z"], ["t"]), node("GatherND", ["x", "t"], ["y"])], FLOAT, ["n"]),
        (
            [
                node("Greater", ["x", "half"], ["c"]), node("Reshape", ["c", "all"], ["b"]),
                node("Compress", ["x", "b"], ["y"]),
            ],
            FLOAT, ["n"],
        ),
        (
            [
                NON_ZERO, node("Shape", ["z"], ["s"]), node("Gather", ["s", "one"], ["n"]),
                node("Cast", ["n"], ["f"], to=FLOAT), node("Add", ["x", "f"], ["y"]),
            ],
            FLOAT, [2, 4],
        ),
        ([NON_ZERO, node("Slice", ["z", "zero", "three", "ones"], ["y"])], INT64, [2, "m"]),
        (
            [NON_ZERO, SELECTED, node("ReduceSum", ["f", "ones"], ["s"]), node("Softmax", ["s"], ["y"], axis=0)],
            FLOAT, [2, 1],
        ),
        ([NON_ZERO, SELECTED, node("Concat", ["f", "f"], ["w"], axis=1), node("Mul", ["w", "half"], ["y"])],
         FLOAT, [2, "m"]),
    ],
)  # fmt: skip
def test_what_is_selected_has_the_size_that_the_data_says(tmp_path, nodes, kind, shape):
    constants = {
        "half": np.array(0.5, np.float32), "all": np.array([-1]), "one": np.array(1), "zero": np.array([0]),
        "three": np.array([3]), "ones": np.array([1]),
    }  # fmt: skip
    model = model_of(nodes, {"x": (FLOAT, [2, 4])}, {"y": (kind, shape)}, constants)
    assert_same(both(model, tmp_path, *SOME))


@pytest.mark.parametrize(
    "nodes",
    [
        [node("ReduceMax", ["f"], ["y"], axes=[1], keepdims=0)],
        [node("TopK", ["f", "three"], ["y", "place"], axis=1)],
        [node("CumSum", ["f", "one"], ["y"])],
        [node("Reshape", ["f", "pair"], ["y"])],
    ],
)
def test_what_is_not_right_for_every_size_is_refused_by_name(tmp_path, nodes):
    constants = {"three": np.array([3]), "one": np.array(1), "pair": np.array([4, 2])}
    model = model_of([NON_ZERO, SELECTED, *nodes], {"x": (FLOAT, [2, 4])}, {"y": (FLOAT, None)}, constants)
    with pytest.raises(errors.ConversionError) as caught:
        list(both(model, tmp_path))
    assert caught.value.code == "op-unsupported-conversion"
    assert nodes[0].op_type in str(caught.value)


def test_of_several_samples_a_selection_is_not_mixed(tmp_path):
    model = model_of(
        [node("NonZero", ["x"], ["y"])], {"x": (FLOAT, ["N", 4])}, {"y": (INT64, [2, "n"])}
    )  # fmt: skip
    artifact = edgekit.convert(model, to="tflite")
    assert artifact.manifest.inputs[0].shape == (1, 4)


def test_bounds_and_amounts_that_are_fed_are_read_when_the_model_runs(tmp_path):
    model = model_of(
        [node("Slice", ["x", "from", "to", "axes"], ["y"]), node("Pad", ["y", "pads", "fill"], ["z"])],
        {"x": (FLOAT, [3, 8]), "from": (INT64, [1]), "to": (INT64, [1]), "pads": (INT64, [4])},
        {"y": (FLOAT, [3, "n"]), "z": (FLOAT, ["m", "k"])}, {"axes": np.array([-1]), "fill": np.array(7, np.float32)},
    )  # fmt: skip
    x = np.arange(24, dtype=np.float32).reshape(3, 8)
    feeds = [
        {"x": x, "from": np.array([start]), "to": np.array([end]), "pads": np.array(pads)}
        for start, end, pads in ((1, 4, [0, 1, 1, 0]), (-3, 1 << 62, [0, 0, 0, 0]), (0, -1, [1, 2, 0, 3]))
    ]
    assert_same(both(model, tmp_path, *feeds))


def test_outputs_of_another_size_for_each_sample_are_found():
    shaped = [node("Shape", ["x"], ["s"]), node("NonZero", ["s"], ["y"])]
    assert ragged(model_of(shaped, {"x": (FLOAT, ["N", 4])}, {"y": (INT64, [1, "n"])}).graph) == ()
    selected = [node("NonZero", ["x"], ["z"]), node("Neg", ["z"], ["y"]), node("Neg", ["x"], ["w"])]
    outputs = {"y": (INT64, [2, "n"]), "w": (FLOAT, ["N", 4])}
    assert ragged(model_of(selected, {"x": (FLOAT, ["N", 4])}, outputs).graph) == ("y",)


@pytest.mark.parametrize("to", ["tflite", "onnx"])
@pytest.mark.parametrize("batch", ["N", 1])
def test_answers_that_have_their_batch_elsewhere_are_compared_as_they_are(to, batch):
    """As recognizers of texts give them: time first."""
    model = model_of(
        [node("Transpose", ["x"], ["t"], perm=[1, 0, 2]), node("Softmax", ["t"], ["y"], axis=2)],
        {"x": (FLOAT, [batch, 5, 3])}, {"y": (FLOAT, [5, batch, 3])},
    )  # fmt: skip
    artifact = edgekit.convert(model, to=to)
    assert artifact.manifest.proof.samples == 16
    x = np.random.default_rng(0).normal(size=(4, 5, 3)).astype(np.float32)
    with edgekit.load(artifact) as loaded:
        answer = loaded.run(x)["y"]
    want = np.exp(x) / np.exp(x).sum(2, keepdims=True)
    np.testing.assert_allclose(answer, want.transpose(1, 0, 2) if batch == "N" else want[:, :, None], rtol=1e-5)


def test_sizes_that_are_called_by_no_name_are_not_one_size():
    """As Paddle exports them: every unknown size is "?"."""
    model = model_of([node("Relu", ["x"], ["y"])], {"x": (FLOAT, [-1, 3, "?", "?"])}, {"y": (FLOAT, None)})
    artifact = edgekit.convert(model, to="tflite", shapes={"x": (1, 3, 4, 6)})
    assert artifact.manifest.inputs[0].shape == (1, 3, 4, 6)
