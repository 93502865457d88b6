"""Masks, points, anomalies, embeddings, sequences and wake words."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit import metadata
from edgekit.errors import UsageError
from edgekit.feeding import ImageSteps
from edgekit.reading import AnomalyReading, Interpret, KeypointReading, SequenceReading, WakeReading
from edgekit.runtimes.interpret import interpret
from edgekit.runtimes.interpretation.wakeword import Spotter
from edgekit.runtimes.preparation.pictures import Geometry, fit
from edgekit.tensors import TensorSpec


def test_the_best_of_many_classes_is_what_sorting_gives():
    dice = np.random.default_rng(0)
    for count in (1, 5, 40):
        scores = np.round(dice.random((1, 1000)), 2).astype(np.float32)  # with ties
        answer = interpret({"y": scores}, Interpret("classification", scores="probabilities", top_k=count))
        expected = np.argsort(-scores[0].astype(np.float64), kind="stable")[:count]
        assert [score.index for score in answer.classes] == expected.tolist()
    for row in (np.zeros(1000), dice.integers(0, 3, 1000) / 256, np.where(dice.random(1000) < 0.5, -np.inf, 0.5)):
        for count in (0, 1, 5, 600, 1000):
            answer = interpret({"y": row[None]}, Interpret("classification", scores="probabilities", top_k=count))
            expected = np.argsort(-row, kind="stable")[:count]
            expected = expected[row[expected] >= 0]  # what cannot be reaches no threshold
            assert [score.index for score in answer.classes] == expected.tolist()


VECTOR, STEPS, PICTURE = np.full((1, 3), 0.2), np.full((1, 4, 3), 0.2), np.full((1, 6, 6, 3), 0.2)
READINGS = [
    (Interpret("classification", scores="probabilities"), VECTOR),
    (Interpret("classification", scores="probabilities"), np.full((1, 40), 0.01)),
    (Interpret("classification"), VECTOR),
    (Interpret("multi-label"), VECTOR),
    (Interpret("regression"), VECTOR),
    (Interpret("regression"), VECTOR[:, :1].astype(np.float32)),
    (Interpret("embedding"), VECTOR),
    (Interpret("anomaly", threshold=0.5), VECTOR[:, :1]),
    (Interpret("anomaly", threshold=0.5, anomaly=AnomalyReading(below=True)), VECTOR[:, :1]),
    (Interpret("anomaly", threshold=0.5, anomaly=AnomalyReading("reconstruction")), VECTOR),
    (Interpret("wake-word", labels=("a", "b", "c")), VECTOR),
    (Interpret("sequence"), STEPS),
    (Interpret("segmentation", labels=("a", "b", "c")), PICTURE),
    (Interpret("segmentation"), PICTURE[..., :1]),
    (Interpret("keypoints"), STEPS),
    (Interpret("keypoints", keypoints=KeypointReading("heatmaps")), PICTURE),
]


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
@pytest.mark.parametrize(("how", "outputs"), READINGS)
def test_what_is_no_number_is_no_answer(how, outputs, wrong):
    """Compared with a threshold it would read as "nothing there"."""
    given = np.zeros_like(outputs[0])
    interpret({"y": outputs}, how, given=given)
    broken = outputs.copy()
    broken[(0,) * outputs.ndim] = wrong
    with pytest.raises(UsageError, match=r"nan|inf") as caught:
        interpret({"y": broken}, how, given=given)
    assert caught.value.code == "output-unreadable"


def test_numbers_whose_sum_is_none_are_an_answer():
    most = float(np.finfo(np.float64).max)
    assert interpret({"y": np.array([[most, most]])}, Interpret("regression")).values == (most, most)


def test_a_threshold_leaves_out_what_is_unsure():
    outputs = {"y": np.array([[0.6, 0.3, 0.1]])}
    how = Interpret("classification", labels=("a", "b", "c"), scores="probabilities", threshold=0.25)
    assert [score.label for score in interpret(outputs, how).classes] == ["a", "b"]
    strict = Interpret("classification", scores="probabilities", threshold=0.7)
    assert interpret(outputs, strict).classes == ()
    assert interpret(outputs, strict).label is None
    many = Interpret("multi-label", scores="probabilities", threshold=0.2)
    assert [score.index for score in interpret(outputs, many).classes] == [0, 1]


def test_one_sample_of_a_batch():
    outputs = {"y": np.array([[0.9, 0.1], [0.2, 0.8]])}
    how = Interpret("classification", scores="probabilities")
    assert [interpret(outputs, how, sample=i).label for i in (0, 1)] == ["0", "1"]


@pytest.mark.parametrize("form", ["HWC", "CHW", "HW"])
def test_segmentation(form):
    truth = np.zeros((6, 8), int)
    truth[2:4, 1:5], truth[5] = 1, 2
    scores = np.eye(3)[truth]
    given = {"HWC": scores, "CHW": scores.transpose(2, 0, 1), "HW": truth}[form][None]
    answer = interpret({"y": given}, Interpret("segmentation", labels=("none", "cat", "dog")))
    np.testing.assert_array_equal(answer.classes, truth)
    assert answer.classes.dtype == np.uint8
    assert answer.to_dict()["shares"] == {"none": 32 / 48, "cat": 8 / 48, "dog": 8 / 48}
    again = interpret({"y": given}, Interpret("segmentation", labels=("none", "cat", "cat")))
    assert again.shares() == {"none": 32 / 48, "cat": 16 / 48}


@pytest.mark.parametrize("axis", [0, 2])
def test_classes_of_an_arg_max_that_keeps_its_axis(axis):
    truth = np.arange(12).reshape(3, 4) % 5
    answer = interpret({"y": np.expand_dims(truth, axis)[None]}, Interpret("segmentation"))
    np.testing.assert_array_equal(answer.classes, truth)


@pytest.mark.parametrize(
    ("plane", "classes", "size"),
    [((16, 16), 21, None), ((8, 8), 9, (64, 64)), ((16, 20), 21, (32, 40)), ((9, 17), 13, (33, 65)),
     ((48, 64), 21, None), ((30, 20), 24, (300, 200))],
)  # fmt: skip
def test_the_axis_that_counts_the_classes(plane, classes, size):
    """However many there are: beside what has the input's proportions, or is square, or far longer."""
    scores = np.zeros((*plane, classes), np.float32)
    scores[..., classes - 1] = 1
    for turned in (scores, scores.transpose(2, 0, 1)):
        answer = interpret({"y": turned[None]}, Interpret("segmentation"), size=size)
        assert answer.classes.shape == plane
        assert (answer.classes == classes - 1).all()


