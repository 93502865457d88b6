"""What an alarm says may be behind it, of pictures and sounds that are drawn here."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from edgekit.monitor.build import Builder
from edgekit.monitor.monitor import Monitor
from edgekit.tensors import TensorSpec

PREDICT = "predict does what [preprocess] says"
VALUE = (TensorSpec("value", (None, 1), "float32"),)


def scenes(number, seed, size=32):
    """Skies over ground with things before them, [n, size, size, 3] in 0..1: blue above, green and brown below."""
    dice = np.random.default_rng(seed)
    sky, ground = np.array([0.5, 0.65, 0.9]), np.array([0.4, 0.38, 0.2])
    light, horizon = dice.uniform(0.5, 1, (number, 1, 1, 1)), dice.uniform(0.3, 0.7, (number, 1, 1, 1))
    rows = np.linspace(0, 1, size)[None, :, None, None]
    picture = np.where(rows < horizon, sky, ground) * light + np.zeros((number, size, size, 3))
    for _ in range(4):
        color, side = dice.random((number, 3)), dice.integers(2, size // 3, number)
        top, left = dice.integers(size // 2, size, number), dice.integers(0, size, number)
        for one in range(number):
            picture[one, top[one] : top[one] + side[one], left[one] : left[one] + side[one]] = color[one]
    picture *= 1 + 0.1 * dice.normal(size=(number, 1, 1, 3))
    return np.clip(picture + dice.normal(size=picture.shape) * 0.01, 0, 1)


def waves(number, seed, rate=8000, size=4000):
    """Tones with overtones, [n, size] in -1..1."""
    dice = np.random.default_rng(seed)
    pitch, loud = dice.uniform(100, 500, (number, 1)), np.exp(dice.normal(size=(number, 1)) * 0.5 - 3)
    time = np.arange(size)[None] / rate
    tones = sum(np.sin(2 * np.pi * over * pitch * time + over) / over for over in (1, 2, 3, 4))
    return loud * (tones + 0.05 * dice.normal(size=(number, size)))


def watched(known, values=VALUE, layout=None):
    x = known.astype(np.float32)
    spec = (TensorSpec("x", (None, *x.shape[1:]), "float32", layout),)
    builder = Builder(spec, values, None, None)
    builder.add({"x": x}, {"value": np.zeros((len(x), 1), np.float32)})
    return Monitor(builder.finish(), spec, values)


def told(monitor, stream):
    """Messages of the alarms about the input, of a stream of one sample a call."""
    x = stream.astype(np.float32)
    nothing = np.zeros((1, 1), np.float32)
    found = [a for one in x for a in monitor.observe({"x": one[None]}, {"value": nothing}).alarms]
    return [alarm.message for alarm in found if alarm.kind.startswith(("input", "stuck", "blank", "out"))]


@pytest.fixture(scope="module")
def known():
    return scenes(600, 1)


USUAL = {"0..1": (1.0, 0.0), "0..255": (255.0, 0.0), "-1..1": (2.0, -1.0)}


@pytest.mark.parametrize("wanted", USUAL)
@pytest.mark.parametrize("given", [*USUAL, "twice", "normalized"])
def test_values_in_another_range_are_named_from_the_first_block_on(known, wanted, given):
    if given == wanted:
        return
    fresh = scenes(32, 2)
    times, plus = USUAL[wanted]
    if given == "normalized":
        fed, name = (fresh - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225], "normalized by mean and deviation"
    elif given == "twice":
        fed, name = (fresh * times + plus) / 255, "0 to 1" if wanted == "0..255" else "divided by 255 once more"
    else:
        fed, name = fresh * USUAL[given][0] + USUAL[given][1], given.replace("..", " to ")
    messages = told(watched(known * times + plus), fed)
    assert any(f"look {'' if given == 'twice' and wanted != '0..255' else 'like '}{name}" in one for one in messages)
    assert any(PREDICT in one for one in messages)


MISTAKES = {
    "BGR": lambda x: x[..., ::-1],
    "upside down": lambda x: x[:, ::-1],
    "turned by 90 degrees": lambda x: np.rot90(x, axes=(1, 2)),
    "a negative": lambda x: 1 - x,
    "scrambled": lambda x: x.transpose(0, 3, 1, 2).reshape(x.shape),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_other_mistakes_of_the_preparation_are_named(known, name):
    messages = told(watched(known), MISTAKES[name](scenes(256, 2)))
    assert any(name in one and PREDICT in one for one in messages), messages


FIELD = {
    "pictures are darker": lambda x: x * 0.4,
    "pictures are brighter": lambda x: np.clip(x * 1.6, 0, 1),
    "less sharp": lambda x: ndimage.gaussian_filter(x, (0, 1.2, 1.2, 0)),
    "noisier": lambda x: x + np.random.default_rng(0).normal(size=x.shape) * 0.1,
    "more red": lambda x: x * [1.5, 1, 1],
    "hardly anything in the pictures": lambda x: np.random.default_rng(0).normal(size=x.shape) * 0.002 + 0.01,
}


@pytest.mark.parametrize("name", FIELD)
def test_what_happens_to_cameras_is_named_and_blames_no_app(known, name):
    monitor = watched(known)
    assert not told(monitor, scenes(320, 3))
    messages = told(monitor, FIELD[name](scenes(256, 2)))
    assert any(name.lower() in one.lower() for one in messages), messages
    assert not any(PREDICT in one for one in messages), messages


def test_what_was_so_from_the_first_sample_points_to_the_app(known):
    messages = told(watched(known), scenes(64, 2) * 0.4)
    assert any("from the first sample on: compare how the app prepares" in one for one in messages), messages


def test_a_frozen_camera_and_one_without_color_are_named(known):
    assert any("the same picture 10 times" in one for one in told(watched(known), np.repeat(scenes(1, 5), 20, axis=0)))
    gray = np.repeat(scenes(20, 2).mean(axis=-1, keepdims=True), 3, axis=-1)
    assert any("pictures without color" in one for one in told(watched(known), gray))
    short = np.repeat(scenes(20, 2, size=30)[..., :1], 3, axis=-1)  # not a multiple of the grid's 4 cells
    assert any("pictures without color" in one for one in told(watched(scenes(300, 4, size=30)), short))


def test_too_much_contrast_is_not_called_black(known):
    messages = told(watched(known), scenes(64, 2) * 255)
    assert not any("as good as none" in one for one in messages), messages


SOUNDS = {
    "16-bit integers": lambda x: x * 32768,
    "2 times higher": lambda x: waves(len(x), 2, rate=16000),
    "2 times lower": lambda x: waves(len(x), 2, rate=4000),
    "dB quieter": lambda x: x / 8,
    "hardly any sound": lambda x: x * 1e-5,
}


@pytest.mark.parametrize("name", SOUNDS)
def test_what_happens_to_sounds_is_named(name):
    messages = told(watched(waves(600, 1)), SOUNDS[name](waves(128, 2)))
    assert any(name in one for one in messages), messages


def test_noise_at_night_is_no_scrambled_picture(known):
    dark = scenes(256, 2) * 0.15 + np.random.default_rng(0).normal(size=(256, 32, 32, 3)) * 0.05
    monitor = watched(known)
    assert not told(monitor, scenes(320, 3))
    messages = told(monitor, np.clip(dark, 0, 1))
    assert any("darker" in one and "noisier" in one for one in messages), messages
    assert not any("scrambled" in one for one in messages), messages
