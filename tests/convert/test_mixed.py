"""`--precision mixed`: the fewest layers, within the forecast, kept across kills, on real engines."""

from __future__ import annotations

import math
from collections.abc import Generator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from residual_nets import answers, images, observe, saved

from edgekit import artifact as artifacts
from edgekit import lifting
from edgekit.converters import mixed
from edgekit.converters.mixed import Noise
from edgekit.converters.rules import Layer
from edgekit.converters.stages import Graph, QuantizeOptions
from edgekit.data_ref import DataRef
from edgekit.errors import ConversionError, UsageError, VerificationError
from edgekit.options import Options
from edgekit.pipeline import run
from edgekit.precision import precisions
from edgekit.rules import Rule

pytest.importorskip("ai_edge_quantizer", reason="comes with the convert extra")

FORMATS = ("tflite", "onnx")
TOLD: list[dict[str, Any]] = []


# -- The search ----------------------------------------------------------------------------------------------------


Steps = Generator[tuple[str, ...], bool, tuple[str, ...] | None]


def walked(steps: Steps, needed: set[str]) -> tuple[tuple[str, ...] | None, list[tuple[str, ...]]]:
    """What a search finds, and what it asked for."""
    asked = [next(steps)]
    while True:
        try:
            asked.append(steps.send(needed <= set(asked[-1])))
        except StopIteration as end:
            return end.value, asked


def searched(order: list[str], needed: set[str]) -> tuple[tuple[str, ...] | None, int]:
    chosen, asked = walked(mixed.search(order), needed)
    return chosen, len(asked)


@settings(max_examples=200, deadline=None, phases=(Phase.explicit, Phase.generate))
@given(count=st.integers(1, 300), seed=st.integers(0, 10**6), size=st.integers(1, 6))
def test_finds_what_is_needed_within_the_forecast(count, seed, size):
    order = [f"l{number}" for number in range(count)]
    random = np.random.default_rng(seed)
    # What is needed ranks high, though not always first.
    needed = {order[min(count - 1, int(place))] for place in random.exponential(3, size)}
    chosen, spent = searched(order, needed)
    assert chosen is not None
    assert needed <= set(chosen)
    assert spent <= mixed.forecast(count)
    if max(order.index(name) for name in needed) <= mixed.PRUNING:
        assert set(chosen) == needed


def test_says_when_even_all_are_not_enough():
    chosen, spent = searched(["a", "b", "c"], {"d"})
    assert chosen is None
    assert spent <= mixed.forecast(3)


def test_moves_between_lifted_layers_go_along():
    known = [
        Layer("CONV_2D", ("x",), ("a",)),
        Layer("RESHAPE", ("a",), ("b",)),
        Layer("TRANSPOSE", ("b",), ("c",)),
        Layer("FULLY_CONNECTED", ("c",), ("d",)),
        Layer("RESHAPE", ("d",), ("e",)),
        Layer("SOFTMAX", ("e",), ("f",)),
    ]
    assert [rule.tensor for rule in mixed.rules(known, ("a", "d"), "fp16")] == ["a", "b", "c", "d"]
    assert [rule.tensor for rule in mixed.rules(known, ("d",), "fp16")] == ["d"]
    followed = [Layer("Conv", ("x",), ("a",)), Layer("Relu", ("a",), ("b",)), Layer("Add", ("b",), ("c",))]
    assert [rule.tensor for rule in mixed.rules(followed, ("a",), "float")] == ["a", "b"]


# -- The stage, with a judge that knows ----------------------------------------------------------------------------


class Judge:
    """Passes when the needed layers are lifted to a precision that is good enough."""

    def __init__(self, needed: set[str], good: tuple[str, ...] = ("fp16", "float"), broken: str = "") -> None:
        self.needed, self.good, self.broken, self.asked = needed, good, broken, 0

    def __call__(self, options: QuantizeOptions) -> Any:
        self.asked += 1
        if any(rule.precision == self.broken for rule in options.rules):
            raise ConversionError("op-not-quantizable", "no such kernel")
        lifted = {rule.tensor for rule in options.rules if rule.precision in self.good}
        return type("Verification", (), {"failures": () if self.needed <= lifted else ("failed",)})()


def found(judge: Any, folder: Path | None = None, budget: int | None = None, **said: Any) -> Any:
    names = [f"l{number}" for number in range(12)]
    known = tuple(Layer("CONV_2D", (before,), (name,)) for before, name in zip(["x", *names], names, strict=False))
    noise = Noise({name: 1.0 / (1 + place) for place, name in enumerate(names)}, known)
    TOLD.clear()
    options = said.get("options", QuantizeOptions())
    memory = lifting.Memory(folder, "search")
    ends = said.get("ends", ("float",))
    tried = [lifting.Way(to, one) for one in ends for to in said.get("lifts", ("fp16", "float"))]
    return lifting.find(lambda: noise, options, tried, judge, memory, budget=budget, tell=TOLD.append)


