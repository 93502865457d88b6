"""The verdict: every bound can fail, and nothing degenerate passes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.converters.policy import policies, policy
from edgekit.converters.verification.answers import mixed
from edgekit.converters.verify import Comparison
from edgekit.errors import DataError, UsageError, VerificationError
from edgekit.manifest import Interpret

DICE = np.random.default_rng(0)


def logits(n=200, classes=10):
    return DICE.normal(size=(n, classes)).astype(np.float32) * 5


def softmax(x):
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return (e / e.sum(axis=1, keepdims=True)).astype(np.float32)


def verdict(name, source, artifact, labels=None, *, edges=None, interpret=None, declared=False, max_drop=1.0):
    comparison = Comparison(name, interpret or Interpret(), declared=declared, max_drop=max_drop, labels=labels)
    comparison.add({"out": source}, {"out": artifact})
    if edges is not None:
        comparison.add_edges({"out": edges[0]}, {"out": edges[1]})
    return comparison.finish("evaluation")


def codes(verification):
    return [failure.code for failure in verification.failures]


def test_a_failure_is_told_in_sentences():
    x = softmax(logits())
    broken = np.where(np.arange(10) == 3, np.nan, x)
    said = replace(verdict("fp32", x, broken), warnings=("a warning without an end",))
    with pytest.raises(VerificationError) as failed:
        said.enforce(("a doubt.",))
    assert failed.value.next_step.startswith("a doubt. a warning without an end. Look ")


@pytest.mark.parametrize("name", policies())
def test_equal_answers_pass_every_policy(name):
    x = softmax(logits())
    seen = verdict(name, x, x, edges=(x[:4], x[:4]))
    assert seen.passed
    assert seen.proof.sqnr_db is None
    assert seen.proof.agreement == 1
    assert seen.interpret.task == "classification"
    assert seen.interpret.scores == "probabilities"


def test_parity_bounds():
    x = logits()
    span = float(x.max() - x.min())
    assert verdict("fp32", x, x + np.float32(0.9e-4 * span)).passed
    assert codes(verdict("fp32", x, x + np.float32(1.2e-4 * span))) == ["verify-parity"]
    assert verdict("fp16", x, (x.astype(np.float16)).astype(np.float32)).passed
    noisy = x + DICE.normal(size=x.shape).astype(np.float32)
    assert codes(verdict("fp16", x, noisy)) == ["verify-parity"]


def test_edge_cases_count_for_parity_and_must_be_finite_always():
    x = logits()
    assert codes(verdict("fp32", x, x, edges=(x[:4], x[:4] + 1))) == ["verify-parity"]
    assert verdict("quantized", softmax(x), softmax(x), edges=(x[:4], x[:4] + 100)).passed
    broken = x[:4].copy()
    broken[0, 0] = np.nan
    for name in policies():
        assert "verify-nonfinite" in codes(verdict(name, x, x, edges=(x[:4], broken)))
        assert "verify-nonfinite" not in codes(verdict(name, x, x, edges=(broken, x[:4])))


def test_a_source_that_answers_nan_is_told_and_proves_nothing():
    x = logits()
    some = x.copy()
    some[:3, 0] = np.nan
    seen = verdict("fp32", some, some)
    assert seen.passed
    assert any("answers NaN in 3 values of out" in warning for warning in seen.warnings)
    nothing = np.full_like(x, np.nan)
    for name in policies():
        assert "verify-nonfinite" in codes(verdict(name, nothing, nothing))
    assert not verdict("fp32", x, x).warnings


def test_answers_without_a_number_prove_nothing():
    for nothing in (np.zeros((16, 0, 4), np.float32), np.full((16, 3), np.inf, np.float32)):
        for name in policies():
            assert codes(verdict(name, nothing, nothing))[0] == "verify-empty"
    comparison = Comparison("fp32", Interpret())
    boxes, count = np.zeros((4, 0, 4), np.float32), np.zeros((4, 1), np.float32)
    comparison.add({"boxes": boxes, "count": count}, {"boxes": boxes, "count": count})
    assert comparison.finish("random").passed


def test_another_class_is_no_tie_where_a_class_is_masked():
    x = logits()
    x[:, 3] = -np.inf
    wrong = x.copy()
    wrong[:2] = np.roll(x[:2], 1, axis=1)
    assert "verify-agreement" in codes(verdict("fp32", x, wrong))
    assert "verify-agreement" not in codes(verdict("fp32", x, x))


def test_edge_cases_on_which_rounding_decides_are_checked_for_nan_only():
    x = softmax(logits())
    off, moved, broken = x[:4].copy(), x[:4].copy(), x[:4].copy()
    off[1] += 0.05
    moved[1] += 0.001
    broken[1, 0] = np.nan

    def seen(artifact, nudged):
        comparison = Comparison("fp32", Interpret())
        comparison.add({"out": x}, {"out": x})
        comparison.add_edges({"out": x[:4]}, {"out": artifact}, {"out": nudged})
        return comparison.finish("random")

    assert codes(seen(off, x[:4])) == ["verify-parity"]
    assert codes(seen(off[::-1], moved)) == ["verify-parity"], "another sample than the one that moves"
    excused = seen(off, moved)
    assert excused.passed
    assert any("hang on rounding" in said for said in excused.warnings)
    assert codes(seen(broken, moved)) == ["verify-nonfinite"]


def test_what_the_sources_own_sigmoid_rounds_is_no_error_of_the_artifact():
    source = DICE.uniform(0, 1e-5, size=(50, 40, 3)).astype(np.float32)
    near = source + DICE.uniform(-1.5e-7, 1.5e-7, size=source.shape).astype(np.float32)

    def seen(artifact, squashed):
        comparison = Comparison("fp32", Interpret(), squashed=frozenset(squashed))
        comparison.add({"out": source}, {"out": artifact})
        return comparison.finish("random")

    assert codes(seen(near, ())) == ["verify-parity"]
    excused = seen(near, ("out",))
    assert excused.passed
    assert any("sigmoid" in said for said in excused.warnings)
    assert excused.proof.relative_error > 0.01, "the figure stays what was measured"
    assert codes(seen(source[::-1], ("out",))) == ["verify-parity"]
    tiny = Comparison("fp32", Interpret(), squashed=frozenset({"out"}))
    tiny.add({"out": source / 100}, {"out": source[::-1] / 100})
    assert codes(tiny.finish("random")) == ["verify-parity"], "a constant would answer as well"


@pytest.mark.parametrize("name", policies())
def test_nan_in_the_artifact_fails_every_policy(name):
    x = softmax(logits())
    broken = x.copy()
    broken[3, 2] = np.inf
    assert codes(verdict(name, x, broken))[0] == "verify-nonfinite"


@pytest.mark.parametrize("name", policies())
def test_collapse_fails_every_policy(name):
    """All zeros, a constant, and the shuffled answers: each is a wrong model."""
    x = logits(400)
    for source in (x, softmax(x)):
        for wrong in (np.zeros_like(source), np.full_like(source, 0.1), np.roll(source, 1, axis=0)):
            assert not verdict(name, source, wrong).passed


def test_labels_decide_for_integers():
    x = softmax(logits(1000))
    labels = x.argmax(axis=1)
    flipped = x.copy()
    flipped[:10] = np.roll(flipped[:10], 1, axis=1)
    seen = verdict("quantized", x, flipped, labels)
    assert seen.passed
    assert seen.proof.metric is not None
    assert (seen.proof.metric.source, seen.proof.metric.artifact) == (100.0, 99.0)
    assert seen.proof.metric.drop == pytest.approx(1.0)
    assert codes(verdict("quantized", x, flipped, labels, max_drop=0.9)) == ["verify-accuracy"]
    assert verdict("quantized", np.roll(x, 1, axis=1), x, labels).passed, "better than the source is no drop"


def test_agreement_counts_only_decided_samples():
    """2 % of the decided may differ; the undecided may all differ."""
    decided = np.eye(10, dtype=np.float32)[np.arange(100) % 10] * 0.9 + 0.01
    guesses = np.full((100, 10), 0.1, np.float32)
    guesses[:, 0] += 0.01
    source = np.concatenate([decided, guesses]) / np.concatenate([decided, guesses]).sum(axis=1, keepdims=True)
    answer = source.copy()
    answer[100:] = np.roll(answer[100:], 3, axis=1)
    answer[:2] = np.roll(answer[:2], 1, axis=1)
    assert verdict("quantized", source, answer).passed
    answer[2] = np.roll(answer[2], 1)
    assert codes(verdict("quantized", source, answer)) == ["verify-agreement"]


def test_without_decided_samples_noise_decides():
    source = np.full((50, 10), 0.1, np.float32)
    source[:, 0] += 0.001
    source /= source.sum(axis=1, keepdims=True)
    assert codes(verdict("quantized", source, np.zeros_like(source))) == ["verify-noise"]


def test_logits_are_judged_by_noise_until_declared():
    x = logits()
    rotated = x.copy()
    rotated[:20] = np.roll(rotated[:20], 1, axis=1)
    seen = verdict("quantized", x, rotated)
    assert codes(seen) == ["verify-noise"] or seen.warnings
    assert any("--task classification" in warning for warning in verdict("quantized", x, x).warnings)
    said = Interpret(task="classification")
    assert codes(verdict("quantized", x, rotated, interpret=said, declared=True)) == ["verify-agreement"]


def test_what_an_autoencoder_answers_is_not_taken_for_scores():
    x = logits()
    for fed, doubts in (({x.shape[1:]}, False), ({(7,)}, True)):
        comparison = Comparison("quantized", Interpret(), fed=frozenset(fed))
        comparison.add({"out": x}, {"out": x})
        said = comparison.finish("evaluation").warnings
        assert any("class scores" in warning for warning in said) == doubts


def test_regressions_and_detectors_are_judged_by_noise():
    boxes = DICE.random((20, 30, 4)).astype(np.float32)
    noise = DICE.normal(size=boxes.shape).astype(np.float32)
    assert verdict("quantized", boxes, boxes + 0.01 * noise).passed
    assert codes(verdict("quantized", boxes, boxes + 0.5 * noise)) == ["verify-noise"]


def test_every_output_counts():
    x = softmax(logits())
    comparison = Comparison("quantized", Interpret())
    box = DICE.random((200, 4)).astype(np.float32)
    comparison.add({"scores": x, "boxes": box}, {"scores": x, "boxes": np.zeros_like(box)})
    seen = comparison.finish("random")
    assert seen.proof.sqnr_db == pytest.approx(0)
    assert seen.proof.cosine == 0


def test_missing_or_reshaped_outputs_are_refused():
    comparison = Comparison("fp32", Interpret())
    with pytest.raises(VerificationError, match="output out") as caught:
        comparison.add({"out": logits()}, {"other": logits()})
    assert caught.value.code == "verify-outputs"
    with pytest.raises(VerificationError):
        comparison.add({"out": logits()}, {"out": logits()[:, :5]})


@pytest.mark.parametrize(
    ("source", "artifact", "ragged", "word"),
    [
        ((1, 5, 4), (1, 4, 4), True, "NonMaxSuppression"),
        ((8, 5, 5), (8, 6, 6), False, "conversion error"),
        ((1, 3), (8, 3), False, "constant"),
        ((), (8,), False, "loss"),
    ],
)
def test_other_shapes_are_advised_by_what_they_are(source, artifact, ragged, word):
    comparison = Comparison("fp32", Interpret(output="x"), ragged=frozenset({"out"} if ragged else ()))
    x = np.zeros((8, 2), np.float32)
    with pytest.raises(VerificationError) as caught:
        comparison.add({"out": np.zeros(source), "x": x}, {"out": np.zeros(artifact), "x": x})
    told = {"NonMaxSuppression", "conversion error", "constant", "loss"}
    assert {one for one in told if one in caught.value.next_step} == {word}


def test_constant_outputs():
    ones = np.ones((8, 3), np.float32)
    assert verdict("fp32", ones, ones).passed
    assert not verdict("fp32", ones, ones * 1.01).passed
    zeros = np.zeros((8, 3), np.float32)
    assert verdict("fp32", zeros, zeros).passed
    assert not verdict("fp32", zeros, zeros + 1e-3).passed
    assert verdict("quantized", zeros, zeros + 1e-3).proof.sqnr_db == -300


def test_ties_within_the_tolerance_are_no_disagreement():
    x = np.array([[0.5, 0.5 + 1e-6, 0.0]] * 10 + [[1.0, 0, 0]], np.float32)
    flipped = x.copy()
    flipped[:10, :2] = x[:10, 1::-1]
    seen = verdict("fp32", x, flipped)
    assert seen.passed
    assert seen.proof.agreement is not None
    assert seen.proof.agreement < 1


def test_binary_and_regression_labels():
    p = DICE.random((100, 1)).astype(np.float32)
    labels = (p[:, 0] > 0.5).astype(int)
    seen = verdict("quantized", p, p, labels)
    assert seen.proof.metric is not None
    assert seen.proof.metric.name == "top1"
    assert seen.proof.metric.artifact == 100
    said = Interpret(task="regression")
    seen = verdict("quantized", p, p * 0.5, p[:, 0] * 1.0, interpret=said, declared=True)
    assert codes(seen) == ["verify-accuracy"]
    assert seen.proof.metric.name == "r2"


def test_the_labels_of_all_samples_decide_not_the_first_batch():
    """Prices whose first sixty-four happen to be whole numbers."""
    values = np.concatenate([np.arange(64.0), DICE.random(64)])
    comparison = Comparison("quantized", Interpret(), labels=values)
    for start in (0, 64):
        part = values[start : start + 64, None].astype(np.float32)
        comparison.add({"out": part}, {"out": part})
    seen = comparison.finish("evaluation")
    assert seen.proof.metric is not None
    assert seen.proof.metric.name == "r2"
    assert seen.interpret.task == "regression"


def test_a_source_that_knows_nothing_is_told():
    x = softmax(logits(100))
    guesses = verdict("quantized", x, x, np.zeros(100, int))
    assert guesses.passed
    assert any("constant answer 100.00" in warning for warning in guesses.warnings)
    assert verdict("quantized", x, x, x.argmax(axis=1)).warnings == ()
    same = x[x.argmax(axis=1) == x[0].argmax()].repeat(20, axis=0)
    (right,) = verdict("quantized", same, same, same.argmax(axis=1)).warnings
    assert "have one label" in right


def test_calibrating_on_one_class_is_noticed_by_the_answers():
    """Nobody gave labels; the evaluation data holds all classes, the calibration data nearly one."""
    all_of_them, one = softmax(logits(200)), softmax(logits(100) + 20 * np.eye(10, dtype=np.float32)[3])
    for calibrated, expected in ((one, True), (softmax(logits(100)), False), (one[:10], False)):
        comparison = Comparison("quantized", Interpret())
        comparison.add({"out": all_of_them}, {"out": all_of_them})
        comparison.add_calibration({"out": calibrated})
        warnings = comparison.finish("evaluation").warnings
        assert any("class 3 of 10" in warning for warning in warnings) is expected
    alone = Comparison("quantized", Interpret())
    alone.add({"out": one}, {"out": one})
    assert any("shuffle before you split" in warning for warning in alone.finish("calibration").warnings)
    assert alone.finish("evaluation").warnings == ()


def test_a_failure_repeats_what_the_data_was_warned_about():
    seen = verdict("quantized", logits(), 0 * logits())
    with pytest.raises(VerificationError) as caught:
        seen.enforce(("the calibration samples are alike.",))
    assert caught.value.next_step.startswith("the calibration samples are alike.")


def test_labels_that_cannot_be_are_refused():
    with pytest.raises(DataError) as caught:
        verdict("quantized", logits(4), logits(4), np.array([0.5, 1, 2, 3]), interpret=Interpret(task="classification"))
    assert caught.value.code == "labels-task"


def test_the_error_names_figure_bound_and_next_step():
    with pytest.raises(VerificationError, match=r"SQNR of out is 0\.0 dB, 10 dB are asked") as caught:
        verdict("quantized", DICE.random((9, 3, 3)), np.zeros((9, 3, 3))).enforce()
    assert caught.value.code == "verify-noise"
    assert "--observer minmax" in caught.value.next_step


@pytest.mark.parametrize(
    ("precision", "finer"), [("int8", "int16x8"), ("int16x8", "fp16"), ("dynamic", "fp16"), ("int4", "dynamic")]
)
def test_what_was_asked_for_is_not_what_to_try(precision, finer):
    scores = softmax(logits())
    for labels in (None, scores.argmax(axis=1)):
        comparison = Comparison("quantized", Interpret(), labels=labels, precision=precision)
        comparison.add({"out": scores}, {"out": np.roll(scores, 1, axis=1)})
        with pytest.raises(VerificationError) as caught:
            comparison.finish("evaluation").enforce()
        assert f"--precision {finer}" in caught.value.next_step
        assert f"--precision {precision}" not in caught.value.next_step
        assert ("--observer" in caught.value.next_step) == (precision in ("int8", "int16x8"))


def test_fp32_asks_the_same_class_even_within_the_parity_bound():
    """One sample with scores of thousands widens the output's range; a flip in another one is still wrong."""
    source = np.array([[5000, 0, 0], [0.3, 0.2, 0.0]], np.float32)
    answer = np.array([[5000, 0, 0], [0.2, 0.3, 0.0]], np.float32)
    assert codes(verdict("fp32", source, answer)) == ["verify-agreement"]
    tied = np.array([[5000, 0, 0], [0.3, 0.29999, 0.0]], np.float32)
    assert verdict("fp32", tied, tied[:, [1, 0, 2]] * [[0, 0, 0], [1, 1, 1]] + tied * [[1], [0]]).passed


