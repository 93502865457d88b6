"""Keras and SavedModel files are judged before any framework sees them."""

from __future__ import annotations

import io
import json
import stat
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.converters import load_keras
from edgekit.converters.from_tensorflow import scan_keras as scan
from edgekit.converters.from_tensorflow import scan_saved_model as scan_graph
from edgekit.errors import SourceError, UnsafeSourceError

h5py = pytest.importorskip("h5py", reason="comes with the tensorflow extra")

DENSE = {"module": "keras.layers", "class_name": "Dense", "config": {"name": "d", "units": 2}, "registered_name": None}


def sequential(*layers: dict) -> dict:
    return {
        "module": "keras",
        "class_name": "Sequential",
        "config": {"name": "m", "layers": list(layers)},
        "registered_name": None,
    }


def hdf5(build=lambda file: None, **attributes: str) -> bytes:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.create_group("layers").create_dataset("w", data=np.ones((2, 3), "float32"))
        file.attrs.update(attributes)
        build(file)
    return buffer.getvalue()


def archive(path: Path, config: dict | None = None, weights: bytes | None = None, extra=()) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("metadata.json", json.dumps({"keras_version": "3.15.1"}))
        file.writestr("config.json", json.dumps(sequential(DENSE) if config is None else config))
        file.writestr("model.weights.h5", hdf5() if weights is None else weights)
        for info, data in extra:
            file.writestr(info, data)
    return path


def what(config: object) -> list[tuple[str, str]]:
    return [(finding.kind, finding.what) for finding in scan.judge(config)]


# -- Configurations --------------------------------------------------------------------------------------------


def test_ordinary_configuration_passes(tmp_path: Path) -> None:
    found = scan.scan(archive(tmp_path / "m.keras"), trusted=False)
    assert (found.container, found.generation, found.findings) == ("zip", 3, ())


@pytest.mark.parametrize(
    "layer",
    [
        DENSE,
        {"module": "keras.src.ops.numpy", "class_name": "Multiply", "config": {}, "registered_name": "Multiply"},
        {"module": "keras.src.models.functional", "class_name": "Functional", "config": {}},
        {"module": "keras", "class_name": "DTypePolicy", "config": {"name": "float32"}},
        {"module": "keras.random", "class_name": "SeedGenerator", "config": {}},
        {"module": "builtins", "class_name": "function", "config": "relu", "registered_name": "function"},
        {"module": "keras.activations", "class_name": "function", "config": "gelu"},
        {"class_name": "__keras_tensor__", "config": {"shape": [None, 4]}, "module": None},
        {"class_name": "Conv2D", "config": {"name": "legacy, without a module"}},
        {"class_name": "TFOpLambda", "config": {"name": "tf.nn.relu", "function": "nn.relu"}},
        {"class_name": "SlicingOpLambda", "config": {"function": "__operators__.getitem"}},
        {"class_name": "StringLookup", "config": {"vocabulary": ["a", "b"]}},
    ],
)
def test_harmless_objects(layer: dict) -> None:
    assert what(sequential(layer)) == []


