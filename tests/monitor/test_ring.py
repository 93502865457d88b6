"""Segments on disk: bounded, ordered, healed."""

from __future__ import annotations

import errno
import hashlib
import os
import struct
import time

import numpy as np
import pytest
from capture_case import QUOTA, Time, fill, numbered, records, strays, taken, whole
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.errors import ArtifactError, TargetError, UsageError
from edgekit.monitor import ring as ring_module
from edgekit.monitor import sealing
from edgekit.monitor.bounds import Bounds
from edgekit.monitor.records import Record, Sample, pack, unpack
from edgekit.monitor.ring import Ring, listed
from edgekit.monitor.segments import Header, payloads, scan

DAY = 86400.0


def ring(folder, quota=QUOTA, **known):
    return Ring(folder, "case", Bounds(quota, **known.pop("bounds", {})), **known)


def test_the_latest_records_stay_and_the_quota_holds(tmp_path):
    writer = ring(tmp_path / "c")
    for number in range(120):
        assert writer.append(numbered(number, 1500))
        assert taken(tmp_path / "c") <= QUOTA
    writer.close()
    found = records(tmp_path / "c")
    assert found == list(range(found[0], 120))
    assert len(found) > 25
    assert taken(tmp_path / "c") > 0.8 * QUOTA


def test_a_ring_goes_on_where_the_last_writer_ended(tmp_path):
    for start in (0, 2, 4):
        writer = ring(tmp_path)
        for number in (start, start + 1):
            writer.append(numbered(number, 100))
        writer.close()
    assert records(tmp_path) == list(range(6))
    assert len(listed(tmp_path)) == 1
    assert len({scan(path.read_bytes()).header.store for _, path in listed(tmp_path)}) == 1


def test_one_process_writes(tmp_path):
    writer = ring(tmp_path)
    with pytest.raises(TargetError) as refused:
        ring(tmp_path)
    assert refused.value.code == "capture-busy"
    writer.close()
    writer.close()
    ring(tmp_path).close()


