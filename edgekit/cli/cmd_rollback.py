"""`edgekit rollback`: the version before, again."""

from __future__ import annotations

import click

from edgekit.cli import output
from edgekit.cli.options import device_argument, name_option, store_option


@click.command(
    epilog="\b\nExamples:\n  edgekit rollback ssh://pi@kitchen --name people-counter --reason 'misses hats'\n"
    "  edgekit rollback --name people-counter"
)
@device_argument
@name_option
@click.option("--reason", default="by request", show_default=True, help="For the journal.")
@store_option
@output.json_option
def command(target: str, *, name: str, reason: str, store: str | None, as_json: bool) -> None:
    """Make the version before the active one on TARGET again; the switch is one rename."""
    from edgekit.codec import encode
    from edgekit.deploy import fleet

    shown = fleet.roll_back(target, name, reason, store)
    if as_json:
        output.document({"target": target, **encode(shown)})
        return
    active = shown.record.active
    said = f"version {shown.record.version(active).number} is active" if active else "no version is active"
    click.echo(f"{name} on {target}: {said}")
