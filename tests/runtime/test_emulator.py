"""Emulated boards: what they are made of, how they are set up, and that artifacts give their answers there."""

from __future__ import annotations

import fcntl
import hashlib
import http.server
import io
import json
import tarfile
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest

from edgekit import cli
from edgekit.data_ref import DataRef
from edgekit.errors import EngineError, TargetError, UsageError, WorkerError
from edgekit.targets import agent, downloads, emulator, systems, tasks
from edgekit.targets.downloads import Package
from edgekit.targets.local import Local
from edgekit.targets.suspect import Suspect

BOARDS = ["raspberry-pi-3b", "raspberry-pi-4b", "raspberry-pi-5", "raspberry-pi-zero-2w-32bit"]


@pytest.mark.parametrize(
    ("name", "qemu", "cpu", "wheels"),
    [
        ("raspberry-pi-3b", "qemu-aarch64", "cortex-a53", {"ai-edge-litert", "numpy", "onnxruntime"}),
        ("raspberry-pi-4b", "qemu-aarch64", "cortex-a72", {"ai-edge-litert", "numpy", "onnxruntime"}),
        ("raspberry-pi-5", "qemu-aarch64", "cortex-a76", {"ai-edge-litert", "numpy", "onnxruntime"}),
        ("jetson-nano", "qemu-aarch64", "cortex-a57", {"ai-edge-litert", "numpy", "onnxruntime"}),
        ("orange-pi-5", "qemu-aarch64", "cortex-a76", {"ai-edge-litert", "numpy", "onnxruntime"}),
        ("raspberry-pi-2b", "qemu-arm", "cortex-a7", {"tflite-runtime"}),
        ("raspberry-pi-zero-2w-32bit", "qemu-arm", "cortex-a7", {"tflite-runtime"}),
    ],
)
def test_a_board_is_its_profile(name, qemu, cpu, wheels):
    board = emulator.describe(name)
    assert (board.qemu, board.cpu) == (qemu, cpu)
    assert {wheel.partition("==")[0] for wheel in board.recipe.wheels} == wheels


def test_boards_of_one_userland_share_a_system():
    names = {name: emulator.describe(name).recipe.name for name in BOARDS}
    assert len({names[name] for name in BOARDS[:3]}) == 1
    assert names["raspberry-pi-zero-2w-32bit"] not in {names[name] for name in BOARDS[:3]}
    assert emulator.describe("jetson-nano").recipe.name not in names.values(), "it has an older onnxruntime"


def test_another_wheel_is_another_system():
    board = emulator.describe("raspberry-pi-4b+onnxruntime==1.21.0")
    assert "onnxruntime==1.21.0" in board.recipe.wheels
    assert board.recipe.name != emulator.describe("raspberry-pi-4b").recipe.name


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        ("raspberry-pi-zero-w", "emulator-unsupported", "armv6l"),
        ("intel-n100", "emulator-unsupported", "Gracemont"),
        ("raspberry-pi-9", "unknown-name", "raspberry-pi-5"),
        ("raspberry-pi-4b+onnxruntime", "unknown-target", "onnxruntime==1.21.0"),
        ("raspberry-pi-4b+x==1;rm", "unknown-target", "x==1;rm"),
    ],
)
def test_what_cannot_be_emulated_is_refused(name, code, said):
    with pytest.raises(UsageError, match=said) as caught:
        emulator.describe(name)
    assert caught.value.code == code


def test_cpuinfo_tells_of_the_board():
    four, five = (emulator.describe(name).cpuinfo for name in ("raspberry-pi-4b", "raspberry-pi-5"))
    assert four.count("processor\t:") == 4
    assert "CPU part\t: 0xd08" in four
    assert "asimddp" not in four
    assert "asimddp" in five
    rock = emulator.describe("orange-pi-5").cpuinfo
    assert (rock.count("0xd0b"), rock.count("0xd05")) == (4, 4)


@pytest.mark.parametrize(
    ("told", "command"),
    [
        ('ID=debian\nID_LIKE=""', "apt install qemu-user"),
        ("ID=fedora", "dnf install qemu-user"),
        ('ID="opensuse-leap"\nID_LIKE="suse opensuse"', "zypper install"),
        (None, "on Linux"),
    ],
)
def test_missing_qemu_gives_the_command(told, command, monkeypatch):
    monkeypatch.setenv("PATH", "")

    def read(path, **_):
        if told is None:
            raise FileNotFoundError(path)
        return told

    board = emulator.describe("raspberry-pi-4b")
    monkeypatch.setattr(Path, "read_text", read)
    with pytest.raises(TargetError) as caught:
        emulator._qemu(board)
    assert caught.value.code == "emulator-qemu"
    assert command in caught.value.next_step


# -- Setting up, from mirrors of our own -----------------------------------------------------------------------


