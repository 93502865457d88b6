"""Signatures as the OpenSSF model-signing specification has them, for tools and registries that know no other.

A Sigstore bundle (JSON) holds a DSSE envelope, which holds an in-toto statement of all files and their digests, signed
with ECDSA on P-256, P-384 or P-521. It says neither which model a file may become nor how new it is: devices ask for
`edgekit.store.signature`. Sources: https://github.com/ossf/model-signing-spec,
https://github.com/secure-systems-lab/dsse/blob/v1.0.2/protocol.md, and the package model-signing 1.1.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.errors import ArtifactError, MissingFileError, UnsafeSourceError, UsageError
from edgekit.store.signature import library, text_of

SUFFIX = ".sigstore.json"
_BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_STATEMENT = "application/vnd.in-toto+json"
_STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
_PREDICATE = "https://model_signing/signature/v1.0"
_IGNORED = (".git", ".gitattributes", ".github", ".gitignore")
_HASHES = {"sha256": "sha256", "blake2b": "blake2b"}
_MALFORMED = (ValueError, KeyError, TypeError, AttributeError, RecursionError)
"""What reading a document of another shape raises."""
_CURVES = {256: "SHA256", 384: "SHA384", 521: "SHA512"}
"""Bits of a curve -> the hash that goes with it in Sigstore's key formats."""


@dataclass(frozen=True)
class Checked:
    """A signature that holds.

    Attributes:
        key: SHA-256 of the public key in PEM, as the format names keys.
        model: What the signer called the model.
        files: How many it covers.
    """

    key: str
    model: str
    files: int


@dataclass(frozen=True)
class _Envelope:
    payload: bytes
    value: bytes
    hint: str | None


@dataclass(frozen=True)
class _Statement:
    """What was signed: the name of the model, how its files were hashed, which were left out, digest by name."""

    model: str
    hashed: str
    ignored: tuple[str, ...]
    signed: dict[str, str]


def sign(path: Path, key: Path, out: Path) -> str:
    """Sign a file, or all files of a folder; the bundle, to be written to `out`.

    Raises:
        MissingFileError: `file-missing`. UsageError: `key-invalid`. EngineMissingError: `sign-missing`.
        UnsafeSourceError: `signature-links`.
    """
    private = _private(key)
    resources = [
        {"name": name, "digest": digest, "algorithm": "sha256"}
        for name, digest in _digests(path, "sha256", (*_IGNORED, *_inside(path, out)))
    ]
    predicate = {
        "serialization": {"method": "files", "hash_type": "sha256", "allow_symlinks": False,
                          "ignore_paths": [*_IGNORED, *_inside(path, out)]},
        "resources": resources,
    }  # fmt: skip
    subject = {"name": path.resolve().name, "digest": {"sha256": _root(resources)}}
    statement = {"_type": _STATEMENT_TYPE, "subject": [subject], "predicateType": _PREDICATE, "predicate": predicate}
    payload = json.dumps(statement, separators=(",", ":")).encode()
    value = private.sign(_encoded(payload), _algorithm(private))
    envelope = {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": _STATEMENT,
        "signatures": [{"sig": base64.b64encode(value).decode(), "keyid": ""}],
    }
    about = {"publicKey": {"hint": _hint(private.public_key())}, "tlogEntries": []}
    return json.dumps({"mediaType": _BUNDLE, "verificationMaterial": about, "dsseEnvelope": envelope}) + "\n"


def check(path: Path, text: str, key: Path) -> Checked:
    """See that a key signed this very file or folder.

    Raises:
        ArtifactError: `signature-invalid`, `signature-wrong`, `signature-unsupported`. UnsafeSourceError:
            `signature-other`, `signature-links`. UsageError: `key-invalid`. EngineMissingError: `sign-missing`.
    """
    envelope, public = _envelope(text), _public(key)
    hint = _hint(public)
    try:
        if envelope.hint not in (None, "", hint):
            raise ValueError("it names another key")
        public.verify(envelope.value, _encoded(envelope.payload), _algorithm(public))
    except (ValueError, library().exceptions.InvalidSignature) as error:
        raise ArtifactError("signature-wrong", f"the key {hint[:16]} did not sign this") from error
    stated = _stated(envelope.payload)
    _compare(path, stated.signed, dict(_digests(path, stated.hashed, stated.ignored)))
    return Checked(hint, stated.model, len(stated.signed))


def _envelope(text: str) -> _Envelope:
    try:
        bundle = json.loads(text)
        media, material, envelope = bundle["mediaType"], bundle["verificationMaterial"], bundle["dsseEnvelope"]
        hint = material["publicKey"].get("hint") if "publicKey" in material else None
        kind, (signature,) = envelope["payloadType"], envelope["signatures"]
        payload = base64.b64decode(envelope["payload"], validate=True)
        value = base64.b64decode(signature["sig"], validate=True)
    except _MALFORMED as error:
        raise _invalid(error) from error
    if (media, kind) != (_BUNDLE, _STATEMENT):
        raise _unsupported(f"it is a {media} over {kind}")
    if "publicKey" not in material:
        raise _unsupported("it was made with a certificate or an identity, not with a key")
    return _Envelope(payload, value, hint)


