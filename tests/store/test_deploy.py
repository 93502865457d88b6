"""Deploying real artifacts: what a bad version does to a device, which is nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import edgekit
from edgekit import artifact as artifacts
from edgekit import cli
from edgekit.deploy import admission, fleet, preflight
from edgekit.deploy.trial import Bounds
from edgekit.errors import ArtifactError, EdgeKitError, EngineError, LimitError, UsageError, VerificationError
from edgekit.runtimes.flow import watch
from edgekit.store import Record, Shelf

NAME = "people-counter"
ENGINE = '''
import os, time
from pathlib import Path
from edgekit.runtimes import engines

class Bad:
    """LiteRT, until it was opened so many times; then it does what it is told."""
    name = "bad"
    formats = ("tflite",)

    def version(self):
        return "1.0"

    def open(self, artifact, threads):
        counter = Path(os.environ["BAD_COUNTER"])
        opened = int(counter.read_text() or 0) + 1
        counter.write_text(str(opened))
        session = engines.get("litert").open(artifact, threads)
        return session if opened <= int(os.environ["BAD_AFTER"]) else Session(session, os.environ["BAD_DOES"])

class Session:
    concurrent = batches = False

    def __init__(self, session, does):
        self._session, self._does = session, does
        self.inputs, self.outputs = session.inputs, session.outputs

    def run(self, feeds):
        answers = self._session.run(feeds)
        match self._does:
            case "crash": os.kill(os.getpid(), 11)
            case "illegal": os.kill(os.getpid(), 4)
            case "abort": os.abort()
            case "exit": os._exit(3)
            case "hang": time.sleep(3600)
            case "memory": self._held = bytearray(1 << 45)
            case "nan": answers = {name: array * float("nan") for name, array in answers.items()}
            case "wrong": answers = {name: array + 1 for name, array in answers.items()}
            case "slow": time.sleep(0.05)
        return answers

    def close(self):
        self._session.close()

BACKEND = Bad()
'''
DOES = ("crash", "illegal", "abort", "exit", "memory", "nan", "wrong", "slow", "hang")
ON_TRIAL = ("crash", "nan", "hang")


@pytest.fixture(scope="module")
def files(tiny_files, tmp_path_factory) -> dict[str, Path]:
    """Two artifacts that answer alike, one in float and one in half precision, and one of the other format."""
    folder = tmp_path_factory.mktemp("artifacts")
    made = {"old": ("tflite", "fp32"), "new": ("tflite", "fp16"), "onnx": ("onnx", "fp32")}
    for name, (form, precision) in made.items():
        edgekit.convert(tiny_files[form], to=form, precision=precision).write(folder / f"{name}.{form}")
    return {name: folder / f"{name}.{form}" for name, (form, _) in made.items()}


@pytest.fixture(scope="module")
def deployed(files, tmp_path_factory) -> Path:
    """A store where `old` is active."""
    root = tmp_path_factory.mktemp("deployed")
    fleet.deploy(asked(files["old"], root), "local")
    return root


@pytest.fixture
def place(deployed, tmp_path) -> Path:
    """A copy of it to change."""
    shutil.copytree(deployed, tmp_path / "models")
    return tmp_path / "models"


def asked(path: Path, root: Path, **more) -> fleet.Deployment:
    given = {"root": str(root), "seconds": 0.2, "bounds": Bounds(slower=1000), **more}
    return fleet.Deployment(path, NAME, **given)


def active(root: Path) -> str:
    with edgekit.load(Shelf(NAME, root).path(str(Shelf(NAME, root).settled().active))) as model:
        return model.artifact.sha256


def sha(path: Path) -> str:
    return artifacts.read(path).sha256


def test_a_version_becomes_active_and_answers_by_its_name(files, place, monkeypatch):
    done = fleet.deploy(asked(files["new"], place), "local")
    assert (done.changed, done.number, done.before) == (True, 2, sha(files["old"]))
    monkeypatch.setenv("EDGEKIT_STORE", str(place))
    x = np.random.default_rng(0).random((3, 8, 8, 2), np.float32)
    with edgekit.load(NAME) as named, edgekit.load(files["new"]) as direct:
        np.testing.assert_array_equal(named.run(x)["probs"], direct.run(x)["probs"])
        with edgekit.Pool(NAME, sessions=1) as pool:
            assert pool.predict(x[:1]) == direct.predict(x[:1])
    again = fleet.deploy(asked(files["new"], place), "local")
    assert (again.changed, again.number) == (False, 2)
    stages = [event.what for event in Shelf(NAME, place).record().events]
    assert stages == ["received", "verified", "tested", "trial", "committed"] * 2


@pytest.mark.parametrize(("does", "after"), [(does, after) for does in DOES for after in (0, 2)])
def test_a_bad_version_does_not_stay(files, place, tmp_path, monkeypatch, effort, does, after):
    """`after`: openings that go well; the first two are the version before and the self-test of the new one."""
    if effort == 1 and after and does not in ON_TRIAL:
        pytest.skip("with --run-stress")
    modules = tmp_path / "modules"
    about = modules / "badengine-1.0.dist-info"
    about.mkdir(parents=True)
    (modules / "badengine.py").write_text(ENGINE)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: badengine\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[edgekit.engines]\nbad = badengine:BACKEND\n")
    (tmp_path / "counter").write_text("")
    for name, value in (("COUNTER", tmp_path / "counter"), ("AFTER", after), ("DOES", does)):
        monkeypatch.setenv(f"BAD_{name}", str(value))
    monkeypatch.setenv("PYTHONPATH", str(modules))
    # Only those bounds that are to be met: a busy machine takes its time for what goes well.
    bounds = Bounds(max_ms=20.0 if does == "slow" else None, slower=1e6)
    if does == "hang" and after == 0:
        bounds = replace(bounds, patience=4.0)
    begun = time.monotonic()
    with pytest.raises(EdgeKitError) as caught:
        fleet.deploy(asked(files["new"], place, engine="bad", bounds=bounds, seconds=3.0), "local")
    ended = time.monotonic()
    with edgekit.load(Shelf(NAME, place).path(sha(files["old"]))) as old:
        old.warm_up(1)
    print(f"{does}: over after {ended - begun:.1f} s, the old one answers {time.monotonic() - ended:.2f} s later")
    assert caught.value.code == ("deploy-refused" if after == 0 else "deploy-rolled-back")
    record = Shelf(NAME, place).record()
    assert record.trial is None
    assert active(place) == sha(files["old"])
    failed = record.version(sha(files["new"]))
    assert failed.stage == ("refused" if after == 0 else "rolled-back")
    words = {"crash": "SIGSEGV", "illegal": "SIGILL", "abort": "SIGABRT", "exit": "exit", "memory": "", "nan": "",
             "wrong": "other answers", "slow": "slow", "hang": ""}[does]  # fmt: skip
    assert words in failed.reason
    assert failed.reason in caught.value.message


@pytest.mark.parametrize("how", ["truncated", "bit", "extra", "manifest", "no self-test", "text"])
def test_a_damaged_file_is_refused(files, place, tmp_path, how):
    data = files["new"].read_bytes()
    bad = {
        "truncated": data[:-1],
        "bit": data[:500] + bytes([data[500] ^ 4]) + data[501:],
        "extra": data + b"\0",
        "manifest": data.replace(b'"fp16"', b'"int8"', 1),
        "no self-test": artifacts.read(files["new"]).model,
        "text": b"no model",
    }[how]
    path = tmp_path / "bad.tflite"
    path.write_bytes(bad)
    with pytest.raises(ArtifactError) as caught:
        fleet.deploy(asked(path, place), "local")
    assert caught.value.code in ("artifact-damaged", "artifact-unknown", "deploy-refused")
    assert active(place) == sha(files["old"])


def test_a_fault_that_an_app_tells_ends_the_trial(files, place):
    from edgekit.store.faults import tell

    def tells() -> None:
        shelf = Shelf(NAME, place)
        while shelf.record().trial is None:
            time.sleep(0.01)
        tell(shelf, sha(files["new"]), "the camera sees nobody")

    app = threading.Thread(target=tells)
    app.start()
    with pytest.raises(VerificationError, match="the camera sees nobody"):
        fleet.deploy(asked(files["new"], place, seconds=30.0), "local")
    app.join()
    assert active(place) == sha(files["old"])


def test_a_board_that_lost_power_in_a_trial_starts_with_the_old_version(files, place):
    """Killed is everything that ran; who starts first then, the app, finds the old version and ends the trial."""
    words = ["deploy", str(files["new"]), "--name", NAME, "--store", str(place), "--trial", "600", "--slower", "1000"]
    supervisor = subprocess.Popen([sys.executable, "-m", "edgekit", *words], start_new_session=True)
    try:
        while Shelf(NAME, place).record().trial is None:
            assert supervisor.poll() is None
            time.sleep(0.02)
        assert Shelf(NAME, place).settled().active == sha(files["new"])
    finally:
        os.killpg(supervisor.pid, signal.SIGKILL)
        supervisor.wait()
    while Shelf(NAME, place).busy():  # its child dies with it
        time.sleep(0.02)
    with edgekit.watch(NAME, root=place) as model:
        assert model.sha256 == sha(files["old"])
    record = Shelf(NAME, place).record()
    assert (record.active, record.trial) == (sha(files["old"]), None)
    assert record.version(sha(files["new"])).reason == "its trial was interrupted"
    assert fleet.deploy(asked(files["new"], place), "local").changed


def test_the_first_version_that_fails_leaves_none(files, tmp_path):
    with pytest.raises(ArtifactError, match="none is active"):
        fleet.deploy(asked(files["new"], tmp_path, bounds=Bounds(max_ms=1e-9)), "local")
    assert Shelf(NAME, tmp_path).record().active is None


def test_a_watching_app_follows_and_no_call_fails(files, place):
    outcomes: list[str] = []
    stop = threading.Event()
    x = np.random.default_rng(0).random((1, 8, 8, 2), np.float32)
    with edgekit.watch(NAME, root=place) as model, edgekit.load(files["old"]) as direct:
        want = direct.run(x)["probs"]

        def calls() -> None:
            while not stop.is_set():
                np.testing.assert_allclose(model.run(x)["probs"], want, atol=2e-3)
                outcomes.append(model.sha256)

        apps = [threading.Thread(target=calls) for _ in range(3)]
        for app in apps:
            app.start()
        fleet.deploy(asked(files["new"], place, seconds=1.0), "local")
        fleet.roll_back("local", NAME, "test", str(place))
        until = time.monotonic() + 20
        while outcomes[-1:] != [sha(files["old"])] and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(0.5)
        stop.set()
        for app in apps:
            app.join()
        assert model.sha256 == sha(files["old"])
    assert {sha(files["old"]), sha(files["new"])} == set(outcomes)


def test_a_watched_model_that_was_closed_follows_no_more(files, place, monkeypatch):
    monkeypatch.setattr(watch, "_EVERY", 0.0)
    x = np.random.default_rng(0).random((1, 8, 8, 2), np.float32)
    model, opened = edgekit.watch(NAME, root=place), []
    real = model._opened
    monkeypatch.setattr(model, "_opened", lambda *args: opened.append(real(*args)) or opened[-1])
    with model.using() as held:
        model.close()
        model.close()  # twice: whoever uses it still may
        assert held.run(x)
    fleet.deploy(asked(files["new"], place), "local")
    with pytest.raises(EngineError) as caught:
        model.run(x)
    assert (caught.value.code, opened) == ("model-closed", [])
    # While the next version is opened.
    late = edgekit.watch(NAME, root=place)
    found = real(sha(files["new"]), files["new"].read_bytes())
    late.close()
    late._exchange(found, None, None)
    with pytest.raises(EngineError):
        found.model.run(x)


@pytest.mark.parametrize(("blocks", "inodes"), [(1, 10**6), (10**6, 3)])
def test_preflight_refuses_before_anything_is_sent(files, place, tmp_path, monkeypatch, blocks, inodes):
    monkeypatch.setenv("PYTHONPATH", str(_small_disk(tmp_path, blocks, inodes)))
    with pytest.raises(LimitError, match="MB free") as caught:
        fleet.deploy(asked(files["new"], place), "local")
    assert caught.value.code == "deploy-preflight"
    assert Shelf(NAME, place).record().find(sha(files["new"])) is None


def _small_disk(folder: Path, blocks: int, inodes: int) -> Path:
    """A folder whose sitecustomize gives every file system so many free blocks of 4 KiB, and inodes."""
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(
        f"import os\nos.statvfs = lambda path: os.statvfs_result((4096, 4096, 10**6, {blocks}, {blocks}, 10**6, "
        f"{inodes}, {inodes}, 0, 255))\n"
    )
    return folder / "site"


def test_a_file_that_is_brought_over_a_link_takes_its_room_twice(files):
    opened = artifacts.read(files["new"])
    size = len(opened.data)

    def found(free: int, **more) -> preflight.DeviceFacts:
        return preflight.DeviceFacts("aarch64", 64, "3.11", "litert", "2.0", "", free, 0, writable=True, **more)

    admission.check(opened, found(size + (1 << 20)), "here", None)
    admission.check(opened, found(2 * size + (1 << 20), shared=True), "here", None)
    admission.check(opened, found(1 << 20, versions=(opened.sha256,)), "here", None)  # it is there already
    for full in (found(size), found(2 * size + (1 << 20) - 1, shared=True)):
        with pytest.raises(LimitError):
            admission.check(opened, full, "here", None)


def test_a_file_system_of_4_mib_refuses_what_it_cannot_hold(files, tmp_path):
    """A real one, where this process may mount."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "none", disk], check=False, capture_output=True
    ).returncode:
        pytest.skip("needs the right to mount a file system")
    try:
        fleet.deploy(asked(files["old"], disk), "local")
        (disk / "others").write_bytes(bytes(3 << 20))
        with pytest.raises(LimitError, match="MB free") as caught:
            fleet.deploy(asked(files["new"], disk), "local")
        assert caught.value.code == "deploy-preflight"
        assert [version.sha256 for version in Shelf(NAME, disk).record().versions] == [sha(files["old"])]
        assert active(disk) == sha(files["old"])
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_profile_that_it_does_not_fit_refuses_it(files, place):
    with pytest.raises(LimitError):
        fleet.deploy(asked(files["onnx"], place, device="raspberry-pi-zero-2w-32bit"), "local")
    assert active(place) == sha(files["old"])


