"""Fits the factors of the latency model to published figures and judges them on figures left out.

    python benchmarks/fit_latency.py              # judge: JSON lines
    python benchmarks/fit_latency.py --write      # and write device_profiles/_latency.toml

Judged twice: every (processor, model) pair is predicted from a fit without it (five folds), and every processor from
a fit without any of its figures. The intervals are quantiles of those errors, shrunk to all figures of their basis.
"""

from __future__ import annotations

import argparse
import json
import sys
import zlib
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from latency_figures import ALIASES, CORES, PRIORS, load, micro
from latency_solver import Figure, Problem, scores

from edgekit import files
from edgekit.device_profiles.writing import toml

FOLDS = 5
COLUMNS = ("mape", "median", "within_1.25", "within_1.5", "within_2.0")
BASELINES = {
    "pairs": [
        ("simple roofline", ["28.6 %", "24.5 %", "", "72.0 %", "94.1 %"]),
        ("refined roofline", ["21.8 %", "17.6 %", "", "86.3 %", "95.4 %"]),
    ],
    "processors": [("simple roofline", ["40.6 %", "", "", "55.4 %", "85.4 %"])],
}
"""Fitted to the same table by whoever collected it (devices.md beside it)."""
MARK, END = "<!-- begin figures -->", "<!-- end figures -->"
ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT.parent / "shared" / "data" / "published-latencies.csv"
PAGE = ROOT / "docs" / "latency-prediction.md"
OUTPUT = ROOT / "device_profiles" / "_latency.toml"
HEAD = (
    "# Factors of the latency model (edgekit/predict/prices.py), written by benchmarks/fit_latency.py. Do not edit.\n\n"
)
SOURCES = [
    "MLPerf Inference v0.5 to v3.0, logs of Krai and dividiti",
    "github:NobuoTsukamoto/benchmarks@422e0a0",
    "github:google/XNNPACK@75db3c0 README.md",
    "coral.ai: Edge TPU performance benchmarks, column of the embedded CPU",
    "Q-engineering, READMEs on GitHub",
]
"""Of the rows that are used; each row of the table names its own."""
PROBED = {precision: {"low": 0.8, "high": 1.25} for precision in ("fp32", "int8")}
"""Of prices that `devices probe` measured: benchmarks/predict_here.py."""
KEEP = 0.005
"""Factors nearer to zero than this change no time by a percent and are left out of the file."""


def left_out(problem: Problem, groups: list[Any]) -> Any:
    """ln ns of each figure, predicted from a fit without its group."""
    names = np.array(groups)
    found = np.zeros(len(names))
    rest = np.ones(problem.count - len(names), bool)  # figures behind the groups are never left out, nor judged
    for name in sorted(set(groups)):
        part = names == name
        found[part] = problem.predict(problem.solve(np.concatenate([~part, rest])))[0][: len(names)][part]
    return found


def interval(off: Any) -> dict[str, float]:
    """Truth over prediction: 10 % lie below, 10 % above."""
    low, high = np.quantile(off, (0.1, 0.9))
    return {"low": round(float(np.exp(low)), 3), "high": round(float(np.exp(high)), 3)}


