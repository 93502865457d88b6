"""`edgekit drift`: how far the world has moved away from what a model was trained with."""

from __future__ import annotations

from pathlib import Path

import click

from edgekit.cli import output
from edgekit.cli.options import FILE, PATH
from edgekit.errors import UsageError


@click.group(name="drift")
def command() -> None:
    """Drift: what boards met beside what their model was proved on, over time."""


@command.command(
    epilog="\b\nExamples:\n  edgekit collect --to boards.txt -o dataset/\n"
    "  edgekit drift report dataset/ -o drift.html\n  edgekit drift report dataset/ --json"
)
@click.argument("datasets", nargs=-1, required=True, type=PATH, metavar="DATASET...")
@click.option("-o", "--output", "page", type=FILE, metavar="FILE.html")
@output.json_option
def report(datasets: tuple[Path, ...], *, page: Path | None, as_json: bool) -> None:
    """Make a page of what `edgekit collect` brought: alarms, boards, scores over time, answers, how samples were drawn.

    With labels it also estimates the accuracy on the boards: the samples' weights undo that strange ones were captured
    more often.
    """
    from edgekit import files
    from edgekit.collect.drift import summary

    if page is None and not as_json:
        raise UsageError("usage", "say where the page goes (-o FILE.html), or --json")
    files.check_outputs((page,), datasets)
    document = summary(datasets)
    if page is not None:
        from edgekit import report as pages

        pages.write(document, "drift", page)
    if as_json:
        output.document(document)
        return
    struck = sum(bool(board["alarms"]) for board in document["boards"])
    accuracy = document["accuracy"]
    output.facts(
        f"wrote {page}",
        [
            ("boards", f"{len(document['boards'])}, {struck} with alarms"),
            ("samples", document["samples"]),
            ("right", None if accuracy is None else f"{100 * accuracy['estimate']:.1f} % "
             f"({100 * accuracy['low']:.1f} to {100 * accuracy['high']:.1f})"),
        ],
    )  # fmt: skip
