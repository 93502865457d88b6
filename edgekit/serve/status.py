"""What the page at `/` shows, as JSON: models, their work so far, the last errors, and how warm the board is.

Counts and histograms are totals; who watches takes differences. Errors are told by their code and its title, since
their messages may speak of files.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from edgekit import __version__
from edgekit.errors import explanations
from edgekit.measure import environment, throttle
from edgekit.runtimes.flow.metrics import BOUNDS
from edgekit.serve.door import Door
from edgekit.serve.lane import Lane

TIMES = ("request_seconds", "queue_seconds", "run_seconds")


def status(door: Door, root: Path = environment.ROOT) -> dict[str, Any]:
    """The document.

    Fields: `name`, `version`, `bounds_seconds` (upper ends of the histograms' buckets; one more bucket has no end),
    `load` (connections, clients, bytes of bodies held), `board` (see `board`) and `models` (see below).
    """
    return {
        "name": "edgekit",
        "version": __version__,
        "bounds_seconds": list(BOUNDS),
        "load": door.load,
        "board": board(root),
        "models": [_model(lane) for lane in door.lanes.values()],
    }


def board(root: Path = environment.ROOT) -> dict[str, Any]:
    """`temperature_c`, `throttled`, `under_voltage`, `load` (runnable processes, of the last minute). None: unknown."""
    seen = throttle.read_throttle(root, spawn=False)
    return {
        "temperature_c": environment.temperature(root),
        "throttled": seen.throttled,
        "under_voltage": seen.under_voltage,
        "load": os.getloadavg()[0],
    }


def _model(lane: Lane) -> dict[str, Any]:
    active = lane.versions.active
    about = active.about if active is not None else {}
    seen = lane.metrics.snapshot()
    return {
        "name": lane.name,
        "version": active.version if active else None,
        "ready": lane.versions.ready,
        "trial": lane.versions.back is not None,
        "kind": about.get("kind"),
        "task": about.get("task"),
        "engine": f"{about['engine']} {about['engine_version']}" if about else None,
        "inputs": about.get("inputs", []),
        "waiting": len(lane.queue),
        "running": lane.running,
        "restarts": lane.restarts,
        "requests": seen.get("requests", {}),
        "times": {name: lane.metrics.buckets(name) for name in TIMES},
        "drift": lane.versions.drift,
        "errors": [_told(at, code) for at, code, _ in reversed(lane.errors)],
    }


def _told(at: float, code: str) -> dict[str, Any]:
    """An error: when, in seconds since 1970; its code; what that means."""
    entry = explanations().get(code)
    return {"at": at, "code": code, "title": entry.title if entry else "the server failed"}
