"""`edgekit debug`: which layers of an artifact answer otherwise than its source, why, and what would mend it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli import output
from edgekit.cli.options import PATH, input_sizes, model_argument, report_option
from edgekit.errors import some

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgekit.converters.debugging.results import Divergence, Layer, TensorStatistics
    from edgekit.debugging import Debugged

_EPILOG = """\b
Examples:
  edgekit debug model.tflite --against model.keras --data test.npz
  edgekit debug model.onnx --against net.onnx --data photos/ --layer 'conv*' --samples 100
  edgekit debug resnet.tflite --against resnet.pth --model nets:resnet20 --data test.npz --report debug.html

\b
Columns: `share` of the error that all layers, each alone, make at the outputs; SQNR in dB `as it is` in the artifact,
where all before it is quantized too, `alone` with the float values of its inputs, and `own` without the rounding of
those inputs. What the artifact's manifest records (--input, --model, --layout, ...) need not be said again.
"""


@click.command(epilog=_EPILOG)
@model_argument
@click.option("--against", "source", required=True, type=PATH, metavar="SOURCE",
              help="The model it was made from: Keras, SavedModel, PyTorch, scikit-learn, ONNX, TFLite.")  # fmt: skip
@click.option("--data", required=True, type=PATH, metavar="DATA",
              help="Representative samples, as for convert; no labels needed.")  # fmt: skip
@click.option("--samples", type=click.IntRange(1), default=32, show_default=True, metavar="N",
              help="Draw at most N, by a seeded shuffle.")  # fmt: skip
@click.option(
    "--top", type=click.IntRange(1), default=10, show_default=True, help="Show this many layers, worst first."
)
@click.option("--layer", metavar="PATTERN", help="Only layers of this name, here or in the source: 'conv*'.")
@click.option("--tolerance", type=float, metavar="SHARE",
              help="Of fp32 artifacts: largest error as a share of a tensor's range; default: as verification, 1e-4.",
              )  # fmt: skip
@click.option("--input", "inputs", multiple=True, callback=input_sizes, metavar="NAME=SHAPE[:TYPE]",
              help="Sizes of an input that the source leaves free, as for convert.")  # fmt: skip
@click.option("--model", metavar="MODULE:FACTORY", help="What makes the network of PyTorch weights.")
@click.option("--signature", metavar="NAME", help="Signature of a SavedModel or TFLite file.")
@click.option("--layout", type=click.Choice(["keep", "nhwc", "nchw"]), help="Axes of image inputs, as for convert.")
@click.option("--metadata", type=PATH, metavar="FILE.toml",
              help="How raw files become arrays: [preprocess]; default: as the manifest says.")  # fmt: skip
@click.option(
    "--trust",
    is_flag=False,
    flag_value="",
    metavar="[SHA256]",
    callback=lambda _, __, value: False if value is None else value or True,
    help="Admit code inside the source (of this digest only). It will run, as you.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the draw.")
@click.option("--threads", type=click.IntRange(1, 256), default=2, show_default=True, help="Of the engine.")
@click.option("--time-limit", type=float, default=900.0, show_default=True, metavar="SECONDS", help="Of one stage.")
@click.option("--memory-limit", type=int, metavar="MIB", help="Of a child process; default: three quarters of all.")
@report_option
@output.json_option
def command(
    file: Path,
    *,
    source: Path,
    data: Path,
    top: int,
    layer: str | None,
    inputs: dict[str, Any],
    metadata: Path | None,
    report: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Compare FILE with the model it was made from, layer by layer: worst first, with reasons and remedies.

    In a float artifact, the first node that answers otherwise is named, with statistics of both tensors.
    """
    from edgekit import files
    from edgekit import metadata as descriptions
    from edgekit.debugging import DebugOptions, debug

    shapes = {name: sizes for name, (sizes, _) in inputs.items()}
    dtypes = {name: dtype for name, (_, dtype) in inputs.items() if dtype}
    said = None if metadata is None else descriptions.read(metadata, None, None).preprocess
    how = DebugOptions(shapes=shapes, dtypes=dtypes, preprocess=said, **options)
    files.check_outputs((report,), (file, source, data, metadata))
    with output.Progress() as progress:
        found = debug(file, source, data, how, progress)
    shown = found.layers if layer is None else found.matching(layer)
    document = found.to_dict()
    if report is not None:
        from edgekit import report as pages

        pages.write(document, "debug", report)
    if as_json:
        document["layers"] = [entry.to_dict() for entry in shown]
        output.document(document)
        return
    output.warn(found.notes)
    _show(found, shown[: top if layer is None else len(shown)])


