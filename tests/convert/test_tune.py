"""`tune` on real models and engines: the front of trying everything, nothing repeated after a kill, the command."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from residual_nets import answers, images, observe, saved

from edgekit import artifact as artifacts
from edgekit import report
from edgekit.cli import run as cli
from edgekit.converters import quantizers
from edgekit.converters.stages import Graph, QuantizeOptions
from edgekit.device_profiles import load_profile
from edgekit.errors import LimitError, UsageError
from edgekit.formats import read_facts
from edgekit.gate import check
from edgekit.options import Options
from edgekit.precision import precisions
from edgekit.tune import evaluate, execute, space
from edgekit.tune import front as fronts
from edgekit.tune.cache import Cache
from edgekit.tune.front import Wanted
from edgekit.tune.search import Convert, Found, Measure, search
from edgekit.tune.trial import Cost, Made, Recipe, Refused, Setting, Trial
from edgekit.tune.tuner import Plan, tune

pytest.importorskip("ai_edge_quantizer", reason="comes with the convert extra")

BOARD = "raspberry-pi-4b"


# -- The front, on a real small model ------------------------------------------------------------------------------


class Bench:
    """Real conversions, judged by the real engines; what they take on a board is predicted, so that it repeats."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.graphs = {format: saved(format, folder, spread=8.0) for format in ("tflite", "onnx")}
        self.paths: dict[str, Path] = {}
        self.profile = load_profile(BOARD)
        self.counted = 0
        self._known: dict[Any, Any] = {}

    def do(self, job: Any) -> Made | Cost:
        self.counted += 1
        key = (job.recipe.label,) if isinstance(job, Convert) else (job.made.work, job.setting)
        if key not in self._known:
            self._known[key] = self._convert(job.recipe) if isinstance(job, Convert) else self._measure(job)
        result: Made | Cost = self._known[key]
        return result

    def _convert(self, recipe: Recipe) -> Made:
        graph = self.graphs[recipe.format]
        precision = precisions.get(recipe.precision)
        made: Graph = graph
        if precision.name != "fp32":
            seen = observe(graph, **{"observer": precision.observer, **recipe.variant})
            path = self.folder / f"made.{recipe.format}"
            quantize = quantizers.get(recipe.format).quantize
            made = quantize(graph, seen if precision.calibrated else None, precision, QuantizeOptions(), path)
        data = Path(made.path).read_bytes()
        opened = artifacts.from_bytes(data)
        kept = self.folder / f"{opened.sha256}.{recipe.format}"
        kept.write_bytes(data)
        self.paths[opened.sha256] = kept
        feeds = images(graph, 400)
        same = answers(graph, feeds).argmax(1) == answers(replace(made, path=str(kept)), feeds).argmax(1)
        loss = round(100 * float(1 - same.mean()), 2)
        return Made(opened.sha256, len(data), loss, "agreement points", evaluate.work(read_facts(opened)))

    def _measure(self, job: Measure) -> Cost:
        facts = read_facts(artifacts.read(self.paths[job.made.sha256]))
        verdict = check(facts, None, self.profile, threads=job.setting.threads, engine=job.setting.engine)
        latency = verdict.latency_ms["estimate"]
        assert latency is not None
        return Cost(latency, verdict.memory_mb["estimate"] or 0.0, "predicted")


def test_the_front_of_a_real_model_with_few_evaluations(tmp_path):
    tried = space.build(("tflite", "onnx"), calibrated=True, threads=(1, 2, 4), observers=("minmax", "percentile"))
    # The net is too small for dynamic ONNX, and repairs come before what is done here; and a few observers more.
    able = [recipe for recipe in tried.recipes if "repairs" not in recipe.variant]
    recipes = [recipe for recipe in able if (recipe.format, recipe.precision) != ("onnx", "dynamic")]
    recipes += [
        Recipe(format, precision, {"observer": "percentile", "percentile": percent})
        for format, precision, percent in itertools.product(tried.settings, ("int8", "int16x8"), (99.0, 99.9))
    ]
    tried = replace(tried, recipes=tuple(recipes))
    bench = Bench(tmp_path)
    trials = []
    for recipe in tried.recipes:
        made = bench.do(Convert(recipe))
        assert isinstance(made, Made)
        for setting in tried.settings[recipe.format]:
            cost = bench.do(Measure(made, recipe.format, setting))
            assert isinstance(cost, Cost)
            trials.append(Trial(recipe, setting, made, cost))
    assert bench.counted == tried.evaluations
    bench.counted = 0
    found = Found()
    steps = search(tried, Wanted(), found)
    results: Any = None
    try:
        while True:
            results = [bench.do(job) for job in steps.send(results)]
    except StopIteration:
        pass
    whole = {fronts.of(trial.made, trial.cost) for trial in fronts.front(trials)}
    assert {fronts.of(trial.made, trial.cost) for trial in found.front()} == whole
    assert bench.counted <= 0.4 * tried.evaluations, f"{bench.counted} of {tried.evaluations}"


