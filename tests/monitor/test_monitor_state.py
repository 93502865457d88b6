"""A monitor across restarts: what it knew, what it writes, what it does with a file that is not its own."""

from __future__ import annotations

import gc
import os
import select
import signal
import subprocess
import sys

import numpy as np
import pytest

from edgekit.errors import TargetError, UsageError
from edgekit.monitor import state
from edgekit.monitor.build import Builder
from edgekit.monitor.monitor import Monitor
from edgekit.monitor.pace import CALLS, Pace
from edgekit.reading import Interpret
from edgekit.tensors import TensorSpec

ROWS = (TensorSpec("x", (None, 4), "float32"),)
SCORES = (TensorSpec("scores", (None, 3), "float32"),)
HOW = Interpret(task="classification", scores="probabilities")


def stream(number: int, seed: int):
    dice = np.random.default_rng(seed)
    return dice.normal(size=(number, 4)).astype(np.float32), dice.dirichlet(np.ones(3), number).astype(np.float32)


def reference(seed: int = 1):
    builder = Builder(ROWS, SCORES, None, HOW)
    x, scores = stream(400, seed)
    builder.add({"x": x}, {"scores": scores})
    return builder.finish()


@pytest.fixture(scope="module")
def known():
    return reference()


class Clock:
    """Seconds, moved by hand."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def monitor(known, folder, clock=None, **options):
    return Monitor(known, ROWS, SCORES, None, HOW, folder=folder, clock=lambda: 1e9, ticks=clock or Clock(),
                   degrees=lambda: None, **options)  # fmt: skip


def feed(watcher, x, scores, size=1):
    return [
        alarm
        for at in range(0, len(x), size)
        for alarm in watcher.observe({"x": x[at : at + size]}, {"scores": scores[at : at + size]}).alarms
    ]


def test_one_that_restarts_all_the_time_sees_what_one_sees_that_never_does(known, tmp_path):
    x, scores = stream(3000, 2)
    x[1500:, 1] += 0.6
    steady = monitor(known, None)
    expected = feed(steady, x, scores)
    found = []
    for at in range(0, 3000, 70):  # no multiple of a block
        restarted = monitor(known, tmp_path)
        assert restarted.samples == at
        found += feed(restarted, x[at : at + 70], scores[at : at + 70])
        restarted.snapshot()
    assert [(a.kind, a.where, a.raised, a.since) for a in found] == [
        (a.kind, a.where, a.raised, a.since) for a in expected
    ]
    assert expected
    assert restarted.alarms == tuple(found)
    whole, parts = steady.status(), restarted.status()
    assert parts["state"] == {"found": "resumed", "failed": 0}
    assert parts["distances"] == {}  # of the last span's end only
    for scale, figures in whole["scales"].items():
        for name, shift in figures["shifts"].items():
            assert parts["scales"][scale]["shifts"][name] == pytest.approx(shift, abs=0.01)


def test_a_state_whose_open_samples_lack_their_confidence_is_gone_on_with(known, tmp_path):
    """States of before have it of whole blocks only."""
    x, scores = stream(64, 4)
    steady, first = monitor(known, None), monitor(known, tmp_path)
    feed(steady, x, scores)
    feed(first, x[:50], scores[:50])
    first.close()
    about, arrays = state.unpack((tmp_path / "state.npz").read_bytes())
    arrays["rows"][:, -3:] = 0
    (tmp_path / "state.npz").write_bytes(state.pack(about, arrays))
    del first
    gc.collect()
    second = monitor(known, tmp_path)
    assert second.samples == 50
    feed(second, x[50:], scores[50:])
    for name, shift in steady.status()["scales"]["32"]["shifts"].items():
        assert second.status()["scales"]["32"]["shifts"][name] == pytest.approx(shift, abs=0.01)


def test_the_state_of_another_reference_is_not_taken(known, tmp_path):
    first = monitor(known, tmp_path)
    feed(first, *stream(100, 3))
    first.snapshot()
    second = monitor(reference(seed=9), tmp_path)
    assert second.samples == 0
    assert second.status()["state"]["found"] == "of another reference"


@pytest.mark.parametrize("damage", ["cut", "other", "empty", "shape"])
def test_a_damaged_state_is_begun_anew(known, tmp_path, damage):
    first = monitor(known, tmp_path)
    feed(first, *stream(100, 3))
    first.snapshot()
    path = tmp_path / state.NAME
    content = path.read_bytes()
    if damage == "shape":
        about, arrays = state.unpack(content)
        content = state.pack(about, {**arrays, "scan.begun": np.zeros(3)})
    path.write_bytes({"cut": content[:-100], "other": b"not a state", "empty": b"", "shape": content}[damage])
    second = monitor(known, tmp_path)
    assert second.samples == 0
    assert second.status()["state"]["found"].startswith("unreadable")
    feed(second, *stream(100, 3))


def test_of_a_state_that_is_half_unreadable_nothing_stays(known, tmp_path):
    """Its alarms stood, of samples that had not come."""
    first = monitor(known, tmp_path)
    x, scores = stream(640, 3)
    assert feed(first, x + 3, scores)
    first.snapshot()
    about, arrays = state.unpack((tmp_path / state.NAME).read_bytes())
    (tmp_path / state.NAME).write_bytes(state.pack(about, {**arrays, "rows": np.zeros((3, 1, 1))}))
    second = monitor(known, tmp_path)
    assert second.status()["state"]["found"].startswith("unreadable")
    assert (second.samples, second.calls, second.alarms) == (0, 0, ())
    assert second.status()["pace"]["seconds"]["usual"] is None


def test_a_process_that_is_forked_while_a_thread_observes_goes_on(known, tmp_path):
    """The lock was another thread's, which the child has not: it waited for ever, at its exit at the latest."""
    watcher = monitor(known, tmp_path)
    x, scores = stream(4, 3)
    with watcher._lock:
        child = os.fork()
        if not child:
            try:
                feed(watcher, x, scores)
                watcher.close()
                os._exit(0)
            finally:
                os._exit(1)
    for _ in range(600):
        ended, how = os.waitpid(child, os.WNOHANG)
        if ended:
            break
        select.select([], [], [], 0.1)
    else:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert (ended, how) == (child, 0)
    assert not (tmp_path / state.NAME).exists()
    feed(watcher, x, scores)
    assert watcher.samples == 4