def lifted(options: QuantizeOptions) -> set[str]:
    return {rule.tensor or "" for rule in options.rules}


def test_plain_int8_is_kept_where_it_passes():
    judge = Judge(set())
    options, note = found(judge)
    assert options.rules == ()
    assert "plain int8 passes" in note
    assert judge.asked == 1


def test_a_cache_that_cannot_be_written_is_none_unless_it_was_asked_for(tmp_path, unprivileged):
    (tmp_path / "file").write_bytes(b"")
    closed = tmp_path / "closed"
    closed.mkdir(0o500)
    for folder in (tmp_path / "file" / "mixed", closed):
        memory = lifting.Memory(folder, "facts", asked=False)
        memory.keep("a", 1)
        assert memory.recall("a") is None
        with pytest.raises(UsageError) as caught:
            lifting.Memory(folder, "facts").keep("a", 1)
        assert caught.value.code == "output-unwritable"


def test_the_cache_is_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/proc/none")
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    for name in ("m.onnx", "proof.npz"):
        (tmp_path / name).write_bytes(b"content")

    def search(probe: Any, options: QuantizeOptions, tried: Any, judge: Any, memory: Any, **_: Any) -> Any:
        memory.keep("noise", 1)
        return options, "found"

    monkeypatch.setattr(lifting, "find", search)
    graph = Graph("onnx", str(tmp_path / "m.onnx"), (), ())
    survey, facts = SimpleNamespace(proof=DataRef(str(tmp_path / "proof.npz"))), SimpleNamespace(tools={})
    shop = SimpleNamespace(tell=TOLD.append)
    said = Options(to="onnx", precision="mixed")
    lifting.lift(shop, graph, graph, {}, QuantizeOptions(), Judge(set()), said, survey, facts)  # type: ignore[arg-type]
    assert len(list((tmp_path / "cache" / "mixed").iterdir())) == 1


def test_the_forecast_is_said_before_and_holds():
    judge = Judge({"l0", "l3"})
    options, note = found(judge)
    assert lifted(options) == {"l0", "l3"}
    assert "2 of 12 layers" in note
    said = next(event["note"] for event in TOLD if "note" in event)
    assert f"at most {mixed.forecast(12)} verifications" in said
    assert judge.asked <= 1 + mixed.forecast(12)


class RoundedInput(Judge):
    """What is read of an input in integers is lost, whatever is lifted."""

    def __call__(self, options: QuantizeOptions) -> Any:
        found = super().__call__(options)
        return found if options.interface == "float" else type("Verification", (), {"failures": ("failed",)})()


def test_floats_are_taken_in_where_rounded_inputs_are_to_blame():
    judge = RoundedInput({"l0", "l2"})
    integers = QuantizeOptions("int8")
    options, note = found(judge, options=integers, ends=("int8", "float"))
    assert options.interface == "float"
    assert lifted(options) == {"l0", "l2"}
    assert "2 of 12 layers" in note
    assert "floats at the ends" in note
    # Of the second way that fails, only the whole is tried.
    assert judge.asked <= 1 + 5 + 1 + mixed.forecast(12)
    alone, _ = found(RoundedInput({"l0"}), options=integers, ends=("int8",))
    assert alone.interface == "int8"
    assert any("--io float" in event.get("note", "") for event in TOLD)


@pytest.mark.parametrize("count", [1, 2, 7, 12])
def test_the_whole_is_tried_first_where_another_way_was_not_enough(count):
    order = [f"l{number}" for number in range(count)]
    chosen, asked = walked(mixed.search(order, whole_first=True), {order[-1]})
    assert asked[0] == tuple(order)
    assert chosen is not None
    assert order[-1] in chosen
    assert len(asked) == len(set(asked)) <= mixed.forecast(count)


def test_every_operator_computes_in_float_where_nothing_less_is_enough():
    options, note = found(Judge({"none of them"}), options=QuantizeOptions("int8"), ends=("int8", "float"))
    assert options.interface == "float"
    assert options.rules == (Rule("float"),)
    assert "every operator computes in float" in note
    options, note = found(Judge({"none of them"}), lifts=("int16x8",))
    assert {rule.precision for rule in options.rules} == {"int16x8"}
    assert len(options.rules) == 12


