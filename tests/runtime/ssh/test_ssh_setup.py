"""Boards over SSH: which wheels fit which board, the environment that is made there, and what is kept."""

from __future__ import annotations

import ast
import base64
import hashlib
import json
import os
import sys
import zipfile
from dataclasses import replace
from importlib import resources
from pathlib import Path

import pytest

from edgekit import cli
from edgekit.errors import TargetError, UsageError
from edgekit.measure.machine import userland
from edgekit.targets import open_target, ssh_board, ssh_setup
from edgekit.targets.ssh_setup import BoardFacts, choose


def facts(kernel, bits, python, glibc, **more):
    told = {
        "model": None, "machine": userland(kernel, bits), "kernel": kernel, "bits": bits, "glibc": glibc,
        "python": python, "executable": "/usr/bin/python3", "engines": (), "numpy": False, "free_mb": 9999,
        "kept_mb": 0, "ready": False, **more,
    }  # fmt: skip
    return BoardFacts(**told)


@pytest.mark.parametrize(
    ("board", "engines", "distributions"),
    [
        (("aarch64", 64, "3.13.5", "2.41"), ("litert", "onnxruntime"), ("ai-edge-litert", "onnxruntime")),
        (("aarch64", 64, "3.11.2", "2.36"), ("litert", "onnxruntime"), ("ai-edge-litert", "onnxruntime")),
        (("x86_64", 64, "3.12.3", "2.39"), ("litert", "onnxruntime"), ("ai-edge-litert", "onnxruntime")),
        (("armv7l", 32, "3.11.2", "2.36"), ("tflite-runtime",), ("tflite-runtime",)),
        (("aarch64", 32, "3.11.2", "2.36"), ("tflite-runtime",), ("tflite-runtime",)),
    ],
)
def test_the_wheels_of_a_board(board, engines, distributions):
    chosen = choose(facts(*board))
    assert chosen.engines == engines
    assert tuple(wheel.partition("==")[0] for wheel in chosen.requirements[:-1]) == distributions
    numpy = chosen.requirements[-1]
    assert numpy.startswith("numpy")
    assert ("<2" in numpy) == ("tflite-runtime" in engines)


@pytest.mark.parametrize(
    ("board", "reason"),
    [
        (("armv6l", 32, "3.11.2", "2.36"), "no release has a wheel for ARMv6"),
        (("armv7l", 32, "3.13.5", "2.41"), "its wheels are for Python 3.8, 3.9, 3.10, 3.11"),
        (("aarch64", 64, "3.15.0", "2.41"), "its wheels are for Python"),
        (("aarch64", 64, "3.11.2", "2.17"), "its wheels need glibc 2.2"),
        (("aarch64", 64, "3.11.2", None), "its wheels need glibc"),
        (("riscv64", 64, "3.11.2", "2.41"), "nothing is known for riscv64"),
        (("x86_64", 32, "3.11.2", "2.41"), "nothing is known for i686"),
    ],
)
def test_boards_without_wheels_are_told_why(board, reason):
    with pytest.raises(TargetError) as caught:
        choose(facts(*board))
    assert caught.value.code == "target-no-wheel"
    assert reason in caught.value.cause


def test_the_boards_side_speaks_python_3_7():
    for name in ("ssh_board", "ssh_keeper"):
        text = resources.files("edgekit.targets").joinpath(f"{name}.py").read_text(encoding="utf-8")
        tree = ast.parse(text, feature_version=(3, 7))
        imported = {
            alias.name.partition(".")[0]
            for node in ast.walk(tree)
            if isinstance(node, ast.Import)
            for alias in node.names
        }
        assert imported <= set(sys.stdlib_module_names)


# -- On a board ------------------------------------------------------------------------------------------------


