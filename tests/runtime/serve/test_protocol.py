"""The Open Inference Protocol: health, metadata, infer in JSON and in bytes, versions, predict."""

from __future__ import annotations

import gzip
import io
import json
import random
import shutil
import struct
import zlib
from types import SimpleNamespace

import numpy as np
import pytest

import edgekit
from edgekit.errors import FeedError
from edgekit.serve import things
from edgekit.serve.settings import Bounds


def values(answer, place=0):
    output = answer["outputs"][place]
    return np.array(output["data"], np.float32).reshape(output["shape"])


def binary(array, tensor, **parameters):
    head = json.dumps({"inputs": [tensor(array, binary=True)], "parameters": parameters}).encode()
    return head + array.tobytes(), {"Inference-Header-Content-Length": str(len(head))}


def test_health_and_metadata(server):
    assert server.json("GET", "/v2/health/live") == (200, {"live": True})
    assert server.json("GET", "/v2/health/ready") == (200, {"ready": True})
    status, about = server.json("GET", "/v2")
    assert (status, about["name"], about["version"]) == (200, "edgekit", edgekit.__version__)
    assert "binary_tensor_data" in about["extensions"]
    assert server.json("GET", "/v2/models/int8/ready") == (200, {"name": "int8", "ready": True})
    names = {model["name"] for model in server.json("GET", "/v2/models")[1]["models"]}
    assert names == {"int8", "many"}
    status, about = server.json("GET", "/v2/models/int8/versions/1")
    assert status == 200
    assert about["versions"] == ["1"]
    (given,) = about["inputs"]
    assert (given["name"], given["datatype"], given["shape"]) == ("image", "FP32", [-1, 8, 8, 2])
    assert given["parameters"]["raw_datatype"] == "INT8"
    assert server.ask("HEAD", "/v2/models/int8")[2] == b""


@pytest.mark.parametrize("name", ["int8", "many"])
def test_infer_answers_what_the_model_answers(server, served, tensor, image, name):
    shape = (1, 8, 8, 2) if name == "int8" else (1, 2, 8, 8)
    given = image(3, shape)
    suffix = "tflite" if name == "int8" else "onnx"
    with edgekit.load(served / f"{name}.{suffix}", threads=1) as model:
        wanted = model.run({"image": given})["probs"]
    status, answer = server.json("POST", f"/v2/models/{name}/infer", {"id": "a7", "inputs": [tensor(given)]})
    assert status == 200
    assert (answer["model_name"], answer["model_version"], answer["id"]) == (name, "1", "a7")
    assert answer["outputs"][0]["datatype"] == "FP32"
    assert np.array_equal(values(answer), wanted)
    body, headers = binary(given, tensor, binary_data_output=True)
    status, headers, data = server.ask("POST", f"/v2/models/{name}/versions/1/infer", body, headers)
    assert status == 200
    length = int(headers["Inference-Header-Content-Length"])
    about = json.loads(data[:length])["outputs"][0]
    assert about["parameters"]["binary_data_size"] == len(data) - length
    assert np.array_equal(np.frombuffer(data[length:], "<f4").reshape(about["shape"]), wanted)


def test_raw_takes_and_gives_the_tensors_own_integers(server, served, tensor):
    given = np.random.default_rng(1).integers(-128, 127, (2, 8, 8, 2)).astype(np.int8)
    with edgekit.load(served / "int8.tflite", threads=1) as model:
        wanted = model.run({"image": given}, raw=True)["probs"]
    request = {"inputs": [tensor(given, datatype="INT8")], "parameters": {"raw": True}}
    status, answer = server.json("POST", "/v2/models/int8/infer", request)
    assert (status, answer["outputs"][0]["datatype"]) == (200, "INT8")
    assert answer["outputs"][0]["data"] == wanted.ravel().tolist()
    del request["parameters"]
    status, answer = server.json("POST", "/v2/models/int8/infer", request)
    assert (status, answer["code"]) == (400, "body-tensor")
    assert "raw" in answer["error"]


def test_some_outputs_each_as_asked(server, tensor, image):
    request = {"inputs": [tensor(image())], "outputs": [{"name": "probs", "parameters": {"binary_data": True}}]}
    status, headers, data = server.ask("POST", "/v2/models/int8/infer", json.dumps(request))
    assert status == 200
    assert len(data) - int(headers["Inference-Header-Content-Length"]) == 20
    request["outputs"] = [{"name": "nothing"}]
    assert server.json("POST", "/v2/models/int8/infer", request)[1]["code"] == "body-tensor"


