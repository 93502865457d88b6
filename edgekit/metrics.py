"""Accuracy on labelled data, streaming: the same figures for `evaluate` and for verification.

- top1: percent of samples whose largest score has the label's index; for one output of a binary classifier, percent on
  the right side of 0.5 (probabilities) or 0 (logits).
- multi_label_f1: micro-averaged F1 in percent (Sorower 2010, "A literature survey on multi-label learning") at a
  threshold of 0.5 (probabilities) or 0 (logits).
- r2: coefficient of determination, 1 - sum (y - p)^2 / sum (y - mean y)^2, in percent.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Protocol

from edgekit.errors import DataError

PLACES_FIX = "Store labels as text to name classes, or as their places: numpy.searchsorted(estimator.classes_, y)."
"""What to do about numbers that name classes."""

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Accumulator(Protocol):
    """Takes batches, gives one figure."""

    name: str

    def add(self, output: NDArray[Any], labels: NDArray[Any]) -> None: ...
    @property
    def value(self) -> float: ...
    @property
    def baseline(self) -> float:
        """What the best constant answer reaches on the same labels."""
        ...


def accumulator(task: str, labels: NDArray[Any] | None, output: NDArray[Any]) -> Accumulator:
    """The metric of a task; for task "other" the labels decide.

    Args:
        task: Of the manifest.
        labels: Of all samples, not of one batch: the kind of all decides.
        output: Answers to some samples, [n, ...]: their width and type decide what labels can mean.

    Raises:
        DataError: `labels-missing`, `labels-task`: the labels cannot be those of the task.
    """
    import numpy as np

    if labels is None:
        raise DataError("labels-missing", "the data has no labels")
    broken = np.flatnonzero(~np.isfinite(labels.astype(np.float64).reshape(len(labels), -1)).all(axis=1))
    if broken.size:
        raise DataError("labels-task", f"the label of sample {broken[0]} is NaN or infinite")
    width = output[0].size
    if task == "other":
        task = _task(labels, output)
    if task in ("classification", "wake-word"):
        _check_classes(labels, None if width == 1 else width)
        return Top1()
    if task == "multi-label":
        if labels.ndim != 2 or not np.isin(labels, (0, 1)).all():
            raise DataError("labels-task", "multi-label needs a row of zeros and ones a sample")
        if labels.shape[1] != width:
            raise DataError("labels-task", f"the output has {width} classes, the labels {labels.shape[1]}")
        return MultiLabelF1()
    if task == "regression":
        wanted = labels[0].size
        if wanted != width:
            raise DataError("labels-task", f"the output has {width} values, the labels {wanted}")
        if labels.min() == labels.max():
            raise DataError("labels-task", f"all labels are equal ({labels.min():g}): nothing can be measured")
        return R2()
    raise DataError("labels-task", f"there is no metric for the task {task}: leave the labels out")


def _task(labels: NDArray[Any], output: NDArray[Any]) -> str:
    """Whole numbers are classes and rows of zeros and ones several of them, where the output can mean that."""
    if not _whole(labels) or labels.ndim > 2:
        return "regression"
    if labels.ndim == 2:
        if _one_hot(labels):
            return "classification"
        return "multi-label" if bool(((labels == 0) | (labels == 1)).all()) else "regression"
    one_score = output[0].size == 1 and output.dtype.kind == "f"
    return "regression" if one_score and not set(labels.tolist()) <= {0, 1} else "classification"


def _whole(labels: NDArray[Any]) -> bool:
    return labels.dtype.kind in "iub" or bool((labels == labels.round()).all())


def _one_hot(labels: NDArray[Any]) -> bool:
    rows = labels.ndim == 2 and labels.shape[1] > 1
    return rows and bool(((labels == 0) | (labels == 1)).all() and (labels.sum(axis=1) == 1).all())


def _check_classes(labels: NDArray[Any], classes: int | None) -> None:
    if _one_hot(labels):
        if classes not in (None, labels.shape[1]):
            raise DataError("labels-task", f"the output has {classes} classes, the labels {labels.shape[1]}")
        return
    if labels.ndim != 1 or not _whole(labels):
        raise DataError("labels-task", "classification needs one class index a sample as its label, or one-hot rows")
    low, high = int(labels.min()), int(labels.max())
    if low < 0:
        raise DataError("labels-task", f"there is a label {low}; class indices start at 0")
    if classes is not None and high >= classes:
        message = f"there is a label {high}; the output has {classes} classes, 0 to {classes - 1}"
        raise DataError("labels-task", message, next_step=PLACES_FIX)


class _Scores:
    """Are they probabilities? Only all of them tell, so both readings are counted and the end decides.

    A quantized probability may leave [0, 1] by half a step, hence the margin: 1/64 is the step of 6 bits.
    """

    def __init__(self) -> None:
        self.low, self.high = 0.0, 1.0

    def add(self, scores: NDArray[Any]) -> None:
        self.low, self.high = min(self.low, float(scores.min())), max(self.high, float(scores.max()))

    @property
    def probabilities(self) -> bool:
        return self.low >= -1 / 64 and self.high <= 1 + 1 / 64


class Top1:
    """See the module header."""

    name = "top1"

    def __init__(self) -> None:
        self._scores = _Scores()
        self._right, self._right_of_logits = 0, 0
        self._labels: Counter[int] = Counter()

    def add(self, output: NDArray[Any], labels: NDArray[Any]) -> None:
        wanted = labels.argmax(axis=1) if labels.ndim == 2 else labels.astype("int64")
        flat = output.reshape(len(output), -1)
        self._labels.update(wanted.tolist())
        if flat.shape[1] > 1 or flat.dtype.kind in "iub":  # integers [N] are the answer itself
            classes = flat.argmax(axis=1) if flat.shape[1] > 1 else flat[:, 0]
            right = int((classes == wanted).sum())
            self._right += right
            self._right_of_logits += right
            return
        self._scores.add(flat)
        self._right += int(((flat[:, 0] > 0.5) == wanted).sum())
        self._right_of_logits += int(((flat[:, 0] > 0) == wanted).sum())

    @property
    def value(self) -> float:
        right = self._right if self._scores.probabilities else self._right_of_logits
        return 100 * right / max(1, self._labels.total())

    @property
    def baseline(self) -> float:
        return 100 * max(self._labels.values(), default=0) / max(1, self._labels.total())


class MultiLabelF1:
    """See the module header."""

    name = "multi_label_f1"

    def __init__(self) -> None:
        self._scores = _Scores()
        self._hits, self._said = [0, 0], [0, 0]  # of probabilities, of logits
        self._true = self._cells = 0

    def add(self, output: NDArray[Any], labels: NDArray[Any]) -> None:
        flat = output.reshape(len(labels), -1)
        true = labels.astype(bool)
        self._scores.add(flat)
        self._true += int(true.sum())
        self._cells += true.size
        for reading, said in enumerate((flat >= 0.5, flat >= 0)):
            self._hits[reading] += int((said & true).sum())
            self._said[reading] += int(said.sum())

    @property
    def value(self) -> float:
        reading = 0 if self._scores.probabilities else 1
        return 100 * 2 * self._hits[reading] / max(1, self._said[reading] + self._true)

    @property
    def baseline(self) -> float:
        return 100 * 2 * self._true / max(1, self._cells + self._true)


class R2:
    """See the module header. Sums in float64 around the first batch's mean, so that large offsets cost no digits."""

    name = "r2"

    def __init__(self) -> None:
        self._origin: Any = None
        self._seen = 0
        self._sum = self._squares = self._errors = 0.0

    def add(self, output: NDArray[Any], labels: NDArray[Any]) -> None:
        wanted = labels.astype("float64").reshape(len(labels), -1)
        found = output.astype("float64").reshape(len(labels), -1)
        if self._origin is None:
            self._origin = wanted.mean()
        self._seen += wanted.size
        self._sum += float((wanted - self._origin).sum())
        self._squares += float(((wanted - self._origin) ** 2).sum())
        self._errors += float(((wanted - found) ** 2).sum())

    @property
    def value(self) -> float:
        spread = self._squares - self._sum**2 / max(1, self._seen)
        if spread <= 0:
            return 100.0 if self._errors == 0 else float("-inf")
        return 100 * (1 - self._errors / spread)

    @property
    def baseline(self) -> float:
        return 0.0