def debian_package(files: dict[str, bytes]) -> bytes:
    """An `ar` archive with an odd member before the data."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:xz") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"./{name}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    archive = b"!<arch>\n"
    for name, content in (("debian-binary", b"2.0"), ("data.tar.xz", packed.getvalue())):
        archive += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode() + content
        archive += b"\n" * (len(content) % 2)
    return archive


@pytest.fixture
def mirror():
    """A web server on loopback: `.files` by path, `.asked` the paths that were asked for."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.server.asked.append(self.path)
            content = self.server.files.get(self.path)
            self.send_response(404 if content is None else 200)
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.files, server.asked = {}, []
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def recipe(mirror, monkeypatch, tmp_path):
    """A system of two packages and one wheel, to be had from `mirror`."""
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("EDGEKIT_DEBIAN_MIRROR", mirror.url)
    packages = []
    for name in ("one", "two"):
        content = debian_package({f"usr/lib/{name}": name.encode(), f"usr/share/doc/{name}": b"words"})
        mirror.files[f"/pool/{name}.deb"] = content
        packages.append(Package(f"pool/{name}.deb", hashlib.sha256(content).hexdigest(), len(content)))
    wheel = tmp_path / "engine.whl"
    with zipfile.ZipFile(wheel, "w") as packed:
        packed.writestr("engine/__init__.py", "")
    monkeypatch.setattr(downloads, "wheel", lambda *_, **__: wheel)
    return systems.Recipe("aarch64", tuple(packages), ("engine==1",))


def ignore(_):
    pass


def test_a_system_is_set_up_once(recipe, mirror):
    events = []
    system = systems.build(recipe, events.append)
    folder = Path(system.folder)
    assert (folder / "usr/lib/one").read_text() == "one"
    assert (folder / "usr/lib/python3/dist-packages/engine/__init__.py").exists()
    assert not (folder / "usr/share/doc").exists()
    assert {event["stage"] for event in events} >= {"packages", "unpack"}
    assert systems.installed() == [system]
    asked = len(mirror.asked)
    mirror.files.clear()
    assert systems.build(recipe, ignore) == system, "offline, from the cache"
    assert len(mirror.asked) == asked


def test_an_interrupted_setup_goes_on(recipe, mirror, monkeypatch):
    content = mirror.files.pop("/pool/two.deb")
    with pytest.raises(TargetError) as caught:
        systems.build(recipe, ignore)
    assert caught.value.code == "emulator-download"
    assert "two.deb" in caught.value.message
    assert systems.installed() == []
    mirror.files["/pool/two.deb"] = content
    with monkeypatch.context() as patched:
        patched.setattr(systems, "_unpack_wheel", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            systems.build(recipe, ignore)
    assert systems.installed() == []
    systems.build(recipe, ignore)
    assert len(systems.installed()) == 1
    assert mirror.asked.count("/pool/one.deb") == 1


def test_a_changed_package_is_refused(recipe, mirror):
    good = mirror.files["/pool/one.deb"]
    mirror.files["/pool/one.deb"] = good[:-1] + b"?"
    with pytest.raises(TargetError, match="its digest is"):
        systems.build(recipe, ignore)
    mirror.files["/pool/one.deb"] = good + b"and more"
    with pytest.raises(TargetError, match=f"more than the {len(good)} bytes"):
        systems.build(recipe, ignore)


def test_the_next_mirror_is_tried(recipe, mirror, tmp_path):
    store = tmp_path / "store"
    store.mkdir()
    found = downloads.packages(recipe.packages, ["http://127.0.0.1:1", mirror.url], store, ignore)
    assert [path.read_bytes() for path in found] == [mirror.files["/pool/one.deb"], mirror.files["/pool/two.deb"]]


def test_a_damaged_download_is_fetched_again(recipe, mirror, tmp_path):
    store = tmp_path / "store"
    store.mkdir()
    (path, _) = downloads.packages(recipe.packages, [mirror.url], store, ignore)
    path.write_bytes(b"rotten")
    assert downloads.packages(recipe.packages, [mirror.url], store, ignore)[0].read_bytes() != b"rotten"


def test_a_second_setup_waits_for_the_first(recipe):
    systems.cache().mkdir(parents=True)
    said = threading.Event()

    def progress(event):
        if event["stage"].startswith("waiting"):
            said.set()

    with open(systems.cache() / "lock", "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        other = threading.Thread(target=systems.build, args=(recipe, progress))
        other.start()
        assert said.wait(20)
        assert systems.find(recipe) is None
    other.join(20)
    assert systems.find(recipe) is not None


def test_a_system_in_use_stays(recipe):
    system = systems.build(recipe, ignore)
    with systems.used(system), pytest.raises(UsageError, match="in use"):
        systems.remove(system.name)
    assert systems.remove(system.name)
    assert not systems.remove(system.name)
    assert systems.installed() == []
    assert not Path(system.folder).exists()


def test_a_full_disk_is_told_before_the_work(recipe, monkeypatch, mirror):
    monkeypatch.setattr(systems, "_NEEDED_MB", 10**9)
    with pytest.raises(TargetError) as caught:
        systems.build(recipe, ignore)
    assert caught.value.code == "emulator-space"
    assert mirror.asked == []


def test_a_folder_of_somebody_else(monkeypatch, recipe, tmp_path):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "file"))
    with pytest.raises(TargetError) as caught:
        systems.build(recipe, ignore)
    assert caught.value.code == "emulator-cache"


