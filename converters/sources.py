"""What is this? The kind of a source is decided from its content, and a content that contradicts its name is refused.

Every loader is asked whether it recognizes the content, with the standard library only. What no loader reads but has a
name (Core ML, GGUF, archives, ...) is refused by that name, with the way to a source that is read. Nothing is unpickled
here, and devices and pipes are not opened.

A loader may offer `digest(path) -> (sha256, bytes)` where a model is more than its file; ONNX' external data is. It may
offer `save_shaped(model, folder, shapes, dtypes)` where a live object does not know what it takes; PyTorch's does not.
It may offer `demands_digest(path)`: whether trust in such a file must name its digest; pickles do.
It sets TAKES_CODE where a source may be weights alone, whose network is code that the user names, and TAKES_SIGNATURE
to False where a source has no signatures.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping
from pathlib import Path

from edgekit import files
from edgekit.converters import _foreign, loaders, lowerings
from edgekit.converters.from_onnx import scan as scan_onnx
from edgekit.converters.stages import Loader, Source
from edgekit.errors import ConversionError, EdgeKitError, MissingFileError, SourceError, UsageError

Shapes = Mapping[str, tuple[int | None, ...]]

_LISTED = 5
"""Files of a folder that a message names."""


def identify(
    path: str | Path,
    *,
    signature: str | None = None,
    shapes: Shapes | None = None,
    trusted: bool = False,
    dtypes: Mapping[str, str] | None = None,
    model: str | None = None,
) -> Source:
    """Find out what a file or folder is.

    Args:
        path: Of the model.
        signature: Which signature is meant, for kinds that have several.
        shapes: Input name -> sizes that replace free sizes.
        trusted: The user vouches for code inside the source.
        dtypes: Input name -> element type, for sources that do not say it.
        model: "module:factory" of the network that weights belong to.

    Raises:
        MissingFileError: `file-missing`.
        SourceError: `file-unreadable`; `source-special`: a pipe, a device; `source-empty`; `source-unsupported`: it is
            known, but not read; `source-unknown`; `source-ambiguous`; `source-mismatch`: the name says another kind;
            `source-unreadable`: cut off; `source-weights-missing`: a file of external data is not there.
        UnsafeSourceError: `source-unsafe-path`: external data lies outside the folder, or behind a link.
        UsageError: `torch-code-unused`: `model` is given for a kind that holds its own network.
    """
    path = Path(path)
    try:
        _check_readable(path)
        loader = _loader(path)
        _check_name(path, loader)
        measure = getattr(loader, "digest", None)
        sha256, size = measure(path) if measure else (files.sha256(path), files.size_of(path))
    except EdgeKitError:
        raise
    except FileNotFoundError as error:
        raise MissingFileError("file-missing", f"there is no {path}") from error
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        reason = getattr(error, "strerror", None) or error
        raise SourceError("file-unreadable", f"{path} cannot be read: {reason}") from error
    if model is not None and not getattr(loader, "TAKES_CODE", False):
        raise UsageError(
            "torch-code-unused", f"{path.name} is {_noun(loader.NAME)}, so that --model {model} has no use"
        )
    return Source(
        str(path), loader.NAME, sha256, size, signature, dict(shapes or {}), trusted, dict(dtypes or {}), model
    )


def identify_live(
    model: object, folder: Path, shapes: Shapes | None = None, dtypes: Mapping[str, str] | None = None
) -> Path:
    """Write a live Python object where `identify` can read it.

    Args:
        model: What any loader accepts; or a path.
        folder: Where it is written to.
        shapes: Input name -> sizes, for objects that do not know them.
        dtypes: Input name -> element type, likewise.

    Raises:
        UsageError: `source-object`: no loader takes such an object.
        SourceError: What its loader finds wrong with it.
    """
    if isinstance(model, str) or hasattr(model, "__fspath__"):
        return Path(model)
    for loader in loaders.all():
        if loader.accepts(model):
            shaped = getattr(loader, "save_shaped", None)
            return Path(shaped(model, folder, shapes or {}, dtypes or {}) if shaped else loader.save(model, folder))
    kind = f"{type(model).__module__}.{type(model).__qualname__}"
    foreign = _foreign.by_class(model)
    if foreign is not None:
        raise UsageError("source-object", f"{foreign.what} ({kind}) cannot be converted yet", next_step=foreign.route)
    raise UsageError(
        "source-object",
        f"a {kind} cannot be converted",
        next_step="Give a path, a Keras model, a tf.Module, an nn.Module, a fitted estimator, an ONNX ModelProto, or "
        "the bytes of an .onnx or .tflite.",
    )


def routes() -> dict[str, tuple[str, ...]]:
    """Kind of source -> formats that it can become."""
    found: dict[str, set[str]] = {}
    for lowering in lowerings.all():
        for kind in lowering.FRAMEWORKS:
            found.setdefault(kind, set()).add(lowering.FORMAT)
    return {kind: tuple(sorted(formats)) for kind, formats in sorted(found.items())}


def check_signature(kind: str, signature: str | None) -> None:
    """Raises:
    UsageError: `signature-unknown`: one is given for a kind of source that has none.
    """
    if signature is not None and not getattr(loaders.get(kind), "TAKES_SIGNATURE", True):
        raise UsageError(
            "signature-unknown",
            f"the source is {_noun(kind)}, which has no signatures, so that --signature {signature} has no use",
            next_step="Leave --signature away.",
        )


def lowering_for(kind: str, format: str) -> str:
    """Name of the lowering from a kind of source to a format; a built-in one before a stranger's.

    Raises:
        ConversionError: `route-missing`, with the routes that exist.
    """
    for name in lowerings.names():
        lowering = lowerings.get(name)
        if format == lowering.FORMAT and kind in lowering.FRAMEWORKS:
            return name
    known = routes()
    if kind in known:
        what = f"from {_noun(kind)} there is a route to {' and '.join(known[kind])} only"
    else:
        what = "there are " + "; ".join(f"{source} -> {', '.join(formats)}" for source, formats in known.items())
    raise ConversionError(
        "route-missing", f"no route leads from {_noun(kind)} to {format}: {what}", routes=known, source=kind
    )


def _check_readable(path: Path) -> None:
    about = path.stat()
    if not stat.S_ISREG(about.st_mode) and not stat.S_ISDIR(about.st_mode):
        raise SourceError("source-special", f"{path} is neither a file nor a folder")
    if stat.S_ISDIR(about.st_mode):
        if not any(path.iterdir()):
            raise SourceError("source-empty", f"the folder {path} is empty")
    elif about.st_size == 0:
        raise SourceError("source-empty", f"{path} is empty")
    else:
        with open(path, "rb"):
            pass


def _loader(path: Path) -> Loader:
    found = [loader for loader in loaders.all() if loader.recognizes(path)]
    if len(found) > 1:
        named = [loader for loader in found if path.suffix.lower() in loader.SUFFIXES]
        found = named or found
    if len(found) > 1:
        raise SourceError("source-ambiguous", f"{path} could be {' or '.join(_noun(loader.NAME) for loader in found)}")
    if not found:
        raise _unknown(path)
    return found[0]


def _check_name(path: Path, loader: Loader) -> None:
    """A suffix may be missing or say nothing, but not promise another kind."""
    suffix = path.suffix.lower()
    if suffix in loader.SUFFIXES:
        return
    promised = [_noun(other.NAME) for other in loaders.all() if suffix in other.SUFFIXES]
    foreign = _foreign.by_suffix(path)
    if promised or foreign:
        thing = "folder" if path.is_dir() else "file"
        rename = f"as *{loader.SUFFIXES[0]}" if loader.SUFFIXES and thing == "file" else f"without the {suffix}"
        meant = promised[0] if promised or foreign is None else foreign.what
        raise SourceError(
            "source-mismatch",
            f"{path.name} is {_noun(loader.NAME)}, but its name promises {meant}: rename the {thing} {rename}",
            found=loader.NAME,
        )


def _unknown(path: Path) -> SourceError:
    """Why nothing reads it."""
    readable = "; ".join(loader.TITLE for loader in loaders.all())
    if path.is_dir():
        return _unknown_folder(path, readable)
    missing = scan_onnx.missing_bytes(path)
    if missing:
        return SourceError(
            "source-unreadable", f"{path.name} is an ONNX model that was cut off: at least {missing} bytes are missing"
        )
    claims = [loader for loader in loaders.all() if path.suffix.lower() in loader.SUFFIXES]
    if _foreign.torn(path):
        what = _noun(claims[0].NAME) if claims else "an archive"
        return SourceError(
            "source-unreadable",
            f"{path.name} is {what} that was cut off: the list of its files, at the end, is missing",
        )
    foreign = _foreign.by_content(path)
    if foreign is None and not claims:
        foreign = _foreign.by_suffix(path)
    if foreign is not None:
        return SourceError(
            "source-unsupported",
            f"{path.name} is {foreign.what}, which EdgeKit does not read",
            next_step=f"{foreign.route}. What is read: {readable}.",
        )
    what = f"is not {_noun(claims[0].NAME)}, whatever its name says" if claims else "has a content of no known kind"
    return SourceError("source-unknown", f"{path.name} {what}", next_step=f"What is read: {readable}.")


def _unknown_folder(path: Path, readable: str) -> SourceError:
    suffixes = {suffix for loader in loaders.all() for suffix in loader.SUFFIXES}
    inside = sorted(item.name for item in path.iterdir() if item.suffix.lower() in suffixes)[:_LISTED]
    if path.suffix == ".mlpackage":
        return SourceError(
            "source-unsupported",
            f"{path.name} is a Core ML package, which EdgeKit does not read",
            next_step=f"{_foreign.CORE_ML.route}. What is read: {readable}.",
        )
    return SourceError(
        "source-unknown",
        f"the folder {path} holds no saved_model.pb, so it is no SavedModel",
        next_step=f"Name a file inside: {', '.join(inside)}." if inside else f"What is read: {readable}.",
    )


_NOUNS: dict[str, str] = {
    "keras": "a Keras model", "onnx": "an ONNX model", "saved_model": "a SavedModel", "tflite": "a TFLite model",
    "torch": "a PyTorch file", "sklearn": "a file of an estimator",
}  # fmt: skip


def _noun(kind: str) -> str:
    return _NOUNS.get(kind, f"a {kind} model")
