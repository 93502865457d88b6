"""Rows of named values and texts."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pytest

from edgekit import data_tables, metadata
from edgekit.errors import FeedError, UsageError
from edgekit.feeding import MISSING_TEXTS, Preprocess, TableSteps, TextSteps
from edgekit.runtimes.preprocess import Preparer, prepare
from edgekit.tensors import TensorSpec

ROW = TensorSpec("row", (None, 5), "float32")
TEXT = TensorSpec("text", (1, 6), "int32")
TABLE = TableSteps(("age", "color", "height"), {"height": 170.0}, {"color": ("red", "green", "blue")})
HOW = Preprocess("table", mean=(40.0, 0, 0, 0, 170.0), std=(10.0, 1, 1, 1, 5.0), table=TABLE)


def test_columns_in_order_filled_and_scaled():
    row = {"height": 175, "color": "green", "age": "50", "name": "ignored"}
    np.testing.assert_allclose(prepare(row, (ROW,), HOW)["row"], [[1, 0, 1, 0, 1]])
    for missing in (None, float("nan"), "", np.float64("nan"), np.float32("nan"), np.float16("nan")):
        np.testing.assert_allclose(prepare({**row, "height": missing}, (ROW,), HOW)["row"], [[1, 0, 1, 0, 0]])
        either = Preprocess(
            "table", table=TableSteps(("color",), {"color": "red"}, {"color": ("red", "blue")}, "index")
        )
        filled = prepare({"color": missing}, (TensorSpec("row", (None, 1), "float32"),), either)
        np.testing.assert_array_equal(filled["row"], [[0]])
    both = prepare([row, {"age": 30, "color": "red"}], (ROW,), HOW)["row"]
    np.testing.assert_allclose(both, [[1, 0, 1, 0, 1], [-1, 1, 0, 0, 0]])
    assert both.dtype == np.float32
    for given in (row, {"age": 1.5, "color": "blue"}):
        np.testing.assert_array_equal(Preparer((ROW,), HOW)(given).feeds["row"], prepare(given, (ROW,), HOW)["row"])
    numbers = Preprocess("table", 2.0, (1.0, 2.0), (3.0,), table=TableSteps(("b", "a"), {"a": 7.0}))
    pair = TensorSpec("row", (1, 2), "float32")
    for given in ({"a": 3, "b": 4.5}, {"b": "6"}, {"a": None, "b": 1}):
        np.testing.assert_array_equal(
            Preparer((pair,), numbers)(given).feeds["row"], prepare(given, (pair,), numbers)["row"]
        )
    ready = {"row": np.zeros((1, 5), np.float32)}
    assert prepare(ready, (ROW,), HOW) is ready


@pytest.mark.parametrize("text", [*sorted(MISSING_TEXTS), " NaN ", "N/A", Decimal("nan"), np.float16("nan")])
def test_what_means_that_there_is_no_number(text):
    """The same in a row as in a table at the desk, from which the model learned."""
    row = {"age": 40, "color": "red", "height": text}
    for way in (prepare(row, (ROW,), HOW), Preparer((ROW,), HOW)(row).feeds):
        np.testing.assert_allclose(way["row"], [[0, 1, 0, 0, 0]])
    assert np.isnan(data_tables._number(str(text)))
    with pytest.raises(FeedError) as caught:
        prepare({**row, "age": text}, (ROW,), HOW)
    assert caught.value.code == "feed-missing"


@pytest.mark.parametrize(("text", "number"), [("True", 1.0), (" false ", 0.0), (True, 1.0)])
def test_truths_are_numbers_in_a_row_as_in_a_table(text, number):
    row = {"age": text, "color": "red", "height": 170}
    np.testing.assert_allclose(prepare(row, (ROW,), HOW)["row"][0, 0], (number - 40) / 10)
    assert data_tables._number(str(text)) == number


def test_a_category_may_be_called_so():
    steps = TableSteps(("wine",), {"wine": "red"}, {"wine": ("none", "red", "NA")}, "index")
    for wine, place in (("none", 0), ("NA", 2), ("", 1), (None, 1), (float("nan"), 1)):
        made = prepare({"wine": wine}, (TensorSpec("row", (None, 1), "float32"),), Preprocess("table", table=steps))
        np.testing.assert_array_equal(made["row"], [[place]])


@pytest.mark.parametrize(
    ("row", "code"),
    [
        ({"color": "red"}, "feed-missing"),
        ({"age": 1, "color": "pink"}, "feed-category"),
        ({"age": "old", "color": "red"}, "feed-dtype"),
        (5, "feed-dtype"),
    ],
)
def test_rows_that_say_too_little(row, code):
    with pytest.raises(FeedError) as caught:
        prepare(row, (ROW,), HOW)
    assert caught.value.code == code


def test_unknown_categories_that_were_foreseen():
    one = {"age": 40, "color": "pink"}
    lenient = TableSteps(("age", "color"), categories={"color": ("red", "green")}, unknown="zeros")
    np.testing.assert_array_equal(prepare(one, (ROW,), Preprocess("table", table=lenient))["row"], [[40, 0, 0]])
    index = TableSteps(("age", "color"), categories={"color": ("red", "pink")}, encode="index")
    np.testing.assert_array_equal(prepare(one, (ROW,), Preprocess("table", table=index))["row"], [[40, 1]])
    assert (TABLE.width, index.width) == (5, 2)


def test_text_as_bytes():
    np.testing.assert_array_equal(prepare("aé", (TEXT,), Preprocess("text"))["text"], [97, 195, 169, 0, 0, 0])
    shifted = Preprocess("text", text=TextSteps(pad=1, shift=3, side="left"))
    found = prepare("abc", (TEXT,), shifted)["text"]
    np.testing.assert_array_equal(found, [1, 1, 1, 100, 101, 102])
    assert found.dtype == np.int32
    np.testing.assert_array_equal(prepare(b"abcdefgh", (TEXT,), shifted)["text"], np.arange(102, 108))
    np.testing.assert_array_equal(prepare("abcdefgh", (TEXT,), Preprocess("text"))["text"], np.arange(97, 103))


def test_the_manifest_says_it(tmp_path):
    path = tmp_path / "m.toml"
    path.write_text(
        """
        [preprocess]
        kind = "table"
        [preprocess.table]
        columns = ["age", "color"]
        missing = {age = 40, color = "red"}
        categories.color = ["red", "blue"]
        """
    )
    said = metadata.read(path, None, None).preprocess
    np.testing.assert_array_equal(prepare({}, (ROW,), said)["row"], [[40, 1, 0]])


@pytest.mark.parametrize(
    "tables",
    [
        {"kind": "table"},
        {"kind": "image", "audio": {"rate": 8000}},
        {"kind": "table", "table": {"columns": []}},
        {"kind": "table", "table": {"columns": ["a", "a"]}},
        {"kind": "table", "table": {"columns": ["a"], "missing": {"b": 1}}},
        {"kind": "table", "table": {"columns": ["a"], "missing": {"a": "x"}}},
        {"kind": "table", "table": {"columns": ["a"], "missing": {"a": "x"}, "categories": {"a": ["y"]}}},
        {"kind": "image", "image": {"border": 300}},
        {"kind": "image", "image": {"fit": "sideways"}},
        {"kind": "waveform", "audio": {"features": "mfcc"}},
        {"kind": "waveform", "audio": {"rate": 8000, "features": "mel", "high": 5000}},
        {"kind": "waveform", "audio": {"rate": 8000, "features": "mfcc", "coefficients": 50}},
        {"kind": "waveform", "audio": {"fft": 100}},
        {"kind": "waveform", "audio": {"hop": 0}},
        {"kind": "waveform", "audio": {"floor": 0}},
        {"kind": "waveform", "audio": {"top_db": 80}},
        {"kind": "image", "scale": float("nan")},
        {"kind": "image", "mean": [float("inf")]},
        {"kind": "image", "std": [1, float("nan"), 1]},
        {"kind": "image", "std": []},
    ],
)
def test_metadata_that_makes_no_sense(tables):
    with pytest.raises(UsageError) as caught:
        metadata.read({"preprocess": tables}, None, None)
    assert caught.value.code == "metadata-invalid"


@pytest.mark.parametrize("value", [1e300, -1e300, 10**400])
def test_a_value_that_is_too_large_is_said(value):
    for prepared in (Preparer((ROW,), HOW), lambda thing: prepare(thing, (ROW,), HOW)):
        with pytest.raises(FeedError, match=r"age is .* too large for float32") as caught:
            prepared({"age": value, "color": "red"})
        assert caught.value.code == "feed-dtype"


def test_a_text_that_is_no_text():
    with pytest.raises(FeedError, match="holds what is none") as caught:
        prepare("name\udc80", (TEXT,), Preprocess("text"))
    assert caught.value.code == "feed-dtype"


def test_bytes_that_the_input_cannot_hold_do_not_become_others():
    small = TensorSpec("text", (1, 6), "int8")
    np.testing.assert_array_equal(prepare("ab", (small,), Preprocess("text"))["text"], [97, 98, 0, 0, 0, 0])
    moved = Preprocess("text", text=TextSteps(shift=-128, pad=-128))
    np.testing.assert_array_equal(prepare("\xff".encode("latin1"), (small,), moved)["text"][:2], [127, -128])
    for text, how in (("\u00e9", TextSteps()), ("a", TextSteps(shift=100)), ("a", TextSteps(pad=-129))):
        with pytest.raises(FeedError, match="takes int8") as caught:
            prepare(text, (small,), Preprocess("text", text=how))
        assert caught.value.code == "feed-dtype"
