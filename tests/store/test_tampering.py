"""Whoever changes anything on the way, or brings something else, gets nothing installed."""

from __future__ import annotations

import json
import random
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from store_case import NAME, bring, digest, installs, script

import edgekit
from edgekit import artifact as artifacts
from edgekit.deploy import install
from edgekit.errors import EdgeKitError
from edgekit.store import Shelf, policy, signature

pytest.importorskip("cryptography")


@pytest.fixture(scope="module")
def nets(tiny_files) -> dict[str, bytes]:
    return {form: edgekit.convert(tiny_files[form], to=form).data for form in ("tflite", "onnx")}


@pytest.fixture(scope="module")
def keys(tmp_path_factory) -> tuple[Path, Path]:
    """The one that is trusted, and another."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("ours", "theirs"):
        signature.make(folder / name)
    return folder / "ours", folder / "theirs"


@pytest.fixture
def place(tmp_path, nets, keys):
    """A folder of models that asks for signatures; what was active before is release 5."""
    root = tmp_path / "models"
    shelf = Shelf(NAME, root)
    old = b"the version before"
    with shelf.changing():
        bring(shelf, old)
        shelf.change(lambda record: record.released(digest(old), 5))
    trusted = policy.Policy(require_signature=True).trusting(signature.read_public(signature.public_path(keys[0])))
    policy.write(trusted, root)
    return root


def ask_for_none(root: Path) -> None:
    """A device that never saw a signature."""
    policy.write(policy.Policy(), root)
    shelf = Shelf(NAME, root)
    with shelf.changing():
        shelf.change(lambda record: replace(record.released(digest(b"the version before"), None), highest=None))


def tried(root: Path, data: bytes, claimed: str, signed: str | None) -> str:
    """What an installation of these bytes under that digest says; "" when it took them."""
    arrived = root.parent / "arrived"
    arrived.write_bytes(data)
    request = install.InstallRequest(NAME, str(arrived), claimed, len(data), None, str(root), 1e-9, signature=signed)
    try:
        installs(request)
    except EdgeKitError as error:
        return error.code
    return ""


def mutations(data: bytes, dice: random.Random, count: int):
    for number in range(count):
        changed = bytearray(data)
        at = dice.randrange(len(data))
        kind = "bit" if number % 5 else ("cut", "more", "gone", "twice")[number // 5 % 4]
        if kind == "bit":
            changed[at] ^= 1 << dice.randrange(8)
        elif kind == "cut":
            del changed[at:]
        elif kind == "more":
            changed[at:at] = dice.randbytes(dice.randrange(1, 50))
        elif kind == "gone":
            del changed[at : at + dice.randrange(1, 50)]
        else:
            changed += data[: at + 1]
        yield kind, bytes(changed)


@pytest.mark.parametrize("form", ["tflite", "onnx"])
@pytest.mark.parametrize("signed", [True, False])
def test_nothing_changed_is_taken(place, nets, keys, form, signed, effort):
    """The signature holds for the real file; on a device that asks for none, the file's own digest must do."""
    data = nets[form]
    text = signature.sign(digest(data), NAME, 6, keys[0]).to_json() if signed else None
    if not signed:
        ask_for_none(place)
    before = Shelf(NAME, place).record().active
    seen = 0
    for kind, changed in mutations(data, random.Random(11), 25 if effort == 1 else 500):
        if changed == data:
            continue
        codes = {tried(place, changed, digest(data), text)}
        codes |= {tried(place, changed, digest(changed), text)}
        assert codes <= {"store-digest", "signature-other", "deploy-refused"}, kind
        assert Shelf(NAME, place).settled().active == before
        seen += 2
    print(f"{seen} changed files, none taken")
    assert tried(place, data, digest(data), text) == ""
    assert Shelf(NAME, place).settled().active == digest(data)


