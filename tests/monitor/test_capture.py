"""What is kept, with which probability, and what is not."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from capture_case import Fake, Time, captured, taken

from edgekit.errors import EngineError, TargetError, UsageError
from edgekit.manifest import Interpret
from edgekit.monitor import redact
from edgekit.monitor.alarm import Alarm, Verdict
from edgekit.monitor.capture import Capture, Plan
from edgekit.monitor.ring import LOCK
from edgekit.monitor.strata import Draw, High, Window
from edgekit.tensors import TensorSpec

NONE = Draw(each=0)


def verdict_of(ood=0.0, uncertainty=0.0, alarms=()):
    return Verdict(ood, uncertainty, alarms)


def opened(tmp_path, time=None, plan=None, model=None, seed=0, **known):
    plan = plan or Plan(quota_mb=1, window=60)
    return Capture("case", model or Fake(), plan, root=tmp_path, seed=seed, clock=(time or Time()).clock, **known)


def answer(number=0.0, sure=0.9):
    """One sample and its answer."""
    return {"x": np.full((1, 4), number, np.float32)}, {"p": np.array([[1 - sure, sure, 0.0]], np.float32)}


def samples(tmp_path):
    return [read for read in captured(tmp_path / "case") if read.record.kind == "sample"]


def test_a_window_keeps_so_many_of_each_stratum(tmp_path):
    time = Time()
    plan = Plan(quota_mb=1, window=100, random=Draw(2), uncertain=Draw(3, at=0.5), strange=Draw(1, at=5.0))
    with opened(tmp_path, time, plan) as capture:
        for number in range(600):
            verdict = verdict_of(10.0 if number % 7 == 0 else 0.0, 0.9 if number % 5 == 0 else 0.1)
            time.now += 1
            capture.offer(*answer(float(number)), verdict)
        assert capture.status()["seen"] == 600
    found = samples(tmp_path)
    strata = Counter(name for read in found for name in read.record.sample.taken)
    assert strata["random"] == 2 * 6 + 1  # six windows, and one sample of a seventh
    assert strata["uncertain"] in (3 * 6, 3 * 6 + 1)
    assert strata["out-of-distribution"] in (6, 7)
    assert not strata["disagreeing"]
    assert all(read.record.sample.uncertainty > 0.5 for read in found if "uncertain" in read.record.sample.taken)
    assert len({read.record.sample.number for read in found}) == len(found)


def test_weights_give_back_the_stream(tmp_path):
    """Horvitz and Thompson: the sum of the weights estimates how many samples there were, and how many were odd."""
    time = Time()
    plan = Plan(quota_mb=8, window=30, random=Draw(2), uncertain=Draw(2, at=0.5), strange=Draw(2, at=0.5))
    shares = []
    for seed in range(4):
        dice = np.random.default_rng(5)
        odd, total = 0, 4000
        with opened(tmp_path / str(seed), time, plan, seed=seed) as capture:
            for number in range(total):
                is_odd = dice.random() < 0.1
                odd += is_odd
                time.now += 1
                uncertainty = dice.random() ** (0.3 if is_odd else 3)
                capture.offer(*answer(float(is_odd) + 2 * number), verdict_of(dice.random() ** 4, uncertainty))
        found = [(read.record.sample.weight, read.inputs["x"][0] % 2) for read in samples(tmp_path / str(seed))]
        whole = sum(weight for weight, _ in found)
        assert abs(whole / total - 1) < 0.1
        assert abs(sum(weight for weight, one in found if one) / odd - 1) < 0.25
        shares.append(np.mean([one for _, one in found]))
    # ... and the captured strata hold many more odd ones than the stream.
    assert np.mean(shares) > 1.5 * odd / total


class Contrary(Fake):
    """A second model that disagrees where the third number says so."""

    def run(self, feeds):
        return {"p": np.array([[0.6, 0.3, 0.1]] if feeds["x"][0, 2] else [[0.1, 0.8, 0.1]])}


@pytest.mark.parametrize("small", [False, True])
def test_weights_are_right_through_restarts_and_what_made_room(tmp_path, small):
    """What is left stands for the windows that are left: all of it, and what is odd, on average over many streams."""
    width, missed = 300 if small else 3, []
    plan = Plan(
        quota_mb=0.07 if small else 5, window=20, sync=1e9, uncertain=Draw(1, share=0.1), strange=Draw(1, share=0.1),
        shadow_share=0.25,
    )  # fmt: skip
    for seed in range(12):
        dice, time, odd = np.random.default_rng(seed), Time(), []

        def begun(seed=seed, time=time):
            root = tmp_path / str(seed)
            return Capture("case", Fake(), plan, root=root, seed=seed, clock=time.clock, shadow=Contrary())

        capture = begun()
        for number in range(300):
            time.now += 1
            odd.append(bool(dice.random() < 0.2))
            x = np.concatenate([[number, odd[-1], dice.random() < (0.4 if odd[-1] else 0.05)], dice.random(width)])
            verdict = verdict_of(dice.random() ** (1 if odd[-1] else 3), dice.random() ** (0.5 if odd[-1] else 2))
            capture.offer({"x": x[None].astype(np.float32)}, answer()[1], verdict)
            if dice.random() < 0.01:
                capture.close()
                capture = begun()
        capture.close()
        kept = [(*read.inputs["x"][:2], read.record.sample.weight) for read in samples(tmp_path / str(seed))]
        first = int(min(number for number, *_ in kept)) + 40 if small else 0  # windows of which all is left
        kept = [one for one in kept if one[0] >= first]
        assert not small or 40 < first < 250
        missed.append((
            sum(weight for *_, weight in kept) / (300 - first) - 1,
            sum(weight for _, is_odd, weight in kept if is_odd) / sum(odd[first:]) - 1,
        ))  # fmt: skip
    spread = np.std(missed, axis=0) / np.sqrt(len(missed))
    assert (np.abs(np.mean(missed, axis=0)) < 3.5 * spread).all()
    assert (spread < 0.2).all()


def test_chances_are_those_of_the_draw():
    """Over many windows each sample is drawn as often as is said of it."""
    dice, counts, said = np.random.default_rng(0), Counter(), Counter()
    for _ in range(3000):
        window = Window({"random": 1, "uncertain": 2}, dice)
        for number in range(10):
            belongs = {"random": 1.0} | ({"uncertain": 1.0} if number % 3 == 0 else {})
            if wanted := window.wants(window.keys(), belongs):
                window.keep(number, belongs, wanted)
        for drawn in window.close():
            counts[drawn.item] += 1
            said[drawn.item] = drawn.probability
    for number in range(10):
        expected = 1 - (1 - 1 / 10) * (1 - (2 / 4 if number % 3 == 0 else 0))
        assert said[number] == pytest.approx(expected)
        assert counts[number] / 3000 == pytest.approx(expected, abs=0.04)


def test_high_is_the_upper_share_of_what_was_seen():
    dice = np.random.default_rng(1)
    high = High(Draw(share=0.05))
    first = [high(score) for score in dice.random(64)]
    assert not any(first)
    assert 0.03 < np.mean([high(score) for score in dice.random(4000)]) < 0.07
    # After a drift the bound follows, and the highest of what is now usual are high.
    for score in dice.random(2000) + 1:
        high(score)
    assert 0.03 < np.mean([high(score) for score in dice.random(4000) + 1]) < 0.07
    assert High(Draw(at=0.5))(0.5)
    assert not High(Draw(at=0.5))(0.49)
    assert not high(None)
    assert high(float("nan"))
    constant = High(Draw())
    assert not any(constant(1.0) for _ in range(500))


def test_a_shadow_model_that_disagrees(tmp_path):
    class Shadow(Fake):
        calls = 0

        def run(self, feeds):
            self.calls += 1
            assert feeds["x"].shape == (1, 4)
            return {"p": np.array([[0.8, 0.1, 0.1]] if feeds["x"][0, 0] % 4 == 0 else [[0.1, 0.8, 0.1]])}

    shadow = Shadow()
    plan = Plan(quota_mb=1, window=20, random=NONE, uncertain=NONE, strange=NONE, disagreeing=Draw(2), shadow_share=0.5)
    with opened(tmp_path, Time(step=0.1), plan, shadow=shadow) as capture:
        for number in range(400):
            capture.offer(*answer(float(number)), verdict_of())
    found = samples(tmp_path)
    assert 150 < shadow.calls < 250
    assert found
    for read in found:
        sample = read.record.sample
        assert sample.taken == ("disagreeing",)
        assert read.inputs["x"][0] % 4 == 0
        assert (sample.answer, sample.shadow) == (1.0, 0.0)
        assert sample.chances["disagreeing"] <= 0.5
    assert 75 < sum(read.record.sample.weight for read in found) < 130  # a hundred are answered otherwise


def test_a_shadow_that_fails_is_counted(tmp_path):
    class Broken(Fake):
        def run(self, feeds):
            raise EngineError("engine-failed", "no")

    with opened(tmp_path, plan=Plan(quota_mb=1, shadow_share=1.0), shadow=Broken()) as capture:
        capture.offer(*answer())
        assert capture.status()["shadow failed"] == 1
    with opened(tmp_path / "given", plan=Plan(quota_mb=1, random=NONE)) as capture:
        capture.offer(*answer(), shadow={"p": np.array([[0.9, 0.1, 0.0]])})
    assert samples(tmp_path / "given")[0].record.sample.shadow == 0.0


def test_values_disagree_when_they_are_unusually_far_apart(tmp_path):
    model = Fake(Interpret("regression"), outputs=(TensorSpec("p", (None, 1), "float32"),))
    dice = np.random.default_rng(0)
    plan = Plan(quota_mb=1, window=1e9, random=NONE, disagreeing=Draw(50))
    with opened(tmp_path, model=model, plan=plan) as capture:
        for number in range(400):
            value = {"p": np.array([[float(number)]])}
            near = {"p": value["p"] + (50.0 if number % 50 == 49 else dice.normal())}
            capture.offer({"x": np.zeros((1, 4), np.float32)}, value, shadow=near)
    found = {read.record.sample.answer for read in samples(tmp_path)}
    assert set(range(99, 400, 50)) <= found
    assert len(found) < 60


def test_what_is_redacted_is_never_written(tmp_path):
    model = Fake()
    drop = redact.drop_columns(("age",), ("height", "age", "weight", "shoe"))
    with opened(tmp_path, model=model, redact=drop) as capture:
        capture.offer(*answer(7.25))
    (read,) = samples(tmp_path)
    assert np.isnan(read.inputs["x"][1])
    assert read.inputs["x"][0] == 7.25

    def refuse(arrays):
        raise RuntimeError("no")

    for number, (hook, reason) in enumerate([(refuse, "redaction failed"), (lambda arrays: None, "withheld")]):
        with opened(tmp_path / str(number), redact=hook) as capture:
            capture.offer(*answer(7.25))
            capture.flush()
            assert capture.status()[reason] == 1
            assert "kept" not in capture.status()
        assert samples(tmp_path / str(number)) == []


def changed(what):
    """A redaction that does something odd to the array."""

    def hook(arrays):
        return what(arrays["x"])

    return hook


@pytest.mark.parametrize(
    ("hook", "reason"),
    [
        (lambda arrays: [1, 2], "redaction failed"),
        (lambda arrays: arrays["y"], "redaction failed"),
        (changed(lambda x: {"x": x.astype(object)}), "not storable"),
        (changed(lambda x: {"x": x.astype(complex)}), "not storable"),
        (changed(lambda x: {"x": np.full(x.shape, "secret")}), "not storable"),
        (changed(lambda x: {"x": np.zeros((9000, 9000))}), "not storable"),
        (changed(lambda x: {"x": x[:2].astype(np.float64), "z": [1, 2]}), None),
        (changed(lambda x: {}), None),
    ],
)
def test_odd_redactions_stop_no_app_and_are_told_once(tmp_path, caplog, hook, reason):
    with opened(tmp_path, plan=Plan(quota_mb=1, window=1e9, random=Draw(3)), redact=hook) as capture:
        for _ in range(3):
            capture.offer(*answer(7.25))
        capture.flush()
        status = capture.status()
    assert status.get("kept", 0) == (0 if reason else 3)
    assert len(samples(tmp_path)) == status.get("kept", 0)
    if reason:
        assert status[reason] == 3
        assert status["failure"].startswith(f"{reason}: ")
        assert "secret" not in status["failure"]
    assert len(caplog.records) == bool(reason)


def test_a_redaction_changes_its_own_arrays_alone(tmp_path):
    def hook(arrays):
        arrays["x"][:] = 0
        return arrays

    fed, outputs = answer(7.25)
    photo = {"photo": np.full((1, 2, 2), 9, np.uint8), "x": fed["x"]}
    with opened(tmp_path, redact=hook) as capture:
        capture.offer(fed, outputs, keep=photo)
    (read,) = samples(tmp_path)
    assert not read.inputs["x"].any()
    assert (fed["x"] == 7.25).all()


def test_pictures_that_a_redaction_does_not_find_are_refused():
    """They were kept as they were: grey ones without an axis of channels, boxes in the words of another library."""
    hook = redact.blur_boxes(lambda image: [(0, 0, image.shape[1], image.shape[0])], cells=1)
    grey = np.arange(64.0).reshape(8, 8)
    for arrays in ({"x": grey}, {}, {"x": np.zeros(7)}):
        with pytest.raises(UsageError, match="no picture"):
            hook(arrays)
    named = redact.blur_boxes(lambda image: [(0, 0, image.shape[1], image.shape[0])], cells=1, name="x")
    assert len(np.unique(named({"x": grey})["x"])) == 1
    with pytest.raises(UsageError):
        named({"x": np.zeros(7)})
    for box in ((30, 30, 10, 40), (5, 30, 10, 12), (0.1, 0.2, 0.5, 0.9)):
        with pytest.raises(UsageError, match="no box"):
            redact.blurred(np.zeros((40, 60, 3)), [box])
    assert redact.blurred(grey, [(0, 0, 1, 1)]).tobytes() == grey.tobytes()


def test_faces_are_blurred_beyond_recognition():
    dice = np.random.default_rng(0)
    picture = dice.integers(0, 256, (40, 60, 3), dtype=np.uint8)
    made = redact.blurred(picture, [(10.4, 5.0, 29.6, 25.0), (50, 30, 90, 90)], cells=2)
    assert np.array_equal(made[26:30], picture[26:30])
    assert np.array_equal(made[:, :10], picture[:, :10])
    assert len(np.unique(made[5:25, 10:30].reshape(-1, 3), axis=0)) == 4
    assert len(np.unique(made[30:, 50:].reshape(-1, 3), axis=0)) == 4
    assert redact.blurred(picture, [(70, 5, 80, 9), (5, 5, 5, 9)]).tobytes() == picture.tobytes()
    hook = redact.blur_boxes(lambda image: [(0, 0, image.shape[1], image.shape[0])], cells=1)
    batch = hook({"x": np.stack([picture, picture]) / np.float32(255), "y": np.zeros(3)})
    assert len(np.unique(batch["x"][0].reshape(-1, 3), axis=0)) == 1
    channels_first = redact.blur_boxes(lambda image: [(0, 0, 60, 40)], cells=1, first=True, name="x")
    assert np.ptp(channels_first({"x": np.moveaxis(picture, -1, 0)})["x"], axis=(1, 2)).tolist() == [0, 0, 0]
    with pytest.raises(UsageError):
        channels_first({"other": picture})
    with pytest.raises(UsageError):
        redact.drop_columns(("nose",), ("ear",))
    with pytest.raises(UsageError):
        redact.blurred(picture, [], cells=0)
    integers = redact.drop_columns((0,))({"x": np.ones((2, 3), np.int64)})
    assert integers["x"].tolist() == [[0, 1, 1]] * 2
    assert redact.chain(redact.drop_columns((0,)), lambda arrays: None, hook)({"x": np.ones((1, 3))}) is None


def test_batches_are_taken_apart(tmp_path):
    plan = Plan(quota_mb=1, window=1e9, random=Draw(100))
    with opened(tmp_path, plan=plan) as capture:
        inputs = {"x": np.arange(12, dtype=np.float32).reshape(3, 4)}
        capture.offer(inputs, {"p": np.eye(3, dtype=np.float32)}, keep={"photo": np.ones((3, 2, 2), np.uint8)})
        capture.offer(inputs, {"p": np.eye(3, dtype=np.float32)})
    found = samples(tmp_path)
    assert [read.record.sample.answer for read in found] == [0, 1, 2, 0, 1, 2]
    assert {name: array.shape for name, array in found[0].inputs.items()} == {"photo": (2, 2)}
    assert found[4].inputs["x"].tolist() == [4, 5, 6, 7]
    assert found[4].outputs["p"].tolist() == [0, 1, 0]
    assert found[4].record.sample.uncertainty == 0.0


def test_alarms_and_how_things_stand_go_along(tmp_path):
    class Monitor:
        def status(self):
            return {"scale": {"short": 1.5}}

    time = Time()
    plan = Plan(quota_mb=1, window=10, status=100)
    with opened(tmp_path, time, plan, monitor=Monitor()) as capture:
        for number in range(900):
            time.now += 1
            alarms = (
                (Alarm("input-shift", "input x: age", 1.5, 700, "it moved", raised=number),) if number > 700 else ()
            )
            capture.offer(*answer(sure=0.75), verdict_of(2.0, 0.25, alarms))
    found = captured(tmp_path / "case")
    status = [read.record.about for read in found if read.record.kind == "status"]
    alarms = [read.record.about["alarm"] for read in found if read.record.kind == "alarm"]
    assert sum(one["seen"] for one in status) == 900
    assert 6 <= len(status) <= 20
    assert status[0]["monitor"] == {"scale": {"short": 1.5}}
    assert status[0]["ood"] == pytest.approx(2.0)
    assert status[0]["classes"] == {"1": status[0]["seen"]}
    assert 1 <= len(alarms) <= 8
    assert (alarms[-1]["kind"], alarms[-1]["raised"]) == ("input-shift", 899)


def test_status_tells_how_each_stratum_draws_and_what_to_expect_of_it(tmp_path):
    dice, time = np.random.default_rng(0), Time()
    plan = Plan(quota_mb=1, window=10, strange=Draw(2, at=1.5), disagreeing=NONE)
    with opened(tmp_path, time, plan) as capture:
        first = capture.status()["strata"]
        assert first["uncertain"] == {"each": 1, "samples": 0, "kept": 0, "share": 0.05, "bound": None}
        assert set(first) == {"random", "uncertain", "out-of-distribution"}
        for _ in range(900):
            time.now += 1
            doubt = 0.6 * dice.random() ** 4
            capture.offer(*answer(dice.random()), Verdict(2 * dice.random(), 0.1, (), doubt))
        capture.flush()
        told = capture.status()["strata"]
    assert (told["random"]["samples"], told["random"]["kept"]) in ((900, 90), (900, 91))
    assert 20 < told["uncertain"]["samples"] < 90
    assert 0.1 < told["uncertain"]["bound"] < 0.2  # the root of how unsure, by the doubt
    assert (told["out-of-distribution"]["share"], told["out-of-distribution"]["bound"]) == (None, 1.5)
    expected = told["uncertain"]["expected"]
    assert expected["wrong"] == pytest.approx(0.54, abs=0.05)
    assert 3.5 < expected["times"] < 5.5 < expected["most"] < 12
    assert told["out-of-distribution"]["expected"]["times"] == pytest.approx(1, abs=0.25)


def test_an_unset_clock_gives_no_times(tmp_path):
    with opened(tmp_path, Time(now=100.0)) as capture:
        capture.offer(*answer())
    assert {read.record.at for read in captured(tmp_path / "case")} == {None}


def test_a_closed_capture_is_quiet(tmp_path):
    capture = opened(tmp_path)
    with pytest.raises(TargetError):
        opened(tmp_path)
    capture.close()
    capture.close()
    capture.offer(*answer())
    capture.flush()
    opened(tmp_path).close()


_APP = """
import sys
import threading
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_capture import answer, opened
capture = opened(Path(sys.argv[2]))
capture.offer(*answer(7.0))
"""


def test_the_end_of_an_app_is_the_end_of_a_window(tmp_path):
    """An app that runs for less than a window each time kept nothing."""
    for _ in range(2):
        subprocess.run([sys.executable, "-c", _APP, Path(__file__).parent, tmp_path], check=True, timeout=120)
    assert [read.inputs["x"].tolist() for read in samples(tmp_path)] == [[7.0] * 4] * 2


def test_a_process_that_was_forked_writes_nothing(tmp_path):
    """It has the lock's descriptor and the open window of its parent, and would write beside it."""
    capture = opened(tmp_path)
    capture.offer(*answer(1.0))
    child = os.fork()
    if not child:
        try:
            capture.offer(*answer(2.0))
            capture.flush()
            capture.close()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert samples(tmp_path) == []
    capture.offer(*answer(3.0))
    capture.close()
    assert {float(read.inputs["x"][0]) for read in samples(tmp_path)} <= {1.0, 3.0}
    assert len(samples(tmp_path)) >= 1


