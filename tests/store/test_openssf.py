"""OpenSSF signatures: what model-signing wrote is checked, what we write holds, and nothing changed is taken."""

from __future__ import annotations

import base64
import json
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from edgekit import cli
from edgekit.deploy import openssf
from edgekit.errors import ArtifactError, EdgeKitError, MissingFileError, UnsafeSourceError, UsageError
from edgekit.store import signature

pytest.importorskip("cryptography")
SAMPLE = json.loads((Path(__file__).parent / "model_signing_sample.json").read_text())
BUILT = Path(__file__).parents[2] / "build" / "peers" / "model-signing" / "bin" / "model_signing"


@pytest.fixture
def net(tmp_path) -> Path:
    """The folder that model-signing signed."""
    for name, text in SAMPLE["files"].items():
        (tmp_path / "net" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "net" / name).write_text(text)
    (tmp_path / "key.pub").write_text(SAMPLE["public"])
    return tmp_path / "net"


@pytest.fixture(scope="module")
def key(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "openssf.key"
    signature.make(path, "p256")
    return path


def refused(path: Path, text: str, public: Path) -> str:
    with pytest.raises(EdgeKitError) as caught:
        openssf.check(path, text, public)
    return caught.value.code


def test_what_model_signing_wrote_holds(net, tmp_path):
    seen = openssf.check(net, json.dumps(SAMPLE["bundle"]), tmp_path / "key.pub")
    assert (seen.model, seen.files) == ("net", 2)
    (net / ".gitignore").write_text("left out by the signer")
    assert openssf.check(net, json.dumps(SAMPLE["bundle"]), tmp_path / "key.pub") == seen


def test_what_we_write_has_the_same_fields(net, key):
    ours = json.loads(openssf.sign(net, key, net.with_name("net.sigstore.json")))
    theirs = SAMPLE["bundle"]

    def shape(value):
        if isinstance(value, dict):
            return {name: shape(item) for name, item in value.items()}
        return [shape(item) for item in value] if isinstance(value, list) else type(value).__name__

    def statement(bundle):
        return json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))

    assert shape(ours) == shape(theirs)
    mine, other = statement(ours), statement(theirs)
    assert mine["subject"] == other["subject"]
    assert mine["predicate"]["resources"] == other["predicate"]["resources"]
    assert shape(mine) == shape(other)


@pytest.mark.parametrize("how", ["changed", "extra", "missing", "moved", "link"])
def test_other_files_than_signed_are_named(net, tmp_path, how):
    if how == "changed":
        (net / "a.bin").write_text("weights 9")
    elif how == "extra":
        (net / "c.bin").write_text("")
    elif how == "missing":
        (net / "a.bin").unlink()
    elif how == "moved":
        (net / "a.bin").rename(net / "sub" / "a.bin")
    else:
        (net / "a.bin").unlink()
        (net / "a.bin").symlink_to(net / "sub" / "b.bin")
    with pytest.raises(UnsafeSourceError) as caught:
        openssf.check(net, json.dumps(SAMPLE["bundle"]), tmp_path / "key.pub")
    assert caught.value.code == ("signature-links" if how == "link" else "signature-other")
    assert "a.bin" in caught.value.message or "c.bin" in caught.value.message


def test_no_changed_bit_is_taken(net, tmp_path):
    text, dice = json.dumps(SAMPLE["bundle"]), random.Random(5)
    for _ in range(300):
        data = bytearray(text.encode())
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        changed = data.decode("utf-8", "replace")
        try:
            openssf.check(net, changed, tmp_path / "key.pub")
        except EdgeKitError as error:
            assert error.code in ("signature-invalid", "signature-wrong", "signature-unsupported")
        else:  # what is neither signed nor read: names of fields that nobody needs, the id of a key
            assert json.loads(changed)["dsseEnvelope"]["payload"] == SAMPLE["bundle"]["dsseEnvelope"]["payload"]


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "null", "[" * 100_000, '{"mediaType": 1}', json.dumps({"mediaType": "x"})]
)
def test_what_is_no_bundle_is_named(net, tmp_path, text):
    assert refused(net, text, tmp_path / "key.pub") == "signature-invalid"


def test_other_kinds_are_named(net, tmp_path):
    def changed(**parts):
        return json.dumps({**SAMPLE["bundle"], **parts})

    public = tmp_path / "key.pub"
    assert refused(net, changed(mediaType="application/vnd.dev.sigstore.bundle+json;version=0.2"), public) == (
        "signature-unsupported"
    )
    assert refused(net, changed(verificationMaterial={"certificate": {}}), public) == "signature-unsupported"


