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
