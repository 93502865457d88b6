"""`edgekit prune`: old versions go."""

from __future__ import annotations

import click

from edgekit.cli import output
from edgekit.cli.options import device_argument, name_option, store_option


@click.command(
    epilog="\b\nExamples:\n  edgekit prune ssh://pi@kitchen --name people-counter\n"
    "  edgekit prune --name people-counter --keep-mb 20"
)
@device_argument
@name_option
@click.option("--keep-mb", type=float, default=0.0, show_default=True, metavar="MB", help="All versions together.")
@store_option
@output.json_option
def command(target: str, *, name: str, keep_mb: float, store: str | None, as_json: bool) -> None:
    """Remove old versions from TARGET, oldest first; the active one and the one before it always stay."""
    from edgekit.codec import encode
    from edgekit.deploy import fleet

    done = fleet.prune(target, name, keep_mb, store)
    if as_json:
        output.document({"target": target, **encode(done)})
        return
    click.echo(f"{name} on {target}: {len(done.removed)} versions were removed")
