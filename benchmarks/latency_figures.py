"""Published latencies of the TFLite family as figures for `latency_solver`, and the priors of their factors."""

from __future__ import annotations

import csv
import json
import math
from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path

from latency_nets import NETS
from latency_solver import Figure, Rough

from edgekit.predict.prices import Core, Setting
from edgekit.predict.work import STORED, Kernel

MIB = 2**20
MICRO = Path(__file__).with_name("latency_micro.json")
MICRO_WEIGHT = 0.1
"""Ratios between units on one fast processor say something about other processors, but not much."""

CORES = {
    "ARM1176JZF-S": Core(0.455, ordered=True),
    "Cortex-A7": Core(0.987, ordered=True),
    "Cortex-A8": Core(1.0, ordered=True),
    "Cortex-A35": Core(2.0, ordered=True),
    "Cortex-A53": Core(3.92, ordered=True),
    "Cortex-A55": Core(4.05, ordered=True, dots=4.0),
    "Cortex-A57": Core(3.99, ordered=False),
    "Cortex-A72": Core(3.99, ordered=False),
    "Cortex-A73": Core(3.99, ordered=False),
    "Cortex-A76": Core(8.0, ordered=False, dots=4.0),
    "Cortex-A78AE": Core(8.0, ordered=False, dots=4.0),
    "Gracemont": Core(7.97, ordered=False, dots=2.0),
    "Zen-4": Core(16.0, ordered=False, dots=4.0),
}
"""Multiply-adds a cycle: half of the measured FLOP/s over the clock (device-facts.csv; cpufp, vfpbench), A35, A73 and
A78AE by their pipelines, the A8 as the A7, which has its vector unit's width. `dots` is the int8 peak over the fp32
peak there: 614 / 153.5 on the A76, 370 / 180 on the N150."""

BOARDS: dict[str, tuple[tuple[tuple[str, int, float], ...], float, float]] = {
    "BCM2835": ((("ARM1176JZF-S", 1, 1.0),), 0.43, 16 * 1024),
    "BCM2836": ((("Cortex-A7", 4, 0.9),), 1.0, MIB / 2),
    "BCM2837": ((("Cortex-A53", 4, 1.2),), 1.11, MIB / 2),
    "BCM2837B0": ((("Cortex-A53", 4, 1.4),), 1.12, MIB / 2),
    "BCM2711": ((("Cortex-A72", 4, 1.5),), 2.33, MIB),
    "BCM2712": ((("Cortex-A76", 4, 2.4),), 5.27, 2.5 * MIB),
    "Tegra210": ((("Cortex-A57", 4, 1.479),), 3.73, 2 * MIB),
    "Tegra234": ((("Cortex-A78AE", 12, 2.2),), 10.6, 6 * MIB),
    "i.MX8M": ((("Cortex-A53", 4, 1.5),), 2.23, MIB),
    "AM62x": ((("Cortex-A53", 4, 1.4),), 0.92, MIB / 2),
    "RK3399": ((("Cortex-A72", 2, 1.8), ("Cortex-A53", 4, 1.4)), 3.7, MIB),
    "RK3588": ((("Cortex-A76", 4, 2.4), ("Cortex-A55", 4, 1.8)), 10.8, 3.5 * MIB),
    "A311D2": ((("Cortex-A73", 4, 2.2), ("Cortex-A53", 4, 2.0)), 8.18, MIB),
    "S922X": ((("Cortex-A73", 4, 2.2), ("Cortex-A53", 2, 1.9)), 4.1, MIB),
    "Intel N100": ((("Gracemont", 4, 3.4),), 10.92, 8 * MIB),
}
"""Processor -> cores (type, how many, GHz), memcpy in GB/s of one thread, bytes of the last caches. From
device-facts.csv; those of RK3399, S922X, A311D2 and AGX Orin from github:ThomasKaiser/sbc-bench Results.md; AM62x's
is half of its STREAM copy, which counts a byte twice."""

SOCS = {
    "RK3588S": "RK3588", "Tegra234 (AGX Orin)": "Tegra234", "Tegra X1": "Tegra210", "N100": "Intel N100",
    "Tegra X1 (T210)": "Tegra210", "i.MX8M Quad": "i.MX8M", "i.MX8M Quad (MX8MQ)": "i.MX8M",
    "AM625": "AM62x", "AM6254": "AM62x",
}  # fmt: skip
ALIASES = {
    "RK3588S": "RK3588", "Tegra X1 (T210)": "Tegra210", "i.MX8M Quad": "i.MX8M", "RP3A0 (BCM2710A1)": "BCM2837",
    "A311D": "S922X", "AM6254": "AM62x",
}  # fmt: skip
"""Processor as profiles name it -> as the figures do; the RP3A0 holds the BCM2837's die at a lower clock, the A311D
that of the S922X (amlogic,g12b) with an NPU."""

