"""Whether the board was slowed down: what its firmware and kernel tell, and `None` for what nobody tells.

Raspberry Pi's firmware keeps eight flags, four of now and four of "since boot". Meaning of the bits:
https://www.raspberrypi.com/documentation/computers/os.html#get_throttled. They are read from sysfs where the kernel
has them (raspberrypi/linux pull request 2397; hexadecimal without 0x), else from `vcgencmd`, else the voltage alone
from hwmon (https://docs.kernel.org/hwmon/raspberrypi-hwmon.html). A board that tells nothing is not "not throttled".
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from edgekit.measure.kernel import read

BITS = ("under_voltage", "frequency_capped", "throttled", "soft_temperature_limit")
"""Bit 0 to 3: now; bit 16 to 19: the same since boot."""
_SAID = {
    "under_voltage": "its supply voltage was too low",
    "frequency_capped": "its firmware capped the Arm frequency",
    "throttled": "its firmware throttled it",
    "soft_temperature_limit": "it reached the soft temperature limit",
}
_VCGENCMD = ("usr/bin/vcgencmd", "opt/vc/bin/vcgencmd")


@dataclass(frozen=True)
class Throttle:
    """Flags of now and since boot; None is unknown.

    Attributes:
        source: "sysfs", "vcgencmd", "hwmon", or None when nobody tells.
        raw: The firmware's word, such as "0x50005".
    """

    source: str | None = None
    raw: str | None = None
    under_voltage: bool | None = None
    frequency_capped: bool | None = None
    throttled: bool | None = None
    soft_temperature_limit: bool | None = None
    under_voltage_since_boot: bool | None = None
    frequency_capped_since_boot: bool | None = None
    throttled_since_boot: bool | None = None
    soft_temperature_limit_since_boot: bool | None = None


def decode_flags(word: int, source: str) -> Throttle:
    """All eight bits of the firmware's word."""
    flags = {name: bool(word >> bit & 1) for bit, name in enumerate(BITS)}
    flags |= {f"{name}_since_boot": bool(word >> bit + 16 & 1) for bit, name in enumerate(BITS)}
    return Throttle(source, f"{word:#x}", **flags)


def read_throttle(root: Path = Path("/"), *, spawn: bool = True) -> Throttle:
    """The flags of the machine whose file system is `root`.

    Args:
        root: Where /sys and /usr are; tests plant their own.
        spawn: Whether `vcgencmd` may be run where the kernel does not tell: a process start, which disturbs.
    """
    for file in sorted(root.glob("sys/devices/platform/soc*/*firmware/get_throttled")):
        text = read(file)
        if text is not None and re.fullmatch(r"(0x)?[0-9a-fA-F]+", text):
            return decode_flags(int(text, 16), "sysfs")
    if spawn and (said := vcgencmd(root, "get_throttled")) and (found := re.search(r"0x([0-9a-fA-F]+)", said)):
        return decode_flags(int(found[1], 16), "vcgencmd")
    for folder in sorted(root.glob("sys/class/hwmon/hwmon*")):
        alarm = read(folder / "in0_lcrit_alarm")
        if read(folder / "name") == "rpi_volt" and alarm in ("0", "1"):
            return Throttle("hwmon", under_voltage=alarm == "1")
    return Throttle()


def reasons(seen: list[Throttle]) -> list[str]:
    """Why a measurement, during which these flags were seen in this order, is not the board's own speed."""
    found = []
    for name in BITS:
        now = any(getattr(flags, name) for flags in seen)
        # A flag of "since boot" that came up meanwhile tells of a moment between two looks.
        came = seen[0].source == seen[-1].source and (
            getattr(seen[0], f"{name}_since_boot") is False and getattr(seen[-1], f"{name}_since_boot") is True
        )
        if now or came:
            found.append(f"the board was slowed down: {_SAID[name]} during the measurement")
    return found


def vcgencmd(root: Path, *question: str) -> str | None:
    """What the firmware's tool answers; None where it is missing or may not ask."""
    for place in _VCGENCMD:
        if (root / place).is_file():
            try:
                done = subprocess.run(
                    [str(root / place), *question], capture_output=True, text=True, timeout=5, check=False
                )
            except (OSError, subprocess.TimeoutExpired):
                return None
            return done.stdout.strip() if done.returncode == 0 else None
    return None


def cooled(root: Path) -> dict[str, int]:
    """States of the kernel's CPU cooling devices and counts of x86's throttle events, by name; empty: none told."""
    found = {}
    for folder in sorted(root.glob("sys/class/thermal/cooling_device*")):
        kind, state = read(folder / "type") or "", read(folder / "cur_state")
        if ("cpufreq" in kind or kind == "Processor") and state is not None and state.isdigit():
            found[f"{folder.name} ({kind})"] = int(state)
    for file in sorted(root.glob("sys/devices/system/cpu/cpu*/thermal_throttle/core_throttle_count")):
        count = read(file)
        if count is not None and count.isdigit():
            found[f"{file.parent.parent.name} throttle events"] = int(count)
    return found
