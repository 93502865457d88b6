"""What an estimator is made of: pipelines taken apart, searches by their best, and names of scikit-learn's classes."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from edgekit.converters.from_sklearn.refusal import unsupported

_SEARCHES = frozenset({"GridSearchCV", "RandomizedSearchCV", "HalvingGridSearchCV", "HalvingRandomSearchCV"})


def plain(model: Any) -> Any:
    """An estimator without what only helped to train it: the best of a search, what was frozen."""
    while True:
        name = name_of(model)
        if name in _SEARCHES:
            if not hasattr(model, "best_estimator_"):
                raise unsupported(name, "it kept no estimator", "Train it with refit=True.")
            model = model.best_estimator_
        elif name == "FrozenEstimator":
            model = model.estimator
        elif name == "RANSACRegressor":
            model = model.estimator_
        elif name == "Pipeline" and len(model.steps) == 1:
            model = model.steps[0][1]
        else:
            return model


def total(model: Any) -> Any:
    """An estimator that answers every row: a copy, if it has encoders that raise on unknown categories, or picks its
    columns by the names of a data frame.

    An engine cannot raise; so that the two answer alike, the copy answers as the graph does: nothing, or -1. And it is
    asked with arrays, whose columns have no names.
    """
    if not any(_strict(part) or _named(part) for part in parts(model)):
        return model
    model = copy.deepcopy(model)
    for part in parts(model):
        if _named(part):
            places = part._transformer_to_input_indices  # noqa: SLF001
            part.transformers_ = [(name, inner, list(places[name])) for name, inner, _ in part.transformers_]
        if _strict(part):
            part.handle_unknown = "ignore" if name_of(part) == "OneHotEncoder" else "use_encoded_value"
            if name_of(part) == "OrdinalEncoder":
                part.unknown_value = -1
    return model


def _strict(part: Any) -> bool:
    return name_of(part) in ("OneHotEncoder", "OrdinalEncoder") and part.handle_unknown == "error"


def _named(part: Any) -> bool:
    """Whether it was fitted to a data frame and takes its columns apart."""
    return name_of(part) == "ColumnTransformer" and hasattr(part, "feature_names_in_")


def parts(model: Any) -> Iterator[Any]:
    """An estimator and all fitted ones inside."""
    yield model
    held = vars(model).items() if name_of(model) else ()
    for key, value in held:
        if key.endswith("_") or key in ("steps", "transformer_list"):
            yield from _inside(value)


def _inside(value: Any) -> Iterator[Any]:
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _inside(item)
    elif hasattr(value, "get_params"):
        yield from parts(value)


def steps_of(model: Any) -> list[Any]:
    """The steps of a pipeline, those of pipelines inside included; without those that do nothing."""
    model = plain(model)
    if name_of(model) != "Pipeline":
        return [model]
    return [inner for _, step in model.steps if not idle(step) for inner in steps_of(step)]


def idle(step: Any) -> bool:
    """Whether a step of a pipeline does nothing."""
    return step is None or (isinstance(step, str) and step == "passthrough")


def name_of(model: Any) -> str:
    """Name of a class of scikit-learn's; "" for anybody else's, whatever it is called."""
    kind = type(model)
    return kind.__name__ if kind.__module__.partition(".")[0] in ("sklearn", "xgboost", "lightgbm") else ""
