"""PyTorch through the whole pipeline: the command with real weights, and live networks in Python."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="comes with the torch extra")
pytest.importorskip("onnxscript", reason="comes with the torch extra")
pytest.importorskip("onnxruntime", reason="comes with the onnx extra")

import torch_nets  # noqa: E402

import edgekit  # noqa: E402
from edgekit import cli, errors  # noqa: E402

NETS = str(Path(torch_nets.__file__).parent)


def invoke(capfd, *args: object):
    code = cli.run([str(arg) for arg in args])
    out, err = capfd.readouterr()
    return code, json.loads(out), err


@pytest.fixture(scope="module")
def cifar(shared, tmp_path_factory):
    """Real photos as the network was trained on: normalized, channels first; and some of them to calibrate with."""
    folder = tmp_path_factory.mktemp("cifar")
    with np.load(shared / "data" / "cifar10_jpeg_1000.npz") as stored:
        mean = np.array([0.485, 0.456, 0.406], np.float32)
        x = (stored["x"] / np.float32(255) - mean) / np.array([0.229, 0.224, 0.225], np.float32)
        x = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
        np.savez(folder / "test.npz", x=x, y=stored["y"])
    np.savez(folder / "calibration.npz", x=x[::5])
    return folder


@pytest.mark.shared
@pytest.mark.parametrize("suffix", ["onnx", "tflite"])
def test_trained_weights_on_the_command_line(suffix, shared, cifar, tmp_path, monkeypatch, capfd):
    weights = shared / "models" / "cifar_resnet20" / "resnet20-12fca82f.th"
    monkeypatch.chdir(NETS)
    about = ("--model", "torch_nets:resnet20", "--input", "image=N,3,32,32", "--eval", cifar / "test.npz", "--json")
    code, said, _ = invoke(capfd, "convert", weights, "-o", tmp_path / f"r.{suffix}", *about)
    assert code == 0, said
    metric = said["verification"]["metric"]
    assert said["source"]["framework"] == "torch"
    assert (metric["source"], metric["artifact"]) == (80.4, 80.4)
    assert said["verification"]["sqnr_db"] > 100
    data = ("--precision", "int8", "--calibration", cifar / "calibration.npz", "--max-drop", "0.5")
    code, said, _ = invoke(capfd, "convert", weights, "-o", tmp_path / f"r8.{suffix}", *about, *data)
    assert code == 0, said
    assert said["verification"]["metric"]["drop"] <= 0.5
    assert said["artifact"]["bytes"] < 0.3 * weights.stat().st_size
    with edgekit.load(tmp_path / f"r8.{suffix}") as model:
        assert [spec.describe() for spec in model.inputs] == [
            f"image {'float32' if suffix == 'onnx' else 'int8'} [N,3,32,32]"
        ]
        assert model.artifact.manifest.provenance.options["model"] == "torch_nets:resnet20"


def test_what_the_command_asks_for(tmp_path, monkeypatch, capfd):
    torch.save(torch_nets.resnet().state_dict(), tmp_path / "w.pth")
    monkeypatch.chdir(NETS)
    command = ("convert", tmp_path / "w.pth", "-o", tmp_path / "w.onnx", "--model", "torch_nets:resnet", "--json")
    code, said, _ = invoke(capfd, *command)
    assert (code, said["error"]["code"]) == (2, "torch-input-shapes")
    assert "--input image=N,3,HEIGHT,WIDTH" in said["error"]["next_step"]
    assert not (tmp_path / "w.onnx").exists()


def test_live_networks(capfd):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = torch_nets.text_encoder()
    made = edgekit.convert(module, to="onnx", shapes={"ids": (None, 16)}, dtypes={"ids": "int64"})
    assert capfd.readouterr() == ("", "")
    ids = np.random.default_rng(0).integers(0, 100, (5, 16))
    with torch.no_grad():
        expected = module(torch.tensor(ids)).numpy()
    with edgekit.load(made) as model:
        np.testing.assert_allclose(model.run({"ids": ids})["output"], expected, atol=1e-5)


@pytest.mark.parametrize(("shapes", "code"), [({}, "torch-input-shapes"), ({"ids": (None, 16)}, "shape-conflict")])
def test_live_networks_that_lack_a_word(shapes, code):
    with pytest.raises(errors.UsageError) as caught:
        edgekit.convert(torch_nets.text_encoder(), to="onnx", shapes=shapes)
    assert caught.value.code == code


def test_types_that_contradict_the_source(tiny_files):
    with pytest.raises(errors.UsageError) as caught:
        edgekit.convert(tiny_files["onnx"], to="onnx", dtypes={"image": "int64"})
    assert caught.value.code == "dtype-conflict"
