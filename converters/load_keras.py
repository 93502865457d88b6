"""Keras models: `.keras` archives and legacy HDF5 files, of Keras 3 and Keras 2.

A file is read by the Keras generation that wrote it, as the file itself says: Keras 3 by keras, Keras 2 by tf-keras,
which is Keras 2 still maintained. Keras 3 reads many Keras 2 files but not all (it refuses the `groups` argument that
Keras 2 wrote for DepthwiseConv2D), and trying one after the other would let a file choose its loader by failing.
Both get the same file judged by the same rules beforehand (`from_tensorflow.scan_keras`), with safe mode on unless it
is trusted.

A live model is handed over as a SavedModel, because its custom layers and Lambdas are Python objects that no other
process has; the trace has them.
"""

from __future__ import annotations

import contextlib
import io
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from edgekit import files
from edgekit.converters.from_tensorflow import scan_keras as scan
from edgekit.converters.from_tensorflow.model import TfModel, loaded, reshape, spec_of, trace, unique
from edgekit.converters.stages import LoadedFacts, LoadedModel, Source
from edgekit.errors import ConversionError, EdgeKitError, SourceError

NAME = "keras"
TITLE = "Keras: .keras archives and .h5 files, of Keras 3 and Keras 2"
EXTRA = "tensorflow"
SUFFIXES = (".keras", ".h5", ".hdf5")
PRELOAD = ("tensorflow",)
TAKES_SIGNATURE = False

_CUSTOM = re.compile(r"(?:Unknown \w+:|Could not locate \w+) '?(?P<name>[\w>.]+)'?")
"""How Keras 2 and 3 say that a class is unknown."""
_RAISED = re.compile(r"\n\s*\w+(?:Error|Exception): ")
_COLORS = re.compile(r"\x1b\[[0-9;]*m")


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
    notes = [f"code of the file ran because it is trusted: {finding.what}" for finding in found.findings]
    if _to_float32(model):
        notes.append(_MIXED)
    traced = traceable(path.name, lambda: _signature(model, source.shapes))
    facts = LoadedFacts(NAME, traced.inputs, traced.outputs, notes=tuple(notes), tools=tools)
    return loaded(facts, traced)


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
        SourceError: `live-shapes-missing`: the model was never built or called, so that its input shapes are unknown;
            `source-untraceable`.
    """
    path = folder / "model"
    if _backend(model) != "tensorflow":
        model.save(path.with_suffix(".keras"))
        return path.with_suffix(".keras")
    if getattr(model, "inputs", None):
        with _computing_in_float32(model) as changed:
            traced = traceable(f"the model {model.name!r}", lambda: _signature(model, {}, autograph=True))
            traced.export(path)
        traced.write_names(path, (_MIXED,) if changed else ())
        return path
    # A subclassed model has no input layers; Keras' own export knows the shapes it was called with.
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            model.export(str(path))
    except (ValueError, TypeError, AttributeError) as error:
        raise SourceError(
            "live-shapes-missing", f"the input shapes of the model {model.name!r} are unknown: {reason(error)}"
        ) from error
    return path


def _read(path: Path, found: scan.KerasFile, *, trusted: bool) -> tuple[Any, dict[str, str]]:
    keras, name = _keras(found.generation)
    tools = {name: keras.__version__, "tensorflow": _tensorflow_version()}
    with _suffixed(path, ".keras" if found.container == "zip" else ".h5") as named:
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                model = keras.models.load_model(named, compile=False, safe_mode=not trusted)
        except Exception as error:  # on a damaged file Keras raises anything from KeyError to TypeError
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
    return SourceError("source-unreadable", f"{reader} cannot load {path.name}: {reason(error)}")


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


def traceable(name: str, tracing: Callable[[], TfModel]) -> TfModel:
    """Run a tracing, mapping what TensorFlow raises.

    Raises:
        SourceError: `source-untraceable`: the model cannot be computed as a graph, or not with these shapes.
    """
    import tensorflow as tf

    try:
        return tracing()
    except (ValueError, TypeError, AttributeError, tf.errors.OpError) as error:
        if isinstance(error, EdgeKitError):
            raise
        raise SourceError("source-untraceable", f"{name} cannot be traced into a graph: {reason(error)}") from error


_MIXED = "layers that computed in 16 bits for training (mixed precision) compute in float32 here"


@contextlib.contextmanager
def _computing_in_float32(model: Any) -> Iterator[bool]:
    """The same for the time of a block: a live model is left as it was. Gives whether any layer was changed."""
    layers = list(model._flatten_layers())  # noqa: SLF001 - as below
    legacy = _generation(model) == 2
    before = [layer._dtype_policy if legacy else layer.dtype_policy for layer in layers]  # noqa: SLF001
    changed = _to_float32(model)
    try:
        yield changed
    finally:
        for layer, policy in zip(layers, before, strict=True) if changed else ():
            if legacy:
                layer._set_dtype_policy(policy)  # noqa: SLF001
            elif layer.dtype_policy != policy:
                layer.dtype_policy = policy


def _to_float32(model: Any) -> bool:
    """Make layers compute in float32; whether any did not.

    Mixed precision is a way to train fast on a GPU. The weights are float32 anyway, TFLite has no 16-bit kernels on
    CPUs, and precision is chosen by the conversion, not by the source.
    """
    changed = False
    for layer in model._flatten_layers():  # noqa: SLF001 - the public `layers` does not descend into wrappers
        if str(getattr(layer, "compute_dtype", "")) in ("float16", "bfloat16"):
            changed = True
            if _generation(model) == 2:
                layer._set_dtype_policy("float32")  # noqa: SLF001 - no public setter in Keras 2
            else:
                layer.dtype_policy = "float32"
    return changed


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

    # Keras 3 keeps AutoGraph out of its layers.
    return trace(answer, inputs, keep=(model,), autograph=autograph and legacy)


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
    if any(kind.__name__ == "Functional" for kind in type(model).__mro__) and model.input is not None:
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


def reason(error: BaseException) -> str:
    """The line of a framework's message that says what is wrong; the rest may go on for pages."""
    text = _COLORS.sub("", str(error))
    if "in user code:" in text:  # AutoGraph's traceback, with the error at its end
        text = text[[match.start() for match in _RAISED.finditer(text)][-1] :] if _RAISED.search(text) else text
    lines = [_RAISED.sub("", f"\n{line}").strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith("Exception encountered")]
    return (lines[0] if lines else type(error).__name__)[:300]
