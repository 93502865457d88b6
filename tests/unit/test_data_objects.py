"""Python objects as data: every form that people have in hand beside a model, and what is none of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgekit.data import open_data
from edgekit.data_objects import framed, spill
from edgekit.data_ref import DataRef
from edgekit.errors import DataError
from edgekit.tensors import TensorSpec

ROWS = (TensorSpec("rows", (None, 3), "float32"),)
TWO = (TensorSpec("rows", (None, 3), "float32"), TensorSpec("y", (None, 2), "float32"))
X = np.random.default_rng(0).random((6, 3)).astype(np.float32)
Z = np.random.default_rng(1).random((6, 2)).astype(np.float32)
Y = np.array([0, 1, 0, 1, 1, 0])


def read(ref: DataRef, inputs):
    batches = list(open_data(ref, inputs).batches(4))
    feeds = {spec.name: np.concatenate([batch.feeds[spec.name] for batch in batches]) for spec in inputs}
    labels = None if batches[0].labels is None else np.concatenate([batch.labels for batch in batches])
    return feeds, labels


class Loader:
    """Iterable and nothing else, of lists, as PyTorch's loader is."""

    def __iter__(self):
        for start in (0, 4):
            yield [X[start : start + 4], Y[start : start + 4]]


ONE_INPUT = {
    "array": X,
    "dict": {"rows": X},
    "other name": {"pictures": X},
    "nested lists": X.tolist(),
    "list of samples": list(X),
    "list of the one input": [X],
    "samples": (row for row in X),
    "dicts": ({"rows": row[None]} for row in X),
    "lists of one": ([row[None]] for row in X),
    "representative dataset": lambda: ([row[None]] for row in X),
    "batches": (X[i : i + 4] for i in (0, 4)),
}
WITH_LABELS = {
    "arrays": (X, Y),
    "named": ({"rows": X}, Y),
    "in the dict": {"rows": X, "label": Y},
    "samples": ((row, label) for row, label in zip(X, Y, strict=True)),
    "batches": ((X[i : i + 4], Y[i : i + 4]) for i in (0, 4)),
    "named batches": (({"rows": X[i : i + 4]}, Y[i : i + 4]) for i in (0, 4)),
    "dicts": ({"rows": row, "y": label} for row, label in zip(X, Y, strict=True)),
    "loader": Loader(),
}
TWO_INPUTS = {
    "dict": {"rows": X, "y": Z},
    "in order": [X, Z],
    "tuple in order": (X, Z),
    "samples": ((a, b) for a, b in zip(X, Z, strict=True)),
    "batches": ([X[i : i + 4], Z[i : i + 4]] for i in (0, 4)),
    "with labels": ([X, Z], Y),
    "pairs": (((a, b), label) for a, b, label in zip(X, Z, Y, strict=True)),
}


@pytest.mark.parametrize("form", ONE_INPUT)
def test_one_input(form, tmp_path):
    feeds, labels = read(spill(ONE_INPUT[form], ROWS, tmp_path), ROWS)
    np.testing.assert_allclose(feeds["rows"], X)
    assert labels is None


@pytest.mark.parametrize("form", WITH_LABELS)
def test_labels(form, tmp_path):
    feeds, labels = read(spill(WITH_LABELS[form], ROWS, tmp_path), ROWS)
    np.testing.assert_array_equal(feeds["rows"], X)
    np.testing.assert_array_equal(labels, Y)


@pytest.mark.parametrize("form", TWO_INPUTS)
def test_two_inputs_one_of_which_is_called_like_labels(form, tmp_path):
    feeds, labels = read(spill(TWO_INPUTS[form], TWO, tmp_path), TWO)
    np.testing.assert_array_equal(feeds["rows"], X)
    np.testing.assert_array_equal(feeds["y"], Z)
    assert (labels is not None) == (form in ("with labels", "pairs"))


