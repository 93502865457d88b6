"""A model as an app wants it: real values in, real values out, by public names, any batch, from any thread.

    with edgekit.load("model.tflite", threads=2) as model:
        outputs = model.run({"image": array})
        answer = model.predict("photo.jpg")

Everything wrong with an input is said before the engine sees it. The hot path is a few dictionary look-ups and
comparisons; what is rare (batches of a fixed-batch model, another layout, a missing batch axis) is off it. So is
whatever an import would add to the start of an app: `_thread` has the lock that `threading` would only rename.
"""

from __future__ import annotations

import os
from _thread import allocate_lock
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit import artifact as artifacts
from edgekit.artifact import Artifact
from edgekit.errors import ArtifactError, EngineError, FeedError
from edgekit.runtimes import PREFERRED, engines, open_session
from edgekit.runtimes.base import Array, Session, as_dtype, check_finite, check_names, closed, dequantize, quantize
from edgekit.runtimes.straight import Straight
from edgekit.tensors import TensorSpec

if TYPE_CHECKING:
    from edgekit.manifest import Interpret, Manifest, Preprocess
    from edgekit.runtimes.prediction import Predictor

_CHANNELS_LAST = {"NHWC": "NCHW", "NWC": "NCW", "NDHWC": "NCDHW"}
_CHANNELS_FIRST = {first: last for last, first in _CHANNELS_LAST.items()}


def load(
    source: str | Path | Artifact, *, threads: int | None = None, engine: str | None = None, verify: bool = True
) -> Model:
    """Open an artifact (or a foreign `.tflite` or `.onnx` file) for running.

    Args:
        source: Path, the name of a model that was deployed to this device, or an artifact in memory.
        threads: Of the engine; None for its own choice.
        engine: "litert", "onnxruntime" or "null"; None for the format's own.
        verify: Compare the digest first; costs reading the file, which the engine does anyway, and hashing it.

    Raises:
        MissingFileError: `file-missing`, `model-unknown`. ArtifactError: `artifact-unknown`, `artifact-damaged`.
        EngineMissingError: `engine-missing`. EngineError: the engine refuses the model; says why.
    """
    opened = source if isinstance(source, Artifact) else _read(source, verify=verify)
    return Model.from_artifact(opened, threads=threads, engine=engine)


def _read(source: str | Path, *, verify: bool) -> Artifact:
    if isinstance(source, str) and "." not in source:
        from edgekit.store import reading  # names have no suffix; paths do not pay for this

        if reading.names_a_model(source):
            return reading.read(source)
    return artifacts.read(source, verify=verify)


