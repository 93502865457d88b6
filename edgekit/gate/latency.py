"""How long the model would take there, for `check`; the prediction itself is `edgekit.predict`'s."""

from __future__ import annotations

from collections.abc import Iterator

from edgekit.gate.case import Case
from edgekit.gate.verdict import Limit, threads
from edgekit.predict import Latency, Prediction, predict

_POLICY = "policy:"
"""How the source of a figure begins that is no more than our opinion."""


def prediction(case: Case) -> Prediction | None:
    """Of the case's engine; None when it cannot be installed there."""
    if case.installed is None or case.engine is None:
        return None
    return predict(case.facts, case.profile, engine=case.engine, threads=case.threads)


def figures(found: Prediction | None, case: Case) -> Latency:
    """The contract's field."""
    if found is None:
        said = f"not predicted: {case.profile.name} has no engine that would run it"
        return Latency(estimate=None, low=None, high=None, basis=said)
    return found.latency


def latency_limits(case: Case, found: Prediction | None) -> Iterator[Limit]:
    """The budget that somebody has set, fresh and when the board has become hot; nothing without budget or estimate."""
    budget = stated_budget(case)
    ms = found.latency["estimate"] if found else None
    if budget is None or ms is None or found is None:
        return
    low, high = found.latency["low"], found.latency["high"]
    why = f"predicted {ms:g} ms, {low:g} to {high:g}, with {threads(found.threads)}; {found.latency['basis']}"
    source = case.profile.source("budget.latency_ms")
    yield Limit("latency", ms, budget, "ms", ok=ms <= budget, why=why, source=source)
    if (slower := slowdown(case)) > 1:
        hot, thermal = round(ms * slower, 3), case.profile.thermal
        why = f"at {thermal.throttle_c:g} C the clock falls to {thermal.sustained_mhz} MHz: {slower:.2f} times as long"
        yield Limit("latency_sustained", hot, budget, "ms", ok=hot <= budget, why=why, source=source)


def slowdown(case: Case) -> float:
    """How many times as long a run takes once the board is as hot as it gets without throttling proper."""
    clock, sustained = case.profile.cpu.clusters[0].clock_mhz, case.profile.thermal.sustained_mhz
    return clock / sustained if clock and sustained else 1.0


def stated_budget(case: Case) -> float | None:
    """Milliseconds of a budget that is somebody's own; what we think is fast enough refuses no model."""
    policy = case.profile.source("budget.latency_ms").startswith(_POLICY)
    return None if policy else case.profile.budget.latency_ms
