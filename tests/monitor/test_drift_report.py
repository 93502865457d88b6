"""Boards and time in one document, and on one page."""

from __future__ import annotations

import json

import numpy as np
import pytest
from capture_case import Fake, Time

from edgekit import cli
from edgekit.collect import collect, dataset, drift
from edgekit.collect.drift import summary
from edgekit.errors import UsageError
from edgekit.manifest import Interpret
from edgekit.monitor.alarm import Alarm, Verdict
from edgekit.monitor.build import Builder
from edgekit.monitor.capture import Capture, Plan
from edgekit.monitor.monitor import Monitor
from edgekit.monitor.strata import Draw
from edgekit.tensors import TensorSpec

NAMES = ("left", "right", "up")
COUNT = 1200


def board(root, seed, drifts, name="turns"):
    """A stream of which a tenth is answered wrongly, mostly where it is uncertain; x tells the truth."""
    dice, time = np.random.default_rng(seed), Time()
    model = Fake(Interpret("classification", labels=NAMES, scores="probabilities"))
    plan = Plan(quota_mb=4, window=40, status=200, uncertain=Draw(2, at=0.4), random=Draw(2))
    wrong = 0
    with Capture(name, model, plan, root=root, seed=seed, clock=time.clock) as capture:
        for number in range(COUNT):
            time.now += 1
            truth, uncertain = int(dice.integers(3)), dice.random() < 0.15
            false = dice.random() < (0.5 if uncertain else 0.03)
            wrong += false
            answer = (truth + false) % 3
            sure = 0.5 if uncertain else 0.9
            scores = np.full((1, 3), (1 - sure) / 2, np.float32)
            scores[0, answer] = sure
            x = np.array([[truth, number, seed, 0]], np.float32)
            alarms = (Alarm("input-shift", "input x: 0", 2.0, 900, "x moved", raised=number),) if number == 950 else ()
            strange = 3.0 if drifts and number > 900 else 0.1
            capture.offer({"x": x}, {"p": scores}, Verdict(strange, 1 - sure, alarms if drifts else ()))
    return wrong / COUNT


@pytest.fixture(scope="module")
def collected(tmp_path_factory):
    """(dataset, error rate of the streams)"""
    folder = tmp_path_factory.mktemp("drift")
    wrong = np.mean([board(folder / name, seed, seed == 2) for seed, name in ((1, "kitchen"), (2, "hall"))])
    out = folder / "data"
    collect([str(folder / "kitchen"), str(folder / "hall")], out)
    return out, float(wrong)


def labelled(out):
    with np.load(out / "unlabelled" / "data.npz") as stored:
        truth = {key: NAMES[int(x[0])] for key, x in zip(stored["id"].tolist(), stored["x"], strict=True)}
    collect([], out, labels=truth)


def test_alarms_boards_and_time(collected):
    out, _ = collected
    document = summary([out])
    kitchen, hall = document["boards"]
    assert kitchen["called"].endswith("kitchen") or hall["called"].endswith("kitchen")
    struck = [one for one in document["boards"] if one["alarms"]]
    assert [one["called"].rpartition("/")[2] for one in struck] == ["hall"]
    assert [alarm["message"] for alarm in document["alarms"]] == ["x moved"]
    assert document["seen"] == 2 * COUNT
    for one in document["boards"]:
        assert sum(point["seen"] for point in one["series"]) == COUNT
        assert len(one["series"]) >= 5
        assert sum(one["classes"].values()) == COUNT
        assert set(one["classes"]) == set(NAMES)
    late = struck[0]["series"][-1]["ood"]
    assert late > 5 * struck[0]["series"][0]["ood"]
    assert document["accuracy"] is None


