"""LiteRT: ai-edge-litert, else tflite-runtime (the last with 32-bit Arm wheels), else TensorFlow's own interpreter.

An interpreter shared between threads gives wrong answers, so a session is not concurrent; the model locks it.
"""

from __future__ import annotations

import importlib
import re
import warnings
from typing import Any

import numpy as np

from edgekit.artifact import Artifact
from edgekit.errors import EdgeKitError, EngineError, EngineMissingError
from edgekit.runtimes.base import Array, Feeds, closed, version_of
from edgekit.runtimes.straight import check_shape
from edgekit.tensors import QuantParams, TensorSpec

_CHOICES = (
    ("ai-edge-litert", "ai_edge_litert.interpreter"),
    ("tflite-runtime", "tflite_runtime.interpreter"),
    ("tensorflow", "tensorflow.lite.python.interpreter"),
)


_STATEFUL = {
    "UNIDIRECTIONAL_SEQUENCE_LSTM", "BIDIRECTIONAL_SEQUENCE_LSTM", "UNIDIRECTIONAL_SEQUENCE_RNN", "LSTM", "RNN", "SVDF",
    "BIDIRECTIONAL_SEQUENCE_RNN", "VAR_HANDLE", "ASSIGN_VARIABLE",
}  # fmt: skip
"""Ops that keep variables between runs. They start anew with each sample: an answer must not depend on the one before.
In a foreign file any op may, so that its variables are always reset (half a microsecond)."""


class LiteRT:
    """The backend; see the module header. `plain` leaves XNNPACK out, as 32-bit Arm wheels do."""

    name = "litert"
    formats = ("tflite",)

    def __init__(self, *, plain: bool = False) -> None:
        self._plain = plain

    def version(self) -> str:
        distribution, _ = _find()
        return version_of(distribution)

    def open(self, artifact: Artifact, threads: int | None) -> LiteRTSession:
        """Raises:
        EngineMissingError: `engine-missing`. EngineError: `op-unsupported`, `engine-refused`. ArtifactError:
        `model-unreadable`: the file is cut short or damaged.
        """
        distribution, _ = _find()
        if distribution == "tflite-runtime" and not artifact.members:
            # It takes the file's word for where things lie, and the process would die; its successor looks by itself.
            # What has a digest was compared with it.
            from edgekit.formats import read_facts

            read_facts(artifact)
        try:
            return LiteRTSession(interpreter(artifact.data, threads, plain=self._plain), artifact)
        except (ValueError, RuntimeError) as error:
            raise _refused(str(error), distribution, artifact) from error
        except (SystemError, ImportError, AttributeError) as error:  # its extension meets numpy only when called
            raise _numpy2(distribution, error) from error


def interpreter(data: bytes, threads: int | None, *, plain: bool = False) -> Any:
    """The engine's own interpreter, its tensors allocated."""
    _, module = _find()
    kernels = {}
    if plain:
        kernels["experimental_op_resolver_type"] = module.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorFlow's interpreter announces its successor
        made = module.Interpreter(model_content=data, num_threads=threads, **kernels)
    made.allocate_tensors()
    return made


class LiteRTSession:
    """One interpreter. With exactly one signature its names are the names, else the tensors' own."""

    concurrent = False
    batches = False  # another size means planning the whole arena again, and fails where a RESHAPE froze the batch

    def __init__(self, interpreter: Any, artifact: Artifact) -> None:
        self._interpreter: Any = interpreter
        self._artifact = artifact
        inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
        names = _signature_names(interpreter)
        self.inputs = _specs(inputs, "input", names)
        self.outputs = _specs(outputs, "output", names)
        self._feed = [(spec.name, detail["index"]) for spec, detail in zip(self.inputs, inputs, strict=True)]
        self._fetch = [(spec.name, detail["index"]) for spec, detail in zip(self.outputs, outputs, strict=True)]
        self._shapes = {detail["index"]: tuple(detail["shape"]) for detail in inputs}
        self._some: tuple[list[str], list[tuple[str, int]]] = ([], [])
        self._free = any(spec.dynamic for spec in self.inputs)
        about = artifact.interface
        self._stateful = about is None or not _STATEFUL.isdisjoint(about.ops)
        self._set, self._invoke, self._get = interpreter.set_tensor, interpreter.invoke, interpreter.get_tensor
        self._view = interpreter.tensor

    def run(self, feeds: Feeds) -> dict[str, Array]:
        return self._answers(self._fetch, feeds)

    def run_some(self, names: list[str], feeds: Feeds) -> dict[str, Array]:
        """`run`, for these outputs."""
        if names is not self._some[0]:
            self._some = names, [(name, index) for name, index in self._fetch if name in names]
        return self._answers(self._some[1], feeds)

    def _answers(self, fetched: list[tuple[str, int]], feeds: Feeds) -> dict[str, Array]:
        try:
            self._compute(feeds)
            answers = {}  # a loop, because a comprehension costs a call
            for name, index in fetched:
                answers[name] = self._get(index)
            return answers
        except EdgeKitError:  # of ours: closed by another thread while this one waited
            raise
        except (ValueError, RuntimeError) as error:
            raise _failed(str(error), self._artifact) from error

    def _compute(self, feeds: Feeds) -> None:
        if self._interpreter is None:
            raise closed()
        if self._free:
            self._resize(feeds)
        if self._stateful:
            self._interpreter.reset_all_variables()
        for name, index in self._feed:
            self._set(index, feeds[name])
        self._invoke()

    def run_into(self, feeds: Feeds, buffers: Feeds) -> None:
        """The same, some answers into given arrays; the engine's own memory is looked into, and let go at once."""
        try:
            self._compute(feeds)
            for name, index in self._fetch:
                if name in buffers:
                    view, buffer = self._view(index)(), buffers[name]
                    shape = view.shape
                    if shape == buffer.shape:
                        np.copyto(buffer, view)
                    del view  # a traceback would keep it, and the engine refuses to go on while anybody looks
                    if shape != buffer.shape:
                        check_shape(name, shape, buffer)
        except EdgeKitError:
            raise
        except (ValueError, RuntimeError) as error:
            raise _failed(str(error), self._artifact) from error

    def close(self) -> None:
        self._set = self._invoke = self._get = self._view = self._interpreter = None

    def _resize(self, feeds: Feeds) -> None:
        changed = False
        for name, index in self._feed:
            shape = feeds[name].shape
            if shape != self._shapes.get(index):
                self._interpreter.resize_tensor_input(index, shape)
                changed = True
        if changed:
            self._shapes.clear()  # a size that the model cannot take leaves no plan behind
            self._interpreter.allocate_tensors()
            self._shapes = {index: feeds[name].shape for name, index in self._feed}


