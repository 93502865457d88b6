"""False alarms on streams like the reference, and delays after drifts of stated severity.

    python benchmarks/monitor_alarms.py false [--samples 100000] [--seeds 10] [--subject mnist ...]
    python benchmarks/monitor_alarms.py fresh [--samples 100000] [--seeds 10]       # no sample comes twice
    python benchmarks/monitor_alarms.py memory [--samples 100000] [--seeds 10]      # video, sensors read fast
    python benchmarks/monitor_alarms.py shift [--runs 100]      # 0.5 sigma in one of 30 numbers
    python benchmarks/monitor_alarms.py pictures [--runs 40]    # brightness, blur, noise, rotation
    python benchmarks/monitor_alarms.py stuck [--runs 40]

Streams are drawn, with replacement, from samples: of a part that the reference knows as well ("known": evaluation data
are in it), or of a part that it never saw ("unseen", the harder case where the part is small: its own mean differs).
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import numpy as np
from monitor_data import Subject, subjects

from edgekit.monitor.build import Builder
from edgekit.monitor.monitor import Monitor
from edgekit.reading import Interpret
from edgekit.tensors import TensorSpec

CHUNK = 32
Array = np.ndarray[Any, Any]


def say(what: str, **figures: Any) -> None:
    print(json.dumps({"what": what, **figures}), flush=True)


class Known:
    """In place of a monitor's rows: features of the samples that a stream is drawn from are taken once."""

    def __init__(self, rows: Any, subject: Subject, answers: Array) -> None:
        self._table, self._scores = rows.read(*subject.feeds(subject.field, answers))
        self.classes, self.inputs, self.outputs, self.left_out = rows.classes, rows.inputs, rows.outputs, []

    def views(self, inputs: Any, _: Any, first: int, count: int) -> list[tuple[Array, ...]]:
        chosen = inputs["row"][first : first + count]
        return [(self._table[chosen],), *([(self._scores[chosen],)] if self.classes else [])]

    def features(self, views: Any, table: Array) -> None:
        table[:] = views[0][0]

    def probabilities(self, scores: Array) -> Array:
        return scores


