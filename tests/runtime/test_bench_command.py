"""`edgekit bench` on real engines: figures that cannot be other, never absolute times."""

from __future__ import annotations

import contextlib
import json
import shutil

import pytest

from edgekit import cli
from edgekit.child import Spawned
from edgekit.errors import ArtifactError, UsageError
from edgekit.measure import results
from edgekit.measure.compare import ComparePlan, Contender
from edgekit.measure.sampling import BenchPlan
from edgekit.measure.subject import open_subject
from edgekit.targets import agent, tasks
from edgekit.targets.local import Local

CONTRACT = {
    "latency_ms", "load_ms", "first_ms", "rss_mb", "runs", "threads", "engine", "target", "environment", "valid",
    "notes",
}  # fmt: skip
QUICK = ["--seconds", "0.6", "--runs", "5"]


def bench(capsys, *args):
    code = cli.run(["bench", *map(str, args), "--json"])
    return code, json.loads(capsys.readouterr().out)


@pytest.fixture(scope="module")
def slow(tmp_path_factory):
    """A model that takes several times as long as the artifacts."""
    import numpy as np

    from edgekit.converters.tflite_graphs.builder import Builder

    graph = Builder()
    x = graph.input("image", (1, 32, 32, 2))
    weights = np.random.default_rng(0).normal(size=(16, 3, 3, 2)).astype(np.float32)
    made = graph.conv(x, weights, np.zeros(16, np.float32), "conv")
    file = tmp_path_factory.mktemp("slow") / "slow.tflite"
    file.write_bytes(graph.finish([made], signature="serving_default"))
    return file


@pytest.mark.parametrize("kind", ["int8.tflite", "int8.onnx"])
def test_a_result_has_the_contracts_fields(artifacts, kind, capsys, tmp_path):
    code, seen = bench(capsys, artifacts[kind], *QUICK, "--threads", "1", "-o", tmp_path / "r.json")
    assert code == 0
    assert set(seen) >= CONTRACT
    latency = seen["latency_ms"]
    assert latency["min"] <= latency["p50"] <= latency["p90"] <= latency["p99"] <= latency["max"]
    assert set(seen["intervals_ms"]) == {"p50", "p90", "p95", "p99"}
    assert seen["runs"] >= 5
    assert seen["threads"] == 1
    assert seen["engine"].startswith("litert " if kind.endswith("tflite") else "onnxruntime ")
    assert seen["scenario"]["name"] == "single-stream"
    assert seen["artifact"]["path"] == str(artifacts[kind])
    assert seen["valid"] == (not [note for note in seen["notes"] if "a leak" not in note])
    stored = results.read(tmp_path / "r.json")
    assert stored.latency_ms.p50 == latency["p50"]
    assert sum(block.runs for block in stored.series) == stored.runs


@pytest.mark.parametrize("kind", ["fp32.tflite", "fp32.onnx"])
def test_threads_are_counted_not_believed(artifacts, kind):
    for asked in (1, 2, 3):
        with open_subject(artifacts[kind], threads=asked) as subject:
            assert subject.threads == asked
    with open_subject(artifacts[kind]) as subject:
        assert subject.threads >= 1


def test_multi_stream_hands_over_several_samples(artifacts, capsys):
    code, seen = bench(capsys, artifacts["fp32.onnx"], *QUICK, "--scenario", "multi-stream", "--streams", "4")
    assert code == 0
    assert seen["scenario"]["samples_per_query"] == 4
    assert "99th" in seen["scenario"]["metric"]["name"]
    assert seen["scenario"]["metric"]["value"] >= seen["latency_ms"]["p50"]


def test_offline_counts_samples(artifacts, capsys):
    code, seen = bench(capsys, artifacts["fp32.tflite"], *QUICK, "--scenario", "offline")
    assert code == 0
    found = seen["scenario"]
    assert (found["samples_per_query"], found["queries"]) == (1, seen["runs"])
    assert found["metric"]["unit"] == "samples/s"
    assert 0 < found["metric"]["value"] <= 1000 / seen["latency_ms"]["min"]


def test_server_at_a_rate_and_in_search_of_one(artifacts, capsys):
    file = artifacts["int8.tflite"]
    options = ["--scenario", "server", "--latency-bound", "1000", "--seconds", "0"]
    code, seen = bench(capsys, file, *options, "--rate", "2000")
    assert code == 0
    assert seen["scenario"]["holds"] is True
    assert seen["scenario"]["metric"]["value"] == 2000
    code, seen = bench(capsys, file, *options)
    assert code == 0
    assert len(seen["scenario"]["trials"]) == 7
    assert seen["scenario"]["metric"]["value"] > 0


@pytest.mark.parametrize(
    "options",
    [["--scenario", "server"], ["--rate", "5"], ["--latency-bound", "5"], ["--fail-on-slower"],
     ["--scenario", "server", "--latency-bound", "-1"]],
)  # fmt: skip
def test_options_that_contradict_are_usage_errors(artifacts, capsys, options):
    code, seen = bench(capsys, artifacts["int8.tflite"], *options)
    assert (code, seen["error"]["code"]) == (2, "option-value")


