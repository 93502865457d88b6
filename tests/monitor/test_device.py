"""Which device this is."""

from __future__ import annotations

import pytest

from edgekit.monitor import device as devices


@pytest.fixture
def hardware(tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "_SERIAL", tmp_path / "serial-number")
    monkeypatch.setattr(devices, "_NETWORK", tmp_path / "net")
    return tmp_path


def adapter(hardware, name, address, *, real=True):
    folder = hardware / "net" / name
    (folder / ("device" if real else "virtual")).mkdir(parents=True)
    (folder / "address").write_text(f"{address}\n")


def test_a_serial_number_tells_boards_apart(hardware):
    adapter(hardware, "eth0", "02:42:00:00:00:01")
    without = devices.device()
    (hardware / "serial-number").write_bytes(b"10000000abcdef01\0")
    found = devices.device()
    assert found != without
    assert len(found) == 16
    assert "abcdef" not in found
    (hardware / "serial-number").write_bytes(b"0000000000000000\0")  # of boards that were given none
    assert devices.device() == without


def test_adapters_that_are_none_of_the_hardware_tell_nothing(hardware):
    assert devices.device() is None
    adapter(hardware, "docker0", "02:42:00:00:00:01", real=False)
    adapter(hardware, "can0", "00:00:00:00:00:00")
    assert devices.device() is None
    adapter(hardware, "wlan0", "b8:27:eb:00:00:01")
    assert devices.device() is not None


def test_what_nobody_may_read_stops_no_app(hardware, monkeypatch):
    adapter(hardware, "wlan0", "b8:27:eb:00:00:01")

    def refused(path, **known):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(devices.Path, "exists", refused)
    assert devices.device() is None
