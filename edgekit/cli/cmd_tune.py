"""`edgekit tune`: the best artifact of a model on a board."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from edgekit.cli import output
from edgekit.cli.options import FOLDER, PATH, input_sizes, label_option, report_option
from edgekit.errors import UsageError
from edgekit.reading import Task

if TYPE_CHECKING:
    from edgekit.tune.tuner import Tuned

_EPILOG = """\b
Examples:
  edgekit tune model.h5 --device raspberry-pi-4b --eval test.npz --calibration train.npz -o best.tflite
  edgekit tune model.h5 --device raspberry-pi-4b --eval test.npz --calibration train.npz --target ssh://pi@kitchen \\
      --goal size --max-drop 0.5 --latency-ms 20 --report front.html
  edgekit tune net.onnx --target local --eval test.npz --budget 20
  edgekit tune net.onnx --target local --eval test.npz --budget 600s
  edgekit tune weights.pth --model nets:resnet20 --input image=N,3,32,32 --device intel-n100 --eval test.npz
  edgekit tune net.onnx --target local --eval test.npz --scheduler tcp://desk:8786

\b
Without --target the figures are predicted for the device, and labelled so. Every finished conversion and measurement is
kept; the same command goes on where it was stopped. Nothing is written when nothing holds the limits (exit 6).
"""


def _budget(_: object, __: object, value: str | None) -> tuple[int | None, float | None]:
    """Evaluations, or seconds."""
    if value is None:
        return None, None
    said = re.fullmatch(r"([0-9]+)(s?)", value)
    if said is None or int(said[1]) < 1:
        raise UsageError("option-value", f"--budget is {value}; say evaluations (20) or seconds (600s)")
    return (None, float(said[1])) if said[2] else (int(said[1]), None)


def _listed(_: object, __: object, value: str | None) -> tuple[str, ...] | None:
    return None if value is None else tuple(part.strip() for part in value.split(",") if part.strip())


def _counts(_: object, __: object, value: str | None) -> tuple[int, ...] | None:
    parts = _listed(None, None, value)
    if parts is None:
        return None
    if not parts or not all(part.isdecimal() and 1 <= int(part) <= 256 for part in parts):
        raise UsageError("option-value", f"--threads is {value}; say numbers, as in 1,2,4")
    return tuple(int(part) for part in parts)


@click.command(epilog=_EPILOG)
@click.argument("source", type=PATH)
@click.option("--device", metavar="NAME|FILE", help="Device profile it must fit: `edgekit devices list`.")
@click.option(
    "--eval", "evaluation", type=PATH, required=True, metavar="DATA",
    help="Data to judge on; with labels, accuracy counts.",
)  # fmt: skip
@click.option("--calibration", type=PATH, metavar="DATA", help="For int8 and int16x8.")
@click.option("--target", metavar="TARGET", help="Where to measure: local, ssh://[USER@]HOST[:PORT].")
@click.option(
    "--goal", type=click.Choice(["latency", "size", "memory"]), default="latency", show_default=True,
    help="What to make smallest.",
)  # fmt: skip
@click.option("--max-drop", type=float, default=1.0, show_default=True, metavar="POINTS", help="Accuracy to lose.")
@click.option("--latency-ms", type=click.FloatRange(0, min_open=True), metavar="L", help="Median latency at most.")
@click.option("--size-mb", type=click.FloatRange(0, min_open=True), metavar="S", help="File at most (10^6 bytes).")
@click.option("-o", "--output", "output_path", type=PATH, metavar="FILE", help="The chosen artifact.")
@click.option("--formats", callback=_listed, metavar="A,B", help="Formats to try; default: all, or that of -o.")
@click.option("--precisions", callback=_listed, metavar="A,B", help="Precisions to try; default: all.")
@click.option("--observers", callback=_listed, metavar="A,B", help="Observers to try; default: all.")
@click.option("--threads", callback=_counts, metavar="1,2", help="Numbers of threads; default: up to the cores.")
@click.option("--seconds", type=click.FloatRange(0.1), default=1.0, show_default=True, help="Of one measurement.")
@click.option("--budget", callback=_budget, metavar="N|Ns", help="Evaluations, or seconds, at most.")
@click.option("--cache", type=FOLDER, help="Folder of finished trials.")
@click.option("--scheduler", metavar="tcp://HOST:PORT", help="Work on a Dask cluster; measuring where the board is.")
@label_option
@click.option("--metadata", type=PATH, metavar="FILE.toml", help="As for convert.")
@click.option("--labels", type=PATH, metavar="FILE", help="Class names, one a line.")
@click.option(
    "--input", "inputs", multiple=True, callback=input_sizes, metavar="NAME=SHAPE[:TYPE]", help="As for convert."
)
@click.option("--model", metavar="MODULE:FACTORY", help="As for convert.")
@click.option("--signature", metavar="NAME", help="As for convert.")
@click.option("--task", type=click.Choice(get_args(Task)), help="As for convert.")
@click.option("--allow-float-ops", is_flag=True, help="As for convert.")
@click.option("--reference/--no-reference", default=True, show_default=True, help="As for convert; of the chosen one.")
@click.option("--embedding", metavar="NAME", help="As for convert; of the chosen one.")
@click.option(
    "--trust", is_flag=False, flag_value="", metavar="[SHA256]", help="As for convert.",
    callback=lambda _, __, value: False if value is None else value or True,
)  # fmt: skip
@report_option
@output.json_option
def command(
    source: Path,
    *,
    inputs: dict[str, Any],
    target: str | None,
    goal: Any,
    latency_ms: float | None,
    size_mb: float | None,
    output_path: Path | None,
    formats: tuple[str, ...] | None,
    precisions: tuple[str, ...] | None,
    observers: tuple[str, ...] | None,
    threads: tuple[int, ...] | None,
    seconds: float,
    budget: tuple[int | None, float | None],
    cache: Path | None,
    scheduler: str | None,
    report: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Search for the best artifact of SOURCE: format, precision, ranges, engine and threads, by accuracy and cost."""
    from edgekit import files
    from edgekit.options import FORMATS, Options
    from edgekit.tune.front import Wanted
    from edgekit.tune.tuner import Plan, tune

    if output_path is not None and formats is None:
        said = FORMATS.get(output_path.suffix.lower())
        formats = None if said is None else (said,)
    plan = Plan(
        Wanted(goal, latency_ms, size_mb), target, formats, precisions, observers, threads, seconds,
        budget[0], budget[1], cache, scheduler,
    )  # fmt: skip
    shapes = {name: sizes for name, (sizes, _) in inputs.items()}
    dtypes = {name: dtype for name, (_, dtype) in inputs.items() if dtype}
    how = Options(output=output_path, shapes=shapes, dtypes=dtypes, **options)
    files.check_outputs((output_path, report), (source, *how.inputs))
    with output.Progress() as progress:
        tuned = tune(source, how, plan, progress)
    if report is not None:
        from edgekit import report as pages

        pages.write(tuned.to_dict(), "tune", report)
    if as_json:
        output.document(tuned.to_dict())
    else:
        _show(tuned)


