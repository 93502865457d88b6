"""Does a converted estimator answer the same label on rows right at the thresholds of its trees?

Estimators are fitted in double precision, as data sets come, and asked for float32 rows (--single fits in float32 as
well, where linear models and networks compute in float32 themselves). Rows are drawn from the training data; in each,
most columns are put onto a float32 number within two of a threshold (of estimators without trees: near the decision, by
bisection between rows of two classes). Asked are the estimator and the converted graph, ONNX in onnxruntime and TFLite
in LiteRT, after the whole way of `edgekit convert`, and with --others the same rows go through skl2onnx.

    python benchmarks/sklearn_labels.py [--rows 10000] [--format onnx|tflite|both] [--single] [--inexact]
                                        [--others] [--only NAME ...]

Prints a JSON line an estimator and format: rows, bytes, microseconds for one row, labels that differ (and how many of
these the estimator does not decide itself: another order of its trees, or one float32 step of the row's numbers, gives
another label), labels that differ by way of skl2onnx, the largest error of probabilities, and of regressors' values
relative to the value.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from sklearn import datasets, ensemble, linear_model, neighbors, neural_network, pipeline, preprocessing, svm, tree

from edgekit.converters import load_sklearn, lower_onnx_tflite
from edgekit.converters.from_sklearn import anatomy, boosting
from edgekit.converters.from_sklearn import columns as folding
from edgekit.converters.from_sklearn.forests import forest_of

make = pipeline.make_pipeline
scale = preprocessing.StandardScaler


def classifiers() -> Iterator[tuple[str, Any]]:
    """Name and estimator, not fitted."""
    yield "DecisionTree", tree.DecisionTreeClassifier(random_state=0)
    yield "ExtraTree", tree.ExtraTreeClassifier(random_state=0)
    yield "RandomForest", ensemble.RandomForestClassifier(random_state=0)
    yield "RandomForest, shallow", ensemble.RandomForestClassifier(50, min_samples_leaf=3, random_state=0)
    yield "ExtraTrees", ensemble.ExtraTreesClassifier(random_state=0)
    yield "Bagging", ensemble.BaggingClassifier(n_estimators=20, max_features=0.7, random_state=0)
    yield "GradientBoosting", ensemble.GradientBoostingClassifier(n_estimators=40, random_state=0)
    yield "HistGradientBoosting", ensemble.HistGradientBoostingClassifier(max_iter=40, random_state=0)
    yield "AdaBoost", ensemble.AdaBoostClassifier(tree.DecisionTreeClassifier(max_depth=2), random_state=0)
    yield "scaler, RandomForest", make(scale(), ensemble.RandomForestClassifier(random_state=0))
    yield (
        "scaler, GradientBoosting",
        make(scale(), ensemble.GradientBoostingClassifier(n_estimators=40, random_state=0)),
    )
    yield (
        "two scalers, HistGradientBoosting",
        make(preprocessing.MinMaxScaler(), scale(), ensemble.HistGradientBoostingClassifier(max_iter=40)),
    )
    yield "LogisticRegression", make(scale(), linear_model.LogisticRegression())
    yield "SVC", make(scale(), svm.SVC())
    yield "KNeighbors", make(scale(), neighbors.KNeighborsClassifier())
    yield "MLP", make(scale(), neural_network.MLPClassifier((32,), max_iter=400, random_state=0))
    for name, module in (("XGBoost", "xgboost"), ("LightGBM", "lightgbm")):
        try:
            library = __import__(module)
        except ImportError:
            continue
        kind = library.XGBClassifier if name == "XGBoost" else library.LGBMClassifier
        quiet = {} if name == "XGBoost" else {"verbose": -1}
        yield name, kind(n_estimators=40, random_state=0, **quiet)
        yield f"scaler, {name}", make(scale(), kind(n_estimators=40, random_state=0, **quiet))


def regressors() -> Iterator[tuple[str, Any]]:
    """The same, of values."""
    yield "DecisionTree", tree.DecisionTreeRegressor(random_state=0)
    yield "RandomForest", ensemble.RandomForestRegressor(random_state=0)
    yield "scaler, ExtraTrees", make(scale(), ensemble.ExtraTreesRegressor(random_state=0))
    yield "GradientBoosting", ensemble.GradientBoostingRegressor(random_state=0)
    yield "HistGradientBoosting", ensemble.HistGradientBoostingRegressor(random_state=0)
    yield "Ridge", make(scale(), linear_model.Ridge())
    yield "SVR", make(scale(), svm.SVR(C=100))
    yield "MLP", make(scale(), neural_network.MLPRegressor(hidden_layer_sizes=(32,), max_iter=3000, random_state=0))


def near(model: Any, x: Any, rows: int, seed: int = 0) -> Any:
    """Rows [rows, columns] float32 near what the estimator decides by."""
    dice = np.random.default_rng(seed)
    drawn = x[dice.integers(0, len(x), rows)].copy()
    *before, last = anatomy.steps_of(model)
    found = forest_of(last) or boosting.forest_of(last)
    if found is None:
        return _between(model, x, drawn, dice) if hasattr(model, "classes_") else drawn
    forest = found[0].exact()
    if before:
        forest = folding.fold(found[0], folding.columns_of(before, x.shape[1]), x.shape[1])
    features = np.concatenate([tree.feature[~tree.leaves] for tree in forest.trees])
    thresholds = np.concatenate([tree.threshold[~tree.leaves] for tree in forest.trees]).astype(np.float32)
    for column in range(x.shape[1]):
        known = thresholds[(features == column) & np.isfinite(thresholds)]
        if not len(known):
            continue
        value, steps = dice.choice(known, rows), dice.integers(-2, 3, rows)
        for _ in range(2):
            toward = np.where(steps > 0, np.float32(np.inf), np.float32(-np.inf))
            value = np.where(steps != 0, np.nextafter(value, toward), value)
            steps = steps - np.sign(steps)
        drawn[:, column] = np.where(dice.random(rows) < 0.7, value, drawn[:, column])
    return drawn


def _between(model: Any, x: Any, drawn: Any, dice: Any) -> Any:
    """Rows between two of different labels, a millionth of the way from where the label changes."""
    one, other = drawn, x[dice.integers(0, len(x), len(drawn))]
    low, high = np.zeros(len(drawn)), np.ones(len(drawn))
    start = model.predict(one)
    differs = start != model.predict(other)
    for _ in range(20):
        middle = (low + high) / 2
        same = model.predict((one + (other - one) * middle[:, None]).astype(np.float32)) == start
        low, high = np.where(same, middle, low), np.where(same, high, middle)
    at = np.where(differs, low + (high - low) * dice.random(len(drawn)), dice.random(len(drawn)))
    return (one + (other - one) * at[:, None]).astype(np.float32)


Answers = Callable[[dict[str, Any]], dict[str, Any]]
"""Feeds to outputs, by name."""


def exactly(loaded: Any, form: str) -> Any:
    """What is converted to a float32 file of a format."""
    return replace(loaded, handle=loaded.exact.get(form, loaded.handle))


def by_onnxruntime(loaded: Any) -> tuple[int, Answers]:
    """Bytes of the ONNX file and what answers by it."""
    data = loaded.handle.SerializeToString()
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    return len(data), lambda feeds: dict(zip(names, session.run(None, feeds), strict=True))


def by_litert(loaded: Any) -> tuple[int, Answers]:
    """The same of TFLite."""
    from ai_edge_litert.interpreter import Interpreter

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        lower_onnx_tflite.lower(loaded, path)
        data = path.read_bytes()
    engine = Interpreter(model_content=data, num_threads=1)
    place = engine.get_input_details()[0]["index"]
    held: tuple[int, ...] = ()

    def answer(feeds: dict[str, Any]) -> dict[str, Any]:
        nonlocal held
        if feeds["input"].shape != held:
            held = feeds["input"].shape
            engine.resize_tensor_input(place, held)
            engine.allocate_tensors()
        engine.set_tensor(place, feeds["input"])
        engine.invoke()
        return {detail["name"]: engine.get_tensor(detail["index"]) for detail in engine.get_output_details()}

    return len(data), answer


FORMATS = {"onnx": by_onnxruntime, "tflite": by_litert}


def measure(name: str, model: Any, x: Any, given: argparse.Namespace, form: str) -> dict[str, Any]:
    """One line.

    Args:
        name: For the line.
        model: Fitted.
        x: What it was fitted on, as float32.
        given: How many rows, exact or not, and whether skl2onnx is asked as well.
        form: See `FORMATS`.
    """
    feeds = {"input": near(model, x, given.rows)}
    loaded = load_sklearn.loaded(model, name)
    size, answer = FORMATS[form](loaded if given.inexact else exactly(loaded, form))
    found = answer(feeds)
    wanted = loaded.run(feeds)
    line: dict[str, Any] = {"estimator": name, "format": form, "rows": given.rows, "bytes": size}
    line["microseconds"] = _microseconds(answer, {"input": feeds["input"][:1]})
    if "label" in wanted:
        differs = wanted["label"] != found["label"]
        line["labels_differ"] = int(differs.sum())
        line["of_these_undecided"] = _undecided(model, feeds["input"][differs])
        scores = "probabilities" if "probabilities" in wanted else "scores"
        line["largest_error"] = float(np.abs(wanted[scores] - found[scores]).max())
        if given.others:
            line["skl2onnx_labels_differ"] = _by_skl2onnx(model, feeds["input"], wanted["label"])
    else:
        error = np.abs(wanted["output"] - found["output"])
        line["relative_error"] = float((error / np.abs(wanted["output"])).max())
    return line


def _microseconds(answer: Answers, feeds: dict[str, Any], times: int = 200) -> float:
    """Of the usual call with one row, on one thread."""
    found = []
    for _ in range(times):
        start = time.perf_counter()
        answer(feeds)
        found.append(time.perf_counter() - start)
    return round(float(np.median(found)) * 1e6, 1)


def _undecided(model: Any, rows: Any) -> int:
    """Rows that the estimator itself answers differently when its trees are added in another order; of estimators
    without trees: when each number of the row is the next float32, up or down.
    """
    last = anatomy.steps_of(model)[-1]
    if not len(rows):
        return 0
    if forest_of(last) is None and boosting.forest_of(last) is None:
        return int(_moved(model, rows).sum())
    if not isinstance(last, (ensemble.RandomForestClassifier, ensemble.ExtraTreesClassifier)):
        return 0
    usual, members, moved = model.predict(rows), last.estimators_, np.zeros(len(rows), bool)
    for seed in range(20):
        last.estimators_ = [members[at] for at in np.random.default_rng(seed).permutation(len(members))]
        moved |= model.predict(rows) != usual
    last.estimators_ = members
    return int(moved.sum())


def _moved(model: Any, rows: Any, tries: int = 512) -> Any:
    """Whether some step up or down of each number gives another label."""
    dice, usual, found = np.random.default_rng(0), model.predict(rows), np.zeros(len(rows), bool)
    for _ in range(tries):
        left = np.flatnonzero(~found)
        if not len(left):
            break
        ends = np.where(dice.random(rows[left].shape) < 0.5, np.float32(-np.inf), np.float32(np.inf))
        found[left] |= model.predict(np.nextafter(rows[left], ends)) != usual[left]
    return found


def _by_skl2onnx(model: Any, rows: Any, labels: Any) -> int | str:
    from skl2onnx import to_onnx

    try:
        made = to_onnx(model, rows[:1], options={"zipmap": False}, target_opset={"": 15, "ai.onnx.ml": 3})
        session = ort.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
        return int((session.run(None, {"X": rows})[0].reshape(-1) != labels).sum())
    except Exception as error:  # noqa: BLE001 - whatever it raises is the figure
        return f"refused: {type(error).__name__}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--format", choices=(*FORMATS, "both"), default="both")
    parser.add_argument("--single", action="store_true", help="fit in float32")
    parser.add_argument("--inexact", action="store_true", help="as with --no-exact-labels")
    parser.add_argument("--others", action="store_true", help="ask skl2onnx as well")
    parser.add_argument("--only", nargs="*", help="estimators")
    given = parser.parse_args()
    forms = list(FORMATS) if given.format == "both" else [given.format]
    warnings.simplefilter("ignore")

    def report(data: str, name: str, model: Any, features: Any, wanted: Any) -> None:
        if given.only and name not in given.only:
            return
        model.fit(features if given.single else features.astype(np.float64), wanted)
        for form in forms:
            print(json.dumps({"data": data, **measure(name, model, features, given, form)}), flush=True)

    sets = {
        "breast cancer": datasets.load_breast_cancer(return_X_y=True),
        "wine": datasets.load_wine(return_X_y=True),
    }
    for data, (features, labels) in sets.items():
        single = features.astype(np.float32)
        for name, model in classifiers():
            report(data, name, model, single, labels)
    x, y = datasets.load_diabetes(return_X_y=True)
    single = x.astype(np.float32)
    for name, model in regressors():
        report("diabetes", name, model, single, y)


if __name__ == "__main__":
    main()
