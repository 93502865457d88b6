"""Latency, memory and accuracy of artifacts as pytest tests.

    @pytest.mark.edge(artifact="model.tflite", p95_ms=20, rss_mb=80, accuracy=90.0, data="test.npz")
    def test_people_counter(edge_model):
        assert edge_model.run({"image": black})["score"] < 0.5

    pytest --edge-target ssh://pi@kitchen

The body runs first, then what the marker asks: the self-test, the accuracy, the bounds. On an emulated board times mean
nothing: those bounds are left out and the summary says so, everything else counts. A measurement that is not valid,
because the machine was throttled or busy, is repeated once, and then skips the test instead of judging it.

pytest loads this file in every project of its user, so it imports nothing but pytest until it is needed.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgekit.testing import MARKER, RECORD, Bencher, Check, Remote, asked, target_of

SCHEMA, VERSION = "edgekit-pytest", 1


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options, each with an ini value of the same name."""
    group = parser.getgroup("edgekit", "artifacts on boards")
    group.addoption("--edge-target", metavar="TARGET", help="local, emulator:PROFILE or ssh://[USER@]HOST[:PORT].")
    group.addoption("--edge-json", metavar="FILE", help="Write what was measured, as JSON.")
    group.addoption("--edge-baselines", metavar="FOLDER", help="Where measured baselines lie.")
    group.addoption("--edge-update-baselines", action="store_true", help="Store what is measured now as baselines.")
    group.addoption("--edge-strict", action="store_true", help="A measurement that is not valid fails the test.")
    parser.addini("edge_target", "Target of edge tests.", default="")
    parser.addini("edge_baselines", "Folder of baselines, from the root.", default="edge-baselines")


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker, and what collects results."""
    config.addinivalue_line("markers", MARKER)
    config.pluginmanager.register(Collector(config), "edgekit-results")


def pytest_report_header(config: pytest.Config) -> str | None:
    """The target, when it is not this machine."""
    name = target_of(config)
    return None if name == "local" else f"edge target: {name}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Parallel workers keep edge tests together (`--dist loadgroup`): measured side by side they disturb each other."""
    if not config.pluginmanager.hasplugin("xdist"):
        return
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        if item.get_closest_marker("edge") or "edge_bench" in fixtures:
            item.add_marker(pytest.mark.xdist_group("edge"))


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """The body, then what the markers ask."""
    result = yield
    for marker in pyfuncitem.iter_markers("edge"):
        Check(pyfuncitem, asked(marker)).run()
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What was measured travels with the report, also from workers of xdist."""
    report = yield
    if call.when == "call" and (found := item.stash.get(RECORD, None)) is not None:
        vars(report)["edge"] = {"test": item.nodeid, "outcome": report.outcome, **found}
    return report


class Collector:
    """What the tests measured, in the process that reports: lines at the end, and `--edge-json`."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._results: list[dict[str, Any]] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Workers of xdist send theirs here."""
        found = getattr(report, "edge", None)
        if found is not None:
            self._results.append(found)

    def pytest_sessionfinish(self) -> None:
        """Write `--edge-json`."""
        path = self._config.getoption("--edge-json")
        if path and not hasattr(self._config, "workerinput"):
            from edgekit import files

            about = {"schema": SCHEMA, "version": VERSION, "target": target_of(self._config)}
            files.replace(Path(path), json.dumps({**about, "results": self._results}, indent=2).encode())

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """One line a test: what was measured, and what was not asserted."""
        if not self._results:
            return
        terminalreporter.section(f"edge: {target_of(self._config)}")
        for found in self._results:
            figures = ", ".join(f"{name} {value:.4g}" for name, value in found["figures"].items())
            terminalreporter.write_line(f"{found['test']}: {figures or 'nothing measured'}")
            for note in found["notes"]:
                terminalreporter.write_line(f"    {note}")


@pytest.fixture
def edge_bench(request: pytest.FixtureRequest) -> Bencher:
    """Measures artifacts: `edge_bench("model.tflite").latency_ms.p95`, `edge_bench.compare(new, old)`."""
    return Bencher(request.node)


@pytest.fixture
def edge_model(request: pytest.FixtureRequest) -> Iterator[Any]:
    """The marker's artifact, opened on the target: `edge_model.run({"image": array})`."""
    marker = request.node.get_closest_marker("edge")
    if marker is None:
        pytest.fail("edge_model opens the artifact of @pytest.mark.edge(artifact=...), which is missing", pytrace=False)
    opening = Check(request.node, asked(marker)).opening
    target = target_of(request.config)
    if target != "local":
        yield Remote(opening, target)
        return
    from edgekit.errors import EdgeKitError
    from edgekit.runtimes.model import load

    try:
        model = load(opening.path, threads=opening.threads, engine=opening.engine)
    except EdgeKitError as error:  # a traceback through our code tells nobody more
        pytest.fail(f"{error.message} ({error.code})\nnext: {error.next_step}", pytrace=False)
    with model:
        yield model
