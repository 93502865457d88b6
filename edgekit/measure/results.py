"""What a measurement found, as values and as a JSON file with a schema.

The file holds the contract's fields of `bench`, and the single times: thinned evenly over the measurement, in blocks
with the reference workload's time beside each, which is what a later comparison needs. Percentiles and their
intervals are of all times, before thinning.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit import files
from edgekit.codec import CodecError, decode, encode, finite
from edgekit.errors import ArtifactError, MissingFileError

SCHEMA = "edgekit-bench"
VERSION = 1
SUFFIX = ".json"
KEPT_TIMES = 4000
LARGEST_FILE = 64 << 20


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one query, inputs in, outputs out."""

    min: float
    p50: float
    p90: float
    p99: float
    max: float
    mean: float
    p95: float


@dataclass(frozen=True)
class Interval:
    """Milliseconds; None where there are too few runs to bound that side."""

    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Memory:
    """Megabytes (10^6 bytes), and what the measured runs left behind; None where the system does not tell.

    Attributes:
        before_mb, loaded_mb: Resident memory before the model was loaded and after its first inference.
        peak_mb: Largest resident memory of the process, Python and numpy included.
        growth_kb: Growth of resident memory over the measured runs, in kB (10^3 bytes).
        blocks_kept: Python memory blocks that the measured runs left allocated.
        faults_per_run: Minor page faults a run: memory that is taken from the system again each time.
        leak: It still grew in the second half of the measurement, by more than 256 KiB.
    """

    before_mb: float | None
    loaded_mb: float | None
    peak_mb: float
    growth_kb: float | None
    blocks_kept: int
    faults_per_run: float
    leak: bool


@dataclass(frozen=True)
class Block:
    """Runs in succession, and the reference workload just before them.

    Attributes:
        at_s: Start, in seconds since the measurement's.
        runs: How many.
        p50_ms: Their median.
        reference_ms: Time of the reference workload.
        times_ms: Some of the times, evenly chosen.
    """

    at_s: float
    runs: int
    p50_ms: float
    reference_ms: float
    times_ms: tuple[float, ...]


@dataclass(frozen=True)
class Metric:
    """A scenario's figure of merit. `value` is None when the run was too short to state it."""

    name: str
    value: float | None
    unit: str


@dataclass(frozen=True)
class Trial:
    """One rate that was tried in the search of the server scenario."""

    rate_qps: float
    queries: int
    late: int
    p99_ms: float
    holds: bool


@dataclass(frozen=True)
class Scenario:
    """Which of LoadGen's scenarios, and what it found.

    Attributes:
        samples_per_query: Samples that are handed over together.
        queries: How many were answered.
        rate_qps: Of the server scenario: mean arrivals a second.
        latency_bound_ms: Of the server scenario; `late` queries took longer; `holds`: the bound is proved for 99 % of
            the queries with 99 % confidence.
        trials: Of the search for the highest rate, in the order tried.
    """

    name: str
    metric: Metric
    samples_per_query: int
    queries: int
    rate_qps: float | None = None
    latency_bound_ms: float | None = None
    late: int | None = None
    holds: bool | None = None
    trials: tuple[Trial, ...] = ()


@dataclass(frozen=True)
class Measured:
    """The file that was measured. `path` is absolute, on the machine that asked."""

    path: str
    sha256: str
    bytes: int


@dataclass(frozen=True)
class Bench:
    """The contract's fields of `bench`; times in milliseconds, memory in MB (10^6 bytes).

    Attributes:
        load_ms: From the file to a ready session, digest check and allocation included.
        first_ms: The first inference.
        rss_mb: Peak resident memory of the process, Python and numpy included.
        warmup_runs: Runs before the measurement.
        threads: Threads that run the model, the caller's included.
        valid: False when `notes` begins with reasons why the figures cannot be trusted.
        notes: Reasons first, remarks after.
        intervals_ms: 95 % intervals of p50, p90, p95 and p99 by order statistics.
        timed: Whether times measured there mean anything; False on an emulated board.
    """

    latency_ms: Latency
    load_ms: float
    first_ms: float
    rss_mb: float
    runs: int
    warmup_runs: int
    threads: int
    engine: str
    target: str
    environment: dict[str, Any]
    valid: bool
    intervals_ms: dict[str, Interval]
    memory: Memory
    scenario: Scenario
    notes: tuple[str, ...] = ()
    timed: bool = True
    artifact: Measured | None = None
    created: str | None = None
    series: tuple[Block, ...] = ()


def document(result: Bench, *, series: bool = True) -> dict[str, Any]:
    """The JSON document of a result; without `series` the single times stay out."""
    fields: dict[str, Any] = encode(result)
    if not series:
        del fields["series"]
    return fields


def write(path: Path, result: Bench) -> None:
    """Write a result, whole or not at all.

    Raises:
        UsageError: `output-unwritable`.
    """
    from edgekit import __version__

    fields = {"schema": SCHEMA, "version": VERSION, "edgekit": __version__, **document(result)}
    files.replace(path, (json.dumps(finite(fields), indent=1, allow_nan=False) + "\n").encode())


def read(path: Path) -> Bench:
    """Read a result.

    Raises:
        MissingFileError: `file-missing`.
        ArtifactError: `result-unknown`: no result of `bench`, a damaged one, or one of a later schema.
    """
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise ArtifactError("result-unknown", f"{path} is too large for a result of `edgekit bench`")
        fields = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise MissingFileError("file-missing", f"{path} does not exist") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError("result-unknown", f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(fields, Mapping) or fields.get("schema") != SCHEMA:
        raise ArtifactError("result-unknown", f"{path} is no result of `edgekit bench`: it has no schema {SCHEMA!r}")
    if fields.get("version") != VERSION:
        raise ArtifactError(
            "result-unknown",
            f"{path} has version {fields.get('version')!r} of {SCHEMA}; this EdgeKit reads version {VERSION}",
        )
    try:
        return decode(Bench, fields)
    except CodecError as error:
        raise ArtifactError("result-unknown", f"{path} is a damaged result: {error}") from error
