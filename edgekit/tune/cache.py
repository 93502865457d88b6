"""What was found, kept by content: no finished trial is ever repeated, also after a kill.

A folder of small JSON files, one an evaluation, named by the digest of all that decides its result (source, data,
options, versions of the tools; for measurements the artifact, the setting and the machine), and of the artifacts.
Files appear whole or not at all; several searches may share a folder.
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from edgekit import __version__, files
from edgekit.codec import CodecError, decode, encode
from edgekit.errors import UsageError
from edgekit.tune.trial import Cost, Made, Refused

_KINDS: dict[str, type[Made | Cost | Refused]] = {"made": Made, "cost": Cost, "refused": Refused}
_TOOLS = (
    "ai-edge-litert", "ai-edge-quantizer", "keras", "numpy", "onnx", "onnxruntime", "onnxscript", "scikit-learn",
    "skl2onnx", "tensorflow", "tf2onnx", "tf-keras", "tflite-runtime", "torch",
)  # fmt: skip


@cache
def tools() -> dict[str, str]:
    """Versions that may decide the bytes of an artifact, of what is installed here."""
    found = {"edgekit": __version__}
    for name in _TOOLS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def key(**facts: Any) -> str:
    """Digest of all that decides a result."""
    text = json.dumps(encode(facts), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


class Cache:
    """One folder; see the module header.

    Raises:
        UsageError: `output-unwritable`: it cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(
                "output-unwritable",
                f"the cache {folder} cannot be made: {error.strerror or error}",
                next_step="Name a folder with --cache, or set EDGEKIT_CACHE.",
            ) from error

    def get(self, key: str) -> Made | Cost | Refused | None:
        """The result under a key; None when there is none, or none that can be read and has its artifact."""
        try:
            stored = json.loads((self.folder / f"{key}.json").read_text(encoding="utf-8"))
            result = decode(_KINDS[stored["kind"]], stored["result"])
        except (OSError, ValueError, KeyError, TypeError, CodecError):
            return None
        if isinstance(result, Made) and not self._whole(result.sha256):
            return None
        return result

    def put(self, key: str, result: Made | Cost | Refused) -> None:
        """Keep a result; the artifact of a `Made` must be there already."""
        kind = next(name for name, known in _KINDS.items() if isinstance(result, known))
        text = json.dumps({"kind": kind, "result": encode(result)}, indent=1, sort_keys=True)
        files.replace(self.folder / f"{key}.json", text.encode())

    def keep(self, data: bytes, format: str) -> str:
        """Keep an artifact; its digest."""
        digest = hashlib.sha256(data).hexdigest()
        if not self._whole(digest):
            files.replace(self.folder / f"{digest}.{format}", data)
        return digest

    def artifact(self, sha256: str) -> Path:
        """Where an artifact lies."""
        return next(path for path in self.folder.glob(f"{sha256}.*") if path.suffix != ".json")

    def _whole(self, sha256: str) -> bool:
        return any(files.sha256(path) == sha256 for path in self.folder.glob(f"{sha256}.*") if path.suffix != ".json")
