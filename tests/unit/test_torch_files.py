"""What a PyTorch file is, told without PyTorch; hostile bytes included."""

from __future__ import annotations

import io
import struct
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.converters import load_torch
from edgekit.converters.from_torch import files as torch_files


def archive(*members: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        for name in members:
            file.writestr(name, b"content")
    return stream.getvalue()


HEADER = b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (archive("m/data.pkl", "m/data/0", "m/version"), "weights"),
        (archive("m/data.pkl", "m/constants.pkl", "m/code/__torch__.py"), "script"),
        (archive("m/data.pkl", "m/constants.pkl", "m/bytecode.pkl"), None),
        (archive("m/archive_format", "m/data/weights/weight_0"), "program"),
        (archive("serialized_exported_program.json", "version"), "program"),
        (archive("x.npy"), None),
        (archive("deep/er/data.pkl"), None),
        (b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.", "weights"),
        (b"\x80\x04\x95\x10\x00", None),
        (struct.pack("<Q", len(HEADER)) + HEADER + b"\0" * 4, "weights"),
        (struct.pack("<Q", 1 << 60) + HEADER, None),
        (struct.pack("<Q", len(HEADER) + 1000) + HEADER, None),
        (b"PK\x03\x04 cut off", None),
        (b"", None),
    ],
)
def test_content(data, expected, tmp_path):
    path = tmp_path / "m"
    path.write_bytes(data)
    assert torch_files.content(path) == expected
    assert load_torch.recognizes(path) == (expected is not None)


def test_folders_and_missing_files_are_no_pytorch(tmp_path):
    assert not load_torch.recognizes(tmp_path)
    assert not load_torch.recognizes(tmp_path / "nothing")
    assert torch_files.content(tmp_path / "nothing") is None


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=120), st.sampled_from([b"", b"PK\x03\x04", b"\x80\x02\x8a\x0a"]))
def test_any_bytes_are_judged(tmp_path_factory, tail, head):
    path = tmp_path_factory.mktemp("any") / "m"
    path.write_bytes(head + tail)
    assert torch_files.content(path) in (None, "weights")
