"""`edgekit check`: does this model fit that board, and how fast would it be?"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli import output
from edgekit.cli.options import engine_option, model_argument, report_option, threads_option
from edgekit.errors import UsageError

if TYPE_CHECKING:
    from edgekit.gate import Verdict
    from edgekit.gate.explain import Explanation

_SHOWN = 10


@click.command(
    epilog="\b\nExamples:\n  edgekit check model.tflite --device raspberry-pi-zero-2w\n"
    "  edgekit check model.tflite --device raspberry-pi-4b --threads 4 --explain\n"
    "  edgekit check model.onnx --device ./my-board.toml --json\n"
    "  edgekit check model.tflite --device raspberry-pi-5 --report check.html\n"
    "  edgekit check model.tflite --all-devices"
)
@model_argument
@click.option("--device", metavar="NAME|FILE", help="Device profile: `edgekit devices list`.")
@click.option("--all-devices", is_flag=True, help="The verdict for every known board.")
@threads_option
@engine_option
@click.option("--explain", is_flag=True, help="Also show which ops take the time and which tensors the memory.")
@report_option
@output.json_option
def command(
    file: Path,
    *,
    device: str | None,
    all_devices: bool,
    threads: int | None,
    engine: str | None,
    explain: bool,
    report: Path | None,
    as_json: bool,
) -> int:
    """Check FILE against a board: engine, ops, memory, size, time. Exit 6 when it does not fit.

    Nothing is run: memory and time are predicted from the file and the board's profile.
    """
    if bool(device) == all_devices:
        raise UsageError("device-missing", "name one --device, or --all-devices")
    if all_devices and (explain or report is not None):
        raise UsageError("device-missing", "--explain and --report are of one --device")
    from edgekit import artifact, files, gate
    from edgekit.device_profiles import all_profiles, load_profile
    from edgekit.formats import read_facts, require_external

    files.check_outputs((report,), (file, device))
    profiles = all_profiles() if all_devices else [load_profile(device or "")]
    with _uncollected():
        opened = artifact.read(file)
        facts, manifest = read_facts(opened), opened.manifest
        require_external(facts, file)
        if all_devices:
            _matrix(file, gate.matrix(facts, manifest, profiles, threads=threads, engine=engine), as_json=as_json)
            return 0
        verdict = gate.check(facts, manifest, profiles[0], threads=threads, engine=engine)
    document: dict[str, Any] = verdict.to_dict()
    found = None
    if explain or report is not None:
        from edgekit.gate.explain import explain as take_apart

        found = take_apart(facts, manifest, profiles[0], threads=threads, engine=engine)
        document["explain"] = found.to_dict()
    if report is not None:
        from edgekit import report as pages

        pages.write({"file": str(file), **document}, "check", report)
    if as_json:
        output.document(document)
    else:
        _show(file, verdict)
        if explain and found is not None:
            _explain(found)
    return 0 if verdict.fits else 6


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """A large graph is many small objects that live to the end: to look for garbage among them takes a third longer."""
    used = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if used:
            gc.enable()


def _matrix(file: Path, verdicts: list[Verdict], *, as_json: bool) -> None:
    from edgekit import gate

    if as_json:
        output.document({"devices": [{**v.to_dict(), "limiting": gate.limiting(v)} for v in verdicts]})
        return
    rows = []
    for verdict in verdicts:
        memory, time = verdict.memory_mb, verdict.latency_ms
        at_least = "over " if memory["at_least"] else ""
        megabytes = f"{at_least}{output.number(memory['estimate'], 3)}" if memory["estimate"] is not None else "-"
        rows.append(
            (
                verdict.device,
                "fits" if verdict.fits else "NO",
                megabytes,
                _time(time),
                _basis(time),
                gate.limiting_briefly(verdict),
            )
        )
    columns = ("device", "", "memory MiB", "latency ms (80 %)", "by", "limit")
    output.table(str(file), columns, rows)


def _time(latency: Any) -> str:
    if latency["estimate"] is None:
        return "-"
    estimate, low, high = (output.number(latency[key], 3) for key in ("estimate", "low", "high"))
    return f"{estimate}  ({low} to {high})"


def _basis(latency: Any) -> str:
    """The first word: fitted, extrapolated, measured."""
    return "-" if latency["estimate"] is None else str(latency["basis"]).split(maxsplit=1)[0].rstrip(":,")


def _show(file: Path, verdict: Verdict) -> None:
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
    if (time := verdict.latency_ms)["estimate"] is not None:
        click.echo(f"  latency: {_time(time)} ms; {time['basis']}")
    if (memory := verdict.memory_mb)["estimate"] is not None:
        more = "at least " if memory["at_least"] else ""
        click.echo(
            f"  memory: {more}{memory['estimate']:.1f} MiB, {memory['load']:.1f} until it is open; {memory['basis']}"
        )
    for line in verdict.advice:
        click.echo(f"  advice: {line}")


def _explain(found: Explanation) -> None:
    from edgekit.gate.explain import own_name
    from edgekit.gate.verdict import threads as counted

    slowest = found.slowest(_SHOWN)
    if slowest:
        rows = [
            (op.kind, own_name(op.name)[-48:], op.precision, f"{1000 * op.ms:.1f}", f"{100 * op.share:.1f} %", op.limit)
            for op in slowest
        ]
        where = f"{found.engine}, {counted(found.threads)}"
        title = f"Time: the {len(rows)} longest of {len(found.ops)} kernels, {where}"
        output.table(title, ("type", "name", "in", "us", "share", "bound by"), rows)
    if found.parts:
        parts = [(part.what, f"{part.mib:.2f}", part.when, part.why) for part in found.parts if part.mib >= 0.005]
        output.table("Memory: what it consists of", ("part", "MiB", "from", "why"), parts)
    line = found.timeline
    if line is None:
        click.echo("  the time line of tensors is not known: some sizes are free")
        return
    peak = line.moments[line.peak]
    where = f"op {line.peak} of {len(line.moments)}, {peak.kind} {own_name(peak.name)[-48:]}"
    title = f"Activations: {peak.bytes / 2**20:.3f} MiB at {where}"
    spans = [
        (own_name(span.name)[-60:], f"{span.bytes / 2**20:.3f}", f"{span.first} to {span.last}")
        for span in found.at_peak()[:_SHOWN]
    ]
    output.table(title, ("alive then", "MiB", "during ops"), spans)


def _figure(value: object) -> str:
    return output.number(value) if isinstance(value, (int, float)) else str(value if value is not None else "-")
