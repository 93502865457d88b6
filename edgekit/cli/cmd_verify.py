"""`edgekit verify`: does the artifact still give its answers, here?"""

from __future__ import annotations

from pathlib import Path

import click

from edgekit.cli import output
from edgekit.cli.options import opening_options


@click.command(
    epilog="\b\nExamples:\n  edgekit verify model.tflite\n  edgekit verify model.onnx --json\n"
    "  edgekit verify model.onnx --target emulator:raspberry-pi-4b"
)
@opening_options
@output.json_option
def command(
    file: Path, *, threads: int | None, engine: str | None, no_verify: bool, target: str, as_json: bool
) -> None:
    """Check the digest of FILE and replay its self-test on the target's engine."""
    from edgekit.codec import encode
    from edgekit.targets import agent, tasks

    opening = agent.Opening(str(file), engine, threads, verify=not no_verify)
    with output.Progress() as progress:
        result = tasks.verify(opening, target=target, progress=progress)
    agent.enforce(result, str(file))
    if as_json:
        output.document(encode(result))
        return
    output.facts(
        f"{file} gives the recorded answers on {target}",
        [
            ("vectors", result.vectors),
            ("worst", f"{result.worst_steps} integer steps, {result.worst_relative:.2g} relative"),
            ("engine", f"{result.engine} {result.engine_version}"),
        ],
    )
