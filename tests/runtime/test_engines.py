"""Engines that are missing, broken, too old or handed nonsense: each says so in its own words."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest

import edgekit
from edgekit import artifact as artifacts_module
from edgekit.errors import ArtifactError, EngineError, MissingFileError, UsageError
from edgekit.runtimes import engine_litert, engines, open_session

FRESH = """
import json, sys
{setup}
import edgekit
try:
    edgekit.load({path!r})
    print(json.dumps(None))
except edgekit.EdgeKitError as error:
    print(json.dumps([type(error).__name__, error.code, error.message, error.next_step, error.exit_code]))
"""
BLOCK = """
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Blocker())
"""


def fresh(path, setup):
    code = FRESH.format(setup=setup, path=str(path))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def test_every_engine_names_a_version_and_its_formats():
    assert engines.names() == ["litert", "null", "onnxruntime"]
    for engine in engines.all():
        assert engine.formats
        assert engine.version()[0].isdigit()


@pytest.mark.parametrize(
    ("kind", "blocked", "extra"),
    [("fp32.tflite", {"ai_edge_litert", "tflite_runtime", "tensorflow"}, "tflite"),
     ("fp32.onnx", {"onnxruntime"}, "onnx")],
)  # fmt: skip
def test_a_missing_engine_names_its_extra(artifacts, kind, blocked, extra):
    name, code, _, step, exit_code = fresh(artifacts[kind], BLOCK.format(blocked=blocked))
    assert (name, code, exit_code) == ("EngineMissingError", "engine-missing", 7)
    assert f"edgekit-sdk[{extra}]" in step


TFLITE_RUNTIME = {
    # What tflite-runtime 2.14 does with numpy 2: its extension module was compiled against numpy 1's interface.
    "at import": "raise ImportError('numpy.core.multiarray failed to import')",
    "in a call": (
        "class Interpreter:\n    def __init__(self, **options):\n        raise SystemError('<built-in function"
        " CreateWrapperFromBuffer> returned a result with an exception set')"
    ),
}


@pytest.mark.skipif(np.__version__ < "2", reason="said of numpy 2")
@pytest.mark.parametrize("when", TFLITE_RUNTIME)
def test_tflite_runtime_with_numpy_2(artifacts, tmp_path, when):
    package = tmp_path / "tflite_runtime"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "interpreter.py").write_text(TFLITE_RUNTIME[when] + "\n")
    setup = BLOCK.format(blocked={"ai_edge_litert", "tensorflow"}) + f"sys.path.insert(0, {str(tmp_path)!r})"
    name, code, message, step, _ = fresh(artifacts["fp32.tflite"], setup)
    assert (name, code) == ("EngineError", "engine-numpy2")
    assert f"numpy {np.__version__}" in message
    assert "numpy<2" in step or "numpy below 2" in step


def test_an_engine_that_cannot_be_imported(artifacts, tmp_path):
    (tmp_path / "onnxruntime").mkdir()
    (tmp_path / "onnxruntime" / "__init__.py").write_text("raise ImportError('libfoo.so.1: cannot open')")
    name, code, message, _, _ = fresh(artifacts["fp32.onnx"], f"sys.path.insert(0, {str(tmp_path)!r})")
    assert (name, code) == ("EngineError", "engine-broken")
    assert "libfoo.so.1" in message


def test_tensorflow_stands_in_when_it_is_all_there_is(artifacts, tmp_path):
    """Its interpreter has the same interface; a stub that hands on LiteRT's shows the way there."""
    folder = tmp_path / "tensorflow" / "lite" / "python"
    folder.mkdir(parents=True)
    for part in (folder, folder.parent, folder.parent.parent):
        (part / "__init__.py").write_text("")
    (folder / "interpreter.py").write_text("Interpreter = sys_interpreter\n")
    setup = (
        "import builtins\nfrom ai_edge_litert.interpreter import Interpreter\nbuiltins.sys_interpreter = Interpreter\n"
    )
    setup += BLOCK.format(blocked={"tflite_runtime"}).replace("in {'tflite_runtime'}", "in ('tflite_runtime',)")
    setup += f"for name in [n for n in sys.modules if n.startswith('ai_edge_litert')]: sys.modules[name] = None\n"  # noqa: F541
    setup += f"sys.path.insert(0, {str(tmp_path)!r})\n"
    assert fresh(artifacts["fp32.tflite"], setup) is None