def test_labels_do_not_excuse_the_other_outputs():
    scores, boxes = softmax(logits(50)), DICE.random((50, 4)).astype(np.float32)
    comparison = Comparison("quantized", Interpret(), labels=scores.argmax(axis=1))
    comparison.add({"out": scores, "boxes": boxes}, {"out": scores, "boxes": 0 * boxes})
    seen = comparison.finish("evaluation")
    assert codes(seen) == ["verify-noise"]
    assert "boxes" in seen.failures[0].message


def test_an_offset_that_hides_the_error_is_told():
    """At 1000 +- 1 an error as large as the variation is 60 dB below the signal."""
    source = 1000 + DICE.normal(size=(50, 1, 1))
    seen = verdict("quantized", source, np.full_like(source, 1000))
    assert seen.passed
    assert any("errs by more than it varies" in warning for warning in seen.warnings)
    assert verdict("quantized", source, source + 0.01).warnings == ()
    both = Comparison("quantized", Interpret(), precision="int16x8")
    both.add({"a": source, "b": source}, {"a": np.full_like(source, 1000), "b": np.full_like(source, 1000)})
    (told,) = [said for said in both.finish("evaluation").warnings if "over this data" in said]
    assert told.startswith("a and b err by more than they vary")
    assert told.endswith("use --precision fp16")


