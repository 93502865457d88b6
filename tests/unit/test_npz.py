"""Named arrays in a file: any name, any numpy, no Python objects."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import numpy as np
import pytest

from edgekit import npz

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("compressed", [False, True])
def test_any_name_comes_back(tmp_path, compressed):
    names = ("file", "allow_pickle", "args", "arr_0", "a/b:0", "x.npy", "é", "kwds")
    made = {name: np.full((2, 3), place, np.float32) for place, name in enumerate(names)}
    made["text"] = np.array(["a", "bc"])
    made["none"] = np.zeros((0, 4), np.int8)
    npz.write(tmp_path / "x.npz", made, compressed=compressed)
    for source in (tmp_path / "x.npz", npz.pack(made, compressed=compressed)):
        read = npz.read(source)
        assert list(read) == list(made)
        for name, array in made.items():
            assert read[name].dtype == array.dtype
            np.testing.assert_array_equal(read[name], array)


def test_the_same_arrays_are_the_same_bytes():
    made = {"x": np.arange(5)}
    assert npz.pack(made) == npz.pack(made)


def test_objects_are_refused_both_ways(tmp_path):
    held = np.array([{}], dtype=object)
    with pytest.raises(ValueError, match=r"[Oo]bject"):
        npz.pack({"x": held})
    np.savez(tmp_path / "x.npz", x=held)
    with pytest.raises(ValueError, match=r"[Oo]bject"):
        npz.read(tmp_path / "x.npz")


@pytest.mark.parametrize("compressed", [False, True])
def test_damage_is_told_and_leaves_no_file_open(tmp_path, compressed):
    content = npz.pack({"x": np.arange(1000.0)}, compressed=compressed)
    for damaged in (
        content[:-40],
        content[: len(content) // 2],
        content[:200] + b"\xff" * 40 + content[240:],
        b"",
        b"no",
    ):
        (tmp_path / "d.npz").write_bytes(damaged)
        for source in (damaged, tmp_path / "d.npz"):
            with pytest.raises((ValueError, OSError, EOFError, zipfile.BadZipFile)):
                npz.read(source)
    np.save(tmp_path / "d.npy", np.arange(3))
    with pytest.raises(zipfile.BadZipFile):
        npz.read(tmp_path / "d.npy")


def test_nothing_else_writes_named_arrays():
    """Before numpy 2.1, which boards have, `savez(path, allow_pickle=False)` writes an array of that name."""
    sources = [file for part in ("edgekit", "converters", "runtimes") for file in (ROOT / part).rglob("*.py")]
    assert len(sources) > 300
    assert [file.name for file in sources if re.search(r"\bsavez\w*\(", file.read_text(encoding="utf-8"))] == []