def test_rows_of_two_numbers_are_no_pairs(tmp_path):
    inputs = (TensorSpec("rows", (None, 2), "float32"),)
    feeds, labels = read(spill(iter(Z.tolist()), inputs, tmp_path), inputs)
    np.testing.assert_allclose(feeds["rows"], Z)
    assert labels is None


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (iter(()), "data-empty"),
        (5, "data-unknown"),
        (b"bytes", "data-unknown"),
        ((np.zeros(n) for n in (3, 4)), "data-shape"),
        ([np.zeros(3), np.zeros(4)], "data-shape"),
        (np.array([1, "a", None], dtype=object), "data-dtype"),
        (({"rows": X[0]} if i else {"a": X[0], "b": X[0]} for i in range(2)), "data-names"),
        (((X[:4], Y[:2]) for _ in range(2)), "data-length"),
        (((X[0], Y[0]) if i else X[0] for i in range(2)), "data-length"),
    ],
)
def test_what_cannot_be_data_is_refused_by_name(data, code, tmp_path):
    with pytest.raises(DataError) as caught:
        spill(data, ROWS, tmp_path)
    assert caught.value.code == code
    assert not list(tmp_path.iterdir())


def test_inputs_in_order_must_be_as_many(tmp_path):
    with pytest.raises(DataError, match="3 arrays; the inputs are rows, y"):
        spill(iter([[X[0], Z[0], Z[0]]]), TWO, tmp_path)


@pytest.mark.parametrize("data", [np.zeros((0, 3)), {"x": np.zeros((0, 3))}, (np.zeros((0, 3)), np.zeros(0)), []])
def test_empty_arrays_are_told_without_the_name_of_a_file_of_ours(data, tmp_path):
    with pytest.raises(DataError) as refused:
        spill(data, (TensorSpec("x", (None, 3), "float32"),), tmp_path)
    assert refused.value.code == "data-empty"
    assert str(tmp_path) not in str(refused.value)


class Frame(dict):
    """What is asked of pandas'."""

    columns = property(list)

    def assign(self, **columns):
        return Frame({**self, **columns})

    def to_csv(self, path, index):
        assert index is False
        rows = zip(*self.values(), strict=True)
        path.write_text("\n".join(",".join(map(str, row)) for row in (self.columns, *rows)))


def test_columns_of_a_data_frame_are_found_by_name(tmp_path: Path) -> None:
    frame = Frame({"b": [1.0, 2.0], "a": [3.0, 4.0]})
    for data, labelled in ((frame, False), ((frame, [1, 0]), True)):
        path = framed(data, ("a", "b"), None, tmp_path)
        assert path is not None
        opened = open_data(DataRef(str(path), columns=("a", "b")), (TensorSpec("x", (None, 2), "float32"),))
        assert next(opened.batches(2)).feeds["x"].tolist() == [[3, 1], [4, 2]]
        assert opened.labelled == labelled
    assert framed(frame, ("c",), None, tmp_path) is None
    assert framed(np.zeros((2, 2)), ("a", "b"), None, tmp_path) is None


def test_texts_and_truths_that_pandas_holds_as_objects(tmp_path: Path) -> None:
    labels = np.array(["ok", "fault"], object)
    rows = np.array([[1.5, True, None], [2, False, 3.0]], object)
    feeds, found = read(spill((rows, labels), ROWS, tmp_path), ROWS)
    np.testing.assert_array_equal(feeds["rows"], [[1.5, 1, np.nan], [2, 0, 3]])
    assert found.tolist() == [1, 0]
    frame = Frame({"b": [True, False], "a": [3.0, 4.0]})
    path = framed((frame, labels), ("a", "b"), None, tmp_path)
    opened = open_data(DataRef(str(path), columns=("a", "b")), (TensorSpec("x", (None, 2), "float32"),))
    assert next(opened.batches(2)).feeds["x"].tolist() == [[3, 1], [4, 0]]
    assert opened.labelled