@pytest.mark.parametrize("coding", ["gzip", "x-gzip", "deflate", "bare"])
def test_compressed_bodies(server, tensor, image, coding):
    plain = json.dumps({"inputs": [tensor(image())]}).encode()
    squeeze = zlib.compressobj(wbits=-15)
    packed = {
        "gzip": gzip.compress(plain),
        "x-gzip": gzip.compress(plain),  # RFC 9110, section 8.4.1.3
        "deflate": zlib.compress(plain),
        "bare": squeeze.compress(plain) + squeeze.flush(),
    }
    headers = {"Content-Encoding": coding if "gzip" in coding else "deflate"}
    status, _, answer = server.ask("POST", "/v2/models/int8/infer", packed[coding], headers)
    assert status == 200
    assert np.array_equal(
        values(json.loads(answer)), values(server.json("POST", "/v2/models/int8/infer", json.loads(plain))[1])
    )
    status, _, answer = server.ask("POST", "/v2/models/int8/infer", packed[coding][:-5], headers)
    assert (status, json.loads(answer)["code"]) == (400, "body-json")


def test_predict_takes_a_picture_and_numbers(server, image):
    pillow = pytest.importorskip("PIL.Image")
    status, answer = server.json("POST", "/v2/models/int8/predict", image()[0].tolist())
    assert status == 200
    assert answer["model_version"] == "1"
    assert answer["answer"]
    made = io.BytesIO()
    pillow.new("RGB", (8, 8)).save(made, "PNG")
    status, _, said = server.ask("POST", "/v2/models/int8/predict", made.getvalue(), {"Content-Type": "image/png"})
    assert status == 400  # two channels are no picture
    assert json.loads(said)["code"] == "feed-shape"
    status, _, said = server.ask("POST", "/v2/models/int8/predict", b"no picture", {"Content-Type": "image/png"})
    assert (status, json.loads(said)["code"]) == (400, "body-thing")
    status, _, said = server.ask("POST", "/v2/models/int8/predict", b"a,b", {"Content-Type": "text/csv"})
    assert (status, json.loads(said)["code"]) == (415, "http-media")


def test_predict_knows_files_whose_type_nobody_says(server, image):
    """As requests sends bytes (no type), and curl (as those of a form)."""
    pillow = pytest.importorskip("PIL.Image")
    files = [struct.pack("<4sI4s", b"RIFF", 4, b"WAVE")]
    for form in ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF"):
        made = io.BytesIO()
        pillow.new("RGB", (8, 8)).save(made, form)
        files.append(made.getvalue())
    for said in (
        {},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "application/octet-stream"},
    ):
        for place, file in enumerate(files):
            status, _, answer = server.ask("POST", "/v2/models/int8/predict", file, said)
            # It has no sound in it; and the model takes pictures of two channels, which there are not.
            assert (status, json.loads(answer)["code"]) == (400, "feed-shape" if place else "body-thing")
        status, _, _ = server.ask("POST", "/v2/models/int8/predict", json.dumps(image()[0].tolist()), said)
        assert status == 200


def test_predict_answers_one_thing_and_refuses_several(server, image):
    both = [image(seed)[0].tolist() for seed in (0, 1)]
    for name in ("int8", "many"):
        alone = server.json("POST", f"/v2/models/{name}/predict", both[:1])
        assert alone == server.json("POST", f"/v2/models/{name}/predict", both[0])
        assert alone[0] == 200
        for several in (both, {"image": both}):
            status, answer = server.json("POST", f"/v2/models/{name}/predict", several)
            assert (status, answer["code"]) == (400, "body-thing")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"[20, 50, 1000]", "by name"),
        (b"[[20, 50]]", "by name"),
        (b"[]", "by name"),
        (b'[{"a": 1}, {"a": 2}]', "are 2"),
    ],
)
def test_lists_that_are_no_row(body, said):
    model = SimpleNamespace(inputs=(), preprocess=SimpleNamespace(kind="table"))
    with pytest.raises(FeedError, match=said):
        things.thing(body, "row", model, Bounds())
    assert things.thing(b'[{"a": 1}]', "row", model, Bounds()) == [{"a": 1}]


