"""What is this? The kind of a source is decided from its content, and a content that contradicts its name is refused.

Every loader is asked whether it recognizes the content, with the standard library only. What no loader reads but has a
name (pickles, PyTorch archives, safetensors ...) is refused by that name. Nothing is ever unpickled to find out.
"""

from __future__ import annotations

import os
import stat
import zipfile
from pathlib import Path

from edgekit import files
from edgekit.converters import loaders, lowerings
from edgekit.converters.stages import Source
from edgekit.errors import ConversionError, MissingFileError, SourceError, UsageError

Shapes = dict[str, tuple[int | None, ...]]


def identify(
    path: str | Path, *, signature: str | None = None, shapes: Shapes | None = None, trusted: bool = False
) -> Source:
    """Find the loader of a file or folder.

    Raises:
        MissingFileError: `file-missing`.
        SourceError: `source-unknown`; `source-unsupported`: known, but not read; `source-mismatch`: the name says
            another kind; `source-special`: a pipe, a device or the like.
    """
    path = Path(path)
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MissingFileError("file-missing", f"there is no {path}") from error
    except OSError as error:
        raise SourceError("source-unreadable", f"{path} cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise SourceError("source-special", f"{path} is neither a file nor a folder")
    if stat.S_ISREG(mode) and not os.access(path, os.R_OK):
        raise SourceError("source-unreadable", f"{path} cannot be read: no permission")
    kind = _kind(path)
    _agree(path, kind)
    return Source(str(path), kind, files.sha256(path), files.size_of(path), signature, shapes or {}, trusted)


def identify_live(model: object, folder: Path) -> Path:
    """Write a live Python object where `identify` can read it.

    Raises:
        UsageError: `source-object`: no loader knows this kind of object.
    """
    if isinstance(model, (bytes, bytearray, memoryview)):
        data = bytes(model)
        path = folder / ("live.tflite" if data[4:8] == b"TFL3" else "live.onnx")
        path.write_bytes(data)
        return path
    for loader in loaders.all():
        if loader.accepts(model):
            return loader.save(model, folder)
    kind = f"{type(model).__module__}.{type(model).__qualname__}"
    raise UsageError(
        "source-object", f"a {kind} cannot be converted; a path, a Keras model, a tf.Module or an ONNX ModelProto can"
    )


def routes() -> dict[str, tuple[str, ...]]:
    """Kind of source -> formats it reaches."""
    found: dict[str, list[str]] = {}
    for lowering in lowerings.all():
        for framework in lowering.FRAMEWORKS:
            found.setdefault(framework, []).append(lowering.FORMAT)
    return {kind: tuple(sorted(formats)) for kind, formats in sorted(found.items())}


def lowering_for(kind: str, format: str) -> str:
    """Name of the lowering from a kind of source to a format.

    Raises:
        ConversionError: `route-missing`, naming the routes that exist.
    """
    for name in lowerings.names():
        lowering = lowerings.get(name)
        if format == lowering.FORMAT and kind in lowering.FRAMEWORKS:
            return name
    exist = "; ".join(f"{source} -> {', '.join(formats)}" for source, formats in routes().items())
    raise ConversionError("route-missing", f"there is no route from {kind} to {format}; there are: {exist}")


def _kind(path: Path) -> str:
    for loader in loaders.all():
        if loader.recognizes(path):
            return loader.NAME
    known = "; ".join(f"{loader.TITLE}" for loader in loaders.all())
    if path.is_dir():
        raise SourceError(
            "source-unknown",
            f"the folder {path} is no SavedModel: it has no saved_model.pb",
            next_step=f"What is read: {known}.",
        )
    if foreign := _foreign(path):
        raise SourceError(
            "source-unsupported", f"{path} is {foreign}, which is not read", next_step=f"What is read: {known}."
        )
    what = "is empty" if path.stat().st_size == 0 else "has a content of no known kind"
    raise SourceError("source-unknown", f"{path} {what}", next_step=f"What is read: {known}.")


def _agree(path: Path, kind: str) -> None:
    """The suffix may be missing or unknown, but not another loader's."""
    suffix = path.suffix.lower()
    if path.is_dir() or suffix in loaders.get(kind).SUFFIXES:
        return
    for loader in loaders.all():
        if suffix in loader.SUFFIXES:
            named = loaders.get(kind)
            raise SourceError(
                "source-mismatch",
                f"{path} has the suffix of {loader.TITLE}, but the content is {named.TITLE}",
                next_step=f"Rename it to *{named.SUFFIXES[0]}, if that is what it is.",
            )


def _foreign(path: Path) -> str | None:
    """A kind that has a name but no loader, by its first bytes or its members."""
    with open(path, "rb") as file:
        head = file.read(64)
    if head[:2] == b"PK":
        return _archive(path)
    if head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05":
        return "a Python pickle (scikit-learn, joblib or PyTorch), which runs code when it is opened"
    if head[:6] == b"\x89HDF\r\n":
        return "an HDF5 file without a Keras model"
    if head[8:10] == b'{"' and 0 < int.from_bytes(head[:8], "little") < 100 << 20:
        return "a safetensors file: weights without a network"
    if head[:4] in (b"ftrt", b"ptrt"):
        return "a TensorRT engine"
    return None


def _archive(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()[:1000]
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return "a broken zip archive"
    if any(name.endswith("data.pkl") for name in names):
        return "a PyTorch archive"
    if any(name.endswith(".npy") for name in names):
        return "a numpy .npz file: data, not a model"
    if any(name.endswith(".mlmodel") for name in names):
        return "a Core ML package"
    return "a zip archive"
