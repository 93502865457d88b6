"""Weights out of a file and into a network, strictly.

`torch.load` reads with `weights_only` always: a pickle that names anything but tensors is refused, whoever vouches for
it, because the weights alone can always be saved from where the model is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekit.converters.from_torch import files as scan
from edgekit.errors import SourceError, UnsafeSourceError, first_line, some

_HOLDERS = ("state_dict", "model_state_dict", "model", "net", "weights")
"""Where checkpoints keep the weights, in the order of looking."""
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
"""What wrappers put before every key: data parallel training, torch.compile, Lightning modules."""
_LATE = "num_batches_tracked"
"""A counter of training that files of PyTorch before 0.4 lack; inference never looks at it."""
_GLOBAL = re.compile(r"(?:GLOBAL|global) ([\w.]+)")
_SHOWN = 6

_SAVE = "Where the model is, save its weights alone: torch.save(model.state_dict(), 'weights.pt')."


def read(path: Path) -> dict[str, Any]:
    """Name -> tensor, on the CPU.

    Raises:
        UnsafeSourceError: `source-unsafe-code`: the file names more than tensors; nothing of it has run.
        SourceError: `source-unreadable`; `torch-no-weights`: there are no named tensors where weights are kept.
    """
    import torch

    found = _safetensors(path) if scan.is_safetensors(path) else _pickled(path)
    for holder in _HOLDERS:
        if isinstance(found, Mapping) and not _is_weights(found) and isinstance(found.get(holder), Mapping):
            found = found[holder]
    if not isinstance(found, Mapping) or not _is_weights(found):
        inside = f"; it holds {some(found, _SHOWN)}" if isinstance(found, Mapping) else f" but a {type(found)}"
        raise SourceError("torch-no-weights", f"{path.name} holds no named tensors{inside}")
    weights = {str(name): value for name, value in found.items() if isinstance(value, torch.Tensor)}
    packed = [name for name, value in weights.items() if value.is_quantized or value.is_sparse]
    if packed:
        raise SourceError("torch-no-weights", f"{path.name}: {some(packed, _SHOWN)} are quantized or sparse tensors")
    return weights


def fit(weights: Mapping[str, Any], module: Any, name: str) -> None:
    """Load weights into a network, in place; all of them, and no others.

    Args:
        weights: Name -> tensor. What a wrapper put before every name is taken off.
        module: The network.
        name: Of the file, for messages.

    Raises:
        SourceError: `torch-weights-differ`: names the missing and unexpected weights, or those of other shapes.
    """
    wanted = module.state_dict()
    weights = _unwrapped(dict(weights), wanted)
    _tie(weights, wanted)
    missing = [key for key in wanted if key not in weights and not key.endswith(_LATE)]
    extra = [key for key in weights if key not in wanted]
    if missing or extra:
        parts = [f"the file lacks {some(missing, _SHOWN)}"] if missing else []
        parts += [f"the network has no {some(extra, _SHOWN)}"] if extra else []
        raise SourceError(
            "torch-weights-differ",
            f"the weights in {name} are not those of the network: {'; '.join(parts)}",
            missing=missing,
            unexpected=extra,
        )
    reshaped = [key for key, value in weights.items() if value.shape != wanted[key].shape]
    if reshaped:
        shown = [f"{key} is {list(weights[key].shape)}, not {list(wanted[key].shape)}" for key in reshaped]
        raise SourceError(
            "torch-weights-differ",
            f"the weights in {name} have other shapes than the network's: {some(shown, _SHOWN)}",
            reshaped=reshaped,
        )
    module.load_state_dict(weights, strict=False)


def _pickled(path: Path) -> Any:
    import pickle

    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = _GLOBAL.search(str(error))
        raise UnsafeSourceError(
            "source-unsafe-code",
            f"{path.name} holds more than weights: reading it would run code"
            + (f" of {named[1].rstrip('.')}" if named else ""),
            cause="It is a Python pickle that names classes or functions, such as a whole model or a trainer's state. "
            "Nothing of it has run; it is not read even when it is trusted.",
            next_step=_SAVE,
        ) from error
    except Exception as error:  # on a damaged file PyTorch raises anything from EOFError to RuntimeError
        raise SourceError("source-unreadable", f"PyTorch cannot read {path.name}: {first_line(error)}") from error


def _safetensors(path: Path) -> Any:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise SourceError(
            "source-framework-missing",
            f"a safetensors file needs safetensors, which is not installed: {error}",
            next_step="pip install 'edgekit-sdk[torch]'",
        ) from error
    try:
        return load_file(path)
    except (SafetensorError, ValueError, KeyError) as error:
        raise SourceError("source-unreadable", f"safetensors cannot read {path.name}: {first_line(error)}") from error


def _is_weights(found: Mapping[Any, Any]) -> bool:
    """Whether it has tensors by name; a checkpoint's own entries (an epoch, an optimizer) are none."""
    import torch

    return any(isinstance(value, torch.Tensor) for value in found.values()) and not any(
        isinstance(found.get(holder), Mapping) for holder in _HOLDERS
    )


def _unwrapped(weights: dict[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    again = True
    while again and weights and not weights.keys() & wanted.keys():
        again = False
        for prefix in _PREFIXES:
            if all(key.startswith(prefix) for key in weights):
                weights = {key.removeprefix(prefix): value for key, value in weights.items()}
                again = True
                break
    return weights


def _tie(weights: dict[str, Any], wanted: Mapping[str, Any]) -> None:
    """Weights that the network uses in two places are stored once by safetensors."""
    places: dict[tuple[int, Any], list[str]] = {}
    for key, value in wanted.items():
        places.setdefault((value.data_ptr(), value.shape), []).append(key)
    for keys in places.values():
        stored = [key for key in keys if key in weights]
        if stored and wanted[stored[0]].numel():
            for key in keys:
                weights.setdefault(key, weights[stored[0]])
