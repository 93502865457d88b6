"""Does the artifact give the source's answers? Measured over all samples, judged by the policy, fail-closed.

Streaming: batches of reference and answer go in, sums stay. What cannot be judged (NaN on the artifact's side, a range
of zero with an error, no decided sample at all) counts as failed or falls to the stricter rule, never as passed.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from edgekit.converters.policy import Policy, policy
from edgekit.converters.stages import Array, Feeds
from edgekit.converters.verification import verdict
from edgekit.converters.verification.agreement import ENOUGH, Classes, one_sided
from edgekit.converters.verification.output_errors import OutputErrors, apart, senseless, span, unfinite
from edgekit.converters.verification.thinned import Thinner
from edgekit.converters.verification.verdict import REPORT, Failure, Verification
from edgekit.errors import VerificationError
from edgekit.manifest import Interpret, Metric, Proof, Task
from edgekit.metrics import Accumulator, accumulator

SIGMOID = 2.0**-22
"""onnxruntime's sigmoid is off by up to 1.7e-7 (measured from -20 to 20), however small the answer is."""

UNSTEADY = 4.0
"""An answer that moves by more than this part of the bound, inputs nudged, is decided by rounding: the artifact rounds
in other places, and has its own part in it."""

FEW = 5
"""Fewer decided samples than this say little: the noise rule applies as well."""


