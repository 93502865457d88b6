"""The accuracy that is estimated without labels beside the truth, on drifts that are made by other code.

    python benchmarks/monitor_accuracy.py [--samples 2048] [--subject mnist ...] [--known] [--drawn] [--labels 1]

The estimate is fitted on copies that `edgekit.converters.perturbing` makes of labelled samples, as a conversion does;
streams drift by scipy's filters and by code of this file, in kinds and strengths of their own. Each drift is judged

    fit "all": by an estimate that was fitted on copies of all kinds, some of them like this drift,
    fit "others": by one that was fitted without the families of kinds that this drift is like (not with --known),
    stream "judged": on the samples that were labelled at the desk, drifted, as an evaluation set would be,
    stream "unseen": on 2,048 others, or 256 where there are not as many: the truth of so few has its own luck. Where
        there are thousands more, "many" is the truth of all of them.

Prints a JSON line a drift, and at the end one for each of these four: all cases, those that the estimate calls
answered, and "ceiling": how often the share of right answers among the judged samples, drifted alike, is as near. No
estimate can be expected to know more of a model than that. `--drawn` takes the models of monitor_drawn.py in
place of the others.

    python benchmarks/monitor_accuracy.py --table LINES ...

prints the table of docs/monitor.md from what runs printed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from monitor_data import Array, Subject, more_subjects
from monitor_drawn import DRAWN
from scipy import ndimage

from edgekit.converters.perturbing import copies
from edgekit.monitor.build import Builder, Drift
from edgekit.monitor.reference import Reference

Change = Callable[[Array, Any], Array]

LIKE = {
    "noise": "noise", "salt": "noise", "dark and noisy": "noise light", "rotation": "turn", "blurred and": "turn blur",
    "blur": "blur", "motion": "blur", "median": "blur", "gamma": "light contrast", "brightness": "light contrast",
    "zoom": "size", "contrast": "contrast light", "gain": "light contrast gain", "shift": "place", "patch": "cover",
    "elastic": "turn size", "posterized": "noise contrast", "offset": "offset", "smeared": "blur", "late": "time",
    "early": "time", "stretched": "time", "dropped": "cover", "colored": "noise", "cut": "gain", "one in": "offset",
    "all +": "offset", "all -": "offset", "all x": "gain", "missing": "missing", "zero": "missing", "spread": "gain",
    "rounded": "noise", "common": "noise offset", "heavy": "noise",
}  # fmt: skip
"""What a drift's name begins with, and the families of copies that it is like."""

COPIES = {"resnet20": 4900, "cifar": 8000}
"""Copies that a conversion makes of a model as large; 24,000 of smaller ones (see `converters.judging.copies_of`)."""


