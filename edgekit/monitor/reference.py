"""The reference: what the data of a conversion looked like, as distributions of a few numbers; part of the artifact.

Kept are means, deviations, shares of bins and correlations, nothing of a single sample (see `edgekit.monitor.bins`).
The statistics on the device take into account that it is itself a sample of `samples`: a hundred tell little.

As bytes: see `edgekit.monitor.packing`; arrays are little-endian, in the order of `_dtypes`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby

import numpy as np

from edgekit.codec import decode, encode
from edgekit.errors import ArtifactError
from edgekit.monitor import packing, partial
from edgekit.monitor.columns import SEEN, Array, Column, Role
from edgekit.monitor.estimate import Estimator

LIMIT = 48 * 1024
"""Bytes of a reference: in an ONNX file it is text, a quarter longer, and stays under 64 kB."""

KNOWN = 10
"""Samples that tell a number, at least: one that fewer have is kept as if none had it."""

ENDS = 3
"""The third number from either end stands for those beyond: of a single one, means and deviations would tell."""

VERSION = 3
CLIP = 8.0
"""Standard deviations beyond which a number counts as so many, so that one outlier does not rule a correlation."""


@dataclass(frozen=True)
class Group:
    """Columns of one tensor, as they are stored."""

    source: str
    role: Role
    noun: str
    names: tuple[str, ...]


def grouped(columns: Iterable[Column]) -> tuple[Group, ...]:
    """Columns by tensor."""
    return tuple(
        Group(*key, tuple(column.name for column in found))
        for key, found in groupby(columns, lambda column: (column.source, column.role, column.noun))
    )


@dataclass(frozen=True)
class Header:
    """What stands before the arrays.

    Attributes:
        version: Of this layout and of the features.
        groups: Columns of the inputs, then of the outputs, those of one tensor together.
        samples: Different samples that the inputs were seen of.
        proven: Samples that the outputs were seen of: evaluation data where there was enough.
        evaluated: Those are evaluation data, which the model was not trained with.
        bins: Padded number of bins.
        classes: Of the answer; 0 for a model without.
        relations: Whether relations between inputs are watched: there were samples enough.
        shrink: Weight of the identity in the correlations that are inverted.
        unfamiliar: Distance of the middle sample, and the one that a hundredth pass.
        labels: Names of classes.
        estimator: Of the accuracy; None without labels.
        absent: Share of samples in which each number of the inputs is missing, as the model admits; None where none is.
        distinct: No two samples are alike by chance, as those of categories are; None where nobody looked.
    """

    version: int
    groups: tuple[Group, ...]
    samples: int
    proven: int
    evaluated: bool
    bins: int
    classes: int
    relations: bool
    shrink: float
    unfamiliar: tuple[float, float]
    labels: tuple[str, ...] = ()
    estimator: Estimator | None = None
    absent: tuple[float, ...] | None = None
    distinct: bool | None = None

    def __post_init__(self) -> None:
        if self.version != VERSION:
            raise ValueError(f"version {self.version} is none of {VERSION}")
        if not (0 < self.samples < 1 << 31 and 0 < self.proven < 1 << 31 and 0 < self.bins <= 256):
            raise ValueError("samples and bins are positive numbers")
        if not 0 <= self.classes <= 4096 or sum(len(group.names) for group in self.groups) > 1024:
            raise ValueError("so many columns and classes are not watched")

    @property
    def columns(self) -> tuple[Column, ...]:
        """Of all groups."""
        return tuple(
            Column(name, group.source, group.role, group.noun) for group in self.groups for name in group.names
        )

    @property
    def inputs(self) -> int:
        """Columns of the inputs, and of what the model makes of them inside."""
        return sum(len(group.names) for group in self.groups if group.role in SEEN)


@dataclass(frozen=True, eq=False)
class Reference:
    """See the module header. Arrays are of `columns`: those of the header, then relations, then the whole's distance,
    then confidence.

    Attributes:
        header: What is not an array.
        mean, deviation: [k] float64, of the numbers as they are.
        inner: [k, bins - 1] float16, edges in deviations from the mean, ascending, padded with infinity.
        counts: [k, bins]: samples in each bin, to six bits of significance.
        frequencies: [classes]: how often each class was answered.
        partials: Of the inputs' columns: see `edgekit.monitor.partial`.
        reach: [inputs, 2]: the smallest and the largest numbers in deviations, three of each taken together.
        usual: [inputs]: share of the most frequent number; 1 for one that hardly ever changes.
        anchors: Of the estimate of the accuracy, as its header names them; empty without labels.
    """

    header: Header
    mean: Array
    deviation: Array
    inner: Array
    counts: Array
    frequencies: Array
    partials: Array
    reach: Array
    usual: Array
    anchors: Mapping[str, Array] = field(default_factory=dict)

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        """All that is watched, in the order of the arrays."""
        return watched(self.header)

    @cached_property
    def mass(self) -> Array:
        """[k, bins]: shares of the bins."""
        return np.asarray(self.counts / self.counts.sum(axis=1, keepdims=True))

    @cached_property
    def sizes(self) -> Array:
        """[k]: samples behind each column."""
        return np.asarray(self.counts.sum(axis=1))

    @cached_property
    def correlation(self) -> Array:
        """[inputs, inputs]: of the inputs' columns."""
        return partial.correlations(self.partials, self.header.inputs, self.header.samples)

    @cached_property
    def precision(self) -> Array:
        """[inputs, inputs]: inverse of the shrunken correlations; the identity where relations are not watched."""
        return inverse(self.correlation, self.header.shrink if self.header.relations else 1.0)

    def to_bytes(self) -> bytes:
        """Equal references give equal bytes."""
        dtypes = _dtypes(self.header)
        arrays = {**vars(self), **self.anchors}
        return packing.packed(encode(self.header), [np.asarray(arrays[name], dtypes[name]) for name in dtypes])

    @classmethod
    def from_bytes(cls, data: bytes) -> Reference:
        """Read one.

        Raises:
            ArtifactError: `reference-invalid`: these are not its bytes, or those of another version.
        """
        try:
            text, rest = packing.header_of(data)
            header = decode(Header, text)
            arrays = packing.arrays_of(rest, _dtypes(header), _shapes(header))
        except (ValueError, TypeError, RecursionError) as error:
            raise ArtifactError("reference-invalid", f"the reference cannot be read: {error}") from error
        kept = {} if header.estimator is None else {name: arrays.pop(name) for name in header.estimator.shapes}
        return cls(header, **arrays, anchors=kept)


