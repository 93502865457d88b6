"""Device profiles: the boards that ship, inheritance, sources, and files that are wrong."""

from __future__ import annotations

import copy
import dataclasses
import datetime as dt
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.codec import encode
from edgekit.device_profiles import _parent, all_profiles, devices, json_schema, load_profile
from edgekit.device_profiles.page import markdown
from edgekit.device_profiles.reading import STATED, Definition, parse, resolve
from edgekit.device_profiles.schema import Profile
from edgekit.device_profiles.software import version_key
from edgekit.errors import MissingFileError, UsageError

PROFILES = all_profiles()
NAMES = [profile.name for profile in PROFILES]
each_profile = pytest.mark.parametrize("profile", PROFILES, ids=NAMES)

MINIMAL = """
title = "A board"
[cpu]
soc = "X1"
clusters = [{ core = "Core", count = 2, clock_mhz = 1000 }]
isa = ["neon"]
[memory]
nominal_mib = 1024
usable_mib = 512
[os]
name = "Linux"
machine = "aarch64"
kernel_bits = 64
userland_bits = 64
python = "3.11"
[engines.litert]
distribution = "ai-edge-litert"
version = "2.3.0"
pythons = ["3.11"]
"""


def write(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def refused(path: str | Path, code: str = "profile-invalid") -> str:
    with pytest.raises(UsageError) as caught:
        load_profile(path)
    assert caught.value.code == code
    return caught.value.message


def leaves(value: Any, path: tuple[str, ...] = ()) -> list[str]:
    """Dotted paths of all figures; an engine counts as one, as in the sources."""
    if isinstance(value, dict) and not (len(path) == 2 and path[0] == "engines"):
        return [leaf for key, item in value.items() for leaf in leaves(item, (*path, key))]
    return [".".join(path)]


# -- the boards that ship


def test_all_boards_of_the_design_are_there():
    pi = "zero-w zero-2w 2b 3b 3b-plus 4b 4b-1gb 4b-2gb 4b-8gb 400 5 5-2gb 5-4gb 5-8gb 5-16gb cm4"
    others = "jetson-nano coral-dev-board beaglebone-ai-64 radxa-rock-5b orange-pi-5 imx8m-plus-evk intel-n100"
    wide = "zero-2w 3b 3b-plus 4b 400"
    expected = {f"raspberry-pi-{name}" for name in pi.split()} | set(others.split())
    assert expected | {f"raspberry-pi-{name}-32bit" for name in wide.split()} <= set(NAMES)


@each_profile
def test_every_figure_has_a_public_source(profile: Profile):
    figures = profile.to_dict()
    for key in ("name", "title", "notes", "sources"):
        del figures[key]
    assert sorted(leaves(figures)) == sorted(profile.sources)
    for path, source in profile.sources.items():
        assert not source.startswith(STATED), f"{path} has no source"
        assert "/work" not in source
        assert "/tmp" not in source


@each_profile
def test_policies_are_followed(profile: Profile):
    memory = profile.memory
    assert memory.usable_mib == (memory.idle_mib * 3 // 4 if memory.idle_mib else memory.nominal_mib // 2)
    assert profile.budget.model_mib == memory.usable_mib // 4
    assert profile.budget.latency_ms == 100
    if profile.storage.usable_mib:
        assert profile.storage.usable_mib == profile.storage.capacity_gb * 10**9 // 4 // 2**20


@each_profile
def test_engines_agree_with_word_size_and_python(profile: Profile):
    assert set(profile.engines) == {"litert", "tflite-runtime", "onnxruntime"}
    if profile.os.userland_bits == 32:
        assert profile.engines["litert"].reason
        assert profile.engines["onnxruntime"].reason
    for engine in profile.engines.values():
        if engine.wheel and "manylinux_2_" in engine.wheel:
            needed = engine.wheel.removeprefix("manylinux_").split("_")[:2]
            assert version_key(profile.os.glibc) >= tuple(int(part) for part in needed)
            assert engine.wheel.endswith(profile.os.machine)
    usable = [e for e in profile.engines.values() if profile.os.running_python in e.pythons]
    assert usable or profile.name == "raspberry-pi-zero-w"


def test_a_32_bit_system_is_the_same_board_with_other_engines():
    wide, narrow = load_profile("raspberry-pi-4b"), load_profile("raspberry-pi-4b-32bit")
    assert (wide.cpu, wide.memory, wide.peak) == (narrow.cpu, narrow.memory, narrow.peak)
    assert (wide.os.userland_bits, narrow.os.userland_bits, narrow.os.kernel_bits) == (64, 32, 64)
    assert narrow.engines["tflite-runtime"].numpy == ">=1.23.2,<2"
    assert load_profile("raspberry-pi-3b-plus-32bit").thermal == load_profile("raspberry-pi-3b-plus").thermal


def test_parts_and_data_are_no_boards():
    assert not [name for name in devices.names() if name.startswith("_")]
    assert refused("_defaults", "unknown-name")


def test_what_people_see():
    profile = load_profile("radxa-rock-5b")
    row = profile.summary()
    assert row["cpu"] == "4x Cortex-A76 + 4x Cortex-A55"
    assert profile.describe_cpu() == "4x Cortex-A76 2.35 GHz + 4x Cortex-A55 1.83 GHz"
    assert (row["tflite"], row["onnx"], row["bits"]) == ("litert 2.3.0", "onnxruntime 1.32.0", 64)
    assert load_profile("raspberry-pi-zero-w").summary()["tflite"] == "none"
    shown = dict(profile.lines())
    assert shown["memory.nominal_mib"].splitlines()[0] == "4096"
    assert "geerlingguy" in shown["memory.seen_mib"]
    assert "Cortex-A76" in shown["cpu.clusters"]
    assert load_profile("raspberry-pi-zero-w").to_dict()["engines"]["litert"]["reason"]


def test_reading_all_profiles_needs_no_numpy():
    code = "import sys; from edgekit.device_profiles import all_profiles; all_profiles(); print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


# -- a user's own file


def test_a_file_stands_alone(tmp_path):
    path = write(tmp_path, "mine.toml", MINIMAL)
    profile = load_profile(path)
    assert (profile.title, profile.cpu.cores, profile.storage.usable_mib) == ("A board", 2, None)
    assert profile.source("memory.usable_mib") == f"{STATED}{path}"
    assert profile.source("storage.usable_mib") == ""


def test_a_file_inherits_from_a_board_and_keeps_its_sources(tmp_path):
    text = 'inherits = "raspberry-pi-4b"\n[memory]\nusable_mib = 100\n[sources]\n"memory.usable_mib" = "free -m"\n'
    mine, board = load_profile(Path(write(tmp_path, "mine.toml", text))), load_profile("raspberry-pi-4b")
    assert (mine.memory.usable_mib, mine.memory.idle_mib) == (100, board.memory.idle_mib)
    assert mine.source("memory.usable_mib") == "free -m"
    assert mine.source("memory.idle_mib") == board.source("memory.idle_mib")
    assert mine.title == board.title


def test_an_overridden_figure_does_not_keep_the_parent_s_source(tmp_path):
    path = write(tmp_path, "mine.toml", 'inherits = "raspberry-pi-4b"\n[peak]\nfp32_one = 12.0\n')
    mine = load_profile(path)
    assert mine.source("peak.fp32_one") == f"{STATED}{path}"
    assert "cpufp" in mine.source("peak.fp32_all")


def test_later_parents_win_and_lists_and_engines_are_replaced(tmp_path):
    write(tmp_path, "a.toml", MINIMAL)
    write(tmp_path, "b.toml", '[cpu]\nisa = ["fp16"]\n[engines.litert]\ndistribution = "d"\nreason = "none"\n')
    mine = load_profile(write(tmp_path, "c.toml", 'inherits = ["a.toml", "b.toml"]\ntitle = "C"\n'))
    assert (mine.cpu.isa, mine.cpu.soc, mine.title) == (("fp16",), "X1", "C")
    assert mine.engines["litert"].reason == "none"
    assert mine.engines["litert"].version is None


def test_the_longest_source_path_counts(tmp_path):
    text = MINIMAL + '[sources]\nmemory = "table"\n"memory.usable_mib" = "figure"\n'
    mine = load_profile(write(tmp_path, "mine.toml", text))
    assert (mine.source("memory.usable_mib"), mine.source("memory.nominal_mib")) == ("figure", "table")


def test_cycles_are_named(tmp_path):
    write(tmp_path, "a.toml", 'inherits = "b.toml"')
    write(tmp_path, "b.toml", f'inherits = "../{tmp_path.name}/a.toml"')
    assert "a.toml -> " in refused(tmp_path / "a.toml", "profile-cycle")
    assert "self.toml" in refused(write(tmp_path, "self.toml", 'inherits = "self.toml"'), "profile-cycle")


def test_a_loop_through_links_ends(tmp_path):
    write(tmp_path, "a.toml", 'inherits = "again/a.toml"')
    (tmp_path / "again").symlink_to(tmp_path)
    refused(tmp_path / "a.toml", "profile-cycle")


def test_unknown_names_come_with_the_nearest(tmp_path):
    assert "did you mean raspberry-pi-4b" in refused("raspbery-pi-4b", "unknown-name")
    message = refused(write(tmp_path, "mine.toml", 'inherits = "raspberry-pi-6"'), "profile-parent")
    assert "mine.toml inherits from 'raspberry-pi-6'" in message
    assert "raspberry-pi-5" in message
    assert "did you mean" not in refused("qqqq", "unknown-name")


def test_missing_and_unreadable_files(tmp_path):
    with pytest.raises(MissingFileError) as caught:
        load_profile(tmp_path / "none.toml")
    assert caught.value.code == "file-missing"
    with pytest.raises(MissingFileError):
        load_profile(write(tmp_path, "mine.toml", 'inherits = "absent.toml"'))
    (tmp_path / "latin.toml").write_bytes(b'title = "\xe9"')
    assert "cannot be read" in refused(tmp_path / "latin.toml")
    (tmp_path / "folder.toml").mkdir()
    assert "cannot be read" in refused(tmp_path / "folder.toml")


@pytest.mark.parametrize(
    ("old", "new", "names"),
    [
        ("usable_mib = 512", "usable_mib = -1", "memory: usable_mib is -1"),
        ("usable_mib = 512", "usable_mib = 2048", "memory: usable_mib (2048) exceeds nominal_mib (1024)"),
        ("usable_mib = 512", 'usable_mib = "512"', "memory.usable_mib: expected int, got str"),
        ("usable_mib = 512", "usable_mb = 512", "memory: unknown field usable_mb"),
        ("usable_mib = 512", "", "memory.usable_mib: missing"),
        ("count = 2", "count = 0", "cpu.clusters[0]: count is 0"),
        ('isa = ["neon"]', 'isa = ["neno"]', "cpu: isa: 'neno' is unknown"),
        ('isa = ["neon"]', 'isa = ["neon", "neon"]', "cpu: isa names a feature twice"),
        ("userland_bits = 64", "userland_bits = 48", "os.userland_bits: 48 is none of 32, 64"),
        ("userland_bits = 64", "userland_bits = 32", "os: machine aarch64 is not 32-bit"),
        ("kernel_bits = 64", "kernel_bits = 32", "os: userland_bits exceeds kernel_bits"),
        ('machine = "aarch64"', 'machine = "mips"', "os.machine: 'mips' is none of"),
        ('python = "3.11"', 'python = "three"', "os: python is 'three'"),
        ('python = "3.11"', 'python = "3.11"\nglibc = "new"', "os: glibc is 'new'"),
        ('version = "2.3.0"', 'version = "newest"', "engines.litert: version is 'newest'"),
        ('version = "2.3.0"', 'reason = "none"', "engines.litert: pythons must list"),
        ('pythons = ["3.11"]', 'pythons = ["cp311"]', "engines.litert: pythons: 'cp311'"),
        ("[engines.litert]", "[engines.tensorrt]", "engines: 'tensorrt' is unknown"),
        ('title = "A board"', "", "title: missing"),
        ('title = "A board"', 'title = "A board"\nname = "x"', "name: a profile is called what its file is called"),
        ('title = "A board"', 'title = "A board"\ninherits = 3', "inherits: expected a name or a list of names"),
        ('title = "A board"', 'title = "A board"\nsources = 3', "sources: expected a table"),
        ('title = "A board"', 'title = "A board"\n[sources]\ncpu = 3', "sources.cpu: expected a text"),
        ('title = "A board"', 'title = "A board"\n[sources]\ngpu = "x"', "sources.gpu: the file sets no such figure"),
        ('title = "A board"', 'title = "A board"\nthermal = { throttle_c = 90, limit_c = 80 }', "throttle_c (90.0)"),
        ('title = "A board"', 'title = "A board"\npeak = { fp32_one = nan }', "peak: fp32_one is nan"),
        ('title = "A board"', 'title = "A board"\nstorage = { capacity_gb = 1, usable_mib = 999 }', "capacity_gb"),
        ('title = "A board"', "title = ", "it is not TOML"),
        ('title = "A board"', f"title = {'9' * 5000}", "it is not TOML"),
    ],
)  # fmt: skip
def test_nonsense_is_refused_by_file_and_field(tmp_path, old: str, new: str, names: str):
    assert old in MINIMAL
    message = refused(write(tmp_path, "mine.toml", MINIMAL.replace(old, new, 1)))
    assert names in message
    assert "mine.toml" in message


def test_a_table_in_one_file_and_a_value_in_another(tmp_path):
    text = 'inherits = "raspberry-pi-4b"\npeak = 3\n'
    assert "peak: is a table in one file of the family" in refused(write(tmp_path, "mine.toml", text))


def test_a_stranger_s_profile_is_text_or_a_function():
    assert parse("mine", lambda: MINIMAL).table == parse("mine", MINIMAL).table
    with pytest.raises(UsageError, match="expected TOML text, got int"):
        parse("mine", 3)


# -- mutated tables: a typed error or a profile, nothing else

values = st.recursive(
    st.one_of(
        st.integers(-(10**400), 10**400),
        st.integers(-5, 5000),
        st.floats(),
        st.booleans(),
        st.text(max_size=8),
        st.sampled_from(["3.11", "raspberry-pi-5", "_defaults", "neon", "aarch64", "2.3.0"]),
        st.just(dt.date(2026, 1, 1)),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=5,
)
keys = st.sampled_from(["title", "inherits", "sources", "notes", "name", "cpu", "memory", "os", "engines", "peak", "x"])


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(NAMES), st.lists(st.tuples(st.integers(0, 10**6), keys, values), min_size=1, max_size=4))
def test_mutated_profiles_raise_usage_errors_only(name: str, changes: list[tuple[int, str, Any]]):
    base = encode(load_profile(name))
    del base["name"]
    table = copy.deepcopy(base)
    for where, key, value in changes:
        at, spots = table, []
        stack = [table]
        while stack:
            at = stack.pop()
            spots += [(at, k) for k in at]
            stack += [item for item in at.values() if isinstance(item, dict)]
        if not spots or where % 5 == 0:
            table[key] = value
        else:
            owner, spot = spots[where % len(spots)]
            if where % 3:
                owner[spot] = value
            else:
                del owner[spot]
    try:
        profile = resolve(Definition("mutated", table), _parent)
    except UsageError as error:
        assert error.code in ("profile-invalid", "profile-cycle", "profile-parent")
        assert "mutated" in error.message
    except MissingFileError:
        pass  # a random parent that looks like a path
    else:
        profile.summary()
        profile.lines()
        assert markdown([profile])


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=80))
def test_any_text_parses_or_is_refused(text: str):
    try:
        parse("random", text)
    except UsageError as error:
        assert error.code == "profile-invalid"


