"""Static quantization of an ONNX graph by onnxruntime's QDQ quantizer, placed so that onnxruntime fuses it.

Which ops are quantized is one rule with three classes, each a set below:

- INTEGER ops have 8-bit kernels in onnxruntime's CPU provider. They and the moves between them are quantized.
- WRAPPED ops are element-wise, or normalize, and have none. Their inputs and outputs are stored in 8 bits like any others
  (so that the file holds integers from end to end, and another engine may compute them as such), onnxruntime
  computes them in float in between. They are listed among the float ops.
- All others compute on floats that no 8-bit grid should touch (recurrent state, bodies of loops, sorting, foreign ops):
  "op-not-quantizable", unless the user allows them; then they stay as they are and are listed too.

Activations are asymmetric *uint8*, not int8, for onnxruntime's sake. Both hold the same values. On x86 onnxruntime fuses
no convolution with int8 activations: it first turns int8 into uint8, and gives up on each tensor with two readers,
which is each residual block (1.32: 3 of 9 convolutions of a ResNet-8 fused, 187 instead of 90 us, slower than
its float). On Arm both are fused to the same kernels. Weights are symmetric int8, per output channel.

The trap of u8 x s8 products: without VNNI (x86 before Cascade Lake, or Alder Lake-N's predecessors) two such products are
added in 16 bits and saturate. Arm does not. Reducing weights to 7 bits would avoid it and cost every board accuracy, so
weights keep 8 bits; see `x86_without_vnni` for the warning.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.converters import onnx_graph
from edgekit.converters.onnx_graph import BYSTANDERS, View, attribute, has_subgraph
from edgekit.converters.stages import Range
from edgekit.errors import ConversionError

INTEGER = frozenset({
    "Conv", "Gemm", "MatMul", "Add", "Mul", "AveragePool", "GlobalAveragePool", "MaxPool", "Concat", "Relu", "Clip",
    "LeakyRelu", "Sigmoid", "Softmax", "Resize", "Where", "ArgMax", "ReduceMax", "ReduceMin",
})  # fmt: skip

WRAPPED = frozenset({
    "Abs", "Acos", "Asin", "Atan", "Ceil", "Celu", "Cos", "Div", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish",
    "Log", "LogSoftmax", "Max", "Mean", "Min", "Mish", "Mod", "Neg", "PRelu", "Pow", "Reciprocal", "Round", "Selu", "Sign", "Sin",
    "Softplus", "Softsign", "Sqrt", "Sub", "Sum", "Swish", "Tan", "Tanh", "ThresholdedRelu",
    "BatchNormalization", "GroupNormalization", "InstanceNormalization", "LayerNormalization", "LpNormalization",
    "MeanVarianceNormalization", "RMSNormalization", "LRN", "ReduceL1", "ReduceL2", "ReduceMean", "ReduceSum",
    "ReduceSumSquare", "ConvTranspose", "GlobalMaxPool", "LpPool", "Upsample",
})  # fmt: skip

MOVED = ("Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Gather", "GatherElements", "Split", "Expand", "Tile")
"""Moves that onnxruntime does on integers (it drops the pair around them)."""

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
