"""`edgekit convert`: a trained model becomes a verified artifact."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from edgekit.cli import output
from edgekit.cli.options import FOLDER, PATH, input_sizes, label_option, report_option
from edgekit.errors import some
from edgekit.reading import Task

if TYPE_CHECKING:
    from edgekit.conversion import Conversion
    from edgekit.early import Begun

_EPILOG = """\b
Examples:
  edgekit convert model.keras -o model.tflite
  edgekit convert model.keras -o model.tflite --precision int8 --device raspberry-pi-4b \\
      --calibration train.npz --eval test.npz --max-drop 0.5
  edgekit convert net.onnx -o net16.onnx --precision fp16 --target emulator:raspberry-pi-5
  edgekit convert saved_model/ -o model.onnx --precision fp16
  edgekit convert resnet.pth -o resnet.onnx --model nets:resnet20 --input image=N,3,32,32
  edgekit convert net.onnx -o net_int8.onnx --precision int8 --calibration photos/ --metadata feed.toml
  edgekit convert model.h5 -o model.tflite --precision int8 --calibration train.npz --rules first_layers.toml

\b
Data (--calibration, --eval): .npz (an array per input, or x; labels in y), .npy, .csv, or a folder of images or WAV
files whose sub-folders are the classes. Nothing is written unless verification passes (exit 5) and the model fits
the device (exit 6), and its self-test passes on the target (exit 5).
"""


@click.command(epilog=_EPILOG)
@click.argument("source", type=PATH)
@click.option(
    "-o",
    "--output",
    "output_path",
    type=PATH,
    required=True,
    metavar="FILE",
    help="Artifact to write.",
)
@click.option("--to", metavar="FORMAT", help="tflite or onnx; by default the suffix of -o decides.")
@click.option(
    "--precision",
    default="fp32",
    show_default=True,
    metavar="NAME",
    help="fp32, fp16, dynamic, int4, int8, int16x8, mixed.",
)
@click.option("--device", metavar="NAME|FILE", help="Device profile it must fit: `edgekit devices list`.")
@click.option(
    "--target",
    metavar="TARGET",
    help="Where its self-test must pass as well: emulator:PROFILE, ssh://[USER@]HOST[:PORT].",
)
@click.option("--calibration", type=PATH, metavar="DATA", help="Representative data, for int8 and int16x8.")
@click.option(
    "--eval",
    "evaluation",
    type=PATH,
    metavar="DATA",
    help="Data to verify on; with labels, accuracy counts.",
)
@click.option(
    "--max-drop", type=float, default=1.0, show_default=True, metavar="POINTS", help="Accuracy that may be lost."
)
@label_option
@click.option(
    "--calibration-samples",
    type=int,
    default=500,
    show_default=True,
    metavar="N",
    help="Draw at most N, by a seeded shuffle.",
)
@click.option("--eval-samples", "evaluation_samples", type=int, metavar="N", help="The same for --eval; default: all.")
@click.option(
    "--input",
    "inputs",
    multiple=True,
    callback=input_sizes,
    metavar="NAME=SHAPE[:TYPE]",
    help="Sizes of an input that the source leaves free; N stays free. TYPE, for PyTorch: float32 unless said.",
)
@click.option(
    "--model",
    metavar="MODULE:FACTORY",
    help="What makes the network of PyTorch weights; your code, imported from here.",
)
@click.option("--signature", metavar="NAME", help="Signature of a SavedModel or TFLite file.")
@click.option(
    "--metadata",
    type=PATH,
    metavar="FILE.toml",
    help="How to feed and read the model: [preprocess], [interpret].",
)
@click.option("--labels", type=PATH, metavar="FILE", help="Class names, one a line.")
@click.option(
    "--task",
    type=click.Choice(get_args(Task)),
    help="What the output means; by default as labels and scores look.",
)
@click.option(
    "--io", "interface", type=click.Choice(["int8", "float"]), help="Type of a quantized model's inputs and outputs."
)
@click.option(
    "--layout",
    type=click.Choice(["keep", "nhwc", "nchw"]),
    default="keep",
    show_default=True,
    help="Axes of image inputs and outputs, PyTorch, scikit-learn and ONNX to TFLite: nhwc saves the turning.",
)
@click.option(
    "--exact-labels/--no-exact-labels",
    default=True,
    show_default=True,
    help="Decide as scikit-learn does in double precision (fp32 only); without, files are smaller and TFLite faster.",
)
@click.option(
    "--fold-preprocess",
    is_flag=True,
    help="Put scale, mean, std, color order and layout of --metadata into the graph: it takes pictures as they are.",
)
@click.option("--allow-float-ops", is_flag=True, help="Leave ops that cannot be quantized in float, listed by name.")
@click.option(
    "--weight-bits",
    type=click.IntRange(7, 8),
    metavar="7|8",
    help="Of int8 weights in ONNX; by default 7 for a --device whose x86 processor lacks VNNI, where 8 would saturate.",
)
@click.option(
    "--lift",
    metavar="NAME",
    help="What --precision mixed lifts layers to: fp16, float, int16x8; default: fp16, else float.",
)
@click.option(
    "--lift-budget", type=int, metavar="N", help="Verifications that --precision mixed may take; default: its forecast."
)
@click.option("--lift-cache", type=FOLDER, help="Keeps that search across kills.")
@click.option(
    "--rules",
    type=PATH,
    metavar="FILE.toml",
    help="Layers of int8 or int16x8 that compute in another precision: [[rule]] scope, op, precision; the later wins.",
)
@click.option(
    "--repair",
    "repairs",
    multiple=True,
    metavar="NAME",
    help="Repair the model before quantizing, several times for several: equalize, adaptive-rounding, ...; none; by "
    "default auto: those that help on the calibration data.",
)
@click.option(
    "--observer",
    metavar="NAME",
    help="How ranges are decided: auto (several ways, measured), room (for values not seen), minmax, moving-average, "
    "percentile, mse, entropy; by default auto for int8, room for int16x8.",
)
@click.option("--percentile", type=float, default=99.999, show_default=True, help="For --observer percentile.")
@click.option(
    "--calibration-memory",
    type=int,
    default=256,
    show_default=True,
    metavar="MIB",
    help="Bound on calibration's memory.",
)
@click.option(
    "--resume/--no-resume",
    default=True,
    show_default=True,
    help="Go on where a calibration of the same model and data was killed.",
)
@click.option(
    "--reference/--no-reference",
    default=True,
    show_default=True,
    help="Store what the data looked like (distributions, no sample) in the artifact, for the monitor on the device.",
)
@click.option(
    "--embedding",
    metavar="NAME",
    help="Layer or tensor inside the model, as for --rules, that the reference describes and the monitor watches as "
    "well; it becomes one more output, which predict does not show.",
)
@click.option(
    "--trust",
    is_flag=False,
    flag_value="",
    metavar="[SHA256]",
    callback=lambda _, __, value: False if value is None else value or True,
    help="Admit code inside Keras, SavedModel and PyTorch files (of this digest only; a pickle demands the digest). "
    "It will run, as you.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of every random draw.")
@click.option(
    "--threads",
    type=click.IntRange(1, 256),
    default=2,
    show_default=True,
    help="Of the engine while observing and verifying.",
)
@click.option("--time-limit", type=float, default=900.0, show_default=True, metavar="SECONDS", help="Of one stage.")
@click.option(
    "--memory-limit", type=int, metavar="MIB", help="Of a child process; default: three quarters of this machine's."
)
@report_option
@output.json_option
def command(
    source: Path, output_path: Path, *, inputs: dict[str, Any], report: Path | None, as_json: bool, **options: Any
) -> None:
    """Convert the model SOURCE (Keras, SavedModel, PyTorch, scikit-learn, ONNX, TFLite) and verify the result."""
    from edgekit.early import Begun

    with Begun(source, output_path) as begun:
        conversion = _converted(source, output_path, begun, inputs, report, options)
    if report is not None:
        from edgekit import report as pages

        pages.write(conversion.to_report(), "convert", report)
    if as_json:
        output.document(conversion.to_dict())
        return
    output.warn(conversion.warnings)
    _show(conversion)


def _converted(
    source: Path, output_path: Path, begun: Begun, inputs: dict[str, Any], report: Path | None, options: dict[str, Any]
) -> Conversion:
    """What takes half a second to import, while the children do the same."""
    from edgekit import files
    from edgekit.options import Options
    from edgekit.pipeline import run

    shapes = {name: sizes for name, (sizes, _) in inputs.items()}
    dtypes = {name: dtype for name, (_, dtype) in inputs.items() if dtype}
    options["repairs"] = options["repairs"] or "auto"
    how = Options(output=output_path, shapes=shapes, dtypes=dtypes, **options)
    files.check_outputs((output_path, report), (source, *how.inputs))
    with output.Progress() as progress:
        return run(source, how, progress, begun=begun)


def _show(conversion: Conversion) -> None:
    document = conversion.to_dict()
    made, source, proof = document["artifact"], document["source"], document["verification"]
    sizes = f"{output.size(made['bytes'])} (source {output.size(source['bytes'])})"
    noise = f"largest error {output.number(proof['max_abs_error'])}"
    if proof["sqnr_db"] is not None:
        noise = f"SQNR {proof['sqnr_db']:.1f} dB, {noise}"
    lines: list[tuple[str, object]] = [
        ("artifact", f"{made['format']} {made['precision']}, {sizes}"),
        ("verified on", f"{proof['samples']} samples ({proof['data']} data)"),
        ("noise", noise),
    ]
    if proof.get("agreement") is not None:
        lines.append(("agreement", f"{100 * proof['agreement']:.1f} % same top-1 as the source"))
    if "metric" in proof:
        metric = proof["metric"]
        both = f"source {metric['source']:.2f}, artifact {metric['artifact']:.2f}, drop {metric['drop']:+.2f}"
        lines.append((metric["name"], both))
    kept = [f"{repair['name']} ({repair['changed']})" for repair in document["repairs"] if repair["kept"]]
    if kept:
        lines.append(("repaired", ", ".join(kept)))
    if "reference" in document:
        about = document["reference"]
        lines.append(("reference", f"{about['samples']} samples, {output.size(about['bytes'])}"))
    lines += _left_behind(document["float_ops"], document["lifted"])
    if "device" in document:
        lines.append((f"fits {document['device']['name']}", _limits(document["device"]["limits"])))
    if "target" in document:
        there = document["target"]
        lines.append(("replayed on", f"{there['target']}, {there['engine']} {there['engine_version']}"))
    slow = [stage for stage in document["stages"] if stage["seconds"] >= 0.05]
    lines.append(("took", ", ".join(f"{stage['name']} {stage['seconds']:.1f} s" for stage in slow)))
    output.facts(f"wrote {made['path']}", lines)


_LISTED = 8
"""Operators that are named here; `--json`, `--report` and `inspect` name all."""


def _left_behind(float_ops: list[str], lifted: list[str]) -> list[tuple[str, object]]:
    """What is not in the precision that was asked for; an operator that was lifted to float is named once."""
    known = {said.removesuffix(": float") for said in lifted}
    others = [op for op in float_ops if op not in known]
    lines = [("float ops", some(others, _LISTED)), ("lifted", some(lifted, _LISTED, "\n"))]
    return [(title, said) for title, said in lines if said]


def _limits(limits: list[dict[str, Any]]) -> str:
    shown = [limit for limit in limits if isinstance(limit.get("required"), (int, float))]
    return "\n".join(
        f"{limit['resource']} {output.number(limit['required'])} of {output.number(limit['available'])} {limit['unit']}"
        for limit in shown
        if isinstance(limit.get("available"), (int, float))
    )