FAMILY = {"tflite": "ruy", "tflite+xnnpack": "xnnpack", "xnnpack": "xnnpack"}
_UNSTATED = {"RK3399": 2}
"""Threads where a row states none: TFLite 1.15 and the Coral page look single-threaded, but for the two big cores of
the RK3399, whose rows are as fast as later ones with all cores."""
_REALLY = {"AM62x": 1}
"""Threads where a source says otherwise: the logs on TI's page lack the line that benchmark_model prints when it is
given a number of threads, and the same net takes 0.26 s on the same cores of the AM62D there, a third of these."""
_RELEASES = {"2.18/2.20": "2.18.0"}
"""Where a page names two releases that its figures may be of: the one that others were measured with."""
_ORDERED_SHARE = 0.75
_MANY = 60
"""Figures of a processor beyond this many weigh less each, lest one processor decide what all have in common."""
TRUST = {"RK3399": 0.1}
"""Its thread counts are inferred, and its times contradict them: floats on "six" threads are slower than on two."""


def setting(row: dict[str, str]) -> Setting:
    """Where a row was measured."""
    soc = SOCS.get(row["soc"], row["soc"])
    clusters, memcpy, last = BOARDS[soc]
    name, count, ghz = clusters[0]
    ghz = float(row["clock_mhz"]) / 1000 if row["clock_mhz"] else ghz
    threads = _REALLY.get(soc) or (int(row["threads"]) if row["threads"] else _UNSTATED.get(soc, 1))
    rates = [
        CORES[kind].macs
        * (ghz if kind == name else clock)
        * (_ORDERED_SHARE if CORES[kind].ordered and len(clusters) > 1 else 1)
        for kind, number, clock in clusters
        for _ in range(number)
    ]
    speeds = [min(1.0, rate / rates[0]) for rate in rates][:threads]
    release = row["runtime_version"].split("-")[0].split(" ")[0]
    return Setting(
        board=soc, core=name, kind=CORES[name], ghz=ghz, threads=len(speeds), ideal=sum(speeds),
        slowest=len(speeds) * min(speeds), mixed=threads > count and len(clusters) > 1, memcpy=memcpy, cache=last,
        precision=row["precision"], library=FAMILY[row["runtime"]],
        release=_RELEASES.get(release, release), bits=int(row["os_bits"] or 64),
    )  # fmt: skip


@cache
def _kernels(model: str, precision: str) -> list[Kernel]:
    return NETS[model](precision)


def counts(row: dict[str, str], at: Setting) -> dict[str, float]:
    """Units of the row's network; detection post-processing where the row includes it."""
    found: dict[str, float] = {"run": 1.0}
    for kernel in _kernels(row["model"], row["precision"]):
        for unit, count in kernel.units.items():
            far = unit == STORED or (unit == "far" and kernel.bytes <= at.cache)
            if far or (unit == "select" and _without(row)):
                continue
            found[unit] = found.get(unit, 0.0) + count
    return found


def _without(row: dict[str, str]) -> bool:
    return row["runtime"] == "xnnpack" or "no post-processing" in row["note"]


def roughly(kernels: list[Kernel]) -> Rough:
    """A network as rooflines see it."""
    return Rough(
        sum(kernel.macs for kernel in kernels), sum(kernel.units.get("depthwise", 0.0) for kernel in kernels),
        sum(kernel.bytes for kernel in kernels), len(kernels),
    )  # fmt: skip


def load(path: Path) -> list[Figure]:
    """Rows of the TFLite family whose network, processor and precision are known, and threads stated or clear."""
    found = []
    with path.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            soc = SOCS.get(row["soc"], row["soc"])
            clear = row["threads"] or row["runtime_version"].startswith("1.15") or soc == "i.MX8M"
            if row["runtime"] not in FAMILY or row["model"] not in NETS or soc not in BOARDS or not clear:
                continue
            if row["precision"] in ("fp32", "int8"):
                at = setting(row)
                ns, rough = float(row["latency_ms"]) * 1e6, roughly(_kernels(row["model"], row["precision"]))
                found.append(Figure((soc, row["model"]), at, counts(row, at), ns, rough))
    per = Counter(figure.key[0] for figure in found)
    return [replace(f, weight=TRUST.get(f.key[0], 1.0) * min(1.0, math.sqrt(_MANY / per[f.key[0]]))) for f in found]


