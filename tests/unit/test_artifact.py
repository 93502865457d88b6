"""Artifacts: plain model files with verified members inside; one changed byte is noticed, whatever byte it is."""

from __future__ import annotations

import hashlib
import io
import os
import random
import struct
import zipfile

import numpy as np
import pytest

from edgekit import artifact
from edgekit.errors import ArtifactError, EdgeKitError, MissingFileError
from edgekit.formats import read_facts

FORMATS = ("tflite", "onnx")


@pytest.fixture(params=FORMATS)
def sample(request, tiny, describe_tiny) -> artifact.Artifact:
    model = tiny[request.param]
    return artifact.assemble(request.param, model, *describe_tiny(request.param, model))


def notices(data: bytes) -> str:
    """Code of the error that reading `data` ends with; "" for none."""
    try:
        artifact.from_bytes(data)
    except ArtifactError as error:
        return error.code
    return ""


def test_round_trip(sample, tmp_path, tiny, describe_tiny):
    written = sample.write(tmp_path / "model.bin")
    back = artifact.read(written.path)
    about, selftest = describe_tiny(sample.format, tiny[sample.format])
    assert (back.format, back.manifest, back.selftest) == (sample.format, about, selftest)
    assert back.model == tiny[sample.format]
    assert back.sha256 == hashlib.sha256((tmp_path / "model.bin").read_bytes()).hexdigest()


def test_what_is_printed_of_one_is_short(sample):
    assert len(repr(sample)) < 200


def test_equal_arguments_give_equal_bytes(sample, tiny, describe_tiny):
    model = tiny[sample.format]
    again = artifact.assemble(sample.format, bytes(bytearray(model)), *describe_tiny(sample.format, model))
    assert again.data == sample.data


@pytest.mark.parametrize(("format", "spelled"), [("tflite", "acc639f674f1d5ce"), ("onnx", "a76a9e7d29133ecd")])
def test_the_members_are_spelled_the_same_everywhere(format, spelled):
    """Written on one Python, compared on another: not one byte of the tail may depend on a library's version."""
    tail = artifact._tail(
        format, b"model", {"edgekit.json": b"{}", "edgekit.selftest.json": b"[]", "edgekit.sha256": b"0"}
    )
    assert hashlib.sha256(tail).hexdigest()[:16] == spelled


def test_assembling_an_artifact_again_replaces_its_members(sample, describe_tiny):
    again = artifact.assemble(sample.format, sample.data, *describe_tiny(sample.format, sample.model))
    assert again.data == sample.data


def test_other_tools_list_the_members_of_a_tflite_file(tiny, describe_tiny):
    model = tiny["tflite"]
    data = artifact.assemble("tflite", model, *describe_tiny("tflite", model)).data
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.namelist() == ["edgekit.json", "edgekit.selftest.json", "edgekit.sha256"]
        assert archive.testzip() is None
        assert b'"schema": 1' in archive.read("edgekit.json")
        # Offsets count from the start of the file, as unzip and the metadata readers of TFLite expect.
        assert data[archive.infolist()[0].header_offset :][:4] == b"PK\3\4"
    at = data.rindex(b"PK\5\6")
    assert struct.unpack_from("<I", data, at + 16)[0] == data.index(b"PK\1\2")


def test_files_packed_by_the_metadata_convention_stay_listed(tiny, describe_tiny):
    packed = io.BytesIO(tiny["tflite"])
    with zipfile.ZipFile(packed, "a") as archive:
        archive.writestr("labels.txt", "cat\ndog\n")
    foreign = artifact.from_bytes(packed.getvalue())
    assert foreign.members == {}
    assert foreign.model == packed.getvalue()
    ours = artifact.assemble("tflite", packed.getvalue(), *describe_tiny("tflite", packed.getvalue()))
    assert artifact.from_bytes(ours.data).model == packed.getvalue()
    with zipfile.ZipFile(io.BytesIO(ours.data)) as archive:
        assert archive.read("labels.txt") == b"cat\ndog\n"
        assert "edgekit.json" in archive.namelist()


def test_litert_runs_an_assembled_file(tiny, describe_tiny):
    from ai_edge_litert.interpreter import Interpreter

    data = artifact.assemble("tflite", tiny["tflite"], *describe_tiny("tflite", tiny["tflite"])).data
    answers = []
    for content in (tiny["tflite"], data):
        interpreter = Interpreter(model_content=content)
        answers.append(interpreter.get_signature_runner()(x=np.ones((1, 4), np.float32))["y"])
    assert answers[0].sum() == pytest.approx(1)
    np.testing.assert_array_equal(*answers)


def test_onnxruntime_and_onnx_open_an_assembled_file(tiny, describe_tiny):
    import onnx
    import onnxruntime

    data = artifact.assemble("onnx", tiny["onnx"], *describe_tiny("onnx", tiny["onnx"])).data
    onnx.checker.check_model(onnx.load_from_string(data))
    answers = []
    for content in (tiny["onnx"], data):
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        answers.append(session.run(None, {"x": np.ones((1, 4), np.float32)})[0])
    np.testing.assert_array_equal(*answers)
    assert set(session.get_modelmeta().custom_metadata_map) == {
        "edgekit.json",
        "edgekit.selftest.json",
        "edgekit.sha256",
    }


def test_every_flipped_byte_is_noticed(sample):
    rng = random.Random(1)
    for at in range(len(sample.data)):
        for flip in {1 << rng.randrange(8), rng.randrange(1, 256)}:
            data = bytearray(sample.data)
            data[at] ^= flip
            assert notices(bytes(data)), f"byte {at} of {len(data)} xor {flip}"