def test_an_axis_that_nothing_tells_is_refused():
    for shape, size in (((16, 20, 24), None), ((8, 8, 8), (8, 8)), ((16, 24, 16), (20, 20))):
        with pytest.raises(UsageError, match="counts the classes") as caught:
            interpret({"y": np.zeros((1, *shape))}, Interpret("segmentation"), size=size)
        assert caught.value.code == "output-unreadable"
        labels = tuple(map(str, range(shape[2])))
        assert interpret({"y": np.zeros((1, *shape))}, Interpret("segmentation", labels=labels)).classes.size


def test_a_mask_of_one_score():
    logits = np.array([[[-1.0, 0.5], [3.0, -0.1]]])
    for given in (logits, logits[..., None], logits[:, None]):
        answer = interpret({"y": given}, Interpret("segmentation", labels=("out", "in")))
        np.testing.assert_array_equal(answer.classes, [[0, 1], [1, 0]])
    sure = Interpret("segmentation", scores="logits", threshold=0.9)
    np.testing.assert_array_equal(interpret({"y": logits}, sure).classes, [[0, 0], [1, 0]])


@pytest.mark.parametrize("how", ["stretch", "letterbox", "crop"])
@pytest.mark.parametrize("coarse", [1, 2])
def test_masks_come_back_to_the_picture_that_was_given(how, coarse):
    frame = np.zeros((60, 150, 3), np.uint8)
    frame[20:40, 60:100] = 255
    made, placement = fit(frame, Geometry(32, 48, 3, first=False), ImageSteps(how, "nearest", border=0))
    scores = (made[::coarse, ::coarse, 0] / 255)[None, ..., None]
    reading = Interpret("segmentation", scores="probabilities")
    answer = interpret({"y": scores}, reading, placement=placement)
    assert answer.classes.shape == (60, 150)
    assert (answer.classes != (frame[..., 0] > 0)).mean() < 0.05


