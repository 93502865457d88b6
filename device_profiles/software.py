"""What runs on a board: its system, and the engines that can be installed there."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

MACHINES = {"armv6l": 32, "armv7l": 32, "aarch64": 64, "x86_64": 64}
"""Wheel platforms of a userland and their word size in bits (PEP 600 names)."""

ENGINES = {"litert": "tflite", "tflite-runtime": "tflite", "onnxruntime": "onnx"}
"""Engines that a profile may speak of, and the format that each runs."""

_VERSION = re.compile(r"\d{1,6}(\.\d{1,6}){0,3}(\.?(post|rc|dev)\d{1,6})?\Z")
_PYTHON = re.compile(r"3\.\d{1,3}\Z")


def version_key(text: str) -> tuple[int, ...]:
    """`"2.14.0"` as `(2, 14, 0)`, for comparing; a suffix such as `.post1` is not looked at."""
    return tuple(int(part) for part in re.match(r"[\d.]*", text).group().split(".") if part)  # type: ignore[union-attr]


@dataclass(frozen=True)
class Os:
    """The operating system image that the board usually runs.

    Attributes:
        name: The image.
        machine: What wheels call the userland (see `MACHINES`); with a 64-bit kernel below a 32-bit userland,
            `uname -m` says something else.
        kernel_bits, userland_bits: Word sizes.
        glibc: Version of the C library, which decides what wheels install.
        python: What the image ships.
        use_python: Which Python to install beside it, where the image's own is too old for EdgeKit or has no wheels.
    """

    name: str
    machine: Literal["armv6l", "armv7l", "aarch64", "x86_64"]
    kernel_bits: Literal[32, 64]
    userland_bits: Literal[32, 64]
    python: str
    glibc: str | None = None
    use_python: str | None = None

    def __post_init__(self) -> None:
        if MACHINES[self.machine] != self.userland_bits:
            raise ValueError(f"machine {self.machine} is not {self.userland_bits}-bit (userland_bits)")
        if self.userland_bits > self.kernel_bits:
            raise ValueError("userland_bits exceeds kernel_bits")
        for name in ("python", "use_python"):
            value = getattr(self, name)
            if value is not None and not _PYTHON.match(value):
                raise ValueError(f"{name} is {value!r}; write it like '3.11'")
        if self.glibc is not None and not _VERSION.match(self.glibc):
            raise ValueError(f"glibc is {self.glibc!r}; write it like '2.36'")

    @property
    def running_python(self) -> str:
        """The Python that models run on."""
        return self.use_python or self.python


@dataclass(frozen=True)
class Engine:
    """One inference engine there: either a version with wheels, or the reason why there is none.

    Attributes:
        distribution: Name on the package index.
        version: The newest one with a wheel for this userland and C library.
        pythons: Python versions with a wheel.
        numpy: Bound that the wheel needs, as a requirement: ">=1.23.2,<2".
        wheel: The wheel's platform tag.
        reason: Why there is none.
    """

    distribution: str
    version: str | None = None
    pythons: tuple[str, ...] = ()
    numpy: str | None = None
    wheel: str | None = None
    reason: str | None = None

    def __post_init__(self) -> None:
        if (self.version is None) == (self.reason is None):
            raise ValueError("either version (with pythons) or reason must be given, not both")
        if (self.version is None) != (not self.pythons):
            raise ValueError("pythons must list at least one Python with a wheel, and only with a version")
        if self.version is not None and not _VERSION.match(self.version):
            raise ValueError(f"version is {self.version!r}; write it like '2.14.0'")
        for python in self.pythons:
            if not _PYTHON.match(python):
                raise ValueError(f"pythons: {python!r}; write it like '3.11'")