def _find() -> tuple[str, Any]:
    for distribution, module in _CHOICES:
        try:
            return distribution, importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name and not module.startswith(error.name.partition(".")[0]):
                raise _numpy2(distribution, error) from error  # it is here, what it needs is not
        except (ImportError, AttributeError, RuntimeError, SystemError) as error:
            raise _numpy2(distribution, error) from error
    from edgekit.parts import install

    raise EngineMissingError(
        "engine-missing",
        "no LiteRT engine is installed, and a .tflite file needs one",
        next_step=install("tflite"),
    )


def _numpy2(distribution: str, error: Exception) -> EngineError:
    if distribution == "tflite-runtime" and int(np.__version__.partition(".")[0]) >= 2:
        return EngineError(
            "engine-numpy2",
            f"tflite-runtime was built for numpy 1 and cannot work with numpy {np.__version__}",
            cause=f"It fails with: {error}",
        )
    return EngineError("engine-broken", f"{distribution} cannot be used: {error}")


_NO_KERNEL = (
    r"Didn't find op for builtin opcode '(?P<op>\w+)' version '(?P<version>\d+)'",
    r"Op builtin_code out of range: (?P<op>\d+)",
    r"(?i:unresolved custom op): (?P<op>\w+)",
)


def _refused(message: str, distribution: str, artifact: Artifact) -> EngineError:
    name = artifact.path or "the model"
    said = " ".join(message.split())
    for pattern in _NO_KERNEL:
        if found := re.search(pattern, said):
            op = found["op"] + (f" version {found['version']}" if "version" in found.groupdict() else "")
            version = version_of(distribution)
            return EngineError(
                "op-unsupported", f"{distribution} {version} has no kernel for {op}, which {name} uses", cause=said
            )
    if "Select TensorFlow op" in said or "Flex" in said:
        return EngineError("op-unsupported", f"{name} uses TensorFlow ops that LiteRT alone does not have", cause=said)
    return EngineError("engine-refused", f"{distribution} cannot open {name}", cause=said)


def _failed(message: str, artifact: Artifact) -> EngineError:
    return EngineError(
        "engine-failed", f"LiteRT failed while running {artifact.path or 'the model'}", cause=" ".join(message.split())
    )


def _signature_names(interpreter: Any) -> dict[tuple[str, int], list[str]]:
    """(side, tensor index) -> its names in the only signature; empty when there are none or several."""
    signatures = interpreter.get_signature_list()
    if len(signatures) != 1:
        return {}
    runner = interpreter.get_signature_runner(next(iter(signatures)))
    names: dict[tuple[str, int], list[str]] = {}
    for side, details in (("input", runner.get_input_details()), ("output", runner.get_output_details())):
        for name, detail in details.items():
            names.setdefault((side, detail["index"]), []).append(str(name))
    return names


def _specs(details: list[dict[str, Any]], side: str, names: dict[tuple[str, int], list[str]]) -> tuple[TensorSpec, ...]:
    """Each under a name of its own: a file may leave tensors unnamed, name two alike, or give one tensor out twice."""
    taken: set[str] = set()
    specs = []
    for place, detail in enumerate(details):
        given = names.get((side, detail["index"])) or [detail["name"] or f"{side}_{place}"]
        free = [name for name in given if name not in taken]
        name = free[0] if free else f"{given[0]}_{place}"
        taken.add(name)
        specs.append(_spec(detail, name, detail["name"] if free and detail["name"] not in ("", name) else None))
    return tuple(specs)


def _spec(detail: dict[str, Any], name: str, tensor: str | None) -> TensorSpec:
    shape = detail["shape_signature"] if len(detail["shape_signature"]) else detail["shape"]
    dtype = np.dtype(detail["dtype"])
    return TensorSpec(
        name=name,
        shape=tuple(None if size < 0 else int(size) for size in shape),
        dtype="string" if dtype.kind in "SO" else dtype.name,
        # Converters leave scales on floats, where they mean nothing.
        quant=_quant(detail["quantization_parameters"]) if dtype.kind in "iu" else None,
        tensor=tensor,
    )


def _quant(parameters: dict[str, Any]) -> QuantParams | None:
    scales, zeros = parameters["scales"], parameters["zero_points"]
    if not len(scales) or not all(scale > 0 for scale in scales):
        return None
    axis = int(parameters["quantized_dimension"]) if len(scales) > 1 else None
    return QuantParams(tuple(map(float, scales)), tuple(map(int, zeros)), axis)


BACKEND = LiteRT()
PLAIN = LiteRT(plain=True)
