"""`edgekit profile`: where the time of an inference goes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgekit.cli import output
from edgekit.cli.options import PATH, opening_options, report_option

if TYPE_CHECKING:
    from edgekit.measure.profile import Profile


@click.command(
    epilog="\b\nExamples:\n  edgekit profile model.tflite\n  edgekit profile model.onnx --threads 4 --top 20\n"
    "  edgekit profile model.tflite --trace trace.json      (open it in chrome://tracing or ui.perfetto.dev)\n"
    "  edgekit profile model.tflite --target ssh://pi@kitchen --json"
)
@opening_options
@click.option("--seconds", type=click.FloatRange(0), default=3.0, show_default=True, help="Measure about this long.")
@click.option("--top", type=click.IntRange(1), default=12, show_default=True, help="Show this many ops, worst first.")
@click.option("--trace", type=PATH, help="Write one inference as a Chrome trace.")
@click.option("-o", "--output", "output_file", type=PATH, help="Write the result as JSON.")
@report_option
@output.json_option
def command(
    file: Path,
    *,
    threads: int | None,
    engine: str | None,
    no_verify: bool,
    target: str,
    seconds: float,
    top: int,
    trace: Path | None,
    output_file: Path | None,
    report: Path | None,
    as_json: bool,
) -> None:
    """Time every op of FILE: how long, how much of the whole, by which kernels, at which arithmetic intensity."""
    import json

    from edgekit import files, profiling
    from edgekit.codec import encode
    from edgekit.measure import profile
    from edgekit.targets import agent

    files.check_outputs((trace, output_file, report), (file,))
    opening = agent.Opening(str(file), engine, threads, verify=not no_verify)
    with output.Progress() as progress:
        found = profiling.profile(opening, seconds=seconds, target=target, progress=progress)
    if trace is not None:
        files.replace(trace, json.dumps(profile.trace(found)).encode())
    if output_file is not None:
        files.replace(output_file, json.dumps(encode(found), indent=2).encode())
    if report is not None:
        from edgekit import report as pages

        pages.write(encode(found), "profile", report)
    if as_json:
        output.document(encode(found))
        return
    _show(found, top)


def _show(found: Profile, top: int) -> None:
    worst = sorted(found.ops, key=lambda op: -op.ms)[:top]
    rows = (
        (op.index, op.type, op.name[-48:], op.delegate, f"{1000 * op.ms:.1f}", f"{100 * op.share:.1f} %",
         output.number(op.macs), output.number(op.intensity, 3))
        for op in worst
    )  # fmt: skip
    columns = ("#", "type", "name", "by", "us", "share", "MACs", "MACs/byte")
    output.table(f"{found.file} on {found.engine}: slowest {len(worst)} of {len(found.ops)} ops", columns, rows)
    groups = [
        (group.name, group.count, f"{1000 * group.ms:.1f}", f"{100 * group.share:.1f} %") for group in found.types
    ]
    output.table("By type", ("type", "ops", "us", "share"), groups)
    output.facts(
        "In all",
        [
            ("inference", f"{output.number(found.wall_ms)} ms; the ops add up to {100 * found.coverage:.1f} % of it"),
            ("kernels", ", ".join(f"{g.name} {100 * g.share:.1f} % ({g.count} ops)" for g in found.delegates)),
            ("runs", f"{found.runs}, with profiling {found.overhead:.2f} times as long"),
            ("valid", "yes" if found.valid else "NO: " + "; ".join(found.notes)),
        ],
    )
