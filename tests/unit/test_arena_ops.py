"""Op by op: what LiteRT's delegate takes, and what its own kernels ask for, against the interpreter itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from memory_engines import engine, script

from edgekit import artifact
from edgekit.formats import read_facts
from edgekit.memory.delegate import taken

X = (1, 4, 4, 8)
FLOAT, INT8, UINT8, INT16, INT32, INT64, HALF = "FLOAT32", "INT8", "UINT8", "INT16", "INT32", "INT64", "FLOAT16"
_QUANTIZED = (INT8, UINT8, INT16)
_NUMPY = {FLOAT: np.float32, INT8: np.int8, UINT8: np.uint8, INT32: np.int32, INT64: np.int64, HALF: np.float16}


@dataclasses.dataclass(frozen=True)
class T:
    """A tensor; `data` makes it a constant, a `scale` of its own quantized."""

    shape: tuple[int, ...] = X
    dtype: str = FLOAT
    scale: float = 0.05
    zero: int = 0
    data: Any = None


def ones(*shape: int, dtype: str = FLOAT, scale: float = 0.05) -> T:
    return T(shape, dtype, scale, data=np.ones(shape))


def ints(*values: Any, dtype: str = INT32) -> T:
    return T(np.shape(values), dtype, data=values)


@dataclasses.dataclass(frozen=True)
class Case:
    """One op, and whether XNNPACK takes it in LiteRT 2.3."""

    kind: str
    reads: tuple[T, ...]
    writes: tuple[T, ...]
    inside: bool
    options: tuple[str, dict[str, Any]] | None = None

    def file(self, make: Callable[..., bytes]) -> bytes:
        from ai_edge_litert import schema_py_generated as schema

        tensors = []
        for number, tensor in enumerate((*self.reads, *self.writes)):
            about: dict[str, Any] = {"name": f"t{number}", "shape": tensor.shape, "dtype": tensor.dtype}
            if tensor.dtype in _QUANTIZED or tensor.scale != T.scale:
                about["quant"] = ([tensor.scale], [tensor.zero], 0)
            if tensor.data is not None:
                about["data"] = np.asarray(tensor.data, _NUMPY[tensor.dtype])
            tensors.append(about)
        options = None
        if self.options:
            options = getattr(schema, f"{self.options[0]}T")()
            for name, value in self.options[1].items():
                setattr(options, name, value)
        reads = tuple(range(len(self.reads)))
        writes = tuple(range(len(reads), len(tensors)))
        fed = tuple(n for n in reads if self.reads[n].data is None)
        return make(tensors, [(self.kind, reads, writes, options)], fed, writes)


def near(kind: str, first: float, second: float, *, inside: bool) -> Case:
    sides = T(dtype=INT8, scale=first), T(dtype=INT8, scale=second)
    return Case(kind, sides, (T(dtype=INT8),), inside, (f"{kind.title()}Options", {}))


def one(kind: str, dtype: str, into: T, *, inside: bool, scale: float = 0.05) -> Case:
    return Case(kind, (T(dtype=dtype, scale=scale),), (into,), inside)


def joined(count: int, *, inside: bool) -> Case:
    return Case(
        "CONCATENATION", (T(),) * count, (T((1, 4, 4, 8 * count)),), inside, ("ConcatenationOptions", {"axis": 3})
    )


def divided(count: int, *, inside: bool) -> Case:
    axis = T((), INT32, data=3)
    return Case(
        "SPLIT", (axis, T((1, 4, 4, 8 * count))), (T(),) * count, inside, ("SplitOptions", {"numSplits": count})
    )


def sliced(shape: tuple[int, ...], *, inside: bool, steps: int = 1, **masks: int) -> Case:
    bounds = ints(0, 0, 0, 0), ints(1, 2, 4, 8), ints(1, steps, 1, 1)
    return Case("STRIDED_SLICE", (T(), *bounds), (T(shape),), inside, ("StridedSliceOptions", masks))


def multiplied(dtype: str = FLOAT, right: T | None = None, *, inside: bool, zero: int = 0) -> Case:
    right = right or T((1, 2, 8, 6), dtype, zero=zero)
    return Case(
        "BATCH_MATMUL", (T((1, 2, 4, 8), dtype), right), (T((1, 2, 4, 6), dtype),), inside, ("BatchMatMulOptions", {})
    )


def leaky(alpha: float, *, inside: bool) -> Case:
    return Case("LEAKY_RELU", (T(dtype=INT8),), (T(dtype=INT8),), inside, ("LeakyReluOptions", {"alpha": alpha}))


def pooled(window: int, stride: int, *, inside: bool) -> Case:
    size = (4 - window) // stride + 1
    about = {"padding": 1, "strideW": stride, "strideH": stride, "filterWidth": window, "filterHeight": window}
    return Case("MAX_POOL_2D", (T(),), (T((1, size, size, 8)),), inside, ("Pool2DOptions", about))


def reduced(kind: str, dtype: str, *, inside: bool) -> Case:
    return Case(
        kind, (T(dtype=dtype), ints(1, 2)), (T((1, 8), dtype),), inside, ("ReducerOptions", {"keepDims": False})
    )


def dense(source: str, weights: T, bias: T | None, *, inside: bool) -> Case:
    reads = (T((2, 8), source), weights, *([bias] if bias else []))
    return Case("FULLY_CONNECTED", reads, (T((2, 6), source),), inside, ("FullyConnectedOptions", {}))


def convolved(weights: T, *, inside: bool, activation: int = 0) -> Case:
    about = {"strideW": 1, "strideH": 1, "fusedActivationFunction": activation}
    return Case("CONV_2D", (T(), weights, ones(8)), (T(),), inside, ("Conv2DOptions", about))


def spread(dtype: str, weights: str, bias: T) -> Case:
    reads = (ints(1, 8, 8, 6), ones(6, 2, 2, 8, dtype=weights), T(dtype=dtype), bias)
    return Case(
        "TRANSPOSE_CONV", reads, (T((1, 8, 8, 6), dtype),), True, ("TransposeConvOptions", {"strideW": 2, "strideH": 2})
    )


_STEPS = ("Conv3DOptions", {"strideD": 1, "strideW": 1, "strideH": 1})
CASES = {
    "relu": one("RELU", FLOAT, T(), inside=True),
    "relu of integers": one("RELU", INT8, T(dtype=INT8), inside=False),
    "near": near("ADD", 0.05, 0.05, inside=True),
    "a sum of what is too small": near("ADD", 0.05, 0.05 / 2000, inside=False),
    "a sum of what is too large": near("SUB", 0.05 * 300, 0.05, inside=False),
    "a product that is too large": near("MUL", 4.0, 4.0, inside=False),
    "a product": near("MUL", 2.0, 2.0, inside=True),
    "an activation that is not fused": Case("ADD", (T(), T()), (T(),), False,
                                            ("AddOptions", {"fusedActivationFunction": 4})),
    "too many axes": Case("ADD", (T((2,) * 7),) * 2, (T((2,) * 7),), False, ("AddOptions", {})),
    "five joined": joined(5, inside=True),
    "six joined": joined(6, inside=False),
    "in four": divided(4, inside=True),
    "in five": divided(5, inside=False),
    "a slice": sliced((1, 2, 4, 8), inside=True),
    "a slice with steps": sliced((1, 1, 4, 8), inside=False, steps=2),
    "a slice that loses an axis": sliced((2, 4, 8), inside=False, shrinkAxisMask=1),
    "a slice in long numbers": Case("SLICE", (T(), ints(0, 0, 0, 0, dtype=INT64), ints(1, 2, 2, 8, dtype=INT64)),
                                    (T((1, 2, 2, 8)),), True),
    "a slice of the rest": Case("SLICE", (T(), ints(0, 1, 0, 0), ints(1, -1, 4, 8)), (T((1, 3, 4, 8)),), False),
    "a matrix": multiplied(inside=True),
    "a matrix of integers": multiplied(INT8, inside=True),
    "a matrix of lopsided integers": multiplied(INT8, inside=False, zero=3),
    "a constant one of lopsided integers": multiplied(INT8, T((1, 2, 8, 6), INT8, zero=3, data=np.ones((1, 2, 8, 6))),
                                                         inside=False),
    "a matrix rounded at run time": multiplied(right=ones(1, 2, 8, 6, dtype=INT8), inside=True),
    "leaky": leaky(0.1, inside=True),
    "too little leaks": leaky(1 / 300, inside=False),
    "other integers": one("QUANTIZE", INT8, T(dtype=UINT8), inside=False),
    "the same integers": one("QUANTIZE", INT8, T(dtype=INT8, scale=0.1), inside=True),
    "the same integers, far apart": one("QUANTIZE", INT8, T(dtype=INT8, scale=0.05 / 200), inside=False),
    "halves": one("DEQUANTIZE", HALF, T(), inside=False),
    "shorts": one("DEQUANTIZE", INT16, T(), inside=False),
    "a reshape": Case("RESHAPE", (T(dtype=INT8), ints(1, 128)), (T((1, 128), INT8),), True),
    "a reshape that scales": Case("RESHAPE", (T(dtype=INT8), ints(1, 128)), (T((1, 128), INT8, 0.04),), False),
    "squeezed": Case("SQUEEZE", (T(),), (T((4, 4, 8)),), False, ("SqueezeOptions", {"squeezeDims": [0]})),
    "a pool": pooled(2, 2, inside=True),
    "a pool that skips": pooled(1, 2, inside=False),
    "a mean of integers": reduced("MEAN", INT8, inside=True),
    "a sum": reduced("SUM", FLOAT, inside=True),
    "a largest": reduced("REDUCE_MAX", INT8, inside=True),
    "a product of all": reduced("REDUCE_PROD", FLOAT, inside=False),
    "dense": dense(FLOAT, ones(6, 8), ones(6), inside=True),
    "dense without bias": dense(INT8, ones(6, 8, dtype=INT8), None, inside=True),
    "dense, rounded": dense(FLOAT, ones(6, 8, dtype=INT8), ones(6), inside=True),
    "dense by what is computed": dense(FLOAT, T((6, 8)), ones(6), inside=False),
    "convolution": convolved(ones(8, 3, 3, 8), inside=True),
    "convolution and tanh": convolved(ones(8, 3, 3, 8), inside=False, activation=4),
    "convolution, rounded": convolved(ones(8, 3, 3, 8, dtype=INT8), inside=True),
    "transposed": spread(FLOAT, FLOAT, ones(6)),
    "transposed, integers": spread(INT8, INT8, ones(6, dtype=INT32, scale=0.0025)),
    "transposed, rounded": spread(FLOAT, INT8, ones(6)),
    "softmax": Case("SOFTMAX", (T(),), (T(),), True, ("SoftmaxOptions", {"beta": 1.0})),
    "a sharper softmax": Case("SOFTMAX", (T(),), (T(),), False, ("SoftmaxOptions", {"beta": 2.0})),
    "volume": Case("CONV_3D", (T((1, 4, 4, 4, 8)), ones(3, 3, 3, 8, 8), ones(8)), (T((1, 4, 4, 4, 8)),), False,
                   _STEPS),
    "points of one": Case("CONV_3D", (T((1, 4, 4, 4, 8)), ones(1, 1, 1, 8, 8), ones(8)), (T((1, 4, 4, 4, 8)),), False,
                               _STEPS),
    "spectrum": Case("RFFT2D", (T((1, 4, 64)), ints(4, 64)), (T((1, 4, 33), "COMPLEX64"),), False,
                     ("Rfft2dOptions", {})),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_an_op_alone(make_tflite, tmp_path: Path, name: str):
    engine("ai-edge-litert")
    case = CASES[name]
    path = tmp_path / "one.tflite"
    path.write_bytes(case.file(make_tflite))
    arena = script("memory").arena
    graph = read_facts(artifact.read(path)).graphs[0]
    assert taken(graph) == [case.inside]
    for plain, threads in ((False, 1), (True, 1), (True, 2)):
        found = arena(path, threads, plain=plain)
        assert found["parts"] == ([1, 1] if case.inside and not plain else [0, 0])
        assert (found["planned"], found["misplaced"]) == (found["interpreter"], 0)


def test_halves_stay_outside_where_an_op_of_the_interpreter_reads_them(make_tflite, tmp_path: Path):
    """Expanded once, into memory that stays."""
    engine("ai-edge-litert")
    tensors = [
        {"name": "x", "shape": (1, 16), "dtype": FLOAT},
        {"name": "w", "shape": (16,), "dtype": HALF, "data": np.ones(16, np.float16)},
        {"name": "e", "shape": (16,), "dtype": FLOAT},
        *({"name": f"t{n}", "shape": (1, 16), "dtype": FLOAT} for n in range(2)),
    ]
    for last, inside in (("MUL", [True, True, True]), ("POW", [False, True, False])):
        ops = [("DEQUANTIZE", (1,), (2,), None), ("MUL", (0, 2), (3,), None), (last, (3, 2), (4,), None)]
        path = tmp_path / f"{last}.tflite"
        path.write_bytes(make_tflite(tensors, ops, (0,), (4,)))
        assert taken(read_facts(artifact.read(path)).graphs[0]) == inside
        for plain in (False, True):
            found = script("memory").arena(path, 1, plain=plain)
            assert (found["planned"], found["misplaced"]) == (found["interpreter"], 0)
            assert found["parts"][0] == found["parts"][1]
