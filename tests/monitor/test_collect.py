"""From boards to one dataset: nothing twice, nothing torn, and readable by who trains."""

from __future__ import annotations

import errno
import json
import shutil
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from capture_case import Fake, Time, numbered

from edgekit import cli
from edgekit.collect import collect, dataset, read_labels
from edgekit.collect.dataset import locked
from edgekit.collect.fetch import _pieces
from edgekit.data import open_data
from edgekit.data_ref import DataRef
from edgekit.errors import ArtifactError, DataError, EdgeKitError, MissingFileError, TargetError, UsageError
from edgekit.feeding import AudioSteps, ImageSteps, Preprocess, TableSteps
from edgekit.manifest import Interpret
from edgekit.monitor import export, sealing
from edgekit.monitor.alarm import Alarm, Verdict
from edgekit.monitor.bounds import Bounds
from edgekit.monitor.capture import Capture, Plan
from edgekit.monitor.ring import Ring, listed
from edgekit.monitor.segments import scan
from edgekit.monitor.strata import Draw
from edgekit.targets.local import Local
from edgekit.tensors import TensorSpec

ALL = Plan(quota_mb=2, window=1e9, random=Draw(1000), status=1.0)
NAMES = ("cat", "dog", "cow")


def pictures(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 8, 6, 3), dtype=np.uint8)


def captured(root, arrays, model, name="pets", plan=ALL, **known):
    """A board that met these."""
    with Capture(name, model, plan, root=root, seed=0, clock=Time().clock, **known) as capture:
        for number, array in enumerate(arrays):
            sure = np.eye(3, dtype=np.float32)[None, number % 3] * 0.6 + 0.2 * (1 - np.eye(3)[number % 3])
            alarms = (Alarm("blank", "input x", 1.0, 0, "all black", raised=number),) if number == 1 else ()
            capture.offer({"x": array[None]}, {"p": sure}, Verdict(0.5, 0.4, alarms))
    return root


def photographer(**known):
    how = Preprocess("image", scale=1 / 255, mean=(0.5,), std=(0.5,), image=ImageSteps())
    return Fake(Interpret("classification", labels=NAMES), how, **known)


def as_fed(picture):
    return (picture.astype(np.float32) / np.float32(255) - np.float32(0.5)) / np.float32(0.5)


@pytest.fixture
def boards(tmp_path):
    """Two boards that met partly the same pictures."""
    shown = pictures(12)
    first = captured(tmp_path / "kitchen", [as_fed(one) for one in shown[:8]], photographer())
    second = captured(tmp_path / "hall", [as_fed(one) for one in shown[5:]], photographer())
    return [str(first), str(second)]


def test_two_boards_become_one_dataset(boards, tmp_path):
    out = tmp_path / "data"
    done = collect(boards, out)
    assert (done.name, done.form, done.samples, done.added, done.repeated) == ("pets", "images", 12, 12, 3)
    assert [board.error for board in done.boards] == [None, None]
    about = dataset.read(out)
    assert {board.target for board in about.boards} == set(boards)
    assert {board.samples for board in about.boards} == {8, 7}
    twice = [entry for entry in about.samples if entry.count == 2]
    assert len(twice) == 3
    assert all(len(entry.boards) == 2 and entry.weight == pytest.approx(2.0) for entry in twice)
    assert {entry.answer for entry in about.samples} == set(NAMES)
    # Again: nothing new, nothing fetched, the same bytes.
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    again = collect(boards, out)
    assert (again.samples, again.added) == (12, 0)
    assert [board.segments for board in again.boards] == [0, 0]
    after = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert {path.name for path in before if before[path] != after.get(path)} <= {"data.npz"}  # a zip holds the time
    assert set(before) == set(after)


def test_pictures_are_those_that_were_fed(boards, tmp_path):
    from PIL import Image

    out = tmp_path / "data"
    collect(boards, out)
    found = sorted((out / "unlabelled" / "images" / "unknown").glob("*.png"))
    seen = {np.asarray(Image.open(path)).tobytes() for path in found}
    assert seen == {one.tobytes() for one in pictures(12)}
    assert all(entry.exact for entry in dataset.read(out).samples)
    with np.load(out / "unlabelled" / "data.npz") as stored:
        assert stored["x"].shape == (12, 8, 6, 3)
        assert {one.tobytes() for one in stored["x"]} == {as_fed(one).tobytes() for one in pictures(12)}
        assert stored["weight"].shape == (12,)
    model = photographer()
    spec = (TensorSpec("x", (None, 8, 6, 3), "float32"),)
    data = open_data(DataRef(str(out / "unlabelled" / "images"), preprocess=model.preprocess), spec)
    (batch,) = data.batches(100)
    fed = np.stack([as_fed(one) for one in pictures(12)])
    assert np.abs(np.sort(batch.feeds["x"].ravel()) - np.sort(fed.ravel())).max() < 1e-5