def test_coordinates_as_movenet_gives_them():
    rows = np.array([[[[0.25, 0.5, 0.9], [0.5, 0.125, 0.2]]]], np.float32)  # y, x, score
    how = Interpret("keypoints", labels=("nose", "eye"), keypoints=KeypointReading(order="yx"))
    answer = interpret({"y": rows}, how, size=(40, 80))
    assert [(p.label, p.x, p.y) for p in answer.points] == [("nose", 40, 10), ("eye", 10, 20)]
    assert answer.to_dict()["points"][0]["score"] == pytest.approx(0.9)
    _, placement = fit(np.zeros((100, 400, 3), np.uint8), Geometry(80, 80, 3, first=False), ImageSteps("letterbox"))
    placed = interpret({"y": rows}, how, placement=placement).points[0]
    np.testing.assert_allclose([placed.x, placed.y], [200, 0])  # y 20 lies on the border above


@pytest.mark.parametrize("channels", ["last", "first"])
def test_heatmaps_find_the_peak_within_half_a_cell(channels):
    y, x = np.mgrid[:12, :16]
    truth = [(4.3, 7.8), (9.1, 2.2)]  # x, y in cells
    maps = np.stack([np.exp(-((x + 0.5 - a) ** 2 + (y + 0.5 - b) ** 2) / 4) for a, b in truth])
    given = maps if channels == "first" else maps.transpose(1, 2, 0)
    how = Interpret("keypoints", keypoints=KeypointReading("heatmaps", channels=channels))
    answer = interpret({"y": given[None]}, how, size=(48, 64))
    np.testing.assert_allclose([(p.x / 4, p.y / 4) for p in answer.points], truth, atol=0.26)


def test_anomalies():
    score = {"y": np.array([[0.7]])}
    assert interpret(score, Interpret("anomaly", threshold=0.5)).anomalous
    assert not interpret(score, Interpret("anomaly", threshold=0.9)).anomalous
    below = Interpret("anomaly", threshold=0.9, anomaly=AnomalyReading(below=True))
    assert interpret(score, below).anomalous
    rebuilt = Interpret("anomaly", threshold=0.5, anomaly=AnomalyReading("reconstruction"))
    answer = interpret({"y": np.array([[1.0, 2, 3, 4]])}, rebuilt, given=np.array([[1.0, 2, 3, 6]]))
    assert answer.to_dict() == {"task": "anomaly", "score": 1.0, "threshold": 0.5, "anomalous": True}
    for given in (None, np.zeros(3)):
        with pytest.raises(UsageError) as caught:
            interpret({"y": np.array([[1.0, 2, 3, 4]])}, rebuilt, given=given)
        assert caught.value.code == "output-unreadable"


def test_embeddings_are_directions():
    first, second = (interpret({"y": np.array([v])}, Interpret("embedding")) for v in ([3.0, 4.0], [-8.0, 6.0]))
    np.testing.assert_allclose(first.vector, [0.6, 0.8], atol=1e-7)
    assert first.cosine(first) == pytest.approx(1)
    assert first.cosine(second) == pytest.approx(0, abs=1e-7)
    assert interpret({"y": np.zeros((1, 3))}, Interpret("embedding")).vector.tolist() == [0, 0, 0]
    assert first.to_dict()["vector"] == pytest.approx([0.6, 0.8])


def steps(*classes, count=5):
    return {"y": (np.eye(count)[list(classes)] * 0.8 + 0.05)[None]}


def test_sequences():
    labels = ("_", "a", "b", "c", "d")
    plain = interpret(steps(1, 1, 0), Interpret("sequence", labels=labels, scores="probabilities"))
    assert [(t.label, t.start, t.end) for t in plain.tags] == [("a", 0, 1), ("a", 1, 2), ("_", 2, 3)]
    ctc = Interpret("sequence", labels=labels, scores="probabilities", sequence=SequenceReading("ctc"))
    answer = interpret(steps(0, 1, 1, 0, 1, 2, 2, 0), ctc)
    assert [(t.label, t.start, t.end) for t in answer.tags] == [("a", 1, 3), ("a", 4, 5), ("b", 5, 7)]
    assert answer.tags[0].score == pytest.approx(0.85)
    bio = ("O", "B-city", "I-city", "B-name", "I-name")
    tagged = Interpret("sequence", labels=bio, scores="probabilities", sequence=SequenceReading("bio"))
    found = interpret(steps(1, 2, 2, 1, 0, 4, 3, 2), tagged).tags
    assert [(t.label, t.start, t.end) for t in found] == [
        ("city", 0, 3), ("city", 3, 4), ("name", 5, 6), ("name", 6, 7), ("city", 7, 8),
    ]  # fmt: skip
    with pytest.raises(UsageError):
        interpret({"y": np.zeros((1, 4))}, tagged)


