"""Fixtures that every test may use."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Trained models and labelled data beside the checkout."""
    if not (SHARED / "models").is_dir():
        pytest.skip("needs the trained models and data in ../shared, which are not part of the repository")
    return SHARED


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--run-stress", action="store_true", help="also the long runs: thousands of files, kills, calls")


@pytest.fixture(scope="session")
def effort(request: pytest.FixtureRequest) -> int:
    """How often a stress test repeats: 1 in every run, 100 with --run-stress."""
    return 100 if request.config.getoption("--run-stress") else 1
