"""`edgekit deploy`: a version of a model onto a device, or nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgekit.cli import output
from edgekit.cli.options import PATH, engine_option, name_option, store_option, threads_option
from edgekit.errors import UsageError, from_dict

if TYPE_CHECKING:
    from edgekit.deploy.fleet import Outcome
    from edgekit.store import Shadow


@click.command(
    epilog="\b\nExamples:\n  edgekit deploy model.tflite ssh://pi@kitchen --name people-counter\n"
    "  edgekit deploy model.tflite --name people-counter --store ./models --trial 5\n"
    "  edgekit deploy model.tflite ssh://pi@kitchen --name people-counter --trial 600 --shadow 0.1\n"
    "  edgekit deploy model.tflite --to boards.txt --name people-counter --at-once 8 --stop-after 2\n\n"
    "\b\nThe file is received, its digest and self-test are checked in a process of its own, then it becomes active,\n"
    "on trial: a crash, a hang, other answers, NaN, slowness, or a fault that an app tells bring the version before\n"
    "back (exit 5). Whatever is cut or killed, the device answers with the old version or the new one. In the app:\n"
    'edgekit.load("people-counter"), or edgekit.watch("people-counter") to follow switches.'
)
@click.argument("file", type=PATH)
@click.argument("target", required=False)
@name_option
@click.option("--to", "hosts", type=PATH, metavar="FILE", help="Targets, one a line.")
@click.option(
    "--trial", "seconds", type=float, default=60.0, show_default=True, metavar="SECONDS", help="How long it must hold."
)
@click.option("--max-ms", type=float, metavar="MS", help="Median latency that it must hold.")
@click.option(
    "--slower",
    type=float,
    default=3.0,
    show_default=True,
    metavar="TIMES",
    help="Slower than the version before, at most.",
)
@click.option(
    "--shadow",
    type=float,
    metavar="SHARE",
    help="Compare this share (0.1: one in ten) of a running app's answers with the version before.",
)
@click.option(
    "--shadow-tolerance",
    type=float,
    default=0.1,
    show_default=True,
    metavar="SHARE",
    help="Of an output's range: answers that differ by no more agree, and classes that the old one hardly preferred.",
)
@click.option(
    "--shadow-agree", type=float, default=0.98, show_default=True, metavar="SHARE", help="Of the compared answers."
)
@click.option("--device", metavar="NAME|FILE", help="Device profile that it must fit before anything is sent.")
@click.option(
    "--keep-mb",
    type=float,
    default=256.0,
    show_default=True,
    metavar="MB",
    help="All versions together; older ones go.",
)
@click.option(
    "--wait", "patience", type=float, default=0.0, metavar="SECONDS", help="For another deployment of this model."
)
@click.option(
    "--at-once", type=click.IntRange(1, 256), default=4, show_default=True, help="With --to: devices at a time."
)
@click.option(
    "--stop-after",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    metavar="N",
    help="With --to: failures that end it.",
)
@click.option("--no-canary", is_flag=True, help="With --to: do not serve the first one alone before the others.")
@click.option("--signature", type=PATH, metavar="FILE", help="Default: FILE.sig, if it is there.")
@click.option("--allow-downgrade", is_flag=True, help="An older release is meant; the journal says so.")
@store_option
@threads_option
@engine_option
@output.json_option
def command(
    file: Path, target: str | None, *, name: str, hosts: Path | None, seconds: float, max_ms: float | None,
    slower: float, shadow: float | None, shadow_tolerance: float, shadow_agree: float, device: str | None,
    keep_mb: float, patience: float, at_once: int, stop_after: int, no_canary: bool, signature: Path | None,
    allow_downgrade: bool, store: str | None, threads: int | None, engine: str | None, as_json: bool,
) -> int:  # fmt: skip
    """Deploy the artifact FILE to TARGET (local, ssh://..., emulator:...) under a name, and try it there."""
    from edgekit.codec import encode
    from edgekit.deploy import fleet
    from edgekit.deploy.trial import Bounds

    if target is not None and hosts is not None:
        raise UsageError("usage", "name one TARGET, or a file of them with --to")
    asked = fleet.Deployment(
        file, name, store, seconds, Bounds(max_ms, slower), keep_mb, device, patience, threads, engine, signature,
        allow_downgrade, _shadow(shadow, shadow_tolerance, shadow_agree),
    )  # fmt: skip
    if hosts is None:
        with output.Progress() as progress:
            done = fleet.deploy(asked, target or "local", progress)
        if as_json:
            output.document({"target": target or "local", **encode(done)})
            return 0
        said = "is active" if done.changed else "was active already"
        output.facts(
            f"{name}: version {done.number} {said} on {target or 'local'}",
            [("sha256", done.sha256), ("before", done.before), ("removed", len(done.pruned) or None)],
        )
        return 0
    with output.Progress() as progress:

        def tell(outcome: Outcome) -> None:
            progress.clear()
            _tell(outcome)

        outcomes = fleet.deploy_many(
            asked, fleet.hosts(hosts), at_once=at_once, stop_after=stop_after, canary=not no_canary,
            told=None if as_json else tell, progress=progress,
        )  # fmt: skip
    if as_json:
        output.document({"name": name, "targets": encode(outcomes)})
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    return from_dict(failed[0].error or {}).exit_code if failed else 0


def _shadow(share: float | None, tolerance: float, agree: float) -> Shadow | None:
    from edgekit.store import Shadow

    if share is None:
        return None
    try:
        return Shadow(share, tolerance, agree)
    except ValueError as error:
        raise UsageError("option-value", f"--shadow: {error}") from error


def _tell(outcome: Outcome) -> None:
    if outcome.installed is not None:
        click.echo(f"{outcome.target}: version {outcome.installed.number} is active")
    elif outcome.error is not None:
        click.secho(f"{outcome.target}: {outcome.error['message']}", fg="red")
    else:
        click.echo(f"{outcome.target}: left alone")
