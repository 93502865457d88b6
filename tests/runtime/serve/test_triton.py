"""Triton's own client: every element type of the protocol, in JSON and in bytes, both ways."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys

import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
if importlib.util.find_spec("tritonclient") is None:  # `make` installs it: see the extra dev in pyproject.toml
    pytest.skip("tritonclient[http] is not installed", allow_module_level=True)

KINDS = {
    "BOOL": "BOOL", "INT8": "INT8", "INT16": "INT16", "INT32": "INT32", "INT64": "INT64", "UINT8": "UINT8",
    "UINT16": "UINT16", "UINT32": "UINT32", "UINT64": "UINT64", "FP16": "FLOAT16", "FP32": "FLOAT", "FP64": "DOUBLE",
    "BYTES": "STRING",
}  # fmt: skip
# In a process of its own: gevent, on which the client rests, changes the one that it is in.
ASK = """
import itertools, json, sys
import numpy as np
import tritonclient.http as http
from tritonclient.utils import triton_to_np_dtype

port, kinds = int(sys.argv[1]), sys.argv[2].split(",")
client = http.InferenceServerClient(f"127.0.0.1:{port}", network_timeout=60, connection_timeout=60)
assert client.is_server_live() and client.is_server_ready()
wrong, right = [], 0
for kind in kinds:
    about = client.get_model_metadata(kind)
    assert client.is_model_ready(kind) and about["inputs"][0]["datatype"] == kind, about
    texts = np.array([["a", "\\u00e4", "", "longer"]] * 3, object)
    given = texts if kind == "BYTES" else (np.arange(12).reshape(3, 4) % 7).astype(triton_to_np_dtype(kind))
    for asked, told in itertools.product((False, True), repeat=2):
        if kind == "FP16" and not asked:
            continue  # the client itself sends it as bytes alone
        tensor = http.InferInput("x", list(given.shape), kind)
        tensor.set_data_from_numpy(given, binary_data=asked)
        wanted = [http.InferRequestedOutput("y", binary_data=told)]
        answer = client.infer(kind, [tensor], outputs=wanted, request_id="7")
        found = answer.as_numpy("y")
        if kind == "BYTES":
            found = np.array([[v.decode() if isinstance(v, bytes) else v for v in row] for row in found], object)
        if np.array_equal(found, given) and answer.get_response()["id"] == "7":
            right += 1
        else:
            wrong.append([kind, asked, told, str(found)])
print(json.dumps({"right": right, "wrong": wrong}))
"""


def test_every_element_type(serve, tmp_path):
    helper = onnx.helper
    for name, kind in KINDS.items():
        x, y = (helper.make_tensor_value_info(place, onnx.TensorProto.DataType.Value(kind), ["n", 4]) for place in "xy")
        graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "echo", [x], [y])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.save(model, tmp_path / f"{name}.onnx")
    server = serve(tmp_path, "--threads", 1)
    command = [sys.executable, "-c", ASK, str(server.port), ",".join(KINDS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {"right": 4 * len(KINDS) - 2, "wrong": []}