def _show(tuned: Tuned) -> None:
    document = tuned.to_dict()
    rows = [
        (
            ("> " if trial == document["chosen"] or (trial["sha256"] == document["chosen"]["sha256"]
             and trial["threads"] == document["chosen"]["threads"]) else "  ") + trial["recipe"],
            f"{trial['engine']} x{trial['threads']}",
            output.number(trial["loss"], 3),
            output.number(trial["latency_ms"], 3) + (" predicted" if trial["basis"] == "predicted" else ""),
            output.size(trial["bytes"]),
            f"{output.number(trial['memory_mb'], 3)} MB",
        )
        for trial in document["front"]
    ]  # fmt: skip
    unit = document["chosen"]["unit"]
    output.table("the front", ("recipe", "runs on", f"loss, {unit}", "latency, ms", "size", "memory"), rows)
    output.warn(f"{one['recipe']}: {one['message']}" for one in document["failed"])
    noted = [note for trial in document["front"] for note in trial["notes"]]
    output.warn(dict.fromkeys(noted))
    chosen, counts = document["chosen"], document["evaluations"]
    spent = (
        f"{counts['conversions']} conversions, {counts['measurements']} measurements, {counts['remembered']} "
        f"remembered; everything would be {counts['of_everything']}"
    )
    output.facts(
        f"wrote {chosen['path']}" if chosen["path"] else f"chosen: {chosen['recipe']}",
        [
            ("recipe", f"{chosen['recipe']}, {chosen['engine']}, {chosen['threads']} threads"),
            ("for", f"the least {document['goal']}"),
            ("evaluations", spent),
            ("complete", "yes" if document["complete"] else "no: the budget ended first"),
        ],
    )
