"""Everything that may be said about a conversion besides its source.

One frozen value for the command line and for Python callers, so that no default lives in either.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekit import rules
from edgekit.codec import encode
from edgekit.errors import UsageError
from edgekit.feeding import Preprocess
from edgekit.precision import Precision
from edgekit.rules import LAYER_PRECISIONS, LayerPrecision, Rule
from edgekit.tensors import DTYPES

FORMATS = {".tflite": "tflite", ".onnx": "onnx"}


LAYOUTS = ("keep", "nhwc", "nchw")


def check_limits(seconds: float, memory_mb: int | None) -> None:
    """Those of a child process, as the command line names them.

    Raises:
        UsageError: `option-value`.
    """
    if not seconds > 0:
        raise UsageError("option-value", f"--time-limit is {seconds} s; it is positive")
    if memory_mb is not None and memory_mb < 64:
        raise UsageError("option-value", f"--memory-limit is {memory_mb} MiB; at least 64 start Python")


@dataclass(frozen=True)
class Options:
    """The options of a conversion; those of `edgekit convert`, one to one.

    Attributes:
        to: "tflite" or "onnx"; None for what the suffix of `output` says.
        output: Where the artifact goes; None to keep it in memory.
        precision: Name of a precision.
        device: Profile name or path that the artifact must fit.
        target: Where its self-test must pass as well, before it is written: "emulator:raspberry-pi-4b".
        calibration, evaluation: Data (see `edgekit.data`); a path, or arrays from Python.
        label: Label column or array of both.
        calibration_samples: Draw at most this many by a seeded shuffle.
        evaluation_samples: The same for evaluation; None for all.
        max_drop: Points that the metric may lose.
        shapes: Input name -> sizes that fix free sizes; for PyTorch, which does not say them, all that it takes.
        dtypes: Input name -> element type ("int64"), where it is not float32 and the source does not say it.
        model: "package.module:factory" that makes the PyTorch network which weights belong to.
        signature: SavedModel or TFLite signature.
        metadata: Path of a TOML with [preprocess] and [interpret], or those tables.
        labels: Path of a text file, a class name a line; or the names.
        task: What the model answers; None to see from its outputs.
        trust: Admit code inside Keras, SavedModel and PyTorch files; a SHA-256 admits only the source of that digest,
            and is the only way to admit a pickle.
        interface: "int8" or "float" inputs and outputs; None for the precision's default.
        allow_float_ops: Leave what cannot be quantized in float.
        weight_bits: Of int8 weights in ONNX, 7 or 8; None for 7 where the device's processor would saturate.
        lift: What a searched precision lifts layers to; None for the precision's own list.
        lift_budget: Verifications that its search may take; None for its forecast.
        lift_cache: Folder that keeps the search across kills; None for the user's.
        rules: Layers of a static precision that compute in another: path of a TOML (see `edgekit.rules`), or the rules.
        repairs: What is repaired before quantizing: "auto" for the precision's own, "none", or names (see
            `edgekit.converters.repairs`).
        layout: "keep" the axes of images as the source has them, or "nhwc" or "nchw"; for ONNX graphs to TFLite.
        exact_labels: Decide as an estimator does in double precision, in float32 files of scikit-learn's models.
        fold_preprocess: Put the metadata's scale, mean, std, color order and layout into the graph.
        observer: How calibration decides on ranges: "auto", "room", "minmax", "moving-average", "percentile", "mse"
            or "entropy"; None for the precision's default.
        percentile: Share of values (percent) that observer "percentile" keeps inside.
        calibration_memory: Bound on the growth of the calibrating process, in MiB.
        resume: Go on where a calibration of the same model, data and options was killed; it is found in the user's
            cache folder.
        reference: Store what the data looked like in the artifact, for `Model.monitor`.
        embedding: Layer or tensor inside the model that the reference describes, too, and a monitor watches: it becomes
            one more output, which `predict` does not show.
        seed: Of every draw.
        threads: Of the engine while observing and verifying.
        time_limit: Seconds a stage may take. memory_limit: MiB a child process may use.
    """

    to: str | None = None
    output: Path | None = None
    precision: str = "fp32"
    device: str | None = None
    target: str | None = None
    calibration: Any = None
    evaluation: Any = None
    label: str | None = None
    calibration_samples: int = 500
    evaluation_samples: int | None = None
    max_drop: float = 1.0
    shapes: Mapping[str, tuple[int | None, ...]] = field(default_factory=dict)
    dtypes: Mapping[str, str] = field(default_factory=dict)
    model: str | None = None
    signature: str | None = None
    metadata: str | Path | Mapping[str, Any] | None = None
    labels: str | Path | tuple[str, ...] | None = None
    task: str | None = None
    trust: bool | str = False
    interface: str | None = None
    allow_float_ops: bool = False
    weight_bits: int | None = None
    lift: LayerPrecision | None = None
    lift_budget: int | None = None
    lift_cache: Path | None = None
    rules: str | Path | tuple[Rule | Mapping[str, Any], ...] | None = None
    repairs: str | tuple[str, ...] = "auto"
    layout: str = "keep"
    exact_labels: bool = True
    fold_preprocess: bool = False
    observer: str | None = None
    percentile: float = 99.999
    calibration_memory: int = 256
    resume: bool = True
    reference: bool = True
    embedding: str | None = None
    seed: int = 0
    threads: int = 2
    time_limit: float = 900.0
    memory_limit: int | None = None

    def __post_init__(self) -> None:
        if not self.max_drop >= 0:
            raise UsageError("option-value", f"--max-drop is {self.max_drop}; a drop is a number from 0 on")
        check_limits(self.time_limit, self.memory_limit)
        if not 50 < self.percentile <= 100:
            raise UsageError("option-value", f"--percentile is {self.percentile}; it lies between 50 and 100")
        if self.calibration_memory < 64:
            raise UsageError("option-value", f"--calibration-memory is {self.calibration_memory} MiB; at least 64")
        for name, sizes in self.shapes.items():
            if any(size is not None and size < 1 for size in sizes):
                raise UsageError("option-value", f"--input {name} has the sizes {list(sizes)}; each is 1 at least")
        unknown = sorted(set(self.dtypes.values()) - set(DTYPES))
        if unknown:
            raise UsageError("option-value", f"there is no element type {unknown[0]!r}; known: {', '.join(DTYPES)}")
        if self.lift is not None and self.lift not in LAYER_PRECISIONS:
            known = ", ".join(LAYER_PRECISIONS)
            raise UsageError("option-value", f"layers cannot be lifted to {self.lift!r}; known: {known}")
        if self.lift_budget is not None and self.lift_budget < 1:
            raise UsageError("option-value", f"--lift-budget is {self.lift_budget}; at least one verification")
        if self.weight_bits not in (None, 7, 8):
            raise UsageError("option-value", f"--weight-bits is {self.weight_bits}; int8 weights have 7 or 8")
        if self.layout not in LAYOUTS:
            raise UsageError("option-value", f"there is no layout {self.layout!r}; known: {', '.join(LAYOUTS)}")
        if self.embedding is not None and not (self.embedding and self.reference):
            raise UsageError("option-value", "--embedding names a layer for the reference, so there must be one")
        if min(self.calibration_samples, 1 if self.evaluation_samples is None else self.evaluation_samples) < 1:
            raise UsageError("option-value", "at least one sample is needed")

    @property
    def inputs(self) -> tuple[Any, ...]:
        """What a conversion reads beside its source: paths, or values from Python."""
        return (self.calibration, self.evaluation, self.metadata, self.labels, self.rules, self.device)

    @property
    def format(self) -> str:
        """The format to write.

        Raises:
            UsageError: `format-unknown`, `format-missing`, `format-conflict`.
        """
        suffix = FORMATS.get(self.output.suffix.lower()) if self.output else None
        if self.to is not None and self.to not in FORMATS.values():
            known = ", ".join(FORMATS.values())
            raise UsageError("format-unknown", f"there is no format {self.to!r}; known: {known}")
        if self.to and suffix and self.to != suffix:
            raise UsageError("format-conflict", f"--to {self.to} and {self.output} contradict each other")
        if self.to is None and suffix is None:
            what = f"{self.output} has no suffix of a format" if self.output else "no format was named"
            raise UsageError("format-missing", f"{what}; name one of {', '.join(FORMATS.values())}")
        return self.to or suffix or ""

    def folded(self, how: Preprocess) -> Preprocess | None:
        """What goes into the graph of what comes before it."""
        return how if self.fold_preprocess else None

    def lowering(self, how: Preprocess, precision: Precision) -> tuple[str, str, Preprocess | None, bool, bool]:
        """What a float graph depends on: its format and layout, what is folded in, and two questions.

        Whether it decides exactly, and whether its numbers stay real ones.
        """
        exact = self.exact_labels and precision.name == "fp32"
        return self.format, self.layout, self.folded(how), exact, precision.real

    def recorded(self) -> dict[str, Any]:
        """What the manifest keeps of them: the options that change bytes, and no paths."""
        return {
            "precision": self.precision,
            "interface": self.interface,
            "allow_float_ops": self.allow_float_ops,
            **({} if self.weight_bits in (None, 8) else {"weight_bits": self.weight_bits}),
            "lift": self.lift,
            "lift_budget": self.lift_budget,
            "rules": encode(rules.read(self.rules)),
            "repairs": [self.repairs] if isinstance(self.repairs, str) else list(self.repairs),
            "layout": self.layout,
            **({} if self.exact_labels else {"exact_labels": False}),
            **({"fold_preprocess": True} if self.fold_preprocess else {}),
            **({} if self.reference else {"reference": False}),
            **({} if self.embedding is None else {"embedding": self.embedding}),
            "observer": self.observer,
            "percentile": self.percentile,
            "calibration_samples": self.calibration_samples,
            "evaluation_samples": self.evaluation_samples,
            "max_drop": self.max_drop,
            "seed": self.seed,
            "signature": self.signature,
            "shapes": {name: list(shape) for name, shape in self.shapes.items()},
            "dtypes": dict(self.dtypes),
            "model": self.model,
        }
