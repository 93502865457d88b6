"""Collected datasets in the tools that train and label: what is installed of them reads what was captured."""

from __future__ import annotations

import json
import struct
import warnings

import numpy as np
import pytest
from capture_case import Fake
from test_collect import NAMES, as_fed, captured, photographer, pictures

from edgekit.collect import collect, dataset, parquet
from edgekit.feeding import AudioSteps, Preprocess, TableSteps
from edgekit.manifest import Interpret


def labelled(root, out):
    """Collected, each third sample of one class; sample id -> class."""
    collect([str(root)], out)
    chosen = {entry.id: NAMES[number % 3] for number, entry in enumerate(dataset.read(out).samples)}
    collect([], out, labels=chosen)
    return chosen


@pytest.fixture
def pets(tmp_path):
    """A dataset of twelve pictures, each labelled."""
    root = captured(tmp_path / "board", [as_fed(one) for one in pictures(12)], photographer())
    labelled(root, tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def rows(tmp_path):
    """A dataset of rows, one number of which is missing; and the rows."""
    how = Preprocess("table", table=TableSteps(("age", "height", "weight")))
    given = np.random.default_rng(0).normal(size=(18, 3)).astype(np.float32)
    given[2, 1] = np.nan
    root = captured(
        tmp_path / "rows-board", given, Fake(preprocess=how, interpret=Interpret("classification", labels=NAMES))
    )
    labelled(root, tmp_path / "rows")
    return tmp_path / "rows", given


def test_keras_reads_pictures(pets):
    keras = pytest.importorskip("keras")
    found = keras.utils.image_dataset_from_directory(
        pets / "labelled" / "images", image_size=(8, 6), batch_size=5, shuffle=False, verbose=False
    )
    assert found.class_names == sorted(NAMES)
    x, y = (np.concatenate([batch[place].numpy() for batch in found]) for place in (0, 1))
    assert np.bincount(y).tolist() == [4, 4, 4]
    assert {one.astype(np.uint8).tobytes() for one in x} == {one.tobytes() for one in pictures(12)}


def test_keras_reads_sounds(tmp_path):
    keras = pytest.importorskip("keras")
    how = Preprocess("waveform", audio=AudioSteps(rate=8000))
    waves = (np.random.default_rng(1).integers(-9000, 9000, (6, 400)) / 32768).astype(np.float32)
    root = captured(
        tmp_path / "board", waves, Fake(preprocess=how, interpret=Interpret("classification", labels=NAMES))
    )
    labelled(root, tmp_path / "data")
    found = keras.utils.audio_dataset_from_directory(
        tmp_path / "data" / "labelled" / "sounds", output_sequence_length=400, shuffle=False, verbose=False
    )
    x = np.concatenate([batch[0].numpy() for batch in found])[:, :, 0]
    assert found.class_names == sorted(NAMES)
    np.testing.assert_allclose(np.sort(x.ravel()), np.sort(waves.ravel()), atol=1.1 / 32768)


def test_torchvision_reads_pictures(pets):
    folders = pytest.importorskip("torchvision.datasets")
    found = folders.ImageFolder(str(pets / "labelled" / "images"))
    assert found.classes == sorted(NAMES)
    assert {np.asarray(image).tobytes() for image, _ in found} == {one.tobytes() for one in pictures(12)}
    assert sorted(label for _, label in found) == [0] * 4 + [1] * 4 + [2] * 4


def test_a_torch_loader_takes_the_arrays(pets):
    torch = pytest.importorskip("torch")
    with np.load(pets / "labelled" / "data.npz") as stored:
        tensors = torch.utils.data.TensorDataset(torch.from_numpy(stored["x"]), torch.from_numpy(stored["y"]))
    batches = list(torch.utils.data.DataLoader(tensors, batch_size=5))
    assert [tuple(x.shape) for x, _ in batches] == [(5, 8, 6, 3), (5, 8, 6, 3), (2, 8, 6, 3)]


def test_scikit_learn_trains_on_it(rows, pets):
    pytest.importorskip("sklearn")
    from sklearn.datasets import load_files
    from sklearn.ensemble import HistGradientBoostingClassifier

    with np.load(rows[0] / "labelled" / "data.npz") as stored:
        model = HistGradientBoostingClassifier(max_iter=3, min_samples_leaf=2)
        model.fit(stored["x"], stored["y"], sample_weight=stored["weight"])
        assert model.classes_.tolist() == [0, 1, 2]
    found = load_files(pets / "labelled" / "images")
    assert found.target_names == sorted(NAMES)
    assert np.bincount(found.target).tolist() == [4, 4, 4]


def test_tables_are_parquet_too(rows):
    """Its bytes by the format's own words; pyarrow reads the same where it is installed."""
    out, given = rows
    data = (out / "labelled" / "table.parquet").read_bytes()
    assert data[:4] == data[-4:] == b"PAR1"
    (size,) = struct.unpack("<I", data[-8:-4])
    assert data[-8 - size :].count(b"height") == 2  # in the schema and in its column's path
    for column in range(3):
        assert given[:, column].astype("<f4").tobytes() in data
    arrow = pytest.importorskip("pyarrow.parquet")
    table = arrow.read_table(out / "labelled" / "table.parquet")
    assert table.column_names == ["age", "height", "weight", "label"]
    assert [str(kind) for kind in table.schema.types] == ["float"] * 3 + ["string"]
    read = np.stack([table[name].to_numpy() for name in table.column_names[:3]], axis=1)
    np.testing.assert_array_equal(read, given)
    assert table["label"].to_pylist() == [NAMES[number % 3] for number in range(18)]


def test_a_wide_table_of_strange_names_and_none_at_all():
    arrow = pytest.importorskip("pyarrow.parquet")
    import pyarrow as pa

    names = [f"größe {number}" for number in range(300)]
    columns = [np.full(3, number, np.float64) for number in range(300)]
    table = arrow.read_table(pa.BufferReader(parquet.table(names, columns)))
    assert table.column_names == names
    assert table[names[200]].to_pylist() == [200.0] * 3
    empty = arrow.read_table(pa.BufferReader(parquet.table(["a", "b"], [np.zeros(0, np.float32), []])))
    assert (empty.num_rows, empty.column_names) == (0, ["a", "b"])


def tasks_of(folder):
    return json.loads((folder / "label-studio.json").read_text()), (folder / "label-studio.xml").read_text()


def test_label_studio_takes_tasks_predictions_and_labels(pets, rows):
    """By the rules of its import (https://labelstud.io/guide/tasks): data is an object with what the form shows,
    results name the form's controls, choices are the form's; with its own SDK where that is installed.
    """
    collect([], pets, labels={dataset.read(pets).samples[0].id: "a bird"})  # a class that the model does not know
    for folder, shown in ((pets, "image"), (rows[0], "row")):
        tasks, form = tasks_of(folder)
        for task in tasks:
            assert set(task) <= {"data", "predictions", "annotations"}
            assert shown in task["data"]
            for part in (*task.get("predictions", []), *task["annotations"]):
                assert set(part) <= {"result", "score", "model_version"}
                assert isinstance(part.get("score", 0.0), float)
                (result,) = part["result"]
                assert (result["from_name"], result["to_name"], result["type"]) == ("label", shown, "choices")
                assert all(f'<Choice value="{choice}"/>' in form for choice in result["value"]["choices"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        interface = pytest.importorskip("label_studio_sdk.label_interface")
    for folder in (pets, rows[0]):
        tasks, form = tasks_of(folder)
        checked = interface.LabelInterface(form)
        checked.validate()
        for task in tasks:
            checked.validate_task({"data": task["data"]})
            assert all(checked.validate_prediction(part) for part in task.get("predictions", []))
            assert all(checked.validate_annotation(part) for part in task["annotations"])
