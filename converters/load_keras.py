"""Keras models: `.keras` archives and legacy HDF5 files, of Keras 3 and Keras 2.

A file is read by the Keras generation that wrote it, as the file itself says: Keras 3 by keras, Keras 2 by tf-keras,
which is Keras 2 still maintained. Keras 3 reads many Keras 2 files but not all (it refuses the `groups` argument that
Keras 2 wrote for DepthwiseConv2D), and trying one after the other would let a file choose its loader by failing.
Both get the same file judged by the same rules beforehand (`_scan_keras`), with safe mode on unless it is trusted.

A live model is handed over as a SavedModel, because its custom layers and Lambdas are Python objects that no other
process has; the trace has them.
"""

from __future__ import annotations

import contextlib
import io
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgekit import files
from edgekit.converters import _scan_keras as scan
from edgekit.converters._tf_model import LoadedTf, TfModel, holder, reshape, spec_of, trace, unique
from edgekit.converters.stages import LoadedFacts, LoadedModel, Source
from edgekit.errors import ConversionError, SourceError

NAME = "keras"
TITLE = "Keras: .keras archives and .h5 files, of Keras 3 and Keras 2"
EXTRA = "tensorflow"
SUFFIXES = (".keras", ".h5", ".hdf5")
PRELOAD = ("tensorflow",)

_CUSTOM = re.compile(r"(?:Unknown \w+:|Could not locate \w+) '?(?P<name>[\w>.]+)'?")
"""How Keras 2 and 3 say that a class is unknown."""


def recognizes(path: Path) -> bool:
    """Whether the file is a zip archive with a Keras configuration, or HDF5."""
    try:
        with open(path, "rb") as file:
            magic = file.read(8)
        if magic == scan.HDF5_MAGIC:
            return True
        if magic[:4] != scan.ZIP_MAGIC:
            return False
        with zipfile.ZipFile(path) as archive:
            return scan.CONFIG in archive.namelist()
    except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError, EOFError):
        return False


def load(source: Source) -> LoadedModel:
    """Read a Keras file, or the folder that `save` wrote for a live model.

    Raises:
        UnsafeSourceError: `source-unsafe-code`, `source-unsafe-archive`; nothing of the file has run.
        SourceError: `source-unreadable`, `source-weights-only`, `source-custom-class`, `source-framework-missing`.
        UsageError: `input-unknown`, `shape-conflict`: `source.shapes` does not fit.
    """
    path = Path(source.path)
    if path.is_dir():
        from edgekit.converters import load_saved_model

        return load_saved_model.load_folder(source, framework=NAME)
    found = scan.scan(path, trusted=source.trusted)
    model, tools = _read(path, found, trusted=source.trusted)
    traced = _trace(model, source)
    notes = [f"code of the file ran because it is trusted: {finding.what}" for finding in found.findings]
    facts = LoadedFacts(NAME, traced.inputs, traced.outputs, notes=tuple(notes), tools=tools)
    return LoadedTf(facts, traced)


def accepts(model: object) -> bool:
    """Whether a live object is a Keras model, judged by the names of its classes."""
    return any(
        kind.__name__ == "Model" and kind.__module__.partition(".")[0] in scan.ROOTS for kind in type(model).__mro__
    )


def save(model: Any, folder: Path) -> Path:
    """Write a live Keras model for `load`.

    Its trace is saved, with the names of its input and output layers, so that custom layers and Lambdas need not be
    known to whoever reads it. A model on another backend than TensorFlow cannot be traced and is saved as `.keras`.

    Raises:
        SourceError: `live-shapes-missing`: the model was never built, so that its input shapes are unknown;
            `live-unsavable`.
    """
    import tensorflow as tf

    if not getattr(model, "inputs", None):
        raise SourceError(
            "live-shapes-missing", f"the model {model.name!r} was never called, so that its input shapes are unknown"
        )
    if _backend(model) != "tensorflow":
        path = folder / "model.keras"
        model.save(path)
        return path
    path = folder / "model"
    try:
        traced = _signature(model, (), autograph=True)
        with contextlib.redirect_stdout(io.StringIO()):
            tf.saved_model.save(
                holder(traced.function, traced.keep), str(path), signatures={"serving_default": traced.function}
            )
    except (ValueError, TypeError, AssertionError, tf.errors.OpError) as error:
        if isinstance(error, SourceError):
            raise
        raise SourceError(
            "live-unsavable", f"the model {model.name!r} cannot be traced into a graph: {first_line(error)}"
        ) from error
    return path


def _read(path: Path, found: scan.KerasFile, *, trusted: bool) -> tuple[Any, dict[str, str]]:
    keras, name = _keras(found.generation)
    tools = {name: keras.__version__, "tensorflow": _tensorflow_version()}
    with _suffixed(path, ".keras" if found.container == "zip" else ".h5") as named:
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                model = keras.models.load_model(named, compile=False, safe_mode=not trusted)
        except Exception as error:  # noqa: BLE001 - on a damaged file Keras raises anything from KeyError to TypeError
            raise _unreadable(path, f"{name} {keras.__version__}", error) from error
    if not getattr(model, "inputs", None):
        raise SourceError("source-shapes-missing", f"{path.name} was saved before its input shapes were known")
    return model, tools


