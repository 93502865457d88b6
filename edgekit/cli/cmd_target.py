"""`edgekit target`: boards over SSH."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from edgekit.cli import output

if TYPE_CHECKING:
    from edgekit.targets.ssh_setup import BoardFacts

board_argument = click.argument("board", metavar="ssh://[USER@]HOST[:PORT]")


@click.group(name="target")
def command() -> None:
    """Boards over SSH: make one ready, look at it, clean it."""


@command.command(
    epilog="\b\nExamples:\n  edgekit target setup ssh://pi@raspberrypi.local\n"
    "  edgekit target setup ssh://pi@raspberrypi.local --python /opt/python3.12/bin/python3\n"
    "  edgekit doctor --target ssh://pi@raspberrypi.local"
)
@board_argument
@click.option("--python", metavar="PATH", help="The board's Python to use; its own python3 by default.")
@click.option("--offline", is_flag=True, help="Download the wheels here and bring them there.")
@output.json_option
def setup(board: str, *, python: str | None, offline: bool, as_json: bool) -> None:
    """Install numpy and the engines for the board into an environment of its own, ~/.edgekit there.

    Nothing else changes on the board, and no root is needed. Run again, it does only what is left to do.
    """
    from edgekit.targets import ssh_setup

    with output.Progress() as progress:
        facts = ssh_setup.setup(board, python=python, offline=offline, progress=progress)
    _show(board, facts, as_json=as_json)


@command.command(epilog="\b\nExample:\n  edgekit target show ssh://pi@raspberrypi.local --json")
@board_argument
@output.json_option
def show(board: str, *, as_json: bool) -> None:
    """Say what the board is and whether it is ready."""
    from edgekit.targets import ssh_setup

    with output.Progress() as progress:
        facts = ssh_setup.show(board, progress)
    _show(board, facts, as_json=as_json)


@command.command(epilog="\b\nExample:\n  edgekit target remove ssh://pi@raspberrypi.local")
@board_argument
@output.json_option
def remove(board: str, *, as_json: bool) -> None:
    """Delete all that EdgeKit keeps on the board: models, data, its environment."""
    from edgekit.targets import ssh_setup

    with output.Progress() as progress:
        freed = ssh_setup.remove(board, progress)
    if as_json:
        output.document({"target": board, "freed": freed})
        return
    click.echo(f"{output.size(freed)} removed from {board}")


def _show(board: str, facts: BoardFacts, *, as_json: bool) -> None:
    from edgekit.codec import encode

    if as_json:
        output.document({"target": board, **encode(facts)})
        return
    output.facts(
        f"{board} is ready" if facts.ready else f"{board} is not ready: run `edgekit target setup {board}`",
        [
            ("board", facts.model),
            ("system", f"{facts.machine}, {facts.bits}-bit userland, kernel {facts.kernel}, glibc {facts.glibc}"),
            ("python", f"{facts.python}, {facts.executable}"),
            ("engines", ", ".join(facts.engines) or "none"),
            ("numpy", None if facts.numpy else "missing"),
            ("disk", f"{facts.free_mb} MB free, {facts.kept_mb} MB kept by EdgeKit"),
        ],
    )
