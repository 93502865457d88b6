"""Receiving, resuming, sharing, failing: the active version is always the old one or the new one."""

from __future__ import annotations

import errno
import fcntl
import io
import itertools
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from store_case import NAME, NEW, OLD, bring, change, digest, healthy, leftovers, receive

import edgekit
from edgekit.errors import ArtifactError, MissingFileError, TargetError, UsageError
from edgekit.store import Shelf, names
from edgekit.store import root as root_of


def test_the_active_version_is_read_back(root):
    assert healthy(root) == OLD
    assert names(root) == [NAME]
    change(root)
    assert healthy(root) == NEW
    assert leftovers(root) == []
    assert [version.number for version in Shelf(NAME, root).record().versions] == [2, 3]


def test_nothing_is_sent_twice(root):
    class Counting(io.BytesIO):
        taken = 0

        def read(self, size=-1):
            piece = super().read(size)
            self.taken += len(piece)
            return piece

    shelf = Shelf(NAME, root)
    part = shelf.folder / "incoming" / digest(NEW)
    part.parent.mkdir(exist_ok=True)
    part.write_bytes(NEW[:6000])
    assert shelf.arrived(digest(NEW)) == 6000
    source = Counting(NEW)
    with shelf.changing():
        shelf.receive(source, digest(NEW), len(NEW))
        assert source.taken == len(NEW) - 6000
        again = Counting(NEW)
        shelf.receive(again, digest(NEW), len(NEW))
    assert again.taken == 0
    assert shelf.path(digest(NEW)).read_bytes() == NEW


@pytest.mark.parametrize("torn", [b"\0" * 500, NEW + b"more", NEW[:-1] + b"?"])
def test_what_a_power_cut_tore_is_received_anew(root, torn):
    shelf = Shelf(NAME, root)
    part = shelf.folder / "incoming" / digest(NEW)
    part.parent.mkdir(exist_ok=True)
    part.write_bytes(torn)
    with shelf.changing():
        receive(shelf, NEW)
    assert shelf.path(digest(NEW)).read_bytes() == NEW
    assert leftovers(root) == []


def test_other_bytes_than_promised_are_refused(root):
    shelf = Shelf(NAME, root)
    with shelf.changing(), pytest.raises(ArtifactError) as refused:
        shelf.receive(io.BytesIO(NEW + b"!"), digest(NEW), len(NEW) + 1)
    assert refused.value.code == "store-digest"
    assert healthy(root) == OLD
    assert leftovers(root) == []


def test_a_flipped_bit_of_the_active_version_is_noticed(root):
    path = Shelf(NAME, root).path(digest(OLD))
    path.write_bytes(OLD[:50] + bytes([OLD[50] ^ 1]) + OLD[51:])
    with pytest.raises(ArtifactError) as noticed:
        Shelf(NAME, root).read_active()
    assert noticed.value.code == "artifact-damaged"


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"versions": 3}', '{"active": "x"}', "\x00" * 40])
def test_a_damaged_record_is_named(root, text):
    (root / NAME / "record.json").write_text(text)
    with pytest.raises(ArtifactError) as named:
        Shelf(NAME, root).record()
    assert named.value.code == "store-damaged"


def test_a_newer_record_is_left_alone(root):
    path = root / NAME / "record.json"
    document = json.loads(path.read_text()) | {"schema": 99}
    path.write_text(json.dumps(document))
    with pytest.raises(ArtifactError) as refused:
        Shelf(NAME, root).record()
    assert refused.value.code == "store-newer"


@pytest.mark.parametrize("name", ["", "A", "a b", "../x", "a/b", "a.tflite", "-a", "a-", "a" * 65, "ä", "a\n"])
def test_names_are_no_paths(name, tmp_path):
    with pytest.raises(UsageError) as refused:
        Shelf(name, tmp_path)
    assert refused.value.code == "model-name"


def test_a_trial_without_a_supervisor_is_over(root):
    shelf = Shelf(NAME, root)
    with shelf.changing():
        receive(shelf, NEW)
        for stage in ("verified", "tested"):
            shelf.change(lambda record, stage=stage: record.advance(digest(NEW), stage))
        shelf.change(lambda record: record.switch(digest(NEW), 60.0))
        assert Shelf(NAME, root).read_active()[0] == NEW  # supervised: the lock is held
    assert healthy(root) == OLD
    assert Shelf(NAME, root).record().version(digest(NEW)).reason == "its trial was interrupted"


def test_a_reader_without_the_right_to_write_sees_the_end_of_such_a_trial_too(root, monkeypatch):
    shelf = Shelf(NAME, root)
    with shelf.changing():
        receive(shelf, NEW)
        for stage in ("verified", "tested"):
            shelf.change(lambda record, stage=stage: record.advance(digest(NEW), stage))
        shelf.change(lambda record: record.switch(digest(NEW), 60.0))

    def refuse(*_: object, **__: object) -> None:
        raise TargetError("store-unwritable", "read-only")

    monkeypatch.setattr(Shelf, "changing", refuse)
    assert Shelf(NAME, root).read_active()[0] == OLD


