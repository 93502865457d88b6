"""Which estimators of scikit-learn's are sums over trees, and how they read the sum.

All are taken apart into `Forest` and `Head`; what they compute is written here next to the estimator, because it is
their private arithmetic that labels depend on: which type inputs are cast to, what is added, and what a tie means.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from edgekit.converters.from_sklearn.refusal import unsupported
from edgekit.converters.from_sklearn.sums import Head
from edgekit.converters.from_sklearn.trees import Forest, Tree, from_sklearn
from edgekit.converters.stages import Array

Parts = tuple[Forest, Head]


def forest_of(model: Any) -> Parts | None:
    """Take an estimator apart.

    Args:
        model: Any fitted estimator.

    Returns:
        Trees with the estimator's own thresholds, and how they are read; None for what is no sum over trees.

    Raises:
        SourceError: `sklearn-unsupported`: one that is, with a property that trees of ONNX do not have.
    """
    kind = type(model)
    if kind.__module__.partition(".")[0] != "sklearn":
        return None
    reader = _READERS.get(kind.__name__)
    return None if reader is None else reader(model)


def _is_tree(model: Any) -> bool:
    names = ("DecisionTreeClassifier", "DecisionTreeRegressor", "ExtraTreeClassifier", "ExtraTreeRegressor")
    return type(model).__module__.startswith("sklearn.") and type(model).__name__ in names


def _classifier(model: Any) -> Parts:
    """`predict_proba` adds the trees' leaves, shares of classes, and divides by their number; ties go to the first."""
    _one_output(model)
    members = getattr(model, "estimators_", [model])
    trees = tuple(from_sklearn(member.tree_) for member in members)
    return Forest(trees, np.zeros(len(model.classes_))), Head("vote", divisor=len(trees))


def _regressor(model: Any) -> Parts:
    members = getattr(model, "estimators_", [model])
    trees = tuple(from_sklearn(member.tree_) for member in members)
    return Forest(trees, np.zeros(trees[0].value.shape[1])), Head("value", divisor=len(trees))


def _bagging_classifier(model: Any) -> Parts | None:
    if not all(map(_is_tree, model.estimators_)):
        return None
    count = len(model.classes_)
    trees = []
    for member, columns in zip(model.estimators_, model.estimators_features_, strict=True):
        tree = from_sklearn(member.tree_)
        # A member that did not see all classes numbers those that it saw.
        shares = np.zeros((len(tree.left), count))
        shares[:, np.asarray(member.classes_, np.int64)] = tree.value
        trees.append(tree.adding(shares).looking_at(columns))
    return Forest(tuple(trees), np.zeros(count)), Head("vote", divisor=len(trees))


def _bagging_regressor(model: Any) -> Parts | None:
    if not all(map(_is_tree, model.estimators_)):
        return None
    members = zip(model.estimators_, model.estimators_features_, strict=True)
    trees = tuple(from_sklearn(member.tree_).looking_at(columns) for member, columns in members)
    return Forest(trees, np.zeros(trees[0].value.shape[1])), Head("value", divisor=len(trees))


def _gradient_boosting(model: Any) -> tuple[tuple[Tree, ...], Array]:
    """Stages [iterations, sums] of trees, each leaf times the learning rate, on what the first guess gives."""
    if not (isinstance(model.init_, str) or type(model.init_).__name__ in ("DummyClassifier", "DummyRegressor")):
        raise unsupported(
            type(model).__name__, f"its init is a {type(model.init_).__name__}", "Train it with init=None or 'zero'."
        )
    base = np.asarray(model._raw_predict_init(np.zeros((1, model.n_features_in_), np.float32)))[0]  # noqa: SLF001
    trees = []
    for stage in model.estimators_:
        for at, member in enumerate(stage):
            own = np.asarray(member.tree_.value, np.float64).reshape(-1)
            trees.append(from_sklearn(member.tree_, _placed(own * model.learning_rate, at, len(stage))))
    return tuple(trees), base.astype(np.float64)


def _gradient_boosting_classifier(model: Any) -> Parts:
    trees, base = _gradient_boosting(model)
    if len(base) > 1:
        return Forest(trees, base), Head("scores")
    return Forest(trees, base), Head("sign", factor=2.0 if model.loss == "exponential" else 1.0, zero=1)


def _gradient_boosting_regressor(model: Any) -> Parts:
    trees, base = _gradient_boosting(model)
    return Forest(trees, base), Head("value")


