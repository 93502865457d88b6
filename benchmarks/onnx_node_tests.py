"""ONNX' own tests of its operators against our lowering to TFLite: passed, refused with a reason, or wrong.

    python benchmarks/onnx_node_tests.py            # one JSON line a test that did not pass, then the counts
    python benchmarks/onnx_node_tests.py --write    # the table of docs/onnx-operators.md

All tests on tensors of numbers that the installed onnx package brings along, at their own tolerance (rtol 1e-3, atol
1e-7), through the engine. The operators of `onnx_named_ops.toml` are counted apart, since they are promised. So are
tests of element types that no tensor of TFLite has (8-bit floats, 4 and 2 bits): they can only be refused.
"""

from __future__ import annotations

import collections
import json
import sys
import tomllib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

PAGE = Path(__file__).resolve().parents[1] / "docs" / "onnx-operators.md"
NAMED = Path(__file__).with_name("onnx_named_ops.toml")

_HELD = frozenset({
    "float32", "float64", "float16", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool",
})  # fmt: skip
"""Element types of TFLite's tensors."""


@dataclass(frozen=True)
class Verdict:
    """What became of a test.

    Attributes:
        name: Of the test.
        op: Operator that it is about, also where it is written out in simpler ones.
        result: "passed", "refused" or "wrong".
        why: Not of those that passed.
        foreign: It is about an element type that TFLite does not have.
    """

    name: str
    op: str
    result: str
    why: str = ""
    foreign: bool = False


def lowered(model: Any, shapes: list[tuple[int, ...]]) -> tuple[Any, Any]:
    """The draft of a model for inputs of these shapes, and the file or the list of gaps."""
    from edgekit.converters.from_onnx import current
    from edgekit.converters.onnx_to_tflite import patterns, writing
    from edgekit.converters.onnx_to_tflite.batches import Bound, readable, release
    from edgekit.converters.onnx_to_tflite.lowering import Lowering
    from edgekit.converters.onnx_to_tflite.tidy import tidy

    modern, _ = current.modernize(model, "test")
    for value, shape in zip(modern.graph.input, shapes, strict=True):
        dims = value.type.tensor_type.shape
        dims.ClearField("dim")
        for size in shape:
            dims.dim.add().dim_value = size
    patterns.rewrite(modern)
    first = Lowering(modern)
    draft = first.run()
    if first.gaps:
        return draft, first.gaps
    tidy(draft, floats=True)  # as float32 files are
    if first.sizes.count:
        other = Lowering(modern, guess=1)
        other.run()
        tidy(other.draft, floats=True)
        try:
            release(draft, other.draft, *first.sizes.pairs)
            readable(draft)
        except Bound as bound:
            return draft, [bound]
    return draft, writing.write(draft)


def answers_of(draft: Any, data: bytes, arrays: Any) -> list[Any]:
    """What the engine answers, in the order of the draft's outputs."""
    from ai_edge_litert.interpreter import Interpreter

    engine = Interpreter(model_content=data, num_threads=1)
    engine.allocate_tensors()
    places = {detail["name"]: detail["index"] for detail in engine.get_input_details()}
    for tensor, array in zip(draft.inputs, arrays, strict=True):
        engine.set_tensor(places[tensor.name], np.asarray(array).reshape(tensor.shape))
    engine.invoke()
    found = {detail["name"]: engine.get_tensor(detail["index"]) for detail in engine.get_output_details()}
    return [found[tensor.name] for tensor in draft.outputs]


