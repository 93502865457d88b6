"""Tables in text, `.csv`: one row a sample, spilled once as numbers, never held whole.

Comma, semicolon and tab divide, whichever the header has. An empty field, or what pandas writes for one, is NaN, which
the lint then names. What cannot be told apart from a mistake is refused: a first line that is a sample, a row without
its label. Where the model's columns have names, those of the file are found by name; rows that [preprocess.table] tells
of are prepared as `predict` does, so that a model is calibrated and judged on what the board will feed it.
"""

from __future__ import annotations

import csv
import os
import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.data_columns import FAILURES, ArrayColumn, Found, class_indices
from edgekit.data_ref import DataRef
from edgekit.errors import DataError, FeedError, some
from edgekit.feeding import MISSING_TEXTS, TRUTH_TEXTS
from edgekit.runtimes import preprocess
from edgekit.runtimes.preparation.rows import row_array
from edgekit.tensors import TensorSpec

_DIVIDERS = ",;\t"
_WHOLE: dict[str, np.dtype[Any]] = {"i": np.dtype(np.int64), "u": np.dtype(np.uint64)}
"""First letter of an input's integers -> as which they are spilled."""
_SAVE = (
    "Save it as UTF-8 with a header of names, one row a sample, and numbers such as 0.5 in all columns but the label."
)
_PREPARE = "[preprocess.table] says how: `missing` what stands in for a value, `categories` which there are."


def read(path: Path, ref: DataRef, spec: TensorSpec) -> Found:
    """The rows of a table; see `edgekit.data.open_data` for the errors."""
    texts: list[str] = []
    names: list[str] = []
    count = line = 0
    # What a number of 64 bits holds is rounded, if at all, when the model is fed.
    dtype = np.dtype(np.float64) if not _counts(spec) else _WHOLE[spec.dtype[0]]
    try:
        with open(path, encoding="utf-8-sig", newline="") as file, tempfile.TemporaryFile() as spilled:
            first = file.readline()
            file.seek(0)
            rows = csv.reader(file, delimiter=_divider(first))
            names = [name.strip() for name in next(rows, [])]
            at = _label_column(path, names, ref)
            fed = _Fed(path, [name if i != at else None for i, name in enumerate(names)], ref, spec)
            for row in rows:
                line = rows.line_num
                if not row:
                    continue
                if len(row) != len(names):
                    raise _unreadable(path, line, f"has {len(row)} fields, the header {len(names)}")
                if at is not None:
                    texts.append(row[at].strip())
                    if ref.needs_label and texts[-1].lower() in MISSING_TEXTS:
                        raise DataError("data-labels", f"{path} line {line} has no {names[at]}")
                try:
                    spilled.write(np.asarray(fed.values(row), dtype).tobytes())
                except FeedError as error:
                    raise _unreadable(path, line, f"is no row that the model takes: {error}", _PREPARE) from error
                except (ArithmeticError, TypeError) as error:
                    what = f"{path} line {line} holds what {spec.describe()}, of whole numbers, cannot: {error}"
                    raise DataError("data-dtype", what) from error
                count += 1
            spilled.flush()
            descriptor = os.dup(spilled.fileno())
    except FAILURES as error:
        if isinstance(error, DataError):
            raise
        raise _unreadable(path, line + (not names) or 1, f"cannot be read: {_cause(error)}") from error
    column = ArrayColumn(descriptor, 0, dtype, (count, *_row_shape(path, fed.features, spec)))
    return Found({spec.name: column}, *(_labels(texts, ref) if at is not None else (None, ())))


class _Fed:
    """What a line of a table feeds: its fields in their order; or, where the model's columns have names and the header
    has these, in the model's order, and prepared as the row that `predict` takes.

    A header that has none of the names stands over finished values.

    Attributes:
        features: What the values are called; as many as a row gives.

    Raises:
        DataError: `data-names`: the header has some of the model's columns and lacks others.
    """

    def __init__(self, path: Path, names: list[str | None], ref: DataRef, spec: TensorSpec) -> None:
        self._how, self._spec = ref.preprocess, spec
        self._number = _whole if _counts(spec) else _number
        steps = ref.preprocess.table
        wanted = ref.columns or spec.columns or () if steps is None else steps.columns
        places = {name: at for at, name in enumerate(names) if name is not None}
        found = [name for name in wanted if name in places]
        filled = {} if steps is None else steps.missing
        lacks = [name for name in wanted if name not in places and name not in filled]
        if found and lacks:
            raise DataError(
                "data-names",
                f"{path} has no column {some(lacks)}; the model's are {some(wanted, 8)}",
                next_step="Name the columns as the model's; columns that it does not know are left out.",
            )
        self._steps = steps if found else None
        named = [(name, places[name]) for name in found]
        self._places = named or [(name, at) for at, name in enumerate(names) if name is not None]
        self.features = [name for name, _ in self._places]
        if self._steps is not None and self._steps.width != len(self.features):
            self.features = [str(number) for number in range(self._steps.width)]

    def values(self, row: list[str]) -> Any:
        """The numbers of one line, as many as `features`.

        Raises:
            FeedError: As `predict`. ValueError: A field is no number. ArithmeticError: It is no whole number.
        """
        if self._steps is None:
            return [self._number(row[at]) for _, at in self._places]
        given = {name: row[at].strip() for name, at in self._places}
        made = preprocess.normalize(row_array(given, self._steps, self._spec)[None], self._how, self._spec)[0]
        return [self._number(repr(float(value))) for value in made] if _counts(self._spec) else made


