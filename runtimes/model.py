"""A model as an app wants it: real values in, real values out, by public names, any batch, from any thread.

    with edgekit.load("model.tflite", threads=2) as model:
        outputs = model.run({"image": array})
        answer = model.predict("photo.jpg")

Everything wrong with an input is said before the engine sees it. The hot path is a few dictionary look-ups and
comparisons; what is rare (batches of a fixed-batch model, another layout, a missing batch axis) is off it. So is
whatever an import would add to the start of an app: `_thread` has the lock that `threading` would only rename.
"""

from __future__ import annotations

import functools
import os
import time
from _thread import allocate_lock
from collections.abc import Container, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from edgekit import artifact as artifacts
from edgekit.artifact import Artifact
from edgekit.errors import EngineError, FeedError
from edgekit.runtimes import PREFERRED, engines, open_session
from edgekit.runtimes.base import (
    Array,
    Session,
    as_dtype,
    check_finite,
    check_names,
    closed,
    dequantize,
    forked,
    leave_to_parent,
    matched,
    quantize,
)
from edgekit.runtimes.straight import Straight, fill
from edgekit.tensors import TensorSpec

if TYPE_CHECKING:
    from edgekit.manifest import Interpret, Manifest, Preprocess
    from edgekit.monitor.monitor import Monitor
    from edgekit.monitor.watch import Taker, Watch
    from edgekit.runtimes.flow.metrics import Metrics
    from edgekit.runtimes.prediction import Predictor


def load(
    source: str | Path | Artifact,
    *,
    threads: int | None = None,
    engine: str | None = None,
    verify: bool = True,
    watchdog: float | None = None,
    metrics: Metrics | None = None,
) -> Model:
    """Open an artifact (or a foreign `.tflite` or `.onnx` file) for running.

    Args:
        source: Path, the name of a model that was deployed to this device, or an artifact in memory.
        threads: Of the engine; None for its own choice.
        engine: "litert", "onnxruntime" or "null"; None for the format's own.
        verify: Compare the digest first; costs reading the file, which the engine does anyway, and hashing it.
        watchdog: Run the engine in a child process and give each call so many seconds: an engine that dies or hangs
            becomes an EngineError (`engine-died`, `engine-hung`), and the next call finds a new one.
        metrics: Counts calls and errors and measures their times; shared by as many models as you like.

    Raises:
        MissingFileError: `file-missing`, `model-unknown`. ArtifactError: `artifact-unknown`, `artifact-damaged`.
        EngineMissingError: `engine-missing`. EngineError: the engine refuses the model; says why.
    """
    opened = source if isinstance(source, Artifact) else read(source, verify=verify)
    model = Model.from_artifact(opened, threads=threads, engine=engine, watchdog=watchdog)
    model.metrics = metrics
    return model