def wheel(folder, name, module):
    """The smallest wheel that pip installs."""
    info = f"{name.replace('-', '_')}-1.0.dist-info"
    members = {
        f"{module}/__init__.py": b"",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = ""
    for member, data in members.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        record += f"{member},sha256={digest},{len(data)}\n"
    with zipfile.ZipFile(folder / f"{name.replace('-', '_')}-1.0-py3-none-any.whl", "w") as packed:
        for member, data in members.items():
            packed.writestr(member, data)
        packed.writestr(f"{info}/RECORD", f"{record}{info}/RECORD,,\n")


@pytest.fixture
def small_wheels(monkeypatch):
    """Wheels of a numpy and an engine that are there in name only; `missing` keeps one back."""
    missing = set()

    def download(folder, facts, wheels):
        for name, module in (("numpy", "numpy"), ("ai-edge-litert", "ai_edge_litert")):
            if name not in missing:
                wheel(folder, name, module)

    wheels = ssh_setup.Wheels(("ai-edge-litert==1.0", "numpy>=0.9,<2"), ("litert",))
    monkeypatch.setattr(ssh_setup, "_download", download)
    monkeypatch.setattr(ssh_setup, "choose", lambda facts: wheels)
    return missing


def test_an_environment_is_made_whole_or_not_at_all(board, small_wheels):
    """Wheels from here; a setup that fails leaves what was; the next goes on with it; a third has nothing to do."""
    before = (board.base / "setup.json").read_text()
    small_wheels.add("numpy")
    with pytest.raises(TargetError) as caught:
        ssh_setup.setup(board.target, offline=True)
    assert caught.value.code == "target-install-failed"
    assert "numpy" in caught.value.cause
    assert (board.base / "setup.json").read_text() == before
    (part,) = board.base.glob("env-*")
    assert part.name.endswith(".part")
    begun = (part / "made").stat().st_mtime_ns

    small_wheels.clear()
    told = []
    found = ssh_setup.setup(board.target, offline=True, progress=told.append)
    assert found.ready
    assert found.engines == ("ai_edge_litert",)
    (made,) = board.base.glob("env-*")
    assert found.executable == str(made / "bin" / "python")
    assert (made / "made").stat().st_mtime_ns == begun, "the environment was gone on with"
    assert any("installing" in event["stage"] for event in told)
    assert not list(board.base.glob("wheels/*")) + list(board.base.glob("files/*.whl"))

    told.clear()
    again = ssh_setup.setup(board.target, offline=True, progress=told.append)
    assert replace(again, free_mb=0) == replace(ssh_setup.show(board.target), free_mb=0)
    assert not any("installing" in event["stage"] for event in told)


def test_a_python_that_is_named_is_used(board, capsys, jobs):
    board.use(None)
    assert cli.run(["target", "setup", board.target, "--python", sys.executable, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["ready"] is True
    assert shown["executable"] == sys.executable
    assert json.loads((board.base / "setup.json").read_text()) == {"python": sys.executable}
    with open_target(board.target) as place:
        assert place.perform(jobs.double, jobs.Ask(5)).value == 10
    assert cli.run(["target", "show", board.target]) == 0
    assert "is ready" in capsys.readouterr().out
    assert cli.run(["target", "remove", board.target, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["freed"] > 0
    assert sorted(path.name for path in board.base.iterdir()) == ["jobs", "lease"]


@pytest.mark.parametrize("python", ["relative/python", "/nowhere/python; touch x", "-c"])
def test_a_python_that_cannot_be_used_is_refused(board, python):
    before = (board.base / "setup.json").read_text()
    with pytest.raises(TargetError) as caught:
        ssh_setup.setup(board.target, python=python)
    assert caught.value.code == "target-python-broken"
    assert (board.base / "setup.json").read_text() == before


def test_only_boards_are_set_up():
    for target in ("local", "emulator:raspberry-pi-4b", "pi@board"):
        with pytest.raises(UsageError):
            ssh_setup.show(target)


# -- What is kept there ----------------------------------------------------------------------------------------


def test_the_oldest_files_go_beyond_the_quota(tmp_path, monkeypatch):
    monkeypatch.setattr(ssh_board, "QUOTA", 1000)
    store = ssh_board.Store(str(tmp_path))
    for age, kind in ((30, "files"), (20, "trees"), (10, "files")):
        path = tmp_path / kind / str(age)
        if kind == "trees":
            path.mkdir()
            (path / "x").write_bytes(bytes(400))
        else:
            path.write_bytes(bytes(400))
        os.utime(path, (1000 - age, 1000 - age))
    for number in range(4):
        (tmp_path / "bundles" / str(number)).mkdir()
        os.utime(tmp_path / "bundles" / str(number), (number, number))
    assert store.sweep() == 400
    assert names(tmp_path) == ["bundles/2", "bundles/3", "files/10", "trees/20"]
    assert store.sweep(room=300) == 400
    assert names(tmp_path) == ["bundles/2", "bundles/3", "files/10"]


def names(base: Path) -> list[str]:
    return sorted(path.relative_to(base).as_posix() for path in base.glob("*/*"))


def test_what_this_run_uses_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(ssh_board, "QUOTA", 10)
    store = ssh_board.Store(str(tmp_path))
    (tmp_path / "trees" / "a").mkdir()
    (tmp_path / "trees" / "a" / "x").write_bytes(bytes(100))
    store.there({"kind": "trees", "name": "a"})
    assert store.sweep(room=1000) == 0


def test_a_process_is_known_by_its_number_and_its_beginning():
    me = ssh_board.me()
    assert ssh_board.started(me["pid"]) == me["began"]
    assert ssh_board.end({"pid": os.getpid(), "began": "0"}) is False, "another one with our number"
    assert ssh_board.started(2**30) is None