def pictures(top: float) -> dict[str, Change]:
    def turned(degrees: float) -> Change:
        return lambda x, _: ndimage.rotate(x, degrees, (1, 2), reshape=False, order=1)

    def noisy(part: float) -> Change:
        return lambda x, d: np.clip(x + d.normal(0, part * top, x.shape), 0, top)

    def blurred(sigma: float) -> Change:
        return lambda x, _: ndimage.gaussian_filter(x, (0, sigma, sigma, 0))

    def gamma(power: float) -> Change:
        return lambda x, _: top * (np.clip(x, 0, top) / top) ** power

    def bright(part: float) -> Change:
        return lambda x, _: np.clip(x + part * top, 0, top)

    def flat(part: float) -> Change:
        return lambda x, _: x.mean((1, 2), keepdims=True) * (1 - part) + x * part

    def salted(part: float) -> Change:
        def change(x: Array, dice: Any) -> Array:
            hit = dice.random((*x.shape[:3], 1))
            return np.where(hit < part, top * (hit < part / 2), x)

        return change

    def patched(part: float) -> Change:
        def change(x: Array, dice: Any) -> Array:
            made, side = x.copy(), int(part * x.shape[1])
            for one in made:
                row, column = dice.integers(0, x.shape[1] - side, 2)
                one[row : row + side, column : column + side] = top / 2
            return made

        return change

    def elastic(size: float) -> Change:
        def change(x: Array, dice: Any) -> Array:
            made, grid = np.empty_like(x), np.mgrid[: x.shape[1], : x.shape[2]].astype(float)
            for place, one in enumerate(x):
                step = ndimage.gaussian_filter(dice.normal(size=grid.shape), (0, 3, 3)) * size * 10
                for channel in range(x.shape[3]):
                    moved = ndimage.map_coordinates(one[:, :, channel], grid + step, order=1, mode="nearest")
                    made[place, :, :, channel] = moved
            return made

        return change

    def sized(factor: float) -> Change:
        def change(x: Array, _: Any) -> Array:
            grown = ndimage.zoom(x, (1, factor, factor, 1), order=1)
            cut = (grown.shape[1] - x.shape[1]) // 2
            return grown[:, cut : cut + x.shape[1], cut : cut + x.shape[2]]

        return change

    return {
        "rotation 5": turned(5), "rotation 10": turned(10), "rotation 20": turned(20), "rotation 30": turned(30),
        "rotation 45": turned(45), "noise 4 %": noisy(0.04), "noise 7 %": noisy(0.07), "noise 10 %": noisy(0.10),
        "noise 15 %": noisy(0.15), "salt 2 %": salted(0.02), "salt 8 %": salted(0.08), "blur 0.7": blurred(0.7),
        "blur 0.95": blurred(0.95), "blur 1.2": blurred(1.2), "gamma 0.5": gamma(0.5), "gamma 2": gamma(2.0),
        "brightness +15 %": bright(0.15), "brightness -15 %": bright(-0.15), "gain 0.6": lambda x, _: x * 0.6,
        "gain 0.35": lambda x, _: x * 0.35, "contrast 0.6": flat(0.6), "contrast 0.4": flat(0.4),
        "zoom 1.2": sized(1.2), "zoom 1.4": sized(1.4), "patch 0.3": patched(0.3), "patch 0.5": patched(0.5),
        "shift 2": lambda x, _: ndimage.shift(x, (0, 2, -2, 0), order=0),
        "shift 4": lambda x, _: ndimage.shift(x, (0, 3, 4, 0), order=0),
        "median 3": lambda x, _: ndimage.median_filter(x, (1, 3, 3, 1)),
        "motion 3": lambda x, _: ndimage.uniform_filter1d(x, 3, axis=2),
        "motion 5": lambda x, _: ndimage.uniform_filter1d(x, 5, axis=2),
        "elastic 1": elastic(1.0), "elastic 2": elastic(2.0),
        "posterized": lambda x, _: np.floor(x / top * 3.999) / 3 * top,
        "dark and noisy": lambda x, d: np.clip(x * 0.6 + d.normal(0, 0.04 * top, x.shape), 0, top),
        "blurred and turned": lambda x, d: turned(12)(blurred(0.7)(x, d), d),
    }  # fmt: skip


