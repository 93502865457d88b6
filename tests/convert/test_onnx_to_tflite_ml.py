"""ai.onnx.ml as TFLite: random trees at their thresholds, models by skl2onnx, operators against onnxruntime."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="comes with the convert extra")
ort = pytest.importorskip("onnxruntime", reason="comes with the onnx extra")
litert = pytest.importorskip("ai_edge_litert.interpreter", reason="comes with the tflite extra")

from onnx import TensorProto, helper  # noqa: E402

from edgekit.converters.onnx_to_tflite import writing  # noqa: E402
from edgekit.converters.onnx_to_tflite.batches import release  # noqa: E402
from edgekit.converters.onnx_to_tflite.lowering import Lowering  # noqa: E402
from edgekit.converters.onnx_to_tflite.tidy import tidy  # noqa: E402

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
MODES = ("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ")
MIXES = (MODES[:1], MODES[1:2], MODES[:4], MODES, MODES[1:3], MODES[4:])
SPLITS = (-1.0, 0.0, 0.5, 1.0, np.inf, -np.inf)


def model_of(op, attributes, *, width=3, outputs=(("Y", FLOAT),), kind=FLOAT, version=3):
    node = helper.make_node(op, ["X"], [name for name, _ in outputs], domain="ai.onnx.ml", **attributes)
    made = [helper.make_tensor_value_info(name, dtype, None) for name, dtype in outputs]
    graph = helper.make_graph([node], "one", [helper.make_tensor_value_info("X", kind, ["N", width])], made)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", version)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def drafted(model, batch):
    sized = onnx.ModelProto()
    sized.CopyFrom(model)
    for value in sized.graph.input:
        value.type.tensor_type.shape.dim[0].dim_value = batch
    lowering = Lowering(sized)
    draft = lowering.run()
    assert not lowering.gaps, "; ".join(map(str, lowering.gaps))
    tidy(draft)
    return draft


def answers(model, x):
    """Name -> what TFLite says, with the batch freed."""
    draft = drafted(model, 7)
    release(draft, drafted(model, 11), (7, 11))
    engine = litert.Interpreter(model_content=writing.write(draft), num_threads=1)
    place = engine.get_input_details()[0]["index"]
    engine.resize_tensor_input(place, x.shape)
    engine.allocate_tensors()
    engine.set_tensor(place, x)
    engine.invoke()
    return {detail["name"]: engine.get_tensor(detail["index"]) for detail in engine.get_output_details()}


def expected(model, x):
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(None, {"X": x}), strict=True))


def agree(model, x, tolerance=1e-6):
    found, wanted = answers(model, x), expected(model, x)
    for name, want in wanted.items():
        assert found[name].dtype == want.dtype
        np.testing.assert_allclose(found[name], want, rtol=tolerance, atol=tolerance, err_msg=name)


def random_trees(dice, modes, count, depth):
    """Attributes of the nodes, and (tree, node) of the leaves."""
    names = ("treeids", "nodeids", "featureids", "modes", "values", "truenodeids", "falsenodeids",
             "missing_value_tracks_true")  # fmt: skip
    nodes = {f"nodes_{name}": [] for name in names}
    leaves = []

    def grow(tree, numbers, left):
        number, row = next(numbers), len(nodes["nodes_treeids"])
        inner = left > 0 and dice.random() > 0.2
        filled = (tree, number, int(dice.integers(3)), str(dice.choice(modes)) if inner else "LEAF",
                  float(dice.choice(SPLITS)) if inner else 0.0, 0, 0, int(dice.integers(2)))  # fmt: skip
        for name, value in zip(nodes, filled, strict=True):
            nodes[name].append(value)
        if inner:
            nodes["nodes_truenodeids"][row] = grow(tree, numbers, left - 1)
            nodes["nodes_falsenodeids"][row] = grow(tree, numbers, left - 1)
        else:
            leaves.append((tree, number))
        return number

    for tree in range(count):
        grow(tree, iter(range(1 << 12)), depth)
    return nodes, leaves


def rows_at_thresholds(dice, count=150):
    known = np.array([*SPLITS, np.nan, 2, -2, -0.0], np.float32)
    x = dice.choice(known, (count, 3))
    away = np.nextafter(x, np.where(dice.random(x.shape) < 0.5, np.float32(9), np.float32(-9)))
    return np.where(dice.random(x.shape) < 0.4, away, x).astype(np.float32)


@pytest.mark.parametrize("seed", range(18))
def test_random_trees_decide_as_onnx_does(seed):
    dice = np.random.default_rng(seed)
    nodes, leaves = random_trees(dice, MIXES[seed % 6], int(dice.integers(1, 9)), int(dice.integers(0, 6)))
    targets = int(dice.integers(1, 4))
    weights = [(tree, node, target, float(dice.integers(-50, 50))) for tree, node in leaves for target in
               range(targets)]  # fmt: skip
    names = ("treeids", "nodeids", "ids", "weights")
    columns = {f"target_{name}": list(column) for name, column in zip(names, zip(*weights, strict=True), strict=True)}
    how = ("SUM", "AVERAGE", "MIN", "MAX")[seed % 4]
    extra = {"base_values": [float(dice.integers(9)) for _ in range(targets)]} if seed % 2 else {}
    model = model_of("TreeEnsembleRegressor", {**nodes, **columns, **extra, "n_targets": targets,
                                               "aggregate_function": how})  # fmt: skip
    agree(model, rows_at_thresholds(dice))


@pytest.mark.parametrize("transform", ["NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO"])
@pytest.mark.parametrize(("classes", "ids"), [(2, (0,)), (2, (1,)), (3, (0, 1, 2))])
@pytest.mark.parametrize("least", [0, -50])
def test_random_tree_classifiers(transform, classes, ids, least):
    if transform == "SOFTMAX_ZERO" and ids == (1,) and least:
        pytest.skip("onnxruntime divides zero by zero")
    dice = np.random.default_rng(len(transform) - least)
    nodes, leaves = random_trees(dice, MIXES[0], 5, 4)
    weights = [(tree, node, number, int(dice.integers(least, 50)) / 256) for tree, node in leaves for number in ids]
    names = ("treeids", "nodeids", "ids", "weights")
    columns = {f"class_{name}": list(column) for name, column in zip(names, zip(*weights, strict=True), strict=True)}
    base = {"base_values": [0.125] * len(ids)} if ids != (1,) else {}
    attributes = {**nodes, **columns, **base, "classlabels_int64s": [4, 2, 9][:classes], "post_transform": transform}
    agree(
        model_of("TreeEnsembleClassifier", attributes, outputs=(("L", INT64), ("Y", FLOAT))), rows_at_thresholds(dice)
    )


def test_sets_and_leaves_that_lie_apart():
    """TreeEnsemble: x0 in {1, 3} ? 10 : (x1 > 0.1 in double precision ? 20 : 30)."""
    below = np.nextafter(np.float32(0.1), np.float32(0))
    doubles = np.array([0, 0.1], np.float32)
    attributes = {
        "n_targets": 1, "aggregate_function": 1, "post_transform": 0, "tree_roots": [0],
        "nodes_modes": helper.make_tensor("m", TensorProto.UINT8, [2], [6, 3]),
        "nodes_featureids": [0, 1], "nodes_splits": helper.make_tensor("s", FLOAT, [2], doubles),
        "nodes_truenodeids": [0, 1], "nodes_falsenodeids": [1, 2],
        "nodes_trueleafs": [1, 1], "nodes_falseleafs": [0, 1],
        "membership_values": helper.make_tensor("v", FLOAT, [3], [1.0, 3.0, np.nan]),
        "leaf_targetids": [0, 0, 0], "leaf_weights": helper.make_tensor("w", FLOAT, [3], [10.0, 20.0, 30.0]),
    }  # fmt: skip
    x = np.array([[1, 9, 0], [2, 9, 0], [3, 0, 0], [2, below, 0], [np.nan, 0.1, 0]], np.float32)
    found = answers(model_of("TreeEnsemble", attributes, version=5), x)
    assert found["Y"].reshape(-1).tolist() == [10, 20, 10, 30, 30]


def test_double_thresholds_decide_about_float32_rows_exactly():
    split = 0.1  # float32's 0.1 lies above it
    attributes = {
        "nodes_treeids": [0] * 3, "nodes_nodeids": [0, 1, 2], "nodes_featureids": [0] * 3, "n_targets": 1,
        "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"], "nodes_truenodeids": [1, 0, 0], "nodes_falsenodeids": [2, 0, 0],
        "nodes_values_as_tensor": helper.make_tensor("v", TensorProto.DOUBLE, [3], [split, 0, 0]),
        "target_treeids": [0, 0], "target_nodeids": [1, 2], "target_ids": [0, 0],
        "target_weights_as_tensor": helper.make_tensor("w", TensorProto.DOUBLE, [2], [1.0, 2.0]),
    }  # fmt: skip
    near = np.float32(split)
    x = np.array([[near], [np.nextafter(near, np.float32(0))]], np.float32)
    found = answers(model_of("TreeEnsembleRegressor", attributes, width=1), x)
    assert found["Y"].reshape(-1).tolist() == [2, 1]


OTHERS = {
    "Scaler": {"offset": [1.0, 2.0, 3.0], "scale": [0.5, 1.0, 2.0]},
    "Normalizer L1": {"norm": "L1"},
    "Normalizer L2": {"norm": "L2"},
    "Normalizer MAX": {"norm": "MAX"},
    "Imputer": {"imputed_value_floats": [1.0, 2.0, 3.0], "replaced_value_float": float("nan")},
    "Imputer of a number": {"imputed_value_floats": [7.0], "replaced_value_float": 2.0},
    "Binarizer": {"threshold": 0.5},
    "OneHotEncoder": {"cats_int64s": [2, -1, 0]},
    "LabelEncoder": {"keys_floats": [0.5, 2.0, -1.0], "values_int64s": [7, 8, 9], "default_int64": -5},
    "LabelEncoder to floats": {"keys_floats": [0.5, 2.0], "values_floats": [0.25, 8.0], "default_float": 1.5},
    "LinearRegressor": {"coefficients": [1.0, -2.0, 0.5], "intercepts": [0.25]},
    "SVMRegressor": {"n_supports": 2, "coefficients": [1.0, -2.0], "rho": [0.5], "kernel_type": "RBF",
                     "kernel_params": [0.5, 0.0, 3.0], "support_vectors": [1.0, 0.0, 2.0, -1.0, 1.0, 0.5]},
    "SVMRegressor of one class": {"n_supports": 0, "coefficients": [1.0, -2.0, 0.3], "rho": [0.5], "one_class": 1,
                                  "kernel_type": "LINEAR", "kernel_params": [0.0, 0.0, 0.0]},
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_operators_against_onnxruntime(name):
    dice = np.random.default_rng(1)
    x = dice.choice(np.array([-2, -1, 0, 0.5, 1, 2, 3], np.float32), (40, 3))
    x[0] = 0
    if name == "Imputer":
        x = np.where(dice.random(x.shape) < 0.3, np.float32(np.nan), x)
    kind = INT64 if name == "LabelEncoder" else FLOAT
    agree(model_of(name.split()[0], OTHERS[name], outputs=(("Y", kind),), version=2), x)


CLASSIFIERS = {
    **{f"LinearClassifier {transform} {count}": (
        {"coefficients": [1.0, -0.5, 0.2, 0.3, 0.1, 1.0, -1.0, 0.4, 0.6][: 3 * count], "intercepts": [0.1] * count,
         "classlabels_ints": [3, 7, 9][: max(count, 2)], "post_transform": transform})
       for transform in ("NONE", "LOGISTIC", "SOFTMAX") for count in (1, 2, 3)},
    **{f"SVMClassifier {kernel} {count}": (
        {"coefficients": [1.0, -0.5, 0.7, 0.2, -0.3, 0.9][: (count - 1) * count], "classlabels_ints": [3, 7, 9][:count],
         "support_vectors": [1.0, 0.0, 2.0, -1.0, 1.0, 0.5, 0.0, 2.0, -2.0][: 3 * count],
         "vectors_per_class": [1] * count, "rho": [0.1, -0.2, 0.3][: count * (count - 1) // 2], "kernel_type": kernel,
         "kernel_params": [0.25, 0.5, 3.0]})
       for kernel in ("RBF", "LINEAR", "POLY", "SIGMOID") for count in (2, 3)},
    **{f"SVMClassifier with probabilities {count}": (
        {"coefficients": [1.0, -0.5, 0.7, 0.2, -0.3, 0.9][: (count - 1) * count], "classlabels_ints": [3, 7, 9][:count],
         "support_vectors": [1.0, 0.0, 2.0, -1.0, 1.0, 0.5, 0.0, 2.0, -2.0][: 3 * count],
         "vectors_per_class": [1] * count, "rho": [0.1, -0.2, 0.3][: count * (count - 1) // 2], "kernel_type": "RBF",
         "kernel_params": [0.25, 0.5, 3.0], "prob_a": [-1.2, -0.7, -2.0][: count * (count - 1) // 2],
         "prob_b": [0.1, 0.0, 0.2][: count * (count - 1) // 2]})
       for count in (2, 3)},
    "SVMClassifier without vectors": (
        {"coefficients": [1.0, -0.5, 0.2, 0.3, 0.1, 1.0], "classlabels_ints": [3, 7], "rho": [0.1],
         "kernel_type": "LINEAR", "kernel_params": [0.0, 0.0, 0.0]}),
}  # fmt: skip


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifiers_against_onnxruntime(name):
    x = np.random.default_rng(1).normal(size=(60, 3)).astype(np.float32)
    op = name.split()[0]
    agree(model_of(op, CLASSIFIERS[name], outputs=(("L", INT64), ("Y", FLOAT)), version=1), x, 2e-5)


REFUSED = {
    "texts": ("LinearClassifier", {"coefficients": [1.0] * 6, "intercepts": [0.0] * 2,
                                   "classlabels_strings": ["a", "b"]}, "its labels are texts"),
    "PROBIT": ("LinearRegressor", {"coefficients": [1.0] * 3, "post_transform": "PROBIT"}, "PROBIT has no operators"),
    "categories": ("OneHotEncoder", {"cats_strings": ["a", "b"]}, "its categories are texts"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name(name):
    op, attributes, why = REFUSED[name]
    outputs = (("L", INT64), ("Y", FLOAT)) if op == "LinearClassifier" else (("Y", FLOAT),)
    sized = model_of(op, attributes, outputs=outputs, version=1)
    sized.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    lowering = Lowering(sized)
    lowering.run()
    assert [why in str(gap) for gap in lowering.gaps] == [True]


def estimators():
    from sklearn import ensemble, linear_model, naive_bayes, pipeline, preprocessing, svm, tree

    scaler = preprocessing.StandardScaler
    yield tree.DecisionTreeClassifier(max_depth=4, random_state=0)
    yield ensemble.RandomForestClassifier(10, max_depth=5, random_state=0)
    yield ensemble.GradientBoostingClassifier(n_estimators=5, random_state=0)
    yield pipeline.make_pipeline(preprocessing.Normalizer(), ensemble.ExtraTreesClassifier(8, random_state=0))
    yield pipeline.make_pipeline(scaler(), linear_model.LogisticRegression())
    yield pipeline.make_pipeline(preprocessing.RobustScaler(), naive_bayes.GaussianNB())
    yield pipeline.make_pipeline(scaler(), svm.SVC())


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("number", range(7))
def test_models_by_skl2onnx(number, classes):
    pytest.importorskip("sklearn", reason="comes with the sklearn extra")
    skl2onnx = pytest.importorskip("skl2onnx", reason="writes other people's graphs")
    from sklearn import datasets

    estimator = list(estimators())[number]
    x, y = datasets.load_iris(return_X_y=True)
    kept = y < classes
    x, y = x[kept].astype(np.float32), y[kept] + 3
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = skl2onnx.to_onnx(estimator.fit(x, y), x[:1], options={"zipmap": False},
                                target_opset={"": 17, "ai.onnx.ml": 3})  # fmt: skip
    agree(made, x, 1e-4)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "dynamic"])
def test_estimators_to_tflite(precision, tmp_path):
    """Smaller weights do not touch thresholds and leaves: those are no weights."""
    pytest.importorskip("sklearn", reason="comes with the sklearn extra")
    from sklearn import datasets, ensemble

    import edgekit

    x, y = datasets.load_breast_cancer(return_X_y=True)
    single = x.astype(np.float32)
    model = ensemble.RandomForestClassifier(20, random_state=0).fit(single, y)
    artifact = edgekit.convert(model, to="tflite", precision=precision, output=tmp_path / "forest.tflite")
    loaded = edgekit.load(artifact.path)
    # Beside the thresholds of all trees, where a rounding would show.
    dice = np.random.default_rng(0)
    rows = single[dice.integers(0, len(x), 300)]
    for column in range(x.shape[1]):
        splits = np.concatenate([tree.tree_.threshold[tree.tree_.feature == column] for tree in model.estimators_])
        if len(splits):
            near = dice.choice(splits, len(rows)).astype(np.float32)
            rows[:, column] = np.nextafter(near, dice.choice(np.array([-1e9, 1e9], np.float32), len(rows)))
    found = np.concatenate([np.ravel(loaded.run({"input": row[None]})["label"]) for row in rows])
    assert (found == model.predict(rows)).all()
