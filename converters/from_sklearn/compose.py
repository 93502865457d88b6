"""Estimators of estimators: pipelines, column transformers, unions, votes, stacks; and which writer takes which part.

A part is written by the first that knows it: forests by `sums`, transformers and predictors by their tables,
a few others by skl2onnx (`borrowed`). Whatever nobody knows is refused by its name: an estimator that is
merely likely to come out right is not converted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgekit.converters.from_sklearn import boosting, borrowed, predict, sums
from edgekit.converters.from_sklearn import columns as folding
from edgekit.converters.from_sklearn.anatomy import idle, name_of, plain, steps_of
from edgekit.converters.from_sklearn.draft import Draft
from edgekit.converters.from_sklearn.forests import forest_of
from edgekit.converters.from_sklearn.refusal import unsupported
from edgekit.converters.from_sklearn.transform import EXACT, TRANSFORMERS, columns


@dataclass(frozen=True)
class Place:
    """A tensor that a part reads.

    Attributes:
        tensor: [N, width] float32.
        width: Columns.
    """

    tensor: str
    width: int


def predicted(model: Any, place: Place, draft: Draft, notes: list[str]) -> predict.Outputs:
    """Write an estimator that predicts.

    Args:
        model: Fitted.
        place: What it reads.
        draft: Gets the nodes.
        notes: Gets what the user should know.

    Returns:
        See `predict`.

    Raises:
        SourceError: `sklearn-unsupported`.
    """
    *before, last = steps_of(model)
    found = forest_of(last) or boosting.forest_of(last)
    mark = boosting.missing_mark(last)
    if found is not None and mark is None:
        return _forest(found, name_of(last), before, place, draft, notes)
    place = transformed(before, place, draft, notes)
    if found is not None:
        missing = draft.add("Equal", place.tensor, draft.constant(mark))
        tensor = draft.add("Where", missing, draft.constant(np.float32(np.nan)), place.tensor)
        return sums.build(found[0].exact(), found[1], draft, tensor)
    name = name_of(last)
    composite = _COMPOSITES.get(name)
    if composite is not None:
        return composite(last, place, draft, notes)
    if name in predict.PREDICTORS:
        return predict.PREDICTORS[name](last, draft, place.tensor)
    if name in borrowed.PREDICTORS:
        return borrowed.predicted(last, place.width, draft, place.tensor)
    raise unsupported(
        name or f"{type(last).__module__}.{type(last).__qualname__}",
        "it is none of the estimators that are known to come out right",
        "The page about scikit-learn lists those that are. Any other model can be given as ONNX, if there is a way.",
    )


def transformed(steps: Sequence[Any], place: Place, draft: Draft, notes: list[str]) -> Place:
    """Write a chain of transformers; see `predicted`."""
    for step in steps:
        place = _transformed(plain(step), place, draft, notes)
    return place


def _transformed(model: Any, place: Place, draft: Draft, notes: list[str]) -> Place:
    name = name_of(model)
    if isinstance(model, str):  # "passthrough"
        return place
    if name == "Pipeline":
        return transformed([step for _, step in model.steps if not idle(step)], place, draft, notes)
    if name == "ColumnTransformer":
        return _beside(model, place, draft, notes)
    if name == "FeatureUnion":
        return _united(model, place, draft, notes)
    if name in ("KMeans", "MiniBatchKMeans"):
        return Place(predict.PREDICTORS[name](model, draft, place.tensor)["distances"], len(model.cluster_centers_))
    if name in TRANSFORMERS:
        tensor = TRANSFORMERS[name](model, draft, place.tensor)
        if name in ("OneHotEncoder", "OrdinalEncoder"):
            unknown = "zeros" if name == "OneHotEncoder" else f"{model.unknown_value:g}"
            notes.append(f"{name} answers {unknown} to a category that it was not trained with, and does not raise")
    elif name in borrowed.TRANSFORMERS:
        tensor = borrowed.transformed(model, place.width, draft, place.tensor)
    else:
        raise unsupported(
            name or f"{type(model).__module__}.{type(model).__qualname__}",
            "it is none of the transformers that are known to come out right",
            "Apply it to the data before it is fed, or use one of those that the page about scikit-learn lists.",
        )
    return Place(tensor, _width(model, place.width))


def _forest(found: Any, name: str, before: list[Any], place: Place, draft: Draft, notes: list[str]) -> predict.Outputs:
    """Trees, with the scalers right before them folded into the thresholds."""
    forest, head = found
    if not before:
        return sums.build(forest.exact(), head, draft, place.tensor)
    start = 0
    while folding.columns_of(before[start:], _width_before(before, start, place.width)) is None:
        start += 1
    place = transformed(before[:start], place, draft, notes)
    rounding = [name_of(step) for step in before[:start] if not _exact(step)]
    if rounding and not draft.is_wide(place.tensor):
        verb = "is" if len(rounding) == 1 else "are"
        notes.append(
            f"{', '.join(rounding)} before {name} {verb} computed in float32: rows right at a threshold may go the "
            "other way"
        )
    chain = folding.columns_of(before[start:], place.width)
    if start == len(before) or chain is None:
        return sums.build(forest.exact(), head, draft, place.tensor)
    return sums.build(folding.fold(forest, chain, place.width), head, draft, place.tensor)


def _exact(step: Any) -> bool:
    """Whether a transformer answers to the last bit."""
    step = plain(step)
    if isinstance(step, str):
        return True
    name = name_of(step)
    if name == "ColumnTransformer":
        return all(_exact(part) for _, part, _ in step.transformers_)
    if name == "FeatureUnion":
        return all(_exact(part) for _, part in step.transformer_list) and not step.transformer_weights
    if name == "Pipeline":
        return all(_exact(part) for _, part in step.steps)
    return name in EXACT


def _width_before(steps: Sequence[Any], start: int, width: int) -> int:
    for step in steps[:start]:
        width = _width(step, width)
    return width


def _width(model: Any, width: int) -> int:
    """Columns of a transformer's answer."""
    if isinstance(model, str):
        return width
    if name_of(model) == "FunctionTransformer":
        return width
    return len(model.get_feature_names_out(None if hasattr(model, "n_features_in_") else [""] * width))