def test_what_was_written_before_the_board_was_started_does_not_count_for_ever(tmp_path):
    """Its clock of that time was far ahead of the one since."""
    clock = Clock()
    keeper = state.Keeper(tmp_path, clock)
    keeper.resume({"written": [[clock.now + 1e6, 900_000]], "at": clock.now + 1e6}, 50_000)
    assert keeper.offer(b"x" * 200_000)
    keeper.resume({"written": [[clock.now - 10, 900_000]], "at": clock.now - 5}, 50_000)
    assert not keeper.offer(b"x" * 200_000)


def test_what_is_written_in_an_hour_is_bounded(known, tmp_path):
    """A sample every two seconds for two hours, with a drift that comes and goes."""
    clock, written, path = Clock(), [], tmp_path / state.NAME
    watcher = monitor(known, tmp_path, clock)
    x, scores = stream(3600, 4)
    for at in range(3600):
        clock.now += 2.0
        sample = x[at : at + 1] + (1.0 if at // 300 % 2 else 0.0)
        before = path.stat().st_ino if path.exists() else 0
        watcher.observe({"x": sample}, {"scores": scores[at : at + 1]})
        if path.exists() and path.stat().st_ino != before:
            written.append((clock.now, path.stat().st_size))
    assert len(written) >= 12
    for begin in range(1000, 8200, 100):
        assert sum(size for at, size in written if begin <= at < begin + 3600) <= 1_000_000


def test_a_full_disk_stops_nobody(known, tmp_path, monkeypatch):
    clock = Clock()
    watcher = monitor(known, tmp_path, clock)

    def full(*_: object, **__: object) -> None:
        raise UsageError("output-unwritable", "no space left")

    monkeypatch.setattr("edgekit.files.replace", full)
    for _ in range(3):
        clock.now += 700
        feed(watcher, *stream(32, 5), size=32)
    assert watcher.status()["state"]["failed"] == 3
    with pytest.raises(UsageError):
        watcher.snapshot()


def test_an_app_that_runs_for_a_moment_each_time_is_watched_over_all_of_them(known, tmp_path):
    clock = Clock()
    for number in range(3):
        watcher = monitor(known, tmp_path, clock)
        assert watcher.samples == 40 * number
        feed(watcher, *stream(40, number), size=8)
        watcher.close()
        written = watcher._keeper.spent["written"]
        watcher.close()  # nothing came since
        assert watcher._keeper.spent["written"] == written
        assert len(written) == number + 1


def test_the_budget_is_an_hour_s_whatever_restarts(known, tmp_path, monkeypatch):
    clock, sizes = Clock(), []
    monkeypatch.setattr(state, "BUDGET", 40_000)
    for number in range(20):
        clock.now += 1
        watcher = monitor(known, tmp_path, clock)
        feed(watcher, *stream(40, number), size=8)
        watcher.close()
        sizes.append(sum(size for _, size in watcher._keeper.spent["written"]))
    assert 20_000 < sizes[-1] == max(sizes) <= 40_000
    clock.now += 3601
    feed(watcher, *stream(40, 1), size=8)
    watcher.close()
    assert {at for at, _ in watcher._keeper.spent["written"]} == {clock.now}


def test_in_a_process_a_folder_is_the_latest_monitor_s(known, tmp_path):
    first = monitor(known, tmp_path)
    second = monitor(reference(2), tmp_path)  # a new version came
    feed(second, *stream(40, 3), size=8)
    second.close()
    feed(first, *stream(80, 4), size=8)
    first.close()
    assert monitor(reference(2), tmp_path).samples == 40


OTHER = """
import sys
from pathlib import Path
from edgekit.errors import TargetError
from edgekit.monitor.state import Keeper
try:
    keeper = Keeper(Path(sys.argv[1]))
except TargetError as error:
    print(error.code)
else:
    print("mine", flush=True)
    sys.stdin.read()
"""


def test_a_folder_is_one_process_s_until_that_ends_however_it_ends(known, tmp_path):
    command = [sys.executable, "-c", OTHER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "mine\n"
        with pytest.raises(TargetError) as caught:
            monitor(known, tmp_path)
        assert caught.value.code == "monitor-busy"
        other.kill()
    mine = monitor(known, tmp_path)
    again = monitor(known, tmp_path)
    del mine  # a descriptor that is closed must not end the lock of the other
    gc.collect()
    ask = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
    assert ask.stdout == "monitor-busy\n"
    again._keeper = None
    gc.collect()
    ask = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
    assert ask.stdout == "mine\n"


def test_without_a_folder_there_is_nothing_to_write(known):
    with pytest.raises(UsageError, match="keeps nothing"):
        monitor(known, None).snapshot()


def test_calls_that_become_slow():
    pace = Pace(1e-7, Clock(), lambda: None)
    dice = np.random.default_rng(1)
    usual = [float(value) for value in dice.lognormal(-6, 0.3, 20_000)]
    assert not any(pace.add(seconds, place) for place, seconds in enumerate(usual))
    found = [pace.add(1.6 * seconds, 20_000 + place) for place, seconds in enumerate(usual[:2000])]
    first = next(place for place, finding in enumerate(found) if finding)
    assert first < 20 * CALLS
    assert found[first].kind == "latency"
    assert 1.3 < found[first].amount < 2.0
    assert abs(found[first].since - 20_000) <= 2 * CALLS
    assert not pace.calm["latency"]


def test_a_board_that_becomes_hot():
    clock, heat = Clock(), [45.0]
    pace = Pace(1e-7, clock, lambda: heat[0])

    def looks(number: int, degrees: float):
        heat[0] = degrees
        found = []
        for _ in range(number):
            clock.now += 10
            found.append(pace.look(5))
        return [finding for finding in found if finding]

    assert looks(60, 45.0) == looks(60, 58.0) == []
    assert looks(3, 85.0) == looks(1, 58.0) == []  # a moment is nothing
    (finding, *_) = looks(8, 82.0)
    assert (finding.kind, finding.unit, finding.amount) == ("temperature", "degrees", 37.0)
    assert not pace.calm["temperature"]
    looks(1, 50.0)
    assert pace.calm["temperature"]


def test_a_slow_model_is_told_by_the_monitor(known):
    watcher = monitor(known, None)
    x, scores = stream(CALLS * 40, 6)
    alarms = []
    for at in range(len(x)):
        seconds = 0.001 if at < CALLS * 20 else 0.002
        alarms += watcher.observe({"x": x[at : at + 1]}, {"scores": scores[at : at + 1]}, seconds=seconds).alarms
    (alarm,) = alarms
    assert (alarm.kind, alarm.amount) == ("latency", pytest.approx(2.0))
    for at in range(CALLS * 20):
        watcher.observe({"x": x[at : at + 1]}, {"scores": scores[at : at + 1]}, seconds=0.001)
    assert watcher.alarms == ()
