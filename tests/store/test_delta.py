"""Versions as differences: right to the last byte, small where little changed, refused where anything is off."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.deploy import delta
from edgekit.errors import ArtifactError


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_a_difference_gives_the_new_file_back(old, new):
    assert delta.apply(old, delta.make(old, new), digest(new), len(new)) == new


def test_one_byte_in_twenty_takes_less_than_an_eighth():
    dice = np.random.default_rng(0)
    old = dice.integers(0, 256, 400_000, np.uint8)
    new = old.copy()
    changed = dice.random(old.size) < 0.05
    new[changed] += dice.integers(1, 256, int(changed.sum()), np.uint8)
    assert len(delta.make(old.tobytes(), new.tobytes())) < 0.12 * new.size


def test_another_base_or_a_changed_byte_is_refused():
    old, new = b"old" * 1000, b"new" * 1000
    made = delta.make(old, new)
    for base, data, size in (
        (b"odd" * 1000, made, len(new)),
        (old, made[: len(made) // 2], len(new)),
        (old, b"\0" * 20, len(new)),
        (old, made, len(new) - 1),
        (old, made, 2**40),
        (old, delta.make(old, new + b"!"), len(new)),
    ):
        with pytest.raises(ArtifactError) as refused:
            delta.apply(base, data, digest(new), size)
        assert refused.value.code == "delta-wrong"


def test_the_desk_knows_what_it_deployed(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path))
    old, new = b"weights " * 5000, b"weights " * 4999 + b"Weights "
    assert delta.best(new, [digest(old)]) is None
    delta.remember(old, digest(old))
    found = delta.best(new, ["0" * 64, digest(old)])
    assert found is not None
    assert found.base == digest(old)
    assert len(found.data) < 200
    (tmp_path / "deployed" / digest(old)).write_bytes(b"changed")
    assert delta.best(new, [digest(old)]) is None
    for number in range(40):
        delta.remember(b"%d" % number, digest(b"%d" % number))
    assert len(list((tmp_path / "deployed").iterdir())) == 32


def test_only_a_few_versions_are_tried(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path))
    made = []
    monkeypatch.setattr(delta, "make", lambda old, new: made.append(old) or new)
    for number in range(9):
        delta.remember(b"%d" % number, digest(b"%d" % number))
    assert delta.best(b"new", ["0" * 64, *(digest(b"%d" % number) for number in range(9))]) is None
    assert made == [b"0", b"1", b"2"]