# -- Transformers of transformers ----------------------------------------------------------------------------------


def _beside(model: Any, place: Place, draft: Draft, notes: list[str]) -> Place:
    parts: list[Place] = []
    for name, part, _ in model.transformers_:
        span = model.output_indices_.get(name)
        chosen = np.asarray(model._transformer_to_input_indices[name])  # noqa: SLF001
        if (isinstance(part, str) and part == "drop") or not len(chosen) or span is None or span.start == span.stop:
            continue
        some = Place(columns(chosen, draft, place.tensor), len(chosen))
        parts.append(_transformed(plain(part), some, draft, notes))
    return _joined(parts, model, draft)


def _united(model: Any, place: Place, draft: Draft, notes: list[str]) -> Place:
    parts = []
    weights = model.transformer_weights or {}
    for name, part in model.transformer_list:
        if isinstance(part, str) and part == "drop":
            continue
        made = _transformed(plain(part), place, draft, notes)
        if name in weights:
            made = Place(draft.add("Mul", made.tensor, draft.constant(weights[name])), made.width)
        parts.append(made)
    return _joined(parts, model, draft)


def _joined(parts: list[Place], model: Any, draft: Draft) -> Place:
    if not parts:
        raise unsupported(name_of(model), "it drops all columns")
    tensor = parts[0].tensor if len(parts) == 1 else draft.add("Concat", *(part.tensor for part in parts), axis=1)
    return Place(tensor, sum(part.width for part in parts))


# -- Predictors of predictors --------------------------------------------------------------------------------------