def _histogram(model: Any) -> Forest:
    """Predictors [iterations][sums]; inputs are compared as float64."""
    base = np.asarray(model._baseline_prediction, np.float64).reshape(-1)  # noqa: SLF001
    trees = []
    for stage in model._predictors:  # noqa: SLF001
        for at, member in enumerate(stage):
            nodes = member.nodes
            leaf = nodes["is_leaf"].astype(bool)
            if (nodes["is_categorical"].astype(bool) & ~leaf).any():
                raise unsupported(
                    type(model).__name__,
                    "it splits by categories, which trees in ONNX do not",
                    "Encode them as numbers (OrdinalEncoder, OneHotEncoder) and train it without categorical_features.",
                )
            trees.append(
                Tree(
                    feature=np.where(leaf, 0, nodes["feature_idx"]).astype(np.int64),
                    threshold=np.where(leaf, 0.0, nodes["num_threshold"]),
                    left=np.where(leaf, -1, nodes["left"].astype(np.int64)),
                    right=np.where(leaf, -1, nodes["right"].astype(np.int64)),
                    missing_left=nodes["missing_go_to_left"].astype(bool) & ~leaf,
                    value=_placed(np.where(leaf, nodes["value"], 0.0), at, len(stage)),
                )
            )
    return Forest(tuple(trees), base, width="float64")


def _histogram_classifier(model: Any) -> Parts:
    forest = _histogram(model)
    return forest, Head("scores" if forest.sums > 1 else "sign")


def _histogram_regressor(model: Any) -> Parts:
    link = type(model._loss.link).__name__  # noqa: SLF001
    if link not in ("IdentityLink", "LogLink"):
        raise unsupported(type(model).__name__, f"its loss has the link {link}")
    return _histogram(model), Head("value", link="exp" if link == "LogLink" else "identity")


def _ada_boost(model: Any) -> Parts | None:
    """Each member adds its weight to the class that it answers, and takes it from the others."""
    if not all(map(_is_tree, model.estimators_)):
        return None
    _one_output(model)
    classes, weights = np.asarray(model.classes_), np.asarray(model.estimator_weights_)[: len(model.estimators_)]
    total = float(np.asarray(model.estimator_weights_).sum())
    trees = []
    for member, weight in zip(model.estimators_, weights, strict=True):
        own = from_sklearn(member.tree_)
        said = np.asarray(member.classes_)[own.value.argmax(axis=1)]
        if len(classes) == 2:
            value = np.where(said == classes[1], 2 * weight, -2 * weight)[:, None]
        else:
            value = np.where(said[:, None] == classes, weight, -weight / (len(classes) - 1))
        trees.append(own.adding(value))
    if len(classes) == 2:
        return Forest(tuple(trees), np.zeros(1)), Head("sign", factor=1 / total)
    return Forest(tuple(trees), np.zeros(len(classes))), Head("scores", factor=1 / total / (len(classes) - 1))


def _isolation_forest(model: Any) -> Parts:
    """`score_samples` adds the depths of the leaves, with the length that a leaf of several samples would go on for."""
    from sklearn.ensemble._iforest import _average_path_length

    trees = []
    for at, (member, columns) in enumerate(zip(model.estimators_, model.estimators_features_, strict=True)):
        depth = model._decision_path_lengths[at] + model._average_path_length_per_tree[at] - 1.0  # noqa: SLF001
        trees.append(from_sklearn(member.tree_, np.asarray(depth, np.float64)[:, None]).looking_at(columns))
    divisor = len(trees) * float(_average_path_length([model._max_samples])[0])  # noqa: SLF001
    if not divisor or not model.offset_ < 0:
        raise unsupported(type(model).__name__, "it was fitted on a single sample")
    return Forest(tuple(trees), np.zeros(1)), Head("depth", divisor=divisor, level=float(model.offset_))


def _placed(values: Array, at: int, width: int) -> Array:
    """[nodes] as one of `width` sums, [nodes, width]."""
    placed = np.zeros((len(values), width))
    placed[:, at] = values
    return placed


def _one_output(model: Any) -> None:
    if getattr(model, "n_outputs_", 1) != 1:
        raise unsupported(
            type(model).__name__,
            f"it answers {model.n_outputs_} classifications at once",
            "Train one classifier for each of them and convert each.",
        )


_READERS: dict[str, Callable[[Any], Parts | None]] = {
    "DecisionTreeClassifier": _classifier, "ExtraTreeClassifier": _classifier,
    "RandomForestClassifier": _classifier, "ExtraTreesClassifier": _classifier,
    "DecisionTreeRegressor": _regressor, "ExtraTreeRegressor": _regressor,
    "RandomForestRegressor": _regressor, "ExtraTreesRegressor": _regressor,
    "BaggingClassifier": _bagging_classifier, "BaggingRegressor": _bagging_regressor,
    "GradientBoostingClassifier": _gradient_boosting_classifier,
    "GradientBoostingRegressor": _gradient_boosting_regressor,
    "HistGradientBoostingClassifier": _histogram_classifier, "HistGradientBoostingRegressor": _histogram_regressor,
    "AdaBoostClassifier": _ada_boost, "IsolationForest": _isolation_forest,
}  # fmt: skip
