"""Trees of XGBoost and LightGBM, from the models' own JSON.

onnxmltools converts both as well, but rounds LightGBM's float64 thresholds to nearest, and adds in float32; read
here, they are exact like all others (`trees`). XGBoost itself compares in float32, by `below`, and adds so.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from edgekit.converters.from_sklearn.forests import Parts
from edgekit.converters.from_sklearn.refusal import unsupported
from edgekit.converters.from_sklearn.sums import Head
from edgekit.converters.from_sklearn.trees import LEAF, Forest, Tree
from edgekit.converters.stages import Array


def forest_of(model: Any) -> Parts | None:
    """Take a model of either apart; None for anything else.

    Args:
        model: A Booster, or an estimator in scikit-learn's manner.

    Raises:
        SourceError: `sklearn-unsupported`.
    """
    root = type(model).__module__.partition(".")[0]
    if root == "xgboost":
        return _xgboost(xgboost_booster(model))
    if root == "lightgbm":
        return _lightgbm(model)
    return None


def xgboost_booster(model: Any) -> Any:
    """The booster, with the rounds that its estimator answers with."""
    if not hasattr(model, "get_booster"):
        return model
    booster = model.get_booster()
    best = getattr(model, "best_iteration", None) if getattr(model, "early_stopping_rounds", None) else None
    return booster if best is None else booster[: best + 1]


# -- XGBoost ------------------------------------------------------------------------------------------------------

_XGB_HEADS = {
    "binary:logistic": Head("sign"), "reg:logistic": Head("value", link="sigmoid"), "multi:softprob": Head("scores"),
    "multi:softmax": Head("scores"), "count:poisson": Head("value", link="exp"), "reg:gamma": Head("value", link="exp"),
    "reg:tweedie": Head("value", link="exp"), "reg:squarederror": Head("value"),
    "reg:absoluteerror": Head("value"), "reg:pseudohubererror": Head("value"), "reg:squaredlogerror": Head("value"),
    "reg:quantileerror": Head("value"),
}  # fmt: skip


def xgboost_objective(booster: Any) -> str:
    """Name of a booster's objective."""
    return str(json.loads(booster.save_config())["learner"]["objective"]["name"])


def _xgboost(booster: Any) -> Parts:
    learner = json.loads(bytes(booster.save_raw("json")))["learner"]
    objective = learner["objective"]["name"]
    machine = learner["gradient_booster"]
    if objective not in _XGB_HEADS:
        raise unsupported("the XGBoost model", f"its objective is {objective}")
    if machine["name"] != "gbtree":
        raise unsupported("the XGBoost model", f"its booster is {machine['name']}", "Train it with booster='gbtree'.")
    head = _XGB_HEADS[objective]
    base = _xgboost_base(learner["learner_model_param"], head)
    groups = machine["model"]["tree_info"]
    pairs = zip(machine["model"]["trees"], groups, strict=True)
    trees = [_xgboost_tree(tree, group, len(base)) for tree, group in pairs]
    return Forest(tuple(trees) or (_nothing(len(base)),), base, mode="BRANCH_LT"), head


def _xgboost_base(about: dict[str, str], head: Head) -> Array:
    """Where the sums begin: the base score, before the link."""
    scores = np.array([float(part) for part in about["base_score"].strip("[]").split(",")])
    count = max(1, int(about["num_class"]), int(about.get("num_target", 1)))
    scores = np.broadcast_to(scores, (count,)).astype(np.float64)
    if head.reading == "sign" or head.link == "sigmoid":
        return np.asarray(np.log(scores) - np.log1p(-scores))
    return np.asarray(np.log(scores)) if head.link == "exp" else scores


def _xgboost_tree(tree: dict[str, Any], group: int, width: int) -> Tree:
    if any(tree.get("split_type", ())):
        raise unsupported("the XGBoost model", "it splits by categories, which trees in ONNX do not", _ENCODE)
    if int(tree["tree_param"].get("size_leaf_vector", "1")) > 1:
        raise unsupported("the XGBoost model", "its leaves hold vectors", "Use multi_strategy='one_output_per_tree'.")
    left = np.asarray(tree["left_children"], np.int64)
    leaf = left == LEAF
    conditions = np.asarray(tree["split_conditions"], np.float32)
    value = np.zeros((len(left), width))
    value[leaf, group] = conditions[leaf].astype(np.float64)
    return Tree(
        feature=np.where(leaf, 0, np.asarray(tree["split_indices"], np.int64)),
        threshold=np.where(leaf, np.float32(0), conditions),
        left=left,
        right=np.asarray(tree["right_children"], np.int64),
        missing_left=np.asarray(tree["default_left"]).astype(bool) & ~leaf,
        value=value,
    )


