"""Text as bytes: UTF-8, a number each, cut or padded."""

from __future__ import annotations

import numpy as np

from edgekit.feeding import TextSteps
from edgekit.runtimes.base import Array
from edgekit.tensors import TensorSpec


def text_array(text: str | bytes, steps: TextSteps, spec: TensorSpec) -> Array:
    """[length] of the input's dtype, without the batch axis. A text that is cut may end inside a character."""
    data = text.encode() if isinstance(text, str) else text
    length = steps.length or next((size for size in spec.shape[1:] if size), None) or len(data)
    kept = data[:length] if steps.side == "right" else data[max(len(data) - length, 0) :]
    values = np.frombuffer(kept, np.uint8).astype(np.int64) + steps.shift
    made = np.full(length, steps.pad, np.int64)
    if steps.side == "right":
        made[: len(values)] = values
    else:
        made[length - len(values) :] = values
    real = spec.quant is not None or spec.dtype == "string"
    return made.astype(np.float32 if real else spec.dtype)
