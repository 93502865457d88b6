"""Captures that nobody reads who finds the board: ChaCha20-Poly1305 (RFC 8439) with a key of 32 bytes.

ChaCha rather than AES because half of the boards have no AES instructions (a Raspberry Pi 4 is one of them), where
it is several times faster. Every record has a random nonce and is bound to its place, so that records can be neither
read, changed, exchanged nor moved without the key. Needs the package `cryptography` (extra `sign`).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import secrets
from pathlib import Path
from typing import Any

from edgekit import files
from edgekit.errors import ArtifactError, EngineMissingError, MissingFileError, UsageError

ENVIRONMENT = "EDGEKIT_CAPTURE_KEY"
_BYTES = 32
_NONCE = 12


class Seal:
    """Encrypts and decrypts records.

    Args:
        key: 32 bytes.

    Attributes:
        id: The first 16 hexadecimal digits of the key's SHA-256: tells which key a segment needs, and nothing else.

    Raises:
        EngineMissingError: `seal-missing`.
    """

    def __init__(self, key: bytes) -> None:
        if len(key) != _BYTES:
            raise UsageError("key-invalid", f"a capture key has {_BYTES} bytes, not {len(key)}")
        self.id = hashlib.sha256(b"edgekit capture key\n" + key).hexdigest()[:16]
        self._cipher, self._failure = _library(key)

    def close(self, content: bytes, place: bytes) -> bytes:
        """Encrypt; `place` says where the record stands, and must be said again to open it."""
        nonce = secrets.token_bytes(_NONCE)
        return nonce + bytes(self._cipher.encrypt(nonce, content, place))

    def open(self, content: bytes, place: bytes) -> bytes:
        """Decrypt.

        Raises:
            ArtifactError: `capture-damaged`: it was changed, or stood at another place.
        """
        try:
            return bytes(self._cipher.decrypt(content[:_NONCE], content[_NONCE:], place))
        except (self._failure, ValueError) as error:
            said = f"a record was changed: the key {self.id} does not open it"
            raise ArtifactError("capture-damaged", said) from error


def make(path: Path) -> str:
    """Make a key: 32 random bytes as base64, readable by its owner alone.

    Returns:
        Its id.

    Raises:
        UsageError: `key-exists`, `output-unwritable`. EngineMissingError: `seal-missing`.
    """
    files.check_outputs((path,))
    if path.exists():
        raise UsageError("key-exists", f"{path} exists: a key is never overwritten")
    key = secrets.token_bytes(_BYTES)
    made = Seal(key)
    files.replace(path, base64.b64encode(key) + b"\n", mode=0o600)
    return made.id


def find(path: str | Path | None = None) -> Seal | None:
    """The seal of a key file, else of the key in EDGEKIT_CAPTURE_KEY (base64), else None.

    Raises:
        MissingFileError: `file-missing`. UsageError: `key-invalid`. EngineMissingError: `seal-missing`.
    """
    if path is None:
        said = os.environ.get(ENVIRONMENT)
        return None if not said else Seal(_parse(said, ENVIRONMENT))
    try:
        text = Path(path).read_text(encoding="ascii", errors="replace")
    except OSError as error:
        raise MissingFileError("file-missing", f"{path} cannot be read: {error.strerror}") from error
    return Seal(_parse(text, str(path)))


def _parse(text: str, where: str) -> bytes:
    try:
        return base64.b64decode(text.strip(), validate=True)
    except (ValueError, binascii.Error) as error:
        raise UsageError("key-invalid", f"{where} is no capture key: {error}") from error


def _library(key: bytes) -> tuple[Any, type[Exception]]:
    try:
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
    except ImportError as error:
        from edgekit.parts import install

        said = "encrypted captures need the package cryptography"
        raise EngineMissingError("seal-missing", said, next_step=install("sign")) from error
    return ChaCha20Poly1305(key), InvalidTag