def test_a_tflite_op_that_the_engine_does_not_have(artifacts, tmp_path):
    from edgekit.converters.tflite_graphs import graph as tflite_graph
    from edgekit.converters.tflite_graphs.write import write

    model = tflite_graph.read(artifacts_module.read(artifacts["fp32.tflite"]).model)
    conv = next(
        code for code in model.operatorCodes if code.builtinCode == tflite_graph.schema().BuiltinOperator.CONV_2D
    )
    conv.version = 99
    path = tmp_path / "new.tflite"
    path.write_bytes(write(model))
    with pytest.raises(EngineError, match=r"no kernel for CONV_2D version 99") as caught:
        edgekit.load(path)
    assert caught.value.code == "op-unsupported"

    conv.version, conv.builtinCode, conv.deprecatedBuiltinCode, conv.customCode = 1, 32, 32, b"MyOp"
    path.write_bytes(write(model))
    with pytest.raises(EngineError, match="MyOp") as caught:
        edgekit.load(path)
    assert caught.value.code == "op-unsupported"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ("op", "op-unsupported"),
        ("domain", "op-unsupported"),
        ("opset", "opset-unsupported"),
        ("ir", "opset-unsupported"),
        ("shape", "engine-refused"),
    ],
)
def test_onnx_that_the_engine_does_not_take(tiny_files, tmp_path, change, code):
    import onnx

    model = onnx.load(tiny_files["onnx"])
    if change == "op":
        model.graph.node[1].op_type = "Frobnicate"
    elif change == "domain":
        model.graph.node[1].domain = "my.domain"
        model.opset_import.append(onnx.helper.make_opsetid("my.domain", 1))
    elif change == "opset":
        model.opset_import[0].version = 999
    elif change == "ir":
        model.ir_version = 999
    else:
        model.graph.node[4].input[0] = "nowhere"
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(EngineError) as caught:
        edgekit.load(path)
    assert caught.value.code == code, caught.value.message


def test_a_tflite_file_that_is_damaged_inside(artifacts, tmp_path):
    data = bytearray(artifacts_module.read(artifacts["fp32.tflite"]).model)
    path = tmp_path / "cut.tflite"
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises((EngineError, ArtifactError)) as caught:
        edgekit.load(path)
    assert caught.value.code in {"engine-refused", "artifact-damaged"}


def test_a_changed_byte_is_noticed_unless_told_not_to_look(artifacts, tmp_path):
    data = bytearray(artifacts["fp32.tflite"].read_bytes())
    at = data.find(b"probs")
    data[at : at + 5] = b"porbs"
    path = tmp_path / "changed.tflite"
    path.write_bytes(data)
    with pytest.raises(ArtifactError) as caught:
        edgekit.load(path)
    assert caught.value.code == "artifact-damaged"
    with pytest.raises(ArtifactError) as caught:
        edgekit.load(path, verify=False)
    assert caught.value.code == "manifest-mismatch"
    data = bytearray(artifacts["fp32.onnx"].read_bytes())
    middle = len(edgekit.load(artifacts["fp32.onnx"]).artifact.model) // 2
    data[middle] ^= 1
    other = tmp_path / "changed.onnx"
    other.write_bytes(data)
    with pytest.raises(ArtifactError):
        edgekit.load(other)
    assert edgekit.load(other, verify=False).run(np.ones((1, 2, 8, 8)))["probs"].shape == (1, 5)


def test_the_wrong_engine_for_a_format(artifacts):
    for kind, engine in (("fp32.tflite", "onnxruntime"), ("fp32.onnx", "litert")):
        with pytest.raises(UsageError) as caught:
            edgekit.load(artifacts[kind], engine=engine)
        assert caught.value.code == "engine-format"
    with pytest.raises(UsageError, match="known: litert, null, onnxruntime") as caught:
        edgekit.load(artifacts["fp32.onnx"], engine="tensorrt")
    assert caught.value.code == "unknown-name"


def test_no_file():
    with pytest.raises(MissingFileError):
        edgekit.load("nowhere.tflite")


def test_a_manifest_of_another_model(artifacts):
    opened = artifacts_module.read(artifacts["fp32.onnx"])
    foreign = replace(opened.manifest.inputs[0], name="elsewhere")
    with pytest.raises(ArtifactError, match="no input elsewhere; it has image") as caught:
        edgekit.Model.from_artifact(opened, inputs=(foreign,))
    assert caught.value.code == "manifest-mismatch"


def test_a_closed_model(model, samples):
    sample = samples(model)
    model.close()
    model.close()
    for feeds in ({"image": sample}, sample):
        with pytest.raises(EngineError) as caught:
            model.run(feeds)
        assert caught.value.code == "model-closed"


