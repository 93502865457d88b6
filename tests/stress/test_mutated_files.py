"""Mutated model files: the parent never dies or hangs, every outcome is a typed error or a valid result.

`make stress` runs 10,000 through the readers and as many as its time allows through whole conversions.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from edgekit import artifact, inspect
from edgekit.errors import EdgeKitError, InternalError
from edgekit.options import Options
from edgekit.pipeline import run

READ = 100
CONVERTED = 6


def mutate(data: bytes, seed: int) -> bytes:
    """Flipped bits, overwritten words, cut, doubled and dropped pieces."""
    dice = random.Random(seed)
    out = bytearray(data)
    for _ in range(dice.choice((1, 2, 4, 16))):
        at = dice.randrange(len(out))
        kind = dice.randrange(5)
        if kind == 0:
            out[at] ^= 1 << dice.randrange(8)
        elif kind == 1:
            out[at : at + 4] = dice.choice((b"\xff\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\x7f", dice.randbytes(4)))
        elif kind == 2:
            out = out[: max(8, at)]
        elif kind == 3:
            out[at:at] = out[at : at + dice.randrange(1, 64)]
        else:
            del out[at : at + dice.randrange(1, 64)]
        if not out:
            out = bytearray(b"\0")
    return bytes(out)


@pytest.fixture(scope="session", params=["tflite", "onnx"])
def sane(request, tiny_files) -> tuple[str, bytes]:
    """A small, sane file of each format."""
    return request.param, tiny_files[request.param].read_bytes()


def test_readers_survive(sane, effort, tmp_path):
    suffix, data = sane
    file = tmp_path / f"mutated.{suffix}"
    outcomes = {"read": 0, "refused": 0}
    for seed in range(READ * effort):
        file.write_bytes(mutate(data, seed))
        try:
            inspect.inspect(file)
            outcomes["read"] += 1
        except EdgeKitError as error:
            assert not isinstance(error, InternalError), f"seed {seed}: {error}"
            outcomes["refused"] += 1
    assert sum(outcomes.values()) == READ * effort
    assert outcomes["refused"] > 0, "mutations that are all accepted test nothing"


def test_conversions_survive(sane, effort, tmp_path, monkeypatch):
    """Each one in child processes; what comes out is verified, what fails leaves nothing."""
    suffix, data = sane
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    folder = tmp_path / "out"
    folder.mkdir()
    file = tmp_path / f"mutated.{suffix}"
    target = folder / f"result.{suffix}"
    before = set(os.listdir(tmp_path)) | {file.name}
    for seed in range(CONVERTED * effort):
        file.write_bytes(mutate(data, seed))
        target.unlink(missing_ok=True)
        try:
            run(file, Options(output=target, time_limit=60))
            artifact.read(target)
        except EdgeKitError as error:
            assert not isinstance(error, InternalError), f"seed {seed}: {error}"
            assert not os.listdir(folder), f"seed {seed}: a failed conversion left a file"
        assert not _inside(scratch), f"seed {seed}: scratch was left behind"
    assert set(os.listdir(tmp_path)) == before


def _inside(scratch: Path) -> list[str]:
    return [str(p) for p in scratch.rglob("*") if p.is_file()]