def test_pictures_of_a_model_that_takes_blue_first_have_their_colors(tmp_path):
    from PIL import Image

    how = Preprocess("image", image=ImageSteps(), colors="BGR")
    (shown,) = pictures(1)
    root = captured(tmp_path / "c", [shown[..., ::-1].astype(np.float32)], Fake(preprocess=how))
    collect([str(root)], tmp_path / "data")
    (path,) = (tmp_path / "data" / "unlabelled" / "images" / "unknown").glob("*.png")
    assert np.array_equal(np.asarray(Image.open(path)), shown)


def test_labels_move_samples_and_stay(boards, tmp_path):
    out = tmp_path / "data"
    collect(boards, out)
    ids = [entry.id for entry in dataset.read(out).samples]
    labels = {key: NAMES[number % 3] for number, key in enumerate(ids[:7])}
    done = collect([], out, labels=labels)
    assert (done.samples, done.labelled) == (12, 7)
    assert sorted(path.name for path in (out / "labelled" / "images").iterdir()) == sorted(NAMES)
    assert len(list((out / "unlabelled" / "images").rglob("*.png"))) == 5
    with np.load(out / "labelled" / "data.npz") as stored:
        given = dict(zip(stored["id"].tolist(), stored["y"].tolist(), strict=True))
    assert given == {key: NAMES.index(label) for key, label in labels.items()}
    assert dataset.read(out).classes == NAMES
    # Collecting again keeps them; another label moves a picture; an empty one takes it back.
    collect(boards, out)
    done = collect([], out, labels={ids[0]: "cow", ids[1]: ""})
    assert done.labelled == 6
    assert (out / "labelled" / "images" / "cow" / f"{ids[0][:16]}.png").exists()
    assert not (out / "labelled" / "images" / "cat" / f"{ids[0][:16]}.png").exists()
    for key in ids:
        collect([], out, labels={key: "cat"})
    assert not (out / "unlabelled" / "data.npz").exists()
    assert not (out / "unlabelled" / "images").exists() or not any((out / "unlabelled" / "images").iterdir())


def test_label_studio_gets_tasks_and_gives_labels(boards, tmp_path):
    out = tmp_path / "data"
    collect(boards, out)
    tasks = json.loads((out / "label-studio.json").read_text())
    assert len(tasks) == 12
    for task in tasks:
        place = task["data"]["image"].removeprefix("/data/local-files/?d=")
        assert (out / place).is_file()
        assert task["predictions"][0]["result"][0]["value"]["choices"][0] in NAMES
    form = (out / "label-studio.xml").read_text()
    assert form.count("<Choice ") == 3
    assert '<Image name="image" value="$image"/>' in form
    for number, task in enumerate(tasks):
        task["id"] = number
        result = {"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": ["dog"]}}
        task["annotations"] = [{"result": [result], "was_cancelled": number == 0}]
    later = [{**result, "value": {"choices": ["cow"]}}]
    tasks[1]["annotations"].append({"result": later})  # somebody looked again
    (tmp_path / "export.json").write_text(json.dumps(tasks))
    assert collect([], out, labels=tmp_path / "export.json").labelled == 11
    given = {entry.id: entry.label for entry in dataset.read(out).samples}
    assert [given[task["data"]["sample"]] for task in tasks[:3]] == [None, "cow", "dog"]
    small = [{"id": 1, "image": "x", "sample": tasks[0]["data"]["sample"], "label": "cow"}, {"id": 2, "sample": "b"}]
    (tmp_path / "min.json").write_text(json.dumps(small))
    assert read_labels(tmp_path / "min.json") == {tasks[0]["data"]["sample"]: "cow"}


