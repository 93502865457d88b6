"""The same thing said otherwise: images in the other layout, engines under other distribution names, odd answers."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

import edgekit
from edgekit.errors import FeedError, UsageError
from edgekit.manifest import Interpret, Preprocess
from edgekit.runtimes.base import quantize
from edgekit.runtimes.interpret import interpret
from edgekit.runtimes.preprocess import prepare
from edgekit.runtimes.straight import _quantizer
from edgekit.tensors import INTEGER_RANGE, QuantParams, TensorSpec

NHWC = TensorSpec("image", (None, 4, 6, 3), "float32", "NHWC")
NCHW = TensorSpec("image", (None, 3, 4, 6), "float32", "NCHW")
IMAGENET = Preprocess("image", 1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.mark.parametrize("batch", [(), (2,)])
def test_an_image_array_of_either_layout_is_prepared_in_its_own(batch):
    last = np.random.default_rng(0).integers(0, 256, (*batch, 4, 6, 3), np.uint8)
    first = np.moveaxis(last, -1, -3)
    expected = (last / 255 - IMAGENET.mean) / IMAGENET.std
    for spec in (NHWC, NCHW):
        np.testing.assert_allclose(prepare(last, (spec,), IMAGENET)["image"], expected, rtol=1e-5, atol=1e-6)
        turned = np.moveaxis(prepare(first, (spec,), IMAGENET)["image"], -3, -1)
        np.testing.assert_allclose(turned, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("thing", "code"),
    [
        (np.zeros((5, 5), np.uint8), "feed-shape"),
        (np.zeros((4, 6, 4), np.uint8), "feed-shape"),
        (np.array(["a"]), "feed-dtype"),
        ([[1], [1, 2]], "feed-dtype"),
        (object(), "feed-dtype"),
        (None, "feed-dtype"),
        (b"abc", "feed-dtype"),
    ],
)
def test_what_cannot_be_prepared(thing, code):
    with pytest.raises(FeedError) as caught:
        prepare(thing, (NHWC,), IMAGENET)
    assert caught.value.code == code


@pytest.mark.parametrize("task", ["classification", "multi-label", "regression"])
@pytest.mark.parametrize(
    "outputs",
    [{}, {"y": np.zeros((1, 0), np.float32)}, {"y": np.zeros((0, 3), np.float32)}, {"y": np.array([["a"]], object)}],
    ids=["none", "empty", "no samples", "strings"],
)
def test_outputs_that_hold_no_answer(task, outputs):
    with pytest.raises(UsageError, match=task) as caught:
        interpret(outputs, Interpret(task))
    assert caught.value.code == "output-unreadable"


OTHER_NAME = """
import json, sys
from importlib import metadata
real = metadata.version
def version(name):
    if name in ("onnxruntime", "ai-edge-litert"):
        raise metadata.PackageNotFoundError(name)
    return real(name)
metadata.version = version
import edgekit
with edgekit.load(sys.argv[1]) as model:
    said = [model.engine_version]
try:
    edgekit.load(sys.argv[2])
except edgekit.EdgeKitError as error:
    said += [error.code, error.message]
print(json.dumps(said))
"""


@pytest.mark.parametrize("suffix", ["onnx", "tflite"])
def test_an_engine_from_a_distribution_of_another_name(tiny_files, tmp_path, suffix):
    """onnxruntime-gpu, tensorflow-cpu, builds of one's own: refusals and versions still name the version."""
    bad = tmp_path / f"bad.{suffix}"
    if suffix == "onnx":
        import onnx

        model = onnx.load(tiny_files["onnx"])
        model.graph.node[1].op_type = "Frobnicate"
        bad.write_bytes(model.SerializeToString())
    else:
        from edgekit.converters.tflite_graphs import graph as tflite_graph
        from edgekit.converters.tflite_graphs.write import write

        model = tflite_graph.read(tiny_files["tflite"].read_bytes())
        for operator in model.operatorCodes:
            operator.version = 99
        bad.write_bytes(write(model))
    command = [sys.executable, "-c", OTHER_NAME, str(tiny_files[suffix]), str(bad)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    version, code, message = json.loads(done.stdout.splitlines()[-1])
    with edgekit.load(tiny_files[suffix]) as model:
        assert version == model.engine_version
    assert code == "op-unsupported"
    assert f" {version} has no kernel for " in message


@pytest.mark.parametrize("dtype", sorted(INTEGER_RANGE))
def test_kept_buffers_quantize_as_the_general_way_does(dtype):
    """Values on and beside the middle between two steps, saturated ones, and none that is not finite."""
    low, high = INTEGER_RANGE[dtype]
    dice = np.random.default_rng(3)
    for scale, zero in ((0.0371, (low + high) // 2), (2.0**-9, low), (1e-6, high), (730.5, (low + high) // 3)):
        scale32 = float(np.float32(scale))
        spec = TensorSpec("x", (1, 601), dtype, quant=QuantParams((scale32,), (zero,)))
        convert = _quantizer(spec, (1, 601))
        for part in (0, 0.25, 0.4999999, 0.5, 0.5000001):
            steps = dice.integers(low - zero - 50, high - zero + 50, (1, 601)) + part
            real = (steps * scale).astype(np.float32)
            real[0, :2] = 3.4e38, -3.4e38
            np.testing.assert_array_equal(convert(real), quantize(real, spec))
            assert convert(real).dtype == dtype
        for value in (np.nan, np.inf, -np.inf):
            assert convert(np.full((1, 601), value, np.float32)) is None


@pytest.mark.skipif(np.__version__ < "2", reason="said of numpy 2")
@pytest.mark.parametrize("kind", ["SystemError", "ImportError", "AttributeError"])
def test_an_interpreter_that_meets_numpy_2_only_when_called(tiny_files, tmp_path, kind):
    """tflite-runtime's import may pass with no more than a printed warning; the first array it makes then fails."""
    (tmp_path / "tflite_runtime").mkdir()
    (tmp_path / "tflite_runtime" / "__init__.py").write_text("")
    (tmp_path / "tflite_runtime" / "interpreter.py").write_text(
        "class Interpreter:\n"
        "    def __init__(self, **options): pass\n"
        "    def allocate_tensors(self): pass\n"
        f"    def get_input_details(self): raise {kind}('numpy.core.multiarray failed to import')\n"
        "    def get_output_details(self): return []\n"
    )
    code = f"""
import json, sys
sys.modules["ai_edge_litert"] = None
sys.path.insert(0, {str(tmp_path)!r})
import edgekit
try:
    edgekit.load({str(tiny_files["tflite"])!r})
except edgekit.EdgeKitError as error:
    print(json.dumps([error.code, error.cause]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    code, cause = json.loads(done.stdout.splitlines()[-1])
    assert code == "engine-numpy2"
    assert "multiarray failed to import" in cause
