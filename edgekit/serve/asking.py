"""What the headers of a request to a model say."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit.errors import FeedError
from edgekit.serve.lane import Asking, Lane
from edgekit.serve.settings import PRIORITIES
from edgekit.serve.wire import CODINGS, Kind

if TYPE_CHECKING:
    from edgekit.serve.messages import Request

DEADLINE, PRIORITY, JSON_LENGTH = b"edgekit-deadline-ms", b"edgekit-priority", b"inference-header-content-length"
LONGEST_MS = 600_000


def asking(request: Request, lane: Lane, verb: str, version: str | None) -> Asking:
    """Read them.

    Raises:
        FeedError: `http-header`, `http-media`, `http-coding`.
    """
    headers = request.headers
    coding = headers.get(b"content-encoding", b"").strip().lower()
    if coding == b"identity":
        coding = b""
    if coding not in CODINGS:
        raise FeedError("http-coding", "bodies come plain, as gzip or as deflate")
    length = _number(headers, JSON_LENGTH, 0, (1 << 31) - 1)
    milliseconds = _number(headers, DEADLINE, 1, LONGEST_MS)
    priority = headers.get(PRIORITY, b"normal").strip().decode("latin1")
    if priority not in PRIORITIES:
        raise FeedError("http-header", f"{PRIORITY.decode()} is one of {', '.join(PRIORITIES)}")
    seconds = (lane.serving.deadline_ms if milliseconds is None else milliseconds) / 1000
    return Asking(
        lane, "infer" if verb == "infer" else _kind(headers), CODINGS.index(coding), -1 if length is None else length,
        request.arrived + seconds, PRIORITIES.index(priority), version,
    )  # fmt: skip


def _kind(headers: dict[bytes, bytes]) -> Kind:
    media = headers.get(b"content-type", b"application/json").partition(b";")[0].strip().lower()
    if media == b"application/json":
        return "row"
    if media.startswith(b"image/"):
        return "image"
    if media.startswith(b"audio/"):
        return "sound"
    raise FeedError("http-media", "predict takes application/json, image/* and audio/wav")


def _number(headers: dict[bytes, bytes], name: bytes, least: int, most: int) -> int | None:
    said = headers.get(name)
    if said is None:
        return None
    if not said.isdigit() or len(said) > 10 or not least <= int(said) <= most:
        raise FeedError("http-header", f"{name.decode()} is a whole number from {least} to {most}")
    return int(said)
