"""The protocol's tensors: requests of `infer` to arrays, and arrays to answers; JSON, and the binary extension.

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md and
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md. A tensor that the
artifact holds in integers is FP32 on the wire, real values as `Model.run` takes and gives; with the parameter `raw` of
the request it is its own integers.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from edgekit.errors import FeedError
from edgekit.runtimes.base import Array
from edgekit.serve.bodies import Data, parsed
from edgekit.serve.settings import Bounds
from edgekit.serve.wire import DATATYPES
from edgekit.tensors import TensorSpec

_DTYPES = {said: np.dtype(dtype) for dtype, said in DATATYPES.items() if dtype not in ("string", "int4")}
_RANK = 16
_ID = 256


class Asked(NamedTuple):
    """A request of `infer`.

    Attributes:
        feeds: Array by input name.
        outputs: Name of each output that is wanted -> whether as bytes.
        raw: The tensors' own integers.
        id: To be repeated in the answer; None where none was given.
        timeout: Seconds that its parameter `timeout` (microseconds) leaves it; None without.
    """

    feeds: dict[str, Array]
    outputs: dict[str, bool]
    raw: bool
    id: str | None
    timeout: float | None


def datatype(spec: TensorSpec, *, raw: bool = False) -> str:
    """The protocol's name of what crosses the wire."""
    return "FP32" if spec.quant is not None and not raw else DATATYPES[spec.dtype]


def ask(
    body: Data, length: int, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], bounds: Bounds
) -> Asked:
    """Read a request.

    Args:
        body: JSON, then the bytes of tensors.
        length: Of the JSON; -1 for all.
        inputs: Of the model.
        outputs: Of the model.
        bounds: See there.

    Raises:
        FeedError: `body-json`, `body-field`, `body-tensor`, `body-binary`, `body-depth`, `body-tensors`, and what
            `Model.run` says of feeds. LimitError: `body-numbers`.
    """
    if length > len(body):
        raise FeedError("body-binary", f"the JSON is said to have {length} bytes, the body has {len(body)}")
    view = memoryview(body)
    head = parsed(view if length < 0 else view[:length], bounds)
    tail = view[len(view) if length < 0 else length :]
    if not isinstance(head, dict):
        raise FeedError("body-field", "the request is no JSON object")
    parameters = _parameters(head)
    raw = _flag(parameters, "raw")
    feeds = _feeds(_tensors(head, "inputs", bounds), tail, {spec.name: spec for spec in inputs}, raw=raw)
    wanted = _wanted(head, parameters, outputs, bounds)
    identity = head.get("id")
    if identity is not None and (not isinstance(identity, str) or len(identity) > _ID):
        raise FeedError("body-field", f"id is a text of at most {_ID} characters")
    return Asked(feeds, wanted, raw, identity, _timeout(parameters))


def answer(
    head: dict[str, Any], answers: Mapping[str, Array], specs: tuple[TensorSpec, ...], asked: Asked
) -> tuple[bytes, int]:
    """The body of an answer, and the length of its JSON where bytes follow it, else 0."""
    import orjson

    made, tail = [], []
    for spec in specs:
        if spec.name not in asked.outputs:
            continue
        array = answers[spec.name]
        about: dict[str, Any] = {
            "name": spec.name,
            "datatype": datatype(spec, raw=asked.raw),
            "shape": list(array.shape),
        }
        if asked.outputs[spec.name]:
            data = _packed(array)
            about["parameters"] = {"binary_data_size": len(data)}
            tail.append(data)
        else:
            about["data"] = np.ascontiguousarray(array).ravel() if array.dtype.kind in "biuf" else listed(array)
        made.append(about)
    if asked.id is not None:
        head = {**head, "id": asked.id}
    # NaN and infinity, which JSON lacks, are null.
    text = orjson.dumps({**head, "outputs": made}, option=orjson.OPT_SERIALIZE_NUMPY)
    return (b"".join([text, *tail]), len(text)) if tail else (text, 0)


def listed(array: Array) -> list[Any]:
    """Values in row-major order, as JSON has them: NaN and infinity, which it lacks, are null."""
    if array.dtype.kind == "f":
        flat: list[Any] = array.ravel().tolist()
        return flat if np.isfinite(array).all() else [value if math.isfinite(value) else None for value in flat]
    if array.dtype.kind in "OSU":
        return [value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value) for value in array.ravel()]
    return array.ravel().tolist()


