"""`edgekit doctor`: is this machine, or a board, ready?"""

from __future__ import annotations

import click

from edgekit.cli import output
from edgekit.cli.options import target_option


@click.command(
    epilog="\b\nExamples:\n  edgekit doctor\n  edgekit doctor --json\n"
    "  edgekit doctor --target ssh://pi@raspberrypi.local"
)
@target_option
@output.json_option
def command(*, target: str, as_json: bool) -> int:
    """Try each engine in a process of its own and explain what is missing or broken. Exit 7 when no engine runs."""
    from edgekit.codec import encode
    from edgekit.doctor import diagnose

    with output.Progress() as progress:
        report = diagnose(target, progress)
    if as_json:
        output.document(encode(report))
    else:
        where = "" if report.target == "local" else f"{report.target}: "
        title = f"{where}{report.machine}, {report.bits}-bit Python {report.python}"
        rows = ((f.name, f.status, f.detail, f.fix) for f in (*report.engines, *report.modules))
        output.table(title, ("part", "", "detail", "what to do"), rows)
    return 0 if report.ready else 7