# -- JSON Schema


def fits(value: Any, schema: dict[str, Any]) -> bool:
    """The part of JSON Schema that ours is written in."""
    known = {"$schema", "title", "description", "type", "properties", "additionalProperties", "items", "enum", "oneOf",
             "exclusiveMinimum", "minLength"}  # fmt: skip
    assert set(schema) <= known, set(schema) - known
    if "oneOf" in schema:
        return sum(fits(value, option) for option in schema["oneOf"]) == 1
    if "enum" in schema:
        return value in schema["enum"]
    kinds = {"string": str, "boolean": bool, "integer": int, "number": (int, float), "array": list, "object": dict}
    if not isinstance(value, kinds[schema["type"]]) or (isinstance(value, bool) and schema["type"] != "boolean"):
        return False
    if "exclusiveMinimum" in schema and not value > schema["exclusiveMinimum"]:
        return False
    if schema["type"] == "array":
        return all(fits(item, schema["items"]) for item in value)
    if schema["type"] == "object":
        more = schema["additionalProperties"]
        return all(
            fits(item, schema["properties"][name])
            if name in schema.get("properties", {})
            else more and fits(item, more)
            for name, item in value.items()
        )
    return True


@pytest.mark.parametrize("name", [*NAMES, "_defaults", "_rk3588", "_raspberry-pi", "_engines-aarch64"])
def test_every_shipped_file_fits_the_schema(name: str):
    import tomllib
    from importlib import resources

    text = resources.files("edgekit.device_profiles").joinpath(f"{name}.toml").read_text(encoding="utf-8")
    assert fits(tomllib.loads(text), json_schema.schema())


@pytest.mark.parametrize(
    "table",
    [{"cpu": {"cores": 4}}, {"memory": {"usable_mib": "512"}}, {"memory": {"usable_mib": -1}}, {"colour": "red"},
     {"cpu": {"isa": ["mmx"]}}, {"os": {"machine": "riscv64"}}, {"engines": {"ncnn": {}}}, {"inherits": 5}],
)  # fmt: skip
def test_the_schema_refuses_what_the_reader_refuses(table: dict[str, Any]):
    assert not fits(table, json_schema.schema())


def test_the_schema_explains_every_field_that_is_explained():
    tables = json_schema.schema()["properties"]
    assert tables["memory"]["properties"]["usable_mib"]["description"].startswith("What one model")
    assert tables["peak"]["properties"]["int8_all"]["description"] == "Of all cores of the fastest cluster."
    assert set(tables) == {"title", "notes", "inherits", "sources"} | {
        field.name for field in dataclasses.fields(Profile) if field.name not in ("name", "title", "notes", "sources")
    }


def test_the_schema_as_a_command(capsys):
    import json

    from edgekit import cli

    assert cli.run(["devices", "schema"]) == 0
    assert json.loads(capsys.readouterr().out) == json_schema.schema()