@dataclass
class Comparison:
    """Takes batches, gives the verdict.

    Attributes:
        policy: Name of the policy of the artifact's precision.
        interpret: How the outputs are read, as far as it is known.
        declared: The user named the task, so that logits count as class scores.
        max_drop: Points that the metric may lose.
        labels: Of all samples [N, ...], because a batch does not tell what they mean; None when there are none.
        ragged: Outputs that have another size for each sample; they come one sample at a time.
        squashed: Outputs whose reference is off by up to `SIGMOID`.
        gaps: Inputs take NaN, so that NaN is an answer.
        fed: Shapes of a sample of each input: an answer of such a shape is no vector of class scores, but what an
            autoencoder makes of its input.
        precision: The artifact's, for what to try instead.
    """

    policy: str
    interpret: Interpret
    declared: bool = False
    max_drop: float = 1.0
    labels: Array | None = None
    ragged: frozenset[str] = frozenset()
    squashed: frozenset[str] = frozenset()
    gaps: bool = False
    fed: frozenset[tuple[int | None, ...]] = frozenset()
    precision: str = "int8"
    _outputs: dict[str, OutputErrors] = field(default_factory=dict)
    _edges: dict[str, OutputErrors] = field(default_factory=dict)
    _classes: Classes = field(default_factory=Classes)
    _metrics: tuple[Accumulator, Accumulator] | None = None
    _samples: int = 0
    _unsteady: int = 0
    _chosen: str | None = None
    _echoes: bool = False
    _calibrated: Counter[int] = field(default_factory=Counter)
    _thinner: Thinner = field(default_factory=Thinner)

    def add(self, reference: Feeds, answer: Feeds, samples: int | None = None) -> None:
        """The next batch: arrays [n, ...] by public output name, of the source and of the artifact.

        Args:
            reference: Of the source.
            answer: Of the artifact.
            samples: n, where an output may have its batch elsewhere.
        """
        bounds = policy(self.policy)
        self._chosen = self.interpret.output or self._chosen or next(iter(reference))
        self._echoes |= reference[self._chosen].shape[1:] in self.fed
        for name, expected in reference.items():
            self._outputs.setdefault(name, OutputErrors()).add(expected, self._as_given(answer, name, expected))
        expected, found = reference[self._chosen], answer[self._chosen]
        self._thinner.add(expected, self._as_given(answer, self._chosen, expected))
        samples = len(expected) if samples is None else samples
        if self._chosen in self.ragged or not expected.ndim or len(expected) != samples:
            self._classes.vector = False
            self._samples += samples
            return
        self._classes.add(expected, found, bounds.relative_error or 0.0, bounds.decided_margin)
        if self.labels is not None:
            labels = self.labels[self._samples : self._samples + len(expected)]
            if self._metrics is None:
                task = self.interpret.task
                self._metrics = (accumulator(task, self.labels, expected), accumulator(task, self.labels, found))
            self._metrics[0].add(expected, labels)
            self._metrics[1].add(found, labels)
        self._samples += len(expected)

    def add_edges(self, reference: Feeds, answer: Feeds, nudged: Feeds | None = None) -> None:
        """Edge cases: the artifact must be finite where the source is, and equal under a policy of parity.

        What is selected from equal candidates, as edge cases give them, is not compared. Nor is an edge case on which
        rounding alone decides, as where a filter sees nothing and a logarithm follows.

        Args:
            reference: Of the source.
            answer: Of the artifact.
            nudged: Of the source, its inputs moved by a few steps of float32.
        """
        bound = policy(self.policy).relative_error
        for name, expected in reference.items():
            if name in self.ragged:
                continue
            found = self._as_given(answer, name, expected)
            if bound is None or nudged is None or nudged[name].shape != expected.shape or not expected.ndim:
                self._edges.setdefault(name, OutputErrors()).add(expected, found)
                continue
            width = max(self._outputs[name].span if name in self._outputs else 0.0, span(expected))
            for one, other, moved in zip(expected, found, nudged[name], strict=True):
                steady = apart(one, moved) <= bound * width / UNSTEADY
                self._unsteady += not steady
                # What is not steady must be finite all the same.
                self._edges.setdefault(name, OutputErrors()).add(
                    one, other if steady else np.where(np.isfinite(other), one, other)
                )

    def add_calibration(self, answer: Feeds) -> None:
        """The artifact's answers to calibration samples, where evaluation data is what is compared."""
        if self._classes.vector and self._chosen is not None:
            scores = answer[self._chosen]
            self._calibrated.update(scores.reshape(len(scores), -1).argmax(axis=1).tolist())

    def finish(self, data: Literal["evaluation", "calibration", "random"]) -> Verification:
        """Measure and judge all that was added."""
        bounds = policy(self.policy)
        proof = self._proof(data)
        parity = verdict.parity(bounds, self._error(bounds), proof.cosine, self._edge_error())
        failures = [*self._nothing(data), *self._finite(), *parity, *self._same_class(bounds)]
        warnings = [*self._chance(), *senseless(self._outputs), *self._first_output(), *self._one_sided(data)]
        warnings += self._rounding(bounds)
        if bounds.metric:
            failures += self._quantized(bounds, proof, warnings)
        some = self._thinner.finish(self._chosen or "")
        return Verification(proof, self._reading(), tuple(failures), tuple(warnings), some)

    def _as_given(self, answer: Feeds, name: str, expected: Array) -> Array:
        return _like(answer, name, expected, ragged=name in self.ragged)

    @property
    def _is_classifier(self) -> bool:
        said = self.declared and self.interpret.task == "classification"
        seen = self.interpret.task in ("other", "classification") and self._classes.probabilities
        return self._classes.vector and self._classes.samples > 0 and (said or seen)

    @property
    def _is_chosen(self) -> bool:
        """The output that is judged is the one that will be read."""
        return len(self._outputs) == 1 or self.interpret.output is not None

    def _proof(self, data: Literal["evaluation", "calibration", "random"]) -> Proof:
        seen = list(self._outputs.values())
        classes = self._classes
        sqnr = min(output.sqnr for output in seen)
        vector = classes.vector and classes.samples and self._reading().task in ("classification", "other")
        return Proof(
            samples=self._samples,
            data=data,
            max_abs_error=max(output.worst for output in seen),
            relative_error=_finite_number(max(output.relative for output in seen)),
            sqnr_db=None if math.isinf(sqnr) else sqnr,
            cosine=min(output.cosine for output in seen),
            agreement=classes.same / classes.samples if vector else None,
            decided_agreement=classes.decided_same / classes.decided if vector and classes.decided else None,
            metric=self._metric(),
        )

    def _metric(self) -> Metric | None:
        if self._metrics is None:
            return None
        source, artifact = (metric.value for metric in self._metrics)
        return Metric(self._metrics[0].name, source, artifact, source - artifact)

    def _chance(self) -> list[str]:
        """A source that knows nothing proves nothing: no drop can be seen from there."""
        if self._metrics is None or self._samples < ENOUGH or self._metrics[0].value > self._metrics[0].baseline:
            return []
        metric = self._metrics[0]
        if metric.baseline == metric.value:
            return ["all samples of the evaluation data have one label: a model that always answers it would pass"]
        message = (
            f"the source itself reaches {metric.name} {metric.value:.2f} on the evaluation data, a constant answer "
            f"{metric.baseline:.2f}: check that it is prepared as in training and that the labels belong to it"
        )
        return [message]

    def _one_sided(self, data: str) -> list[str]:
        classes = self._classes
        if not classes.vector or data == "random" or self._reading().task == "multi-label":
            return []
        seen, usual = (classes.said, Counter[int]()) if data == "calibration" else (self._calibrated, classes.said)
        message = one_sided(seen, usual, classes.width)
        return [message] if message else []

    def _first_output(self) -> list[str]:
        if self.labels is not None and self._metrics is None:
            return [f"the labels are not used: {self._chosen} has no row for each sample"]
        if self._metrics is None or self.interpret.output is not None or len(self._outputs) == 1:
            return []
        where = f"{self._chosen}, the first of {len(self._outputs)} outputs"
        return [f"the labels are compared with {where}: `output` under [interpret] in --metadata names another"]

    def _nothing(self, data: str) -> list[Failure]:
        """Answers without a number prove nothing: where detectors find nothing, or too little was asked for a frame."""
        if any(output.count or output.broken or output.nan for output in self._outputs.values()):
            return []
        samples = f"{self._samples} samples of {data} data"
        message = f"the source answers none of the {samples} with a number: nothing is compared"
        step = "Give data that it answers with --eval, or sizes that it is used with: --input NAME=SIZES."
        return [Failure("verify-empty", message, step)]

    def _finite(self) -> list[Failure]:
        kinds = (("", self._outputs), (" on edge cases (zeros, extremes)", self._edges))
        return [
            Failure("verify-nonfinite", message, step)
            for where, outputs in kinds for message, step in unfinite(outputs, where, gaps=self.gaps)
        ]  # fmt: skip

    def _excused(self, bounds: Policy) -> list[str]:
        """Outputs on which the source's own sigmoid errs by more than is allowed, and the artifact by no more."""
        if bounds.relative_error is None:
            return []
        return [
            name
            for name, output in self._outputs.items()
            if name in self.squashed
            and bounds.relative_error * output.span < output.worst <= bounds.relative_error * output.span + SIGMOID
            and not output.drowned
        ]

    def _error(self, bounds: Policy) -> float:
        """The largest error of the range, of the outputs that can be judged by it."""
        excused = self._excused(bounds)
        return max((output.relative for name, output in self._outputs.items() if name not in excused), default=0.0)

    def _rounding(self, bounds: Policy) -> list[str]:
        """What could not be judged to the last digits."""
        found = [
            f"{name} is at most {self._outputs[name].high:.2g} on this data, where the source's own sigmoid is off by "
            "1e-7: compared to that only; real data with --eval would tell more"
            for name in self._excused(bounds)
        ]
        if self._unsteady:
            found.append(
                f"{self._unsteady} of the answers to edge cases (zeros, extremes) hang on rounding in the source "
                "itself, and were checked for NaN only"
            )
        return found

    def _edge_error(self) -> float:
        """Worst error on edge cases over the larger of both ranges."""
        worst = 0.0
        for name, edge in self._edges.items():
            span = max(edge.span, self._outputs[name].span if name in self._outputs else 0.0)
            worst = max(worst, edge.worst / span if span else (math.inf if edge.worst else 0.0))
        return worst

    def _same_class(self, bounds: Policy) -> list[Failure]:
        classes = self._classes
        if bounds.agreement is None or not classes.vector or not classes.samples:
            return []
        share = (classes.same + classes.tied) / classes.samples
        if share >= bounds.agreement:
            return []
        wrong = classes.samples - classes.same - classes.tied
        return [Failure("verify-agreement", f"{wrong} of {classes.samples} samples get another top-1 class", REPORT)]

    def _noise(self, bounds: Policy, names: set[str]) -> list[Failure]:
        return [
            Failure(
                "verify-noise",
                f"SQNR of {name} is {output.sqnr:.1f} dB, {bounds.sqnr_db:g} dB are asked",
                verdict.attempts(self.precision),
            )
            for name, output in self._outputs.items()
            if name in names and bounds.sqnr_db is not None and output.sqnr < bounds.sqnr_db
        ]

    def _quantized(self, bounds: Policy, proof: Proof, warnings: list[str]) -> list[Failure]:
        drowned = [name for name, output in self._outputs.items() if output.drowned and self._samples >= FEW]
        warnings += verdict.drowned(drowned, self.precision)
        # Labels and classes judge one output; noise judges the others.
        failures = self._noise(bounds, set(self._outputs) - {self._chosen or ""})
        if proof.metric is not None:
            return [*verdict.accuracy(proof.metric, self.max_drop, self.precision), *failures]
        decided = self._classes.decided if self._is_classifier else 0
        if decided and bounds.decided_agreement is not None:
            share = self._classes.decided_same / decided
            if share < bounds.decided_agreement:
                message = (
                    f"the artifact agrees on {100 * share:.1f} % of the {decided} samples that the source decides, "
                    f"{100 * bounds.decided_agreement:.0f} % are asked"
                )
                failures.append(Failure("verify-agreement", message, verdict.attempts(self.precision)))
        if decided < FEW:
            failures += self._noise(bounds, {self._chosen or ""})
        if not self._is_classifier and self._classes.vector and self.interpret.task == "other" and not self._echoes:
            warnings.append(
                "the output looks like class scores without a softmax: add labels to --eval, or --task classification, "
                "so that agreement on the class is judged and not only noise"
            )
        return failures

    def _reading(self) -> Interpret:
        """The interpretation, with the task and kind of scores that were seen."""
        said = self.interpret
        if said.task == "other" and self._metrics is not None:
            said = replace(said, task=_TASKS[self._metrics[0].name])
        elif said.task == "other" and not self.declared and self._is_classifier and self._is_chosen:
            said = replace(said, task="classification")
        if self._classes.vector and self._classes.samples and self._classes.probabilities:
            said = replace(said, scores="probabilities")
        elif not self._classes.vector and self._chosen in self._outputs:
            chosen = self._outputs[self._chosen]
            said = replace(said, scores="probabilities" if chosen.low >= 0 and chosen.high <= 1 else "logits")
        return said


