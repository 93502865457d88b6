"""Children that are started before it is known what they will be asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekit.child import Child, Limits, Spawned
from edgekit.converters.waiting import Call, answer
from edgekit.early import Begun


def test_those_that_nobody_takes_end_with_the_block():
    with Begun(Path("net.onnx"), Path("net.tflite")) as begun:
        taken = begun.take("engine")
        assert taken is not None
        assert begun.take("engine") is None
        left = begun._idle["framework"]
        with Child(taken, Limits()) as child:
            assert child.call(answer, Call(), stage="wake") == Call()
    assert left._process.poll() is not None
    assert taken._process.poll() is not None


@pytest.mark.parametrize("output", ["net.tflite", "net.onnx", "net"])
def test_names_alone_decide_what_is_imported(output):
    source = Path("NET.ONNX")
    begun = Begun(source, Path(output))
    assert not source.exists()
    assert "onnx" in begun._modules["framework"]
    assert ("ai_edge_litert.interpreter" in begun._modules["engine"]) == (output == "net.tflite")


def test_what_cannot_be_imported_is_left_to_the_job_that_needs_it(tmp_path):
    process = Spawned(tmp_path / "log", early=("edgekit.nowhere", "json"))
    with Child(process, Limits()) as child:
        assert child.call(answer, Call(), stage="wake") == Call()
