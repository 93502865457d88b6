"""The calibration and evaluation data that a conversion was given, and what must hold of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.codec import encode
from edgekit.conversion import unique
from edgekit.converters.stages import LoadedFacts
from edgekit.data_ref import DataRef
from edgekit.errors import DataError, MissingFileError
from edgekit.metadata import Metadata
from edgekit.options import Options
from edgekit.precision import Precision

if TYPE_CHECKING:
    from edgekit.converters.jobs import Survey


def locate(given: Any, options: Options, facts: LoadedFacts, said: Metadata, folder: Path) -> DataRef | None:
    """The data as the user named it, or spilled to files when it came as arrays."""
    if given is None:
        return None
    calibrates = folder.name == "calibration"
    samples = options.calibration_samples if calibrates else options.evaluation_samples
    if not isinstance(given, (str, Path)):
        from edgekit.data_objects import framed, spill

        folder.mkdir()
        columns = facts.columns if said.preprocess.table is None else said.preprocess.table.columns
        table = framed(given, columns, options.label, folder) if len(facts.inputs) == 1 else None
        given = table or spill(given, facts.samples, folder).path
    if not Path(given).exists():
        raise MissingFileError("file-missing", f"there is no {given}")
    return DataRef(
        path=str(given),
        label=options.label,
        needs_label=not calibrates,
        samples=samples,
        seed=options.seed,
        preprocess=said.preprocess,
        classes=said.interpret.labels,
        columns=facts.columns,
    )


def watched(
    given: tuple[Any, Any] | None, options: Options, facts: LoadedFacts, said: Metadata, scratch: Path
) -> tuple[DataRef | None, DataRef | None] | None:
    """Evaluation and calibration data that monitors go by, all of them; None where they are the conversion's own."""
    if given is None:
        return None
    folder = scratch / "watched"
    folder.mkdir()
    names = ("evaluation", "calibration")
    found = [locate(data, options, facts, said, folder / name) for data, name in zip(given, names, strict=True)]
    evaluation, calibration = (None if one is None else replace(one, samples=None) for one in found)
    return evaluation, calibration


def require_calibration(calibration: DataRef | None, precision: Precision) -> None:
    """Raises:
    DataError: `calibration-missing`: the precision needs observed ranges and there is nothing to observe.
    """
    if precision.calibrated and calibration is None:
        raise DataError("calibration-missing", f"{precision.name} needs calibration data")


def enforce_lint(survey: Survey) -> None:
    """Raises:
    DataError: `data-lint`: the lint found what no model can be calibrated or judged with.
    """
    errors = [finding for finding in survey.findings if finding.severity == "error"]
    if errors:
        raise DataError(
            "data-lint",
            "; ".join(finding.message for finding in errors),
            next_step=" ".join(unique(finding.fix for finding in errors)),
            findings=encode(survey.findings),
        )
