"""Which engine died: found by names and versions alone, because importing it may be what kills."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

CANDIDATES = {
    "litert": ("ai-edge-litert", "tflite-runtime", "tensorflow"),
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
}
"""Engine -> distributions that bring it, as `edgekit.runtimes` prefers them."""


@dataclass(frozen=True)
class Scene:
    """What was to be opened, by which engine (None: the format's own)."""

    path: str
    engine: str | None = None


@dataclass(frozen=True)
class Suspect:
    """A distribution and its version."""

    distribution: str
    version: str

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}"


def scene(request: Any) -> Scene | None:
    """What a job's request says of file and engine; None when it names no file."""
    opening = getattr(request, "opening", request)
    path = getattr(opening, "path", None)
    return Scene(path, getattr(opening, "engine", None)) if isinstance(path, str) else None


def suspect(scene: Scene) -> Suspect | None:
    """A job: the engine that would have run the file here; None for an engine of strangers, or where none is."""
    from importlib import metadata

    for distribution in CANDIDATES.get(scene.engine or _engine_of(Path(scene.path)), ()):
        try:
            return Suspect(distribution, metadata.version(distribution))
        except metadata.PackageNotFoundError:
            continue
    return None


def _engine_of(path: Path) -> str:
    """By its suffix, of a deployed version (which has none) by what it holds; "" where neither tells."""
    from edgekit import artifact

    formats = {".onnx": "onnx", ".tflite": "tflite"}
    try:
        found = formats.get(path.suffix) or artifact.format_of(path.read_bytes())
    except OSError:
        return ""
    return {"onnx": "onnxruntime", "tflite": "litert"}.get(found or "", "")