def _show(found: Debugged, layers: Sequence[Layer]) -> None:
    seen = found.examination
    if found.floats:
        _show_divergence(seen.divergence, seen.diverging)
    rows = (
        (
            (layer.source_layer or layer.name)[-44:],
            layer.op[:20],
            "-" if layer.contribution is None else f"{100 * layer.contribution:.1f} %",
            *(_decibels(figures) for figures in (layer.cumulative, layer.isolated, layer.own)),
            output.number(layer.cumulative.max_abs_error, 3),
            f"{100 * layer.spread.saturation:.2g} %" if layer.scale is not None else "-",
        )
        for layer in layers
    )
    heads = ("layer", "op", "share", "as it is", "alone", "own", "max error", "saturated")
    output.table(f"{found.path}: worst {len(layers)} of {len(found.layers)} layers", heads, rows)
    for place, layer in enumerate(layers[:5], 1):
        if not layer.reasons:
            continue
        click.echo(f"{place}. {layer.source_layer or layer.name}: {layer.reasons[0].text}.")
        for reason in layer.reasons[1:]:
            click.echo(f"   Also: {reason.text}.")
        options = list(dict.fromkeys(option for reason in layer.reasons for option in reason.options))
        if options:
            click.echo(f"   Try {' or '.join(options[:3])}.")
    if seen.unpaired:
        click.echo(f"Not compared, without a counterpart in the float graph: {some(seen.unpaired, 6)}.")
    outputs = [
        (item.name, _db(item.sqnr_db), _db(item.lowered_sqnr_db), output.number(item.relative_error, 3))
        for item in seen.outputs
    ]
    if outputs:
        columns = ("output", "artifact, dB", "float graph, dB", "largest error / range")
        output.table(f"Outputs beside the source's own, {seen.samples} samples", columns, outputs)


def _show_divergence(first: Divergence | None, diverging: tuple[str, ...]) -> None:
    if first is None:
        words = f", though errors add up beyond it in {len(diverging)} tensors" if diverging else ""
        click.echo(f"Every node answers as the source's does, within the tolerance{words}.")
        return
    click.secho(
        f"First divergence: {first.source_layer or first.layer} ({first.op}, {first.layer}): its error is "
        f"{first.relative_error:.3g} of the range, {first.tolerance:.3g} is tolerated.",
        bold=True,
    )
    click.echo(
        f"  sample {first.sample}, at {list(first.at)}: {first.found:.7g} instead of {first.expected:.7g}; "
        f"{len(diverging)} tensors are off in all"
    )
    rows = [("source", *_statistics(first.reference)), ("artifact", *_statistics(first.artifact))]
    output.table("Both tensors", ("", "tensor", "shape", "min", "max", "mean", "std", "zeros", "not finite"), rows)


def _statistics(seen: TensorStatistics) -> tuple[object, ...]:
    figures = (f"{value:.6g}" for value in (seen.min, seen.max, seen.mean, seen.std))
    return (seen.name[-32:], "x".join(map(str, seen.shape)), *figures, f"{100 * seen.zeros:.1f} %", seen.not_finite)


def _decibels(figures: Any) -> str:
    return "-" if figures is None else _db(figures.sqnr_db)


def _db(value: float | None) -> str:
    return "exact" if value is None else f"{value:.1f}"
