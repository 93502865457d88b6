"""Labels of converted estimators, on rows that lie at the thresholds of their trees: not one may differ."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="comes with the sklearn extra")
ort = pytest.importorskip("onnxruntime")

from sklearn import (  # noqa: E402
    cluster,
    datasets,
    decomposition,
    discriminant_analysis,
    ensemble,
    feature_selection,
    impute,
    linear_model,
    naive_bayes,
    neighbors,
    neural_network,
    pipeline,
    preprocessing,
    svm,
    tree,
)

import edgekit  # noqa: E402
from edgekit.converters import load_sklearn  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import sklearn_labels  # noqa: E402

ROWS = 3000
CONTINUOUS = {"LogisticRegression", "SVC", "KNeighbors", "MLP"}
"""They decide by sums of products."""


@pytest.fixture(scope="module")
def cancer():
    x, y = datasets.load_breast_cancer(return_X_y=True)
    return x.astype(np.float32), y


@pytest.fixture(scope="module")
def diabetes():
    x, y = datasets.load_diabetes(return_X_y=True)
    return x.astype(np.float32), y


def fitted(model, x, y):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.fit(x, y)


def both(model, rows):
    """Answers of the estimator and of the graph."""
    loaded = load_sklearn.loaded(model, "m")
    session = ort.InferenceSession(loaded.handle.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    return loaded.run({"input": rows}), dict(zip(names, session.run(None, {"input": rows}), strict=True))


@pytest.mark.parametrize("name", [name for name, _ in sklearn_labels.classifiers() if name not in CONTINUOUS])
def test_no_label_differs_at_the_thresholds(name, cancer):
    model = fitted(dict(sklearn_labels.classifiers())[name], *cancer)
    rows = sklearn_labels.near(model, cancer[0], ROWS)
    wanted, found = both(model, rows)
    differs = wanted["label"] != found["label"]
    assert sklearn_labels._undecided(model, rows[differs]) == differs.sum()
    assert differs.sum() <= 1
    np.testing.assert_allclose(found["probabilities"], wanted["probabilities"], atol=1e-6)
    assert {value.dtype for value in found.values()} == {np.dtype("float32"), np.dtype("int64")}


def after_scaling(model):
    return pipeline.make_pipeline(preprocessing.StandardScaler(), model)


EXACT = {
    **{name: model for name, model in sklearn_labels.classifiers() if name in CONTINUOUS},
    "linear": after_scaling(svm.LinearSVC()),
    "ridge": pipeline.make_pipeline(preprocessing.RobustScaler(), linear_model.RidgeClassifier()),
    "polynomial kernel": pipeline.make_pipeline(preprocessing.MinMaxScaler(), svm.SVC(kernel="poly")),
    "hyperbolic tangent": after_scaling(neural_network.MLPClassifier((8,), activation="tanh", random_state=0)),
    "logistic network": after_scaling(neural_network.MLPClassifier((8,), activation="logistic", random_state=0)),
    "distances": after_scaling(neighbors.KNeighborsClassifier(weights="distance")),
    "clusters": after_scaling(cluster.KMeans(3, random_state=0)),
    "outliers": after_scaling(svm.OneClassSVM()),
    "densities": naive_bayes.GaussianNB(),
    "quadratic": after_scaling(discriminant_analysis.QuadraticDiscriminantAnalysis(reg_param=0.1)),
    "components": after_scaling(pipeline.make_pipeline(decomposition.PCA(4), linear_model.LogisticRegression())),
    "votes": after_scaling(
        ensemble.VotingClassifier(
            [("one", linear_model.LogisticRegression()), ("other", naive_bayes.GaussianNB())], voting="soft"
        )
    ),
}
"""Fitted in double precision, as data sets come."""


@pytest.fixture(scope="module")
def wine():
    x, y = datasets.load_wine(return_X_y=True)
    return x.astype(np.float32), y


@pytest.mark.parametrize("format", ["onnx", "tflite"])
@pytest.mark.parametrize("name", list(EXACT))
def test_no_label_differs_next_to_a_continuous_boundary(name, format, wine):
    pytest.importorskip("ai_edge_litert" if format == "tflite" else "onnxruntime")
    model = fitted(EXACT[name], wine[0].astype(np.float64), wine[1])
    asked = model if name != "clusters" else Doubled(model)
    rows = sklearn_labels._between(asked, wine[0], wine[0][np.arange(800) % len(wine[0])], np.random.default_rng(0))
    loaded = load_sklearn.loaded(model, name)
    assert format in loaded.exact
    wanted = loaded.run({"input": rows})
    _, answer = sklearn_labels.FORMATS[format](sklearn_labels.exactly(loaded, format))
    found = answer({"input": rows})
    assert (wanted["label"] == found["label"]).all()
    for key in wanted:
        np.testing.assert_allclose(found[key], wanted[key], rtol=1e-5, atol=2e-6)


class Doubled:
    """K-means takes rows in the precision of its centers only."""

    def __init__(self, model):
        self.model = model

    def predict(self, rows):
        return self.model.predict(rows.astype(np.float64))


@pytest.mark.parametrize("format", ["onnx", "tflite"])
def test_exact_labels_can_be_left_out(format, wine):
    model = fitted(EXACT["LogisticRegression"], wine[0].astype(np.float64), wine[1])
    whole, plain = (edgekit.convert(model, to=format, exact_labels=exact) for exact in (True, False))
    assert len(plain.model) < len(whole.model)
    assert "exact_labels" not in whole.manifest.provenance.options
    assert plain.manifest.provenance.options["exact_labels"] is False


def test_what_is_wide_has_a_plain_twin(wine):
    from onnx import TensorProto

    loaded = load_sklearn.loaded(fitted(EXACT["SVC"], wine[0].astype(np.float64), wine[1]), "m")

    def kinds(model):
        return {tensor.data_type for tensor in model.graph.initializer}

    assert TensorProto.DOUBLE in kinds(loaded.exact["onnx"])
    for plain in (loaded.handle, loaded.exact["tflite"]):
        assert TensorProto.DOUBLE not in kinds(plain)
    assert "Cast" not in [node.op_type for node in loaded.handle.graph.node[:3]]


def test_pairs_are_not_written_where_they_would_take_long(monkeypatch, wine):
    from edgekit.converters.from_sklearn import pairs as _sklearn_pairs

    monkeypatch.setattr(_sklearn_pairs, "_WORK", 10)
    loaded = load_sklearn.loaded(fitted(EXACT["SVC"], wine[0].astype(np.float64), wine[1]), "m")
    assert list(loaded.exact) == ["onnx"]


@pytest.mark.parametrize("name", [name for name, _ in sklearn_labels.regressors()])
def test_values_are_within_a_hundred_thousandth(name, diabetes):
    model = fitted(dict(sklearn_labels.regressors())[name], *diabetes)
    wanted, found = both(model, sklearn_labels.near(model, diabetes[0], ROWS))
    assert found["output"].shape == wanted["output"].shape
    np.testing.assert_allclose(found["output"], wanted["output"], rtol=1e-5)


@pytest.mark.parametrize(
    "before",
    [
        [preprocessing.RobustScaler(), preprocessing.MinMaxScaler(clip=True)],
        [feature_selection.SelectKBest(k=7), preprocessing.MaxAbsScaler()],
        [impute.SimpleImputer(), preprocessing.StandardScaler()],
        ["passthrough", preprocessing.StandardScaler(with_mean=False), preprocessing.Binarizer(threshold=1.3)],
    ],
    ids=str,
)
def test_chains_of_scalers_are_folded_exactly(before, cancer):
    forest = ensemble.RandomForestClassifier(20, random_state=0)
    model = fitted(pipeline.make_pipeline(*before, forest), *cancer)
    rows = sklearn_labels.near(model, cancer[0], ROWS)
    wanted, found = both(model, rows)
    assert (wanted["label"] == found["label"]).all()
    proto = load_sklearn.loaded(model, "m").handle
    assert not {node.op_type for node in proto.graph.node} & {"Div", "Scaler"} - {"Div"}
    assert proto.graph.node[0].op_type == "TreeEnsembleRegressor"


def test_missing_values_go_where_the_estimator_sends_them(cancer):
    x, y = cancer[0].copy(), cancer[1]
    x[np.random.default_rng(0).random(x.shape) < 0.1] = np.nan
    models = [
        tree.DecisionTreeClassifier(random_state=0),
        ensemble.RandomForestClassifier(10, random_state=0),
        ensemble.HistGradientBoostingClassifier(max_iter=10),
        pipeline.make_pipeline(impute.SimpleImputer(), ensemble.RandomForestClassifier(10, random_state=0)),
        pipeline.make_pipeline(preprocessing.StandardScaler(), ensemble.HistGradientBoostingClassifier(max_iter=10)),
    ]
    for model in models:
        wanted, found = both(fitted(model, x, y), x)
        assert (wanted["label"] == found["label"]).all()


def test_ties_go_to_the_first_class_as_they_do_in_the_estimator():
    x = np.arange(4, dtype=np.float32)[:, None]
    model = ensemble.RandomForestClassifier(2, bootstrap=False, max_depth=1, random_state=0).fit(x, [1, 0, 0, 1])
    rows = np.linspace(-1, 4, 101, dtype=np.float32)[:, None]
    wanted, found = both(model, rows)
    assert (wanted["label"] == found["label"]).all()


def test_isolation_forests_decide_their_own_training_rows(cancer):
    for contamination in ("auto", 0.1):
        model = ensemble.IsolationForest(n_estimators=50, contamination=contamination, max_features=0.5, random_state=0)
        model = fitted(model, cancer[0], None)
        for rows in (cancer[0], sklearn_labels.near(model, cancer[0], ROWS)):
            wanted, found = both(model, rows)
            assert (wanted["label"] == found["label"]).all()
            np.testing.assert_allclose(found["score"], wanted["score"], atol=1e-6)


@pytest.mark.parametrize("distribution", ["uniform", "normal"])
@pytest.mark.parametrize("format", ["onnx", "tflite"])
def test_shares_below_a_number_are_exact_where_it_stands_for_several_quantiles(distribution, format, wine):
    """Numbers that the training data holds several times, and float32's next ones, lie on a jump of the share."""
    x, _ = wine
    model = preprocessing.QuantileTransformer(n_quantiles=len(x), output_distribution=distribution).fit(
        np.asarray(x, np.float64)
    )
    rows = np.concatenate([x, np.nextafter(x, np.float32(1e9)), np.nextafter(x, np.float32(-1e9)), 2 * x, x / 2])
    made = edgekit.load(edgekit.convert(model, to=format)).run({"input": rows})["output"]
    np.testing.assert_allclose(made, model.transform(rows), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("format", ["onnx", "tflite"])
def test_what_wants_positive_numbers_is_tried_with_such(format, cancer):
    x, y = cancer
    model = pipeline.make_pipeline(preprocessing.PowerTransformer(method="box-cox"), linear_model.LogisticRegression())
    artifact = edgekit.convert(fitted(model, x[:, :5] + 1, y), to=format)
    rows = x[:, :5] + 1
    np.testing.assert_array_equal(edgekit.load(artifact).run({"input": rows})["label"], model.predict(rows))