# -- The cache -----------------------------------------------------------------------------------------------------


def test_results_survive_and_torn_ones_do_not_count(tmp_path):
    cache = Cache(tmp_path)
    digest = cache.keep(b"a model", "tflite")
    made = Made(digest, 7, 0.5, "points", "w", {"top1": 90.0}, ("CONV_2D (a): float",))
    for key, result in (("a", made), ("b", Cost(1.0, 20.0, "measured")), ("c", Refused("code", "said", mendable=True))):
        cache.put(key, result)
        assert Cache(tmp_path).get(key) == result
    assert cache.get("d") is None
    cache.artifact(digest).write_bytes(b"another")
    assert cache.get("a") is None
    (tmp_path / "b.json").write_text('{"kind": "cost"')
    assert cache.get("b") is None


def test_a_cache_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UsageError, match="cannot be made") as caught:
        Cache(tmp_path / "file" / "tune")
    assert caught.value.code == "output-unwritable"


def test_the_cache_is_where_the_environment_says(job, tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("HOME", "/proc/none")
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "file"))
    with pytest.raises(UsageError) as caught:
        tune(job["model"], Options(evaluation=job["data"], device=BOARD), Plan(budget=1))
    assert caught.value.code == "output-unwritable"
    assert str(tmp_path / "file" / "tune") in caught.value.message


def test_keys_tell_what_decides_a_result(tmp_path):
    model, data = tmp_path / "m.onnx", tmp_path / "d.npz"
    model.write_bytes(b"m")
    data.write_bytes(b"1")
    options = Options(to="onnx", evaluation=data, device=BOARD)
    job = Convert(Recipe("onnx", "int8"))

    def key(options: Options, job: Any = job, sha256: str = "s", seconds: float = 1.0) -> str:
        place = evaluate.Place("local", None, seconds)
        return execute.work(model, sha256, options, place).key(job)

    first = key(options)
    assert key(options) == first
    assert key(replace(options, output=tmp_path / "x.onnx", time_limit=5.0)) == first
    # Trials take one thread of the engine, whatever is said: artifacts do not hang on where they were made.
    assert key(replace(options, threads=8)) == first
    order = evaluate.Order(str(model), "s", job.recipe, replace(options, threads=8))
    assert evaluate._options(order).threads == 1
    copy = tmp_path / "same.npz"
    copy.write_bytes(b"1")
    assert key(replace(options, evaluation=copy)) == first
    changed = [
        key(replace(options, max_drop=0.2)),
        key(replace(options, seed=1)),
        key(options, sha256="t"),
        key(options, Convert(Recipe("onnx", "int8", {"observer": "minmax"}))),
        key(options, Convert(Recipe("tflite", "int8"))),
    ]
    data.write_bytes(b"2")
    changed.append(key(options))
    assert len({first, *changed}) == 7
    measured = Measure(Made("a", 1, 0, "points", "w"), "onnx", Setting("onnxruntime", 1))
    assert key(options, measured) != key(options, measured, seconds=2.0)


def test_keys_tell_the_code_behind_a_network_and_what_stands_in_place_of_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    parts = {"mine/__init__.py": "", "mine/net.py": "import numpy\nfrom .parts import block\nimport other\n",
             "mine/parts.py": "def block(): ...\n", "other.py": "from space import deep\n", "space/deep.py": "a = 1\n",
             "stranger.py": "a = 1\n"}  # fmt: skip
    (tmp_path / "space").mkdir()
    for name, text in parts.items():
        (tmp_path / name).write_text(text)
    options = Options(to="onnx", device=BOARD, model="mine.net:small")

    def key(options: Options = options) -> str:
        place = evaluate.Place("local", None)
        return execute.work(tmp_path, "s", options, place).key(Convert(Recipe("onnx", "int8")))

    first = key()
    for name, text in parts.items():
        (tmp_path / name).write_text(text + "b = 2\n")
        assert (key() == first) == (name == "stranger.py"), name
        (tmp_path / name).write_text(text)
        assert key() == first
    said = [replace(options, metadata={"interpret": {"task": task}}) for task in ("classification", "regression")]
    said += [replace(options, labels=labels) for labels in (("a", "b"), ("b", "a"))]
    assert len({first, *map(key, said)}) == 5
    assert key(said[0]) == key(said[0])
    arrays = [replace(options, evaluation={"x": np.full((4, 2), value)}) for value in (0, 1)]
    assert key(arrays[0]) != key(arrays[1])


