"""The device gate: every limit failing and holding, over all boards, and what it advises."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest

from edgekit.device_profiles import all_profiles, load_profile, support
from edgekit.device_profiles.faults import known_fault
from edgekit.device_profiles.schema import Profile
from edgekit.device_profiles.software import ENGINES
from edgekit.errors import LimitError, UsageError
from edgekit.formats.facts import ModelFacts, OpFacts
from edgekit.gate import Limit, Verdict, check, enforce, limiting, limiting_briefly, matrix
from edgekit.manifest import Manifest, Needs, Provenance
from edgekit.tensors import TensorSpec

PROFILES = all_profiles()
PI4, PI5 = load_profile("raspberry-pi-4b"), load_profile("raspberry-pi-5")
NARROW, OLDEST = load_profile("raspberry-pi-3b-32bit"), load_profile("raspberry-pi-zero-w")
JETSON = load_profile("jetson-nano")
MIB = 2**20
SPEC = (TensorSpec("x", (1, 4), "float32"),)


def op(kind: str, version: int | None = 1, dtype: str = "int8") -> OpFacts:
    return OpFacts(kind, kind.lower(), version, ("x",), ("y",), 1000, dtype)


def tflite(*ops: OpFacts, **changes) -> ModelFacts:
    facts = ModelFacts(
        format="tflite", inputs=SPEC, outputs=SPEC, ops=ops or (op("CONV_2D", 3), op("SOFTMAX", 2)), tensors=3,
        parameters=80_000, weight_bytes=80_000, arena_bytes=65_536, macs=2000, bytes=96_000, precision="int8",
    )  # fmt: skip
    return dataclasses.replace(facts, **changes)


def onnx(*ops: OpFacts, **changes) -> ModelFacts:
    facts = tflite(*(ops or (op("Conv", None), op("Relu", None))), format="onnx", opsets={"": 17}, precision="fp32")
    return dataclasses.replace(facts, **{"metadata": {"ir_version": "8"}, **changes})


def manifest(precision: str = "int8", engine: str = "litert", version: str = "2.3.0") -> Manifest:
    return Manifest(
        schema=1, format="tflite", precision=precision, inputs=SPEC, outputs=SPEC, model_sha256="0", model_bytes=1,
        provenance=Provenance("keras", "0", {}, {}), needs=Needs(engine, version, {}, 1),
    )  # fmt: skip


def limits(facts: ModelFacts, profile: Profile, **options) -> dict[str, Limit]:
    found = check(facts, None, profile, **options).limits
    assert len({limit.resource for limit in found}) == len(found)
    return {limit.resource: limit for limit in found}


def advice(facts: ModelFacts, profile: Profile, about: Manifest | None = None, **options) -> str:
    return "\n".join(check(facts, about, profile, **options).advice)


# -- all boards


@pytest.mark.parametrize("profile", PROFILES, ids=[profile.name for profile in PROFILES])
@pytest.mark.parametrize("facts", [tflite(), onnx()], ids=["tflite", "onnx"])
def test_a_small_model_fits_wherever_its_format_has_an_engine(facts: ModelFacts, profile: Profile):
    verdict = check(facts, None, profile)
    engines = [e for name, e in profile.engines.items() if ENGINES[name] == facts.format and e.version]
    assert verdict.fits == bool(engines), verdict.broken
    assert verdict.device == profile.name
    assert (verdict.memory_mb["estimate"] is None) == (not engines)
    for limit in verdict.limits:
        assert limit.why
        assert limit.source
    if not verdict.fits:
        assert [limit.resource for limit in verdict.broken] == ["engine"]
        assert limiting(verdict).startswith("engine: needs ")
    else:
        assert limiting(verdict).startswith(("memory: needs ", "model_size: needs "))


def test_the_json_has_the_contract_s_fields_and_visible_nulls():
    document = json.loads(json.dumps(check(tflite(), None, PI4).to_dict()))
    assert set(document) == {"device", "fits", "limits", "memory_mb", "latency_ms", "advice", "choices"}
    assert set(document["memory_mb"]) == {"estimate", "load", "run", "at_least", "basis", "parts"}
    assert set(document["latency_ms"]) == {"estimate", "low", "high", "basis"}
    assert document["latency_ms"]["basis"].startswith("fitted from")
    nothing = json.loads(json.dumps(check(tflite(), None, OLDEST).to_dict()))["latency_ms"]
    assert [nothing[name] for name in ("estimate", "low", "high")] == [None] * 3
    assert nothing["basis"].startswith("not predicted")
    assert document["memory_mb"]["estimate"] == pytest.approx(45.0, abs=0.5)
    for limit in document["limits"]:
        assert set(limit) == {"resource", "required", "available", "unit", "ok", "why", "source"}
    nothing = json.loads(json.dumps(check(tflite(), None, OLDEST).to_dict()))["memory_mb"]
    assert (nothing["estimate"], nothing["load"], nothing["run"], nothing["parts"]) == (None, None, None, [])


# -- engines


def test_a_board_without_wheels_runs_nothing():
    found = limits(tflite(), OLDEST)
    assert (found["engine"].ok, found["engine"].available) == (False, "none")
    assert "ARMv6" in found["engine"].why
    assert "memory" not in found
    assert advice(tflite(), OLDEST) == ""


def test_32_bit_arm_has_tflite_runtime_only():
    assert limits(tflite(), NARROW)["engine"].available == "tflite-runtime 2.14.0"
    refused = limits(onnx(), NARROW)["engine"]
    assert (refused.ok, refused.required) == (False, "onnxruntime")
    assert "32-bit Arm" in refused.why


def test_our_engine_litert_stands_for_tflite_runtime_where_there_is_no_other():
    assert limits(tflite(), NARROW, engine="litert")["engine"].ok
    assert limits(tflite(), PI4, engine="litert")["engine"].available == "ai-edge-litert 2.3.0"
    # The 64-bit image's Python is too new for the last tflite-runtime.
    forced = limits(tflite(), PI4, engine="tflite-runtime")
    assert (forced["engine"].ok, forced["python"].ok) == (True, False)
    assert forced["python"].available == "Python 3.13"
    assert forced["python"].required == "Python 3.8 to 3.11"


def test_an_engine_of_the_other_format_and_an_unknown_one():
    found = limits(onnx(), PI4, engine="litert")["engine"]
    assert (found.ok, found.why) == (False, "litert does not run .onnx files")
    with pytest.raises(UsageError, match="no engine is called 'tensorrt'") as caught:
        check(tflite(), None, PI4, engine="tensorrt")
    assert caught.value.code == "unknown-name"


def test_a_profile_that_names_no_engine():
    bare = dataclasses.replace(PI4, engines={})
    assert "names no engine" in limits(tflite(), bare)["engine"].why


def test_the_python_beside_the_image_s_own_counts():
    assert limits(tflite(), JETSON)["python"].ok
    own = dataclasses.replace(JETSON, os=dataclasses.replace(JETSON.os, use_python=None))
    assert not limits(tflite(), own)["python"].ok
    assert "ships Python 3.6" in advice(tflite(), JETSON)


# -- ops


@pytest.mark.parametrize(
    ("kind", "version", "old", "new"),
    [
        ("CONV_2D", 7, True, True),
        ("CONV_2D", 8, False, True),
        ("FULLY_CONNECTED", 13, False, True),
        ("FULLY_CONNECTED", 99, False, False),
        ("DILATE", 1, False, True),
        ("STABLEHLO_ADD", 1, False, True),
        ("BATCH_MATMUL", 4, True, True),
        ("CUSTOM:TFLite_Detection_PostProcess", 1, True, True),
        ("CUSTOM:aeq.hadamard_rotation", 1, False, True),
        ("CUSTOM:FlexErf", 1, False, False),
        ("CUSTOM:edgetpu-custom-op", 1, False, False),
        ("CUSTOM", 1, False, False),
    ],
)
def test_tflite_ops_need_a_kernel_of_their_version(kind: str, version: int, old: bool, new: bool):
    facts = tflite(op("RELU", 1), op(kind, version))
    narrow, wide = limits(facts, NARROW)["operators"], limits(facts, PI4)["operators"]
    assert (narrow.ok, wide.ok) == (old, new)
    assert (narrow.required, narrow.available) == (2, 2 if old else 1)
    assert old or kind in narrow.why


def test_kernels_that_stop_at_an_element_type_are_told():
    facts = tflite(dataclasses.replace(op("DIV", 2), dtype="int8"))
    narrow = limits(facts, NARROW)["operators"]
    assert (narrow.ok, narrow.available) == (False, 0)
    assert "DIV of int8" in narrow.why
    assert limits(facts, PI4)["operators"].ok
    assert limits(tflite(dataclasses.replace(op("DIV", 2), dtype="float32")), NARROW)["operators"].ok


def test_flex_ops_are_explained():
    assert "Flex delegate" in limits(tflite(op("CUSTOM:FlexErf")), PI4)["operators"].why


def test_older_litert_is_held_to_the_older_list():
    engines = {"litert": dataclasses.replace(PI4.engines["litert"], version="1.4.0")}
    older = dataclasses.replace(PI4, engines=engines)
    assert not limits(tflite(op("CONV_2D", 8)), older)["operators"].ok


def test_the_op_lists_only_grow():
    old, new = support.kernels("tflite-runtime", "2.14.0"), support.kernels("litert", "2.3.0")
    assert len(old) > 150
    assert all(new[kind] >= version for kind, version in old.items())
    assert support.kernels("tflite-runtime", "9.0") == old


@pytest.mark.parametrize(("opset", "ir", "ok"), [(7, 3, True), (26, 13, True), (27, 13, False), (26, 14, False)])
def test_onnx_versions_are_those_of_the_board_s_onnxruntime(opset: int, ir: int, ok: bool):
    facts = onnx(opsets={"": opset, "ai.onnx.ml": 3}, metadata={"ir_version": str(ir)})
    found = check(facts, None, JETSON)
    assert JETSON.engines["onnxruntime"].version == "1.28.0"
    assert found.fits == ok
    assert check(facts, None, PI4).fits
    assert len([limit for limit in found.limits if limit.resource == "opset"]) == 2


@pytest.mark.parametrize(
    ("version", "opset", "ir"),
    [("1.10", 19, 9), ("1.17.3", 20, 9), ("1.22.1", 22, 10), ("1.32.0", 28, 14), ("9.0", 28, 14)],
)
def test_onnxruntime_s_table(version: str, opset: int, ir: int):
    known = support.onnx_versions(version)
    assert (known["opset"], known["ir"]) == (opset, ir)


def test_ops_of_foreign_domains():
    assert limits(onnx(op("com.microsoft:QLinearAdd", None)), PI4)["operators"].ok
    found = limits(onnx(op("Conv", None), op("my.domain:Thing", None)), PI4)["operators"]
    assert (found.ok, found.required, found.available) == (False, 2, 1)
    assert "my.domain:Thing" in found.why


def test_installed_engines_agree_with_the_tables():
    """What the tables say of the newest versions is what the installed ones do."""
    litert = pytest.importorskip("ai_edge_litert")
    del litert
    from importlib.metadata import version

    if version("ai-edge-litert") != "2.3.0":
        pytest.skip("the table of another version")
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.interpreter import Interpreter

    def load(kind: str, number: int) -> None:
        code = schema.OperatorCodeT()
        code.builtinCode = getattr(schema.BuiltinOperator, kind)
        code.deprecatedBuiltinCode, code.version = min(code.builtinCode, 127), number
        graph = schema.SubGraphT()
        graph.tensors = graph.inputs = graph.outputs = graph.operators = []
        model = schema.ModelT()
        model.version, model.operatorCodes, model.subgraphs, model.buffers = 3, [code], [graph], [schema.BufferT()]
        builder = flatbuffers.Builder(256)
        builder.Finish(model.Pack(builder), b"TFL3")
        Interpreter(model_content=bytes(builder.Output()))

    for kind, highest in support.kernels("litert", "2.3.0").items():
        if not kind.startswith("CUSTOM:"):
            load(kind, highest)
            with pytest.raises(ValueError, match="Didn't find op"):
                load(kind, highest + 1)


# -- memory and size


def test_memory_without_a_graph_counts_the_file_twice_and_the_activations():
    base = check(tflite(), None, PI4).memory_mb["estimate"]
    assert check(tflite(bytes=10 * MIB), None, PI4).memory_mb["estimate"] == pytest.approx(base + 20.4, abs=0.5)
    assert check(tflite(arena_bytes=10 * MIB), None, PI4).memory_mb["estimate"] == pytest.approx(base + 10.2, abs=0.3)
    assert check(onnx(), None, PI4).memory_mb["estimate"] > base


def test_memory_fails_on_a_small_board_and_holds_on_a_large_one():
    facts = tflite(bytes=90 * MIB, precision="fp32")
    small, large = limits(facts, load_profile("raspberry-pi-zero-2w")), limits(facts, PI4)
    refused = limits(tflite(bytes=110 * MIB, precision="fp32"), load_profile("raspberry-pi-zero-2w"))
    assert not refused["memory"].ok
    assert not refused["memory_load"].ok
    assert (small["memory"].ok, large["memory"].ok) == (True, True)
    assert small["memory"].available == 246
    assert "90.0 for the file's own bytes" in small["memory"].why
    assert "sbc-bench" not in small["memory"].source


def test_boards_of_one_userland_share_one_estimate_of_memory():
    facts = tflite()
    found = matrix(facts, None, PROFILES)
    assert [verdict.device for verdict in found] == [profile.name for profile in PROFILES]
    for verdict, profile in zip(found, PROFILES, strict=True):
        alone = check(facts, None, profile)
        assert (verdict.fits, verdict.limits, verdict.memory_mb) == (alone.fits, alone.limits, alone.memory_mb)
        assert verdict.choices == ()


def test_a_budget_of_time_is_a_limit_and_heat_is_another():
    warm = load_profile("raspberry-pi-3b-plus")
    facts = real(dtype="float32")
    ms = check(facts, None, warm).latency_ms["estimate"]
    assert "latency" not in limits(facts, warm)
    for budget, fresh, hot in [(ms * 2, True, True), (ms * 1.1, True, False), (ms / 2, False, False)]:
        there = budgeted(warm, budget)
        found = limits(facts, there)
        assert (found["latency"].ok, found["latency_sustained"].ok) == (fresh, hot)
        assert found["latency_sustained"].required == pytest.approx(ms * 1400 / 1200, rel=1e-3)
    cool = check(facts, None, PI4).latency_ms["estimate"]
    assert "latency_sustained" not in limits(facts, budgeted(PI4, cool * 2))
    assert "lies within the interval" in advice(facts, budgeted(PI4, cool * 1.05))


def budgeted(profile: Profile, ms: float) -> Profile:
    budget = dataclasses.replace(profile.budget, latency_ms=ms)
    return dataclasses.replace(profile, budget=budget, sources={**profile.sources, "budget.latency_ms": "mine"})


def test_heat_without_a_figure_is_said():
    facts = real("float32")
    assert "for a cool board only" in advice(facts, budgeted(PI4, 1000))
    assert "cool board" not in advice(facts, PI4)
    assert "cool board" not in advice(facts, budgeted(load_profile("raspberry-pi-3b-plus"), 1000))


def test_a_narrow_system_on_a_wide_kernel_is_said():
    assert "a 64-bit system on this board" in advice(real("int8"), NARROW)
    for name in ("raspberry-pi-2b", "raspberry-pi-4b"):
        assert "a 64-bit system" not in advice(real("int8"), load_profile(name))


def test_our_opinion_on_what_is_fast_refuses_nothing():
    facts = real("float32")
    slow = dataclasses.replace(facts, ops=facts.ops * 100)
    verdict = check(slow, None, PI4)
    assert verdict.fits
    assert "latency" not in {limit.resource for limit in verdict.limits}
    assert "longer than the 100 ms" in "\n".join(verdict.advice)


def real(dtype: str) -> ModelFacts:
    """One 3x3 convolution over 64 channels of a 56x56 map, which the predictor knows."""
    from edgekit.formats.facts import Operand

    reads = (Operand((1, 56, 56, 64), dtype), Operand((64, 3, 3, 64), dtype, constant=True))
    conv = OpFacts("CONV_2D", "c", 3, ("x", "w"), ("y",), 115_605_504, dtype, reads, (Operand((1, 56, 56, 64), dtype),))
    return tflite(conv, precision="int8" if dtype == "int8" else "fp32", macs=115_605_504)


def test_choices_are_sorted_and_relative_to_what_was_asked_for():
    verdict = check(real("float32"), None, PI5, threads=1)
    times = [choice.latency_ms for choice in verdict.choices]
    assert times == sorted(times)
    assert {(c.precision, c.threads) for c in verdict.choices} == {(p, t) for p in ("fp32", "int8") for t in (1, 2, 4)}
    now = verdict.latency_ms["estimate"]
    assert all(choice.gain == pytest.approx(now / choice.latency_ms, abs=0.006) for choice in verdict.choices)
    said = "\n".join(verdict.advice)
    assert "4 threads: about" in said
    assert "fastest there: int8, litert, 4 threads" in said
    assert verdict.choices[0].gain > 3


def test_no_integers_are_proposed_for_trees():
    """Of which `convert` makes none."""
    from edgekit.formats.facts import Operand

    def operand(dtype: str, *shape: int, constant: bool = False) -> Operand:
        return Operand(shape, dtype, constant=constant)

    conv = real("float32").ops[0]
    seen, step, place = operand("bool", 1, 9), operand("int32", 1, 9), operand("int32", 1, 9)
    reads = (operand("float32", 1, 9), operand("float32", 9, constant=True))
    greater = OpFacts("GREATER", "g", 1, ("x", "t"), ("g",), 0, "float32", reads, (seen,))
    cast = OpFacts("CAST", "c", 1, ("g",), ("c",), 0, "bool", (seen,), (step,))
    add = OpFacts("ADD", "a", 1, ("c", "o"), ("a",), 0, "int32", (step, operand("int32", 9, constant=True)), (place,))
    table = operand("float32", 99, constant=True)
    gather = OpFacts("GATHER", "l", 1, ("v", "a"), ("l",), 0, "float32", (table, place), (operand("float32", 1, 9),))
    unread = dataclasses.replace(gather, reads=(table, operand("int32", 1, 9)))
    for last, proposed in ((gather, {"fp32"}), (unread, {"fp32", "int8"})):
        facts = tflite(conv, greater, cast, add, last, precision="fp32", macs=conv.macs)
        assert {choice.precision for choice in check(facts, None, PI5, threads=1).choices} == proposed


def test_one_thread_is_one_thread():
    from edgekit.gate.verdict import threads

    assert [threads(count) for count in (1, 4, None)] == ["1 thread", "4 threads", "threads of the engine's choice"]


def test_the_time_of_a_warm_board_is_said():
    said = advice(real("float32"), load_profile("raspberry-pi-3b-plus"), threads=4)
    assert "from 60 C on the clock falls to 1200 MHz, and a run takes about" in said
    assert "the clock falls" not in advice(real("float32"), PI4)


def test_the_closest_limit_in_a_few_words():
    assert limiting_briefly(check(tflite(), None, PI4)).startswith(("memory ", "model_size "))
    assert limiting_briefly(check(tflite(), None, PI4)).endswith(" %")
    large = limiting_briefly(check(tflite(bytes=2000 * MIB), None, PI4))
    assert re.fullmatch(r"memory_load \d+ of 2611 MiB", large)
    assert limiting_briefly(check(onnx(), None, NARROW)).startswith("engine: none")


def test_unknown_work_gives_no_advice_on_speed():
    nothing = dataclasses.replace(real("float32"), macs=None)
    assert "threads: about" not in advice(nothing, PI4)
    assert "work of some ops is not known" in advice(nothing, PI4)


def test_unknown_activations_are_said_not_assumed():
    facts = tflite(arena_bytes=None)
    assert "not counted" in limits(facts, PI4)["memory"].why
    assert check(facts, None, PI4).memory_mb["at_least"]
    assert "the memory estimate is a lower bound" in advice(facts, PI4)
    assert "the memory estimate is a lower bound" not in advice(tflite(), PI4)


def test_size_against_storage_and_budget():
    facts = tflite(bytes=2000 * MIB)
    found = limits(facts, PI4)
    assert (found["storage"].required, found["storage"].available, found["storage"].ok) == (4000, 3814, False)
    assert (found["model_size"].required, found["model_size"].available, found["model_size"].ok) == (2000, 652, False)
    assert limits(tflite(), PI4)["storage"].ok
    assert limits(tflite(), PI4)["model_size"].ok
    assert "storage" not in limits(tflite(), load_profile("intel-n100"))


def test_constants_beside_an_onnx_file_count():
    facts = onnx(bytes=1000, weight_bytes=50 * MIB, external=("weights.bin",))
    assert limits(facts, PI4)["model_size"].required == 50
    assert limits(onnx(bytes=MIB, weight_bytes=50 * MIB), PI4)["model_size"].required == 1


# -- advice


def test_advice_on_integers_without_dot_products():
    assert "no int8 dot products" in advice(tflite(), PI4)
    assert "onnxruntime int8 may be no faster" in advice(onnx(precision="int8"), PI4)
    assert "dot products" not in advice(tflite(), PI5)
    assert "dot products" not in advice(tflite(), load_profile("intel-n100"))
    assert "dot products" not in advice(tflite(precision="fp32"), PI4)


def test_advice_on_halves_and_int16():
    assert "halves the file only" in advice(tflite(precision="fp16"), PI5)
    assert "computes no half floats" in advice(tflite(precision="fp16"), PI4)
    assert "reference kernels" in advice(tflite(precision="int16x8"), PI5)
    assert "computes in float" in advice(onnx(precision="int16x8"), PI5)
    assert "halves the file only" in advice(tflite(precision="fp32"), PI5, manifest("fp16"))


def test_advice_on_engines_and_threads():
    assert advice(tflite(precision="fp32"), PI5, manifest("fp32")) == ""
    assert "verified with litert 2.2.0, there it is litert 2.3.0" in advice(tflite(), PI5, manifest(version="2.2.0"))
    assert "numpy 2" in advice(tflite(), NARROW)
    assert "8 threads on 4 cores" in advice(tflite(), PI5, threads=8)
    assert "slower cores than the Cortex-A76" in advice(tflite(), load_profile("orange-pi-5"), threads=6)
    assert "threads" not in advice(tflite(), PI5, threads=4)


# -- enforce


def test_enforce_lets_a_fitting_model_through():
    assert enforce(check(tflite(), None, PI4)) is None


def test_enforce_names_the_resource_and_the_figures():
    verdict = check(tflite(op("CUSTOM:Mine"), bytes=2000 * MIB), None, PI4)
    with pytest.raises(LimitError) as caught:
        enforce(verdict)
    error = caught.value
    assert (error.code, error.exit_code) == ("device-limit", 6)
    assert error.message == (
        "the model does not fit raspberry-pi-4b: operators: needs 1 ops, has 0 ops"
        " (4 more: memory_load, memory, storage, model_size)"
    )
    assert "CUSTOM:Mine" in error.cause
    assert error.next_step
    assert error.details["limits"][3]["available"] == 3814


@pytest.mark.parametrize(
    "resource",
    [
        "engine",
        "python",
        "operators",
        "opset",
        "ir_version",
        "memory_load",
        "memory",
        "storage",
        "model_size",
        "latency",
        "latency_sustained",
    ],
)
def test_every_resource_has_a_next_step(resource: str):
    limit = Limit(resource, 2, 1, "", ok=False, why="because", source="a test")
    latency = {"estimate": None, "low": None, "high": None, "basis": ""}
    verdict = Verdict("board", False, (limit,), {"estimate": None}, latency)
    with pytest.raises(LimitError, match=f"{resource}: needs 2, has 1") as caught:
        enforce(verdict)
    assert len(caught.value.next_step) > 20


@pytest.mark.parametrize(
    ("version", "core", "precision", "fits"),
    [
        ("1.21.0", "Cortex-A72", "fp32", False),
        ("1.21.0", "Cortex-A76", "fp32", True),
        ("1.21.1", "Cortex-A72", "fp32", True),
    ],
)
def test_an_engine_that_is_known_to_fail_there(version, core, precision, fits):
    fault = known_fault("onnxruntime", version, core=core, precision=precision)
    assert (fault is None) == fits
    if fault:
        assert fault.sentence(version).startswith("onnxruntime 1.21.0 executes an instruction")


def test_faults_of_one_precision_only():
    assert known_fault("ai-edge-litert", "1.2.0", core="Cortex-A53", precision="int8") is None
    assert known_fault("ai-edge-litert", "1.2.0", core="Cortex-A53", precision="fp16") is not None
    assert known_fault("ai-edge-litert", "1.2.0") is not None


def test_a_board_with_a_faulty_engine_does_not_fit():
    engines = {**PI4.engines, "onnxruntime": dataclasses.replace(PI4.engines["onnxruntime"], version="1.21.0")}
    limit = limits(onnx(), dataclasses.replace(PI4, engines=engines))["engine"]
    assert not limit.ok
    assert "1.21.1 or newer does not" in limit.why
