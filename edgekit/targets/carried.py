"""Data on its way to a board: photos, sounds and tables become arrays here, where decoders and disk space are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit import artifact as artifacts
from edgekit.data import Dataset, open_data
from edgekit.data_objects import label_name, spill
from edgekit.data_ref import DataRef
from edgekit.formats import read_facts
from edgekit.tensors import sampled

if TYPE_CHECKING:
    from edgekit.tensors import TensorSpec

_AS_THEY_ARE = (".npz", ".npy")


def carried(data: DataRef, model: Path, folder: Path, *, first: int | None = None) -> DataRef:
    """The data as a file of arrays that a board reads with numpy alone.

    Args:
        data: As the user named it.
        model: Whose inputs it is for.
        folder: Where arrays are written that were not arrays.
        first: So many samples are enough.

    Raises:
        DataError, MissingFileError: As `edgekit.data.open_data`.
    """
    if Path(data.path).suffix.lower() in _AS_THEY_ARE:
        return data
    opened = artifacts.read(model)
    about = opened.manifest
    prepared = replace(data, preprocess=about.preprocess, classes=about.interpret.labels) if about else data
    named = about or read_facts(opened)
    inputs = sampled(named.inputs, named.outputs)
    found = open_data(prepared, inputs)
    if found.labelled:
        found.require_classes()
    return spill(_samples(found, inputs, first), inputs, folder)


def _samples(data: Dataset, inputs: tuple[TensorSpec, ...], first: int | None) -> Iterator[dict[str, Any]]:
    label = label_name(inputs)
    # Names whose order is a guess stay names: whoever measures says so.
    names = np.asarray(data.class_names) if data.guess else None
    for number, batch in enumerate(data.batches(1)):
        if number == first:
            return
        labels = batch.labels if names is None or batch.labels is None else names[batch.labels][:, None]
        yield {**batch.feeds, **({} if labels is None else {label: labels})}