def _nothing(width: int) -> Tree:
    """A tree of one leaf that adds nothing."""
    none, leaf = np.zeros(1, np.int64), np.full(1, LEAF)
    return Tree(none, np.zeros(1), leaf, leaf, np.zeros(1, bool), np.zeros((1, width)))


def missing_mark(model: Any) -> float | None:
    """The number that an XGBoost estimator takes for a missing value, beside NaN; None for none."""
    if type(model).__module__.partition(".")[0] != "xgboost":
        return None
    mark = getattr(model, "missing", None)
    return None if mark is None or np.isnan(mark) else float(mark)


# -- LightGBM -----------------------------------------------------------------------------------------------------

_ENCODE = "Encode the categories as numbers (OrdinalEncoder, OneHotEncoder) and train it on those."
_LGB_VALUES = frozenset({"regression", "regression_l1", "huber", "fair", "quantile", "mape"})
_LGB_LOGS = frozenset({"poisson", "gamma", "tweedie"})


def _lightgbm(model: Any) -> Parts:
    booster = getattr(model, "booster_", model)
    about = booster.dump_model()
    words = str(about.get("objective", "")).split()
    width = int(about["num_tree_per_iteration"])
    rounds = [_lightgbm_tree(entry, at % width, width) for at, entry in enumerate(about["tree_info"])]
    head = _lightgbm_head(words)
    if about.get("average_output"):  # random forests
        head = Head(head.reading, divisor=len(rounds) / width, factor=width / max(1, len(rounds)), link=head.link)
    return Forest(tuple(rounds) or (_nothing(width),), np.zeros(width), width="float64"), head


def _lightgbm_head(words: list[str]) -> Head:
    objective = words[0] if words else ""
    options = dict(word.partition(":")[::2] for word in words[1:])
    if objective == "binary":
        return Head("sign", factor=float(options.get("sigmoid", 1)))
    if objective == "multiclass":
        return Head("scores")
    if objective in _LGB_LOGS:
        return Head("value", link="exp")
    if objective in _LGB_VALUES and "sqrt" not in words:
        return Head("value")
    raise unsupported("the LightGBM model", f"its objective is {' '.join(words) or 'a Python function'}")


def _lightgbm_tree(entry: dict[str, Any], group: int, width: int) -> Tree:
    """Nodes in the order in which they are met, parents first."""
    nodes: list[dict[str, Any]] = [entry["tree_structure"]]
    left: list[int] = []
    right: list[int] = []
    for node in nodes:  # grows while it is walked
        if "leaf_const" in node:
            raise unsupported("the LightGBM model", "its leaves are linear models", "Train it with linear_tree=False.")
        if "leaf_value" in node or "split_feature" not in node:
            left.append(LEAF)
            right.append(LEAF)
            continue
        if node["decision_type"] != "<=":
            raise unsupported("the LightGBM model", "it splits by categories, which trees in ONNX do not", _ENCODE)
        if node["missing_type"] == "Zero":
            raise unsupported("the LightGBM model", "zero means missing to it", "Train it without zero_as_missing.")
        left.append(len(nodes))
        right.append(len(nodes) + 1)
        nodes += [node["left_child"], node["right_child"]]
    inner = np.array([child != LEAF for child in left])
    value = np.zeros((len(nodes), width))
    value[:, group] = [0.0 if split else float(node["leaf_value"]) for node, split in zip(nodes, inner, strict=True)]
    return Tree(
        feature=np.array([node.get("split_feature", 0) for node in nodes], np.int64),
        threshold=np.array([float(node.get("threshold", 0.0)) for node in nodes]),
        left=np.array(left, np.int64),
        right=np.array(right, np.int64),
        missing_left=np.array([_missing(node) for node in nodes], bool) & inner,
        value=value,
    )


def _missing(node: dict[str, Any]) -> bool:
    """Where NaN goes; without a place of its own it counts as zero."""
    if node.get("missing_type") == "None":
        return bool(float(node["threshold"]) >= 0)
    return bool(node.get("default_left", False))
