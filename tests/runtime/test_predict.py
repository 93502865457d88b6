"""`Model.predict`: the fast way and the general one answer alike."""

from __future__ import annotations

import numpy as np
import pytest

import edgekit
from edgekit.errors import EngineError
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
