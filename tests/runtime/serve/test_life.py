"""Workers that die, versions that change, servers that stop: what was accepted is answered."""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import io
import json
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

import edgekit
from edgekit.errors import EngineError
from edgekit.serve import sources
from edgekit.serve.server import Server
from edgekit.serve.settings import Bounds
from edgekit.store import Shelf
from edgekit.store.faults import told


@pytest.fixture(scope="module")
def slow(serve, plain, slow_engine, tmp_path_factory):
    config = tmp_path_factory.mktemp("config") / "serve.toml"
    config.write_text('[serving]\nengine = "slow"\nqueue = 4\nwatchdog = 1.5\nbatch = 1\n')
    return serve(plain, "--config", config, env=slow_engine)


@pytest.fixture(scope="module")
def patient(serve, plain, slow_engine, tmp_path_factory):
    """The same, and a call may take its time."""
    config = tmp_path_factory.mktemp("config") / "serve.toml"
    config.write_text('[serving]\nengine = "slow"\nqueue = 4\nbatch = 1\n')
    return serve(plain, "--config", config, env=slow_engine)


def wish(first, *, samples=1):
    """A request whose call takes `first` milliseconds."""
    given = np.zeros((samples, 8, 8, 2), np.float32)
    given[0, 0, 0, 0] = first
    return {
        "inputs": [{"name": "image", "datatype": "FP32", "shape": list(given.shape), "data": given.ravel().tolist()}]
    }


class Asking(threading.Thread):
    """A request in a thread of its own; the answer is left in `status` and `answer`."""

    def __init__(self, server, body, headers=None):
        super().__init__()
        self._server, self._body, self._headers = server, body, headers
        self.status = self.answer = None
        self.start()

    def run(self):
        self.status, self.answer = self._server.json("POST", "/v2/models/slow/infer", self._body, self._headers)


def waiting(server, count):
    """Until the model works at one and so many wait."""
    for _ in range(3000):  # tries, not seconds: where a machine stops for a while, they stop as well
        text = server.ask("GET", "/metrics")[2].decode()
        if f'edgekit_queue{{model="slow"}} {count}\n' in text and 'edgekit_running{model="slow"} 0\n' not in text:
            return
        time.sleep(0.005)
    pytest.fail("the queue did not fill")


def test_a_full_queue_refuses_and_says_when_to_come_again(patient, gate):
    slow = patient
    first = Asking(slow, wish(gate.held))
    waiting(slow, 0)
    rest = [Asking(slow, wish(0)) for _ in range(4)]
    waiting(slow, 4)
    status, headers, said = slow.ask("POST", "/v2/models/slow/infer", json.dumps(wish(0)))
    assert (status, json.loads(said)["code"]) == (429, "queue-full")
    assert int(headers["Retry-After"]) >= 1
    assert slow.ask("GET", "/v2/health/live")[0] == 200
    high = Asking(slow, wish(0), {"Edgekit-Priority": "high"})
    while all(one.is_alive() for one in rest):
        time.sleep(0.005)
    gate.open()
    for one in (first, *rest, high):
        one.join()
    assert (first.status, high.status) == (200, 200)
    assert sorted(one.status for one in rest) == [200, 200, 200, 429]  # one gave way


def test_deadlines_hold_before_and_in_the_queue(patient, gate):
    slow = patient
    first = Asking(slow, wish(gate.held), {"Edgekit-Deadline-Ms": "2000"})
    waiting(slow, 0)
    second = Asking(slow, wish(0), {"Edgekit-Deadline-Ms": "150"})
    third = Asking(slow, {**wish(0), "parameters": {"timeout": 1_000_000}})
    for one in (first, second):  # the engine is held until both are late, and the third would be
        one.join()
    gate.open()
    third.join()
    assert (first.status, first.answer["code"]) == (408, "deadline-passed")
    # At once where the server knows by now how long a call takes.
    assert (second.status, second.answer["code"]) in ((408, "deadline-passed"), (429, "deadline-hopeless"))
    assert third.status == 200  # the worker's clock began when it read the request


def test_a_worker_that_dies_takes_its_request_and_nothing_else(slow):
    died = Asking(slow, wish(1e6))
    died.join()
    assert (died.status, died.answer["code"]) == (503, "engine-died")
    assert "Traceback" not in json.dumps(died.answer)
    assert slow.ask("GET", "/v2/health/live")[0] == 200
    until = time.monotonic() + 20
    while slow.ask("GET", "/v2/health/ready")[0] != 200 and time.monotonic() < until:
        time.sleep(0.05)
    assert slow.json("POST", "/v2/models/slow/infer", wish(0))[0] == 200


