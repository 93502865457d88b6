"""Mutated model files: the parent never dies or hangs, every outcome is a typed error or a valid result.

`make stress` runs 10,000 of each format through the readers and 5,000 of each through whole conversions, which takes
about an hour.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import numpy as np
import pytest

from edgekit import artifact, inspect
from edgekit.errors import EdgeKitError, InternalError
from edgekit.options import Options
from edgekit.pipeline import run

READ = 100
CONVERTED = 50
PRECISIONS = ("fp32", "fp16", "dynamic", "int8", "int16x8")


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
    calibration = tmp_path / "calibration.npz"
    shape = (16, 8, 8, 2) if suffix == "tflite" else (16, 2, 8, 8)
    np.savez(calibration, x=np.random.default_rng(5).random(shape, np.float32))
    file = tmp_path / f"mutated.{suffix}"
    target = folder / f"result.{suffix}"
    before = set(os.listdir(tmp_path)) | {file.name}
    outcomes = {"converted": 0, "refused": 0}
    # A few in every run, of which one of each precision.
    for seed in range(CONVERTED * effort if effort > 1 else len(PRECISIONS)):
        file.write_bytes(mutate(data, seed))
        target.unlink(missing_ok=True)
        precision = PRECISIONS[seed % len(PRECISIONS)]
        try:
            run(file, Options(output=target, precision=precision, calibration=calibration, time_limit=60))
            artifact.read(target)
            outcomes["converted"] += 1
        except EdgeKitError as error:
            assert not isinstance(error, InternalError), f"seed {seed}: {error}"
            assert not os.listdir(folder), f"seed {seed}: a failed conversion left a file"
            outcomes["refused"] += 1
        assert not _inside(scratch), f"seed {seed}: scratch was left behind"
    assert set(os.listdir(tmp_path)) == before
    assert outcomes["refused"] > 0, f"mutations that are all accepted test nothing: {outcomes}"


def _inside(scratch: Path) -> list[str]:
    return [str(p) for p in scratch.rglob("*") if p.is_file()]
