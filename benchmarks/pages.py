"""Sections of generated pages: each benchmark writes its own and leaves the others alone."""

from __future__ import annotations

from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "docs" / "benchmarks.md"


def put(name: str, text: str, page: Path = PAGE) -> None:
    """Make `text` the section `name` of the page; a new section goes to the end."""
    first, last = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    section = f"{first}\n\n{text.strip()}\n\n{last}"
    whole = page.read_text(encoding="utf-8") if page.exists() else "# Beside other tools\n"
    if first in whole and last in whole:
        before, _, rest = whole.partition(first)
        whole = before + section + rest.partition(last)[2]
    else:
        whole = f"{whole.rstrip()}\n\n{section}\n"
    page.write_text(whole, encoding="utf-8")
