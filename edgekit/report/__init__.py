"""Results as a page: one self-contained HTML file, drawn from the very JSON document that scripts get.

No script, no address, no font is loaded: plots are inline SVG whose colors are variables of the page's style, so that
one drawing serves screens, dark ones too, and print. Every figure names its field of the document (`data-field`) and
keeps the full value, whatever it is rounded to for reading.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

Kind = Literal["bench", "check", "convert", "debug", "drift", "profile", "tune"]


def write(document: dict[str, Any], kind: Kind, path: Path) -> None:
    """Write a page.

    Args:
        document: What `--json` prints (of `bench`, with its series of times; of `convert`, with its sampled outputs).
        kind: Which command it is of.
        path: Where it goes.

    Raises:
        EngineMissingError: `report-missing`: matplotlib is not installed.
        UsageError: `output-unwritable`.
    """
    from edgekit import files

    files.replace(path, render(document, kind).encode())


def render(document: dict[str, Any], kind: Kind) -> str:
    """The page's text."""
    from edgekit.report import bench, check, convert, debug, drift, profile, tune
    from edgekit.report.page import page

    pages = {
        "bench": bench,
        "check": check,
        "convert": convert,
        "debug": debug,
        "drift": drift,
        "profile": profile,
        "tune": tune,
    }
    title, sections = pages[kind].sections(document)
    return page(title, kind, sections, document)
