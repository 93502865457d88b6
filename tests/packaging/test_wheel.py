"""The wheel holds every tracked source file and nothing else, and imports as promised."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HOMES = {"edgekit": "edgekit", "converters": "edgekit/converters", "runtimes": "edgekit/runtimes",
         "device_profiles": "edgekit/device_profiles"}  # fmt: skip


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in tracked():
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


def tracked() -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    if listed.returncode:
        pytest.skip("not a git checkout: the tracked files are unknown")
    return [name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


def test_the_wheel_holds_exactly_the_tracked_sources(wheel):
    expected = set()
    for name in tracked():
        top, _, rest = name.partition("/")
        if top in HOMES and rest.endswith((".py", ".toml", ".html", "py.typed")):
            expected.add(f"{HOMES[top]}/{rest}")
    with zipfile.ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert sorted(expected - found) == [], "tracked but not in the wheel: list the package in pyproject.toml"
    assert sorted(found - expected) == []


@pytest.mark.xfail(reason="1.4 MB, a third of them converters; test_device_wheel.py holds that for boards")
def test_the_wheel_is_small(wheel):
    assert wheel.stat().st_size < 1_000_000


def test_the_license_is_in_the_wheel(wheel):
    with zipfile.ZipFile(wheel) as archive:
        assert any(name.endswith("licenses/LICENSE") for name in archive.namelist())
