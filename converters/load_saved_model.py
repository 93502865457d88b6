"""TensorFlow SavedModels: one signature becomes the model.

The graph is judged before TensorFlow loads it (`from_tensorflow.scan_saved_model`). Which signature is meant
is decided by the user, by there being one, or by the name that TensorFlow Serving gave the usual one; else the choice
is refused, with a list.
"""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

from edgekit.converters.from_tensorflow import scan_saved_model as scan
from edgekit.converters.from_tensorflow.model import NAMES, holder, loaded, reshape, spec_of, trace
from edgekit.converters.from_tensorflow.scan_keras import refuse
from edgekit.converters.load_keras import reason, traceable
from edgekit.converters.stages import LoadedFacts, LoadedModel, Source
from edgekit.errors import SourceError

NAME = "saved_model"
TITLE = "TensorFlow SavedModel: a folder with saved_model.pb"
EXTRA = "tensorflow"
SUFFIXES: tuple[str, ...] = (".pb",)
PRELOAD = ("tensorflow",)

_TRACKABLE = frozenset({"Module", "AutoTrackable", "_UserObject"})
_FUNCTIONS = frozenset({"ConcreteFunction", "WrappedFunction", "Function"})


def recognizes(path: Path) -> bool:
    """Whether it is a SavedModel's folder, or the `saved_model.pb` in it."""
    folder = _folder(path)
    return folder is not None and (folder / scan.GRAPH).is_file()


def load(source: Source) -> LoadedModel:
    """Read one signature of a SavedModel.

    Raises:
        UnsafeSourceError: `source-unsafe-code`, `source-unsafe-archive`; nothing of the model has run.
        SourceError: `source-unreadable`, `source-no-serving-graph`, `signature-missing`.
        UsageError: `signature-unknown`, `signature-ambiguous`, `input-unknown`, `shape-conflict`.
    """
    return load_folder(source, framework=NAME)


def load_folder(source: Source, *, framework: str) -> LoadedModel:
    """`load` on behalf of a loader whose live models are handed over as SavedModels."""
    import tensorflow as tf

    folder = _folder(Path(source.path)) or Path(source.path)
    scan.check_folder(folder)
    proto = scan.parse(folder)
    findings = tuple(dict.fromkeys(scan.judge(proto)))
    refuse(folder, findings, trusted=source.trusted)
    meta = scan.choose_graph(proto, folder)
    name = scan.choose_signature(meta, source.signature, folder)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            root = tf.saved_model.load(str(folder), tags=list(meta.meta_info_def.tags))
            signature = root.signatures[name]
    except Exception as error:  # on a damaged folder TensorFlow raises anything from KeyError to its own errors
        raise SourceError("source-unreadable", f"TensorFlow cannot load {folder.name}: {reason(error)}") from error
    specs = signature.structured_input_signature[1]
    if not specs:
        raise SourceError("signature-missing", f"the signature {name!r} of {folder.name} has no inputs")
    inputs, outputs = _names(folder, sorted(specs), sorted(signature.structured_outputs))
    declared = tuple(spec_of(public, specs[key]) for key, public in inputs.items())

    def answer(feeds: dict[str, Any]) -> dict[str, Any]:
        answers = signature(**{key: feeds[public] for key, public in inputs.items()})
        return {public: answers[key] for key, public in outputs.items()}

    traced = traceable(folder.name, lambda: trace(answer, reshape(declared, source.shapes), keep=(root,)))
    others = [other for other in scan.signatures(meta) if other != name]
    notes = [f"code of the model ran because it is trusted: {finding.what}" for finding in findings]
    notes += _notes(folder)
    if others and source.signature is None:
        notes.append(f"the signature {name!r} was taken; there are also {', '.join(others)}")
    tools = {"tensorflow": str(tf.__version__)}
    return loaded(LoadedFacts(framework, traced.inputs, traced.outputs, notes=tuple(notes), tools=tools), traced)


def accepts(model: object) -> bool:
    """Whether a live object is a tf.Module, a loaded SavedModel or a tf.function, by the names of its classes."""
    kinds = [(kind.__module__.partition(".")[0], kind.__name__) for kind in type(model).__mro__]
    if any(root in ("keras", "tf_keras") for root, _ in kinds):
        return False
    return any(root == "tensorflow" and name in _TRACKABLE | _FUNCTIONS for root, name in kinds)


def save(model: Any, folder: Path) -> Path:
    """Write a live TensorFlow object for `load`, with its own signatures.

    A loaded SavedModel keeps its signatures; a function needs an input signature; a tf.Module needs a function
    `__call__` (or a single function) with one.

    Raises:
        SourceError: `live-signature-missing`, `live-unsavable`.
    """
    import tensorflow as tf

    path = folder / "model"
    try:
        root, signatures = _live(model)
        with contextlib.redirect_stdout(io.StringIO()):
            tf.saved_model.save(root, str(path), signatures=signatures)
    except (ValueError, TypeError, AssertionError, tf.errors.OpError) as error:
        if isinstance(error, SourceError):
            raise
        raise SourceError("live-unsavable", f"the object cannot be traced into a graph: {reason(error)}") from error
    return path


def _names(folder: Path, inputs: list[str], outputs: list[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Signature name -> public name: the signature's own, sorted, or as `write_names` said them for a live model."""
    plain = {name: name for name in inputs}, {name: name for name in outputs}
    said = _said(folder)
    try:
        named = dict(said["inputs"]), dict(said["outputs"])
    except (ValueError, KeyError, TypeError):
        return plain
    fits = all(
        sorted(table) == sorted(names) and len(set(table.values())) == len(table)
        for table, names in zip(named, (inputs, outputs), strict=True)
    )
    return named if fits else plain


def _notes(folder: Path) -> list[str]:
    """What `write_names` said of a live model."""
    notes = _said(folder).get("notes")
    return [str(note) for note in notes] if isinstance(notes, list) else []


def _said(folder: Path) -> dict[str, Any]:
    try:
        said = json.loads((folder / NAMES).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}


def _live(model: Any) -> tuple[Any, Any]:
    """(object that owns the variables, signatures) of a live object."""
    kinds = {kind.__name__ for kind in type(model).__mro__}
    if kinds & _FUNCTIONS:
        function = model if hasattr(model, "structured_input_signature") else _concrete(model)
        return holder(function), {scan.DEFAULT_SIGNATURE: function}
    signatures = getattr(model, "signatures", None)
    if signatures:
        return model, dict(signatures)
    call = getattr(model, "__call__", None)  # noqa: B004 - a tf.function is wanted, not any callable
    if hasattr(call, "get_concrete_function"):
        return model, {scan.DEFAULT_SIGNATURE: _concrete(call)}
    found = [f for f in (getattr(model, n, None) for n in vars(type(model))) if hasattr(f, "get_concrete_function")]
    if len(found) != 1:
        raise SourceError(
            "live-signature-missing",
            f"the {type(model).__name__} has {len(found)} tf.functions and no __call__ among them: which one is meant?",
        )
    return model, {scan.DEFAULT_SIGNATURE: _concrete(found[0])}


def _concrete(function: Any) -> Any:
    try:
        return function.get_concrete_function()
    except (ValueError, TypeError) as error:
        raise SourceError(
            "live-signature-missing",
            f"the tf.function has no input signature, so that its inputs are unknown: {reason(error)}",
        ) from error


def _folder(path: Path) -> Path | None:
    if path.is_dir():
        return path
    return path.parent if path.name == scan.GRAPH else None