def test_a_slower_model_fails_the_gate(artifacts, slow, capsys):
    quick = artifacts["int8.tflite"]
    code, seen = bench(capsys, slow, *QUICK, "--compare", quick, "--fail-on-slower", "--compare-seconds", "3")
    assert (code, seen["comparison"]["verdict"]) == (6, "slower")
    assert seen["comparison"]["method"] == "interleaved"
    code, seen = bench(capsys, quick, *QUICK, "--compare", slow, "--fail-on-slower", "--compare-seconds", "3")
    assert (code, seen["comparison"]["verdict"]) == (0, "faster")


def test_a_stored_baseline_is_measured_again_while_its_model_is_there(artifacts, slow, capsys, tmp_path):
    baseline, stored = tmp_path / "baseline.tflite", tmp_path / "baseline.json"
    shutil.copy(artifacts["int8.tflite"], baseline)
    assert bench(capsys, baseline, *QUICK, "--threads", "1", "-o", stored)[0] == 0
    options = [*QUICK, "--threads", "1", "--compare", stored, "--compare-seconds", "3"]
    _, seen = bench(capsys, slow, *options)
    assert (seen["comparison"]["method"], seen["comparison"]["verdict"]) == ("interleaved", "slower")
    baseline.unlink()
    _, seen = bench(capsys, slow, *options)
    assert (seen["comparison"]["method"], seen["comparison"]["verdict"]) == ("recorded", "slower")
    assert "weaker" in seen["comparison"]["notes"][0]
    shutil.copy(slow, baseline)  # another model under the same name is not the baseline
    _, seen = bench(capsys, slow, *options)
    assert seen["comparison"]["method"] == "recorded"
    baseline.unlink()
    code, seen = bench(capsys, artifacts["int8.onnx"], *QUICK, "--threads", "1", "--compare", stored)
    assert (code, seen["error"]["code"]) == (3, "results-incomparable")


def test_a_result_that_takes_the_place_of_its_baseline_is_compared_with_it_first(artifacts, slow, capsys, tmp_path):
    today = tmp_path / "today.json"
    assert bench(capsys, artifacts["int8.tflite"], *QUICK, "--threads", "1", "-o", today)[0] == 0
    options = [*QUICK, "--threads", "1", "--compare", today, "-o", today, "--fail-on-slower", "--compare-seconds", "3"]
    code, seen = bench(capsys, slow, *options)
    assert (code, seen["comparison"]["verdict"]) == (6, "slower")
    assert results.read(today).artifact.path == str(slow)


def test_no_output_takes_the_place_of_a_model_or_of_another_output(slow, capsys, tmp_path):
    model, old = tmp_path / "m.tflite", tmp_path / "old.tflite"
    for file in (model, old):
        shutil.copy(slow, file)
    content = model.read_bytes()
    for options in (
        ["-o", model], ["--report", model], ["--compare", old, "-o", old], ["--compare", old, "--report", old],
        ["-o", tmp_path / "x", "--report", tmp_path / "." / "x"],
    ):  # fmt: skip
        code, seen = bench(capsys, model, *QUICK, *options)
        assert (code, seen["error"]["code"]) == (2, "output-is-source"), options
    code, seen = bench(capsys, tmp_path / "no.tflite", "--report", tmp_path / "nowhere" / "x.html")
    assert (code, seen["error"]["code"]) == (2, "output-unwritable"), "it is said before anything is opened"
    assert model.read_bytes() == old.read_bytes() == content
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.tflite", "old.tflite"]


def test_people_get_words(artifacts, capsys):
    file = artifacts["int8.tflite"]
    assert cli.run(["bench", str(file), *QUICK, "--compare", str(file), "--compare-seconds", "0"]) == 0
    out = capsys.readouterr().out
    assert "p50" in out
    assert "% (" in out
    assert "throttled" in out


class Emulated(Local):
    """Runs here, and says that times mean nothing."""

    name = "emulator:test"
    timed = False

    def link(self, log):
        return Spawned(log)


@pytest.fixture
def emulated(monkeypatch):
    monkeypatch.setattr(tasks, "open_target", lambda name, _=None: Emulated() if name == "emulator:test" else Local())


def test_where_times_mean_nothing_the_result_says_so(artifacts, emulated, tmp_path):
    opening = agent.Opening(str(artifacts["int8.tflite"]), threads=1)
    plan = BenchPlan(seconds=0.1, runs=5)
    seen = tasks.bench(opening, plan, target="emulator:test")
    assert not seen.valid
    assert not seen.timed
    assert "mean nothing" in seen.notes[0]
    with pytest.raises(UsageError) as caught:
        tasks.compare(opening, artifacts["int8.tflite"], target="emulator:test")
    assert caught.value.code == "target-untimed"
    results.write(tmp_path / "there.json", seen)
    with pytest.raises(ArtifactError) as refused:
        tasks.compare(opening, tmp_path / "there.json")
    assert refused.value.code == "results-incomparable"


def test_the_library_compares_any_two_calls(artifacts):
    from edgekit.measure import compare

    @contextlib.contextmanager
    def once():
        with open_subject(artifacts["int8.tflite"], threads=1) as subject:
            yield subject.call

    @contextlib.contextmanager
    def thrice():
        with open_subject(artifacts["int8.tflite"], threads=1) as subject:
            yield lambda: [subject.call() for _ in range(3)]

    seen = compare.run(Contender("three", thrice), Contender("one", once), ComparePlan(seconds=2.0))
    assert seen.verdict == "slower"
    assert 2 < seen.ratio < 5
