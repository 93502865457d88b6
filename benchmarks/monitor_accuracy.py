"""The accuracy that is estimated without labels beside the truth, on drifts that the estimate was not fitted on.

    python benchmarks/monitor_accuracy.py [--samples 2048] [--draws 3] [--subject mnist ...]

The estimate is fitted on copies that `edgekit.converters.perturbing` makes of the evaluation data, as a conversion
does; streams are drawn from these data and drift by other code (scipy's filters, other kinds and strengths).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

import numpy as np
from monitor_data import Array, Subject, subjects
from scipy import ndimage

from edgekit.converters.perturbing import copies
from edgekit.monitor.build import Builder

Drift = Callable[[Array, Any], Array]


def pictures(top: float) -> dict[str, Drift]:
    def turned(degrees: float) -> Drift:
        return lambda x, _: ndimage.rotate(x, degrees, (1, 2), reshape=False, order=1)

    def noisy(part: float) -> Drift:
        return lambda x, d: np.clip(x + d.normal(0, part * top, x.shape), 0, top)

    def blurred(sigma: float) -> Drift:
        return lambda x, _: ndimage.gaussian_filter(x, (0, sigma, sigma, 0))

    def gamma(power: float) -> Drift:
        return lambda x, _: top * (np.clip(x, 0, top) / top) ** power

    def bright(part: float) -> Drift:
        return lambda x, _: np.clip(x + part * top, 0, top)

    def sized(factor: float) -> Drift:
        def change(x: Array, _: Any) -> Array:
            grown = ndimage.zoom(x, (1, factor, factor, 1), order=1)
            cut = (grown.shape[1] - x.shape[1]) // 2
            return grown[:, cut : cut + x.shape[1], cut : cut + x.shape[2]]

        return change

    return {
        "rotation 10": turned(10), "rotation 20": turned(20), "rotation 30": turned(30), "rotation 45": turned(45),
        "noise 4 %": noisy(0.04), "noise 10 %": noisy(0.10), "blur 0.7": blurred(0.7), "blur 1.2": blurred(1.2),
        "gamma 0.5": gamma(0.5), "gamma 2": gamma(2.0), "brightness +15 %": bright(0.15),
        "brightness -15 %": bright(-0.15), "zoom 1.2": sized(1.2), "zoom 1.4": sized(1.4),
    }  # fmt: skip


def series(x: Array) -> dict[str, Drift]:
    deviation = float(x.std())
    return {
        "noise 0.3": lambda x, d: x + d.normal(0, 0.3 * deviation, x.shape),
        "noise 0.7": lambda x, d: x + d.normal(0, 0.7 * deviation, x.shape),
        "gain 0.6": lambda x, _: x * 0.6, "gain 1.5": lambda x, _: x * 1.5,
        "offset 0.4": lambda x, _: x + 0.4 * deviation,
        "smeared": lambda x, _: ndimage.gaussian_filter1d(x, 1.0, axis=1),
        "late": lambda x, _: np.roll(x, x.shape[1] // 10, axis=1),
        "stretched": lambda x, _: np.repeat(x, 2, axis=1)[:, x.shape[1] // 2 : x.shape[1] // 2 + x.shape[1]],
    }  # fmt: skip


def tables(x: Array) -> dict[str, Drift]:
    deviation = x.std(axis=0)

    def some(step: float, every: int) -> Drift:
        return lambda x, _: x + step * deviation * (np.arange(x.shape[1]) % every == 0)

    return {
        "noise 0.3": lambda x, d: x + 0.3 * deviation * d.normal(size=x.shape),
        "noise 0.8": lambda x, d: x + 0.8 * deviation * d.normal(size=x.shape),
        "one in five +1": some(1.0, 5), "one in three -0.7": some(-0.7, 3), "all +0.5": some(0.5, 1),
        "all x 1.1": lambda x, _: x * 1.1, "all x 0.85": lambda x, _: x * 0.85,
    }  # fmt: skip


def measure(subject: Subject, samples: int, draws: int) -> list[dict[str, Any]]:
    known, known_labels = subject.field[:2000], subject.labels[:2000]
    builder = Builder(subject.inputs, subject.outputs, None, subject.interpret)
    builder.add(*subject.feeds(subject.known, subject.answer(subject.known)), proven=False)
    builder.add(*subject.feeds(known, subject.answer(known)))
    some = slice(0, 400)
    builder.judge(*subject.feeds(known[some], subject.answer(known[some])), known_labels[some], 0)
    shape = {"image": "picture", "audio": "series", "table": "table"}[subject.kind]
    for turn in (1, 2):
        for kind, copy in enumerate(copies(known[some], shape, turn), 1):
            builder.judge(*subject.feeds(copy, subject.answer(copy)), known_labels[some], kind)
    reference = builder.finish()
    rest, labels = known, known_labels
    drifts = {
        "image": lambda: pictures(float(rest.max())),
        "audio": lambda: series(rest),
        "table": lambda: tables(rest),
    }
    found = []
    for name, drift in {"none": lambda x, _: x, **drifts[subject.kind]()}.items():
        for draw in range(draws):
            dice = np.random.default_rng(draw)
            chosen = dice.integers(0, len(rest), samples)
            moved = drift(rest[chosen], dice).astype(np.float32)
            answers = subject.answer(moved)
            monitor = subject.monitor(reference)
            for at in range(0, samples, 32):
                monitor.observe(*subject.feeds(moved[at : at + 32], answers[at : at + 32]))
            figures = monitor.accuracy(samples)
            truth = float((answers.argmax(1) == labels[chosen]).mean())
            found.append({
                "subject": subject.name, "drift": name, "truth": round(truth, 4), **figures,
                "confidence": round(float(answers.max(1).mean()), 4),
                "error": round(figures["estimate"] - truth, 4), "held": figures["low"] <= truth <= figures["high"],
            })  # fmt: skip
        print(json.dumps(found[-1]), flush=True)
    print(json.dumps({"subject": subject.name, "estimator": vars(reference.header.estimator)}), flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=2048)
    parser.add_argument("--draws", type=int, default=1)
    parser.add_argument("--subject", nargs="*")
    options = parser.parse_args()
    found: list[dict[str, Any]] = []
    for subject in subjects(options.subject):
        if subject.name != "diabetes":
            found += measure(subject, options.samples, options.draws)
    errors = np.array([row["error"] for row in found])
    plain = np.array([row["confidence"] - row["truth"] for row in found])
    print(json.dumps({
        "cases": len(found), "within_3_points": round(float((np.abs(errors) <= 0.03).mean()), 3),
        "p90_error": round(float(np.quantile(np.abs(errors), 0.9)), 4),
        "interval_holds": round(float(np.mean([row["held"] for row in found])), 3),
        "mean_width": round(float(np.mean([row["high"] - row["low"] for row in found])), 4),
        "confidence_alone_within_3_points": round(float((np.abs(plain) <= 0.03).mean()), 3),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
