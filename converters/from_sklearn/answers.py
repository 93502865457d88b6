"""What an estimator itself answers to float32 rows, under the public names of the outputs."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from edgekit.converters.from_sklearn import boosting
from edgekit.converters.stages import Array, Feeds
from edgekit.errors import FeedError, SourceError
from edgekit.reading import Task

INPUT = "input"


class Booster:
    """XGBoost's or LightGBM's own model, asked as an estimator is.

    Attributes:
        model: The booster.
        n_features_in_: Columns.
        classes_: Only of classifiers.
    """

    def __init__(self, model: Any, reading: str, sums: int) -> None:
        self.model = model
        self.is_xgboost = type(model).__module__.partition(".")[0] == "xgboost"
        self.n_features_in_ = int(model.num_features() if self.is_xgboost else model.num_feature())
        if reading in ("sign", "scores"):
            self.classes_ = np.arange(max(2, sums))

    def predict_proba(self, rows: Array) -> Array:
        """[N, classes]."""
        found = self._ask(rows)
        return np.stack([1 - found, found], axis=1) if found.ndim == 1 else found

    def predict(self, rows: Array) -> Array:
        """Values, or the classes that the makers' estimators answer."""
        found = self._ask(rows)
        if not hasattr(self, "classes_"):
            return found
        return (found > 0.5).astype(np.int64) if found.ndim == 1 else found.argmax(axis=1)

    def _ask(self, rows: Array) -> Array:
        if not self.is_xgboost:
            return np.asarray(self.model.predict(rows))
        if boosting.xgboost_objective(self.model) != "multi:softmax":
            return np.asarray(self.model.inplace_predict(rows))
        margin = np.asarray(self.model.inplace_predict(rows, predict_type="margin"))
        raised = np.exp(margin - margin.max(axis=1, keepdims=True))
        return np.asarray(raised / raised.sum(axis=1, keepdims=True))


def caller(model: Any, names: Iterable[str]) -> Callable[[Feeds], Feeds]:
    """A function that asks an estimator for outputs.

    Args:
        model: Fitted; with `predict` or `transform`.
        names: Public outputs.
    """
    asked = tuple(names)
    width = np.float64 if in_double(model) else np.float32

    def call(feeds: Feeds) -> Feeds:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it was fitted with names of columns, and the like
            try:
                rows = np.asarray(feeds[INPUT], width)
                return {name: _ANSWERS[name](model, rows) for name in asked}
            except Exception as error:  # estimators raise anything on rows that they do not like
                line = (str(error).strip().splitlines() or [type(error).__name__])[0]
                raise FeedError("source-run", f"the source cannot answer these inputs: {line[:300]}") from error

    return call


def in_double(model: Any) -> bool:
    """Whether an estimator only takes rows in double precision: k-means that was fitted on such."""
    last = model.steps[-1][1] if hasattr(model, "steps") else model
    centers = getattr(last, "cluster_centers_", None)
    return centers is not None and np.asarray(centers).dtype == np.float64


def class_names(model: Any) -> tuple[str, ...]:
    """Names of the classes, where their indices are not their names already.

    Raises:
        SourceError: `sklearn-unsupported`: several classifications at once.
    """
    classes = getattr(model, "classes_", None)
    if classes is None:
        return ()
    if isinstance(classes, list) or np.ndim(classes) != 1:
        raise SourceError(
            "sklearn-unsupported",
            f"{type(model).__name__} cannot be converted: it answers several classifications at once",
            next_step="Train one classifier for each and convert each.",
        )
    values = np.asarray(classes)
    if len(values) < 2:
        raise SourceError(
            "sklearn-unsupported",
            f"{type(model).__name__} cannot be converted: it was fitted on one class only, {values.tolist()}",
            next_step="Fit it on samples of at least two classes.",
        )
    if values.dtype.kind in "iufb" and np.array_equal(values, np.arange(len(values))):
        return ()
    return tuple(str(int(value)) if _is_whole(value) else str(value) for value in values.tolist())


def reading(last: Any, outputs: Iterable[str], *, predicts: bool) -> tuple[str, Task]:
    """Which of these public outputs holds the answer, and what it says.

    Args:
        last: The pipeline's last step, fitted.
        outputs: Their names, in order.
        predicts: Whether it predicts, or transforms.
    """
    first = next(iter(outputs))
    if first == "output" and predicts:
        return first, "regression"
    if first == "scores" and getattr(last, "decision_function_shape", None) == "ovo" and len(last.classes_) > 2:
        return "label", "classification"  # scores have a column a pair of classes
    return first, "classification" if first in ("probabilities", "scores") else "other"


def left_out(last: Any) -> list[str]:
    """What an estimator can answer and its graph cannot, said to the user; `last` as in `reading`."""
    if not (getattr(last, "probability", False) is True and hasattr(last, "decision_function")):
        return []
    name = type(last).__name__
    said = (
        f"predict_proba of {name} is left out, which answers where an iteration happens to stop: scores are those of "
        f"decision_function; CalibratedClassifierCV({name}()) has probabilities"
    )
    return [said]


def _is_whole(value: Any) -> bool:
    return isinstance(value, float) and value.is_integer()


def _label(model: Any, rows: Array) -> Array:
    said = np.asarray(model.predict(rows))
    classes = getattr(model, "classes_", None)
    if classes is None:
        return said.astype(np.int64)
    return np.searchsorted(np.asarray(classes), said).astype(np.int64)


def _probabilities(model: Any, rows: Array) -> Array:
    return np.asarray(model.predict_proba(rows), np.float32)


def _scores(model: Any, rows: Array) -> Array:
    """A column a class: of two classes those of the first are the negative; of a vote, how many votes each got."""
    last = model.steps[-1][1] if hasattr(model, "steps") else model
    if getattr(last, "voting", None) == "hard":
        said = np.asarray(model.transform(rows))
        weights = last._weights_not_none or np.ones(said.shape[1])  # noqa: SLF001
        marks = said[:, :, None] == np.arange(len(last.classes_))
        return np.asarray((marks * np.asarray(weights)[None, :, None]).sum(axis=1), np.float32)
    found = np.asarray(model.decision_function(rows))
    return np.asarray(np.stack([-found, found], axis=1) if found.ndim == 1 else found, np.float32)


def _output(model: Any, rows: Array) -> Array:
    found = model.predict(rows) if hasattr(model, "predict") else model.transform(rows)
    return np.asarray(found.toarray() if hasattr(found, "toarray") else found, np.float32)


def _score(model: Any, rows: Array) -> Array:
    return np.asarray(model.decision_function(rows), np.float32).reshape(-1)


def _distances(model: Any, rows: Array) -> Array:
    return np.asarray(model.transform(rows), np.float32)


_ANSWERS: dict[str, Callable[[Any, Array], Array]] = {
    "label": _label, "probabilities": _probabilities, "scores": _scores, "output": _output, "score": _score,
    "distances": _distances,
}  # fmt: skip
