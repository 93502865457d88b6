"""scikit-learn: fitted estimators and pipelines of numbers; XGBoost and LightGBM models.

An estimator is written as ONNX by rules of our own (`compose`), because what matters on a board is the label,
and labels hang on the last bit: trees decide every float32 row as the estimator does, and add their leaves exactly
(`trees`). A few estimators are left to skl2onnx. The answers stay the estimator's own.

One input, `input` [N, columns] float32. Outputs are `probabilities` (or `scores`) and `label` of classifiers, `output`
of regressors and transformers, `label` with `distances` or `score` of clusterers and outlier detectors. A label is an
index into the classes; their names go into the manifest.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.converters.from_onnx import current
from edgekit.converters.from_sklearn import files
from edgekit.converters.loaded import Loaded
from edgekit.converters.stages import LoadedFacts, LoadedModel, Source
from edgekit.converters.verification.answering import Answering
from edgekit.errors import FeedError, SourceError, some
from edgekit.tensors import TensorSpec

NAME = "sklearn"
TITLE = "scikit-learn: .skops, and .joblib and .pkl with --trust SHA256; XGBoost .json and .ubj, LightGBM .txt"
EXTRA = "sklearn"
SUFFIXES = files.SUFFIXES
PRELOAD = ("numpy", "sklearn.pipeline", "sklearn.ensemble", "onnx", "onnxruntime")
TAKES_SIGNATURE = False

_DTYPES = {"label": "int64"}
_DOMAINS = ((-1.0, 1.0), (0.0, 1.0), (0.5, 2.0))
"""Ranges of rows that an estimator is tried with, until it answers."""

demands_digest = files.demands_digest


def recognizes(path: Path) -> bool:
    """Whether it is a pickle, a skops archive, or a model of XGBoost or LightGBM."""
    return path.is_file() and files.content(path) is not None


def load(source: Source) -> LoadedModel:
    """Open the file of an estimator and write it as ONNX.

    Raises:
        UnsafeSourceError: `source-unsafe-code`, `trust-mismatch`; nothing of it has run.
        SourceError: `source-unreadable`, `source-framework-missing`, `sklearn-object`, `sklearn-not-fitted`,
            `sklearn-unsupported`.
        UsageError: `input-unknown`, `shape-conflict`: `source.shapes` does not fit.
    """
    _require()
    model, notes = files.read(source)
    return loaded(model, Path(source.path).name, notes, dict(source.shapes))


def loaded(model: Any, name: str, notes: tuple[str, ...] = (), shapes: dict[str, Any] | None = None) -> Loaded:
    """Write an estimator in memory as ONNX; see `load`.

    Args:
        model: Fitted.
        name: For messages.
        notes: For the user.
        shapes: Input name -> sizes that replace free ones.
    """
    import onnx

    from edgekit.converters.from_sklearn import anatomy, answers, compose
    from edgekit.converters.from_sklearn import missing as missing_values
    from edgekit.converters.from_sklearn.draft import Draft

    if not accepts(model):
        raise SourceError(
            "sklearn-object", f"{name} holds a {type(model).__module__}.{type(model).__qualname__}, not an estimator"
        )
    model = anatomy.plain(anatomy.total(model))
    asked = _asked(model, name)
    width, columns = _columns(asked, name)
    draft, told = Draft(), [*notes]
    if columns:
        told.append(f"the columns of the input are, in order: {some(columns, 40)}")
    start = draft.wide(answers.INPUT) if answers.in_double(asked) else answers.INPUT
    place = compose.Place(start, width)
    predicts = hasattr(asked, "predict")
    if predicts:
        outputs = compose.predicted(model, place, draft, told)
    else:
        outputs = {"output": compose.transformed(anatomy.steps_of(model), place, draft, told).tensor}
    modern, changes = _finished(draft, outputs, width, shapes, name)
    exact = _exact(draft, outputs, width, shapes, name)
    specs = {
        value.name: TensorSpec(
            value.name,
            tuple(axis.dim_value or None for axis in value.type.tensor_type.shape.dim),
            _DTYPES.get(value.name, "float32"),
        )
        for value in (*modern.graph.input, *modern.graph.output)
    }
    ask = answers.caller(asked, outputs)
    missing, said = _missing(ask, modern, width, apart=missing_values.columns_differ(tuple(anatomy.parts(model))))
    told += said
    inputs = (replace(specs.pop(answers.INPUT), missing=missing, columns=columns or None),)
    last = anatomy.steps_of(model)[-1]
    answer, task = answers.reading(last, outputs, predicts=predicts)
    told += answers.left_out(last)
    facts = LoadedFacts(
        NAME,
        inputs,
        tuple(specs.values()),
        notes=tuple(dict.fromkeys((*told, *changes))),
        tools={"onnx": str(onnx.__version__), **_tools(model)},
        classes=answers.class_names(asked) if "label" in outputs else (),
        answer=answer if len(outputs) > 1 else None,
        task=task,
        ranges=_domain(ask, width),
    )
    return Loaded(facts, modern, Answering(inputs, ask), exact=exact)


def _domain(ask: Any, width: int) -> dict[str, tuple[float, float]]:
    """Where it answers at all: logarithms, roots and counts want numbers that are positive, or not negative."""
    from edgekit.converters.from_sklearn.answers import INPUT

    unit = np.linspace(0, 1, 4 * width, dtype=np.float32).reshape(4, width)
    for low, high in _DOMAINS:
        try:
            ask({INPUT: low + (high - low) * unit})
        except FeedError:
            continue
        return {} if low < 0 else {INPUT: (low, high)}
    return {}


def _missing(ask: Any, proto: Any, width: int, *, apart: bool) -> tuple[bool | tuple[int, ...] | None, list[str]]:
    """Where the input takes NaN, and what the user should know of it."""
    from edgekit.converters.from_sklearn import missing as missing_values
    from edgekit.converters.from_sklearn.answers import INPUT
    from edgekit.converters.onnx_graphs import graph as onnx_graph

    places = missing_values.places(ask, INPUT, width, apart=apart)
    if places is None:
        return None, []
    session = onnx_graph.session(proto)
    names = [value.name for value in proto.graph.output]
    rows = missing_values.rows(width, places)
    if missing_values.agree(ask, lambda feeds: dict(zip(names, session.run(None, feeds), strict=True)), {INPUT: rows}):
        return places, []
    return None, ["rows with missing values are refused: the graph does not answer them as the estimator does"]


def _exact(draft: Any, outputs: dict[str, str], width: int, shapes: dict[str, Any] | None, name: str) -> dict[str, Any]:
    """Graphs that decide as the estimator does in double precision; see `Loaded.exact`."""
    from edgekit.converters.from_sklearn import pairs

    if not draft.has_wide:
        return {}
    found = {"onnx": _finished(draft, outputs, width, shapes, name, wide=True)[0]}
    paired = pairs.paired(draft, outputs, found["onnx"])
    if paired is not None:
        found["tflite"] = _finished(*paired, width, shapes, name)[0]
    return found


def _finished(
    draft: Any, outputs: dict[str, str], width: int, shapes: dict[str, Any] | None, name: str, *, wide: bool = False
) -> tuple[Any, Any]:
    """A draft as a modern ModelProto, and what had to change for that."""
    from edgekit.converters.from_sklearn.answers import INPUT
    from edgekit.converters.from_sklearn.draft import FLOAT, INT64

    ends = {key: (tensor, INT64 if key == "label" else FLOAT) for key, tensor in outputs.items()}
    proto = draft.model({INPUT: ["N", width]}, ends, wide=wide)
    _declare(proto, width)
    if shapes:
        current.fix_sizes(proto, shapes)
    return current.modernize(proto, name)


def accepts(model: object) -> bool:
    """Whether a live object is an estimator, or a model of XGBoost's or LightGBM's; by the names of its classes."""
    kinds = {(kind.__module__.partition(".")[0], kind.__name__) for kind in type(model).__mro__}
    return bool(kinds & {("sklearn", "BaseEstimator"), ("xgboost", "Booster"), ("lightgbm", "Booster")})


def save(model: Any, folder: Path) -> Path:
    """Write a live estimator for `load`.

    Raises:
        SourceError: `sklearn-object`: it cannot be pickled; `sklearn-unsupported`: its class is not part of a library,
            so that no other process has it.
    """
    import pickle

    import joblib

    if type(model).__module__ == "__main__":
        raise SourceError(
            "sklearn-unsupported", f"{type(model).__name__} cannot be converted: it is a class of your own program"
        )
    path = folder / "model.joblib"
    try:
        joblib.dump(model, path)
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise SourceError("sklearn-object", f"a {type(model).__name__} cannot be handed over: {error}") from error
    return path


def _require() -> None:
    try:
        import onnx  # noqa: F401
        import sklearn  # noqa: F401
    except ImportError as error:
        raise SourceError(
            "source-framework-missing",
            f"estimators need scikit-learn, which is not installed: {error}",
            next_step="pip install 'edgekit-sdk[sklearn]'",
        ) from error


def _asked(model: Any, name: str) -> Any:
    """The object that answers: the estimator, or a booster asked like one."""
    from edgekit.converters.from_sklearn import answers, boosting

    if type(model).__name__ == "Booster":
        found = boosting.forest_of(model)
        if found is not None:
            return answers.Booster(model, found[1].reading, found[0].sums)
    from sklearn.exceptions import NotFittedError
    from sklearn.utils.validation import check_is_fitted

    try:
        check_is_fitted(model)
    except NotFittedError as error:
        raise SourceError("sklearn-not-fitted", f"{name} holds a {type(model).__name__} that was not fitted") from error
    return model


def _columns(model: Any, name: str) -> tuple[int, tuple[str, ...]]:
    """How many columns it takes, and what they are called if it knows."""
    # A pipeline asks its first step, which may be the word "passthrough".
    parts = [model, *(step for _, step in getattr(model, "steps", ()))]
    width = next((part.n_features_in_ for part in parts if hasattr(part, "n_features_in_")), None)
    if width is None:
        raise SourceError("sklearn-unsupported", f"{name} does not say how many columns it takes")
    return int(width), tuple(str(column) for column in getattr(model, "feature_names_in_", ()))


def _declare(proto: Any, width: int) -> None:
    """Give the outputs the shapes that the engine answers with, the batch free."""
    import numpy as np

    from edgekit.converters.from_sklearn.answers import INPUT
    from edgekit.converters.onnx_graphs import graph as onnx_graph

    session = onnx_graph.session(proto)
    found = session.run(None, {INPUT: np.zeros((3, width), np.float32)})
    for value, array in zip(proto.graph.output, found, strict=True):
        shape = value.type.tensor_type.shape
        shape.dim.add().dim_param = "N"
        for size in array.shape[1:]:
            shape.dim.add().dim_value = size


def _tools(model: Any) -> dict[str, str]:
    """Versions of the libraries that the estimator is made of."""
    import sys

    import sklearn

    roots = {"scikit-learn": sklearn}
    for part in ("xgboost", "lightgbm", "skl2onnx"):
        if part in sys.modules and (part == "skl2onnx" or type(model).__module__.startswith(part)):
            roots[part] = sys.modules[part]
    return {name: str(module.__version__) for name, module in roots.items()}
