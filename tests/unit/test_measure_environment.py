"""What boards tell, from planted /proc and /sys trees."""

from __future__ import annotations

import pytest

from edgekit.measure import activity, throttle
from edgekit.measure.environment import Watch, environment, frequency, identity, temperature

PI3 = {
    "proc/cpuinfo": "processor\t: 0\nBogoMIPS\t: 38.40\nFeatures\t: fp asimd evtstrm crc32 cpuid\n"
    "CPU implementer\t: 0x41\nCPU architecture: 8\nCPU part\t: 0xd03\n\nModel\t\t: Raspberry Pi 3 Model B Rev 1.2\n",
    "proc/device-tree/model": "Raspberry Pi 3 Model B Rev 1.2\0",
    "proc/loadavg": "0.31 0.20 0.10 1/150 1234\n",
    "proc/self/status": "Name:\tpython\nCpus_allowed_list:\t0-3\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "ondemand\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1200000\n",
    "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq": "1200000\n",
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "sys/class/thermal/thermal_zone0/temp": "58003\n",
    "sys/devices/platform/soc/soc:firmware/get_throttled": "0\n",
}
PI5 = {
    "proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd evtstrm aes crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc "
    "dcpop asimddp\nCPU implementer\t: 0x41\nCPU part\t: 0xd0b\n",
    "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
    "proc/self/status": "Cpus_allowed_list:\t1-2,3\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "performance\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "2400000\n",
    "sys/class/thermal/thermal_zone0/type": "gpu-thermal\n",
    "sys/class/thermal/thermal_zone0/temp": "40000\n",
    "sys/class/thermal/thermal_zone1/type": "cpu-thermal\n",
    "sys/class/thermal/thermal_zone1/temp": "61250\n",
    "sys/class/hwmon/hwmon2/name": "rpi_volt\n",
    "sys/class/hwmon/hwmon2/in0_lcrit_alarm": "0\n",
}


@pytest.fixture
def plant(tmp_path):
    def planted(*trees):
        for tree in trees:
            for name, text in tree.items():
                file = tmp_path / name
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text)
        return tmp_path

    return planted


def test_a_pi_3_describes_itself(plant):
    seen = environment(plant(PI3))
    assert seen["board"] == "Raspberry Pi 3 Model B Rev 1.2"
    assert seen["cpu"] == "Cortex-A53"
    assert seen["features"] == ["asimd", "crc32"]
    assert (seen["cores"], seen["affinity"]) == (4, "0-3")
    assert (seen["governor"], seen["frequency_mhz"], seen["frequency_max_mhz"]) == ("ondemand", 1200.0, 1200.0)
    assert seen["temperature_c"] == 58.003
    assert seen["load"] == 0.31


def test_a_pi_5_has_dot_products_and_its_cpus_own_zone(plant):
    seen = environment(plant(PI5))
    assert seen["cpu"] == "Cortex-A76"
    assert seen["features"] == ["asimd", "asimdhp", "fphp", "asimddp", "atomics", "crc32"]
    assert (seen["cores"], seen["affinity"]) == (3, "1-2,3")
    assert seen["temperature_c"] == 61.25
    assert seen["load"] is None


def test_a_machine_that_tells_nothing_is_unknown_not_fine(plant):
    seen = environment(plant({}))
    for key in ("board", "features", "affinity", "cpu_quota", "governor", "frequency_mhz", "temperature_c", "load"):
        assert seen[key] is None, key
    flags = throttle.read_throttle(plant({}))
    assert flags == throttle.Throttle()
    assert flags.throttled is None
    assert throttle.reasons([flags, flags]) == []


def test_x86_tells_its_frequency_in_cpuinfo(plant):
    root = plant(
        {"proc/cpuinfo": "model name\t: Intel(R) N100\ncpu MHz\t\t: 2890.125\nflags\t\t: sse4_1 avx2 avx_vnni\n"}
    )
    assert frequency(root) == 2890.125
    assert temperature(root) is None
    assert environment(root)["cpu"] == "Intel(R) N100"
    assert environment(root)["features"] == ["sse4_1", "avx2", "avx_vnni"]


