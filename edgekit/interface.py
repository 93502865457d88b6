"""What running a model needs of its manifest, read without the rest: a tenth of a small app's start.

`edgekit.manifest` has the whole; both read the document through `document` here.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from edgekit.codec import CodecError, decode
from edgekit.errors import ArtifactError
from edgekit.tensors import TensorSpec

SCHEMA = 1
"""Of the manifest."""

T = TypeVar("T")


class Interface(NamedTuple):
    """How to feed a model and what it computes with.

    Attributes:
        inputs, outputs: By public name, in the model's order.
        ops: Operator name -> how often.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    ops: dict[str, int]


def parse(text: str | bytes) -> Interface:
    """Read the interface out of a manifest.

    Raises:
        ArtifactError: As `document`.
    """
    return document(text, _interface)


def document(text: str | bytes, read: Callable[[dict[str, Any]], T]) -> T:
    """Read a manifest's JSON.

    Args:
        text: The member.
        read: Makes of the document what is wanted; may raise ValueError.

    Raises:
        ArtifactError: `manifest-invalid`, or `manifest-newer` for a schema this version does not know.
    """
    try:
        data = json.loads(text)
        if not isinstance(data, dict):
            raise CodecError(f"expected a table, got {type(data).__name__}")
        schema = data.get("schema")
        if isinstance(schema, int) and schema > SCHEMA:
            raise ArtifactError("manifest-newer", f"the manifest has schema {schema}, this edgekit reads {SCHEMA}")
        return read(data)
    except (ValueError, KeyError, TypeError, RecursionError) as error:  # the last: JSON nested without end
        if isinstance(error, ArtifactError):
            raise
        raise ArtifactError("manifest-invalid", f"the manifest cannot be read: {error}") from error


def _interface(data: dict[str, Any]) -> Interface:
    return Interface(_specs(data, "inputs"), _specs(data, "outputs"), dict(data["needs"]["ops"]))


def _specs(data: dict[str, Any], side: str) -> tuple[TensorSpec, ...]:
    return tuple(decode(TensorSpec, item, where=f"{side}[{place}]") for place, item in enumerate(data[side]))