def judge(figures: list[Figure], problem: Problem) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Lines to print, and the intervals."""
    fold = [zlib.crc32("/".join(figure.key).encode()) % FOLDS for figure in figures]
    known, unseen = left_out(problem, fold), left_out(problem, [figure.key[0] for figure in figures])
    truth = problem.truth[: len(figures)]
    lines: list[dict[str, Any]] = [
        {"split": "pairs", **scores(truth, known)},
        {"split": "processors", **scores(truth, unseen)},
    ]
    socs = np.array([figure.key[0] for figure in figures])
    precisions = np.array([figure.at.precision for figure in figures])
    for split, predicted in (("pairs", known), ("processors", unseen)):
        lines += [
            {"split": split, "processor": s, **scores(truth[socs == s], predicted[socs == s])}
            for s in sorted(set(socs))
        ]
    spread: dict[str, Any] = {"probe": PROBED, "board": {}, "core": {}, "analogy": {}, "engine": {}}
    cores = {figure.key[0]: figure.at.core for figure in figures}
    shared = np.array([Counter(cores.values())[cores[s]] > 1 for s in socs])
    for precision in ("fp32", "int8"):
        of = precisions == precision
        spread["board"][precision] = interval((truth - known)[of])
        spread["core"][precision] = interval((truth - unseen)[of & shared])
        spread["analogy"][precision] = interval((truth - unseen)[of])
        wide = interval((truth - unseen)[of])
        spread["engine"][precision] = {"low": round(wide["low"] / 1.5, 3), "high": round(wide["high"] * 1.5, 3)}
    lines.append({"interval": 80, "covered": covered(truth - known, precisions, np.array(fold))})
    return lines, spread


def covered(off: Any, precisions: Any, fold: Any) -> dict[str, float]:
    """Share of figures inside an interval that was found on the other folds."""
    found = {}
    for precision in ("fp32", "int8"):
        inside = []
        for number in range(FOLDS):
            of = precisions == precision
            bounds = interval(off[of & (fold != number)])
            ratio = np.exp(off[of & (fold == number)])
            inside += list((ratio >= bounds["low"]) & (ratio <= bounds["high"]))
        found[precision] = round(float(np.mean(inside)), 3)
    return found


def write(figures: list[Figure], problem: Problem, spread: dict[str, Any], source: Path) -> None:
    """The file of factors."""
    factors = problem.solve()
    kept = {n: round(float(factors[j]), 4) for n, j in sorted(problem.names.items()) if abs(factors[j]) >= KEEP}
    per = Counter(figure.key[0] for figure in figures)
    core = {figure.key[0]: figure.at.core for figure in figures}
    tables: dict[str, dict[str, Any]] = {
        "about": {
            "figures": len(figures),
            "sources": SOURCES,
            "fitted": f"python benchmarks/fit_latency.py {source.name} --write",
        },
        **{f"cores.{name}": dict(asdict(kind).items()) for name, kind in CORES.items()},
        "aliases": {f'"{name}"': other for name, other in ALIASES.items()},
        **{f'boards."{name}"': {"figures": count, "core": core[name]} for name, count in sorted(per.items())},
        "releases": {"xnnpack-fp32": "2.18.0", "xnnpack-int8": "2.18.0", "ruy-fp32": "2.11.0", "ruy-int8": "2.11.0"},
        **{f"spread.{basis}": rows for basis, rows in spread.items()},
        "factors": {f'"{name}"': value for name, value in kept.items()},
    }  # fmt: skip
    text = toml("", tables, {})
    body = "\n".join(line for line in text.splitlines()[1:] if line != "[sources]").strip()
    files.replace(OUTPUT, (HEAD + body + "\n").encode())


def describe(lines: list[dict[str, Any]]) -> None:
    """The table of docs/latency-prediction.md, between its marks."""
    rows = ["| | MAPE | median | within 1.25x | within 1.5x | within 2x |", "|" + " --- |" * 6]
    for title, split in (("known processors", "pairs"), ("a processor left out", "processors")):
        found = next(line for line in lines if line.get("split") == split and "processor" not in line)
        cells = [f"{found[name]:.1f} %" for name in COLUMNS]
        rows.append(f"| {title}, {found['n']} figures | {' | '.join(cells)} |")
        rows += [f"| {name} | {' | '.join(cells)} |" for name, cells in BASELINES[split]]
    held = next(line for line in lines if "covered" in line)["covered"]
    shares = ", ".join(f"{100 * share:.0f} % of the {name} figures" for name, share in held.items())
    rows += ["", f"The 80 % interval of known processors, found on other figures, held {shares}."]
    text = PAGE.read_text(encoding="utf-8")
    head, _, rest = text.partition(MARK)
    tail = rest.partition(END)[2]
    files.replace(PAGE, (head + MARK + "\n" + "\n".join(rows) + "\n\n" + END + tail).encode())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, nargs="?", default=TABLE)
    parser.add_argument("--write", action="store_true")
    wanted = parser.parse_args()
    figures = load(wanted.table)
    problem = Problem([*figures, *micro()], PRIORS)
    lines, spread = judge(figures, problem)
    for line in lines:
        print(json.dumps({k: round(v, 1) if isinstance(v, float) else v for k, v in line.items()}))
    if wanted.write:
        describe(lines)
        write(figures, problem, spread, wanted.table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
