"""Boards over SSH: 200 hostile names and paths, and no shell that looks at any of them."""

from __future__ import annotations

import io
import json
import os
import re
import zipfile
from pathlib import Path

import pytest

from edgekit.errors import EdgeKitError, UsageError
from edgekit.targets import agent, open_target, ssh, ssh_board
from edgekit.targets.ssh_wire import COMMAND

PAYLOADS = [
    "$(touch {c})", "`touch {c}`", "; touch {c} ;", "| touch {c}", "&& touch {c}", "\ntouch {c}\n", "'; touch {c}; '",
    '"; touch {c}; "', "${{IFS}}touch${{IFS}}{c}", ">{c}", "<(touch {c})", "\\$(touch {c})", "$(touch\t{c})", "~root",
    "*", "?", "[a-z]", "{{a,b}}", "!touch {c}", "# touch {c}", "%(touch {c})s", "-oProxyCommand=touch {c}", "--help",
    "-rf", "..", "../../etc/passwd", "a/../../b", "/etc/passwd", "\r\ntouch {c}", "\x1b]0;touch {c}\x07",
    "é\u202e\u0000x", "\u2028touch {c}", "\uff54\uff4f\uff55\uff43\uff48",
    "a\u0301", "x" * 250, "CON", "$HOME", "$PATH", "a b", " ", "\t", "'", '"', "\\",
    "\\n", "$((1+1))", "%n", "{{}}", "()", "\u00a0", "🙂", "=cmd", "@root", ":0", "x\x7f",
]  # fmt: skip
"""{c} is the file whose existence gives a shell away; each stands in user, host, file, folder and request."""


@pytest.fixture
def canary(board, tmp_path):
    """The file that must not appear; and what the login shell runs, where it is bash, which reads .bashrc."""
    path = tmp_path / "canary"
    record = tmp_path / "shell-record"
    (board.home / ".bashrc").write_text(f'trap \'printf "%s\\n" "$BASH_COMMAND" >> {record}\' DEBUG\n')
    yield path
    (board.home / ".bashrc").unlink()
    assert not path.exists()
    assert not [found for folder in (board.home, Path.cwd()) for found in folder.glob("**/canary*")]
    if record.exists():
        assert set(record.read_text().splitlines()) == {COMMAND.format("python3")}


def spelled(canary):
    return [payload.format(c=canary) for payload in PAYLOADS]


def test_users_and_hosts_that_are_none_reach_nothing(board, canary):
    before = board.said()
    tried = 0
    for payload in spelled(canary):
        for target in (
            f"ssh://{payload}",
            f"ssh://pi@{payload}:{board.port}",
            f"ssh://{payload}@127.0.0.1:{board.port}",
        ):
            tried += 1
            if payload in ("CON", "a/../../b"):  # plain words; the second is a host and a folder
                continue
            with pytest.raises(UsageError) as caught, open_target(target) as place:
                place.new("x")
            assert caught.value.code in ("target-address", "unknown-target")
    assert tried == 3 * len(PAYLOADS)
    assert board.said() == before, "no connection was made"


def test_passwords_are_neither_taken_nor_shown():
    with pytest.raises(UsageError) as caught:
        open_target("ssh://pi:sesame@board")
    assert "sesame" not in str(caught.value.to_dict())


def test_files_of_any_name_get_a_name_of_ours(board, canary, tmp_path):
    folder = tmp_path / "files"
    folder.mkdir()
    names = [name for name in spelled("canary") if "/" not in name and "\0" not in name and name != ".."]
    names += [f"{name}.tflite" for name in names] + [os.fsdecode(b"\xff\xfe.npz"), "x.$(touch y)", "x.part", "x.TFLITE"]
    made = []
    for name in names:
        path = folder / name[:250]
        path.write_bytes(f"{len(made)}".encode())
        made.append(path)
    assert len(made) > 80
    with open_target(board.target) as place:
        for path in made:
            there = Path(place.put(path))
            assert there.parent == board.base / "files"
            assert re.fullmatch(r"[0-9a-f]{64}(\.[a-z0-9]{1,12})?", there.name)
            assert there.read_bytes() == path.read_bytes()
        assert place.new("$(touch y).npz").endswith("/scratch/1.npz")
        assert place.new(f"x.$(touch {canary})").endswith("/scratch/2")


