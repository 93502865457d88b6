"""`edgekit unit`: systemd units for a device."""

from __future__ import annotations

import getpass
import sys
from pathlib import Path

import click

from edgekit.cli import output
from edgekit.cli.options import FILE, store_option

_user = click.option("--user", metavar="NAME", help="Who runs it and owns the folder of models; default: you.")
_python = click.option(
    "--python", metavar="PATH", default=sys.executable, help="Python with EdgeKit on the device; default: this one."
)
_out = click.option("-o", "--output", "path", type=FILE, help="Default: stdout.")


@click.group(name="unit")
def command() -> None:
    """Write systemd units: of an app that follows a model, or of deployments that the device itself supervises."""


@command.command(
    epilog="\b\nExample:\n  edgekit unit app people-counter -- /home/pi/venv/bin/python /home/pi/app.py \\\n"
    "      | sudo tee /etc/systemd/system/people-counter.service\n\n"
    "\b\nThe app opens edgekit.watch(NAME), says ready and beats (edgekit.runtimes.flow.systemd.Service). When it\n"
    "dies or hangs it is restarted, and a trial that is under way hears of it and returns to the version before."
)
@click.argument("name")
@click.argument("words", nargs=-1, required=True, metavar="-- COMMAND...")
@_user
@_python
@click.option(
    "--watchdog", type=float, default=30.0, show_default=True, metavar="SECONDS", help="Between two beats, at most."
)
@store_option
@_out
@output.json_option
def app(
    name: str, words: tuple[str, ...], *, user: str | None, python: str, watchdog: float, store: str | None,
    path: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Write the unit of an app that follows the model NAME."""
    from edgekit.deploy import units

    made = units.app(name, words, python=python, user=user or getpass.getuser(), store=store, watchdog=watchdog)
    _give(made, f"{name}.service", path, as_json=as_json)


@command.command(
    epilog="\b\nExamples:\n  edgekit unit trial --inbox /home/pi/inbox \\\n"
    "      | sudo tee /etc/systemd/system/edgekit-deploy@.service\n"
    "  scp model.tflite pi@kitchen:inbox/people-counter\n"
    "  ssh pi@kitchen sudo systemctl start --no-block edgekit-deploy@people-counter\n\n"
    "The device deploys INBOX/NAME as NAME and supervises the trial by itself: nobody has to stay connected."
)
@click.option("--inbox", metavar="DIR", default="/var/lib/edgekit/inbox", show_default=True, help="Where files arrive.")
@click.option(
    "--trial", "seconds", type=float, default=60.0, show_default=True, metavar="SECONDS", help="How long it must hold."
)
@_user
@_python
@store_option
@_out
@output.json_option
def trial(
    *, inbox: str, seconds: float, user: str | None, python: str, store: str | None, path: Path | None, as_json: bool
) -> None:
    """Write the template of deployments that the device itself supervises."""
    from edgekit.deploy import units

    made = units.trial(python=python, user=user or getpass.getuser(), inbox=inbox, store=store, seconds=seconds)
    _give(made, "edgekit-deploy@.service", path, as_json=as_json)


def _give(text: str, name: str, path: Path | None, *, as_json: bool) -> None:
    from edgekit import files

    if path is not None:
        files.replace(path, text.encode())
    if as_json:
        output.document({"name": name, "path": None if path is None else str(path), "unit": text})
    elif path is None:
        click.echo(text, nl=False)
    else:
        click.echo(f"wrote {path}")
