"""`python -m edgekit.device_profiles` prints `docs/devices.md`."""

from __future__ import annotations

import sys

from edgekit.device_profiles import all_profiles
from edgekit.device_profiles.page import markdown

if __name__ == "__main__":
    sys.stdout.write(markdown(all_profiles()))