class Model:
    """An opened model. Safe to share between threads; not usable in a forked child.

    Attributes:
        artifact: What was opened.
        inputs: Public names, shapes, dtypes and quantization of the inputs.
        outputs: The same of the outputs.
        engine: Name of the engine.
        threads: As asked for.
    """

    def __init__(
        self,
        artifact: Artifact,
        session: Session,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        *,
        engine: str,
        threads: int | None,
    ) -> None:
        self.artifact = artifact
        self.inputs = inputs
        self.outputs = outputs
        self.engine = engine
        self.threads = threads
        self._session: Session | None = session
        self._pid = os.getpid()
        self._lock: AbstractContextManager[Any] = nullcontext() if session.concurrent else allocate_lock()
        self._keys = _match(inputs, session.inputs, "input", artifact)
        answers = _match(outputs, session.outputs, "output", artifact)
        self._answers = list(zip(answers, outputs, strict=True))
        self._real, self._raw = (self._straight(session, raw=raw) for raw in (False, True))
        self._predictor: Predictor | None = None

    @classmethod
    def from_artifact(
        cls,
        artifact: Artifact,
        *,
        inputs: tuple[TensorSpec, ...] | None = None,
        outputs: tuple[TensorSpec, ...] | None = None,
        threads: int | None = None,
        engine: str | None = None,
    ) -> Model:
        """Open an artifact; `inputs` and `outputs` stand in for the manifest's where there is none yet."""
        session = open_session(artifact, threads, engine)
        about = artifact.interface
        inputs = inputs or (about.inputs if about else session.inputs)
        outputs = outputs or (about.outputs if about else session.outputs)
        name = engine or PREFERRED[artifact.format]
        return cls(artifact, session, inputs, outputs, engine=name, threads=threads)

    @property
    def manifest(self) -> Manifest | None:
        """None for a foreign file."""
        return self.artifact.manifest

    @property
    def preprocess(self) -> Preprocess:
        from edgekit.manifest import Preprocess

        return self.manifest.preprocess if self.manifest else Preprocess()

    @property
    def interpret(self) -> Interpret:
        from edgekit.manifest import Interpret

        return self.manifest.interpret if self.manifest else Interpret()

    @property
    def engine_version(self) -> str:
        """Version of the distribution that runs it."""
        return engines.get(self.engine).version()

    def run(self, feeds: Mapping[str, Any] | Any, *, raw: bool = False) -> dict[str, Array]:
        """Answer one batch.

        Args:
            feeds: Array by public input name; for a model of one input the array itself. Any batch size; the other
                layout (NCHW for NHWC and back) where the manifest says which is meant; one sample without a batch axis.
            raw: Pass the tensors' own integers in and out; otherwise real values (floats) both ways.

        Returns:
            Array by public output name, the caller's own, with a batch axis.

        Raises:
            FeedError: `feed-name`, `feed-shape`, `feed-dtype`, `feed-nan`.
            EngineError: `engine-failed`, `model-closed`, `model-forked`.
        """
        session = self._session
        if session is None or self._pid != os.getpid():
            raise self._unusable()
        if type(feeds) is dict:
            answers = (self._raw if raw else self._real)(feeds)
            if answers is not None:
                return answers
        return self._run(session, feeds, raw=raw)

    def predict(self, thing: Any, *, colors: str | None = None) -> Any:
        """Prepare something (a path, an image, an array, a sound, a row, a text), run it, and read the answer as the
        manifest says.

        Args:
            thing: See `edgekit.runtimes.preprocess.Preparer`.
            colors: Channel order of a picture that is an array: "RGB", or "BGR" as OpenCV's cameras give it; None for
                the order that the model takes.

        Returns:
            A typed answer of `edgekit.runtimes.interpret`.

        Raises:
            FeedError, DataError, MissingFileError, EngineMissingError: The thing cannot be prepared; says why.
            EngineError: As `run`.
        """
        predictor = self._predictor or self._prepare()
        return predictor(thing, colors)

    def check_usable(self) -> None:
        """Raise what `run` would for a model that is closed, or of another process.

        Raises:
            EngineError: `model-closed`, `model-forked`.
        """
        if self._session is None or self._pid != os.getpid():
            raise self._unusable()

    def restore(self, answers: Mapping[str, Array]) -> dict[str, Array]:
        """Real values of the outputs that `run(..., raw=True)` gave."""
        return {spec.name: dequantize(answers[spec.name], spec) for spec in self.outputs}

    def close(self) -> None:
        """Give the engine's memory back; may be called twice."""
        session, self._session = self._session, None
        if session is not None and self._pid == os.getpid():
            with self._lock:
                session.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _straight(self, session: Session, *, raw: bool, ready: bool = False) -> Straight:
        inputs = list(zip(self.inputs, self._keys, strict=True))
        outputs = [(spec, key) for key, spec in self._answers]
        return Straight(session, inputs, outputs, self._lock, raw=raw, ready=ready)

    def _prepare(self) -> Predictor:
        """Only apps that predict pay for what it takes."""
        from edgekit.runtimes.prediction import Predictor

        session = self._session
        if session is None:
            raise closed()
        self._predictor = Predictor(self, self._straight(session, raw=False, ready=True))
        return self._predictor

    def _run(self, session: Session, feeds: Any, *, raw: bool) -> dict[str, Array]:
        """The general path: names, dtypes, shapes, then piece by piece."""
        arrays = self._arrays(feeds, raw=raw)
        calls, steps = _calls(arrays, self.inputs, whole=session.batches)
        pieces: list[dict[str, Array]] = []
        for call in range(calls):
            piece = {
                key: np.asarray(array[call * step : (call + 1) * step] if step else array, order="C")
                for key, array, step in zip(self._keys, arrays, steps, strict=True)
            }
            with self._lock:
                pieces.append(session.run(piece))
        return {spec.name: _join([p[key] for p in pieces], spec, steps, raw=raw) for key, spec in self._answers}

    def _arrays(self, feeds: Any, *, raw: bool) -> list[Array]:
        if not isinstance(feeds, Mapping):
            if len(self.inputs) != 1:
                names = ", ".join(spec.name for spec in self.inputs)
                raise FeedError("feed-name", f"this model has {len(self.inputs)} inputs, name them: {names}")
            feeds = {self.inputs[0].name: feeds}
        check_names(feeds, self.inputs)
        arrays = []
        for spec in self.inputs:
            array = _shaped(as_dtype(feeds[spec.name], spec, raw=raw), spec)
            check_finite(array, spec.name)
            arrays.append(array if raw or spec.quant is None else quantize(array, spec))
        return arrays

    def _unusable(self) -> EngineError:
        if self._session is None:
            return closed()
        return EngineError("model-forked", f"the model was opened in process {self._pid}, before a fork")


