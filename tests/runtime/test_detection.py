"""Detectors' families, decoded: each is given what its own formulas make of known boxes, and must find them again."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit.errors import UsageError
from edgekit.feeding import ImageSteps, Preprocess
from edgekit.reading import DetectionReading, Interpret
from edgekit.runtimes.interpret import Raw, interpret
from edgekit.runtimes.interpretation.detection import detections
from edgekit.runtimes.preprocess import Preparer
from edgekit.tensors import TensorSpec

SIZE = (64, 96)
LABELS = ("cat", "dog", "bird")
BOXES = np.array([[10, 8, 30, 40], [50, 20, 90, 60]], np.float32)  # left, top, right, bottom; pixels of the input
CLASSES = [2, 0]
RELATIVE = BOXES / [96, 64, 96, 64]


def reading(family="boxes", **more):
    return Interpret("detection", labels=LABELS, threshold=0.5, detection=DetectionReading(family, **more))


def scores(count, places, background=False):
    made = np.full((count, 3), 0.01, np.float32)
    for place, one, sure in zip(places, CLASSES, (0.9, 0.8), strict=True):
        made[place, one] = sure
    return np.concatenate([1 - made.sum(axis=1, keepdims=True), made], axis=1) if background else made


def check(outputs, how, atol=1e-3):
    found = detections({key: value[None] for key, value in outputs.items()}, how, SIZE, None)
    assert [(item.label, round(item.score, 3)) for item in found] == [("bird", 0.9), ("cat", 0.8)]
    np.testing.assert_allclose([item.box for item in found], BOXES, atol=atol)
    return found


@pytest.mark.parametrize("order", [("xyxy", [0, 1, 2, 3]), ("yxyx", [1, 0, 3, 2])])
@pytest.mark.parametrize("background", [False, True])
def test_decoded_boxes_beside_scores(order, background):
    corners, turn = order
    boxes = np.concatenate([RELATIVE[:, turn], np.zeros((5, 4))]).astype(np.float32)
    given = scores(7, (0, 1), background)
    how = reading(corners=corners, background=background)
    check({"boxes": boxes, "scores": given}, how)
    if not background:  # told apart by their shapes
        check({"scores": given, "boxes": boxes}, how)
    named = reading(corners=corners, background=background, boxes="b", scores="s")
    check({"x": given * 0, "s": given, "b": boxes}, named)


def test_centers_and_pixels_and_logits():
    centers = np.concatenate([(BOXES[:, :2] + BOXES[:, 2:]) / 2, BOXES[:, 2:] - BOXES[:, :2]], axis=1)
    logits = np.log(scores(2, (0, 1)) / (1 - scores(2, (0, 1))))
    how = reading(corners="center", relative=False, activation="sigmoid")
    check({"boxes": centers, "scores": logits}, how)
    turned = reading(corners="yx-center", relative=False, activation="sigmoid")
    check({"boxes": centers[:, [1, 0, 3, 2]], "scores": logits}, turned)


def test_softmax_with_a_background():
    given = np.log(scores(2, (0, 1), background=True)) + 3
    check({"boxes": RELATIVE.astype(np.float32), "scores": given}, reading(background=True, activation="softmax"))


@pytest.mark.parametrize("corners", ["xyxy", "yxyx"])
def test_ssd_offsets_from_anchors(corners):
    """Encoded as in training: (center - prior center) / prior size / variance, log(size / prior size) / variance."""
    strides, anchors = (16.0, 32.0), (((10.0, 12.0), (20.0, 30.0)), ((40.0, 40.0),))
    priors = []
    for stride, pairs in zip(strides, anchors, strict=True):
        for y in range(int(64 // stride)):
            for x in range(int(96 // stride)):
                priors += [((x + 0.5) * stride / 96, (y + 0.5) * stride / 64, w / 96, h / 64) for w, h in pairs]
    priors = np.array(priors)
    assert len(priors) == 4 * 6 * 2 + 2 * 3
    places = (9, 50)
    offsets = np.zeros((len(priors), 4), np.float32)
    for place, (left, top, right, bottom) in zip(places, RELATIVE, strict=True):
        prior = priors[place]
        middle, extent = np.array([(left + right) / 2, (top + bottom) / 2]), np.array([right - left, bottom - top])
        offsets[place] = [*((middle - prior[:2]) / prior[2:] / 0.1), *(np.log(extent / prior[2:]) / 0.2)]
    if corners == "yxyx":
        offsets = offsets[:, [1, 0, 3, 2]]
    how = reading("ssd", strides=strides, anchors=anchors, corners=corners)
    check({"offsets": offsets, "scores": scores(len(priors), places)}, how)
    with pytest.raises(UsageError, match="53 boxes, the strides and anchors make 54") as caught:
        check({"offsets": offsets[1:], "scores": scores(len(priors) - 1, places)}, how)
    assert caught.value.code == "output-unreadable"


def centers_of(boxes):
    return np.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], axis=1)


def test_yolo_rows_either_way_round_with_and_without_objectness():
    rows = np.concatenate(
        [np.concatenate([centers_of(BOXES), np.ones((2, 1)), scores(2, (0, 1))], axis=1), np.zeros((9, 8))]
    )
    five = reading("yolo", corners="center", relative=False, objectness=True)
    check({"y": rows.astype(np.float32)}, five)
    eight = reading("yolo", corners="center", relative=False)
    v8 = np.delete(rows, 4, axis=1).T.astype(np.float32)  # [4 + C, N], as YOLOv8 gives it
    check({"y": v8}, eight)
    check({"y": v8.T}, eight)
    halved = rows.copy()
    halved[:, 4] = 0.5
    assert len(detections({"y": halved[None]}, five, SIZE, None)) == 0  # 0.9 * 0.5 and 0.8 * 0.5


def cells(strides):
    return [(x, y, stride) for stride in strides for y in range(64 // stride) for x in range(96 // stride)]


def test_yolox_grid():
    strides = (8, 16, 32)
    made = cells(strides)
    places = (5, 100)
    rows = np.zeros((len(made), 8), np.float32)
    rows[:, 5:] = scores(len(made), places)
    for place, (cx, cy, w, h) in zip(places, centers_of(BOXES), strict=True):
        x, y, stride = made[place]
        rows[place, :5] = [cx / stride - x, cy / stride - y, np.log(w / stride), np.log(h / stride), 1]
    check({"y": rows}, reading("yolo", strides=strides, decode="grid", objectness=True))


def logit(p):
    return np.log(p / (1 - p))


@pytest.mark.parametrize("decode", ["v5", "v3"])
@pytest.mark.parametrize("form", ["AHWF", "HW(AF)", "(AF)HW"])
def test_yolo_heads_with_anchors(decode, form):
    """One output a stride, in the three forms that exporters give; the true boxes at one cell and anchor each."""
    strides = (16, 32)
    anchors = (((16.0, 24.0), (24.0, 30.0)), ((30.0, 50.0), (44.0, 44.0)))
    heads = {}
    for level, stride in enumerate(strides):
        rows, columns = 64 // stride, 96 // stride
        head = np.full((2, rows, columns, 8), -9.0, np.float32)
        cx, cy, w, h = centers_of(BOXES)[level]
        x, y = int(cx // stride), int(cy // stride)
        aw, ah = anchors[level][1]
        inside, extent = np.array([cx / stride - x, cy / stride - y]), np.array([w / aw, h / ah])
        if decode == "v5":
            numbers = [*logit((inside + 0.5) / 2), *logit(np.sqrt(extent) / 2)]
        else:
            numbers = [*logit(np.clip(inside, 1e-6, 1 - 1e-6)), *np.log(extent)]
        classes = np.full(3, -9.0)
        classes[CLASSES[level]] = logit([0.9, 0.8][level])
        head[1, y, x] = [*numbers, 20.0, *classes]
        packed = head.transpose(1, 2, 0, 3).reshape(rows, columns, 16)
        heads[f"head{level}"] = {"AHWF": head, "HW(AF)": packed, "(AF)HW": packed.transpose(2, 0, 1)}[form]
    check(heads, reading("yolo", strides=strides, anchors=anchors, decode=decode, objectness=True))


def test_finished_detections():
    """As TFLite_Detection_PostProcess gives them: boxes, classes, scores, count."""
    outputs = {
        "boxes": RELATIVE[:, [1, 0, 3, 2]].astype(np.float32),
        "classes": np.array(CLASSES, np.float32),
        "scores": np.array([0.9, 0.8], np.float32),
    }
    check(outputs, reading("finished", corners="yxyx"))
    padded = {key: np.concatenate([value, np.full_like(value, 1)]) for key, value in outputs.items()}
    with_count = {key: value[None] for key, value in padded.items()} | {"count": np.array([2.0], np.float32)}
    found = detections(with_count, reading("finished", corners="yxyx"), SIZE, None)
    assert [item.label for item in found] == ["bird", "cat"]
    rows = np.concatenate([BOXES, [[0.9], [0.8]], [[2], [0]]], axis=1).astype(np.float32)
    check({"y": rows}, reading("finished", relative=False))
    named = reading("finished", corners="yxyx", boxes="boxes", classes="classes", scores="scores")
    check({key: outputs[key] for key in ("scores", "boxes", "classes")}, named)


def test_finished_detections_are_cut_at_the_least_sure():
    count = 300
    scores = np.linspace(0.3, 0.9, count, dtype=np.float32)[None]
    outputs = {"b": np.zeros((1, count, 4), np.float32), "c": np.zeros((1, count), np.float32), "s": scores}
    found = [item.score for item in detections(outputs, reading("finished"), SIZE, None)]
    assert found == sorted(scores[0].tolist(), reverse=True)[:100]


def test_finished_detections_of_nothing_are_left_out():
    outputs = {"b": RELATIVE[None].astype(np.float32), "c": np.array([[0, 1]]), "s": np.array([[0.9, 0.8]])}
    for background, labels in ((False, ["cat", "dog"]), (True, ["cat"])):
        found = detections(outputs, reading("finished", background=background), SIZE, None)
        assert [item.label for item in found] == labels


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_boxes_that_are_no_numbers(wrong):
    """Neither kept nor left out: the model is broken."""
    pair = {"b": RELATIVE[None].astype(np.float32), "s": scores(2, (0, 1))[None]}
    rows = {"y": np.concatenate([pair["b"], pair["s"]], axis=2)}
    there = {"y": np.concatenate([pair["b"], np.ones((1, 2, 1), np.float32), pair["s"]], axis=2)}
    finished = {"b": pair["b"], "c": np.array([[2, 0]], np.float32), "s": np.array([[0.9, 0.8]], np.float32),
                "n": np.array([2], np.float32)}  # fmt: skip
    cases = [(finished, key, reading("finished")) for key in finished] + [(pair, "b", reading())]
    for activation in ("none", "softmax", "sigmoid"):
        cases += [(pair, "s", reading(activation=activation)), (rows, "y", reading("yolo", activation=activation))]
        cases += [(there, "y", reading("yolo", objectness=True, activation=activation))]
    for outputs, key, how in cases:
        detections(outputs, how, SIZE, None)
        broken = outputs[key].copy()
        broken[..., -1] = wrong
        with pytest.raises(UsageError) as caught:
            detections(outputs | {key: broken}, how, SIZE, None)
        assert caught.value.code == "output-unreadable"


def test_overlapping_boxes_of_two_classes():
    boxes = np.array([RELATIVE[0], RELATIVE[0]], np.float32)
    outputs = {"boxes": boxes[None], "scores": np.array([[[0.9, 0, 0], [0, 0.8, 0]]], np.float32)}
    assert [item.label for item in detections(outputs, reading(), SIZE, None)] == ["cat", "dog"]
    assert [item.label for item in detections(outputs, reading(agnostic=True), SIZE, None)] == ["cat"]


@pytest.mark.parametrize("fit", ["stretch", "letterbox", "crop"])
def test_boxes_come_back_to_the_picture_that_was_given(fit):
    """A bright square is found in the prepared picture; its box must lie where it was painted."""
    frame = np.zeros((120, 300, 3), np.uint8)
    frame[40:70, 130:170] = 255
    spec = TensorSpec("x", (1, 64, 96, 3), "float32", "NHWC")
    prepared = Preparer((spec,), Preprocess("image", image=ImageSteps(fit, border=0)))(frame)
    rows, columns = np.nonzero(prepared.feeds["x"][0, ..., 0] > 127)
    box = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], np.float32) / [96, 64, 96, 64]
    outputs = {"boxes": box[None, None].astype(np.float32), "scores": np.array([[[0.9]]], np.float32)}
    (found,) = detections(outputs, reading(), SIZE, prepared.placement)
    np.testing.assert_allclose(found.box, [130, 40, 170, 70], atol=4)


def test_answers_and_what_holds_none():
    outputs = {"boxes": RELATIVE[None].astype(np.float32), "scores": scores(2, (0, 1))[None]}
    answer = interpret(outputs, reading(), size=SIZE)
    assert (len(answer), answer.count("cat"), answer.count("dog")) == (2, 1, 0)
    assert answer.to_dict()["items"][0] == {
        "index": 2, "label": "bird", "score": pytest.approx(0.9), "box": pytest.approx([10, 8, 30, 40]),
    }  # fmt: skip
    assert isinstance(interpret(outputs, Interpret("detection")), Raw)
    for broken, how, code in (
        ({}, reading(), "output-unreadable"),
        ({"boxes": outputs["boxes"]}, reading(), "output-unreadable"),
        ({"boxes": outputs["boxes"][..., :3], "scores": outputs["scores"]}, reading(), "output-unreadable"),
        (outputs, reading(boxes="nothing"), "output-unknown"),
        ({"y": np.zeros((1, 5, 5))}, reading("finished"), "output-unreadable"),
        ({"y": np.zeros((1, 5, 5))}, reading("yolo"), "output-unreadable"),
    ):
        with pytest.raises(UsageError) as caught:
            interpret(broken, how, size=SIZE)
        assert caught.value.code == code


@pytest.mark.parametrize(
    "wrong",
    [{"family": "ssd"}, {"decode": "v5", "strides": (8,)}, {"decode": "grid"}, {"iou": 2.0}, {"limit": 0},
     {"family": "ssd", "strides": (0,), "anchors": (((1, 1),),)}],
)  # fmt: skip
def test_readings_that_make_no_sense(wrong):
    with pytest.raises(ValueError, match=r".+"):
        DetectionReading(**wrong)
