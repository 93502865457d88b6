"""Classifiers whose data are drawn by code, of other kinds than those of monitor_data.py: as many labels as one likes.

`LABELLED` says how many the desk has of each; streams are drawn from others, and the truth is known of thousands more,
so that an estimate that is off can be told from a truth that a few samples have by luck.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from monitor_data import Array, Subject, classes
from scipy import ndimage

from edgekit.tensors import TensorSpec

LABELLED = {
    "letters": 1000, "tones": 400, "forest": 1000, "motion": 300, "textures": 500, "gases": 600, "languages": 300,
}  # fmt: skip
"""Labelled samples that the estimate is fitted on."""

TRAINED, OTHERS = 3000, 6144
"""Samples a model is trained on; others, of which the first 2,048 are the stream."""


def _subject(name: str, kind: str, x: Array, y: Array, answer: Callable[[Array], Array], **about: str) -> Subject:
    outputs, how = classes(int(y.max()) + 1)
    inputs = (TensorSpec("x", (None, *x.shape[1:]), "float32", **about),)
    known, field = slice(0, TRAINED), slice(TRAINED, None)
    return Subject(
        name, kind, inputs, outputs, how, lambda rows: answer(rows).astype(np.float32), x[known], y[known],
        x[field], y[field], LABELLED[name],
    )  # fmt: skip


def _count(name: str) -> int:
    return TRAINED + LABELLED[name] + OTHERS


def letters(name: str) -> Subject:
    """Capital letters of the fonts that matplotlib brings, 20 x 20, a little turned and moved."""
    import matplotlib as mpl
    from PIL import Image, ImageDraw, ImageFont
    from sklearn.neural_network import MLPClassifier

    folder = Path(mpl.get_data_path()) / "fonts/ttf"
    files = [folder / f"{face}.ttf" for face in (
        "DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSansMono", "DejaVuSerif", "DejaVuSerif-Bold",
        "DejaVuSerif-Italic", "STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "cmr10", "cmss10", "cmtt10",
        "cmmi10",
    )]  # fmt: skip
    fonts = [ImageFont.truetype(str(file), size) for file in files for size in (13, 15, 17)]
    dice = np.random.default_rng(21)
    y = dice.integers(0, 26, _count(name))
    x = np.empty((len(y), 20, 20, 1), np.float32)
    for place, label in enumerate(y.tolist()):
        paper = Image.new("L", (20, 20))
        at = tuple((10 + dice.normal(0, 0.6, 2)).tolist())
        ImageDraw.Draw(paper).text(at, chr(65 + label), 255, fonts[int(dice.integers(len(fonts)))], anchor="mm")
        x[place, :, :, 0] = np.asarray(paper.rotate(float(dice.normal(0, 4)), Image.Resampling.BILINEAR)) / 255
    x = np.clip(x * dice.uniform(0.6, 1, (len(y), 1, 1, 1)) + dice.normal(0, 0.03, x.shape), 0, 1).astype(np.float32)
    net = MLPClassifier((128,), random_state=0, max_iter=300, tol=1e-3, alpha=0.1).fit(_flat(x[:TRAINED]), y[:TRAINED])
    return _subject(name, "image", x, y, lambda rows: net.predict_proba(_flat(rows)), layout="NHWC")


def tones(name: str) -> Subject:
    """A quarter of a second of eight ways to sound a note, told from its spectra."""
    from sklearn.neural_network import MLPClassifier

    dice = np.random.default_rng(22)
    y = dice.integers(0, 8, _count(name))
    time = np.arange(2048)[None] / 8192
    low, slow, start = dice.uniform(130, 900, (len(y), 1)), dice.uniform(5, 12, (len(y), 1)), dice.random((len(y), 1))
    bend = np.choose(y, [0, 0, 0, 0, 0, 0, 0.8, -0.5])[:, None]
    phase = 2 * np.pi * (start + low * time * (1 + bend * time * 2)) + (y == 4)[:, None] * 2 * np.sin(
        2 * np.pi * slow * time
    )
    wave = np.sin(phase)
    wave = np.where((y == 1)[:, None], np.tanh(4 * wave), wave)
    wave = np.where((y == 2)[:, None], 1 - 2 * (phase / 2 / np.pi % 1), wave)
    wave = np.where((y == 3)[:, None], wave * np.exp(-slow * time), wave)
    wave = np.where((y == 5)[:, None], wave * (1 + np.sin(2 * np.pi * slow * time)) / 2, wave)
    x = wave * dice.uniform(0.1, 0.8, (len(y), 1)) + dice.exponential(0.05, (len(y), 1)) * dice.normal(size=wave.shape)
    x = np.clip(x, -1, 1).astype(np.float32)

    def spectra(waves: Array) -> Array:
        frames = np.abs(np.fft.rfft(waves.reshape(len(waves), 8, 256), axis=2))[:, :, 1:65]
        return np.asarray(np.log(frames.reshape(len(waves), 8, 32, 2).mean(3) + 1e-2).reshape(len(waves), -1))

    net = MLPClassifier((64,), random_state=0, max_iter=300, tol=1e-3, alpha=1.0).fit(spectra(x[:TRAINED]), y[:TRAINED])
    return _subject(name, "audio", x, y, lambda waves: net.predict_proba(spectra(waves)))


def forest(name: str) -> Subject:
    """Seven kinds of cover, two of them frequent, by height, slopes, distances, light, and twelve yes-or-no columns."""
    from sklearn.ensemble import RandomForestClassifier

    dice = np.random.default_rng(23)
    total = _count(name)
    y = dice.choice(7, total, p=[0.36, 0.44, 0.06, 0.02, 0.03, 0.04, 0.05])
    middle = np.array([3120, 2920, 2390, 2220, 2780, 2420, 3360])[y]
    height = middle + dice.normal(0, 100, total)
    aspect, slope = dice.uniform(0, 360, total), dice.gamma(4, 3.5, total) + 4 * np.isin(y, (2, 3, 5))
    water = dice.exponential(np.array([270, 280, 210, 100, 210, 160, 350])[y])
    rise = 0.17 * water + dice.normal(0, 40, total)
    road, fire = (dice.exponential(np.array(mean)[y]) for mean in (
        (2600, 2400, 950, 910, 1350, 1040, 2740), (2000, 2170, 910, 860, 1580, 1050, 2070),
    ))  # fmt: skip
    sun = [215 + 30 * np.cos(np.radians(aspect - at)) * slope / 14 + dice.normal(0, 6, total) for at in (90, 180, 270)]
    numbers = np.stack([height, aspect, slope, water, rise, road, fire, *sun], axis=1)
    wild = dice.integers(0, 4, total)
    wild = np.where(dice.random(total) < 0.6, np.array([0, 0, 3, 3, 2, 3, 1])[y], wild)
    soil = np.clip((height - 2000) // 200 + dice.integers(-1, 2, total) + (y == 6), 0, 7).astype(int)
    x = np.concatenate([numbers, np.eye(4)[wild], np.eye(8)[soil]], axis=1).astype(np.float32)
    net = RandomForestClassifier(40, min_samples_leaf=2, random_state=0).fit(x[:TRAINED], y[:TRAINED])
    return _subject(name, "table", x, y, net.predict_proba)


def motion(name: str) -> Subject:
    """Two seconds of an accelerometer's three axes: walking, running, stairs, cycling, standing, sitting."""
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    dice = np.random.default_rng(24)
    total = _count(name)
    y = dice.integers(0, 6, total)
    time = np.arange(64)[None, :, None] / 32
    pace = np.array([1.8, 2.7, 1.6, 1.2, 0.4, 0.3])[y] * dice.normal(1, 0.12, total)
    size = np.array([0.30, 0.85, 0.36, 0.20, 0.04, 0.03])[y] * np.exp(dice.normal(0, 0.3, total))
    held = [[0.1, 0.9, 0.2], [0.2, 0.9, 0.3], [0.1, 0.85, 0.35], [0.5, 0.7, 0.5], [0, 1, 0], [0.2, 0.5, 0.8]]
    tilt = np.array(held)[y] + dice.normal(0, 0.13, (total, 3))
    tilt /= np.linalg.norm(tilt, axis=1, keepdims=True)
    share = np.abs(dice.normal(0.6, 0.2, (total, 3)))
    phase = 2 * np.pi * (pace[:, None, None] * time + dice.random((total, 1, 3)))
    second = np.array([0.5, 0.3, 0.7, 0.1, 0.1, 0.1])[y][:, None, None]
    swing = (np.sin(phase) + second * np.sin(2 * phase + 1)) * size[:, None, None] * share[:, None]
    x = (tilt[:, None] + swing + dice.normal(0, 0.05, (total, 64, 3))).astype(np.float32)

    def features(series: Array) -> Array:
        power = np.log(np.abs(np.fft.rfft(series - series.mean(1, keepdims=True), axis=1))[:, 1:16] + 0.1)
        return np.concatenate([series.mean(1), np.log(series.std(1) + 0.01), power.reshape(len(series), -1)], axis=1)

    net = make_pipeline(StandardScaler(), MLPClassifier((32,), random_state=0, max_iter=300, tol=1e-3, alpha=1.0))
    net.fit(features(x[:TRAINED]), y[:TRAINED])
    return _subject(name, "audio", x, y, lambda series: net.predict_proba(features(series)))


