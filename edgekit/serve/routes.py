"""From a request's line to what answers it. The paths stand in the protocol's specification."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from edgekit.errors import FeedError, MissingFileError
from edgekit.serve.lane import Lane
from edgekit.serve.messages import Reply

Page = Callable[[], Reply]
MODEL_PAGES = ("", "ready")
MODEL_VERBS = ("infer", "predict")


class Route(NamedTuple):
    """Where a request leads.

    Attributes:
        verb: "page" (of the server), "about" or "ready" (of a model), "infer", "predict".
        page: Of the server.
        lane: The model.
        version: That the path names.
    """

    verb: str
    page: Page | None = None
    lane: Lane | None = None
    version: str | None = None


class Routes:
    """All paths.

    Args:
        pages: Path -> what it shows.
        lanes: Model name -> model.
    """

    def __init__(self, pages: dict[bytes, Page], lanes: dict[str, Lane]) -> None:
        self._pages = pages
        self._lanes = lanes

    def find(self, method: bytes, path: bytes) -> Route:
        """Raises:
        FeedError: `http-path`, `http-method`. MissingFileError: `model-unknown`, `version-unknown`.
        """
        path = path.partition(b"?")[0]
        page = self._pages.get(path) or self._pages.get(path.rstrip(b"/"))
        if page is not None:
            _allowed(method, (b"GET", b"HEAD"))
            return Route("page", page)
        parts = path.split(b"/")
        if len(parts) < 4 or parts[:3] != [b"", b"v2", b"models"] or not parts[3]:
            raise FeedError("http-path", "there is nothing under this path: see /openapi.json")
        name = unquote_to_bytes(parts[3]).decode("utf-8", "replace")
        rest = [part.decode("latin1") for part in parts[4:]]
        version = None
        if rest[:1] == ["versions"] and len(rest) > 1:
            version, rest = unquote_to_bytes(rest[1]).decode("utf-8", "replace"), rest[2:]
        verb = rest[0] if len(rest) == 1 else "" if not rest else None
        if verb not in (*MODEL_PAGES, *MODEL_VERBS):
            raise FeedError("http-path", "there is nothing under this path: see /openapi.json")
        _allowed(method, (b"POST",) if verb in MODEL_VERBS else (b"GET", b"HEAD"))
        lane = self._lanes.get(name)
        if lane is None:
            raise MissingFileError("model-unknown", "there is no such model: GET /v2/models lists those there are")
        if version is not None and lane.active is not None and version != lane.active.version:
            raise MissingFileError("version-unknown", f"{lane.name} is served in version {lane.active.version}")
        return Route(verb or "about", None, lane, version)


def _allowed(method: bytes, known: tuple[bytes, ...]) -> None:
    if method not in known:
        said = ", ".join(name.decode() for name in known)
        raise FeedError("http-method", f"this path takes {said}", allow=said)
