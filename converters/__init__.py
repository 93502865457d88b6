"""Workstation side: sources in, float graphs, quantized graphs and proofs out.

Three registries find what is built in by file name and what strangers add by entry point: loaders (`load_NAME.py`),
lowerings (`lower_FROM_TO.py`) and quantizers (`quantize_FORMAT.py`). Every module here imports with numpy alone
installed; frameworks are imported inside the functions that need them, in a child process.
"""

from __future__ import annotations

from typing import Any, cast

from edgekit.converters.stages import Loader, Lowering, Quantizer
from edgekit.registry import Registry


def _loader(name: str, found: Any) -> Loader:
    del name
    return cast("Loader", found)


def _lowering(name: str, found: Any) -> Lowering:
    del name
    return cast("Lowering", found)


def _quantizer(name: str, found: Any) -> Quantizer:
    del name
    return cast("Quantizer", found)


loaders: Registry[Loader] = Registry(
    kind="loader",
    package="edgekit.converters",
    prefix="load_",
    suffix=".py",
    group="edgekit.loaders",
    read=_loader,
)

lowerings: Registry[Lowering] = Registry(
    kind="lowering",
    package="edgekit.converters",
    prefix="lower_",
    suffix=".py",
    group="edgekit.lowerings",
    read=_lowering,
)

quantizers: Registry[Quantizer] = Registry(
    kind="quantizer",
    package="edgekit.converters",
    prefix="quantize_",
    suffix=".py",
    group="edgekit.quantizers",
    read=_quantizer,
)
