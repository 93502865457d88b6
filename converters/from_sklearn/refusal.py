"""What of an estimator cannot be converted."""

from __future__ import annotations

from edgekit.errors import SourceError


def unsupported(what: str, why: str, next_step: str | None = None) -> SourceError:
    """The refusal of an estimator, by its name."""
    return SourceError("sklearn-unsupported", f"{what} cannot be converted: {why}", next_step=next_step)
