"""TFLite files; LiteRT is their own framework.

The file is read as data first (`from_tflite.current`), so that what is wrong with it has a name before an engine
opens it.
The answers come from the file as it was given; the float graph that goes on is that same file, unless it holds
several models, float16 weights or sizes that the user fixed.

Float16 weights are a way to store a float model: such a file is a float source, and can be quantized. Integer weights
are not, whatever the activations: what was rounded away is gone.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from edgekit import artifact as artifacts
from edgekit.converters.from_tflite import current
from edgekit.converters.loaded import Loaded
from edgekit.converters.stages import Feeds, LoadedFacts, LoadedModel, Source
from edgekit.converters.tflite_graphs import graph as files
from edgekit.converters.verification.answering import Answering
from edgekit.errors import ArtifactError, FeedError, SourceError
from edgekit.tensors import TensorSpec

NAME = "tflite"
TITLE = "TFLite: .tflite files"
EXTRA = "convert"
SUFFIXES: tuple[str, ...] = (".tflite", ".lite", ".tfl")
PRELOAD = ("numpy", "ai_edge_litert.interpreter")

_IDENTIFIER = b"TFL3"
_EDGE_TPU = "edgetpu-custom-op"
_THREADS = 2


def recognizes(path: Path) -> bool:
    """Whether the file bears TFLite's identifier."""
    try:
        with open(path, "rb") as file:
            return file.read(8)[4:] == _IDENTIFIER
    except OSError:
        return False


def load(source: Source) -> LoadedModel:
    """Read a TFLite file.

    Raises:
        SourceError: `source-unreadable`, `tflite-unreadable`, `source-custom-ops`, `source-dtype`, `source-stateful`.
        ArtifactError: `artifact-damaged`: an EdgeKit artifact that was changed.
        UsageError: `signature-unknown`, `signature-ambiguous`, `input-unknown`, `shape-conflict`.
    """
    path = Path(source.path)
    data = _model_bytes(path)
    model = files.read(data)
    entry = current.choose(model, source.signature, path.name)
    _refuse_custom(model, path)
    if current.keeps_state(model, entry):
        raise SourceError("source-stateful", f"{path.name} keeps variables from one call to the next")
    stateful = any(tensor.isVariable for tensor in files.tensors(model))
    given, specs = entry, current.interface(model, entry, path.name)
    notes = []
    if entry.others and source.signature is None:
        notes.append(f"the signature {entry.signature!r} was taken; there are also {', '.join(entry.others)}")
    made, model, entry, changes = _changed(model, entry, source, path)
    notes += changes
    if made is not None and _packed(data):
        notes.append(f"left behind, because the graph was rewritten: {', '.join(_packed(data))}")
    inputs, outputs = current.interface(model, entry, path.name)
    if stateful and made is not None:
        # The engine resets the variables of a file's first graph only.
        call = _caller(_asker(made, entry, path, stateful=True), (inputs, outputs))
    else:
        call = _caller(_asker(data, given, path, stateful=stateful), specs)
    precision = current.precision(model)
    facts = LoadedFacts(
        NAME,
        inputs,
        outputs,
        quantized=precision != "fp32",
        notes=tuple(notes),
        tools={"ai-edge-litert": metadata.version("ai-edge-litert")},
    )
    return Loaded(facts, data if made is None else made, Answering(inputs, call, single=True), precision)


def accepts(model: object) -> bool:
    """Whether it is the bytes of a TFLite file."""
    return isinstance(model, (bytes, bytearray, memoryview)) and bytes(model[4:8]) == _IDENTIFIER


def save(model: Any, folder: Path) -> Path:
    """Write the bytes for `load`."""
    path = folder / "model.tflite"
    path.write_bytes(model)
    return path


def _model_bytes(path: Path) -> bytes:
    """The file, without what an earlier conversion added."""
    try:
        return artifacts.read(path).model
    except ArtifactError as error:
        if error.code != "artifact-unknown":
            raise
        raise SourceError("source-unreadable", f"{path.name} is no TFLite model") from error


