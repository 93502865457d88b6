"""Child processes that import while their parent still does.

The parent of a conversion spends as long on its own imports as a child does on its; started first, both are ready at
the same time. What is imported here hangs on names alone, and no child has seen a file before it is asked to.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from edgekit import files
from edgekit.child import Spawned

ENVIRONMENTS: dict[str, dict[str, str]] = {
    "framework": {},
    # Linear algebra of the repairs is too small for threads that wait for each other, and must not depend on
    # how many there are.
    "engine": {"OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
}
"""Child of a conversion -> its environment, beside the parent's."""

_ALWAYS = ("numpy", "edgekit.converters.jobs")
_SOURCES = {".onnx": ("onnx", "onnxruntime")}
_WRITERS = {".onnx": ("ai_edge_litert.schema_py_generated",)}
"""Of sources that we write as TFLite ourselves."""
_ENGINES = {".tflite": ("ai_edge_litert.interpreter",), ".onnx": ("onnxruntime",)}


class Begun:
    """Children of one conversion, before it is known what they will be asked. Use in `with`, around the conversion.

    Args:
        source: What will be converted.
        output: Where it goes.
    """

    def __init__(self, source: Path, output: Path) -> None:
        came, goes = source.suffix.lower(), output.suffix.lower()
        writes = _WRITERS.get(came, ()) if goes == ".tflite" else ()
        self._modules = {
            "framework": (*_ALWAYS, *_SOURCES.get(came, ()), *writes),
            "engine": (*_ALWAYS, *_ENGINES.get(goes, ())),
        }
        self._stack = ExitStack()
        self._idle: dict[str, Spawned] = {}

    def __enter__(self) -> Begun:
        folder = self._stack.enter_context(files.scratch())
        for name, modules in self._modules.items():
            self._idle[name] = Spawned(folder / f"{name}.log", environment=ENVIRONMENTS[name], early=modules)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._idle.values():
            process.close()
        self._stack.__exit__(kind, error, trace)

    def take(self, name: str) -> Spawned | None:
        """A process that is the caller's from now on; None where there is none (any more)."""
        return self._idle.pop(name, None)
