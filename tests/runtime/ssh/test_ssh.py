"""Boards over SSH: every command that runs a model runs there; who is trusted, and who gets in."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest

from edgekit import cli
from edgekit.errors import TargetError
from edgekit.targets import agent, open_target, ssh_setup, ssh_wire
from edgekit.targets.ssh_address import parse


def run(capsys, *words):
    code = cli.run([*map(str, words), "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_every_command_answers_there_as_it_does_here(board, artifacts, capsys, tmp_path):
    model, data = artifacts["int8.tflite"], tmp_path / "data.npz"
    images = np.random.default_rng(3).random((6, 8, 8, 2), np.float32)
    np.savez(data, x=images, y=np.arange(6) % 5)
    there = ["--target", board.target]

    code, verified = run(capsys, "verify", model, *there)
    assert (code, verified["passed"], verified["engine"]) == (0, True, "litert")
    answers = []
    for where in ([], there):
        output = tmp_path / f"out{len(where)}.npz"
        code, ran = run(capsys, "run", model, data, "--samples", 2, "-o", output, *where)
        assert code == 0
        assert ran["output"] == str(output)
        answers.append((ran["answers"], np.load(output)["probs"].tolist()))
    assert answers[0] == answers[1]
    figures = [run(capsys, "evaluate", model, data, *where)[1]["metric"] for where in ([], there)]
    assert figures[0] == figures[1]
    code, measured = run(capsys, "bench", artifacts["fp32.onnx"], "--seconds", "0.1", *there)
    assert (code, measured["target"]) == (0, board.target)
    assert measured["runs"] > 0
    code, report = run(capsys, "doctor", *there)
    assert (code, report["ready"], report["target"], report["modules"]) == (0, True, board.target, [])
    assert {engine["status"] for engine in report["engines"]} == {"ok"}


def test_what_is_there_is_not_sent_again(proxy, board, artifacts, tmp_path):
    data = tmp_path / "data.bin"
    data.write_bytes(np.random.default_rng(0).bytes(300_000))
    sent = []
    for _ in range(2):
        with open_target(board.through) as place:
            path = place.put(data)
            place.perform(agent.verify, agent.Opening(place.put(artifacts["int8.tflite"])))
        sent.append(proxy.passed)
    assert sent[0] > 400_000
    assert sent[1] < 100_000, "only our program, which is never kept there"
    assert (board.base / "files" / path.rpartition("/")[2]).read_bytes() == data.read_bytes()


def test_a_file_that_changed_there_is_sent_again(board, tmp_path):
    data = tmp_path / "data.bin"
    data.write_bytes(b"right" * 100)
    with open_target(board.target) as place:
        there = board.base / "files" / place.put(data).rpartition("/")[2]
    there.chmod(0o600)
    there.write_bytes(b"wrong" * 100)
    with open_target(board.target) as place:
        place.put(data)
    assert there.read_bytes() == data.read_bytes()


def test_errors_speak_of_the_users_files(board, artifacts, tmp_path):
    broken = tmp_path / "mine.tflite"
    broken.write_bytes(b"no model at all")
    with open_target(board.target) as place, pytest.raises(Exception, match=r"mine\.tflite") as caught:
        place.perform(agent.verify, agent.Opening(place.put(broken)))
    assert ".edgekit/files" not in str(caught.value.to_dict())


# -- Trust -----------------------------------------------------------------------------------------------------


def refused(target):
    with pytest.raises(TargetError) as caught, open_target(target) as place:
        place.new("x")
    return caught.value


LOGIN = ("Accepted", "Failed", "Postponed", "Invalid user", "Starting session")


def test_an_unknown_host_key_is_refused_before_any_login(board):
    board.known_hosts.write_text("")
    before = len(board.said())
    error = refused(board.target)
    fingerprint = subprocess.run(
        ["ssh-keygen", "-lf", str(board.folder / "host.pub")], capture_output=True, text=True, check=True
    ).stdout.split()[1]
    assert error.code == "target-key-unknown"
    assert fingerprint in error.message
    assert f"ssh-keyscan -p {board.port} 127.0.0.1 >> {board.known_hosts}" in error.next_step
    assert board.known_hosts.read_text() == "", "never added"
    assert not [word for word in LOGIN if word in board.said()[before:]]


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa"])
def test_a_changed_host_key_is_refused_before_any_login(board, kind):
    """Also when the key that is known is of another kind than those that the board has now."""
    other = board.folder / f"other-{kind}"
    if not other.exists():
        subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", str(other)], check=True)
    board.known_hosts.write_text(f"[127.0.0.1]:{board.port} {(other.with_suffix('.pub')).read_text()}")
    before = len(board.said())
    error = refused(board.target)
    assert error.code == "target-key-changed"
    assert f"ssh-keygen -R '[127.0.0.1]:{board.port}' -f {board.known_hosts}" in error.next_step
    assert not [word for word in LOGIN if word in board.said()[before:]]


def test_a_revoked_key_and_a_key_of_another_port_are_not_trusted(board):
    key = (board.folder / "host.pub").read_text()
    board.known_hosts.write_text(f"@revoked [127.0.0.1]:{board.port} {key}")
    assert refused(board.target).code in ("target-key-unknown", "target-key-changed")
    board.known_hosts.write_text(f"127.0.0.1 {key}[127.0.0.1]:1 {key}")
    assert refused(board.target).code == "target-key-unknown"


def test_a_known_hosts_file_that_is_none(board):
    board.known_hosts.write_text("garbage\n")
    assert refused(board.target).code == "target-config"


def test_the_users_configuration_is_followed(board, monkeypatch, tmp_path):
    """Alias, port, user, key file and known hosts of ~/.ssh/config; a hashed entry."""
    home = tmp_path / "our-home"
    monkeypatch.delenv("EDGEKIT_KNOWN_HOSTS")
    (home / ".ssh" / "id_ed25519").rename(home / ".ssh" / "kitchen-key")
    hosts = home / ".ssh" / "kitchen-hosts"
    hosts.write_text(board.known_hosts.read_text())
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", str(hosts)], check=True, capture_output=True)
    assert "127.0.0.1" not in hosts.read_text()
    (home / ".ssh" / "config").write_text(
        f"Host kitchen\n  HostName 127.0.0.1\n  Port {board.port}\n  UserKnownHostsFile {hosts}\n"
        f"  IdentityFile {home}/.ssh/kitchen-key\n  StrictHostKeyChecking no\n"
    )
    with open_target("ssh://kitchen") as place:
        assert place.new("x.npz").endswith("/scratch/1.npz")
    hosts.write_text("")
    assert refused("ssh://kitchen").code == "target-key-unknown", "whatever StrictHostKeyChecking says"


def test_checking_cannot_be_configured_away(board, monkeypatch, tmp_path):
    monkeypatch.delenv("EDGEKIT_KNOWN_HOSTS")
    (tmp_path / "our-home" / ".ssh" / "config").write_text("Host *\n  UserKnownHostsFile none\n")
    assert refused(board.target).code == "target-key-unknown"


def test_the_agent_holds_the_key(board, monkeypatch, tmp_path):
    key = tmp_path / "our-home" / ".ssh" / "id_ed25519"
    started = subprocess.run(["ssh-agent", "-a", str(tmp_path / "agent"), "-s"], capture_output=True, text=True)
    pid = int(started.stdout.partition("SSH_AGENT_PID=")[2].partition(";")[0])
    try:
        monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "agent"))
        subprocess.run(["ssh-add", "-q", str(key)], check=True, capture_output=True)
        key.unlink()
        with open_target(board.target) as place:
            place.new("x")
    finally:
        os.kill(pid, 15)


def test_nobody_is_asked_for_a_password(board, tmp_path):
    key = tmp_path / "our-home" / ".ssh" / "id_ed25519"
    assert refused(board.target.replace("ssh://", "ssh://nobody-of-this-name@")).code == "target-auth-failed"
    key.unlink()
    assert refused(board.target).code == "target-auth-failed"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "secret", "-f", str(key)], check=True)
    assert refused(board.target).code == "target-auth-failed"
    key.write_text("no key")
    assert refused(board.target).code in ("target-config", "target-auth-failed")


def test_nobody_there(board, monkeypatch):
    monkeypatch.setattr(ssh_wire, "CONNECT", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        mute = silent.getsockname()[1]
        assert refused(f"ssh://127.0.0.1:{mute}").code == "target-unreachable"
    assert refused(f"ssh://127.0.0.1:{mute}").code == "target-refused"
    assert refused("ssh://no-such-board.invalid").code == "target-unreachable"


def test_without_the_client(board, monkeypatch):
    monkeypatch.setitem(sys.modules, "asyncssh", None)
    error = refused(board.target)
    assert (error.code, error.exit_code) == ("ssh-missing", 8)
    assert "edgekit-sdk[ssh]" in error.next_step


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("//board", ("board", None, None)),
        ("//pi@raspberrypi.local:2222", ("raspberrypi.local", "pi", 2222)),
        ("//pi@[fe80::1]:22", ("fe80::1", "pi", 22)),
    ],
)
def test_addresses(text, parts):
    address = parse(text)
    assert (address.host, address.user, address.port) == parts
    assert str(address) == f"ssh:{text}"


# -- What the board has ----------------------------------------------------------------------------------------


def fake(board, **words):
    """A Python that is not what it says."""
    told = {"version": [3, 11, 2], "bits": 64, "numpy": True, "venv": True, "engines": ["onnxruntime"], **words}
    path = board.bin / "fake"
    path.write_text(f"#!/bin/sh\necho 'EDGEKIT-PROBE {json.dumps(told)}'\n")
    path.chmod(0o755)
    board.use(str(path))


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ({"version": [3, 9, 2]}, "target-python-old"),
        ({"numpy": False}, "target-numpy-missing"),
        ({"engines": []}, "target-engine-missing"),
    ],
)
def test_what_is_missing_there_has_a_name(board, artifacts, words, code):
    fake(board, **words)
    with open_target(board.target) as place, pytest.raises(TargetError) as caught:
        place.perform(agent.verify, agent.Opening(place.put(artifacts["int8.tflite"])))
    assert caught.value.code == code
    assert "edgekit target setup" in caught.value.next_step


def test_a_python_that_does_not_start(board, jobs):
    for python in ("/nowhere/python", "/bin/false"):
        board.use(python)
        with open_target(board.target) as place, pytest.raises(TargetError) as caught:
            place.perform(jobs.double, jobs.Ask(1))
        assert caught.value.code == "target-python-broken"
    facts = ssh_setup.show(board.target)
    assert facts.python


def test_no_python_and_one_of_long_ago(board, monkeypatch):
    monkeypatch.setenv("EDGEKIT_SSH_PYTHON", "python-that-is-not-there")
    assert refused(board.target).code == "target-python-missing"
    monkeypatch.setenv("EDGEKIT_SSH_PYTHON", "python3 -c 'print(1)'")
    with pytest.raises(Exception, match="no plain path"):
        refused(board.target)
    monkeypatch.delenv("EDGEKIT_SSH_PYTHON")
    (board.bin / "python3").write_text('#!/bin/sh\necho; echo "EDGEKIT-BOARD 3.5"\n')
    assert refused(board.target).code == "target-python-old"


def test_login_scripts_that_talk_do_not_disturb(board, jobs):
    (board.home / ".bashrc").write_text("echo welcome; printf 'no line end'; echo oops >&2\n")
    try:
        with open_target(board.target) as place:
            assert place.perform(jobs.double, jobs.Ask(4)).value == 8
    finally:
        (board.home / ".bashrc").unlink()


@pytest.fixture(scope="module", params=[("raspberry-pi-4b", 64), ("raspberry-pi-zero-2w-32bit", 32)])
def emulated(request):
    """Python and word size; looked for in the user's own cache, before the tests have another home."""
    from edgekit.targets import emulator

    name, bits = request.param
    try:
        return emulator.open_target(name).python, bits
    except TargetError as error:
        pytest.skip(f"needs the emulated board: {error.message}")


def test_an_emulated_python_as_the_boards(emulated, board, artifacts):
    python, bits = emulated
    board.use(str(python))
    with open_target(board.target) as place:
        assert place.python()["bits"] == bits
        seen = place.perform(agent.verify, agent.Opening(place.put(artifacts["int8.tflite"])))
    assert seen.passed


def test_ops_are_timed_there(board, artifacts):
    from edgekit import profiling

    for kind in ("int8.tflite", "fp32.onnx"):
        found = profiling.profile(agent.Opening(str(artifacts[kind]), threads=1), seconds=0.3, target=board.target)
        assert found.target == board.target
        assert found.file == str(artifacts[kind])
        assert len(found.ops) >= 3
        assert found.wall_ms > 0


def test_the_board_is_probed(board):
    from edgekit.device_profiles.reading import parse, resolve
    from edgekit.targets import boards

    found = boards.probe(board.target, measure=False)
    profile = resolve(parse("probed", found.profile), lambda *_: None)
    assert profile.cpu.cores >= 1
    assert board.target in profile.source("cpu.soc")
    assert {engine.name: engine.status for engine in found.engines} == {"litert": "ok", "onnxruntime": "ok"}
