"""Reader of the verification policy: `policy.toml` beside this file holds the figures and their reasons."""

from __future__ import annotations

import functools
import tomllib
from dataclasses import dataclass
from importlib import resources

from edgekit.codec import decode
from edgekit.errors import UsageError


@dataclass(frozen=True)
class Policy:
    """Bounds; None where a policy does not ask.

    Attributes:
        relative_error: Largest error over the output's range in the source.
        agreement: Share of samples with the same top-1, ties aside.
        cosine: Similarity of all values.
        metric: Labels decide where there are any.
        decided_margin: Margin in probability from which the source counts as decided.
        decided_agreement: Share of those with the same top-1.
        sqnr_db: For outputs that are no class scores.
    """

    relative_error: float | None = None
    agreement: float | None = None
    cosine: float | None = None
    metric: bool = False
    decided_margin: float = 0.2
    decided_agreement: float | None = None
    sqnr_db: float | None = None


@functools.cache
def policies() -> dict[str, Policy]:
    """All policies by name."""
    text = resources.files("edgekit.converters").joinpath("policy.toml").read_text(encoding="utf-8")
    return {name: decode(Policy, table, strict=True, where=name) for name, table in tomllib.loads(text).items()}


def policy(name: str) -> Policy:
    """One policy.

    Raises:
        UsageError: `policy-unknown`.
    """
    if name not in policies():
        raise UsageError("policy-unknown", f"there is no policy {name!r}; known: {', '.join(policies())}")
    return policies()[name]
