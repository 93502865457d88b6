"""Numbers in two float32 parts against float64."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

from edgekit.converters.from_sklearn.draft import FLOAT, Draft  # noqa: E402
from edgekit.converters.from_sklearn.twofold import Pair, Twofold  # noqa: E402


def parts(values):
    high = values.astype(np.float32)
    return high, (values - high).astype(np.float32)


def computed(way, *arrays):
    """What a function of pairs makes of float64 arrays."""
    draft = Draft()
    two, feeds, pairs = Twofold(draft), {}, []
    for number, array in enumerate(arrays):
        feeds |= dict(zip((f"h{number}", f"l{number}"), parts(array), strict=True))
        pairs.append(Pair(f"h{number}", f"l{number}"))
    made = way(two, *pairs)
    outputs = {"high": (made.high, FLOAT), "low": (two.lower(made), FLOAT)}
    proto = draft.model({name: list(part.shape) for name, part in feeds.items()}, outputs)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    high, low = session.run(["high", "low"], feeds)
    assert np.array_equal(high, (high.astype(np.float64) + low).astype(np.float32))
    return high.astype(np.float64) + low


def drawn(seed, shape=(200,)):
    dice = np.random.default_rng(seed)
    wide = dice.normal(size=shape) * 10.0 ** dice.uniform(-4, 4, shape)
    return np.add(*(part.astype(np.float64) for part in parts(wide)))


@pytest.mark.parametrize(
    ("way", "exact"),
    [(Twofold.multiply, np.multiply), (Twofold.divide, np.divide)],
    ids=["product", "quotient"],
)
def test_products_and_quotients_hold_46_bits(way, exact):
    a, b = drawn(0), drawn(1)
    np.testing.assert_allclose(computed(way, a, b), exact(a, b), rtol=2.0**-45)


@pytest.mark.parametrize(
    ("way", "exact"), [(Twofold.add, np.add), (Twofold.subtract, np.subtract)], ids=["sum", "rest"]
)
def test_sums_hold_46_bits_of_their_terms(way, exact):
    a = drawn(0)
    b = -exact(0.0, a) * (1 + drawn(1) * 1e-9)  # they cancel
    assert (np.abs(computed(way, a, b) - exact(a, b)) <= 2.0**-45 * np.abs(a)).all()


@pytest.mark.parametrize("count", [1, 2, 3, 30, 1000])
def test_long_sums_hold_42_bits_of_their_terms(count):
    a = drawn(2, (50, count))
    found = computed(lambda two, x: two.total(x, 1, count), a)
    assert (np.abs(found - a.sum(axis=1)) <= 2.0**-42 * np.abs(a).sum(axis=1)).all()


def test_rows_times_a_matrix():
    a, weights = drawn(3, (50, 20)), drawn(4, (20, 7))
    found = computed(lambda two, x: two.dot(x, weights), a)
    assert (np.abs(found - a @ weights) <= 2.0**-44 * (np.abs(a) @ np.abs(weights))).all()


def test_exponentials_and_roots():
    x = np.concatenate([np.linspace(-60, 80, 1001), [0.0, 1e-9, -1e-9, -0.0054, 0.0055]])
    x = np.add(*(part.astype(np.float64) for part in parts(x)))
    np.testing.assert_allclose(computed(Twofold.exponential, x), np.exp(x), rtol=2.0**-43)
    np.testing.assert_allclose(computed(Twofold.root, np.abs(x) + 1e-3), np.sqrt(np.abs(x) + 1e-3), rtol=2.0**-45)
    far = computed(Twofold.exponential, np.array([-1000.0, -104.5]))
    assert (far == 0).all()


def test_zero_stays_zero():
    zero = np.zeros((3, 4))
    assert (computed(lambda two, x: two.total(two.multiply(x, x), 1, 4), zero) == 0).all()
