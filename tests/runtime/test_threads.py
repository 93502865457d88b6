"""One model, many threads: a LiteRT interpreter shared bare between threads gives wrong answers, a Model does not."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

THREADS = 8
CALLS = 500


@pytest.mark.parametrize("raw", [False, True], ids=["real", "raw"])
def test_answers_of_many_threads_are_those_of_one(model, samples, effort, raw):
    """8 threads by 500 calls; by 10,000 in the long run."""
    batch = samples(model, 32)
    if raw and model.inputs[0].quant:
        batch = np.random.default_rng(2).integers(-128, 128, batch.shape).astype(model.inputs[0].dtype)
    feeds = [{"image": sample[None]} for sample in batch]
    expected = [model.run(feed, raw=raw)["probs"].copy() for feed in feeds]
    assert len({answer.tobytes() for answer in expected}) > 8, "answers that are all alike prove nothing"
    calls = CALLS if effort == 1 else 10_000

    def work(thread: int) -> int:
        wrong = 0
        for number in range(calls):
            at = (number * (2 * thread + 1) + thread) % len(feeds)
            wrong += not np.array_equal(model.run(feeds[at], raw=raw)["probs"], expected[at])
        return wrong

    with ThreadPoolExecutor(THREADS) as pool:
        assert sum(pool.map(work, range(THREADS))) == 0


def test_batches_of_many_threads(model, samples):
    """The general way, in pieces."""
    batches = [samples(model, 3, seed=seed).astype(np.float64) for seed in range(8)]
    expected = [model.run(batch)["probs"] for batch in batches]
    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(lambda number: model.run(batches[number % 8])["probs"], range(160)))
    for number, answer in enumerate(found):
        np.testing.assert_array_equal(answer, expected[number % 8])
