"""The pytest plugin: bounds hold, fail, are left out or skipped, each with its reason; results reach JUnit and JSON."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

import edgekit
from edgekit.converters.tflite_graphs.builder import Builder

VALID = """
import pytest
from dataclasses import replace
from edgekit.targets import tasks

real = tasks.bench

def bench(*args, **options):
    '''As measured, whatever else this machine does.'''
    return replace(real(*args, **options), valid=VALID, notes=NOTES)

tasks.bench = bench

def pytest_unconfigure():
    tasks.bench = real
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A small float artifact of one dense layer, four classes, and labelled data that it answers rightly."""
    folder = tmp_path_factory.mktemp("edge")
    net = Builder()
    x = net.input("x", (1, 4))
    weights = net.constant("w", (8 * np.eye(4)).astype(np.float32))
    bias = net.constant("b", np.zeros(4, np.float32))
    y = net.op("FULLY_CONNECTED", [x, weights, bias], (1, 4), "y", "FullyConnectedOptions")
    (folder / "source.tflite").write_bytes(
        net.finish([net.op("SOFTMAX", [y], (1, 4), "p", "SoftmaxOptions", {"beta": 1})])
    )
    edgekit.convert(folder / "source.tflite", output=folder / "model.tflite")
    labels = np.arange(40) % 4
    np.savez(folder / "data.npz", x=np.eye(4, dtype=np.float32)[labels], y=labels)
    return folder


@pytest.fixture
def project(pytester, model):
    """A project of a user's, with the model in it; `run(source, *options)` runs its one test file."""
    for name in ("model.tflite", "data.npz", "source.tflite"):
        (pytester.path / name).write_bytes((model / name).read_bytes())

    def run(source, *options, valid=True, notes=()):
        pytester.makeconftest(VALID.replace("VALID", str(valid)).replace("NOTES", repr(notes)))
        pytester.makepyfile(test_edge="import pytest\n\n" + source)
        return pytester.runpytest_inprocess("-p", "no:xdist", "-p", "no:cacheprovider", *options)

    run.path = pytester.path
    return run


def marked(**asked):
    inside = ", ".join(f"{name}={value!r}" for name, value in asked.items())
    return f"@pytest.mark.edge(artifact='model.tflite', seconds=0.1, runs=20, {inside})\ndef test_it():\n    pass\n"


def test_bounds_that_hold(project):
    result = project(marked(p50_ms=500, p95_ms=1000, p99_ms=5000, rss_mb=4000, accuracy=99, data="data.npz"))
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*edge: local*", "test_edge.py::test_it: top1 100, p50_ms *"])


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"p95_ms": 1e-6}, "*p95 is * ms*, at most 1e-06 is asked for*"),
        ({"rss_mb": 1}, "*rss is * MB, at most 1 is asked for*"),
        ({"accuracy": 101, "data": "data.npz"}, "*reaches top1 100.00 on 40 samples; at least 101 is asked for*"),
    ],
)
def test_bounds_that_do_not(project, asked, said):
    result = project(marked(**asked))
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([said])


def test_a_body_that_fails_is_not_measured(project):
    result = project("@pytest.mark.edge(artifact='model.tflite', p95_ms=1000)\ndef test_it():\n    assert 1 == 2\n")
    result.assert_outcomes(failed=1)
    result.stdout.no_fnmatch_line("*p95_ms*: *")


def test_another_model_under_the_name_is_noticed(project):
    """The self-test runs without being asked for."""
    data = bytearray((project.path / "model.tflite").read_bytes())
    at = data.index(np.float32(8).tobytes())
    data[at : at + 4] = np.float32(2).tobytes()
    (project.path / "model.tflite").write_bytes(data)
    result = project(marked(accuracy=10, data="data.npz"))
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*digest*"])


def test_a_foreign_file_has_no_self_test(project):
    result = project(marked().replace("model.tflite", "source.tflite"))
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*no self-test to replay*"])


def test_a_measurement_that_is_not_valid_skips(project):
    source = marked(p95_ms=1000)
    result = project(source, "-rs", valid=False, notes=("throttled",))
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*the measurement is not valid: throttled*"])
    project(source, "--edge-strict", valid=False, notes=("throttled",)).assert_outcomes(failed=1)


