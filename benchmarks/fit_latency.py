"""Fits the factors of the latency model to published figures and judges them on figures left out.

    python benchmarks/fit_latency.py              # judge: JSON lines
    python benchmarks/fit_latency.py --write      # and write device_profiles/_latency.toml

Judged three ways: every (processor, network) pair is predicted from a fit without it (five folds, drawn three times),
every processor from a fit without any of its figures, and every kind of network (all MobileNetV2, all feature pyramids)
from a fit without any of that kind. `latency_intervals` makes intervals of the errors.
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
from latency_baselines import left_out as roofline
from latency_figures import ALIASES, CORES, PRIORS, load, micro
from latency_intervals import KNOWN, Errors, covered, spreads
from latency_solver import Figure, Problem, scores

from edgekit import files
from edgekit.device_profiles.writing import toml
from edgekit.predict.likeness import distance
from edgekit.predict.work import UNITS

FOLDS = 5
DRAWN = 3
COLUMNS = ("mape", "median", "within_1.25", "within_1.5", "within_2.0")
SPLITS = {
    "pairs": "known processors",
    "processors": "a processor left out",
    "networks": "a kind of network left out",
}
ROOFLINES = {"simple": False, "refined": True}
KINDS = (
    "resnet50_v1_fpn", "v1_fpn", "mobiledet", "ssdlite_mobilenet_edgetpu", "ssd_mobilenet_v3", "ssdlite",
    "ssd_mobilenet_v2", "ssd_mobilenet_v1", "efficientdet", "efficientnet", "mobilenet_v1", "mobilenet_v2",
    "mobilenet_v3", "resnet50", "inception", "vgg",
)  # fmt: skip
"""Kinds of networks: the first that the name contains."""
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
    "github:TexasInstruments/processor-sdk-doc@a34a7d9",
]
"""Of the rows that are used; each row of the table names its own."""
PROBED = {precision: {"low": 0.85, "high": 1.35} for precision in ("fp32", "int8")}
"""Of prices that `devices probe` measured: held 77 % of 84 times of networks that neither the tiny networks nor the
units were chosen by (benchmarks/predict_here.py)."""
SMALL = 0.005
"""Shares of the time below this are left out of a mix."""
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


def folds(figures: list[Figure], drawn: int) -> list[int]:
    """Which part each pair of processor and network belongs to."""
    return [zlib.crc32("/".join((str(drawn), *figure.key)).encode()) % FOLDS for figure in figures]


def kind(network: str) -> str:
    return next(name for name in KINDS if name in network)


def judge(figures: list[Figure], problem: Problem) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Lines to print, and the intervals."""
    truth = problem.truth[: len(figures)]
    socs = np.array([figure.key[0] for figure in figures])
    drawn = [folds(figures, number) for number in range(DRAWN)]
    groups = {"pairs": drawn, "processors": [list(socs)], "networks": [[kind(f.key[1]) for f in figures]]}
    told = {
        split: {
            "model": np.array([left_out(problem, names) for names in every]),
            **{n: np.array([roofline(figures, g, refined=r) for g in every]) for n, r in ROOFLINES.items()},
        }
        for split, every in groups.items()
    }
    lines: list[dict[str, Any]] = []
    for split, predictors in told.items():
        for name, predicted in predictors.items():
            lines.append({"split": split, "predictor": name, "figures": len(figures), **scores(truth, predicted)})
    for split in ("pairs", "processors"):
        for soc in sorted(set(socs)):
            of = socs == soc
            parts = {name: scores(truth[of], found[:, of]) for name, found in told[split].items()}
            lines.append({"split": split, "processor": soc, "figures": int(of.sum()), **parts["model"],
                          **{name: parts[name]["mape"] for name in ROOFLINES}})  # fmt: skip
    errors = Errors(
        {split: truth - found["model"] for split, found in told.items()},
        dict(zip(KNOWN, distances(figures, problem), strict=True)), socs,
        *(np.array(column) for column in zip(*((f.at.core, f.key[1], f.at.precision) for f in figures), strict=True)),
    )  # fmt: skip
    lines.append({"interval": 80, "covered": covered(errors)})
    return lines, {"probe": PROBED, **spreads(errors), "mixes": mixes(figures, problem)}