def _chances(model: Any, place: Place, draft: Draft, notes: list[str]) -> str:
    """Probabilities [N, classes] of a member.

    Raises:
        SourceError: `sklearn-unsupported`: it has none.
    """
    outputs = predicted(model, place, draft, notes)
    if "probabilities" not in outputs:
        raise unsupported(
            name_of(model),
            "it has no probabilities that are reproducible, and what holds it needs them",
            "Put a CalibratedClassifierCV around it: SVC(probability=True) answers where an iteration happens to stop.",
        )
    return outputs["probabilities"]


def _mean(parts: list[str], weights: Any, draft: Draft) -> str:
    weights = np.ones(len(parts)) if weights is None else np.asarray(weights, np.float64)
    shares = weights / weights.sum()
    scaled = [draft.add("Mul", part, draft.constant(share)) for part, share in zip(parts, shares, strict=True)]
    return scaled[0] if len(scaled) == 1 else str(draft.add("Sum", *scaled))


def _vote(model: Any, place: Place, draft: Draft, notes: list[str]) -> predict.Outputs:
    members = list(model.estimators_)
    weights = model._weights_not_none  # noqa: SLF001
    if model.voting == "soft":
        mean = _mean([_chances(member, place, draft, notes) for member in members], weights, draft)
        return {"probabilities": mean, "label": predict.first_largest(draft, mean)}
    labels = [predicted(member, place, draft, notes)["label"] for member in members]
    marks = [_mark(label, len(model.classes_), draft) for label in labels]
    weights = np.ones(len(marks)) if weights is None else np.asarray(weights, np.float64)
    heavy = [draft.add("Mul", mark, draft.constant(weight)) for mark, weight in zip(marks, weights, strict=True)]
    votes = heavy[0] if len(heavy) == 1 else draft.add("Sum", *heavy)
    return {"scores": votes, "label": predict.first_largest(draft, votes)}


def _mark(label: str, count: int, draft: Draft) -> str:
    """Labels [N] as rows [N, classes] with a one."""
    depth = draft.constant(count, np.int64)
    return str(draft.add("OneHot", label, depth, draft.constant([0.0, 1.0]), axis=-1))


def _values(model: Any, place: Place, draft: Draft, notes: list[str]) -> str:
    """What a regressor answers, [N, 1]."""
    value = predicted(model, place, draft, notes)["output"]
    return str(draft.add("Reshape", value, draft.constant([-1, 1], np.int64)))


def _vote_of_values(model: Any, place: Place, draft: Draft, notes: list[str]) -> predict.Outputs:
    parts = [_values(member, place, draft, notes) for member in model.estimators_]
    return {"output": predict.flat(draft, _mean(parts, model._weights_not_none, draft))}  # noqa: SLF001


def _stack(model: Any, place: Place, draft: Draft, notes: list[str]) -> predict.Outputs:
    """What the members answer becomes the columns of the last one's input."""
    parts = []
    for member, method in zip(model.estimators_, model.stack_method_, strict=True):
        if method == "predict" and hasattr(model, "classes_"):
            raise unsupported(name_of(model), f"its member {name_of(member)} stacks labels", "Use stack_method='auto'.")
        if method == "predict":
            parts.append(Place(_values(member, place, draft, notes), 1))
            continue
        outputs = predicted(member, place, draft, notes)
        name = "probabilities" if method == "predict_proba" else "scores"
        if name not in outputs:
            raise unsupported(
                name_of(model), f"its member {name_of(member)} stacks {method}", "Use stack_method='auto'."
            )
        # Of two classes only the second is kept: the first says the same.
        two = len(model.classes_) == 2
        tensor = columns(np.array([1]), draft, outputs[name]) if two else outputs[name]
        parts.append(Place(tensor, 1 if two else len(model.classes_)))
    if model.passthrough:
        parts.append(place)
    return predicted(model.final_estimator_, _joined(parts, model, draft), draft, notes)


