"""scikit-learn sources: which files are opened and when, and what comes out of them through a whole conversion."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest

sklearn = pytest.importorskip("sklearn", reason="comes with the sklearn extra")
ort = pytest.importorskip("onnxruntime", reason="comes with the onnx extra")
joblib = pytest.importorskip("joblib", reason="comes with the sklearn extra")

from sklearn import datasets, ensemble, linear_model, pipeline, preprocessing  # noqa: E402

import edgekit  # noqa: E402
from edgekit import errors  # noqa: E402


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def iris():
    x, y = datasets.load_iris(return_X_y=True)
    return x.astype(np.float32), y


@pytest.fixture(scope="module")
def fitted(iris):
    x, y = iris
    names = datasets.load_iris().target_names
    chain = pipeline.make_pipeline(
        preprocessing.StandardScaler(), ensemble.RandomForestClassifier(n_estimators=9, random_state=0)
    )
    return chain.fit(x, names[y])


def asked(artifact, x):
    session = ort.InferenceSession(artifact.data)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"input": x}), strict=True))


def test_a_live_pipeline_keeps_its_labels_and_names_them(fitted, iris):
    artifact = edgekit.convert(fitted, to="onnx")
    answers = asked(artifact, iris[0])
    known = list(fitted.classes_)
    assert [known[index] for index in answers["label"].reshape(-1)] == list(fitted.predict(iris[0]))
    np.testing.assert_allclose(answers["probabilities"], fitted.predict_proba(iris[0]), atol=1e-6)
    assert list(artifact.manifest.interpret.labels) == known
    assert artifact.manifest.provenance.framework == "sklearn"


def test_a_pickle_is_opened_for_its_digest_only(fitted, tmp_path):
    path = tmp_path / "model.joblib"
    joblib.dump(fitted, path, compress=3)
    for trust in (False, True):
        with pytest.raises(errors.UnsafeSourceError, match="pickle") as refused:
            edgekit.convert(path, to="onnx", trust=trust)
        assert sha256(path) in str(refused.value.next_step)
    with pytest.raises(errors.UnsafeSourceError):
        edgekit.convert(path, to="onnx", trust="0" * 64)
    assert edgekit.convert(path, to="onnx", trust=sha256(path)).data


def test_a_hostile_pickle_does_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    for name in ("m.pkl", "m.joblib", "m.dill"):
        path = tmp_path / name
        path.write_bytes(pickle.dumps(Trap()))
        for trust in (False, True):
            with pytest.raises(errors.UnsafeSourceError):
                edgekit.convert(path, to="onnx", trust=trust)
    assert not (tmp_path / "sprung").exists()


def test_skops_files_are_judged_by_their_types(fitted, tmp_path):
    skops = pytest.importorskip("skops.io", reason="comes with the sklearn extra")
    path = tmp_path / "model.skops"
    skops.dump(fitted, path)
    assert edgekit.convert(path, to="onnx").data
    strange = preprocessing.FunctionTransformer(_strange)
    skops.dump(pipeline.make_pipeline(strange, fitted.steps[-1][1]), path)
    with pytest.raises(errors.UnsafeSourceError, match="_strange"):
        edgekit.convert(path, to="onnx")


def _strange(x):
    return x + 1


@pytest.mark.parametrize(
    ("model", "code"),
    [
        (linear_model.LogisticRegression(), "sklearn-not-fitted"),
        (preprocessing.FunctionTransformer(np.log1p).fit(np.ones((2, 3))), "sklearn-unsupported"),
        (ensemble.RandomForestClassifier(2).fit(np.ones((4, 3)), ["only"] * 4), "sklearn-unsupported"),
    ],
)
def test_what_cannot_be_converted_is_refused_by_name(model, code):
    with pytest.raises(errors.SourceError) as refused:
        edgekit.convert(model, to="onnx")
    assert refused.value.code == code
    assert type(model).__name__ in str(refused.value)


def test_a_class_of_the_callers_program_is_refused_by_name(fitted, monkeypatch):
    main = __import__("__main__")
    own = type("Own", (preprocessing.StandardScaler,), {"__module__": "__main__"})
    monkeypatch.setattr(main, "Own", own, raising=False)
    with pytest.raises(errors.SourceError, match="Own cannot be converted: it is code of the program") as refused:
        edgekit.convert(pipeline.make_pipeline(own().fit(np.ones((2, 4))), fitted.steps[-1][1]), to="onnx")
    assert refused.value.code == "sklearn-unsupported"


def test_regressors_and_transformers_answer_as_output(iris):
    x, _ = iris
    for model in (linear_model.Ridge().fit(x[:, :3], x[:, 3]), preprocessing.MinMaxScaler().fit(x[:, :3])):
        want = model.predict(x[:, :3]) if hasattr(model, "predict") else model.transform(x[:, :3])
        got = asked(edgekit.convert(model, to="onnx"), x[:, :3])["output"]
        np.testing.assert_allclose(got.reshape(want.shape), want, rtol=1e-5, atol=1e-5)


def test_the_yardstick_models_keep_their_answers(shared):
    for path in sorted((shared / "models" / "sklearn").glob("*.joblib")):
        artifact = edgekit.convert(path, to="onnx", trust=sha256(path))
        model = joblib.load(path)
        x = np.random.default_rng(0).normal(size=(500, model.n_features_in_)).astype(np.float32)
        answers = asked(artifact, x)
        if "label" in answers:
            np.testing.assert_array_equal(model.classes_[answers["label"].reshape(-1)], model.predict(x))
        else:
            np.testing.assert_allclose(answers["output"].reshape(-1), model.predict(x), rtol=1e-5)


@pytest.mark.parametrize("to", ["onnx", "tflite"])
def test_scores_of_duels_are_those_of_decision_function(to, iris):
    from sklearn import svm

    model = svm.SVC(decision_function_shape="ovo").fit(*iris)
    artifact = edgekit.convert(model, to=to, evaluation=iris[0])
    with edgekit.load(artifact) as opened:
        scores = opened.run({"input": iris[0]})["scores"]
    np.testing.assert_allclose(scores, model.decision_function(iris[0]), atol=1e-5)


@pytest.mark.parametrize("kind", ["ridge", "linear-svc", "votes", "svc", "duels"])
def test_classifiers_without_probabilities_answer_with_classes(kind, iris):
    from sklearn import svm, tree

    model = {
        "ridge": linear_model.RidgeClassifier(),
        "linear-svc": svm.LinearSVC(),
        "votes": ensemble.VotingClassifier([("a", tree.DecisionTreeClassifier()), ("b", svm.LinearSVC())]),
        "svc": svm.SVC(),
        "duels": pipeline.make_pipeline(preprocessing.StandardScaler(), svm.SVC(decision_function_shape="ovo")),
    }[kind]
    x, names = iris[0], datasets.load_iris().target_names
    model.fit(x, names[iris[1]])
    with edgekit.load(edgekit.convert(model, to="tflite")) as opened:
        said = [opened.predict(row) for row in x[::10]]
    assert {answer.to_dict()["task"] for answer in said} == {"classification"}
    assert [answer.label for answer in said] == model.predict(x[::10]).tolist()


@pytest.mark.filterwarnings("ignore:The `probability` parameter:FutureWarning")
def test_what_svc_says_of_probabilities_is_said_to_be_left_out(iris, caplog):
    from sklearn import svm

    edgekit.convert(svm.SVC(probability=True).fit(*iris), to="onnx")
    assert "predict_proba of SVC is left out" in caplog.text
    caplog.clear()
    edgekit.convert(svm.SVC().fit(*iris), to="onnx")
    assert not caplog.text


def test_trees_with_linear_leaves_are_refused_by_name(iris):
    lightgbm = pytest.importorskip("lightgbm", reason="comes with the boosting extra")
    model = lightgbm.LGBMRegressor(linear_tree=True, n_estimators=2, verbose=-1).fit(iris[0], iris[0][:, 0])
    with pytest.raises(errors.SourceError, match="linear models"):
        edgekit.convert(model, to="onnx")


@pytest.mark.parametrize("target", ["onnx", "tflite"])
def test_predict_reads_what_the_estimator_answers(tmp_path, target):
    about = datasets.load_iris()
    rows = about.data.astype(np.float32)
    path = tmp_path / f"model.{target}"
    named = linear_model.LogisticRegression(max_iter=300).fit(rows, about.target_names[about.target])
    edgekit.convert(named, output=path)
    assert edgekit.load(path).predict(rows[:1]).label == named.predict(rows[:1])[0]
    values = linear_model.Ridge().fit(rows, about.target)
    edgekit.convert(values, output=path)
    answer = edgekit.load(path).predict(rows[:1])
    np.testing.assert_allclose(answer.values, values.predict(rows[:1]), rtol=1e-5)
    edgekit.convert(named, output=path, task="other")
    assert "probabilities" in edgekit.load(path).predict(rows[:1]).outputs
    scaler = preprocessing.StandardScaler().fit(rows)
    edgekit.convert(scaler, output=path)
    assert "output" in edgekit.load(path).predict(rows[:1]).outputs