@pytest.mark.parametrize(
    ("layer", "word"),
    [
        ({"module": "keras.layers", "class_name": "Lambda", "config": {"name": "mine"}}, "Lambda 'mine'"),
        ({"class_name": "Lambda", "config": {"function": ["4wEA", None, None]}}, "Lambda"),
        ({"class_name": "__lambda__", "config": {"value": "4wEA"}}, "serialized Python function"),
        ({"module": "keras.layers", "class_name": "TFSMLayer", "config": {"filepath": "/x"}}, "SavedModel"),
        ({"module": "keras.layers", "class_name": "TorchModuleWrapper", "config": {}}, "unpickles"),
        ({"module": "os", "class_name": "function", "config": "system"}, "from os"),
        ({"module": "builtins", "class_name": "eval", "config": {}}, "builtins"),
        (
            {"module": "keras.config", "class_name": "function", "config": "enable_unsafe_deserialization"},
            "keras.config",
        ),
        ({"module": "keras.utils", "class_name": "function", "config": "get_file"}, "keras.utils"),
        ({"module": "keras.src.saving.saving_lib", "class_name": "function", "config": "load_model"}, "saving"),
        ({"module": "keras.models", "class_name": "function", "config": "load_model"}, "keras.models"),
        ({"class_name": "TFOpLambda", "config": {"function": "io.write_file"}}, "tf.io.write_file"),
        ({"class_name": "TFOpLambda", "config": {"function": "py_function"}}, "tf.py_function"),
        ({"class_name": "ClassMethod", "config": {"cls_ref": "x", "method_name": "y"}}, "any method"),
        ({"class_name": "StringLookup", "config": {"vocabulary": "/etc/passwd"}}, "/etc/passwd"),
    ],
)
def test_code_is_found_at_any_depth(layer: dict, word: str) -> None:
    nested = sequential(DENSE, {"class_name": "Wrapper", "config": {"layer": sequential(layer)}})
    found = what(nested)
    assert found
    assert {kind for kind, _ in found} == {"code"}
    assert any(word in text for _, text in found)


@pytest.mark.parametrize(
    "layer",
    [
        {"module": None, "class_name": "Mine", "config": {"name": "x"}, "registered_name": "Mine"},
        {"module": "my_package.layers", "class_name": "Mine", "config": {}},
        {"module": "keras.layers", "class_name": "Mine", "config": {}, "registered_name": "package>Mine"},
        {"class_name": "Custom>Mine", "config": {}},
    ],
)
def test_classes_of_the_author(layer: dict, tmp_path: Path) -> None:
    assert [kind for kind, _ in what(sequential(layer))] == ["custom"]
    path = archive(tmp_path / "m.keras", sequential(layer))
    with pytest.raises(UnsafeSourceError, match="Mine") as refused:
        scan.scan(path, trusted=False)
    assert refused.value.code == "source-unsafe-code"
    assert "export" in refused.value.next_step
    with pytest.raises(SourceError) as missing:  # trust does not bring the class along
        scan.scan(path, trusted=True)
    assert missing.value.code == "source-custom-class"


def test_trust_admits_code_and_reports_it(tmp_path: Path) -> None:
    path = archive(tmp_path / "m.keras", sequential({"module": "keras.layers", "class_name": "Lambda", "config": {}}))
    with pytest.raises(UnsafeSourceError, match="Lambda") as refused:
        scan.scan(path, trusted=False)
    assert refused.value.code == "source-unsafe-code"
    assert [finding.kind for finding in scan.scan(path, trusted=True).findings] == ["code"]


def test_losses_of_the_author_do_not_matter(tmp_path: Path) -> None:
    config = {**sequential(DENSE), "compile_config": {"loss": {"module": "mine", "class_name": "Loss", "config": {}}}}
    assert scan.scan(archive(tmp_path / "m.keras", config), trusted=False).findings == ()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["class_name", "config", "module", "registered_name", "layers", "function"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=30,
)


@given(config=json_values, wrap=st.lists(st.booleans(), max_size=6))
def test_no_nesting_hides_a_lambda(config: object, wrap: list[bool]) -> None:
    hidden: object = {"class_name": "Lambda", "config": config}
    for as_list in wrap:
        hidden = [config, hidden] if as_list else {"config": hidden, "name": config}
    assert any("Lambda" in text for _, text in what(hidden))


# -- Archives --------------------------------------------------------------------------------------------------


def link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