def test_a_worker_that_hangs_is_ended(slow):
    hung = Asking(slow, wish(60000))
    hung.join()
    assert (hung.status, hung.answer["code"]) == (503, "engine-hung")
    until = time.monotonic() + 20
    while slow.json("POST", "/v2/models/slow/infer", wish(0))[0] != 200 and time.monotonic() < until:
        time.sleep(0.05)
    assert slow.json("POST", "/v2/models/slow/infer", wish(0))[0] == 200


def test_one_that_kills_does_not_take_its_batch_along(serve, plain, slow_engine, tmp_path, gate):
    config = tmp_path / "serve.toml"
    config.write_text('[serving]\nengine = "slow"\nbatch = 8\n')
    server = serve(plain, "--config", config, env=slow_engine)
    first = Asking(server, wish(gate.held))
    waiting(server, 0)
    good = [Asking(server, wish(0)) for _ in range(3)]
    bad = Asking(server, wish(1e6))
    waiting(server, 4)
    gate.open()
    for one in (first, *good, bad):
        one.join()
    assert first.status == 200
    assert [one.status for one in good] == [200] * 3
    assert (bad.status, bad.answer["code"]) == (503, "engine-died")


def test_requests_that_wait_go_together(serve, plain, slow_engine, tmp_path, gate):
    config = tmp_path / "serve.toml"
    config.write_text('[serving]\nengine = "slow"\nbatch = 8\n')
    server = serve(plain, "--config", config, env=slow_engine)
    first = Asking(server, wish(gate.held))
    waiting(server, 0)
    bodies = [wish(-number) for number in range(1, 7)]
    rest = [Asking(server, body) for body in bodies]
    waiting(server, 6)
    gate.open()
    for one in (first, *rest):
        one.join()
    for number, one in enumerate(rest, 1):
        assert one.status == 200
        assert one.answer["outputs"][0]["data"][0] == -2 * number
    assert 'edgekit_batched_total{model="slow",kind="6"} 6' in server.ask("GET", "/metrics")[2].decode()


def test_stopping_answers_what_was_accepted(serve, plain, slow_engine, tmp_path, gate):
    config = tmp_path / "serve.toml"
    config.write_text('[serving]\nengine = "slow"\n')
    server = serve(plain, "--config", config, env=slow_engine)
    asked = [Asking(server, wish(gate.held)) for _ in range(4)]
    waiting(server, 3)
    idle = http.client.HTTPConnection("127.0.0.1", server.port)
    idle.request("GET", "/v2/health/live")
    idle.getresponse().read()
    server.process.send_signal(signal.SIGTERM)
    gate.open()
    for one in asked:
        one.join()
        assert one.status == 200
    code, said = server.stop()
    idle.close()
    assert code == 0
    assert "Traceback" not in said


def test_a_model_that_is_no_model_is_an_error_at_the_start(served, tmp_path):
    from edgekit.serve.settings import Settings
    from edgekit.serve.start import start

    shutil.copy(served / "int8.tflite", tmp_path / "bad.tflite")
    data = bytearray((tmp_path / "bad.tflite").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "bad.tflite").write_bytes(data)
    with pytest.raises(edgekit.EdgeKitError) as caught:
        start((str(tmp_path),), Settings(port=0), announce=print)
    assert caught.value.code == "artifact-damaged"


def deploy(store, path):
    """Make a file the active version, as a deployment does."""
    shelf = Shelf("people", store)
    artifact = edgekit.load(path).artifact
    with shelf.changing():
        shelf.receive(io.BytesIO(artifact.data), artifact.sha256, len(artifact.data))
        for stage in ("verified", "tested") if shelf.record().version(artifact.sha256).stage == "received" else ():
            shelf.change(lambda record, stage=stage: record.advance(artifact.sha256, stage))
        shelf.change(lambda record: record.switch(artifact.sha256, 60.0))
        shelf.change(lambda record: record.commit())
    return artifact.sha256