def test_rows_become_tables(tmp_path):
    how = Preprocess("table", table=TableSteps(("age", "height", "weight")))
    model = Fake(preprocess=how, interpret=Interpret("regression"))
    rows = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)
    rows[2, 1] = np.nan
    root = captured(tmp_path / "c", rows, model)
    out = tmp_path / "data"
    assert collect([str(root)], out).form == "table"
    text = (out / "unlabelled" / "table.csv").read_text().splitlines()
    assert text[0] == "age,height,weight"
    read = np.array([[float(cell or "nan") for cell in line.split(",")] for line in text[1:]], np.float32)
    assert np.array_equal(read, rows, equal_nan=True)
    tasks = json.loads((out / "label-studio.json").read_text())
    assert set(tasks[0]["data"]["row"]) == {"age", "height", "weight"}
    assert tasks[2]["data"]["row"]["height"] is None
    entries = dataset.read(out).samples
    collect([], out, labels={entry.id: str(number / 2) for number, entry in enumerate(entries)})
    spec = (TensorSpec("x", (None, 3), "float32"),)
    for name in ("table.csv", "data.npz"):
        data = open_data(DataRef(str(out / "labelled" / name)), spec)
        (batch,) = data.batches(100)
        assert np.array_equal(batch.feeds["x"], rows, equal_nan=True)
        assert batch.labels.tolist() == [number / 2 for number in range(9)]


def test_sounds_become_wav_files(tmp_path):
    how = Preprocess("waveform", audio=AudioSteps(rate=8000))
    waves = np.random.default_rng(0).integers(-32768, 32768, (4, 400)).astype(np.float32) / 32768
    root = captured(tmp_path / "c", waves, Fake(preprocess=how))
    out = tmp_path / "data"
    assert collect([str(root)], out).form == "sounds"
    assert all(entry.exact for entry in dataset.read(out).samples)
    entries = dataset.read(out).samples
    collect([], out, labels={entry.id: f"word {number}" for number, entry in enumerate(entries)})
    data = open_data(
        DataRef(str(out / "labelled" / "sounds"), preprocess=how), (TensorSpec("x", (None, 400), "float32"),)
    )
    assert data.class_names == ("word 0", "word 1", "word 2", "word 3")
    (batch,) = data.batches(10)
    assert np.array_equal(np.sort(batch.feeds["x"].ravel()), np.sort(waves.ravel()))
    assert '<Audio name="audio" value="$audio"/>' in (out / "label-studio.xml").read_text()


def test_several_inputs_and_shapes_are_arrays(tmp_path):
    with Capture("pets", Fake(), ALL, root=tmp_path / "c", clock=Time().clock) as capture:
        for number in range(3):
            fed = {"a": np.full((1, 2), number, np.float32), "b": np.full((1, 3, 3), number, np.int64)}
            capture.offer(fed, {"p": np.eye(3, dtype=np.float32)[None, 0]})
        capture.offer({"a": np.zeros((1, 7), np.float32), "b": np.ones((1, 3, 3))}, {"p": np.eye(3)[None, 0]})
    out = tmp_path / "data"
    assert collect([str(tmp_path / "c")], out).form == "arrays"
    with np.load(out / "unlabelled" / "data.npz") as stored:
        assert stored["a"].tolist() == [[0, 0], [1, 1], [2, 2]]
        assert stored["b"].dtype == np.int64
    assert dataset.read(out).ragged == 1
    assert not (out / "label-studio.json").exists()


@pytest.mark.parametrize("first", [np.zeros(4, np.float32), np.zeros((8, 8, 3), np.float32)])
def test_an_app_may_keep_other_things_of_some_samples(tmp_path, first):
    with Capture(
        "pets", photographer() if first.ndim == 3 else Fake(), ALL, root=tmp_path / "c", clock=Time().clock
    ) as (capture):
        for kept in ({"x": first}, {"x": first + 1, "note": first}, {"note": np.ones((2, 2))}, {}):
            batch = {name: array[None] for name, array in kept.items()}
            capture.offer(batch, {"p": np.eye(3, dtype=np.float32)[None, 0]})
    out = tmp_path / "data"
    done = collect([str(tmp_path / "c")], out)
    assert (done.samples, dataset.read(out).ragged) == (4, 3)
    assert len(json.loads((out / "label-studio.json").read_text())) == 1
    other = dataset.read(out).samples[1]
    assert collect([], out, labels={other.id: "cat"}).labelled == 1


