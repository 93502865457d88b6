"""Named arrays as one file (`.npz`), whatever the names are and whatever numpy is there.

`numpy.savez` takes the names as keyword arguments: before numpy 2.1 its own `allow_pickle` becomes one more array, and
a tensor that is called "file" cannot be written at all.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray


def pack(arrays: Mapping[str, NDArray[Any]], *, compressed: bool = False) -> bytes:
    """The content of such a file.

    Raises:
        ValueError: An array holds Python objects.
    """
    made = io.BytesIO()
    write(made, arrays, compressed=compressed)
    return made.getvalue()


def write(target: Path | io.BytesIO, arrays: Mapping[str, NDArray[Any]], *, compressed: bool = False) -> None:
    """The file itself, not at once whole: see `edgekit.files.replace`.

    Raises:
        ValueError: An array holds Python objects.
    """
    import numpy as np

    how = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
    with zipfile.ZipFile(target, "w", how) as packed:
        for name, array in arrays.items():
            # The size is not known before: room for more than 4 GB, as numpy leaves it.
            with packed.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)


def read(source: Path | str | bytes) -> dict[str, NDArray[Any]]:
    """The arrays by name; from a path or a content.

    Raises:
        OSError, ValueError, EOFError, zipfile.BadZipFile: It is no such file, a damaged one, or holds Python objects.
    """
    import numpy as np

    found = {}
    with (
        io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as file,
        zipfile.ZipFile(file) as packed,
    ):
        for name in packed.namelist():
            try:
                with packed.open(name) as member:
                    found[name.removesuffix(".npy")] = np.lib.format.read_array(member, allow_pickle=False)
            except zlib.error as error:
                raise zipfile.BadZipFile(f"{name} is damaged: {error}") from error
    return found
