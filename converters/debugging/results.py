"""What `edgekit debug` finds, typed; `to_dict` is the JSON document."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from edgekit.converters.debugging.figures import Figures, Histogram, Spread


@dataclass(frozen=True)
class Weights:
    """A layer's constant matrix as the artifact stores it.

    Attributes:
        name: Its tensor.
        dtype: Of the integers.
        scales: One, or one a channel.
        peaks: Largest magnitude a channel, real units.
        saturation: Share of integers at the ends of their range, beyond the one a scale that it is made for.
        levels: Fewest different integers that a channel uses.
        bias_peak: Largest magnitude of the bias' int32, as a share of what int32 holds; None without one.
    """

    name: str
    dtype: str
    scales: tuple[float, ...]
    peaks: tuple[float, ...]
    saturation: float
    levels: int
    bias_peak: float | None = None


@dataclass(frozen=True)
class Reason:
    """Why a layer is noisy.

    Attributes:
        code: Of the test that said so.
        text: In words, with this layer's figures.
        options: Options of `edgekit convert` that would mend it, the likeliest first.
    """

    code: str
    text: str
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Layer:
    """One layer of an artifact beside the float graph.

    Attributes:
        name: Of its tensor in the artifact.
        source_layer: What the source calls it, where it has names.
        op: Of the artifact; "input" for an input of the model.
        number: Place in the graph's order; -1 for inputs.
        reference: The tensor of the float graph.
        paired_by: What said that the two belong together: interface, name, structure or values.
        dtype: Stored as.
        shape: Of one run.
        scale, zero_point: Of its integers, where they have one.
        cumulative: All upstream quantized, as in the artifact.
        isolated: Only this layer quantized, the float values of its inputs in the artifact's integers; None where it
            cannot be run alone.
        own: The same, less what the float graph makes of those rounded inputs: this layer's own doing.
        spread: Of the values.
        contribution: Share (0..1) of the error that all layers alone make at the outputs; None where not measured.
            What a reader's weights lose on an outlier channel is counted for the layer that made the channel.
        output_error: That error: mean over the outputs of noise over signal when only this layer is quantized.
        reasons: The first is the likeliest.
        inputs: What it reads: tensors of the artifact.
        weights: Its constant matrix, where it has one.
        histogram: Of the worst layers only.
        inputs_range: Range of each real input in the float graph.
    """

    name: str
    source_layer: str | None
    op: str
    number: int
    reference: str
    paired_by: str
    dtype: str
    shape: tuple[int, ...]
    scale: float | None
    zero_point: int | None
    cumulative: Figures
    isolated: Figures | None
    own: Figures | None
    spread: Spread
    contribution: float | None = None
    output_error: float | None = None
    reasons: tuple[Reason, ...] = ()
    inputs: tuple[str, ...] = ()
    weights: Weights | None = None
    histogram: Histogram | None = None
    inputs_range: tuple[tuple[float, float], ...] = ()
    is_output: bool = False
    representable: tuple[float, float] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Flat, as scripts read it: the cumulative figures bear no prefix, the isolated ones `isolated_`."""
        document: dict[str, Any] = {
            "name": self.name,
            "source_layer": self.source_layer,
            "op": self.op,
            "number": self.number,
            "reason": self.reasons[0].text if self.reasons else None,
            "remedy": self.reasons[0].options[0] if self.reasons and self.reasons[0].options else None,
            "contribution": self.contribution,
            "output_error": self.output_error,
            **_flat(self.cumulative, ""),
            **_flat(self.isolated, "isolated_"),
            "own_sqnr_db": None if self.own is None else self.own.sqnr_db,
            "saturation": self.spread.saturation,
            "at_ends": self.spread.at_ends,
            "levels": self.spread.levels,
            "range": [self.spread.low, self.spread.high],
            "representable": None if self.representable is None else list(self.representable),
            "dtype": self.dtype,
            "shape": list(self.shape),
            "scale": self.scale,
            "zero_point": self.zero_point,
            "reference": self.reference,
            "paired_by": self.paired_by,
            "inputs": list(self.inputs),
            "reasons": [asdict(reason) for reason in self.reasons],
            "channel_peaks": list(self.spread.peaks),
        }
        if self.weights is not None:
            document["weights"] = asdict(self.weights)
        if self.histogram is not None:
            document["histogram"] = asdict(self.histogram)
        return document


def _flat(found: Figures | None, prefix: str) -> dict[str, Any]:
    names = ("sqnr_db", "cosine", "kl", "max_abs_error", "shift")
    return {prefix + name: None if found is None else getattr(found, name) for name in names}


@dataclass(frozen=True)
class TensorStatistics:
    """One side of a divergence."""

    name: str
    shape: tuple[int, ...]
    min: float
    max: float
    mean: float
    std: float
    zeros: float
    not_finite: int


@dataclass(frozen=True)
class Divergence:
    """The first node whose answer is another although what it reads is right.

    Attributes:
        layer: Tensor of the artifact.
        source_layer: What the source calls it.
        op: Of the artifact.
        relative_error: Largest error as a share of the float values' range, given right inputs.
        tolerance: What it was compared with.
        sample: Index of the worst sample.
        at: Place of the worst value.
        expected, found: The values there.
        reference, artifact: Statistics of both tensors.
    """

    layer: str
    source_layer: str | None
    op: str
    relative_error: float
    tolerance: float
    sample: int
    at: tuple[int, ...]
    expected: float
    found: float
    reference: TensorStatistics
    artifact: TensorStatistics


@dataclass(frozen=True)
class Output:
    """An output of the artifact beside the source's own answer.

    Attributes:
        name: Public.
        sqnr_db: Artifact beside the source's framework; None where both are equal.
        lowered_sqnr_db: The float graph beside the source's framework.
        relative_error, lowered_relative_error: Largest error as a share of the output's range.
    """

    name: str
    sqnr_db: float | None
    lowered_sqnr_db: float | None
    relative_error: float
    lowered_relative_error: float


@dataclass(frozen=True)
class Examination:
    """Everything that the engine's side found.

    Attributes:
        samples: How many were compared.
        layers: In the graph's order.
        unpaired: Tensors of the artifact without a counterpart: "ADD (name)".
        outputs: Beside the source's own answers.
        divergence: Float artifacts only.
        diverging: Float artifacts: layers beyond the tolerance, in the graph's order.
        notes: For the user.
    """

    samples: int
    layers: tuple[Layer, ...]
    unpaired: tuple[str, ...] = ()
    outputs: tuple[Output, ...] = ()
    divergence: Divergence | None = None
    diverging: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())
