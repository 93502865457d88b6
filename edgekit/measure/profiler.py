"""The job that times the ops of an artifact where it runs, by the engine's own way."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from edgekit.measure.profile import Profile, ProfileRequest


def profile(request: ProfileRequest) -> Generator[dict[str, Any], None, Profile]:
    """A job: time the ops of an artifact.

    Raises:
        EngineError: `profile-unsupported`: the model's ops cannot be told apart there; says why.
        EdgeKitError: As `edgekit.load`.
    """
    if request.pieces is not None:
        from edgekit.measure.profile_tflite import measure
    else:
        from edgekit.measure.profile_onnx import measure
    return (yield from measure(request))
