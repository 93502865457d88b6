"""The files of a graph under repair: what a repair changed, and its quantized form, whose answers are compared."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from edgekit.converters.jobs import QuantizeRequest, quantize_to_compare
from edgekit.converters.repairs.view import View
from edgekit.converters.stages import Graph, QuantizeOptions, Ranges


class Workbench:
    """Makes them, each under a name of its own.

    Args:
        folder: Where they lie.
        precision: Name of a static one.
        quantizing: How to quantize; may be set anew when rules join.
    """

    def __init__(self, folder: Path, precision: str, quantizing: QuantizeOptions) -> None:
        self.quantizing = quantizing
        self._folder, self._precision = folder, precision
        self._count = 0

    def written(self, graph: Graph, opened: View, stem: str = "settled") -> Graph:
        """The graph as it was changed; `stem` says by what, to whoever looks at the folder."""
        path = self._path(stem, graph.format)
        opened.write(path)
        return replace(graph, path=str(path))

    def quantized(self, graph: Graph, ranges: Ranges) -> Graph:
        """Its integers, with floats at the ends.

        Raises:
            ConversionError: As `Quantizer.quantize`.
        """
        path = str(self._path("quantized", graph.format))
        return quantize_to_compare(QuantizeRequest(graph, ranges, self._precision, self.quantizing, path))

    def _path(self, stem: str, format: str) -> Path:
        self._count += 1
        return self._folder / f"{stem}{self._count}.{format}"
