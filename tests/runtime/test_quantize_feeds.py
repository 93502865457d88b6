"""Reals to integers and back, at the edges."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgekit.runtimes.base import dequantize, quantize
from edgekit.tensors import INTEGER_RANGE, QuantParams, TensorSpec

DTYPES = sorted(INTEGER_RANGE)


def spec_of(dtype, scale, zero):
    return TensorSpec("x", (None, 3), dtype, quant=QuantParams((scale,), (zero,)))


@given(
    dtype=st.sampled_from(DTYPES),
    scale=st.floats(2**-20, 1000, width=32),
    part=st.floats(0, 1),
    values=hnp.arrays(np.float32, 12, elements=st.floats(width=32, allow_nan=False, allow_infinity=False)),
)
def test_round_trip_is_within_half_a_step_or_saturated(dtype, scale, part, values):
    low, high = INTEGER_RANGE[dtype]
    zero = round(low + part * (high - low))
    spec = spec_of(dtype, scale, zero)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        integers = quantize(values, spec)
        back = dequantize(integers, spec)
    assert integers.dtype == dtype
    first, last = (low - zero) * scale, (high - zero) * scale
    expected = np.clip(values.astype(np.float64), first, last)
    # float32 itself is off by one in 2**23 of the largest number that takes part.
    slack = 0.5001 * scale + 1e-6 * np.maximum(np.abs(expected), scale)
    assert (np.abs(back - expected) <= slack).all()


@given(dtype=st.sampled_from(DTYPES), scale=st.floats(2**-20, 1000, width=32), zero=st.integers(-128, 255))
def test_integers_survive_the_way_there_and_back(dtype, scale, zero):
    low, high = INTEGER_RANGE[dtype]
    spec = spec_of(dtype, scale, min(max(zero, low), high))
    every = np.unique(np.linspace(low, high, 511).astype(dtype))
    np.testing.assert_array_equal(quantize(dequantize(every, spec), spec), every)


def test_per_channel():
    spec = TensorSpec("x", (2, 3), "int8", quant=QuantParams((0.5, 1.0, 2.0), (0, 10, -10), axis=1))
    real = np.array([[1, 1, 1], [-100, 200, 2]], np.float32)
    integers = quantize(real, spec)
    np.testing.assert_array_equal(integers, [[2, 11, -10], [-128, 127, -9]])
    np.testing.assert_array_equal(dequantize(integers, spec), [[1, 1, 0], [-64, 117, 2]])


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_like_onnxruntimes_quantize_linear(dtype):
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    scale, zero = 0.0371, 3
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["y"])],
            "q",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None])],
            [helper.make_tensor_value_info("y", helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), [None])],
            [
                numpy_helper.from_array(np.float32(scale).reshape(()), "s"),
                numpy_helper.from_array(np.array(zero, dtype), "z"),
            ],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    engine = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    # Values on and beside the middle between two steps, where rounding decides.
    steps = np.arange(-300, 300, dtype=np.float32)
    values = np.concatenate([(steps + part) * np.float32(scale) for part in (0, 0.25, 0.4999, 0.5, 0.5001)])
    (expected,) = engine.run(None, {"x": values})
    np.testing.assert_array_equal(quantize(values, spec_of(dtype, float(np.float32(scale)), zero)), expected)
