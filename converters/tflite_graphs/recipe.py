"""Recipes for ai-edge-quantizer: which operator gets how many bits, and one scale a channel or one for all.

The last entry that fits an operator holds, so they stand in order from all to single ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from edgekit.converters.stages import Range
from edgekit.converters.tflite_graphs import graph as files
from edgekit.converters.tflite_graphs import ranges as tflite_ranges
from edgekit.converters.tflite_graphs import rewrites
from edgekit.converters.tflite_graphs.graph import ModelT

_COMPARED = ("EQUAL", "NOT_EQUAL")
"""Their int8 kernels round small scales away; islands compare exactly."""


def static(
    model: ModelT, ranges: Mapping[str, Range], base: int, bits: Mapping[str, int], unknown: Iterable[str]
) -> Any:
    """Integers by observed ranges.

    Args:
        model: The float graph, rewritten.
        ranges: By tensor.
        base: Bits of the activations of most operators.
        bits: The same by each tensor that an operator makes; 0 for those that stay in float.
        unknown: Tensors without a range: what the source computes in float.
    """
    from ai_edge_quantizer import algorithm_manager, qtyping, recipe_manager

    operation = qtyping.TFLOperationName
    recipe = recipe_manager.RecipeManager()

    def quantized(scope: str, name: Any, granularity: Any, wide: int) -> None:
        recipe.add_static_config(
            scope, name, activation_num_bits=wide, weight_num_bits=8, weight_granularity=granularity
        )

    def left(scope: str, name: Any) -> None:
        recipe.add_quantization_config(scope, name, algorithm_key=algorithm_manager.AlgorithmName.NO_QUANTIZE)

    quantized(".*", operation.ALL_SUPPORTED, qtyping.QuantGranularity.CHANNELWISE, base)
    quantized(".*", operation.BATCH_MATMUL, qtyping.QuantGranularity.TENSORWISE, base)
    for scope, wide in _exceptions(model, base, bits):
        # What has no kernel of that width must not get the width of all others instead. Another spelling of the
        # scope, because an entry for all operators replaces those that were there.
        left(f"(?:{scope})", operation.ALL_SUPPORTED)
        if wide:
            quantized(scope, operation.ALL_SUPPORTED, qtyping.QuantGranularity.CHANNELWISE, wide)
            quantized(scope, operation.BATCH_MATMUL, qtyping.QuantGranularity.TENSORWISE, wide)
            for name in _COMPARED:
                left(scope, operation(name))
    for name in rewrites.dense_of_several_rows(model):
        if bits[name] == 16:
            quantized(_scope(name), operation.FULLY_CONNECTED, qtyping.QuantGranularity.TENSORWISE, 16)
    for name in rewrites.matmuls_of_constant_left(model):
        if bits[name] == 16:
            left(_scope(name), operation.BATCH_MATMUL)  # there is no kernel of int8 by int16
    # What happens inside branches and loops is not observed.
    left(rewrites.BRANCHES, operation.ALL_SUPPORTED)
    for name in _COMPARED:
        left(".*", operation(name))
    for name in tflite_ranges.divisions_near_zero(model, ranges, bits):
        left(_scope(name), operation.DIV)
    for name in unknown:
        # The source computes these in float; matrices keep their integer weights.
        left(_scope(name), operation.ALL_SUPPORTED)
        for kind in (operation.FULLY_CONNECTED, operation.CONV_2D):
            recipe.add_dynamic_config(_scope(name), kind, 8)
    return recipe.get_quantization_recipe()


def _exceptions(model: ModelT, base: int, bits: Mapping[str, int]) -> Iterable[tuple[str, int]]:
    graph = model.subgraphs[0]
    for op in graph.operators or ():
        made = [files.name_of(graph.tensors[int(index)]) for index in op.outputs]
        if made and bits[made[0]] != base:
            yield _scope(*made), bits[made[0]]


def _scope(*names: str) -> str:
    """The quantizer's way to say which operator: a pattern for the names of its outputs."""
    return f"^{';'.join(map(re.escape, names))};?$"


def dynamic(model: ModelT, narrow: Iterable[str] = ()) -> Any:
    """Integer weights; activations are quantized while running, where there is a kernel for that.

    Args:
        model: The float graph, rewritten.
        narrow: Names of what FULLY_CONNECTED operators make whose weights get 4 bits.
    """
    from ai_edge_quantizer import algorithm_manager, qtyping, recipe_manager

    operation = qtyping.TFLOperationName
    recipe = recipe_manager.RecipeManager()
    recipe.add_dynamic_config(".*", operation.ALL_SUPPORTED, 8)
    for name in (operation.FULLY_CONNECTED, operation.BATCH_MATMUL):
        recipe.add_dynamic_config(".*", name, 8, granularity=qtyping.QuantGranularity.TENSORWISE)
    for name in (operation.DEPTHWISE_CONV_2D, operation.CONV_2D_TRANSPOSE):
        recipe.add_weight_only_config(".*", name, 8)
    for output in narrow:
        recipe.add_dynamic_config(
            _scope(output), operation.FULLY_CONNECTED, 4, granularity=qtyping.QuantGranularity.CHANNELWISE
        )
    for output in rewrites.matmuls_of_constant_left(model):  # there is no kernel of int8 by float
        recipe.add_quantization_config(
            _scope(output), operation.BATCH_MATMUL, algorithm_key=algorithm_manager.AlgorithmName.NO_QUANTIZE
        )
    return recipe.get_quantization_recipe()
