"""Data: what is read, in which shape, and what is refused before any work."""

from __future__ import annotations

import contextlib
import io
import struct
import subprocess
import sys
import wave
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.data import draw, open_data
from edgekit.data_ref import DataRef
from edgekit.errors import DataError, MissingFileError
from edgekit.feeding import TableSteps
from edgekit.manifest import Preprocess
from edgekit.runtimes.preprocess import Preparer
from edgekit.targets.carried import carried
from edgekit.tensors import QuantParams, TensorSpec

IMAGE = (TensorSpec("image", (None, 4, 4, 3), "float32", "NHWC"),)
IMAGE_2 = (TensorSpec("image", (None, 8, 8, 2), "float32", "NHWC"),)
ROWS = (TensorSpec("rows", (None, 3), "float32"),)


def collect(data, size=2):
    batches = list(data.batches(size))
    feeds = {name: np.concatenate([b.feeds[name] for b in batches]) for name in batches[0].feeds}
    labels = None if batches[0].labels is None else np.concatenate([b.labels for b in batches])
    return feeds, labels


def code_of(ref, inputs=IMAGE) -> str:
    with pytest.raises(DataError) as caught:
        open_data(ref, inputs)
    return caught.value.code


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_by_name_or_x_with_labels(tmp_path, save):
    x = np.random.default_rng(0).random((7, 4, 4, 3)).astype(np.float32)
    y = np.arange(7)
    for names in ({"image": x, "y": y}, {"x": x, "y": y, "names": np.array(["a"])}, {"pictures": x, "label": y}):
        save(tmp_path / "d.npz", **names)
        data = open_data(DataRef(str(tmp_path / "d.npz")), IMAGE)
        feeds, labels = collect(data)
        np.testing.assert_array_equal(feeds["image"], x)
        np.testing.assert_array_equal(labels, y)
        assert len(data) == 7


def test_integers_become_floats_and_quantized_inputs_take_reals(tmp_path):
    np.save(tmp_path / "d.npy", np.full((2, 4, 4, 3), 200, np.uint8))
    quantized = (TensorSpec("image", (1, 4, 4, 3), "int8", None, QuantParams((1.0,), (-128,))),)
    for inputs in (IMAGE, quantized):
        feeds, _ = collect(open_data(DataRef(str(tmp_path / "d.npy")), inputs))
        assert feeds["image"].dtype == np.float32
        assert feeds["image"][0, 0, 0, 0] == 200


def test_big_endian_and_two_inputs(tmp_path):
    inputs = (TensorSpec("a", (None, 2), "float32"), TensorSpec("b", (None,), "int32"))
    np.savez(tmp_path / "d.npz", a=np.arange(6, dtype=">f8").reshape(3, 2), b=np.arange(3, dtype=">i2"))
    feeds, labels = collect(open_data(DataRef(str(tmp_path / "d.npz")), inputs))
    assert feeds["a"].tolist() == [[0, 1], [2, 3], [4, 5]]
    assert feeds["b"].tolist() == [0, 1, 2]
    assert labels is None


def test_a_single_sample_needs_no_batch_axis(tmp_path):
    np.save(tmp_path / "one.npy", np.ones((4, 4, 3), np.float32))
    assert len(open_data(DataRef(str(tmp_path / "one.npy")), IMAGE)) == 1


def test_the_draw_is_seeded_ascending_and_fixed_for_ever():
    assert draw(10, None, 0).tolist() == list(range(10))
    assert draw(10, 4, 0).tolist() == draw(10, 4, 0).tolist() == sorted(draw(10, 4, 0))
    assert draw(1000, 5, 0).tolist() == GOLDEN_DRAW
    assert draw(1000, 5, 1).tolist() != GOLDEN_DRAW


GOLDEN_DRAW = [254, 366, 410, 503, 821]


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 5))
def test_the_drawn_rows_are_the_rows(total, samples, seed):
    rows = draw(total, samples, seed)
    assert len(rows) == min(total, samples)
    assert len(set(rows.tolist())) == len(rows)
    assert rows.max() < total


