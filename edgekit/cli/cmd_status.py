"""`edgekit status`: which versions of which models a device has."""

from __future__ import annotations

import click

from edgekit.cli import output
from edgekit.cli.options import device_argument, store_option


@click.command(epilog="\b\nExamples:\n  edgekit status\n  edgekit status ssh://pi@kitchen --name people-counter --json")
@device_argument
@click.option("--name", metavar="NAME", help="Of this model alone.")
@store_option
@output.json_option
def command(target: str, *, name: str | None, store: str | None, as_json: bool) -> None:
    """Show the models of TARGET: active version, stage, size."""
    from edgekit.codec import encode
    from edgekit.deploy import fleet

    shown = fleet.show(target, name, store)
    if as_json:
        output.document({"target": target, "models": encode(shown)})
        return
    rows = (
        (
            model.name,
            version.number,
            ("active, " if version.sha256 == model.record.active else "") + version.stage,
            version.sha256[:12],
            output.size(version.bytes),
            version.reason,
        )
        for model in shown
        for version in reversed(model.record.versions)
    )
    output.table(f"Models on {target}", ("model", "version", "stage", "sha256", "size", "reason"), rows)
