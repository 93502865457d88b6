"""Names of an estimator's columns: in the manifest, in alarms, in collected tables, in tables that are read."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from capture_case import Fake
from test_collect import captured

import edgekit
from edgekit.collect import collect, dataset
from edgekit.data_ref import DataRef
from edgekit.feeding import Preprocess, TableSteps
from edgekit.targets import agent, tasks
from edgekit.tensors import TensorSpec

NAMES = ("pressure", "flow", "vibration of the pump", "label")


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    ensemble = pytest.importorskip("sklearn.ensemble")
    dice = np.random.default_rng(0)
    x = dice.normal(size=(900, 4)).astype(np.float32)
    y = (x[:, 0] + 2 * x[:, 1] > 0).astype(int)
    model = ensemble.RandomForestClassifier(8, max_depth=4, random_state=0).fit(x[:300], y[:300])
    model.feature_names_in_ = np.array(NAMES, object)  # as a fit to a data frame leaves it
    folder = tmp_path_factory.mktemp("names")
    np.savez(folder / "known.npz", x=x[300:], y=y[300:])
    made = edgekit.convert(model, to="onnx", calibration=folder / "known.npz", evaluation=folder / "known.npz")
    made.write(folder / "forest.onnx")
    return folder / "forest.onnx"


def rows(number, seed=1):
    return np.random.default_rng(seed).normal(size=(number, 4)).astype(np.float32)


def test_the_file_knows_them(artifact):
    assert edgekit.load(artifact).inputs[0].columns == NAMES


def test_an_alarm_says_which_column(artifact):
    with edgekit.load(artifact) as model:
        monitor = model.monitor()
        x = rows(640)
        x[:, 2] += 2.0
        model.run({"input": x})
        told = [alarm for alarm in monitor.alarms if alarm.kind == "input-shift"]
        assert [alarm.where for alarm in told] == ["input: vibration of the pump"]
        x[:, 1] = 0.25
        model.run({"input": x})
        assert any(alarm.kind == "stuck" and alarm.where == "input: flow" for alarm in monitor.alarms)


def test_a_table_that_is_read_later_is_read_by_name(artifact, tmp_path):
    x = rows(50)
    with edgekit.load(artifact) as model:
        y = model.run({"input": x})["label"]
    order = [1, 3, 0, 2]
    with (tmp_path / "turned.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow([*(NAMES[place] for place in order), "right"])
        table.writerows(
            [*(repr(float(row[place])) for place in order), answer] for row, answer in zip(x, y, strict=True)
        )
    found = tasks.evaluate(agent.Opening(str(artifact)), DataRef(str(tmp_path / "turned.csv"), "right"))
    assert found.metric.value == 100.0


def test_a_collected_table_and_the_labelling_tool_have_them(tmp_path):
    fake = Fake(inputs=(TensorSpec("x", (None, 3), "float32", columns=NAMES[:3]),))
    root = captured(tmp_path / "board", rows(6)[:, :3], fake)
    collect([str(root)], tmp_path / "data")
    header = (tmp_path / "data" / "unlabelled" / "table.csv").read_text().splitlines()[0]
    assert header == ",".join(NAMES[:3])
    shown = json.loads((tmp_path / "data" / "label-studio.json").read_text())
    assert {tuple(task["data"]["row"]) for task in shown} == {NAMES[:3]}


def test_the_labelling_tool_shows_every_number_of_a_category(tmp_path):
    """A category of two values is two numbers: names of columns are not those of numbers."""
    steps = TableSteps(("age", "kind"), categories={"kind": ("a", "b")})
    root = captured(tmp_path / "board", rows(6)[:, :3], Fake(preprocess=Preprocess("table", table=steps)))
    collect([str(root)], tmp_path / "data")
    shown = json.loads((tmp_path / "data" / "label-studio.json").read_text())
    assert {tuple(task["data"]["row"]) for task in shown} == {("feature_0", "feature_1", "feature_2")}


@pytest.mark.parametrize("names", [("a", "b", "c", "d"), NAMES])
def test_collected_rows_have_them_unless_one_is_the_labels(names):
    about = {"columns": list(names)}
    expected = [f"feature_{number}" for number in range(4)] if "label" in names else list(names)
    assert dataset.names(about, 4) == expected
    assert dataset.names(about, 3) == ["feature_0", "feature_1", "feature_2"]