WAKE = Interpret(
    "wake-word", labels=("silence", "yes", "no"), scores="probabilities", threshold=0.6,
    wake=WakeReading(("yes", "no"), smoothing=2, refractory=0.5),
)  # fmt: skip


def test_a_window_by_itself():
    answer = interpret({"y": np.array([[0.2, 0.7, 0.1]])}, WAKE)
    assert (answer.label, answer.heard) == ("yes", True)
    quiet = interpret({"y": np.array([[0.9, 0.05, 0.05]])}, WAKE)
    assert (quiet.label, quiet.heard) == (None, False)


def test_a_word_of_several_classes_is_the_likeliest_of_them():
    how = Interpret("wake-word", labels=("yes", "yes", "no"), scores="probabilities")
    for scores in ([0.9, 0.05, 0.05], [0.05, 0.9, 0.05]):
        answer = interpret({"y": np.array([scores])}, how)
        assert (answer.label, answer.score, answer.scores) == ("yes", 0.9, {"yes": 0.9, "no": 0.05})


def test_a_word_is_heard_once_when_it_stays():
    spotter = Spotter(WAKE)
    seen = []
    for number, yes in enumerate([0.0, 0.9, 0.9, 0.9, 0.9, 0.9, 0.0, 0.0, 0.95, 0.95, 0.0]):
        window = interpret({"y": np.array([[1 - yes, yes, 0.0]])}, WAKE)
        seen.append(spotter(window, 0.2 * number).heard)
    # 0.45 on the average at first; heard at 0.4 s; quiet until 0.9 s; the word still sounds at 1.0 s.
    assert [i for i, heard in enumerate(seen) if heard] == [2, 5, 9]


def test_a_single_noisy_window_is_no_word():
    spotter = Spotter(WAKE)
    heard = [
        spotter(interpret({"y": np.array([[1 - p, p, 0]])}, WAKE), t).heard for t, p in enumerate([0, 1, 0, 0, 1, 0])
    ]
    assert not any(heard)


@pytest.mark.parametrize(
    "table",
    [
        {"task": "anomaly"},
        {"task": "classification", "detection": {}},
        {"task": "wake-word", "labels": ["a"], "wake": {"words": ["b"]}},
        {"task": "wake-word", "wake": {"smoothing": 0}},
        {"task": "detection", "detection": {"family": "ssd"}},
        {"task": "keypoints", "keypoints": {"order": "zx"}},
        {"task": "classification", "top_k": -1},
        {"task": "classification", "threshold": float("nan")},
    ],
)
def test_metadata_that_makes_no_sense(table):
    with pytest.raises(UsageError) as caught:
        metadata.read({"interpret": table}, None, None)
    assert caught.value.code == "metadata-invalid"


def test_the_manifest_says_all_of_it():
    said = metadata.read(
        {
            "interpret": {
                "task": "detection",
                "labels": ["face"],
                "detection": {"family": "ssd", "strides": [8, 16], "anchors": [[[10, 16], [24, 24]], [[32, 48]]]},
            }
        },
        None,
        None,
    ).interpret
    assert said.detection.anchors == (((10.0, 16.0), (24.0, 24.0)), ((32.0, 48.0),))


def test_outputs_that_the_metadata_names_must_be_there():
    said = metadata.read({"interpret": {"task": "detection", "detection": {"boxes": "b", "scores": "s"}}}, None, None)
    outputs = tuple(TensorSpec(name, (1, 4), "float32") for name in ("b", "s"))
    assert metadata.complete(said, outputs, label=None) == said
    with pytest.raises(UsageError, match="no output s; known: b") as caught:
        metadata.complete(said, outputs[:1], label=None)
    assert caught.value.code == "metadata-invalid"