def test_drawn_samples_keep_their_labels(tmp_path):
    x = np.arange(60, dtype=np.float32).reshape(20, 3)
    np.savez(tmp_path / "d.npz", x=x, y=np.arange(20))
    feeds, labels = collect(open_data(DataRef(str(tmp_path / "d.npz"), samples=6), ROWS), size=4)
    assert len(labels) == 6
    np.testing.assert_array_equal(feeds["rows"], x[labels])


@settings(deadline=None)
@given(total=st.integers(1, 40), step=st.integers(2, 9), size=st.integers(1, 20), drawn=st.none() | st.integers(1, 40))
def test_fixed_batches_are_always_filled(tmp_path_factory, total, step, size, drawn):
    path = tmp_path_factory.getbasetemp() / "filled.npz"
    np.savez(path, x=np.arange(total * 3, dtype=np.float32).reshape(total, 3), y=np.arange(total))
    inputs = (TensorSpec("rows", (step, 3), "float32"),)
    reference = DataRef(str(path), samples=drawn)
    if total < step:
        assert code_of(reference, inputs) == "data-batch"
        return
    data = open_data(reference, inputs)
    sizes = [len(batch.feeds["rows"]) for batch in data.batches(size)]
    assert all(count % step == 0 and count <= max(step, size) for count in sizes)
    assert sum(sizes) == len(data)
    assert len(data) + data.left_out == min(total, max(step, drawn or total))
    feeds, labels = collect(data, size)
    np.testing.assert_array_equal(feeds["rows"][:, 0], 3 * labels)


def test_the_digest_is_of_the_samples_used(tmp_path):
    x = np.random.default_rng(0).random((9, 3)).astype(np.float32)
    np.savez(tmp_path / "a.npz", x=x)
    np.savez_compressed(tmp_path / "b.npz", x=x, other=x)
    a = open_data(DataRef(str(tmp_path / "a.npz")), ROWS)
    b = open_data(DataRef(str(tmp_path / "b.npz")), ROWS)
    assert a.sha256 == b.sha256
    assert a.sha256 != open_data(DataRef(str(tmp_path / "a.npz"), samples=8), ROWS).sha256


def test_csv_with_labels_by_name(tmp_path):
    file = tmp_path / "d.csv"
    file.write_text("a,b,label,c\n1,2,cat,3\n4,5,dog,6\n7,,cat,9\n")
    data = open_data(DataRef(str(file)), ROWS)
    feeds, labels = collect(data)
    assert data.class_names == ("cat", "dog")
    assert labels.tolist() == [0, 1, 0]
    assert np.isnan(feeds["rows"][2, 1])
    assert feeds["rows"][1].tolist() == [4, 5, 6]
    prices = tmp_path / "p.csv"
    prices.write_text("a,price,b,c\n1,2.5,3,4\n")
    _, values = collect(open_data(DataRef(str(prices), label="price"), ROWS))
    assert values.tolist() == [2.5]


