"""How results, errors and progress reach people and machines.

With `--json` stdout holds exactly one JSON document; everything else goes to stderr. Progress is a line that
rewrites itself on a terminal, and nothing where there is none.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

from edgekit.codec import finite

if TYPE_CHECKING:
    from edgekit.errors import EdgeKitError

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")


def document(data: Any) -> None:
    """Print the one JSON document. NaN and infinity, which JSON lacks, become null."""
    click.echo(json.dumps(finite(data), indent=2, ensure_ascii=False))


def error(problem: EdgeKitError, *, as_json: bool) -> None:
    """Tell what went wrong, why, and what to do."""
    if as_json:
        fields = problem.to_dict()
        document({"error": {key: fields[key] for key in ("code", "message", "cause", "next_step", "details")}})
        return
    click.secho(f"error: {problem.message}", fg="red", err=True)
    if problem.cause and problem.cause != problem.message:
        click.echo(f"  why:  {problem.cause}", err=True)
    if problem.next_step:
        click.echo(f"  next: {problem.next_step}", err=True)
    click.echo(f"  more: edgekit explain {problem.code}", err=True)


def warn(messages: Iterable[str]) -> None:
    """Warnings go to stderr, one line each."""
    for message in messages:
        click.secho(f"warning: {message}", fg="yellow", err=True)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table on stdout."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    view = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for number, column in enumerate(columns):
        view.add_column(column, overflow="fold", no_wrap=number == 0)  # names are there to be copied
    for row in rows:
        view.add_row(*("" if cell is None else str(cell) for cell in row))
    Console(width=None if sys.stdout.isatty() else 120).print(view)


def facts(title: str, pairs: Iterable[tuple[str, object]]) -> None:
    """Aligned `name value` lines under a title; values of None are left out."""
    shown = [(name, value) for name, value in pairs if value is not None]
    width = max((len(name) for name, _ in shown), default=0)
    click.secho(title, bold=True)
    for name, value in shown:
        first, *rest = str(value).splitlines() or [""]
        click.echo(f"  {name:<{width}}  {first}")
        for line in rest:
            click.echo(f"  {'':<{width}}  {line}")


class Progress:
    """One line on the terminal that says what is going on; silent elsewhere."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._started = time.monotonic()
        self._shown = 0.0

    def __call__(self, event: dict[str, Any]) -> None:
        """Show an event: {"stage": name} and optionally {"done", "total"}; or {"note": what stays to be read}."""
        if "note" in event:
            click.echo(("\r\033[K" if self._live else "") + event["note"], err=True)
            return
        now = time.monotonic()
        if not self._live or ("done" in event and now - self._shown < 0.1):
            return
        self._shown = now
        count = f" {event['done']}/{event['total']}" if event.get("total") else ""
        click.echo(f"\r\033[K{event.get('stage', '')}{count}  {now - self._started:.1f} s", nl=False, err=True)

    def __enter__(self) -> Progress:
        return self

    def clear(self) -> None:
        """Make room for a line on stdout."""
        if self._live:
            click.echo("\r\033[K", nl=False, err=True)

    def __exit__(self, *_: object) -> None:
        self.clear()


def size(count: float | None) -> str:
    """Bytes for people: 87.2 kB (1 kB = 1000 bytes)."""
    if count is None:
        return "unknown"
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError


def number(value: float | None, digits: int = 4) -> str:
    """A figure for people, whole where it is large; `-` where there is none."""
    if value is None:
        return "-"
    return f"{value:.0f}" if abs(value) >= 10**digits else f"{value:.{digits}g}"
