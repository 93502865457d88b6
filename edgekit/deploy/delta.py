"""A new version as its difference from one that the device has.

Training on keeps the places of all tensors, and changes a part of their bytes: both files, one laid over the other,
differ in few places. The difference (exclusive or) is mostly zeros, which zlib writes in little room wherever they
stand: as runs alone (RFC 1951, Z_RLE) where few bytes changed here and there, 100 times as fast as its best effort and
smaller; with matches where more of it repeats (`benchmarks/deploy_delta.py`). What is longer or shorter at the end is
taken as it is. The desk keeps what it deployed, by content, to know what devices have; without it the whole file is
sent.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from edgekit import files
from edgekit.artifact import FILE_LIMIT
from edgekit.errors import ArtifactError

_WORTH = 0.9
"""A delta above this share of the file is not worth what can go wrong with it."""
_TRIED = 3
"""Versions that a device has from which a delta is tried, the active one first."""
_KEPT = 32
"""Files that the desk keeps, the latest."""


@dataclass(frozen=True)
class Delta:
    """What to lay over which version.

    Attributes:
        base: SHA-256 of the version that it starts from.
        data: Compressed.
    """

    base: str
    data: bytes


def make(old: bytes, new: bytes) -> bytes:
    """The difference of two files, compressed; `apply` undoes it."""
    difference = _over(old, new)
    runs = zlib.compressobj(6, zlib.DEFLATED, zlib.MAX_WBITS, 9, zlib.Z_RLE)
    return min(runs.compress(difference) + runs.flush(), zlib.compress(difference, 6), key=len)


def apply(old: bytes, delta: bytes, sha256: str, size: int) -> bytes:
    """The new file.

    Raises:
        ArtifactError: `delta-wrong`: it is not the delta of these two, or it was damaged on the way.
    """
    if not 0 <= size <= FILE_LIMIT:
        raise ArtifactError("delta-wrong", f"{size} is no size of a model")
    inflating = zlib.decompressobj()
    try:
        difference = inflating.decompress(delta, size + 1)
    except zlib.error as error:
        raise ArtifactError("delta-wrong", f"the delta is damaged: {error}") from error
    new = _over(old, difference)
    if len(new) != size or hashlib.sha256(new).hexdigest() != sha256:
        raise ArtifactError("delta-wrong", f"the delta does not make {sha256[:12]}")
    return new


def best(new: bytes, versions: Iterable[str]) -> Delta | None:
    """The smallest delta from one of the first versions that both sides have; None where the whole file is as good."""
    known = ((sha256, old) for sha256 in versions if (old := _known(sha256)) is not None)
    found = [Delta(sha256, make(old, new)) for sha256, old in itertools.islice(known, _TRIED)]
    smallest = min(found, key=lambda delta: len(delta.data), default=None)
    return smallest if smallest is not None and len(smallest.data) < _WORTH * len(new) else None


def remember(new: bytes, sha256: str) -> None:
    """Keep what was deployed, for the deltas of later versions; a desk without room for it goes without."""
    folder = _folder()
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        files.put(folder / sha256, new)
        kept = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns, reverse=True)
        for path in kept[_KEPT:]:
            path.unlink(missing_ok=True)


def _known(sha256: str) -> bytes | None:
    try:
        data = (_folder() / sha256).read_bytes()
    except OSError:
        return None
    return data if hashlib.sha256(data).hexdigest() == sha256 else None


def _folder() -> Path:
    return files.cache("deployed")


def _over(under: bytes, over: bytes) -> bytes:
    """`over`, exclusive or `under` as far as that reaches."""
    length = min(len(under), len(over))
    mixed = int.from_bytes(under[:length], "little") ^ int.from_bytes(over[:length], "little")
    return mixed.to_bytes(length, "little") + over[length:]
