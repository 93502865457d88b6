"""Where an artifact runs: one protocol for this machine, an emulated board and a real one.

A target takes files (`put`, by content: what is there already is not sent again), runs the jobs of
`edgekit.targets.agent` in a process of their own (`perform`), and gives files back (`get`). Everything else follows
from these three.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, TypeVar, overload

from edgekit import files
from edgekit.child import Child, Limits, Link, Steps
from edgekit.errors import EngineError, WorkerError

A = TypeVar("A")
R = TypeVar("R")
Progress = Callable[[dict[str, Any]], None]


class Target(ABC):
    """One place where artifacts run; a context manager, because it may hold a link or a lease.

    Attributes:
        name: As the user names it: "local", "emulator:raspberry-pi-4b", "ssh://pi@kitchen".
        timed: Whether times measured there mean anything.
    """

    name: str
    timed: ClassVar[bool] = True

    @abstractmethod
    def put(self, path: Path) -> str:
        """Bring a file or a folder there.

        Returns:
            Its path on the target.
        """

    @abstractmethod
    def new(self, name: str) -> str:
        """A path on the target for a file that a job will write."""

    @abstractmethod
    def get(self, there: str, here: Path) -> None:
        """Bring a file that a job wrote back, whole or not at all."""

    @abstractmethod
    def link(self, log: Path) -> Link:
        """Start the process that runs jobs; what it prints goes to `log`."""

    def close(self) -> None:  # noqa: B027 - most hold nothing
        """Give back what is held there. Safe to call twice."""

    @overload
    def perform(
        self, job: Steps[A, R], request: A, *, limits: Limits | None = None, progress: Progress | None = None
    ) -> R: ...
    @overload
    def perform(
        self, job: Callable[[A], R], request: A, *, limits: Limits | None = None, progress: Progress | None = None
    ) -> R: ...
    def perform(
        self, job: Callable[[A], Any], request: A, *, limits: Limits | None = None, progress: Progress | None = None
    ) -> Any:
        """Run one job of `edgekit.targets.agent` there, in a process of its own.

        Raises:
            EngineError: `engine-crashed`: the process died, hung or ran out of memory; says how.
            EdgeKitError: What the job raised.
        """
        with files.scratch() as folder:
            link = self.link(folder / "agent.log")
            with Child(link, limits or Limits(), doing="the engine") as child:
                try:
                    return child.call(job, request, stage=job.__name__, progress=progress)
                except WorkerError as error:
                    raise EngineError(
                        "engine-crashed", error.message, cause=error.cause, next_step=error.next_step, died=error.code
                    ) from error

    def __enter__(self) -> Target:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
