"""`edgekit run`: feed a model some samples and read its answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgekit.cli import output
from edgekit.cli.options import PATH, opening_options


@click.command(
    epilog="\b\nExamples:\n  edgekit run model.tflite sample.npy\n  edgekit run model.tflite cat.jpg\n"
    "  edgekit run model.onnx test.npz --samples 3 --json\n"
    "  edgekit run model.onnx test.npz --samples 9 -o outputs.npz\n"
    "  edgekit run model.tflite cat.jpg --target ssh://pi@kitchen"
)
@opening_options
@click.argument("data", type=PATH)
@click.option("--samples", type=click.IntRange(1), default=1, show_default=True, help="How many samples to run.")
@click.option("-o", "--output", "output_file", type=PATH, help="Also store the outputs as .npz.")
@output.json_option
def command(
    file: Path,
    data: Path,
    *,
    threads: int | None,
    engine: str | None,
    no_verify: bool,
    target: str,
    samples: int,
    output_file: Path | None,
    as_json: bool,
) -> None:
    """Run FILE on samples of DATA (.npz, .npy, .csv, an image, a WAV file or a folder of them)."""
    from edgekit.codec import encode
    from edgekit.data_ref import DataRef
    from edgekit.targets import agent, tasks

    opening = agent.Opening(str(file), engine, threads, verify=not no_verify)
    with output.Progress() as progress:
        result = tasks.run(
            opening, DataRef(str(data)), samples=samples, output=output_file, target=target, progress=progress
        )
    if as_json:
        output.document(encode(result))
        return
    for number, answer in enumerate(result.answers):
        output.facts(f"sample {number}", _lines(answer))
    click.echo(f"{len(result.answers)} of {data} in {1000 * result.seconds:.2f} ms on {result.engine}", err=True)


def _lines(answer: dict[str, Any]) -> list[tuple[str, object]]:
    lines: list[tuple[str, object]] = []
    for name, value in answer.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            lines.append((name, "\n".join("  ".join(_cell(v) for v in item.values()) for item in value)))
        else:
            lines.append((name, _cell(value)))
    return lines


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
