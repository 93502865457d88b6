"""Who vouches for a version: an Ed25519 signature over what the file is, what it is for, and how new it is.

A signature is a small JSON file beside the artifact (`model.tflite.sig`). Signed are the SHA-256 of the whole file
(model, manifest and self-test), the name of the model it may become, and a release number that only rises, so that
neither another model nor an older version can be slipped in. Needs the package `cryptography` (extra `sign`), on the
desk and on devices that ask for signatures; RFC 8032 describes the algorithm.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from edgekit import files
from edgekit.codec import CodecError, decode, encode
from edgekit.errors import ArtifactError, EngineMissingError, MissingFileError, UsageError

Kind = Literal["ed25519", "p256"]
SUFFIX = ".sig"
_DOMAIN = b"edgekit signature 1\n"
"""In front of what is signed: no signature made for another purpose fits."""


@dataclass(frozen=True)
class Signature:
    """What was signed, by which key, and the signature.

    Attributes:
        sha256: Of the artifact.
        name: The model that it may become.
        release: Rises from version to version.
        made: When, ISO 8601 in UTC.
        expires: After that it is not installed any more; None for never.
        key: Digest of the public key, as `key_id` makes it.
        value: The signature, base64.
    """

    sha256: str
    name: str
    release: int
    made: str
    key: str
    value: str = ""
    expires: str | None = None
    schema: int = 1

    def __post_init__(self) -> None:
        if self.release < 1:
            raise ValueError("a release is 1 or more")
        for moment in (self.made, *([self.expires] if self.expires else [])):
            if datetime.fromisoformat(moment).tzinfo is None:
                raise ValueError(f"{moment} has no time zone")

    def signed(self) -> bytes:
        """The bytes that the signature is over."""
        fields = encode(replace(self, value=""))
        return _DOMAIN + json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()

    def to_json(self) -> str:
        return json.dumps(encode(self), indent=1) + "\n"


def parse(text: str) -> Signature:
    """Read a signature.

    Raises:
        ArtifactError: `signature-invalid`.
    """
    try:
        return decode(Signature, json.loads(text), strict=True)
    except (ValueError, CodecError) as error:
        raise ArtifactError("signature-invalid", f"the signature cannot be read: {error}") from error


def make(path: Path, kind: Kind = "ed25519") -> str:
    """Make a key: the private one under `path`, readable by its owner alone, the public one beside it (`.pub`).

    Args:
        path: Of the private key, PKCS 8 in PEM.
        kind: "ed25519" for what devices ask for; "p256" for the OpenSSF format, whose public key is in PEM as well.

    Returns:
        Its id.

    Raises:
        UsageError: `key-exists`, `output-unwritable`.
    """
    found = library()
    files.check_outputs((path, public_path(path)))
    for each in (path, public_path(path)):
        if each.exists():
            raise UsageError("key-exists", f"{each} exists: a key is never overwritten")
    form = found.serialization
    if kind == "p256":
        private = found.ec.generate_private_key(found.ec.SECP256R1())
        public = private.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo)
    else:
        private = found.ed25519.Ed25519PrivateKey.generate()
        public = private.public_key().public_bytes(form.Encoding.Raw, form.PublicFormat.Raw)
    secret = private.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
    files.replace(path, secret, mode=0o600)
    files.replace(public_path(path), public if kind == "p256" else base64.b64encode(public) + b"\n")
    return key_id(public)


def public_path(path: Path) -> Path:
    """Where the public key of a private one lies."""
    return path.with_name(path.name + ".pub")


def key_id(public: bytes) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of a raw public key (32 bytes)."""
    return hashlib.sha256(public).hexdigest()[:16]


def read_public(path: Path) -> bytes:
    """A raw public key, from its file.

    Raises:
        MissingFileError: `file-missing`. UsageError: `key-invalid`.
    """
    return parse_public(text_of(path), str(path))


def parse_public(text: str, where: str) -> bytes:
    """A raw public key, from base64."""
    try:
        public = base64.b64decode(text.strip(), validate=True)
    except (ValueError, binascii.Error) as error:
        raise UsageError("key-invalid", f"{where} is no public key: {error}") from error
    if len(public) != 32:
        raise UsageError("key-invalid", f"{where} is no public key: it has {len(public)} bytes, not 32")
    return public


def sign(sha256: str, name: str, release: int, key: Path, expires: datetime | None = None) -> Signature:
    """Sign an artifact's digest.

    Raises:
        MissingFileError: `file-missing`. UsageError: `key-invalid`. EngineMissingError: `sign-missing`.
    """
    found = library()
    try:
        private = found.serialization.load_pem_private_key(text_of(key).encode(), None)
    except (ValueError, TypeError) as error:
        raise UsageError("key-invalid", f"{key} is no private key: {error}") from error
    if not isinstance(private, found.ed25519.Ed25519PrivateKey):
        raise UsageError("key-invalid", f"{key} is no Ed25519 key")
    form = found.serialization
    public = private.public_key().public_bytes(form.Encoding.Raw, form.PublicFormat.Raw)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    ends = expires.astimezone(UTC).isoformat(timespec="seconds") if expires else None
    unsigned = Signature(sha256, name, release, now, key_id(public), expires=ends)
    value = base64.b64encode(private.sign(unsigned.signed())).decode()
    return replace(unsigned, value=value)


def check(signature: Signature, public: bytes) -> None:
    """See that a key made this signature.

    Raises:
        ArtifactError: `signature-wrong`. EngineMissingError: `sign-missing`.
    """
    found = library()
    try:
        value = base64.b64decode(signature.value, validate=True)
        found.ed25519.Ed25519PublicKey.from_public_bytes(public).verify(value, signature.signed())
    except (ValueError, binascii.Error, found.exceptions.InvalidSignature) as error:
        raise ArtifactError("signature-wrong", f"the key {key_id(public)} did not sign this") from error


def text_of(path: Path) -> str:
    """What stands in a file.

    Raises:
        MissingFileError: `file-missing`.
    """
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise MissingFileError("file-missing", f"{path} cannot be read: {error.strerror}") from error


def library() -> Any:
    """What is used of the package cryptography.

    Raises:
        EngineMissingError: `sign-missing`.
    """
    try:
        from types import SimpleNamespace

        from cryptography import exceptions
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec, ed25519
    except ImportError as error:
        from edgekit.parts import install

        said = "signatures need the package cryptography"
        raise EngineMissingError("sign-missing", said, next_step=install("sign")) from error
    return SimpleNamespace(
        ec=ec, ed25519=ed25519, hashes=hashes, serialization=serialization, exceptions=exceptions
    )  # fmt: skip