def test_a_child_that_outlives_its_parent_does_not_hold_the_folder(tmp_path):
    """Workers of a server: the lock was theirs too, and the next start found the folder busy."""
    capture = opened(tmp_path)
    capture.offer(*answer(1.0))
    held = capture._lock
    with held:  # as another thread would at that moment
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            capture.offer(*answer(2.0))  # waited for a thread that is not there
            assert capture.status()["forked"] == 1
            os.read(reading, 1)
            os._exit(0)
    capture.close()
    opened(tmp_path).close()
    os.write(writing, b"!")
    assert os.waitpid(child, 0)[1] == 0


def test_a_window_ends_also_where_nothing_more_is_offered(tmp_path):
    """A doorbell rings twice a day: what was drawn waited for the next one, and went with the power."""
    time = Time()
    capture = opened(tmp_path, time)
    capture.offer(*answer(1.0))
    timer = capture._timer
    assert timer.daemon
    assert 60 < timer.interval < 62
    capture._idle()  # not over yet
    assert samples(tmp_path) == []
    time.now += 61
    capture._idle()
    assert len(samples(tmp_path)) == 1
    assert capture._timer is None or capture._timer is not timer
    capture.offer(*answer(2.0))
    capture.close()
    assert capture._timer is None
    capture._idle()
    assert len(samples(tmp_path)) == 2


