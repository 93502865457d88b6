"""Cross-layer equalization: see `scaling`."""

from __future__ import annotations

from edgekit.converters.repairs import scaling
from edgekit.converters.repairs.repair import Case, Change, Kind
from edgekit.converters.repairs.view import View

TITLE = "channels of very different size are scaled between layers, so that one scale suits all of them"
KIND: Kind = "floats"
ORDER = 10


def apply(case: Case, opened: View) -> Change:
    """Groups of tensors that only layers make."""
    return scaling.change(case, opened, normalized=False)