def test_ways_are_those_of_the_format_unless_they_were_asked_for():
    rules = precisions.get("mixed").rules("tflite")
    order = [("fp16", "int8"), ("float", "int8"), ("fp16", "float"), ("float", "float")]
    assert [(way.to, way.interface) for way in lifting.ways(Options(to="tflite", precision="mixed"), rules)] == order
    said = Options(to="tflite", precision="mixed", lift="int16x8", interface="int8")
    assert lifting.ways(said, rules) == (lifting.Way("int16x8", "int8"),)


def test_the_next_precision_is_tried_where_the_first_is_not_enough():
    options, _ = found(Judge({"l1"}, good=("float",)))
    assert {rule.precision for rule in options.rules} == {"float"}
    options, _ = found(Judge({"l1"}, broken="int16x8"), lifts=("int16x8", "fp16"))
    assert {rule.precision for rule in options.rules} == {"fp16"}


def test_rules_of_the_user_come_first_and_stay():
    said = QuantizeOptions(rules=(Rule("int16x8", "head"),))
    options, _ = found(Judge({"l2"}), options=said)
    assert options.rules[0] == said.rules[0]
    assert lifted(options) == {"", "l2"}


def test_a_budget_that_ends_early_says_so():
    options, note = found(Judge({"l0", "l6"}), budget=6)
    assert "budget ended" in note
    assert {"l0", "l6"} <= lifted(options)
    options, note = found(Judge({"l11"}), budget=1)
    assert "budget ended" in note
    assert "l11" in lifted(options)
    _, note = found(Judge({"none of them"}), budget=1)
    assert "no set" in note


def test_a_search_that_was_killed_goes_on(tmp_path):
    whole = Judge({"l0", "l3"})
    expected, _ = found(whole, tmp_path / "one")

    class Killed(Judge):
        def __call__(self, options: QuantizeOptions) -> Any:
            if self.asked == 4:
                raise KeyboardInterrupt
            return super().__call__(options)

    first = Killed({"l0", "l3"})
    with pytest.raises(KeyboardInterrupt):
        found(first, tmp_path / "two")
    second = Judge({"l0", "l3"})
    options, _ = found(second, tmp_path / "two")
    assert options == expected
    assert first.asked + second.asked == whole.asked
    third = Judge({"l0", "l3"})
    assert found(third, tmp_path / "two")[0] == expected
    assert third.asked == 0


def test_an_int8_that_cannot_be_is_no_search():
    def refuse(_: QuantizeOptions) -> Any:
        raise ConversionError("op-not-quantizable", "no")

    with pytest.raises(ConversionError):
        found(refuse)


# -- On real engines -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", FORMATS)
def test_probes_rank_the_spoiled_layers_first(format, tmp_path):
    graph = saved(format, tmp_path)
    np.savez(tmp_path / "data.npz", image=images(graph)["image"])
    request = mixed.ProbeRequest(
        graph, observe(graph), QuantizeOptions(), DataRef(str(tmp_path / "data.npz")), graph.inputs,
        str(tmp_path / f"probe.{format}"),
    )  # fmt: skip
    steps = mixed.probe(request)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            noise: Noise = end.value
            break
    order = mixed.ranked(noise)
    assert {name.removesuffix("/sum") for name in order[:2]} == {"b1/conv", "b2/conv"}
    assert all(math.isfinite(value) for value in noise.layers.values())
    assert noise.layers[order[1]] > 10 * noise.layers[order[2]]


def labelled(format: str, folder: Path) -> tuple[Graph, Path]:
    """The net, and data that it is right on."""
    graph = saved(format, folder, spread=300.0)
    feeds = images(graph, 300)
    np.savez(folder / "data.npz", image=feeds["image"], y=answers(graph, feeds))
    return graph, folder / "data.npz"


@pytest.mark.parametrize("format", FORMATS)
def test_mixed_holds_the_drop_with_few_layers(format, tmp_path):
    graph, data = labelled(format, tmp_path)
    said: dict[str, Any] = {
        "output": tmp_path / f"out.{format}", "calibration": data, "evaluation": data, "max_drop": 2.0,
        "observer": "minmax", "task": "regression",
        "repairs": "none",  # they mend this net by themselves
    }  # fmt: skip
    with pytest.raises(VerificationError):
        run(graph.path, Options(precision="int8", **said))
    done = run(graph.path, Options(precision="mixed", lift_cache=tmp_path / "kept", **said))
    metric = done.verification.proof.metric
    assert metric is not None
    assert metric.drop <= 2.0
    made = {one.split(" (")[1].split(")")[0] for one in done.graph.lifted if "Relu" not in one}
    assert made
    assert made <= {"b1/conv", "b2/conv", "b1/conv/sum", "b2/conv/sum"}
    first = artifacts.read(tmp_path / f"out.{format}").data
    # The search is remembered, and gives the same bytes.
    again = run(graph.path, Options(precision="mixed", lift_cache=tmp_path / "kept", **said))
    assert artifacts.read(tmp_path / f"out.{format}").data == first
    assert "after 0 verifications" in " ".join(again.warnings)