def _match(specs: tuple[TensorSpec, ...], offered: tuple[TensorSpec, ...], side: str, artifact: Artifact) -> list[str]:
    """The session's name of each spec."""
    about = artifact.path or "the model"
    names = {spec.name: spec for spec in offered}
    keys = names | {spec.key: spec for spec in offered}
    found: list[str] = []
    for spec in specs:
        own = names.get(spec.name)  # of two tensors that the file names alike, the one with this name
        there = own if own is not None and own.key == spec.key else keys.get(spec.key)
        if there is None:
            raise ArtifactError("manifest-mismatch", f"{about} has no {side} {spec.key}; it has {', '.join(keys)}")
        if there.dtype != spec.dtype or len(there.shape) != len(spec.shape):
            raise ArtifactError(
                "manifest-mismatch", f"{about} has {side} {there.describe()}, its manifest says {spec.describe()}"
            )
        found.append(there.name)
    left = [spec.name for spec in offered if spec.name not in found]
    if left and side == "input":
        raise ArtifactError("manifest-mismatch", f"{about} has the input {left[0]}, of which its manifest says nothing")
    return found


def _shaped(array: Array, spec: TensorSpec) -> Array:
    """The array as the tensor's shape wants it, batch aside.

    Raises:
        FeedError: `feed-shape`.
    """
    if _fits(array.shape, spec.shape):
        return array
    if _fits((1, *array.shape), spec.shape):
        return array[None]
    turned = _turned(array, spec)
    if turned is not None:
        return turned
    hint = ""
    if (
        spec.layout is None
        and array.ndim in (3, 4)
        and sorted(array.shape[1:]) == sorted(s or 0 for s in spec.shape[1:])
    ):
        hint = "; the axes look transposed (NHWC against NCHW), and the model does not say which it means"
    sizes = ",".join(map(str, array.shape))
    raise FeedError("feed-shape", f"{spec.describe()} does not take [{sizes}]{hint}")


def _turned(array: Array, spec: TensorSpec) -> Array | None:
    """From the other layout, when the manifest says which one is meant."""
    if spec.layout in _CHANNELS_LAST:
        for candidate in (array, array[None]):
            if candidate.ndim == len(spec.shape) and _fits((moved := np.moveaxis(candidate, 1, -1)).shape, spec.shape):
                return moved
    if spec.layout in _CHANNELS_FIRST:
        for candidate in (array, array[None]):
            if candidate.ndim == len(spec.shape) and _fits((moved := np.moveaxis(candidate, -1, 1)).shape, spec.shape):
                return moved
    return None


def _fits(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    """Equal but for the first axis, which is the batch, and free sizes."""
    if len(shape) != len(wanted):
        return False
    return all(
        want in (None, size) or (axis == 0 and size > 0)
        for axis, (size, want) in enumerate(zip(shape, wanted, strict=True))
    )


def _calls(arrays: list[Array], inputs: tuple[TensorSpec, ...], *, whole: bool) -> tuple[int, list[int]]:
    """How often the engine is called, and how much of each array a call takes; 0 for all of it.

    Where some first axes are free, they are the batch, and an input of exactly its fixed size (a table, a threshold)
    goes into every call. Where none is free, arrays that fit go in one call, and longer ones are cut.

    Args:
        arrays: In the order of `inputs`.
        inputs: What the model takes.
        whole: The engine takes any number of samples where an axis is free.
    """
    pairs = [(spec, spec.shape[0], array.shape[0]) for spec, array in zip(inputs, arrays, strict=True) if spec.shape]
    free = {spec.name: size for spec, first, size in pairs if first is None}
    fits = all(first in (None, size) for _, first, size in pairs)
    if not free and fits:
        return 1, [0] * len(arrays)
    # What is cut, and into how many.
    counts = free | {
        spec.name: _divided(size, first) for spec, first, size in pairs if first and (first != size or not free)
    }
    if len(set(counts.values())) > 1:
        said = ", ".join(f"{spec.name} {size}" for spec, _, size in pairs if spec.name in counts)
        raise FeedError("feed-shape", f"inputs have different numbers of samples: {said}")
    calls = next(iter(counts.values()))
    if calls == 0:
        raise FeedError("feed-shape", "the feed holds no samples")
    if whole and fits:
        return 1, [0] * len(arrays)
    return calls, [((spec.shape[0] or 1) if spec.name in counts else 0) for spec in inputs]


def _divided(size: int, first: int) -> int:
    if size % first:
        raise FeedError("feed-shape", f"the model takes batches of {first}, {size} samples do not divide by it")
    return size // first


def _join(pieces: list[Array], spec: TensorSpec, steps: list[int], *, raw: bool) -> Array:
    """One answer from those of several calls, which took `steps` samples; answers without a batch axis get one."""
    if not raw:
        pieces = [dequantize(piece, spec) for piece in pieces]
    if len(pieces) == 1:
        return pieces[0]
    if all(piece.ndim and piece.shape[0] in steps for piece in pieces):
        return np.concatenate(pieces)
    if len({piece.shape for piece in pieces}) > 1:
        shapes = " and ".join(str(list(piece.shape)) for piece in pieces[:2])
        raise FeedError("feed-uneven", f"{spec.name} has another size for each sample, such as {shapes}")
    return np.stack(pieces)