def test_every_bit_of_the_framing_is_noticed(sample):
    """The bytes that say where things lie, where a change might hide the rest."""
    places = [*range(64), *range(sample.model_bytes - 24, min(sample.model_bytes + 80, len(sample.data)))]
    for at in [*places, *range(len(sample.data) - 260, len(sample.data))]:
        for bit in range(8):
            data = bytearray(sample.data)
            data[at] ^= 1 << bit
            assert notices(bytes(data)), f"byte {at} bit {bit}"


def test_no_truncation_passes_for_the_artifact(sample):
    """Cut within the members: damaged, or nothing of ours is left behind a model that is whole."""
    for length in range(len(sample.data)):
        cut = sample.data[:length]
        try:
            left = artifact.from_bytes(cut)
            facts = read_facts(left)
        except ArtifactError:
            continue
        assert not left.members
        assert left.manifest is None
        assert length >= sample.model_bytes, f"cut at {length} of {sample.model_bytes}: {facts}"
        assert length < sample.model_bytes + 42, "the first member's name is there: it must be seen as torn"


def test_a_skipped_check_still_reads_the_members(sample):
    data = bytearray(sample.data)
    data[sample.model_bytes // 2] ^= 1
    assert notices(bytes(data)) in ("artifact-damaged", "artifact-unknown")
    if artifact.format_of(bytes(data)):
        assert artifact.from_bytes(bytes(data), verify=False).manifest.precision == "fp32"


def test_a_member_more_or_less_is_damage(sample):
    members = dict(sample.members)
    del members["edgekit.selftest.json"]
    tail = artifact._metadata(members) if sample.format == "onnx" else b""
    if tail:
        assert notices(sample.model + tail) == "artifact-damaged"
    assert notices(sample.data + b"\0") == ("artifact-unknown" if sample.format == "onnx" else "artifact-damaged")
    more = sample.data + artifact.field(artifact._METADATA_PROPS, artifact.field(1, b"a") + artifact.field(2, b"b"))
    assert notices(more) == "artifact-damaged"


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "artifact-unknown"),
        (b"TFL3", "artifact-unknown"),
        (b"not a model at all, only words", "artifact-unknown"),
        (bytes(1000), "artifact-unknown"),
        (b"\x08\x01" * 200_000, "artifact-unknown"),
        (b"PK\x03\x04" + bytes(50), "artifact-unknown"),
    ],
)
def test_what_is_no_model_is_refused(content, code, tmp_path):
    (tmp_path / "x.onnx").write_bytes(content)
    with pytest.raises(ArtifactError) as caught:
        artifact.read(tmp_path / "x.onnx")
    assert caught.value.code == code


def test_paths_that_cannot_be_read(tmp_path):
    for path in (tmp_path / "absent", tmp_path, tmp_path / "absent" / "x"):
        with pytest.raises(MissingFileError) as missing:
            artifact.read(path)
        assert missing.value.code == "file-missing"
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(MissingFileError, match="not a file"):
        artifact.read(tmp_path / "pipe")
    with open(tmp_path / "huge", "wb") as file:
        file.truncate(3 << 30)
    with pytest.raises(ArtifactError, match="ends at") as huge:
        artifact.read(tmp_path / "huge")
    assert huge.value.code == "file-unreadable"
    with pytest.raises(ArtifactError) as long:
        artifact.read(tmp_path / ("x" * 5000))
    assert long.value.code == "file-unreadable"


def test_only_the_top_level_is_scanned():
    """A hundred megabytes of weights cost no more steps than a hundred bytes."""
    payload = bytes(50 << 20)
    data = b"\x08\x08" + artifact.field(7, payload) + artifact.field(8, b"\x10\x11")
    steps = list(artifact.scan(data))
    assert [number for number, *_ in steps] == [1, 7, 8]
    assert artifact.format_of(data) == "onnx"


def test_a_zip_that_names_one_member_many_times_costs_one_read(sample, tiny):
    if sample.format == "onnx":
        pytest.skip("a zip belongs to TFLite")
    name = b"edgekit.json"
    size = len(tiny["tflite"])
    common = (0, 0, 0, artifact._EPOCH, 0, size, size, len(name), 0)
    entry = artifact._CENTRAL.pack(b"PK\1\2", 20, 20, *common, 0, 0, 0, 0, 0) + name
    directory = entry * 9000
    end = artifact._END.pack(b"PK\5\6", 0, 0, 9000, 9000, len(directory), size, 0)
    assert notices(tiny["tflite"] + directory + end) == "artifact-damaged"


@pytest.mark.parametrize("seed", range(6))
def test_mutated_artifacts_give_typed_errors_only(sample, mutated, seed, effort):
    rng = random.Random(seed)
    seen = set()
    for _ in range(150 * effort):
        data = mutated(rng, sample.data)
        try:
            found = artifact.from_bytes(data, verify=False)
            _ = (found.manifest, found.selftest)
            artifact.from_bytes(data)
            assert data == sample.data or not found.members
        except EdgeKitError as error:
            assert isinstance(error, ArtifactError)
            seen.add(error.code)
    assert "artifact-damaged" in seen


def test_endless_json_is_a_typed_error(tiny, sample):
    members = {"edgekit.json": b"[" * 200_000, "edgekit.selftest.json": b"[" * 200_000}
    members["edgekit.sha256"] = artifact._digest(tiny[sample.format], members)
    hostile = artifact.from_bytes(tiny[sample.format] + artifact._tail(sample.format, tiny[sample.format], members))
    with pytest.raises(ArtifactError) as about:
        _ = hostile.manifest
    with pytest.raises(ArtifactError) as test:
        _ = hostile.selftest
    assert (about.value.code, test.value.code) == ("manifest-invalid", "selftest-invalid")
