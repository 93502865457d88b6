"""Precisions: which numbers the weights and the activations are stored as.

A precision is data (`edgekit/converters/precisions/NAME.toml`); nothing is ever parsed out of its name. A stranger's
precision is the same TOML text, returned by a function named in the entry point group `edgekit.precisions`.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from typing import Any, Literal

from edgekit.codec import CodecError, decode
from edgekit.errors import UsageError
from edgekit.registry import Registry
from edgekit.rules import LayerPrecision

Kind = Literal["float", "dynamic", "static"]
Interface = Literal["int8", "float"]


@dataclass(frozen=True)
class FormatRules:
    """What a precision means in one format.

    Attributes:
        interface: The element type of inputs and outputs unless `--io` says otherwise: "int8" or "float".
        interfaces: What `--io` may choose.
        notes: Said as a warning whenever this format and precision are chosen.
        lifts: What layers may be lifted to where accuracy asks for it, the first that does it is taken; none for
            precisions that all layers share.
    """

    interface: Interface = "float"
    interfaces: tuple[Interface, ...] = ("float",)
    notes: tuple[str, ...] = ()
    lifts: tuple[LayerPrecision, ...] = ()

    def __post_init__(self) -> None:
        if self.interface not in self.interfaces:
            raise ValueError(f"interface {self.interface!r} is not among {', '.join(self.interfaces)}")


@dataclass(frozen=True)
class Precision:
    """One precision.

    Attributes:
        name: What `--precision` takes.
        title: One line for lists.
        kind: "float": no integers; "dynamic": integer weights, activations quantized while running;
            "static": both, by ranges observed in calibration.
        weights, activations: Element types.
        policy: The section of the verification policy that judges it.
        observer: How calibration decides on ranges unless `--observer` says otherwise.
        repairs: What `--repair auto` tries (see `edgekit.converters.repairs`); static precisions only.
        float_ops: What happens to ops that have no integer kernel: they are "refused" unless `--allow-float-ops` is
            given, or stay in float and are "listed", where a precision mixes floats in anyway.
        formats: The formats it exists for.
    """

    name: str
    title: str
    kind: Kind
    weights: Literal["float32", "float16", "int8", "int4"]
    activations: Literal["float32", "int8", "int16"]
    policy: str
    formats: dict[str, FormatRules]
    observer: str = "minmax"
    repairs: tuple[str, ...] = ()
    float_ops: Literal["refused", "listed"] = "refused"

    @property
    def calibrated(self) -> bool:
        """Whether it needs ranges observed on data."""
        return self.kind == "static"

    @property
    def real(self) -> bool:
        """Whether weights and activations stay real numbers."""
        return self.weights in ("float32", "float16")

    def rules(self, format: str) -> FormatRules:
        """What this precision means in `format`.

        Raises:
            UsageError: `precision-format`: the precision does not exist there.
        """
        if format not in self.formats:
            raise UsageError("precision-format", f"{self.name} exists for {', '.join(self.formats)}, not for {format}")
        return self.formats[format]


def parse(name: str, text: Any) -> Precision:
    """Read a precision from TOML text (or from a function that returns it).

    Raises:
        UsageError: `precision-invalid`: the text is not a valid precision; the message names the field.
    """
    try:
        return decode(Precision, {"name": name, **tomllib.loads(text() if callable(text) else text)}, strict=True)
    except (CodecError, tomllib.TOMLDecodeError) as error:
        raise UsageError("precision-invalid", f"the precision {name!r} is invalid: {error}") from error


precisions: Registry[Precision] = Registry(
    kind="precision",
    package="edgekit.converters.precisions",
    prefix="",
    suffix=".toml",
    group="edgekit.precisions",
    read=parse,
)