@pytest.mark.parametrize("again", [False, True])
def test_a_folder_that_is_removed_is_made_again(tmp_path, again):
    time = Time()
    with opened(tmp_path, time) as capture:
        for number in range(4):
            capture.offer(*answer(float(number)))
            time.now += 61
            if number == 1:
                shutil.rmtree(tmp_path / "case")
                if again:
                    (tmp_path / "case").mkdir()
        with pytest.raises(TargetError):
            opened(tmp_path)
    assert [read.inputs["x"][0] for read in samples(tmp_path)] == [1.0, 2.0, 3.0]
    assert capture.status()["bytes"] == taken(tmp_path / "case")


def test_a_disk_that_fails_at_the_end_stops_no_app(tmp_path, monkeypatch):
    capture = opened(tmp_path)
    capture.offer(*answer())

    def fails(handle):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fails)
    capture.close()
    monkeypatch.undo()
    assert any("Input/output" in reason for reason in capture.status())
    opened(tmp_path).close()


def test_nothing_is_written_but_into_its_folder(tmp_path):
    time = Time(step=0.5)
    with opened(tmp_path, time, Plan(quota_mb=0.07, window=5, retention_days=None, sync=1e9)) as capture:
        dice = np.random.default_rng(0)
        for _ in range(150):
            capture.offer(
                {"x": dice.normal(size=(1, 400))}, {"p": np.eye(3)[:1]}, verdict_of(dice.random(), dice.random())
            )
            assert taken(capture.folder) <= 70_000
    assert [path.name for path in tmp_path.iterdir()] == ["case"]
    assert {path.suffix for path in (tmp_path / "case").iterdir()} - {""} == {".segment"}
    assert (tmp_path / "case" / LOCK).stat().st_size == 0


