"""What a server is told: where it listens, what it serves, and how much of everything it takes."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgekit.codec import CodecError, decode
from edgekit.errors import MissingFileError, UsageError

MIB = 1 << 20
PRIORITIES = ("high", "normal", "low")


@dataclass(frozen=True)
class Bounds:
    """What is refused beyond; bytes and seconds.

    Attributes:
        body: Of one request, as sent and as decompressed.
        buffered: Of all bodies that are held at once: large ones beyond it wait at their senders' end, small ones may
            take an eighth more.
        head: Request line and headers together.
        headers: Lines.
        chunks: Of a chunked body.
        ratio: Decompressed over compressed bytes.
        depth: Nesting of JSON.
        numbers: Values in a JSON body; each takes the worker 40 bytes and more while it is read.
        tensors: Inputs, and outputs asked for.
        pixels: Of a picture to predict from.
        connections: At once; idle ones go first, then those that are slowest to say what they want.
        client_requests: Under way at once for one address, or for one API key, from when they have arrived.
        pipelined: Requests that a connection sent ahead of their answers.
        head_seconds: From the first byte of a request, or from connecting, to the end of its headers.
        body_seconds: From there to the end of the body.
        idle_seconds: Between two requests.
        write_seconds: Until a client took what waits for it.
        drain_seconds: From SIGTERM until what was accepted must be answered.
    """

    body: int = 16 * MIB
    buffered: int = 16 * MIB
    head: int = 16 << 10
    headers: int = 100
    chunks: int = 10_000
    ratio: int = 100
    depth: int = 32
    numbers: int = 1_000_000
    tensors: int = 64
    pixels: int = 50_000_000
    connections: int = 1024
    client_requests: int = 256
    pipelined: int = 32
    head_seconds: float = 10.0
    body_seconds: float = 60.0
    idle_seconds: float = 75.0
    write_seconds: float = 30.0
    drain_seconds: float = 8.0

    def __post_init__(self) -> None:
        low = [name for name, value in vars(self).items() if not value > 0]
        if low:
            raise ValueError(f"{', '.join(low)}: a bound is positive")
        if self.buffered < self.body:
            raise ValueError(f"buffered is {self.buffered}, less than the {self.body} bytes of one body")


@dataclass(frozen=True)
class Serving:
    """How one model is served.

    Attributes:
        weight: Its share of the cores where several models have work.
        workers: Processes.
        threads: Of each engine; None for as many as there are cores, shared by the workers.
        engine: Name; None for the format's own.
        queue: Requests that may wait.
        batch: Requests that one call of the engine may answer, where the model takes any batch.
        wait_ms: How long a batch may wait to fill; 0: whatever waits goes at once.
        deadline_ms: For requests that name none.
        watchdog: Seconds that one call may take before the worker is ended.
        versions: Of a folder of versions the newest so many, each with workers and a queue of its own. Who names none
            is answered by the newest.
        monitor: Hold what comes beside what the model was proved on: `/metrics` then tells of drift.
        monitor_folder: Where monitors keep what they know across restarts, of each worker in a folder of its own; None:
            in memory alone. Naming one asks for `monitor`.
        monitor_cycle: Samples of one worker in which what comes goes through all of its states; see `Model.monitor`.
        capture_folder: Where samples that matter are kept for `edgekit collect`, a folder a model in it, as
            `edgekit.Capture` does; None: nothing is kept. Naming one asks for `monitor`.
        start_seconds: Until a worker has opened, proved and warmed its model.
    """

    weight: float = 1.0
    workers: int = 1
    threads: int | None = None
    engine: str | None = None
    queue: int = 64
    batch: int = 16
    wait_ms: float = 0.0
    deadline_ms: float = 10_000.0
    watchdog: float = 30.0
    versions: int = 1
    monitor: bool = False
    monitor_folder: str | None = None
    monitor_cycle: int = 0
    capture_folder: str | None = None
    start_seconds: float = 120.0

    def __post_init__(self) -> None:
        low = [n for n in ("weight", "workers", "queue", "batch", "deadline_ms", "watchdog", "versions",
                           "start_seconds") if not getattr(self, n) > 0]  # fmt: skip
        if low or self.wait_ms < 0 or self.monitor_cycle < 0 or (self.threads is not None and self.threads < 1):
            raise ValueError(f"{', '.join(low) or 'wait_ms, monitor_cycle or threads'}: too small")

    @property
    def watched(self) -> bool:
        """Whether a monitor was asked for."""
        return self.monitor or self.monitor_folder is not None or self.capture_folder is not None


@dataclass(frozen=True)
class Settings:
    """A whole server.

    Attributes:
        host: Address to listen at; None for a unix socket alone.
        port: 0 for any free one.
        socket: Path of a unix socket.
        api_key_file: A file whose lines are keys; a client shows one.
        certificate, certificate_key: PEM files, for TLS.
        client_ca: PEM file; clients must show a certificate that it signed.
        cores: Calls of engines that run at once, counted in threads; None for this machine's.
        serving: What models have that have nothing of their own.
        models: By name.
        bounds: See there.
    """

    host: str | None = "127.0.0.1"
    port: int = 8080
    socket: str | None = None
    api_key_file: str | None = None
    certificate: str | None = None
    certificate_key: str | None = None
    client_ca: str | None = None
    cores: int | None = None
    serving: Serving = field(default_factory=Serving)
    models: dict[str, Serving] = field(default_factory=dict)
    bounds: Bounds = field(default_factory=Bounds)

    def __post_init__(self) -> None:
        if not 0 <= self.port < 1 << 16:
            raise ValueError(f"port is {self.port}, beyond 65535")
        if self.cores is not None and self.cores < 1:
            raise ValueError("cores: at least one")

    @property
    def slots(self) -> int:
        """Threads of engines that may be at work at once."""
        return self.cores or len(os.sched_getaffinity(0))

    def of(self, model: str) -> Serving:
        return self.models.get(model, self.serving)


def read(path: str | Path) -> Settings:
    """A TOML file with the fields of `Settings`; a model's table starts from [serving], and a larger `body` raises
    `buffered` where the file does not set that.

    Raises:
        MissingFileError: `file-missing`. UsageError: `serve-config`.
    """
    try:
        data = tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise MissingFileError("file-missing", f"there is no file {path}") from error
    except (OSError, ValueError) as error:
        raise UsageError("serve-config", f"{path}: {error}") from error
    common = data.get("serving", {})
    models = data.get("models", {})
    if isinstance(common, dict) and isinstance(models, dict):
        data["models"] = {n: {**common, **own} if isinstance(own, dict) else own for n, own in models.items()}
    bounds = data.get("bounds")
    if isinstance(bounds, dict) and isinstance(bounds.get("body"), int):
        bounds.setdefault("buffered", max(Bounds.buffered, bounds["body"]))
    try:
        return decode(Settings, data, strict=True)
    except CodecError as error:
        raise UsageError("serve-config", f"{path}: {error}") from error


def changed(
    base: Settings, listening: Mapping[str, Any], serving: Mapping[str, Any], *, no_host: bool = False
) -> Settings:
    """Settings with what a command line says (None: nothing) in place of what a file said, for all models.

    Raises:
        UsageError: `serve-config`.
    """
    said = {name: value for name, value in listening.items() if value is not None}
    own = {name: value for name, value in serving.items() if value is not None}
    try:
        made = replace(
            base, **said, serving=replace(base.serving, **own),
            models={name: replace(one, **own) for name, one in base.models.items()},
        )  # fmt: skip
        return replace(made, host=None) if no_host else made
    except ValueError as error:
        raise UsageError("serve-config", str(error)) from error