def test_many_devices_with_a_canary(files, tmp_path):
    good = [f"local{number}" for number in range(3)]
    seen: list[str] = []
    outcomes = fleet.deploy_many(
        asked(files["new"], tmp_path), ["nowhere:1", *good], told=lambda outcome: seen.append(outcome.target)
    )
    assert [outcome.skipped for outcome in outcomes] == [False, True, True, True]
    assert outcomes[0].error["code"] == "unknown-target"
    stages: list[str] = []
    outcomes = fleet.deploy_many(
        asked(files["new"], tmp_path), ["local", "nowhere:1", "nowhere:2"], stop_after=1, at_once=1,
        progress=lambda event: stages.append(event["stage"]),
    )  # fmt: skip
    assert {"local: receive", "local: self-test", "local: switch", "local: trial"} <= set(stages)
    assert [(o.done, o.skipped) for o in outcomes] == [(True, False), (False, False), (False, True)]


def test_hosts_are_read_from_a_file(tmp_path):
    path = tmp_path / "hosts"
    path.write_text("# boards\nssh://pi@kitchen\n\nssh://pi@hall:2222  # upstairs\n")
    assert fleet.hosts(path) == ("ssh://pi@kitchen", "ssh://pi@hall:2222")
    path.write_text("ssh://pi@kitchen\n", encoding="utf-8-sig")
    assert fleet.hosts(path) == ("ssh://pi@kitchen",)
    for wrong in (b"# none\n", "ssh://pi@küche\n".encode("latin-1")):
        path.write_bytes(wrong)
        with pytest.raises(UsageError) as refused:
            fleet.hosts(path)
        assert refused.value.code == "targets-none"


