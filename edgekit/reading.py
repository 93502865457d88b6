"""How outputs are read: the `[interpret]` table of a manifest. `edgekit.runtimes.interpret` does what is said here.

What all tasks share stands in one table, what a task adds in one of its own, which may be left out for its defaults.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Task = Literal[
    "classification", "multi-label", "regression", "detection", "segmentation", "keypoints", "anomaly", "embedding",
    "sequence", "wake-word", "other",
]  # fmt: skip


@dataclass(frozen=True)
class DetectionReading:
    """How boxes are told: `[interpret.detection]`.

    Attributes:
        family: "boxes": outputs of boxes [N,4] and scores [N,C], decoded. "ssd": the same, relative to anchors.
            "yolo": one output [N, 4 (+ 1) + C], either way round, or one a stride. "finished": suppressed by the model
            itself: boxes, classes, scores and maybe a count, or one output [N,6] of box, score and class (YOLOv10).
        boxes, scores, classes, count: Names of those outputs; None to take them by their place: boxes, scores; of
            "finished" boxes, classes, scores, count, as TFLite_Detection_PostProcess gives them.
        corners: What the four numbers of a box are: "xyxy", "yxyx" (TensorFlow's), or "center": x, y, width, height;
            "yx-center": y, x, height, width. Of "ssd", the same of its offsets.
        relative: They count from 0 to 1 across the input; else in its pixels.
        activation: What still has to be done to scores.
        objectness: YOLO: a fifth number says whether there is anything; it multiplies the scores.
        background: Class 0 is nothing; labels begin with class 1.
        decode: YOLO: "none"; "grid": YOLOX, cells and logarithms of sizes; "v5": 2 sigmoid(t) - 0.5 of a cell,
            (2 sigmoid(t))^2 of an anchor, as YOLOv5 and v7; "v3": sigmoid(t) of a cell, exp(t) of an anchor; "dfl":
            distances to the four sides, each a distribution over `bins`, as raw heads of YOLOv8 and 11, NanoDet and
            PicoDet, boxes and scores in one output or two, for all cells or for each stride.
        bins: DFL: of each side's distribution: 16 of YOLO, 8 of NanoDet and PicoDet; 1 for distances themselves.
        offset: DFL: where in its cell distances begin: 0.5, or 0 (NanoDet-Plus).
        scores_first: DFL: an output of both holds the scores before the boxes (NanoDet).
        strides: Pixels of a cell, one a feature map, in the model's order.
        anchors: For each stride, (width, height) pairs in pixels.
        variances: SSD: of centers and of sizes (0.1 and 0.2; TensorFlow's scales 10 and 5 are their inverse).
        clip: SSD: anchors end at the picture's edges.
        iou: Overlap from which of two boxes one goes: intersection over union above it.
        agnostic: Boxes of different classes suppress each other.
        limit: How many are kept.
    """

    family: Literal["boxes", "ssd", "yolo", "finished"] = "boxes"
    boxes: str | None = None
    scores: str | None = None
    classes: str | None = None
    count: str | None = None
    corners: Literal["xyxy", "yxyx", "center", "yx-center"] = "xyxy"
    relative: bool = True
    activation: Literal["none", "sigmoid", "softmax"] = "none"
    objectness: bool = False
    background: bool = False
    decode: Literal["none", "grid", "v5", "v3", "dfl"] = "none"
    bins: int = 16
    offset: float = 0.5
    scores_first: bool = False
    strides: tuple[float, ...] = ()
    anchors: tuple[tuple[tuple[float, float], ...], ...] = ()
    variances: tuple[float, float] = (0.1, 0.2)
    clip: bool = False
    iou: float = 0.45
    agnostic: bool = False
    limit: int = 100

    def __post_init__(self) -> None:
        anchored = self.family == "ssd" or self.decode in ("v5", "v3")
        if (anchored or self.decode in ("grid", "dfl")) and not self.strides:
            raise ValueError(f"{self.family} with decode {self.decode} needs the strides")
        if anchored and len(self.anchors) != len(self.strides):
            raise ValueError(f"{len(self.anchors)} sets of anchors for {len(self.strides)} strides")
        if not all(stride > 0 for stride in self.strides):
            raise ValueError("strides are positive")
        if not 0 <= self.iou <= 1 or self.limit < 1 or self.bins < 1:
            raise ValueError("iou lies between 0 and 1, limit and bins are at least 1")


@dataclass(frozen=True)
class KeypointReading:
    """How points are told: `[interpret.keypoints]`. Their names are the `labels`.

    Attributes:
        form: "coordinates" [K,2], or [K,3] with a score; "heatmaps", one a point.
        order: Of coordinates.
        relative: They count from 0 to 1 across the input; else in its pixels.
        channels: Which axis of heatmaps counts the points: "last" or "first".
    """

    form: Literal["coordinates", "heatmaps"] = "coordinates"
    order: Literal["xy", "yx"] = "xy"
    relative: bool = True
    channels: Literal["last", "first"] = "last"


@dataclass(frozen=True)
class AnomalyReading:
    """What an anomaly is: `[interpret.anomaly]`; above the `threshold`.

    Attributes:
        score: The model's own first value; or the "reconstruction" error, the mean square of output minus input.
        below: Low values are anomalies (scikit-learn's `decision_function`).
    """

    score: Literal["output", "reconstruction"] = "output"
    below: bool = False


@dataclass(frozen=True)
class SequenceReading:
    """How a sequence of labels becomes an answer: `[interpret.sequence]`.

    Attributes:
        join: "none": each step by itself; "ctc": repeats are one, blanks none; "bio": B-X begins an X, I-X goes on.
        blank: Class of the blank.
    """

    join: Literal["none", "ctc", "bio"] = "none"
    blank: int = 0


@dataclass(frozen=True)
class WakeReading:
    """When a word counts as heard: `[interpret.wake]`; at the `threshold`, over windows that follow each other.

    Attributes:
        words: Labels to listen for; empty for all.
        smoothing: Windows whose scores are averaged.
        refractory: Seconds after a word in which no other counts.
    """

    words: tuple[str, ...] = ()
    smoothing: int = 3
    refractory: float = 1.0

    def __post_init__(self) -> None:
        if self.smoothing < 1 or not self.refractory >= 0:
            raise ValueError("smoothing is at least 1, refractory at least 0 seconds")


@dataclass(frozen=True)
class Interpret:
    """How to read the output.

    Attributes:
        task: What the model answers.
        output: Name of the output that holds it; None for the first.
        labels: Class names in order, or empty.
        scores: Whether the output holds probabilities or logits.
        top_k: How many classes an answer lists.
        threshold: Least score that counts; None for the task's own: 0 of a classification, 0.5 of labels, masks and
            wake words, 0.25 of boxes. Anomalies must have one.
        embedding: Name of an output that only monitors look at; an answer does not show it.
        detection, keypoints, anomaly, sequence, wake: More for that task; None for the defaults.
    """

    task: Task = "other"
    output: str | None = None
    labels: tuple[str, ...] = ()
    scores: Literal["probabilities", "logits"] = "logits"
    top_k: int = 5
    threshold: float | None = None
    embedding: str | None = None
    detection: DetectionReading | None = None
    keypoints: KeypointReading | None = None
    anomaly: AnomalyReading | None = None
    sequence: SequenceReading | None = None
    wake: WakeReading | None = None

    def __post_init__(self) -> None:
        tables = {"detection": "detection", "keypoints": "keypoints", "anomaly": "anomaly", "sequence": "sequence",
                  "wake": "wake-word"}  # fmt: skip
        for name, task in tables.items():
            if getattr(self, name) is not None and self.task != task:
                raise ValueError(f'the table {name} is for task = "{task}", not "{self.task}"')
        if self.embedding is not None and self.embedding == self.output:
            raise ValueError(f"the output {self.output} holds the answer, and is no embedding beside it")
        if self.threshold is not None and math.isnan(self.threshold):
            raise ValueError("the threshold is no number")
        if self.top_k < 0:
            raise ValueError(f"top_k is {self.top_k}; it is at least 0")
        if self.task == "anomaly" and self.threshold is None:
            raise ValueError("an anomaly needs the threshold from which it is one")
        strange = sorted(set(self.wake.words if self.wake else ()) - set(self.labels))
        if strange:
            raise ValueError(f"there is no label {strange[0]} to listen for; known: {', '.join(self.labels)}")