def test_labels_lead_nowhere_else(boards, tmp_path):
    out = tmp_path / "data"
    collect(boards, out)
    wicked = [
        "../../escape",
        "/etc",
        "..",
        ".hidden",
        "a/b",
        "ordinary (1)",
        "50 % + 1",
        "ü",
        "高い声の犬" * 20,
        "x" * 300,
    ]
    ids = [entry.id for entry in dataset.read(out).samples]
    collect([], out, labels=dict(zip(ids, wicked, strict=False)))
    folders = list((out / "labelled" / "images").iterdir())
    assert len(folders) == len(wicked)
    assert all(path.parent == out / "labelled" / "images" and not path.name.startswith(".") for path in folders)
    assert len(list((out / "labelled").rglob("*.png"))) == len(wicked)
    assert not list(tmp_path.glob("*escape*"))
    # What leads nowhere stays as it is: the folders' names are the classes' for Keras, torchvision and `--eval`.
    assert {"ordinary (1)", "ü"} <= {path.name for path in folders}
    for task in json.loads((out / "label-studio.json").read_text()):
        (place,) = parse_qs(urlsplit(task["data"]["image"]).query)["d"]
        assert (out / place).is_file()


def test_status_and_alarms_are_kept(boards, tmp_path):
    out = tmp_path / "data"
    collect(boards, out)
    lines = dataset.statuses(out)
    assert sum(line["seen"] for line in lines if line["kind"] == "status") == 15
    alarms = [line["alarm"]["message"] for line in lines if line["kind"] == "alarm"]
    assert alarms == ["all black", "all black"]


# -- Many, broken, hostile -------------------------------------------------------------------------------------


def test_a_board_that_is_gone_does_not_stop_the_others(boards, tmp_path):
    done = collect([boards[0], "nowhere:1", boards[1]], tmp_path / "data")
    assert [board.error and board.error["code"] for board in done.boards] == [None, "unknown-target", None]
    assert done.samples == 12


def test_a_cut_link_costs_a_piece(boards, tmp_path, monkeypatch):
    out = tmp_path / "data"
    ring = Ring(Path(boards[0]) / "pets", "pets", Bounds(2_000_000))
    for number in range(8):  # several segments
        ring.append(numbered(number, 60_000))
    ring.close()
    count = len(listed(Path(boards[0]) / "pets"))
    assert count > 3
    monkeypatch.setattr("edgekit.collect.fetch._PIECE", 1)
    real, calls = Local.get, []

    def get(self, there, here):
        calls.append(there)
        if len(calls) == 3:
            raise TargetError("target-link-lost", "cut")
        real(self, there, here)

    monkeypatch.setattr(Local, "get", get)
    done = collect(boards[:1], out)
    assert done.boards[0].error["code"] == "target-link-lost"
    assert (done.boards[0].segments, len(dataset.stored(out))) == (2, 2)
    done = collect(boards[:1], out)
    assert done.boards[0].error is None
    assert done.boards[0].segments == count - 2
    assert done.samples == 8 + 8


def test_bytes_that_changed_on_the_way_are_refused(boards, tmp_path, monkeypatch):
    real = Local.get

    def get(self, there, here):
        real(self, there, here)
        data = bytearray(here.read_bytes())
        data[-1] ^= 1
        here.write_bytes(data)

    monkeypatch.setattr(Local, "get", get)
    done = collect(boards[:1], tmp_path / "data")
    assert done.boards[0].error["code"] == "target-digest"
    assert dataset.stored(tmp_path / "data") == []


def test_what_grows_is_fetched_again_and_what_is_safe_may_go(boards, tmp_path):
    out, folder = tmp_path / "data", Path(boards[0]) / "pets"
    collect(boards[:1], out)
    ring = Ring(folder, "pets", Bounds(2_000_000))
    for number in range(12):
        ring.append(numbered(number, 60_000))
    there = len(listed(folder))
    done = collect(boards[:1], out, remove=True)  # while somebody writes
    left = [number for number, _ in listed(folder)]
    assert (done.samples, len(left)) == (20, 1)
    assert done.boards[0].removed == there - 1
    ring.append(numbered(12, 60_000))
    ring.close()
    assert collect(boards[:1], out).samples == 21