def watched(header: Header) -> tuple[Column, ...]:
    """Columns of the arrays, from those of the header."""
    inputs = [column for column in header.columns if column.role in SEEN]
    found = list(header.columns)
    if header.relations:
        found += [Column(column.name, column.source, "relation", column.noun) for column in inputs]
    if inputs:
        found.append(Column("distance from the reference", "", "unfamiliar", "sample"))
    if header.classes:
        found += [Column(name, "", "confidence", "answer") for name in ("confidence", "margin", "entropy")]
    return tuple(found)


def _dtypes(header: Header) -> dict[str, str]:
    kept = {} if header.estimator is None else {name: dtype for name, (dtype, _) in header.estimator.shapes.items()}
    return {
        "mean": "<f8", "deviation": "<f8", "inner": "<f2", "counts": "<u2", "frequencies": "<u4", "partials": "<i2",
        "reach": "<f2", "usual": "<f2", **kept,
    }  # fmt: skip


def _shapes(header: Header) -> dict[str, tuple[int, ...]]:
    number, inputs = len(watched(header)), header.inputs
    kept = {} if header.estimator is None else {name: sizes for name, (_, sizes) in header.estimator.shapes.items()}
    return {
        "mean": (number,),
        "deviation": (number,),
        "inner": (number, header.bins - 1),
        "counts": (number, header.bins),
        "frequencies": (header.classes,),
        "partials": (inputs * (inputs - 1) // 2,),
        "reach": (inputs, 2),
        "usual": (inputs,),
        **kept,
    }


def inverse(correlation: Array, shrink: float) -> Array:
    """Of (1 - shrink) R + shrink I."""
    size = len(correlation)
    return np.asarray(np.linalg.inv((1 - shrink) * correlation + shrink * np.eye(size)))


def distances(z: Array, precision: Array) -> tuple[Array, Array]:
    """What each number is beyond what the others let expect [n, k], and the whole's distance [n], from numbers in
    deviations [n, k].

    With P the inverse correlation, (Pz)_i / sqrt(P_ii) is the residual of number i given all others, in units of about
    its own deviation; sqrt(z'Pz / k) is Mahalanobis' distance a column.
    """
    weighted, whole = weighed(z.clip(-CLIP, CLIP), precision)
    return weighted / np.sqrt(np.diag(precision)), whole


def weighed(z: Array, precision: Array) -> tuple[Array, Array]:
    """Pz [n, k] and the distance [n], see `distances`; of numbers that are cut."""
    weighted = z @ precision
    return weighted, np.sqrt(np.maximum(np.einsum("nk,nk->n", weighted, z), 0.0) / z.shape[1])
