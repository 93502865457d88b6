"""`edgekit devices`: the known boards."""

from __future__ import annotations

from pathlib import Path

import click

from edgekit.cli import output
from edgekit.cli.options import PATH, target_option


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


@command.command(
    epilog="\b\nExamples:\n  edgekit devices probe -o my-board.toml\n"
    "  edgekit devices probe --target ssh://pi@kitchen -o kitchen.toml\n"
    "  edgekit convert model.keras -o model.tflite --device ./kitchen.toml"
)
@target_option
@click.option("-o", "--output", "output_file", type=PATH, help="Write the profile there.")
@click.option("--no-measure", is_flag=True, help="Leave out the speeds of memory, storage and kernels.")
@click.option("--quick", is_flag=True, help="Measure kernels for 20 s instead of 60: coarser latency predictions.")
@output.json_option
def probe(target: str, *, output_file: Path | None, no_measure: bool, quick: bool, as_json: bool) -> None:
    """Write the profile of a live machine: cores, features, memory, storage, system, engines and what kernels cost.

    Takes about a minute and a half: tiny networks run through the engines there, in float and in integers, with one
    thread and with more, so that `check` predicts latency for this very machine. Nothing else should run meanwhile.
    """
    from edgekit import files
    from edgekit.codec import encode
    from edgekit.targets import boards

    files.check_outputs((output_file,))
    with output.Progress() as progress:
        found = boards.probe(target, measure=not no_measure, quick=quick, progress=progress)
    if output_file is not None:
        files.replace(output_file, found.profile.encode())
    if as_json:
        output.document(encode(found))
        return
    if output_file is None:
        click.echo(found.profile)
    engines = ", ".join(f"{engine.name} {engine.detail}" for engine in found.engines)
    click.echo(f"{found.target}: {engines}", err=True)
    if found.known is not None:
        click.echo(f"the shipped profile is {found.known}" + ("" if found.differences else ", which fits"), err=True)
    output.warn(found.differences)


@command.command(epilog="\b\nExample:\n  edgekit devices validate ./my-board.toml")
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=PATH)
@output.json_option
def validate(files: tuple[Path, ...], *, as_json: bool) -> int:
    """Check profiles of your own. Exit 3 when one is not valid, with file, field and what may stand there."""
    from edgekit.device_profiles import load_profile
    from edgekit.errors import EdgeKitError

    rows = []
    for file in files:
        path = file if file.suffix == ".toml" else file.with_name(f"./{file.name}")
        try:
            profile = load_profile(path)
            rows.append({"file": str(file), "valid": True, "title": profile.title, "message": ""})
        except EdgeKitError as error:
            rows.append({"file": str(file), "valid": False, "code": error.code, "message": error.message})
    if as_json:
        output.document({"profiles": rows})
    else:
        for row in rows:
            click.echo(f"{row['file']}: {'valid: ' + str(row['title']) if row['valid'] else row['message']}")
    return 0 if all(row["valid"] for row in rows) else 3


@command.command(epilog="\b\nExample:\n  edgekit devices schema > device-profile.schema.json")
@output.json_option
def schema(*, as_json: bool) -> None:
    """Print the JSON Schema of a profile file, for editors that check TOML as you write."""
    del as_json  # it is one JSON document either way
    from edgekit.device_profiles import json_schema

    output.document(json_schema.schema())
