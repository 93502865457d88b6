"""`inspect`: one document about any model file, ours or foreign."""

from __future__ import annotations

import hashlib
import json

import pytest

from edgekit import artifact
from edgekit.errors import ArtifactError, MissingFileError
from edgekit.inspect import inspect

CONTRACT = {"inputs", "outputs", "ops", "parameters", "macs", "bytes", "manifest"}


@pytest.fixture(params=["tflite", "onnx"])
def ours(request, tiny, describe_tiny, tmp_path):
    model = tiny[request.param]
    made = artifact.assemble(request.param, model, *describe_tiny(request.param, model))
    return made.write(tmp_path / f"model.{request.param}")


def test_a_file_of_ours(ours):
    seen = inspect(ours.path)
    assert (seen.digest, seen.selftest, seen.precision) == ("verified", 1, "fp32")
    assert seen.manifest == ours.manifest
    assert seen.inputs == ours.manifest.inputs
    assert (seen.parameters, seen.weight_bytes, seen.macs) == (15, 60, 12)
    assert seen.bytes == len(ours.data)
    assert seen.sha256 == hashlib.sha256(ours.data).hexdigest()
    assert not set(seen.metadata) & {"edgekit.json", "edgekit.selftest.json", "edgekit.sha256"}


def test_a_foreign_file(tiny, tmp_path):
    for format, model in tiny.items():
        path = tmp_path / f"foreign.{format}"
        path.write_bytes(model)
        seen = inspect(str(path))
        assert (seen.digest, seen.selftest, seen.manifest, seen.format) == ("absent", 0, None, format)
        assert [spec.describe() for spec in seen.inputs] == ["x float32 [N,4]"]
        document = json.loads(json.dumps(seen.encode()))
        assert document["manifest"] is None
        assert document["inputs"][0]["shape"] == [None, 4]


def test_every_field_of_the_contract_is_there_even_when_unknown(ours, make_tflite, tmp_path):
    document = json.loads(json.dumps(inspect(ours.path).to_dict()))
    assert set(document) >= CONTRACT
    assert document["manifest"]["provenance"]["framework"] == "keras"
    tensors = [{"name": name, "shape": (1, 2), "dtype": "FLOAT32"} for name in "xy"]
    (tmp_path / "custom.tflite").write_bytes(make_tflite(tensors, [(("CUSTOM", "Mine"), (0,), (1,), None)], (0,), (1,)))
    unknown = inspect(tmp_path / "custom.tflite").encode()
    assert unknown["macs"] is None
    assert unknown["ops"] == {"CUSTOM:Mine": 1}
    assert set(unknown) == set(document)


def test_a_damaged_file_is_refused_unless_asked(ours):
    data = bytearray(ours.data)
    at = data.index(b'"schema"')
    data[at + 1] = ord("S")
    ours.path.write_bytes(data)
    with pytest.raises(ArtifactError) as caught:
        inspect(ours.path)
    assert caught.value.code == "artifact-damaged"
    with pytest.raises(ArtifactError) as invalid:
        inspect(ours.path, verify=False)
    assert invalid.value.code == "manifest-invalid"
    data[at + 1] = ord("s")
    data[data.index(b"keras")] = ord("K")
    ours.path.write_bytes(data)
    seen = inspect(ours.path, verify=False)
    assert (seen.digest, seen.manifest.provenance.framework) == ("skipped", "Keras")


def test_a_missing_file(tmp_path):
    with pytest.raises(MissingFileError):
        inspect(tmp_path / "absent.onnx")


def test_the_real_models(shared):
    paths = sorted(p for p in (shared / "models").rglob("*") if p.suffix in (".tflite", ".onnx"))
    assert len(paths) >= 13
    for path in paths:
        seen = inspect(path)
        assert seen.format == path.suffix[1:]
        assert seen.digest == "absent"
        assert seen.parameters > 1000
        assert seen.macs > 50_000
        assert seen.arena_bytes > 1000
        assert all(spec.quant is None for spec in seen.inputs if spec.dtype == "float32")
        assert all(spec.quant is not None for spec in (*seen.inputs, *seen.outputs) if spec.dtype.endswith("int8"))
        json.dumps(seen.encode(), allow_nan=False)
