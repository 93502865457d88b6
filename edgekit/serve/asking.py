"""What the headers of a request to a model say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from edgekit.errors import FeedError
from edgekit.serve.settings import PRIORITIES
from edgekit.serve.wire import CODINGS, Kind

DEADLINE, PRIORITY, JSON_LENGTH = b"edgekit-deadline-ms", b"edgekit-priority", b"inference-header-content-length"
LONGEST_MS = 600_000


class Asking(NamedTuple):
    """What is asked of a model.

    Attributes:
        coding: Of the body, as place in `CODINGS`.
        json: Bytes of its JSON; -1 for all.
        seconds: From the request's arrival until it is too late.
        priority: Place in `PRIORITIES`.
        version: That must answer; None for whichever does.
    """

    kind: Kind
    coding: int
    json: int
    seconds: float
    priority: int
    version: str | None


def asking(headers: Mapping[bytes, bytes], verb: str, version: str | None, deadline_ms: float) -> Asking:
    """Read them.

    Args:
        headers: By name in lower case.
        verb: "infer" or "predict".
        version: That the path names.
        deadline_ms: Where they name none.

    Raises:
        FeedError: `http-header`, `http-media`, `http-coding`.
    """
    coding = headers.get(b"content-encoding", b"").strip().lower()
    coding = {b"identity": b"", b"x-gzip": b"gzip"}.get(coding, coding)
    if coding not in CODINGS:
        raise FeedError("http-coding", "bodies come plain, as gzip or as deflate")
    length = _number(headers, JSON_LENGTH, 0, (1 << 31) - 1)
    milliseconds = _number(headers, DEADLINE, 1, LONGEST_MS)
    priority = headers.get(PRIORITY, b"normal").strip().decode("latin1")
    if priority not in PRIORITIES:
        raise FeedError("http-header", f"{PRIORITY.decode()} is one of {', '.join(PRIORITIES)}")
    return Asking(
        "infer" if verb == "infer" else _kind(headers), CODINGS.index(coding), -1 if length is None else length,
        (deadline_ms if milliseconds is None else milliseconds) / 1000, PRIORITIES.index(priority), version,
    )  # fmt: skip


_UNSAID = ("application/json", "application/octet-stream", "application/x-www-form-urlencoded")
"""Types of bodies of which the first bytes tell what they are; the last is what curl says of all."""


def _kind(headers: Mapping[bytes, bytes]) -> Kind:
    media = headers.get(b"content-type", b"application/json").partition(b";")[0].strip().lower()
    if media.decode("latin1") in _UNSAID:
        return "row"
    if media.startswith(b"image/"):
        return "image"
    if media.startswith(b"audio/"):
        return "sound"
    said = media.decode("latin1")[:100]
    raise FeedError("http-media", f"predict takes application/json, image/* and audio/wav as Content-Type, not {said}")


def _number(headers: Mapping[bytes, bytes], name: bytes, least: int, most: int) -> int | None:
    said = headers.get(name)
    if said is None:
        return None
    if not said.isdigit() or len(said) > 10 or not least <= int(said) <= most:
        raise FeedError("http-header", f"{name.decode()} is a whole number from {least} to {most}")
    return int(said)