def test_predict_takes_single_numbers_and_sequences_of_any_length(serve, tmp_path):
    onnx = pytest.importorskip("onnx")
    make, number = onnx.helper, onnx.TensorProto.FLOAT
    for name, shape, op in (("number", [], "Identity"), ("sequence", ["T", 2], "ReduceMax")):
        graph = make.make_graph(
            [make.make_node(op, ["x"], ["y"], **({"keepdims": 0} if op == "ReduceMax" else {}))], name,
            [make.make_tensor_value_info("x", number, shape)], [make.make_tensor_value_info("y", number, [])],
        )  # fmt: skip
        model = make.make_model(graph, opset_imports=[make.make_opsetid("", 17)], ir_version=9)
        onnx.save(model, tmp_path / f"{name}.onnx")
    one = serve(tmp_path, "--threads", 1)
    for name, thing in (("number", 3.5), ("number", {"x": 3.5}), ("sequence", [[1, 2], [3, 3.5], [0, 1]])):
        status, answer = one.json("POST", f"/v2/models/{name}/predict", thing)
        assert status == 200, answer
        assert answer["answer"]["y"]["first"] == [3.5]


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "http-path"),
        ("GET", "/v2/models/cat", 404, "model-unknown"),
        ("GET", "/v2/models/..%2f..%2fetc", 404, "model-unknown"),
        ("GET", "/v2/models/int8/versions/2", 404, "version-unknown"),
        ("POST", "/v2/models/int8/versions/2/infer", 404, "version-unknown"),
        ("GET", "/v2/models/int8/infer", 405, "http-method"),
        ("DELETE", "/v2", 405, "http-method"),
        ("POST", "/v2/models/int8/guess", 404, "http-path"),
    ],
)
def test_wrong_addresses(server, method, path, status, code):
    found, headers, said = server.ask(method, path)
    assert (found, json.loads(said)["code"]) == (status, code)
    assert set(json.loads(said)) == {"error", "code"}
    assert ("Allow" in headers) == (status == 405)