@pytest.mark.parametrize(
    ("part", "value", "code"),
    [
        ("method", "shards", "signature-unsupported"),
        ("hash_type", "blake3", "signature-unsupported"),
        ("predicateType", "https://model_signing/Digests/v0.1", "signature-unsupported"),
        ("sha256", "00" * 32, "signature-invalid"),
        ("algorithm", "blake2b", "signature-invalid"),
        ("resources", None, "signature-invalid"),
    ],
)
def test_a_signed_statement_of_another_kind_is_named(net, key, part, value, code):
    """Signed by us, so that the signature holds."""
    private = openssf._private(key)
    bundle = json.loads(openssf.sign(net, key, net))
    text = base64.b64decode(bundle["dsseEnvelope"]["payload"]).decode()
    statement = json.loads(text, object_hook=lambda found: {**found, part: value} if part in found else found)
    payload = json.dumps(statement).encode()
    bundle["dsseEnvelope"]["payload"] = base64.b64encode(payload).decode()
    signed = private.sign(openssf._encoded(payload), openssf._algorithm(private))
    bundle["dsseEnvelope"]["signatures"][0]["sig"] = base64.b64encode(signed).decode()
    assert refused(net, json.dumps(bundle), signature.public_path(key)) == code


def test_other_keys_and_no_keys(net, key, tmp_path):
    text = json.dumps(SAMPLE["bundle"])
    assert refused(net, text, signature.public_path(key)) == "signature-wrong"
    nameless = json.loads(text)
    del nameless["verificationMaterial"]["publicKey"]["hint"]
    assert refused(net, json.dumps(nameless), signature.public_path(key)) == "signature-wrong"
    assert openssf.check(net, json.dumps(nameless), tmp_path / "key.pub").files == 2
    signature.make(tmp_path / "ed.key")
    with pytest.raises(UsageError, match="P-256"):
        openssf.sign(net, tmp_path / "ed.key", net)
    for wrong in ("", "nonsense"):
        (tmp_path / "no.key").write_text(wrong)
        with pytest.raises(UsageError):
            openssf.check(net, text, tmp_path / "no.key")
    with pytest.raises(MissingFileError):
        openssf.check(tmp_path / "nothing", text, tmp_path / "key.pub")
    with pytest.raises(ArtifactError):
        openssf.check(net, text.replace("in-toto", "in-tutu"), tmp_path / "key.pub")


def test_the_commands(net, tmp_path, capsys):
    secret, model = tmp_path / "k", tmp_path / "model.tflite"
    model.write_bytes(b"any file")

    def call(*words) -> tuple[int, dict]:
        code = cli.run(["keys", *map(str, words), "--json"])
        return code, json.loads(capsys.readouterr().out)

    assert call("make", secret, "--type", "p256")[0] == 0
    for path, count in ((model, 1), (net, 2)):
        assert call("sign", path, "--key", secret, "--openssf") == (0, {"path": f"{path}.sigstore.json"})
        assert call("check", path, "--key", f"{secret}.pub", "--openssf")[1]["files"] == count
    inside = net / "bundle.json"
    inside.write_text(openssf.sign(net, secret, inside))
    assert call("check", net, "--key", f"{secret}.pub", "--openssf", "--signature", inside)[0] == 0
    model.write_bytes(b"another")
    code, error = call("check", model, "--key", f"{secret}.pub", "--openssf")
    assert (code, error["error"]["code"]) == (3, "signature-other")
    assert call("sign", model, "--key", secret, "--openssf", "--name", "x")[0] == 2
    assert call("sign", model, "--key", secret)[0] == 2


def test_model_signing_itself_agrees(net, key, tmp_path):
    tool = shutil.which("model_signing") or (str(BUILT) if BUILT.exists() else None)
    if tool is None:
        pytest.skip("needs model-signing and pyopenssl, on the path or in build/peers/model-signing")
    public, ours, theirs = signature.public_path(key), tmp_path / "ours.json", tmp_path / "theirs.json"

    def verify(bundle: Path) -> int:
        command = [tool, "verify", "key", str(net), "--public_key", str(public), "--signature", str(bundle)]
        return subprocess.run(command, check=False, capture_output=True).returncode

    ours.write_text(openssf.sign(net, key, ours))
    assert verify(ours) == 0
    command = [tool, "sign", "key", str(net), "--private_key", str(key), "--signature", str(theirs)]
    subprocess.run(command, check=True, capture_output=True)
    assert openssf.check(net, theirs.read_text(), public).files == 2
    (net / "a.bin").write_text("changed")
    assert verify(ours) != 0
    assert refused(net, theirs.read_text(), public) == "signature-other"
