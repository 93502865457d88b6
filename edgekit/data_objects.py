"""Data that came as Python objects: written to a file, because child processes read it from there.

Accepted is what people have in hand beside a model: arrays as Keras takes them (`x`, `[x1, x2]`, `{"name": x}`, with
labels `(x, y)`), and streams of samples or batches of the same forms: generators, `tf.data`, a `DataLoader`, or the
function that TensorFlow's converter calls a representative dataset. Streams are never held whole.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import zipfile
from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from edgekit import npz
from edgekit.data_ref import LABEL_NAMES, DataRef
from edgekit.errors import DataError
from edgekit.tensors import TensorSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def spill(data: Any, inputs: tuple[TensorSpec, ...], folder: Path) -> DataRef:
    """Write data into a file of `folder`.

    Args:
        data: See the module header. Arrays have a batch axis; samples of a stream may have one or not.
        inputs: The model's; lists are in their order.
        folder: Where the file goes.

    Raises:
        DataError: `data-names`, `data-shape`, `data-dtype`, `data-length`, `data-empty`, `data-unknown`.
    """
    target = folder / "data.npz"
    label = label_name(inputs)
    if isinstance(data, tuple) and len(data) == 2 and (len(inputs) != 2 or _nested(data[0])):
        _save(target, {**_by_name(data[0], inputs), label: _array(data[1])})
    elif isinstance(data, Mapping) or hasattr(data, "__array__") or _in_order(data, inputs):
        _save(target, _by_name(data, inputs))
    elif isinstance(data, (list, tuple)) and len(inputs) == 1 and not any(map(_nested, data)):
        _save(target, _by_name(_array(data), inputs))
    elif isinstance(data, Iterable) and not isinstance(data, (str, bytes)):
        _stream(data, inputs, label, target)
    elif callable(data):  # a representative dataset
        _stream(data(), inputs, label, target)
    else:
        raise DataError("data-unknown", f"data cannot be read from a {type(data).__name__}")
    return DataRef(str(target))


def framed(data: Any, columns: Container[str], label: str | None, folder: Path) -> Path | None:
    """A data frame of pandas, alone or with its labels, as a table, in which the model's columns are found by name.

    Args:
        data: Anything that `spill` takes.
        columns: What the model calls its columns.
        label: What the column of labels is to be called; None for the usual name.
        folder: Where the file goes.

    Returns:
        None of other data, and of a frame whose columns have other names than the model's: its order counts.
    """
    frame, labels = data if isinstance(data, tuple) and len(data) == 2 else (data, None)
    if not hasattr(frame, "to_csv") or not any(str(name) in columns for name in getattr(frame, "columns", ())):
        return None
    if labels is not None:
        free = [name for name in LABEL_NAMES if name not in frame.columns]
        frame = frame.assign(**{label or (free or LABEL_NAMES)[0]: _array(labels)})
    frame.to_csv(folder / "data.csv", index=False)
    return folder / "data.csv"


def _save(target: Path, arrays: dict[str, NDArray[Any]]) -> None:
    if arrays and all(array.ndim and not len(array) for array in arrays.values()):
        raise DataError("data-empty", f"there are no samples in the arrays {', '.join(arrays)}")
    npz.write(target, arrays)


def label_name(inputs: tuple[TensorSpec, ...]) -> str:
    """The name under which labels are found again: the first of the usual ones that no input has."""
    taken = {spec.name for spec in inputs}
    free = [name for name in LABEL_NAMES if name not in taken]
    if not free:
        raise DataError("data-names", f"the inputs take all names that labels may have: {', '.join(LABEL_NAMES)}")
    return free[0]


def _nested(value: Any) -> bool:
    return isinstance(value, (Mapping, list, tuple))


def _is_pair(sample: Any, inputs: tuple[TensorSpec, ...]) -> bool:
    """(x, y), and not a row of two numbers or two inputs."""
    if not isinstance(sample, (list, tuple)) or len(sample) != 2:
        return False
    if len(inputs) == 2:
        return _nested(sample[0])
    return isinstance(sample, tuple) or bool(getattr(sample[0], "shape", ()))


def _in_order(data: Any, inputs: tuple[TensorSpec, ...]) -> bool:
    """Keras's `[x1, x2]` or `[x]`: an array an input, each with its batch axis."""
    return (
        isinstance(data, (list, tuple))
        and len(data) == len(inputs)
        and all(len(getattr(x, "shape", ())) == len(spec.shape) for x, spec in zip(data, inputs, strict=True))
    )


def _by_name(data: Any, inputs: tuple[TensorSpec, ...]) -> dict[str, NDArray[Any]]:
    if isinstance(data, Mapping):
        return {str(name): _array(value) for name, value in data.items()}
    if len(inputs) == 1:
        only = data[0] if isinstance(data, (list, tuple)) and len(data) == 1 else data
        return {inputs[0].name: _array(only)}
    if not isinstance(data, (list, tuple)) or len(data) != len(inputs):
        names = ", ".join(spec.name for spec in inputs)
        count = len(data) if isinstance(data, (list, tuple)) else 1
        raise DataError("data-names", f"the data has {count} arrays; the inputs are {names}")
    return {spec.name: _array(value) for spec, value in zip(inputs, data, strict=True)}


