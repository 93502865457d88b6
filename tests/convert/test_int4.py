"""4-bit weights: large dense layers alone, right in LiteRT, refused where the kernels answer wrongly."""

from __future__ import annotations

import numpy as np
import pytest

import edgekit
from edgekit import cli
from edgekit.converters.tflite_graphs import graph as files
from edgekit.converters.tflite_graphs.builder import Builder
from edgekit.device_profiles import load_profile
from edgekit.errors import UsageError
from edgekit.formats import read_facts
from edgekit.gate import check
from edgekit.options import Options
from edgekit.pipeline import run

pytest.importorskip("ai_edge_quantizer", reason="comes with the convert extra")


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    """A convolution, a large dense layer and a small one."""
    random = np.random.default_rng(0)
    graph = Builder()
    x = graph.input("x", (1, 6, 6, 8))
    kernel = random.normal(size=(16, 3, 3, 8)).astype(np.float32) / 9
    seen = graph.conv(x, kernel, np.zeros(16, np.float32), "conv")
    flat = graph.op("RESHAPE", [seen, graph.constant("shape", np.array([1, 576], np.int32))], (1, 576), "flat")
    wide = graph.constant("wide", (random.normal(size=(64, 576)) / 24).astype(np.float32))
    hidden = graph.op("FULLY_CONNECTED", [flat, wide], (1, 64), "hidden", "FullyConnectedOptions")
    narrow = graph.constant("narrow", (random.normal(size=(10, 64)) / 8).astype(np.float32))
    y = graph.op("FULLY_CONNECTED", [hidden, narrow], (1, 10), "y", "FullyConnectedOptions")
    path = tmp_path_factory.mktemp("int4") / "net.tflite"
    path.write_bytes(graph.finish([y]))
    return path


@pytest.fixture(scope="module")
def made(net):
    data = net.with_name("data.npy")
    np.save(data, np.random.default_rng(1).normal(size=(40, 6, 6, 8)).astype(np.float32))
    return run(net, Options(to="tflite", precision="int4", evaluation=data, task="regression"))


def kinds(artifact):
    """Element type of each matrix, by its number of weights."""
    facts = read_facts(artifact)
    return {
        int(np.prod(op.reads[1].shape)): op.reads[1].dtype
        for op in facts.ops
        if op.kind in ("CONV_2D", "FULLY_CONNECTED")
    }


def test_large_dense_layers_alone_get_four_bits(made, net):
    found = kinds(made.artifact)
    assert (found[16 * 72], found[64 * 576]) == ("int8", "int4")
    assert found[640] != "int4"
    assert made.artifact.manifest.precision == "int4"
    assert len(made.artifact.data) < net.stat().st_size / 3
    assert any("tflite-runtime" in said for said in made.warnings)


def test_ranges_are_those_of_least_error(made, net):
    assert made.verification.proof.sqnr_db > 14
    source = files.read(net.read_bytes())
    wide = next(files.constant(source, t) for t in source.subgraphs[0].tensors if files.name_of(t) == "wide")
    full = np.abs(wide).max(axis=1) / 7
    stored = files.read(made.artifact.data).subgraphs[0].tensors
    (scales,) = (tensor.quantization.scale for tensor in stored if files.dtype_of(tensor) == "int4")
    assert np.all(scales <= full * (1 + 1e-6))
    assert np.mean(scales / full) < 0.85


def test_the_runtime_answers_and_boards_without_the_kernel_refuse(made, tmp_path):
    path = tmp_path / "made.tflite"
    made.artifact.write(path)
    with edgekit.load(path) as model:
        given = {name: np.zeros((3, 6, 6, 8), np.float32) for name in (spec.name for spec in model.inputs)}
        assert next(iter(model.run(given).values())).shape == (3, 10)
    facts, manifest = read_facts(made.artifact), made.artifact.manifest
    assert check(facts, manifest, load_profile("raspberry-pi-4b")).fits
    refused = check(facts, manifest, load_profile("raspberry-pi-zero-2w-32bit"))
    (limit,) = (one for one in refused.limits if not one.ok)
    assert limit.resource == "operators"
    assert "FULLY_CONNECTED with weights of int4" in limit.why


def test_a_net_without_large_dense_layers_says_so(tmp_path):
    graph = Builder()
    x = graph.input("x", (1, 8, 8, 8))
    y = graph.conv(x, np.ones((64, 3, 3, 8), np.float32), np.zeros(64, np.float32), "y")
    (tmp_path / "net.tflite").write_bytes(graph.finish([y]))
    made = run(tmp_path / "net.tflite", Options(to="tflite", precision="int4"))
    assert any("nothing is stored in 4 bits" in said for said in made.warnings)
    assert "int4" not in kinds(made.artifact).values()


def test_onnx_has_no_such_precision(net, tmp_path):
    with pytest.raises(UsageError) as caught:
        run(net, Options(to="onnx", precision="int4"))
    assert caught.value.code == "precision-format"
    assert cli.run(["convert", str(net), "-o", str(tmp_path / "y.onnx"), "--precision", "int4"]) == 2