def _feeds(
    tensors: list[dict[str, Any]], tail: memoryview, specs: dict[str, TensorSpec], *, raw: bool
) -> dict[str, Array]:
    feeds: dict[str, Array] = {}
    for tensor in tensors:
        name = tensor.get("name")
        spec = specs.get(name) if isinstance(name, str) else None
        if spec is None:
            raise FeedError("body-tensor", f"the model has no such input; it takes {', '.join(specs)}")
        if spec.name in feeds:
            raise FeedError("body-tensor", f"input {spec.name} is there twice")
        wanted = datatype(spec, raw=raw)
        if tensor.get("datatype") != wanted:
            hint = f", or {DATATYPES[spec.dtype]} with the parameter raw" if spec.quant is not None and not raw else ""
            raise FeedError("body-tensor", f"input {spec.name} takes datatype {wanted}{hint}")
        shape = _shape(tensor.get("shape"), spec)
        size = _parameters(tensor).get("binary_data_size")
        if size is None:
            feeds[spec.name] = _values(tensor.get("data"), shape, wanted, spec)
            continue
        if type(size) is not int or not 0 <= size <= len(tail) or "data" in tensor:
            raise FeedError("body-binary", f"input {spec.name}: {len(tail)} bytes are left, or it has data as well")
        feeds[spec.name] = _unpacked(tail[:size], shape, wanted, spec.name)
        tail = tail[size:]
    if len(tail):
        raise FeedError("body-binary", f"{len(tail)} bytes follow the last input")
    return feeds


def _values(data: Any, shape: tuple[int, ...], wanted: str, spec: TensorSpec) -> Array:
    """From JSON: flat, or nested as the shape says; null is NaN for an input that takes it."""
    name = spec.name
    if not isinstance(data, list):
        raise FeedError("body-tensor", f"input {name} has no list of data")
    if wanted == "BYTES":
        flat = _flat(data)
        if not all(isinstance(value, str) for value in flat):
            raise FeedError("body-tensor", f"input {name} holds something that is no text")
        made = np.empty(len(flat), object)
        made[:] = flat
        return _shaped(made, shape, name)
    try:
        array = np.asarray(data)
    except (ValueError, OverflowError) as error:
        raise FeedError("body-tensor", f"input {name}: its lists are of unequal length") from error
    dtype = _DTYPES[wanted]
    if spec.missing and array.dtype.kind == "O":
        array = present(array)
    if dtype.kind in "iu" and array.dtype.kind in "fO" and all(type(value) is int for value in _flat(data)):
        return _shaped(_large(_flat(data), dtype, name), shape, name)
    kinds = {"b": "b", "i": "iu", "u": "iu", "f": "fiu"}[dtype.kind]
    if array.size and array.dtype.kind not in kinds:
        raise FeedError("body-tensor", f"input {name} holds something that is no {wanted}")
    if dtype.kind in "iu" and array.size:
        limits = np.iinfo(dtype)
        if int(array.min()) < limits.min or int(array.max()) > limits.max:
            raise FeedError("body-tensor", f"input {name} holds a number beyond {wanted}")
    with np.errstate(over="ignore"):
        made = array.astype(dtype)
    if dtype.kind == "f" and np.isinf(made).any():
        raise FeedError("body-tensor", f"input {name} holds a number beyond {wanted}")
    return _shaped(made, shape, name)


def present(array: Array) -> Array:
    """Objects of a JSON list as reals, NaN for each null; as they are where anything but numbers is among them."""
    if all(value is None or type(value) in (int, float) for value in array.flat):
        with contextlib.suppress(OverflowError):
            return array.astype(np.float64)
    return array


def _large(values: list[int], dtype: np.dtype[Any], name: str) -> Array:
    """Whole numbers that numpy would not take for 64 bits of one kind."""
    limits = np.iinfo(dtype)
    if any(not limits.min <= value <= limits.max for value in values):
        raise FeedError("body-tensor", f"input {name} holds a number beyond {DATATYPES[dtype.name]}")
    return np.array(values, dtype)


def _flat(data: list[Any]) -> list[Any]:
    made: list[Any] = []
    for value in data:
        if isinstance(value, list):
            made += _flat(value)
        else:
            made.append(value)
    return made


