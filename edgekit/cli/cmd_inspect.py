"""`edgekit inspect`: everything that a model file says of itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgekit.cli import output
from edgekit.cli.options import model_argument, no_verify_option


@click.command(epilog="\b\nExamples:\n  edgekit inspect model.tflite\n  edgekit inspect model.onnx --json")
@model_argument
@no_verify_option
@output.json_option
def command(file: Path, *, no_verify: bool, as_json: bool) -> None:
    """Show inputs, outputs, ops, sizes and the manifest of FILE (.tflite or .onnx), ours or foreign."""
    from edgekit.inspect import inspect

    document = inspect(file, verify=not no_verify).to_dict()
    if as_json:
        output.document(document)
    else:
        _show(file, document)


def _show(file: Path, seen: dict[str, Any]) -> None:
    output.facts(
        str(file),
        [
            ("format", f"{seen['format']} {seen['precision']}, {output.size(seen['bytes'])}"),
            ("parameters", f"{seen['parameters']:,}"),
            ("multiply-adds", f"{seen['macs']:,}" if seen["macs"] is not None else "unknown"),
            ("activations", output.size(seen.get("arena_bytes"))),
            ("inputs", "\n".join(_tensor(spec) for spec in seen["inputs"])),
            ("outputs", "\n".join(_tensor(spec) for spec in seen["outputs"])),
            ("ops", ", ".join(f"{count} {name}" for name, count in seen["ops"].items())),
            ("digest", seen.get("digest")),
        ],
    )
    manifest = seen["manifest"]
    if manifest is None:
        click.echo("  no manifest: edgekit did not write this file")
        return
    proof = manifest.get("proof") or {}
    metric = proof.get("metric")
    output.facts(
        "manifest",
        [
            ("made from", f"{manifest['provenance']['framework']} {manifest['provenance']['sha256'][:12]}"),
            ("with", ", ".join(f"{k} {v}" for k, v in sorted(manifest["provenance"]["tools"].items()))),
            ("needs", f"{manifest['needs']['engine']} (verified with {manifest['needs']['engine_version']})"),
            ("task", manifest["interpret"]["task"]),
            ("labels", ", ".join(manifest["interpret"]["labels"]) or None),
            ("verified on", f"{proof.get('samples')} samples ({proof.get('data')} data)"),
            ("SQNR", f"{proof['sqnr_db']:.1f} dB" if proof.get("sqnr_db") is not None else None),
            (
                metric["name"] if metric else "",
                f"{metric['artifact']:.2f} (source {metric['source']:.2f})" if metric else None,
            ),
            ("float ops", ", ".join(manifest.get("float_ops", [])) or None),
        ],
    )


def _tensor(spec: dict[str, Any]) -> str:
    sizes = ",".join("N" if size is None else str(size) for size in spec["shape"])
    quant = spec.get("quant")
    if not quant:
        scale = ""
    elif quant.get("axis") is not None:
        scale = f"  {len(quant['scale'])} scales on axis {quant['axis']}"
    else:
        scale = f"  scale {quant['scale'][0]:.6g}, zero point {quant['zero_point'][0]}"
    return f"{spec['name']} {spec['dtype']} [{sizes}]{scale}"