def test_what_is_too_large_is_not_written(tmp_path):
    writer = ring(tmp_path)
    assert not writer.append(numbered(0, QUOTA // 2))
    assert writer.append(numbered(1, QUOTA // 3))
    assert writer.append(numbered(2, QUOTA // 3))
    assert taken(tmp_path) <= QUOTA
    writer.close()
    assert records(tmp_path)[-1] == 2


def test_a_smaller_quota_is_met_at_once(tmp_path):
    fill(tmp_path, 60)
    assert taken(tmp_path) > 1.2 * (QUOTA - 8192) / 2
    writer = ring(tmp_path, 1 << 20)
    for number in range(100, 140):
        writer.append(numbered(number, 9000))
    writer.close()
    assert taken(tmp_path) > 2 * QUOTA
    ring(tmp_path).close()
    assert taken(tmp_path) <= QUOTA


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_torn_tail_is_ignored_and_healed(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("torn")
    writer = ring(folder, clock=Time().clock)
    for number in range(8):
        writer.append(numbered(number, 300))
    writer.close()
    (_, path) = listed(folder)[-1]
    content = bytearray(path.read_bytes())
    frames = scan(bytes(content)).frames
    cut = data.draw(st.integers(1, len(content)))
    kind = data.draw(st.sampled_from(["cut", "zeros", "noise", "flip"]))
    if kind == "cut":
        del content[-cut:]
    elif kind == "zeros":
        content[-cut:] = bytes(cut)
    elif kind == "noise":
        content[-cut:] = os.urandom(cut)
    else:
        content[-cut] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    before = records(folder)
    untouched = len(content) if kind == "cut" else len(content) - cut
    lengths = [end - begin + 32 for _, begin, end in frames]
    hit = next((place for place, _, end in frames if end - lengths[place] <= untouched < end), None)
    if kind == "flip" and hit is not None:  # in a record or what is said of it: that alone is lost
        assert before == [number for number in range(8) if number != 8 - len(frames) + hit]
    else:
        assert before == list(range(len(before)))
        assert len(before) >= sum(end <= untouched for _, _, end in frames)
    writer = ring(folder)
    writer.append(numbered(50, 300))
    writer.close()
    assert records(folder) == [*before, 50]
    assert strays(folder) == []


def test_blocks_of_another_file_are_no_records(tmp_path):
    """What a disk shows behind a torn end may be an old segment's, whole frames included."""
    old, new = (Header("ab" * 8, number, f"{number:02x}" * 16, "case", "host") for number in (1, 2))
    payload = numbered(7, 100)
    data = new.start() + new.frame(0, payload, None) + old.frame(1, payload, None)
    assert len(payloads(data)) == 1
    assert len(payloads(new.start() + old.frame(0, payload, None))) == 0
    assert scan(new.start() + new.frame(1, payload, None)).lost == 1
    assert payloads(b"") == payloads(new.start()[:40]) == []


@pytest.mark.parametrize("size", [300, 4096])
def test_a_block_that_a_disk_forgot_costs_what_was_in_it(tmp_path, size):
    """After a power cut a file may have its later blocks and not an earlier one."""
    writer = ring(tmp_path, 1 << 20)
    for number in range(12):
        writer.append(numbered(number, 1500))
    writer.close()
    (_, path) = listed(tmp_path)[0]
    data = bytearray(path.read_bytes())
    begin = 4096 + 8
    hit = [place for place, first, end in scan(bytes(data)).frames if first - 32 < begin + size and end > begin]
    data[begin : begin + size] = bytes(size)
    path.write_bytes(data)
    seen = scan(bytes(data))
    assert records(tmp_path) == [number for number in range(12) if number not in hit]
    assert (seen.lost, seen.places, seen.end) == (len(hit), 12, len(data))


def old_frame(header, place, payload):
    """As segments of schema 1 had them."""
    digest = hashlib.blake2b(
        place.to_bytes(8, "little", signed=True) + payload, digest_size=16, key=bytes.fromhex(header.salt)
    ).digest()
    return struct.pack("<I16s", len(payload), digest) + payload


def test_segments_of_before_are_read_and_not_gone_on_with(tmp_path):
    header = Header("ab" * 8, 1, "0f" * 16, "case", "host", schema=1)
    frames = [old_frame(header, place, numbered(place, 100)) for place in range(5)]
    whole = header.start() + b"".join(frames)
    assert [found.place for found in scan(whole).frames] == [0, 1, 2, 3, 4]
    flipped = bytearray(whole)
    flipped[len(header.start()) + len(frames[0]) + 60] ^= 1
    seen = scan(bytes(flipped))
    assert ([found.place for found in seen.frames], seen.lost, seen.end) == ([0, 2, 3, 4], 1, len(whole))
    assert scan(whole[:-1]).end == len(whole) - len(frames[4])
    (tmp_path / "00000001.segment").write_bytes(whole + b"torn")
    writer = ring(tmp_path)
    writer.append(numbered(5, 100))
    writer.close()
    assert records(tmp_path) == list(range(6))
    assert [scan(path.read_bytes()).header.schema for _, path in listed(tmp_path)] == [1, 2]


def test_forged_frames_cost_no_more_than_their_bytes():
    header = Header("ab" * 8, 1, "0f" * 16, "case", "host")
    size = 1 << 20
    mark = header.frame(0, b"", None)[:8]
    forged = (mark + struct.pack("<II", 0, size // 2) + bytes(16)) * (size // 32)
    began = time.process_time()
    assert scan(header.start() + forged).frames == ()
    assert time.process_time() - began < 5


def test_a_later_edgekit_is_refused_by_name(tmp_path):
    header = Header("ab" * 8, 1, "00" * 16, "case", "host", schema=3)
    with pytest.raises(ArtifactError) as refused:
        scan(header.start())
    assert refused.value.code == "capture-newer"


def test_what_is_old_goes(tmp_path):
    time = Time()
    writer = ring(tmp_path, bounds={"retention": 16 * DAY}, clock=time.clock)
    for day in range(40):
        assert writer.append(numbered(day, 100))
        for _, path in listed(tmp_path):
            if path == writer._current.path:
                os.utime(path, (time.now, time.now))
        time.now += DAY + 1
        writer.expire()
        found = records(tmp_path)
        assert found == list(range(found[0], day + 1))
        assert day + 1 - found[0] <= 16  # none is older than it may be
        assert day + 1 - found[0] >= min(14, day + 1)  # and what goes early is a sixteenth
    writer.close()


def test_a_clock_that_was_never_set_removes_nothing_too_early(tmp_path):
    early = Time(now=3600.0)
    writer = ring(tmp_path, bounds={"retention": DAY}, clock=early.clock)
    writer.append(numbered(0, 100))
    writer.close()
    (_, path) = listed(tmp_path)[0]
    os.utime(path, (3600, 3600))
    late = Time()
    writer = ring(tmp_path, bounds={"retention": DAY}, clock=late.clock)
    assert records(tmp_path) == [0]
    late.now += DAY
    writer.expire()
    writer.close()
    assert records(tmp_path) == []


def test_a_full_disk_is_told_and_nothing_is_torn(tmp_path, monkeypatch):
    writer = ring(tmp_path)
    writer.append(numbered(0, 200))
    real, left = os.write, [150]

    def write(handle, data):
        room = left[0]
        if room <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        left[0] -= len(data)
        return real(handle, bytes(data)[:room])

    monkeypatch.setattr(os, "write", write)
    assert not writer.append(numbered(1, 200))
    monkeypatch.undo()
    assert records(tmp_path) == [0]
    assert writer.append(numbered(2, 200))
    writer.close()
    assert records(tmp_path) == [0, 2]


def test_a_disk_that_fails_is_an_error(tmp_path, monkeypatch):
    writer = ring(tmp_path)

    def write(handle, data):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(TargetError) as failed:
        writer.append(numbered(1, 200))
    assert failed.value.code == "capture-unwritable"
    monkeypatch.undo()
    assert strays(tmp_path) == []
    assert writer.append(numbered(2, 200))
    writer.close()
    assert records(tmp_path) == [2]


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(TargetError) as failed:
        ring(tmp_path / "file" / "case")
    assert failed.value.code == "capture-unwritable"


def test_bounds_that_make_no_sense():
    for wrong in ({"quota": 1000}, {"quota": QUOTA, "retention": 0.0}, {"quota": QUOTA, "sync": -1.0}):
        with pytest.raises(UsageError):
            Bounds(**wrong)


# -- Encrypted -------------------------------------------------------------------------------------------------


@pytest.fixture
def seal(tmp_path):
    pytest.importorskip("cryptography")
    made = sealing.make(tmp_path / "capture.key")
    found = sealing.find(tmp_path / "capture.key")
    assert found.id == made
    return found


def test_an_encrypted_ring_is_read_with_its_key_alone(tmp_path, seal):
    folder = tmp_path / "c"
    writer = ring(folder, seal=seal)
    text = pack(Record("alarm", about={"alarm": "a secret word"}))
    for _ in range(3):
        writer.append(text)
    writer.close()
    (_, path) = listed(folder)[0]
    data = path.read_bytes()
    assert b"secret" not in data
    assert b"a secret word" in payloads(data, seal)[0]
    for wrong in (None, sealing.Seal(bytes(32))):
        with pytest.raises(ArtifactError) as refused:
            payloads(data, wrong)
        assert refused.value.code == "capture-key"


def test_an_encrypted_record_can_be_neither_changed_nor_moved(seal):
    header = Header("ab" * 8, 1, "00" * 16, "case", "host", key=seal.id)
    content = seal.close(b"payload", header._bound(0))
    assert header.open(0, content, seal) == b"payload"
    for place, altered in ((1, content), (0, content[:-1] + bytes([content[-1] ^ 1])), (0, b"short")):
        with pytest.raises(ArtifactError) as refused:
            header.open(place, altered, seal)
        assert refused.value.code == "capture-damaged"


def test_another_key_begins_another_segment(tmp_path, seal):
    for one in (None, seal, None):
        writer = ring(tmp_path / "c", seal=one)
        writer.append(numbered(1, 50))
        writer.close()
    keys = [scan(path.read_bytes()).header.key for _, path in listed(tmp_path / "c")]
    assert keys == [None, seal.id, None]


def test_keys_that_are_none(tmp_path, monkeypatch):
    pytest.importorskip("cryptography")
    (tmp_path / "short").write_text("AAAA\n")
    (tmp_path / "text").write_text("not base 64!")
    for name in ("short", "text"):
        with pytest.raises(UsageError) as refused:
            sealing.find(tmp_path / name)
        assert refused.value.code == "key-invalid"
    with pytest.raises(FileNotFoundError):
        sealing.find(tmp_path / "none")
    assert sealing.find() is None
    sealing.make(tmp_path / "key")
    with pytest.raises(UsageError):
        sealing.make(tmp_path / "key")
    assert (tmp_path / "key").stat().st_mode & 0o077 == 0
    monkeypatch.setenv(sealing.ENVIRONMENT, (tmp_path / "key").read_text())
    assert sealing.find().id == sealing.find(tmp_path / "key").id


# -- Records ---------------------------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_arrays_come_back_as_they_were(data):
    dtype = data.draw(st.sampled_from(["float32", "float16", "float64", "uint8", "int8", "int64", "bool"]))
    shape = data.draw(st.lists(st.integers(0, 5), max_size=4))
    dice = np.random.default_rng(data.draw(st.integers(0, 99)))
    values = dice.normal(size=shape) * data.draw(st.sampled_from([1, 100, 1e30])) if dtype[0] == "f" else None
    with np.errstate(over="ignore"):
        array = (np.rint(dice.random(shape) * 255) if values is None else values).astype(dtype)
    if dtype == "float32" and data.draw(st.booleans()):
        array = np.rint(np.abs(array) % 256).astype(dtype)
    found = unpack(pack(Record("alarm"), {"a": array}, {"a": array[..., None]}))
    assert found.inputs["a"].dtype == array.dtype
    assert np.array_equal(found.inputs["a"], array, equal_nan=dtype[0] == "f")
    assert found.outputs["a"].shape == (*array.shape, 1)


def test_pixels_take_a_byte_each():
    dice = np.random.default_rng(0)
    pixels = dice.integers(0, 256, (32, 32, 3)).astype(np.float32)
    assert len(pack(Record("alarm"), {"x": pixels})) < 3072 + 400
    signed = np.array([-0.0, 1.0], np.float32)
    assert np.signbit(unpack(pack(Record("alarm"), {"x": signed})).inputs["x"][0])


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_forged_records_are_refused(data):
    sample = Sample("a" * 64, 1, ("random",), {"random": 0.5}, 0.5)
    payload = bytearray(pack(Record("sample", sample), {"x": np.arange(30, dtype=np.float32)}))
    for _ in range(data.draw(st.integers(1, 4))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    del payload[data.draw(st.integers(1, len(payload))) :]
    try:
        unpack(bytes(payload))
    except ArtifactError as error:
        assert error.code == "capture-damaged"


def test_a_record_cannot_ask_for_all_memory():
    huge = (
        b'{"kind": "alarm", "arrays": [{"name": "x", "dtype": "float64", "shape": [60000000, 60], "stored": "uint8"}]}'
    )
    with pytest.raises(ArtifactError):
        unpack(huge + b"\nz" + b"x")
    small = b'{"kind": "alarm", "arrays": [{"name": "x", "dtype": "uint8", "shape": [10], "stored": "uint8"}]}'
    import zlib

    with pytest.raises(ArtifactError):
        unpack(small + b"\nz" + zlib.compress(bytes(50 << 20)))


def test_whole_means_whole():
    with pytest.raises(AssertionError):
        whole(
            pack(Record("sample", Sample("a" * 64, 3, ("random",), {"random": 0.5}, 0.5)), {"x": np.zeros(9, np.uint8)})
        )


def test_captures_of_a_later_edgekit_are_left_alone_and_nothing_is_held(tmp_path):
    header = Header("ab" * 8, 1, "00" * 16, "case", "host", schema=3)
    (tmp_path / "00000001.segment").write_bytes(header.start())
    for _ in range(2):  # the lock was held for good, and the second try found it busy
        with pytest.raises(ArtifactError) as refused:
            Ring(tmp_path, "case", Bounds(QUOTA))
        assert refused.value.code == "capture-newer"


@pytest.mark.parametrize("part", [0, 7, None])
def test_a_signal_while_a_record_is_written_tears_nothing(tmp_path, monkeypatch, part):
    """An app that goes on behind a KeyboardInterrupt wrote records that nobody could read."""
    writer = ring(tmp_path)
    assert writer.append(numbered(0, 100))
    real = ring_module._write

    def interrupted(handle, data):
        real(handle, data[:part])
        raise KeyboardInterrupt

    monkeypatch.setattr(ring_module, "_write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        writer.append(numbered(1, 100))
    monkeypatch.setattr(ring_module, "_write", real)
    for number in (2, 3):
        assert writer.append(numbered(number, 100))
    writer.close()
    assert records(tmp_path) == [0, 2, 3]


def test_a_signal_while_a_segment_is_begun_leaves_none(tmp_path, monkeypatch):
    def interrupted(handle):
        raise KeyboardInterrupt

    writer = ring(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", interrupted)
        with pytest.raises(KeyboardInterrupt):
            writer.append(numbered(0, 100))
    assert listed(tmp_path) == []
    assert writer.append(numbered(1, 100))
    writer.close()
    assert records(tmp_path) == [1]


def test_the_disk_is_told_in_an_order_that_a_power_cut_may_stop_anywhere(tmp_path, monkeypatch):
    """A segment's beginning and name before its records; what was removed before what takes its place; the end."""
    seen = []

    def noted(module, name, event):
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *given, **known: (seen.append(event), real(*given, **known))[1])

    noted(ring_module, "_write", "write")
    noted(ring_module.files, "sync_folder", "folder")
    noted(os, "fsync", "file")
    noted(type(tmp_path), "unlink", "remove")
    writer = ring(tmp_path, bounds={"sync": 1e9})
    writer.append(numbered(0, 100))
    begun = [event for event in seen if event != "remove"]
    assert begun[:2] == ["write", "file"]
    assert "folder" in begun[2:-1]
    assert begun[-1] == "write"
    for number in range(1, 200):
        writer.append(numbered(number, 1500))
    assert seen.count("remove") > 5
    for place, event in enumerate(seen):
        if event == "remove":
            assert "folder" in seen[place : seen.index("write", place)]
    writer.append(numbered(200, 100))
    seen.clear()
    writer.close()
    assert seen == ["file"]
