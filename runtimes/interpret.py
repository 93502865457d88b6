"""From output arrays to answers, as the manifest says: typed, frozen, with `to_dict()`.

What a task needs is imported when the first answer of it is read.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING

import numpy as np

from edgekit.errors import UsageError
from edgekit.reading import Interpret
from edgekit.runtimes.base import Array
from edgekit.runtimes.interpretation.classes import FEW, classification, few, multi_label
from edgekit.runtimes.interpretation.results import (
    Answer,
    Classification,
    MultiLabel,
    Raw,
    Regression,
    Score,
    name,
)

if TYPE_CHECKING:
    from edgekit.runtimes.preparation.pictures import Placement

__all__ = ["Answer", "Classification", "MultiLabel", "Raw", "Regression", "Score", "interpret"]

_PLAIN = ("multi-label", "regression", "embedding", "wake-word")


Reader = Callable[[Mapping[str, Array], int, "Placement | None", "Array | None"], Answer]
"""Outputs, sample, placement and what was given, as `interpret` has them."""


def framed(outputs: Mapping[str, Array], bare: Collection[str]) -> dict[str, Array]:
    """Outputs of one sample with a batch axis each: `bare` names those that have none, see `tensors.unbatched`."""
    return {name: values[None] if name in bare else values for name, values in outputs.items()}


def reader(how: Interpret, size: tuple[int, int] | None = None, bare: Collection[str] = ()) -> Reader:
    """`interpret` of one manifest, one size of pictures and outputs of which some have no batch axis."""
    if bare and how.task != "other":
        read_framed = reader(how, size)
        return lambda outputs, *rest: read_framed(framed(outputs, bare), *rest)
    if how.task != "classification":

        def general(
            outputs: Mapping[str, Array], sample: int, placement: Placement | None, given: Array | None
        ) -> Answer:
            return interpret(outputs, how, sample=sample, size=size, placement=placement, given=given)

        read = _vector(how)
        return general if read is None else _straight(read, how.output, general)
    quick, key = few(how), how.output

    def classify(
        outputs: Mapping[str, Array], sample: int, placement: Placement | None, given: Array | None
    ) -> Classification:
        del placement, given
        values = outputs.get(key) if key is not None else next(iter(outputs.values()), None)
        if (
            type(values) is np.ndarray
            and values.ndim == 2
            and 0 < values.size <= FEW * len(values)
            and values.dtype.kind == "f"
        ):
            scores: list[float] = values.tolist()[0] if len(values) == 1 else values[sample].tolist()
            answer = quick(scores)
            if answer is not None:
                return answer
        row = _sample(outputs, how, sample)
        if row.size == 1 and row.dtype.kind in "iu":  # the class itself, where the model ends in an arg max
            index = int(row.reshape(-1)[0])
            return Classification((Score(index, name(index, how.labels), 1.0),))
        return classification(row.reshape(-1).astype(np.float64), how)

    return classify


def _vector(how: Interpret) -> Callable[[Array], Answer] | None:
    """What reads the values [n] of one sample; None where that takes more."""
    if how.task == "regression":
        from edgekit.runtimes.interpretation.vectors import regression

        return regression
    if how.task == "embedding":
        from edgekit.runtimes.interpretation.vectors import embedding

        return embedding
    if how.task == "anomaly" and (how.anomaly is None or how.anomaly.score == "output"):
        from edgekit.runtimes.interpretation.vectors import anomaly

        return lambda values: anomaly(values, how, None)
    return None


def _straight(read: Callable[[Array], Answer], key: str | None, general: Reader) -> Reader:
    """For plain outputs [N, n] or [N] of reals; others go the general way."""

    def straight(outputs: Mapping[str, Array], sample: int, placement: Placement | None, given: Array | None) -> Answer:
        values = outputs.get(key) if key is not None else next(iter(outputs.values()), None)
        if type(values) is np.ndarray and values.size and values.dtype.kind == "f":
            if values.ndim == 2:
                return read(values[sample])
            if values.ndim == 1:
                return read(values[sample : sample + 1])
        return general(outputs, sample, placement, given)

    return straight


def read_of(how: Interpret, outputs: tuple[str, ...]) -> tuple[str, ...]:
    """The outputs that a reading looks at, of all; the others need not be fetched."""
    names: tuple[str | None, ...] = (how.output,)
    if how.embedding is not None:
        outputs = tuple(one for one in outputs if one != how.embedding)
    if how.task in ("detection", "other"):
        about = how.detection
        if about is not None and about.family != "yolo":
            names = (about.boxes, about.scores, about.classes, about.count)
        if about is None or not any(names):  # by their places
            return outputs
    named = {*names, how.output} - {None} or set(outputs[:1])
    return tuple(one for one in outputs if one in named) if named <= set(outputs) else outputs


def interpret(
    outputs: Mapping[str, Array],
    how: Interpret,
    *,
    sample: int = 0,
    size: tuple[int, int] | None = None,
    placement: Placement | None = None,
    given: Array | None = None,
) -> Answer:
    """Read one sample of a batch.

    Args:
        outputs: Array by name, real values, with a batch axis.
        how: The manifest's.
        sample: Which.
        size: Height and width of an image input, for boxes and points.
        placement: Where the picture lies in the input; boxes, points and masks are then those of the picture.
        given: What the sample was, in real values, for reconstructions.

    Raises:
        UsageError: `output-unknown`: `how` names an output that is not there; `output-unreadable`: there is none, or it
            does not hold such an answer, or one that is not finite (NaN, infinite).
    """
    if how.task == "classification":
        return reader(how)(outputs, sample, placement, given)
    if how.embedding in outputs:
        outputs = {name: values for name, values in outputs.items() if name != how.embedding}
    _check_output(outputs, how)
    if how.task == "detection":
        if how.detection is None:
            return Raw(outputs)
        from edgekit.runtimes.interpretation.detection import detections

        return detections(outputs, how, size, placement, sample)
    if how.task == "other":
        return Raw(outputs)
    values = _sample(outputs, how, sample)
    return _plain(values, how) if how.task in _PLAIN else _shaped(values, how, size, placement, given)


def _plain(values: Array, how: Interpret) -> Answer:
    """Of what is read as one vector."""
    flat = values.reshape(-1).astype(np.float64)
    if how.task == "multi-label":
        return multi_label(flat, how)
    read = _vector(how)
    if read is not None:
        return read(flat)
    from edgekit.runtimes.interpretation.wakeword import window

    return window(flat, how)


def _shaped(
    values: Array, how: Interpret, size: tuple[int, int] | None, placement: Placement | None, given: Array | None
) -> Answer:
    """Of what has axes that mean something."""
    if how.task == "segmentation":
        from edgekit.runtimes.interpretation.points import segmentation

        return segmentation(values, how, size, placement)
    if how.task == "keypoints":
        from edgekit.runtimes.interpretation.points import keypoints

        return keypoints(values, how, size, placement)
    if how.task == "anomaly":
        from edgekit.runtimes.interpretation.vectors import anomaly

        return anomaly(values, how, given)
    from edgekit.runtimes.interpretation.sequences import sequence

    return sequence(values.astype(np.float64), how)


def _check_output(outputs: Mapping[str, Array], how: Interpret) -> None:
    if how.output is not None and how.output not in outputs:
        raise UsageError("output-unknown", f"there is no output {how.output}; known: {', '.join(outputs)}")


def _sample(outputs: Mapping[str, Array], how: Interpret, sample: int) -> Array:
    _check_output(outputs, how)
    if not outputs:
        raise UsageError("output-unreadable", f"the model gives no output to read a {how.task} from")
    key = how.output or next(iter(outputs))
    values = outputs[key]
    if type(values) is not np.ndarray:
        values = np.asarray(values)
    if values.dtype.kind not in "fiub" or not values.size:
        raise UsageError(
            "output-unreadable",
            f"{key} gives {values.dtype} {list(values.shape)}, from which no {how.task} can be read",
        )
    return np.asarray(values[sample]) if values.ndim else values.reshape(1)