def test_a_manifest_of_another_model_and_an_artifact_without_parts_are_refused(place, nets):
    ask_for_none(place)
    opened = artifacts.from_bytes(nets["tflite"])
    other = artifacts.from_bytes(nets["onnx"])
    swapped = {**opened.members, "edgekit.json": other.members["edgekit.json"]}
    for members in (swapped, *({k: v for k, v in opened.members.items() if k != name} for name in opened.members), {}):
        tail = artifacts._tail("tflite", opened.model, members) if members else b""
        made = opened.model + tail
        assert tried(place, made, digest(made), None) == "deploy-refused"


def test_older_releases_other_keys_and_other_names_are_refused(place, nets, keys):
    data, (ours, theirs) = nets["tflite"], keys
    sha256 = digest(data)

    def code(text: str | None) -> str:
        return tried(place, data, sha256, text)

    assert code(signature.sign(sha256, NAME, 4, ours).to_json()) == "release-old"
    assert code(signature.sign(sha256, NAME, 6, theirs).to_json()) == "signature-untrusted"
    assert code(signature.sign(sha256, "cat-flap", 6, ours).to_json()) == "signature-other"
    assert code(signature.sign(digest(b""), NAME, 6, ours).to_json()) == "signature-other"
    assert code(None) == "signature-absent"
    stolen = replace(signature.sign(sha256, NAME, 6, theirs), key=signature.sign(sha256, NAME, 6, ours).key)
    assert code(stolen.to_json()) == "signature-wrong"
    assert code(signature.sign(sha256, NAME, 6, ours).to_json()) == ""


def test_a_newer_release_of_what_is_active_is_kept_in_mind(place, nets, keys):
    """Or an older one could be slipped in later."""
    data = nets["tflite"]
    for release in (6, 9):
        assert tried(place, data, digest(data), signature.sign(digest(data), NAME, release, keys[0]).to_json()) == ""
    other = nets["onnx"]
    assert (
        tried(place, other, digest(other), signature.sign(digest(other), NAME, 8, keys[0]).to_json()) == "release-old"
    )


def test_a_file_that_is_swapped_while_it_is_loaded_is_not_opened(place, nets, keys, monkeypatch):
    data = nets["tflite"]
    assert tried(place, data, digest(data), signature.sign(digest(data), NAME, 6, keys[0]).to_json()) == ""
    path = Shelf(NAME, place).path(digest(data))
    real = Path.read_bytes

    def swapped(self: Path) -> bytes:
        """Between the look at the record and the reading of the file somebody puts another in its place."""
        if self == path:
            path.write_bytes(nets["onnx"])
        return real(self)

    monkeypatch.setattr(Path, "read_bytes", swapped)
    monkeypatch.setenv("EDGEKIT_STORE", str(place))
    for load in (edgekit.load, edgekit.watch):
        with pytest.raises(EdgeKitError) as refused:
            load(NAME)
        assert refused.value.code == "artifact-damaged"


def test_of_many_at_once_each_wins_or_is_told_so(root, tmp_path, effort):
    """Processes that begin together, each with a version of its own."""
    count, go = 4 if effort == 1 else 50, tmp_path / "go"
    running = [
        subprocess.Popen(script(root, f"race({number}, {str(go)!r})"), stdout=subprocess.PIPE, text=True)
        for number in range(count)
    ]
    assert [process.stdout.readline() for process in running] == ["ready\n"] * count
    go.touch()
    ended = [(process.communicate()[0].strip(), process.returncode) for process in running]
    assert set(ended) <= {("", 0), ("store-busy", 9)}
    winners = [b"version %d " % number * 500 for number, (_, code) in enumerate(ended) if code == 0]
    data, record = Shelf(NAME, root).read_active()
    assert data in winners
    assert sum(event.what == "committed" for event in record.events) == 2 + len(winners)
    assert {version.sha256 for version in record.versions} >= set(map(digest, winners))
    print(f"{len(winners)} of {count} won, the others were told that it is busy")
    assert json.loads((root / NAME / "record.json").read_text())["active"] == digest(data)
