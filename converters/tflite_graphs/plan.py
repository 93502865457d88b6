"""Which operators of a TFLite graph compute in how many bits: the precision's own, and what rules say otherwise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from edgekit.converters import rules as matching
from edgekit.converters.rules import Layer
from edgekit.converters.tflite_graphs import graph as files
from edgekit.converters.tflite_graphs import rewrites
from edgekit.converters.tflite_graphs.graph import ModelT, OperatorT, SubGraphT
from edgekit.rules import Rule

BITS = {"int8": 8, "int16x8": 16, "fp16": 0, "float": 0}
"""Precision of a layer -> width of its activations; 0 where it computes in float."""


def layers(model: ModelT) -> list[Layer]:
    """The operators of the main graph."""
    graph = model.subgraphs[0]
    return [_layer(model, graph, op) for op in graph.operators or ()]


def _layer(model: ModelT, graph: SubGraphT, op: OperatorT) -> Layer:
    return Layer(
        files.op_name(model, op),
        tuple(files.name_of(graph.tensors[int(index)]) for index in op.inputs if int(index) >= 0),
        tuple(files.name_of(graph.tensors[int(index)]) for index in op.outputs),
    )


def plan(model: ModelT, rules: Sequence[Rule], base: int) -> Plan:
    """Match the rules.

    Args:
        model: The float graph as the user sees it, its tensors named uniquely.
        rules: In order.
        base: Bits where no rule says otherwise.

    Raises:
        UsageError: `rule-unmatched`.
    """
    known = layers(model)
    return Plan(base, tuple(rules), known, matching.assign(known, rules))


@dataclass
class Plan:
    """Widths of a graph's operators.

    Attributes:
        base: Bits of the activations where no rule says otherwise.
        lifted: The operators that rules took to another precision: "CONV_2D (stem): int16x8".
        in_float: Those among them that compute in float.
    """

    base: int
    _rules: tuple[Rule, ...]
    _layers: list[Layer]
    _marked: dict[str, int]
    lifted: tuple[str, ...] = ()
    in_float: tuple[str, ...] = ()
    _half: set[str] = field(default_factory=set)

    def width(self, tensor: str) -> int:
        """Bits of the operator of the float graph that makes a tensor, before any were folded."""
        return BITS[self._rules[self._marked[tensor]].precision] if tensor in self._marked else self.base

    def settle(self, model: ModelT) -> dict[str, int]:
        """Bits by each tensor that an operator makes, once operators were folded: names of the float graph hold."""
        main = model.subgraphs[0]
        numbers = matching.settle(self._layers, layers(model), self._marked)
        bits = {files.name_of(graph.tensors[index]): self.base for graph, index in _made(model)}
        lifted, in_float = [], []
        for op in main.operators or ():
            made = [files.name_of(main.tensors[int(index)]) for index in op.outputs]
            if not made or made[0] not in numbers:
                continue
            precision = self._rules[numbers[made[0]]].precision
            if BITS[precision] == self.base:
                continue
            bits |= dict.fromkeys(made, BITS[precision])
            called = rewrites.called(model, main, op)
            lifted.append(f"{called}: {precision}")
            in_float += [called] if not BITS[precision] else []
            if precision == "fp16":
                self._half |= {made[0]}
        self.lifted, self.in_float = tuple(lifted), tuple(in_float)
        return bits

    def store_half(self, model: ModelT) -> None:
        """Store the weights of operators that a rule takes to fp16 as float16, in the quantized graph."""
        graph = model.subgraphs[0]
        read = {
            files.name_of(graph.tensors[int(index)])
            for op in graph.operators or ()
            if len(op.outputs) and files.name_of(graph.tensors[int(op.outputs[0])]) in self._half
            for index in op.inputs
            if int(index) >= 0
        }
        if read:
            rewrites.weights_to_half(model, read)


def _made(model: ModelT) -> Iterator[tuple[SubGraphT, int]]:
    for graph in model.subgraphs:
        for op in graph.operators or ():
            yield from ((graph, int(index)) for index in op.outputs)