@pytest.mark.parametrize("bit", [0, 1, 2, 3, 16, 17, 18, 19])
def test_every_bit_of_the_firmwares_word(plant, bit):
    flags = throttle.read_throttle(
        plant(PI3, {"sys/devices/platform/soc/soc:firmware/get_throttled": f"{1 << bit:x}\n"})
    )
    name = throttle.BITS[bit % 16] + ("_since_boot" if bit >= 16 else "")
    told = {key: value for key, value in vars(flags).items() if isinstance(value, bool)}
    assert len(told) == 8
    assert [key for key, value in told.items() if value] == [name]
    assert (flags.source, flags.raw) == ("sysfs", f"{1 << bit:#x}")


def test_the_firmwares_tool_is_asked_where_the_kernel_is_silent(plant):
    root = plant({"usr/bin/vcgencmd": '#!/bin/sh\n[ "$1" = get_throttled ] && echo throttled=0x50005\n'})
    (root / "usr/bin/vcgencmd").chmod(0o755)
    flags = throttle.read_throttle(root)
    assert (flags.source, flags.raw) == ("vcgencmd", "0x50005")
    assert flags.under_voltage
    assert flags.throttled
    assert flags.soft_temperature_limit is False
    assert throttle.read_throttle(root, spawn=False).source is None


def test_a_tool_that_may_not_ask_tells_nothing(plant):
    root = plant({"usr/bin/vcgencmd": "#!/bin/sh\necho VCHI initialization failed\nexit 255\n"})
    (root / "usr/bin/vcgencmd").chmod(0o755)
    assert throttle.read_throttle(root) == throttle.Throttle()


def test_hwmon_knows_the_voltage_alone(plant):
    flags = throttle.read_throttle(plant(PI5, {"sys/class/hwmon/hwmon2/in0_lcrit_alarm": "1\n"}))
    assert flags.source == "hwmon"
    assert flags.under_voltage is True
    assert flags.throttled is None
    assert "supply voltage" in throttle.reasons([flags])[0]


def test_a_flag_since_boot_counts_only_when_it_came_up_meanwhile():
    old, new = throttle.decode_flags(0, "sysfs"), throttle.decode_flags(1 << 18, "sysfs")
    assert throttle.reasons([new, new]) == [], "that was yesterday"
    assert "throttled" in throttle.reasons([old, new])[0]
    assert throttle.reasons([old, throttle.decode_flags(1 << 2, "sysfs"), old]), "seen in the middle alone"


def test_a_run_during_which_the_board_throttled_is_not_trusted(plant):
    root = plant(PI3)
    watch = Watch(root)
    plant({
        "sys/devices/platform/soc/soc:firmware/get_throttled": "20002\n",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "600000\n",
        "sys/class/thermal/thermal_zone0/temp": "82000\n",
    })  # fmt: skip
    facts, reasons = watch.finish()
    assert any("capped the Arm frequency" in reason for reason in reasons)
    assert (facts["temperature_c"], facts["temperature_after_c"]) == (58.003, 82.0)
    assert (facts["frequency_mhz"], facts["frequency_after_mhz"]) == (1200.0, 600.0)
    assert facts["throttle"]["before"]["frequency_capped"] is False
    assert facts["throttle"]["after"]["frequency_capped"] is True


def test_a_clock_that_fell_is_a_reason(plant):
    from edgekit.measure import environment as module

    root = plant(PI5)
    seen = [{"frequency_mhz": mhz} for mhz in (600.0, 2400.0, 2400.0, 1500.0)]
    assert "fell from 2400 to 1500 MHz" in module._slowed(seen)[0]
    assert module._slowed(seen[:3]) == [], "a governor that raises the clock is as it should be"
    _, reasons = Watch(root).finish()
    assert reasons == []


