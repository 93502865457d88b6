"""What every limit looks at: the model, the board and the engine that would run it there."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edgekit.device_profiles.software import ENGINES
from edgekit.errors import UsageError

if TYPE_CHECKING:
    from edgekit.device_profiles.schema import Profile
    from edgekit.device_profiles.software import Engine
    from edgekit.formats.facts import ModelFacts
    from edgekit.manifest import Manifest
    from edgekit.memory import Memory


@dataclass(frozen=True)
class Case:
    """What every limit looks at.

    Attributes:
        known: Estimates of memory so far, which boards of one userland share.
    """

    facts: ModelFacts
    manifest: Manifest | None
    profile: Profile
    engine: str | None
    threads: int | None
    known: dict[tuple[str, str, int | None], Memory] = field(default_factory=dict, compare=False, repr=False)

    @property
    def installed(self) -> Engine | None:
        """The engine there, when it can be installed."""
        found = self.profile.engines.get(self.engine or "")
        return found if found and found.version else None

    @property
    def precision(self) -> str:
        """What the model computes in: our manifest's word, else what the file's element types say."""
        return self.manifest.precision if self.manifest else self.facts.precision

    @property
    def size(self) -> int:
        """Bytes of the file and of what an ONNX file keeps beside it."""
        return max(self.facts.bytes, self.facts.weight_bytes if self.facts.external else 0)

    def source(self, table: str) -> str:
        """Where the profile has its statement on this engine from."""
        return self.profile.source(f"{table}.{self.engine}")


def choose(format: str, profile: Profile, wanted: str | None) -> str | None:
    """Which of the profile's engines runs the model: the wanted one, else the first that can be installed."""
    if wanted is not None and wanted not in ENGINES:
        raise UsageError("unknown-name", f"no engine is called {wanted!r}; a device may have {', '.join(ENGINES)}")
    # Our own engine "litert" takes tflite-runtime where there is no LiteRT: 32-bit Arm.
    fallback = {"litert": ("litert", "tflite-runtime"), None: tuple(ENGINES)}
    names = [name for name in fallback.get(wanted, (wanted or "",)) if ENGINES[name] == format]
    usable = [name for name in names if name in profile.engines and profile.engines[name].version]
    return next(iter(usable or names), None)
