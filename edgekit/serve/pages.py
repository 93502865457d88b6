"""What can be asked of the server and its models besides answers: health, metadata, metrics, the API's description."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgekit import __version__
from edgekit.errors import LimitError
from edgekit.runtimes.flow.metrics import gauge, head, labels, together
from edgekit.serve import openapi
from edgekit.serve.door import Door
from edgekit.serve.lane import Lane, unknown_version
from edgekit.serve.messages import Reply, as_json, refusal
from edgekit.serve.routes import Page
from edgekit.serve.status import board, status

EXTENSIONS = ("binary_tensor_data", "predict", "deadline", "priority", "raw")
_TEXT = b"text/plain; version=0.0.4; charset=utf-8"
_HTML = b"text/html; charset=utf-8"
_POLICY = (
    b"content-security-policy: default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    b"connect-src 'self'; img-src data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'\r\n"
    b"x-content-type-options: nosniff\r\nreferrer-policy: no-referrer\r\n"
)
"""Nothing from elsewhere, and in nobody's frame; whatever a model is called, it is shown as text."""


_GAUGES: dict[str, Callable[[Lane], int]] = {
    "queue": lambda lane: len(lane.queue),
    "running": lambda lane: lane.running,
    "ready": lambda lane: int(lane.versions.ready),
    "restarts": lambda lane: lane.restarts,
}
"""What is true of a model now."""
_OPEN = {"connections": "open_connections"}
"""By another name than the counter of all that there were: the ending `_total` is no part of a name to some readers."""


class Pages:
    """Of one door."""

    def __init__(self, door: Door) -> None:
        self._door = door

    def paths(self) -> dict[bytes, Page]:
        """Path -> what it shows."""
        page = Path(__file__).with_name("page.html").read_bytes()
        return {
            b"/v2": self._about,
            b"/v2/health/live": lambda: Reply(200, as_json({"live": True})),
            b"/v2/health/ready": self._ready,
            b"/v2/models": self._models,
            b"/metrics": self._metrics,
            b"/openapi.json": self._described,
            b"/status": lambda: Reply(200, as_json(status(self._door))),
            b"/": lambda: Reply(200, page, _HTML, _POLICY),
        }

    def model(self, lane: Lane, verb: str, version: str | None) -> Reply:
        """Metadata ("") or readiness ("ready") of a model."""
        crew = lane.versions.active
        if version is not None and crew is not None and version != crew.version:
            return refusal(unknown_version(lane, version))
        if verb == "ready":
            if not lane.versions.ready:
                return refusal(LimitError("model-starting", f"{lane.name} is not ready"), retry=1.0)
            return Reply(200, as_json({"name": lane.model, "ready": True}))
        if crew is None or not crew.about:
            return refusal(LimitError("model-starting", f"{lane.name} is not ready"), retry=1.0)
        about = crew.about
        known = {key: about[key] for key in ("platform", "inputs", "outputs")}
        more = {key: about[key] for key in ("sha256", "engine", "engine_version", "task", "kind", "batches")}
        lanes = [one for one in self._door.lanes.values() if one.model == lane.model]
        versions = [one.versions.active.version for one in lanes if one.versions.active is not None]
        return Reply(200, as_json({"name": lane.model, "versions": versions, **known, "parameters": more}))

    def _about(self) -> Reply:
        return Reply(200, as_json({"name": "edgekit", "version": __version__, "extensions": list(EXTENSIONS)}))

    def _ready(self) -> Reply:
        door = self._door
        if door.stopping or not door.ready or not all(lane.versions.ready for lane in door.lanes.values()):
            return refusal(LimitError("model-starting", "a model is not ready, or the server stops"), retry=1.0)
        return Reply(200, as_json({"ready": True}))

    def _models(self) -> Reply:
        return Reply(200, as_json({"models": [_listed(lane) for lane in self._door.lanes.values()]}))

    def _described(self) -> Reply:
        door = self._door
        lanes = door.lanes.values()
        return Reply(200, as_json(openapi.document(lanes, door.bounds, keyed=door.access.keyed)))

    def _metrics(self) -> Reply:
        door = self._door
        lanes = door.lanes.values()
        texts = [door.traffic.text(), *(lane.metrics.text() for lane in lanes)]
        texts += [gauge(_OPEN.get(name, name), {"": value}) for name, value in door.load.items()]
        texts += [gauge(name, {lane.name: read(lane) for lane in lanes}) for name, read in _GAUGES.items()]
        watched = {lane.name: drift for lane in lanes if (drift := lane.versions.drift)}
        if watched:
            texts.append(gauge("drift_alarms", {name: len(seen["alarms"]) for name, seen in watched.items()}))
            texts.append(_alarms({name: seen["alarms"] for name, seen in watched.items()}))
            texts.append(gauge("monitored_samples", {name: seen["samples"] for name, seen in watched.items()}))
        texts += [gauge(name, {"": float(value)}) for name, value in board().items() if value is not None]
        return Reply(200, together(texts).encode(), _TEXT)


def _alarms(watched: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Each alarm that is on, in words; its value is how much. Several workers of a model may have noticed the same."""
    lines = {}
    for model, alarms in watched.items():
        for alarm in alarms:
            about = labels({"model": model, **{name: str(alarm[name]) for name in ("kind", "where", "message")}})
            lines[model, alarm["kind"], alarm["where"]] = f"edgekit_drift_alarm{about} {float(alarm['amount'])!r}"
    return "\n".join([*head("drift_alarm", "gauge"), *lines.values(), ""])


def _listed(lane: Lane) -> dict[str, object]:
    active = lane.versions.active
    return {"name": lane.model, "version": active.version if active else None, "ready": lane.versions.ready}