def test_kernel_cooling_counts_as_throttling(plant):
    device = "sys/class/thermal/cooling_device0"
    root = plant({f"{device}/type": "cpufreq-cpu0\n", f"{device}/cur_state": "0\n",
                  "sys/class/thermal/cooling_device1/type": "pwm-fan\n",
                  "sys/class/thermal/cooling_device1/cur_state": "3\n"})  # fmt: skip
    watch = Watch(root)
    assert watch.finish()[1] == [], "a fan that turns slows nothing down"
    watch = Watch(root)
    plant({f"{device}/cur_state": "4\n"})
    assert "because of heat" in watch.finish()[1][0]


def counters(busy, steal, own, ran, waited, involuntary):
    return {
        "proc/stat": f"cpu  {busy} 0 0 5000 0 0 0 {steal} 0 0\ncpu0 1 0 0 0 0 0 0 0 0 0\n",
        "proc/self/stat": f"42 (py (3) x) R 1 1 1 0 -1 0 0 0 0 0 {own} 0 0 0 20 0 1\n",
        "proc/self/task/42/schedstat": f"{ran} {waited} 10\n",
        "proc/self/task/42/status": f"voluntary_ctxt_switches:\t5\nnonvoluntary_ctxt_switches:\t{involuntary}\n",
    }


def test_what_others_did_meanwhile(plant):
    first = activity.snapshot(plant(counters(1000, 0, 500, 10**9, 0, 3)))
    last = activity.snapshot(plant(counters(1500, 40, 700, 3 * 10**9, 10**9, 53)))
    seen = activity.between(first, last, 2.0)
    assert (seen.own_cpu_s, seen.others_cpu_s, seen.steal_s) == (2.0, 3.0, 0.4)
    assert seen.waiting == pytest.approx(1 / 3)
    assert (seen.voluntary_switches, seen.involuntary_switches) == (0, 50)
    reasons = " ".join(seen.reasons(cores=4))
    assert "waited for a core 33%" in reasons
    assert "hypervisor took 0.40 s" in reasons
    assert "other processes used 3.00 s" in reasons
    assert activity.between(first, first, 2.0).reasons(4) == []


def test_counters_that_nobody_tells_are_unknown(plant):
    seen = activity.between(activity.snapshot(plant({})), activity.snapshot(plant({})), 1.0)
    assert seen == activity.Activity(1.0)
    assert seen.reasons(1) == []


def test_quota_of_a_container_version_2(plant):
    root = plant({
        "proc/self/cgroup": "0::/machine/box\n",
        "sys/fs/cgroup/machine/box/cpu.max": "max 100000\n",
        "sys/fs/cgroup/machine/cpu.max": "150000 100000\n",
        "sys/fs/cgroup/machine/box/cpu.stat": "usage_usec 5\nnr_periods 9\nnr_throttled 7\n",
    })  # fmt: skip
    assert activity.cpu_quota(root) == 1.5
    before = activity.snapshot(root)
    assert before.quota_stops == 7
    plant({"sys/fs/cgroup/machine/box/cpu.stat": "nr_throttled 9\n"})
    assert "quota stopped it 2 times" in activity.between(before, activity.snapshot(root), 1.0).reasons(4)[0]


def test_quota_of_a_container_version_1(plant):
    root = plant({
        "proc/self/cgroup": "4:cpu,cpuacct:/docker/abc\n1:name=systemd:/\n",
        "sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_quota_us": "50000\n",
        "sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_period_us": "100000\n",
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
    })  # fmt: skip
    assert activity.cpu_quota(root) == 0.5


def test_a_watched_measurement_records_its_course(plant, monkeypatch):
    from edgekit.measure import environment as module

    now = iter([0.0, 0.4, 1.2, 1.3, 2.5])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(now))
    watch = Watch(plant(PI3))
    for _ in range(3):
        watch.look()
    facts, _ = watch.finish()
    assert [sample["at_s"] for sample in facts["timeline"]] == [0.0, 1.2, 2.5], "at most one look a second"
    assert facts["activity"]["seconds"] == 2.5


def test_machines_are_told_apart(plant):
    three = identity(environment(plant(PI3)))
    assert three == identity(environment(plant(PI3)))
    assert three != identity(environment(plant(PI5)))