def _divider(header: str) -> str:
    return next((divider for divider in _DIVIDERS if divider in header), ",")


def _label_column(path: Path, names: list[str], ref: DataRef) -> int | None:
    """Where the labels are.

    Raises:
        DataError: `data-empty`, `data-unreadable`: there is no header; `data-labels`.
    """
    if not names:
        raise DataError("data-empty", f"{path} is empty")
    numbers = [name for name in names if _is_number(name)]
    # Some write the numbers of the columns as their names, as pandas does.
    if len(numbers) == len(names) and names not in ([str(i + start) for i in range(len(names))] for start in (0, 1)):
        raise DataError(
            "data-unreadable",
            f"{path} has no header: its first line is {', '.join(names[:4])}{', ...' if len(names) > 4 else ''}",
            next_step="Put a line with the names of the columns in front; the label's is y, label or labels.",
        )
    label = ref.label or next((name for name in ("label", "y", "labels") if name in names), None)
    if ref.label is not None and ref.needs_label and ref.label not in names:
        raise DataError("data-labels", f"{path} has no column {ref.label}; it has {', '.join(names)}")
    return names.index(label) if label in names else None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        said = text.strip().lower()
        if said in MISSING_TEXTS:
            return float("nan")
        if said in TRUTH_TEXTS:
            return TRUTH_TEXTS[said]
        raise


def _counts(spec: TensorSpec) -> bool:
    return spec.dtype.startswith(("int", "uint")) and spec.quant is None


def _whole(text: str) -> int:
    """Raises:
    ArithmeticError: It is no whole number. ValueError: It is no number.
    """
    try:
        return int(text)
    except ValueError:
        value = _number(text)
    if not value.is_integer():
        raise ArithmeticError(f"{text.strip() or 'an empty field'}")
    return int(value)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _unreadable(path: Path, line: int, what: str, step: str = _SAVE) -> DataError:
    return DataError("data-unreadable", f"{path} line {line} {what}", next_step=step)


def _cause(error: Exception) -> str:
    """What spreadsheets write by default is told by its name."""
    said = str(error)
    if isinstance(error, UnicodeDecodeError):
        if error.object.startswith((b"\xff\xfe", b"\xfe\xff")):
            return "it is UTF-16, not UTF-8"
        return f"it is not UTF-8 (byte {error.object[error.start]:#04x}): older spreadsheets write Latin-1"
    if re.search(r"'\s*[-+]?\d+,\d+\s*'", said):
        return f"its numbers have commas for decimal points ({said.rpartition(': ')[2]})"
    return said


def _row_shape(path: Path, features: list[str], spec: TensorSpec) -> tuple[int, ...]:
    """A table's columns in the shape of the input, when the number of features is right.

    Raises:
        DataError: `data-shape`: it is not.
    """
    wanted = spec.shape[1:]
    if None in wanted:
        return (len(features),)
    width = int(np.prod([size or 0 for size in wanted]))
    if width == len(features):
        return tuple(size or 0 for size in wanted)
    step = None
    if len(features) == width + 1:
        index = "" in features[:1]
        step = (
            "The first column has no name, as an index that pandas wrote: to_csv(index=False) leaves it out."
            if index
            else "One column too many: is it the label? Name it, --label NAME."
        )
    listed = ", ".join(features[:8]) + (", ..." if len(features) > 8 else "")
    raise DataError(
        "data-shape",
        f"{path} has {len(features)} columns of numbers ({listed}), {spec.describe()} takes {width}",
        next_step=step,
    )


def _labels(texts: list[str], ref: DataRef) -> tuple[NDArray[np.generic], tuple[str, ...]]:
    """Labels as numbers; those of text are classes."""
    try:
        values = np.asarray([float(text) for text in texts])
    except ValueError:
        return class_indices(texts, ref)
    whole = values.size and np.all(values == np.floor(values)) and not any("." in text for text in texts)
    return (values.astype(np.int64) if whole else values), ()
