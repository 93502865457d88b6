"""Repairs of float graphs: the float answers stay, the quantized ones come nearer, and what does not help is undone."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from generators import result

import edgekit
from edgekit import cli
from edgekit.converters import jobs, quantizers, repairs
from edgekit.converters.calibrate import calibrate
from edgekit.converters.repairs import channels, mend, scaling, trying
from edgekit.converters.repairs import repair_adaptive_rounding as rounding
from edgekit.converters.repairs import repair_clip_weights as clipping
from edgekit.converters.repairs import repair_split_outputs as splitting
from edgekit.converters.repairs.grid import as_stored, rounded, steps
from edgekit.converters.repairs.importance import channel_axes, importances
from edgekit.converters.repairs.mend import Wanted
from edgekit.converters.repairs.moments import Moments, patches
from edgekit.converters.repairs.repair import Change
from edgekit.converters.repairs.samples import Samples, answers
from edgekit.converters.repairs.view import Layer, Window, layers, open_view, reduced, reshaped, transposed
from edgekit.converters.sources import identify, lowering_for
from edgekit.converters.stages import CalibrationOptions, Graph, QuantizeOptions
from edgekit.converters.tflite_graphs.builder import Builder
from edgekit.converters.tflite_graphs.graph import pack
from edgekit.errors import ConversionError, UsageError
from edgekit.inspect import inspect
from edgekit.options import Options
from edgekit.pipeline import run
from edgekit.precision import precisions
from edgekit.rules import Rule

hard_nets = pytest.importorskip("hard_nets", reason="the hard set is made with PyTorch", exc_type=ImportError)

FORMATS = ("tflite", "onnx")
OBSERVING = CalibrationOptions(observer="percentile")
PLAIN = QuantizeOptions()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("hard")


@pytest.fixture(scope="module")
def hard(folder):
    """Name -> a hard network and its file, made once."""

    @cache
    def get(name):
        made = hard_nets.make(name)
        hard_nets.export(made, folder / f"{name}.onnx")
        return made, folder / f"{name}.onnx"

    return get


@pytest.fixture(scope="module")
def lowered(hard, folder):
    """Name and format -> the float graph."""

    @cache
    def get(name, kind) -> Graph:
        source = identify(hard(name)[1], signature=None, shapes={}, trusted=False, dtypes={}, model=None)
        jobs.load(source)
        return jobs.lower(jobs.LowerRequest(lowering_for(source.kind, kind), str(folder / f"{name}.{kind}")))

    return get


def repaired(graph, data, tmp_path, names=None, *, demanded=False, quantizing=PLAIN):
    (tmp_path / "repairs").mkdir(exist_ok=True)
    precision = precisions.get("int8")
    return result(
        mend.mend(
            graph, iter([{"x": data}]), Wanted(precision.repairs if names is None else names, demanded),
            precision=precision, quantizing=quantizing, observing=OBSERVING, folder=tmp_path / "repairs",
        )
    )  # fmt: skip


def quantized(graph, data, path, rules=()):
    ranges = result(calibrate(graph, iter([{"x": data}]), OBSERVING))
    return quantizers.get(graph.format).quantize(
        graph, ranges, precisions.get("int8"), QuantizeOptions(rules=rules), path
    )


def answered(graph, data):
    samples = Samples([{"x": data}], len(data))
    return np.concatenate([one["y"] for one in answers(graph, samples, 1)])


def sqnr(reference, answer):
    return 10 * np.log10(np.square(reference).mean() / np.square(reference - answer).mean())


@pytest.mark.parametrize(
    ("name", "repair", "kind"),
    [
        ("spread_mobilenet", "equalize", "tflite"),
        ("spread_mobilenet", "equalize", "onnx"),
        ("vit", "smooth", "onnx"),  # to TFLite, the lowering puts the normalization's factors into the matrix
    ],
)
def test_scaling_keeps_the_float_answers_and_rescues_the_integers(hard, lowered, tmp_path, name, repair, kind):
    data, graph = hard(name)[0], lowered(name, kind)
    made = repaired(graph, data.calibration[:60], tmp_path)
    some = data.evaluation[:200]
    reference = answered(graph, some)
    assert np.abs(answered(replace(made.graph, path=_floats(tmp_path, kind)), some) - reference).max() < 1e-3
    before = sqnr(reference, answered(quantized(graph, data.calibration[:60], tmp_path / f"a.{kind}"), some))
    after = sqnr(reference, answered(quantized(made.graph, data.calibration[:60], tmp_path / f"b.{kind}"), some))
    assert before < 15
    assert after > before + 12
    (report,) = [one for one in made.reports if one.name == repair]
    assert report.kept
    assert report.changed >= 4
    assert report.gain_db > 10


def _floats(tmp_path: Path, kind: str) -> str:
    """What the repairs of floats wrote, before weights were rounded."""
    return str(max((tmp_path / "repairs").glob(f"floats*.{kind}"), key=lambda path: path.stat().st_mtime_ns))


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("name", ["detector", "one_head"])
def test_a_detector_keeps_its_scores(hard, lowered, tmp_path, name, kind):
    data = hard(name)[0]
    np.savez(tmp_path / "calibration.npz", x=data.calibration)
    np.savez(tmp_path / "evaluation.npz", x=data.evaluation[:60])
    target = tmp_path / f"model.{kind}"
    made = run(
        hard(name)[1],
        Options(
            output=target, precision="int8", calibration=tmp_path / "calibration.npz",
            evaluation=tmp_path / "evaluation.npz",
        ),
    )  # fmt: skip
    graph = lowered(name, kind)
    reference = answered(graph, data.evaluation)
    plain = answered(quantized(graph, data.calibration, tmp_path / f"plain.{kind}"), data.evaluation)
    ours = answered(replace(graph, path=str(target), outputs=made.artifact.manifest.outputs,
                            inputs=made.artifact.manifest.inputs), data.evaluation)  # fmt: skip
    assert hard_nets.kept(reference, plain) == 0
    assert hard_nets.kept(reference, ours) >= 0.95
    document = made.to_dict()
    split = next(one for one in document["repairs"] if one["name"] == "split-outputs")
    assert split["kept"]
    assert split["detail"] in document["warnings"]
    assert document["float_ops"]
    (spec,) = inspect(target).outputs
    assert (spec.dtype, spec.shape[1:]) == ("float32", (36, 5))


@pytest.mark.parametrize("kind", FORMATS)
def test_the_same_data_gives_the_same_repairs(hard, lowered, tmp_path, kind):
    data, graph = hard("detector")[0], lowered("detector", kind)
    files = []
    for number in range(2):
        (tmp_path / str(number)).mkdir()
        files.append(Path(repaired(graph, data.calibration[:24], tmp_path / str(number)).graph.path).read_bytes())
    assert files[0] == files[1]


class _Damage:
    TITLE = "weights lose their small half"
    KIND = "weights"
    ORDER = 1

    def apply(self, case, opened):
        for layer in layers(opened):
            kernel = opened.kernel(layer)
            opened.set_kernel(layer, np.where(np.abs(kernel) < np.median(np.abs(kernel)), 0, kernel))
        return Change(len(layers(opened)), "halved")


class _Lie(_Damage):
    KIND = "floats"


@pytest.fixture
def stranger(monkeypatch):
    def install(module):
        known = repairs.repairs
        get = known.get
        monkeypatch.setattr(known, "get", lambda name: module if name == "stranger" else get(name))

    return install


def test_what_does_not_help_is_taken_back(hard, lowered, tmp_path, stranger):
    stranger(_Damage())
    graph = lowered("detector", "onnx")
    made = repaired(graph, hard("detector")[0].calibration[:24], tmp_path, ("stranger",), demanded=True)
    assert made.graph == graph
    (report,) = made.reports
    assert (report.name, report.kept) == ("stranger", False)
    assert report.gain_db < -1
    assert "taken back" in report.detail


def test_a_repair_that_changes_float_answers_is_refused(hard, lowered, tmp_path, stranger):
    stranger(_Lie())
    graph, data = lowered("detector", "tflite"), hard("detector")[0].calibration[:24]
    with pytest.raises(ConversionError) as caught:
        repaired(graph, data, tmp_path, ("stranger",), demanded=True)
    assert caught.value.code == "repair-changed-answers"
    made = repaired(graph, data, tmp_path, ("stranger",))
    assert made.graph == graph
    assert [(one.kept, one.detail.startswith("refused")) for one in made.reports] == [(False, True)]


@pytest.mark.parametrize("kind", FORMATS)
def test_layers_that_rules_lift_keep_their_weights(hard, lowered, tmp_path, kind):
    data, graph = hard("detector")[0], lowered("detector", kind)
    before = open_view(graph)
    first, second = layers(before)[:2]
    rules = (Rule("float", f"re:^{first.name.replace('.', '[.]')}$"),)
    names = ("adaptive-rounding",)
    made = repaired(graph, data.calibration[:24], tmp_path, names, quantizing=QuantizeOptions(rules=rules))
    path = max((tmp_path / "repairs").glob(f"weights*.{kind}"))
    after = open_view(replace(made.graph, path=str(path)))
    assert np.array_equal(after.kernel(first), before.kernel(first))
    assert not np.array_equal(after.kernel(second), before.kernel(second))


def test_repairs_are_chosen_by_name():
    assert repairs.choose("auto", ("equalize",)) == (("equalize",), False)
    assert repairs.choose("none", ("equalize",)) == ((), False)
    assert repairs.choose(("equalize", "smooth"), ()) == (("equalize", "smooth"), True)
    for precision in ("int8", "int16x8"):
        assert set(precisions.get(precision).repairs) <= set(repairs.names())
    with pytest.raises(UsageError) as caught:
        repairs.choose(("equalise",), ())
    assert caught.value.code == "repair-unknown"
    assert all(name in str(caught.value) for name in repairs.names())
    with pytest.raises(UsageError) as caught:
        repairs.choose(("none", "equalize"), ())
    assert caught.value.code == "repair-conflict"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["--precision", "int8", "--repair", "equalise"], "repair-unknown"),
     (["--repair", "equalize"], "repair-precision")],
)  # fmt: skip
def test_the_command_refuses_what_there_is_not(tmp_path, capsys, arguments, code):
    (tmp_path / "m.onnx").write_bytes(b"")
    assert cli.run(["convert", str(tmp_path / "m.onnx"), "-o", str(tmp_path / "o.onnx"), "--json", *arguments]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == code


# -- The parts ------------------------------------------------------------------------------------------------


def test_adapted_weights_err_less_on_correlated_inputs_and_lie_on_the_grid():
    random = np.random.default_rng(0)
    kernel = random.normal(size=(2, 8, 20))
    mixing = random.normal(size=(2, 20, 20))
    covariance = mixing @ mixing.transpose(0, 2, 1) + np.eye(20)
    flat = kernel.reshape(16, 20)
    step = steps(flat, per_channel=True).reshape(2, 8)
    made = rounding.adapt(kernel, step, covariance)
    nearest = rounded(flat, step.reshape(-1)).reshape(kernel.shape)
    was, becomes = (rounding.error(tried - kernel, covariance) for tried in (nearest, made))
    assert (becomes < was).mean() > 0.8
    assert becomes.sum() < 0.7 * was.sum()
    integers = made / step[:, :, None]
    assert np.abs(integers - np.rint(integers)).max() < 1e-9
    assert np.abs(np.rint(integers)).max() <= 127


def test_inputs_that_never_vary_can_be_adapted_to():
    """As behind a pooling of few samples: every patch is the same, and the covariance is nothing but rounding."""
    one = np.random.default_rng(4).normal(1e3, 1.0, 40)
    seen = Moments(one[None] * 7, one[None] * 7, (7 * np.outer(one, one))[None] * (1 + 1e-13), 7)
    kernel = np.random.default_rng(5).normal(size=(1, 6, 40))
    step = steps(kernel[0], per_channel=True)[None]
    made = rounding.adapt(kernel, step, seen.covariance())
    assert np.abs(made - kernel).max() <= step.max()


def test_products_of_patches_are_added_up_many_at_a_time_and_exactly():
    """The square of all features is large: going through it for each sample took most of the time of deep nets."""
    whole = np.random.default_rng(6).integers(-128, 128, (2, 1000, 30)).astype(np.float32)
    seen, cuts = (
        Moments(np.zeros((2, 30)), np.zeros((2, 30)), np.zeros((2, 30, 30)), step=0.037),
        (0, 90, 700, 990, 1000),
    )
    for start, end in itertools.pairwise(cuts):
        seen.waiting.append(whole[:, start:end])
        seen.multiply(256)
    assert sum(part.shape[1] for part in seen.waiting) == 10
    seen.multiply()
    assert not seen.waiting
    precise = whole.astype(np.int64)
    np.testing.assert_allclose(seen.products, (precise.transpose(0, 2, 1) @ precise) * 0.037**2, rtol=1e-12, atol=1e-9)


def test_without_correlation_nearest_is_best():
    kernel = np.random.default_rng(1).normal(size=(1, 6, 9))
    step = steps(kernel[0], per_channel=True)[None]
    assert np.allclose(rounding.adapt(kernel, step, np.eye(9)[None]), rounded(kernel[0], step[0])[None])


def test_weights_on_their_grid_are_stored_as_they_are():
    kernel = np.random.default_rng(2).normal(size=(5, 3, 2, 2)).astype(np.float32)
    once = as_stored(kernel, per_channel=True)
    assert np.allclose(as_stored(once.reshape(kernel.shape).astype(np.float32), per_channel=True), once, atol=1e-6)


@pytest.mark.parametrize(("stride", "dilation", "groups"), [(1, 1, 1), (2, 1, 1), (1, 2, 1), (2, 1, 4)])
def test_patches_are_what_a_convolution_meets(stride, dilation, groups):
    torch = pytest.importorskip("torch")
    random = np.random.default_rng(3)
    image = random.normal(size=(1, 4, 9, 7)).astype(np.float32)
    kernel = random.normal(size=(8, 4 // groups, 3, 3)).astype(np.float32)
    conv = torch.nn.functional.conv2d(
        torch.from_numpy(image), torch.from_numpy(kernel), None, stride, (1, 2), dilation, groups
    ).numpy()  # fmt: skip
    window = Window((3, 3), (stride,) * 2, (dilation,) * 2, (1, 2), (1, 2))
    met = patches(image, Layer("y", "x", groups, window, axis=1, made_axis=1), 10**6, 0)
    shares = kernel.reshape(groups, 8 // groups, -1)
    ours = np.concatenate([part @ share.T for part, share in zip(met, shares, strict=True)], axis=1)
    assert np.allclose(ours, conv[0].reshape(8, -1).T, atol=1e-5)
    few = patches(image, Layer("y", "x", groups, window, axis=1, made_axis=1), 5, 1)
    assert few.shape == (groups, 5, met.shape[2])


def test_axes_are_followed():
    assert transposed((0, 2, 3, 1))(1) == 3
    assert reduced((1, 2), keeps=False)(3) == 1
    assert reduced((1, 2), keeps=True)(3) == 3
    assert reduced((1, 2), keeps=False)(1) is None
    assert reshaped((1, 1, 1, 64), (1, 64))(3) == 1
    assert reshaped((-1, 24, 1, 1), (-1, 24))(1) == 1
    assert reshaped((1, 4, 4, 64), (1, 1024))(3) is None
    assert reshaped((1, 4, 6, 5), (1, 24, 5))(3) == 2 or reshaped((1, 4, 6, 5), (1, 24, 5))(3) is None


@pytest.mark.parametrize("kind", FORMATS)
def test_nothing_is_scaled_through_what_is_no_multiple(hard, lowered, kind):
    """SiLU between layers: no group crosses it; and every tensor of a group has as many channels."""
    opened = open_view(lowered("silu", kind))
    for group in channels.groups(opened):
        for name, axis in group.tensors.items():
            assert opened.shape(name)[axis] == group.channels
            assert name not in opened.outputs
    scaled = {layer.name for group in channels.groups(opened) for layer in group.makers}
    bent = {layer.name for layer in layers(opened) if layer.window is not None}
    assert not scaled & bent


def test_importance_takes_channels_that_were_flattened(tmp_path):
    graph = Builder()
    x = graph.input("x", (1, 4, 4, 3))
    kernel = np.ones((5, 1, 1, 3), np.float32)
    made = graph.conv(x, kernel, np.zeros(5, np.float32), "conv")
    flat = graph.op("RESHAPE", [made, graph.constant("shape", np.array([1, 80], np.int32))], (1, 80), "flat")
    weights = graph.constant("weights", np.ones((2, 80), np.float32))
    y = graph.op("FULLY_CONNECTED", [flat, weights], (1, 2), "y", "FullyConnectedOptions")
    path = tmp_path / "flat.tflite"
    path.write_bytes(graph.finish([y]))
    opened = open_view(Graph("tflite", str(path), (), ()))
    found = importances(opened, {"flat": np.ones(80), "y": np.ones(2)})
    assert [found[name].shape for name in ("conv", "y")] == [(5,), (2,)]
    assert not list(channels.groups(opened))


def test_importance_follows_the_weights(lowered):
    opened = open_view(lowered("spread_mobilenet", "onnx"))
    axes = channel_axes(opened)
    power = {name: np.ones(opened.shape(name)[axis]) for name, axis in axes.items()}
    found = importances(opened, power)
    # Channels were spread a hundred times, so that their weights, squared, are apart by far.
    first = found[layers(opened)[0].name]
    assert first.max() / first.min() > 100


# -- Weight clipping, 7 bits, and what is tried -----------------------------------------------------------------


def test_a_range_of_least_squared_error_cuts_what_lies_far_out():
    random = np.random.default_rng(6)
    kernel = random.normal(size=(4, 2000))
    kernel[0, 3] = 60.0  # cut, it costs more than it saves
    kernel[1, :40] = 6.0
    for levels in (7, 127):
        ends, before, after = clipping.bounds(kernel, np.ones((4, 1)), per_channel=True, levels=levels)
        full = np.abs(kernel).max(axis=1)
        assert np.all(ends <= full + 1e-12)
        step = ends / levels
        error = np.square(rounded(kernel, step, levels) - kernel).sum()
        assert after == pytest.approx(error)
        assert error <= before
        for share in np.linspace(0.3, 1, 15):  # none of the others is better by more than what is not worth it
            other = np.square(rounded(kernel, full / levels * share, levels) - kernel).sum(axis=1)
            mine = np.square(rounded(kernel, step, levels) - kernel).sum(axis=1)
            assert np.all(mine <= other / 0.98 + 1e-9)
    assert clipping.bounds(kernel, np.ones((4, 1)), per_channel=True, levels=7)[0][2] < 0.8 * np.abs(kernel[2]).max()
    ends, _, _ = clipping.bounds(kernel, np.ones((4, 1)), per_channel=False)
    assert np.ptp(ends) == 0


def test_what_a_weight_multiplies_decides_whether_it_is_cut():
    kernel = np.random.default_rng(7).normal(size=(1, 500))
    kernel[0, 0] = 8.0
    counts = np.ones((1, 500))
    counts[0, 0] = 1e-6  # nothing comes through it
    assert clipping.bounds(kernel, counts, per_channel=True, levels=7)[0][0] < 4
    counts[0, 0] = 1e6
    assert clipping.bounds(kernel, counts, per_channel=True, levels=7)[0][0] == 8.0


@pytest.mark.parametrize("kind", FORMATS)
def test_clipped_kernels_are_what_the_quantizer_takes_for_the_range(hard, lowered, tmp_path, kind):
    data, graph = hard("spread_mobilenet")[0], lowered("spread_mobilenet", kind)
    before = open_view(graph)
    repaired(graph, data.calibration[:24], tmp_path, ("clip-weights",))
    path = max((tmp_path / "repairs").glob(f"weights*.{kind}"))
    after = open_view(replace(graph, path=str(path)))
    cut = [
        layer
        for layer in layers(before)
        if np.abs(after.kernel(layer)).max() < np.abs(before.kernel(layer)).max()
        or not np.array_equal(after.kernel(layer), before.kernel(layer))
    ]
    assert cut
    for layer in cut:
        kernel, clipped = before.kernel(layer), after.kernel(layer)
        ends = np.abs(clipped.reshape(len(clipped), -1)).max(axis=1).reshape(-1, *[1] * (kernel.ndim - 1))
        assert np.allclose(np.clip(kernel, -ends, ends), clipped, rtol=1e-6)


def test_repairs_that_serve_each_other_are_found_and_the_harmful_one_is_left_out():
    judged = []

    def judge(chosen):
        judged.append(chosen)
        return 10 + ("b" in chosen) * 2 + ("b" in chosen and "c" in chosen) * 3 - ("a" in chosen) * 1

    found = trying.eliminate(("a", "b", "c"), judge)
    scores = found.scores
    assert found.chosen == ("b", "c")
    assert max(scores, key=lambda one: scores[one]) == ("b", "c")
    assert trying.gain(scores, "a", ("b", "c")) == -1
    assert trying.gain(scores, "c", ("b", "c")) == 3
    assert len(judged) == len(set(judged)) <= 7


def test_a_repair_that_harms_by_chance_stays():
    scores = {(): 9.0, ("a", "b"): 10.0, ("b",): 10.2, ("a",): 8.0}
    assert trying.eliminate(("a", "b"), scores.get).chosen == ("b",)
    unsure = trying.eliminate(("a", "b"), scores.get, lambda one, other: scores[one] > scores[other] + 0.3)
    assert unsure == trying.Elimination(scores, ("a", "b"))
    harmful = {(): 11.0, ("a", "b"): 10.0, ("b",): 10.2, ("a",): 8.0}
    assert (
        trying.eliminate(("a", "b"), harmful.get, lambda one, other: harmful[one] > harmful[other] + 0.3).chosen == ()
    )


def test_large_models_are_mended_on_fewer_samples(lowered, monkeypatch):
    graph = lowered("detector", "onnx")
    assert mend._worth(graph)[0] == mend.SAMPLES
    assert mend._worth(graph)[1] > 50
    monkeypatch.setattr(mend, "_WORK", 1.0)
    assert mend._worth(graph)[0] == mend._FEWEST


def test_judging_is_bounded_by_counted_work_and_leaves_the_best_so_far(hard, lowered, tmp_path, monkeypatch):
    assert trying.eliminate(("a", "b"), lambda chosen: None if chosen else 1.0) == trying.Elimination({(): 1.0})
    graph, data = lowered("detector", "onnx"), hard("detector")[0].calibration[:8]
    judged = []

    def judge(bench, base, modules, of=mend._Bench.judge):
        judged.append(tuple(modules))
        return of(bench, base, modules)

    monkeypatch.setattr(mend._Bench, "judge", judge)
    monkeypatch.setattr(mend, "_JUDGING", 1.0)
    made = repaired(graph, data, tmp_path)
    assert len(judged) == mend._FEWEST_JUDGEMENTS
    assert made.notes[-1].startswith("repairs were judged 4 times")
    assert {(), ("clip-weights", "adaptive-rounding", "bias-correction")} <= set(judged)
    assert {one.name for one in made.reports} >= {"split-outputs", "adaptive-rounding"}


# -- Heads whose channels mix ranges ------------------------------------------------------------------------------


def _rows(folder, kind, spans, batch="N", behind=()):
    """A dense layer with a bias whose outputs span `spans`, and what follows it; as a float graph."""
    onnx = pytest.importorskip("onnx")
    helper, constant = onnx.helper, onnx.numpy_helper.from_array
    random = np.random.default_rng(8)
    weights = random.normal(size=(16, len(spans))) * np.array(spans)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"]),
        helper.make_node("Add", ["m", "b"], ["last" if behind else "y"]),
    ]
    nodes += [helper.make_node(name, ["last"], ["y"]) for name in behind]
    graph = helper.make_graph(
        nodes, "rows",
        [helper.make_tensor_value_info("x", 1, [batch, 16])],
        [helper.make_tensor_value_info("y", 1, [batch, len(spans)])],
        [constant(weights.astype(np.float32), "w"), constant(np.array(spans, np.float32), "b")],
    )  # fmt: skip
    path = folder / "rows.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    source = identify(path, signature=None, shapes={}, trusted=False, dtypes={}, model=None)
    jobs.load(source)
    return jobs.lower(jobs.LowerRequest(lowering_for(source.kind, kind), str(folder / f"rows.{kind}")))


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("batch", ["N", 2])
def test_rows_of_mixed_units_keep_a_scale_each_and_their_float_answers(tmp_path, kind, batch):
    spans = [500.0, 0.5, 500.0, 0.02]
    graph = _rows(tmp_path, kind, spans, batch, behind=("Relu",) if kind == "onnx" else ())
    data = np.random.default_rng(9).normal(size=(40, 16)).astype(np.float32)
    made = repaired(graph, data, tmp_path, ("split-outputs",), demanded=True)
    (report,) = made.reports
    assert (report.name, report.changed, report.kept) == ("split-outputs", 1, True)
    assert len(made.rules) == 1
    count = 2 if batch == 2 else 1
    samples = Samples([{"x": data}], 20)
    float_answers = [np.concatenate([one["y"][:count] for one in answers(which, samples, 1)])
                     for which in (graph, made.graph)]  # fmt: skip
    assert np.array_equal(*float_answers)  # powers of two change no bit
    noise = {}
    for name, which, rules in (("plain", graph, ()), ("ours", made.graph, made.rules)):
        found = quantized(which, data, tmp_path / f"{name}.{kind}", rules)
        quantized_answers = np.concatenate([one["y"][:count] for one in answers(found, samples, 1)])
        noise[name] = [sqnr(float_answers[0][:, c], quantized_answers[:, c]) for c in range(len(spans))]
    assert min(noise["plain"]) < 10
    assert min(noise["ours"]) > 28


def _boxes(folder, kind, *, before):
    """Boxes of 0..640 and scores beside each other, as exporters write it: the shape of the rows is computed, and a
    factor a column makes pixels, before the two are joined or behind that.
    """
    onnx = pytest.importorskip("onnx")
    node, constant = onnx.helper.make_node, onnx.numpy_helper.from_array
    random = np.random.default_rng(8)
    constants = {f"{name}.w": random.normal(size=(out, 3, 3, 3)) / 3 for name, out in (("box", 4), ("score", 2))}
    constants |= {"pixels": np.full((1, 4, 1, 1), 640.0), "columns": np.array([640.0] * 4 + [1.0] * 2).reshape(1, 6, 1)}
    nodes = [
        *(node("Conv", ["x", f"{name}.w"], [name], pads=[1, 1, 1, 1]) for name in ("box", "score")),
        node("Sigmoid", ["box"], ["unit"]), node("Sigmoid", ["score"], ["s"]),
        node("Mul", ["unit", "pixels"], ["wide"]),
        node("Concat", ["wide" if before else "unit", "s"], ["joined"], axis=1),
        node("Shape", ["joined"], ["sizes"], start=0, end=2), node("Concat", ["sizes", "rest"], ["rows"], axis=0),
        node("Reshape", ["joined", "rows"], ["y" if before else "flat"]),
    ]  # fmt: skip
    nodes += [] if before else [node("Mul", ["flat", "columns"], ["y"])]
    graph = onnx.helper.make_graph(
        [one for one in nodes if before or "wide" not in one.output], "boxes",
        [onnx.helper.make_tensor_value_info("x", 1, ["N", 3, 6, 6])],
        [onnx.helper.make_tensor_value_info("y", 1, ["N", 6, 36])],
        [constant(value.astype(np.float32), name) for name, value in constants.items()]
        + [constant(np.array([-1]), "rest")],
    )  # fmt: skip
    path = folder / "boxes.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9), path)
    source = identify(path, signature=None, shapes={}, trusted=False, dtypes={}, model=None)
    jobs.load(source)
    return jobs.lower(jobs.LowerRequest(lowering_for(source.kind, kind), str(folder / f"boxes.{kind}")))


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("before", [True, False])
def test_boxes_and_scores_keep_a_scale_each_however_they_are_joined(tmp_path, kind, before):
    graph = _boxes(tmp_path, kind, before=before)
    data = np.random.default_rng(9).normal(size=(40, 3, 6, 6)).astype(np.float32)
    made = repaired(graph, data, tmp_path, ("split-outputs",), demanded=True)
    assert [(one.name, one.kept) for one in made.reports] == [("split-outputs", True)]
    assert "y" in splitting.splittable(open_view(graph))
    reference, ours = (answered(which, data) for which in
                       (graph, quantized(made.graph, data, tmp_path / f"made.{kind}", made.rules)))  # fmt: skip
    assert min(sqnr(reference[:, c], ours[:, c]) for c in range(6)) > 30


@pytest.mark.parametrize("kind", FORMATS)
def test_numbers_that_sizes_behind_a_layer_make_differ_are_floats(tmp_path, kind):
    onnx = pytest.importorskip("onnx")
    helper, random = onnx.helper, np.random.default_rng(8)
    values = {"w": random.normal(size=(16, 3)), "b": np.ones(3), "sizes": np.array([300.0, 28.0, 0.5])}
    nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["m"]), helper.make_node("Mul", ["m", "sizes"], ["y"])]
    ends = [helper.make_tensor_value_info(name, 1, ["N", size]) for name, size in (("x", 16), ("y", 3))]
    constants = [onnx.numpy_helper.from_array(value.astype(np.float32), name) for name, value in values.items()]
    graph = helper.make_graph(nodes, "sizes", ends[:1], ends[1:], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "m.onnx")
    data = random.normal(size=(60, 16)).astype(np.float32)
    made = run(tmp_path / "m.onnx", Options(to=kind, precision="int8", calibration=data, evaluation=data))
    (spec,) = made.artifact.manifest.outputs
    assert spec.dtype == "float32"
    path = made.artifact.write(tmp_path / f"made.{kind}").path
    ours = edgekit.load(path).run({"x": data})["y"]
    wanted = (data @ values["w"] + values["b"]) * values["sizes"]
    assert min(sqnr(wanted[:, c], ours[:, c]) for c in range(3)) > 28


def test_sums_that_are_given_as_floats_have_no_scale_to_share(tmp_path):
    graph = _rows(tmp_path, "onnx", [500.0, 0.5])
    data = np.random.default_rng(9).normal(size=(40, 16)).astype(np.float32)
    assert repaired(graph, data, tmp_path, ("split-outputs",), demanded=True).graph == graph
    reference, ours = answered(graph, data), answered(quantized(graph, data, tmp_path / "made.onnx"), data)
    assert sqnr(reference[:, 1], ours[:, 1]) > 28


@pytest.mark.parametrize("kind", FORMATS)
def test_classes_of_one_size_and_squashed_ones_stay_integers(tmp_path, kind):
    data = np.random.default_rng(9).normal(size=(40, 16)).astype(np.float32)
    for spans, behind in (([5.0, 1.0, 3.0], ()), ([500.0, 0.5, 0.5], ("Softmax",)), ([500.0, 0.5], ("Sigmoid",))):
        graph = _rows(tmp_path, kind, spans, behind=behind)
        made = repaired(graph, data, tmp_path, ("split-outputs",), demanded=True)
        assert (made.graph, made.reports, made.rules) == (graph, (), ())


def test_dead_channels_say_nothing_about_scales():
    seen = scaling.Seen(np.array([-100.0, 0.0, 0.0, -1.0]), np.array([100.0, 0.0, 1e-5, 1.0]), np.zeros(4), 1)
    assert splitting._factors(seen).tolist() == [1, 1, 1, 64]


@pytest.mark.parametrize(("times", "repaired"), [(4, 4), (5, 0)])
def test_kernels_of_one_content_stay_one_where_many_steps_share_them(tmp_path, times, repaired):
    net = Builder()
    x = net.input("x", (1, 6))
    weights = np.arange(36, dtype=np.float32).reshape(6, 6) / 36
    for number in range(times):
        x = net.op("FULLY_CONNECTED", [x, net.constant(f"w{number}", weights), -1], (1, 6), f"y{number}",
                   "FullyConnectedOptions", {})  # fmt: skip
    path = tmp_path / "steps.tflite"
    path.write_bytes(pack(net.finish([x])))
    assert len(layers(open_view(Graph("tflite", str(path), (), (), ())))) == repaired
