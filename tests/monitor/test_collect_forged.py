"""Captures that no EdgeKit wrote: whoever finds a board can write into its files what he likes."""

from __future__ import annotations

import tracemalloc
import zlib

import numpy as np
import pytest
from capture_case import numbered

from edgekit.collect import collect, dataset
from edgekit.collect.drift import summary
from edgekit.errors import ArtifactError, MissingFileError
from edgekit.monitor.records import ARRAY_LIMIT, Record, Sample, Stored, pack, unpack
from edgekit.monitor.segments import Header
from edgekit.report import write

STORE = "0123456789abcdef"


def forged(root, *records, store=STORE, **known):
    """A folder of captures with one segment: a sample, and these records."""
    folder = root / "pets"
    folder.mkdir(parents=True)
    header = Header(STORE, 1, "ab" * 16, "pets", "host", **known)
    data = header.start()
    if store != STORE:  # one of the same length, whose digest fits
        object.__setattr__(header, "store", store)
        data = header.start()
    for place, record in enumerate([numbered(1, 10), *records]):
        data += header.frame(place, record, None)
    (folder / "00000001.segment").write_bytes(data)
    return root


def test_a_name_that_leads_elsewhere_is_no_segment(tmp_path):
    """A header's store becomes a file's name at the desk."""
    board = forged(tmp_path / "board", store="../../../escape")
    with pytest.raises(MissingFileError) as refused:
        collect([str(board)], tmp_path / "desk" / "data")
    assert refused.value.code == "captures-none"
    assert not list(tmp_path.rglob("*escape*"))


@pytest.mark.parametrize(
    "record",
    [
        Record("status"),
        Record("status", about={"seen": "many"}),
        Record("status", about={"seen": 3, "classes": {"cat": "many"}}),
        Record("status", about={"seen": 3, "ood": "<script>"}),
        Record("alarm"),
        Record("alarm", about={"alarm": {"kind": "blank"}}),
    ],
)
def test_a_record_that_says_nothing_is_damaged(tmp_path, record):
    out = tmp_path / "data"
    done = collect([str(forged(tmp_path / "board", pack(record)))], out)
    assert (done.samples, done.damaged) == (1, 1)
    assert summary([out])["boards"][0]["series"] == []


@pytest.mark.parametrize(
    "monitor", [[1], {"samples": "many"}, {"alarms": ["blank"]}, {"scales": 3}, {"accuracy": {"low": 0.5}}]
)
def test_what_another_watcher_says_is_not_shown(tmp_path, monitor):
    out = tmp_path / "data"
    about = {"seen": 3, "monitor": monitor, "store": "other", "kind": "alarm", "host": "<b>"}
    collect([str(forged(tmp_path / "board", pack(Record("status", about=about))))], out)
    document = summary([out])
    (board,) = document["boards"]
    assert (board["store"], board["seen"], board["monitor"], board["alarms"]) == (STORE, 3, None, [])
    write(document, "drift", tmp_path / "page.html")


def test_a_time_beyond_the_calendar_is_none():
    for at in (1e18, -1.0, float("nan")):
        with pytest.raises(ValueError, match="calendar"):
            Record("status", at=at)
        with pytest.raises(ValueError, match="calendar"):
            Sample("a", 1, ("random",), {"random": 0.5}, 0.5, at=at)
    payload = pack(Record("status", about={"seen": 1}, at=1e9)).replace(b"1000000000.0", b"1e300")
    with pytest.raises(ArtifactError) as refused:
        unpack(payload)
    assert refused.value.code == "capture-damaged"


@pytest.mark.parametrize("about", [{"preprocess": {"kind": 5}}, {"labels": 5}, {"columns": [1, 2]}])
def test_a_model_that_cannot_be_names_its_file(tmp_path, about):
    out = tmp_path / "data"
    with pytest.raises(ArtifactError) as refused:
        collect([str(forged(tmp_path / "board", about=about))], out)
    assert refused.value.code == "dataset-damaged"
    (path,) = dataset.stored(out)
    assert str(path) in refused.value.next_step


def test_a_record_takes_no_more_memory_than_it_says():
    """Sixty-four megabytes of zeros deflate to sixty-four kilobytes."""
    good = pack(Record("sample", Sample("a", 1, ("random",), {"random": 0.5}, 0.5)), {"x": np.zeros(4096, np.uint8)})
    text = good.partition(b"\n")[0]
    bomb = text + b"\nz" + zlib.compress(bytes(64 << 20), 9)
    tracemalloc.start()
    try:
        with pytest.raises(ArtifactError) as refused:
            unpack(bomb)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
    assert refused.value.code == "capture-damaged"


def test_arrays_that_nobody_captures_are_refused_before_they_are_made():
    stored = Stored("x", "float64", (ARRAY_LIMIT // 8,), "float64")
    sample = Sample("a", 1, ("random",), {"random": 0.5}, 0.5)
    assert Record("sample", sample, arrays=(stored,)).arrays == (stored,)
    with pytest.raises(ValueError, match="larger"):
        Record("sample", sample, arrays=(stored, Stored("y", "bool", (1,), "bool")))
