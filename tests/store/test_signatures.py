"""Who may install what: signatures, releases that only rise, clocks that may be wrong."""

from __future__ import annotations

import json
import random
import stat
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from store_case import NAME, NEW, OLD, digest

from edgekit import cli
from edgekit.errors import EdgeKitError, UnsafeSourceError, UsageError
from edgekit.store import Record, policy, signature

pytest.importorskip("cryptography")
SHA = digest(NEW)


@pytest.fixture(scope="module")
def key(tmp_path_factory):
    path = tmp_path_factory.mktemp("keys") / "release.key"
    signature.make(path)
    return path


@pytest.fixture
def trusting(key) -> policy.Policy:
    return policy.Policy(require_signature=True).trusting(signature.read_public(signature.public_path(key)))


def signed(key, sha256=SHA, name=NAME, release=3, expires=None) -> str:
    return signature.sign(sha256, name, release, key, expires).to_json()


def at_release(number: int | None) -> Record:
    record = Record().receive(digest(OLD), 10).advance(digest(OLD), "verified").advance(digest(OLD), "tested")
    return record.released(digest(OLD), number).switch(digest(OLD), 1.0).commit()


def admit(found: policy.Policy, text: str | None, *, record: Record | None = None, downgrade: bool = False):
    return policy.admit(found, record or Record(), NAME, SHA, text, downgrade=downgrade)


def refused(*args, **more) -> str:
    with pytest.raises(EdgeKitError) as caught:
        admit(*args, **more)
    return caught.value.code


def test_a_key_is_its_owners_alone_and_never_overwritten(key):
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    with pytest.raises(UsageError) as again:
        signature.make(key)
    assert again.value.code == "key-exists"


def test_a_public_key_that_stands_alone_is_not_overwritten(tmp_path):
    public = tmp_path / "release.key.pub"
    public.write_bytes(b"whose private key is on another machine")
    with pytest.raises(UsageError) as again:
        signature.make(tmp_path / "release.key")
    assert again.value.code == "key-exists"
    assert public.read_bytes() == b"whose private key is on another machine"
    assert not (tmp_path / "release.key").exists()


def test_a_trusted_signature_is_admitted(trusting, key):
    assert admit(trusting, signed(key)).release == 3
    assert admit(policy.Policy(), None) == policy.Admission()


def test_what_is_not_signed_by_a_trusted_key_for_this_very_use_is_refused(trusting, key, tmp_path):
    other = tmp_path / "other.key"
    signature.make(other)
    assert refused(trusting, None) == "signature-absent"
    assert refused(trusting, signed(other)) == "signature-untrusted"
    assert refused(trusting, signed(key, sha256=digest(OLD))) == "signature-other"
    assert refused(trusting, signed(key, name="cat-flap")) == "signature-other"
    assert refused(trusting, "{") == "signature-invalid"
    assert refused(replace(trusting, require_signature=False), signed(other)) == "signature-untrusted"
    assert refused(policy.Policy(require_signature=True), signed(key)) == "signature-untrusted"
    stolen = json.loads(signed(other)) | {"key": json.loads(signed(key))["key"]}
    assert refused(trusting, json.dumps(stolen)) == "signature-wrong"


def test_no_changed_bit_of_a_signature_is_admitted(trusting, key):
    text, dice = signed(key, release=4), random.Random(1)
    admitted = 0
    for _ in range(300):
        data = bytearray(text.encode())
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        try:
            admit(trusting, data.decode("utf-8", "replace"))
        except EdgeKitError:
            continue
        admitted += json.loads(data) != json.loads(text)
    assert admitted == 0
    for field, value in (("release", 9), ("name", "x"), ("expires", "2099-01-01T00:00:00+00:00"), ("schema", 1.0)):
        changed = json.dumps(json.loads(text) | {field: value})
        assert refused(trusting, changed) in ("signature-wrong", "signature-other", "signature-invalid")