def _refuse_custom(model: Any, path: Path) -> None:
    """Custom operators that the engine cannot have; others it resolves itself, or names when it cannot."""
    custom = current.custom_ops(model)
    if _EDGE_TPU in custom:
        raise SourceError(
            "source-custom-ops",
            f"{path.name} was compiled for the Edge TPU: its graph is inside {_EDGE_TPU}, which nothing else reads",
            next_step="Convert the .tflite file that edgetpu_compiler was given.",
            ops=list(custom),
        )
    flex = [name for name in custom if name.startswith("Flex")]
    if flex:
        raise SourceError(
            "source-custom-ops",
            f"{path.name} uses TensorFlow's own operators {', '.join(flex)}, which the small runtimes do not have",
            ops=flex,
        )


def _changed(
    model: Any, entry: current.Entry, source: Source, path: Path
) -> tuple[bytes | None, Any, current.Entry, list[str]]:
    """Bring the model into one form; its new bytes, None when nothing had to change."""
    notes = []
    isolated = current.isolate(model, entry)
    main = isolated or entry
    renamed = current.name_apart(model, main)
    halves = current.widen_halves(model)
    if halves:
        notes.append(f"{halves} weights that were stored as float16 became float32, the same numbers")
    fixed = current.fix_sizes(model, main, source.shapes, path.name)
    if not (isolated or renamed or halves or fixed):
        return None, model, entry, notes
    data = files.dump(model)
    model = files.read(data)  # without unused tensors the numbering is another
    return data, model, current.choose(model, entry.signature, path.name), notes


def _packed(data: bytes) -> list[str]:
    """Names of the files that other tools packed behind the model (labels, vocabularies)."""
    import io
    import zipfile

    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return archive.namelist()[:10]
    except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError):
        return []


def _caller(
    ask: Callable[[Feeds], Feeds], specs: tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]
) -> Callable[[Feeds], Feeds]:
    """What answers one feed in real numbers, both ways."""
    from edgekit.runtimes.base import dequantize, quantize

    inputs, outputs = specs

    def call(feeds: Feeds) -> Feeds:
        raw = {spec.name: quantize(feeds[spec.name], spec) if spec.quant else feeds[spec.name] for spec in inputs}
        try:
            answers = ask(raw)
        except (ValueError, RuntimeError) as error:
            said = " ".join(str(error).split())[:300]
            raise FeedError("source-run", f"the source cannot answer these inputs: {said}") from error
        return {spec.name: dequantize(answers[spec.name], spec) for spec in outputs}

    return call


def _asker(data: bytes, entry: current.Entry, path: Path, *, stateful: bool) -> Callable[[Feeds], Feeds]:
    """What answers one raw feed: by the signature, or by the main graph where there is none or it keeps a state."""
    from ai_edge_litert.interpreter import Interpreter

    plain = entry.signature is None or stateful
    try:
        engine = Interpreter(model_content=data, num_threads=_THREADS)
        _allocate(engine)
        runner = None if plain else engine.get_signature_runner(entry.signature)
    except (ValueError, RuntimeError) as error:
        raise _refused(path, error) from error
    shapes = {detail["index"]: tuple(detail["shape"]) for detail in engine.get_input_details()}

    def ask(feeds: Feeds) -> Feeds:
        if runner is not None:
            answers: Feeds = runner(**feeds)
            return answers
        arrays = {index: feeds[public] for index, public in entry.inputs.items()}
        changed = [index for index, array in arrays.items() if array.shape != shapes[index]]
        for index in changed:
            engine.resize_tensor_input(index, arrays[index].shape)
            shapes[index] = arrays[index].shape
        if changed:
            engine.allocate_tensors()
        if stateful:
            engine.reset_all_variables()  # a recurrent layer starts anew with each sample
        for index, array in arrays.items():
            engine.set_tensor(index, array)
        engine.invoke()
        return {public: engine.get_tensor(index) for index, public in entry.outputs.items()}

    return ask


def _allocate(engine: Any) -> None:
    """Plan the memory, so that what is wrong shows now; with free sizes the plan may fail until they are known."""
    free = any(size < 0 for detail in engine.get_input_details() for size in detail["shape_signature"])
    try:
        engine.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        if not free or "custom op" in str(error).lower():
            raise


def _refused(path: Path, error: Exception) -> SourceError:
    said = " ".join(str(error).split())[:300]
    if "custom op" in said.lower():
        return SourceError("source-custom-ops", f"{path.name} uses an operator that LiteRT does not have: {said}")
    return SourceError("source-unreadable", f"LiteRT refuses {path.name}: {said}")