def test_encrypted_captures_need_their_key(tmp_path):
    pytest.importorskip("cryptography")
    assert cli.run(["keys", "secret", str(tmp_path / "key"), "--json"]) == 0
    root = captured(tmp_path / "c", [as_fed(one) for one in pictures(3)], photographer(), key=tmp_path / "key")
    out = tmp_path / "data"
    with pytest.raises(ArtifactError) as refused:
        collect([str(root)], out)
    assert refused.value.code == "capture-key"
    assert len(dataset.stored(out)) == 1  # fetched, and not fetched again
    assert collect([str(root)], out, key=tmp_path / "key").samples == 3


def test_a_key_that_was_exchanged_is_named_beside_the_new_one(tmp_path):
    """The dataset holds both kinds of segments, and with the new key alone nothing could be collected any more."""
    pytest.importorskip("cryptography")
    shown, out = [as_fed(one) for one in pictures(6)], tmp_path / "data"
    keys = [tmp_path / name for name in ("old", "new")]
    for key, some in zip(keys, (shown[:3], shown[3:]), strict=True):
        sealing.make(key)
        root = captured(tmp_path / "c", some, photographer(), key=key)
    with pytest.raises(ArtifactError, match=sealing.find(keys[1]).id) as refused:
        collect([str(root)], out, key=keys[1])
    assert refused.value.code == "capture-key"
    assert collect([str(root)], out, key=keys).samples == 6
    both = [part for key in keys for part in ("--key", str(key))]
    assert cli.run(["collect", str(root), "-o", str(out), "--json", *both]) == 0
    ids = {sealing.find(key).id for key in keys}
    about = (out / "manifest.json").read_text()
    assert not any(key.read_text().strip() in about for key in keys)
    assert {scan(path.read_bytes()).header.key for path in dataset.stored(out)} == ids


def test_a_record_that_somebody_changed_is_told_and_stops_nothing(tmp_path):
    """Whoever has the board can make every digest right but the key's."""
    pytest.importorskip("cryptography")
    sealing.make(tmp_path / "key")
    root = captured(tmp_path / "c", [as_fed(one) for one in pictures(5)], photographer(), key=tmp_path / "key")
    (_, path) = listed(root / "pets")[0]
    data = path.read_bytes()
    seen = scan(data)
    _, begin, end = seen.frames[2]
    forged = bytearray(data[begin:end])
    forged[-1] ^= 1
    plain = replace(seen.header, key=None)
    path.write_bytes(data[: begin - 32] + plain.frame(2, bytes(forged), None) + data[end:])
    done = collect([str(root)], tmp_path / "data", key=tmp_path / "key")
    assert (done.samples, done.damaged) == (4, 1)


def test_a_segment_whose_beginning_is_gone_is_told(boards, tmp_path):
    folder = Path(boards[0]) / "pets"
    ring = Ring(folder, "pets", Bounds(2_000_000))
    for number in range(8):
        ring.append(numbered(number, 60_000))
    ring.close()
    path = listed(folder)[1][1]
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    done = collect(boards, tmp_path / "data")
    assert [board.unreadable for board in done.boards] == [1, 0]


def test_what_was_fetched_of_another_model_is_left_out(tmp_path):
    """Two boards at once: that they mean different models is known when the first has been fetched from."""
    shown = [as_fed(one) for one in pictures(6)]
    roots = [captured(tmp_path / name, shown[:3], photographer(), name=name) for name in ("cats", "dogs")]
    out = tmp_path / "data"
    for root, name in zip(roots, ("cats", "dogs"), strict=True):
        with locked(out):
            for _, path in listed(root / name):
                shutil.copy(path, dataset.path_of(out, scan(path.read_bytes()).header))
    with pytest.raises(UsageError) as refused:
        collect([], out, labels={})
    assert refused.value.code == "collect-names"
    done = collect([str(roots[0])], out, name="cats")
    assert (done.name, done.samples, [board.host for board in dataset.read(out).boards]) == (
        "cats", 3, [dataset.read(out).boards[0].host],
    )  # fmt: skip