@pytest.mark.parametrize("kind", ["fp32.tflite", "fp32.onnx"])
def test_a_session_that_another_thread_closed_says_so(artifacts, kind):
    """A call that waited for the lock finds it closed."""
    session = open_session(artifacts_module.read(artifacts[kind]), threads=1)
    feeds = {spec.name: np.ones([size or 1 for size in spec.shape], np.float32) for spec in session.inputs}
    buffers = {spec.name: np.empty([size or 1 for size in spec.shape], np.float32) for spec in session.outputs}
    session.run(feeds)
    session.close()
    for call in (
        lambda: session.run(feeds),
        lambda: session.run_into(feeds, buffers),
        lambda: session.run_into(feeds, {}),
    ):
        with pytest.raises(EngineError) as caught:
            call()
        assert caught.value.code == "model-closed"


def test_closing_while_others_run(artifacts):
    """Each call either answers or says that the model was closed."""
    for kind in ("int8.tflite", "fp32.onnx"):
        model = edgekit.load(artifacts[kind], threads=1)
        sample = np.ones([1, *model.inputs[0].shape[1:]], np.float32)
        outcomes: set[str] = set()
        running = threading.Event()

        def call(model=model, sample=sample, outcomes=outcomes, running=running):
            while True:
                try:
                    model.run({"image": sample})
                    running.set()
                except EngineError as error:
                    outcomes.add(error.code)
                    return
                except Exception as error:  # noqa: BLE001 - whatever else comes out is what this test is about
                    outcomes.add(repr(error))
                    return

        threads = [threading.Thread(target=call) for _ in range(4)]
        for thread in threads:
            thread.start()
        assert running.wait(30)
        model.close()
        for thread in threads:
            thread.join(30)
        assert outcomes == {"model-closed"}


def test_the_engine_fails_while_it_runs(tmp_path):
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "at"], ["y"])],
        "gather",
        [helper.make_tensor_value_info("at", TensorProto.INT64, [None])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None])],
        [helper.make_tensor("table", TensorProto.FLOAT, [3], [1.0, 2.0, 3.0])],
    )
    path = tmp_path / "gather.onnx"
    path.write_bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    )
    model = edgekit.load(path)
    np.testing.assert_array_equal(model.run({"at": np.array([2, 0])})["y"], [3, 1])
    with pytest.raises(EngineError, match="failed while running") as caught:
        model.run({"at": np.array([7])})
    assert caught.value.code == "engine-failed"
    assert "out of" in caught.value.cause


def test_the_null_engine(artifacts, tiny_files):
    model = edgekit.load(artifacts["fp32.onnx"], engine="null")
    shape = (3, *model.inputs[0].shape[1:])
    one, two = (model.run({"image": np.full(shape, value, np.float32)})["probs"] for value in (0.25, 0.5))
    assert one.shape == (3, 5)
    assert (one == 0.25).all()
    assert (two == 0.5).all()
    with pytest.raises(EngineError) as caught:
        edgekit.load(tiny_files["onnx"], engine="null")
    assert caught.value.code == "engine-refused"


def test_foreign_files_run_by_the_engines_own_names(tiny_files):
    for path in tiny_files.values():
        with edgekit.load(path) as model:
            assert model.manifest is None
            shape = (2, *model.inputs[0].shape[1:])
            assert next(iter(model.run(np.ones(shape)).values())).shape == (2, 5)


@pytest.mark.parametrize("share", [0.01, 0.3, 0.6, 0.9, 0.999])
def test_a_file_that_was_cut_does_not_reach_an_engine_that_would_die_of_it(tiny_files, tmp_path, monkeypatch, share):
    """tflite-runtime, of 32-bit boards, does not look where the file ends. Copying it was interrupted, say."""
    engine = importlib.import_module("ai_edge_litert.interpreter")
    monkeypatch.setattr(engine_litert, "_find", lambda: ("tflite-runtime", engine))
    whole = tiny_files["tflite"].read_bytes()
    (tmp_path / "cut.tflite").write_bytes(whole[: max(int(len(whole) * share), 8)])
    monkeypatch.setattr(engine_litert, "interpreter", lambda *_, **__: pytest.fail("it came there"))
    with pytest.raises(ArtifactError) as caught:
        edgekit.load(tmp_path / "cut.tflite")
    assert caught.value.code == "model-unreadable"
    monkeypatch.undo()
    monkeypatch.setattr(engine_litert, "_find", lambda: ("tflite-runtime", engine))
    edgekit.load(tiny_files["tflite"]).close()
