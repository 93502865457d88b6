"""Boards over SSH when something breaks: each fault has its error, within a bound, and nothing is left there."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import threading
import time

import pytest

from edgekit import files
from edgekit.child import Limits
from edgekit.errors import EdgeKitError, EngineError, EngineMissingError, InternalError, TargetError
from edgekit.targets import open_target, ssh, ssh_channel, ssh_wire


@pytest.fixture
def impatient(monkeypatch):
    """Bounds of a second or two in place of half a minute."""
    monkeypatch.setattr(ssh_wire, "KEEPALIVE", 0.3)
    for module in (ssh_wire, ssh):
        monkeypatch.setattr(module, "HEARTBEAT", 1)


def fails(code, kind=TargetError):
    return pytest.raises(kind, check=lambda error: error.code == code)


# -- Processes there -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "died"), [(signal.SIGKILL, "worker-memory"), (signal.SIGILL, "worker-crashed")])
def test_a_job_that_is_killed(board, jobs, number, died):
    with open_target(board.target) as place:
        with fails("engine-crashed", EngineError) as caught:
            place.perform(jobs.suicide, jobs.Ask(int(number)))
        assert caught.value.details["died"] == died
        assert number.name in caught.value.message
        assert place.perform(jobs.double, jobs.Ask(2)).value == 4, "the next job runs"


@pytest.mark.parametrize("stopped", [False, True])
def test_a_job_that_hangs_is_ended(board, jobs, stopped):
    pids = []

    def seen(event):
        pids.append(event["pid"])
        if stopped:
            os.kill(event["pid"], signal.SIGSTOP)

    with open_target(board.target) as place:
        with fails("engine-crashed", EngineError) as caught:
            place.perform(jobs.wait, jobs.Ask(60), limits=Limits(seconds=3), progress=seen)
        assert caught.value.details["died"] == "worker-timeout"
        assert pids[0] not in board.processes()


def test_what_a_job_prints_is_quoted_and_mixes_with_nothing(board, jobs):
    with open_target(board.target) as place, fails("engine-crashed", EngineError) as caught:
        place.perform(jobs.say, jobs.Ask(text="last words"))
    assert "last words more" in caught.value.cause


def test_a_missing_engine_says_how_to_get_it_there(board, jobs):
    with open_target(board.target) as place, pytest.raises(EngineMissingError) as caught:
        place.perform(jobs.lack, jobs.Ask())
    assert f"edgekit target setup {board.target}" in caught.value.next_step


def test_our_process_there_is_killed(board, jobs):
    with open_target(board.target) as place:
        place.new("x")
        for pid in board.processes():
            os.kill(pid, signal.SIGKILL)
        with fails("target-board-died") as caught:
            place.perform(jobs.double, jobs.Ask())
    assert caught.value.details["status"] == -signal.SIGKILL


def test_our_process_there_is_stopped(board, jobs, impatient, monkeypatch):
    """It does not answer; the next user finds an expired lease, ends it and goes on."""
    monkeypatch.setattr(ssh, "ANSWER", 1)
    monkeypatch.setenv("EDGEKIT_TARGET_WAIT", "20")
    with open_target(board.target) as place:
        place.new("x")
        (pid,) = board.processes()
        os.kill(pid, signal.SIGSTOP)
        with fails("target-hung"):
            place.ask({"do": "probe"}, 1)
        with open_target(board.target) as other:
            assert other.perform(jobs.double, jobs.Ask(3)).value == 6
        assert pid not in board.processes()


def test_jobs_of_somebody_who_is_gone_are_ended(board, jobs):
    """The keeper is killed, its job goes on: the next user of the board ends it before anything is measured."""
    with open_target(board.target) as place:
        running = {}

        def seen(event):
            running.update(event)
            for pid in board.processes():
                if pid != event["pid"]:
                    os.kill(pid, signal.SIGKILL)
            with open_target(board.target) as other:
                other.new("x")
                assert event["pid"] not in board.processes()

        with pytest.raises(EngineError):
            place.perform(jobs.wait, jobs.Ask(60), progress=seen)
    assert running


# -- One user at a time ----------------------------------------------------------------------------------------


def test_a_second_user_is_told_who_has_the_board(board):
    with open_target(board.target) as place:
        place.new("x")
        with open_target(board.target) as other, fails("target-busy") as caught:
            other.new("x")
    assert re.search(r"in use by \S+@\S+ since \d+ s", caught.value.message)
    with open_target(board.target) as place:
        place.new("x")


def test_a_second_user_waits_for_the_first(board, monkeypatch):
    monkeypatch.setenv("EDGEKIT_TARGET_WAIT", "30")
    first = open_target(board.target)
    first.new("x")
    told = []

    def leave(event):
        told.append(event["stage"])
        if event["stage"].startswith("waiting"):
            first.close()

    with open_target(board.target, leave) as second:
        second.new("x")
    assert [words for words in told if "in use by" in words]


# -- The link --------------------------------------------------------------------------------------------------


def partial(board):
    """Files under a final name whose content is another, and folders that are not whole."""
    wrong = [p for p in board.base.glob("files/*") if p.suffix != ".part" and files.sha256(p) != p.name[:64]]
    for tree in board.base.glob("bundles/*"):
        if not tree.name.endswith(".part") and not (tree / "edgekit" / "targets" / "agent.py").exists():
            wrong.append(tree)
    return wrong


def test_a_link_that_is_cut_anywhere_leaves_nothing_half_done(board, proxy, jobs, effort, tmp_path):
    """At 10 random byte offsets, 100 with --run-stress; the next run goes on and succeeds."""
    data = tmp_path / "data.bin"
    data.write_bytes(random.Random(1).randbytes(400_000))

    def whole_run():
        with open_target(board.through) as place:
            there, written = place.put(data), place.new("x")
            place.perform(jobs.write, jobs.Ask(1000, written))
            place.get(written, tmp_path / "back")
        return there

    def forget(*names):
        for name in names:
            subprocess.run(["rm", "-rf", str(board.base / name)], check=True)

    whole_run()
    totals = {("files", "bundles"): proxy.passed}
    forget("files")
    whole_run()
    totals["files",] = proxy.passed
    dice, codes = random.Random(7), set()
    for turn in range(max(10, effort)):
        fresh = ("files", "bundles") if turn % 4 == 0 else ("files",)
        forget(*fresh)
        proxy.cut_after = dice.randrange(totals[fresh])
        began = time.monotonic()
        with pytest.raises((TargetError, EngineError)) as caught:
            whole_run()
        codes.add(caught.value.code)
        assert time.monotonic() - began < 120  # it waits for nothing that will not come
        assert board.gone(), (proxy.cut_after, board.processes())
        assert partial(board) == []
        proxy.cut_after = None
        there = whole_run()
        assert (board.base / "files" / there.rpartition("/")[2]).read_bytes() == data.read_bytes()
        assert partial(board) == []
    assert codes <= {"target-link-lost", "target-unreachable"}


def test_a_cut_upload_goes_on_where_it_ended(board, proxy, tmp_path):
    data = tmp_path / "data.bin"
    data.write_bytes(random.Random(2).randbytes(12_000_000))
    proxy.cut_after = 9_000_000  # the server holds back up to a window of 2 MiB, and loses that
    with open_target(board.through) as place, fails("target-link-lost"):
        place.put(data)
    assert board.gone()
    (part,) = (board.base / "files").iterdir()
    assert part.name.endswith(".part")
    kept = part.stat().st_size
    assert kept > 0
    proxy.cut_after = None
    with open_target(board.through) as place:
        place.put(data)
    assert proxy.passed < 12_500_000 - kept


def test_an_upload_that_was_spoilt_starts_again(board, tmp_path):
    data = tmp_path / "data.bin"
    data.write_bytes(b"x" * 5000)
    folder = board.base / "files"
    folder.mkdir()
    (folder / f"{files.sha256(data)}.bin.part").write_bytes(b"y" * 100)
    with open_target(board.target) as place:
        there = place.put(data)
    assert (folder / there.rpartition("/")[2]).read_bytes() == data.read_bytes()


def test_a_silent_network_is_noticed_on_both_ends(board, proxy, jobs, impatient):
    began = 0.0

    def fall_silent(event):
        nonlocal began
        began = time.monotonic()
        proxy.hole.set()

    with open_target(board.through) as place:
        with fails("target-link-lost"):
            place.perform(jobs.wait, jobs.Ask(60), progress=fall_silent)
        assert time.monotonic() - began < 40  # the job lasts 60
    assert board.gone(), "the board's processes ended by themselves"


def test_an_interrupted_upload_leaves_a_usable_board(board, tmp_path):
    data = tmp_path / "data.bin"
    data.write_bytes(random.Random(3).randbytes(2_000_000))

    def interrupt(event):
        if event.get("done", 0) > 1_000_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), open_target(board.target, interrupt) as place:
        place.put(data)
    assert board.gone()
    with open_target(board.target) as place:
        place.put(data)


# -- Storage ---------------------------------------------------------------------------------------------------


def test_a_full_disk(board, jobs, tmp_path):
    """A real one: the board's Python runs where ~/.edgekit is a file system of one megabyte."""
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("needs user namespaces")
    (board.bin / "python3").write_text(
        '#!/bin/sh\nexec unshare -rm /bin/sh -c \'mount -t tmpfs -o size=1m none "$HOME/.edgekit" && '
        f'exec "$0" "$@"\' "{sys.executable}" "$@"\n'
    )
    data = tmp_path / "data.bin"
    data.write_bytes(random.Random(4).randbytes(3_000_000))
    with open_target(board.target) as place:
        with fails("target-disk-full") as caught:
            place.put(data)
        assert "0.0 MB are left" in caught.value.message
        small = tmp_path / "small.bin"
        small.write_bytes(b"x")
        with fails("target-disk-full"):
            place.put(small)


