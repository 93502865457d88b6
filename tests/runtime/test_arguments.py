"""Numbers that mean nothing are refused where they are given, by a typed error: not by the engine, nor a call later."""

from __future__ import annotations

import numpy as np
import pytest

import edgekit
from edgekit.errors import UsageError
from edgekit.runtimes import bounds

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    "wrong",
    [
        {"threads": 0}, {"threads": 1_000_000}, {"threads": "x"}, {"threads": 2.0},
        {"watchdog": 0}, {"watchdog": -1.0}, {"watchdog": NAN}, {"watchdog": INF}, {"watchdog": "1"},
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["int8.tflite", "fp32.onnx"])
def test_what_a_model_is_opened_with(artifacts, kind, wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))) as caught:
        edgekit.load(artifacts[kind], **wrong)
    assert caught.value.code == "option-value"


def test_numbers_of_numpy_are_numbers(artifacts):
    with edgekit.load(artifacts["fp32.onnx"], threads=np.int64(1), watchdog=np.float32(60)) as model:
        model.warm_up(np.int8(1))
        for wrong in (-1, 1.5, "1"):
            with pytest.raises(UsageError, match="times"):
                model.warm_up(wrong)


def test_bounds():
    assert bounds.whole("n", True) == 1
    assert bounds.seconds("s", 1) == 1.0
    assert bounds.seconds("s", 0, least=0.0) == 0.0
    with pytest.raises(UsageError, match=r"n is 9; it is a whole number from 2 to 8"):
        bounds.whole("n", 9, least=2, most=8)
    with pytest.raises(UsageError, match=r"s is 0; it is a number of seconds, positive, at most 1e\+09"):
        bounds.seconds("s", 0)
    with pytest.raises(UsageError, match=r"s is -1; it is a number of seconds, at least 0, at most 1e\+09"):
        bounds.seconds("s", -1, least=0.0)
