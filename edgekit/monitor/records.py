"""What a captured record says: a sample with its chances, an alarm, or how things stand.

    JSON, one line | arrays, one behind the other, deflated where that is smaller

A record is read without trust: whoever finds a board can write what he likes into its files.
"""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgekit.codec import CodecError, decode, encode
from edgekit.errors import ArtifactError

Stratum = Literal["random", "uncertain", "out-of-distribution", "disagreeing"]
STRATA: tuple[Stratum, ...] = ("random", "uncertain", "out-of-distribution", "disagreeing")
ARRAY_LIMIT = 64 << 20
"""Bytes of all arrays of a record: a bound for what a forged one makes its reader allocate."""
_YEAR_10000 = 253_402_300_800.0
_DTYPES = frozenset(
    ("float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool")
)


@dataclass(frozen=True)
class Stored:
    """An array of a record.

    Attributes:
        dtype: Of the values. stored: Of the bytes, where a smaller one holds the same values.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    stored: str

    def __post_init__(self) -> None:
        if not {self.dtype, self.stored} <= _DTYPES:
            raise ValueError(f"no array has the element type {self.dtype} or {self.stored}")
        if len(self.shape) > 8 or not all(0 <= size <= ARRAY_LIMIT for size in self.shape):
            raise ValueError(f"no array has the shape {self.shape}")

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * np.dtype(self.stored).itemsize


@dataclass(frozen=True)
class Sample:
    """What is known of a captured sample.

    Attributes:
        version: SHA-256 of the artifact that answered.
        number: How-manyth sample of its process.
        taken: Strata that drew it.
        chances: Stratum that it belongs to -> the probability that it drew it.
        probability: That any of them did.
        ood: How far it lies from what the model knows; None where nobody watched.
        uncertainty: Of the answer; None where nobody watched.
        answer: The class, or the first value; None where the answer is neither.
        score: Of that class.
        shadow: What the shadow model answered, where it was asked.
        at: Time, seconds since 1970; None where the clock was not set.
    """

    version: str
    number: int
    taken: tuple[Stratum, ...]
    chances: dict[str, float]
    probability: float
    ood: float | None = None
    uncertainty: float | None = None
    answer: float | None = None
    score: float | None = None
    shadow: float | None = None
    at: float | None = None

    def __post_init__(self) -> None:
        _check_time(self.at)
        values = [self.probability, *self.chances.values()]
        if not all(0 < value <= 1 for value in values):
            raise ValueError("a probability lies between 0 and 1")

    @property
    def weight(self) -> float:
        """So many samples it stands for (Horvitz and Thompson 1952)."""
        return 1 / self.probability


@dataclass(frozen=True)
class Record:
    """One record.

    Attributes:
        kind: Which of the following it holds.
        sample: With "sample".
        about: With "alarm" and "status": JSON values of the monitor.
        arrays: As they are stored, in order.
        inputs: How many of them are what the model met; the others are its outputs.
    """

    kind: Literal["sample", "alarm", "status"]
    sample: Sample | None = None
    about: dict[str, Any] = field(default_factory=dict)
    arrays: tuple[Stored, ...] = ()
    inputs: int = 0
    at: float | None = None

    def __post_init__(self) -> None:
        _check_time(self.at)
        if (self.kind == "sample") != (self.sample is not None) or not 0 <= self.inputs <= len(self.arrays):
            raise ValueError(f"a {self.kind} record has other parts")
        if sum(array.bytes for array in self.arrays) > ARRAY_LIMIT:
            raise ValueError("its arrays are larger than any that are captured")


@dataclass(frozen=True)
class Read:
    """A record with its values.

    Attributes:
        inputs: Name -> array: what the model met, after redaction.
        outputs: Name -> array.
        digest: SHA-256 of names, element types, shapes and values of the inputs: equal samples have equal ones.
    """

    record: Record
    inputs: dict[str, NDArray[Any]] = field(default_factory=dict)
    outputs: dict[str, NDArray[Any]] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        return digest(self.inputs)


def pack(
    record: Record, inputs: Mapping[str, NDArray[Any]] | None = None, outputs: Mapping[str, NDArray[Any]] | None = None
) -> bytes:
    """A record as bytes; its `arrays` and `inputs` are filled in from the arrays.

    Raises:
        ValueError: An array has no element type that is stored, or they are too large.
    """
    described: list[Stored] = []
    body = bytearray()
    for name, value in [*(inputs or {}).items(), *(outputs or {}).items()]:
        array = np.asarray(value)
        small = _smaller(array)
        described.append(Stored(name, str(array.dtype), tuple(array.shape), str(small.dtype)))
        body += np.ascontiguousarray(small).tobytes()
    whole = Record(record.kind, record.sample, record.about, tuple(described), len(inputs or {}), record.at)
    deflated = zlib.compress(body, 1)
    mark = b"z" if len(deflated) < len(body) else b"p"
    return json.dumps(encode(whole), sort_keys=True).encode() + b"\n" + mark + (deflated if mark == b"z" else body)


def unpack(payload: bytes) -> Read:
    """A record and its arrays.

    Raises:
        ArtifactError: `capture-damaged`: no EdgeKit wrote this.
    """
    text, newline, body = payload.partition(b"\n")
    try:
        record = decode(Record, json.loads(text))
        if not newline or body[:1] not in (b"z", b"p"):
            raise ValueError("it has no body")
        values = _inflated(body, sum(array.bytes for array in record.arrays))
    except (ValueError, TypeError, CodecError, zlib.error, RecursionError) as error:
        raise ArtifactError("capture-damaged", f"a captured record cannot be read: {error}") from error
    arrays: dict[str, NDArray[Any]] = {}
    at = 0
    for number, about in enumerate(record.arrays):
        found = np.frombuffer(values, about.stored, math.prod(about.shape), at).reshape(about.shape)
        arrays[f"{number} {about.name}"] = found.astype(about.dtype)
        at += about.bytes
    named = [(name.partition(" ")[2], array) for name, array in arrays.items()]
    return Read(record, dict(named[: record.inputs]), dict(named[record.inputs :]))


def digest(inputs: Mapping[str, NDArray[Any]]) -> str:
    """See `Read.digest`."""
    whole = hashlib.sha256()
    for name in sorted(inputs):
        array = np.ascontiguousarray(inputs[name])
        whole.update(f"{name} {array.dtype} {array.shape}\n".encode() + array.tobytes())
    return whole.hexdigest()


def _check_time(at: float | None) -> None:
    if at is not None and not 0 <= at < _YEAR_10000:
        raise ValueError(f"{at} s are no time of a calendar")


def _inflated(body: bytes, size: int) -> bytes:
    if body[:1] == b"p":
        values = body[1:]
    else:
        inflating = zlib.decompressobj()
        values = inflating.decompress(body[1:], size + 1)
    if len(values) != size:
        raise ValueError("its arrays have another size than it says")
    return values


def _smaller(array: NDArray[Any]) -> NDArray[Any]:
    """The same values in a byte each, where they are whole numbers from 0 to 255, as pixels are."""
    if array.dtype.kind not in "fiu" or array.dtype.itemsize == 1 or not array.size:
        return array
    low, high = array.min(), array.max()
    if not (low >= 0 and high <= 255):  # also what holds NaN
        return array
    small: NDArray[Any] = array.astype(np.uint8)
    exact = np.array_equal(small, array) and not (array.dtype.kind == "f" and np.signbit(array).any())
    return small if exact else array
