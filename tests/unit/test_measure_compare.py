"""Comparisons on clocks that we turn: side by side, and against stored results."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import random

import pytest

from edgekit.errors import ArtifactError, MissingFileError, UsageError
from edgekit.measure import compare, results
from edgekit.measure.compare import ComparePlan, Contender, decide, interleaved
from edgekit.measure.recorded import compare_results


class Machine:
    """A clock; engines on it are disturbed as on a shared machine: slow phases, spikes, luck in memory."""

    def __init__(self, seed, noise=0.05):
        self.now = 0
        self.dice = random.Random(seed)
        self.noise = noise
        self.opened = []

    def clock(self):
        return self.now

    def contender(self, name, seconds):
        @contextlib.contextmanager
        def opened():
            self.opened.append(name)
            luck = self.dice.gauss(0, 0.003)

            def call():
                phase = 1.4 if seconds < 0.1 and (self.now // 30_000_000) % 3 == 0 else 1.0  # a neighbor comes and goes
                spike = 4_000_000 if self.dice.random() < 0.002 else 0  # and takes a time slice
                taken = seconds * phase * (1 + luck) * (1 + abs(self.dice.gauss(0, self.noise)))
                self.now += round(1e9 * taken) + spike

            yield call

        return Contender(name, opened)


def drained(steps):
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def compared(seed, new, old, noise=0.05, **plan):
    machine = Machine(seed, noise)
    contenders = machine.contender("new", new), machine.contender("old", old)
    return drained(interleaved(*contenders, ComparePlan(seed=seed, **plan), machine.clock)), machine


def test_equal_engines_are_no_different_however_disturbed():
    verdicts = [compared(seed, 0.0005, 0.0005)[0].verdict for seed in range(12)]
    assert verdicts == ["no difference"] * 12


def test_a_tenth_is_seen_in_both_directions():
    for seed in range(6):
        assert compared(seed, 0.00055, 0.0005)[0].verdict == "slower"
        assert compared(seed, 0.0005, 0.00055)[0].verdict == "faster"


def test_the_estimate_is_right_and_its_interval_holds_it():
    seen, machine = compared(3, 0.00055, 0.0005)
    assert seen.ratio == pytest.approx(1.10, abs=0.015)
    assert seen.low < 1.10 < seen.high
    assert seen.narrow
    assert seen.method == "interleaved"
    assert seen.new_ms / seen.baseline_ms == pytest.approx(1.1, abs=0.05)
    assert sorted(machine.opened) == ["new"] * seen.rounds + ["old"] * seen.rounds, "opened anew in every round"
    assert len({tuple(machine.opened[i : i + 2]) for i in range(0, len(machine.opened), 2)}) == 2, "in either order"
    assert seen.sentence().startswith("slower: +")


def test_a_small_difference_does_not_count():
    seen, _ = compared(1, 0.000505, 0.0005)
    assert seen.verdict == "no difference"
    assert seen.narrow
    seen, _ = compared(1, 0.000505, 0.0005, noise=0.01, effect=0.003, seconds=60.0)
    assert seen.verdict in ("slower", "no difference")
    assert seen.low <= 1.01 <= seen.high


def test_it_gives_up_narrowing_and_says_so():
    class Wild(Machine):
        def contender(self, name, seconds):
            inner = super().contender(name, seconds)

            @contextlib.contextmanager
            def opened():
                luck = self.dice.choice([1.0, 1.5, 2.0])
                with inner.open() as call:

                    def slower():
                        before = self.now
                        call()
                        self.now += round((self.now - before) * (luck - 1))

                    yield slower

            return Contender(name, opened)

    machine = Wild(0)
    contenders = machine.contender("a", 0.001), machine.contender("b", 0.001)
    seen = drained(interleaved(*contenders, ComparePlan(seconds=3.0), machine.clock))
    assert not seen.narrow
    assert seen.verdict == "no difference"
    assert "too disturbed" in seen.sentence()
    assert seen.seconds < 5


def test_slow_models_get_few_pairs_but_enough():
    seen, _ = compared(0, 2.2, 2.0, noise=0.005)
    assert seen.verdict == "slower"
    assert seen.pairs >= compare.LEAST_PAIRS * compare.LEAST_ROUNDS


def test_verdicts_need_the_whole_interval_beyond_the_effect():
    assert decide(0.031, 0.2, 0.03) == "slower"
    assert decide(0.029, 0.2, 0.03) == "no difference"
    assert decide(-0.2, -0.031, 0.03) == "faster"
    assert decide(-0.2, 0.2, 0.03) == "no difference"


@pytest.mark.parametrize("options", [{"effect": 0.0}, {"effect": 1.0}, {"seconds": -1.0}])
def test_plans_refuse_nonsense(options):
    with pytest.raises(ValueError, match="effect"):
        ComparePlan(**options)


MACHINE = {"machine": "aarch64", "board": "Raspberry Pi 4", "cpu": "Cortex-A72", "cores": 4, "memory_mb": 3800}


def result(seed=0, speed=1.0, state=1.0, blocks=40, **changes):
    """A result of `bench` whose machine is `state` times slower and whose model is `speed` times slower."""
    dice = random.Random(seed)
    series = []
    for i in range(blocks):
        phase = state * dice.choice([1.0, 1.0, 1.3])
        times = tuple(2.0 * speed * phase * (1 + abs(dice.gauss(0, 0.03))) for _ in range(25))
        marked = 0.4 * phase * (1 + abs(dice.gauss(0, 0.02)))
        series.append(results.Block(0.05 * i, 25, sorted(times)[12], marked, times))
    every = sorted(taken for block in series for taken in block.times_ms)
    latency = results.Latency(every[0], every[len(every) // 2], every[-90], every[-9], every[-1], 2.0, every[-45])
    metric = results.Metric("90th percentile latency", latency.p90, "ms")
    made = results.Bench(
        latency, 12.0, 3.0, 40.0, len(every), 24, 1, "litert 2.3.0", "local", MACHINE, True,
        {"p50": results.Interval(1.9)}, results.Memory(20.0, 38.0, 40.0, 0.0, 0, 0.0, False),
        results.Scenario("single-stream", metric, 1, len(every)),
        series=tuple(series),
    )  # fmt: skip
    return dataclasses.replace(made, **changes)


def test_a_slower_machine_is_no_slower_model():
    for seed in range(10):
        seen = compare_results(result(seed, state=1.5), result(seed + 100))
        assert seen.verdict == "no difference", seen
        assert seen.ratio == pytest.approx(1, abs=0.03)
        assert seen.method == "recorded"


def test_a_slower_model_is_slower_whatever_the_machine():
    for seed in range(5):
        assert compare_results(result(seed, speed=1.15, state=0.8), result(seed + 100)).verdict == "slower"
        assert compare_results(result(seed, speed=0.85, state=1.3), result(seed + 100)).verdict == "faster"


def test_it_says_that_stored_times_are_weaker():
    seen = compare_results(result(valid=False, notes=("the board was hot",), engine="litert 2.4.0"), result(1))
    assert "weaker" in seen.notes[0]
    assert any("the board was hot" in note for note in seen.notes)
    assert any("from litert 2.3.0 to litert 2.4.0" in note for note in seen.notes)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"environment": MACHINE | {"cpu": "Cortex-A76"}}, "cpu: Cortex-A72 then, Cortex-A76 now"),
        ({"engine": "onnxruntime 1.2"}, "engine: litert then, onnxruntime now"),
        ({"threads": 4}, "threads: 1 then, 4 now"),
        ({"timed": False, "target": "emulator:raspberry-pi-4b"}, "emulator:raspberry-pi-4b, where times mean nothing"),
        ({"series": ()}, "0 blocks"),
        ({"scenario": results.Scenario("offline", results.Metric("throughput", 5.0, "samples/s"), 4, 40)}, "offline"),
    ],
)
def test_what_cannot_be_compared_is_refused(changes, word):
    with pytest.raises(ArtifactError) as caught:
        compare_results(result(0, **changes), result(1))
    assert caught.value.code == "results-incomparable"
    assert word in caught.value.message


def test_no_effect_is_a_usage_error():
    with pytest.raises(UsageError) as caught:
        compare_results(result(0), result(1), effect=0.0)
    assert caught.value.code == "option-value"


def test_results_go_into_files_and_back(tmp_path):
    made = result(0, artifact=results.Measured("/m.tflite", "ab", 5), created="2026-01-01T00:00:00+00:00")
    results.write(tmp_path / "r.json", made)
    stored = json.loads((tmp_path / "r.json").read_text())
    assert (stored["schema"], stored["version"]) == ("edgekit-bench", 1)
    contract = "latency_ms load_ms first_ms rss_mb runs threads engine target environment valid notes"
    assert set(contract.split()) <= set(stored)
    assert results.read(tmp_path / "r.json") == made
    assert "series" not in results.document(made, series=False)


def test_numbers_that_json_lacks_become_null(tmp_path):
    made = result(0, environment=MACHINE | {"odd": [float("nan"), float("inf"), 1.0]})
    results.write(tmp_path / "r.json", made)
    assert results.read(tmp_path / "r.json").environment["odd"] == [None, None, 1.0]


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "5", "{}", '{"schema": "edgekit-bench"}', '{"schema": "edgekit-bench", "version": 2}',
     '{"schema": "edgekit-bench", "version": 1, "latency_ms": 5}', '{"schema": "other", "version": 1}',
     "[" * 100_000, "\udcff"],
)  # fmt: skip
def test_other_files_are_refused(tmp_path, text):
    file = tmp_path / "r.json"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ArtifactError) as caught:
        results.read(file)
    assert caught.value.code == "result-unknown"


def test_a_missing_baseline_is_a_missing_file(tmp_path):
    with pytest.raises(MissingFileError):
        results.read(tmp_path / "no.json")