# -- The whole way -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("tune")
    graph = saved("onnx", folder, spread=1.0)
    np.savez(folder / "data.npz", image=images(graph, 60)["image"])
    return {"model": Path(graph.path), "data": folder / "data.npz", "folder": folder}


def asked(job: dict[str, Path], *more: str, out: str = "best.onnx") -> list[str]:
    folder = job["folder"]
    data = ["--eval", job["data"], "--calibration", job["data"]]
    said = ["tune", job["model"], "--device", BOARD, *data, "-o", folder / out]
    limits = ["--max-drop", "5", "--precisions", "fp32,int8", "--observers", "minmax", "--threads", "1,2"]
    return [*map(str, said), *limits, *more]


def test_tune_writes_the_best_and_remembers(job, capsys):
    folder, page = job["folder"], job["folder"] / "page.html"
    cache = ["--cache", str(folder / "cache"), "--formats", "onnx"]
    arguments = asked(job, *cache, "--goal", "size", "--json")
    assert cli(arguments) == 0
    document = json.loads(capsys.readouterr().out)
    chosen = document["chosen"]
    assert chosen["bytes"] == (folder / "best.onnx").stat().st_size or chosen["path"] == str(folder / "best.onnx")
    assert artifacts.read(folder / "best.onnx").manifest.precision == chosen["precision"]
    assert chosen["basis"] == "predicted"
    assert document["complete"]
    assert chosen["sha256"] in {trial["sha256"] for trial in document["front"]}
    assert chosen["bytes"] == min(trial["bytes"] for trial in document["front"])
    assert document["evaluations"]["conversions"] >= 2
    # Again: nothing is done twice, and the answer is the same.
    assert cli([*arguments, "--report", str(page)]) == 0
    again = json.loads(capsys.readouterr().out)
    counts = again.pop("evaluations")
    assert (counts["conversions"], counts["measurements"]) == (0, 0)
    assert counts["remembered"] > 0
    document.pop("evaluations")
    assert again == document
    assert "The front" in page.read_text()
    # Another goal takes the same trials.
    assert cli(asked(job, *cache, "--goal", "latency")) == 0
    assert "0 conversions, 0 measurements" in capsys.readouterr().out


def test_only_what_is_kept_is_described(job, monkeypatch):
    """Describing evaluation data with labels takes seconds, and no trial needs it."""
    asked_for = []
    real = evaluate.run

    def run(source, options, *more):
        asked_for.append((options.precision, options.reference))
        return real(source, options, *more)

    monkeypatch.setattr(evaluate, "run", run)
    options = Options(evaluation=job["data"], calibration=job["data"], device=BOARD, max_drop=5)
    one = Plan(formats=("onnx",), precisions=("fp32", "int8"), observers=("minmax",), threads=(1,),
               wanted=Wanted("size"), cache=job["folder"] / "described")  # fmt: skip
    tuned = tune(job["model"], options, one)
    assert [described for _, described in asked_for] == [*[False] * (len(asked_for) - 1), True]
    assert asked_for[-1][0] == tuned.chosen.recipe.precision == "int8"
    assert tuned.artifact.reference
    assert tuned.chosen.made.sha256 == tuned.artifact.sha256
    assert tuned.chosen in tuned.front
    assert tuned.evaluations["conversions"] == len(asked_for) - 1
    others = [trial.made.sha256 for trial in tuned.trials if trial != tuned.chosen]
    cache = Cache(job["folder"] / "described")
    assert all(artifacts.read(cache.artifact(sha256)).reference is None for sha256 in others)
    # Again: it is remembered as well. Without the reference the trial's own artifact is what is kept.
    done = len(asked_for)
    tune(job["model"], options, one)
    bare = tune(job["model"], replace(options, reference=False), one)
    assert bare.artifact.reference is None
    assert len(asked_for) == done
    between = replace(one, wanted=Wanted("size", size_mb=(bare.chosen.made.bytes + 100) / 1e6))
    with pytest.raises(LimitError, match="with the reference of its data"):
        tune(job["model"], options, between)


def test_a_layer_to_watch_is_in_what_is_kept_and_an_unknown_one_ends_it_at_once(job, monkeypatch, capsys):
    asked_for = []
    real = evaluate.run

    def run(source, options, *more):
        asked_for.append((options.reference, options.embedding))
        return real(source, options, *more)

    monkeypatch.setattr(evaluate, "run", run)
    layer = "b2/conv"
    options = Options(evaluation=job["data"], calibration=job["data"], device=BOARD, max_drop=5, embedding=layer)
    one = Plan(formats=("onnx",), precisions=("fp32", "int8"), observers=("minmax",), threads=(1,),
               wanted=Wanted("size"), cache=job["folder"] / "watched")  # fmt: skip
    tuned = tune(job["model"], options, one)
    assert tuned.artifact.manifest.interpret.embedding
    assert set(asked_for) == {(True, layer), (False, None)}
    asked_for.clear()
    assert cli(asked(job, "--cache", str(job["folder"] / "unknown"), "--embedding", "nowhere", "--json")) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "embedding-unknown"
    assert len(asked_for) == 1