def test_boards_with_copies_of_one_card_are_told_apart(tmp_path, monkeypatch):
    """A card was copied with captures on it: the boards went on under the same numbers, one in the other's place."""
    shown, out = [as_fed(one) for one in pictures(12)], tmp_path / "data"
    roots = [tmp_path / name for name in ("first", "second", "third")]
    captured(roots[0], shown[:3], photographer())
    for root in roots[1:]:
        shutil.copytree(roots[0], root)
    for number, root in enumerate(roots):
        if number:
            monkeypatch.setattr("edgekit.monitor.ring.device", lambda number=number: f"{number:016x}")
        captured(root, shown[3 * number + 3 : 3 * number + 6] or shown[:1], photographer())
    for targets in (roots, roots[::-1]):
        done = collect([str(root) for root in targets], out)
        assert [board.error for board in done.boards] == [None] * 3
        assert (done.samples, done.damaged) == (12, 0)
    assert len(dataset.read(out).boards) == 3


def test_another_segment_of_that_number_does_not_take_its_place(boards, tmp_path):
    out = tmp_path / "data"
    collect(boards, out)
    (_, path) = listed(Path(boards[0]) / "pets")[0]
    before, seen = path.read_bytes(), scan(path.read_bytes())
    path.write_bytes(before[: seen.frames[4].end])
    assert collect(boards, out).boards[0].error is None  # shorter: nothing new, and what is here stays
    path.write_bytes(path.read_bytes() + seen.header.frame(5, numbered(1, 20_000), None))
    captured(Path(boards[0]), [np.ones((8, 6, 3), np.float32)], Fake())  # in a segment of its own
    done = collect(boards, out)
    assert [board.error and board.error["code"] for board in done.boards] == ["dataset-other-segment", None]
    assert done.samples == 12 + 1  # what lies behind it was fetched


def test_a_board_without_room_says_so(boards, tmp_path, monkeypatch):
    def full(path, *known, **more):
        if str(path).endswith("captures.bin"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, *known, **more)

    real = open
    monkeypatch.setattr("builtins.open", full)
    with pytest.raises(TargetError, match="no room in") as refused:
        export.export(export.ExportRequest((), str(tmp_path / "captures.bin")))
    assert refused.value.code == "target-disk-full"


def test_a_damaged_dataset_says_which_file(boards, tmp_path):
    out = tmp_path / "data"
    collect(boards, out)
    path = dataset.stored(out)[0]
    path.write_bytes(path.read_bytes()[:-3] + b"abc")
    with pytest.raises(ArtifactError) as refused:
        collect([], out, labels={})
    assert refused.value.code == "dataset-damaged"
    assert path.name in refused.value.message
    path.unlink()
    assert collect(boards, out).samples == 12
    (out / "manifest.json").write_text("{")
    with pytest.raises(ArtifactError):
        dataset.read(out)


