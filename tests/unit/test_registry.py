"""The registry: built-ins by file name, strangers by entry point, no overriding, no guessing."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from types import SimpleNamespace

import pytest

from edgekit.errors import InternalError, UsageError
from edgekit.precision import parse, precisions
from edgekit.registry import Registry


def make() -> Registry:
    return Registry(
        kind="precision",
        package="edgekit.converters.precisions",
        prefix="",
        suffix=".toml",
        group="edgekit.precisions",
        read=parse,
    )


def point(name: str, owner: str, load):
    return SimpleNamespace(name=name, value=f"{owner}:x", dist=SimpleNamespace(name=owner), load=load)


@pytest.fixture
def strangers(monkeypatch):
    points: list[SimpleNamespace] = []
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: points)
    return points


def test_builtins_are_found_and_unknown_names_list_them():
    assert precisions.names() == ["dynamic", "fp16", "fp32", "int16x8", "int4", "int8", "mixed"]
    assert "int8" in precisions
    with pytest.raises(UsageError, match=r"int5.*known: dynamic, fp16") as caught:
        precisions.get("int5")
    assert caught.value.code == "unknown-name"


def test_a_stranger_joins_but_cannot_override(strangers):
    text = (
        'title = "t"\nkind = "float"\nweights = "float32"\nactivations = "float32"\npolicy = "fp32"\n[formats.onnx]\n'
    )
    strangers += [point("mine", "pack", lambda: lambda: text), point("int8", "pack", lambda: lambda: text)]
    registry = make()
    assert registry.names()[-1] == "mine"
    assert registry.get("mine").title == "t"
    assert registry.get("int8").kind == "static", "the built-in wins"


def test_two_strangers_of_one_name_are_an_error_naming_both(strangers):
    strangers += [point("mine", "one", None), point("mine", "two", None)]
    with pytest.raises(UsageError, match="one and by two"):
        make().get("mine")


def test_a_broken_stranger_hurts_only_itself(strangers):
    def broken():
        raise ImportError("no module named nothing")

    strangers += [point("mine", "pack", broken)]
    registry = make()
    with pytest.raises(InternalError, match="no module named nothing"):
        registry.get("mine")
    assert registry.get("fp32").kind == "float"


def test_builtins_need_no_metadata_scan():
    code = "import sys, edgekit.precision as p; p.precisions.get('int8'); sys.exit('importlib.metadata' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_invalid_precisions_name_the_field():
    with pytest.raises(UsageError, match="kind"):
        parse("x", 'title = "t"\nkind = "magic"\nweights = "int8"\nactivations = "int8"\npolicy = "p"\n[formats.onnx]')
    with pytest.raises(UsageError, match="unknown field colour"):
        parse("x", 'colour = "t"')


def test_a_precision_that_a_format_lacks_is_refused():
    with pytest.raises(UsageError) as caught:
        precisions.get("int8").rules("coreml")
    assert caught.value.code == "precision-format"
