"""The self-test's vectors: answers that do not depend on how a kernel rounds, and are still an answer."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit.converters import record as module
from edgekit.converters.record import EIGHT_BITS, FLOATS, SIXTEEN_BITS, record
from edgekit.runtimes.base import dequantize
from edgekit.runtimes.replay import replay
from edgekit.selftest import Tolerance
from edgekit.tensors import QuantParams, TensorSpec

RANGES = {"image": (0.0, 1.0)}


class Fragile:
    """A model of one int8 input whose answer turns around where the input's mean is near a tie."""

    inputs = (TensorSpec("x", (1, 64), "int8", quant=QuantParams((1 / 255,), (-128,))),)
    outputs = (TensorSpec("y", (1, 2), "int8", quant=QuantParams((1 / 256,), (0,))),)

    def __init__(self, width):
        self.width = width

    def run(self, feeds, *, raw):
        assert raw
        mean = float(feeds["x"].astype(np.float64).mean())
        lead = np.tanh((mean - np.round(mean / 4) * 4) / self.width)
        return {"y": np.rint(127 * np.array([[lead, -lead]])).astype(np.int8)}


@pytest.fixture
def fragile(monkeypatch):
    monkeypatch.setattr(module, "_plain", lambda _: None)
    return Fragile


def recorded(model, **options):
    given = {"arithmetic": EIGHT_BITS, "macs": 1, "budget_bytes": 0, "seed": 0} | options
    return record(model, {"x": (0.0, 1.0)}, [{"x": np.zeros((0, 64))}], **given)


def test_fragile_inputs_are_passed_over(fragile):
    """Near a tie the answer turns; elsewhere it is saturated and stands."""
    found = recorded(fragile(0.3))
    assert found.tolerance == EIGHT_BITS.tolerance
    indices = [vector.index for vector in found.vectors]
    assert len(indices) == 4
    assert indices == sorted(indices)
    assert indices != [0, 1, 2, 3]


def test_a_model_that_is_fragile_everywhere_says_so(fragile):
    found = recorded(fragile(3.0))
    assert len(found.vectors) == 4
    assert 1 < found.tolerance.steps < 64
    assert found.tolerance.relative > EIGHT_BITS.tolerance.relative


def test_the_least_fragile_are_taken(fragile):
    """Fewer candidates, more spread; never less than with all of them."""
    few, many = (recorded(fragile(3.0), macs=macs).tolerance.steps for macs in (10**12, 1))
    assert many <= few


def test_the_same_bytes_again(fragile):
    assert recorded(fragile(0.3)).to_json() == recorded(fragile(0.3)).to_json()
    assert recorded(fragile(0.3), seed=1).to_json() != recorded(fragile(0.3)).to_json()


@pytest.mark.parametrize(("macs", "count"), [(None, 48), (0, 48), (10**8, 48), (6 * 10**8, 8), (10**12, 8)])
def test_work_bounds_the_candidates(macs, count):
    assert module._count(macs) == count


def test_plain_kernels_are_asked_too(model, samples):
    with module._Shaker(model, EIGHT_BITS, RANGES, 0) as shaker:
        assert shaker._plain is not None
        feeds = {"image": module._raw(samples(model), model.inputs[0])}
        one, other = (m.run(feeds, raw=True)["probs"] for m in (model, shaker._plain))
        real = [dequantize(answer, model.outputs[0]) if model.outputs[0].quant else answer for answer in (one, other)]
        assert np.abs(real[0] - real[1]).max() < 0.1


def test_real_samples_are_stored_while_they_fit(model, samples):
    how = {"arithmetic": EIGHT_BITS if model.manifest.precision == "int8" else FLOATS, "macs": 10**5, "seed": 3}
    none = record(model, RANGES, [{"image": samples(model, 20)}], budget_bytes=0, **how)
    some = record(model, RANGES, [{"image": samples(model, 20)}], budget_bytes=1500, **how)
    assert all(vector.index is not None for vector in none.vectors)
    assert len(none.vectors) == 4
    stored = [vector for vector in some.vectors if vector.index is None]
    assert 1 <= len(stored) < 20
    assert sum(len(text) for vector in stored for text in vector.inputs.values()) <= 1500
    model.artifact.__dict__["selftest"] = some
    assert replay(model).passed


def test_flags_and_ids_are_not_shaken():
    ids = TensorSpec("ids", (1, 4), "int32")
    shaker = module._Shaker.__new__(module._Shaker)
    shaker.__dict__.update(_seed=0, _ranges={"ids": (0, 9)}, _arithmetic=EIGHT_BITS)
    values = np.array([[1, 2, 3, 4]], np.int32)
    assert shaker._shake(values, ids, 0) is values


@pytest.mark.parametrize("arithmetic", [EIGHT_BITS, SIXTEEN_BITS, FLOATS])
def test_shaking_is_of_the_arithmetics_size(arithmetic):
    shaker = module._Shaker.__new__(module._Shaker)
    shaker.__dict__.update(_seed=0, _ranges={"x": (-2.0, 2.0)}, _arithmetic=arithmetic)
    moved = shaker._shake(np.zeros((1, 1000), np.float32), TensorSpec("x", (1, 1000), "float32"), 0)
    assert 0.8 * 4 * arithmetic.step < np.abs(moved).max() <= 2 * 4 * arithmetic.step
    assert abs(float(moved.mean())) < 0.2 * 4 * arithmetic.step


def test_integers_are_shaken_by_two_steps_within_their_range():
    spec = TensorSpec("x", (1, 999), "int8", quant=QuantParams((0.1,), (0,)))
    shaker = module._Shaker.__new__(module._Shaker)
    shaker.__dict__.update(_seed=0, _ranges={"x": (-2.0, 2.0)}, _arithmetic=EIGHT_BITS)
    values = np.resize(np.array([-128, 0, 127], np.int8), (1, 999))
    by = shaker._shake(values, spec, 1).astype(int) - values
    assert set(by[values == 0]) == {-2, -1, 0, 1, 2}
    assert set(by[values == 127]) == {-2, -1, 0}
    assert set(by[values == -128]) == {0, 1, 2}


def test_a_tolerance_grows_with_what_was_seen():
    assert module._tolerance(Tolerance(1, 1e-5), 0.3) == Tolerance(1, 1e-5)
    assert module._tolerance(Tolerance(1, 1e-5), 1.0) == Tolerance(1, 1e-5)
    assert module._tolerance(Tolerance(1, 1e-5), 3.0) == Tolerance(6, pytest.approx(6e-5))
