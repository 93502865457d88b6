"""The engines that memory is planned for, and the benchmark that asks them."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MEASURED = {"ai-edge-litert": "2.3.0", "onnxruntime": "1.32.0"}


def engine(*names: str) -> None:
    """Skip unless the engines are there in the versions that the figures are of."""
    from importlib.metadata import PackageNotFoundError, version

    for name in names:
        try:
            found = version(name)
        except PackageNotFoundError:
            pytest.skip(f"needs {name}")
        if found != MEASURED[name]:
            pytest.skip(f"the figures are of {name} {MEASURED[name]}, here is {found}")


def script(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