def _bag(model: Any, place: Place, draft: Draft, notes: list[str]) -> predict.Outputs:
    """Members over some columns each; of trees alone it would be a forest."""
    parts = []
    for member, chosen in zip(model.estimators_, model.estimators_features_, strict=True):
        every = np.array_equal(chosen, np.arange(place.width))
        some = place if every else Place(columns(np.asarray(chosen), draft, place.tensor), len(chosen))
        if not hasattr(model, "classes_"):
            parts.append(_values(member, some, draft, notes))
        elif len(member.classes_) == len(model.classes_):
            parts.append(_chances(member, some, draft, notes))
        else:
            raise unsupported(name_of(model), "some of its members did not see all classes", "Train it with more rows.")
    mean = _mean(parts, None, draft)
    if not hasattr(model, "classes_"):
        return {"output": predict.flat(draft, mean)}
    return {"probabilities": mean, "label": predict.first_largest(draft, mean)}


def _against_rest(model: Any, place: Place, draft: Draft, notes: list[str]) -> predict.Outputs:
    if model.multilabel_ or len(model.classes_) < 3:
        raise unsupported(name_of(model), "it is not one of several classes that it tells", "Convert its members each.")
    lasts = [steps_of(member)[-1] for member in model.estimators_]
    if all(name_of(last) in ("LogisticRegression", "LogisticRegressionCV") for last in lasts):
        scores = [
            predict.decision(
                last, draft, draft.like(transformed(steps_of(member)[:-1], place, draft, notes).tensor, last.coef_)
            )
            for member, last in zip(model.estimators_, lasts, strict=True)
        ]
        joined = draft.add("Concat", *scores, axis=1)
        return {
            "probabilities": predict.shared_sigmoids(draft, joined),
            "label": predict.first_largest(draft, joined),
        }
    parts = [columns(np.array([1]), draft, _chances(member, place, draft, notes)) for member in model.estimators_]
    joined = draft.add("Concat", *parts, axis=1)
    return {"probabilities": predict.shares(draft, joined), "label": predict.first_largest(draft, joined)}


def _calibrated(model: Any, place: Place, draft: Draft, notes: list[str]) -> predict.Outputs:
    """Sigmoids of the members' scores, class by class, averaged."""
    means = []
    count = len(model.classes_)
    for member in model.calibrated_classifiers_:
        if any(type(each).__name__ != "_SigmoidCalibration" for each in member.calibrators):
            raise unsupported(name_of(model), f"its method is {model.method!r}", "Train it with method='sigmoid'.")
        outputs = predicted(member.estimator, place, draft, notes)
        inner = plain(member.estimator)
        if "scores" not in outputs and hasattr(inner, "decision_function"):
            raise unsupported(name_of(model), f"it calibrates the decision values of {name_of(inner)}")
        scores = outputs.get("scores") or outputs["probabilities"]
        if count == 2:
            scores = columns(np.array([1]), draft, scores)
        slope = np.array([[-each.a_ for each in member.calibrators]])
        start = np.array([[-each.b_ for each in member.calibrators]])
        raised = draft.add("Add", draft.add("Mul", scores, draft.constant(slope)), draft.constant(start))
        two = count == 2
        means.append(
            predict.both(draft, draft.add("Sigmoid", raised)) if two else predict.shared_sigmoids(draft, raised)
        )
    mean = _mean(means, None, draft)
    return {"probabilities": mean, "label": predict.first_largest(draft, mean)}


def _several(model: Any, place: Place, draft: Draft, notes: list[str]) -> predict.Outputs:
    parts = [_values(member, place, draft, notes) for member in model.estimators_]
    return {"output": parts[0] if len(parts) == 1 else draft.add("Concat", *parts, axis=1)}


_COMPOSITES = {
    "VotingClassifier": _vote, "VotingRegressor": _vote_of_values, "StackingClassifier": _stack,
    "StackingRegressor": _stack, "BaggingClassifier": _bag, "BaggingRegressor": _bag,
    "OneVsRestClassifier": _against_rest, "CalibratedClassifierCV": _calibrated, "MultiOutputRegressor": _several,
}  # fmt: skip
