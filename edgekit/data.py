"""Calibration and evaluation data: read as it is needed, never wholly into memory.

A data set is columns of samples, one an input, and labels. Arrays are read by position from the file (deflated members
are spilled once to an unnamed temporary file); memory maps are avoided, because their pages count as resident memory.
Everything that cannot be fed to the model is refused when the data is opened, before any work.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgekit.data_ref import DataRef
from edgekit.errors import DataError, MissingFileError
from edgekit.metrics import PLACES_FIX
from edgekit.selftest import noise
from edgekit.tensors import TensorSpec, fixed_batch

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit.data_columns import Column


_GUESS_FIX = "Name the classes in the model's order, convert --labels FILE, or store class indices as numbers."


@dataclass(frozen=True)
class Batch:
    """Some samples: arrays [n, ...] by input name, and their labels [n, ...] or None."""

    feeds: dict[str, NDArray[Any]]
    labels: NDArray[Any] | None


class Dataset:
    """Opened data.

    Attributes:
        ref: As it was named.
        inputs: What it feeds.
        labels: One a sample, or None.
        class_names: From folder names or text labels, in the order of their indices; or empty.
        step: How many samples the model takes at once, if it was exported with a fixed batch; else 1.
        left_out: Samples at the end that fill no batch of that size.
    """

    def __init__(
        self,
        ref: DataRef,
        inputs: tuple[TensorSpec, ...],
        columns: dict[str, Column],
        labels: NDArray[Any] | None,
        class_names: tuple[str, ...] = (),
    ) -> None:
        total = _agree(ref, columns, labels)
        self.ref = ref
        self.inputs = inputs
        self.class_names = class_names
        self._columns = columns
        self.step = fixed_batch(inputs)
        chosen = draw(total, ref.samples if ref.samples is None else max(ref.samples, self.step), ref.seed)
        self.left_out = len(chosen) % self.step
        self._chosen = chosen[: len(chosen) - self.left_out]
        if not len(self._chosen):
            raise DataError("data-batch", f"{ref.path} holds {total} samples, the model takes {self.step} at once")
        self.labels = None if labels is None else labels[self._chosen]

    def __len__(self) -> int:
        return len(self._chosen)

    @property
    def raw_files(self) -> Literal["pictures", "sounds"] | None:
        """Files of which, and nothing was said of how they are prepared."""
        from edgekit.data_columns import FileColumn

        kinds = [column.kind for column in self._columns.values() if isinstance(column, FileColumn)]
        return kinds[0] if kinds and self.ref.preprocess.kind == "array" else None

    @property
    def labelled(self) -> bool:
        return self.labels is not None

    def batches(self, size: int) -> Iterator[Batch]:
        """All samples in the data's own order, at most `size` at a time, but never a part of a fixed batch."""
        size = max(self.step, size // self.step * self.step)
        for start in range(0, len(self), size):
            rows = self._chosen[start : start + size]
            feeds = {spec.name: self._typed(self._columns[spec.name].read(rows), spec) for spec in self.inputs}
            yield Batch(feeds, None if self.labels is None else self.labels[start : start + size])

    def _typed(self, array: NDArray[Any], spec: TensorSpec) -> NDArray[Any]:
        """Floats for float and quantized inputs (real values), else the input's own dtype.

        Raises:
            DataError: `data-dtype`: an integer does not fit the input, and would become another one.
        """
        import numpy as np

        wanted = np.dtype("float32" if spec.quant is not None else spec.dtype)
        if wanted.kind in "iu" and array.dtype != wanted and array.size:
            low, high = int(array.min()), int(array.max())
            kept = np.iinfo(wanted)
            if low < kept.min or high > kept.max:
                beyond = low if low < kept.min else high
                raise DataError("data-dtype", f"{self.ref.path} holds {beyond}, which {spec.describe()} cannot")
        with np.errstate(over="ignore"):  # infinite then, which the lint names
            return np.ascontiguousarray(array, wanted)

    @property
    def guess(self) -> str | None:
        """For the user, where text labels were numbered without knowing the model's classes; folders sorted by name
        are a convention that those who train share.
        """
        if not self.class_names or self.ref.classes or Path(self.ref.path).is_dir():
            return None
        return (
            f"labels are text and nothing names the model's classes: they were numbered in sorted order, "
            f"{_few(self.class_names)}. If the model has another order, all that was measured is wrong."
        )

    @property
    def places(self) -> str | None:
        """For the user, where classes are called by numbers and the labels are numbers, but of the classes' places."""
        names = self.ref.classes
        if self.labels is None or self.class_names or not names or names == tuple(map(str, range(len(names)))):
            return None
        if not all(name.removeprefix("-").isdecimal() for name in names):
            return None
        return f"the model's classes are called {_few(names)}; labels that are numbers are places among them, from 0"

    @property
    def doubts(self) -> tuple[tuple[str, str], ...]:
        """What the labels may not mean, each with what to do about it."""
        return tuple((said, fix) for said, fix in ((self.guess, _GUESS_FIX), (self.places, PLACES_FIX)) if said)

    def require_classes(self) -> None:
        """The labels must mean the model's classes.

        Raises:
            DataError: `data-labels`: folders or text labels have names that the model does not know.
        """
        unknown = [name for name in self.class_names if name not in self.ref.classes]
        if self.ref.classes and unknown:
            raise DataError(
                "data-labels",
                f"{self.ref.path} has the classes {_few(self.class_names)}; "
                f"the model's are {_few(self.ref.classes)}: {_few(unknown)} is not among them",
                next_step="Name folders and labels as the model's classes, or store class indices as numbers.",
            )

    @property
    def sha256(self) -> str:
        """Of exactly the samples that are used, as they are fed."""
        whole = hashlib.sha256()
        for batch in self.batches(16):
            for name, array in batch.feeds.items():
                whole.update(f"{name} {array.dtype} {array.shape}".encode())
                whole.update(array.tobytes())
        return whole.hexdigest()


def open_data(ref: DataRef, inputs: tuple[TensorSpec, ...], scratch: Path | None = None) -> Dataset:
    """Open data for a model.

    Args:
        ref: What to open.
        inputs: The model's; their names, shapes and dtypes are what the data must fit.
        scratch: Unused; unnamed temporary files need no folder.

    Raises:
        MissingFileError: `file-missing`.
        DataError: `data-unreadable`, `data-unknown`, `data-names`, `data-shape`, `data-dtype`, `data-length`,
            `data-empty`, `data-labels`, `data-batch`.
    """
    from edgekit import data_columns

    del scratch
    path = Path(ref.path)
    if not path.exists():
        raise MissingFileError("file-missing", f"there is no {path}")
    found = data_columns.read(path, ref, inputs)
    columns = {spec.name: _checked(found.columns[spec.name], spec, path) for spec in inputs}
    return Dataset(ref, inputs, columns, found.labels, found.class_names)


def draw(total: int, samples: int | None, seed: int) -> NDArray[Any]:
    """Which samples are used, ascending: all, or a seeded draw that no numpy version changes."""
    import numpy as np

    if samples is None or samples >= total:
        return np.arange(total)
    return np.sort(np.argsort(noise(total, seed), kind="stable")[:samples])


def _few(names: Iterable[str]) -> str:
    shown = list(names)
    return ", ".join(shown[:10]) + (f", ... ({len(shown)} in all)" if len(shown) > 10 else "")


def _agree(ref: DataRef, columns: Mapping[str, Column], labels: NDArray[Any] | None) -> int:
    lengths = {name: column.length for name, column in columns.items()}
    if labels is not None:
        lengths["labels"] = len(labels)
    if len(set(lengths.values())) > 1:
        said = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise DataError("data-length", f"{ref.path} has different numbers of samples: {said}")
    total = next(iter(lengths.values()))
    if total == 0:
        raise DataError("data-empty", f"{ref.path} holds no samples")
    return total


def _checked(column: Column, spec: TensorSpec, path: Path) -> Column:
    """The column, when its samples fit the input."""
    wanted = spec.shape[1:]
    sample = column.shape
    if len(sample) != len(wanted) or any(w not in (None, s) for s, w in zip(sample, wanted, strict=True)):
        sizes = ",".join(map(str, sample))
        hint = _hint(sample, wanted, column.length)
        raise DataError("data-shape", f"{path}: samples are [{sizes}], {spec.describe()} wants another shape{hint}")
    if column.dtype.kind not in "fiub":
        raise DataError("data-dtype", f"{path}: {spec.name} cannot be fed {column.dtype}")
    if spec.dtype.startswith(("int", "uint")) and spec.quant is None and column.dtype.kind == "f":
        raise DataError("data-dtype", f"{path}: {spec.describe()} takes integers, the data is {column.dtype}")
    return column


def _hint(sample: tuple[int, ...], wanted: tuple[int | None, ...], length: int) -> str:
    sizes = tuple(size or 0 for size in wanted)
    if (length, *sample) == sizes:
        return ": a batch axis is missing, array[None] adds it"
    if sorted(sample) == sorted(sizes):
        return ": the axes look transposed (NHWC against NCHW), numpy's moveaxis turns them"
    product = 1
    for size in sizes:
        product *= size
    count = 1
    for size in sample:
        count *= size
    return ": the same number of elements, reshape would do" if count == product else ""
