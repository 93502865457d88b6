"""A source in memory: what every loader returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from edgekit.converters.stages import Feeds, LoadedFacts
from edgekit.converters.verification.answering import Answering


@dataclass(frozen=True)
class Loaded:
    """A `LoadedModel`.

    Attributes:
        facts: See `LoadedFacts`.
        handle: What the lowerings of its framework take: a modern ModelProto with all data inside, the bytes of a
            TFLite graph, a TfModel.
        answering: Asks the source, in its own framework and as it was given.
        precision: What it is stored in: "fp32", or for a quantized source the nearest of our precisions.
        exact: Format -> a handle for a file that stays float32: it decides as a source that computes in double does.
    """

    facts: LoadedFacts
    handle: Any
    answering: Answering
    precision: str = "fp32"
    exact: dict[str, Any] = field(default_factory=dict)

    def run(self, feeds: Feeds) -> Feeds:
        """Answer any number of samples; see `Answering.run`."""
        return self.answering.run(feeds)