def _stated(payload: bytes) -> _Statement:
    """The statement, whose signature holds."""
    try:
        statement = json.loads(payload)
        (subject,), predicate = statement["subject"], statement["predicate"]
        how, resources = predicate["serialization"], predicate["resources"]
        kind = (statement["_type"], statement["predicateType"], how["method"])
        hashed = how["hash_type"]
        signed = {str(resource["name"]): str(resource["digest"]) for resource in resources}
        consistent = len(signed) == len(resources) and _root(resources) == subject["digest"]["sha256"]
        consistent = consistent and all(resource["algorithm"] == hashed for resource in resources)
        ignored = tuple(str(name) for name in how.get("ignore_paths") or ())
        name = str(subject["name"])
    except _MALFORMED as error:
        raise _invalid(error) from error
    if kind != (_STATEMENT_TYPE, _PREDICATE, "files") or hashed not in _HASHES:
        raise _unsupported(f"it covers {kind[2]} by {hashed} ({kind[1]})")
    if not consistent:
        raise ArtifactError("signature-invalid", "the signed list of files contradicts itself")
    return _Statement(name, hashed, ignored, signed)


def _compare(path: Path, signed: dict[str, str], found: dict[str, str]) -> None:
    wrong = [f"{name} is missing" for name in sorted(signed.keys() - found.keys())]
    wrong += [f"{name} was not signed" for name in sorted(found.keys() - signed.keys())]
    wrong += [f"{name} was changed" for name in sorted(signed.keys() & found.keys()) if signed[name] != found[name]]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise UnsafeSourceError("signature-other", f"{path}: {'; '.join(wrong[:3])}{more}")


def _digests(path: Path, kind: str, ignored: tuple[str, ...]) -> list[tuple[str, str]]:
    """(name relative to the folder, digest) of all files, sorted; a single file is called "."."""
    if not path.exists():
        raise MissingFileError("file-missing", f"there is no {path}")
    found = [path, *path.rglob("*")] if path.is_dir() else [path]
    named = []
    for item in sorted(found):
        name = item.relative_to(path).as_posix()
        if any(name == one or name.startswith(f"{one}/") for one in ignored):
            continue
        if item.is_symlink():
            raise UnsafeSourceError("signature-links", f"{item} is a link, which may lead anywhere")
        if item.is_file():
            with open(item, "rb") as file:
                named.append((name, hashlib.file_digest(file, _HASHES[kind]).hexdigest()))
    return named


def _inside(path: Path, out: Path) -> tuple[str, ...]:
    """The bundle's own name, where it lies in the folder that is signed."""
    whole, own = path.resolve(), out.resolve()
    return (own.relative_to(whole).as_posix(),) if path.is_dir() and own.is_relative_to(whole) else ()


def _root(resources: list[dict[str, Any]]) -> str:
    return hashlib.sha256(b"".join(bytes.fromhex(resource["digest"]) for resource in resources)).hexdigest()


def _encoded(payload: bytes) -> bytes:
    """What is signed: DSSE's pre-authentication encoding."""
    return b"DSSEv1 %d %s %d %s" % (len(_STATEMENT), _STATEMENT.encode(), len(payload), payload)


def _algorithm(key: Any) -> Any:
    found = library()
    return found.ec.ECDSA(getattr(found.hashes, _CURVES[key.curve.key_size])())


def _hint(public: Any) -> str:
    form = library().serialization
    pem: bytes = public.public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(pem).hexdigest()


def _private(path: Path) -> Any:
    text = text_of(path).encode()
    return _known(lambda: library().serialization.load_pem_private_key(text, None), path, "private")


def _public(path: Path) -> Any:
    text = text_of(path).encode()
    return _known(lambda: library().serialization.load_pem_public_key(text), path, "public")


def _known(load: Any, path: Path, kind: str) -> Any:
    try:
        key = load()
    except (ValueError, TypeError) as error:
        raise UsageError("key-invalid", f"{path} is no {kind} key in PEM: {error}") from error
    curve = getattr(getattr(key, "curve", None), "key_size", None)
    if curve not in _CURVES or "secp" not in key.curve.name:
        raise UsageError(
            "key-invalid",
            f"{path} is not of P-256, P-384 or P-521, which OpenSSF signatures take",
            next_step="Make one: `edgekit keys make openssf.key --type p256`.",
        )
    return key


def _unsupported(what: str) -> ArtifactError:
    return ArtifactError("signature-unsupported", f"this OpenSSF signature is not understood: {what}")


def _invalid(error: Exception) -> ArtifactError:
    said = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
    return ArtifactError("signature-invalid", f"the signature cannot be read: {said}")