def test_unknown_policies_are_refused():
    with pytest.raises(UsageError, match="known: fp32"):
        policy("lenient")


@given(st.integers(1, 60), st.integers(1, 9))
def test_streaming_equals_whole(samples, size):
    source = softmax(logits(samples))
    answer = softmax(np.log(source) + 0.1 * DICE.normal(size=source.shape))
    labels = DICE.integers(0, 10, samples)
    pieces = Comparison("quantized", Interpret(), labels=labels)
    for start in range(0, samples, size):
        part = slice(start, start + size)
        pieces.add({"out": source[part]}, {"out": answer[part]})
    a, b = pieces.finish("evaluation").proof, verdict("quantized", source, answer, labels).proof
    assert (a.samples, a.agreement, a.metric, a.max_abs_error) == (b.samples, b.agreement, b.metric, b.max_abs_error)
    assert a.sqnr_db == pytest.approx(b.sqnr_db)
    assert a.cosine == pytest.approx(b.cosine)


def test_one_number_for_a_whole_batch_is_no_answer_to_a_sample():
    together = {"y": np.float32(3), "z": np.zeros((4, 2), np.float32)}
    assert mixed(together, {"y": np.float32(1), "z": np.ones((1, 2), np.float32)}) == ("z",)
    comparison = Comparison("fp32", Interpret())
    with pytest.raises(VerificationError, match=r"shape \[16\] in the artifact and \[\] in the source") as caught:
        comparison.add({"y": np.float32(3)}, {"y": np.zeros(16, np.float32)})
    assert "loss" in caught.value.next_step