def test_versions_are_exchanged_under_load_and_named_by_who_answered(
    serve, artifacts, tmp_path, image, tensor, effort
):  # fmt: skip
    """Two exchanges in every run, 200 under stress."""
    store = tmp_path / "store"
    files = [artifacts["int8.tflite"], artifacts["fp32.tflite"]]
    deploy(store, files[0])
    server = serve("people", "--store", store, "--threads", 1)
    given = image(9)
    known = {}
    for version, path in zip("12", files, strict=True):
        with edgekit.load(path, threads=1) as model:
            known[version] = model.run({"image": given})["probs"].ravel()
    assert not np.array_equal(known["1"], known["2"])
    body = json.dumps({"inputs": [tensor(given)]})
    over, wrong, seen = threading.Event(), [], set()

    def ask():
        link = http.client.HTTPConnection("127.0.0.1", server.port)
        while not over.is_set():
            link.request("POST", "/v2/models/people/infer", body)
            answer = link.getresponse()
            found = json.loads(answer.read())
            version = found.get("model_version")
            seen.add(version)
            if answer.status != 200 or not np.array_equal(np.float32(found["outputs"][0]["data"]), known[version]):
                wrong.append(found)
        link.close()

    clients = [threading.Thread(target=ask) for _ in range(2)]
    for client in clients:
        client.start()
    for version, path in (("2", files[1]), ("1", files[0])) * effort:
        deploy(store, path)
        for _ in range(3000):  # tries, not seconds: where a machine stops for a while, they stop as well
            if server.json("GET", "/v2/models/people")[1]["versions"] == [version]:
                break
            time.sleep(0.02)
        assert server.json("GET", "/v2/models/people")[1]["versions"] == [version], server.logged()
    over.set()
    for client in clients:
        client.join()
    assert wrong == []
    assert seen == {"1", "2"}


def test_what_a_version_on_trial_cannot_answer_the_one_before_does(serve, plain, slow_engine, tmp_path):
    store = tmp_path / "store"
    deploy(store, plain)
    config = tmp_path / "serve.toml"
    config.write_text('[serving]\nengine = "slow"\n')
    server = serve("people", "--store", store, "--config", config, env=slow_engine)
    bad = tmp_path / "bad.tflite"
    bad.write_bytes(plain.read_bytes() + b"bad")
    shelf = Shelf("people", store)
    data = bad.read_bytes()
    digest = hashlib.sha256(data).hexdigest()

    def until(version):
        for _ in range(1000):
            if server.json("GET", "/v2/models/people")[1]["versions"] == [version]:
                return
            time.sleep(0.05)
        pytest.fail(server.logged())

    with shelf.changing():  # who supervises the trial
        shelf.receive(io.BytesIO(data), digest, len(data))
        for stage in ("verified", "tested"):
            shelf.change(lambda record, stage=stage: record.advance(digest, stage))
        shelf.change(lambda record: record.switch(digest, 60.0))
        until("2")
        status, answer = server.json("POST", "/v2/models/people/infer", wish(-1))
        assert (status, answer["model_version"]) == (200, "1")
        assert "died" in told(shelf, digest)
        shelf.change(lambda record: record.fall_back("it died"))
    until("1")
    status, answer = server.json("POST", "/v2/models/people/infer", wish(-1))
    assert (status, answer["model_version"]) == (200, "1")


def test_the_folder_of_one_models_versions_is_that_model(tmp_path, monkeypatch):
    for version in ("2", "10"):
        (tmp_path / "people" / version).mkdir(parents=True)
        (tmp_path / "people" / version / "model.onnx").touch()
    named = [(one.name, one.label) for one in sources.find((str(tmp_path),), versions=lambda _: 2)]
    assert named == [("people", "people"), ("people", "people/versions/2")]
    monkeypatch.chdir(tmp_path / "people")
    for same in (str(tmp_path / "people"), "."):
        (newest,) = sources.find((same,))
        assert (newest.name, newest.look().version) == ("people", "10")


def test_an_engine_error_is_an_engine_error():
    from edgekit.serve.messages import document, status_of

    error = EngineError("engine-failed", "LiteRT failed while running /home/pi/secret.tflite")
    assert status_of(error) == 500
    assert b"secret" not in document(error)


def test_drift_is_told_also_by_a_server_that_was_started_again(serve, served, tensor, image, tmp_path):
    watching = (served / "int8.tflite", "--monitor-folder", tmp_path, "--monitor-cycle", 64, "--threads", 1)
    server = serve(*watching)
    strange = json.dumps({"inputs": [tensor(image(shape=(64, 8, 8, 2)) * 1000)]})
    until = time.monotonic() + 60
    while time.monotonic() < until:
        assert server.ask("POST", "/v2/models/int8/infer", strange)[0] == 200
        text = server.ask("GET", "/metrics")[2].decode()
        if 'edgekit_drift_alarms{model="int8"} ' in text and 'edgekit_drift_alarms{model="int8"} 0' not in text:
            break
        time.sleep(0.1)
    else:
        pytest.fail("no alarm")
    (line, *_) = [line for line in text.splitlines() if line.startswith('edgekit_drift_alarm{model="int8",kind="')]
    assert ',message="' in line
    server.stop(signal.SIGKILL)
    again = serve(*watching)
    assert line in again.ask("GET", "/metrics")[2].decode().splitlines()
    again.stop(signal.SIGKILL)


