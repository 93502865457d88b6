"""Children that wait for the next conversion: the same ones while they serve one source and live, and no others."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from residual_nets import images, saved

from edgekit import files
from edgekit.child import Child, Limits
from edgekit.converters import waiting as module
from edgekit.converters.waiting import Call, Known, Waiting, answer
from edgekit.errors import ConversionError, EdgeKitError
from edgekit.options import Options
from edgekit.pipeline import run


@pytest.fixture
def waiting():
    made = Waiting()
    made.serve("a")
    yield made
    made.close()
    for child in _made:
        child.close()
    _made.clear()


_made: list[Child] = []


def make(log) -> Child:
    _made.append(Child(log, Limits()))
    return _made[-1]


def process(child: Child) -> int:
    return child._link._process.pid


def test_a_child_that_was_given_back_is_taken_again(waiting):
    child = waiting.take("engine", make)
    other = waiting.take("engine", make)
    assert process(child) != process(other)
    waiting.give("engine", child, "a")
    assert waiting.take("framework", make) is not child
    assert waiting.take("engine", make) is child
    assert child.call(answer, Call(), stage="test") == Call()


@pytest.mark.parametrize("source", ["b", None])
def test_one_that_served_another_source_or_failed_ends(waiting, source):
    child = waiting.take("engine", make)
    number = process(child)
    waiting.give("engine", child, source)
    with pytest.raises(ProcessLookupError):
        os.kill(number, 0)
    assert waiting.take("engine", make) is not child


def test_nothing_waits_for_another_source(waiting):
    child = waiting.take("engine", make)
    waiting.give("engine", child, "a")
    waiting.serve("a")
    assert waiting.take("engine", make) is child
    waiting.give("engine", child, "a")
    waiting.serve("b")
    assert waiting.take("engine", make) is not child
    with pytest.raises(ProcessLookupError):
        os.kill(process(child), 0)


def test_one_that_died_while_it_waited_is_replaced(waiting):
    child = waiting.take("engine", make)
    waiting.give("engine", child, "a")
    os.kill(process(child), signal.SIGKILL)
    fresh = waiting.take("engine", make)
    assert fresh is not child
    assert fresh.call(answer, Call(), stage="test") == Call()


def test_one_is_worn_after_so_many(waiting, monkeypatch):
    monkeypatch.setattr(module, "MOST", 2)
    first = waiting.take("engine", make)
    waiting.give("engine", first, "a")
    assert waiting.take("engine", make) is first
    waiting.give("engine", first, "a")
    assert waiting.take("engine", make) is not first


def test_one_whose_answer_nobody_took_is_not_handed_out(waiting):
    child = waiting.take("engine", make)
    child.submit(answer, Call(), stage="left")
    waiting.give("engine", child, "a")
    assert waiting.take("engine", make) is not child


@dataclass
class _Seen(Waiting):
    """Remembers whom it handed out."""

    def __post_init__(self) -> None:
        super().__init__()
        self.taken: list[Child] = []

    def take(self, key, make):
        self.taken.append(super().take(key, make))
        return self.taken[-1]


def test_conversions_share_processes_and_give_the_same_bytes(tmp_path):
    pytest.importorskip("onnxruntime", reason="comes with the onnx extra")
    graph = saved("onnx", tmp_path, spread=1.0)
    np.savez(tmp_path / "data.npz", image=images(graph, 24)["image"])
    options = Options(to="onnx", precision="int8", calibration=tmp_path / "data.npz")
    seen = _Seen()
    seen.serve(files.sha256(Path(graph.path)))
    try:
        made = [run(graph.path, options, None, kept).artifact.sha256 for kept in (None, seen, seen)]
        assert len(set(made)) == 1
        assert seen.taken[:2] == seen.taken[2:]
        (tmp_path / "bad.npz").write_bytes(b"nothing")
        with pytest.raises(EdgeKitError) as caught:
            run(graph.path, Options(to="onnx", precision="int8", calibration=tmp_path / "bad.npz"), None, seen)
        assert not isinstance(caught.value, ConversionError)
        failed = len(seen.taken)
        run(graph.path, options, None, seen)
        assert seen.taken[failed:]
        assert not set(seen.taken[:failed]) & set(seen.taken[failed:])
    finally:
        seen.close()


class _Heard(Waiting):
    """Notes what the framework's processes are told to do."""

    def __init__(self) -> None:
        super().__init__()
        self.jobs: list[str] = []

    def take(self, key, make):
        child = super().take(key, make)
        if key[0] == "framework" and "_write" not in vars(child):
            write = child._write

            def noted(message):
                if message.get("job", "").startswith("edgekit.converters.jobs:"):
                    self.jobs.append(message["job"].partition(":")[2])
                write(message)

            child._write = noted
        return child


def test_a_source_is_loaded_and_asked_once(tmp_path):
    pytest.importorskip("onnxruntime", reason="comes with the onnx extra")
    graph = saved("onnx", tmp_path, spread=1.0)
    data = tmp_path / "data.npz"
    np.savez(data, image=images(graph, 24)["image"])
    heard = _Heard()
    heard.serve(files.sha256(Path(graph.path)))
    options = Options(to="onnx", precision="int8", calibration=data, repairs="none")

    def told() -> tuple[list[str], str]:
        heard.jobs.clear()
        made = run(graph.path, options, None, heard).artifact.sha256
        return list(heard.jobs), made

    try:
        first, made = told()
        assert first == ["load", "lower", "answer"]
        assert told() == ([], made)
        np.savez(data, image=images(graph, 32)["image"])
        more, other = told()
        # Other data is answered anew, by a source that is loaded for that.
        assert more == ["load", "answer"]
        assert other != made
    finally:
        heard.close()


def test_what_one_process_worked_out_serves_another(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime", reason="comes with the onnx extra")
    graph = saved("onnx", tmp_path, spread=1.0)
    data = tmp_path / "data.npz"
    np.savez(data, image=images(graph, 24)["image"])
    options = Options(to="onnx", precision="int8", calibration=data, repairs="none")
    one, other = _Heard(), _Heard()
    one.serve(files.sha256(Path(graph.path)))
    try:
        made = run(graph.path, options, None, one).artifact.sha256
        told = one.tell(one.known)
        assert set(told.values) == set(one.known)
        one.close()  # its files are gone
        other.serve("another source")
        other.keep("a", 1, "another source")
        other.learn(told)
        assert other.recall("a") is None
        assert set(other.known) == set(told.values)
        assert run(graph.path, options, None, other).artifact.sha256 == made
        assert other.jobs == []
        other.learn(Known(None))
        assert other.known
        monkeypatch.setattr(module, "LARGEST", 100)
        facts = other.tell(other.known)  # the graph and the answers are too large
        assert len(facts.values) == 1
        assert not facts.contents[next(iter(facts.values))]
    finally:
        one.close()
        other.close()