_TASKS: dict[str, Task] = {"top1": "classification", "multi_label_f1": "multi-label", "r2": "regression"}


def _like(answer: Feeds, name: str, expected: Array, *, ragged: bool = False) -> Array:
    """The artifact's output of that name, in the reference's shape.

    Raises:
        VerificationError: `verify-outputs`.
    """
    found = answer.get(name)
    if found is None or found.shape != expected.shape:
        raise VerificationError(
            "verify-outputs",
            f"output {name} has shape {None if found is None else list(found.shape)} in the artifact and "
            f"{list(expected.shape)} in the source",
            next_step=_instead(found, expected, ragged=ragged),
        )
    return found


def _instead(found: Array | None, expected: Array, *, ragged: bool) -> str:
    """What to do about an output of another shape."""
    if not expected.ndim:
        return "One number for a whole batch, such as a loss, is no answer to a sample: convert the model without it."
    if ragged:
        return (
            "Where the shape says how much was found, more or less was found here: convert the model without its "
            "last selection (NonMaxSuppression), or with --precision fp32."
        )
    if found is not None and found.ndim == expected.ndim and found.shape[1:] == expected.shape[1:]:
        return (
            "It is not one answer a sample, such as a constant or a sum over the batch: convert the model without it."
        )
    return REPORT


def _finite_number(value: float) -> float:
    """JSON has no infinity: the largest float says the same."""
    return value if math.isfinite(value) else 1.7976931348623157e308
