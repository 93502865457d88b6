"""`edgekit evaluate`: accuracy on labelled data."""

from __future__ import annotations

from pathlib import Path

import click

from edgekit.cli import output
from edgekit.cli.options import PATH, label_option, opening_options


@click.command(
    epilog="\b\nExamples:\n  edgekit evaluate model.tflite test.npz\n  edgekit evaluate model.onnx photos/ --json\n"
    "  edgekit evaluate model.onnx rows.csv --label price --task regression"
)
@opening_options
@click.argument("data", type=PATH)
@label_option
@click.option("--samples", type=click.IntRange(1), help="Draw at most this many, by a seeded shuffle.")
@click.option(
    "--task",
    type=click.Choice(["classification", "multi-label", "regression"]),
    help="What the output means; default: as the manifest says, else as the labels look.",
)
@output.json_option
def command(
    file: Path,
    data: Path,
    *,
    threads: int | None,
    engine: str | None,
    no_verify: bool,
    target: str,
    label: str | None,
    samples: int | None,
    task: str | None,
    as_json: bool,
) -> None:
    """Measure the accuracy of FILE on labelled DATA."""
    from edgekit.codec import encode
    from edgekit.data_ref import DataRef
    from edgekit.targets import agent, tasks

    opening = agent.Opening(str(file), engine, threads, verify=not no_verify)
    with output.Progress() as progress:
        result = tasks.evaluate(
            opening, DataRef(str(data), label, samples), task=task, target=target, progress=progress
        )
    if as_json:
        output.document(encode(result))
        return
    output.warn(result.warnings)
    output.facts(
        str(file),
        [(result.metric.name, f"{result.metric.value:.2f}"), ("samples", result.samples), ("engine", result.engine)],
    )
