"""ONNX Runtime on the CPU. Its sessions are safe to call from many threads."""

from __future__ import annotations

import os
import platform
import re
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.artifact import Artifact
from edgekit.errors import EngineError, EngineMissingError
from edgekit.runtimes.base import Array, Feeds, closed, version_of
from edgekit.runtimes.straight import check_shape
from edgekit.tensors import TensorSpec

_DTYPES = {
    "float": "float32", "double": "float64", "float16": "float16", "int8": "int8", "int16": "int16", "int32": "int32",
    "int64": "int64", "uint8": "uint8", "uint16": "uint16", "uint32": "uint32", "uint64": "uint64", "bool": "bool",
    "string": "string",
}  # fmt: skip
_ERRORS_ONLY, _FATAL_ONLY = 3, 4


class OnnxRuntime:
    """The backend."""

    name = "onnxruntime"
    formats = ("onnx",)

    def __init__(self, *, plain: bool = False) -> None:
        self._plain = plain

    def version(self) -> str:
        _engine()
        return version_of("onnxruntime")

    def open(self, artifact: Artifact, threads: int | None) -> OnnxRuntimeSession:
        _engine()
        try:
            session = bare_session(artifact.data, threads, plain=self._plain, exact=_exact(artifact))
            return OnnxRuntimeSession(session, artifact)
        except _failures() as error:
            raise _refused(str(error), artifact) from error


def _exact(artifact: Artifact) -> bool:
    """Whether sums of its products would saturate here: see `edgekit.saturation`."""
    made = artifact.manifest if saturates_here() else None
    if made is None or made.precision in ("fp32", "fp16"):
        return False
    return made.provenance.options.get("weight_bits") != 7


