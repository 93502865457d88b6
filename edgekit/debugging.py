"""Why does an artifact answer otherwise than its source? Layer by layer, worst first, with reasons and remedies.

    identify > load > lower > answer > examine

The source is lowered again as the artifact's manifest says, so that there is a float graph of the artifact's format to
compare with; `edgekit.converters.debugging` says how. Models are parsed and run in the child processes of a conversion.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit import artifact as artifacts
from edgekit.child import Limits
from edgekit.converters import loaders, repairs
from edgekit.converters.debugging.pictures import ExamineRequest
from edgekit.converters.policy import policy
from edgekit.converters.sources import lowering_for
from edgekit.converters.stages import Graph, LoadedFacts, Source
from edgekit.converters.worker import Workshop
from edgekit.data_ref import DataRef
from edgekit.errors import MissingFileError, UsageError
from edgekit.feeding import Preprocess
from edgekit.options import Options, check_limits
from edgekit.pipeline import identified
from edgekit.precision import precisions

if TYPE_CHECKING:
    from edgekit.artifact import Artifact
    from edgekit.converters.debugging.results import Examination, Layer

Progress = Callable[[dict[str, Any]], None]

_FLOAT = ("fp32",)
_SCALING = {"equalize", "smooth"}
"""Repairs that scale channels."""
_RECORDED = ("layout",)
_SWITCHES = ("exact_labels",)


@dataclass(frozen=True)
class DebugOptions:
    """How to look; what the artifact's manifest records of its conversion need not be said again.

    Attributes:
        samples: Draw at most this many by a seeded shuffle.
        seed: Of that draw.
        shapes, dtypes, model, signature, layout: As of a conversion; None and empty for what the manifest records.
        trust: As of a conversion.
        preprocess: How raw files become arrays; None for what the manifest says.
        tolerance: Of float artifacts: largest error as a share of a tensor's range; None for that of verification.
        threads: Of the engine.
        time_limit: Seconds a stage may take. memory_limit: MiB a child process may use.
        histograms: How many of the worst layers get histograms.
    """

    samples: int = 32
    seed: int = 0
    shapes: Mapping[str, tuple[int | None, ...]] = field(default_factory=dict)
    dtypes: Mapping[str, str] = field(default_factory=dict)
    model: str | None = None
    signature: str | None = None
    layout: str | None = None
    trust: bool | str = False
    preprocess: Preprocess | None = None
    tolerance: float | None = None
    threads: int = 2
    time_limit: float = 900.0
    memory_limit: int | None = None
    histograms: int = 6

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise UsageError("option-value", "at least one sample is needed")
        if self.tolerance is not None and not self.tolerance > 0:
            raise UsageError("option-value", f"--tolerance is {self.tolerance}; it is a positive share of a range")
        check_limits(self.time_limit, self.memory_limit)


@dataclass(frozen=True)
class Debugged:
    """What was found.

    Attributes:
        path, format, precision: Of the artifact.
        source: What it was compared with.
        examination: See there; its layers stand worst first.
        notes: For the user.
        stages: Seconds of each.
    """

    path: str
    format: str
    precision: str
    source: Source
    examination: Examination
    notes: tuple[str, ...]
    stages: tuple[tuple[str, float], ...]

    @property
    def floats(self) -> bool:
        """Whether it computes in 32-bit floats, so that a divergence is an error and not a rounding."""
        return self.precision in _FLOAT

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Worst first."""
        return self.examination.layers

    def matching(self, pattern: str) -> tuple[Layer, ...]:
        """Layers whose name, or whose name in the source, fits a pattern of the shell's kind.

        Raises:
            UsageError: `debug-layer-unknown`: none does.
        """
        found = tuple(
            layer
            for layer in self.layers
            if any(fnmatchcase(name, pattern) or name == pattern for name in (layer.name, layer.source_layer or ""))
        )
        if not found:
            some = ", ".join(layer.source_layer or layer.name for layer in self.layers[:8])
            raise UsageError("debug-layer-unknown", f"no layer is called {pattern!r}; there are {some}, ...")
        return found

    def to_dict(self) -> dict[str, Any]:
        """The JSON document of `edgekit debug --json`."""
        found = self.examination
        return {
            "artifact": {"path": self.path, "format": self.format, "precision": self.precision},
            "source": {"framework": self.source.kind, "path": self.source.path, "sha256": self.source.sha256},
            "samples": found.samples,
            "layers": [layer.to_dict() for layer in found.layers],
            "unpaired": list(found.unpaired),
            "outputs": [asdict(output) for output in found.outputs],
            "divergence": None if found.divergence is None else asdict(found.divergence),
            "diverging": list(found.diverging),
            "notes": list(self.notes),
            "stages": [{"name": name, "seconds": round(seconds, 4)} for name, seconds in self.stages],
        }


