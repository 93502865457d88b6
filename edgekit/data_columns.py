"""Columns of samples in files: arrays read by position, images and sounds decoded one by one."""

from __future__ import annotations

import os
import shutil
import struct
import tempfile
import weakref
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from edgekit.data_ref import LABEL_NAMES, DataRef
from edgekit.errors import DataError
from edgekit.runtimes import preprocess
from edgekit.tensors import TensorSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

_CHUNK = 1 << 20
FAILURES = (OSError, ValueError, EOFError, zipfile.BadZipFile, NotImplementedError, struct.error, SyntaxError)


class Column(Protocol):
    """Samples of one input: how many, of which shape and dtype, and some of them."""

    @property
    def length(self) -> int: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    def read(self, rows: NDArray[Any]) -> NDArray[Any]:
        """The samples of ascending row numbers, [len(rows), *shape]."""
        ...


@dataclass(frozen=True)
class Found:
    """What a path holds."""

    columns: dict[str, Column]
    labels: NDArray[Any] | None
    class_names: tuple[str, ...] = ()


class ArrayColumn:
    """Rows of a C-ordered array that lies in a file from `offset` on."""

    def __init__(self, descriptor: int, offset: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
        """Owns `descriptor`, and closes it when the column goes."""
        self._descriptor = descriptor
        weakref.finalize(self, os.close, descriptor)
        self._offset = offset
        self.dtype = dtype
        self.length = shape[0]
        self.shape = shape[1:]
        self._row = int(np.prod(self.shape, dtype=np.int64)) * dtype.itemsize

    def read(self, rows: NDArray[Any]) -> NDArray[Any]:
        out = np.empty((len(rows), *self.shape), self.dtype)
        view = memoryview(out.reshape(-1).view(np.uint8).data) if out.nbytes else memoryview(b"")
        # Neighboring rows are read at once.
        breaks = np.flatnonzero(np.diff(rows) != 1) + 1
        at = 0
        for run in np.split(rows, breaks) if len(rows) else ():
            size = len(run) * self._row
            begin = self._offset + int(run[0]) * self._row
            done = 0
            while done < size:
                got = os.preadv(self._descriptor, [view[at + done : at + size]], begin + done)
                if not got:
                    raise DataError("data-unreadable", "the file became shorter while it was read")
                done += got
            at += size
        return out if out.dtype.isnative else out.astype(out.dtype.newbyteorder("="))

    def cut(self, start: int, stop: int) -> NDArray[Any]:
        """Values `start` to `stop` of every row, [length, stop - start], for rows [features] as they are stored."""
        out = np.empty((self.length, stop - start), self.dtype)
        for row, part in enumerate(out.view(np.uint8)):
            begin = self._offset + row * self._row + start * self.dtype.itemsize
            if os.preadv(self._descriptor, [part.data], begin) != len(part):
                raise DataError("data-unreadable", "the file became shorter while it was read")
        return out

    def reshaped(self, shape: tuple[int, ...]) -> ArrayColumn:
        """The same values as an array of another shape."""
        return ArrayColumn(os.dup(self._descriptor), self._offset, self.dtype, shape)


class FileColumn:
    """One file a sample, decoded when it is read."""

    def __init__(self, paths: list[Path], decode: Callable[[Path], NDArray[Any]]) -> None:
        self._paths = paths
        self._decode = decode
        first = decode(paths[0])
        self.length = len(paths)
        self.shape = first.shape
        self.dtype = first.dtype
        self.kind: Literal["pictures", "sounds"] = (
            "sounds" if paths[0].suffix.lower() in preprocess.SOUNDS else "pictures"
        )

    def read(self, rows: NDArray[Any]) -> NDArray[Any]:
        return np.stack([self._decode(self._paths[int(row)]) for row in rows])


def read(path: Path, ref: DataRef, inputs: tuple[TensorSpec, ...]) -> Found:
    """Open a path by its kind; see `edgekit.data.open_data` for the errors."""
    suffix = path.suffix.lower()
    if path.is_dir():
        return _folder(path, ref, _only(inputs, path))
    if not path.is_file():
        raise DataError("data-unknown", f"{path} is neither a file nor a folder")
    if suffix == ".npz":
        return _npz(path, ref, inputs)
    if suffix == ".npy":
        return Found({_only(inputs, path).name: _sample_or_batch(_npy(path), _only(inputs, path))}, None)
    if suffix == ".csv":
        from edgekit import data_tables

        return data_tables.read(path, ref, _only(inputs, path))
    if suffix in (*preprocess.IMAGES, *preprocess.SOUNDS):
        spec = _only(inputs, path)
        return Found({spec.name: FileColumn([path], _decoder(spec, ref))}, None)
    raise DataError("data-unknown", f"{path}: data is .npz, .npy, .csv, or a folder of images or WAV files")


def _only(inputs: tuple[TensorSpec, ...], path: Path) -> TensorSpec:
    if len(inputs) != 1:
        names = ", ".join(spec.name for spec in inputs)
        raise DataError("data-names", f"{path} feeds one input, the model has {len(inputs)} ({names}): use an .npz")
    return inputs[0]


def _npz(path: Path, ref: DataRef, inputs: tuple[TensorSpec, ...]) -> Found:
    try:
        with zipfile.ZipFile(path) as archive:
            members = {e.filename.removesuffix(".npy"): e for e in archive.infolist() if e.filename.endswith(".npy")}
            fed = {spec.name for spec in inputs}
            labelled = ref.label or next((name for name in LABEL_NAMES if name in members and name not in fed), None)
            if ref.label is not None and ref.needs_label and ref.label not in members:
                raise DataError("data-labels", f"{path} has no array {ref.label}; it has {', '.join(members)}")
            chosen = _assign(members, labelled, inputs, path)
            columns = {name: _member(path, archive, entry) for name, entry in chosen.items()}
            labels = _whole(_member(path, archive, members[labelled])) if labelled in members else None
    except FAILURES as error:
        if isinstance(error, DataError):
            raise
        raise DataError("data-unreadable", f"{path} is no .npz file that can be read: {error}") from error
    return Found(
        {spec.name: _sample_or_batch(columns[spec.name], spec) for spec in inputs}, *_classes(labels, path, ref)
    )


def _assign(
    members: dict[str, Any], labelled: str | None, inputs: tuple[TensorSpec, ...], path: Path
) -> dict[str, Any]:
    names = [spec.name for spec in inputs]
    if all(name in members for name in names):
        return {name: members[name] for name in names}
    if len(names) == 1 and "x" in members:
        return {names[0]: members["x"]}
    rest = [name for name in members if name != labelled]
    if len(names) == 1 and len(rest) == 1:
        return {names[0]: members[rest[0]]}
    raise DataError(
        "data-names",
        f"{path} has the arrays {', '.join(members) or '(none)'}; wanted: {', '.join(names)}"
        + (" or x" if len(names) == 1 and names != ["x"] else ""),
    )


def _member(path: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> ArrayColumn:
    with archive.open(entry) as stream:
        shape, dtype, fortran = _header(stream, f"{path}:{entry.filename}")
        size = int(np.prod(shape, dtype=np.float64)) * dtype.itemsize
        begin = stream.tell()
        if begin + size != entry.file_size:
            raise DataError("data-unreadable", f"{path}:{entry.filename} holds another size than its header says")
        if entry.compress_type == zipfile.ZIP_STORED:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            name, extra = struct.unpack("<HH", os.pread(descriptor, 30, entry.header_offset)[26:30])
            offset = entry.header_offset + 30 + name + extra + begin
            return _c_ordered(ArrayColumn(descriptor, offset, dtype, shape), fortran=fortran, path=path)
        _room_for(size, path)
        with tempfile.TemporaryFile() as spilled:
            shutil.copyfileobj(stream, spilled, _CHUNK)
            spilled.flush()
            return _c_ordered(ArrayColumn(os.dup(spilled.fileno()), 0, dtype, shape), fortran=fortran, path=path)


def _npy(path: Path) -> ArrayColumn:
    try:
        with open(path, "rb") as file:
            shape, dtype, fortran = _header(file, str(path))
            offset = file.tell()
        if offset + int(np.prod(shape, dtype=np.float64)) * dtype.itemsize != path.stat().st_size:
            raise DataError("data-unreadable", f"{path} holds another size than its header says")
    except FAILURES as error:
        if isinstance(error, DataError):
            raise
        raise DataError("data-unreadable", f"{path} is no .npy file that can be read: {error}") from error
    column = ArrayColumn(os.open(path, os.O_RDONLY | os.O_CLOEXEC), offset, dtype, shape)
    return _c_ordered(column, fortran=fortran, path=path)


def _c_ordered(column: ArrayColumn, *, fortran: bool, path: Path) -> ArrayColumn:
    """In Fortran order a sample's values lie far apart: the array is turned once, some samples at a time."""
    if not fortran or not column.length or 0 in column.shape:
        return column
    features = int(np.prod(column.shape, dtype=np.int64))
    _room_for(column.length * features * column.dtype.itemsize, path)
    # The file is a C-ordered array of the reversed shape.
    stored = column.reshaped((features, column.length))
    step = max(1, 16 * _CHUNK // (features * column.dtype.itemsize))
    with tempfile.TemporaryFile() as turned:
        for start in range(0, column.length, step):
            part = stored.cut(start, min(start + step, column.length)).T
            samples = part.reshape(len(part), *column.shape[::-1])
            turned.write(np.ascontiguousarray(samples.transpose(0, *range(samples.ndim - 1, 0, -1))).data)
        turned.flush()
        return ArrayColumn(os.dup(turned.fileno()), 0, column.dtype, (column.length, *column.shape))


def _header(stream: Any, name: str) -> tuple[tuple[int, ...], np.dtype[Any], bool]:
    """Shape, dtype, and whether the array is in Fortran order."""
    version = np.lib.format.read_magic(stream)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read_header(stream)
    if dtype.hasobject:
        raise DataError("data-unreadable", f"{name} holds Python objects, which are never unpickled")
    if not shape:
        raise DataError("data-shape", f"{name} is a single number, not samples")
    return shape, dtype, fortran and len(shape) > 1


def _sample_or_batch(column: ArrayColumn, spec: TensorSpec) -> ArrayColumn:
    """A single sample without a batch axis counts as a batch of one."""
    whole = (column.length, *column.shape)
    wanted = spec.shape[1:]
    if len(whole) == len(wanted) and all(w in (None, s) for s, w in zip(whole, wanted, strict=True)):
        return column.reshaped((1, *whole))
    return column


def _whole(column: ArrayColumn) -> NDArray[Any]:
    return column.read(np.arange(column.length))


def _classes(labels: NDArray[Any] | None, path: Path, ref: DataRef) -> tuple[NDArray[Any] | None, tuple[str, ...]]:
    """Labels as numbers; text labels become the indices of their names."""
    if labels is None:
        return None, ()
    if labels.dtype.kind in "US":
        indices, names = class_indices(labels.astype(str).reshape(-1).tolist(), ref)
        return indices, names
    if labels.dtype.kind not in "fiub":
        raise DataError("data-labels", f"{path}: labels of type {labels.dtype} mean nothing")
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    return labels, ()


def class_indices(texts: list[str], ref: DataRef) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Class names as indices: into the model's own names when all are known, else in sorted order."""
    names = sorted(set(texts))
    if ref.classes and set(names) <= set(ref.classes):
        names = list(ref.classes)
    numbers = {name: number for number, name in enumerate(names)}
    return np.asarray([numbers[text] for text in texts]), tuple(names)


def _folder(path: Path, ref: DataRef, spec: TensorSpec) -> Found:
    kinds = (*preprocess.IMAGES, *preprocess.SOUNDS)
    found = sorted(p for p in path.rglob("*") if p.suffix.lower() in kinds and p.is_file() and not _hidden(p, path))
    if not found:
        raise DataError("data-empty", f"{path} holds no images and no WAV files")
    suffixes = {p.suffix.lower() in preprocess.SOUNDS for p in found}
    if len(suffixes) > 1:
        raise DataError("data-unknown", f"{path} mixes images and sounds")
    column = FileColumn(found, _decoder(spec, ref))
    homes = [p.relative_to(path).parts[0] if p.parent != path else None for p in found]
    within = [home for home in homes if home is not None]
    if not within:
        return Found({spec.name: column}, None)
    if set(within) <= _SPLITS:
        splits = ", ".join(sorted(set(within)))
        raise DataError(
            "data-labels",
            f"{path} holds {splits}, which are parts of a data set and no classes",
            next_step=f"Name one of them: {path / within[0]}.",
        )
    if len(within) < len(homes):
        raise DataError("data-labels", f"{path} has files both beside and inside its class folders")
    return Found({spec.name: column}, *class_indices(within, ref))


_SPLITS = frozenset({"train", "training", "val", "valid", "validation", "test", "testing", "eval", "evaluation"})


def _hidden(file: Path, folder: Path) -> bool:
    """What other systems leave behind: `._cat.jpg` of macOS, `.ipynb_checkpoints`, `.thumbnails`."""
    return any(part.startswith(".") for part in file.relative_to(folder).parts)


def _decoder(spec: TensorSpec, ref: DataRef) -> Callable[[Path], NDArray[Any]]:
    return lambda path: preprocess.decode(path, spec, ref.preprocess)


def _room_for(size: int, path: Path) -> None:
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if size > free:
        raise DataError("data-unreadable", f"{path} unpacks to {size} bytes, the temporary folder has {free}")