def _unpacked(data: memoryview, shape: tuple[int, ...], wanted: str, name: str) -> Array:
    """From bytes, little-endian."""
    if wanted == "BYTES":
        return _shaped(_texts(data, math.prod(shape), name), shape, name)
    dtype = _DTYPES[wanted].newbyteorder("<")
    if len(data) != math.prod(shape) * dtype.itemsize:
        raise FeedError("body-binary", f"input {name}: {len(data)} bytes are not {list(shape)} of {wanted}")
    if wanted == "BOOL" and len(data) and max(data) > 1:
        raise FeedError("body-binary", f"input {name}: a BOOL is 0 or 1")
    made = np.frombuffer(data, dtype)
    # Engines want memory that is aligned; the place in the body is the client's.
    return np.require(made, _DTYPES[wanted], ["C", "A"]).reshape(shape)


def _texts(data: memoryview, count: int, name: str) -> Array:
    """Each a length of four bytes, then UTF-8."""
    made: list[str] = []
    start = 0
    while start + 4 <= len(data) and len(made) < count:
        size = int.from_bytes(data[start : start + 4], "little")
        piece = bytes(data[start + 4 : start + 4 + size])
        if len(piece) != size:
            break
        try:
            made.append(piece.decode())
        except UnicodeDecodeError as error:
            raise FeedError("body-binary", f"input {name} holds bytes that are no UTF-8") from error
        start += 4 + size
    if start != len(data) or len(made) != count:
        raise FeedError("body-binary", f"input {name}: its bytes are not {count} texts with their lengths")
    array = np.empty(count, object)
    array[:] = made
    return array


def _packed(array: Array) -> bytes:
    if array.dtype.kind not in "OSU":
        data: bytes = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
        return data
    pieces = []
    for value in array.ravel():
        data = value if isinstance(value, bytes) else str(value).encode()
        pieces += [len(data).to_bytes(4, "little"), data]
    return b"".join(pieces)


def _shaped(array: Array, shape: tuple[int, ...], name: str) -> Array:
    if array.size != math.prod(shape) or (array.ndim > 1 and array.shape != shape):
        raise FeedError("body-tensor", f"input {name}: its data is not of shape {list(shape)}")
    return array.reshape(shape)


def _shape(shape: Any, spec: TensorSpec) -> tuple[int, ...]:
    known = isinstance(shape, list) and len(shape) <= _RANK and all(type(s) is int and 0 <= s < 1 << 31 for s in shape)
    if not known:
        raise FeedError("body-tensor", f"input {spec.name} has no shape of at most {_RANK} sizes")
    return tuple(shape)


def _wanted(
    head: dict[str, Any], parameters: dict[str, Any], specs: tuple[TensorSpec, ...], bounds: Bounds
) -> dict[str, bool]:
    binary = _flag(parameters, "binary_data_output")
    if not head.get("outputs"):
        return {spec.name: binary for spec in specs}
    names = {spec.name for spec in specs}
    wanted: dict[str, bool] = {}
    for tensor in _tensors(head, "outputs", bounds):
        name, about = tensor.get("name"), _parameters(tensor)
        if name not in names or name in wanted:
            raise FeedError(
                "body-tensor", f"an output is asked for that is not there, or twice; there are {', '.join(names)}"
            )
        if about.get("classification"):
            raise FeedError("body-field", "outputs are not sorted into classes here: ask /predict for labels")
        wanted[name] = _flag(about, "binary_data", otherwise=binary)
    return wanted


def _tensors(head: dict[str, Any], side: str, bounds: Bounds) -> list[dict[str, Any]]:
    found = head.get(side)
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise FeedError("body-field", f"{side} is no list of tensors")
    if len(found) > bounds.tensors:
        raise FeedError("body-tensors", f"more than {bounds.tensors} {side}")
    return found


def _parameters(about: dict[str, Any]) -> dict[str, Any]:
    found = about.get("parameters")
    if found is not None and not isinstance(found, dict):
        raise FeedError("body-field", "parameters is no JSON object")
    return found or {}


def _flag(parameters: dict[str, Any], name: str, *, otherwise: bool = False) -> bool:
    found = parameters.get(name, otherwise)
    if not isinstance(found, bool):
        raise FeedError("body-field", f"parameter {name} is true or false")
    return found


def _timeout(parameters: dict[str, Any]) -> float | None:
    found = parameters.get("timeout")
    if found is None:
        return None
    if type(found) is not int or found < 0:
        raise FeedError("body-field", "parameter timeout is a whole number of microseconds")
    return found / 1e6 if found else None
