"""How long the model would take there, for `check`; the prediction itself is `edgekit.predict`'s."""

from __future__ import annotations

from edgekit.gate.case import Case
from edgekit.predict import Latency, Prediction, predict


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