def test_a_record_that_a_disk_has_changed_is_told_and_the_others_are_kept(tmp_path):
    """One bit on a card took all records behind it, and nobody said so."""
    root = captured(tmp_path / "board", [as_fed(one) for one in pictures(12)], photographer())
    (_, path) = listed(root / "pets")[0]
    data = bytearray(path.read_bytes())
    _, begin, end = scan(bytes(data)).frames[3]
    data[(begin + end) // 2] ^= 16
    path.write_bytes(data)
    done = collect([str(root)], tmp_path / "data")
    assert (done.samples, done.damaged) == (11, 1)
    with Capture("pets", photographer(), ALL, root=root, seed=0, clock=Time().clock) as capture:  # goes on behind it
        capture.offer({"x": as_fed(pictures(1, seed=9)[0])[None]}, {"p": np.eye(3, dtype=np.float32)[:1]})
    done = collect([str(root)], tmp_path / "data")
    assert (done.samples, done.damaged) == (12, 1)


def test_a_byte_that_changed_within_a_dataset_is_found(boards, tmp_path):
    out = tmp_path / "data"
    collect(boards, out)
    path = dataset.stored(out)[0]
    data = bytearray(path.read_bytes())
    _, begin, end = scan(bytes(data)).frames[2]
    data[(begin + end) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match=path.name) as refused:
        collect(boards, out)
    assert refused.value.code == "dataset-damaged"
    path.unlink()
    done = collect(boards, out)
    assert (done.samples, done.damaged) == (12, 0)


def test_what_makes_no_sense_is_refused(boards, tmp_path):
    captured(Path(boards[0]), [np.zeros(4, np.float32)], Fake(), name="other")
    done = collect(boards[:1], tmp_path / "data", name="pets")
    assert done.samples == 8
    with pytest.raises(UsageError) as refused:
        collect(boards[:1], tmp_path / "two")
    assert refused.value.code == "collect-names"
    with pytest.raises(UsageError) as refused:
        collect(boards[:1], tmp_path / "data", name="other")
    assert refused.value.code == "collect-names"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(UsageError) as refused:
        collect(boards, tmp_path / "mine")
    assert refused.value.code == "dataset-other"
    with pytest.raises(UsageError):
        dataset.read(tmp_path / "mine")
    (tmp_path / "none").mkdir()
    with pytest.raises(MissingFileError) as refused:
        collect([str(tmp_path / "none")], tmp_path / "empty")
    assert refused.value.code == "captures-none"
    with dataset.locked(tmp_path / "data"), pytest.raises(UsageError) as refused:
        collect(boards, tmp_path / "data", name="pets")
    assert refused.value.code == "dataset-busy"


@pytest.mark.parametrize("text", ["[1]", "{", "3", '[{"data": {}, "annotations": [{"result": [{}]}]}]'])
def test_labels_that_are_none(tmp_path, text):
    (tmp_path / "labels.json").write_text(text)
    with pytest.raises(DataError) as refused:
        read_labels(tmp_path / "labels.json")
    assert refused.value.code == "labels-invalid"


def test_labels_of_a_table(tmp_path):
    (tmp_path / "labels.csv").write_text("\ufeffid,note,label\nab,x,cat\ncd,,dog\n")
    assert read_labels(tmp_path / "labels.csv") == {"ab": "cat", "cd": "dog"}
    (tmp_path / "labels.csv").write_text("name,label\nab,cat\n")
    with pytest.raises(DataError):
        read_labels(tmp_path / "labels.csv")
    with pytest.raises(MissingFileError):
        read_labels(tmp_path / "none.csv")


def test_what_was_torn_on_the_board_stays_there(boards, tmp_path):
    path = listed(Path(boards[0]) / "pets")[-1][1]
    with path.open("ab") as file:
        file.write(b"half a record")
    for _ in range(2):
        assert collect(boards[:1], tmp_path / "data").samples == 8
    assert not dataset.stored(tmp_path / "data")[0].read_bytes().endswith(b"half a record")


def test_what_may_still_be_written_to_is_not_removed(boards):
    seen = export.survey(export.SurveyRequest(boards[0])).segments
    assert export.remove(export.RemoveRequest((seen[-1].path,))).count == 0
    assert Path(seen[-1].path).exists()


def test_the_board_s_part_survives_what_vanishes(boards, tmp_path):
    seen = export.survey(export.SurveyRequest(boards[0])).segments
    paths = tuple(one.path for one in seen)
    shutil.rmtree(boards[0])
    (part,) = export.export(export.ExportRequest(paths, str(tmp_path / "out"))).parts
    assert part.bytes == 0
    assert export.remove(export.RemoveRequest(paths)).count == 0
    assert export.survey(export.SurveyRequest(boards[0])).segments == ()
    assert [len(piece) for piece in _pieces([*seen, *seen])] == [2]


def test_the_command(boards, tmp_path, capsys):
    (tmp_path / "hosts").write_text(f"{boards[1]}  # the second\n")
    out = str(tmp_path / "data")
    assert cli.run(["collect", boards[0], "--to", str(tmp_path / "hosts"), "-o", out, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["samples"], said["added"], len(said["boards"])) == (12, 12, 2)
    assert cli.run(["collect", boards[0], "nowhere:1", "-o", out]) == 2
    assert "12 samples of pets" in capsys.readouterr().out
    assert cli.run(["collect", "-o", out]) == 2
    (tmp_path / "labels.csv").write_text("id,label\n" + f"{dataset.read(Path(out)).samples[0].id},cat\n")
    assert cli.run(["collect", "-o", out, "--labels", str(tmp_path / "labels.csv"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["labelled"] == 1


def test_an_emulated_board_gives_what_it_captured(boards, tmp_path):
    from edgekit.targets import open_target

    try:
        open_target("emulator:raspberry-pi-4b").close()
    except EdgeKitError as error:
        pytest.skip(f"{error.message}: {error.next_step}")
    assert collect(["emulator:raspberry-pi-4b"], tmp_path / "data", captures=boards[0]).samples == 8