def test_weights_undo_what_was_drawn_more_often(collected, tmp_path):
    """Of what is captured a third is wrong, of the stream a tenth; the labels and the weights tell the latter."""
    out, wrong = collected
    labelled(out)
    document = summary([out])
    entries = dataset.read(out).samples
    captured_wrong = np.mean([entry.label != entry.answer for entry in entries])
    assert captured_wrong > 2 * wrong
    accuracy = document["accuracy"]
    assert accuracy["low"] < 1 - wrong < accuracy["high"]
    assert abs(accuracy["estimate"] - (1 - wrong)) < 0.06
    assert accuracy["labelled"] == document["labelled"] == len(entries)
    shares = {row["stratum"]: row["wrong"] for row in document["strata"]}
    assert shares["uncertain"] > 3 * shares["random"]
    page = tmp_path / "drift.html"
    assert cli.run(["drift", "report", str(out), "-o", str(page)]) == 0
    text = page.read_text()
    assert "1 of 2 boards raised alarms" in text
    assert "x moved" in text
    assert text.count("<svg") == 2


def test_the_command(collected, tmp_path, capsys):
    out, _ = collected
    assert cli.run(["drift", "report", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "turns"
    assert cli.run(["drift", "report", str(out)]) == 2
    assert cli.run(["drift", "report", str(tmp_path), "--json"]) == 2
    board(tmp_path / "other", 3, drifts=False, name="other")
    collect([str(tmp_path / "other")], tmp_path / "others")
    with pytest.raises(UsageError) as refused:
        summary([out, tmp_path / "others"])
    assert refused.value.code == "collect-names"


def test_what_the_monitors_say_comes_home_and_stands_on_the_page(tmp_path):
    """Sixty columns: the whole status has 40 kB, and never fitted in a record."""
    from edgekit import report

    dice, time = np.random.default_rng(0), Time()
    how = Interpret("classification", labels=NAMES, scores="probabilities")
    model = Fake(how, inputs=(TensorSpec("x", (None, 60), "float32"),))
    x, p = dice.normal(size=(400, 60)).astype(np.float32), dice.dirichlet(np.ones(3), 400).astype(np.float32)
    builder = Builder(model.inputs, model.outputs, None, how)
    builder.add({"x": x}, {"p": p})
    builder.judge({"x": x}, {"p": p}, p.argmax(1))
    monitor = Monitor(builder.finish(), model.inputs, model.outputs, None, how)
    x[:, 7] += 3
    with Capture("turns", model, Plan(status=200), root=tmp_path / "hall", clock=time.clock) as capture:
        capture.watched_by(monitor)
        for at in range(400):
            time.now += 1
            feeds, answers = {"x": x[at : at + 1]}, {"p": p[at : at + 1]}
            capture.offer(feeds, answers, monitor.observe(feeds, answers))
    collect([str(tmp_path / "hall")], tmp_path / "data")
    (board,) = (document := summary([tmp_path / "data"]))["boards"]
    told = board["monitor"]
    assert told["samples"] == 400
    assert {"input x: value 7", "distance from the reference"} <= set(list(told["moved"])[:3]), "its residual is one"
    assert told["moved"]["input x: value 7"] > 2
    assert "unfamiliar" in {alarm["kind"] for alarm in told["alarms"]}
    assert 0 <= told["accuracy"]["low"] <= told["accuracy"]["estimate"] <= told["accuracy"]["high"] <= 1
    assert board["series"][-1]["monitor"]["over"] == 256
    text = report.render(document, "drift")
    assert "What the monitors say" in text
    assert "input x: value 7 +" in text


def test_few_samples_of_much_weight_tell_little():
    """Kish: of one that stands for a thousand and fifty that stand for one each, it is one that counts."""

    def entry(number, weight, label):
        return dataset.Entry(str(number), 1, weight, ("b",), ("random",), "v", label, answer="a", score=0.9)

    even = drift._accuracy([entry(number, 1.0, "a" if number < 40 else "b") for number in range(50)])
    odd = drift._accuracy([entry(99, 1000.0, "a"), *(entry(number, 1.0, "b") for number in range(50))])
    assert (even["estimate"], even["effective"]) == (0.8, 50)
    assert 0.1 < even["high"] - even["low"] < 0.25
    assert odd["estimate"] == pytest.approx(1000 / 1050)
    assert odd["effective"] == pytest.approx(1050**2 / (1000**2 + 50))
    assert odd["high"] - odd["low"] > 0.7


def test_the_whole_status_of_a_board_of_a_version_before_is_read_as_well(tmp_path):
    from edgekit.collect.drift import _told
    from edgekit.report.drift import _advised
    from edgekit.report.drift import _told as told_words

    right = {"estimate": 0.9, "low": 0.8, "high": 0.95, "reference": 0.9, "level": 0.9, "note": None}
    scale = {"shifts": {"a": 0.1, "b": -2.0}, "accuracy": right}
    status = {"samples": 300, "passed_over": 0, "alarms": [], "pace": {"seconds": {}},
              "scales": {"32": scale, "16384": {"shifts": {"a": 9.0}, "accuracy": None}}}  # fmt: skip
    told = _told({"monitor": status})
    assert told is not None
    assert (told["samples"], told["over"], list(told["moved"])) == (300, 32, ["b", "a"])
    assert told_words(told["accuracy"]) == "90 (80 to 95)"
    assert told_words({**told["accuracy"], "answered": False}) == "80 to 95"
    assert _advised(told) is None
    assert "about 490 samples of the random stratum" in _advised({**told, "accuracy": {**right, "answered": False}})
    assert _advised({**told, "accuracy": None, "unestimated": "no classes"}) == "no classes"
    assert _advised({**told, "accuracy": None}) is None  # not that many samples yet
    assert _told({"monitor": {}}) is None


def test_a_board_whose_clock_was_never_set(tmp_path):
    from edgekit import report

    with Capture("turns", Fake(), Plan(quota_mb=1, status=5, window=2), root=tmp_path / "c",
                 clock=(time := Time(now=50.0)).clock) as capture:  # fmt: skip
        for _ in range(40):
            time.now += 1
            capture.offer({"x": np.zeros((1, 4))}, {"p": np.eye(3)[None, 0]}, Verdict(0.5, 0.1))
    collect([str(tmp_path / "c")], tmp_path / "data")
    text = report.render(summary([tmp_path / "data"]), "drift")
    assert "clock not set" in text
    assert "samples seen" in text


def test_a_bad_board_among_many_is_named_first_and_drawn(tmp_path):
    """Fifty boards over three weeks, a moment every quarter of an hour: the page is one that a phone opens."""
    from edgekit.collect.drift import _coarse, _standing
    from edgekit.report import drift as page

    alarm = {"kind": "input-shift", "message": "x moved", "at": 1.79e9, "board": "b37"}

    def moment(at):
        last = at == 2015  # of one sample, when the app ended
        return {"at": 1.79e9 + 900 * at, "seen": 1 if last else 30, "until": 30 * at, "ood": 9.0 if last else 0.1,
                "uncertainty": None if at % 2 else 0.2, "classes": {"left": 30}, "version": "a",
                "monitor": None}  # fmt: skip

    def one(number, bad):
        stands = [alarm] if bad else []
        told = {"alarms": stands, "accuracy": None, "moved": {}, "samples": 9, "at": None}
        return {"called": f"b{number}", "alarms": stands, "seen": 60_480, "captures": 5, "first": 1.79e9,
                "last": 1.791e9, "classes": {"left": 60_480}, "versions": ["a"], "monitor": told,
                "series": _coarse([moment(at) for at in range(2016)], 48)}  # fmt: skip

    boards = sorted((one(number, number == 37) for number in range(50)), key=_standing, reverse=True)
    for board in boards:
        assert len(board["series"]) == 48
        assert sum(point["seen"] for point in board["series"]) == 30 * 2015 + 1
        assert board["series"][0]["uncertainty"] == 0.2
        assert board["series"][-1]["classes"] == {"left": 30 * 42}
        assert board["series"][-1]["ood"] < 0.2
    document = {"name": "turns", "boards": boards, "alarms": [alarm], "seen": 1, "samples": 1, "labelled": 0,
                "accuracy": None, "strata": []}  # fmt: skip
    _, parts = page.sections(document)
    text = "".join(parts)
    assert "1 of 50 boards raised alarms; they stand on b37." in text
    assert "Drawn are 12 of 50 boards, those with alarms first." in text
    assert text.index(">b37<") < text.index(">b0<")
    assert "b37" in text[text.index("<svg") : text.index("</svg")]
