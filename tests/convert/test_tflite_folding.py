"""Pipelines of scikit-learn in integers: scaling goes into the matrix behind it, decisions of trees are refused."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.ensemble import GradientBoostingClassifier, RandomForestRegressor
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import edgekit
from edgekit.converters.tflite_graphs import folding as tflite_folding
from edgekit.converters.tflite_graphs import graph as files
from edgekit.converters.tflite_graphs.builder import Builder
from edgekit.errors import ConversionError


def chain(kinds: list[tuple[str, bool]], size: tuple[int, ...]) -> bytes:
    """x [N,4], arithmetic by constants (left: the constant stands on the left), a dense layer."""
    dice = np.random.default_rng(3)
    graph = Builder()
    x = graph.input("x", (-1, 4))
    for number, (kind, left) in enumerate(kinds):
        constant = graph.constant(f"c{number}", dice.uniform(0.5, 2.0, size).astype(np.float32))
        parts = [constant, x] if left else [x, constant]
        x = graph.op(kind, parts, (-1, 4), f"m{number}", f"{kind.capitalize()}Options")
    weights = graph.constant("w", dice.normal(size=(3, 4)).astype(np.float32))
    bias = graph.constant("b", dice.normal(size=3).astype(np.float32))
    made = graph.op("FULLY_CONNECTED", [x, weights, bias], (-1, 3), "y", "FullyConnectedOptions")
    return graph.finish([made], signature="serving_default")


def answers(data: bytes, x: np.ndarray) -> np.ndarray:
    from ai_edge_litert.interpreter import Interpreter

    return Interpreter(model_content=data, num_threads=1).get_signature_runner()(x=x)["y"]


@pytest.mark.parametrize("size", [(4,), (1, 4), (), (1,)])
@pytest.mark.parametrize(
    ("kinds", "left"),
    [
        ([("SUB", False), ("DIV", False)], 0),
        ([("ADD", True), ("MUL", False), ("SUB", True)], 0),
        ([("DIV", True), ("MUL", True)], 1),
    ],
)
def test_arithmetic_a_column_goes_into_the_matrix(kinds, left, size):
    data = chain(kinds, size)
    model = files.read(data)
    tflite_folding.columns_into_dense(model, lambda _: 8)
    folded = files.dump(model)
    names = [files.op_name(files.read(folded), op) for op in files.read(folded).subgraphs[0].operators]
    assert len(names) == left + 1
    x = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    want = answers(data, x)
    np.testing.assert_allclose(answers(folded, x), want, atol=0.05 * np.abs(want).max())  # weights may be clipped


def test_shifts_go_into_the_bias_exactly():
    data = chain([("ADD", False), ("SUB", False), ("SUB", True)], (4,))
    model = files.read(data)
    tflite_folding.columns_into_dense(model, lambda _: 8)
    x = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    np.testing.assert_allclose(answers(files.dump(model), x), answers(data, x), rtol=1e-5, atol=1e-5)


def test_a_column_that_hardly_varies_does_not_take_the_steps_of_the_others():
    weights = np.array([[1000.0, 1.0, -0.7, 0.4]])
    made = tflite_folding._clipped(weights, np.array([1e-4, 1.0, 1.0, 1.0]))
    assert 1.0 <= made[0, 0] < 30.0
    np.testing.assert_array_equal(made[0, 1:], weights[0, 1:])
    np.testing.assert_array_equal(tflite_folding._clipped(weights / 1000, np.ones(4)), weights / 1000)


def test_what_computes_in_another_width_stays_apart():
    data = chain([("SUB", False), ("DIV", False)], (4,))
    model = files.read(data)
    kinds = [files.op_name(model, op) for op in model.subgraphs[0].operators]
    matrix = model.subgraphs[0].operators[-1]
    last = files.name_of(model.subgraphs[0].tensors[int(matrix.outputs[0])])
    tflite_folding.columns_into_dense(model, lambda name: 8 if name == last else 0)
    assert [files.op_name(model, op) for op in model.subgraphs[0].operators] == kinds


def test_a_matrix_in_float_keeps_its_weights_whole():
    data = chain([("SUB", False), ("DIV", False)], (4,))
    model = files.read(data)
    tflite_folding.columns_into_dense(model, lambda _: 0)
    assert len(model.subgraphs[0].operators) == 1
    x = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    np.testing.assert_allclose(answers(files.dump(model), x), answers(data, x), rtol=1e-5, atol=1e-5)


def test_a_division_by_zero_stays_where_it_is():
    graph = Builder()
    x = graph.input("x", (-1, 2))
    made = graph.op("DIV", [x, graph.constant("c", np.array([1, 0], np.float32))], (-1, 2), "m", "DivOptions")
    parts = [made, graph.constant("w", np.eye(2, dtype=np.float32)), graph.constant("b", np.zeros(2, np.float32))]
    made = graph.op("FULLY_CONNECTED", parts, (-1, 2), "y", "FullyConnectedOptions")
    model = files.read(graph.finish([made], signature="serving_default"))
    tflite_folding.columns_into_dense(model, lambda _: 8)
    assert len(model.subgraphs[0].operators) == 2


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
def test_a_scaled_classifier_becomes_int8():
    x, y = load_digits(return_X_y=True)
    x = x.astype(np.float32)
    model = make_pipeline(StandardScaler(), MLPClassifier((32,), max_iter=60, random_state=0)).fit(x[:900], y[:900])
    given = {"calibration": {"input": x[:300]}, "evaluation": {"input": x[900:], "y": y[900:]}}
    artifact = edgekit.convert(model, to="tflite", precision="int8", max_drop=2.0, **given)
    proof = artifact.manifest.proof
    assert proof.agreement > 0.94
    assert proof.sqnr_db > 14  # 9 when the weights of columns that hardly vary take all steps


@pytest.mark.parametrize("estimator", [GradientBoostingClassifier(n_estimators=3), RandomForestRegressor(3)])
@pytest.mark.filterwarnings("ignore")
def test_decisions_are_refused_by_name(estimator):
    x, y = load_digits(return_X_y=True)
    x = x.astype(np.float32)
    estimator.fit(x[:300], y[:300] > 4)
    with pytest.raises(ConversionError, match="GREATER") as refused:
        edgekit.convert(estimator, to="tflite", precision="int8", calibration={"input": x[:50]}, allow_float_ops=True)
    assert refused.value.code == "op-not-quantizable"
    assert "dynamic" in refused.value.next_step