def _unreadable(path: Path, reader: str, error: Exception) -> SourceError:
    custom = _CUSTOM.search(str(error))
    if custom:
        return SourceError(
            "source-custom-class",
            f"{path.name} needs {custom['name']!r}, which is neither in the file nor part of {reader}",
        )
    return SourceError("source-unreadable", f"{reader} cannot load {path.name}: {first_line(error)}")


def _keras(generation: int) -> tuple[Any, str]:
    """The Keras of a generation, and its distribution's name."""
    try:
        if generation == 2:
            import tf_keras

            return tf_keras, "tf-keras"
        import keras
    except ImportError as error:
        name = "tf-keras" if generation == 2 else "keras"
        raise SourceError(
            "source-framework-missing",
            f"a Keras {generation} file needs {name}, which is not installed: {error}",
            next_step="pip install 'edgekit-sdk[tensorflow]'",
        ) from error
    if keras.backend.backend() != "tensorflow":
        raise ConversionError(
            "keras-backend", f"Keras runs on {keras.backend.backend()} here; the conversion needs TensorFlow"
        )
    return keras, "keras"


@contextlib.contextmanager
def _suffixed(path: Path, suffix: str) -> Iterator[Path]:
    """The file under a name that Keras takes: it tells its formats by suffix, we by content."""
    if path.suffix == suffix or (suffix == ".h5" and path.suffix == ".hdf5"):
        yield path
        return
    with files.scratch() as folder:
        link = folder / f"model{suffix}"
        link.symlink_to(path.resolve())
        yield link


def _trace(model: Any, source: Source) -> TfModel:
    try:
        traced = _signature(model, source.shapes)
    except (ValueError, TypeError) as error:
        if isinstance(error, SourceError) or not source.shapes:
            raise
        raise SourceError(
            "source-shapes", f"the model cannot be computed with the given shapes: {first_line(error)}"
        ) from error
    return traced


def _signature(model: Any, shapes: Any, *, autograph: bool = False) -> TfModel:
    """Trace a Keras model of either generation under the names of its layers."""
    legacy = _generation(model) == 2
    tensors = list(model.inputs)
    names = unique([str(name) for name in (model.input_names if legacy else [tensor.name for tensor in tensors])])
    inputs = reshape(tuple(spec_of(n, t) for n, t in zip(names, tensors, strict=True)), dict(shapes))
    flatten, pack = _nest(model)
    structure = _input_structure(model)

    def answer(feeds: dict[str, Any]) -> dict[str, Any]:
        answers = model(pack(structure, [feeds[name] for name in names]), training=False)
        if isinstance(answers, dict) and all(hasattr(value, "dtype") for value in answers.values()):
            return {str(name): value for name, value in answers.items()}
        flat = flatten(answers)
        return dict(zip(_output_names(model, len(flat)), flat, strict=True))

    return trace(answer, inputs, keep=(model,), autograph=autograph)


def _output_names(model: Any, count: int) -> list[str]:
    """Names of the output layers, in the order of the flattened answer."""
    names = getattr(model, "output_names", None)
    if not names or len(names) != count:
        # Keras 3's Sequential has none, a subclassed model neither.
        layers = getattr(model, "layers", [])
        sequential = any(kind.__name__ == "Sequential" for kind in type(model).__mro__)
        names = [layers[-1].name] if sequential and layers and count == 1 else ["output"] * count
    return unique([str(name) for name in names])


def _input_structure(model: Any) -> Any:
    """How the model takes its inputs: one tensor, a list, a tuple or a dict of them, nested."""
    if any(kind.__name__ == "Functional" for kind in type(model).__mro__) and not isinstance(model.input, type(None)):
        return model.input
    return model.inputs[0] if len(model.inputs) == 1 else list(model.inputs)


def _nest(model: Any) -> tuple[Any, Any]:
    """(flatten, pack_sequence_as) of the model's generation; they order dicts differently."""
    if _generation(model) == 2:
        import tensorflow as tf

        return tf.nest.flatten, tf.nest.pack_sequence_as
    import keras

    return keras.tree.flatten, keras.tree.pack_sequence_as


def _generation(model: Any) -> int:
    return 2 if any(kind.__module__.partition(".")[0] == "tf_keras" for kind in type(model).__mro__) else 3


def _backend(model: Any) -> str:
    if _generation(model) == 2:
        return "tensorflow"
    import keras

    return str(keras.backend.backend())


def _tensorflow_version() -> str:
    import tensorflow as tf

    return str(tf.__version__)


def first_line(error: BaseException) -> str:
    """The first line of a framework's message, which may go on for pages."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]
