"""`edgekit doctor`: is this machine ready?"""

from __future__ import annotations

import click

from edgekit.cli import output


@click.command(epilog="\b\nExamples:\n  edgekit doctor\n  edgekit doctor --json")
@output.json_option
def command(*, as_json: bool) -> int:
    """Try each engine in a child process and explain what is missing or broken. Exit 7 when no engine runs."""
    from edgekit.codec import encode
    from edgekit.doctor import diagnose

    report = diagnose()
    if as_json:
        output.document(encode(report))
    else:
        title = f"{report.machine}, {report.bits}-bit Python {report.python}"
        rows = ((f.name, f.status, f.detail, f.fix) for f in (*report.engines, *report.modules))
        output.table(title, ("part", "", "detail", "what to do"), rows)
    return 0 if report.ready else 7