def test_a_disk_that_refuses_does_not_stop_an_app(tmp_path, monkeypatch):
    with opened(tmp_path) as capture:
        capture.offer(*answer())

        def fails(payload):
            raise TargetError("capture-unwritable", "gone")

        monkeypatch.setattr(capture._ring, "append", fails)
        capture.flush()
        assert capture.status()["failed: gone"] >= 1
        monkeypatch.undo()


def test_plans_that_make_no_sense():
    for wrong in ({"window": 0}, {"shadow_share": 0.0}, {"status": -1.0}):
        with pytest.raises(UsageError):
            Plan(**wrong)
    for wrong in ({"each": -1}, {"share": 0.0}):
        with pytest.raises(UsageError):
            Draw(**wrong)


def test_a_name_that_is_none(tmp_path):
    with pytest.raises(UsageError) as refused:
        Capture("No Name", Fake(), root=tmp_path)
    assert refused.value.code == "model-name"


def test_answers_of_other_kinds(tmp_path):
    from edgekit.monitor.answers import Answers

    def read(values, how, shape=(None, 3)):
        model = Fake(how, outputs=(TensorSpec("p", shape, "float32"),))
        return Answers().read(model, {"p": np.asarray(values, np.float32)}, 0)

    logits = read([[2.0, 0.0, 0.0]], Interpret("classification", labels=("cat", "dog", "cow")))
    assert (logits.value, logits.label) == (0.0, "cat")
    assert logits.score == pytest.approx(np.exp(2) / (np.exp(2) + 2))
    assert read([[0.2, 0.7, 0.1]], Interpret("classification")).score == pytest.approx(0.7)
    one = read([[0.2]], Interpret("classification", scores="probabilities"))
    assert (one.value, one.score) == (0.0, pytest.approx(0.8))
    assert read([[-3.0]], Interpret("classification")).score == pytest.approx(1 - 1 / (1 + np.exp(3)))
    assert read([[3.5]], Interpret("regression")).value == 3.5
    assert read(np.zeros((1, 4, 6)), Interpret("detection")).value is None
    assert Answers().read(Fake(), {}, 0).value is None


