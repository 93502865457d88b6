"""Where an artifact runs: one protocol for this machine, an emulated board and a real one.

A target takes files (`put`, by content: what is there already is not sent again), runs the jobs of
`edgekit.targets.agent` in a process of their own (`perform`), and gives files back (`get`). Everything else follows
from these three.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar, overload

from edgekit import files
from edgekit.child import Child, Limits, Link, Progress, Steps
from edgekit.errors import EdgeKitError, EngineError, WorkerError
from edgekit.targets import suspect as suspects

A = TypeVar("A")
R = TypeVar("R")


class Target(ABC):
    """One place where artifacts run; a context manager, because it may hold a link or a lease.

    Attributes:
        name: As the user names it: "local", "emulator:raspberry-pi-4b", "ssh://pi@kitchen".
        timed: Whether times measured there mean anything.
        copies: Whether `put` brings files over a link, and keeps them there.
        progress: Told what bringing things there takes its time with.
        core: Name of its processor core, where that is known: "Cortex-A72".
    """

    name: str
    progress: Progress | None = None
    timed: ClassVar[bool] = True
    copies: ClassVar[bool] = False
    core: str | None = None

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
        try:
            return self._call(job, request, limits or Limits(), progress)
        except WorkerError as error:
            raise self._crashed(error, job.__name__, request) from error

    def _call(self, job: Callable[[A], Any], request: A, limits: Limits, progress: Progress | None = None) -> Any:
        with files.scratch() as folder, Child(self.link(folder / "agent.log"), limits, doing="the engine") as child:
            return child.call(job, request, stage=job.__name__, progress=progress)

    def _crashed(self, error: WorkerError, stage: str, request: Any) -> EngineError:
        """The same in words that name the engine; it is asked for in another process, which imports none."""
        from edgekit.device_profiles.faults import known_fault

        scene = suspects.scene(request)
        try:
            found = self._call(suspects.suspect, scene, Limits(seconds=60)) if scene else None
        except EdgeKitError:  # what there is to say of the crash must not depend on this
            found = None
        how = str(error.details["how"])
        named = str(found) if found else "the engine"
        place = self.core or ("this machine" if self.name == "local" else self.name)
        cause, next_step = error.cause, error.next_step
        fault = known_fault(found.distribution, found.version, core=self.core) if found else None
        if found and fault:
            cause = f"Known: {fault.sentence(found.version)}."
            next_step = f"Install {fault.distribution} {fault.instead} there."
        elif "SIGILL" in how:
            cause = f"{named} was built for processors with more instructions than the {self.core or 'one'} there."
            next_step = "Install another version of it: `edgekit devices show NAME` tells which one runs on the board."
        return EngineError(
            "engine-crashed", f"{stage}: {named} died on {place}: {how}", cause=cause, next_step=next_step,
            died=error.code, engine=named if found else None,
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
