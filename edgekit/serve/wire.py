"""What crosses between the server and its workers: fixed headers, then bytes. Both ends are of one version.

To a worker: FRAME (number of requests, bytes), then for each ASK and its body. From it: TELL and its body, the first
with HELLO, one ANSWER for each request, and now and then what a monitor noticed, as DRIFT.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Literal, NamedTuple

from edgekit.serve.settings import Bounds

FRAME = struct.Struct("<II")
ASK = struct.Struct("<IdBBiI")
"""Number, deadline by the monotonic clock (which all processes share), kind, coding, bytes of the JSON (-1: all), bytes
of the body.
"""
TELL = struct.Struct("<BHIIIHfffd")
"""Kind, status, number, bytes of the JSON before tensors (0: all is JSON), bytes of the body, requests answered by the
same call, seconds of parsing, running and writing, and when it was told, by the monotonic clock.
"""
HELLO, ANSWER, DRIFT = 0, 1, 2

Kind = Literal["infer", "row", "image", "sound"]
KINDS: tuple[Kind, ...] = ("infer", "row", "image", "sound")
CODINGS = (b"", b"gzip", b"deflate")

DATATYPES = {
    "bool": "BOOL", "int8": "INT8", "int16": "INT16", "int32": "INT32", "int64": "INT64", "uint8": "UINT8",
    "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64", "float16": "FP16", "float32": "FP32",
    "float64": "FP64", "string": "BYTES", "int4": "INT8",
}  # fmt: skip
"""Element type -> the protocol's name; complex numbers have none."""


@dataclass(frozen=True)
class Opening:
    """What a worker is started with.

    Attributes:
        path: Of the artifact.
        name, version: As answers name them.
        sha256: What the file must be; None for whatever lies there.
        kept: Folder in which the monitor goes on across restarts; None: in memory alone.
        cycle: Of the monitor; see `Model.monitor`.
        captures: Folder of captures; None: nothing is kept.
    """

    path: str
    name: str
    version: str
    threads: int
    engine: str | None
    watchdog: float
    bounds: Bounds
    sha256: str | None = None
    batch: int = 16
    monitor: bool = False
    kept: str | None = None
    cycle: int = 0
    captures: str | None = None


class Told(NamedTuple):
    """An answer of a worker."""

    number: int
    status: int
    json: int
    body: bytes
    together: int
    parse: float
    run: float
    write: float
    at: float