def verdicts() -> Iterator[Verdict]:
    """Every numeric test of an operator."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.case.node import collect_testcases

        cases = [case for case in collect_testcases(None) if case.model is not None]
        ops = {case.name: _op(case) for case in cases}
        for case in cases:
            for inputs, outputs in case.data_sets or ():
                given, wanted = _numbers(inputs), _numbers(outputs)
                if given is not None and wanted is not None:
                    yield _judged(case, _about(case.name, ops), given, wanted)


def _op(case: Any) -> str:
    nodes = case.model.graph.node
    return str(nodes[0].op_type) if len(nodes) == 1 else str(case.name.split("_")[1])


def _about(name: str, ops: dict[str, str]) -> str:
    """The operator of a test; of one that is written out, that of the test which it is another form of."""
    base = name.partition("_expanded")[0]
    return ops.get(base, ops[name])


def _numbers(values: Any) -> list[Any] | None:
    """Arrays of numbers, or None where there is anything else."""
    import onnx

    found = []
    for value in values:
        held = onnx.numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value
        if not isinstance(held, (np.ndarray, np.generic)) or np.asarray(held).dtype == object:
            return None
        found.append(np.asarray(held))
    return found


def _judged(case: Any, op: str, inputs: list[Any], outputs: list[Any]) -> Verdict:
    foreign = not _types(case) <= _HELD
    result, why = _outcome(case, inputs, outputs)
    return Verdict(case.name, op, result, why, foreign)


def _types(case: Any) -> set[str]:
    from edgekit.converters.onnx_to_tflite import inference

    graph = case.model.graph
    return {inference.dtype_name(v.type.tensor_type.elem_type) or "" for v in (*graph.input, *graph.output)}


def _outcome(case: Any, inputs: list[Any], outputs: list[Any]) -> tuple[str, str]:
    from edgekit.errors import EdgeKitError

    try:
        draft, data = lowered(case.model, [array.shape for array in inputs])
    except EdgeKitError as error:
        return "refused", str(error)
    if isinstance(data, list):
        return "refused", "; ".join(map(str, data))
    try:
        for answer, want in zip(answers_of(draft, data, inputs), outputs, strict=True):
            if answer.dtype != want.dtype:
                return "wrong", f"{answer.dtype}, not {want.dtype}"
            if answer.dtype == bool:
                np.testing.assert_array_equal(answer, want)
            else:
                np.testing.assert_allclose(
                    answer.astype(np.float64), want.astype(np.float64), rtol=case.rtol, atol=case.atol
                )
    except (AssertionError, RuntimeError, ValueError) as error:
        return "wrong", " ".join(str(error).split())[:300]
    return "passed", ""


def named() -> frozenset[str]:
    """Operators that are promised."""
    return frozenset(op for family in tomllib.loads(NAMED.read_text()).values() for op in family)


def counts(found: list[Verdict]) -> dict[str, dict[str, int]]:
    """How many of which tests passed, were refused and are wrong."""
    promised = named()
    groups = {
        "all": found,
        "named operators": [v for v in found if v.op in promised],
        "named operators, element types of TFLite": [v for v in found if v.op in promised and not v.foreign],
    }
    return {
        group: {
            "tests": len(some),
            **{result: sum(v.result == result for v in some) for result in ("passed", "refused", "wrong")},
        }
        for group, some in groups.items()
    }


def table(found: list[Verdict]) -> str:
    """The page: counts by operator, and why tests of it were refused."""
    import onnx

    tallies: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    reasons: dict[str, dict[str, None]] = collections.defaultdict(dict)
    for verdict in found:
        tallies[verdict.op][verdict.result] += 1
        if verdict.result != "passed":
            reasons[verdict.op].setdefault(verdict.why.split("; ")[0].partition("): ")[2][:110] or verdict.why[:110])
    summary = (
        f"The tests of its operators that onnx {onnx.__version__} brings along, on tensors of numbers, at their own "
        "tolerance through the engine."
    )
    generated = "<!-- Generated by `python benchmarks/onnx_node_tests.py --write`. -->"
    lines = ["# ONNX operators in TFLite", "", generated, "", summary, ""]
    lines += ["| of | tests | pass | refused with a reason | wrong | pass |", "| --- | --: | --: | --: | --: | --: |"]
    for group, some in counts(found).items():
        share = 100 * some["passed"] / max(1, some["tests"])
        lines.append(
            f"| {group} | {some['tests']} | {some['passed']} | {some['refused']} | {some['wrong']} | {share:.1f} % |"
        )
    lines += ["", "| operator | pass | refused | why |", "| --- | --: | --: | --- |"]
    for op in sorted(tallies):
        why = "; ".join(reasons[op])
        lines.append(f"| {op} | {tallies[op]['passed']} | {tallies[op]['refused'] + tallies[op]['wrong']} | {why} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """See the module's header."""
    found = list(verdicts())
    for verdict in found:
        if verdict.result != "passed":
            print(json.dumps(verdict.__dict__))
    for group, some in counts(found).items():
        share = round(100 * some["passed"] / max(1, some["tests"]), 1)
        print(json.dumps({"of": group, **some, "passed_percent": share}))
    if "--write" in sys.argv[1:]:
        PAGE.write_text(table(found))


if __name__ == "__main__":
    main()
