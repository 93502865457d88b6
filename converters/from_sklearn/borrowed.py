"""Estimators that skl2onnx writes: those of its many that were found to come out right, and that are not written here.

skl2onnx is asked for one estimator at a time, and its graph becomes part of ours.
"""

from __future__ import annotations

from typing import Any

from edgekit.converters.from_sklearn.draft import ML_OPSET, OPSET, Draft
from edgekit.converters.from_sklearn.refusal import unsupported
from edgekit.errors import SourceError

TRANSFORMERS = frozenset({"KernelPCA"})
PREDICTORS = frozenset({"AdaBoostRegressor"})
"""Regressors: labels of skl2onnx's classifiers are decided in float32."""


def transformed(model: Any, width: int, draft: Draft, x: str) -> str:
    """Write a transformer.

    Raises:
        SourceError: `sklearn-unsupported`, `source-framework-missing`.
    """
    return _inlined(model, width, draft, x)


def predicted(model: Any, width: int, draft: Draft, x: str) -> dict[str, str]:
    """Write a regressor; see `transformed`."""
    import numpy as np

    value = _inlined(model, width, draft, x)
    return {"output": draft.add("Reshape", value, draft.constant([-1], np.int64))}


def _inlined(model: Any, width: int, draft: Draft, x: str) -> str:
    try:
        from skl2onnx import convert_sklearn
        from skl2onnx.common.data_types import FloatTensorType
    except ImportError as error:
        raise SourceError(
            "source-framework-missing",
            f"a {type(model).__name__} needs skl2onnx, which is not installed: {error}",
            next_step="pip install 'edgekit-sdk[sklearn]'",
        ) from error
    inputs = [("input", FloatTensorType([None, width]))]
    try:
        made = convert_sklearn(model, initial_types=inputs, target_opset={"": OPSET, "ai.onnx.ml": ML_OPSET})
    except Exception as error:  # its converters raise anything, most often RuntimeError and NotImplementedError
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise unsupported(type(model).__name__, f"skl2onnx refuses it: {line[:200]}") from error
    return draft.inline(made, x)[0]
