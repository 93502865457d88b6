"""`edgekit explain`: what an error code means."""

from __future__ import annotations

import click

from edgekit.cli import output
from edgekit.errors import UsageError, explanations


@click.command(
    epilog="\b\nExamples:\n  edgekit explain verify-accuracy\n  edgekit explain            all codes, a line each"
)
@click.argument("code", required=False)
@output.json_option
def command(code: str | None, *, as_json: bool) -> None:
    """Explain an error CODE: its cause, its fix, an example."""
    known = explanations()
    if code is None:
        if as_json:
            output.document({"codes": [entry._asdict() for entry in known.values()]})
        else:
            output.table("Error codes", ("code", "meaning"), ((e.code, e.title) for e in known.values()))
        return
    if code not in known:
        import difflib

        near = difflib.get_close_matches(code, known, n=3)
        raise UsageError(
            "unknown-code",
            f"there is no error code {code!r}",
            next_step=f"Did you mean {' or '.join(near)}?" if near else "`edgekit explain` lists all codes.",
        )
    entry = known[code]
    if as_json:
        output.document(entry._asdict())
        return
    output.facts(
        f"{entry.code}: {entry.title}",
        [("cause", entry.cause.strip()), ("fix", entry.fix.strip()), ("example", entry.example.strip())],
    )