def textures(name: str) -> Subject:
    """Six surfaces, 24 x 24, and a small network of drawn filters in int8: inputs, weights and scores in 256 steps."""
    from sklearn.neural_network import MLPClassifier

    dice = np.random.default_rng(25)
    total = _count(name)
    y = dice.integers(0, 6, total)
    down, across = np.mgrid[:24, :24]
    x = np.empty((total, 24, 24, 1), np.float32)
    for place, label in enumerate(y.tolist()):
        turn, wide, start = dice.uniform(0, np.pi), dice.uniform(3, 7), dice.uniform(0, 7, 2)
        u = down * np.cos(turn) + across * np.sin(turn) + start[0]
        v = across * np.cos(turn) - down * np.sin(turn) + start[1]
        stripes, other = np.sin(2 * np.pi * u / wide), np.sin(2 * np.pi * v / wide)
        grain = dice.normal(size=(24, 24))
        x[place, :, :, 0] = (
            stripes, np.sign(stripes * other), np.maximum(stripes * other, 0) * 2 - 0.5,
            2 * ndimage.gaussian_filter(grain, wide / 3) * wide / 2,
            ndimage.gaussian_filter(grain, (0.3, wide / 2)) * 1.5, np.sign(grain + 0.8) * 0.8,
        )[label]  # fmt: skip
    light, depth = dice.uniform(0.35, 0.65, (total, 1, 1, 1)), dice.uniform(0.05, 0.2, (total, 1, 1, 1))
    x = np.clip(light + depth * (x + 0.7 * dice.normal(size=x.shape)), 0, 1).astype(np.float32)
    filters = dice.normal(size=(25, 24))
    filters = np.rint((filters - filters.mean(0)) * 40) / 40

    def features(pictures: Array) -> Array:
        stored = np.rint(np.clip(pictures[..., 0], 0, 1) * 255) / 255
        windows = np.lib.stride_tricks.sliding_window_view(stored, (5, 5), axis=(1, 2))
        found = np.abs(windows.reshape(len(stored), 400, 25) @ filters)
        return np.concatenate([found.mean(1), found.max(1), np.square(found).mean(1)], axis=1)

    net = MLPClassifier((32,), random_state=0, max_iter=300, tol=1e-3, alpha=1e-2)
    net.fit(features(x[:TRAINED]), y[:TRAINED])
    for weights in net.coefs_:
        step = np.abs(weights).max() / 127
        weights[:] = np.rint(weights / step) * step

    def answer(pictures: Array) -> Array:
        parts = [net.predict_proba(features(part)) for part in np.array_split(pictures, len(pictures) // 512 + 1)]
        return np.asarray(np.clip(np.rint(np.concatenate(parts) * 256), 0, 255) / 256)

    return _subject(name, "image", x, y, answer, layout="NHWC")


def gases(name: str) -> Subject:
    """Four gases at sixteen sensors that also feel the weather, told by boosted trees."""
    from sklearn.ensemble import GradientBoostingClassifier

    dice = np.random.default_rng(26)
    total = _count(name)
    y = dice.choice(4, total, p=[0.4, 0.3, 0.2, 0.1])
    dose = np.exp(dice.normal(0, 0.7, (total, 1)))
    like = dice.uniform(0.2, 1.2, (4, 16))[y]
    weather = dice.normal(size=(total, 2)) @ dice.normal(0, 0.12, (2, 16))
    x = 5 * (dose * like) ** dice.uniform(0.4, 0.8, 16) * np.exp(weather + dice.normal(0, 0.15, (total, 16)))
    x = (x + dice.standard_t(3, (total, 16)) * 0.2).astype(np.float32)
    net = GradientBoostingClassifier(n_estimators=50, random_state=0).fit(x[:TRAINED], y[:TRAINED])
    return _subject(name, "table", x, y, net.predict_proba)


def languages(name: str) -> Subject:
    """Five languages of drawn letter pairs: how often each of 26 letters stands in a line of 30 to 90."""
    from sklearn.linear_model import LogisticRegression

    dice = np.random.default_rng(27)
    total = _count(name)
    y = dice.integers(0, 5, total)
    pairs = dice.dirichlet(np.full(26, 0.3), 26)
    own = np.stack([0.4 * pairs + 0.6 * dice.dirichlet(np.full(26, 0.3), 26) for _ in range(5)]).cumsum(axis=2)
    length, letter = dice.integers(30, 91, total), dice.integers(0, 26, total)
    x = np.zeros((total, 26), np.float32)
    for step in range(90):
        letter = np.minimum((own[y, letter] < dice.random((total, 1))).sum(axis=1), 25)
        x[np.arange(total), letter] += step < length
    net = LogisticRegression(C=0.1, max_iter=500).fit(x[:TRAINED], y[:TRAINED])
    return _subject(name, "table", x, y, net.predict_proba)


def _flat(x: Array) -> Array:
    return x.reshape(len(x), -1)


DRAWN: dict[str, Callable[[str], Subject]] = {
    "letters": letters, "tones": tones, "forest": forest, "motion": motion, "textures": textures, "gases": gases,
    "languages": languages,
}  # fmt: skip