def test_pips_words_are_passed_on():
    said = "WARNING: x\nERROR: No matching distribution found for onnxruntime==99\n"
    assert "No matching distribution" in downloads._no_wheel("onnxruntime==99", said).message
    assert downloads._no_wheel("x==1", "No module named pip").code == "emulator-pip"


# -- Crashes ---------------------------------------------------------------------------------------------------


def test_a_crash_names_engine_and_core(tmp_path):
    place = Local()
    place.core = "Cortex-A72"
    error = WorkerError("worker-crashed", "x", how="it was ended by SIGILL (illegal instruction)")
    found = place._crashed(error, "verify", agent.Opening(str(tmp_path / "model.onnx")))
    assert isinstance(found, EngineError)
    assert found.message.startswith("verify: onnxruntime ")
    assert "died on Cortex-A72" in found.message
    assert found.details["engine"].startswith("onnxruntime ")
    assert "Cortex-A72" in found.cause


def test_a_known_fault_is_told(tmp_path, monkeypatch):
    place = Local()
    place.core = "Cortex-A72"
    monkeypatch.setattr(place, "_call", lambda *_: Suspect("onnxruntime", "1.21.0"))
    error = WorkerError("worker-crashed", "x", how="it was ended by SIGILL (illegal instruction)")
    found = place._crashed(error, "verify", agent.Opening(str(tmp_path / "model.onnx")))
    assert "onnxruntime 1.21.0 executes an instruction that the core lacks" in found.cause
    assert found.next_step == "Install onnxruntime 1.21.1 or newer there."


def test_a_crash_without_a_file_is_told_all_the_same():
    error = WorkerError("worker-timeout", "x", how="it took longer than 3 s")
    found = Local()._crashed(error, "doctor", object())
    assert found.message == "doctor: the engine died on this machine: it took longer than 3 s"


# -- On boards that were set up here ---------------------------------------------------------------------------


def require(name):
    try:
        emulator.open_target(name).close()
    except TargetError as error:
        pytest.skip(f"{error.message}: {error.next_step}")


@pytest.mark.parametrize(
    ("board", "kind"),
    [
        ("raspberry-pi-3b", "int8.onnx"),
        ("raspberry-pi-4b", "int8.tflite"),
        ("raspberry-pi-5", "fp32.onnx"),
        ("raspberry-pi-zero-2w-32bit", "int8.tflite"),
        ("raspberry-pi-zero-2w-32bit", "fp32.tflite"),
    ],
)
def test_artifacts_give_their_answers_there(board, kind, artifacts):
    require(board)
    found = tasks.verify(agent.Opening(str(artifacts[kind])), target=f"emulator:{board}")
    assert found.passed, found.failures
    assert found.worst_steps <= 1
    assert found.target == f"emulator:{board}"


def test_running_there_gives_the_answers_of_here(artifacts, tmp_path):
    board = "raspberry-pi-zero-2w-32bit"
    require(board)
    np.savez(tmp_path / "data.npz", x=np.random.default_rng(2).random((5, 8, 8, 2), np.float32))
    answers = []
    for target in ("local", f"emulator:{board}"):
        output = tmp_path / f"{len(answers)}.npz"
        opening = agent.Opening(str(artifacts["fp32.tflite"]))
        found = tasks.run(opening, DataRef(str(tmp_path / "data.npz")), samples=5, output=output, target=target)
        assert len(found.answers) == 5
        answers.append(np.load(output)["probs"])
    np.testing.assert_allclose(answers[1], answers[0], rtol=1e-4, atol=1e-6)


def test_a_missing_engine_is_a_missing_engine_there_too(artifacts, capsys):
    name = "raspberry-pi-zero-2w-32bit"
    require(name)
    code = cli.run(["verify", str(artifacts["fp32.onnx"]), "--target", f"emulator:{name}", "--json"])
    assert code == 7
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "engine-missing"


def test_a_board_that_is_not_set_up(artifacts, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path))
    code = cli.run(["verify", str(artifacts["fp32.tflite"]), "--target", "emulator:raspberry-pi-4b", "--json"])
    error = json.loads(capsys.readouterr().out)["error"]
    assert (code, error["code"]) == (8, "emulator-missing")
    assert "edgekit emulator setup raspberry-pi-4b" in error["next_step"]


def test_the_list_and_what_remove_refuses(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path))
    assert cli.run(["emulator", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"folder": str(tmp_path / "emulator"), "systems": []}
    assert cli.run(["emulator", "remove"]) == 2
    assert cli.run(["emulator", "remove", "raspberry-pi-4b", "--json"]) == 0
