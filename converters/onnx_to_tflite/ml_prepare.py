"""What prepares rows: Scaler, Normalizer, Imputer, Binarizer, OneHotEncoder, LabelEncoder, ArrayFeatureExtractor."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgekit.converters.onnx_to_tflite import ml_scores, steps
from edgekit.converters.onnx_to_tflite.activations import Maths
from edgekit.converters.onnx_to_tflite.draft import Array, Tensor
from edgekit.converters.onnx_to_tflite.lowering import Lowering
from edgekit.converters.onnx_to_tflite.nodes import Node
from edgekit.converters.onnx_to_tflite.reductions import reduce
from edgekit.converters.onnx_to_tflite.refusal import Refused
from edgekit.converters.onnx_to_tflite.registry import lowers

_ML = "ai.onnx.ml"


def _row(low: Lowering, x: Tensor, values: Any) -> Tensor:
    """One number a column, or one for all, beside x [..., columns]."""
    data = np.asarray(values, x.dtype).reshape(-1)
    if data.size not in (1, x.shape[-1]):
        raise Refused(f"it has {data.size} numbers for {x.shape[-1]} columns")
    return low.draft.constant(data.reshape((1,) * (x.rank - 1) + (-1,)))


@lowers("Scaler", domain=_ML)
def _scaler(low: Lowering, node: Node) -> None:
    x, do = steps.cast(low.draft, low.get(node.value()), "float32"), Maths(low)
    offset, scale = node.attribute("offset", ()), node.attribute("scale", ())
    made = do("SUB", x, _row(low, x, offset)) if len(offset) else x
    made = do("MUL", made, _row(low, x, scale)) if len(scale) else made
    ml_scores.answer(low, node.output, made, "float32")


@lowers("Normalizer", domain=_ML)
def _normalizer(low: Lowering, node: Node) -> None:
    x, do = steps.cast(low.draft, low.get(node.value()), "float32"), Maths(low)
    kind, axes = node.attribute("norm", "MAX"), [x.rank - 1]
    if kind == "MAX":
        size = reduce(low, "REDUCE_MAX", x, axes)
    elif kind == "L1":
        size = reduce(low, "SUM", do("ABS", x), axes)
    else:
        size = do("SQRT", reduce(low, "SUM", do("SQUARE", x), axes))
    nothing = do.test("EQUAL", size, 0.0)
    ml_scores.answer(low, node.output, do("DIV", x, do.pick(nothing, 1.0, size)), "float32")


@lowers("Imputer", domain=_ML)
def _imputer(low: Lowering, node: Node) -> None:
    x, dtype = low.get(node.value()), node.value().dtype
    whole = not dtype.startswith("float")
    values = node.attribute("imputed_value_int64s" if whole else "imputed_value_floats", ())
    replaced = node.attribute("replaced_value_int64" if whole else "replaced_value_float", 0)
    if not len(values):
        raise Refused("it does not say what to put in")
    lacking = x if replaced != replaced else low.draft.scalar(replaced, x.dtype)  # noqa: PLR0124 - NaN
    kind = "NOT_EQUAL" if lacking is x else "EQUAL"
    missing = steps.binary(low.draft, kind, x, lacking, "bool")
    ml_scores.answer(low, node.output, steps.select(low.draft, missing, _row(low, x, values), x), dtype)


@lowers("Binarizer", domain=_ML)
def _binarizer(low: Lowering, node: Node) -> None:
    x, dtype = low.get(node.value()), node.value().dtype
    limit = low.draft.scalar(node.attribute("threshold", 0.0), "float32")
    passed = steps.binary(low.draft, "GREATER", steps.cast(low.draft, x, "float32"), limit, "bool")
    ml_scores.answer(low, node.output, steps.cast(low.draft, passed, steps.carrier(dtype)), dtype)


@lowers("OneHotEncoder", domain=_ML)
def _one_hot(low: Lowering, node: Node) -> None:
    known = node.attribute("cats_int64s", ())
    if not known:
        raise Refused("its categories are texts", "Encode texts as numbers before the model")
    if not node.attribute("zeros", 1):
        low.notes["unknown categories become zeros, where ONNX would stop with an error"] = None
    x = low.get(node.value())
    # Numbers with a fraction count as the whole number toward zero, as a cast has it.
    whole = steps.cast(low.draft, x, "int64")
    same, _ = _matches(low, whole, np.asarray(known, np.int64))
    ml_scores.answer(low, node.output, steps.cast(low.draft, same, "float32"), "float32")


def _matches(low: Lowering, x: Tensor, keys: Array) -> tuple[Tensor, tuple[int, ...]]:
    """[..., keys] bool: which key each element of x is; and the shape without the last axis."""
    beside = steps.reshape(low.draft, x, [*x.shape, 1])
    data = low.draft.constant(keys.reshape((1,) * x.rank + (-1,)))
    return steps.binary(low.draft, "EQUAL", beside, data, "bool"), x.shape


_NUMBERS = ("tensor", "int64s", "floats")


def _listed(node: Node, prefix: str) -> Array:
    for name in _NUMBERS:
        found = node.attribute(f"{prefix}_{name}")
        if found is not None and len(found):
            dtype = {"int64s": "int64", "floats": "float32"}.get(name)
            return np.asarray(found, dtype).reshape(-1)
    raise Refused(f"its {prefix} are texts", "Encode texts as numbers before and after the model")


@lowers("LabelEncoder", domain=_ML, since=2)
def _label_encoder(low: Lowering, node: Node) -> None:
    draft, keys, values = low.draft, _listed(node, "keys"), _listed(node, "values")
    x = low.get(node.value())
    _, first = np.unique(keys, return_index=True)
    keys, values = keys[np.sort(first)].astype(x.dtype), values[np.sort(first)]
    fallback = _fallback(node, values.dtype.name)
    same, shape = _matches(low, x, keys)
    nan = np.isnan(keys) if keys.dtype.kind == "f" else np.zeros(len(keys), bool)
    if nan.any():
        missing = steps.reshape(draft, steps.binary(draft, "NOT_EQUAL", x, x, "bool"), [*shape, 1])
        column = draft.constant(nan.reshape((1,) * len(shape) + (-1,)))
        missing = steps.binary(draft, "LOGICAL_AND", missing, column, "bool")
        same = steps.binary(draft, "LOGICAL_OR", same, missing, "bool")
    # The number of the key, from 1 on; 0 where there is none.
    numbers = np.arange(1, len(keys) + 1, dtype=np.int32).reshape((1,) * len(shape) + (-1,))
    weighted = steps.binary(draft, "MUL", steps.cast(draft, same, "int32"), draft.constant(numbers))
    place = reduce(low, "SUM", weighted, [len(shape)], keep=False)
    table = np.concatenate([[fallback], values]).astype(steps.carrier(values.dtype.name))
    made = draft.emit("GATHER", [draft.constant(table), place], place.shape, axis=0, batchDims=0)
    ml_scores.answer(low, node.output, made, values.dtype.name)


def _fallback(node: Node, dtype: str) -> Any:
    """What unknown keys become."""
    given = node.attribute("default_tensor")
    if given is not None and given.size:
        return given.reshape(-1)[0]
    return node.attribute("default_int64", -1) if dtype == "int64" else node.attribute("default_float", -0.0)


@lowers("ArrayFeatureExtractor", domain=_ML)
def _extractor(low: Lowering, node: Node) -> None:
    value, indices, draft = node.value(0), node.value(1), low.draft
    x = low.get(value)
    if value.rank == 1:
        x = steps.reshape(draft, x, [1, value.size])
    places = steps.reshape(draft, steps.cast(draft, low.get(indices), "int32"), [indices.size])
    shape = [*x.shape[:-1], indices.size]
    made = draft.emit("GATHER", [x, places], shape, axis=x.rank - 1, batchDims=0)
    ml_scores.answer(low, node.output, made, value.dtype)


@lowers("FeatureVectorizer", domain=_ML)
def _vectorizer(low: Lowering, node: Node) -> None:
    draft, parts = low.draft, []
    for value, width in zip(node.inputs, node.attribute("inputdimensions", ()), strict=True):
        if value is None:
            raise Refused("one of its inputs is missing")
        x = steps.cast(draft, low.get(value), "float32")
        x = steps.reshape(draft, x, [value.size, 1]) if value.rank == 1 else x
        count = x.shape[1]
        if width < count:
            x = draft.emit("GATHER", [x, draft.ints(range(width))], [x.shape[0], width], axis=1, batchDims=0)
        elif width > count:
            pads = draft.constant(np.array([[0, 0], [0, width - count]], np.int32))
            x = draft.emit("PAD", [x, pads], [x.shape[0], width])
        parts.append(x)
    ml_scores.answer(low, node.output, ml_scores.joined(low, *parts) if len(parts) > 1 else parts[0], "float32")


@lowers("ZipMap", domain=_ML)
def _zip_map(low: Lowering, node: Node) -> None:
    del low, node
    raise Refused(
        "it makes a list of dictionaries, and TFLite has tensors only",
        "Export the model without it: to_onnx(..., options={'zipmap': False})",
    )
