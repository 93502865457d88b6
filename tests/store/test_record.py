"""What may follow what."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgekit.codec import decode, encode
from edgekit.errors import EdgeKitError, InternalError, UsageError
from edgekit.store import Record
from edgekit.store.record import JOURNAL

A, B, C = ("a" * 64, "b" * 64, "c" * 64)


def committed(*digests: str) -> Record:
    record = Record()
    for sha256 in digests:
        record = record.receive(sha256, 10).advance(sha256, "verified").advance(sha256, "tested")
        record = record.switch(sha256, 1.0).commit()
    return record


def test_a_version_goes_through_its_stages():
    record = Record().receive(A, 10)
    stages = [record.version(A).stage]
    for stage in ("verified", "tested"):
        record = record.advance(A, stage)
        stages.append(record.version(A).stage)
    record = record.switch(A, 60.0)
    assert (record.active, record.trial.back) == (A, None)
    stages.append(record.version(A).stage)
    record = record.commit()
    assert stages == ["received", "verified", "tested", "trial"]
    assert (record.active, record.trial, record.version(A).stage) == (A, None, "committed")
    assert [event.what for event in record.events] == ["received", "verified", "tested", "trial", "committed"]


def test_a_failed_trial_returns_to_the_version_before():
    record = committed(A).receive(B, 20).advance(B, "verified").advance(B, "tested").switch(B, 60.0)
    assert record.active == B
    record = record.fall_back("it crashed")
    assert (record.active, record.trial) == (A, None)
    assert (record.version(B).stage, record.version(B).reason) == ("rolled-back", "it crashed")
    assert record.events[-1].detail == "it crashed"


def test_rolling_back_is_one_step():
    record = committed(A, B).roll_back("by request")
    assert record.active == A
    with pytest.raises(UsageError) as refused:
        record.roll_back("again")
    assert refused.value.code == "rollback-nothing"


def test_stages_cannot_be_skipped():
    record = Record().receive(A, 10)
    for stage in ("tested", "trial", "committed", "rolled-back"):
        with pytest.raises(InternalError):
            record.advance(A, stage)


def test_pruning_keeps_the_way_back():
    record = committed(A, B, C)
    assert [version.sha256 for version in record.prunable(0)] == [A]
    left = record.forget(record.prunable(0))
    assert [version.sha256 for version in left.versions] == [B, C]
    assert record.prunable(30) == ()


def test_numbers_go_on_after_pruning_and_a_known_content_is_no_new_version():
    record = committed(A, B, C)
    record = record.forget(record.prunable(0)).receive("d" * 64, 5)
    assert [version.number for version in record.versions] == [2, 3, 4]
    assert record.receive(B, 10) == record


steps = st.lists(
    st.tuples(
        st.sampled_from(["receive", "verified", "tested", "refused", "switch", "commit", "fall", "roll", "prune"]),
        st.sampled_from([A, B, C]),
    ),
    max_size=60,
)  # fmt: skip


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps)
def test_no_sequence_of_steps_breaks_a_record(sequence):
    record = Record()
    for step, sha256 in sequence:
        before = record.active
        try:
            match step:
                case "receive":
                    record = record.receive(sha256, 10)
                case "switch":
                    record = record.switch(sha256, 1.0)
                case "commit":
                    record = record.commit()
                case "fall":
                    back = record.trial.back if record.trial else before
                    record = record.fall_back("fault")
                    assert record.active == back
                case "roll":
                    record = record.roll_back("asked")
                case "prune":
                    record = record.forget(record.prunable(15))
                case stage:
                    record = record.advance(sha256, stage)
        except EdgeKitError:
            continue
        assert decode(Record, json.loads(json.dumps(encode(record))), strict=True) == record
        if step in ("receive", "verified", "tested", "refused", "commit", "prune"):
            assert record.active == before
        numbers = [version.number for version in record.versions]
        assert numbers == sorted(set(numbers))
        assert len(record.events) <= JOURNAL
        if record.active is not None:
            assert record.version(record.active).stage in ("trial", "committed", "rolled-back")
