"""Streams that are drawn again and again from a few samples: how many there are, and what that is worth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.monitor.build import Builder
from edgekit.monitor.monitor import Monitor
from edgekit.monitor.pool import Pool
from edgekit.reading import Interpret
from edgekit.tensors import TensorSpec

ROWS = (TensorSpec("x", (None, 30), "float32"),)
VALUE = (TensorSpec("y", (None, 1), "float32"),)
HOW = Interpret(task="regression")


def told(blocks):
    pool = Pool(blocks[0].shape[1])
    for block in blocks:
        pool.add(block)
    return pool


@settings(max_examples=30, deadline=None)
@given(size=st.integers(20, 30_000), columns=st.integers(1, 40), seed=st.integers(0, 2**32 - 1))
def test_the_size_of_a_pool_is_known_once_it_was_drawn_three_times(size: int, columns: int, seed: int):
    dice = np.random.default_rng(seed)
    samples = dice.normal(size=(size, columns))
    pool = told([samples[dice.integers(0, size, 32)] for _ in range(4 + 3 * size // 32)])
    assert 0.9 * size - 3 < pool.size < 1.1 * size + 3


@pytest.mark.parametrize("columns", [1, 64])
def test_samples_that_never_come_again_are_no_pool(columns: int):
    dice = np.random.default_rng(1)
    pool = Pool(columns)
    for _ in range(2000):
        pool.add(dice.normal(size=(32, columns)))
        assert pool.size == math.inf


def test_integers_are_told_apart_as_well():
    dice = np.random.default_rng(1)
    samples = dice.integers(0, 256, size=(500, 8)).astype(float)
    assert 450 < told([samples[dice.integers(0, 500, 32)] for _ in range(100)]).size < 550


def test_a_picture_that_stands_is_not_drawn_again():
    samples = np.repeat(np.random.default_rng(0).normal(size=(640, 3)), 5, axis=0)
    pool = told(list(samples.reshape(-1, 32, 3)))
    assert (pool.size, pool.draws) == (math.inf, 640)


def test_a_pool_is_kept_across_restarts_and_begins_anew_from_what_versions_before_kept():
    dice = np.random.default_rng(2)
    samples = dice.normal(size=(100, 4))
    blocks = [samples[dice.integers(0, 100, 32)] for _ in range(20)]
    before, whole = told(blocks[:10]), told(blocks)
    after = Pool(4)
    after.restore(before.state())
    for block in blocks[10:]:
        after.add(block)
    assert after.size == pytest.approx(whole.size, rel=0.02), "the last sample is not kept: one draw more at most"
    after.restore({})
    assert 90 < after.size < 110


def watched(known, stream):
    builder = Builder(ROWS, VALUE, None, HOW)
    builder.add({"x": known}, {"y": known[:, :1]})
    monitor = Monitor(builder.finish(), ROWS, VALUE, None, HOW)
    raised = []
    for at in range(0, len(stream), 32):
        raised += monitor.observe({"x": stream[at : at + 32]}, {"y": stream[at : at + 32, :1]}).alarms
    return raised, monitor


def test_the_luck_of_a_few_samples_that_come_again_and_again_is_no_drift():
    """Nine of 20 such streams raised an alarm."""
    for seed in range(20):
        dice = np.random.default_rng(seed)
        known, few = (dice.normal(size=(number, 30)).astype(np.float32) for number in (300, 120))
        assert watched(known, few[dice.integers(0, 120, 6400)])[0] == []


def test_what_moved_far_is_found_in_a_pool_as_well():
    dice = np.random.default_rng(0)
    known, few = (dice.normal(size=(number, 30)).astype(np.float32) for number in (500, 200))
    stream = few[dice.integers(0, 200, 1280)]
    stream[640:, 3] += 1
    raised, _ = watched(known, stream)
    assert [alarm.where for alarm in raised[:1]] == ["input x: value 3"]
    assert raised[0].raised <= 640 + 320


def test_rows_of_categories_are_alike_by_nature_and_lose_nothing():
    dice = np.random.default_rng(0)
    known, stream = (dice.integers(0, 2, size=(number, 30)).astype(np.float32) for number in (500, 1280))
    known[:, 4:], stream[:, 4:] = 0, 0  # sixteen different rows
    stream[640:, 1] = dice.random(640) < 0.9
    raised, _ = watched(known, stream)
    assert raised
    assert raised[0].raised <= 640 + 128
