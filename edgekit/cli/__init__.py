"""The command line: parse, call one library function, render. Nothing else happens here.

One file a command (`cmd_NAME.py`, each with a click command called `command`), found by file name and imported when it
is needed. This module is the only place where errors become messages and exit codes.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from importlib import resources
from typing import Any

import click

from edgekit import __version__, parts
from edgekit.cli import output
from edgekit.errors import EdgeKitError, InternalError, UsageError, of_system

_EPILOG = """\b
Start here:
  edgekit convert model.keras -o model.tflite --precision int8 \\
      --device raspberry-pi-4b --calibration train.npz --eval test.npz
  edgekit run model.tflite sample.npy
  edgekit explain CODE          what an error code means
"""


_ENDS = (signal.SIGTERM, signal.SIGHUP)
"""Signals that end a command: a manager's, and a terminal that was closed."""


class _Commands(click.Group):
    """Sub-commands by file name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        files = (item.name for item in resources.files("edgekit.cli").iterdir())
        return sorted(f.removeprefix("cmd_").removesuffix(".py") for f in files if f.startswith("cmd_"))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            if cmd_name in parts.desk_commands():
                raise parts.at_desk_only(f"edgekit {cmd_name}")
            return None
        command = importlib.import_module(f"edgekit.cli.cmd_{cmd_name}").command
        assert isinstance(command, click.Command)  # noqa: S101 - each file defines one; a test imports them all
        return command


@click.group(cls=_Commands, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="edgekit")
@click.option("--debug", is_flag=True, help="Show tracebacks of internal errors.")
def cli(*, debug: bool) -> None:
    """Quantize, convert, verify and run trained models on small boards."""
    if debug:
        os.environ["EDGEKIT_DEBUG"] = "1"


def main() -> None:
    """Entry point of the `edgekit` command."""
    for number in _ENDS:
        if signal.getsignal(number) is signal.SIG_DFL:  # nohup's are to be ignored
            signal.signal(number, _terminated)
    sys.exit(run(sys.argv[1:]))


def _terminated(number: int, *_: object) -> None:
    """Leave as an interrupt does, so that scratch folders go."""
    sys.exit(128 + number)


def run(args: Sequence[str]) -> int:
    """Run one command line and return its exit code; see `edgekit.errors` for the codes."""
    as_json = "--json" in args
    try:
        code: Any = cli.main(list(args), prog_name="edgekit", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.UsageError as error:
        hint = f"{error.ctx.command_path} --help" if error.ctx else "edgekit --help"
        wrapped = UsageError("usage", error.format_message(), next_step=f"See `{hint}`.")
        return _fail(wrapped, as_json=as_json)
    except (click.Abort, KeyboardInterrupt):
        _fail(UsageError("interrupted", "interrupted; nothing was written"), as_json=as_json)
        return 130
    except SystemExit as end:
        if end.code in [128 + number for number in _ENDS]:
            _fail(UsageError("interrupted", "terminated; nothing was written"), as_json=as_json)
            return int(end.code or 0)
        if end.code != 1:
            raise
        # click and rich say so when the reader of our output went away, which is no error of ours
        _discard_stdout()
        return 0
    except EdgeKitError as error:
        return _fail(error, as_json=as_json)
    except OSError as error:
        return _fail(of_system(error), as_json=as_json)
    except Exception as error:  # noqa: BLE001 - the last seam: a bug of ours must not look like a result
        return _fail(InternalError("internal", f"{type(error).__name__}: {error}"), as_json=as_json)


def _fail(error: EdgeKitError, *, as_json: bool) -> int:
    if os.environ.get("EDGEKIT_DEBUG"):
        traceback.print_exc()
        if "traceback" in error.details:
            click.echo(f"in a child process:\n{error.details['traceback']}", err=True)
    try:
        output.error(error, as_json=as_json)
    except OSError:  # stdout is full or gone: stderr is left
        _discard_stdout()
        output.error(error, as_json=False)
    return error.exit_code


def _discard_stdout() -> None:
    """What is still buffered would fail again when the interpreter ends."""
    sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - lives until the interpreter ends