def debug(
    artifact: str | Path | Artifact,
    against: Any,
    data: Any,
    options: DebugOptions | None = None,
    progress: Progress | None = None,
) -> Debugged:
    """Compare every layer of an artifact with the float graph of its source.

    Args:
        artifact: Path of a `.tflite` or `.onnx` file, ours or foreign; or an Artifact.
        against: The model it was made from, as `edgekit.convert` takes it.
        data: Samples, as `edgekit.convert` takes them; labels are not needed.
        options: How.
        progress: Told what goes on.

    Raises:
        UsageError: `debug-interface`: source and artifact do not take or give the same.
        EdgeKitError: As `edgekit.convert` on loading and lowering the source, and on reading data.
    """
    options = options or DebugOptions()
    read = artifact if isinstance(artifact, artifacts.Artifact) else artifacts.read(artifact)
    precision = _precision(read)
    with Workshop(Limits(options.time_limit, options.memory_limit), progress) as shop:
        with shop.stage("identify"):
            conversion = _conversion(read, options)
            source = _as_recorded(identified(against, conversion, shop.scratch), read)
            lowering = lowering_for(source.kind, read.format)
            shop.start(loaders.get(source.kind).PRELOAD, read.format, quantizes=False)
        with shop.stage("load"):
            facts = shop.load(source)
            samples = _data(data, options, facts, read, shop.scratch / "data")
        with shop.stage("lower"):
            exact = conversion.exact_labels and precision == "fp32"
            real = precision in precisions and precisions.get(precision).real
            lowered = shop.lower(lowering, read.format, conversion.layout, _folded(read, options), exact, real)
            described = shop.describe()
        with shop.stage("answer"):
            answers = shop.answer(facts, samples)
        with shop.stage("examine"):
            floats = precision in _FLOAT
            reference = described.graph if floats and described.graph is not None else lowered
            model = shop.scratch / f"artifact.{read.format}"
            model.write_bytes(read.model)
            about = read.manifest
            found = shop.examine(
                ExamineRequest(
                    path=str(model),
                    format=read.format,
                    inputs=about.inputs if about else (),
                    outputs=about.outputs if about else (),
                    reference=reference,
                    entrance=facts.samples,
                    lowered=lowered,
                    data=samples,
                    answers=answers.folder,
                    names=described.names,
                    floats=floats,
                    used=_used(read, precision),
                    rescaled=_repaired(read, precision),
                    tolerance=options.tolerance or policy("fp32").relative_error or 0.0,
                    threads=options.threads,
                    histograms=options.histograms,
                )
            )
    notes = (*_doubts(read, source, lowered), *facts.notes, *found.notes)
    stages = tuple(shop.seconds)
    return Debugged(str(read.path or "artifact"), read.format, precision, source, found, notes, stages)


def _folded(read: Artifact, options: DebugOptions) -> Preprocess | None:
    """The preparation that is inside the artifact; its manifest keeps only what is left of it."""
    if read.manifest is None or not read.manifest.provenance.options.get("fold_preprocess"):
        return None
    if options.preprocess is None:
        raise UsageError("debug-folded", "the artifact prepares its input inside, and its manifest does not say how")
    return options.preprocess


