"""The lint: each trap is caught, sound data passes without a word."""

from __future__ import annotations

import wave

import numpy as np
import pytest

from edgekit.converters.lint import lint
from edgekit.data import open_data
from edgekit.data_ref import DataRef
from edgekit.feeding import AudioSteps, Preprocess, TableSteps
from edgekit.tensors import TensorSpec

INPUTS = (TensorSpec("x", (None, 8), "float32"),)
DICE = np.random.default_rng(0)


def dataset(folder, x, y=None, name="d"):
    file = folder / f"{name}.npz"
    np.savez(file, x=x.astype(np.float32), **({} if y is None else {"y": y}))
    return open_data(DataRef(str(file)), INPUTS)


def sane(n=100):
    return DICE.random((n, 8)) + DICE.random((n, 1))


def found(folder, calibration=None, evaluation=None):
    report = lint(
        dataset(folder, *calibration, name="c") if calibration else None,
        dataset(folder, *evaluation, name="e") if evaluation else None,
        INPUTS,
    )
    return {finding.code: finding.severity for finding in report.findings}


def test_sound_data_passes_without_a_word(tmp_path):
    y = np.arange(100) % 10
    assert found(tmp_path, (sane(), y), (sane(), y)) == {}
    assert found(tmp_path) == {}


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_broken_values_are_errors_and_name_the_sample(tmp_path, value):
    x = sane()
    x[37, 2] = value
    report = lint(dataset(tmp_path, x), None, INPUTS)
    (finding,) = report.findings
    assert finding.severity == "error"
    assert "sample 37 of x" in finding.message
    assert np.isfinite(report.ranges["x"]).all()


def test_scaling_mistakes_are_errors(tmp_path):
    assert found(tmp_path, (sane() * 255,), (sane(),)) == {"data-scale": "error"}
    assert found(tmp_path, (sane() / 255,), (sane(),)) == {"data-scale": "error"}
    assert found(tmp_path, (sane() + 5,), (sane(),)) == {"data-shift": "warning"}


def test_features_that_one_scale_cannot_hold_are_told(tmp_path):
    sizes = np.array([3000, 0.01, 20, 0.5, 4, 800, 0.001, 1])
    x = sane() * sizes
    assert found(tmp_path, (x,), (sane() * sizes,)) == {"data-scales": "warning"}
    (finding,) = lint(dataset(tmp_path, x), None, INPUTS).findings
    assert finding.message.startswith("6 of the 8 features of x span less than 2 steps")
    # What has finer steps, or none, loses less: 0.01 and 0.001 of 3000, and nothing.
    (finding,) = lint(dataset(tmp_path, sane() * (sizes / 100) ** 2), None, INPUTS, "int16").findings
    assert "int8" not in finding.message
    assert "steps of int16" in finding.message
    assert lint(dataset(tmp_path, x), None, INPUTS, "float32").findings == ()
    # The same sizes where int8 holds them; and one small feature, or ones that never change, say nothing.
    assert found(tmp_path, (x / sizes,)) == {}
    assert found(tmp_path, (sane() * [1, 1, 1, 1, 1, 1, 1, 1e-3],)) == {}
    assert found(tmp_path, (np.where(sizes < 30, 1, x),)) == {}


def test_an_input_that_stays_the_same_beside_others_is_told_and_no_error(tmp_path):
    """An attention mask where no text was padded."""
    inputs = (*INPUTS, TensorSpec("mask", (None, 8), "int64"))
    np.savez(tmp_path / "d.npz", x=sane().astype(np.float32), mask=np.ones((100, 8), np.int64))
    report = lint(open_data(DataRef(str(tmp_path / "d.npz")), inputs), None, inputs)
    assert [(finding.code, finding.severity) for finding in report.findings] == [("data-constant", "warning")]


def test_samples_that_teach_nothing(tmp_path):
    one = sane(1)
    assert found(tmp_path, (np.repeat(one, 50, axis=0),)) == {"data-equal": "error"}
    assert found(tmp_path, (np.full((50, 8), 3.0),)) == {"data-constant": "error", "data-equal": "error"}
    assert found(tmp_path, (np.concatenate([sane(30), np.repeat(one, 20, axis=0)]),)) == {"data-duplicates": "warning"}
    assert found(tmp_path, (sane(3),)) == {"data-few": "warning"}
    same = sane()
    assert found(tmp_path, (same,), (same,)) == {"data-overlap": "warning"}


def test_one_class_of_ten(tmp_path):
    calibration = (sane(), np.zeros(100, int))
    assert found(tmp_path, calibration, (sane(), np.arange(100) % 10)) == {"data-classes": "warning"}
    assert found(tmp_path, (sane(), np.arange(100) % 8), (sane(), np.arange(100) % 10)) == {}


def test_text_labels_in_an_order_that_nobody_named(tmp_path):
    y = np.array(["zero", "one"])[np.arange(100) % 2]
    assert found(tmp_path, None, (sane(), y)) == {"data-labels": "warning"}


def test_the_ranges_cover_both_sets(tmp_path):
    report = lint(dataset(tmp_path, sane() - 1, name="c"), dataset(tmp_path, sane() + 1, name="e"), INPUTS)
    low, high = report.ranges["x"]
    assert low < 0
    assert high > 1.5


@pytest.mark.parametrize(
    ("name", "said"),
    [("digits", {}), ("wine", {"data-scales": "warning"}), ("breast_cancer", {"data-scales": "warning"})],
)
def test_one_class_is_told_from_the_mixture_without_labels(tmp_path, monkeypatch, name, said):
    """By the feature-wise means; and five shuffled splits each raise no such alarm."""
    datasets = pytest.importorskip("sklearn.datasets")
    x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    monkeypatch.setitem(globals(), "INPUTS", (TensorSpec("x", (None, x.shape[1]), "float32"),))
    head = np.argsort(y, kind="stable")[:60]
    assert "data-shift" in found(tmp_path, (x[head],), (np.delete(x, head, axis=0),))
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(len(x))
        assert found(tmp_path, (x[order[:60]],), (x[order[60:]],)) == said


