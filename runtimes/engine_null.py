"""A deterministic fake that ships in the package: for tests and dry runs, never chosen by itself.

It answers with zeros of the shapes that the manifest promises, plus the mean of the feeds, so that different inputs
give different answers and equal ones equal answers.
"""

from __future__ import annotations

import numpy as np

from edgekit import __version__
from edgekit.artifact import Artifact
from edgekit.errors import EngineError
from edgekit.runtimes.base import Array, Feeds
from edgekit.tensors import TensorSpec


class Null:
    """The backend."""

    name = "null"
    formats = ("tflite", "onnx")

    def version(self) -> str:
        return __version__

    def open(self, artifact: Artifact, threads: int | None) -> NullSession:
        del threads
        if artifact.interface is None:
            raise EngineError("engine-refused", "the null engine needs a manifest to know the shapes")
        return NullSession(artifact.interface.inputs, artifact.interface.outputs)


class NullSession:
    """Shapes in, shapes out."""

    concurrent = True
    batches = True

    def __init__(self, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> None:
        self.inputs = tuple(_own(spec) for spec in inputs)
        self.outputs = tuple(_own(spec) for spec in outputs)

    def run(self, feeds: Feeds) -> dict[str, Array]:
        batch = next((array.shape[0] for array in feeds.values() if array.ndim), 1)
        means = [np.mean(array, dtype=np.float64) for array in feeds.values() if array.size and array.dtype.kind != "O"]
        mean = float(np.mean(means)) if means else 0.0
        return {
            spec.name: np.full([batch if size is None else size for size in spec.shape], mean).astype(spec.dtype)
            for spec in self.outputs
        }

    def close(self) -> None:
        pass


def _own(spec: TensorSpec) -> TensorSpec:
    return TensorSpec(spec.key, spec.shape, spec.dtype, quant=spec.quant)


BACKEND = Null()