def test_it_is_measured_twice_before_that(project):
    counted = VALID.replace("    return replace", "    calls.append(1)\n    return replace") + "\ncalls = []\n"
    counted += "\ndef pytest_sessionfinish():\n    print('measured', len(calls))\n"
    project(marked(p95_ms=1000), valid=False)
    (project.path / "conftest.py").write_text(counted.replace("VALID", "False").replace("NOTES", "('busy',)"))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q"], cwd=project.path, capture_output=True, text=True, check=False
    )
    assert "measured 2" in done.stdout


def test_on_an_emulated_board_times_are_left_out(project, monkeypatch):
    from edgekit.targets.local import Local

    monkeypatch.setattr(Local, "timed", False)
    result = project(marked(p95_ms=1e-6, max_slowdown=5, accuracy=99, data="data.npz"))
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*not asserted: p95_ms, max_slowdown: times measured on local mean nothing*"])
    result = project(marked(accuracy=101, data="data.npz", p95_ms=1))
    result.assert_outcomes(failed=1)
    result = project("def test_it(edge_bench):\n    edge_bench('model.tflite')\n", "-rs")
    result.assert_outcomes(skipped=1)


def test_results_reach_junit_and_json(project):
    result = project(marked(p95_ms=1000, accuracy=99, data="data.npz"), "--junitxml=j.xml", "--edge-json=e.json")
    result.assert_outcomes(passed=1)
    properties = {p.get("name"): p.get("value") for p in ET.parse(project.path / "j.xml").iter("property")}
    assert float(properties["edge_top1"]) == 100
    assert float(properties["edge_p95_ms"]) > 0
    found = json.loads((project.path / "e.json").read_text())
    assert (found["schema"], found["version"], found["target"]) == ("edgekit-pytest", 1, "local")
    (one,) = found["results"]
    assert (one["test"], one["outcome"]) == ("test_edge.py::test_it", "passed")
    assert one["figures"]["p95_ms"] == pytest.approx(float(properties["edge_p95_ms"]))
    assert one["environment"]["cores"] >= 1


def test_baselines_are_written_and_compared(project):
    source = marked(max_slowdown=90)
    result = project(source)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*max_slowdown was not asserted: there is no *"])
    project(source, "--edge-update-baselines").assert_outcomes(passed=1)
    assert len(list((project.path / "edge-baselines").iterdir())) == 1
    result = project(source)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*no difference:*"])


def test_a_slower_one_fails(project, monkeypatch):
    from edgekit.measure.compare import Comparison
    from edgekit.targets import tasks

    seen = []

    def compare(opening, baseline, plan, **_):
        seen.append((opening.path, baseline.name, plan.effect))
        return Comparison("slower", 1.2, 1.15, 1.25, 0.99, plan.effect, True, "interleaved", 5, 50, 1.2, 1.0, 1.0)

    monkeypatch.setattr(tasks, "compare", compare)
    result = project(marked(max_slowdown=5, baseline="source.tflite"))
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*slower: +20.0 % (+15.0 to +25.0 %, 99% interval)*"])
    assert seen[0][1:] == ("source.tflite", 0.05)


def test_the_fixtures(project):
    result = project(
        "import numpy as np\n"
        "@pytest.mark.edge('model.tflite')\n"
        "def test_model(edge_model):\n"
        "    answer = edge_model.run({edge_model.inputs[0].name: np.eye(4, dtype=np.float32)[:1]})\n"
        "    assert answer[edge_model.outputs[0].name].argmax() == 0\n\n"
        "def test_bench(edge_bench):\n"
        "    result = edge_bench('model.tflite', seconds=0.1, runs=10)\n"
        "    assert result.latency_ms.p95 > 0\n\n"
        "def test_compare(edge_bench):\n"
        "    found = edge_bench.compare('model.tflite', 'source.tflite', seconds=0.2, effect=0.9)\n"
        "    assert found.verdict == 'no difference'\n"
    )
    result.assert_outcomes(passed=3)


