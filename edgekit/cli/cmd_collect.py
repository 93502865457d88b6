"""`edgekit collect`: what boards captured, as one dataset."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgekit.cli import output
from edgekit.cli.options import FOLDER, PATH
from edgekit.errors import UsageError, from_dict

if TYPE_CHECKING:
    from edgekit.collect import BoardOutcome, Collected


@click.command(
    epilog="\b\nExamples:\n  edgekit collect ssh://pi@kitchen ssh://pi@hall -o dataset/\n"
    "  edgekit collect --to boards.txt -o dataset/ --key capture.key --remove\n"
    "  edgekit collect /media/card/captures -o dataset/\n"
    "  edgekit collect -o dataset/ --labels export.json\n\n"
    "\b\nThe same command again fetches what is new, and goes on where it was cut. The folder then holds what Keras,\n"
    "PyTorch and scikit-learn read (labelled/ and unlabelled/: class folders of PNG or WAV, table.csv, data.npz) and\n"
    "tasks for Label Studio (label-studio.json, label-studio.xml)."
)
@click.argument("targets", nargs=-1, metavar="[TARGET]...")
@click.option(
    "-o", "--output", "folder", type=FOLDER, required=True, metavar="DIR",
    help="The dataset: made, or gone on with.",
)  # fmt: skip
@click.option("--to", "hosts", type=PATH, metavar="FILE", help="Targets, one a line.")
@click.option("--name", metavar="NAME", help="The model; needed where boards capture for several.")
@click.option("--captures", metavar="DIR", help="Folder of all captures on the boards; default: their own.")
@click.option(
    "--key", "keys", type=PATH, multiple=True, metavar="FILE",
    help="Opens encrypted captures; several where the key was exchanged.",
)  # fmt: skip
@click.option(
    "--labels", type=PATH, metavar="FILE",
    help="What samples are: a CSV (id, label), or Label Studio's export.",
)  # fmt: skip
@click.option("--remove", is_flag=True, help="Remove from the boards what is safely here.")
@click.option("--at-once", type=click.IntRange(1, 256), default=4, show_default=True, help="Boards at a time.")
@output.json_option
def command(
    targets: tuple[str, ...], *, folder: Path, hosts: Path | None, name: str | None, captures: str | None,
    keys: tuple[Path, ...], labels: Path | None, remove: bool, at_once: int, as_json: bool,
) -> int:  # fmt: skip
    """Fetch what each TARGET (local, ssh://..., emulator:..., or a folder) captured, and make a dataset of it."""
    from edgekit.codec import encode
    from edgekit.collect import collect
    from edgekit.deploy.fleet import hosts as read_hosts

    named = [*targets, *(read_hosts(hosts) if hosts is not None else ())]
    if not named and labels is None:
        raise UsageError("usage", "name a TARGET, a file of them with --to, or --labels")
    with output.Progress() as progress:
        done = collect(
            named, folder, name=name, captures=captures, key=keys, labels=labels, remove=remove, at_once=at_once,
            told=None if as_json else _tell, progress=progress,
        )  # fmt: skip
    if as_json:
        output.document(encode(done))
    else:
        _show(done)
    failed = [board.error for board in done.boards if board.error is not None]
    return from_dict(failed[0]).exit_code if failed else 0


def _tell(board: BoardOutcome) -> None:
    if board.error is not None:
        click.secho(f"{board.target}: {board.error['message']}", fg="red", err=True)
    else:
        lost = f", {board.unreadable} unreadable" if board.unreadable else ""
        click.echo(f"{board.target}: {board.segments} segments, {output.size(board.bytes)}{lost}", err=True)


def _show(done: Collected) -> None:
    output.facts(
        f"{done.path}: {done.samples} samples of {done.name or 'nothing'}",
        [
            ("form", done.form),
            ("new", done.added),
            ("repeated", done.repeated or None),
            ("labelled", done.labelled),
            ("changed, or unreadable", done.damaged or None),
        ],
    )
