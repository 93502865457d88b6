"""Whole files or none, and scratch folders that do not outlive a crash."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import textwrap

import pytest

from edgekit import files
from edgekit.errors import SourceError, UsageError


def test_replace_writes_the_whole_file_and_leaves_nothing_else(tmp_path):
    target = tmp_path / "model.tflite"
    files.replace(target, b"old")
    files.replace(target, b"new")
    assert target.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["model.tflite"]
    mask = os.umask(0)
    os.umask(mask)
    assert target.stat().st_mode & 0o777 == 0o666 & ~mask


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    target = tmp_path / "model.tflite"
    files.replace(target, b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UsageError, match="No space left") as caught:
        files.replace(target, b"new")
    assert caught.value.code == "output-unwritable"
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["model.tflite"]


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(UsageError, match="nowhere"):
        files.replace(tmp_path / "nowhere" / "m.onnx", b"x")


def test_outputs_are_refused_that_would_overwrite_an_input_or_each_other(tmp_path):
    model, data = tmp_path / "m.onnx", tmp_path / "d.npz"
    model.write_bytes(b"model")
    data.write_bytes(b"data")
    link = tmp_path / "link"
    link.symlink_to(model)
    new = tmp_path / "new.html"
    files.check_outputs((new, None, tmp_path / "other"), (model, str(data), tmp_path / "no", None, {"x": 1}))
    files.check_outputs((model,), (data,))  # an output of before is replaced
    for outputs, inputs in (
        [(model,), (data, model)], [(new, model), (str(model),)], [(link,), (model,)], [(model,), (link,)],
        [(new, new), ()], [(new, tmp_path / "." / "new.html"), ()], [(model, link), ()],
    ):  # fmt: skip
        with pytest.raises(UsageError, match="overwritten") as caught:
            files.check_outputs(outputs, inputs)
        assert caught.value.code == "output-is-source"


def test_outputs_are_refused_that_cannot_be_written(tmp_path, unprivileged):
    closed, locked = tmp_path / "closed", tmp_path / "locked"
    closed.mkdir(0o500)
    locked.mkdir(0o000)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "file").chmod(0)
    files.check_outputs((tmp_path / "file",))  # it is replaced, not written to
    for path, why in (
        (tmp_path, "is a folder"), (tmp_path / "nowhere" / "x", "no folder"), (tmp_path / "file" / "x", "no folder"),
        (tmp_path / "pipe", "no ordinary file"), (closed / "x", "not writable"), (locked / "x", "denied"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=why) as caught:
            files.check_outputs((None, path))
        assert caught.value.code == "output-unwritable"
    locked.chmod(0o700)


def test_stale_temporary_files_go_and_living_ones_stay(tmp_path):
    stale = tmp_path / f".m.onnx.1-aa{files._TEMPORARY}"
    stale.write_bytes(b"half")
    living = tmp_path / f".m.onnx.2-bb{files._TEMPORARY}"
    living.write_bytes(b"half")
    hold = textwrap.dedent(f"""
        import fcntl, sys
        file = open({str(living)!r}, "rb+")
        fcntl.flock(file, fcntl.LOCK_EX)
        print("held", flush=True)
        sys.stdin.read()
    """)
    owner = subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert owner.stdout is not None
    owner.stdout.readline()
    files.replace(tmp_path / "m.onnx", b"whole")
    assert sorted(os.listdir(tmp_path)) == sorted(["m.onnx", living.name])
    owner.communicate()
    files.sweep(tmp_path)
    assert os.listdir(tmp_path) == ["m.onnx"]


def test_a_sweep_between_creation_and_locking_costs_nothing(tmp_path, monkeypatch):
    flock, swept = fcntl.flock, []

    def late(file, operation):
        if not swept:
            swept.append(os.listdir(tmp_path))
            files.sweep(tmp_path)  # another writer, which sees a file that nobody holds yet
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    files.put(tmp_path / "m.onnx", b"whole")
    assert len(swept[0]) == 1
    assert os.listdir(tmp_path) == ["m.onnx"]
    assert (tmp_path / "m.onnx").read_bytes() == b"whole"


def test_what_another_user_left_stands_in_nobodys_way(tmp_path, unprivileged):
    stale = tmp_path / f".m.onnx.1-aa{files._TEMPORARY}"
    stale.write_bytes(b"half")
    stale.chmod(0)
    files.replace(tmp_path / "m.onnx", b"whole")
    assert sorted(os.listdir(tmp_path)) == sorted(["m.onnx", stale.name])


def test_scratch_goes_away_and_leftovers_of_the_killed_go_with_the_next(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with files.scratch() as folder:
        (folder / "x").write_text("y")
        root = folder.parent
    assert not list(root.iterdir())
    script = textwrap.dedent(f"""
        import os, tempfile
        tempfile.tempdir = {str(tmp_path)!r}
        from edgekit import files
        with files.scratch() as folder:
            (folder / "x").write_text("y")
            os.kill(os.getpid(), 9)
    """)
    subprocess.run([sys.executable, "-c", script], check=False)
    assert len(list(root.iterdir())) == 2, "the killed process left its folder and its lock"
    with files.scratch() as folder:
        assert sorted(p.name for p in root.iterdir()) == sorted([folder.name, f"{folder.name}.lock"])
    assert not list(root.iterdir())


def test_no_place_for_scratch_is_told(tmp_path, monkeypatch):
    """A read-only root file system; what would be the temporary folder is a file; a disk that is full."""

    def none():
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "file").touch()
    for name, value in (("tempfile.gettempdir", none), ("tempfile.tempdir", str(tmp_path / "file")), ("os.open", full)):
        with monkeypatch.context() as patched:
            patched.setattr("tempfile.tempdir", str(tmp_path))
            patched.setattr(name, value)
            with pytest.raises(UsageError) as caught, files.scratch():
                pass
        assert caught.value.code == "scratch-unwritable"


def test_a_foreign_scratch_root_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / f"edgekit-{os.getuid()}").symlink_to(elsewhere)
    with pytest.raises(SourceError) as caught, files.scratch():
        pass
    assert caught.value.code == "scratch-unsafe"


def test_digest_of_a_folder_depends_on_names_and_contents(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        (folder / "sub").mkdir(parents=True)
        (folder / "a").write_text("1")
        (folder / "sub" / "b").write_text("2")
    assert files.sha256(one) == files.sha256(two)
    (two / "a").rename(two / "c")
    assert files.sha256(one) != files.sha256(two)
    assert files.size_of(one) == 2