def test_folders_keep_the_names_of_classes_and_nothing_else(board, canary, tmp_path):
    folder = tmp_path / "data"
    names = [name for name in spelled("canary") if "/" not in name and "\0" not in name and not name.startswith(".")]
    for number, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        (folder / name / f"{name[:200]}.png").write_bytes(str(number).encode())
        (folder / name / ".hidden").write_text("x")
    with open_target(board.target) as place:
        there = Path(place.put(folder))
        again = place.put(folder)
    assert str(there) == again
    assert sorted(os.listdir(there)) == sorted(names)
    for number, name in enumerate(names):
        (file,) = (there / name).iterdir()
        assert re.fullmatch(r"\d{8}\.png", file.name)
        assert file.read_bytes() == str(number).encode()


def test_paths_in_requests_are_only_paths(board, canary, jobs):
    with open_target(board.target) as place:
        for path in (f"$(touch {canary})", f"`touch {canary}`.tflite", "../../../etc/passwd", f"-o{canary}", "a\0b"):
            with pytest.raises(EdgeKitError):
                place.perform(agent.verify, agent.Opening(path))
            with pytest.raises(EdgeKitError):
                place.get(path, canary.with_name("got"))
            with pytest.raises(EdgeKitError):
                place.send(io.BytesIO(b"x"), path, 1, what="x")
        assert not canary.with_name("got").exists()
        assert place.perform(jobs.double, jobs.Ask(1, f"$(touch {canary})")).text == f"$(touch {canary})"


@pytest.mark.parametrize("name", ["$(touch canary)", "`touch canary`", "a b; touch canary", "'q\\\"", "-oProxy", "é🙂"])
def test_a_home_of_any_name(server, monkeypatch, tmp_path, name):
    """The board's own folder is data as well."""
    home = tmp_path / name
    home.mkdir()
    made = type(server)(tmp_path / "server", home=home)
    made.start()
    our = tmp_path / "our"
    (our / ".ssh").mkdir(parents=True)
    (our / ".ssh" / "id_ed25519").write_bytes((made.folder / "user").read_bytes())
    (our / ".ssh" / "id_ed25519").chmod(0o600)
    monkeypatch.setenv("HOME", str(our))
    monkeypatch.setenv("EDGEKIT_KNOWN_HOSTS", str(made.known_hosts))
    try:
        data = tmp_path / "data.npz"
        data.write_bytes(b"data")
        with open_target(made.target) as place:
            there = place.put(data)
            assert there.startswith(str(home))
            assert Path(there).read_bytes() == b"data"
        assert made.gone()
    finally:
        made.stop()
    assert not [*tmp_path.glob("**/canary*"), *Path.home().glob("canary*")]


def test_an_archive_cannot_climb_out(tmp_path):
    """What the board unpacks is checked there as well."""
    for folders, member in ([[".."]], "0/x"), ([["a/b"]], "0/x"), ([[""]], "0/x"), ([["a\0"]], "0/x"):
        archive = tmp_path / "bad.zip"
        with zipfile.ZipFile(archive, "w") as packed:
            packed.writestr("folders.json", json.dumps(folders))
            packed.writestr(member, b"x")
        with zipfile.ZipFile(archive) as packed, pytest.raises(ssh_board.Refused):
            ssh_board.spread(packed, str(tmp_path / "out"))
        ssh_board.remove(str(tmp_path / "out"))


def test_the_order_of_data_survives_the_numbering(tmp_path):
    folder = tmp_path / "data"
    for name in ("b/2.png", "b/10.png", "a/z.png", "a/é.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    ssh.pack(folder, tmp_path / "a.zip")
    ssh.pack(folder, tmp_path / "b.zip")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zip") as packed:
        ssh_board.spread(packed, str(tmp_path / "out"))
    files = [path.read_text() for path in sorted((tmp_path / "out").rglob("*.png"))]
    assert files == [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*.png"))]
