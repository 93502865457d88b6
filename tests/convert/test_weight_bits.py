"""Weights of 7 bits: where a device's int8 sums would saturate, and only there; proved on an emulated processor."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

import edgekit
from edgekit import saturation
from edgekit.device_profiles import load_profile
from edgekit.errors import UsageError
from edgekit.options import Options
from edgekit.pipeline import run
from edgekit.precision import precisions

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

OLD = """
title = "a computer without VNNI"
inherits = "intel-n100"

[cpu]
soc = "old"
clusters = [{ core = "Haswell", count = 4, clock_mhz = 3400 }]
isa = ["avx2", "fma", "f16c"]

[sources]
cpu = "made for this test"
"""


@pytest.fixture
def old(tmp_path):
    path = tmp_path / "old.toml"
    path.write_text(OLD)
    return path


@pytest.fixture
def net(tmp_path):
    """A dense layer and a convolution whose sums saturate by far: inputs of one, and all weights alike."""
    helper, constant = onnx.helper, onnx.numpy_helper.from_array
    random = np.random.default_rng(0)
    conv = np.ones((8, 4, 3, 3), np.float32) - random.random((8, 4, 3, 3)).astype(np.float32) / 50
    dense = np.ones((8, 160), np.float32) - random.random((8, 160)).astype(np.float32) / 50
    wide = np.ones((160, 128), np.float32) - random.random((160, 128)).astype(np.float32) / 50
    nodes = [
        helper.make_node("Conv", ["x", "conv"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("ReduceMean", ["a", "places"], ["b"], keepdims=0),
        helper.make_node("MatMul", ["b", "dense"], ["c"]),
        helper.make_node("MatMul", ["c", "wide"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "net",
        [helper.make_tensor_value_info("x", 1, ["N", 4, 8, 8])], [helper.make_tensor_value_info("y", 1, ["N", 128])],
        [constant(conv, "conv"), constant(np.array([2, 3]), "places"), constant(dense, "dense"),
         constant(wide, "wide")],
    )  # fmt: skip
    path = tmp_path / "net.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    np.save(tmp_path / "data.npy", 0.8 + 0.2 * random.random((24, 4, 8, 8), np.float32))
    return path


def convert(net, precision="int8", **options):
    data = net.with_name("data.npy")
    return run(net, Options(to="onnx", precision=precision, calibration=data, evaluation=data, **options))


def largest(artifact):
    """Of all weights that integers are multiplied by."""
    model = onnx.load_from_string(artifact.data)
    multiplied = {node.input[1] for node in model.graph.node if node.op_type == "MatMulInteger"}
    found = {one.name: onnx.numpy_helper.to_array(one) for one in model.graph.initializer}
    weights = [found[name] for name in multiplied] or [one for one in found.values() if one.dtype == np.int8]
    return max(int(np.abs(array.astype(int)).max()) for array in weights)


def test_only_x86_without_vnni_saturates(old):
    assert saturation.saturates(load_profile(old))
    assert not saturation.saturates(load_profile("intel-n100"))
    assert not saturation.saturates(load_profile("raspberry-pi-3b"))
    sse = load_profile(old)
    assert not saturation.saturates(replace(sse, cpu=replace(sse.cpu, isa=())))


def test_bits_follow_from_the_device_unless_they_are_said(old):
    def bits(precision, **options):
        profile = load_profile(options["device"]) if "device" in options else None
        return saturation.weight_bits(Options(precision=precision, **options), precisions.get(precision), profile)

    assert bits("int8", to="onnx", device=str(old)) == 7
    assert bits("dynamic", to="onnx", device=str(old)) == 7
    assert bits("int8", to="onnx", device=str(old), weight_bits=8) == 8
    assert bits("int8", to="onnx", weight_bits=7) == 7
    assert bits("int8", to="onnx", device="intel-n100") == bits("int8", to="onnx") == 8
    assert bits("int8", to="tflite", device=str(old)) == 8
    assert bits("int16x8", to="onnx", device=str(old)) is None
    assert bits("fp32", to="onnx", device=str(old)) is None
    for precision, to in (("int8", "tflite"), ("int16x8", "onnx"), ("fp16", "onnx")):
        with pytest.raises(UsageError) as caught:
            bits(precision, to=to, weight_bits=7)
        assert caught.value.code == "weight-bits"
    with pytest.raises(UsageError):
        Options(to="onnx", weight_bits=6)


@pytest.mark.parametrize("precision", ["int8", "dynamic"])
def test_the_artifact_of_such_a_device_has_small_weights_and_says_so(net, old, precision):
    made = convert(net, precision, device=str(old))
    assert largest(made.artifact) == 64
    assert made.artifact.manifest.provenance.options["weight_bits"] == 7
    assert any("7 bits" in said for said in made.warnings)
    plain = convert(net, precision)
    assert largest(plain.artifact) == 127
    assert "weight_bits" not in plain.artifact.manifest.provenance.options


RUN = """
import json, sys
import numpy as np
from pathlib import Path
from edgekit.runtimes.engine_onnxruntime import bare_session
data = np.load(sys.argv[1])[:4]
found = []
for path in sys.argv[2:]:
    for exact in (False, True):
        session = bare_session(Path(path).read_bytes(), 1, exact=exact)
        found.append([session.run(None, {session.get_inputs()[0].name: one[None]})[0].tolist() for one in data])
print(json.dumps(found))
"""


@pytest.mark.skipif(
    platform.machine() != "x86_64" or not shutil.which("qemu-x86_64"), reason="emulates another x86 processor"
)
def test_a_processor_without_vnni_computes_them_right(net, tmp_path):
    """8 bits saturate there, but not in the kernels that our runtime asks for; 7 bits do not saturate anyway."""
    paths = []
    for bits in (8, 7):
        paths.append(tmp_path / f"{bits}.onnx")
        convert(net, weight_bits=bits).artifact.write(paths[-1])
    command = ["qemu-x86_64", "-cpu", "Haswell", sys.executable, "-c", RUN, net.with_name("data.npy"), *paths]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True)
    wide, wide_exact, narrow, narrow_exact = (np.array(one) for one in json.loads(done.stdout))
    assert np.abs(wide / wide_exact - 1).min() > 0.1
    assert np.abs(narrow / wide_exact - 1).max() < 0.02
    assert np.allclose(narrow, narrow_exact)


def test_the_runtime_asks_for_exact_sums_where_it_must(net, tmp_path, monkeypatch):
    from edgekit.runtimes import engine_onnxruntime as engine

    exact = []
    real = engine.bare_session
    monkeypatch.setattr(
        engine, "bare_session", lambda *args, **more: (exact.append(more["exact"]), real(*args, **more))[1]
    )
    monkeypatch.setattr(engine, "saturates_here", lambda: True)
    for precision, options in (("int8", {}), ("int8", {"weight_bits": 7}), ("fp32", {})):
        convert(net, precision, **options).artifact.write(tmp_path / "made.onnx")
        edgekit.load(tmp_path / "made.onnx").close()
    assert exact == [True, False, False]
    monkeypatch.setattr(engine, "saturates_here", lambda: False)
    edgekit.load(tmp_path / "made.onnx").close()
    assert exact[-1] is False