@pytest.mark.parametrize("size", [4, 200_000])
def test_an_array_that_the_app_uses_again_is_kept_as_it_was(tmp_path, size):
    x, p = answer(1.0)
    frame = np.ones((1, size), np.uint8)
    with opened(tmp_path) as capture:
        capture.offer(x, p, keep={"photo": frame})
        frame[:] = 9
        p["p"][:] = 0
    (read,) = samples(tmp_path)
    assert read.inputs["photo"].tolist() == [1] * size
    assert read.outputs["p"].max() > 0.5


def test_records_come_in_the_order_of_the_stream(tmp_path):
    plan = Plan(quota_mb=1, window=1e9, random=Draw(5), uncertain=Draw(5, at=0.5))
    with opened(tmp_path, plan=plan) as capture:
        for number in range(100):
            capture.offer(*answer(float(number)), verdict_of(0.0, 0.9 if number % 3 == 0 else 0.1))
    numbers = [read.record.sample.number for read in samples(tmp_path)]
    assert len(numbers) >= 8
    assert numbers == sorted(numbers)


def test_from_many_threads_each_sample_is_counted_once(tmp_path):
    threads, each = 8, 300
    usual = sys.getswitchinterval()
    capture = opened(tmp_path, Time(step=0.01), Plan(quota_mb=4, window=1.0, random=Draw(20)))
    start = threading.Barrier(threads)

    def work(base):
        start.wait()
        for number in range(each):
            capture.offer(*answer(float(base * each + number)), verdict_of(0.1, 0.1))

    sys.setswitchinterval(1e-6)
    try:
        workers = [threading.Thread(target=work, args=(base,)) for base in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    finally:
        sys.setswitchinterval(usual)
    capture.close()
    found = samples(tmp_path)
    assert capture.status()["seen"] == threads * each
    assert capture.status()["kept"] == len(found)
    assert len({read.record.sample.number for read in found}) == len(found)
    assert all(len(set(read.inputs["x"].tolist())) == 1 for read in found)