@cache
def saturates_here() -> bool:
    """Whether onnxruntime's int8 sums saturate on this machine; False where the system does not tell."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return False
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    found = next((set(line.split()) for line in text.splitlines() if line.startswith("flags")), set())
    return bool({"avx2", "avx512bw"} & found) and not {"avx512_vnni", "avx_vnni"} & found


def bare_session(
    data: bytes, threads: int | None, *, plain: bool = False, profile: Path | None = None, exact: bool = False
) -> Any:
    """The engine's own session.

    Args:
        data: The model.
        threads: None for its choice.
        plain: Without changes to the graph.
        profile: Start of the path that `end_profiling` writes.
        exact: By kernels whose 8-bit products do not saturate, though they take longer.
    """
    ort = _engine()
    options = ort.SessionOptions()
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    if plain:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if exact:
        options.add_session_config_entry("session.x64quantprecision", "1")
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    if threads is not None:
        options.intra_op_num_threads = threads
    return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])


class OnnxRuntimeSession:
    """One InferenceSession."""

    concurrent = True
    batches = True

    def __init__(self, session: Any, artifact: Artifact) -> None:
        self._session: Any = session
        self._artifact = artifact
        self.inputs = tuple(_spec(value) for value in session.get_inputs())
        self.outputs = tuple(_spec(value) for value in session.get_outputs())
        self._names = [spec.name for spec in self.outputs]
        self._failures = _failures()
        self._run = session.run
        self._silent = _silent()

    def run(self, feeds: Feeds) -> dict[str, Array]:
        return self.run_some(self._names, feeds)

    def run_some(self, names: list[str], feeds: Feeds) -> dict[str, Array]:
        """`run`, for these outputs."""
        run = self._run  # another thread may close meanwhile; a call that has begun holds the session
        if run is None:
            raise closed()
        try:
            if len(names) == 1:
                return {names[0]: run(names, feeds)[0]}
            return dict(zip(names, run(names, feeds), strict=True))
        except self._failures as error:
            raise self._failed(error) from error

    def run_into(self, feeds: Feeds, buffers: Feeds) -> None:
        """The same, some answers written by the engine itself into given arrays: not where it would read from them,
        nor where it cannot, as it is then said best by the answers.
        """
        session = self._session
        if session is None:
            raise closed()
        if not buffers:  # it runs for outputs only
            self.run(feeds)
            return
        if not _overlap(feeds, buffers):
            try:
                binding = session.io_binding()
                for name, array in feeds.items():
                    binding.bind_cpu_input(name, array)
                for name, buffer in buffers.items():
                    binding.bind_output(name, "cpu", 0, buffer.dtype, buffer.shape, buffer.ctypes.data)
                session.run_with_iobinding(binding, self._silent)
                return
            except self._failures:
                pass
        answers = self.run_some(list(buffers), feeds)
        for name, buffer in buffers.items():
            check_shape(name, answers[name].shape, buffer)
            np.copyto(buffer, answers[name])

    def _failed(self, error: Exception) -> EngineError:
        if self._run is None:  # closed by another thread while the call was under way
            return closed()
        name, said = self._artifact.path or "the model", " ".join(str(error).split())
        return EngineError("engine-failed", f"onnxruntime failed while running {name}", cause=said)

    def close(self) -> None:
        self._run = self._session = None


def _engine() -> Any:
    # Since 1.3x it reports usage over the network and keeps an identifier in the temporary folder, unless told not to.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        return import_module("onnxruntime")
    except ModuleNotFoundError as error:
        if error.name and not error.name.startswith("onnxruntime"):
            raise EngineError("engine-broken", f"onnxruntime cannot be used: {error}") from error
        from edgekit.parts import install

        raise EngineMissingError(
            "engine-missing",
            "onnxruntime is not installed, and an .onnx file needs it",
            next_step=install("onnx"),
        ) from error
    except ImportError as error:
        raise EngineError("engine-broken", f"onnxruntime cannot be used: {error}") from error


def _silent() -> Any:
    """Options of a run whose errors are not printed: they are told by what is done instead."""
    options = _engine().RunOptions()
    options.log_severity_level = _FATAL_ONLY
    return options


def _overlap(feeds: Feeds, buffers: Feeds) -> bool:
    share = np.may_share_memory
    for buffer in buffers.values():  # loops, because comprehensions cost a call
        for array in feeds.values():
            if share(buffer, array):
                return True
    return False


def _failures() -> tuple[type[Exception], ...]:
    """Onnxruntime's own exceptions share no base class but Exception; they come from one module."""
    state = import_module("onnxruntime.capi.onnxruntime_pybind11_state")
    found = [kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    return (*found, RuntimeError, ValueError)


_OPSET = r"(?i)opset (?:version )?(\d+)|Unsupported model IR version: (\d+)|IR version"
_KERNEL = (
    r"Could not find an implementation for (?P<op>[\w.]+)\((?P<version>\d+)\)"
    r"|(?P<unknown>[\w.:]+)(?:\(-?\d+\))? is not a registered function/op"
    r"|No Op registered for (?P<unregistered>[\w.:]+)"
)


def _refused(message: str, artifact: Artifact) -> EngineError:
    name = artifact.path or "the model"
    said = " ".join(message.split())
    version = version_of("onnxruntime")
    if found := re.search(_KERNEL, said):
        op = f"{found['op']} version {found['version']}" if found["op"] else found["unknown"] or found["unregistered"]
        return EngineError(
            "op-unsupported", f"onnxruntime {version} has no kernel for {op}, which {name} uses", cause=said
        )
    if re.search(_OPSET, said):
        return EngineError("opset-unsupported", f"{name} is newer than onnxruntime {version} reads", cause=said)
    return EngineError("engine-refused", f"onnxruntime {version} cannot open {name}", cause=said)


def _spec(value: Any) -> TensorSpec:
    kind = value.type.removeprefix("tensor(").removesuffix(")")
    if kind not in _DTYPES:
        raise EngineError("engine-refused", f"{value.name} is a {value.type}, not a tensor of numbers")
    shape = tuple(size if isinstance(size, int) and size >= 0 else None for size in value.shape)
    return TensorSpec(value.name, shape, _DTYPES[kind])


BACKEND = OnnxRuntime()
PLAIN = OnnxRuntime(plain=True)
