"""Probabilities of classes from those of each two, by the iteration of Wu, Lin and Weng that libsvm and engines run.

They stop well before it has settled, so the same steps are written out: more sweeps than any row takes, and a row that
is done keeps what it has.
"""

from __future__ import annotations

import numpy as np

from edgekit.converters.onnx_to_tflite import ml_scores, steps
from edgekit.converters.onnx_to_tflite.activations import Maths
from edgekit.converters.onnx_to_tflite.draft import Tensor
from edgekit.converters.onnx_to_tflite.linears import dense
from edgekit.converters.onnx_to_tflite.lowering import Lowering
from edgekit.converters.onnx_to_tflite.reductions import reduce
from edgekit.converters.onnx_to_tflite.refusal import Refused

_SWEEPS = 6
"""Random chances of 2 to 10 classes took at most 4."""
_CLASSES = 10


def coupled(low: Lowering, chances: Tensor, pairs: list[tuple[int, int]], classes: int) -> Tensor:
    """[N, classes] from the first class' chance in each of the pairs, [N, pairs].

    Raises:
        Refused: Too many classes to write the sweeps out.
    """
    if classes > _CLASSES:
        raise Refused(
            f"the probabilities of {classes} classes are iterated until they settle",
            "Train it without probability=True, and use the scores",
        )
    do, draft, count = Maths(low), low.draft, chances.shape[0]
    matrix = _matrix(low, chances, pairs, classes)
    rows = [_row(low, matrix, t) for t in range(classes)]
    share = steps.binary(draft, "MUL", ml_scores.column(low, chances, 0), draft.scalar(0.0, "float32"))
    share = do("ADD", share, draft.constant(np.full((1, classes), 1 / classes, np.float32)))
    for _ in range(_SWEEPS):
        beside = steps.binary(draft, "MUL", matrix, steps.reshape(draft, share, [count, 1, classes]))
        pull = reduce(low, "SUM", beside, [2], keep=False)
        total = reduce(low, "SUM", do("MUL", share, pull), [1])
        off = reduce(low, "REDUCE_MAX", do("ABS", do("SUB", pull, total)), [1])
        moved = _sweep(low, rows, share, pull, total)
        share = do.pick(do.test("LESS", off, 0.005 / classes), share, moved)
    return share


def _row(low: Lowering, matrix: Tensor, t: int) -> Tensor:
    """Row t of matrices [N, classes, classes]."""
    count, classes, _ = matrix.shape
    made = low.draft.emit("GATHER", [matrix, low.draft.ints([t])], [count, 1, classes], axis=1, batchDims=0)
    return steps.reshape(low.draft, made, [count, classes])


def _matrix(low: Lowering, chances: Tensor, pairs: list[tuple[int, int]], classes: int) -> Tensor:
    """Q [N, classes, classes]: on the diagonal the sums of squares of the others' chances, else minus products."""
    do, many = Maths(low), len(pairs)
    rest = do("SUB", 1.0, chances)
    parts = ml_scores.joined(low, do("MUL", chances, rest), do("SQUARE", chances), do("SQUARE", rest))
    place = np.zeros((classes, classes, 3 * many), np.float32)
    for at, (i, j) in enumerate(pairs):
        place[i, j, at] = place[j, i, at] = -1
        place[j, j, many + at] = 1
        place[i, i, 2 * many + at] = 1
    made = dense(low, parts, place.reshape(classes * classes, -1))
    return steps.reshape(low.draft, made, [chances.shape[0], classes, classes])


def _sweep(low: Lowering, rows: list[Tensor], share: Tensor, pull: Tensor, total: Tensor) -> Tensor:
    """One pass over the classes, each set to what is best while the others stay."""
    do, classes = Maths(low), len(rows)
    for t, row in enumerate(rows):
        own = ml_scores.column(low, row, t)
        step = do("DIV", do("SUB", total, ml_scores.column(low, pull, t)), own)
        scale = do("ADD", step, 1.0)
        mark = low.draft.constant(np.eye(classes, dtype=np.float32)[None, t])
        grown = do("ADD", do("MUL", step, own), do("MUL", ml_scores.column(low, pull, t), 2.0))
        total = do("DIV", do("ADD", total, do("MUL", step, grown)), do("MUL", scale, scale))
        pull = do("DIV", do("ADD", pull, do("MUL", step, row)), scale)
        share = do("DIV", do("ADD", share, do("MUL", step, mark)), scale)
    return share