def _precision(read: Artifact) -> str:
    from edgekit.formats import read_facts

    return read.manifest.precision if read.manifest else read_facts(read).precision


def _used(read: Artifact, precision: str) -> tuple[str, ...]:
    """Options of the artifact's conversion, as they would be recommended."""
    recorded = read.manifest.provenance.options if read.manifest else {}
    known = precisions.get(precision) if precision in precisions else None
    observer = recorded.get("observer") or (known.observer if known else None)
    tried = repairs.choose(recorded["repairs"], known.repairs)[0] if known and recorded.get("repairs") else ()
    return (f"--precision {precision}", f"--observer {observer}", *(f"--repair {name}" for name in tried))


def _repaired(read: Artifact, precision: str) -> bool:
    """Whether repairs may have changed the scales of channels inside."""
    if read.manifest and read.manifest.repaired is not None:
        return bool(_SCALING & read.manifest.repaired.keys())
    recorded = read.manifest.provenance.options.get("repairs") if read.manifest else None
    known = precisions.get(precision) if precision in precisions else None
    return bool(recorded) and recorded != ["none"] and known is not None and known.calibrated


def _conversion(read: Artifact, options: DebugOptions) -> Options:
    """The options of the conversion that made the artifact, as far as the float graph depends on them."""
    recorded = read.manifest.provenance.options if read.manifest else {}
    said = {name: getattr(options, name) or recorded.get(name) for name in _RECORDED}
    shapes = options.shapes or {name: tuple(sizes) for name, sizes in recorded.get("shapes", {}).items()}
    return Options(
        to=read.format,
        model=options.model,
        signature=options.signature,
        shapes=shapes,
        dtypes=options.dtypes or recorded.get("dtypes", {}),
        trust=options.trust,
        time_limit=options.time_limit,
        memory_limit=options.memory_limit,
        **{name: value for name, value in said.items() if value is not None},
        **{name: recorded[name] for name in _SWITCHES if name in recorded},
    )


def _as_recorded(source: Source, read: Artifact) -> Source:
    """With the network's code and the signature that the manifest names, where the source has a use for them and nobody
    said others: it may be another file, and of another kind, than the artifact was made from.
    """
    from edgekit.converters.from_torch.files import content

    if read.manifest is None or read.manifest.provenance.framework != source.kind:
        return source
    recorded = read.manifest.provenance.options
    weights = source.kind == "torch" and content(Path(source.path)) == "weights"
    return replace(
        source,
        model=source.model or (recorded.get("model") if weights else None),
        signature=source.signature or recorded.get("signature"),
    )


def _data(given: Any, options: DebugOptions, facts: LoadedFacts, read: Artifact, folder: Path) -> DataRef:
    if not isinstance(given, (str, Path)):
        from edgekit.data_objects import spill

        folder.mkdir()
        given = spill(given, facts.samples, folder).path
    if not Path(given).exists():
        raise MissingFileError("file-missing", f"there is no {given}")
    preprocess = options.preprocess or (read.manifest.preprocess if read.manifest else Preprocess())
    return DataRef(str(given), samples=options.samples, seed=options.seed, preprocess=preprocess, needs_label=False)


def _doubts(read: Artifact, source: Source, lowered: Graph) -> tuple[str, ...]:
    """What makes the comparison less than exact."""
    about = read.manifest
    if about is None:
        return ("the artifact has no manifest: tensors are paired as far as names, structure and values tell",)
    notes = []
    if about.provenance.sha256 != source.sha256:
        notes.append("the source is not the file that the artifact was made from: its digest is another")
    changed = [
        f"{name} {version} (now {lowered.tools[name]})"
        for name, version in about.provenance.tools.items()
        if name in lowered.tools and lowered.tools[name] != version
    ]
    if changed:
        notes.append(f"the artifact was made with {', '.join(changed)}")
    return tuple(notes)
