"""Tiny networks, the prices that follow from their times, and the profile that keeps them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgekit.artifact import Artifact
from edgekit.device_profiles import load_profile
from edgekit.errors import UsageError
from edgekit.formats import read_facts
from edgekit.measure.micro import Group, times
from edgekit.micro import nets, onnx, tflite
from edgekit.micro.flat import Scalar, vector, write
from edgekit.predict import predict
from edgekit.predict.fitting import prices
from edgekit.predict.plan import kernels
from edgekit.predict.work import SHARED_ONLY, UNITS, away, total
from edgekit.targets import boards, pricing

NETS = {net.name: net for net in nets.nets()}
WRITERS = {"tflite": tflite, "onnx": onnx}


def facts(net: nets.Net, format: str, precision: str):
    data = WRITERS[format].model(net, precision)
    return read_facts(Artifact(format, data, len(data), {}))


def macs(net: nets.Net) -> int:
    """By hand, from the layers."""
    found = 0
    for layer, before, after in net.maps():
        places = after[0] * after[1]
        if layer.kind == "conv":
            found += places * after[2] * layer.kernel**2 * before[2]
        elif layer.kind == "depthwise":
            found += places * after[2] * layer.kernel**2
        elif layer.kind == "dense":
            found += after[2] * math.prod(before)
        elif layer.kind == "attend":
            found += 2 * places**2 * before[2]
        elif layer.kind == "linear":
            found += places * before[2] * layer.out
        elif layer.kind == "gate":
            found += 2 * before[2] * max(1, before[2] // 4)
        elif layer.kind == "spread":
            found += places * before[2] * layer.out
        elif layer.kind in ("lstm", "gru"):
            gates = 4 if layer.kind == "lstm" else 3
            found += places * gates * layer.out * (before[2] + layer.out)
    return found


def written(format: str) -> list[nets.Net]:
    return [net for net in NETS.values() if WRITERS[format].writes(net)]


@pytest.mark.parametrize("format", ["tflite", "onnx"])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_our_readers_find_what_was_written(format, precision):
    for net in written(format):
        seen = facts(net, format, precision)
        assert seen.macs == macs(net), net.name
        plan = kernels(seen)
        assert plan.unknown == (), net.name
        kinds = {layer.kind for layer in net.layers}
        floats = format == "onnx" and kinds & {"lstm", "gru", "spread"}  # which have no integer kernels there
        assert {k.precision for k in plan.kernels if k.macs} <= {"fp32" if floats else precision}, net.name


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_engines_run_every_network(tmp_path, precision):
    pytest.importorskip("ai_edge_litert")
    pytest.importorskip("onnxruntime")
    for format, engine in (("tflite", "litert"), ("onnx", "onnxruntime")):
        paths = []
        for net in written(format):
            paths.append(tmp_path / f"{net.name}.{format}")
            paths[-1].write_bytes(WRITERS[format].model(net, precision))
        seen = times(Group(engine, 1, tuple(map(str, paths))), 0.0)
        refused = {path.stem for path, ns in zip(paths, seen, strict=True) if ns is None}
        assert refused <= {"swishes"}, (engine, precision)  # the integer kernel wants other scales


@pytest.mark.parametrize(
    ("net", "precision", "outside", "stride"),
    [("adding", "fp32", 0, 0), ("thinning", "fp32", 2, 4096 + 1024), ("thinning", "int8", 2, 4096 + 1024),
     ("classes", "fp32", 0, 0), ("classes", "int8", 1, 0), ("remembering", "fp32", 1, 0)],
)  # fmt: skip
def test_kernels_that_xnnpack_does_not_take_are_marked(net, precision, outside, stride):
    units = total(kernels(facts(NETS[net], "tflite", precision)).kernels)
    assert (units.get("builtin", 0), units.get("stride", 0)) == (outside, stride)
    assert "move" not in units


def test_every_unit_that_networks_can_show_is_shown():
    shown = {unit for format in WRITERS for net in written(format) for precision in ("fp32", "int8")
             for kernel in kernels(facts(net, format, precision)).kernels for unit in kernel.units}  # fmt: skip
    assert set(UNITS) - shown == {"asking", "run", "select"}
    assert {net.name for net in nets.nets(quick=True)} < set(NETS)


def test_both_engines_give_the_same_answer_and_a_time(tmp_path):
    pytest.importorskip("ai_edge_litert")
    pytest.importorskip("onnxruntime")
    from edgekit.runtimes.model import load

    net = nets.Net("same", (6, 6, 2), (nets.Layer("add"), nets.Layer("max", 0, 3, 2), nets.Layer("pad")))
    x = np.random.default_rng(0).uniform(-1, 1, (1, 6, 6, 2)).astype(np.float32)
    answers = []
    for format, array in (("tflite", x), ("onnx", x.transpose(0, 3, 1, 2))):
        for precision in ("fp32", "int8"):
            path = tmp_path / f"{precision}.{format}"
            path.write_bytes(WRITERS[format].model(net, precision))
            with load(path) as model:
                (found,) = model.run({"x": array}).values()
            answers.append(found if format == "tflite" else found.transpose(0, 2, 3, 1))
    for other in answers[1:]:
        np.testing.assert_allclose(other, answers[0], atol=0.11)
    missing = tmp_path / "broken.tflite"
    missing.write_bytes(write({0: Scalar("I", 3), 1: vector("i", [])}, b"TFL3"))
    seen = times(Group("litert", 1, (str(tmp_path / "fp32.tflite"), str(tmp_path / "int8.tflite"))), 0.0)
    assert all(ns > 0 for ns in seen)


def test_prices_come_back_from_times():
    truth = {"gemm": 0.02, "conv": 0.03, "traffic": 0.01, "kernel": 40.0, "run": 900.0}
    random = np.random.default_rng(1)
    counts = [{u: float(random.uniform(0, 1e3 / p)) for u, p in truth.items() if u != "run"} | {"run": 1.0}
              for _ in range(40)]  # fmt: skip
    ns = [sum(truth[u] * n for u, n in count.items()) for count in counts]
    ns[7] *= 5  # one measurement that was disturbed
    found = prices(counts, ns, dict.fromkeys(truth, 1.0), width=5.0)
    for unit, price in truth.items():
        assert found[unit] == pytest.approx(price, rel=0.1), unit


def test_a_unit_that_nothing_shows_keeps_its_prior():
    found = prices([{"run": 1.0, "gemm": 1e-6}] * 3, [500.0] * 3, {"run": 100.0, "gemm": 0.25})
    assert found["gemm"] == pytest.approx(0.25, rel=1e-3)
    assert found["run"] == pytest.approx(500, rel=0.02)


def test_what_is_known_of_a_time_is_taken_off_before_the_fit():
    counts, known = [{"conv": float(n)} for n in (1e3, 2e3, 5e3)], [4e3, 100.0, 2e4]
    ns = [0.5 * count["conv"] + fixed for count, fixed in zip(counts, known, strict=True)]
    assert prices(counts, ns, {"conv": 3.0}, fixed=known)["conv"] == pytest.approx(0.5, rel=0.01)


def test_floats_between_integers_pay_the_prices_of_floats():
    profile = load_profile("raspberry-pi-4b")
    told = pricing.counted(facts(NETS["gated"], "onnx", "int8"), profile)
    paid = {
        like: {unit for (one, _), units in told.items() if one == like for unit in units} for like in ("fp32", "int8")
    }
    assert "recurrent" in paid["fp32"] - paid["int8"]
    assert "convert" in paid["int8"]
    assert {like for like, _ in pricing.counted(facts(NETS["gated"], "onnx", "fp32"), profile)} == {"fp32"}


@pytest.mark.parametrize(
    ("cores", "counts"), [(1, [1]), (4, [1, 2, 3, 4]), (6, [1, 2, 3, 4, 6]), (12, [1, 2, 3, 4, 8, 12])]
)
def test_threads_that_are_tried(cores, counts):
    assert pricing.thread_counts(cores) == counts


def test_a_probe_writes_prices_that_predictions_rest_on(tmp_path, monkeypatch):
    pytest.importorskip("ai_edge_litert")
    few = tuple(NETS.values())[:: len(NETS) // 12]
    monkeypatch.setattr(pricing.nets, "nets", lambda *, quick: few)
    monkeypatch.setattr(pricing, "QUICK_SECONDS", 0.1)
    monkeypatch.setattr(pricing, "thread_counts", lambda cores: [1])
    stages = []
    found = boards.probe(quick=True, progress=lambda event: stages.append(event["stage"]))
    assert any(stage.startswith("kernels: litert") for stage in stages)
    path = tmp_path / "here.toml"
    path.write_text(found.profile)
    profile = load_profile(path)
    assert {"litert-fp32-1", "litert-int8-1"} <= set(profile.costs)
    assert set(found.fit_error) == set(profile.costs)
    assert "tiny networks" in profile.source("costs.litert-fp32-1")
    net = facts(NETS["wide"], "tflite", "fp32")
    told = predict(net, profile, threads=1)
    assert told.basis == "probe"
    assert told.latency["basis"].startswith("measured on this machine")
    count = total(kernels(net).kernels, 1 << 40)
    count.pop("far", None)
    own = profile.costs["litert-fp32-1"]
    expected = sum(own[unit] * n for unit, n in count.items()) / 1e6
    assert told.latency["estimate"] >= 0.99 * expected


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("[costs.litert-fp64-1]\nrun = 1.0", "ENGINE-PRECISION-THREADS"),
        ("[costs.litert-fp32-1]\nrun = -1.0", "negative"),
    ],
)
def test_costs_of_a_profile_are_checked(tmp_path, line, said):
    path = tmp_path / "odd.toml"
    path.write_text(f'title = "Odd"\ninherits = "raspberry-pi-4b"\n{line}\n')
    with pytest.raises(UsageError, match=said):
        load_profile(path)


def test_prices_of_several_threads_say_what_asking_them_costs():
    """Short kernels take longer with more threads, long ones half as long: both follow from one table."""
    profile = load_profile("raspberry-pi-4b")
    names = [name for name in NETS if WRITERS["tflite"].writes(NETS[name])]
    counts = [pricing.counted(facts(NETS[name], "tflite", "fp32"), profile) for name in names]

    def taken(each, threads):
        sums = [(pieces, dict(units)) for (_, pieces), units in each.items()]
        work = {pieces: sum(n for unit, n in units.items() if unit not in SHARED_ONLY) for pieces, units in sums}
        helped = [(pieces > 1 and threads > 1, work[pieces], units) for pieces, units in sums]
        return 2000 + sum(ns / (2 if more else 1) + 3000 * units.get("asking", 0) * more for more, ns, units in helped)

    found = pricing.Priced({}, len(names), {})
    for threads in (1, 2):
        times = [taken(each, threads) for each in counts]
        pricing.fit(found, profile, "litert", "fp32", threads, counts, times)
    assert found.costs["litert-fp32-2"]["asking"] == pytest.approx(3000, rel=0.2)
    assert found.costs["litert-fp32-2"]["gemm"] < 0.7 * found.costs["litert-fp32-1"]["gemm"]


def test_a_probed_machine_s_threads_slow_a_run_of_many_short_kernels_down():
    from dataclasses import replace

    profile = load_profile("raspberry-pi-4b")
    one = dict.fromkeys(UNITS, 1.0)
    costs = {"litert-fp32-1": one, "litert-fp32-2": {**one, "gemm": 0.5, "asking": 300.0}}
    probed = replace(profile, costs=costs)
    seen = facts(NETS["point-tiny"], "tflite", "fp32")
    alone, both = (predict(seen, probed, engine="litert", threads=n) for n in (1, 2))
    asked = {op.name for op, kernel in zip(both.ops, kernels(seen).kernels, strict=True) if kernel.pieces > 1}
    work = total(kernels(seen).kernels)["gemm"]
    more = both.latency["estimate"] - alone.latency["estimate"]
    assert more * 1e6 == pytest.approx(
        300 * len(asked) + total(kernels(seen).kernels).get("fed", 0) - work / 2, rel=0.5
    )


def test_a_busy_machine_spoils_a_round_of_each_group_and_not_all_of_one(monkeypatch, tmp_path):
    from edgekit.measure import micro

    order = []

    class Recorded:
        def __init__(self, group):
            self.group, self.seen = group, [[1.0, 1.0]]

        def round(self):
            order.append(self.group.engine)

    monkeypatch.setattr(micro, "_Apart", Recorded)
    groups = tuple(Group(name, 2, ("x",)) for name in ("one", "other"))
    for _ in micro.measure(micro.MicroRequest(groups, 0.0)):
        pass
    assert order == ["one", "other"] * micro.LEAST_ROUNDS


def test_integer_ops_of_one_tensor_are_one_table():
    """XNNPACK looks up what several elementwise ops come to; a sum of a tensor with itself is none."""
    plan = kernels(facts(NETS["sigmoids"], "tflite", "int8")).kernels
    assert [kernel.units.get("math", 0) for kernel in plan] == [0, 0, 16 * 16 * 32]
    assert sum("math" in kernel.units for kernel in kernels(facts(NETS["sigmoids"], "tflite", "fp32")).kernels) == 3
    assert all("math" not in kernel.units for kernel in kernels(facts(NETS["adding"], "tflite", "int8")).kernels)
    curves = kernels(facts(NETS["curves"], "tflite", "int8")).kernels
    assert sum("math" in kernel.units for kernel in curves) == 4
    swish = nets.Net("swish", (4, 4, 8), (nets.Layer("sigmoid"), nets.Layer("mul")))
    first, last = kernels(facts(swish, "tflite", "int8")).kernels
    assert "math" not in first.units
    assert last.units["math"] == 128


def test_networks_that_mix_arithmetics_tell_the_price_of_integers():
    """Roundings between floats are integers' work, whose price comes after the floats'."""
    told = pricing.counted(facts(NETS["rescaling"], "tflite", "fp32"), load_profile("raspberry-pi-4b"))
    assert pricing._last(told) == "int8"
    plain = pricing.counted(facts(NETS["wide"], "tflite", "fp32"), load_profile("raspberry-pi-4b"))
    assert pricing._last(plain) == "fp32"


def test_what_an_engine_keeps_of_its_kernels_leaves_the_near_caches_in_long_runs():
    plan = kernels(facts(NETS["cells-hundreds"], "tflite", "int8")).kernels
    assert away(plan, 512 * 1024) > 0.2
    assert away(kernels(facts(NETS["cells"], "tflite", "int8")).kernels, 512 * 1024) == 0
    assert total(plan, near=512 * 1024)["state"] > 0
    assert "state" not in total(plan)


@pytest.mark.parametrize(("net", "unit"), [("attending", "matrix"), ("cutoff", "scaled"), ("classes", "soft")])
def test_integers_that_xnnpack_leaves_have_prices_of_their_own(net, unit):
    plan = kernels(facts(NETS[net], "tflite", "int8")).kernels
    assert any(unit in kernel.units and kernel.pieces == 1 for kernel in plan)
    assert not any(unit in kernel.units for kernel in kernels(facts(NETS[net], "tflite", "fp32")).kernels)


def test_wide_depthwise_windows_are_groups_for_xnnpack():
    wide = kernels(facts(NETS["wise-seven"], "tflite", "fp32")).kernels
    assert all("grouped" in kernel.units and "depthwise" not in kernel.units for kernel in wide)
    assert all("depthwise" in kernel.units for kernel in kernels(facts(NETS["wise-five"], "tflite", "fp32")).kernels)


def test_kernels_that_no_figure_has_widen_the_interval():
    from edgekit.predict import predict

    board = load_profile("raspberry-pi-4b")
    known = predict(facts(NETS["middle"], "tflite", "int8"), board, engine="litert", threads=1)
    new = predict(facts(NETS["attending-wide"], "tflite", "int8"), board, engine="litert", threads=1)
    assert known.basis == "board"
    assert new.basis == "core"
    assert "no published figure has" in new.latency["basis"]
    assert new.latency["high"] / new.latency["low"] > known.latency["high"] / known.latency["low"]


def test_onnxruntime_gives_small_kernels_one_thread():
    small, large = (kernels(facts(NETS[net], "onnx", "fp32")).kernels[0] for net in ("few-rows", "heavy"))
    assert (small.pieces, large.pieces > 100) == (1, True)
