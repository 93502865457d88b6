"""`edgekit bench`: latency and memory of an artifact."""

from __future__ import annotations

from pathlib import Path

import click

from edgekit.cli import output
from edgekit.cli.options import opening_options


@click.command(
    epilog="\b\nExamples:\n  edgekit bench model.tflite\n  edgekit bench model.onnx --threads 2 --seconds 5 --json"
)
@opening_options
@click.option("--seconds", type=click.FloatRange(0), default=2.0, show_default=True, help="Measure at least this long.")
@click.option("--runs", type=click.IntRange(1), default=50, show_default=True, help="And at least this often.")
@output.json_option
def command(
    file: Path,
    *,
    threads: int | None,
    engine: str | None,
    no_verify: bool,
    target: str,
    seconds: float,
    runs: int,
    as_json: bool,
) -> None:
    """Measure FILE: load, first inference, warm-up until steady, then the distribution."""
    from edgekit.codec import encode
    from edgekit.measure.latency import BenchPlan
    from edgekit.targets import agent, tasks

    opening = agent.Opening(str(file), engine, threads, verify=not no_verify)
    with output.Progress() as progress:
        result = tasks.bench(opening, BenchPlan(seconds, runs), target=target, progress=progress)
    if as_json:
        output.document(encode(result))
        return
    latency = result.latency_ms
    output.facts(
        f"{file} on {result.engine}, {result.threads or 'default'} threads",
        [
            ("latency", f"p50 {latency.p50:.3f} ms, p90 {latency.p90:.3f}, p99 {latency.p99:.3f}"),
            ("range", f"{latency.min:.3f} to {latency.max:.3f} ms, mean {latency.mean:.3f}, {result.runs} runs"),
            ("load", f"{result.load_ms:.1f} ms, first inference {result.first_ms:.2f} ms"),
            ("memory", f"{result.rss_mb:.1f} MB peak, Python and numpy included"),
            ("machine", f"{result.environment['cpu']}, {result.environment['cores']} cores"),
            ("valid", "yes" if result.valid else "NO: " + "; ".join(result.notes)),
        ],
    )
