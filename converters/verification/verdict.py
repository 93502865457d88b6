"""What verification says at the end: what was measured, and each bound that was missed, with what to try."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgekit.converters.policy import Policy
from edgekit.converters.verification.thinned import Outputs
from edgekit.errors import VerificationError
from edgekit.manifest import Interpret, Metric, Proof

REPORT = "This is a conversion error, not rounding: report it with the model, or try the other format."

_FINER = {"int16x8": "fp16", "dynamic": "fp16", "int4": "dynamic"}
"""The precision that loses less, where that is not int16x8."""

_UNCALIBRATED = frozenset({"dynamic", "int4"})


def finer(precision: str) -> str:
    """The option that loses less than this precision."""
    return f"--precision {_FINER.get(precision, 'int16x8')}"


def attempts(precision: str) -> str:
    """What to try where this precision loses too much and there are no labels."""
    ways = f"Try {finer(precision)}"
    if precision not in _UNCALIBRATED:
        ways = (
            "Try --observer minmax or another --percentile, more representative calibration samples (100 to 500, as in "
            f"training), or {finer(precision)}"
        )
    return f"{ways}; with labels in --eval, accuracy decides instead."


@dataclass(frozen=True)
class Failure:
    """One bound that was missed: the figure and the bound, and what to try."""

    code: Literal[
        "verify-empty", "verify-parity", "verify-accuracy", "verify-agreement", "verify-noise", "verify-nonfinite"
    ]
    message: str
    next_step: str


@dataclass(frozen=True)
class Verification:
    """The verdict.

    Attributes:
        proof: What was measured.
        interpret: How the outputs are read, completed by what was seen of them.
        failures: Empty when the artifact passed.
        warnings: For the user.
        outputs: Some values of both sides.
    """

    proof: Proof
    interpret: Interpret
    failures: tuple[Failure, ...] = ()
    warnings: tuple[str, ...] = ()
    outputs: Outputs | None = None

    @property
    def passed(self) -> bool:
        return not self.failures

    def enforce(self, doubts: tuple[str, ...] = ()) -> None:
        """Raise when the artifact failed.

        Args:
            doubts: What the data was warned about before: the first thing to look at.

        Raises:
            VerificationError: With the code of the first failure and the messages of all.
        """
        if self.failures:
            code = self.failures[0].code
            raise VerificationError(
                code,
                "; ".join(failure.message for failure in self.failures),
                next_step=" ".join(map(_sentence, (*doubts, *self.warnings, self.failures[0].next_step))),
                failures=[failure.message for failure in self.failures],
            )


def drowned(outputs: list[str], precision: str) -> list[str]:
    """Of outputs whose error is larger than what they vary by."""
    if not outputs:
        return []
    one = len(outputs) == 1
    said = f"{' and '.join(outputs)} {'errs' if one else 'err'} by more than {'it varies' if one else 'they vary'}"
    return [f"{said} over this data: check {'it' if one else 'them'} with labels, or use {finer(precision)}"]


def accuracy(metric: Metric, max_drop: float, precision: str) -> list[Failure]:
    if metric.drop <= max_drop + 1e-9:  # points are differences of decimals
        return []
    message = (
        f"{metric.name} falls from {metric.source:.2f} to {metric.artifact:.2f}: a drop of {metric.drop:.2f} points, "
        f"at most {max_drop:g} are allowed"
    )
    step = f"Try {finer(precision)}, or a larger --max-drop."
    if precision not in _UNCALIBRATED:
        step = (
            "Try --observer minmax or another --percentile, more representative calibration samples, "
            f"{finer(precision)}, or a larger --max-drop."
        )
    return [Failure("verify-accuracy", message, step)]


def parity(bounds: Policy, error: float, cosine: float, edge_error: float) -> list[Failure]:
    failures = []
    if bounds.relative_error is not None:
        if not error <= bounds.relative_error:
            message = f"the largest error is {error:.2g} of the output's range, {bounds.relative_error:g} is allowed"
            failures.append(Failure("verify-parity", message, REPORT))
        elif not edge_error <= bounds.relative_error:
            message = (
                f"on edge cases (zeros, extremes) the error is {edge_error:.2g} of the output's range, "
                f"{bounds.relative_error:g} is allowed"
            )
            failures.append(Failure("verify-parity", message, REPORT))
    if bounds.cosine is not None and not cosine >= bounds.cosine:
        message = f"the cosine similarity is {cosine:.6f}, {bounds.cosine} is asked"
        failures.append(
            Failure("verify-parity", message, "Values may leave the range of float16: use --precision fp32.")
        )
    return failures


def _sentence(said: str) -> str:
    return said if said.endswith((".", "!", "?")) else f"{said}."
