"""Who may ask: nobody from elsewhere without a key or a certificate, and no page of a browser on somebody's behalf."""

from __future__ import annotations

import hmac
import ipaddress
import ssl
from codecs import BOM_UTF8
from pathlib import Path

from edgekit.errors import FeedError, MissingFileError, UsageError
from edgekit.serve.messages import Request
from edgekit.serve.settings import Settings

_LEAST = 16
"""Characters of a key: shorter ones can be tried out."""
_OPEN = (b"/v2/health/live", b"/v2/health/ready", b"/")
"""Paths that probes and browsers ask for without a key; they tell nothing."""
_LOCAL = ("localhost", "127.0.0.1", "::1")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Access:
    """What a request must show.

    Args:
        settings: See `Settings`.

    Raises:
        UsageError: `serve-exposed`: others could reach it, and need to show nothing; `serve-key`, `serve-tls`.
        MissingFileError: `file-missing`.
    """

    def __init__(self, settings: Settings) -> None:
        self._keys = _keys(settings.api_key_file) if settings.api_key_file else ()
        self.tls = _context(settings)
        certified = settings.client_ca is not None
        exposed = settings.host is not None and not is_loopback(settings.host)
        if exposed and not self._keys and not certified:
            raise UsageError("serve-exposed", f"{settings.host} can be reached from elsewhere, and asks for nothing")
        self.warnings = ("keys cross the network in the clear: give a certificate",) if (
            exposed and self._keys and self.tls is None
        ) else ()  # fmt: skip
        # A name that resolves to this machine is how pages of others reach it from its own browser.
        self._local = not exposed and not self._keys and not certified
        self._host = settings.host

    @property
    def keyed(self) -> bool:
        """Requests show a key."""
        return bool(self._keys)

    def check(self, request: Request) -> str:
        """Refuse who may not ask; the key that a request shows, for which it is counted, or nothing.

        Raises:
            FeedError: `api-key-wrong`, `http-host`, `http-origin`.
        """
        headers = request.headers
        host = headers.get(b"host", b"").decode("latin1")
        if self._local and request.client != "local" and host:
            name = _hostname(host).lower().removesuffix(".")
            if name not in _LOCAL and name != self._host and not is_loopback(name):
                raise FeedError("http-host", "this server answers to the names of its own machine alone")
        origin = headers.get(b"origin")
        if origin is not None and origin.decode("latin1").partition("://")[2] != host:
            raise FeedError("http-origin", "pages of other sites may not ask")
        if self._keys and request.path.partition(b"?")[0] not in _OPEN:
            return f"key {self._shown(headers)}"
        return ""

    def _shown(self, headers: dict[bytes, bytes]) -> int:
        scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
        shown = headers.get(b"x-api-key") or (key.strip() if scheme.lower() == b"bearer" else scheme)
        # All are compared, each in a time that tells nothing.
        places = [place for place, key in enumerate(self._keys) if hmac.compare_digest(shown, key)]
        if not places:
            raise FeedError("api-key-wrong", "show a key: Authorization: Bearer KEY, or X-API-Key: KEY")
        return places[0]


def _hostname(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] or host if ":" in host else host


def _keys(file: str) -> tuple[bytes, ...]:
    try:
        lines = Path(file).read_bytes().removeprefix(BOM_UTF8).decode("ascii").split("\n")
    except FileNotFoundError as error:
        raise MissingFileError("file-missing", f"there is no file {file}") from error
    except (OSError, ValueError) as error:
        raise UsageError("serve-key", f"{file} cannot be read: {error}") from error
    keys = tuple(line.strip().encode() for line in lines if line.strip())
    if not keys or min(map(len, keys)) < _LEAST:
        raise UsageError("serve-key", f"{file} needs a key a line, of at least {_LEAST} characters")
    return keys


def _context(settings: Settings) -> ssl.SSLContext | None:
    if settings.certificate is None:
        if settings.client_ca or settings.certificate_key:
            raise UsageError("serve-tls", "a certificate of the server is missing")
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(settings.certificate, settings.certificate_key)
        if settings.client_ca:
            context.load_verify_locations(settings.client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ssl.SSLError) as error:
        raise UsageError("serve-tls", f"the certificates cannot be used: {error}") from error
    return context