def test_a_model_elsewhere_runs_like_one_here(project, monkeypatch):
    """The proxy, with this machine standing for a board."""
    from edgekit import testing
    from edgekit.targets.agent import Opening

    remote = testing.Remote(Opening(str(project.path / "model.tflite")), "local")
    feeds = {remote.inputs[0].name: np.eye(4, dtype=np.float32)}
    there = remote.run(feeds)
    with edgekit.load(project.path / "model.tflite") as here:
        np.testing.assert_array_equal(there[remote.outputs[0].name], here.run(feeds)[remote.outputs[0].name])


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("p95=3", "*takes no p95*"),
        ("accuracy=3", "*needs data=*"),
        ("max_slowdown=0", "*between 0 and 100 percent*"),
    ],
)
def test_markers_that_are_wrong(project, asked, said):
    result = project(f"@pytest.mark.edge(artifact='model.tflite', {asked})\ndef test_it():\n    pass\n")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([said])


def test_a_missing_file_is_an_error_with_a_next_step(project):
    result = project(marked().replace("model.tflite", "nowhere.tflite"))
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*next:*"])


def test_what_cannot_be_opened_is_told_in_a_line(project):
    source = "import pytest\n@pytest.mark.edge(artifact='none.tflite')\ndef test_it(edge_model):\n    pass\n"
    result = project(source)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*there is no file*none.tflite (file-missing)"])
    result.stdout.no_fnmatch_line("*edgekit/artifact.py*")


def test_the_target_comes_from_option_environment_or_ini(project, monkeypatch):
    source = "from edgekit.testing import target_of\ndef test_it(pytestconfig):\n    assert target_of(pytestconfig) == "
    project(source + "'local'").assert_outcomes(passed=1)
    project(source + "'ssh://a@b'", "-o", "edge_target=ssh://a@b").assert_outcomes(passed=1)
    monkeypatch.setenv("EDGEKIT_TARGET", "ssh://c@d")
    project(source + "'ssh://c@d'", "-o", "edge_target=ssh://a@b").assert_outcomes(passed=1)
    result = project(source + "'emulator:raspberry-pi-5'", "--edge-target", "emulator:raspberry-pi-5")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["edge target: emulator:raspberry-pi-5"])


def test_workers_keep_edge_tests_together(project, pytester):
    project(marked(p95_ms=1000))
    done = pytester.runpytest_subprocess(
        "-n", "2", "--dist", "loadgroup", "--edge-json", "e.json", "-p", "no:cacheprovider"
    )
    done.assert_outcomes(passed=1)
    assert json.loads((project.path / "e.json").read_text())["results"][0]["figures"]["p95_ms"] > 0


def test_who_does_not_use_it_pays_nothing():
    """Loaded in every project of the user: pytest and the standard library, and no more."""
    code = (
        "import sys, json, pytest\nbefore = set(sys.modules)\nimport edgekit.pytest_plugin\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in set(sys.modules) - before})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(json.loads(done.stdout)) <= {"edgekit", "json", "__future__"}


def test_a_project_without_edge_tests_sees_nothing(pytester):
    pytester.makepyfile("def test_it():\n    pass\n")
    result = pytester.runpytest_inprocess("-p", "no:xdist", "--strict-markers", "-W", "error")
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*edge*:*")
    assert "p95_ms" in pytester.runpytest_inprocess("--markers", "-p", "no:xdist").stdout.str()


def test_it_can_be_turned_off(pytester):
    pytester.makepyfile("def test_it():\n    pass\n")
    pytester.runpytest_inprocess("-p", "no:xdist", "-p", "no:edgekit").assert_outcomes(passed=1)


def test_the_guides_example(project):
    text = (Path(__file__).resolve().parents[2] / "docs" / "latency-tests.md").read_text(encoding="utf-8")
    (source,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    project(source).assert_outcomes(passed=2)
    from edgekit.testing import ALLOWED

    cells = re.findall(r"^\| (.*?) \|", text, re.MULTILINE)
    assert set(re.findall(r"`([a-z0-9_]+)`", " ".join(cells))) == set(ALLOWED)


def test_these_tests_leave_nothing_behind(project):
    from edgekit.targets import tasks

    before = tasks.bench
    project(marked(p95_ms=1000)).assert_outcomes(passed=1)
    assert tasks.bench is before
