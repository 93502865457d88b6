"""Counters and histograms of models at work, in the process or as text for Prometheus.

    metrics = edgekit.Metrics()
    model = edgekit.load("model.tflite", metrics=metrics)
    metrics.snapshot()["run_seconds"]       # {"count": ..., "sum": ..., "p50": ..., "p99": ...}
    print(metrics.text())                   # for a scraper

A measurement takes some microseconds (`python benchmarks/flow.py`), and nothing where no metrics were given. The
format is https://prometheus.io/docs/instrumenting/exposition_formats.
"""

from __future__ import annotations

import time
from _thread import allocate_lock
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from edgekit.errors import EdgeKitError

BOUNDS = tuple(round(base * 10.0**power, 9) for power in range(-5, 2) for base in (1.0, 1.8, 3.2, 5.6))
"""Upper ends of the histograms' buckets in seconds: 10 us to 56 s, four to each power of ten."""
_HELP = {
    "batched": "Answers, by how many requests their call of the engine answered.",
    "body_bytes": "Bytes of request bodies that are held.",
    "clients": "Clients, by address or key, with requests under way.",
    "connections": "Connections, by what became of them.",
    "drift_alarm": "Each alarm of drift that is on: what moved, and by how much.",
    "drift_alarms": "Alarms of drift that are on.",
    "errors": "Errors, by their code.",
    "frame_age_seconds": "From when a frame came to its answer.",
    "frames": "Frames of streams, by what became of them.",
    "load": "Processes that run or wait, of the last minute.",
    "monitored_samples": "Samples that were held beside what the model was proved on.",
    "open_connections": "Connections that are open.",
    "parse_seconds": "Reading a request, in a worker.",
    "predict_seconds": "Preparing, running and reading one thing.",
    "queue": "Requests that wait.",
    "queue_seconds": "From when a request was whole to when a worker had it.",
    "ready": "Whether the model can be asked.",
    "refusals": "Refusals, by status.",
    "request_seconds": "From when a request arrived to its answer.",
    "requests": "Requests, by what became of them.",
    "restarts": "Workers that were started again.",
    "run_seconds": "Calls of the engine.",
    "running": "Requests that workers have.",
    "temperature_c": "Of the processor, in degrees Celsius.",
    "throttled": "Whether the board is slowed down now.",
    "under_voltage": "Whether its supply is too weak now.",
    "wait_seconds": "From when a request came to when a worker was free.",
    "write_seconds": "Writing an answer, in a worker.",
}
"""What EdgeKit itself measures."""


