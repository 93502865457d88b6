"""Models that nobody here made, of many families, through every route: right, refused with a reason, or bad.

    python benchmarks/tried_models.py [FAMILY ...] [--only WORD] [--write FILE]

A family is a module of `benchmarks/tried/`; each needs packages of its own (its header says which) and is left out
where they are missing. Weights are random where a package brings none. Every model is converted to both formats in
fp32 and int8. Its answers are those of its own framework, asked here and not by EdgeKit; the artifact's are taken
from the bare engine, and from `Model.run`. One JSON line a conversion:

    right     the figures hold, and are those that the manifest states
    refused   a typed error, with its code and message
    bad       untyped, or a figure that differs from what was measured here
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tried.case import Case, Made

import edgekit
from edgekit.errors import EdgeKitError

FAMILIES = tuple(sorted(path.stem for path in (Path(__file__).parent / "tried").glob("f_*.py")))
FIGURE_DB, FIGURE = 0.5, 2e-4
"""How far a stated figure may lie from the one measured here: dB, and share of the range (fp32)."""


def main() -> None:
    arguments = parse()
    lines = []
    if not arguments.families:
        print(json.dumps({"families": FAMILIES}))  # each takes long, and packages of its own
    for family in arguments.families:
        for case in cases(family):
            if arguments.only is None or arguments.only in case.name:
                for line in tried(case):
                    lines.append({"family": family.removeprefix("f_"), "model": case.name, **line})
                    print(json.dumps(lines[-1]), flush=True)
    if arguments.write:
        table(lines, arguments.write)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", choices=[[], *FAMILIES])
    parser.add_argument("--only", help="models with this in their name")
    parser.add_argument("--write", type=Path, help="also write the counts as a Markdown table")
    return parser.parse_args()


def cases(family: str) -> Iterator[Case]:
    try:
        module = importlib.import_module(f"tried.{family}")
    except ImportError as error:
        print(f"{family} is left out: {error}", file=sys.stderr)
        return
    yield from module.cases()


def tried(case: Case, precisions: tuple[str, ...] = ("fp32", "int8")) -> Iterator[dict[str, Any]]:
    """One line a conversion."""
    try:
        made = case.build()
    except Exception as error:  # noqa: BLE001 - other packages' code
        yield {"verdict": "unbuilt", "message": f"{type(error).__name__}: {error}"[:300]}
        return
    for to in made.formats:
        for precision in (precision for precision in made.precisions if precision in precisions):
            started = time.perf_counter()
            line, artifact = converted(made, to, precision)
            yield {"to": to, "precision": precision, **line, "seconds": round(time.perf_counter() - started, 1)}
            if made.chained and (to, precision) == ("onnx", "fp32") and artifact is not None:
                made = replace(made, source=artifact.data, options={})


def converted(made: Made, to: str, precision: str) -> tuple[dict[str, Any], Any]:
    options = {**made.options, "evaluation": made.data}
    if precision == "int8":
        options["calibration"] = made.data
    try:
        artifact = edgekit.convert(made.source, to=to, precision=precision, **options)
    except EdgeKitError as error:
        return {
            "verdict": "bad" if error.code in ("internal", "worker-crashed") else "refused",
            "code": error.code, "message": str(error)[:400], "next": (error.next_step or "")[:200],
        }, None  # fmt: skip
    except Exception as error:  # noqa: BLE001 - what should never come out
        traceback.print_exc()
        return {"verdict": "bad", "code": "untyped", "message": f"{type(error).__name__}: {error}"[:400]}, None
    try:
        return examined(made, artifact, precision), artifact
    except Exception as error:  # noqa: BLE001
        traceback.print_exc()
        return {"verdict": "bad", "code": "run", "message": f"{type(error).__name__}: {error}"[:400]}, artifact


def examined(made: Made, artifact: Any, precision: str) -> dict[str, Any]:
    with edgekit.load(artifact) as model:
        single = len(model.inputs) == len(made.data) == 1
        found = model.run({model.inputs[0].name: next(iter(made.data.values()))} if single else made.data)
    names = [spec.name for spec in artifact.manifest.outputs]
    answers = made.answers(names) if callable(made.answers) else made.answers
    if isinstance(answers, list):
        answers = dict(zip(names, answers, strict=True))
    proof = artifact.manifest.proof
    if made.loose and (set(answers) != set(names) or any(found[name].shape != answers[name].shape for name in names)):
        sqnr = proof.sqnr_db if proof.sqnr_db is not None else 999.0
        own = {"relative": float(f"{proof.relative_error:.2g}"), "sqnr": round(sqnr, 1), "stated": round(sqnr, 1)}
        return {"verdict": "right", **own, "agreement": proof.agreement, "kb": round(len(artifact.data) / 1000, 1)}
    if set(answers) != set(names):
        return {"verdict": "bad", "code": "names", "message": f"{sorted(answers)} became {sorted(names)}"}
    for name in names:
        if found[name].shape != answers[name].shape:
            said = f"{name}: {found[name].shape} for {answers[name].shape}"
            return {"verdict": "bad", "code": "shape", "message": said}
    relative, sqnr = figures(answers, found)
    line = {
        "relative": float(f"{relative:.2g}"), "sqnr": round(sqnr, 1), "kb": round(len(artifact.data) / 1000, 1),
        "stated": round(proof.sqnr_db, 1) if proof.sqnr_db is not None else None,
        "agreement": proof.agreement,
    }  # fmt: skip
    wrong = []
    if precision == "fp32" and relative > FIGURE:
        wrong.append(f"error {relative:.2g} of the range")
    if precision != "fp32" and proof.sqnr_db is not None and abs(proof.sqnr_db - sqnr) > FIGURE_DB and sqnr < 60:
        wrong.append(f"{sqnr:.1f} dB, stated {proof.sqnr_db:.1f}")
    wrong += made.check(artifact) if made.check else []
    return {
        "verdict": "bad" if wrong else "right",
        **({"code": "figures", "message": "; ".join(wrong)} if wrong else {}),
        **line,
    }


def figures(answers: dict[str, Any], found: dict[str, Any]) -> tuple[float, float]:
    """Largest error as a share of an output's range, and the smallest signal to noise ratio in dB."""
    relative, sqnr = 0.0, math.inf
    for name, expected in answers.items():
        one, other = np.asarray(expected, np.float64), np.asarray(found[name], np.float64)
        span = float(one.max() - one.min()) if one.size else 0.0
        worst = float(np.abs(one - other).max()) if one.size else 0.0
        relative = max(relative, worst / span if span else (math.inf if worst else 0.0))
        noise, signal = float(((one - other) ** 2).sum()), float((one**2).sum())
        if noise:
            sqnr = min(sqnr, 10 * math.log10(signal / noise) if signal else -math.inf)
    return relative, sqnr if sqnr != math.inf else 999.0


def table(lines: list[dict[str, Any]], path: Path) -> None:
    counts: dict[str, Counter[str]] = {}
    for line in lines:
        counts.setdefault(line["family"], Counter())[line["verdict"]] += 1
    rows = [
        f"| {family} | {count['right']} | {count['refused']} | {count['bad']} |" for family, count in counts.items()
    ]
    path.write_text("\n".join(["| family | right | refused | bad |", "| --- | --: | --: | --: |", *rows, ""]))


if __name__ == "__main__":
    main()
