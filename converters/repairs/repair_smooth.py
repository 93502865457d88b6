"""Outliers of activations behind normalizations, as in transformers, move into the weights that read them."""

from __future__ import annotations

from edgekit.converters.repairs import scaling
from edgekit.converters.repairs.repair import Case, Change, Kind
from edgekit.converters.repairs.view import View

TITLE = "outlier channels behind a normalization are made smaller there and larger in the weights that read them"
KIND: Kind = "floats"
ORDER = 20


def apply(case: Case, opened: View) -> Change:
    """Groups of tensors that a normalization makes."""
    return scaling.change(case, opened, normalized=True)