def series(x: Array) -> dict[str, Change]:
    deviation, most = float(x.std()), float(np.abs(x).max())

    def noisy(part: float) -> Change:
        return lambda x, d: x + d.normal(0, part * deviation, x.shape)

    def dropped(part: float) -> Change:
        def change(x: Array, dice: Any) -> Array:
            made, length = x.copy(), int(part * x.shape[1])
            for one in made:
                begin = dice.integers(0, x.shape[1] - length)
                one[begin : begin + length] = 0
            return made

        return change

    return {
        "noise 0.15": noisy(0.15), "noise 0.3": noisy(0.3), "noise 0.5": noisy(0.5), "noise 0.7": noisy(0.7),
        "colored noise": lambda x, d: x + deviation * ndimage.gaussian_filter1d(d.normal(size=x.shape), 2, axis=1),
        "gain 0.6": lambda x, _: x * 0.6, "gain 0.75": lambda x, _: x * 0.75, "gain 1.5": lambda x, _: x * 1.5,
        "gain 2": lambda x, _: x * 2, "offset 0.2": lambda x, _: x + 0.2 * deviation,
        "offset 0.4": lambda x, _: x + 0.4 * deviation, "offset -0.3": lambda x, _: x - 0.3 * deviation,
        "smeared 1": lambda x, _: ndimage.gaussian_filter1d(x, 1.0, axis=1),
        "smeared 2": lambda x, _: ndimage.gaussian_filter1d(x, 2.0, axis=1),
        "late": lambda x, _: np.roll(x, x.shape[1] // 10, axis=1),
        "early": lambda x, _: np.roll(x, -x.shape[1] // 5, axis=1),
        "stretched": lambda x, _: np.repeat(x, 2, axis=1)[:, x.shape[1] // 2 : x.shape[1] // 2 + x.shape[1]],
        "dropped 0.2": dropped(0.2), "dropped 0.4": dropped(0.4),
        "cut": lambda x, _: np.clip(x, -0.3 * most, 0.3 * most),
    }  # fmt: skip


def tables(x: Array) -> dict[str, Change]:
    mean, deviation = x.mean(axis=0), x.std(axis=0)
    place = np.arange(x.shape[1])

    def some(step: float, every: int, first: int = 0) -> Change:
        return lambda x, _: x + step * deviation * (place % every == first)

    def noisy(part: float) -> Change:
        return lambda x, d: x + part * deviation * d.normal(size=x.shape)

    return {
        "noise 0.3": noisy(0.3), "noise 0.5": noisy(0.5), "noise 0.8": noisy(0.8), "noise 1.2": noisy(1.2),
        "common noise": lambda x, d: x + 0.8 * deviation * d.normal(size=(len(x), 1)),
        "heavy noise": lambda x, d: x + 0.3 * deviation * d.standard_t(2, size=x.shape),
        "one in five +1": some(1.0, 5), "one in three -0.7": some(-0.7, 3), "one in four +1.5": some(1.5, 4, 1),
        "one in two -1": some(-1.0, 2, 1), "all +0.5": some(0.5, 1), "all -0.5": some(-0.5, 1),
        "all x 1.1": lambda x, _: x * 1.1, "all x 0.85": lambda x, _: x * 0.85, "all x 1.25": lambda x, _: x * 1.25,
        "missing 1/4": lambda x, _: np.where(place % 4 == 2, mean, x),
        "missing 1/2": lambda x, _: np.where(place % 2 == 1, mean, x),
        "zero 1/6": lambda x, _: np.where(place % 6 == 2, 0, x),
        "spread 1.6": lambda x, _: mean + (x - mean) * 1.6, "spread 0.6": lambda x, _: mean + (x - mean) * 0.6,
        "rounded": lambda x, _: np.round((x - mean) / np.maximum(deviation, 1e-6)) * deviation + mean,
    }  # fmt: skip


DRIFTS: dict[str, Callable[[Array], dict[str, Change]]] = {
    "image": lambda x: pictures(float(x.max())), "audio": series, "table": tables,
}  # fmt: skip
SHAPES = {"image": "picture", "audio": "series", "table": "table"}


def like(drift: str) -> frozenset[str]:
    """Families of copies that a drift is like."""
    return frozenset(LIKE[max((name for name in LIKE if drift.startswith(name)), key=len)].split())


class Desk:
    """References of a subject, fitted on labelled samples, without some families or with all."""

    def __init__(self, subject: Subject, x: Array, y: Array) -> None:
        self.subject, self._x, self._y = subject, x, y
        self._clean = subject.answer(x)
        self._copies = []
        for kind, level, places, copy in copies(
            x, SHAPES[subject.kind], COPIES.get(subject.name.split("@")[0], 24_000)
        ):
            drift = Drift(kind.name, kind.family, level)
            self._copies.append((drift, copy, subject.answer(copy), y[places], places))
        self.families = {drift.family for drift, *_ in self._copies}
        self._made: dict[frozenset[str], Reference] = {}

    def reference(self, without: frozenset[str]) -> Reference:
        if without not in self._made:
            subject = self.subject
            builder = Builder(subject.inputs, subject.outputs, None, subject.interpret)
            if len(subject.known) < 2000:
                builder.add(*subject.feeds(subject.known, subject.answer(subject.known)), proven=False)
            builder.add(*subject.feeds(self._x, self._clean))
            builder.judge(*subject.feeds(self._x, self._clean), self._y)
            for drift, copy, answers, labels, places in self._copies:
                if drift.family not in without:
                    builder.judge(*subject.feeds(copy, answers), labels, drift, places)
            self._made[without] = builder.finish()
        return self._made[without]


def measure(subject: Subject, samples: int, fits: tuple[str, ...]) -> list[dict[str, Any]]:
    cut = min(subject.labelled, len(subject.field) // 2)
    parts = {"judged": slice(0, cut), "unseen": slice(cut, cut + samples)}
    desk = Desk(subject, subject.field[parts["judged"]], subject.labels[parts["judged"]])
    found = []
    for name, drift in {"none": lambda x, _: x, **DRIFTS[subject.kind](subject.field)}.items():
        labelled = np.nan
        for stream, part in parts.items():
            moved = drift(subject.field[part].copy(), np.random.default_rng(1)).astype(np.float32)
            answers = subject.answer(moved)
            # Samples that are known at the desk may come several times; others once, or their luck would be no chance.
            number = samples if stream == "judged" or len(answers) >= samples else 256
            right = answers.argmax(1) == subject.labels[part]
            many = None
            if stream == "judged":
                labelled = float(right.mean())
            elif len(subject.field) > 2 * (cut + samples):
                moved_more = drift(subject.field[part.stop :].copy(), np.random.default_rng(3)).astype(np.float32)
                more = subject.answer(moved_more).argmax(1) == subject.labels[part.stop :]
                many = round(float(np.concatenate([right, more]).mean()), 4)
            chosen = np.random.default_rng(2).permutation(np.resize(np.arange(len(answers)), number))
            truth = float(right[chosen].mean())
            for fit in fits:
                without = frozenset() if fit == "all" or name == "none" else like(name) & desk.families
                if fit == "others" and not without:
                    continue
                monitor = subject.monitor(desk.reference(without))
                for at in range(0, number, 512):
                    some = chosen[at : at + 512]
                    monitor.observe(*subject.feeds(moved[some], answers[some]))
                figures = monitor.accuracy(number)
                found.append({
                    "subject": subject.name, "drift": name, "fit": fit, "stream": stream, "truth": round(truth, 4),
                    **figures, "confidence": round(float(answers[chosen].max(1).mean()), 4),
                    "labelled": round(labelled, 4), "many": many,
                    "error": round(figures["estimate"] - truth, 4), "held": figures["low"] <= truth <= figures["high"],
                })  # fmt: skip
                print(json.dumps(found[-1]), flush=True)
    size = len(desk.reference(frozenset()).to_bytes())
    print(json.dumps({"subject": subject.name, "labelled": cut, "reference_bytes": size}), flush=True)
    return found


def redrawn(subject: Subject, seed: int) -> Subject:
    """With other samples at the desk: the luck of its labels is the same in all of a model's drifts."""
    if not seed:
        return subject
    order = np.random.default_rng([5, seed]).permutation(len(subject.field))
    name = f"{subject.name}@{seed}"
    return replace(subject, name=name, field=subject.field[order], labels=subject.labels[order])


def summed(rows: list[dict[str, Any]]) -> dict[str, Any]:
    errors = np.array([row["error"] for row in rows])
    plain, ceiling = (np.array([row[name] - row["truth"] for row in rows]) for name in ("confidence", "labelled"))
    answered = np.array([row["answered"] for row in rows])
    return {
        "cases": len(rows), "within_3_points": round(float((np.abs(errors) <= 0.03).mean()), 3),
        "answered": round(float(answered.mean()), 3),
        "answered_within_3_points": round(float((np.abs(errors[answered]) <= 0.03).mean()), 3),
        "ceiling_within_3_points": round(float((np.abs(ceiling) <= 0.03).mean()), 3),
        "within_5_points": round(float((np.abs(errors) <= 0.05).mean()), 3),
        "mean_error": round(float(np.abs(errors).mean()), 4),
        "p90_error": round(float(np.quantile(np.abs(errors), 0.9)), 4),
        "interval_holds": round(float(np.mean([row["held"] for row in rows])), 3),
        "mean_width": round(float(np.mean([row["high"] - row["low"] for row in rows])), 4),
        "confidence_alone_within_3_points": round(float((np.abs(plain) <= 0.03).mean()), 3),
    }  # fmt: skip


def told(rows: list[dict[str, Any]], **about: Any) -> None:
    print(json.dumps({**about, **summed(rows)}), flush=True)


TABLE = {
    "all": "all kinds of copies", "others": "none like the drift",
    "judged": "the labelled samples, drifted", "unseen": "other samples",
}  # fmt: skip

NAMED = ("none", "brightness", "blur", "noise", "rotation")
"""First words of the drifts that every picture meets."""

PICTURES = ("mnist", "mnist-onnx", "mnist-lstm", "cifar", "resnet20")
LARGE = 1000
"""Labelled samples of those that have 2,048 others besides."""


def table(files: list[str]) -> None:
    """What runs printed as the table of docs/monitor.md."""
    lines = [json.loads(line) for file in files for line in Path(file).read_text().splitlines() if line[:1] == "{"]
    drawn, found = (
        [line for line in lines if "drift" in line and (line["subject"].split("@")[0] in DRAWN) is own]
        for own in (True, False)
    )
    print(f"{len({row['subject'] for row in found})} models")
    heads = (
        "the estimate was fitted on", "streams drawn from", "cases", "within 3 points", "ceiling", "answered",
        "of these within 3 points", "mean error", "interval holds the truth", "its mean width",
    )  # fmt: skip
    print(f"| {' | '.join(heads)} |\n|{' --- |' * len(heads)}")
    known = [row for row in found if row["fit"] == "all"]
    named = [row for row in known if row["drift"].split()[0] in NAMED and row["subject"] in PICTURES]
    large = {line["subject"] for line in lines if "reference_bytes" in line and line["labelled"] == LARGE}
    for fit in ("all", "others"):
        for stream in ("judged", "unseen"):
            _print(fit, stream, [row for row in found if row["fit"] == fit and row["stream"] == stream])
    print("\nPictures: brightness, blur, noise, rotation; then those of models with 2,048 other samples")
    for rows in (named, [row for row in named if row["subject"] in large]):
        for stream in ("judged", "unseen"):
            _print("all", stream, [row for row in rows if row["stream"] == stream])
    print("\nAll drifts of models with 2,048 other samples")
    for fit in ("all", "others"):
        rows = [row for row in found if row["fit"] == fit and row["subject"] in large and row["stream"] == "unseen"]
        _print(fit, "unseen", rows)
    print("\nModels of monitor_drawn.py; other samples a second time, beside the truth of thousands")
    for fit in ("all", "others"):
        own = [row for row in drawn if row["fit"] == fit]
        apart = [[row for row in own if row["stream"] == stream] for stream in ("judged", "unseen")]
        for stream, rows in zip(("judged", "unseen", "unseen"), (*apart, list(map(_of_many, apart[1]))), strict=True):
            _print(fit, stream, rows)


def _of_many(row: dict[str, Any]) -> dict[str, Any]:
    truth = row["many"]
    held = row["low"] <= truth <= row["high"]
    return {**row, "truth": truth, "error": row["estimate"] - truth, "held": held}


def _print(fit: str, stream: str, rows: list[dict[str, Any]]) -> None:
    if not rows:
        return
    whole, mild = summed(rows), summed([row for row in rows if row["reference"] - row["truth"] <= 0.1])
    cells = (
        TABLE[fit], TABLE[stream], str(len(rows)),
        f"{whole['within_3_points']:.0%} ({mild['within_3_points']:.0%} where at most 10 points are lost)",
        f"{whole['ceiling_within_3_points']:.0%}", f"{whole['answered']:.0%}",
        f"{whole['answered_within_3_points']:.0%}", f"{100 * whole['mean_error']:.1f} points",
        f"{whole['interval_holds']:.0%}", f"{100 * whole['mean_width']:.0f} points",
    )  # fmt: skip
    print(f"| {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=2048)
    parser.add_argument("--subject", nargs="*")
    parser.add_argument("--known", action="store_true")
    parser.add_argument("--drawn", action="store_true")
    parser.add_argument("--labels", type=int, default=0, help="another draw of which samples the desk has")
    parser.add_argument("--table", nargs="+", metavar="LINES")
    options = parser.parse_args()
    if options.table:
        table(options.table)
        return
    fits = ("all",) if options.known else ("all", "others")
    found: list[dict[str, Any]] = []
    drawn = (make(name) for name, make in DRAWN.items() if options.subject is None or name in options.subject)
    for subject in drawn if options.drawn else more_subjects(options.subject):
        found += measure(redrawn(subject, options.labels), options.samples, fits)
    for fit in fits:
        for stream in ("judged", "unseen"):
            rows = [row for row in found if row["fit"] == fit and row["stream"] == stream]
            told(rows, fit=fit, stream=stream)
            hard = [row for row in rows if row["reference"] - row["truth"] <= 0.25]
            told(hard, fit=fit, stream=stream, drop="at most 25 points")


if __name__ == "__main__":
    main()