@pytest.mark.parametrize(("format", "op"), [("tflite", "Sin"), ("onnx", "Det")])
def test_what_has_no_integer_kernel_stays_in_float_and_is_listed(format, op, tmp_path):
    onnx = pytest.importorskip("onnx")
    random = np.random.default_rng(0)
    make, value = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    nodes = [
        make("MatMul", ["x", "w"], ["hidden"]),
        make(op, ["hidden"], ["middle"]),
        make("Reshape", ["middle", "rows"], ["flat"]),
        make("MatMul", ["flat", "p"], ["y"]),
    ]
    wide = 1 if op == "Det" else 16
    weights = {"w": random.normal(0, 0.4, (4, 4)), "p": random.normal(0, 0.4, (wide, 3))}
    stored = [onnx.numpy_helper.from_array(array.astype("f4"), name) for name, array in weights.items()]
    stored.append(onnx.numpy_helper.from_array(np.array([-1, wide]), "rows"))
    graph = onnx.helper.make_graph(nodes, "net", [value("x", 1, ["n", 4, 4])], [value("y", 1, ["n", 3])], stored)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "net.onnx")
    samples = random.normal(0, 1, (40, 4, 4)).astype("f4")
    said: dict[str, Any] = {"to": format, "calibration": samples, "evaluation": samples, "max_drop": 50}
    done = run(tmp_path / "net.onnx", Options(precision="mixed", **said))
    assert [one.split(" ")[0].lower() for one in done.graph.float_ops] == [op.lower()]
    with pytest.raises(ConversionError, match="(?i)" + op):
        run(tmp_path / "net.onnx", Options(precision="int8", **said))


def test_lifting_to_something_else_is_refused():
    with pytest.raises(UsageError, match="int4"):
        Options(to="onnx", lift="int4")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="lift-budget"):
        Options(to="onnx", lift_budget=0)


def normalizing(folder: Path) -> tuple[Path, Path]:
    """A network that standardizes columns a thousand times apart itself, and rows with its answers' signs."""
    onnx = pytest.importorskip("onnx")
    random = np.random.default_rng(0)
    make, value = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    spread = np.logspace(-1, 3, 12).astype("f4")
    stored = {"mean": 2 * spread, "deviation": spread}
    stored |= {"w": random.normal(0, 1, (12, 16)), "v": random.normal(0, 1, (16, 2))}
    nodes = [
        make("Sub", ["x", "mean"], ["shifted"]),
        make("Div", ["shifted", "deviation"], ["even"]),
        make("MatMul", ["even", "w"], ["wide"]),
        make("Relu", ["wide"], ["hidden"]),
        make("MatMul", ["hidden", "v"], ["y"]),
    ]
    kept = [onnx.numpy_helper.from_array(array.astype("f4"), name) for name, array in stored.items()]
    graph = onnx.helper.make_graph(nodes, "net", [value("x", 1, ["n", 12])], [value("y", 1, ["n", 2])], kept)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "net.onnx")
    even = random.normal(0, 1, (300, 12)).astype("f4")
    labels = (np.maximum(even @ stored["w"], 0) @ stored["v"]).argmax(1)
    np.savez(folder / "data.npz", x=even * spread + 2 * spread, y=labels)
    return folder / "net.onnx", folder / "data.npz"


@pytest.mark.parametrize("format", FORMATS)
def test_a_network_that_normalizes_inside_is_rescued(format, tmp_path):
    source, data = normalizing(tmp_path)
    said: dict[str, Any] = {
        "to": format, "calibration": data, "evaluation": data, "max_drop": 1.0, "task": "classification",
        "repairs": "none",
    }  # fmt: skip
    with pytest.raises(VerificationError):
        run(source, Options(precision="int8", **said))
    done = run(source, Options(precision="mixed", lift_cache=tmp_path / "kept", **said))
    metric = done.verification.proof.metric
    assert metric is not None
    assert metric.drop <= 1.0
    assert done.graph.inputs[0].dtype == "float32"
    assert done.graph.lifted
    # The dense layers stay in integers.
    assert len(done.graph.lifted) <= 2
