"""This machine as a target: the agent's jobs in a child process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, overload

from edgekit import files
from edgekit.child import Child, Limits, Steps
from edgekit.errors import EngineError, WorkerError

A = TypeVar("A")
R = TypeVar("R")
Progress = Callable[[dict[str, Any]], None]


@overload
def perform(job: Steps[A, R], request: A, *, limits: Limits | None = None, progress: Progress | None = None) -> R: ...
@overload
def perform(
    job: Callable[[A], R], request: A, *, limits: Limits | None = None, progress: Progress | None = None
) -> R: ...
def perform(
    job: Callable[[A], Any], request: A, *, limits: Limits | None = None, progress: Progress | None = None
) -> Any:
    """Run one job of `edgekit.targets.agent` here.

    Raises:
        EngineError: `engine-crashed`: the process died, hung or ran out of memory; says how.
        EdgeKitError: What the job raised.
    """
    with files.scratch() as folder, Child(folder / "agent.log", limits or Limits(), doing="the engine") as child:
        try:
            return child.call(job, request, stage=job.__name__, progress=progress)
        except WorkerError as error:
            raise EngineError(
                "engine-crashed", error.message, cause=error.cause, next_step=error.next_step, died=error.code
            ) from error
