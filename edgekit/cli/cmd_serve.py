"""`edgekit serve`: answer other processes and machines through the Open Inference Protocol."""

from __future__ import annotations

from pathlib import Path

import click

from edgekit.cli import output
from edgekit.cli.options import engine_option, store_option, threads_option


@click.command(
    epilog="\b\nExamples:\n  edgekit serve models/ --port 8080\n  edgekit serve people-counter        "
    "a deployed model, whichever version is active\n"
    "  edgekit serve models/ --monitor-folder /var/lib/app/monitor     alarms stand in /metrics\n"
    "  edgekit serve models/ --capture-folder /var/lib/app/captures     then edgekit collect ... --captures DIR\n"
    "  edgekit serve model.tflite --socket /run/edgekit.sock --no-host\n"
    "  edgekit serve models/ --host 0.0.0.0 --api-key-file keys.txt \\\n"
    "      --certificate board.pem --certificate-key board.key\n"
    "  edgekit serve --config serve.toml\n\n  curl localhost:8080/v2/models"
)
@click.argument("models", nargs=-1)
@click.option("--host", help="Address to listen at; default 127.0.0.1: this machine alone.")
@click.option("--port", type=click.IntRange(0, 65535), help="Default 8080; 0 for any free one.")
@click.option("--no-host", is_flag=True, help="Listen at the unix socket alone.")
@click.option("--socket", metavar="PATH", help="Listen at a unix socket (as well).")
@click.option("--api-key-file", metavar="FILE", help="Keys, one a line; clients show one.")
@click.option("--certificate", metavar="FILE", help="PEM certificate of this server: TLS.")
@click.option("--certificate-key", metavar="FILE", help="Its private key.")
@click.option("--client-ca", metavar="FILE", help="PEM; clients must show a certificate that it signed.")
@click.option("--config", metavar="FILE.toml", help="Everything that can be set: see docs/serve.md.")
@click.option("--workers", type=click.IntRange(1, 64), help="Processes of each model; default 1.")
@threads_option
@engine_option
@click.option("--queue", type=click.IntRange(1), help="Requests that may wait for each model; default 64.")
@click.option("--batch", type=click.IntRange(1), help="Requests that one call may answer; default 16.")
@click.option("--deadline-ms", type=click.FloatRange(1), help="For requests that name none; default 10000.")
@click.option("--monitor", is_flag=True, help="Watch for drift: /metrics tells of samples and alarms.")
@click.option(
    "--monitor-folder", metavar="DIR", help="Watch for drift, and go on from what is kept here after a restart."
)
@click.option(
    "--monitor-cycle",
    type=click.IntRange(1),
    metavar="SAMPLES",
    help="Samples of a worker in which what comes goes through all of its states (a day): its nights are no drift.",
)
@click.option(
    "--capture-folder", metavar="DIR", help="Watch for drift, and keep samples that matter here, for edgekit collect."
)
@store_option
@output.json_option
def command(
    models: tuple[str, ...],
    *,
    host: str | None,
    port: int | None,
    no_host: bool,
    socket: str | None,
    api_key_file: str | None,
    certificate: str | None,
    certificate_key: str | None,
    client_ca: str | None,
    config: str | None,
    workers: int | None,
    threads: int | None,
    engine: str | None,
    queue: int | None,
    batch: int | None,
    deadline_ms: float | None,
    monitor: bool,
    monitor_folder: str | None,
    monitor_cycle: int | None,
    capture_folder: str | None,
    store: str | None,
    as_json: bool,
) -> None:
    """Serve MODELS (artifacts, folders of them, names of deployed models; all that are deployed where none is named).

    With --json one document is printed when all models are ready: where it listens, and what it serves.
    """
    from edgekit.serve import settings as settings_of
    from edgekit.serve import start

    base = settings_of.read(config) if config else settings_of.Settings()
    listening = {"host": host, "port": port, "socket": socket, "api_key_file": api_key_file,
                 "certificate": certificate, "certificate_key": certificate_key, "client_ca": client_ca}  # fmt: skip
    serving = {"workers": workers, "threads": threads, "engine": engine, "queue": queue, "batch": batch,
               "deadline_ms": deadline_ms, "monitor": monitor or None,
               "monitor_folder": monitor_folder, "monitor_cycle": monitor_cycle,
               "capture_folder": capture_folder}  # fmt: skip
    settings = settings_of.changed(base, listening, serving, no_host=no_host)

    def announce(about: start.About) -> None:
        if as_json:
            output.document(about)
            return
        output.warn(about["warnings"])
        for address in about["addresses"]:
            click.echo(f"listening at {address}", err=True)
        for model in about["models"]:
            click.echo(f"  {model['name']} version {model['version']}", err=True)

    start.start(models, settings, store=Path(store) if store else None, announce=announce)
