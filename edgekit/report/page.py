"""The page around the sections: style, escaping, figures, tables."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Sequence
from typing import Any

from edgekit import __version__

_STYLE = """
:root { --ink: #1a1c20; --soft: #646a73; --line: #d9dce1; --page: #ffffff; --card: #f5f6f8;
  --one: #2563a8; --two: #c2571a; --good: #1d7a46; --bad: #b3261e; color-scheme: light dark; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaed; --soft: #9aa1ab; --line: #3a3f47; --page: #15171b;
  --card: #1f2228; --one: #6aa9f0; --two: #f0975f; --good: #5cc98b; --bad: #f2827b; } }
@media print { :root { --ink: #000; --soft: #444; --line: #bbb; --page: #fff; --card: #fff;
    --one: #2563a8; --two: #c2571a; --good: #1d7a46; --bad: #b3261e; color-scheme: light; }
  figure, .card, tr { break-inside: avoid; } h2 { break-after: avoid; } details { display: none; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 1.2rem 1rem 3rem; background: var(--page); color: var(--ink);
  overflow-wrap: anywhere; font: 16px/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.45rem; line-height: 1.25; margin: .2rem 0 .3rem; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; border-bottom: 1px solid var(--line); padding-bottom: .25rem; }
p { margin: .4rem 0; }
footer, th { color: var(--soft); }
.verdict { font-weight: 600; } .good { color: var(--good); } .bad { color: var(--bad); }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .6rem; margin: 1rem 0; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: .55rem .75rem; }
.card b { display: block; font-size: 1.2rem; font-variant-numeric: tabular-nums; }
.card span { color: var(--soft); font-size: .85rem; }
figure { margin: .8rem 0 1.2rem; }
figcaption { font-size: .95rem; margin-bottom: .3rem; overflow-wrap: anywhere; }
svg { width: 100%; height: auto; display: block; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; min-width: 60%; }
th, td { text-align: left; padding: .25rem .8rem .25rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: 500; } th, td { overflow-wrap: break-word; }
@media (max-width: 30rem) { table { font-size: .78rem; } th, td { padding-right: .45rem; } }
th.n { text-align: right; } td.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
ul { padding-left: 1.2rem; margin: .3rem 0; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: .78rem; }
details { margin-top: 2rem; }
footer { margin-top: 2rem; font-size: .85rem; }
"""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"

_LARGE = 100_000
"""Characters of the document from which on it stands there without indentation."""


def page(title: str, kind: str, sections: Iterable[str], document: dict[str, Any]) -> str:
    """The whole text; the document itself stands at its end, folded."""
    raw = json.dumps(document, indent=1, ensure_ascii=False)
    if len(raw) > _LARGE:
        raw = json.dumps(document, separators=(",", ":"), ensure_ascii=False)
    raw = html.escape(raw, quote=False)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{text(title)}</title>\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(sections)
        + f'\n<details><summary>All of it, as JSON</summary><pre id="document">{raw}</pre></details>\n'
        f"<footer>edgekit {text(__version__)}, {text(kind)}</footer>\n</body>\n</html>\n"
    )


def text(value: object) -> str:
    """Escaped: names come from model files."""
    return html.escape(str(value), quote=True)


def figure(document: dict[str, Any], field: str, digits: int = 4, unit: str = "") -> str:
    """A value of the document, rounded for reading, with its field and its full value."""
    value: Any = document
    for part in field.split("."):
        value = None if value is None else value.get(part)
    shown = number(value, digits) + (f" {unit}" if unit and value is not None else "")
    full = text(json.dumps(value))
    return f'<data data-field="{text(field)}" value="{full}" title="{full}">{text(shown)}</data>'


def number(value: object, digits: int = 4) -> str:
    """As people read it; a dash for nothing."""
    if value is None:
        return "-"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    return f"{value:,.0f}" if isinstance(value, int) or abs(value) >= 10**digits else f"{value:.{digits}g}"


def head(title: str, verdict: str, words: str, *, good: bool) -> str:
    """Title and verdict."""
    mark = "good" if good else "bad"
    return f'<h1>{text(title)}</h1>\n<p><span class="verdict {mark}">{text(verdict)}</span> {words}</p>'


def cards(pairs: Sequence[tuple[str, str]]) -> str:
    """Key figures: (what, markup)."""
    inside = (f'<div class="card"><b>{value}</b><span>{text(name)}</span></div>' for name, value in pairs)
    return f'<div class="cards">{"".join(inside)}</div>'


def section(title: str, *parts: str) -> str:
    """A part of the page."""
    return f"<section><h2>{text(title)}</h2>\n" + "\n".join(parts) + "</section>"


def plot(caption: str, drawing: str) -> str:
    """A drawing under the sentence that says what it shows."""
    return f"<figure><figcaption>{text(caption)}</figcaption>{drawing}</figure>"


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Cells are escaped, but for markup of `figure`; numbers are set to the right."""
    lines = [[_cell(cell) for cell in row] for row in rows]
    right = ['<td class="n"' in cell for cell in lines[0]] if lines else [False] * len(columns)
    header = "".join(
        f"<th{' class=n' if to else ''}>{text(name)}</th>" for name, to in zip(columns, right, strict=True)
    )
    body = "".join(f"<tr>{''.join(cells)}</tr>" for cells in lines)
    return f'<div class="wide"><table><tr>{header}</tr>{body}</table></div>'


def notes(lines: Iterable[str]) -> str:
    """A list, or nothing."""
    items = "".join(f"<li>{text(line)}</li>" for line in lines)
    return f"<ul>{items}</ul>" if items else ""


def _cell(cell: object) -> str:
    if isinstance(cell, (int, float)) and not isinstance(cell, bool):
        return f'<td class="n" title="{text(json.dumps(cell))}">{text(number(cell))}</td>'
    if isinstance(cell, str) and cell.startswith("<data "):
        return f'<td class="n">{cell}</td>'
    return f"<td>{text('-' if cell is None else cell)}</td>"