def compressed(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.compress_type = zipfile.ZIP_DEFLATED
    return info


@pytest.mark.parametrize(
    ("info", "data", "why"),
    [
        (zipfile.ZipInfo("../../.bashrc"), b"x", "outside the folder"),
        (zipfile.ZipInfo("assets/../../x"), b"x", "outside the folder"),
        (zipfile.ZipInfo("/etc/cron.d/x"), b"x", "outside the folder"),
        (zipfile.ZipInfo("..\\x"), b"x", "outside the folder"),
        (zipfile.ZipInfo("C:/x"), b"x", "outside the folder"),
        (link("assets/link"), b"/etc/passwd", "symbolic link"),
        (compressed("assets/zeros"), bytes(80 << 20), "bomb"),
    ],
)
def test_unsafe_members(tmp_path: Path, info: zipfile.ZipInfo, data: bytes, why: str) -> None:
    path = archive(tmp_path / "m.keras", extra=[(info, data)])
    for trusted in (False, True):
        with pytest.raises(UnsafeSourceError, match=why) as refused:
            scan.scan(path, trusted=trusted)
        assert refused.value.code == "source-unsafe-archive"


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_two_members_of_one_name(tmp_path: Path) -> None:
    path = archive(tmp_path / "m.keras", extra=[(zipfile.ZipInfo("config.json"), b"{}")])
    with pytest.raises(UnsafeSourceError, match="one name"):
        scan.scan(path, trusted=False)


@pytest.mark.parametrize("cut", [10, 200, 900, -30])
def test_damaged_archives(tmp_path: Path, cut: int) -> None:
    path = archive(tmp_path / "m.keras")
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(SourceError) as refused:
        scan.scan(path, trusted=False)
    assert refused.value.code in ("source-unreadable", "source-unsafe-archive")


@pytest.mark.parametrize("config", [b"{", b"[]", b"[" * 100_000])
def test_configuration_that_is_none(tmp_path: Path, config: bytes) -> None:
    path = tmp_path / "m.keras"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("config.json", config)
        file.writestr("model.weights.h5", hdf5())
    with pytest.raises(SourceError, match="configuration"):
        scan.scan(path, trusted=False)


# -- HDF5 ------------------------------------------------------------------------------------------------------


def external_link(file) -> None:
    file["layers/away"] = h5py.ExternalLink("/etc/secret.h5", "/data")


def soft_link(file) -> None:
    file["layers/away"] = h5py.SoftLink("/layers/w")


def external_values(file) -> None:
    file.create_dataset("away", (4,), "float32", external=[("/etc/passwd", 0, 16)])


def virtual_values(file) -> None:
    layout = h5py.VirtualLayout((4,), "float32")
    layout[:] = h5py.VirtualSource("/etc/secret.h5", "data", (4,))
    file.create_virtual_dataset("away", layout)


def bomb(file) -> None:
    file.create_dataset("zeros", (1 << 31,), "float32", chunks=(1 << 20,), compression="gzip")


@pytest.mark.parametrize(
    ("build", "why"),
    [
        (external_link, "ExternalLink"),
        (soft_link, "SoftLink"),
        (external_values, "another file"),
        (virtual_values, "virtual"),
        (bomb, "bomb"),
    ],
)
def test_hdf5_that_reaches_out(tmp_path: Path, build, why: str) -> None:
    alone, packed = tmp_path / "m.h5", tmp_path / "m.keras"
    with h5py.File(alone, "w") as file:
        file.create_group("layers")
        file.attrs["model_config"] = json.dumps(sequential(DENSE))
        build(file)
    paths = [alone]
    if build is not external_values:  # HDF5 cannot write those without a file
        archive(packed, weights=hdf5(build))
        paths.append(packed)
    for path in paths:
        with pytest.raises(UnsafeSourceError, match=why) as refused:
            scan.scan(path, trusted=True)
        assert refused.value.code == "source-unsafe-archive"


def test_a_group_that_holds_itself_ends(tmp_path: Path) -> None:
    def loop(file) -> None:
        file["layers/again"] = file["/layers"]

    path = tmp_path / "m.h5"
    path.write_bytes(hdf5(loop, model_config=json.dumps(sequential(DENSE)), keras_version="2.4.0"))
    assert scan.scan(path, trusted=False).generation == 2


@pytest.mark.parametrize(
    ("version", "generation"), [("2.4.0", 2), ("2.15.0-tf", 2), ("", 2), ("3.0.0", 3), ("3.15.1", 3), ("nonsense", 2)]
)
def test_generation_is_the_writers(tmp_path: Path, version: str, generation: int) -> None:
    path = tmp_path / "m.h5"
    path.write_bytes(hdf5(model_config=json.dumps(sequential(DENSE)), keras_version=version))
    assert scan.scan(path, trusted=False).generation == generation


def test_weights_without_architecture(tmp_path: Path) -> None:
    path = tmp_path / "m.h5"
    path.write_bytes(hdf5())
    with pytest.raises(SourceError) as refused:
        scan.scan(path, trusted=False)
    assert refused.value.code == "source-weights-only"


# -- Recognition -----------------------------------------------------------------------------------------------


def test_recognizes_by_content(tmp_path: Path) -> None:
    good = archive(tmp_path / "m.bin")
    other = tmp_path / "other.keras"
    with zipfile.ZipFile(other, "w") as file:
        file.writestr("readme.txt", "no model")
    (tmp_path / "m.h5").write_bytes(hdf5())
    (tmp_path / "torn.keras").write_bytes(b"PK\x03\x04 and no more")
    assert load_keras.recognizes(good)
    assert load_keras.recognizes(tmp_path / "m.h5")
    assert not any(
        load_keras.recognizes(path) for path in (other, tmp_path / "torn.keras", tmp_path, tmp_path / "none")
    )


# -- SavedModel ops --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "op",
    [
        "PyFunc", "EagerPyFunc", "PyFuncStateless", "ReadFile", "WriteFile", "MatchingFiles", "PrintV2",
        "ImmutableConst", "InitializeTableFromTextFileV2", "LoadAndRemapMatrix", "DecodeProtoV2", "TextLineDataset",
        "TFRecordDatasetV2",
        "GeneratorDataset", "SaveDatasetV2", "DebugIdentityV3", "CreateSummaryFileWriter", "WriteScalarSummary",
        "CollectiveReduceV2", "RemoteCall", "_HostSend", "TPUPartitionedCall", "IteratorFromStringHandle", "SqlDataset",
    ],
)  # fmt: skip
def test_unsafe_ops(op: str) -> None:
    assert scan_graph.unsafe(op)


