"""Data as the user names it: what options, requests and readers share."""

from __future__ import annotations

from dataclasses import dataclass, field

from edgekit.manifest import Preprocess

LABEL_NAMES = ("y", "label", "labels")
"""Where labels are looked for when the user names no other."""


@dataclass(frozen=True)
class DataRef:
    """Calibration or evaluation data, as the user named it.

    Attributes:
        path: `.npz`, `.npy`, `.csv`, an image, a WAV file, or a folder of images or WAV files.
        label: Name of the label column (csv) or array (npz); None for the defaults ("y", "label", "labels").
        needs_label: Without that column the data is refused; calibration does without labels.
        samples: Draw at most this many, by a seeded shuffle over all; None for all of them.
        seed: Of that shuffle.
        preprocess: How raw files become arrays.
        classes: Class names of the model in order; folders and text labels of these names get their indices. Without
            them, or with other names, the names that are found are numbered in sorted order.
        columns: What the model calls its columns, in order, where it knows: those of a table are found by name.
    """

    path: str
    label: str | None = None
    samples: int | None = None
    seed: int = 0
    preprocess: Preprocess = field(default_factory=Preprocess)
    classes: tuple[str, ...] = ()
    needs_label: bool = True
    columns: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.samples is not None and self.samples < 1:
            raise ValueError("at least one sample is needed")
