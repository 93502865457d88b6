"""`edgekit bench`: latency and memory of an artifact, and whether it became slower."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgekit.cli import output
from edgekit.cli.options import FILE, opening_options, report_option
from edgekit.errors import UsageError

if TYPE_CHECKING:
    from edgekit.measure.results import Bench, Scenario

SCENARIOS = ("single-stream", "multi-stream", "server", "offline")


@click.command(
    epilog="\b\nExamples:\n  edgekit bench model.tflite\n  edgekit bench model.onnx --threads 2 --seconds 5 --json\n"
    "  edgekit bench model.tflite -o today.json\n"
    "  edgekit bench new.tflite --compare old.tflite --fail-on-slower\n"
    "  edgekit bench model.tflite --scenario server --latency-bound 20"
)
@opening_options
@click.option("--seconds", type=click.FloatRange(0), default=2.0, show_default=True, help="Measure at least this long.")
@click.option("--runs", type=click.IntRange(1), default=50, show_default=True, help="And at least this often.")
@click.option(
    "--scenario",
    type=click.Choice(SCENARIOS),
    default="single-stream",
    show_default=True,
    help="How queries arrive, as in MLPerf's LoadGen.",
)
@click.option("--streams", type=click.IntRange(1), default=8, show_default=True, help="Samples a query (multi-stream).")
@click.option("--rate", type=float, help="Mean queries a second (server); by default the highest that holds the bound.")
@click.option("--latency-bound", type=float, metavar="MS", help="99 % of queries must be answered in this (server).")
@click.option("-o", "--output", "to", type=FILE, help="Write the result as JSON.")
@click.option(
    "--compare",
    "baseline",
    type=FILE,
    metavar="BASELINE",
    help="Say whether FILE is faster or slower than another artifact, or than a result written by -o.",
)
@click.option(
    "--effect",
    type=click.FloatRange(0, 50, min_open=True),
    default=3.0,
    show_default=True,
    metavar="PERCENT",
    help="The smallest difference that counts.",
)
@click.option(
    "--compare-seconds", type=click.FloatRange(0), default=10.0, show_default=True, help="Narrow for so long."
)
@click.option("--fail-on-slower", is_flag=True, help="Exit 6 when FILE is slower than the baseline.")
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
    runs: int,
    scenario: str,
    streams: int,
    rate: float | None,
    latency_bound: float | None,
    to: Path | None,
    baseline: Path | None,
    effect: float,
    compare_seconds: float,
    fail_on_slower: bool,
    report: Path | None,
    as_json: bool,
) -> int:
    """Measure FILE: load, first inference, warm-up until steady, then the distribution.

    With --compare both models run side by side in one process. A result whose model file is gone is compared by its
    stored times, which is weaker.
    """
    from edgekit import files
    from edgekit.codec import encode
    from edgekit.measure import results
    from edgekit.measure.compare import ComparePlan
    from edgekit.measure.sampling import BenchPlan
    from edgekit.targets import agent, tasks

    try:
        plan = BenchPlan(seconds, runs, scenario=scenario, streams=streams, rate=rate, latency_bound_ms=latency_bound)
    except ValueError as error:
        raise UsageError("option-value", str(error)) from error
    if fail_on_slower and baseline is None:
        raise UsageError("option-value", "--fail-on-slower needs a baseline: --compare")
    # A result may take the place of the one that it is compared with; a page, or the place of a model, may not.
    stored = baseline is not None and baseline.suffix.lower() == results.SUFFIX
    files.check_outputs((report,), (baseline,))
    files.check_outputs((to, report), (file, None if stored else baseline))
    opening = agent.Opening(str(file), engine, threads, verify=not no_verify)
    comparison = None
    with output.Progress() as progress:
        result = tasks.bench(opening, plan, target=target, progress=progress)
        if baseline is not None:
            narrow = ComparePlan(effect / 100, compare_seconds)
            comparison = tasks.compare(opening, baseline, narrow, result=result, target=target, progress=progress)
    if to is not None:  # last: the baseline may be the very file
        results.write(to, result)
    if report is not None:
        from edgekit import report as pages

        pages.write(results.document(result), "bench", report)
    if as_json:
        said = {} if comparison is None else {"comparison": encode(comparison)}
        output.document(results.document(result, series=False) | said)
    else:
        _show(file, result)
        if comparison is not None:
            click.secho(f"against {baseline}", bold=True)
            click.echo(f"  {comparison.sentence()}")
            output.warn(comparison.notes)
    return 6 if fail_on_slower and comparison is not None and comparison.verdict == "slower" else 0


def _show(file: Path, result: Bench) -> None:
    latency, memory, seen = result.latency_ms, result.memory, result.environment
    bounds = {name: f" ({output.number(i.low)} to {output.number(i.high)})" for name, i in result.intervals_ms.items()}
    quantiles = (f"{name} {output.number(getattr(latency, name))}{bounds[name]}" for name in ("p50", "p90", "p99"))
    least, most, mean = map(output.number, (latency.min, latency.max, latency.mean))
    busy = seen["activity"]
    output.facts(
        f"{file} on {result.engine}, {result.threads} thread{'s' if result.threads != 1 else ''}",
        [
            ("latency", f"{', '.join(quantiles)} ms"),
            ("range", f"{least} to {most} ms, mean {mean}, {result.runs} runs"),
            (result.scenario.name, _scenario(result.scenario)),
            ("load", f"{result.load_ms:.1f} ms, first inference {result.first_ms:.2f} ms"),
            ("memory", f"{memory.peak_mb:.1f} MB peak, Python and numpy included"),
            ("after warm-up", f"{memory.blocks_kept} Python blocks kept, {memory.faults_per_run:g} page faults a run"),
            ("machine", f"{seen['board'] or seen['cpu']}, {seen['cores']} cores"),
            ("others", f"{output.number(busy['others_cpu_s'])} s of CPU time in {busy['seconds']:.1f} s"),
            ("throttled", _throttled(seen)),
            ("valid", "yes" if result.valid else "NO"),
            ("notes", "\n".join(result.notes) or None),
        ],
    )


def _scenario(scenario: Scenario) -> str:
    metric = scenario.metric
    if metric.value is None and scenario.holds is False:
        return (
            f"{scenario.rate_qps:.4g} queries/s do not hold the bound of {scenario.latency_bound_ms:g} ms: "
            f"{scenario.late} of {scenario.queries} were late"
        )
    if metric.value is None:
        return f"{metric.name}: too few queries ({scenario.queries}) to state it"
    return f"{metric.name}: {output.number(metric.value)} {metric.unit}"


def _throttled(seen: dict[str, object]) -> str:
    flags = seen["throttle"]
    after = flags["after"] if isinstance(flags, dict) else {}
    told = [name.replace("_", " ") for name, value in after.items() if value is True]
    if after.get("source") is None:
        return "unknown: this machine does not tell"
    return ", ".join(told) or "no"
