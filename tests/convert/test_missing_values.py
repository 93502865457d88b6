"""NaN for a missing value: who takes it, that both formats answer it as the estimator does, that others refuse it."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

sklearn = pytest.importorskip("sklearn", reason="comes with the sklearn extra")
pytest.importorskip("onnxruntime", reason="comes with the onnx extra")
onnx = pytest.importorskip("onnx", reason="comes with the convert extra")

from sklearn import compose, ensemble, impute, linear_model, neural_network, pipeline, preprocessing  # noqa: E402

import edgekit  # noqa: E402
from edgekit.converters.from_onnx import missing  # noqa: E402
from edgekit.errors import DataError, FeedError  # noqa: E402
from edgekit.tensors import TensorSpec  # noqa: E402

WIDTH = 5


def table(rows: int, seed: int, share: float = 0.25):
    """Rows, some numbers of which are missing, and a class that depends on the rest."""
    dice = np.random.default_rng(seed)
    x = dice.normal(size=(rows, WIDTH)).astype(np.float32)
    y = (x[:, 0] + x[:, 1] * x[:, 2] > 0).astype(int) + (x[:, 3] > 1)
    x[dice.random(x.shape) < share] = np.nan
    return x, y


@pytest.fixture(scope="module")
def known():
    return table(600, 0)


def boosted(x, y):
    return ensemble.HistGradientBoostingClassifier(max_iter=15, random_state=0).fit(x, y)


def imputed(x, y):
    steps = impute.SimpleImputer(strategy="median"), preprocessing.StandardScaler(), linear_model.LogisticRegression()
    return pipeline.make_pipeline(*steps).fit(x, y)


def forest(x, y):
    """Behind a transformer that computes: its thresholds are found over the rows themselves."""
    trees = ensemble.RandomForestClassifier(8, random_state=0)
    return pipeline.make_pipeline(preprocessing.PowerTransformer(), trees).fit(x, y)


def marked(x, y):
    """A number of its own means missing to it, beside NaN."""
    xgboost = pytest.importorskip("xgboost", reason="comes with the boosting extra")
    return xgboost.XGBClassifier(n_estimators=12, max_depth=4, missing=-9.0).fit(np.nan_to_num(x, nan=-9.0), y)


def lightgbm(x, y):
    made = pytest.importorskip("lightgbm", reason="comes with the boosting extra")
    return made.LGBMClassifier(n_estimators=12, verbose=-1).fit(x, y)


def written(path, x, y):
    """A CSV whose missing numbers are empty fields."""
    with open(path, "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow([*(f"c{column}" for column in range(x.shape[1])), "y"])
        for row, label in zip(x.tolist(), y.tolist(), strict=True):
            rows.writerow([*("" if np.isnan(value) else repr(value) for value in row), label])
    return path


@pytest.mark.parametrize(
    ("make", "to"),
    [(boosted, "onnx"), (boosted, "tflite"), (imputed, "onnx"), (imputed, "tflite"), (forest, "tflite"),
     (marked, "onnx"), (marked, "tflite"), (lightgbm, "tflite")],
)  # fmt: skip
def test_rows_with_gaps_are_answered_as_the_estimator_does(make, to, known, tmp_path):
    if to == "tflite":
        pytest.importorskip("ai_edge_litert", reason="comes with the tflite extra")
    model = make(*known)
    rows = written(tmp_path / "rows.csv", *known)
    artifact = edgekit.convert(model, to=to, evaluation=rows, reference=make is boosted)
    assert artifact.manifest.inputs[0].missing is True
    assert artifact.manifest.proof.metric.drop == 0
    x, _ = table(3000, 1, 0.4)
    if make is marked:
        x[::2] = np.nan_to_num(x[::2], nan=-9.0)
    with edgekit.load(artifact) as loaded:
        answers = loaded.run({"input": x})
        np.testing.assert_allclose(answers["probabilities"], model.predict_proba(x), atol=2e-6)
        np.testing.assert_array_equal(model.classes_[answers["label"]], model.predict(x))
        one = loaded.run({"input": np.float64(x[:1])})  # not the straight way
        np.testing.assert_allclose(one["probabilities"], answers["probabilities"][:1], atol=2e-6)
        with pytest.raises(FeedError) as caught:
            loaded.run({"input": np.where(np.isnan(x), np.inf, x)})
        assert caught.value.code == "feed-nan"
    if make is boosted:  # a self-test takes little of a small file
        vectors = [vector for vector in artifact.selftest.vectors if vector.index is None]
        stored = [artifact.selftest.feeds(vector, artifact.manifest.inputs)["input"] for vector in vectors]
        assert np.isnan(np.concatenate(stored)).any()


def test_who_takes_no_gaps_refuses_them_at_the_desk_and_on_the_board(known, tmp_path):
    x, y = known
    whole = np.nan_to_num(x)
    model = linear_model.LogisticRegression().fit(whole, y)
    with pytest.raises(DataError) as caught:
        edgekit.convert(model, to="onnx", evaluation=written(tmp_path / "rows.csv", x, y))
    assert caught.value.code == "data-lint"
    artifact = edgekit.convert(model, to="onnx", evaluation=written(tmp_path / "whole.csv", whole, y), reference=False)
    assert "missing" not in json.loads(artifact.manifest.to_json())["inputs"][0]
    with edgekit.load(artifact) as loaded, pytest.raises(FeedError) as refused:
        loaded.run({"input": x})
    assert refused.value.code == "feed-nan"


def test_some_columns_may_be_missing(known):
    x, y = known
    x = np.concatenate([x[:, :2], np.nan_to_num(x[:, 2:])], axis=1)
    parts = (impute.SimpleImputer(), [0, 1]), (preprocessing.StandardScaler(), [2, 3, 4])
    chain = pipeline.make_pipeline(compose.make_column_transformer(*parts), linear_model.LogisticRegression())
    model = chain.fit(x, y)
    artifact = edgekit.convert(model, to="onnx")
    assert artifact.manifest.inputs[0].missing == (0, 1)
    with edgekit.load(artifact) as loaded:
        np.testing.assert_allclose(loaded.run({"input": x})["probabilities"], model.predict_proba(x), atol=2e-6)
        x[7, 3] = np.nan
        with pytest.raises(FeedError, match=r"nan at \(7, 3\)"):
            loaded.run({"input": x})


def test_columns_that_were_chosen_by_name_are_fed_by_place(known):
    """What a fit to a data frame leaves: scikit-learn itself then refuses arrays."""
    x, y = known
    x = np.concatenate([x[:, :2], np.round(np.nan_to_num(x[:, 2:3])), np.nan_to_num(x[:, 3:])], axis=1)
    encoder = preprocessing.OneHotEncoder(handle_unknown="ignore")
    chosen = compose.ColumnTransformer([("fill", impute.SimpleImputer(), [1, 0]), ("kind", encoder, [2])])
    model = pipeline.make_pipeline(chosen, linear_model.LogisticRegression(max_iter=1000)).fit(x, y)
    expected = model.predict_proba(x)
    names = [f"c{column}" for column in range(WIDTH)]
    chosen.feature_names_in_ = np.array(names, object)
    chosen.transformers_ = [
        (name, part, [names[place] for place in places]) for name, part, places in chosen.transformers_[:2]
    ]
    with pytest.raises(ValueError, match="dataframes"):
        model.predict(x)
    artifact = edgekit.convert(model, to="onnx", reference=False)
    assert artifact.manifest.inputs[0].missing is not None
    with edgekit.load(artifact) as loaded:
        np.testing.assert_allclose(loaded.run({"input": x})["probabilities"], expected, atol=2e-6)
    assert chosen.transformers_[0][2] == ["c1", "c0"], "the user's own is left as it was"


def test_integers_have_no_nan(known, tmp_path):
    x, y = known
    net = neural_network.MLPClassifier((8,), max_iter=800, random_state=0)
    model = pipeline.make_pipeline(impute.SimpleImputer(), net).fit(x, y)
    rows, whole = written(tmp_path / "rows.csv", x, y), written(tmp_path / "whole.csv", np.nan_to_num(x), y)
    with pytest.raises(DataError, match="NaN"):
        edgekit.convert(model, to="onnx", precision="int8", calibration=rows)
    artifact = edgekit.convert(model, to="onnx", precision="int8", calibration=whole)
    assert artifact.manifest.inputs[0].missing is None


def test_specs_of_earlier_manifests_are_read():
    from edgekit.codec import decode, encode

    spec = TensorSpec("x", (None, 4), "float32")
    assert decode(TensorSpec, {"name": "x", "shape": [None, 4], "dtype": "float32"}) == spec
    for value in (True, (0, 2)):
        made = TensorSpec("x", (None, 4), "float32", missing=value)
        assert decode(TensorSpec, json.loads(json.dumps(encode(made)))) == made
    with pytest.raises(ValueError, match="no such places"):
        TensorSpec("x", (None, 4), "float32", missing=(4,))


# -- ONNX ----------------------------------------------------------------------------------------------------------


def graph(*nodes, outputs=("y",), constants=()):
    make = onnx.helper.make_tensor_value_info
    ends = [make(name, onnx.TensorProto.FLOAT, ["N", None]) for name in outputs]
    return onnx.helper.make_graph(
        list(nodes), "g", [make("x", onnx.TensorProto.FLOAT, ["N", 3])], ends, initializer=list(constants)
    )


def node(kind, *names, domain=None, **attributes):
    return onnx.helper.make_node(kind, list(names[:-1]), [names[-1]], domain=domain, **attributes)


def trees(tracks):
    return node(
        "TreeEnsembleRegressor", "x", "y", domain="ai.onnx.ml", n_targets=1, nodes_treeids=[0, 0, 0],
        nodes_nodeids=[0, 1, 2], nodes_featureids=[1, 0, 0], nodes_modes=["BRANCH_LEQ", "LEAF", "LEAF"],
        nodes_values=[0.5, 0.0, 0.0], nodes_truenodeids=[1, 0, 0], nodes_falsenodeids=[2, 0, 0], target_treeids=[0, 0],
        target_nodeids=[1, 2], target_ids=[0, 0], target_weights=[-1.0, 2.0], nodes_missing_value_tracks_true=tracks,
    )  # fmt: skip


def imputer(replaced):
    return node(
        "Imputer", "x", "y", domain="ai.onnx.ml", imputed_value_floats=[1.0, 2.0, 3.0], replaced_value_float=replaced
    )


def test_what_an_onnx_graph_takes_for_missing():
    assert missing.takes(graph(trees([1, 0, 0])), "x")
    assert not missing.takes(graph(trees([0, 0, 0])), "x")
    assert missing.takes(graph(imputer(float("nan"))), "x")
    assert not missing.takes(graph(imputer(-9.0)), "x")
    where = node("IsNaN", "x", "gone"), node("Where", "gone", "zero", "x", "y")
    assert missing.takes(graph(*where), "x")
    assert missing.takes(graph(node("Identity", "x", "x1"), node("IsNaN", "x1", "gone"),
                               node("Where", "gone", "zero", "x1", "y")), "x")  # fmt: skip
    wrong = {
        "its own NaN": (node("IsNaN", "x", "gone"), node("Where", "gone", "x", "zero", "y")),
        "read besides": (*where, node("Neg", "x", "z")),
        "asked and not filled": (node("IsNaN", "x", "gone"), node("Cast", "gone", "y", to=1)),
        "answered": (*where, node("Identity", "x", "z")),
    }
    for name, nodes in wrong.items():
        assert not missing.takes(graph(*nodes, outputs=("y", "z")), "x"), name


@pytest.mark.parametrize("to", ["onnx", "tflite"])
@pytest.mark.parametrize("one", [trees([1, 0, 0]), imputer(float("nan"))], ids=["trees", "imputer"])
def test_an_onnx_file_with_gaps_goes_all_the_way(one, to, tmp_path):
    if to == "tflite":
        pytest.importorskip("ai_edge_litert", reason="comes with the tflite extra")
    import onnxruntime as ort

    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("ai.onnx.ml", 3)]
    model = onnx.helper.make_model(graph(one), opset_imports=opsets, ir_version=8)
    onnx.save(model, tmp_path / "model.onnx")
    x = table(64, 3)[0][:, :3]
    np.save(tmp_path / "rows.npy", x)
    artifact = edgekit.convert(tmp_path / "model.onnx", to=to, evaluation=tmp_path / "rows.npy")
    expected = ort.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]
    with edgekit.load(artifact) as loaded:
        np.testing.assert_allclose(loaded.run({"x": x})["y"], expected, rtol=1e-6)


# -- On the board ----------------------------------------------------------------------------------------------------


def test_null_in_a_request_is_a_missing_value():
    pytest.importorskip("orjson", reason="comes with the serve extra")
    from edgekit.serve import payload
    from edgekit.serve.settings import Bounds

    spec = TensorSpec("x", (None, 3), "float32", missing=True)
    head = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [2, 3], "data": [[1, None, 2.5], [None, 3, 4]]}]}

    def asked(about, data):
        head["inputs"][0]["data"] = data
        text = json.dumps(head).encode()
        return payload.ask(text, -1, (about,), (about,), Bounds()).feeds["x"]

    np.testing.assert_array_equal(asked(spec, [[1, None, 2.5], [None, 3, 4]]), [[1, np.nan, 2.5], [np.nan, 3, 4]])
    np.testing.assert_array_equal(asked(spec, [None] * 6), np.full((2, 3), np.nan))
    for data in ([[1, "2", 3], [None, 1, 1]], [[True, None, 1], [1, 1, 1]], [[1e300, None, 1], [1, 1, 1]]):
        with pytest.raises(FeedError, match="x"):
            asked(spec, data)
    with pytest.raises(FeedError, match="no FP32"):
        asked(TensorSpec("x", (None, 3), "float32"), [1, None, 2.5, 1, 2, 3])


def test_a_row_without_a_value():
    from edgekit.feeding import TableSteps
    from edgekit.runtimes.preparation.rows import row_array

    steps = TableSteps(("age", "color", "height"), {"height": 170.0}, {"color": ("red", "blue")})
    spec = TensorSpec("x", (None, 4), "float32", missing=(0,))
    np.testing.assert_array_equal(row_array({"age": None, "color": "blue"}, steps, spec), [np.nan, 0, 1, 170])
    with pytest.raises(FeedError, match="no value of color"):
        row_array({"age": 4}, steps, spec)


def test_a_monitor_knows_how_often_values_are_missing():
    from edgekit.monitor.build import Builder
    from edgekit.monitor.monitor import Monitor
    from edgekit.monitor.reference import Reference

    inputs = (TensorSpec("x", (None, WIDTH), "float32", missing=True),)
    outputs = (TensorSpec("y", (None, 1), "float32"),)

    def answered(x):
        return {"y": np.nansum(x, axis=1, keepdims=True)}

    def alarms(x):
        monitor = Monitor(reference, inputs, outputs, None, None, clock=lambda: 1e9)
        return [found for row in x for found in monitor.observe({"x": row[None]}, answered(row[None])).alarms]

    builder = Builder(inputs, outputs)
    x, _ = table(800, 5, 0.2)
    x[:, 4] = np.nan
    builder.add({"x": x}, answered(x))
    reference = Reference.from_bytes(builder.finish().to_bytes())
    assert reference.header.absent[4] == 1
    assert reference.header.absent[0] == pytest.approx(0.2, abs=0.05)
    usual, _ = table(6000, 6, 0.2)
    usual[:, 4] = np.nan
    assert alarms(usual) == []
    more = usual[:1500].copy()
    more[500:, 2][np.random.default_rng(7).random(1000) < 0.8] = np.nan
    first = alarms(more)[0]
    assert (first.kind, first.where) == ("missing", "input x: value 2")
    assert 480 <= first.since < first.raised <= 600