def micro() -> list[Figure]:
    """What tiny networks take on one x86-64 machine through both engines: the only figures of onnxruntime, and of ops
    that the published networks lack."""
    from edgekit.artifact import Artifact
    from edgekit.formats import read_facts
    from edgekit.micro import nets, onnx, tflite
    from edgekit.predict.plan import kernels
    from edgekit.predict.work import total

    told = json.loads(MICRO.read_text())
    by_name = {net.name: net for net in nets.nets()}
    found = []
    for row in told["rows"]:
        writer, format, library = (tflite, "tflite", "xnnpack") if row["engine"] == "litert" else (onnx, "onnx", "mlas")
        at = Setting(
            board="x86-64", core="Zen-4", kind=CORES["Zen-4"], ghz=3.5, threads=1, ideal=1.0, slowest=1.0, mixed=False,
            memcpy=10.0, cache=9 * MIB, precision=row["precision"], library=library, release="", bits=64,
        )  # fmt: skip
        for name, us in row["us"].items():
            data = writer.model(by_name[name], row["precision"])
            facts = read_facts(Artifact(format, data, len(data), {}))
            plan = list(kernels(facts).kernels)
            if row["precision"] == "int8" and any(kernel.precision == "fp32" and kernel.macs for kernel in plan):
                continue  # floats between integers, of which the floats' own net tells more
            figure = Figure(("x86-64", name), at, total(plan, at.cache), us * 1e3, roughly(plan), MICRO_WEIGHT)
            found.append(figure)
    return found


def log(value: float) -> float:
    return math.log(value)


PRIORS: dict[str, tuple[float, float]] = {
    # (center, width) in logarithms. Units: first guesses from the pipelines, wide.
    "unit.gemm": (log(1 / 0.6), 1.0), "unit.conv": (log(1 / 0.6), 1.0), "unit.gemv": (log(1 / 0.2), 1.0),
    "unit.idle": (log(0.01), 0.01),  # vectors of published processors are narrow: only a probe moves it
    "unit.taps": (log(1.0), 1.0), "unit.passes": (log(0.05), 1.0), "unit.rows": (log(0.1), 1.0),
    "unit.places": (log(2.0), 1.0), "unit.norm": (log(10), 0.5), "unit.swish": (log(2), 0.5),
    "unit.average": (log(1), 0.5), "unit.pick": (log(0.1), 0.5), "unit.scaled": (log(8), 0.5),
    "unit.soft": (log(8), 0.5),
    "unit.matrix": (log(1 / 0.3), 1.0), "unit.spread": (log(1 / 0.5), 1.0), "unit.grouped": (log(1 / 0.1), 1.0),
    "unit.blend": (log(2), 0.5), "unit.strips": (log(10), 0.5), "unit.batch": (log(1e3), 1.0),
    "unit.cold": (log(1e2), 0.1),  # published networks have many kernels, all alike: only a probe tells
    "unit.mid": (log(0.01), 0.01),  # caches of published processors count as they always did: only a probe moves it
    "unit.shuffle": (log(0.5), 0.5), "unit.stride": (log(25), 0.5), "unit.pad": (log(20), 0.5),
    "unit.turn": (log(1), 0.5), "unit.block": (log(0.5), 0.5), "unit.plane": (log(20), 0.5),
    "unit.apart": (log(0.2), 0.5),
    "unit.recurrent": (log(1 / 0.2), 0.5),
    "unit.depthwise": (log(1 / 0.3), 1.0), "unit.outputs": (log(0.2), 1.0), "unit.traffic": (log(0.05), 1.0),
    "unit.far": (log(0.7), 1.0), "unit.map": (log(0.1), 0.5), "unit.math": (log(10), 0.5),
    "unit.window": (log(0.5), 0.5), "unit.reduce": (log(0.5), 0.5), "unit.move": (log(0.2), 0.5),
    "unit.convert": (log(2), 0.5), "unit.select": (log(10), 1.0), "unit.step": (log(2e3), 0.5),
    "unit.launch": (log(1e3), 1.0), "unit.builtin": (log(2e3), 1.0), "unit.kernel": (log(5e3), 1.0),
    "unit.run": (log(5e4), 0.5),
    "arithmetic": (0.0, 0.7), "arithmetic.dense.int8": (log(0.5), 0.7), "arithmetic.depthwise.int8": (log(0.5), 0.7),
    "arithmetic.dense.int8-dots": (log(1.2), 0.7), "arithmetic.depthwise.int8-dots": (log(0.5), 0.7),
    "library": (0.0, 0.3), "order": (0.0, 0.3), "core": (0.0, 0.5), "bits32": (0.0, 0.3), "board": (0.0, 0.1),
    "release": (0.0, 0.15), "balance": (0.0, 0.5), "board.all.x86-64": (0.0, 0.5), "core.dense.Zen-4": (0.0, 0.5),
    "mixed": (0.0, 0.15), "waiting": (0.5, 0.5), "recurrent": (0.0, 1.5),
    "threads": (0.0, 0.15), "threads.dense.fp32": (0.8, 0.15), "threads.dense.int8": (0.8, 0.15),
    "threads.depthwise.fp32": (0.8, 0.15), "threads.depthwise.int8": (0.8, 0.15), "threads.local.fp32": (0.7, 0.15),
    "threads.local.int8": (0.7, 0.15), "threads.far.fp32": (0.3, 0.15), "threads.far.int8": (0.3, 0.15),
    "threads.fixed.fp32": (-0.3, 0.15), "threads.fixed.int8": (-0.3, 0.15),
}  # fmt: skip
"""Departures of cores and boards are small unless figures insist; one width a family of factors."""
