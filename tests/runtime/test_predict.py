"""`Model.predict`: the fast way and the general one answer alike."""

from __future__ import annotations

import copy
import io
import pickle

import numpy as np
import pytest

import edgekit
from edgekit.errors import EngineError, FeedError, UsageError
from edgekit.runtimes.preprocess import Preparer

FRAME = np.random.default_rng(3).integers(0, 256, (48, 64, 3), dtype=np.uint8)


@pytest.fixture(params=["fp32.tflite", "int8.tflite", "fp32.onnx", "int8.onnx"])
def picture_model(picture_models, request):
    with edgekit.load(picture_models[request.param], threads=1) as opened:
        yield opened


def test_a_frame_is_answered_as_by_hand(picture_model):
    """Letterboxed, scaled, quantized and read, step by step."""
    real = Preparer(picture_model.inputs, picture_model.preprocess).real(FRAME)
    expected = picture_model.run(real.feeds)["probs"][0]
    for _ in range(2):
        answer = picture_model.predict(FRAME)
        found = np.zeros(5)
        for score in answer.classes:
            found[score.index] = score.score
        np.testing.assert_allclose(found, expected, atol=1e-6)
    assert answer.label == "abcde"[int(expected.argmax())]


def test_the_fast_way_is_taken(picture_model):
    prepared = Preparer(picture_model.inputs, picture_model.preprocess)(FRAME)
    assert prepared.ready
    assert prepared.feeds["image"].dtype == np.dtype(picture_model.inputs[0].dtype)
    assert prepared.placement.offset == (0.0, 1.0)


def test_cameras_of_the_other_color_order(picture_model):
    np.testing.assert_array_equal(
        [c.score for c in picture_model.predict(FRAME[..., ::-1], colors="BGR").classes],
        [c.score for c in picture_model.predict(FRAME).classes],
    )


def test_a_closed_model_says_so(picture_models):
    for predicted in (False, True):
        model = edgekit.load(picture_models["int8.tflite"])
        if predicted:
            model.predict(FRAME)
        model.close()
        with pytest.raises(EngineError) as caught:
            model.predict(FRAME)
        assert caught.value.code == "model-closed"


def test_a_path_and_an_array_are_the_same_picture(picture_model, tmp_path):
    from PIL import Image

    Image.fromarray(FRAME).save(tmp_path / "frame.png")
    by_path = picture_model.predict(tmp_path / "frame.png")
    assert by_path == picture_model.predict(FRAME) == picture_model.predict(Image.fromarray(FRAME))


def test_bytes_and_open_files_are_the_picture_that_they_hold(picture_model, tmp_path):
    from PIL import Image

    held = io.BytesIO()
    Image.fromarray(FRAME).save(held, "png")
    expected = picture_model.predict(FRAME)
    assert picture_model.predict(held.getvalue()) == picture_model.predict(bytearray(held.getvalue())) == expected
    held.seek(0)
    assert picture_model.predict_batch([held, FRAME]) == [expected, expected]
    with pytest.raises(FeedError, match="bytes holds none: it is no image") as caught:
        picture_model.predict(b"no picture")
    assert caught.value.code == "feed-dtype"


@pytest.mark.parametrize("colors", ["rgb", "bgr", "gray", ""])
def test_an_order_of_colors_that_there_is_not(picture_model, colors):
    """It was taken for the other one."""
    with pytest.raises(UsageError) as caught:
        picture_model.predict(FRAME, colors=colors)
    assert caught.value.code == "option-value"


def test_colors_of_a_finished_tensor_are_not_passed_over(picture_model):
    tensor = np.zeros([1, *picture_model.inputs[0].shape[1:]], np.float32)
    assert picture_model.predict(tensor, colors="RGB") == picture_model.predict(tensor)
    with pytest.raises(FeedError, match="turned in pictures of bytes"):
        picture_model.predict(tensor, colors="BGR")


@pytest.mark.parametrize("strange", [FRAME[..., 0], FRAME / 255, FRAME.astype(np.int16), FRAME[None]])
def test_what_is_neither_a_picture_of_bytes_nor_the_tensor(picture_model, strange):
    with pytest.raises(FeedError, match=r"as bytes, uint8 \[H,W,3\], or the finished tensor") as caught:
        picture_model.predict(strange)
    assert caught.value.code == "feed-shape"


def test_pictures_of_several_sizes_in_turn(picture_model):
    """What is kept of one size is not the next one's."""
    frames = [FRAME, FRAME[:30], FRAME[::-1, :20], np.ascontiguousarray(FRAME[:8, :8]), FRAME.transpose(1, 0, 2)]
    expected = []
    for frame in frames:
        real = Preparer(picture_model.inputs, picture_model.preprocess).real(frame)
        expected.append(picture_model.run(real.feeds)["probs"][0].max())
    for _ in range(2):
        for frame, best in zip(frames, expected, strict=True):
            np.testing.assert_allclose(picture_model.predict(frame).classes[0].score, best, atol=1e-6)


def test_a_model_says_what_it_is_and_stays_in_its_process(picture_model):
    assert repr(picture_model).startswith(f"<Model {picture_model.artifact.path}: image ")
    for send in (pickle.dumps, copy.deepcopy):
        with pytest.raises(EngineError, match="cannot be sent") as caught:
            send(picture_model)
        assert caught.value.code == "model-forked"


def test_pools_and_streams_of_the_other_color_order(picture_models):
    path, turned = picture_models["int8.tflite"], np.ascontiguousarray(FRAME[..., ::-1])
    with edgekit.load(path, threads=1) as model, edgekit.Pool(path, sessions=1, batch=2, colors="BGR") as pool:
        expected = model.predict(FRAME)
        assert [future.result() for future in [pool.submit(turned) for _ in range(3)]] == [expected] * 3
        seen = edgekit.Stream(model, [turned, turned], policy="block", colors="BGR")
        assert [one.answer for one in seen] == [expected] * 2


def reader_of(task):
    """Rows [N,2] as they are, read so; opened."""
    from onnx import TensorProto, helper

    names = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 2]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", names[:1], names[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    table = {"kind": "table", "table": {"columns": ["a", "b"]}}
    about = {"preprocess": table, "interpret": {"task": task}}
    return edgekit.load(edgekit.convert(model, to="onnx", metadata=about, reference=False), threads=1)


def test_several_samples_are_not_one():
    """Of several answers one would be read, and the others lost."""
    rows, array = [{"a": 1, "b": 2}, {"a": 3, "b": 4}], np.array([[1, 2], [3, 4]], np.float32)
    with reader_of("regression") as model:
        for thing in (rows, array, {"x": array}, array.astype(np.float64)):
            with pytest.raises(FeedError, match="x holds 2") as caught:
                model.predict(thing)
            assert caught.value.code == "feed-shape"
            assert "predict_batch" in caught.value.next_step
        for thing in (rows[:1], rows[0], array[:1], array[0]):
            assert model.predict(thing).values == (1.0, 2.0)
        assert [answer.values for answer in model.predict_batch(rows)] == [(1.0, 2.0), (3.0, 4.0)]


def test_a_batch_that_nobody_reads_has_one_sample_each():
    array = np.array([[1, 2], [3, 4]], np.float32)
    with reader_of("other") as model:
        answers = model.predict_batch(list(array))
        for answer, sample in zip(answers, array, strict=True):
            np.testing.assert_array_equal(answer.outputs["y"], sample[None])
            np.testing.assert_array_equal(model.predict(sample).outputs["y"], sample[None])
        np.testing.assert_array_equal(model.predict(array).outputs["y"], array)  # nothing is lost
