"""ONNX' own tests of its operators against our lowering to TFLite: passed, refused with a reason, or wrong.

    python benchmarks/onnx_node_tests.py            # one JSON line a test that did not pass, then the counts
    python benchmarks/onnx_node_tests.py --write    # the table of docs/onnx-operators.md

All tests on tensors of numbers that the installed onnx package brings along, at their own tolerance (rtol 1e-3, atol
1e-7), through the engine.
"""

from __future__ import annotations

import collections
import json
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

PAGE = Path(__file__).resolve().parents[1] / "docs" / "onnx-operators.md"

_OUTSIDE = ("ai.onnx.preview", "ai.onnx.preview.training")
"""Domains of operators that train."""


@dataclass(frozen=True)
class Verdict:
    """What became of a test.

    Attributes:
        name: Of the test.
        op: Operator that it is about; "(expanded)" where it is written out in simpler ones.
        result: "passed", "refused" or "wrong".
        why: Not of those that passed.
    """

    name: str
    op: str
    result: str
    why: str = ""


def lowered(model: Any, shapes: list[tuple[int, ...]]) -> tuple[Any, Any]:
    """The draft of a model for inputs of these shapes, and the file or the list of gaps."""
    from edgekit.converters import _onnx_current as current
    from edgekit.converters.onnx_to_tflite import patterns, writing
    from edgekit.converters.onnx_to_tflite.lowering import Lowering
    from edgekit.converters.onnx_to_tflite.tidy import tidy

    modern, _ = current.modernize(model, "test")
    for value, shape in zip(modern.graph.input, shapes, strict=True):
        dims = value.type.tensor_type.shape
        dims.ClearField("dim")
        for size in shape:
            dims.dim.add().dim_value = size
    patterns.rewrite(modern)
    lowering = Lowering(modern)
    draft = lowering.run()
    if lowering.gaps:
        return draft, lowering.gaps
    tidy(draft)
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

        cases = collect_testcases(None)
        for case in cases:
            for inputs, outputs in case.data_sets or ():
                if case.model is not None and _numeric(inputs) and _numeric(outputs):
                    yield _judged(case, inputs, outputs)


def _numeric(arrays: Any) -> bool:
    return all(isinstance(a, (np.ndarray, np.generic)) and np.asarray(a).dtype != object for a in arrays)


def _judged(case: Any, inputs: Any, outputs: Any) -> Verdict:
    from edgekit.errors import EdgeKitError

    nodes = case.model.graph.node
    op = "(expanded)" if "_expanded" in case.name else nodes[0].op_type if len(nodes) == 1 else case.name.split("_")[1]
    try:
        draft, data = lowered(case.model, [np.shape(array) for array in inputs])
    except EdgeKitError as error:
        return Verdict(case.name, op, "refused", str(error))
    if isinstance(data, list):
        return Verdict(case.name, op, "refused", "; ".join(map(str, data)))
    try:
        for answer, want in zip(answers_of(draft, data, inputs), outputs, strict=True):
            if answer.dtype != np.asarray(want).dtype:
                return Verdict(case.name, op, "wrong", f"{answer.dtype}, not {np.asarray(want).dtype}")
            if answer.dtype == bool:
                np.testing.assert_array_equal(answer, want)
            else:
                np.testing.assert_allclose(
                    answer.astype(np.float64), want.astype(np.float64), rtol=case.rtol, atol=case.atol
                )
    except (AssertionError, RuntimeError, ValueError) as error:
        return Verdict(case.name, op, "wrong", " ".join(str(error).split())[:300])
    return Verdict(case.name, op, "passed")


def table(found: list[Verdict]) -> str:
    """The page: counts by operator, and why tests of it were refused."""
    import onnx

    counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    reasons: dict[str, dict[str, None]] = collections.defaultdict(dict)
    for verdict in found:
        counts[verdict.op][verdict.result] += 1
        if verdict.result != "passed" and verdict.op != "(expanded)":
            reasons[verdict.op].setdefault(verdict.why.split("; ")[0].partition("): ")[2][:110] or verdict.why[:110])
    total = collections.Counter(verdict.result for verdict in found)
    summary = (
        f"The tests of its operators that onnx {onnx.__version__} brings along, on tensors of numbers, at their own "
        f"tolerance through the engine: {len(found)} tests, {total['passed']} pass, {total['refused']} are refused "
        f"with a reason, {total['wrong']} are wrong."
    )
    generated = "<!-- Generated by `python benchmarks/onnx_node_tests.py --write`. -->"
    lines = ["# ONNX operators in TFLite", "", generated, "", summary, ""]
    lines += ["| operator | pass | refused | why |", "| --- | --: | --: | --- |"]
    for op in sorted(counts):
        why = "; ".join(reasons[op])
        lines.append(f"| {op} | {counts[op]['passed']} | {counts[op]['refused'] + counts[op]['wrong']} | {why} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """See the module's header."""
    found = list(verdicts())
    for verdict in found:
        if verdict.result != "passed":
            print(json.dumps(verdict.__dict__))
    print(json.dumps(collections.Counter(verdict.result for verdict in found)))
    if "--write" in sys.argv[1:]:
        PAGE.write_text(table(found))


if __name__ == "__main__":
    main()
