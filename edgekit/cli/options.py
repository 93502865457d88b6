"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from edgekit import parts
from edgekit.errors import UsageError
from edgekit.tensors import DTYPES

F = TypeVar("F", bound=Callable[..., Any])

# Whoever reads a path says that it cannot be read, with its own code: not click, as a wrong usage.
PATH = click.Path(path_type=Path, readable=False)
FILE = click.Path(path_type=Path, readable=False, dir_okay=False)
FOLDER = click.Path(path_type=Path, readable=False, file_okay=False)

model_argument = click.argument("file", type=PATH)
threads_option = click.option("--threads", type=click.IntRange(1, 256), help="Threads of the engine.")
engine_option = click.option("--engine", metavar="NAME", help="litert or onnxruntime; by default the format's own.")
label_option = click.option("--label", metavar="NAME", help="Label column (csv) or array (npz); default: label or y.")
no_verify_option = click.option(
    "--no-verify", is_flag=True, help="Skip the digest check, on slow storage. The file is then taken as it is."
)
target_option = click.option(
    "--target",
    metavar="TARGET",
    default="local",
    show_default=True,
    help="Where it runs: local, emulator:PROFILE or ssh://[USER@]HOST[:PORT].",
)


def _with_plots(ctx: click.Context, param: click.Parameter, value: Path | None) -> Path | None:
    """Said before anything is measured."""
    del ctx, param
    if value is not None and not parts.has_desk():
        raise parts.at_desk_only("a page with plots")
    return value


report_option = click.option(
    "--report",
    type=FILE,
    metavar="FILE.html",
    callback=_with_plots,
    help="Also write a page with plots.",
)
store_option = click.option(
    "--store", metavar="DIR", help="Folder of all models on the device; default: its own, or EDGEKIT_STORE there."
)
name_option = click.option("--name", metavar="NAME", required=True, help="What the model is called on the device.")
device_argument = click.argument("target", default="local", metavar="[TARGET]")


def opening_options(command: F) -> F:
    """The file, how to open it, and where."""
    for decorate in (target_option, no_verify_option, engine_option, threads_option, model_argument):
        command = decorate(command)
    return command


_FREE = ("N", "?", "-1")


def input_sizes(_: object, __: object, values: tuple[str, ...]) -> dict[str, tuple[tuple[int | None, ...], str | None]]:
    """Callback of `--input`: input name -> sizes, and the element type where one is said.

    Raises:
        UsageError: `shape-syntax`.
    """
    found: dict[str, tuple[tuple[int | None, ...], str | None]] = {}
    for value in values:
        name, _equals, text = value.rpartition("=")
        text, colon, dtype = text.partition(":")
        sizes = [size.strip() for size in text.strip("[]").split(",")]
        known = all(size.isdecimal() or size in _FREE for size in sizes) and (not colon or dtype in DTYPES)
        if not name or not known:
            raise UsageError(
                "shape-syntax",
                f"--input {value} is not NAME=SIZE,SIZE,... or NAME=SIZE,SIZE,...:TYPE",
                next_step="For example --input image=N,224,224,3 or --input ids=N,16:int64",
            )
        if name in found:
            raise UsageError("shape-syntax", f"--input {name} is given twice", next_step="Give it once.")
        found[name] = tuple(None if size in _FREE else int(size) for size in sizes), dtype or None
    return found
