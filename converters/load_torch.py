"""PyTorch: weights with the code of their network, exported programs, TorchScript, and live networks.

Whatever comes in becomes a `Network`, is recorded by torch.export and written as ONNX; from there it goes the way of
any ONNX file. The answers stay PyTorch's own, of the network as it was given, so that verification covers the export.

A weights file holds numbers only. Its network is the user's own code, named by `--model`, which is imported here, in
the child process. Exported programs and TorchScript hold code themselves and are opened only when they are trusted.

A live network is recorded where it lives, because its class may exist nowhere else, and handed over as a program.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

from edgekit import files
from edgekit.converters.from_torch import code, export, weights
from edgekit.converters.from_torch import files as scan
from edgekit.converters.from_torch import network as networks
from edgekit.converters.from_torch.network import Network, Shapes
from edgekit.converters.loaded import Loaded
from edgekit.converters.stages import Feeds, LoadedModel, Source
from edgekit.converters.verification.answering import Answering
from edgekit.errors import ConversionError, FeedError, SourceError, UnsafeSourceError, UsageError
from edgekit.tensors import TensorSpec

NAME = "torch"
TITLE = "PyTorch: weights (.pt, .pth, .th, .ckpt, .safetensors) with --model, .pt2, TorchScript"
EXTRA = "torch"
SUFFIXES = (".pt", ".pth", ".th", ".ckpt", ".pt2", ".safetensors")
PRELOAD = ("torch", "torch.onnx", "onnxscript", "onnxruntime")
TAKES_SIGNATURE = False
TAKES_CODE = True
"""`--model MODULE:FACTORY` says which network the weights belong to."""

_ABOUT = "edgekit.json"
"""In a program that `save` wrote: the names and notes, which no program keeps."""
_NONE: Mapping[str, Any] = {}
_OLDEST = (2, 10)


def recognizes(path: Path) -> bool:
    """Whether it is an archive of PyTorch's, its older format, or safetensors."""
    return path.is_file() and scan.content(path) is not None


def load(source: Source) -> LoadedModel:
    """Read a PyTorch file and write its network as ONNX.

    Raises:
        UnsafeSourceError: `source-unsafe-code`: it holds code and is not trusted; nothing of it has run.
        UsageError: `torch-code-missing`, `torch-code-unused`: `--model` is needed, or has no use; `torch-factory`;
            `torch-input-shapes`, `input-unknown`, `shape-conflict`, `dtype-conflict`.
        SourceError: `source-too-large`, `source-unreadable`, `source-untraceable`, `source-stateful`,
            `source-training-mode`, `source-dtype`, `source-framework-missing`, `torch-no-weights`,
            `torch-weights-differ`, `torch-inputs`, `torch-outputs`.
        ConversionError: `op-unsupported-conversion`, `torch-conversion-failed`, `torch-export-differs`.
    """
    _require_torch()
    path = Path(source.path)
    kind = scan.content(path)
    if kind is None:
        raise SourceError("source-unreadable", f"{path.name} is no file of PyTorch's")
    if kind == "weights":
        program, net = _weights(source)
    else:
        _require_trust(path, kind, source)
        program, net = _script(source) if kind == "script" else _program(source)
    return _finished(program, net, path)


def accepts(model: object) -> bool:
    """Whether a live object is an nn.Module or an ExportedProgram, by the names of its classes."""
    kinds = {(kind.__module__.partition(".")[0], kind.__name__) for kind in type(model).__mro__}
    return bool(kinds & {("torch", "Module"), ("torch", "ExportedProgram")})


def save(model: Any, folder: Path) -> Path:
    """`save_shaped` of what knows its shapes."""
    return save_shaped(model, folder, _NONE, _NONE)


def save_shaped(model: Any, folder: Path, shapes: Shapes, dtypes: Mapping[str, str]) -> Path:
    """Write a live object for `load`.

    Args:
        model: An ExportedProgram or ScriptModule, which is written as it is; or an nn.Module, which is recorded and
            left as it was.
        folder: Where it is written to.
        shapes: Input name, a parameter of `forward` -> sizes, None for a free one.
        dtypes: Input name -> element type, where it is not float32.

    Raises:
        UsageError, SourceError, ConversionError: See `load`.
    """
    _require_torch()
    import torch

    path = folder / "model.pt2"
    if isinstance(model, torch.export.ExportedProgram):
        with export.quiet():
            torch.export.save(model, path)
        return path
    if isinstance(model, torch.jit.ScriptModule):
        with export.quiet():
            torch.jit.save(model, path.with_suffix(".pt"))
        return path.with_suffix(".pt")
    notes = ("the network was in training mode; it is converted in evaluation mode",) if model.training else ()
    module, said = networks.prepared(model)
    with networks.evaluating(module):
        program, net = export.record(networks.network(module, shapes, dtypes, (*notes, *said)))
    about = {"inputs": [asdict(spec) for spec in net.inputs], "outputs": net.outputs, "notes": net.notes}
    with export.quiet():
        torch.export.save(program, path, extra_files={_ABOUT: json.dumps(about)})
    return path


def _weights(source: Source) -> tuple[Any, Network]:
    path = Path(source.path)
    tensors = weights.read(path)
    if source.model is None:
        raise UsageError(
            "torch-code-missing",
            f"{path.name} holds {len(tensors)} weights, not the network that they belong to",
            next_step="Name a class or function that makes it: --model package.module:Network.",
        )
    module, notes = networks.prepared(code.network(source.model))
    weights.fit(tensors, module, path.name)
    notes = tuple(dict.fromkeys((*notes, *networks.widened(tensors.values()))))
    return export.record(networks.network(module.eval(), source.shapes, source.dtypes, notes))