WRONG = {
    "no JSON": (b"{", "body-json"),
    "no object": (b"[]", "body-field"),
    "NaN": (b'{"inputs": [NaN]}', "body-json"),
    "no inputs": (b"{}", "body-field"),
    "inputs of numbers": (b'{"inputs": [1]}', "body-field"),
    "missing input": (b'{"inputs": []}', "feed-name"),
    "id": (b'{"inputs": [], "id": 7}', "body-field"),
    "deep": (b"[" * 10_000, "body-depth"),
    "deep in an object": (b'{"a":' * 10_000, "body-depth"),
    "deep behind a text": (b'{"a": "]]]]\\"", "b": ' + b"[" * 40, "body-depth"),
    "nulls": (b"[" + b"0," * 3_000_000 + b"0]", "body-numbers"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_bodies(server, case):
    body, code = WRONG[case]
    status, _, said = server.ask("POST", "/v2/models/int8/infer", body)
    assert status == (413 if code == "body-numbers" else 400)
    assert json.loads(said)["code"] == code


@pytest.mark.parametrize(
    "change",
    [
        {"name": "other"}, {"datatype": "FP64"}, {"datatype": 5}, {"shape": [1, 8, 8]}, {"shape": "1"},
        {"shape": [1 << 30, 1 << 30, 8, 2]}, {"shape": [-1, 8, 8, 2]}, {"shape": [1.0, 8, 8, 2]},
        {"shape": [True, 8, 8, 2]}, {"data": [1]}, {"data": ["a"] * 128},
        {"data": [[1, 2], [3]]}, {"data": [1e999] * 128}, {"data": None}, {"data": {}}, {"data": [True] * 128},
        {"data": [1e39] * 128}, {"parameters": 3}, {"parameters": {"binary_data_size": 4}}, {"data": [[[]]]},
    ],
)  # fmt: skip
def test_wrong_tensors(server, tensor, image, change):
    given = {**tensor(image()), **change}
    body = json.dumps({"inputs": [given]}).replace("Infinity", "1e999")
    status, _, said = server.ask("POST", "/v2/models/int8/infer", body)
    assert status == 400
    assert json.loads(said)["code"].startswith(("body-", "feed-"))


def test_lying_lengths(server, tensor, image):
    body, headers = binary(image(), tensor)
    for length in ("0", "5", str(len(body)), str(len(body) + 1), "4294967295", "-1", "x"):
        status, _, said = server.ask("POST", "/v2/models/int8/infer", body, {"Inference-Header-Content-Length": length})
        assert status == 400, length
        assert json.loads(said)["code"] in ("body-json", "body-binary", "http-header", "body-field")
    for extra in (b"", b"12345"):
        changed = body[:-4] + extra
        status, _, said = server.ask("POST", "/v2/models/int8/infer", changed, headers)
        assert (status, json.loads(said)["code"]) == (400, "body-binary")


def test_any_batch_and_several_layers_of_lists(server, served, image):
    given = image(5, (3, 2, 8, 8))
    request = {"inputs": [{"name": "image", "datatype": "FP32", "shape": [3, 2, 8, 8], "data": given.tolist()}]}
    status, answer = server.json("POST", "/v2/models/many/infer", request)
    assert status == 200
    with edgekit.load(served / "many.onnx", threads=1) as model:
        assert np.array_equal(values(answer), model.run({"image": given})["probs"])


def test_compression_beyond_its_bound(server):
    body = gzip.compress(b"[" + b" " * (12 << 20) + b"]", 9)
    status, _, said = server.ask("POST", "/v2/models/int8/infer", body, {"Content-Encoding": "gzip"})
    assert (status, json.loads(said)["code"]) == (413, "body-ratio")


@pytest.mark.parametrize("piece", [1, 2, 7, 1 << 16])
def test_depth_and_values_are_counted_whatever_strings_hold(piece, monkeypatch):
    from edgekit.errors import EdgeKitError
    from edgekit.serve import bodies
    from edgekit.serve.settings import Bounds

    monkeypatch.setattr(bodies, "_PIECE", piece)
    monkeypatch.setattr(bodies, "_SIMPLE", 0)
    dice = random.Random(piece)

    def made(depth):
        """A value, how deep it is, and how many commas it has."""
        kind = dice.random()
        if not depth or kind < 0.4:
            return "".join(dice.choice('[]{},"\\a\u00fc\n') for _ in range(dice.randrange(9))), 0, 0
        inner = [made(depth - 1) for _ in range(dice.randrange(4))]
        deep = 1 + max((one[1] for one in inner), default=0)
        commas = max(len(inner) - 1, 0) + sum(one[2] for one in inner)
        if kind < 0.7:
            return [one[0] for one in inner], deep, commas
        return {f'"[{n}\\': one[0] for n, one in enumerate(inner)}, deep, commas

    for _ in range(150):
        value, deep, commas = made(5)
        text = json.dumps(value, ensure_ascii=dice.random() < 0.5, separators=dice.choice([(",", ":"), None])).encode()
        depth, numbers = dice.randrange(1, 6), dice.randrange(1, 12)
        try:
            found = bodies.parsed(text, Bounds(depth=depth, numbers=numbers))
        except EdgeKitError as error:
            assert error.code == "body-depth" if commas <= numbers else error.code in ("body-depth", "body-numbers")
            assert deep > depth or commas > numbers
        else:
            assert deep <= depth
            assert commas <= numbers
            assert found == value


def test_texts_in_bytes():
    """As the binary extension packs them."""
    from edgekit.errors import FeedError
    from edgekit.serve import payload
    from edgekit.serve.settings import Bounds
    from edgekit.tensors import TensorSpec

    spec = TensorSpec("words", (None,), "string")
    packed = b"".join(struct.pack("<I", len(t.encode())) + t.encode() for t in ("a", "", "grüß"))
    given = {"name": "words", "shape": [3], "datatype": "BYTES", "parameters": {"binary_data_size": len(packed)}}
    head = json.dumps({"inputs": [given], "parameters": {"binary_data_output": True}}).encode()
    asked = payload.ask(head + packed, len(head), (spec,), (spec,), Bounds())
    assert asked.feeds["words"].tolist() == ["a", "", "grüß"]
    body, length = payload.answer({}, asked.feeds, (spec,), asked)
    assert body[length:] == packed
    for broken in (packed[:-1], packed + b"\0", packed[4:]):
        text = head.replace(
            f'"binary_data_size": {len(packed)}'.encode(), f'"binary_data_size": {len(broken)}'.encode()
        )
        with pytest.raises(FeedError):
            payload.ask(text + broken, len(text), (spec,), (spec,), Bounds())


@pytest.mark.parametrize(
    "dtype",
    ["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64"],
)
def test_every_element_type_there_and_back(dtype):
    from edgekit.serve import payload
    from edgekit.serve.settings import Bounds
    from edgekit.tensors import TensorSpec

    kind = np.dtype(dtype)
    limits = np.iinfo(kind) if kind.kind in "iu" else None
    extremes = [limits.min, limits.max, 0, 1] if limits else [0, 1, 1, 0] if dtype == "bool" else [0.1, -2.5, 65504, 0]
    given = np.array(extremes, kind).reshape(2, 2)
    spec = TensorSpec("x", (None, 2), dtype)
    about = {"name": "x", "shape": [2, 2], "datatype": payload.datatype(spec)}
    as_json = json.dumps({"inputs": [{**about, "data": given.tolist()}]}).encode()
    head = json.dumps({"inputs": [{**about, "parameters": {"binary_data_size": given.nbytes}}],
                       "parameters": {"binary_data_output": True}}).encode()  # fmt: skip
    for body, length in ((as_json, -1), (head + given.tobytes(), len(head))):
        asked = payload.ask(body, length, (spec,), (spec,), Bounds())
        found = asked.feeds["x"]
        assert found.dtype == kind
        assert np.array_equal(found, given)
        made, json_length = payload.answer({}, asked.feeds, (spec,), asked)
        if json_length:
            assert made[json_length:] == given.tobytes()
        else:
            assert np.array_equal(np.array(json.loads(made)["outputs"][0]["data"], kind), given.ravel())
    if limits:
        for beyond in (limits.min - 1, limits.max + 1, 0.5, "1"):
            body = json.dumps({"inputs": [{**about, "data": [0, 0, 0, beyond]}]}).encode()
            with pytest.raises(ValueError, match="input x"):
                payload.ask(body, -1, (spec,), (spec,), Bounds())


def test_the_description_names_what_there_is(server):
    status, found = server.json("GET", "/openapi.json")
    assert status == 200
    assert found["openapi"].startswith("3.1")
    text = json.dumps(found)
    for name in {part.partition('"')[0] for part in text.split("#/components/schemas/")[1:]}:
        assert name in found["components"]["schemas"]
    for path, operations in found["paths"].items():
        real = path.replace("{model}", "int8").replace("{version}", "1")
        for method, operation in operations.items():
            status, headers, _ = server.ask(method.upper(), real, b"{}" if method == "post" else None)
            assert str(status) in operation["responses"], path
            assert status == (400 if method == "post" else 200)
            assert headers["Content-Type"].partition(";")[0] in operation["responses"][str(status)]["content"]


def test_versions_of_a_folder_side_by_side(serve, artifacts, tensor, image, tmp_path):
    files = {"1": artifacts["fp32.tflite"], "2": artifacts["int8.tflite"], "10": artifacts["fp32.tflite"]}
    for version, path in files.items():
        (tmp_path / "models" / "people" / version).mkdir(parents=True)
        shutil.copy(path, tmp_path / "models" / "people" / version)
    config = tmp_path / "serve.toml"
    config.write_text("[models.people]\nversions = 2\n")
    server = serve(tmp_path / "models", "--config", config, "--threads", 1)
    assert server.about["models"] == [{"name": "people", "version": "10"}, {"name": "people", "version": "2"}]
    assert server.json("GET", "/v2/models/people")[1]["versions"] == ["10", "2"]
    given = image(4)
    for path, version in (("", "10"), ("/versions/10", "10"), ("/versions/2", "2")):
        with edgekit.load(files[version], threads=1) as model:
            wanted = model.run({"image": given})["probs"]
        assert server.json("GET", f"/v2/models/people{path}/ready")[0] == 200
        status, answer = server.json("POST", f"/v2/models/people{path}/infer", {"inputs": [tensor(given)]})
        assert (status, answer["model_name"], answer["model_version"]) == (200, "people", version)
        assert np.array_equal(values(answer), wanted)
    for path in ("people/versions/1", "people%2Fversions%2F2", "people/versions/None"):
        assert server.ask("POST", f"/v2/models/{path}/infer", "{}")[0] == 404
        assert server.ask("GET", f"/v2/models/{path}")[0] == 404
    text = server.ask("GET", "/metrics")[2].decode()
    assert 'edgekit_requests_total{model="people",kind="answered"} 2' in text
    assert 'edgekit_requests_total{model="people/versions/2",kind="answered"} 1' in text
