"""Start a server, as `edgekit serve` does, and run it until a signal comes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgekit.serve import sources, turns
from edgekit.serve.server import Server
from edgekit.serve.settings import Settings

About = dict[str, Any]


def start(
    models: tuple[str, ...], settings: Settings, *, store: Path | None = None, announce: Callable[[About], None]
) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        models: See `sources.find`.
        settings: The rest.
        store: Folder of the deployed models.
        announce: Told when all models are ready: `addresses`, `models[{name, version}]`, `warnings`.

    Raises:
        What `sources.find` and `Server` raise.
    """
    found = sources.find(models, store, versions=lambda name: settings.of(name).versions)

    async def serve() -> None:
        server = Server(settings, found)
        await server.run(lambda one: announce(about(one)))

    with asyncio.Runner(loop_factory=turns.loop) as runner:
        runner.run(serve())


def about(server: Server) -> About:
    """What is announced."""
    active = [(lane.model, lane.versions.active) for lane in server.lanes.values()]
    models = [{"name": name, "version": crew.version if crew else None} for name, crew in active]
    return {"addresses": server.addresses, "models": models, "warnings": list(server.access.warnings)}
