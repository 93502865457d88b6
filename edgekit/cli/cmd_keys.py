"""`edgekit keys`: who vouches for a model, and whom a device trusts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgekit.cli import output
from edgekit.cli.options import FILE, PATH, device_argument, model_argument, store_option
from edgekit.errors import UnsafeSourceError, UsageError

if TYPE_CHECKING:
    from edgekit.store.signature import Kind


@click.group(name="keys")
def command() -> None:
    """Keys and signatures (Ed25519): made at the desk, checked on the device before anything is installed.

    `secret` makes another kind of key, with which a device encrypts what it captures.
    """


@command.command(epilog="\b\nExamples:\n  edgekit keys make release.key\n  edgekit keys make openssf.key --type p256")
@click.argument("path", type=FILE)
@click.option(
    "--type", "kind", type=click.Choice(["ed25519", "p256"]), default="ed25519", show_default=True,
    help="What devices ask for, or what OpenSSF signatures take.",
)  # fmt: skip
@output.json_option
def make(path: Path, *, kind: Kind, as_json: bool) -> None:
    """Make a key: the private one under PATH, the public one under PATH.pub."""
    from edgekit.store import signature

    made = signature.make(path, kind)
    if as_json:
        output.document({"key": made, "private": str(path), "public": str(signature.public_path(path))})
        return
    output.facts(f"key {made}", [("private", f"{path}: keep it secret"), ("public", signature.public_path(path))])


_openssf = click.option(
    "--openssf", is_flag=True, help="In the OpenSSF format, FILE.sigstore.json, of any file or folder."
)


@command.command(epilog="\b\nExample:\n  edgekit keys secret capture.key")
@click.argument("path", type=FILE)
@output.json_option
def secret(path: Path, *, as_json: bool) -> None:
    """Make a key for encrypted captures under PATH: the board and the desk need the same one."""
    from edgekit.monitor import sealing

    made = sealing.make(path)
    if as_json:
        output.document({"key": made, "secret": str(path)})
        return
    output.facts(f"key {made}", [("secret", f"{path}: keep it so, or put its text into {sealing.ENVIRONMENT}")])


@command.command(
    epilog="\b\nExamples:\n  edgekit keys sign model.tflite --key release.key --name people-counter --release 7\n"
    "  edgekit keys sign model.tflite --key openssf.key --openssf\n\n"
    "\b\nOpenSSF signatures are for people and registries (`model_signing verify key` reads them). Devices ask for\n"
    "the other kind, which also says which model a file may become and how new it is."
)
@model_argument
@click.option("--key", type=PATH, required=True, metavar="FILE", help="The private key.")
@click.option("--name", metavar="NAME", help="The model that it may become.")
@click.option("--release", type=click.IntRange(1), metavar="N", help="Rises from version to version.")
@click.option("--expires", type=float, metavar="DAYS", help="From now; by default it does not.")
@_openssf
@output.json_option
def sign(
    file: Path, *, key: Path, name: str | None, release: int | None, expires: float | None, openssf: bool, as_json: bool
) -> None:
    """Sign the artifact FILE; the signature goes beside it, as FILE.sig."""
    if openssf:
        _sign_openssf(file, key, {"--name": name, "--release": release, "--expires": expires}, as_json=as_json)
        return
    from edgekit import artifact, files
    from edgekit.codec import encode
    from edgekit.store import signature
    from edgekit.store.places import checked

    if name is None or release is None:
        raise UsageError("usage", "a signature for devices needs --name and --release; one for people, --openssf")
    until = None if expires is None else datetime.now(UTC) + timedelta(days=expires)
    signed = signature.sign(artifact.read(file).sha256, checked(name), release, key, until)
    path = file.with_name(file.name + signature.SUFFIX)
    files.replace(path, signed.to_json().encode())
    if as_json:
        output.document({"path": str(path), **encode(signed)})
        return
    output.facts(
        f"wrote {path}", [("for", name), ("release", release), ("key", signed.key), ("expires", signed.expires)]
    )


def _sign_openssf(file: Path, key: Path, others: dict[str, object], *, as_json: bool) -> None:
    from edgekit import files
    from edgekit.deploy import openssf

    given = [option for option, value in others.items() if value is not None]
    if given:
        raise UsageError("usage", f"OpenSSF signatures do not say what {', '.join(given)} would")
    path = file.with_name(file.name + openssf.SUFFIX)
    files.replace(path, openssf.sign(file, key, path).encode())
    if as_json:
        output.document({"path": str(path)})
        return
    click.echo(f"wrote {path}")


@command.command(
    epilog="\b\nExamples:\n  edgekit keys check model.tflite --key release.key.pub\n"
    "  edgekit keys check model.tflite --key openssf.key.pub --openssf"
)
@model_argument
@click.option("--key", type=PATH, required=True, metavar="FILE", help="The public key.")
@click.option("--signature", "path", type=PATH, metavar="FILE", help="Default: the one beside it.")
@_openssf
@output.json_option
def check(file: Path, *, key: Path, path: Path | None, openssf: bool, as_json: bool) -> None:
    """Check FILE.sig. Exit 3 when the key did not sign this very file."""
    from edgekit import artifact
    from edgekit.codec import encode
    from edgekit.deploy import openssf as other
    from edgekit.store import signature

    text = signature.text_of(path or file.with_name(file.name + (other.SUFFIX if openssf else signature.SUFFIX)))
    if openssf:
        checked = other.check(file, text, key)
        if as_json:
            output.document(encode(checked))
            return
        output.facts(f"{file} was signed by {checked.key[:16]}", [("as", checked.model), ("files", checked.files)])
        return
    signed = signature.parse(text)
    signature.check(signed, signature.read_public(key))
    found = artifact.read(file).sha256
    if found != signed.sha256:
        raise UnsafeSourceError("signature-other", f"the signature is for {signed.sha256[:12]}, {file} is {found[:12]}")
    if as_json:
        output.document(encode(signed))
        return
    output.facts(f"{file} was signed by {signed.key}", [("for", signed.name), ("release", signed.release)])


@command.command(
    epilog="\b\nExamples:\n  edgekit keys trust release.key.pub ssh://pi@kitchen --require\n"
    "  edgekit keys trust release.key.pub --store ./models"
)
@click.argument("key", type=PATH)
@device_argument
@click.option("--require/--no-require", default=None, help="Whether TARGET installs nothing unsigned from now on.")
@store_option
@output.json_option
def trust(key: Path, target: str, *, require: bool | None, store: str | None, as_json: bool) -> None:
    """Let TARGET trust the public key KEY."""
    from edgekit.codec import encode
    from edgekit.deploy import fleet
    from edgekit.store import signature

    policy = fleet.trust(target, signature.read_public(key), require, store)
    if as_json:
        output.document({"target": target, **encode(policy)})
        return
    asks = "installs nothing unsigned" if policy.require_signature else "installs unsigned files as well"
    click.echo(f"{target} trusts {', '.join(policy.keys)} and {asks}")


@command.command(name="list", epilog="\b\nExample:\n  edgekit keys list ssh://pi@kitchen")
@device_argument
@store_option
@output.json_option
def list_(target: str, *, store: str | None, as_json: bool) -> None:
    """List the keys that TARGET trusts."""
    from edgekit.codec import encode
    from edgekit.deploy import fleet

    policy = fleet.trust(target, None, None, store)
    if as_json:
        output.document({"target": target, **encode(policy)})
        return
    title = f"{target} {'demands a signature by one of' if policy.require_signature else 'trusts'}"
    output.table(title, ("key", "public"), sorted(policy.keys.items()))