@pytest.mark.parametrize(
    "op",
    [
        "Conv2D", "MatMul", "StatefulPartitionedCall", "While", "TensorListReserve", "VarHandleOp", "ReadVariableOp",
        "DisableCopyOnRead", "AssignVariableOp", "Placeholder", "NoOp", "HashTableV2", "LookupTableFindV2", "Assert",
        "ParseExampleV2", "DecodeJpeg", "StringJoin", "StaticRegexFullMatch", "RandomUniform", "XlaCallModule",
        "RestoreV2", "SaveV2", "ShardedFilename", "MergeV2Checkpoints",
    ],
)  # fmt: skip
def test_ops_that_only_compute_or_belong_to_the_checkpoint(op: str) -> None:
    assert scan_graph.unsafe(op) is None


def test_links_that_leave_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "variables").mkdir(parents=True)
    (folder / "variables" / "inside").symlink_to(folder)
    scan_graph.check_folder(folder)
    (folder / "variables" / "variables.index").symlink_to("/etc/passwd")
    with pytest.raises(UnsafeSourceError, match=r"variables\.index") as refused:
        scan_graph.check_folder(folder)
    assert refused.value.code == "source-unsafe-archive"


@pytest.mark.parametrize("name", ["saved_model.pbtxt", "saved_model.cpb"])
def test_two_graphs_in_one_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(UnsafeSourceError, match=name):
        scan_graph.check_folder(tmp_path)