def test_what_is_served_is_kept_for_collecting_also_by_a_worker_that_replaces_another(
    serve, served, tensor, image, tmp_path
):
    from edgekit.collect import collect, dataset

    keeping = (served / "int8.tflite", "--capture-folder", tmp_path / "captures", "--threads", 1)
    for seed, ending in ((0, signal.SIGKILL), (1, signal.SIGTERM), (2, signal.SIGTERM)):
        server = serve(*keeping)
        asked = json.dumps({"inputs": [tensor(image(seed=seed, shape=(4, 8, 8, 2)))]})
        assert server.ask("POST", "/v2/models/int8/infer", asked)[0] == 200
        server.stop(ending)
    collected = collect([str(tmp_path / "captures")], tmp_path / "data")
    assert collected.samples == len(dataset.read(tmp_path / "data").samples) >= 2  # what was killed keeps none


def test_a_model_that_says_nothing_of_its_data_is_not_watched(plain):
    from edgekit.serve.settings import Serving as Options
    from edgekit.serve.settings import Settings
    from edgekit.serve.start import start

    with pytest.raises(edgekit.EdgeKitError) as caught:
        start((str(plain),), Settings(port=0, serving=Options(monitor=True)), announce=print)
    assert caught.value.code == "reference-missing"


def test_models_share_the_cores_by_weight(serve, plain, slow_engine, tmp_path):
    for name in ("heavy", "light"):
        shutil.copy(plain, tmp_path / f"{name}.tflite")
    config = tmp_path / "serve.toml"
    config.write_text('cores = 1\n[serving]\nengine = "slow"\nthreads = 1\nbatch = 1\n[models.heavy]\nweight = 3.0\n')
    server = serve(tmp_path, "--config", config, env=slow_engine)
    over = threading.Event()

    def ask(name):
        while not over.is_set():
            server.json("POST", f"/v2/models/{name}/infer", wish(10))

    clients = [threading.Thread(target=ask, args=(name,)) for name in ("heavy", "light") for _ in range(3)]
    for client in clients:
        client.start()
    seconds, counts = {}, {"heavy": 0, "light": 0}
    until = time.monotonic() + 120
    while min(counts.values()) < 40 and time.monotonic() < until:
        text = server.ask("GET", "/metrics")[2].decode()
        for name in counts:
            found = re.search(rf'edgekit_run_seconds_count{{model="{name}"}} (\d+)', text)
            counts[name] = int(found[1]) if found else 0
            found = re.search(rf'edgekit_run_seconds_sum{{model="{name}"}} (\S+)', text)
            seconds[name] = float(found[1]) if found else 0
    over.set()
    for client in clients:
        client.join()
    assert min(counts.values()) >= 40
    assert (
        2 < seconds["heavy"] / seconds["light"] < 4
    )  # of the cores: a call that was held up counts as long as it took


def test_late_requests_are_never_run(plain, monkeypatch):
    """At the desk of a worker, whose clock says what is late."""
    from edgekit.serve.answering import Desk, Request, begun_at
    from edgekit.serve.settings import Bounds
    from edgekit.serve.wire import Opening

    ran = []
    with edgekit.load(plain, threads=1) as model:
        original = model.run
        monkeypatch.setattr(model, "run", lambda *args, **options: ran.append(1) or original(*args, **options))
        desk = Desk(model, Opening(str(plain), "slow", "1", 1, None, 30.0, Bounds()))
        ran.clear()
        body = json.dumps(wish(0)).encode()
        at = begun_at()
        asked = [Request(n, at + off, "infer", 0, -1, body) for n, off in enumerate((-0.001, 60.0, -5.0))]
        answers = dict(desk.answers(asked))
    assert [answers[number].status for number in range(3)] == [408, 200, 408]
    assert len(ran) == 1


def test_the_server_itself_needs_no_numpy():
    code = "import edgekit.serve.start, sys; print('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


def test_a_server_that_stops_ends_no_connection_before_it_stops_to_listen():
    """Clients come again at once, and would be lost in the kernel's queue of a listener that closes."""
    seen = []

    class Listener:
        def close(self):
            seen.append(door.stopping)

    door = SimpleNamespace(stopping=False, guests=set())
    server = SimpleNamespace(
        _door=door, _listeners=[Listener()], lanes={}, settings=SimpleNamespace(socket=None, bounds=Bounds()),
        _loop=SimpleNamespace(time=time.monotonic),
    )  # fmt: skip
    asyncio.run(Server._drain(server))
    assert (seen, door.stopping) == ([False], True)
