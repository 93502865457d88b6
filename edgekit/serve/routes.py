"""From a request's line to what answers it. The paths stand in the protocol's specification."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from edgekit.errors import FeedError, MissingFileError
from edgekit.serve.asking import Asking, asking
from edgekit.serve.lane import Lane
from edgekit.serve.messages import Reply

Page = Callable[[], Reply]
ModelPage = Callable[[Lane, str, str | None], Reply]
MODEL_PAGES = ("", "ready")
MODEL_VERBS = ("infer", "predict")


class Route(NamedTuple):
    """Where a request leads: to a page, or to a model that is asked something."""

    page: Page | None = None
    lane: Lane | None = None
    asking: Asking | None = None


class Routes:
    """All paths.

    Args:
        lanes: Name -> lane.

    Attributes:
        pages: Path -> what it shows.
        model_page: Shows a model's metadata ("") or readiness ("ready"), of the version that the path names.
    """

    def __init__(self, lanes: Mapping[str, Lane]) -> None:
        self.pages: dict[bytes, Page] = {}
        self.model_page: ModelPage | None = None
        self._lanes = lanes

    def find(self, method: bytes, path: bytes, headers: Mapping[bytes, bytes]) -> Route:
        """Raises:
        FeedError: `http-path`, `http-method`, and what `asking` raises. MissingFileError: `model-unknown`.
        """
        path = path.partition(b"?")[0]
        page = self.pages.get(path) or self.pages.get(path.rstrip(b"/"))
        if page is not None:
            _allowed(method, (b"GET", b"HEAD"))
            return Route(page)
        parts = path.split(b"/")
        if len(parts) < 4 or parts[:3] != [b"", b"v2", b"models"] or not parts[3]:
            raise FeedError("http-path", "there is nothing under this path: see /openapi.json")
        name = unquote_to_bytes(parts[3]).decode("utf-8", "replace")
        rest = [part.decode("latin1") for part in parts[4:]]
        version = None
        if rest[:1] == ["versions"] and len(rest) > 1:
            version, rest = unquote_to_bytes(rest[1]).decode("utf-8", "replace"), rest[2:]
        verb = rest[0] if len(rest) == 1 else "" if not rest else None
        if verb is None or verb not in (*MODEL_PAGES, *MODEL_VERBS):
            raise FeedError("http-path", "there is nothing under this path: see /openapi.json")
        _allowed(method, (b"POST",) if verb in MODEL_VERBS else (b"GET", b"HEAD"))
        lane = self._lanes.get(f"{name}/versions/{version}") or self._lanes.get(name)
        if lane is None or lane.model != name:
            raise MissingFileError("model-unknown", "there is no such model: GET /v2/models lists those there are")
        if verb in MODEL_VERBS:
            return Route(None, lane, asking(headers, verb, version, lane.serving.deadline_ms))
        assert self.model_page is not None  # noqa: S101 - the server listens after it was given
        return Route(partial(self.model_page, lane, verb, version))


def _allowed(method: bytes, known: tuple[bytes, ...]) -> None:
    if method not in known:
        said = ", ".join(name.decode() for name in known)
        raise FeedError("http-method", f"this path takes {said}", allow=said)
