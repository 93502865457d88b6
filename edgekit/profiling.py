"""Profiling: what can only be done at a desk is done here, the timing on the target."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from edgekit import artifact as artifacts
from edgekit import files
from edgekit.child import Limits, Progress
from edgekit.errors import ConversionError, UsageError
from edgekit.formats import read_facts
from edgekit.measure import profiler
from edgekit.measure.profile import Profile, ProfileRequest
from edgekit.runtimes import PREFERRED
from edgekit.targets import agent, open_target
from edgekit.targets.tasks import UNTIMED


def profile(
    opening: agent.Opening, *, seconds: float = 3.0, target: str = "local", progress: Progress | None = None
) -> Profile:
    """Time every op of an artifact on a target.

    Args:
        opening: The artifact; its engine is the format's own.
        seconds: Measure about this long.
        target: Where; TFLite models need `edgekit-sdk[convert]` at the desk.
        progress: Told what goes on.

    Raises:
        UsageError: `target-untimed`: times mean nothing there; `engine-format`: another engine was named.
        EngineError: `profile-unsupported`: the model's ops do not run by themselves there.
        EdgeKitError: As `edgekit.load`.
    """
    read = artifacts.read(opening.path, verify=opening.verify)
    if opening.engine not in (None, PREFERRED[read.format]):
        raise UsageError("engine-format", f"{opening.engine} gives no times of ops")
    with files.scratch() as folder, open_target(target, progress) as place:
        if not place.timed:
            raise UsageError("target-untimed", UNTIMED.format(place.name))
        pieces = None
        macs: tuple[tuple[str, int], ...] = ()
        if read.format == "tflite":
            pieces = place.put(_pieces(read, folder / "pieces.zip"))
        else:
            macs = tuple((op.name, op.macs) for op in read_facts(read).ops if op.macs and op.name)
        there = place.put(Path(opening.path))
        request = ProfileRequest(there, pieces, opening.threads, seconds, opening.verify, macs)
        found: Profile = place.perform(profiler.profile, request, limits=Limits(900 + 20 * seconds), progress=progress)
        return replace(found, file=opening.path, target=place.name)


def _pieces(read: artifacts.Artifact, path: Path) -> Path:
    try:
        from edgekit.converters.cut import cut

        cut(read, path)
    except ImportError as error:
        raise ConversionError(
            "profile-tools-missing",
            f"cutting a TFLite model into its ops needs {error.name}, which is not installed here",
            next_step='pip install "edgekit-sdk[convert]"',
        ) from error
    return path
