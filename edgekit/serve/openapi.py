"""The API's description of the models that are served, as OpenAPI 3.1; tests hold the answers against it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from edgekit import __version__
from edgekit.serve.asking import LONGEST_MS
from edgekit.serve.lane import Lane
from edgekit.serve.settings import PRIORITIES, Bounds
from edgekit.serve.wire import DATATYPES

_JSON, _BYTES = "application/json", "application/octet-stream"
_REFUSED = {
    "400": "Something in the request is wrong.", "401": "A key is missing or wrong.",
    "403": "A page of another site asks.",
    "404": "There is no such model, version or path.", "405": "The path takes another method.",
    "408": "The deadline passed, or the request came too slowly.", "413": "The body is over a bound.",
    "415": "The body is of a type or coding that is not taken.", "421": "The request names another machine.",
    "429": "Not now: see Retry-After.", "431": "The headers are over a bound.", "503": "Not ready: see Retry-After.",
}  # fmt: skip
_GET, _POST = ("400", "401", "403", "404", "405", "408", "413", "421", "429", "431", "503"), tuple(_REFUSED)


def document(lanes: Iterable[Lane], bounds: Bounds, *, keyed: bool) -> dict[str, Any]:
    """The whole.

    Args:
        lanes: The models.
        bounds: See there.
        keyed: Requests show a key.
    """
    names = sorted({lane.model for lane in lanes})
    versions = sorted({lane.versions.active.version for lane in lanes if lane.versions.active is not None})
    name = _parameter("model", {"type": "string", "enum": names})
    version = _parameter("version", {"type": "string", "enum": versions})
    paths: dict[str, Any] = {
        "/v2": _get("The server", "Server"),
        "/v2/health/live": _get("Whether the server answers", "Live"),
        "/v2/health/ready": _get("Whether all models answer", "Ready"),
        "/v2/models": _get("The models", "Models"),
        "/metrics": _get("Counters and times, for Prometheus", None, "text/plain"),
        "/openapi.json": _get("This document", None),
        "/": _get("A page that shows the models at work", None, "text/html"),
        "/status": _get("What that page shows", "Status"),
    }
    for path, parameters in (
        ("/v2/models/{model}", [name]),
        ("/v2/models/{model}/versions/{version}", [name, version]),
    ):
        paths[path] = _get("A model's metadata", "Model", parameters=parameters)
        paths[f"{path}/ready"] = _get("Whether a model answers", "ModelReady", parameters=parameters)
        paths[f"{path}/infer"] = _infer(parameters)
        paths[f"{path}/predict"] = _predict(parameters)
    found: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "EdgeKit", "version": __version__,
                 "description": "The Open Inference Protocol v2, and answers as the models' manifests say."},
        "paths": paths,
        "components": {"schemas": _schemas(names, bounds)},
    }  # fmt: skip
    if keyed:
        found["components"]["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        }
        found["security"] = [{"bearer": []}, {"key": []}]
        for path in ("/v2/health/live", "/v2/health/ready", "/"):
            paths[path]["get"]["security"] = []
    return found


def _parameter(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _header(name: str, schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": False, "schema": schema, "description": description}


def _schema(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _get(
    summary: str, schema: str | None, media: str = _JSON, *, parameters: list[dict[str, Any]] | None = None
) -> dict[str, Any]:
    content = {media: {"schema": _schema(schema) if schema else {"type": "object" if media == _JSON else "string"}}}
    operation: dict[str, Any] = {
        "summary": summary,
        "responses": {"200": {"description": "So it is.", "content": content}, **_refusals(_GET)},
    }
    if parameters:
        operation["parameters"] = parameters
    return {"get": operation}


def _refusals(codes: Iterable[str]) -> dict[str, Any]:
    return {code: {"description": _REFUSED[code], "content": {_JSON: {"schema": _schema("Error")}}} for code in codes}


def _asked(parameters: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        *parameters,
        _header("Edgekit-Deadline-Ms", {"type": "integer", "minimum": 1, "maximum": LONGEST_MS},
                "Refuse the request when it would be answered later."),
        _header("Edgekit-Priority", {"type": "string", "enum": list(PRIORITIES)}, "Before or behind others."),
    ]  # fmt: skip


def _infer(parameters: list[dict[str, Any]]) -> dict[str, Any]:
    length = _header("Inference-Header-Content-Length", {"type": "integer", "minimum": 0, "maximum": (1 << 31) - 1},
                     "Bytes of the JSON, where bytes of tensors follow it.")  # fmt: skip
    answer = {
        "description": "The outputs; with bytes of tensors behind the JSON where they were asked for.",
        "headers": {
            "Inference-Header-Content-Length": {"schema": {"type": "integer"}, "description": "Bytes of the JSON."}
        },
        "content": {
            _JSON: {"schema": _schema("InferenceAnswer")},
            _BYTES: {"schema": {"type": "string", "format": "binary"}},
        },
    }
    body = {
        "required": True,
        "content": {
            _JSON: {"schema": _schema("InferenceRequest")},
            _BYTES: {"schema": {"type": "string", "format": "binary"}},
        },
    }
    operation = {"summary": "Tensors in, tensors out", "parameters": [*_asked(parameters), length], "requestBody": body}
    return {"post": {**operation, "responses": {"200": answer, **_refusals(_POST)}}}


def _predict(parameters: list[dict[str, Any]]) -> dict[str, Any]:
    binary = {"schema": {"type": "string", "format": "binary"}}
    body = {"required": True, "content": {_JSON: {"schema": {}}, "image/*": binary, "audio/wav": binary}}
    answer = {"description": "The answer.", "content": {_JSON: {"schema": _schema("Prediction")}}}
    operation = {"summary": "A picture, a sound, a row or numbers in, the answer out", "parameters": _asked(parameters)}
    return {"post": {**operation, "requestBody": body, "responses": {"200": answer, **_refusals(_POST)}}}


def _schemas(names: list[str], bounds: Bounds) -> dict[str, Any]:
    text, whole = {"type": "string"}, {"type": "integer"}
    name, datatype = {"type": "string", "enum": names}, {"type": "string", "enum": sorted(set(DATATYPES.values()))}
    value = {"type": ["number", "string", "boolean", "null"]}
    shape = {"type": "array", "items": {"type": "integer", "minimum": 0}, "maxItems": 16}
    data = {
        "type": "array",
        "items": {"anyOf": [value, {"type": "array"}]},
        "description": "Row-major, flat or nested.",
    }
    size = _object({"binary_data_size": {"type": "integer", "minimum": 0}}, more=True)
    tensor = {
        "name": text,
        "datatype": datatype,
        "shape": {"type": "array", "items": whole},
        "parameters": {"type": "object"},
    }
    return {
        "Error": _object({"error": text, "code": text}, required=("error", "code")),
        "Server": _object({"name": text, "version": text, "extensions": {"type": "array", "items": text}},
                          required=("name", "version", "extensions")),
        "Live": _object({"live": {"const": True}}, required=("live",)),
        "Ready": _object({"ready": {"const": True}}, required=("ready",)),
        "ModelReady": _object({"name": name, "ready": {"const": True}}, required=("name", "ready")),
        "Models": _object({"models": {"type": "array", "items": _object(
            {"name": name, "version": {"type": ["string", "null"]}, "ready": {"type": "boolean"}},
            required=("name", "version", "ready"))}}, required=("models",)),
        "Status": _object({"name": text, "version": text, "bounds_seconds": {"type": "array", "items": value},
                           "load": {"type": "object"}, "board": {"type": "object"},
                           "models": {"type": "array", "items": {"type": "object"}}},
                          required=("name", "version", "bounds_seconds", "load", "board", "models")),
        "Metadata": _object(tensor, required=("name", "datatype", "shape")),
        "Model": _object({"name": name, "versions": {"type": "array", "items": text}, "platform": text,
                          "inputs": {"type": "array", "items": _schema("Metadata")},
                          "outputs": {"type": "array", "items": _schema("Metadata")}, "parameters": {"type": "object"}},
                         required=("name", "versions", "platform", "inputs", "outputs")),
        "Tensor": _object({"name": text, "datatype": datatype, "shape": shape, "data": data, "parameters": size},
                          required=("name", "datatype", "shape")),
        "Output": _object({"name": text, "parameters": _object({"binary_data": {"type": "boolean"}}, more=True)},
                          required=("name",), more=True),
        "InferenceRequest": _object(
            {"id": {"type": "string", "maxLength": 256},
             "parameters": _object({"raw": {"type": "boolean"}, "binary_data_output": {"type": "boolean"},
                                    "timeout": {"type": "integer", "minimum": 0}}, more=True),
             "inputs": {"type": "array", "items": _schema("Tensor"), "maxItems": bounds.tensors},
             "outputs": {"type": "array", "items": _schema("Output"), "maxItems": bounds.tensors}},
            required=("inputs",), more=True),
        "InferenceAnswer": _object({"model_name": name, "model_version": text, "id": text,
                                    "outputs": {"type": "array", "items": _schema("Tensor")}},
                                   required=("model_name", "model_version", "outputs")),
        "Prediction": _object({"model_name": name, "model_version": text, "answer": {"type": "object"}},
                              required=("model_name", "model_version", "answer")),
    }  # fmt: skip


def _object(properties: dict[str, Any], *, required: tuple[str, ...] = (), more: bool = False) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": more}