def test_a_model_that_nobody_deployed_is_unknown(tmp_path, capsys):
    root = tmp_path / "models"
    with Shelf("kept", root).changing():
        Shelf("kept", root).write(Record().receive("0" * 64, 1))
    for command in ("status", "history", "rollback", "prune"):
        assert cli.run([command, "--name", "nosuch", "--store", str(root), "--json"]) == 3
        error = json.loads(capsys.readouterr().out)["error"]
        assert error["code"] == "model-unknown"
        assert "kept" in error["message"]
    assert [item.name for item in root.iterdir()] == ["kept"]
    assert cli.run(["history", "--name", "kept", "--store", str(root), "--json"]) == 0


def test_the_commands(files, tmp_path, capsys):
    root = ["--name", NAME, "--store", str(tmp_path / "models")]

    def call(*words: str) -> tuple[int, dict]:
        code = cli.run([*words, "--json"])
        return code, json.loads(capsys.readouterr().out)

    short = ["--trial", "0.2", "--slower", "1000"]
    code, first = call("deploy", str(files["old"]), *root, *short)
    assert (code, first["number"], first["changed"], first["target"]) == (0, 1, True, "local")
    code, second = call("deploy", str(files["new"]), "local", *root, *short)
    assert (code, second["number"], second["before"]) == (0, 2, first["sha256"])
    code, status = call("status", "local", "--store", root[3])
    assert code == 0
    assert [m["name"] for m in status["models"]] == [NAME]
    assert status["models"][0]["record"]["active"] == second["sha256"]
    code, back = call("rollback", *root, "--reason", "misses hats")
    assert (code, back["record"]["active"]) == (0, first["sha256"])
    code, history = call("history", *root)
    assert [e["what"] for e in history["events"]][-1] == "rolled-back"
    assert history["events"][-1]["detail"] == "misses hats"
    code, error = call("rollback", *root)
    assert (code, error["error"]["code"]) == (2, "rollback-nothing")
    code, pruned = call("prune", *root)
    assert (code, pruned["removed"]) == (0, [second["sha256"]])
    code, refused = call("deploy", str(files["new"]), *root, "--trial", "0.2", "--max-ms", "1e-9")
    assert (code, refused["error"]["code"]) == (3, "deploy-refused")
    (tmp_path / "hosts").write_text("local\n")
    code, many = call("deploy", str(files["old"]), *root, *short, "--to", str(tmp_path / "hosts"))
    assert code == 0
    assert many["targets"][0]["installed"]["changed"] is False
    for command in ("status", "history", "prune"):
        assert cli.run([command, *(root if command != "status" else root[2:])]) == 0
        assert capsys.readouterr().out


