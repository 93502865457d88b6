"""How outputs are read: the `[interpret]` table of a manifest. `edgekit.runtimes.interpret` does what is said here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Task = Literal["classification", "multi-label", "regression", "detection", "other"]


@dataclass(frozen=True)
class Interpret:
    """How to read the output.

    Attributes:
        task: What the model answers.
        output: Name of the output that holds it; None for the first.
        labels: Class names in order, or empty.
        scores: Whether the output holds probabilities or logits.
        top_k: How many classes an answer lists.
    """

    task: Task = "other"
    output: str | None = None
    labels: tuple[str, ...] = ()
    scores: Literal["probabilities", "logits"] = "logits"
    top_k: int = 5
