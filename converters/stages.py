"""The typed values that pass between the stages of a conversion, and what a loader or a lowering must offer.

    Source > LoadedModel > Graph > Ranges > Graph (quantized) > Verification > Verdict > Artifact

All but LoadedModel are frozen, JSON-able and lie in files where they are large, so that every stage can run in a
child process. A loader is a module `load_NAME.py`, a lowering a module `lower_NAME.py`; the two protocols at the
end say what stands in them. A stage never reads the command line, prints, or replaces an unknown name by a default.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from edgekit.precision import Precision
from edgekit.reading import Task
from edgekit.rules import Rule
from edgekit.tensors import TensorSpec, sampled

Array = NDArray[Any]
Feeds = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Source:
    """The user's model on disk.

    Attributes:
        path: File or folder.
        kind: Name of the loader that recognized the content: "keras", "saved_model", "torch", "onnx", "tflite", ...
        sha256: Of the file or the folder's contents.
        bytes: Size on disk.
        signature: SavedModel: which signature; None when there is only one.
        shapes: Input name -> sizes (None: free) that replace free sizes of the source.
        dtypes: Input name -> element type, for sources that do not say it.
        model: "module:factory" of the network, for sources that are weights alone.
        trusted: The user vouches for code inside the source.
    """

    path: str
    kind: str
    sha256: str
    bytes: int
    signature: str | None = None
    shapes: dict[str, tuple[int | None, ...]] = field(default_factory=dict)
    trusted: bool = False
    dtypes: dict[str, str] = field(default_factory=dict)
    model: str | None = None


def complete(inputs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    """The same inputs, of which no value may be missing."""
    return tuple(replace(spec, missing=None) for spec in inputs)


@dataclass(frozen=True)
class LoadedFacts:
    """What is known of a source once it is loaded.

    Attributes:
        framework: Same names as `Source.kind`.
        inputs, outputs: Public names, shapes (None: free), dtypes; `quant` set where the source is quantized.
        quantized: It holds integer tensors with scales already (or QuantizeLinear nodes).
        notes: For the user: "opset 9 was raised to 18".
        tools: Package -> version, of what loaded it.
        classes: Names of the classes of a classifier, where the source knows them.
        answer: The output that holds the answer, where the source knows which of several does.
        task: What that answer is, where the source knows; else "other".
        ragged: Outputs that have another size for each sample; such a source is asked one sample at a time.
        half: It computes in float16, and rounds more than float32 does.
        squashed: Outputs that its own engine's sigmoid answers, which rounds as if they were near 1.
        ranges: Input -> least and greatest value to try it with where there is no data; the usual ones of its type for
            others.
        modules: Tensor of the graph -> path of the module that makes it, where the framework has modules.
    """

    framework: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    quantized: bool = False
    notes: tuple[str, ...] = ()
    tools: dict[str, str] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    answer: str | None = None
    task: Task = "other"
    ragged: tuple[str, ...] = ()
    half: bool = False
    squashed: tuple[str, ...] = ()
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)
    modules: dict[str, str] = field(default_factory=dict)

    @property
    def columns(self) -> tuple[str, ...]:
        """What the columns of its only input are called, in order; none where nobody knows."""
        return (self.inputs[0].columns or ()) if len(self.inputs) == 1 else ()

    @property
    def samples(self) -> tuple[TensorSpec, ...]:
        """What data for it looks like, see `sample_axis`."""
        return sampled(self.inputs, self.outputs)

    def as_held(self, precision: Precision) -> LoadedFacts:
        """What is known of it in a precision: among integers there is no NaN to stand for a missing value."""
        if not precision.calibrated or not any(spec.missing for spec in self.inputs):
            return self
        note = "rows in which values are missing are refused: no integer stands for NaN, as it does in fp32 and fp16"
        return replace(self, inputs=complete(self.inputs), notes=(*self.notes, note))


class LoadedModel(Protocol):
    """A source in memory, able to answer by its own framework. Lives in a child process only."""

    @property
    def facts(self) -> LoadedFacts: ...

    @property
    def handle(self) -> Any:
        """The framework's own object, for lowerings of that framework."""
        ...

    def run(self, feeds: Feeds) -> Feeds:
        """Answer one batch: public names to arrays [n, ...]; any n, also for sources of a fixed batch."""
        ...


@dataclass(frozen=True)
class Folded:
    """What a graph does itself to its raw input: value = raw * factor + offset, one each a channel, which come last.

    Attributes:
        factor, offset: By the source's channel.
        reversed: The source's channels are the raw ones, last to first.
        image: The raw values are bytes of a picture, 0..255.
    """

    factor: tuple[float, ...]
    offset: tuple[float, ...]
    reversed: bool = False
    image: bool = False

    def raw(self, values: Array) -> Array:
        """Raw values [..., channels] of those that the source takes."""
        made = (np.asarray(values, np.float64) - self.offset) / self.factor
        return np.asarray(made[..., ::-1] if self.reversed else made, np.float32)

    def raw_range(self, low: float, high: float) -> tuple[float, float]:
        """Of all channels."""
        ends = [
            (end - offset) / factor
            for end in (low, high)
            for factor, offset in zip(self.factor, self.offset, strict=True)
        ]
        return min(ends), max(ends)


