"""The active version of a named model, as an artifact."""

from __future__ import annotations

import os
from pathlib import Path

from edgekit import artifact as artifacts
from edgekit.artifact import Artifact
from edgekit.store.places import is_name
from edgekit.store.shelf import Shelf


def names_a_model(source: object) -> bool:
    """Whether this is the name of a model and not the path of a file."""
    return isinstance(source, str) and is_name(source) and not os.path.exists(source)  # noqa: PTH110 - text, not a path


def read(name: str, root: str | Path | None = None) -> Artifact:
    """The active version, checked against the digest it was received by.

    Raises:
        MissingFileError: `model-unknown`. ArtifactError: `artifact-damaged`, `store-damaged`, `store-newer`.
        TargetError: `store-unwritable`: the store cannot be read.
    """
    shelf = Shelf(name, root)
    data, record = shelf.read_active()
    assert record.active is not None  # noqa: S101 - something was read
    return artifacts.from_bytes(data, path=shelf.path(record.active))
