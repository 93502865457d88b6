"""Probing a machine: planted /proc and /sys trees of boards, and profiles that read back."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit import cli
from edgekit.device_profiles import load_profile
from edgekit.device_profiles.reading import parse, resolve
from edgekit.device_profiles.writing import toml
from edgekit.errors import TargetError, UsageError
from edgekit.measure.machine import Caches, Cores, Machine, machine, userland
from edgekit.targets import boards
from edgekit.targets.probe import Probed, ProbeRequest, probe

ARM = "processor\t: {n}\nBogoMIPS\t: 108.00\nFeatures\t: {features}\nCPU implementer\t: 0x41\nCPU part\t: {part}\n"
A72 = "half thumb fastmult vfp edsp neon vfpv3 tls vfpv4 idiva idivt vfpd32 lpae evtstrm crc32"
A76 = "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"


@pytest.fixture
def plant(tmp_path):
    """Write files of a machine below a folder: path -> content."""

    def planted(**tree):
        for name, content in tree.items():
            path = tmp_path / name.replace("__", "/").replace("~", "-")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        return tmp_path

    return planted


def cores(*parts, features):
    return "\n".join(ARM.format(n=number, part=part, features=features) for number, part in enumerate(parts))


def clocks(*khz):
    return {f"sys__devices__system__cpu__cpu{n}__cpufreq__cpuinfo_max_freq": str(value) for n, value in enumerate(khz)}


def test_a_raspberry_pi_4(plant):
    root = plant(
        proc__cpuinfo=cores(*["0xd08"] * 4, features=A72) + "\nModel\t: Raspberry Pi 4 Model B Rev 1.4\n",
        proc__meminfo="MemTotal:        3884384 kB\nMemFree: 1 kB\nMemAvailable:    3500000 kB\n",
        **{"etc__os-release": 'PRETTY_NAME="Raspbian GNU/Linux 12 (bookworm)"\n'},
        **clocks(1800000, 1800000, 1800000, 1800000),
        **{f"sys__class__thermal__thermal_zone0__{k}": v for k, v in {
            "type": "cpu-thermal", "trip_point_0_type": "passive", "trip_point_0_temp": "80000",
            "trip_point_1_type": "critical", "trip_point_1_temp": "110000"}.items()},
    )  # fmt: skip
    found = machine(root)
    assert found.board == "Raspberry Pi 4 Model B Rev 1.4"
    assert found.clusters == (Cores("Cortex-A72", 4, 1800),)
    assert found.isa == ("neon",)
    assert (found.seen_mib, found.available_mib) == (3793, 3417)
    assert (found.throttle_c, found.limit_c) == (80, 110)
    assert found.os == "Raspbian GNU/Linux 12 (bookworm)"
    assert boards.recognize(Probed(replace(found, userland_bits=64))).name == "raspberry-pi-4b"
    assert boards.recognize(Probed(replace(found, userland_bits=32))).name == "raspberry-pi-4b-32bit"
    assert boards.recognize(Probed(replace(found, userland_bits=64, seen_mib=7800))).name == "raspberry-pi-4b-8gb"


def test_two_kinds_of_cores(plant):
    index = "sys__devices__system__cpu__cpu4__cache__index"
    root = plant(
        proc__cpuinfo=cores(*["0xd05"] * 4, *["0xd0b"] * 4, features=A76),
        proc__meminfo="MemTotal: 8000000 kB\n",
        **{"proc__device-tree__model": "Radxa ROCK 5B\0"},
        **{"proc__device-tree__compatible": "radxa,rock-5b\0rockchip,rk3588\0"},
        **clocks(*[1800000] * 4, *[2400000] * 4),
        **{f"{index}0__{k}": v for k, v in {"size": "64K", "level": "1", "type": "Data"}.items()},
        **{f"{index}2__{k}": v for k, v in {"size": "512K", "level": "2", "shared_cpu_list": "4"}.items()},
        **{f"{index}3__{k}": v for k, v in {"size": "3M", "level": "3", "type": "Unified"}.items()},
    )  # fmt: skip
    found = machine(root)
    assert found.clusters == (Cores("Cortex-A76", 4, 2400), Cores("Cortex-A55", 4, 1800))
    assert found.isa == ("neon", "fp16", "dotprod")
    assert found.caches == Caches(None, 64, 512, True, 3072)
    assert (found.board, found.soc) == ("Radxa ROCK 5B", "RK3588")
    assert found.available_mib is None


def test_an_old_kernel_tells_once_for_all(plant):
    root = plant(
        proc__cpuinfo="Processor\t: ARMv6-compatible\nprocessor\t: 0\n\nFeatures\t: half thumb vfp edsp tls\n"
        "CPU implementer\t: 0x41\nCPU part\t: 0xb76\nHardware\t: BCM2835\nModel\t: Raspberry Pi Zero W Rev 1.1\n"
    )
    found = machine(root)
    assert found.clusters == (Cores("ARM1176JZF-S", 1, None),)
    assert (found.isa, found.soc) == (("vfp",), "BCM2835")


def test_x86(plant):
    root = plant(
        proc__cpuinfo="processor : 0\nmodel name : Intel(R)  N100\ncpu MHz : 806\nflags : avx2 fma f16c avx_vnni\n",
        sys__class__dmi__id__sys_vendor="Beelink",
        sys__class__dmi__id__product_name="EQ12",
        **clocks(3400000),
    )
    found = machine(root)
    assert found.clusters == (Cores("Intel(R) N100", 1, 3400),)
    assert found.isa == ("avx2", "fma", "f16c", "avx_vnni")
    assert found.board == "Beelink EQ12"


def test_cores_differ_so_only_what_all_have_counts(plant):
    both = cores("0xd05", features=A76) + "\n" + cores("0xd0b", features=A76 + " i8mm").replace(": 0\n", ": 1\n", 1)
    assert "i8mm" not in machine(plant(proc__cpuinfo=both)).isa


@pytest.mark.parametrize("file", ["memory.max", "memory/memory.limit_in_bytes"])
def test_a_containers_memory(plant, file):
    limit = f"sys__fs__cgroup__{file.replace('/', '__')}"
    root = plant(proc__meminfo="MemTotal: 8000000 kB\nMemAvailable: 7000000 kB\n", **{limit: str(512 << 20)})
    assert (machine(root).seen_mib, machine(root).available_mib) == (512, 512)
    plant(**{limit: "max"})
    assert machine(root).seen_mib == 7812


@pytest.mark.parametrize(
    ("kernel", "bits", "name"),
    [
        ("aarch64", 64, "aarch64"), ("aarch64", 32, "armv7l"), ("armv7l", 32, "armv7l"), ("armv6l", 32, "armv6l"),
        ("x86_64", 64, "x86_64"), ("arm64", 64, "aarch64"),
    ],
)  # fmt: skip
def test_the_userland_is_not_the_kernel(kernel, bits, name):
    assert userland(kernel, bits) == name


def test_a_machine_that_hides_everything(tmp_path):
    found = machine(tmp_path, home=tmp_path / "nowhere")
    assert (found.clusters, found.isa, found.seen_mib, found.board, found.storage) == ((), (), None, None, None)
    with pytest.raises(TargetError, match="neither its cores nor its memory") as caught:
        boards.describe(Probed(found), {}, "ssh://pi@kitchen")
    assert caught.value.code == "probe-incomplete"


@given(st.text(max_size=400), st.text(max_size=60))
def test_garbage_never_fails(tmp_path_factory, info, number):
    root = tmp_path_factory.mktemp("machine")
    files = ["proc/cpuinfo", "proc/meminfo", "etc/os-release", "proc/device-tree/model", "proc/device-tree/compatible"]
    numbers = ["sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq", "sys/fs/cgroup/memory.max",
               "sys/devices/system/cpu/cpu0/regs/identification/midr_el1",
               "sys/devices/system/cpu/cpu0/cache/index0/size"]  # fmt: skip
    for name, content in [*((f, "processor: 0\n" + info) for f in files), *((n, number) for n in numbers)]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content.encode("utf-8", "surrogateescape"))
    assert isinstance(machine(root), Machine)


# -- Profiles --------------------------------------------------------------------------------------------------

PI = Machine(
    board="Raspberry Pi 4 Model B Rev 1.4", soc="BCM2711", clusters=(Cores("Cortex-A72", 4, 1800),), isa=("neon",),
    caches=Caches(48, 32, 1024, False), seen_mib=3789, available_mib=3482, storage="microSD", capacity_gb=31,
    free_mib=20000, os="Debian", machine="aarch64", kernel_bits=64, userland_bits=64, glibc="2.36", python="3.11",
    throttle_c=80.0, limit_c=110.0,
)  # fmt: skip
ENGINES = {"litert": ("ai-edge-litert", "2.3.0"), "onnxruntime": ("onnxruntime", "1.32.0")}


def read_back(text):
    return resolve(parse("probed", text), lambda *_: pytest.fail("it inherits from nothing"))


def test_a_profile_reads_back():
    profile = read_back(boards.describe(Probed(PI, 2330.0, 3120.0, 43.9), ENGINES, "ssh://pi@kitchen"))
    assert profile.cpu.clusters[0].clock_mhz == 1800
    assert profile.memory.nominal_mib == 4096
    assert profile.memory.usable_mib == 3482 * 3 // 4
    assert profile.engines["litert"].version == "2.3.0"
    assert profile.bandwidth.memcpy_mb_s == 2330
    assert profile.storage.read_mb_s == 43.9
    assert "ssh://pi@kitchen" in profile.source("cpu.soc")
    assert profile.source("memory.usable_mib").startswith("policy")
    assert not [path for path, said in profile.sources.items() if said.startswith("stated in")]


def test_what_is_unknown_is_left_out():
    bare = replace(PI, caches=Caches(), storage=None, throttle_c=None, limit_c=None, glibc=None,
                   clusters=(Cores("Cortex-A72", 4, None),))  # fmt: skip
    profile = read_back(boards.describe(Probed(bare), {}, "local"))
    assert profile.cpu.clusters[0].clock_mhz is None
    assert profile.describe_cpu() == "4x Cortex-A72"
    assert profile.bandwidth.memcpy_mb_s is None
    assert profile.engines["onnxruntime"].reason is not None


def test_a_32_bit_userland_is_told():
    small = replace(PI, userland_bits=32, machine="armv7l")
    profile = read_back(boards.describe(Probed(small), {"litert": ("tflite-runtime", "2.14.0")}, "local"))
    assert "32-bit userland on a 64-bit kernel" in profile.notes[0]
    assert profile.engines["tflite-runtime"].version == "2.14.0"


def test_differences_from_the_shipped_profile():
    known = load_profile("raspberry-pi-4b")
    assert boards.differences(Probed(replace(PI, python=known.os.python)), ENGINES, known) == ()
    other = replace(PI, userland_bits=32, seen_mib=1800, clusters=(Cores("Cortex-A72", 2, None),), isa=(), python="3.9")
    said = " | ".join(boards.differences(Probed(other), {"onnxruntime": ("onnxruntime", "1.21.0")}, known))
    for words in (
        "32-bit",
        "1800 MiB",
        "2 cores",
        "lacks neon",
        "Python 3.9",
        "onnxruntime is 1.21.0",
        "no engine for .tflite",
    ):
        assert words in said
    assert boards.differences(Probed(PI), {}, None) == ()


TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@given(TEXT, st.dictionaries(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), TEXT | st.integers() | st.booleans()))
def test_any_text_is_written_so_that_it_reads_back(title, table):
    import tomllib

    found = tomllib.loads(toml(title, {"some": table}, {"some": "said"}))
    assert found["title"] == title
    assert found.get("some", {}) == table
    assert found["sources"] == ({"some": "said"} if table else {})


# -- Live, and the commands ------------------------------------------------------------------------------------


def test_this_machine():
    steps = probe(ProbeRequest())
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found = end.value
            break
    assert found.memcpy_mb_s > 10
    assert found.memset_mb_s > 10
    assert sum(cluster.count for cluster in found.machine.clusters) >= 1
    assert found.machine.userland_bits in (32, 64)


def test_the_commands(tmp_path, capsys):
    path = tmp_path / "board.toml"
    assert cli.run(["devices", "probe", "--no-measure", "-o", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["profile"] == path.read_text()
    assert {engine["name"] for engine in found["engines"]} == {"litert", "onnxruntime"}
    assert cli.run(["devices", "validate", str(path)]) == 0
    assert "valid: " in capsys.readouterr().out
    path.write_text(path.read_text().replace("kernel_bits = 64", "kernel_bits = 65"))
    assert cli.run(["devices", "validate", str(path), "--json"]) == 3
    (row,) = json.loads(capsys.readouterr().out)["profiles"]
    assert (row["valid"], row["code"]) == (False, "profile-invalid")
    assert "kernel_bits" in row["message"]


def test_an_emulated_board_has_no_speed_of_its_own(monkeypatch):
    @contextlib.contextmanager
    def opened(target, progress):
        yield SimpleNamespace(timed=False, name=target)

    monkeypatch.setattr(boards, "open_target", opened)
    with pytest.raises(UsageError) as caught:
        boards.probe("emulator:raspberry-pi-4b")
    assert caught.value.code == "probe-emulated"
    assert "emulator:raspberry-pi-4b" in caught.value.message