def _script(source: Source) -> tuple[Any, Network]:
    import torch

    path = Path(source.path)
    try:
        with export.quiet():  # it is deprecated, and still what many files are
            loaded = torch.jit.load(str(path), map_location="cpu")
    except (RuntimeError, ValueError, OSError) as error:
        raise SourceError("source-unreadable", f"PyTorch cannot load {path.name}: {networks.reason(error)}") from error
    module, notes = networks.prepared(loaded)
    return export.record(networks.network(module.eval(), source.shapes, source.dtypes, notes))


def _program(source: Source) -> tuple[Any, Network]:
    import torch

    path = Path(source.path)
    extra = {_ABOUT: ""}
    try:
        with export.quiet():
            program = torch.export.load(path, extra_files=extra)
    except Exception as error:  # on a damaged archive PyTorch raises anything from KeyError to RuntimeError
        raise SourceError("source-unreadable", f"PyTorch cannot load {path.name}: {networks.reason(error)}") from error
    if not extra[_ABOUT]:
        return export.record(networks.program_network(program, source.shapes, source.dtypes))
    about = json.loads(extra[_ABOUT])
    inputs = tuple(TensorSpec(spec["name"], tuple(spec["shape"]), spec["dtype"]) for spec in about["inputs"])
    return program, Network(export.callable_of(program), inputs, tuple(about["outputs"]), (), tuple(about["notes"]))


def _require_torch() -> None:
    try:
        import onnxscript  # noqa: F401
        import torch
    except ImportError as error:
        raise SourceError(
            "source-framework-missing",
            f"PyTorch files need torch and onnxscript: {error}",
            next_step="pip install 'edgekit-sdk[torch]'",
        ) from error
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < _OLDEST:
        raise SourceError(
            "source-framework-missing",
            f"PyTorch {torch.__version__} is too old; its exporter is used from {'.'.join(map(str, _OLDEST))} on",
            next_step="pip install --upgrade 'edgekit-sdk[torch]'",
        )


def _require_trust(path: Path, kind: str, source: Source) -> None:
    if source.model is not None:
        raise UsageError(
            "torch-code-unused", f"{path.name} holds its own network, so that --model {source.model} has no use"
        )
    if not source.trusted:
        what = "an exported program" if kind == "program" else "TorchScript"
        raise UnsafeSourceError(
            "source-unsafe-code",
            f"{path.name} is {what}: a program that runs when it is opened",
            cause="Such archives hold code and serialized objects beside the weights. Nothing of it has run.",
            next_step="If you made the file yourself or trust who did, add --trust (or --trust SHA256). Better: "
            "convert the weights alone, with --model MODULE:FACTORY for the network.",
        )


def _finished(program: Any, net: Network, path: Path) -> Loaded:
    """Write the program as ONNX, read it as any ONNX file is read, and let PyTorch answer."""
    import onnxscript
    import torch

    from edgekit.converters import load_onnx

    model, modules = export.to_onnx(program, tuple(spec.name for spec in net.inputs), net.outputs)
    with files.scratch() as folder:
        written = load_onnx.save(model, folder).rename(folder / f"{path.stem or 'model'}.onnx")
        try:
            loaded = cast("Loaded", load_onnx.load(Source(str(written), load_onnx.NAME, "", written.stat().st_size)))
        except SourceError as error:
            if error.code != "source-unreadable":
                raise
            raise ConversionError(
                "torch-conversion-failed",
                f"what torch.onnx wrote of the network is no valid graph: {error.cause or error.message}",
                next_step="torch.export recorded the network, so that the fault is in how one of its operations is "
                "written as ONNX: the message names it. Replace it by simpler ones.",
            ) from error
    versions = {"torch": str(torch.__version__), "onnxscript": str(onnxscript.__version__)}
    facts = replace(
        loaded.facts,
        framework=NAME,
        notes=(*net.notes, *_fixed_after_all(net.inputs, loaded.facts.inputs), *loaded.facts.notes),
        tools={**versions, **loaded.facts.tools},
        modules=modules,
    )
    return Loaded(facts, loaded.handle, Answering(facts.inputs, _caller(net)), loaded.precision)


def _fixed_after_all(asked: tuple[TensorSpec, ...], found: tuple[TensorSpec, ...]) -> list[str]:
    """Free sizes of the recording that torch.onnx wrote as numbers, for the user."""
    made = {spec.name: spec.shape for spec in found}
    return [
        f"axis {axis} of {spec.name} is fixed to {size}: torch.onnx writes this network for one size only; another one "
        "is given by --input"
        for spec in asked
        for axis, (wanted, size) in enumerate(zip(spec.shape, made.get(spec.name, ()), strict=False))
        if wanted is None and size is not None
    ]


def _caller(net: Network) -> Any:
    import torch

    def call(feeds: Feeds) -> Feeds:
        try:
            with torch.no_grad():
                answers = net.flat(*(torch.tensor(feeds[spec.name]) for spec in net.inputs))
        except Exception as error:  # the network is the user's own code
            raise FeedError("source-run", f"the source cannot answer these inputs: {networks.reason(error)}") from error
        return {name: answer.detach().numpy() for name, answer in zip(net.outputs, answers, strict=True)}

    return call
