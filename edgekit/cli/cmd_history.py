"""`edgekit history`: what happened to a model on a device."""

from __future__ import annotations

import click

from edgekit.cli import output
from edgekit.cli.options import device_argument, name_option, store_option


@click.command(
    epilog="\b\nExamples:\n  edgekit history ssh://pi@kitchen --name people-counter\n"
    "  edgekit history --name people-counter --json"
)
@device_argument
@name_option
@store_option
@output.json_option
def command(target: str, *, name: str, store: str | None, as_json: bool) -> None:
    """Show the journal of a model on TARGET, oldest first. Times are the device's own."""
    from edgekit.codec import encode
    from edgekit.deploy import fleet

    (shown,) = fleet.show(target, name, store)
    if as_json:
        output.document({"target": target, "name": name, "events": encode(shown.record.events)})
        return
    rows = ((e.number, e.at or "clock not set", e.what, e.sha256[:12], e.detail) for e in shown.record.events)
    output.table(f"{name} on {target}", ("", "at", "what", "sha256", ""), rows)