def false_alarms(subject: Subject, samples: int, seeds: int, streams: list[str]) -> None:
    answers = subject.answer(subject.field)
    for whole in [stream == "known" for stream in streams]:
        reference = subject.reference(whole=whole)
        alarms: list[str] = []
        begun = time.perf_counter()
        for seed in range(seeds):
            dice = np.random.default_rng(1000 + seed)
            monitor = subject.monitor(reference)
            monitor._rows = monitor._block._rows = Known(monitor._rows, subject, answers)  # noqa: SLF001
            for _ in range(samples // CHUNK):
                chosen = dice.integers(0, len(answers), CHUNK)
                verdict = monitor.observe({"row": chosen}, {})
                alarms += [f"{seed}: {alarm.raised}: {alarm.message}" for alarm in verdict.alarms]
        say(
            "false alarms",
            subject=subject.name,
            kind=subject.kind,
            stream="known" if whole else "unseen",
            reference=reference.header.samples,
            samples=samples * seeds,
            alarms=len(alarms),
            per_100000=round(len(alarms) * 1e5 / (samples * seeds), 3),
            microseconds=round((time.perf_counter() - begun) / samples / seeds * 1e6, 1),
            first=alarms[:4],
        )


def _rows(dice: np.random.Generator, number: int) -> Array:
    """Sensors, two of which tell a sum and a share of others; skewed, rare and rounded ones."""
    parts = dice.gamma(2.0, size=(number, 8)) + 1.5 * (dice.random((number, 1)) < 0.5)
    total = parts.sum(axis=1, keepdims=True)
    rare = np.where(dice.random((number, 2)) < 0.02, dice.normal(5, 1, (number, 2)), 0.0)
    rounded = np.round(dice.normal(size=(number, 3)), 1)
    return np.concatenate([parts, total, parts[:, :1] / total, np.exp(dice.normal(size=(number, 2))), rare, rounded], 1)


def _scenes(dice: np.random.Generator, number: int) -> Array:
    """A bright square of any size and place before noise."""
    x = 0.3 * dice.random((number, 12, 12, 3)) * dice.uniform(0.6, 1.0, (number, 1, 1, 1))
    grid = np.arange(12)
    middle, size = dice.uniform(3, 9, (2, number, 1)), dice.uniform(1, 4, (number, 1))
    down, across = (np.abs(grid - one) < size for one in middle)
    return x + 0.5 * (down[:, :, None] & across[:, None])[..., None] * dice.uniform(0.5, 1.0, (number, 1, 1, 3))


def _tones(dice: np.random.Generator, number: int) -> Array:
    """Two tones and a little noise."""
    time_, pitch = np.arange(800) / 8000, dice.uniform(100, 1500, (2, number, 1))
    loud = np.exp(dice.normal(-2, 0.5, (2, number, 1)))
    return (loud * np.sin(2 * np.pi * pitch * time_)).sum(axis=0) + 0.01 * dice.normal(size=(number, 800))


FRESH = {
    "table": ((None, 17), _rows), "picture": ((None, 12, 12, 3), _scenes), "sound": ((None, 800), _tones),
}  # fmt: skip


def fresh(samples: int, seeds: int) -> None:
    """False alarms on streams in which no sample comes twice; each seed has a reference of 2,000 of its own."""
    outputs, how = (TensorSpec("y", (None, 1), "float32"),), Interpret(task="regression")
    for name, (shape, draw) in FRESH.items():
        layout = "NHWC" if len(shape) == 4 else None
        inputs = (TensorSpec("x", shape, "float32", layout=layout),)
        found: list[str] = []
        for seed in range(seeds):
            dice = np.random.default_rng(seed)

            def feeds(number: int, dice: Any = dice, draw: Any = draw) -> tuple[dict[str, Array], dict[str, Array]]:
                x = draw(dice, number).astype(np.float32)
                return {"x": x}, {"y": x.reshape(number, -1)[:, :3].sum(axis=1, keepdims=True)}

            builder = Builder(inputs, outputs, None, how)
            builder.add(*feeds(2000))
            monitor = Monitor(builder.finish(), inputs, outputs, None, how)
            for _ in range(samples // CHUNK):
                found += [f"{seed}: {a.raised}: {a.message}" for a in monitor.observe(*feeds(CHUNK)).alarms]
        say(
            "false alarms", subject=name, stream="fresh", samples=samples * seeds, alarms=len(found),
            per_100000=round(len(found) * 1e5 / samples / seeds, 3), first=found[:3],
        )  # fmt: skip


def remembering(samples: int, seeds: int) -> None:
    """False alarms on streams whose samples are not independent, though each is of the reference's distribution."""
    inputs, outputs = (TensorSpec("x", (None, 30), "float32"),), (TensorSpec("y", (None, 1), "float32"),)
    how = Interpret(task="regression")
    for name, follow in STREAMS.items():
        first: list[str] = []
        alarms = 0
        for seed in range(seeds):
            dice = np.random.default_rng(seed)
            builder = Builder(inputs, outputs, None, how)
            x = dice.normal(size=(1000, 30)).astype(np.float32)
            builder.add({"x": x}, {"y": x[:, :1]})
            monitor = Monitor(builder.finish(), inputs, outputs, None, how)
            x = follow(dice, samples).astype(np.float32)
            for at in range(0, samples, CHUNK):
                part = x[at : at + CHUNK]
                found = monitor.observe({"x": part}, {"y": part[:, :1]}).alarms
                alarms += len(found)
                first += [f"{alarm.raised}: {alarm.message}" for alarm in found]
        say(
            "false alarms", stream=name, samples=samples * seeds, alarms=alarms,
            per_100000=round(alarms * 1e5 / samples / seeds, 3), first=first[:3],
        )  # fmt: skip


def _following(likeness: float) -> Any:
    """AR(1) of variance 1: each sample is so much like the one before."""

    def make(dice: np.random.Generator, samples: int) -> Array:
        steps = dice.normal(size=(samples, 30))
        x = np.empty_like(steps)
        x[0] = steps[0]
        rest = np.sqrt(1 - likeness**2)
        for place in range(1, samples):
            x[place] = likeness * x[place - 1] + rest * steps[place]
        return x

    return make


def _repeating(times: int, noise: float) -> Any:
    """A scene stands for so many frames, each with a little noise of its own; 0 for frames that are the same."""

    def make(dice: np.random.Generator, samples: int) -> Array:
        scenes = np.repeat(dice.normal(size=(-(-samples // times), 30)), times, axis=0)[:samples]
        return (scenes + noise * dice.normal(size=scenes.shape)) / np.sqrt(1 + noise**2)

    return make


STREAMS = {
    "AR(1), 0.5": _following(0.5), "AR(1), 0.8": _following(0.8), "AR(1), 0.9": _following(0.9),
    "AR(1), 0.95": _following(0.95), "AR(1), 0.98": _following(0.98),
    "scenes of 5 frames": _repeating(5, 0.1), "scenes of 15 frames": _repeating(15, 0.1),
    "scenes of 30 frames": _repeating(30, 0.1), "each frame 3 times": _repeating(3, 0.0),
}  # fmt: skip


def delays(subject: Subject, name: str, change: Any, runs: int, within: int, *, before: int = 320) -> None:
    """Samples from the change to the first alarm; `change` takes samples, dice and their count since the change."""
    reference = subject.reference()
    clean = subject.answer(subject.field)
    found: list[float] = []
    early = 0
    kinds: dict[str, int] = {}
    for run in range(runs):
        dice = np.random.default_rng(run)
        monitor = subject.monitor(reference)
        chosen = dice.integers(0, len(clean), before)
        early += bool(monitor.observe(*subject.feeds(subject.field[chosen], clean[chosen])).alarms)
        chosen = dice.integers(0, len(clean), 2 * within)
        moved = change(subject.field[chosen].copy(), dice)
        answers = subject.answer(moved)
        delay = np.inf
        for at in range(2 * within):
            verdict = monitor.observe(*subject.feeds(moved[at : at + 1], answers[at : at + 1]))
            if verdict.alarms:
                delay = at + 1
                kinds[verdict.alarms[0].kind] = kinds.get(verdict.alarms[0].kind, 0) + 1
                break
        found.append(delay)
    say(
        "delay",
        subject=subject.name,
        drift=name,
        runs=runs,
        early=early,
        median=float(np.median(found)),
        p95=float(np.quantile(found, 0.95, method="higher")),
        within=within,
        share_within=float(np.mean(np.array(found) <= within)),
        first_alarms=kinds,
    )


def shift(runs: int) -> None:
    """Half a deviation in one of thirty independent normal numbers, and in one of breast cancer's."""
    for known in (300, 500, 1000):
        found = []
        for run in range(runs):
            dice = np.random.default_rng(run)
            inputs, outputs = (TensorSpec("x", (None, 30), "float32"),), (TensorSpec("y", (None, 1), "float32"),)
            builder = Builder(inputs, outputs, None, Interpret(task="regression"))
            x = dice.normal(size=(known, 30)).astype(np.float32)
            builder.add({"x": x}, {"y": x[:, :1]})
            monitor = Monitor(builder.finish(), inputs, outputs, None, Interpret(task="regression"))
            x = dice.normal(size=(1600, 30)).astype(np.float32)
            x[600:, run % 30] += 0.5
            delay = np.inf
            for at in range(0, 1600, CHUNK):
                part = x[at : at + CHUNK]
                if monitor.observe({"x": part}, {"y": part[:, 1:2]}).alarms:
                    delay = at + CHUNK - 600
                    break
            found.append(delay)
        say(
            "delay", subject="30 normal numbers", drift="0.5 sigma in one", reference=known, runs=runs,
            early=int(np.sum(np.array(found) < 0)), median=float(np.median(found)),
            p95=float(np.quantile(found, 0.95, method="higher")), within=500,
            share_within=float(np.mean(np.array(found) <= 500)),
        )  # fmt: skip
    (subject,) = subjects(["breast-cancer"])
    for column in (0, 4, 11, 19, 28):
        step = 0.5 * subject.known[:, column].std()

        def change(x: Array, _: Any, column: int = column, step: float = step) -> Array:
            x[:, column] += step
            return x

        delays(subject, f"0.5 sigma in number {column}", change, max(10, runs // 5), 500)


def pictures(runs: int) -> None:
    from scipy import ndimage

    drifts: dict[str, Any] = {
        "brightness +10 %": lambda x, _, top: np.clip(x + 0.10 * top, 0, top),
        "brightness -20 %": lambda x, *_: x * 0.8,
        "contrast x 0.7": lambda x, *_: (x - x.mean((1, 2), keepdims=True)) * 0.7 + x.mean((1, 2), keepdims=True),
        "blur, sigma 0.7": lambda x, *_: ndimage.gaussian_filter(x, (0, 0.7, 0.7, 0)),
        "noise, sigma 4 %": lambda x, d, top: np.clip(x + d.normal(0, 0.04 * top, x.shape), 0, top),
        "rotation 15 degrees": lambda x, *_: ndimage.rotate(x, 15, (1, 2), reshape=False, order=1),
        "rotation 30 degrees": lambda x, *_: ndimage.rotate(x, 30, (1, 2), reshape=False, order=1),
    }
    for subject in subjects(["mnist", "cifar"]):
        top = float(subject.field.max())
        for name, drift in drifts.items():

            def change(x: Array, dice: Any, drift: Any = drift, top: float = top) -> Array:
                return drift(x, dice, top).astype(np.float32)

            delays(subject, name, change, runs, 200)


def stuck(runs: int) -> None:
    def frozen(x: Array, _: Any) -> Array:
        x[:] = x[0]
        return x

    for subject in subjects():
        delays(subject, "the whole input stands still", frozen, runs, 20)
        if subject.kind == "table":
            for column in range(0, subject.field.shape[1], max(1, subject.field.shape[1] // 6)):

                def one(x: Array, _: Any, column: int = column) -> Array:
                    x[:, column] = x[0, column]
                    return x

                delays(subject, f"number {column} stands still", one, runs, 20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "what", nargs="?", default="shift", choices=["false", "fresh", "memory", "shift", "pictures", "stuck"]
    )
    parser.add_argument("--samples", type=int, default=100_000)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--subject", nargs="*")
    parser.add_argument("--stream", nargs="*", default=["known", "unseen"], choices=["known", "unseen"])
    options = parser.parse_args()
    if options.what == "false":
        for subject in subjects(options.subject):
            false_alarms(subject, options.samples, options.seeds, options.stream)
    elif options.what == "fresh":
        fresh(options.samples, options.seeds)
    elif options.what == "memory":
        remembering(options.samples, options.seeds)
    elif options.what == "shift":
        shift(options.runs)
    elif options.what == "pictures":
        pictures(options.runs)
    else:
        stuck(options.runs)


if __name__ == "__main__":
    main()