def _array(value: Any) -> NDArray[Any]:
    import numpy as np

    try:
        found = np.asarray(value)
    except (ValueError, TypeError) as error:
        raise DataError("data-shape", f"the samples do not form an array: {error}") from error
    return _plain(found) if found.dtype.hasobject else found


def _plain(found: NDArray[Any]) -> NDArray[Any]:
    """What pandas holds as objects: texts, or numbers, truths and None together, which is no number."""
    import numpy as np

    kinds = {type(value) for value in found.flat}
    if kinds and all(issubclass(kind, str) for kind in kinds):
        return found.astype(str)
    if any(not issubclass(kind, (bool, int, float, np.number, np.bool_, type(None))) for kind in kinds):
        raise DataError("data-dtype", "the data holds Python objects; arrays of numbers or text are read")
    return found.astype(np.float64)


def _stream(samples: Iterable[Any], inputs: tuple[TensorSpec, ...], label: str, target: Path) -> None:
    labelled: bool | None = None
    count = 0
    names = [spec.name for spec in inputs]
    writer: ArrayWriter | None = None
    try:
        for sample in samples:
            rows, labels = _rows(sample, inputs, label)
            if writer is None:
                labelled = labels is not None
                writer = ArrayWriter(target, [*names, label] if labelled else names)
                writer.__enter__()
            if (labels is not None) != labelled:
                raise DataError("data-length", f"only some samples have labels: sample {count} differs from the first")
            columns = rows if labels is None else [*rows, labels]
            if len({len(column) for column in columns}) > 1:
                said = ", ".join(str(len(column)) for column in columns)
                raise DataError("data-length", f"a batch has arrays of different lengths: {said}")
            for row in zip(*columns, strict=True):
                writer.add(list(row))
                count += 1
        if writer is None or not count:
            raise DataError("data-empty", "the iterable gave no samples")
    except BaseException as error:
        if writer is not None:
            writer.__exit__(type(error), error, None)
        raise
    writer.__exit__(None, None, None)


def _rows(sample: Any, inputs: tuple[TensorSpec, ...], label: str) -> tuple[list[NDArray[Any]], NDArray[Any] | None]:
    """One sample or batch as arrays [n, ...] in the order of the inputs, and its labels [n, ...]."""
    labels = None
    if _is_pair(sample, inputs):
        sample, labels = sample[0], _array(sample[1])
    named = _by_name(sample, inputs)
    if labels is None and label in named:
        labels = named[label]
    if len(inputs) == 1 and inputs[0].name not in named and len(named) == 1:
        named = {inputs[0].name: next(iter(named.values()))}
    missing = [spec.name for spec in inputs if spec.name not in named]
    if missing:
        raise DataError("data-names", f"a sample has the arrays {', '.join(named)}; missing: {', '.join(missing)}")
    batched = all(named[spec.name].ndim == len(spec.shape) for spec in inputs)
    arrays = [named[spec.name] if batched else named[spec.name][None] for spec in inputs]
    if labels is not None and not batched:
        labels = labels.reshape(1, *labels.shape)
    return arrays, labels


class ArrayWriter:
    """An `.npz` written sample by sample, never held whole. Use in `with`; `count` is the number written."""

    def __init__(self, path: Path, names: list[str]) -> None:
        self._path = path
        self._names = names
        self._raw = [tempfile.TemporaryFile() for _ in names]  # noqa: SIM115 - closed by __exit__
        self._like: list[tuple[tuple[int, ...], np.dtype[Any]]] = []
        self.count = 0

    def add(self, arrays: list[NDArray[Any]]) -> None:
        """One sample, an array an input, without a batch axis.

        Raises:
            DataError: `data-shape`: its shape or dtype differs from the first sample's.
        """
        like = [(array.shape, array.dtype) for array in arrays]
        if not self._like:
            self._like = like
        if like != self._like:
            raise DataError("data-shape", f"sample {self.count} is {like}, the first was {self._like}")
        for file, array in zip(self._raw, arrays, strict=True):
            file.write(array.tobytes())
        self.count += 1

    def __enter__(self) -> ArrayWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        import numpy as np

        if kind is None and self.count:
            with zipfile.ZipFile(self._path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
                for name, file, (shape, dtype) in zip(self._names, self._raw, self._like, strict=True):
                    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False,
                                  "shape": (self.count, *shape)}  # fmt: skip
                        np.lib.format.write_array_header_2_0(member, header)
                        file.seek(0, os.SEEK_SET)
                        shutil.copyfileobj(file, member, 1 << 20)
        for file in self._raw:
            file.close()
