"""systemd units: right in systemd's own eyes, and what they tell a trial."""

from __future__ import annotations

import getpass
import json
import shutil
import subprocess
import sys

import pytest
from store_case import NAME, NEW, digest, receive

from edgekit import cli
from edgekit.deploy import units
from edgekit.errors import UsageError
from edgekit.store import Shelf
from edgekit.store.faults import ended, told

HERE = {"python": sys.executable, "user": getpass.getuser()}


def verified(folder, name: str, text: str) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("needs systemd-analyze (Debian package systemd)")
    (folder / name).write_text(text)
    done = subprocess.run(
        [analyze, "verify", "--man=no", "--recursive-errors=no", str(folder / name)],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "words", [["/bin/sh"], ["/bin/sh", "-c", 'echo "100 % of $HOME" \\ it\'s; true'], ["/bin/ls", ""]]
)
@pytest.mark.parametrize("store", [None, "/var/lib/edgekit/models"])
def test_systemd_has_nothing_to_say_of_the_unit_of_an_app(tmp_path, words, store):
    verified(tmp_path, "people-counter.service", units.app(NAME, words, store=store, **HERE))


def test_systemd_has_nothing_to_say_of_the_template_of_deployments(tmp_path):
    text = units.trial(inbox="/var/lib/edgekit/inbox", store="/var/lib/edgekit/models", seconds=600, **HERE)
    verified(tmp_path, "edgekit-deploy@people-counter.service", text)
    assert "TimeoutStartSec=1500" in text


def test_an_odd_word_is_noticed_by_systemd(tmp_path):
    text = units.app(NAME, ["/bin/sh"], **HERE).replace("Type=notify", "Type=notifying")
    with pytest.raises(AssertionError, match="notifying"):
        verified(tmp_path, "odd.service", text)


@pytest.mark.parametrize(
    ("words", "more"),
    [
        (["python3", "app.py"], {}),
        ([], {}),
        (["/bin/sh", "a\nb"], {}),
        (["/bin/sh"], {"user": "pi\nExecStart=/bin/rm"}),
        (["/bin/sh"], {"store": "models"}),
        (["/bin/sh"], {"store": "/var/lib/my models"}),
        (["/bin/sh"], {"watchdog": 0.0}),
    ],
)
def test_what_cannot_stand_in_a_unit_is_refused(words, more):
    with pytest.raises(UsageError) as refused:
        units.app(NAME, words, **{**HERE, **more})
    assert refused.value.code == "unit-invalid"
    with pytest.raises(UsageError):
        units.app("No Name", ["/bin/sh"], **HERE)
    with pytest.raises(UsageError):
        units.trial(inbox="/inbox", seconds=0.0, **HERE)


def test_the_commands(tmp_path, capsys):
    path = tmp_path / "app.service"
    assert cli.run(["unit", "app", NAME, "--user", "pi", "--", "/bin/sh", "-c", "true"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("[Unit]")
    assert "\nExecStart=/bin/sh -c true\n" in text
    assert cli.run(["unit", "app", NAME, "--user", "pi", "--json", "-o", str(path), "--", "/bin/sh", "-c", "true"]) == 0
    assert json.loads(capsys.readouterr().out) == {"name": f"{NAME}.service", "path": str(path), "unit": text}
    assert path.read_text() == text
    assert cli.run(["unit", "trial", "--inbox", "/home/pi/inbox", "--user", "pi"]) == 0
    assert "/home/pi/inbox/%i local --name %i" in capsys.readouterr().out


def test_what_ended_an_app_reaches_the_trial(root, monkeypatch):
    monkeypatch.setenv("EDGEKIT_STORE", str(root))
    died = {"SERVICE_RESULT": "core-dump", "EXIT_CODE": "dumped", "EXIT_STATUS": "SEGV"}
    shelf = Shelf(NAME, root)
    assert ended(NAME, died) == ""  # nothing is on trial
    with shelf.changing():
        receive(shelf, NEW)
        for stage in ("verified", "tested"):
            shelf.change(lambda record, stage=stage: record.advance(digest(NEW), stage))
        shelf.change(lambda record: record.switch(digest(NEW), 60.0))
        assert ended(NAME, {"SERVICE_RESULT": "success"}) == ""
        assert told(shelf, digest(NEW)) == ""
        command = [sys.executable, "-m", "edgekit.store.faults", NAME]
        subprocess.run(command, check=True, env={"EDGEKIT_STORE": str(root), **died})
        assert told(shelf, digest(NEW)) == "an app met a fault: systemd says core-dump (dumped SEGV)"
    with shelf.changing():
        assert not (shelf.folder / "faults").exists()
