"""Thresholds and sums of trees: every float32 goes the estimator's way, and float32 adds leaves exactly."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.converters.from_sklearn import columns, files, trees
from edgekit.converters.from_sklearn.trees import LEAF, Forest, Tree

WIDE = st.floats(allow_nan=False, width=64)
SINGLE = st.floats(allow_nan=False, allow_infinity=False, width=32)


def around(number: float, steps: int = 3) -> np.ndarray:
    """The float32 numbers next to a float64 one."""
    with np.errstate(over="ignore"):
        near = np.float32(number)
        found = [near]
        for direction in (np.float32(-np.inf), np.float32(np.inf)):
            at = near
            for _ in range(steps):
                at = np.nextafter(at, direction)
                found.append(at)
    return np.array([x for x in found if not np.isnan(x)], np.float32)


@settings(max_examples=2000, deadline=None)
@given(WIDE, SINGLE)
def test_a_floored_threshold_decides_every_float32_alike(threshold, x):
    floored = trees.floor32(np.array([threshold]))
    assert floored.dtype == np.float32
    inputs = np.append(around(threshold), np.float32(x))
    assert ((inputs.astype(np.float64) <= threshold) == (inputs <= floored)).all()


@pytest.mark.parametrize("threshold", [0.0, -0.0, 1e-300, -1e-300, 1e300, -1e300, np.inf, 0.1, -0.1, 3.4028235e38])
def test_thresholds_at_the_edges_of_float32(threshold):
    inputs = np.concatenate([around(threshold), np.float32([0, 1, -1, 3.4e38, -3.4e38, 1e-45, -1e-45])])
    inputs = inputs[np.isfinite(inputs)]
    assert ((inputs.astype(np.float64) <= threshold) == (inputs <= trees.floor32(threshold))).all()


def test_nearest_rounding_would_not_do():
    threshold = float(np.float32(0.3)) - 1e-12
    x = np.float32(0.3)
    assert x <= np.float32(threshold)
    assert not float(x) <= threshold
    assert not x <= trees.floor32(threshold)


@settings(max_examples=500, deadline=None)
@given(st.lists(SINGLE, min_size=2, max_size=50))
def test_ranks_are_in_the_order_of_the_numbers(numbers):
    values = np.float32(numbers)
    ranks = columns._rank(values)
    np.testing.assert_array_equal(columns._number(ranks), values)
    order = np.argsort(ranks, kind="stable")
    assert (np.diff(values[order]) >= 0).all()


@settings(max_examples=300, deadline=None)
@given(
    mean=st.floats(-1e6, 1e6, width=32),
    scale=st.floats(0.0009765625, 1e6, width=32),
    threshold=st.floats(-50, 50),
    width=st.sampled_from(["float32", "float64"]),
)
def test_a_folded_threshold_is_the_last_input_that_passes(mean, scale, threshold, width):
    def scaled(rows):
        return (rows - np.float32(mean)) / np.float32(scale)

    stump = stumps(np.array([threshold]), width)
    folded = columns.fold(stump, columns.Columns(scaled, np.array([0])), 1)
    limit = folded.trees[0].threshold[0]
    with np.errstate(over="ignore"):
        inputs = np.concatenate([around(limit), around(threshold * scale + mean)])
        inputs = inputs[np.isfinite(inputs)]
        passes = scaled(inputs).astype(width) <= np.float64(threshold)
    assert (passes == (inputs <= limit)).all()


def stumps(thresholds: np.ndarray, width: str = "float32") -> Forest:
    """A tree of two leaves a threshold, all over column 0."""
    made = [
        Tree(
            np.zeros(3, np.int64), np.array([t, 0, 0]), np.array([1, LEAF, LEAF]), np.array([2, LEAF, LEAF]),
            np.zeros(3, bool), np.array([[0.0], [1.0], [2.0]]),
        )
        for t in thresholds
    ]  # fmt: skip
    return Forest(tuple(made), np.zeros(1), width=width)


def test_what_always_or_never_passes():
    def flat(rows):
        return np.zeros_like(rows)

    folded = columns.fold(stumps(np.array([1.0, -1.0])), columns.Columns(flat, np.array([0])), 1)
    assert [tree.threshold[0] for tree in folded.trees] == [np.inf, -np.inf]


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_digits_add_exactly_in_any_order(data):
    count = data.draw(st.integers(1, 60))
    size = data.draw(st.sampled_from([1e-6, 1.0, 1e5]))
    value = st.floats(-size, size)
    leaves = [np.array(data.draw(st.lists(value, min_size=2, max_size=2))) for _ in range(count)]
    base = np.array([data.draw(value)])
    grown = stumps(np.zeros(count)).trees
    made = [tree.adding(np.array([[0.0], [a], [b]])) for tree, (a, b) in zip(grown, leaves, strict=True)]
    written = trees.digits(Forest(tuple(made), base))
    chosen = [data.draw(st.integers(1, 2)) for _ in range(count)]
    order = data.draw(st.permutations(range(count)))
    wanted = float(base[0]) + sum(float(leaves[i][chosen[i] - 1]) for i in range(count))
    got = 0.0
    for digit, unit in enumerate(written.units):
        parts = [written.trees[i][digit, chosen[i], 0] for i in order] + [written.base[digit, 0]]
        single = np.float32(0)
        for part in parts:
            assert np.float32(part) == part
            single = np.float32(single + np.float32(part))
        assert float(single) == sum(parts)
        got += float(single) * unit
    bound = sum(np.abs(leaf).max() for leaf in leaves) + abs(base[0])
    assert abs(got - wanted) <= bound * (count + 1) * 2.0**-36 + 1e-34


def test_votes_take_one_digit():
    votes = [tree.adding(np.array([[0.0, 0], [1, 0], [0, 1]])) for tree in stumps(np.zeros(100)).trees]
    assert len(trees.digits(Forest(tuple(votes), np.zeros(2))).units) == 1


# -- What a file is ------------------------------------------------------------------------------------------------

CONTENTS = {
    b"\x80\x04\x95": "pickle",
    b"\x80\x05": "pickle",
    b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.": None,
    b'{"learner":{"attributes":{}}}': "xgboost",
    b'{\n "learner" : {}}': "xgboost",
    b"{L\x00\x00\x00\x00\x00\x00\x00\x07learner{": "xgboost",
    b'{"model":"learner"}': None,
    b"tree\nversion=v4\n": "lightgbm",
    b"trees are green": None,
    b"\x1f\x8b\x08": None,
}


@pytest.mark.parametrize("content", CONTENTS)
def test_files_are_known_by_their_content(content, tmp_path):
    path = tmp_path / "m"
    path.write_bytes(content)
    assert files.content(path) == CONTENTS[content]
    assert files.demands_digest(path) == (CONTENTS[content] == "pickle")


@pytest.mark.parametrize("head", [b"\x1f\x8b\x08", b"BZh9", b"\xfd7zXZ\x00", b"\x78\x9c\x01"])
def test_compressed_pickles_are_known_by_their_name(head, tmp_path):
    for name, kind in (("m.joblib", "pickle"), ("m.pkl", "pickle"), ("m.gz", None)):
        (tmp_path / name).write_bytes(head)
        assert files.content(tmp_path / name) == kind


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=80))
def test_any_bytes_have_a_kind_or_none(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("any") / "m"
    path.write_bytes(content)
    assert files.content(path) in (None, "pickle", "skops", "xgboost", "lightgbm")


@pytest.mark.parametrize(
    ("name", "harmless"),
    [("sklearn.tree._tree.Tree", True), ("numpy.dtype", True), ("numpy.exp", True), ("numpy.load", False),
     ("sklearn.datasets.fetch_openml", False), ("os.system", False), ("builtins.eval", False), ("sklearn", False),
     ("numpy.nothing", False), ("sklearn.no.such", False)],
)  # fmt: skip
def test_types_of_skops_files_that_are_harmless(name, harmless):
    pytest.importorskip("sklearn")
    assert files._harmless(name) is harmless