def test_a_home_that_is_no_folder(board):
    subprocess.run(["rm", "-rf", str(board.base)], check=True)
    board.base.write_text("in the way")
    try:
        with open_target(board.target) as place, fails("target-storage"):
            place.new("x")
    finally:
        board.base.unlink()
        board.base.mkdir()


def test_what_comes_back_is_what_was_written(board, jobs, tmp_path):
    with open_target(board.target) as place:
        there = place.new("big.bin")
        place.perform(jobs.write, jobs.Ask(1_000_000, there))
        place.get(there, tmp_path / "back")
        assert (tmp_path / "back").read_bytes() == b"x" * 1_000_000
        with pytest.raises(EdgeKitError):
            place.get(place.new("never-written"), tmp_path / "no")
        assert not (tmp_path / "no").exists()
        with pytest.raises(InternalError):
            place.get("/etc/passwd", tmp_path / "no")
    assert not (board.base / "scratch").exists()


def test_targets_in_two_threads(board, jobs, monkeypatch):
    """Two links of one process wait for each other like two users."""
    monkeypatch.setenv("EDGEKIT_TARGET_WAIT", "30")
    results = []

    def work(value):
        with open_target(board.target) as place:
            results.append(place.perform(jobs.double, jobs.Ask(value)).value)

    threads = [threading.Thread(target=work, args=(value,)) for value in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [2, 4]


def test_a_stalled_upload_has_a_bound(board, monkeypatch, tmp_path):
    """Our process there is stopped while a file is on its way; it is gone when the target is closed."""
    monkeypatch.setattr(ssh_channel, "ANSWER", 1)
    data = tmp_path / "data.bin"
    data.write_bytes(bytes(12_000_000))

    def stop(event):
        if "done" in event:
            for pid in board.processes():
                os.kill(pid, signal.SIGSTOP)

    with open_target(board.target, stop) as place, fails("target-hung"):
        place.put(data)
    assert board.processes() == []