def test_a_deployment_says_what_makes_no_sense(files, tmp_path):
    for wrong in ({"seconds": 0.0}, {"bounds": Bounds(slower=0.5)}):
        with pytest.raises(UsageError):
            asked(files["old"], tmp_path, **wrong)
    with pytest.raises(UsageError):
        replace(asked(files["old"], tmp_path), name="No Name")


@pytest.mark.parametrize(("name", "engine"), [("new", "litert"), ("onnx", "onnxruntime")])
def test_a_version_that_dies_names_the_engine_that_opened_it(files, tmp_path, name, engine):
    """A deployed file has no suffix to tell by."""
    from edgekit.targets.suspect import CANDIDATES, Scene, suspect

    shutil.copy(files[name], tmp_path / "version")
    found = suspect(Scene(str(tmp_path / "version")))
    assert found is not None
    assert found.distribution in CANDIDATES[engine]
    assert suspect(Scene(str(tmp_path / "nothing"))) is None


def test_an_instruction_that_the_board_lacks_is_met_in_preflight(files, tmp_path, effort):
    """onnxruntime 1.21.0 dies on a Cortex-A72: the old version needs LiteRT, the new one it. Nothing is sent."""
    from edgekit.targets import open_target

    target = "emulator:raspberry-pi-4b+onnxruntime==1.21.0"
    if effort == 1:
        pytest.skip("with --run-stress")
    try:
        open_target(target).close()
    except EdgeKitError as error:
        pytest.skip(f"{error.message}: {error.next_step}")
    fleet.deploy(asked(files["old"], tmp_path), target)
    with pytest.raises(EngineError, match=r"preflight: onnxruntime 1.21.0 died on Cortex-A72.*SIGILL") as refused:
        fleet.deploy(asked(files["onnx"], tmp_path), target)
    assert refused.value.next_step == "Install onnxruntime 1.21.1 or newer there."
    assert active(tmp_path) == sha(files["old"])
    assert [version.sha256 for version in Shelf(NAME, tmp_path).record().versions] == [sha(files["old"])]


@pytest.mark.parametrize("board", ["raspberry-pi-4b", "raspberry-pi-zero-2w-32bit"])
def test_an_emulated_board_tries_it_with_its_own_wheels(files, tmp_path, board):
    from edgekit.targets import emulator, open_target

    try:
        open_target(f"emulator:{board}").close()
    except EdgeKitError as error:
        pytest.skip(f"{error.message}: {error.next_step}")
    done = fleet.deploy(asked(files["old"], tmp_path), f"emulator:{board}")
    assert (done.number, done.changed) == (1, True)
    assert active(tmp_path) == sha(files["old"])
    assert emulator.describe(board).core
