"""The user's own code behind `--model MODULE:FACTORY`: imported, called, and given as a network."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from edgekit.errors import UsageError

_SHOWN = 8


def network(spec: str) -> Any:
    """The nn.Module that a factory makes.

    The current directory is importable, as it is for `python -m`.

    Args:
        spec: "package.module:factory"; the factory is a class or function without required arguments, or a module-level
            network; dots lead to attributes of attributes.

    Raises:
        UsageError: `torch-factory`: it cannot be imported or called, or makes no network.
    """
    import torch

    name, _, path = spec.partition(":")
    if not name or not path:
        raise UsageError("torch-factory", f"--model {spec} is not MODULE:FACTORY")
    if name.endswith(".py"):
        module = name.removesuffix(".py").strip("./").replace("/", ".")
        raise UsageError(
            "torch-factory",
            f"--model {spec} names a file; a module is meant",
            next_step=f"Give --model {module}:{path}, from the directory that it is imported from.",
        )
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    found: Any = _imported(name, spec)
    for part in path.split("."):
        if not hasattr(found, part):
            known = [key for key, value in vars(found).items() if callable(value) and not key.startswith("_")]
            inside = f"; it has {', '.join(known[:_SHOWN])}" if known else ""
            raise UsageError("torch-factory", f"{name} has no {path!r}{inside}")
        found = getattr(found, part)
    if isinstance(found, torch.nn.Module):
        return found
    if not callable(found):
        raise UsageError("torch-factory", f"{spec} is a {type(found).__name__}, neither a network nor what makes one")
    try:
        made = found()
    except Exception as error:  # the user's own code raises what it likes
        raise UsageError(
            "torch-factory", f"{spec}() failed: {_said(error)}", cause="The factory is called without arguments."
        ) from error
    if not isinstance(made, torch.nn.Module):
        raise UsageError("torch-factory", f"{spec}() gives a {type(made).__name__}, not an nn.Module")
    return made


def _imported(name: str, spec: str) -> Any:
    try:
        return importlib.import_module(name)
    except Exception as error:  # as above: importing runs it
        raise UsageError(
            "torch-factory",
            f"--model {spec}: {name} cannot be imported: {_said(error)}",
            cause="The module is looked for in the current directory and in this Python environment.",
        ) from error


def _said(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}"[:300] if lines else type(error).__name__