def test_releases_only_rise(trusting, key):
    assert admit(trusting, signed(key, release=3), record=at_release(3)).release == 3
    assert admit(trusting, signed(key, release=4), record=at_release(3)).release == 4
    assert refused(trusting, signed(key, release=2), record=at_release(3)) == "release-old"
    lenient = replace(trusting, require_signature=False)
    assert refused(lenient, None, record=at_release(3)) == "release-old"
    down = admit(trusting, signed(key, release=2), record=at_release(3), downgrade=True)
    assert down.notes == (("downgrade", "from release 3 to release 2, by request"),)


def test_the_highest_release_is_known_when_its_version_is_gone(trusting, key):
    record = at_release(3).receive(digest(b"7"), 10).released(digest(b"7"), 7)
    record = record.forget((record.version(digest(b"7")),))
    assert refused(trusting, signed(key, release=6), record=record) == "release-old"
    assert admit(trusting, signed(key, release=7), record=record).release == 7


@pytest.mark.parametrize(("now", "told"), [(0.0, "clock"), (2.2e9, "expired"), (None, "fine")])
def test_a_clock_that_was_never_set_expires_nothing(trusting, key, monkeypatch, now, told):
    text = signed(key, expires=datetime.now(UTC) + timedelta(days=1))
    if now is not None:
        monkeypatch.setattr("edgekit.store.policy.time.time", lambda: now)
    if told == "expired":
        assert refused(trusting, text) == "signature-expired"
    else:
        assert [what for what, _ in admit(trusting, text).notes] == (["clock"] if told == "clock" else [])


def test_a_damaged_policy_admits_nothing(tmp_path):
    (tmp_path / "policy.json").write_text("{}}")
    with pytest.raises(EdgeKitError) as caught:
        policy.read(tmp_path)
    assert caught.value.code == "policy-damaged"


@pytest.mark.parametrize("text", ["", "abc", "AAAA", "-----BEGIN PRIVATE KEY-----"])
def test_what_is_no_key_is_named(tmp_path, text):
    (tmp_path / "k").write_text(text)
    for use in (signature.read_public, lambda path: signature.sign(SHA, NAME, 1, path)):
        with pytest.raises(UsageError) as caught:
            use(tmp_path / "k")
        assert caught.value.code == "key-invalid"


def test_the_commands(tiny_files, tmp_path, capsys):
    import edgekit

    path, key = tmp_path / "model.tflite", tmp_path / "release.key"
    edgekit.convert(tiny_files["tflite"], to="tflite").write(path)
    root = ["--store", str(tmp_path / "models")]

    def call(*words) -> tuple[int, dict]:
        code = cli.run([*map(str, words), "--json"])
        return code, json.loads(capsys.readouterr().out)

    assert call("keys", "make", key)[0] == 0
    assert call("keys", "trust", f"{key}.pub", *root, "--require")[1]["require_signature"] is True
    deploy = ["deploy", path, "--name", NAME, *root, "--trial", "0.2", "--slower", "1000"]
    code, error = call(*deploy)
    assert (code, error["error"]["code"]) == (3, "signature-absent")
    assert call("keys", "sign", path, "--key", key, "--name", NAME, "--release", 2)[0] == 0
    assert call("keys", "check", path, "--key", f"{key}.pub")[1]["release"] == 2
    assert call(*deploy)[0] == 0
    assert call("status", *root)[1]["models"][0]["record"]["versions"][0]["release"] == 2
    assert list(call("keys", "list", *root)[1]["keys"]) == [
        call("keys", "check", path, "--key", f"{key}.pub")[1]["key"]
    ]
    for words in (["keys", "list", *root], ["keys", "check", str(path), "--key", f"{key}.pub"]):
        assert cli.run(words) == 0
        assert capsys.readouterr().out


def test_refusals_are_unsafe_sources(trusting):
    with pytest.raises(UnsafeSourceError) as caught:
        admit(trusting, None)
    assert caught.value.exit_code == 3
