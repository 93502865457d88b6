"""The YOLO family and its neighbors against plain loops over cells: every way in which a head is exported."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.errors import UsageError
from edgekit.reading import DetectionReading, Interpret
from edgekit.runtimes.interpretation.detection import detections

SIZE = (96, 64)
STRIDES = (8.0, 16.0, 32.0)
ANCHORS = tuple(tuple((s * a, s * b) for a, b in ((1.0, 1.5), (2.0, 1.0))) for s in STRIDES)


def sigmoid(value):
    return 1 / (1 + math.exp(-value))


def softmax_mean(values):
    raised = [math.exp(value - max(values)) for value in values]
    return sum(place * value for place, value in enumerate(raised)) / sum(raised)


def cells():
    """Stride, column and row of every cell, in the order of exports."""
    for stride in STRIDES:
        rows, columns = (math.ceil(size / stride) for size in SIZE)
        for y, x in product(range(rows), range(columns)):
            yield stride, x, y


def found(outputs, classes, least=0.3, **more):
    """(class, score, box) of all that reach the threshold, without suppression."""
    labels = tuple("abcdefgh"[:classes])
    about = DetectionReading("yolo", iou=1.0, limit=10**6, relative=False, **more)
    how = Interpret("detection", labels=labels, threshold=least, detection=about)
    batch = {key: array[None] for key, array in outputs.items()}
    return sorted((d.index, d.score, d.box) for d in detections(batch, how, SIZE, None))


def same(seen, expected):
    expected = sorted(expected)
    assert expected
    assert [row[0] for row in seen] == [row[0] for row in expected]
    np.testing.assert_allclose([row[1] for row in seen], [row[1] for row in expected], rtol=1e-5)
    np.testing.assert_allclose([row[2] for row in seen], [row[2] for row in expected], rtol=1e-4, atol=1e-3)


def candidates(scores, boxes, least=0.3):
    return [(c, s, box) for row, box in zip(scores, boxes, strict=True) for c, s in enumerate(row) if s >= least]


def distributed(heads, scores, bins, offset):
    """What DFL means, cell by cell."""
    boxes = []
    for (stride, x, y), head in zip(cells(), heads.tolist(), strict=True):
        left, top, right, bottom = (
            head[side] if bins == 1 else softmax_mean(head[side * bins : (side + 1) * bins]) for side in range(4)
        )
        across, down = x + offset, y + offset
        boxes.append(((across - left) * stride, (down - top) * stride, (across + right) * stride,
                      (down + bottom) * stride))  # fmt: skip
    return candidates([[sigmoid(value) for value in row] for row in scores.tolist()], boxes)


def laid_out(tables, form, order):
    """Outputs of [cells, numbers] tables: all cells together, or one output a stride, channels first or last."""
    ends = np.cumsum([math.ceil(SIZE[0] / s) * math.ceil(SIZE[1] / s) for s in STRIDES])
    outputs = {}
    for number, table in enumerate(tables):
        if form in ("NF", "FN"):
            outputs[f"{number}"] = table if form == "NF" else table.T
            continue
        for level, part in enumerate(np.split(table, ends[:-1])):
            grid = part.reshape(math.ceil(SIZE[0] / STRIDES[level]), -1, table.shape[1])
            made = {"HWF": grid, "FHW": grid.transpose(2, 0, 1), "levels": part}[form]
            outputs[f"{number}.{level}"] = made
    keys = list(outputs)
    return {key: np.ascontiguousarray(outputs[key], np.float32) for key in (keys if order else reversed(keys))}


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1), st.integers(1, 5), st.sampled_from([1, 8, 16]), st.sampled_from([0.0, 0.5]),
    st.sampled_from(["NF", "FN", "HWF", "FHW", "levels"]),
    st.sampled_from(["boxes first", "scores first", "apart"]), st.booleans(),
)  # fmt: skip
def test_sides_as_distributions(seed, classes, bins, offset, form, together, order):
    dice = np.random.default_rng(seed)
    count = len(list(cells()))
    heads = dice.normal(size=(count, 4 * bins)).astype(np.float32) * (1 if bins == 1 else 3)
    scores = dice.normal(size=(count, classes)).astype(np.float32) * 2
    joined = {"boxes first": [np.concatenate([heads, scores], 1)], "scores first": [np.concatenate([scores, heads], 1)],
              "apart": [heads, scores]}[together]  # fmt: skip
    outputs = laid_out(joined, form, order or (together == "apart" and classes == 4 * bins))
    about = {"strides": STRIDES, "bins": bins, "offset": offset, "scores_first": together == "scores first"}
    seen = found(outputs, classes, decode="dfl", activation="sigmoid", **about)
    same(seen, distributed(heads, scores, bins, offset))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1), st.integers(1, 5), st.sampled_from(["v5", "v3"]),
    st.sampled_from(["AHWF", "(AF)HW", "HW(AF)"]), st.booleans(),
)  # fmt: skip
def test_anchors_and_objectness(seed, classes, decode, form, order):
    dice = np.random.default_rng(seed)
    outputs, scores, boxes = {}, [], []
    for level, (stride, anchors) in enumerate(zip(STRIDES, ANCHORS, strict=True)):
        shape = [math.ceil(size / stride) for size in SIZE]
        raw = dice.normal(size=(*shape, 2, 5 + classes)).astype(np.float32) * 1.5
        made = {"AHWF": raw.transpose(2, 0, 1, 3), "HW(AF)": raw.reshape(*shape, -1),
                "(AF)HW": raw.reshape(*shape, -1).transpose(2, 0, 1)}[form]  # fmt: skip
        outputs[f"{level}"] = made
        for y, x, a in np.ndindex(*shape, 2):
            tx, ty, tw, th, there, *rest = raw[y, x, a].tolist()
            width, height = anchors[a]
            if decode == "v5":
                middle = [(2 * sigmoid(tx) - 0.5 + x) * stride, (2 * sigmoid(ty) - 0.5 + y) * stride]
                extent = [(2 * sigmoid(tw)) ** 2 * width, (2 * sigmoid(th)) ** 2 * height]
            else:
                middle = [(sigmoid(tx) + x) * stride, (sigmoid(ty) + y) * stride]
                extent = [math.exp(tw) * width, math.exp(th) * height]
            boxes.append((middle[0] - extent[0] / 2, middle[1] - extent[1] / 2,
                          middle[0] + extent[0] / 2, middle[1] + extent[1] / 2))  # fmt: skip
            scores.append([sigmoid(there) * sigmoid(value) for value in rest])
    if not order:
        outputs = dict(reversed(outputs.items()))
    seen = found(outputs, classes, decode=decode, objectness=True, strides=STRIDES, anchors=ANCHORS)
    same(seen, candidates(scores, boxes))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 5), st.booleans(), st.sampled_from(["none", "sigmoid"]), st.booleans())
def test_rows_decoded_by_the_model(seed, classes, objectness, activation, turned):
    """YOLOv5 (with objectness), v8 and v11 (without) as Ultralytics exports them; YOLOX by its grid."""
    dice = np.random.default_rng(seed)
    count = len(list(cells()))
    centers = np.concatenate([dice.uniform(0, 90, (count, 2)), dice.uniform(1, 40, (count, 2))], 1).astype(np.float32)
    rest = dice.normal(size=(count, objectness + classes)).astype(np.float32) * 2
    rest = rest if activation == "sigmoid" else (1 / (1 + np.exp(-rest))).astype(np.float32)
    rows = np.concatenate([centers, rest], axis=1)
    likely = [[sigmoid(v) if activation == "sigmoid" else v for v in row] for row in rest.tolist()]
    scores = [[row[0] * v for v in row[1:]] if objectness else row for row in likely]
    boxes = [(x - w / 2, y - h / 2, x + w / 2, y + h / 2) for x, y, w, h in centers.tolist()]
    about = {"corners": "center", "objectness": objectness, "activation": activation}
    same(found({"y": rows.T if turned else rows}, classes, **about), candidates(scores, boxes))
    raw = dice.normal(size=(count, 4)).astype(np.float32)
    grid = [((x + a) * s, (y + b) * s, math.exp(w) * s, math.exp(h) * s)
            for (s, x, y), (a, b, w, h) in zip(cells(), raw.tolist(), strict=True)]  # fmt: skip
    boxes = [(x - w / 2, y - h / 2, x + w / 2, y + h / 2) for x, y, w, h in grid]
    seen = found({"y": np.concatenate([raw, rest], 1)}, classes, decode="grid", strides=STRIDES, **about)
    same(seen, candidates(scores, boxes))


def test_suppressed_by_the_model_itself():
    """YOLOv10: rows of box, score and class."""
    rows = np.array([[1, 2, 30, 40, 0.9, 1], [5, 5, 9, 9, 0.4, 0], [0, 0, 1, 1, 0.1, 0]], np.float32)
    about = DetectionReading("finished", relative=False)
    how = Interpret("detection", labels=("cat", "dog"), threshold=0.3, detection=about)
    seen = detections({"output0": rows[None]}, how, SIZE, None)
    assert [(d.label, d.box) for d in seen] == [("dog", (1, 2, 30, 40)), ("cat", (5, 5, 9, 9))]


@pytest.mark.parametrize(
    "outputs",
    [
        {"y": np.zeros((7, 64 + 2), np.float32)},  # no stride makes so many
        {"y": np.zeros((126, 64), np.float32)},  # boxes alone
        {"a": np.zeros((126, 64), np.float32), "b": np.zeros((126, 3), np.float32)},  # three classes, two labels
        {"a": np.zeros((66, 12, 8), np.float32)},  # one stride of three
    ],
)
def test_heads_that_are_none(outputs):
    with pytest.raises(UsageError) as caught:
        found(outputs, 2, decode="dfl", strides=STRIDES)
    assert caught.value.code == "output-unreadable"


def test_distributions_need_strides_and_bins():
    for wrong in ({"decode": "dfl"}, {"decode": "dfl", "strides": (8.0,), "bins": 0}):
        with pytest.raises(ValueError, match=r"strides|bins"):
            DetectionReading("yolo", **wrong)
