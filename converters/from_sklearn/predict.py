"""Predictors of scikit-learn's that are no trees, each in a few standard operators.

Every writer answers the public outputs: `probabilities` (or `scores`, where the estimator has no probabilities) and
`label` of classifiers, `output` of regressors, `label` and `distances` of clusterers, `label` and `score` of outlier
detectors. Labels are decided on the same quantity as the estimator decides them on, not on rounded probabilities.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from edgekit.converters.from_sklearn import kernels
from edgekit.converters.from_sklearn.draft import FLOAT, INT64, Draft
from edgekit.converters.from_sklearn.refusal import unsupported
from edgekit.converters.from_sklearn.trees import floor32
from edgekit.converters.stages import Array

Outputs = dict[str, str]
"""Public name -> tensor."""
Writer = Callable[[Any, Draft, str], Outputs]
"""(fitted predictor, graph, name of [N, columns] float32) -> its outputs."""


_UNDERFLOW = -745.13
"""Below it exp gives 0 in float64."""


def weighted(draft: Draft, x: str, weights: Any, bias: Any = None) -> str:
    """X @ weights.T + bias; weights [outputs, columns]."""
    product = draft.add("MatMul", x, draft.constant(np.asarray(weights, np.float64).T))
    return product if bias is None or not np.any(bias) else str(draft.add("Add", product, draft.constant(bias)))


def flat(draft: Draft, x: str) -> str:
    """[N, 1] as [N]."""
    return str(draft.add("Reshape", x, draft.constant([-1], np.int64)))


def first_largest(draft: Draft, scores: str) -> str:
    """Index of the largest of each row."""
    return str(draft.add("ArgMax", scores, axis=1, keepdims=0))


def positive(draft: Draft, score: str) -> str:
    """1 where a score [N, 1] is above zero, else 0."""
    return str(draft.add("Cast", draft.add("Greater", flat(draft, score), draft.constant(0.0)), to=INT64))


def both(draft: Draft, chance: str) -> str:
    """Probabilities [N, 2] from that of the second class, [N, 1]."""
    return str(draft.add("Concat", draft.add("Sub", draft.constant(1.0), chance), chance, axis=1))


def shares(draft: Draft, values: str) -> str:
    """Rows divided by their sums; rows of zeros become equal shares."""
    total = draft.add("ReduceSum", values, draft.constant([1], np.int64), keepdims=1)
    nothing = draft.add("Equal", total, draft.constant(0.0))
    values = draft.add("Where", nothing, draft.constant(1.0), values)
    return str(draft.add("Div", values, draft.add("ReduceSum", values, draft.constant([1], np.int64), keepdims=1)))


def shared_sigmoids(draft: Draft, scores: str) -> str:
    """Sigmoids of each row divided by their sum; as a softmax of their logarithms, because float32 has no 1e-300."""
    bent = draft.add("Exp", draft.add("Neg", draft.add("Abs", scores)))
    below = draft.add("Sub", scores, draft.add("Relu", scores))
    logarithm = draft.add("Sub", below, draft.add("Log", draft.add("Add", bent, draft.constant(1.0))))
    found = draft.add("Softmax", logarithm, axis=1)
    # Where float64 has only zeros left, the estimator answers equal shares.
    lost = draft.add("Less", draft.add("ReduceMax", scores, axes=[1], keepdims=1), draft.constant(_UNDERFLOW))
    even = draft.add("Softmax", draft.add("Mul", scores, draft.constant(0.0)), axis=1)
    return str(draft.add("Where", lost, even, found))


def log_likelihood(draft: Draft, scores: str) -> Outputs:
    """Of logarithms of joint probabilities [N, classes]."""
    return {"probabilities": draft.add("Softmax", scores, axis=1), "label": first_largest(draft, scores)}


def plain(draft: Draft, score: str, classes: int) -> Outputs:
    """Of decision values [N, 1] or [N, classes] that are no probabilities."""
    if classes > 2:
        return {"scores": score, "label": first_largest(draft, score)}
    return {"scores": draft.add("Concat", draft.add("Neg", score), score, axis=1), "label": positive(draft, score)}


# -- Linear models ------------------------------------------------------------------------------------------------


def decision(model: Any, draft: Draft, x: str) -> str:
    """X @ coef_.T + intercept_, [N, outputs]."""
    return weighted(draft, x, np.atleast_2d(model.coef_), model.intercept_)


def _linear_classifier(model: Any, draft: Draft, x: str) -> Outputs:
    if np.ndim(model.classes_) != 1 or isinstance(model.classes_, list) or _multilabel(model):
        raise unsupported(type(model).__name__, "it answers several labels at once", "Train one classifier for each.")
    return plain(draft, decision(model, draft, draft.like(x, model.coef_)), len(model.classes_))


def _multilabel(model: Any) -> bool:
    return bool(getattr(getattr(model, "_label_binarizer", None), "y_type_", "").startswith("multilabel"))


def _logistic(model: Any, draft: Draft, x: str) -> Outputs:
    score = decision(model, draft, draft.like(x, model.coef_))
    if len(model.classes_) == 2:
        if getattr(model, "multi_class", None) == "multinomial":  # two symmetric scores, until scikit-learn 1.7
            raise unsupported(type(model).__name__, "multi_class is 'multinomial' for two classes", "Leave it out.")
        return {"probabilities": both(draft, draft.add("Sigmoid", score)), "label": positive(draft, score)}
    if getattr(model, "multi_class", None) == "ovr" or getattr(model, "solver", None) == "liblinear":
        return _one_against_rest(draft, score)
    return log_likelihood(draft, score)


def _one_against_rest(draft: Draft, score: str) -> Outputs:
    return {"probabilities": shared_sigmoids(draft, score), "label": first_largest(draft, score)}


def _gradient_descent(model: Any, draft: Draft, x: str) -> Outputs:
    if model.loss != "log_loss":
        return _linear_classifier(model, draft, x)
    score = decision(model, draft, draft.like(x, model.coef_))
    if len(model.classes_) > 2:
        return _one_against_rest(draft, score)
    return {"probabilities": both(draft, draft.add("Sigmoid", score)), "label": positive(draft, score)}


def _linear_regressor(model: Any, draft: Draft, x: str) -> Outputs:
    value = decision(model, draft, x)
    return {"output": flat(draft, value) if np.ndim(model.coef_) == 1 else value}


def _support_line(model: Any, draft: Draft, x: str) -> Outputs:
    """LinearSVR keeps one row of weights, and answers [N]."""
    return {"output": flat(draft, decision(model, draft, x))}


def _generalized(model: Any, draft: Draft, x: str) -> Outputs:
    link = type(model._base_loss.link).__name__  # noqa: SLF001
    if link not in ("LogLink", "IdentityLink"):
        raise unsupported(type(model).__name__, f"it has the link {link}")
    value = flat(draft, decision(model, draft, x))
    return {"output": draft.add("Exp", value) if link == "LogLink" else value}


def _partial_squares(model: Any, draft: Draft, x: str) -> Outputs:
    x = draft.add("Sub", x, draft.constant(model._x_mean))  # noqa: SLF001
    value = decision(model, draft, x)
    return {"output": flat(draft, value) if getattr(model, "_predict_1d", False) else value}


def _one_class_line(model: Any, draft: Draft, x: str) -> Outputs:
    score = weighted(draft, draft.like(x, model.coef_), np.atleast_2d(model.coef_), -np.asarray(model.offset_))
    return _outliers(draft, score, at_zero=1)


def _outliers(draft: Draft, score: str, at_zero: int) -> Outputs:
    score = flat(draft, score)
    inside = draft.add("GreaterOrEqual" if at_zero == 1 else "Greater", score, draft.constant(0.0))
    label = draft.add("Where", inside, draft.constant(1, np.int64), draft.constant(-1, np.int64))
    return {"label": label, "score": score}


# -- Networks -----------------------------------------------------------------------------------------------------

_ACTIVATIONS = {"relu": "Relu", "tanh": "Tanh", "logistic": "Sigmoid", "softmax": "Softmax", "identity": ""}


def _layers(model: Any, draft: Draft, x: str) -> str:
    """The last layer before its activation."""
    kind = _ACTIVATIONS[model.activation]
    for at, (weights, bias) in enumerate(zip(model.coefs_, model.intercepts_, strict=True)):
        if at and kind:
            x = draft.add(kind, x)
        x = weighted(draft, x, np.asarray(weights).T, bias)
    return x


def _network_classifier(model: Any, draft: Draft, x: str) -> Outputs:
    if _multilabel(model):
        raise unsupported("MLPClassifier", "it answers several labels at once", "Train one classifier for each.")
    score = _layers(model, draft, draft.like(x, model.coefs_[0]))
    if len(model.classes_) > 2:
        return log_likelihood(draft, score)
    chance = draft.add("Sigmoid", score)
    return {"probabilities": both(draft, chance), "label": positive(draft, score)}


def _network_regressor(model: Any, draft: Draft, x: str) -> Outputs:
    value = _layers(model, draft, x)
    if model.out_activation_ != "identity":
        value = draft.add("Exp", value)
    return {"output": flat(draft, value) if model.n_outputs_ == 1 else value}


# -- Densities ----------------------------------------------------------------------------------------------------


def _gaussian_bayes(model: Any, draft: Draft, x: str) -> Outputs:
    spread = np.asarray(model.var_, np.float64)
    constant = np.log(model.class_prior_) - 0.5 * np.log(2 * np.pi * spread).sum(axis=1)
    rows = draft.add("Unsqueeze", draft.like(x, model.theta_), draft.constant([1], np.int64))
    apart = draft.add("Sub", rows, draft.constant(np.asarray(model.theta_)[None]))
    apart = draft.add("Mul", apart, draft.constant(np.sqrt(0.5 / spread)[None]))
    far = draft.add("ReduceSum", draft.add("Mul", apart, apart), draft.constant([2], np.int64), keepdims=0)
    return log_likelihood(draft, draft.add("Sub", draft.constant(constant), far))


def _counted_bayes(model: Any, draft: Draft, x: str) -> Outputs:
    prior = np.asarray(model.class_log_prior_)
    if type(model).__name__ == "ComplementNB" and len(model.classes_) > 1:
        prior = np.zeros(len(prior))
    return _counted(draft, x, np.asarray(model.feature_log_prob_, np.float64), prior)


def _bernoulli_bayes(model: Any, draft: Draft, x: str) -> Outputs:
    if model.binarize is not None:
        limit = draft.constant(model.binarize if draft.is_wide(x) else floor32(model.binarize))
        x = draft.add("Cast", draft.add("Greater", x, limit), to=FLOAT)
    known = np.asarray(model.feature_log_prob_, np.float64)
    never = np.log1p(-np.exp(known))
    return _counted(draft, x, known - never, model.class_log_prior_ + never.sum(axis=1))


def _counted(draft: Draft, x: str, weights: Array, bias: Array) -> Outputs:
    """Only differences between classes matter; without what they share, the sums are small and keep their digits."""
    score = weighted(draft, draft.like(x, weights), weights - weights.mean(axis=0), bias - bias.mean())
    return log_likelihood(draft, score)


def _far(draft: Draft, x: str, mean: Array, turned: Array) -> str:
    """Squared length of (x - mean) @ turned, [N, 1]."""
    apart = draft.add("MatMul", draft.add("Sub", draft.wide(x), draft.constant(mean)), draft.constant(turned))
    squares = draft.add("Mul", apart, apart)
    return str(draft.add("ReduceSum", squares, draft.constant([1], np.int64), keepdims=1))


def _quadratic(model: Any, draft: Draft, x: str) -> Outputs:
    if not hasattr(model, "rotations_"):
        raise unsupported("QuadraticDiscriminantAnalysis", "it was fitted with another solver than 'svd'")
    parts = zip(model.means_, model.rotations_, model.scalings_, strict=True)
    far = [_far(draft, x, mean, turn * np.asarray(scale, np.float64) ** -0.5) for mean, turn, scale in parts]
    constant = np.log(model.priors_) - 0.5 * np.array([np.log(scale).sum() for scale in model.scalings_])
    joined = draft.add("Mul", draft.add("Concat", *far, axis=1), draft.constant(-0.5))
    score = draft.add("Add", joined, draft.constant(constant))
    outputs = log_likelihood(draft, score)
    if len(model.classes_) == 2:  # decided by the sign of the difference, where equal scores are the first class's
        outputs["label"] = positive(draft, weighted(draft, score, [[-1.0, 1.0]]))
    return outputs


def _mixture(model: Any, draft: Draft, x: str) -> Outputs:
    columns, count = model.n_features_in_, model.n_components
    root, kind = np.asarray(model.precisions_cholesky_, np.float64), model.covariance_type
    turned = {"full": list(root), "tied": [root] * count}.get(kind)
    if turned is None:  # a number a column, or one for all
        turned = [np.eye(columns) * part for part in root]
    far = [_far(draft, x, mean, part) for mean, part in zip(model.means_, turned, strict=True)]
    # The constants of each component, by the model's own arithmetic, at its mean.
    own = model._estimate_weighted_log_prob(np.asarray(model.means_, np.float64))  # noqa: SLF001
    constant = np.diag(own)
    joined = draft.add("Mul", draft.add("Concat", *far, axis=1), draft.constant(-0.5))
    return log_likelihood(draft, draft.add("Add", joined, draft.constant(constant)))


def _clusters(model: Any, draft: Draft, x: str) -> Outputs:
    squares = kernels.squared_distances(draft, draft.like(x, model.cluster_centers_), model.cluster_centers_)
    nearest = draft.add("ArgMin", squares, axis=1, keepdims=0)
    return {"label": nearest, "distances": draft.add("Sqrt", squares)}


_LINEAR = (
    "ARDRegression", "BayesianRidge", "ElasticNet", "ElasticNetCV", "HuberRegressor", "Lars", "LarsCV", "Lasso",
    "LassoCV", "LassoLars", "LassoLarsCV", "LassoLarsIC", "LinearRegression", "MultiTaskElasticNet",
    "MultiTaskElasticNetCV", "MultiTaskLasso", "MultiTaskLassoCV", "OrthogonalMatchingPursuit",
    "OrthogonalMatchingPursuitCV", "PassiveAggressiveRegressor", "QuantileRegressor", "Ridge", "RidgeCV",
    "SGDRegressor", "TheilSenRegressor",
)  # fmt: skip
_LINES = ("LinearSVC", "Perceptron", "PassiveAggressiveClassifier", "RidgeClassifier", "RidgeClassifierCV")

PREDICTORS: dict[str, Writer] = {
    **dict.fromkeys(_LINEAR, _linear_regressor), **dict.fromkeys(_LINES, _linear_classifier),
    "LinearSVR": _support_line, "LogisticRegression": _logistic, "LogisticRegressionCV": _logistic,
    "LinearDiscriminantAnalysis": _logistic, "SGDClassifier": _gradient_descent,
    "GammaRegressor": _generalized, "PoissonRegressor": _generalized, "TweedieRegressor": _generalized,
    "PLSRegression": _partial_squares, "SGDOneClassSVM": _one_class_line, "MLPClassifier": _network_classifier,
    "MLPRegressor": _network_regressor, "GaussianNB": _gaussian_bayes, "MultinomialNB": _counted_bayes,
    "ComplementNB": _counted_bayes, "BernoulliNB": _bernoulli_bayes, "QuadraticDiscriminantAnalysis": _quadratic,
    "GaussianMixture": _mixture, "BayesianGaussianMixture": _mixture, "KMeans": _clusters,
    "MiniBatchKMeans": _clusters, **kernels.WRITERS,
}  # fmt: skip
