"""What `edgekit debug` is made of: figures, reasons and remedies, names."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import click
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edgekit.cli import cmd_convert
from edgekit.converters import repairs
from edgekit.converters.calibration.observers import names as observers
from edgekit.converters.debugging import reasons
from edgekit.converters.debugging.figures import NOTHING, Comparison, Figures, Spread
from edgekit.converters.debugging.layers import boundary
from edgekit.converters.debugging.naming import Names, Node, source_layer
from edgekit.converters.debugging.nets import Net, Op, Tensor
from edgekit.converters.debugging.pairing import Match, orders
from edgekit.converters.debugging.rescaling import Gauge
from edgekit.converters.debugging.results import Layer, Weights
from edgekit.precision import precisions
from edgekit.tensors import QuantParams

FINE = Figures(30.0, 0.999, 0.01, 0.1, 0.0)
SPREAD = Spread(-1.0, 1.0, 0.5, 0.0, 0.0, 0.0, 0.0, 200, 1, (1.0, 0.9, 1.1, 1.0), ())
LAYER = Layer(
    "t", "conv", "CONV_2D", 3, "t", "name", "int8", (1, 4, 4, 4), 0.01, 0, FINE, FINE, FINE, SPREAD,
    contribution=0.5, representable=(-1.28, 1.27),
)  # fmt: skip

values = arrays.arrays(np.float32, st.integers(1, 60), elements=st.floats(-100, 100, width=32))


@settings(max_examples=60, deadline=None)
@given(values, values, st.floats(2**-10, 1.0, width=32), st.integers(-128, 127))
def test_figures_of_pieces_are_those_of_the_whole(one, other, scale, zero):
    tensor = Tensor("t", "int8", None, QuantParams((scale,), (zero,)))
    whole, pieces = Comparison(tensor, None), Comparison(tensor, None)
    both = np.concatenate([one, other])
    whole.add(both, tensor.integers(both))
    for part in (one, other):
        pieces.add(part, tensor.integers(part))
    error = tensor.reals(tensor.integers(both)).astype(np.float64) - both
    figures, spread = pieces.figures(), pieces.spread()
    assert figures.max_abs_error == pytest.approx(np.abs(error).max())
    assert (figures.sqnr_db is None) == (not error.any())
    if figures.sqnr_db is not None and figures.sqnr_db > NOTHING:
        expected = 10 * math.log10(float((both.astype(np.float64) ** 2).sum()) / float((error**2).sum()))
        assert figures.sqnr_db == pytest.approx(expected, abs=1e-6)
    assert whole.figures().sqnr_db == pytest.approx(figures.sqnr_db)
    low, high = scale * (-128 - zero), scale * (127 - zero)
    assert spread.saturation == pytest.approx(np.mean((both < low - scale / 2) | (both > high + scale / 2)), abs=1e-9)
    assert (spread.low, spread.high) == (both.min(), both.max())
    assert figures.kl >= -1e-12


def test_what_is_not_finite_is_an_error_only_where_the_other_side_differs():
    tensor = Tensor("t", "float32")
    alike, off = Comparison(tensor, None), Comparison(tensor, None)
    odd = np.float32([1, np.inf, np.nan, -np.inf])
    alike.add(odd, odd.copy())
    off.add(odd, np.float32([1, np.inf, 0, -np.inf]))
    assert alike.figures().sqnr_db is None
    assert alike.relative == 0
    assert off.figures().sqnr_db == NOTHING
    assert off.relative == math.inf


def test_axes_lie_as_they_are_or_with_channels_at_the_other_end():
    assert orders((1, 4, 5, 3), (1, 3, 4, 5)) == [(0, 2, 3, 1)]
    assert orders((1, 3, 4, 5), (1, 3, 4, 5)) == [(0, 1, 2, 3)]
    assert len(orders((1, 3, 3, 3), (1, 3, 3, 3))) == 3
    assert orders((1, 7), (1, 8)) == []


# -- Reasons -----------------------------------------------------------------------------------------------------------


def weights(**changes):
    return replace(Weights("w", "int8", (0.1,) * 4, (1.0,) * 4, 0.0, 200, 0.001), **changes)


def spread(**changes):
    return replace(SPREAD, **changes)


CASES = {
    "exact": replace(LAYER, cumulative=replace(FINE, sqnr_db=None), isolated=replace(FINE, sqnr_db=None)),
    "mixed-concat": replace(LAYER, op="CONCATENATION", inputs_range=((0.0, 640.0), (0.0, 1.0))),
    "mixed-output": replace(LAYER, is_output=True, spread=spread(columns=(640.0, 640.0, 1.0))),
    "outlier-channel": replace(LAYER, spread=spread(peaks=(1.0, 1.0, 90.0, 1.2))),
    "clipped": replace(LAYER, spread=spread(clipped=0.8, saturation=0.02)),
    "bias-overflow": replace(LAYER, weights=weights(bias_peak=0.9)),
    "weights-share-scale": replace(LAYER, weights=weights(scales=(0.1,), peaks=(1.0, 1.0, 30.0, 1.0))),
    "weights-saturated": replace(LAYER, own=replace(FINE, sqnr_db=25.0), weights=weights(saturation=0.05)),
    "tiny-range": replace(LAYER, spread=spread(low=0.0, high=1e-7)),
    "few-levels": replace(LAYER, representable=(-10.0, 10.0)),
    "taken-back": replace(
        LAYER, isolated=replace(FINE, sqnr_db=25.0), own=replace(FINE, shift=-0.9), weights=weights()
    ),
    "one-sided": replace(LAYER, own=replace(FINE, shift=-0.9)),
    "kernel": replace(LAYER, isolated=replace(FINE, sqnr_db=2.0), own=replace(FINE, sqnr_db=2.0)),
    "activation-rounding": replace(LAYER, own=replace(FINE, sqnr_db=45.0)),
    "weight-rounding": replace(LAYER, own=replace(FINE, sqnr_db=25.0), weights=weights()),
    "stored-weights": replace(LAYER, scale=None, dtype="float32", weights=weights()),
    "dead-channels": replace(LAYER, scale=None, spread=spread(peaks=(1.0, 0.0, 0.0, 1.0))),
}


def codes(layer, layers=()):
    return [reason.code for reason in reasons.explained(layer, [layer, *layers]).reasons]


@pytest.mark.parametrize("code", CASES)
def test_each_reason_has_its_test(code):
    found = reasons.explained(CASES[code], [CASES[code]])
    assert found.reasons[0].code == code
    assert "{" not in found.reasons[0].text
    assert set(codes(LAYER)) <= {"activation-rounding", "weight-rounding"}


def test_a_bias_that_corrects_the_layers_before_is_no_fault():
    layer = CASES["taken-back"]
    assert codes(layer) == ["taken-back"]
    # As noisy on their answers: the shift, or the weights, are to blame again.
    blamed = codes(replace(layer, cumulative=replace(FINE, sqnr_db=26.0)))
    assert "taken-back" not in blamed
    assert blamed[0] == "one-sided"


def test_noise_from_upstream_is_said_to_come_from_there():
    culprit = replace(LAYER, name="a", source_layer="culprit", contribution=0.9)
    late = replace(LAYER, name="b", inputs=("a",), contribution=0.01, cumulative=replace(FINE, sqnr_db=5.0))
    found = reasons.explained(late, [culprit, late])
    assert found.reasons[0].code == "inherited"
    assert "culprit" in found.reasons[0].text


def test_every_reason_of_the_catalogue_can_occur():
    assert set(reasons.catalogue()) == {*CASES, "inherited"}


def test_weights_at_their_ends_are_no_reason_where_rounding_explains_the_error():
    layer = replace(CASES["weights-saturated"], own=replace(FINE, sqnr_db=45.0))
    assert codes(layer) == ["activation-rounding"]


def test_a_kernel_is_no_reason_where_what_it_reads_is_coarse():
    layer = replace(CASES["kernel"], own=FINE, contribution=0.0)
    assert "kernel" not in codes(layer)


def test_no_observer_is_advised_for_what_has_the_scale_of_its_input():
    layer = replace(CASES["few-levels"], inputs=("before",))
    before = replace(LAYER, name="before", scale=layer.scale)
    assert reasons.explained(layer, [layer]).reasons[0].options[0] == "--observer mse"
    assert "--observer mse" not in reasons.explained(layer, [before, layer]).reasons[0].options


def test_options_that_were_used_are_not_recommended_again():
    found = reasons.explained(CASES["outlier-channel"], [], ["--repair equalize"])
    assert "--repair equalize" not in found.reasons[0].options


def test_layers_stand_by_what_they_do_to_the_outputs():
    little, much, unknown = (
        replace(LAYER, name=name, contribution=share) for name, share in (("a", 0.1), ("b", 0.8), ("c", None))
    )
    assert [layer.name for layer in reasons.ranked([little, unknown, much])] == ["b", "a", "c"]


CHOICES = {"--precision": precisions.names, "--observer": observers, "--repair": repairs.names}


def test_channels_that_repairs_scaled_are_seen_and_faults_are_not():
    dice = np.random.default_rng(4)
    wanted = 2.0 ** dice.uniform(-3, 3, 8)
    scaled, faulty, dead = Gauge(-1), Gauge(-1), Gauge(-1)
    for _ in range(4):
        f = dice.normal(size=(1, 5, 5, 8)).astype(np.float32)
        noise = dice.normal(size=f.shape) * 0.03
        scaled.add(f, (f * wanted + noise).astype(np.float32))
        broken = f.copy()
        broken[..., 3] = dice.normal(size=f.shape[:-1])
        faulty.add(f, (broken + noise).astype(np.float32))
        dead.add(0 * f, f)
    assert scaled.factors() == pytest.approx(wanted.reshape(1, 1, 1, 8), rel=0.05)
    assert faulty.factors() is None
    assert dead.factors() is None


@pytest.mark.parametrize("code", reasons.catalogue())
def test_every_remedy_names_an_option_of_convert_and_a_choice_that_it_has(code):
    known = {name: option for option in cmd_convert.command.params for name in option.opts}
    for remedy in reasons.catalogue()[code]["options"]:
        name, _, value = remedy.partition(" ")
        assert name in known, remedy
        if not value:
            assert known[name].is_flag
        elif isinstance(known[name].type, click.Choice):
            assert value in known[name].type.choices
        elif name in CHOICES:
            assert value in CHOICES[name]()
        else:
            assert re.fullmatch(r"[\d.]+", value), remedy


# -- Names -------------------------------------------------------------------------------------------------------------


def test_keras_layers_are_found_in_fused_names():
    names = Names(layers=("conv2d", "conv2d_1", "bn", "act"))
    op, net = Op(0, "CONV_2D", ("x",), ("y",)), Net([], [], {}, [])
    fused = "model/act/Relu;model/bn/FusedBatchNormV3;model/conv2d_1/BiasAdd/ReadVariableOp;model/conv2d_1/Conv2D1"
    assert source_layer(names, net, op, fused) == "conv2d_1"
    assert source_layer(Names(), net, op, fused) == "model/conv2d_1"
    # An operator is called as another layer is.
    sums = Names(layers=("add", "add_1", "act"))
    assert source_layer(sums, net, op, "model/act/Relu;model/add_1/add") == "add_1"
    assert source_layer(sums, net, op, "model/act/Relu;model/add/add") == "add"
    assert source_layer(Names(), net, op, "t7") is None


def test_a_variable_of_an_op_does_not_keep_it_from_running_alone():
    op = Op(0, "UNIDIRECTIONAL_SEQUENCE_LSTM", ("x", "state"), ("y",))
    net = Net(["x"], ["y"], {name: Tensor(name, "float32") for name in ("x", "state", "y")}, [op])
    net.__dict__["constants"] = frozenset()
    found = {"x": Match("x", "interface"), "y": Match("y", "interface")}
    assert boundary(net, "y", found) == {"x": "x"}


def test_parts_of_a_lowered_node_bear_its_name():
    names = Names({"/norm/out": Node("block.norm", "LayerNormalization", "x")})
    net = Net(["x"], ["/norm/out"], {}, [])
    part = Op(0, "MEAN", ("x",), ("/norm/out/mean_1",))
    assert source_layer(names, net, part, "/norm/out/mean_1") == "block.norm"
    assert source_layer(names, net, part, "/other/mean_1") is None


def test_what_was_fused_into_a_convolution_bears_its_name():
    nodes = {"c": Node("conv", "Conv", "x"), "n": Node("norm", "BatchNormalization", "c"),
             "r": Node("act", "Relu", "n")}  # fmt: skip
    net = Net([], [], {}, [])
    assert source_layer(Names(nodes), net, Op(0, "CONV_2D", ("x",), ("r",)), "r") == "conv"
    assert source_layer(Names(nodes), net, Op(0, "RELU", ("n",), ("r",)), "r") == "act"
