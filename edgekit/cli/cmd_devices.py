"""`edgekit devices`: the known boards."""

from __future__ import annotations

import click

from edgekit.cli import output


@click.group(name="devices")
def command() -> None:
    """Known boards and their limits."""


@command.command(name="list", epilog="\b\nExample:\n  edgekit devices list")
@output.json_option
def list_(*, as_json: bool) -> None:
    """List the device profiles."""
    from edgekit.device_profiles import all_profiles

    rows = [profile.summary() for profile in all_profiles()]
    if as_json:
        output.document({"devices": rows})
        return
    output.table("Device profiles", list(rows[0]), (list(row.values()) for row in rows))


@command.command(
    epilog="\b\nExamples:\n  edgekit devices show raspberry-pi-4b\n  edgekit devices show ./my-board.toml --json"
)
@click.argument("name")
@output.json_option
def show(name: str, *, as_json: bool) -> None:
    """Show one profile: NAME, or the path of your own TOML."""
    from edgekit.device_profiles import load_profile

    profile = load_profile(name)
    if as_json:
        output.document(profile.to_dict())
        return
    output.facts(name, profile.lines())