class Metrics:
    """Where everything is counted; threads may share it.

    Args:
        name: Of the model or the app; stands as label `model` in the text.
    """

    def __init__(self, name: str = "") -> None:
        self.name = name
        self._lock = allocate_lock()
        self._counters: dict[tuple[str, str], float] = {}
        self._histograms: dict[str, list[int]] = {}
        self._sums: dict[str, float] = {}

    def count(self, name: str, what: str = "", by: float = 1) -> None:
        """Add to a counter; `what` tells apart what is counted ("feed-shape" of "errors")."""
        with self._lock:
            self._counters[name, what] = self._counters.get((name, what), 0) + by

    def observe(self, name: str, seconds: float) -> None:
        """Put a duration into a histogram."""
        place = bisect_left(BOUNDS, seconds)
        with self._lock:
            buckets = self._histograms.get(name)
            if buckets is None:
                buckets = self._histograms[name] = [0] * (len(BOUNDS) + 1)
                self._sums[name] = 0.0
            buckets[place] += 1
            self._sums[name] += seconds

    @contextmanager
    def errors(self) -> Iterator[None]:
        """An error inside is counted by its code."""
        try:
            yield
        except EdgeKitError as error:
            self.count("errors", error.code)
            raise

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Measure what happens inside; an error is counted by its code."""
        begun = time.perf_counter()
        with self.errors():
            yield
        self.observe(name, time.perf_counter() - begun)

    def snapshot(self) -> dict[str, Any]:
        """All of it: a number a counter (by `what`, where there is one), a table a histogram. Percentiles are the upper
        ends of their buckets.
        """
        counters, histograms, sums = self._copied()
        found: dict[str, Any] = {}
        for (name, what), value in sorted(counters.items()):
            if what:
                found.setdefault(name, {})[what] = value
            else:
                found[name] = value
        for name, buckets in sorted(histograms.items()):
            shares = {f"p{share}": _percentile(buckets, share / 100) for share in (50, 90, 99)}
            found[name] = {"count": sum(buckets), "sum": sums[name], **shares}
        return found

    def buckets(self, name: str) -> list[int]:
        """How many durations of a histogram fell into each bucket, by `BOUNDS` and above; zeros before the first."""
        with self._lock:
            return list(self._histograms.get(name) or [0] * (len(BOUNDS) + 1))

    def text(self) -> str:
        """The same in Prometheus' text format; times in seconds."""
        return "\n".join([*self._lines(), ""])

    def _lines(self) -> Iterator[str]:
        counters, histograms, sums = self._copied()
        model = f'model="{_escaped(self.name)}"'
        said = ""
        for (name, what), value in sorted(counters.items()):
            full = f"edgekit_{name}_total"
            if full != said:
                yield from _head(full, "counter", name)
                said = full
            kind = f',kind="{_escaped(what)}"' if what else ""
            yield f"{full}{{{model}{kind}}} {_number(value)}"
        for name, buckets in sorted(histograms.items()):
            full = f"edgekit_{name}"
            yield from _head(full, "histogram", name)
            total = 0
            for bound, count in zip((*(f"{bound:g}" for bound in BOUNDS), "+Inf"), buckets, strict=True):
                total += count
                yield f'{full}_bucket{{{model},le="{bound}"}} {total}'
            yield f"{full}_sum{{{model}}} {_number(sums[name])}"
            yield f"{full}_count{{{model}}} {total}"

    def _copied(self) -> tuple[dict[tuple[str, str], float], dict[str, list[int]], dict[str, float]]:
        with self._lock:
            return dict(self._counters), {k: list(v) for k, v in self._histograms.items()}, dict(self._sums)


def gauge(name: str, values: Mapping[str, float]) -> str:
    """What is true now, in Prometheus' text format: a value a model, or under "" one of no model."""
    lines = [*_head(f"edgekit_{name}", "gauge", name)]
    for model, value in values.items():
        label = labels({"model": model}) if model else ""
        lines.append(f"edgekit_{name}{label} {_number(value)}")
    return "\n".join([*lines, ""])


def head(name: str, kind: str) -> list[str]:
    """Lines that stand before those of a metric."""
    return list(_head(f"edgekit_{name}", kind, name))


def labels(values: Mapping[str, str]) -> str:
    """Labels of a line, as the format has them."""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in values.items()) + "}"


def together(texts: Iterable[str]) -> str:
    """Several texts as one: the format wants all lines of a metric in one group, under one head."""
    groups: dict[str, list[str]] = {}
    for text in texts:
        head = told = ""
        for line in text.splitlines():
            if line.startswith("# HELP "):
                told = f"{line}\n"
            elif line.startswith("# TYPE "):
                head, told = told + line, ""
                groups.setdefault(head, [])
            else:
                groups.setdefault(head, []).append(line)
    return "".join(f"{line}\n" for head, lines in groups.items() for line in (head, *lines))


def _head(full: str, kind: str, name: str) -> Iterator[str]:
    if name in _HELP:
        yield f"# HELP {full} {_HELP[name]}"
    yield f"# TYPE {full} {kind}"


def _number(value: float) -> str:
    """All digits: rates are differences of large totals."""
    return f"{value:.0f}" if float(value).is_integer() else repr(float(value))


def _percentile(buckets: list[int], share: float) -> float:
    total, wanted = 0, share * sum(buckets)
    for place, count in enumerate(buckets):
        total += count
        if total >= wanted and count:
            return BOUNDS[min(place, len(BOUNDS) - 1)]
    return 0.0


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