def test_a_budget_stops_and_the_next_run_goes_on(job, capsys):
    more = ["--cache", str(job["folder"] / "budget"), "--formats", "onnx", "--json"]
    # The first run may convert twice, which is not enough to measure anything.
    assert cli(asked(job, *more, "--budget", "2")) == 6
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "tune-no-fit"
    assert cli(asked(job, *more)) == 0
    assert json.loads(capsys.readouterr().out)["evaluations"]["remembered"] == 2


def test_killed_and_resumed_loses_nothing(job):
    cache = job["folder"] / "killed"
    arguments = [sys.executable, "-m", "edgekit", *asked(job, "--cache", str(cache), "--formats", "onnx", "--json")]
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not list(cache.glob("*.json")):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = {path: path.stat().st_mtime_ns for path in cache.glob("*.json")}
    assert finished
    done = subprocess.run(arguments, capture_output=True, text=True, check=True, env={**os.environ})
    counts = json.loads(done.stdout)["evaluations"]
    assert counts["remembered"] == len(finished)
    assert all(path.stat().st_mtime_ns == when for path, when in finished.items())


def test_limits_that_nothing_holds_name_the_nearest(job):
    options = Options(evaluation=job["data"], device=BOARD, max_drop=5)
    one = Plan(formats=("onnx",), precisions=("fp32",), threads=(1,), cache=job["folder"] / "cache")
    with pytest.raises(LimitError, match="nearest is onnx fp32") as error:
        tune(job["model"], options, replace(one, wanted=Wanted(size_mb=1e-6)))
    assert error.value.code == "tune-no-fit"


def test_measures_on_a_target(job):
    options = Options(evaluation=job["data"], max_drop=5)
    one = Plan(formats=("onnx",), precisions=("fp32",), threads=(1,), cache=job["folder"] / "cache")
    tuned = tune(job["model"], options, replace(one, target="local", seconds=0.05))
    assert tuned.chosen.cost.basis == "measured"
    assert tuned.chosen.cost.latency_ms > 0
    assert tuned.artifact.manifest is not None


def test_a_search_needs_a_place_and_something_to_try(job):
    with pytest.raises(UsageError) as error:
        tune(job["model"], Options(evaluation=job["data"]), Plan())
    assert error.value.code == "tune-place"
    with pytest.raises(UsageError) as error:
        tune(job["model"], Options(evaluation=job["data"], device=BOARD), Plan(precisions=("int8",)))
    assert error.value.code == "tune-nothing"
    assert cli(["tune", str(job["model"]), "--device", BOARD, "--eval", str(job["data"]), "--budget", "soon"]) == 2
    assert cli(["tune", str(job["model"]), "--device", BOARD, "--eval", str(job["data"]), "--threads", "0"]) == 2


def test_the_page_needs_no_numbers_that_are_not_there(job):
    setting, recipe = Setting("litert", 1), Recipe("tflite", "fp32")
    trial = Trial(recipe, setting, Made("a", 10, 0.0, "top1 points", "w"), Cost(1.0, 20.0, "measured")).to_dict()
    page = report.render(
        {
            "source": {"path": "m<b>.onnx"}, "device": None, "target": "local", "goal": "size",
            "chosen": trial,
            "front": [trial], "trials": [trial], "failed": [{"recipe": "x", "code": "c", "message": "<script>"}],
            "complete": False,
            "evaluations": {"conversions": 1, "measurements": 1, "remembered": 0, "of_everything": 4},
        },
        "tune",
    )  # fmt: skip
    assert "<script>" not in page
    assert "m&lt;b&gt;.onnx" in page
    assert "may lack points" in page


def test_the_command_takes_what_a_source_needs(monkeypatch, tmp_path, capsys):
    seen = {}

    def stand_in(source, options, plan, progress):
        seen[source] = options
        raise UsageError("tune-nothing", "no further")

    monkeypatch.setattr("edgekit.tune.tuner.tune", stand_in)
    more = ["--input", "image=N,3,32,32", "--input", "ids=N,16:int64", "--signature", "serve", "--task", "regression"]
    arguments = ["tune", str(tmp_path / "m.pth"), "--eval", "e.npz", "--device", BOARD, *more, "--json"]
    assert cli(arguments) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "tune-nothing"
    (options,) = seen.values()
    assert options.shapes == {"image": (None, 3, 32, 32), "ids": (None, 16)}
    assert (options.dtypes, options.signature, options.task) == ({"ids": "int64"}, "serve", "regression")
    assert cli([*arguments, "--input", "image=big"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "shape-syntax"