def test_who_only_asks_whether_it_is_busy_turns_nobody_away(root, monkeypatch):
    handle = os.open(root / NAME / "lock", os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_SH)  # as `busy` holds it, for a moment
    monkeypatch.setattr("time.sleep", lambda _: fcntl.flock(handle, fcntl.LOCK_UN))
    try:
        with Shelf(NAME, root).changing():
            pass
    finally:
        os.close(handle)


def test_two_do_not_change_it_at_once(root):
    with Shelf(NAME, root).changing():
        with pytest.raises(TargetError) as busy, Shelf(NAME, root).changing():
            pass
        assert busy.value.code == "store-busy"
        assert Shelf(NAME, root).busy()
    assert not Shelf(NAME, root).busy()


def test_fifty_at_once_leave_one_winner_each_time(root):
    models = [b"model %d " % number * 50 for number in range(50)]
    outcomes: list[str] = []

    def deploy(data: bytes) -> None:
        try:
            with Shelf(NAME, root).changing():
                bring(Shelf(NAME, root), data)
                assert Shelf(NAME, root).read_active()[0] == data
                outcomes.append("won")
        except TargetError as error:
            outcomes.append(error.code)

    threads = [threading.Thread(target=deploy, args=(data,)) for data in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 50
    assert set(outcomes) <= {"won", "store-busy"}
    record = Shelf(NAME, root).record()
    assert sum(event.what == "committed" for event in record.events) == 2 + outcomes.count("won")
    assert Shelf(NAME, root).read_active()[0] in models


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_no_failing_call_changes_the_active_version(root, code, tmp_path, monkeypatch):
    """Every open, mkdir, fsync and rename fails once; what is told to have failed did not happen."""
    failed = 0
    for n in range(1, 1000):
        count = 0

        def failing(call, n=n):
            def wrapped(*args, **kwargs):
                nonlocal count
                count += 1
                if count == n:
                    raise OSError(code, os.strerror(code))
                return call(*args, **kwargs)

            return wrapped

        copy = tmp_path / f"copy-{n}"
        shutil.copytree(root, copy)
        with monkeypatch.context() as patch:
            for owner, name in ((os, "fsync"), (os, "open"), (Path, "rename"), (Path, "mkdir")):
                patch.setattr(owner, name, failing(getattr(owner, name)))
            try:
                with Shelf(NAME, copy).changing():
                    bring(Shelf(NAME, copy), NEW)
            except TargetError as error:
                assert error.code == ("store-full" if code == errno.ENOSPC else "store-unwritable")
            else:
                assert count < n
                break
        failed += 1
        assert healthy(copy) == OLD
        with Shelf(NAME, copy).changing():
            bring(Shelf(NAME, copy), NEW)
        assert healthy(copy) == NEW
        assert leftovers(copy) == []
    assert failed == n - 1 > 30


def test_a_record_whose_folder_could_not_be_synced_is_taken_back(root, monkeypatch):
    shelf = Shelf(NAME, root)
    before = shelf.record()
    real = os.fsync

    def refuses_folders(handle: int) -> None:
        if Path(f"/proc/self/fd/{handle}").is_dir():
            raise OSError(errno.EIO, "Input/output error")
        real(handle)

    with shelf.changing():
        monkeypatch.setattr(os, "fsync", refuses_folders)
        with pytest.raises(TargetError):
            shelf.change(lambda record: record.note("test", digest(OLD)))
        monkeypatch.undo()
    assert shelf.record() == before
    assert leftovers(root) == []


@pytest.mark.parametrize("now", [[0.0], [2**31 + 1.0], [1e9], [0.0, 4e9, 1.79e9, 1e9, 2**31 - 0.5, 2**31 + 0.5, -1e9]])
def test_clocks_that_are_wrong_or_jump_do_not_matter(root, now, monkeypatch):
    clock = itertools.cycle(now)
    monkeypatch.setattr("time.time", lambda: next(clock))
    change(root)
    assert healthy(root) == NEW
    assert leftovers(root) == []
    events = Shelf(NAME, root).record().events
    assert [event.number for event in events] == list(range(1, len(events) + 1))
    assert {event.at is None for event in events[-7:]} == {moment < 1.76e9 for moment in now}


def test_load_takes_the_name_of_a_model(root, monkeypatch, tmp_path):
    monkeypatch.setenv("EDGEKIT_STORE", str(root))
    monkeypatch.chdir(tmp_path)
    assert root_of() == root
    with pytest.raises(ArtifactError) as opened:
        edgekit.load(NAME)  # it was found: OLD is no model
    assert opened.value.code == "artifact-unknown"
    with pytest.raises(MissingFileError) as unknown:
        edgekit.load("nobody")
    assert unknown.value.code == "model-unknown"
    (tmp_path / NAME).write_bytes(b"a file of that name")
    with pytest.raises(ArtifactError):
        edgekit.load(NAME)
    with pytest.raises(MissingFileError) as missing:
        edgekit.load("nobody.tflite")
    assert missing.value.code == "file-missing"


def test_loading_a_path_does_not_import_the_store(tiny_files):
    code = (
        f"import sys, edgekit\nedgekit.load({str(tiny_files['tflite'])!r})\n"
        "assert not any(name.startswith('edgekit.store') for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_folder_of_models_is_the_users(monkeypatch, tmp_path):
    monkeypatch.delenv("EDGEKIT_STORE", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert root_of() == tmp_path / "edgekit" / "models"
    assert root_of("x") == Path("x")