@dataclass(frozen=True)
class Graph:
    """A model in one of the two formats, on disk, float or quantized.

    Attributes:
        format: "tflite" or "onnx".
        path: The file.
        inputs, outputs: `name` is the source's public name, `tensor` the name inside the file.
        precision: "fp32" until it is quantized.
        notes: For the user.
        folded: Inputs that are prepared inside: name -> how.
        turned: Inputs and outputs whose axes lie in another order than the source's: name -> their places there.
        float_ops: Ops that stayed in float though the precision asked for integers: "SOFTMAX (probs)".
        lifted: Ops that rules took to another precision: "CONV_2D (stem): int16x8".
        tools: Package -> version, of what made it.
    """

    format: Literal["tflite", "onnx"]
    path: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    precision: str = "fp32"
    notes: tuple[str, ...] = ()
    float_ops: tuple[str, ...] = ()
    lifted: tuple[str, ...] = ()
    tools: dict[str, str] = field(default_factory=dict)
    turned: dict[str, tuple[int, ...]] = field(default_factory=dict)
    folded: dict[str, Folded] = field(default_factory=dict)

    def turn(self, arrays: Feeds) -> Feeds:
        """Arrays of the source, by public names, with their axes and values as this graph has them."""
        turned = {
            name: array.transpose(self.turned[name]) if name in self.turned else array for name, array in arrays.items()
        }
        return {name: self.folded[name].raw(array) if name in self.folded else array for name, array in turned.items()}

    def raw_ranges(self, ranges: dict[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
        """Ranges of the source's inputs, as those of this graph."""
        return {
            name: self.folded[name].raw_range(*ends) if name in self.folded else ends for name, ends in ranges.items()
        }


@dataclass(frozen=True)
class Range:
    """Smallest and largest real value that a tensor took (or that its observer decided on)."""

    min: float
    max: float

    def __post_init__(self) -> None:
        if not self.min <= self.max:
            raise ValueError(f"range [{self.min}, {self.max}] is empty or not a number")

    @property
    def span(self) -> float:
        """How far it reaches as integers hold it: zero is always inside."""
        return max(self.max, 0.0) - min(self.min, 0.0)


@dataclass(frozen=True)
class Ranges:
    """What calibration observed: tensor name inside the file -> range.

    Attributes:
        observer: Which one decided.
        samples: How many samples were seen.
        tensors: One entry a float tensor that is not a constant.
        alternatives: Other ranges that an observer would take as well, by how they came about, to choose from by
            their effect (`range_choice`); empty once that is done.
        shifts: What layers that make the answers add to their biases, an element a channel, by the tensor they make:
            the mean error of the answers that these ranges give (`repairs.ends`).
        rules: Those of the quantization that this was measured with; it holds for no other.
    """

    observer: str
    samples: int
    tensors: dict[str, Range]
    alternatives: dict[str, dict[str, Range]] = field(default_factory=dict)
    shifts: dict[str, tuple[float, ...]] = field(default_factory=dict)
    rules: tuple[Rule, ...] = ()


@dataclass(frozen=True)
class CalibrationOptions:
    """How to observe.

    Attributes:
        observer: Name of one in `observers`: "minmax", "percentile", "mse", ...
        percentile: Share of values (percent) that the range must hold, for "percentile".
        memory_mb: Bound on the whole calibration process's private memory growth.
        threads: Of the engine.
        activations: Element type that the ranges are for, "int8" or "int16": observers that measure errors need it.
    """

    observer: str = "minmax"
    percentile: float = 99.999
    memory_mb: int = 256
    threads: int = 2
    activations: Literal["int8", "int16"] = "int8"


@dataclass(frozen=True)
class QuantizeOptions:
    """How to quantize.

    Attributes:
        interface: "int8" or "float" inputs and outputs.
        allow_float_ops: Leave ops in float that cannot be quantized, listed by name, instead of refusing.
        rules: Layers of a static precision that compute in another one.
        weight_bits: Of int8 weights; 7 where sums of 8-bit products would saturate.
    """

    interface: Literal["int8", "float"] = "float"
    allow_float_ops: bool = False
    rules: tuple[Rule, ...] = ()
    weight_bits: Literal[7, 8] = 8


LEVELS = {7: 64, 8: 127}
"""Largest integer of a weight, by its bits; 7 bits are onnxruntime's `reduce_range`: two products of 64 and 255 are
less than 2**15."""


class Loader(Protocol):
    """What a module `load_NAME.py` offers. It must import with numpy alone installed.

    NAME equals the file's; EXTRA is what to install (`pip install edgekit-sdk[EXTRA]`), PRELOAD the modules a
    child imports ahead. `recognizes` looks at content with the standard library only and must be cheap and safe
    on hostile files. `accepts` and `save` are for live Python objects: `save` writes one into `folder` and returns
    the path that `load` will read.
    """

    NAME: str
    TITLE: str
    EXTRA: str
    SUFFIXES: tuple[str, ...]
    PRELOAD: tuple[str, ...]

    def recognizes(self, path: Path) -> bool: ...
    def load(self, source: Source) -> LoadedModel: ...
    def accepts(self, model: object) -> bool: ...
    def save(self, model: object, folder: Path) -> Path: ...


class Lowering(Protocol):
    """What a module `lower_NAME.py` offers: from some frameworks' LoadedModel to a float graph of one format."""

    FRAMEWORKS: tuple[str, ...]
    FORMAT: Literal["tflite", "onnx"]
    EXTRA: str

    def lower(self, model: LoadedModel, path: Path) -> Graph: ...


class Quantizer(Protocol):
    """What a module `quantize_FORMAT.py` offers: from a float graph to a quantized one of the same format."""

    FORMAT: Literal["tflite", "onnx"]

    def quantize(
        self, graph: Graph, ranges: Ranges | None, precision: Precision, options: QuantizeOptions, path: Path
    ) -> Graph: ...
