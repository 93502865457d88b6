"""What a source is: by its content, whatever its name; and what is refused before any framework opens it."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import socket
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import edgekit
from edgekit import artifact as artifacts
from edgekit import errors
from edgekit.converters import _foreign, loaders, lowerings
from edgekit.converters.from_onnx import scan as scan_onnx
from edgekit.converters.sources import identify, identify_live, lowering_for, routes
from edgekit.options import Options
from edgekit.pipeline import identified


def field(number: int, content: bytes) -> bytes:
    """A length-delimited protobuf field of less than 16 kB."""
    size = len(content)
    length = bytes([size]) if size < 128 else bytes([size & 0x7F | 0x80, size >> 7])
    return bytes([number << 3 | 2]) + length + content


def archive(*members: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        for name in members:
            file.writestr(name, b"content")
    return stream.getvalue()


def code_of(path: Path, **about) -> str:
    with pytest.raises(errors.EdgeKitError) as caught:
        identify(path, **about)
    assert caught.value.next_step
    return caught.value.code


# -- Kinds ------------------------------------------------------------------------------------------------------


@pytest.fixture
def contents(tiny_files) -> dict[str, bytes]:
    return {kind: path.read_bytes() for kind, path in tiny_files.items()}


@pytest.mark.parametrize("kind", ["onnx", "tflite"])
@pytest.mark.parametrize("name", ["model", "model.{}", "MODEL.{}", "model.bin", "model.v2", "x.{}.backup"])
def test_the_content_decides(kind, name, contents, tmp_path):
    path = tmp_path / (name.format(kind.upper() if name[0] == "M" else kind))
    path.write_bytes(contents[kind])
    source = identify(path, signature="s", shapes={"x": (1,)}, trusted=True)
    assert (source.kind, source.bytes) == (kind, len(contents[kind]))
    assert (source.signature, source.shapes, source.trusted) == ("s", {"x": (1,)}, True)
    assert len(source.sha256) == 64


@pytest.mark.parametrize(
    ("kind", "suffix", "promised"),
    [("onnx", ".tflite", "a TFLite model"), ("tflite", ".onnx", "an ONNX model"), ("onnx", ".keras", "a Keras model"),
     ("tflite", ".pkl", "a file of an estimator"), ("tflite", ".h5", "a Keras model"),
     ("onnx", ".pt", "a PyTorch file"), ("onnx", ".gguf", "a GGUF file"), ("tflite", ".safetensors", "a PyTorch file")],
)  # fmt: skip
def test_a_name_that_promises_another_kind_is_refused(kind, suffix, promised, contents, tmp_path):
    path = tmp_path / f"model{suffix}"
    path.write_bytes(contents[kind])
    with pytest.raises(errors.SourceError, match=f"promises {promised}.*rename the file as") as caught:
        identify(path)
    assert caught.value.code == "source-mismatch"
    assert caught.value.details["found"] == kind


def test_a_folder_with_a_graph_is_a_saved_model(tmp_path):
    folder = tmp_path / "m"
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"\x08\x01")
    assert identify(folder).kind == "saved_model"
    renamed = folder.rename(tmp_path / "m.onnx")
    with pytest.raises(errors.SourceError, match="rename the folder without the") as caught:
        identify(renamed)
    assert caught.value.code == "source-mismatch"


def test_two_loaders_that_want_one_file(contents, tmp_path, monkeypatch):
    """The name decides between them, and where it does not, nobody does."""
    onnx, tflite = loaders.get("onnx"), loaders.get("tflite")
    monkeypatch.setattr(tflite, "recognizes", lambda path: path.is_file())
    path = tmp_path / "m.bin"
    path.write_bytes(contents["onnx"])
    assert code_of(path) == "source-ambiguous"
    assert identify(path.rename(tmp_path / "m.onnx")).kind == onnx.NAME


# -- Paths ------------------------------------------------------------------------------------------------------


def test_paths_that_are_no_models(tmp_path):
    (tmp_path / "empty.onnx").touch()
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe.onnx")
    with socket.socket(socket.AF_UNIX) as listening:
        here = Path.cwd()
        os.chdir(tmp_path)  # socket paths are short
        try:
            listening.bind("socket.onnx")
        finally:
            os.chdir(here)
        assert code_of(tmp_path / "socket.onnx") == "source-special"
    assert code_of(tmp_path / "pipe.onnx") == "source-special"
    assert code_of(Path("/dev/zero")) == "source-special"
    assert code_of(tmp_path / "empty.onnx") == "source-empty"
    assert code_of(tmp_path / "folder") == "source-empty"
    assert code_of(tmp_path / "nothing.onnx") == "file-missing"
    assert code_of(tmp_path / "empty.onnx" / "below") == "file-unreadable"
    assert code_of(tmp_path / "null\0byte") == "file-unreadable"
    assert code_of(tmp_path / ("x" * 300)) == "file-unreadable"
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    assert code_of(tmp_path / "circle") == "file-unreadable"


def test_a_link_to_a_model_is_the_model(tiny_files, tmp_path):
    """The user named it; only what a file names by itself may not be a link."""
    (tmp_path / "link.onnx").symlink_to(tiny_files["onnx"])
    assert identify(tmp_path / "link.onnx").sha256 == identify(tiny_files["onnx"]).sha256


def test_folders_without_a_graph_name_the_files_inside(tiny_files, tmp_path):
    (tmp_path / "a.onnx").write_bytes(tiny_files["onnx"].read_bytes())
    with pytest.raises(errors.SourceError, match="no SavedModel") as caught:
        identify(tmp_path)
    assert caught.value.code == "source-unknown"
    assert "a.onnx" in caught.value.next_step


TORCH = {
    "weights": archive("model/version", "model/data.pkl"),
    "script": archive("model/data.pkl", "model/constants.pkl", "model/code/a.py"),
    "program": archive("archive_format"),
    "program in a folder": archive("model/archive_format", "model/models/model.json"),
    "legacy": b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.",
    "safetensors": struct.pack("<Q", 60) + b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'.ljust(64),
}


@pytest.mark.parametrize("name", TORCH)
def test_files_of_pytorch_are_known_by_their_content(name, tmp_path):
    path = tmp_path / "m"
    path.write_bytes(TORCH[name])
    source = identify(path, model="nets:tiny", dtypes={"ids": "int64"})
    assert (source.kind, source.model, source.dtypes) == ("torch", "nets:tiny", {"ids": "int64"})


def test_code_of_a_network_is_for_weights(tiny_files):
    assert code_of(tiny_files["onnx"], model="nets:tiny") == "torch-code-unused"


def test_signatures_are_for_kinds_that_have_any(tiny_files, tmp_path):
    assert identified(tiny_files["tflite"], Options(to="onnx", signature="serve"), tmp_path).signature == "serve"
    (tmp_path / "m.keras").write_bytes(archive("config.json", "metadata.json"))
    for path in (tiny_files["onnx"], tmp_path / "m.keras"):
        with pytest.raises(errors.UsageError, match="has no signatures") as caught:
            identified(path, Options(to="onnx", signature="foo"), tmp_path)
        assert caught.value.code == "signature-unknown"


# -- What is known, but not read --------------------------------------------------------------------------------

FOREIGN = {
    "torch lite": (archive("model/version", "model/data.pkl", "model/bytecode.pkl"), "a PyTorch Mobile file"),
    "frozen graph": (field(1, field(1, b"x") + field(2, b"Placeholder")), "a frozen TensorFlow 1 graph"),
    "core ml": (b"\x08\x05" + field(2, field(1, b"d")) + b"\xa2\x1f\x02ab", "a Core ML model"),
    "core ml package": (archive("m.mlpackage/Data/m.mlmodel"), "a Core ML model"),
    "tensorrt": (b"ftrt" + b"\0" * 60, "a TensorRT engine"),
    "ort": (b"\x18\0\0\0ORTM" + b"\0" * 60, "onnxruntime's own format"),
    "executorch": (b"\x18\0\0\0ET12" + b"\0" * 60, "an ExecuTorch program"),
    "gguf": (b"GGUF\x03\0\0\0" + b"\0" * 60, "a GGUF file"),
    "numpy": (b"\x93NUMPY\x01\0" + b"\0" * 60, "numpy arrays"),
    "numpy archive": (archive("x.npy", "y.npy"), "numpy arrays"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "a Git LFS pointer"),
    "ncnn": (b"7767517\n2 2\n", "an ncnn model"),
    "gzip": (gzip.compress(b"abc"), "an archive"),
    "zip": (archive("readme.txt"), "an archive"),
    "task": (archive("pose.tflite"), "a bundle of models"),
    "web page": (b"<!DOCTYPE html><html><body>blob</body></html>", "a web page"),
    "openvino": (b'<?xml version="1.0"?>\n<net name="m" version="11"></net>', "an OpenVINO model"),
    "tfjs": (json.dumps({"format": "layers-model", "modelTopology": {}, "weightsManifest": []}).encode(),
             "a TensorFlow.js model"),
}  # fmt: skip


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("suffix", ["", ".bin"])
def test_known_kinds_are_refused_by_name_with_the_way_to_a_source(name, suffix, tmp_path):
    content, what = FOREIGN[name]
    path = tmp_path / f"m{suffix}"
    path.write_bytes(content)
    with pytest.raises(errors.SourceError, match=what) as caught:
        identify(path)
    assert caught.value.code == "source-unsupported"
    assert "What is read: " in caught.value.next_step


@pytest.mark.parametrize(("suffix", "what"), [(".ptl", "PyTorch"), (".index", "checkpoint"), (".caffemodel", "Caffe")])
def test_unknown_contents_are_refused_by_the_name(suffix, what, tmp_path):
    path = tmp_path / f"m{suffix}"
    path.write_bytes(b"\x01\x02 nothing that anybody knows")
    with pytest.raises(errors.SourceError, match=what) as caught:
        identify(path)
    assert caught.value.code == "source-unsupported"


def test_packages_of_core_ml_are_refused_by_name(tmp_path):
    package = tmp_path / "m.mlpackage"
    (package / "Data").mkdir(parents=True)
    with pytest.raises(errors.SourceError, match="Core ML package") as caught:
        identify(package)
    assert caught.value.code == "source-unsupported"


@pytest.mark.parametrize("suffix", ["", ".onnx", ".tflite", ".keras", ".h5", ".pt", ".safetensors"])
def test_nonsense_is_unknown_whatever_its_name_says(suffix, tmp_path):
    path = tmp_path / f"m{suffix}"
    path.write_bytes(b"\x01\x02 nothing that anybody knows")
    assert code_of(path) == "source-unknown"


def test_no_pickle_is_opened(tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    for name in ("m.pkl", "m.joblib", "m"):
        (tmp_path / name).write_bytes(pickle.dumps(Trap()))
        assert identify(tmp_path / name).kind == "sklearn"
    (tmp_path / "m.pt").write_bytes(pickle.dumps(Trap()))
    assert code_of(tmp_path / "m.pt") == "source-mismatch"
    assert not (tmp_path / "sprung").exists()


# -- Hostile files ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.3, 0.6, 0.99])
def test_onnx_files_that_were_cut_off_are_told_so(share, contents, tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(contents["onnx"][: int(len(contents["onnx"]) * share)])
    with pytest.raises(errors.SourceError, match=r"cut off: at least \d+ bytes are missing") as caught:
        identify(path)
    assert caught.value.code == "source-unreadable"
    with pytest.raises(errors.ArtifactError, match=r"cut off: \d+ bytes are missing") as read:
        artifacts.read(path)
    assert read.value.code == "artifact-damaged"


@pytest.mark.parametrize(("name", "noun"), [("m.keras", "a Keras model"), ("m.zip", "an archive")])
def test_archives_that_were_cut_off_are_told_so(name, noun, tmp_path):
    whole = archive("config.json", "metadata.json", "model.weights.h5")
    for size in (60, len(whole) // 2, len(whole) - 30):
        (tmp_path / name).write_bytes(whole[:size])
        with pytest.raises(errors.SourceError, match=f"{noun} that was cut off") as caught:
            identify(tmp_path / name)
        assert caught.value.code == "source-unreadable"


def test_a_length_of_exabytes_costs_nothing(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(b"\x08\x08\x3a" + b"\xff" * 8 + b"\x7f" + b"\0" * 100)
    assert code_of(path) in ("source-unreadable", "source-unknown")


def test_endless_fields_are_given_up(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(b"\x08\x08" * 300_000)
    assert not scan_onnx.is_model(path)
    assert code_of(path) == "source-unknown"


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.sampled_from(["", ".onnx", ".tflite", ".keras", ".pt", ".zip"]))
def test_any_bytes_give_a_source_or_a_typed_error(tmp_path_factory, content, suffix):
    path = tmp_path_factory.mktemp("any") / f"m{suffix}"
    path.write_bytes(content)
    try:
        identify(path)
    except errors.SourceError as error:
        assert error.code.startswith(("source-", "file-"))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_mutated_models_give_a_source_or_a_typed_error(tiny_files, tmp_path_factory, data):
    content = bytearray(tiny_files[data.draw(st.sampled_from(["onnx", "tflite"]))].read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, min(400, len(content) - 1)))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("mutated") / "m"
    path.write_bytes(content)
    try:
        identify(path)
        scan_onnx.external_files(path)
    except errors.SourceError as error:
        assert error.code.startswith("source-")


@pytest.mark.parametrize(
    "location",
    ["../secret", "/etc/passwd", "a/../../secret", "", ".", "./", "C:\\secret", "a\\b", "nul\0l", "c:x", "..", "a/.."],
)
def test_external_data_stays_in_the_folder(location, tmp_path):
    (tmp_path / "secret").write_bytes(b"x")
    folder = tmp_path / "model"
    (folder / "a").mkdir(parents=True)
    with pytest.raises(errors.UnsafeSourceError) as caught:
        scan_onnx.open_external(folder, location)
    assert caught.value.code == "source-unsafe-path"


@pytest.mark.parametrize("location", ["w.bin", "./w.bin", "a//w.bin", "a/./w.bin"])
def test_external_data_inside_the_folder_is_opened(location, tmp_path):
    (tmp_path / "a").mkdir()
    for place in ("w.bin", "a/w.bin"):
        (tmp_path / place).write_bytes(place.encode())
    with scan_onnx.open_external(tmp_path, location) as file:
        assert file.read() == (b"a/w.bin" if location.startswith("a") else b"w.bin")


def test_a_folder_of_the_way_that_becomes_a_file(tmp_path):
    (tmp_path / "a").write_bytes(b"")
    with pytest.raises(errors.SourceError) as caught:
        scan_onnx.open_external(tmp_path, "a/w.bin")
    assert caught.value.code == "source-weights-missing"


# -- Routes -----------------------------------------------------------------------------------------------------


def test_the_routes_that_there_must_be():
    known = routes()
    assert {"onnx", "tflite"} <= set(known["keras"])
    assert {"onnx", "tflite"} <= set(known["saved_model"])
    assert {"onnx", "tflite"} <= set(known["tflite"])
    for kind in ("onnx", "torch", "sklearn"):
        assert {"onnx", "tflite"} <= set(known[kind])
    for kind, formats in known.items():
        for format in formats:
            assert kind in lowerings.get(lowering_for(kind, format)).FRAMEWORKS


@pytest.mark.parametrize(("kind", "format"), [("onnx", "coreml"), ("caffe", "onnx")])
def test_missing_routes_are_refused_with_those_that_exist(kind, format):
    with pytest.raises(errors.ConversionError, match="no route leads from") as caught:
        lowering_for(kind, format)
    assert caught.value.code == "route-missing"
    assert caught.value.details["routes"] == routes()
    assert "onnx" in str(caught.value)


# -- Live objects -----------------------------------------------------------------------------------------------


def test_paths_are_taken_as_they_are(tmp_path):
    assert identify_live("a/b.onnx", tmp_path) == Path("a/b.onnx")
    assert identify_live(tmp_path / "m", tmp_path) == tmp_path / "m"


@pytest.mark.parametrize("kind", ["onnx", "tflite"])
@pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview])
def test_bytes_convert_without_a_file(kind, wrap, contents):
    made = edgekit.convert(wrap(contents[kind]), to=kind)
    assert made.format == kind
    assert made.manifest.provenance.framework == kind


def test_protobufs_convert_without_a_file(contents):
    onnx = pytest.importorskip("onnx", reason="comes with the convert extra")
    model = onnx.ModelProto.FromString(contents["onnx"])
    before = model.SerializeToString()
    assert edgekit.convert(model, to="onnx").format == "onnx"
    assert model.SerializeToString() == before


def pretender(module: str) -> object:
    return type("Net", (), {"__module__": module})()


@pytest.mark.parametrize(
    ("thing", "message"),
    [
        (3, "a builtins.int cannot be converted"),
        (None, "a builtins.NoneType"),
        (b"no model", "a builtins.bytes"),
        (np.zeros(3), "a numpy.ndarray"),
        (pretender("torch.nn"), "a PyTorch object .* cannot be converted yet"),
        (pretender("sklearn.svm"), "an object of scikit-learn's kind"),
        (pretender("xgboost"), "an object of scikit-learn's kind"),
        (pretender("catboost"), "a CatBoost model"),
    ],
)
def test_other_objects_are_refused_by_their_class(thing, message, tmp_path):
    with pytest.raises(errors.UsageError, match=message) as caught:
        identify_live(thing, tmp_path)
    assert caught.value.code == "source-object"
    assert caught.value.next_step
    assert not list(tmp_path.iterdir())


def test_judging_a_file_loads_no_framework(tiny_files):
    """The check is the parent's work: it must not parse a hostile file with anything but the standard library."""
    script = f"""
import sys
from edgekit.converters.sources import identify
identify({str(tiny_files["onnx"])!r}), identify({str(tiny_files["tflite"])!r})
frameworks = "onnx", "onnxruntime", "tensorflow", "keras", "ai_edge_litert", "torch", "sklearn", "joblib", "skops"
print([name for name in frameworks if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_foreign_kind_tells_a_way():
    for kind in vars(_foreign).values():
        if isinstance(kind, _foreign.Foreign):
            assert kind.what[:2] in ("a ", "an", "nu", "on"), kind
            assert kind.route
    suffixes = [suffix for kind in _foreign._ALL for suffix in kind.suffixes]
    assert len(set(suffixes)) == len(suffixes)
    assert not set(suffixes) & {suffix for loader in loaders.all() for suffix in loader.SUFFIXES}
