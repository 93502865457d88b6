"""`edgekit check`: does this model fit that board?"""

from __future__ import annotations

from pathlib import Path

import click

from edgekit.cli import output
from edgekit.cli.options import engine_option, model_argument, threads_option
from edgekit.errors import UsageError


@click.command(
    epilog="\b\nExamples:\n  edgekit check model.tflite --device raspberry-pi-zero-2w\n"
    "  edgekit check model.onnx --device ./my-board.toml --json\n  edgekit check model.tflite --all-devices"
)
@model_argument
@click.option("--device", metavar="NAME|FILE", help="Device profile: `edgekit devices list`.")
@click.option("--all-devices", is_flag=True, help="The verdict for every known board.")
@threads_option
@engine_option
@output.json_option
def command(
    file: Path, *, device: str | None, all_devices: bool, threads: int | None, engine: str | None, as_json: bool
) -> int:
    """Check FILE against a board's limits: size, memory, ops, engine, precision. Exit 6 when it does not fit."""
    if bool(device) == all_devices:
        raise UsageError("device-missing", "name one --device, or --all-devices")
    from edgekit import artifact, gate
    from edgekit.device_profiles import all_profiles, load_profile
    from edgekit.formats import read_facts

    opened = artifact.read(file)
    facts = read_facts(opened)
    profiles = all_profiles() if all_devices else [load_profile(device or "")]
    verdicts = [gate.check(facts, opened.manifest, p, threads=threads, engine=engine) for p in profiles]
    if all_devices:
        if as_json:
            output.document({"devices": [verdict.to_dict() for verdict in verdicts]})
        else:
            rows = ((v.device, "fits" if v.fits else "NO", gate.limiting(v)) for v in verdicts)
            output.table(str(file), ("device", "verdict", "because"), rows)
        return 0
    verdict = verdicts[0]
    if as_json:
        output.document(verdict.to_dict())
    else:
        _show(file, verdict)
    return 0 if verdict.fits else 6


def _show(file: Path, verdict: object) -> None:
    from edgekit.gate import Verdict

    assert isinstance(verdict, Verdict)  # noqa: S101
    rows = (
        (
            limit.resource,
            "ok" if limit.ok else "NO",
            _figure(limit.required),
            _figure(limit.available),
            limit.unit,
            limit.why,
        )
        for limit in verdict.limits
    )
    title = f"{file} {'fits' if verdict.fits else 'does not fit'} {verdict.device}"
    output.table(title, ("resource", "", "required", "available", "unit", "why"), rows)
    for line in verdict.advice:
        click.echo(f"  advice: {line}")


def _figure(value: object) -> str:
    return output.number(value) if isinstance(value, (int, float)) else str(value if value is not None else "-")
