"""Which repairs can do anything for a layer: those that change the graph reach only what their rules let them pass.

A channel can be scaled where a layer makes it and a layer reads it with a Relu, an addition, a pooling between; not
through attention, a sigmoid or a Relu6. What is no use is not recommended.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from edgekit.converters.debugging.results import Layer
from edgekit.converters.repairs import channels, repair_split_outputs
from edgekit.converters.repairs.view import open_view
from edgekit.converters.stages import Graph

_SCALING = ("--repair equalize", "--repair smooth")
_SPLITTING = "--repair split-outputs"


@dataclass(frozen=True)
class Reach:
    """Of the float graph's tensors.

    Attributes:
        scaled: Tensor whose channels can be scaled -> the option that does it.
        split: Tensors at outputs whose parts can have scales of their own.
    """

    scaled: Mapping[str, str] = field(default_factory=dict)
    split: frozenset[str] = frozenset()

    def in_vain(self, layer: Layer) -> set[str]:
        """Options that would find nothing to do at a layer."""
        useful = {self.scaled.get(layer.reference), _SPLITTING if layer.reference in self.split else None}
        return {option for option in (*_SCALING, _SPLITTING) if option not in useful}


def reach(graph: Graph) -> Reach:
    """Of a float graph, in the artifact's format.

    Raises:
        SourceError: `tflite-unreadable`. ConversionError: `onnx-unreadable`.
    """
    opened = open_view(graph)
    scaled: dict[str, str] = {}
    for group in channels.groups(opened):
        scaled |= dict.fromkeys((*group.tensors, *_made(group)), _SCALING[group.normalized])
    return Reach(scaled, repair_split_outputs.splittable(opened))


def _made(group: channels.Group) -> tuple[str, ...]:
    """Sums before the Relu that an engine takes into the layer."""
    return tuple(layer.name for layer in group.makers)
