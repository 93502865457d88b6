"""The device side: numpy and one engine, nothing more.

`engines` finds the engines by file name (`engine_NAME.py`); `open_session` picks the one that reads a format.
"""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

from edgekit.artifact import Artifact
from edgekit.errors import UsageError
from edgekit.registry import Registry

if TYPE_CHECKING:  # a server that only counts and schedules does without numpy
    from edgekit.runtimes.base import Backend, Session

PREFERRED = {"tflite": "litert", "onnx": "onnxruntime"}
"""Format -> the engine that runs it when none is named."""


def _backend(name: str, found: Any) -> Backend:
    del name
    return cast("Backend", found.BACKEND if isinstance(found, ModuleType) else found)


engines: Registry[Backend] = Registry(
    kind="engine",
    package="edgekit.runtimes",
    prefix="engine_",
    suffix=".py",
    group="edgekit.engines",
    read=_backend,
)


def open_session(
    artifact: Artifact, threads: int | None = None, engine: str | None = None, watchdog: float | None = None
) -> Session:
    """Open an artifact in the engine of its format, or in the named one; in a child process, with `watchdog` seconds
    for a call.

    Raises:
        UsageError: `unknown-name`; `engine-format`: the named engine does not read this format; `option-value`: fewer
            than one thread or more than `bounds.MOST_THREADS`, or no seconds.
        EngineMissingError: `engine-missing`. EngineError: the engine refuses the model; says why.
    """
    if threads is not None:
        from edgekit.runtimes import bounds

        threads = bounds.whole("threads", threads, most=bounds.MOST_THREADS)
    backend = engines.get(engine or PREFERRED[artifact.format])
    if artifact.format not in backend.formats:
        raise UsageError(
            "engine-format", f"{backend.name} runs {', '.join(backend.formats)}, this is {artifact.format}"
        )
    if watchdog is not None:
        from edgekit.runtimes.flow.guarded import GuardedSession

        return GuardedSession(artifact, threads, backend.name, watchdog)
    return backend.open(artifact, threads)
