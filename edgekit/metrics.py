"""Accuracy on labelled data, streaming: the same figures for `evaluate` and for verification.

- top1: percent of samples whose largest score has the label's index; for one output of a binary classifier, percent on
  the right side of 0.5 (probabilities) or 0 (logits).
- multi_label_f1: micro-averaged F1 in percent at a threshold of 0.5 (Sorower 2010, "A literature survey on multi-label
  learning").
- r2: coefficient of determination, 1 - sum (y - p)^2 / sum (y - mean y)^2, in percent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from edgekit.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Accumulator(Protocol):
    """Takes batches, gives one figure."""

    name: str

    def add(self, output: NDArray[Any], labels: NDArray[Any]) -> None: ...
    @property
    def value(self) -> float: ...


def accumulator(task: str, labels: NDArray[Any] | None) -> Accumulator:
    """The metric of a task; for task "other" the labels decide.

    Raises:
        DataError: `labels-missing`, `labels-task`: the labels cannot be those of the task.
    """
    if labels is None:
        raise DataError("labels-missing", "the data has no labels")
    whole = labels.dtype.kind in "iub" or bool((labels == labels.astype("int64")).all())
    if task == "other":
        task = (
            "multi-label"
            if labels.ndim == 2 and whole
            else "classification"
            if labels.ndim == 1 and whole
            else "regression"
        )
    if task == "classification":
        if labels.ndim != 1 or not whole or labels.min(initial=0) < 0:
            raise DataError("labels-task", "classification needs one class index a sample as its label")
        return Top1()
    if task == "multi-label":
        if labels.ndim != 2 or not set(labels.reshape(-1).tolist()) <= {0, 1}:
            raise DataError("labels-task", "multi-label needs a row of zeros and ones a sample")
        return MultiLabelF1()
    if task == "regression":
        return R2()
    raise DataError("labels-task", f"there is no metric for the task {task}: leave the labels out")


class Top1:
    """See the module header."""

    name = "top1"

    def __init__(self) -> None:
        self._right = self._seen = 0

    def add(self, output: NDArray[Any], labels: NDArray[Any]) -> None:
        classes = classes_of(output)
        self._right += int((classes == labels.astype("int64")).sum())
        self._seen += len(labels)

    @property
    def value(self) -> float:
        return 100 * self._right / max(1, self._seen)


class MultiLabelF1:
    """See the module header."""

    name = "multi_label_f1"

    def __init__(self) -> None:
        self._hits = self._said = self._true = 0

    def add(self, output: NDArray[Any], labels: NDArray[Any]) -> None:
        said = output.reshape(len(labels), -1) >= 0.5
        true = labels.astype(bool)
        if said.shape != true.shape:
            raise DataError("labels-task", f"the output has {said.shape[1]} classes, the labels {true.shape[1]}")
        self._hits += int((said & true).sum())
        self._said += int(said.sum())
        self._true += int(true.sum())

    @property
    def value(self) -> float:
        return 100 * 2 * self._hits / max(1, self._said + self._true)


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
        if wanted.shape != found.shape:
            raise DataError("labels-task", f"the output has {found.shape[1]} values, the labels {wanted.shape[1]}")
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


def classes_of(output: NDArray[Any]) -> NDArray[Any]:
    """Class index a sample: arg max of scores [N, C]; the sign of one score [N, 1]; integers [N] are the answer."""
    flat = output.reshape(len(output), -1)
    if flat.shape[1] == 1:
        column = flat[:, 0]
        if column.dtype.kind in "iub":
            return column.astype("int64")
        probabilities = bool((column >= 0).all() and (column <= 1).all())
        return (column > (0.5 if probabilities else 0.0)).astype("int64")
    found: NDArray[Any] = flat.argmax(axis=1)
    return found
