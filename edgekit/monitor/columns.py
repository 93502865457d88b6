"""What is watched: each call becomes one row of numbers, and each number has its column."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]
else:
    Array = np.ndarray  # the typing module of numpy costs a device a millisecond

Role = Literal["input", "embedding", "relation", "output", "confidence", "class", "unfamiliar"]

EMBEDDING = "embedding"
"""Role, and noun, of what is taken of a tensor inside the model."""

SEEN: tuple[Role, ...] = ("input", "embedding")
"""Roles of what tells of a sample before it is answered: relations, distances and faults are of these."""


@dataclass(frozen=True)
class Column:
    """One number of each sample.

    Attributes:
        name: Of the feature: "mean radius", "brightness", "band 3".
        source: The tensor that it is taken from.
        role: An "input"'s own feature; an "embedding"'s, which the model makes of the inputs; the "relation" of one of
            these to the others; a feature of an "output"; the "confidence" of the answer; its "class"; how "unfamiliar"
            the whole sample is.
        noun: What the feature is, for messages about several: "feature", "picture", "band", `EMBEDDING`.
    """

    name: str
    source: str
    role: Role
    noun: str = "feature"

    @property
    def where(self) -> str:
        side = "output" if self.role in ("output", "confidence", "class") else "input"
        side = EMBEDDING if self.noun == EMBEDDING else side
        if not self.source:
            return self.name
        return f"{side if self.source == side else f'{side} {self.source}'}: {self.name}"

    @property
    def key(self) -> str:
        """What it is called in a status: a number and what is left of it beside the others are two."""
        return f"{self.where}, given the others" if self.role == "relation" else self.where
