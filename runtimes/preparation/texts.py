"""Text as bytes: UTF-8, a number each, cut or padded."""

from __future__ import annotations

import numpy as np

from edgekit.errors import FeedError
from edgekit.feeding import TextSteps
from edgekit.runtimes.base import Array
from edgekit.tensors import TensorSpec


def text_array(text: str | bytes, steps: TextSteps, spec: TensorSpec) -> Array:
    """[length] of the input's dtype, without the batch axis. A text that is cut may end inside a character.

    Raises:
        FeedError: `feed-dtype`: the text is not Unicode, or a number is outside of what the input's integers hold.
    """
    try:
        data = text.encode() if isinstance(text, str) else text
    except UnicodeEncodeError as error:  # half of a pair, which is what names of files have for bytes that are no text
        raise FeedError("feed-dtype", f"{spec.name} takes text, and this holds what is none: {error.reason}",
                        next_step="Pass the bytes themselves: os.fsencode(text).") from error  # fmt: skip
    length = steps.length or next((size for size in spec.shape[1:] if size), None) or len(data)
    kept = data[:length] if steps.side == "right" else data[max(len(data) - length, 0) :]
    values = np.frombuffer(kept, np.uint8).astype(np.int64) + steps.shift
    made = np.full(length, steps.pad, np.int64)
    if steps.side == "right":
        made[: len(values)] = values
    else:
        made[length - len(values) :] = values
    dtype = np.dtype(np.float32 if spec.quant is not None or spec.dtype == "string" else spec.dtype)
    if dtype.kind in "iu" and made.size:
        limits, low, high = np.iinfo(dtype), int(made.min()), int(made.max())
        if low < limits.min or high > limits.max:
            raise FeedError(
                "feed-dtype",
                f"{spec.name} takes {dtype}, and the text makes numbers from {low} to {high} of it",
                next_step="Set [preprocess.text] shift and pad so that bytes (0 to 255) become numbers of that type.",
            )
    return made.astype(dtype)
