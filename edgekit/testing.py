"""What edge tests do: replay, measure, judge; `edgekit.pytest_plugin` hooks it into pytest."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from edgekit.measure.compare import Comparison
    from edgekit.measure.results import Bench

TIMES = ("p50_ms", "p90_ms", "p95_ms", "p99_ms")
ALLOWED = (
    *("artifact", *TIMES, "rss_mb", "accuracy", "data", "label", "samples", "baseline", "max_slowdown"),
    *("threads", "engine", "seconds", "runs"),
)
MARKER = f"edge({', '.join(ALLOWED)}): bounds that an artifact must keep on --edge-target"
RECORD: pytest.StashKey[dict[str, Any]] = pytest.StashKey()
"""What was measured for a test: `figures`, `notes`, `environment`."""


def target_of(config: pytest.Config) -> str:
    """`--edge-target`, else $EDGEKIT_TARGET, else the ini value, else this machine."""
    chosen = config.getoption("--edge-target") or os.environ.get("EDGEKIT_TARGET") or config.getini("edge_target")
    return str(chosen or "local")


def asked(marker: pytest.Mark) -> dict[str, Any]:
    """The marker's arguments.

    Raises:
        pytest.fail.Exception: It names no artifact, or something unknown, or an accuracy without data.
    """
    given = dict(marker.kwargs)
    if marker.args:
        given.setdefault("artifact", marker.args[0])
    unknown = sorted(set(given) - set(ALLOWED))
    if unknown or len(marker.args) > 1:
        pytest.fail(f"@pytest.mark.edge takes no {', '.join(unknown) or 'second value'}; {MARKER}", pytrace=False)
    if "artifact" not in given:
        pytest.fail("@pytest.mark.edge(artifact=...) must name a file", pytrace=False)
    if "accuracy" in given and "data" not in given:
        pytest.fail("@pytest.mark.edge(accuracy=...) needs data=... to measure it on", pytrace=False)
    if not 0 < given.get("max_slowdown", 1) < 100:
        pytest.fail("@pytest.mark.edge(max_slowdown=...) lies between 0 and 100 percent", pytrace=False)
    return given


class Check:
    """What one marker asks of one test."""

    def __init__(self, item: pytest.Item, given: Mapping[str, Any]) -> None:
        self._item = item
        self._given = given
        self._config = item.config
        self._target = target_of(item.config)

    def run(self) -> None:
        from edgekit.errors import EdgeKitError

        try:
            self._replay()
            self._accuracy()
            self._times()
        except EdgeKitError as error:
            pytest.fail(f"{error.message}\n  why:  {error.cause}\n  next: {error.next_step}", pytrace=False)

    def _replay(self) -> None:
        from edgekit import artifact
        from edgekit.targets import agent, tasks

        if artifact.read(self._path).selftest is None:
            _record(self._item)["notes"].append("no self-test to replay: edgekit did not write this file")
            return
        agent.enforce(tasks.verify(self.opening, target=self._target), str(self._path))

    def _accuracy(self) -> None:
        if "data" not in self._given:
            return
        from edgekit.data_ref import DataRef
        from edgekit.targets import tasks

        data = DataRef(str(self._found(self._given["data"])), self._given.get("label"), self._given.get("samples"))
        found = tasks.evaluate(self.opening, data, target=self._target)
        _figure(self._item, found.metric.name, found.metric.value)
        least = self._given.get("accuracy")
        if least is not None and found.metric.value < least:
            pytest.fail(
                f"{self._path} reaches {found.metric.name} {found.metric.value:.2f} on {found.samples} samples; "
                f"at least {least} is asked for",
                pytrace=False,
            )

    def _times(self) -> None:
        bounds = {name: self._given[name] for name in (*TIMES, "rss_mb") if name in self._given}
        slowdown = self._given.get("max_slowdown")
        if not bounds and slowdown is None:
            return
        reason = untimed(self._target)
        if reason is not None:
            _record(self._item)["notes"].append(f"not asserted: {', '.join([*bounds, *_named(slowdown)])}: {reason}")
            return
        plan = {key: self._given[key] for key in ("seconds", "runs") if key in self._given}
        bencher = Bencher(self._item)
        result = bencher.measure(self.opening, plan)
        over = [said for name, bound in bounds.items() if (said := _over(result, name, bound))]
        if over:
            machine = result.environment.get("board") or result.environment.get("cpu")
            where = f"{self._target} ({result.engine}, {result.threads} threads, {machine})"
            pytest.fail(
                f"{self._path} on {where}: {'; '.join(over)}\n"
                f"  next: `edgekit profile {self._path}` tells which ops take the time.",
                pytrace=False,
            )
        if slowdown is not None:
            bencher.judge(self.opening, self._baseline(result), slowdown, result)

    def _baseline(self, result: Bench) -> Path | None:
        """The named one, else the stored result of this test; what is measured now becomes it when asked for."""
        from edgekit.measure import results

        if "baseline" in self._given:
            return self._found(self._given["baseline"])
        name = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in self._item.nodeid)
        stored = baselines_of(self._config) / f"{name}.json"
        if self._config.getoption("--edge-update-baselines"):
            stored.parent.mkdir(parents=True, exist_ok=True)
            results.write(stored, result)
            _record(self._item)["notes"].append(f"baseline written: {stored}")
            return None
        if not stored.exists():
            note = f"max_slowdown was not asserted: there is no {stored}; --edge-update-baselines writes it"
            _record(self._item)["notes"].append(note)
            return None
        return stored

    @property
    def _path(self) -> Path:
        return self._found(self._given["artifact"])

    @property
    def opening(self) -> Any:
        """The artifact, and how to open it."""
        from edgekit.targets.agent import Opening

        return Opening(str(self._path), self._given.get("engine"), self._given.get("threads"))

    def _found(self, name: str | Path) -> Path:
        """Beside the test, else from the root of the run."""
        beside = self._item.path.parent / name
        return beside if beside.exists() else self._config.rootpath / name


class Bencher:
    """The fixture `edge_bench`: measures artifacts on the target; what it finds goes into the results of the test."""

    def __init__(self, item: pytest.Item) -> None:
        self._item = item
        self._target = target_of(item.config)

    def __call__(
        self, artifact: str | Path, *, threads: int | None = None, engine: str | None = None, **plan: Any
    ) -> Bench:
        """Latency and memory; skips the test where times mean nothing.

        Args:
            artifact: Its path.
            threads: Of the engine.
            engine: None for the format's own.
            **plan: Fields of `edgekit.measure.sampling.BenchPlan`: `seconds`, `runs`, `scenario`, ...
        """
        self._require_times()
        return self.measure(_opening(artifact, threads, engine), plan)

    def compare(
        self,
        new: str | Path,
        baseline: str | Path,
        *,
        threads: int | None = None,
        engine: str | None = None,
        **plan: Any,
    ) -> Comparison:
        """Both side by side, in turns; `plan` are fields of `edgekit.measure.compare.ComparePlan`."""
        from edgekit.measure.compare import ComparePlan
        from edgekit.targets import tasks

        self._require_times()
        found = tasks.compare(_opening(new, threads, engine), Path(baseline), ComparePlan(**plan), target=self._target)
        _figure(self._item, "ratio", found.ratio)
        _record(self._item)["notes"].append(found.sentence())
        return found

    def judge(self, opening: Any, baseline: Path | None, slowdown: float, result: Bench) -> None:
        """Fail the test when the artifact is slower than a baseline by more than `slowdown` percent."""
        if baseline is None:
            return
        from edgekit.measure.compare import ComparePlan
        from edgekit.targets import tasks

        plan = ComparePlan(effect=slowdown / 100)
        found = tasks.compare(opening, baseline, plan, result=result, target=self._target)
        _figure(self._item, "ratio", found.ratio)
        if found.verdict == "slower":
            pytest.fail(f"{opening.path} against {baseline}: {found.sentence()}", pytrace=False)
        _record(self._item)["notes"].append(found.sentence())

    def measure(self, opening: Any, plan: Mapping[str, Any]) -> Bench:
        """Measure, once more when the first was not valid; then skip, or fail with --edge-strict."""
        from edgekit.measure.sampling import BenchPlan
        from edgekit.targets import tasks

        for _ in range(2):
            result = tasks.bench(opening, BenchPlan(**plan), target=self._target)
            if result.valid:
                break
        for name in ("p50", "p90", "p95", "p99"):
            _figure(self._item, f"{name}_ms", getattr(result.latency_ms, name))
        _figure(self._item, "rss_mb", result.rss_mb)
        _record(self._item)["environment"] = dict(result.environment)
        if not result.valid:
            reason = f"the measurement is not valid: {'; '.join(result.notes)}"
            _record(self._item)["notes"].append(reason)
            (pytest.fail if self._item.config.getoption("--edge-strict") else pytest.skip)(reason)
        return result

    def _require_times(self) -> None:
        reason = untimed(self._target)
        if reason is not None:
            _record(self._item)["notes"].append(f"not measured: {reason}")
            pytest.skip(reason)


class Remote:
    """A model on another target, run like a local one.

    Attributes:
        inputs, outputs: As of `edgekit.Model`.
    """

    def __init__(self, opening: Any, target: str) -> None:
        from edgekit import artifact

        about = artifact.read(opening.path).manifest
        if about is None:
            pytest.fail(f"{opening.path} was not written by edgekit: load it there by hand", pytrace=False)
        self.inputs, self.outputs = about.inputs, about.outputs
        self._opening, self._target = opening, target

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """Real values in, real values out; arrays [n, ...] by name."""
        import numpy as np

        from edgekit import files, npz
        from edgekit.data_ref import DataRef
        from edgekit.targets import tasks

        arrays = {name: np.asarray(value) for name, value in feeds.items()}
        with files.scratch() as folder:
            npz.write(folder / "feeds.npz", arrays)
            data, output = DataRef(str(folder / "feeds.npz")), folder / "outputs.npz"
            samples = len(next(iter(arrays.values())))
            tasks.run(self._opening, data, samples=samples, output=output, target=self._target)
            return npz.read(output)


def untimed(target: str) -> str | None:
    """Why times mean nothing on a target; None where they do."""
    from edgekit.targets import open_target, tasks

    with open_target(target) as place:
        return None if place.timed else tasks.UNTIMED.format(target)


def baselines_of(config: pytest.Config) -> Path:
    """The folder of stored results."""
    return config.rootpath / str(config.getoption("--edge-baselines") or config.getini("edge_baselines"))


def _opening(artifact: str | Path, threads: int | None, engine: str | None) -> Any:
    from edgekit.targets.agent import Opening

    return Opening(str(artifact), engine, threads)


def _record(item: pytest.Item) -> dict[str, Any]:
    return item.stash.setdefault(RECORD, {"figures": {}, "notes": []})


def _figure(item: pytest.Item, name: str, value: float) -> None:
    """Into the results, and into JUnit's properties."""
    _record(item)["figures"][name] = value
    item.user_properties.append((f"edge_{name}", value))


def _over(result: Bench, name: str, bound: float) -> str | None:
    key = name.removesuffix("_ms")
    value = result.rss_mb if name == "rss_mb" else getattr(result.latency_ms, key)
    if value <= bound:
        return None
    unit = "MB" if name == "rss_mb" else "ms"
    known = result.intervals_ms.get(key) if name != "rss_mb" else None
    between = f" (95 % interval {_edge(known.low)} to {_edge(known.high)})" if known else ""
    return f"{name.rpartition('_')[0]} is {value:.3f} {unit}{between}, at most {bound} is asked for"


def _edge(value: float | None) -> str:
    return "?" if value is None else f"{value:.3f}"


def _named(slowdown: float | None) -> list[str]:
    return [] if slowdown is None else ["max_slowdown"]