def test_folders_of_images_are_classes(tmp_path):
    image = pytest.importorskip("PIL.Image")
    for number, name in enumerate(("cat", "dog")):
        (tmp_path / name).mkdir()
        for i in range(2):
            image.new("RGB", (8, 6), (100 * number, 50, i)).save(tmp_path / name / f"{i}.png")
    how = Preprocess("image", scale=1 / 255)
    data = open_data(DataRef(str(tmp_path), preprocess=how), IMAGE)
    feeds, labels = collect(data)
    assert data.class_names == ("cat", "dog")
    assert labels.tolist() == [0, 0, 1, 1]
    assert feeds["image"].shape == (4, 4, 4, 3)
    np.testing.assert_allclose(feeds["image"][3, 0, 0], [100 / 255, 50 / 255, 1 / 255], atol=1e-6)
    for leftover in ("cat/._a.png", ".thumbnails/b.png", "cat/notes.txt"):
        (tmp_path / leftover).parent.mkdir(exist_ok=True)
        (tmp_path / leftover).write_bytes(b"no image")
    assert len(open_data(DataRef(str(tmp_path), preprocess=how), IMAGE)) == 4
    (tmp_path / "cat" / "broken.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"broken\.png"):
        collect(open_data(DataRef(str(tmp_path)), IMAGE))


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_wav_files_become_waves(tmp_path, width):
    peak = (1 << (8 * width - 1)) - 1
    values = [0, peak, -peak]
    raw = b"".join(((v + 128) if width == 1 else v).to_bytes(width, "little", signed=width > 1) for v in values)
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(width)
        file.setframerate(8000)
        file.writeframes(raw)
    spec = (TensorSpec("wave", (None, 5), "float32"),)
    feeds, _ = collect(open_data(DataRef(str(tmp_path)), spec))
    np.testing.assert_allclose(feeds["wave"][0], [0, 1, -1, 0, 0], atol=1 / 100)


def test_what_is_wrong_is_said_when_it_is_opened(tmp_path):
    file = tmp_path / "d.npz"
    ref = DataRef(str(file))
    np.savez(file, a=np.zeros((2, 4, 4, 3)), b=np.zeros(2))
    assert code_of(ref) == "data-names"
    np.savez(file, x=np.zeros((2, 4, 4, 3)), y=np.zeros(3))
    assert code_of(ref) == "data-length"
    np.savez(file, x=np.zeros((0, 4, 4, 3)))
    assert code_of(ref) == "data-empty"
    np.savez(file, x=np.zeros((2, 4, 4, 3), complex))
    assert code_of(ref) == "data-dtype"
    np.savez(file, x=np.zeros((2, 4, 4, 3)), y=np.zeros(2))
    assert code_of(DataRef(str(file), label="answer")) == "data-labels"
    np.savez(file, x=np.array([{}, {}], object), allow_pickle=True)
    assert code_of(ref) == "data-unreadable"
    file.write_bytes(b"PK nonsense")
    assert code_of(ref) == "data-unreadable"
    (tmp_path / "d.txt").write_text("1 2 3")
    assert code_of(DataRef(str(tmp_path / "d.txt"))) == "data-unknown"
    (tmp_path / "empty").mkdir()
    assert code_of(DataRef(str(tmp_path / "empty"))) == "data-empty"
    with pytest.raises(MissingFileError):
        open_data(DataRef(str(tmp_path / "no.npz")), IMAGE)


@pytest.mark.parametrize(
    ("shape", "hint"),
    [((2, 3, 4, 4), "transposed"), ((2, 48), "reshape"), ((2, 5, 5, 3), "another shape"), ((4, 4), "another shape")],
)
def test_wrong_shapes_get_a_hint(tmp_path, shape, hint):
    np.savez(tmp_path / "d.npz", x=np.zeros(shape))
    with pytest.raises(DataError, match=hint) as caught:
        open_data(DataRef(str(tmp_path / "d.npz")), IMAGE)
    assert caught.value.code == "data-shape"


def test_a_header_that_lies_is_no_bomb(tmp_path):
    """An .npz that promises a terabyte, and one whose member is shorter than it says."""
    for shape in ((1 << 30, 4, 4, 3), (5, 4, 4, 3)):
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": shape})
        for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            with zipfile.ZipFile(tmp_path / "d.npz", "w", method) as archive:
                archive.writestr("x.npy", header.getvalue() + b"\0" * 64)
            assert code_of(DataRef(str(tmp_path / "d.npz"))) == "data-unreadable"


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damaged_files_are_refused_or_read_never_worse(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("damaged")
    np.savez(folder / "d.npz", x=np.arange(96, dtype=np.float32).reshape(2, 4, 4, 3), y=np.arange(2))
    raw = bytearray((folder / "d.npz").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    (folder / "d.npz").write_bytes(bytes(raw[: data.draw(st.integers(0, len(raw)))]))
    with contextlib.suppress(DataError):
        collect(open_data(DataRef(str(folder / "d.npz")), IMAGE))


def test_reading_takes_no_memory(tmp_path):
    """256 MB of samples, stored and deflated, in a process that may hold 96 MB more than numpy takes."""
    spec = (TensorSpec("x", (None, 1 << 20), "float32"),)
    with zipfile.ZipFile(tmp_path / "d.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        header = io.BytesIO()
        np.lib.format.write_array_header_2_0(header, {"descr": "<f4", "fortran_order": False, "shape": (64, 1 << 20)})
        with archive.open("x.npy", "w", force_zip64=True) as member:
            member.write(header.getvalue())
            for i in range(64):
                member.write(struct.pack("<f", i) * (1 << 20))
    script = f"""
from edgekit.data import open_data
from edgekit.data_ref import DataRef
from edgekit.measure.environment import peak_rss_mb
from edgekit.tensors import TensorSpec
before = peak_rss_mb()
data = open_data(DataRef({str(tmp_path / "d.npz")!r}), {spec!r})
assert [float(b.feeds["x"][0, -1]) for b in data.batches(1)] == list(map(float, range(64)))
print(peak_rss_mb() - before)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 96 * 1.048576, "MB of growth"


@pytest.mark.parametrize("kind", ["folder", "npz", "csv"])
def test_names_get_the_indices_of_the_model_s_labels(tmp_path, kind):
    """Only two of the model's three classes are there, and its order is not the alphabet's."""
    inputs = IMAGE if kind == "folder" else ROWS
    path = tmp_path / {"folder": "photos", "npz": "d.npz", "csv": "d.csv"}[kind]
    if kind == "folder":
        image = pytest.importorskip("PIL.Image")
        for name in ("cat", "dog"):
            (path / name).mkdir(parents=True)
            image.new("RGB", (4, 4)).save(path / name / "a.png")
    elif kind == "npz":
        np.savez(path, x=np.zeros((2, 3), np.float32), y=np.array([["cat"], ["dog"]]))
    else:
        path.write_text("a,b,c,label\n1,2,3,cat\n4,5,6,dog\n")
    data = open_data(DataRef(str(path), classes=("zebra", "dog", "cat")), inputs)
    data.require_classes()
    assert data.labels.tolist() == [2, 1]
    assert data.class_names == ("zebra", "dog", "cat")
    plain = open_data(DataRef(str(path)), inputs)
    assert plain.labels.tolist() == [0, 1]
    assert (plain.guess is None) == (kind == "folder"), "sorted folders are a convention"
    other = open_data(DataRef(str(path), classes=("dog", "bird")), inputs)
    with pytest.raises(DataError, match="cat is not among them") as caught:
        other.require_classes()
    assert caught.value.code == "data-labels"


@pytest.mark.parametrize("labels", [np.arange(2), np.array(["a", "b"])])
def test_files_without_a_row_hold_no_samples(tmp_path, labels):
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "d.npz", x=np.zeros((0, 3), np.float32), y=labels[:0])
        assert code_of(DataRef(str(tmp_path / "d.npz")), ROWS) == "data-empty"
    (tmp_path / "d.csv").write_text("a,b,c,label\n")
    assert code_of(DataRef(str(tmp_path / "d.csv")), ROWS) == "data-empty"


@pytest.mark.parametrize("kind", ["npz", "csv"])
def test_an_order_of_classes_that_was_guessed_is_told(tmp_path, kind):
    path = tmp_path / f"d.{kind}"
    if kind == "npz":
        np.savez(path, x=np.zeros((3, 3), np.float32), y=np.array(["zero", "one", "two"]))
    else:
        path.write_text("a,b,c,label\n1,2,3,zero\n4,5,6,one\n7,8,9,two\n")
    assert "one, two, zero" in (open_data(DataRef(str(path)), ROWS).guess or "")
    assert open_data(DataRef(str(path), classes=("zero", "one", "two")), ROWS).guess is None
    np.savez(tmp_path / "n.npz", x=np.zeros((3, 3), np.float32), y=np.arange(3))
    assert open_data(DataRef(str(tmp_path / "n.npz")), ROWS).guess is None


def test_numbers_that_name_classes_and_labels_that_are_places_are_told_apart(tmp_path):
    path = tmp_path / "d.npz"
    np.savez(path, x=np.zeros((3, 3), np.float32), y=np.array([1, 1, 0]))

    def places(*classes):
        return open_data(DataRef(str(path), classes=classes), ROWS).places

    assert "called 1, 2; labels that are numbers are places" in (places("1", "2") or "")
    assert places("-1", "1")
    assert places("0", "1") is None
    assert places("cat", "dog") is None
    assert places() is None
    np.savez(path, x=np.zeros((3, 3), np.float32), y=np.array(["1", "2", "1"]))
    assert places("1", "2") is None, "text names classes"


def test_calibration_does_without_the_labels_that_evaluation_has(tmp_path):
    np.savez(tmp_path / "d.npz", x=np.zeros((2, 3), np.float32))
    (tmp_path / "d.csv").write_text("a,b,c\n1,2,3\n")
    for file in ("d.npz", "d.csv"):
        assert open_data(DataRef(str(tmp_path / file), label="species", needs_label=False), ROWS).labels is None
        assert code_of(DataRef(str(tmp_path / file), label="species"), ROWS) == "data-labels"


@pytest.mark.parametrize("kind", ["npy", "npz", "deflated"])
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "u1"])
def test_fortran_order_simply_works(tmp_path, monkeypatch, kind, dtype):
    """As numpy saves a transposed array; in pieces of two samples."""
    monkeypatch.setattr("edgekit.data_columns._CHUNK", 8 * 48 // 16)
    x = np.asfortranarray(np.random.default_rng(0).integers(0, 255, (7, 4, 4, 3)).astype(dtype))
    path = tmp_path / ("d.npy" if kind == "npy" else "d.npz")
    {"npy": np.save, "npz": np.savez, "deflated": np.savez_compressed}[kind](path, x)
    data = open_data(DataRef(str(path), samples=5), IMAGE)
    found = np.concatenate([batch.feeds[IMAGE[0].name] for batch in data.batches(2)])
    np.testing.assert_array_equal(found, x[draw(7, 5, 0)])


def table(path: Path, text: str, encoding: str = "utf-8", **ref: Any) -> Any:
    path.write_bytes(text.encode(encoding))
    return open_data(DataRef(str(path), **ref), (TensorSpec("input", (None, 3), "float32"),))


@pytest.mark.parametrize(
    "text", ["a;b;c;label\n1;2;3;cat\n", "a\tb\tc\tlabel\n1\t2\t3\tcat\n", "a,b,c,label\n\n1,2,3,cat\n\n"]
)
def test_tables_are_divided_as_their_header_is_and_blank_lines_do_not_count(text: str, tmp_path: Path) -> None:
    data = table(tmp_path / "t.csv", text)
    (batch,) = data.batches(4)
    assert batch.feeds["input"].tolist() == [[1, 2, 3]]
    assert data.class_names == ("cat",)


def test_what_pandas_writes_for_a_missing_number_is_nan(tmp_path: Path) -> None:
    (batch,) = table(tmp_path / "t.csv", "a,b,c\n1,NA,3\n,2,null\n").batches(4)
    assert np.isnan(batch.feeds["input"]).tolist() == [[False, True, False], [True, False, True]]


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("1.5,2,3\n4,5,6\n", "data-unreadable", "no header"),
        ("", "data-empty", "empty"),
        ("a,b,c,label\n1,2,3,\n", "data-labels", "line 2 has no label"),
        ("a;b;c\n1,5;2;3\n", "data-unreadable", "line 2 cannot be read"),
        (",a,b,c\n0,1,2,3\n", "data-shape", "4 columns"),
    ],
)
def test_tables_that_would_be_misread_are_refused(text: str, code: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=said) as caught:
        table(tmp_path / "t.csv", text)
    assert caught.value.code == code
    assert "savez" not in caught.value.next_step


@pytest.mark.parametrize(
    ("text", "encoding", "said"),
    [
        ("a;b;c\n1,5;2;3\n", "utf-8", "line 2 .*commas for decimal points .*1,5"),
        ("a,b,c\n1,2,3\n", "utf-16", "line 1 .*it is UTF-16"),
        ("gr\u00f6\u00dfe,b,c\n1,2,3\n", "latin-1", "line 1 .*it is not UTF-8 .*0xf6.*Latin-1"),
    ],
)
def test_what_spreadsheets_write_is_told_by_its_name(text: str, encoding: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=said) as caught:
        table(tmp_path / "t.csv", text, encoding)
    assert caught.value.code == "data-unreadable"


@pytest.mark.parametrize(
    ("dtype", "text", "read"),
    [("int64", "9007199254740993", 9007199254740993), ("int32", "-7", -7), ("int32", "7.0", 7), ("uint8", "200", 200),
     ("uint64", "18446744073709551615", 18446744073709551615), ("float64", "0.1234567890123456", 0.1234567890123456),
     ("float64", "16777217", 16777217.0), ("float32", "0.1", np.float32(0.1))],
)  # fmt: skip
def test_tables_keep_the_digits_that_an_input_takes(dtype: str, text: str, read: float, tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text(f"a,b,y\n{text},1,0\n1,{text},1\n")
    inputs = (TensorSpec("ids", (None, 2), dtype),)
    feeds, labels = collect(open_data(DataRef(str(tmp_path / "d.csv")), inputs))
    assert feeds["ids"].dtype == dtype
    assert feeds["ids"].tolist() == [[read, 1], [1, read]]
    assert labels.tolist() == [0, 1]


@pytest.mark.parametrize("text", ["0.5", "", "nan", "inf", "1e30", "-9223372036854775809"])
def test_tables_for_integers_hold_whole_numbers(text: str, tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text(f"a,b,y\n1,2,0\n{text},1,0\n")
    with pytest.raises(DataError, match="line 3") as refused:
        open_data(DataRef(str(tmp_path / "d.csv")), (TensorSpec("ids", (None, 2), "int64"),))
    assert refused.value.code == "data-dtype"


def test_numbers_of_columns_are_names_as_pandas_writes_them(tmp_path: Path) -> None:
    assert len(table(tmp_path / "t.csv", "0,1,2\n4,5,6\n")) == 1


def test_the_advice_names_what_was_too_much(tmp_path: Path) -> None:
    for text, said in ((",a,b,c\n0,1,2,3\n", "index=False"), ("a,b,c,target\n1,2,3,1\n", "--label")):
        with pytest.raises(DataError) as caught:
            table(tmp_path / "t.csv", text)
        assert said in caught.value.next_step


@pytest.mark.parametrize(("dtype", "value"), [("int32", 1 << 40), ("uint8", -1), ("uint8", 300)])
def test_integers_that_would_become_others_are_refused(dtype: str, value: int, tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", ids=np.array([[value, 1]]))
    data = open_data(DataRef(str(tmp_path / "d.npz")), (TensorSpec("ids", (None, 2), dtype),))
    with pytest.raises(DataError, match=str(value)) as caught:
        list(data.batches(4))
    assert caught.value.code == "data-dtype"


def test_parts_of_a_data_set_are_no_classes(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    for part in ("train", "val"):
        (tmp_path / part / "cat").mkdir(parents=True)
        image.new("RGB", (4, 4)).save(tmp_path / part / "cat" / "a.png")
    spec = (TensorSpec("image", (None, 4, 4, 3), "float32"),)
    with pytest.raises(DataError, match="train, val") as caught:
        open_data(DataRef(str(tmp_path)), spec)
    assert str(tmp_path / "train") in caught.value.next_step
    assert open_data(DataRef(str(tmp_path / "train")), spec).class_names == ("cat",)


def test_pictures_lie_as_people_see_them(tmp_path: Path) -> None:
    """A phone held upright stores the picture lying, and says so in its EXIF data."""
    image = pytest.importorskip("PIL.Image")
    exif = image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    lying = np.zeros((8, 8, 3), np.uint8)
    lying[:, :4] = 255  # left half; upright, the upper half
    image.fromarray(lying).save(tmp_path / "a.png", exif=exif)
    (batch,) = open_data(DataRef(str(tmp_path / "a.png")), (TensorSpec("image", (None, 8, 8, 3), "float32"),)).batches(
        1
    )
    assert batch.feeds["image"][0, :4].min() == 255
    assert batch.feeds["image"][0, 4:].max() == 0


def test_pictures_of_floats_have_no_scale_and_are_refused(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    image.fromarray(np.full((8, 8), 0.5, np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match="floats"):
        open_data(DataRef(str(tmp_path / "a.tif")), (TensorSpec("image", (None, 8, 8, 3), "float32"),))


def test_names_whose_order_is_a_guess_travel_to_a_board_as_names(tiny_files, tmp_path: Path) -> None:
    path, model = tmp_path / "d.csv", tiny_files["tflite"]
    names = [f"p{i}" for i in range(8 * 8 * 2)]
    rows = [",".join([*["0.5"] * len(names), label]) for label in ("zero", "one", "two")]
    path.write_text("\n".join([",".join([*names, "label"]), *rows]))
    sent = carried(DataRef(str(path)), model, tmp_path)
    with np.load(sent.path) as stored:
        assert stored["y"].ravel().tolist() == ["zero", "one", "two"]
    assert open_data(replace(sent, classes=("zero", "one", "two")), IMAGE_2).labels.tolist() == [0, 1, 2]
    assert "one, two, zero" in (open_data(sent, IMAGE_2).guess or "")


def test_columns_of_a_table_are_found_by_name(tmp_path: Path) -> None:
    file, spec = tmp_path / "d.csv", TensorSpec("x", (None, 2), "float32")
    ref = DataRef(str(file), columns=("age", "height"))
    for text, read in [
        ("height,age,label\n170,40,1\n", [40, 170]),
        ("id,height,age\n7,170,40\n", [40, 170]),
        ("a,b\n170,40\n", [170, 40]),
    ]:
        file.write_text(text)
        feeds, _ = collect(open_data(ref, (spec,)))
        assert feeds["x"].tolist() == [read]
    file.write_text("height,b\n170,40\n")
    with pytest.raises(DataError, match="no column age") as refused:
        open_data(ref, (spec,))
    assert refused.value.code == "data-names"


def test_rows_of_a_table_are_prepared_as_predict_prepares_them(tmp_path: Path) -> None:
    file, spec = tmp_path / "d.csv", TensorSpec("x", (None, 4), "float32")
    steps = TableSteps(("age", "color"), {"age": 60.0}, {"color": ("red", "green", "none")})
    how = Preprocess("table", mean=(50.0, 0, 0, 0), std=(10.0, 1, 1, 1), table=steps)
    ref = DataRef(str(file), preprocess=how)
    file.write_text("color,label,age\ngreen,1,40\nred,0,NA\nnone,0,80\n")
    feeds, labels = collect(open_data(ref, (spec,)))
    rows = [{"age": 40, "color": "green"}, {"age": None, "color": "red"}, {"age": 80, "color": "none"}]
    assert labels.tolist() == [1, 0, 0]
    np.testing.assert_array_equal(feeds["x"], Preparer((spec,), how)(rows).feeds["x"])
    file.write_text("a,b,c,d\n1,2,3,4\n")
    assert collect(open_data(ref, (spec,)))[0]["x"].tolist() == [[1, 2, 3, 4]]
    file.write_text("age,color\n40,blue\n")
    with pytest.raises(DataError, match="line 2 is no row that the model takes: color is 'blue'"):
        open_data(ref, (spec,))
