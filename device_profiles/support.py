"""What the engines themselves can run, whatever the board: op versions and opsets.

The figures and how they were found are in `_gate.toml` beside this file; here is only how to ask for them.
"""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping
from importlib import resources
from typing import Any

from edgekit.device_profiles.software import version_key

SOURCE = "device_profiles/_gate.toml: measured with the wheels"
MIB = 2**20

ONNX_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")
"""Domains whose ops the wheels of onnxruntime have kernels for."""


def kernels(engine: str, version: str) -> Mapping[str, int]:
    """TFLite op -> highest version of it that `engine` ("litert" or "tflite-runtime") has a kernel for."""
    changes = _data()["litert_ops"]
    newer = engine == "litert" and version_key(version) >= version_key(changes["from"])
    return {**_data()["tflite_ops"], **(changes["changes"] if newer else {})}


def untyped(engine: str, version: str) -> Mapping[str, list[str]]:
    """TFLite op -> element types of its result that the kernels of this engine stop at."""
    newer = engine == "litert" and version_key(version) >= version_key(_data()["litert_ops"]["from"])
    found: Mapping[str, list[str]] = {} if newer else _data()["tflite_types"]
    return found


def misread(engine: str) -> Mapping[str, list[str]]:
    """TFLite op -> element types of its constants that this engine's kernels answer wrongly by."""
    found: Mapping[str, list[str]] = _data()["tflite_weights"] if engine == "tflite-runtime" else {}
    return found


def lacking(kind: str, version: int | None, known: Mapping[str, int]) -> str | None:
    """Why a TFLite op has no kernel among `known`; None when it has one."""
    if kind not in known:
        return f"{kind} (a TensorFlow op, which needs the Flex delegate)" if kind.startswith("CUSTOM:Flex") else kind
    if version is not None and version > known[kind]:
        return f"{kind} version {version} (it has up to {known[kind]})"
    return None


def onnx_versions(version: str) -> Mapping[str, int]:
    """What this version of onnxruntime loads: highest "opset", "ml" (opset of ai.onnx.ml) and "ir" version."""
    rows: list[dict[str, Any]] = _data()["onnxruntime"]["rows"]
    row = next((row for row in reversed(rows) if version_key(row["from"]) <= version_key(version)), rows[0])
    return {key: row[key] for key in ("opset", "ml", "ir")}


@functools.cache
def _data() -> Mapping[str, Any]:
    text = resources.files("edgekit.device_profiles").joinpath("_gate.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)
