"""A store with one committed version and an older one behind it."""

from __future__ import annotations

from pathlib import Path

import pytest
from store_case import NAME, OLD, bring

from edgekit.store import Shelf


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Folder of all models; the active version of NAME is OLD."""
    folder = tmp_path / "models"
    shelf = Shelf(NAME, folder)
    with shelf.changing():
        bring(shelf, b"first model " * 100)
        bring(shelf, OLD)
    return folder
