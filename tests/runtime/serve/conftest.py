"""A served folder of tiny models, and a client without any library's opinions."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("httptools", reason="needs the extra serve")

ROOT = Path(__file__).resolve().parents[3]


# An engine from outside: sleeps so many milliseconds as the first value says, dies of 1e6, and takes what `Gate` lets
# it.
SLOW = """
import ctypes, os, time
from edgekit.tensors import TensorSpec

class Slow:
    name, formats = "slow", ("tflite", "onnx")
    def version(self): return "1"
    def open(self, artifact, threads): return Session(artifact.data.endswith(b"bad"))

class Session:
    def __init__(self, bad): self.bad = bad
    concurrent, batches = False, True
    inputs = (TensorSpec("image", (None, 8, 8, 2), "float32"),)
    outputs = (TensorSpec("probs", (None, 5), "float32"),)
    def run(self, feeds):
        image = feeds["image"]
        first = float(image.flat[0])
        if (image == 1e6).any() or (self.bad and first == -1): ctypes.string_at(0)
        if first > 2e6:
            while not os.path.exists(os.environ["SLOW_GATE"] + "/" + str(int(first - 2e6))): time.sleep(0.002)
        elif first > 0: time.sleep(min(first, 60000) / 1000)
        return {"probs": image.reshape(len(image), -1)[:, :5] * 2}
    def close(self): pass

BACKEND = Slow()
"""


class Serving:
    """`edgekit serve` in a process of its own."""

    def __init__(self, *arguments: object, env: dict[str, str] | None = None) -> None:
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - a pipe that nobody reads would stop it
        self.process = subprocess.Popen(
            [sys.executable, "-m", "edgekit", "--debug", "serve", "--json", "--port", "0", *map(str, arguments)],
            stdout=subprocess.PIPE, stderr=self.log, text=True, env={**os.environ, **(env or {})},
        )  # fmt: skip
        said = ""
        while not said.rstrip().endswith("\n}") and (line := self.process.stdout.readline()):
            said += line
        if self.process.poll() is not None or not said:
            pytest.fail(f"the server ended: {said} {self.logged()}")
        self.about = json.loads(said)
        self.port = int(next((a for a in self.about["addresses"] if "://" in a), ":0").rpartition(":")[2])

    def ask(self, method, path, body=None, headers=None):
        """Status, headers and body."""
        link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with contextlib.closing(link):
            link.request(method, path, body, headers or {})
            answer = link.getresponse()
            return answer.status, answer.headers, answer.read()

    def json(self, method, path, body=None, headers=None):
        status, _, answer = self.ask(method, path, None if body is None else json.dumps(body), headers)
        return status, json.loads(answer)

    def raw(self, data, *, end=True):
        """Bytes out, and all that comes back until the server hangs up."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as link:
            link.sendall(data)
            if end:
                link.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: link.recv(1 << 16), b""))

    def stop(self, number=signal.SIGTERM):
        """Exit code and what it logged."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        self.process.wait(timeout=60)
        self.process.stdout.close()
        said = "" if self.log.closed else self.logged()
        self.log.close()
        return self.process.returncode, said

    def logged(self):
        self.log.seek(0)
        return self.log.read()


@pytest.fixture(scope="session")
def served(artifacts, tmp_path_factory):
    """A folder: `int8` (TFLite) and `many` (ONNX, any batch)."""
    folder = tmp_path_factory.mktemp("served")
    shutil.copy(artifacts["int8.tflite"], folder / "int8.tflite")
    shutil.copy(artifacts["int8.onnx"], folder / "many.onnx")
    return folder


@pytest.fixture(scope="module")
def serve():
    """Start servers; those that still run are ended with the module."""
    started: list[Serving] = []

    def start(*arguments, **options):
        started.append(Serving(*arguments, **options))
        return started[-1]

    yield start
    for one in started:
        one.stop(signal.SIGKILL)


@pytest.fixture(scope="module")
def server(serve, served):
    return serve(served, "--threads", 1)


@pytest.fixture(scope="session")
def tensor():
    """An input of the protocol from an array, as JSON or as bytes."""

    def make(array, name="image", *, binary=False, datatype="FP32"):
        about = {"name": name, "shape": list(array.shape), "datatype": datatype}
        if binary:
            return {**about, "parameters": {"binary_data_size": array.nbytes}}
        return {**about, "data": array.ravel().tolist()}

    return make


@pytest.fixture(scope="session")
def image():
    return lambda seed=0, shape=(1, 8, 8, 2): np.random.default_rng(seed).random(shape, np.float32)


@pytest.fixture(scope="session")
def slow_engine(tmp_path_factory):
    """Environment in which the engine `slow` is installed."""
    folder = tmp_path_factory.mktemp("slow")
    about = folder / "slow_engine-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: slow-engine\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[edgekit.engines]\nslow = slow_engine:BACKEND\n")
    (folder / "slow_engine.py").write_text(SLOW)
    (folder / "gate").mkdir()
    return {"PYTHONPATH": str(folder), "SLOW_GATE": str(folder / "gate")}


class Gate:
    """Calls of the engine `slow` that last until they are let go, however slow the test is."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / str(1 + len(list(folder.iterdir())))
        self.held = 2e6 + int(self._file.name)
        """The first value of such a call."""

    def open(self) -> None:
        self._file.touch()


@pytest.fixture
def gate(slow_engine):
    made = Gate(Path(slow_engine["SLOW_GATE"]))
    yield made
    made.open()


@pytest.fixture(scope="session")
def plain(tiny_files, tmp_path_factory):
    """A foreign file: no self-test."""
    path = tmp_path_factory.mktemp("plain") / "slow.tflite"
    shutil.copy(tiny_files["tflite"], path)
    return path