def read(source: str | Path, *, verify: bool = True) -> Artifact:
    """The file of this path, or the active version of a deployed model of this name; the errors are those of `load`."""
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
        metrics: Where calls are counted; None for nowhere.
        watch: What hands calls to the monitor; None without one.
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
        self.metrics: Metrics | None = None
        self._session: Session | None = session
        self._pid = os.getpid()
        self._lock: AbstractContextManager[Any] = nullcontext() if session.concurrent else allocate_lock()
        self._keys = matched(inputs, session.inputs, "input", artifact)
        answers = matched(outputs, session.outputs, "output", artifact)
        self._answers = list(zip(answers, outputs, strict=True))
        self._real, self._raw = (self._straight(session, raw=raw) for raw in (False, True))
        self._predictor: Predictor | None = None
        self.watch: Watch | None = None
        leave_to_parent(self)

    @classmethod
    def from_artifact(
        cls,
        artifact: Artifact,
        *,
        inputs: tuple[TensorSpec, ...] | None = None,
        outputs: tuple[TensorSpec, ...] | None = None,
        threads: int | None = None,
        engine: str | None = None,
        watchdog: float | None = None,
    ) -> Model:
        """Open an artifact; `inputs` and `outputs` stand in for the manifest's where there is none yet."""
        session = open_session(artifact, threads, engine, watchdog)
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
    def takes_batches(self) -> bool:
        """Whether the engine takes any number of samples in one call, where the batch is free."""
        return self._session is not None and self._session.batches

    @property
    def engine_version(self) -> str:
        """Version of the distribution that runs it."""
        return engines.get(self.engine).version()

    @property
    def predictor(self) -> Predictor:
        """The steps of `predict`, one by one."""
        return self._predictor or self._prepare()

    def run(
        self, feeds: Mapping[str, Any] | Any, *, raw: bool = False, out: Mapping[str, Array] | None = None
    ) -> dict[str, Array]:
        """Answer one batch.

        Args:
            feeds: Array by public input name; for a model of one input the array itself. Any batch size; the other
                layout (NCHW for NHWC and back) where the manifest says which is meant; one sample without a batch axis.
            raw: Pass the tensors' own integers in and out; otherwise real values (floats) both ways.
            out: Your arrays by output name, of the outputs' shapes and dtypes: answers are written into them, and
                nothing is allocated where the feed is exact. Outputs without one are not fetched.

        Returns:
            Array by public output name, the caller's own, with a batch axis; with `out` its arrays.

        Raises:
            FeedError: `feed-name`, `feed-shape`, `feed-dtype`, `feed-nan`, `out-array`.
            EngineError: `engine-failed`, `model-closed`, `model-forked`.
        """
        session = self._session
        if session is None or self._pid != os.getpid():
            raise self._unusable()
        if self.metrics is not None or self.watch is not None:
            with nullcontext() if self.metrics is None else self.metrics.timed("run_seconds"):
                return self.watched(feeds, raw=raw, out=out)
        if type(feeds) is dict:
            answers = (self._raw if raw else self._real)(feeds, out)
            if answers is not None:
                return answers
        return self._general(session, feeds, raw, out)

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

    def predict_batch(self, things: Iterable[Any], *, colors: str | None = None) -> list[Any]:
        """The same for several things, in one call of the engine where it takes batches.

        Raises:
            As `predict`: one thing that cannot be prepared fails all.
        """
        predictor = self._predictor or self._prepare()
        return predictor.batch(list(things), colors)

    async def apredict(self, thing: Any, *, colors: str | None = None) -> Any:
        """`predict` in a thread, for `asyncio`: the event loop goes on meanwhile."""
        import asyncio

        return await asyncio.to_thread(self.predict, thing, colors=colors)

    def warm_up(self, times: int = 3) -> None:
        """Answer zeros so often (free sizes are 1): what engines put off until the first call is done then. Monitors
        and captures do not see them, metrics do not count them.

        Raises:
            EngineError: `engine-failed`, `model-closed`, `model-forked`. UsageError: `option-value`.
        """
        from edgekit.runtimes import bounds
        from edgekit.runtimes.prediction import zeros

        times, session = bounds.whole("times", times, least=0), self._session
        if session is None or self._pid != os.getpid():
            raise self._unusable()
        for _ in range(times):
            self._answer(session, zeros(self.inputs), True, None)

    def check_usable(self) -> None:
        """Raise what `run` would for a model that is closed, or of another process.

        Raises:
            EngineError: `model-closed`, `model-forked`.
        """
        if self._session is None or self._pid != os.getpid():
            raise self._unusable()

    def monitor(
        self,
        folder: str | Path | None = None,
        *,
        capture: Taker | None = None,
        rate: float | None = None,
        cycle: int = 0,
    ) -> Monitor:
        """Hold every `run` and `predict` from now on against what the model was proved on.

        Args:
            folder: Where its state is kept across restarts; made if it is not there. None: in memory alone.
            capture: Is offered every call with its verdict.
            rate: False alarms a sample that are accepted; None for one in a million.
            cycle: Samples in which the stream goes through all of its states (a day of a camera outdoors), so that its
                nights are no news: shifts are told over two cycles and more, faults of the data at once.

        Returns:
            The monitor: `status()`, `alarms`, `snapshot()`.

        Raises:
            ArtifactError: `reference-missing`: the artifact says nothing of its data; `reference-invalid`.
            UsageError: `option-value`; `output-unwritable`: the folder cannot be written.
        """
        from edgekit.monitor.watch import Watch, opened

        made = opened(self.artifact, folder, self.inputs, self.outputs, self.preprocess, self.interpret, rate, cycle)
        self.watch = Watch(made, self.inputs, self.outputs, capture)
        watched_by = getattr(capture, "watched_by", None)
        if watched_by is not None:
            watched_by(made)
        return made

    def watched(
        self, feeds: Mapping[str, Any] | Any, *, raw: bool = False, out: Mapping[str, Array] | None = None
    ) -> dict[str, Array]:
        """`run` for whoever counts it himself: the monitor sees it, the metrics do not."""
        session = self._session
        if session is None:
            raise closed()
        begun = time.perf_counter()
        answers = self._answer(session, feeds, raw, out)
        if self.watch is not None:
            self.watch.run(feeds, answers, time.perf_counter() - begun, raw=raw)
        return answers

    def restore(self, answers: Mapping[str, Array]) -> dict[str, Array]:
        """Real values of the outputs that `run(..., raw=True)` gave."""
        return {spec.name: dequantize(answers[spec.name], spec) for spec in self.outputs}

    def close(self) -> None:
        """Give the engine's memory back; may be called twice."""
        session, self._session = self._session, None
        if session is not None and self._pid == os.getpid():
            with self._lock:
                session.close()
            if self.watch is not None:
                self.watch.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        inputs, outputs = (", ".join(spec.describe() for spec in side) for side in (self.inputs, self.outputs))
        return f"<Model {self.artifact.path or 'in memory'}: {inputs} -> {outputs}; {self.engine}>"

    def __reduce__(self) -> NoReturn:
        """To another process goes the path."""
        raise EngineError(
            "model-forked", f"the model is open in process {self._pid} and cannot be sent to another",
            next_step="Send its path, and load it there.",
        )  # fmt: skip

    def _straight(
        self, session: Session, *, raw: bool, ready: bool = False, wanted: Container[str] | None = None
    ) -> Straight:
        """The way for exact feeds: to all outputs, or to those that are wanted."""
        inputs = list(zip(self.inputs, self._keys, strict=True))
        outputs = [(spec, key) for key, spec in self._answers if wanted is None or spec.name in wanted]
        return Straight(session, inputs, outputs, self._lock, raw=raw, ready=ready)

    def _prepare(self) -> Predictor:
        """Only apps that predict pay for what it takes."""
        from edgekit.runtimes.interpret import read_of
        from edgekit.runtimes.prediction import Predictor

        session = self._session
        if session is None:
            raise closed()
        wanted = read_of(self.interpret, tuple(spec.name for spec in self.outputs))
        real, ready = (self._straight(session, raw=False, ready=ready, wanted=wanted) for ready in (False, True))
        general = functools.partial(self._general, session)
        self._predictor = Predictor(self, real, ready, general, whole=session.batches)
        return self._predictor

    def _answer(self, session: Session, feeds: Any, raw: bool, out: Mapping[str, Array] | None) -> dict[str, Array]:
        """The straight way, else the general one."""
        answers = (self._raw if raw else self._real)(feeds, out) if type(feeds) is dict else None
        return self._general(session, feeds, raw, out) if answers is None else answers

    def _general(
        self, session: Session, feeds: Any, raw: bool, out: Mapping[str, Array] | None = None
    ) -> dict[str, Array]:
        """Names, dtypes, shapes, then piece by piece."""
        from edgekit.runtimes.pieces import calls, join  # most apps feed what is exact, and never come here

        arrays = self._arrays(feeds, raw=raw)
        number, steps = calls(arrays, self.inputs, whole=session.batches)
        pieces: list[dict[str, Array]] = []
        for call in range(number):
            piece = {
                key: np.asarray(array[call * step : (call + 1) * step] if step else array, order="C")
                for key, array, step in zip(self._keys, arrays, steps, strict=True)
            }
            with self._lock:
                pieces.append(session.run(piece))
        free = any(spec.shape and spec.shape[0] is None for spec in self.inputs)
        joined = {
            spec.name: join([p[key] for p in pieces], spec, steps, raw=raw, free=free) for key, spec in self._answers
        }
        return joined if out is None else fill(out, joined)

    def _arrays(self, feeds: Any, *, raw: bool) -> list[Array]:
        if not isinstance(feeds, Mapping):
            if len(self.inputs) != 1:
                names = ", ".join(spec.name for spec in self.inputs)
                raise FeedError("feed-name", f"this model has {len(self.inputs)} inputs, name them: {names}")
            feeds = {self.inputs[0].name: feeds}
        from edgekit.runtimes.pieces import shaped

        check_names(feeds, self.inputs)
        arrays = []
        for spec in self.inputs:
            array = shaped(as_dtype(feeds[spec.name], spec, raw=raw), spec)
            check_finite(array, spec)
            arrays.append(array if raw or spec.quant is None else quantize(array, spec))
        return arrays

    def _unusable(self) -> EngineError:
        return closed() if self._session is None else forked(self._pid)