def shares(figures: list[Figure], problem: Problem) -> Any:
    """Share of each unit in the time of each figure, as fitted: [figures, units]."""
    share = problem.predict(problem.solve())[1]
    units = [UNITS.index(unit) for figure in problem.figures for unit, count in figure.counts.items() if count > 0]
    found = np.zeros((problem.count, len(UNITS)))
    np.add.at(found, (problem.owner, units), share)
    return found[: len(figures)]


def mixes(figures: list[Figure], problem: Problem) -> dict[str, dict[str, dict[str, float]]]:
    """Precision, kind of network -> unit -> mean share of the time."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    every = shares(figures, problem)
    keys = [(figure.at.precision, kind(figure.key[1])) for figure in figures]
    for key in sorted(set(keys)):
        mean = every[[other == key for other in keys]].mean(0)
        found.setdefault(key[0], {})[key[1]] = {u: round(float(v), 3) for u, v in zip(UNITS, mean, strict=True)
                                                if v >= SMALL}  # fmt: skip
    return found


def distances(figures: list[Figure], problem: Problem) -> list[list[float]]:
    """Of each figure's network from all known kinds, and from the other ones."""
    known = mixes(figures, problem)
    near, other = [], []
    for figure, mean in zip(figures, shares(figures, problem), strict=True):
        own = dict(zip(UNITS, map(float, mean), strict=True))
        kinds = known[figure.at.precision]
        near.append(distance(own, kinds.values()))
        other.append(distance(own, [mix for name, mix in kinds.items() if name != kind(figure.key[1])]))
    return [near, other]


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
        **{
            f'boards."{name}"': {"figures": count, "core": core[name], **spread["boards"].get(name, {})}
            for name, count in sorted(per.items())
        },
        "releases": {"xnnpack-fp32": "2.18.0", "xnnpack-int8": "2.18.0", "ruy-fp32": "2.11.0", "ruy-int8": "2.11.0"},
        **{f"spread.{basis}": rows for basis, rows in spread.items() if basis not in ("boards", "widening", "mixes")},
        "widening": spread["widening"],
        **{f"mixes.{kind}.{name}": mix for kind, some in spread["mixes"].items() for name, mix in some.items()},
        "factors": {f'"{name}"': value for name, value in kept.items()},
    }  # fmt: skip
    text = toml("", tables, {})
    body = "\n".join(line for line in text.splitlines()[1:] if line != "[sources]").strip()
    files.replace(OUTPUT, (HEAD + body + "\n").encode())


def describe(lines: list[dict[str, Any]]) -> None:
    """The tables of docs/latency-prediction.md, between its marks."""
    rows = ["| | MAPE | median | within 1.25x | within 1.5x | within 2x |", "|" + " --- |" * 6]
    for split, title in SPLITS.items():
        for line in (line for line in lines if line.get("split") == split and "predictor" in line):
            name = f"**{title}**" if line["predictor"] == "model" else f"{line['predictor']} roofline"
            rows.append(f"| {name} | {' | '.join(f'{line[column]:.1f} %' for column in COLUMNS)} |")
    held = next(line for line in lines if "covered" in line)["covered"]
    pairs, kinds, processors = (
        " and ".join(f"{100 * share:.0f} % ({name})" for name, share in held[split].items())
        for split in ("pairs", "networks", "processors")
    )
    said = (
        f"The 80 % interval, found without the network that it is for, held the truth in {pairs} of the figures of "
        f"known kinds of networks on known processors and in {kinds} of those of new kinds; found without the "
        f"processor, in {processors} of its figures (`benchmarks/latency_intervals.py`: cross-conformal prediction)."
    )
    rows += ["", said, ""]
    rows += ["Mean error by processor:", ""]
    rows += ["| processor | figures | known | simple | refined | left out | simple | refined |", "|" + " --- |" * 8]
    each = {s: {ln["processor"]: ln for ln in lines if ln.get("split") == s and "processor" in ln} for s in SPLITS}
    for soc, line in each["pairs"].items():
        cells = [f"{found[name]:.1f} %" for found in (line, each["processors"][soc]) for name in ("mape", *ROOFLINES)]
        rows.append(f"| {soc} | {line['figures']} | {' | '.join(cells)} |")
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
