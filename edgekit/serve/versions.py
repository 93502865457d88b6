"""The versions of a served model: the one that answers, the one before it, and the exchange of one for another.

A version that is left answers what it was handed and then ends, so no request fails over an exchange, and the version
that an answer names is the one that computed it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgekit.errors import EdgeKitError
from edgekit.serve.crew import Crew, Lose, Tell
from edgekit.serve.settings import Bounds, Serving
from edgekit.serve.sources import Seen, Source
from edgekit.serve.wire import Opening


class Versions:
    """Of one model.

    Args:
        source: Where they come from.
        serving: How the model is served.
        threads: Of each engine.
        bounds: See there.
        tell, lose: See `Crew`.
        note: Told of faults: code and message.
        pump: Called when there may be something to hand over.

    Attributes:
        active: Who answers; None before the first was looked at.
        back: The one before, while the active one is on trial.
    """

    def __init__(
        self, source: Source, serving: Serving, *, threads: int, bounds: Bounds, tell: Tell, lose: Lose,
        note: Callable[[str, str], None], pump: Callable[[], None],
    ) -> None:  # fmt: skip
        self.source = source
        self.active: Crew | None = None
        self.back: Crew | None = None
        self._serving, self._threads, self._bounds = serving, threads, bounds
        self._tell, self._lose, self._note, self._pump = tell, lose, note, pump
        self._coming: Crew | None = None
        self._trial = False
        self._leaving: list[Crew] = []
        self._bad = ""
        self._looking = False

    @property
    def ready(self) -> bool:
        return self.active is not None and self.active.ready

    @property
    def broken(self) -> EdgeKitError | None:
        """Why it cannot be served; None where it is, or may still be."""
        return self.active.broken if self.active is not None else None

    @property
    def crews(self) -> list[Crew]:
        return [crew for crew in (self.active, self.back, self._coming, *self._leaving) if crew is not None]

    @property
    def drift(self) -> dict[str, Any]:
        """What the monitors of the active version noticed: `samples`, `passed_over`, `alarms`, `ended`; or nothing."""
        told = [worker.drift for worker in self.active.workers if worker.drift] if self.active is not None else []
        if not told:
            return {}
        counts = {name: sum(one[name] for one in told) for name in ("samples", "passed_over")}
        return counts | {name: [item for one in told for item in one[name]] for name in ("alarms", "ended")}

    def on_trial(self, crew: Crew) -> bool:
        """Whether it answers, with another at hand that answers what it cannot."""
        return crew is self.active and self.back is not None

    def fault(self, crew: Crew, said: str) -> None:
        """Whoever supervises a trial hears of it."""
        self.source.tell(crew.opening.sha256 or "", said)

    async def begin(self) -> None:
        """Look at the source for the first time.

        Raises:
            EdgeKitError: What the source says.
        """
        seen = await asyncio.to_thread(self.source.look)
        self._trial = seen.trial
        self.active = self._crew(seen)
        self.active.start()

    def sweep(self, now: float) -> None:
        """Four times a second: end what hangs, let go of what is left, and follow the source."""
        for crew in self.crews:
            crew.sweep(now)
        self._leaving = [crew for crew in self._leaving if crew.workers]
        if not self._looking and self.active is not None and (self._trial or self.source.changed()):
            self._looking = True
            task = asyncio.get_running_loop().create_task(self._follow())
            task.add_done_callback(self._followed)

    async def close(self) -> None:
        """End all workers."""
        for crew in self.crews:
            crew.leave()
            for worker in crew.workers:
                worker.close()
        while any(crew.workers for crew in self.crews):  # noqa: ASYNC110 - processes end, and nothing tells of it
            await asyncio.sleep(0.005)

    async def _follow(self) -> None:
        try:
            seen = await asyncio.to_thread(self.source.look)
        except EdgeKitError as error:
            self._note(error.code, error.message)
            return
        active = self.active
        if active is None:
            return
        if seen.sha256 == active.opening.sha256:
            self._drop_coming()
            self._trial = seen.trial
            if not seen.trial and self.back is not None:
                self._let_go(self.back)
                self.back = None
        elif self.back is not None and seen.sha256 == self.back.opening.sha256:
            self._drop_coming()
            self.active, self.back, self._trial = self.back, None, False
            self._let_go(active)
        elif seen.sha256 == self._bad or (self._coming and self._coming.opening.sha256 == seen.sha256):
            self._trial = seen.trial
        else:
            self._drop_coming()
            self._trial = seen.trial
            self._coming = self._crew(seen)
            self._coming.start()

    def _followed(self, task: asyncio.Task[None]) -> None:
        self._looking = False
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error

    def _changed(self, crew: Crew) -> None:
        """A crew became ready, or broke."""
        if crew is self._coming:
            if crew.broken is not None:
                self._coming = None
                self._bad = crew.opening.sha256 or ""
                self._note(crew.broken.code, crew.broken.message)
                self.fault(crew, crew.broken.message)
                self._let_go(crew)
            elif crew.ready:
                self._coming = None
                gone, self.active = self.active, crew
                if self.back is not None:
                    self._let_go(self.back)
                    self.back = None
                if gone is not None and self._trial:
                    self.back = gone
                elif gone is not None:
                    self._let_go(gone)
        self._pump()

    def _drop_coming(self) -> None:
        if self._coming is not None:
            self._let_go(self._coming)
            self._coming = None

    def _let_go(self, crew: Crew) -> None:
        self._leaving.append(crew)
        crew.leave()

    def _crew(self, seen: Seen) -> Crew:
        serving = self._serving
        kept = serving.monitor_folder and str(Path(serving.monitor_folder) / self.source.name / seen.version)
        opening = Opening(seen.path, self.source.name, seen.version, self._threads, serving.engine, serving.watchdog,
                          self._bounds, seen.sha256, serving.batch, serving.watched, kept,
                          serving.monitor_cycle, serving.capture_folder)  # fmt: skip
        return Crew(opening, size=serving.workers, start_seconds=serving.start_seconds, watchdog=serving.watchdog,
                    tell=self._tell, lose=self._lose, change=self._changed)  # fmt: skip
