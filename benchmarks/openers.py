"""Engines opened with one thread, as every guide shows it: for benchmarks, also where EdgeKit is not installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def litert(path: Path) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    engine = Interpreter(model_path=str(path), num_threads=1)
    engine.allocate_tensors()
    return engine


def onnx(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
