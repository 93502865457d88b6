"""Runs of pytest inside tests."""

from __future__ import annotations

pytest_plugins = ["pytester"]
