"""What may be said about a conversion: defaults, contradictions, and the metadata file."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekit import metadata, rules
from edgekit.cli import options
from edgekit.device_profiles import load_profile
from edgekit.errors import DataError, MissingFileError, UsageError
from edgekit.feeding import Preprocess, TableSteps
from edgekit.options import Options
from edgekit.serve import access, settings
from edgekit.tensors import TensorSpec


def code_of(build) -> str:
    with pytest.raises(UsageError) as caught:
        build()
    return caught.value.code


def test_the_suffix_decides_the_format():
    assert Options(output=Path("a/model.TFLITE")).format == "tflite"
    assert Options(output=Path("model.onnx")).format == "onnx"
    assert Options(to="onnx").format == "onnx"
    assert Options(to="onnx", output=Path("model.bin")).format == "onnx"


def test_contradictions_are_usage_errors():
    assert code_of(lambda: Options(to="onnx", output=Path("m.tflite")).format) == "format-conflict"
    assert code_of(lambda: Options(output=Path("m.bin")).format) == "format-missing"
    assert code_of(lambda: Options().format) == "format-missing"
    assert code_of(lambda: Options(to="coreml").format) == "format-unknown"


@pytest.mark.parametrize(
    "wrong",
    [{"max_drop": -0.1}, {"max_drop": float("nan")}, {"time_limit": 0.0}, {"memory_limit": 63},
     {"percentile": 50.0}, {"percentile": 100.1}, {"calibration_memory": 63},
     {"shapes": {"image": (0, 8, 8, 1)}}, {"shapes": {"image": (None, -8)}},
     {"calibration_samples": 0}, {"evaluation_samples": 0}],
)  # fmt: skip
def test_impossible_values_are_refused(wrong):
    assert code_of(lambda: Options(to="onnx", **wrong)) == "option-value"


def test_an_input_is_given_once():
    assert options.input_sizes(None, None, ("a=N,2", "b=1:int64")) == {"a": ((None, 2), None), "b": ((1,), "int64")}
    assert code_of(lambda: options.input_sizes(None, None, ("a=1,2", "a=1,3"))) == "shape-syntax"


def test_the_manifest_records_no_paths():
    recorded = Options(to="onnx", output=Path("/home/me/m.onnx"), calibration="/home/me/c.npz").recorded()
    assert "home" not in str(recorded)
    assert recorded["precision"] == "fp32"


def test_metadata_file_labels_and_task(tmp_path):
    file = tmp_path / "feed.toml"
    file.write_text('[preprocess]\nkind = "image"\nscale = 0.5\nmean = [1, 2, 3]\n[interpret]\ntop_k = 2\n')
    labels = tmp_path / "labels.txt"
    labels.write_text("cat\n\n dog \n")
    said = metadata.read(file, labels, None)
    assert said.preprocess.kind == "image"
    assert said.preprocess.mean == (1.0, 2.0, 3.0)
    assert said.interpret.labels == ("cat", "dog")
    assert said.interpret.task == "classification", "labels mean classes"
    assert said.declared
    assert metadata.read(None, None, "regression").interpret.task == "regression"
    assert not metadata.read(None, None, None).declared


def test_a_mark_that_windows_puts_in_front_is_no_text(tmp_path):
    labels, file = tmp_path / "labels.txt", tmp_path / "feed.toml"
    labels.write_text("zero\none\n", encoding="utf-8-sig")
    file.write_text("[interpret]\ntop_k = 2\n", encoding="utf-8-sig")
    assert metadata.read(file, labels, None).interpret.labels == ("zero", "one")
    file.write_text('[[rule]]\nscope = "*"\nprecision = "fp16"\n', encoding="utf-8-sig")
    assert rules.read(file)[0].scope == "*"
    file.write_text("[serving]\n", encoding="utf-8-sig")
    assert settings.read(file)
    file.write_text('title = "mine"\ninherits = "raspberry-pi-4b"\n', encoding="utf-8-sig")
    assert load_profile(str(file)).title == "mine"
    labels.write_text("0123456789abcdefgh\n", encoding="utf-8-sig")
    assert access._keys(str(labels)) == (b"0123456789abcdefgh",)


SCORES = (TensorSpec("scores", (None, 2), "float32"), TensorSpec("ink", (None, 1), "float32"))


def complete(said, *, label=None, class_names=()):
    return metadata.complete(said, SCORES, label=label, class_names=class_names).interpret


def test_class_names_of_the_data_stand_in_for_missing_labels():
    assert complete(metadata.read(None, None, None), class_names=("a", "b")).labels == ("a", "b")
    said = metadata.read(None, ("x", "y"), None)
    assert complete(said, class_names=("x", "y")) == said.interpret


def test_an_output_named_like_the_labels_is_measured_on_them():
    assert complete(metadata.read(None, None, None), label="ink").output == "ink"
    assert complete(metadata.read(None, None, None), label="y").output is None


def test_an_anomaly_is_read_from_the_score_beside_the_label():
    outputs = TensorSpec("label", (None, 1), "int64"), TensorSpec("score", (None, 1), "float32")

    def read(task):
        said = metadata.read({"interpret": {"task": task, "threshold": 0.5}}, None, None)
        return metadata.complete(said, outputs, label=None, answer="label").interpret.output

    assert read("anomaly") == "score"
    assert read("classification") == "label"


def test_labels_and_outputs_must_be_the_model_s():
    with pytest.raises(UsageError, match="known: scores, ink"):
        complete(metadata.read({"interpret": {"output": "boxes"}}, None, None))
    with pytest.raises(UsageError, match="3 labels for an output of 2 classes"):
        complete(metadata.read(None, ("a", "b", "c"), None))
    binary = metadata.read({"interpret": {"output": "ink", "labels": ["no", "yes"]}}, None, None)
    assert complete(binary) == binary.interpret


def test_folders_of_some_classes_do_not_tell_their_indices():
    with pytest.raises(DataError, match="names 3 classes, the model has 2"):
        complete(metadata.read(None, None, None), class_names=("a", "b", "c"))


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("[preprocess]\nstd = [0.0]", "std"),
        ("[interpret]\ntask = 'classify'", "task"),
        ("[interpret]\ncolour = 1", "unknown field colour"),
        ("[feed]\nx = 1", "unknown table feed"),
        ("= nonsense", "TOML"),
    ],
)
def test_wrong_metadata_names_the_field(tmp_path, text, word):
    file = tmp_path / "feed.toml"
    file.write_text(text)
    with pytest.raises(UsageError, match=word) as caught:
        metadata.read(file, None, None)
    assert caught.value.code == "metadata-invalid"


def test_missing_metadata_and_labels_are_missing_files(tmp_path):
    with pytest.raises(MissingFileError):
        metadata.read(tmp_path / "no.toml", None, None)
    with pytest.raises(MissingFileError):
        metadata.read(None, tmp_path / "no.txt", None)


PICTURE = TensorSpec("x", (None, 3, 8, 8), "float32", "NCHW")


@pytest.mark.parametrize(
    ("how", "inputs"),
    [
        (Preprocess(scale=0.5), (PICTURE,)),
        (Preprocess(mean=(1.0,)), (PICTURE, PICTURE)),
        (Preprocess("image", mean=(1.0, 2.0)), (PICTURE,)),
        (Preprocess("image", std=(1.0, 2.0)), (TensorSpec("x", (1, None, None, 3), "float32"),)),
        (Preprocess("waveform", std=(1.0, 2.0)), (TensorSpec("x", (None, 8), "float32"),)),
        (
            Preprocess("table", mean=(1.0, 2.0), table=TableSteps(("a", "b", "c"))),
            (TensorSpec("x", (1, 3), "float32"),),
        ),
    ],
)
def test_preparation_that_would_never_take_effect_is_refused(how, inputs):
    assert code_of(lambda: metadata.check_inputs(how, inputs)) == "metadata-invalid"


@pytest.mark.parametrize(
    ("how", "spec"),
    [
        (Preprocess(), PICTURE),
        (Preprocess("image", mean=(1.0, 2.0, 3.0), std=(2.0,)), PICTURE),
        (Preprocess("image", mean=(1.0, 2.0, 3.0, 4.0)), TensorSpec("x", (None, 4, 8, 8), "float32")),
        (Preprocess("image", mean=(1.0, 2.0)), TensorSpec("x", (None, None, None, None), "float32")),
        (Preprocess("waveform", mean=(1.0, 2.0)), TensorSpec("x", (None, 9, 2), "float32")),
        (Preprocess("waveform", mean=(1.0, 2.0)), TensorSpec("x", (None, None), "float32")),
    ],
)
def test_preparation_that_takes_effect_is_not_refused(how, spec):
    metadata.check_inputs(how, (spec,))
