"""Multiply-accumulates of TFLite's ops.

Taps that fall on padding are counted, and additions of biases are not, as is usual for published figures.
Shapes of the operands: the kernels' own checks (tflite/kernels/conv.cc, depthwise_conv.cc, conv3d.cc,
transpose_conv.cc, conv3d_transpose.cc, fully_connected.cc, batch_matmul.cc, lstm.cc, unidirectional_sequence_lstm.cc,
bidirectional_sequence_lstm.cc, basic_rnn.cc, bidirectional_sequence_rnn.cc, svdf.cc).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from edgekit.formats.facts import Shape

_UNKNOWN = frozenset({
    "STABLEHLO_CONVOLUTION", "STABLEHLO_DOT_GENERAL", "STABLEHLO_CUSTOM_CALL", "STABLEHLO_REDUCE",
    "STABLEHLO_REDUCE_WINDOW", "STABLEHLO_SCATTER", "STABLEHLO_SORT", "STABLEHLO_WHILE", "STABLEHLO_CASE",
    "DELEGATE", "RFFT2D", "LSH_PROJECTION",
})  # fmt: skip
"""Builtin ops that multiply by an amount that is not derived here. All others but those below do none."""

_CUSTOM_WITHOUT = frozenset({"TFLite_Detection_PostProcess"})
"""Custom ops known to multiply nothing by weights."""

_LSTM_WEIGHTS = (*range(1, 12), 16)
"""Input, recurrent, peephole and projection weights of lstm.cc and unidirectional_sequence_lstm.cc."""

_BIDIRECTIONAL_LSTM_WEIGHTS = (*range(1, 12), 16, *range(18, 29), 33)
_BIDIRECTIONAL_LSTM_AUXILIARY = (39, tuple(range(40, 48)))
_BIDIRECTIONAL_RNN_WEIGHTS = (1, 2, 5, 6)
_BIDIRECTIONAL_RNN_AUXILIARY = (9, (10, 11))

WEIGHTED = {
    "CONV_2D": 1, "DEPTHWISE_CONV_2D": 1, "CONV_3D": 1, "TRANSPOSE_CONV": 1, "CONV_3D_TRANSPOSE": 1,
    "FULLY_CONNECTED": 1, "BATCH_MATMUL": 1, "LSTM": 2, "UNIDIRECTIONAL_SEQUENCE_LSTM": 2,
    "BIDIRECTIONAL_SEQUENCE_LSTM": 2, "RNN": 1, "UNIDIRECTIONAL_SEQUENCE_RNN": 1, "BIDIRECTIONAL_SEQUENCE_RNN": 1,
    "SVDF": 1,
}  # fmt: skip
"""Ops that multiply by weights -> position of an input that holds weights whenever the op is complete."""

TRANSPOSED = frozenset({"TRANSPOSE_CONV", "CONV_3D_TRANSPOSE"})
"""Those whose data is input 2; elsewhere it is input 0."""


def count(
    kind: str, inputs: Sequence[Shape | None], outputs: Sequence[Shape | None], *, adjoint: bool, basic: bool
) -> int | None:
    """Multiply-accumulates of one op.

    Args:
        kind: As in `OpFacts.kind`.
        inputs: Shapes; None for an optional input that is absent.
        outputs: Shapes.
        adjoint: BATCH_MATMUL transposes its left operand.
        basic: LSTM uses the kernel whose weights are one matrix.

    Returns:
        The count, 0 for ops that do not multiply by weights; None when it cannot be known.
    """
    if kind.startswith("CUSTOM:"):
        return 0 if kind.removeprefix("CUSTOM:") in _CUSTOM_WITHOUT else None
    if kind in _UNKNOWN or kind.startswith("UNKNOWN:"):
        return None
    if kind not in WEIGHTED:
        return 0
    at = _Operands(inputs)
    try:
        if kind.endswith(("LSTM", "RNN", "SVDF")):
            return _recurrent(kind, at, basic=basic)
        return _dense(kind, at, outputs, adjoint=adjoint)
    except LookupError:
        return None


class _Operands:
    """Input shapes by position; LookupError for one that is absent or of the wrong rank."""

    def __init__(self, shapes: Sequence[Shape | None]) -> None:
        self._shapes = shapes

    def __call__(self, index: int, rank: int | None = None) -> Shape:
        shape = self._shapes[index] if index < len(self._shapes) else None
        if shape is None or (rank is not None and len(shape) != rank):
            raise LookupError(index)
        return shape

    def elements(self, indices: Sequence[int]) -> int:
        """Of all those that are there."""
        return sum(math.prod(s) for i in indices if i < len(self._shapes) and (s := self._shapes[i]) is not None)


def _dense(kind: str, at: _Operands, outputs: Sequence[Shape | None], *, adjoint: bool) -> int:
    output = _Operands(outputs)(0)
    if kind == "CONV_2D":  # filter [out, height, width, in / groups]
        return math.prod(output) * math.prod(at(1, 4)[1:])
    if kind == "DEPTHWISE_CONV_2D":  # filter [1, height, width, out]
        return math.prod(output) * math.prod(at(1, 4)[1:3])
    if kind == "CONV_3D":  # filter [depth, height, width, in, out]
        return math.prod(output) * math.prod(at(1, 5)[:4])
    if kind == "TRANSPOSE_CONV":  # inputs: output shape, filter [out, height, width, in], input
        return math.prod(at(2, 4)) * math.prod(at(1, 4)[:3])
    if kind == "CONV_3D_TRANSPOSE":  # inputs: output shape, filter [depth, height, width, out, in], input
        return math.prod(at(2, 5)) * math.prod(at(1, 5)[:4])
    if kind == "FULLY_CONNECTED":  # weights [units, in]
        return math.prod(output) * at(1, 2)[1]
    left = at(0)  # [..., rows, inner], or its adjoint
    return math.prod(output) * left[-2 if adjoint else -1]


def _recurrent(kind: str, at: _Operands, *, basic: bool) -> int:
    if kind == "LSTM":  # input [batch, in]; the basic kernel has one matrix [4 out, in + out]
        return at(0, 2)[0] * (math.prod(at(2, 2)) if basic else at.elements(_LSTM_WEIGHTS))
    if kind in ("RNN", "SVDF"):  # input [batch, in]
        return at(0, 2)[0] * at.elements((1, 2))
    steps = math.prod(at(0, 3)[:2])  # [time, batch, in] or [batch, time, in]
    if kind == "UNIDIRECTIONAL_SEQUENCE_LSTM":
        return steps * at.elements(_LSTM_WEIGHTS)
    if kind == "UNIDIRECTIONAL_SEQUENCE_RNN":
        return steps * at.elements((1, 2))
    long = kind == "BIDIRECTIONAL_SEQUENCE_LSTM"
    weights = _BIDIRECTIONAL_LSTM_WEIGHTS if long else _BIDIRECTIONAL_RNN_WEIGHTS
    extra, auxiliary = _BIDIRECTIONAL_LSTM_AUXILIARY if long else _BIDIRECTIONAL_RNN_AUXILIARY
    return steps * (at.elements(weights) + (at.elements(auxiliary) if at.elements((extra,)) else 0))
