"""`edgekit emulator`: boards that need no hardware."""

from __future__ import annotations

import click

from edgekit.cli import output


@click.group(name="emulator")
def command() -> None:
    """Emulated boards: set up once, then a target like any other."""


@command.command(
    epilog="\b\nExamples:\n  edgekit emulator setup raspberry-pi-4b raspberry-pi-zero-2w-32bit\n"
    "  edgekit verify model.tflite --target emulator:raspberry-pi-4b"
)
@click.argument("profiles", nargs=-1, required=True, metavar="PROFILE...")
@output.json_option
def setup(profiles: tuple[str, ...], *, as_json: bool) -> int:
    """Fetch what emulating PROFILE needs, and try its engines there. Exit 7 when one does not run."""
    from edgekit.codec import encode
    from edgekit.targets import emulator

    rows = []
    with output.Progress() as progress:
        for profile in profiles:
            system, tried = emulator.setup(profile, progress)
            rows.append({"profile": profile, "system": encode(system), "engines": encode(tried)})
    if as_json:
        output.document({"emulators": rows})
    else:
        cells = (
            (
                f"emulator:{row['profile']}",
                engine["name"],
                engine["version"],
                engine["detail"],
                f"{row['system']['mb']} MB",
            )
            for row in rows
            for engine in row["engines"]
        )
        output.table("Emulated boards", ("target", "engine", "version", "", "system"), cells)
    return 0 if all(engine["ok"] for row in rows for engine in row["engines"]) else 7


@command.command(name="list", epilog="\b\nExample:\n  edgekit emulator list")
@output.json_option
def list_(*, as_json: bool) -> None:
    """List the systems that were set up; boards of the same userland and wheels share one."""
    from edgekit.codec import encode
    from edgekit.targets import systems

    found = systems.installed()
    if as_json:
        output.document({"folder": str(systems.cache()), "systems": encode(found)})
        return
    rows = ((system.name, ", ".join(system.wheels), f"{system.mb} MB") for system in found)
    output.table(f"Emulated systems in {systems.cache()}", ("system", "wheels", "size"), rows)


@command.command(epilog="\b\nExamples:\n  edgekit emulator remove raspberry-pi-4b\n  edgekit emulator remove --all")
@click.argument("profiles", nargs=-1, metavar="PROFILE...")
@click.option("--all", "everything", is_flag=True, help="Remove all systems and downloads.")
@output.json_option
def remove(profiles: tuple[str, ...], *, everything: bool, as_json: bool) -> None:
    """Remove the systems of PROFILE, also for the other boards that share them."""
    from edgekit.errors import UsageError
    from edgekit.targets import emulator, systems

    if bool(profiles) == everything:
        raise UsageError("usage", "name the profiles to remove, or --all")
    names = (
        [s.name for s in systems.installed()] if everything else [emulator.describe(p).recipe.name for p in profiles]
    )
    removed = [name for name in dict.fromkeys(names) if systems.remove(name)]
    if as_json:
        output.document({"removed": removed})
        return
    click.echo(f"removed {', '.join(removed)}" if removed else "nothing was set up")