def test_a_shift_that_is_certain_and_small_does_no_harm(tmp_path):
    x = DICE.normal(size=(4000, 8))
    assert found(tmp_path, (x[:2000],), (x[2000:] + 0.1,)) == {}
    assert found(tmp_path, (x[:2000],), (x[2000:] + 0.4,)) == {"data-shift": "warning"}


def test_the_head_of_a_sorted_file_is_noticed(shared, tmp_path):
    """CIFAR sorted by class: its first 100 hold one class; a shuffled 100 must not raise the alarm."""
    stored = np.load(shared / "data" / "cifar10_jpeg_1000.npz")
    inputs = (TensorSpec("x", (None, 32, 32, 3), "float32"),)
    order = np.random.default_rng(0).permutation(1000)
    rest = tmp_path / "e.npz"
    np.savez(rest, x=stored["x"][order[100:]], y=stored["y"][order[100:]])
    for rows, expected in ((np.arange(100), True), (order[:100], False)):
        np.savez(tmp_path / "c.npz", x=stored["x"][rows], y=stored["y"][rows])
        report = lint(
            open_data(DataRef(str(tmp_path / "c.npz")), inputs), open_data(DataRef(str(rest)), inputs), inputs
        )
        codes = {finding.code for finding in report.findings}
        assert codes == ({"data-classes", "data-shift"} if expected else set())
        np.savez(tmp_path / "c.npz", x=stored["x"][rows])
        report = lint(
            open_data(DataRef(str(tmp_path / "c.npz")), inputs), open_data(DataRef(str(rest)), inputs), inputs
        )
        assert {finding.code for finding in report.findings} == ({"data-shift"} if expected else set())


NET = {"kind": "image", "scale": 1 / 255}
TORCH = {"kind": "image", "scale": 1 / 255, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
WAVE = {"kind": "waveform"}


@pytest.mark.parametrize(
    ("how", "times", "plus", "wrong"),
    [
        (NET, 1, 0, False), (NET, 255, 0, True), (NET, 1 / 255, 0, True), (NET, 0.3, 0.2, False),
        ({"kind": "image"}, 255, 0, False), ({"kind": "image"}, 1, 0, True), ({"kind": "image"}, 255, -128, True),
        (TORCH, 4.5, -2, False), (TORCH, 1, 0, False), (TORCH, 255, 0, True),
        (WAVE, 2, -1, False), (WAVE, 65535, -32768, True),
        ({"kind": "waveform", "audio": AudioSteps(rate=16000, features="log-mel")}, 30, -20, False),
        ({"kind": "array"}, 1e4, 0, False),
    ],
)  # fmt: skip
def test_arrays_that_the_preparation_cannot_make_are_errors(tmp_path, how, times, plus, wrong):
    np.savez(tmp_path / "d.npz", x=(DICE.random((40, 8)) * times + plus).astype(np.float32))
    data = open_data(DataRef(str(tmp_path / "d.npz"), preprocess=Preprocess(**how)), INPUTS)
    for pair in ((data, None), (None, data)):
        assert {f.code: f.severity for f in lint(*pair, INPUTS).findings} == ({"data-scale": "error"} if wrong else {})


def test_pictures_that_nobody_prepares_are_told_of(tmp_path):
    image = pytest.importorskip("PIL.Image")
    for number in range(3):
        image.fromarray(DICE.integers(0, 256, (8, 8, 3)).astype(np.uint8)).save(tmp_path / f"{number}.png")
    floats, integers = (TensorSpec("x", (None, 8, 8, 3), dtype, layout="NHWC") for dtype in ("float32", "uint8"))
    for how, spec, told in [
        (Preprocess(), floats, True),
        (Preprocess("image"), floats, False),
        (Preprocess("image", scale=1 / 255), floats, False),
        (Preprocess(), integers, False),
    ]:
        data = open_data(DataRef(str(tmp_path), preprocess=how), (spec,))
        codes = [finding.code for finding in lint(data, None, (spec,)).findings]
        assert ("data-unprepared" in codes) == told


def test_sounds_of_no_rate_are_told_of(tmp_path):
    for number in range(2):
        with wave.open(str(tmp_path / f"{number}.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(8000 << number)
            file.writeframes(DICE.integers(-9000, 9000, 8).astype("<i2").tobytes())
    for how, told in ((Preprocess(), True), (Preprocess("waveform", audio=AudioSteps(rate=8000)), False)):
        data = open_data(DataRef(str(tmp_path), preprocess=how), INPUTS)
        assert ("data-unprepared" in [finding.code for finding in lint(data, None, INPUTS).findings]) == told


def test_rows_that_nobody_prepared_are_errors(tmp_path):
    mean, std = (54.0, *[0.0] * 6, -170.0), (9.0, *[1.0] * 6, 5.0)
    how = Preprocess("table", mean=mean, std=std, table=TableSteps(tuple("abcdefgh")))
    prepared = DICE.normal(size=(60, 8))
    for x, wrong in ((prepared, False), (prepared * std + mean, True), (prepared + 2, False)):
        np.savez(tmp_path / "d.npz", x=x.astype(np.float32))
        data = open_data(DataRef(str(tmp_path / "d.npz"), preprocess=how), INPUTS)
        errors = [finding for finding in lint(data, None, INPUTS).findings if finding.severity == "error"]
        assert [finding.code for finding in errors] == ["data-scale"] * wrong
        assert not wrong or "value 0 of x is 5" in errors[0].message
